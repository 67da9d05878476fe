# The tests' own guest, in 512 bytes: it counts, and three places must agree on each number.
#
# A number goes to memory at 0x20000 and into a table at 0x30000, to the sector of that number on the boot disk, and then
# to the serial port, in this order. So every number that was printed is on the disk. Before the next number the guest
# looks for the last one in the table. It prints "lost" and ends where the table has another one, which is memory of
# another moment, or where the disk gave an error. A tick of the timer is a number.
#
#     as --32 --defsym DIVISOR=62799 counting.S -o counting.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary counting.o -o counting

.code16
.intel_syntax noprefix
.globl _start

.set COM1, 0x3f8
.set COUNTER, 0x2000            # segments
.set TABLE, 0x3000
.set SECTOR, 0x1000

_start:
    jmp 0:main

main:
    xor     ax, ax
    mov     ds, ax
    mov     ss, ax
    mov     sp, 0x7c00
    mov     drive, dl           # the BIOS's number of the boot disk
    push    COUNTER
    pop     fs
    push    TABLE
    pop     gs
    push    SECTOR
    pop     es
    xor     eax, eax
    mov     fs:[0], eax
    mov     gs:[0], eax

    mov     al, 0x34            # timer 0: a rate generator
    out     0x43, al
    mov     ax, DIVISOR
    out     0x40, al
    mov     al, ah
    out     0x40, al
    sti

next:
    mov     eax, fs:[0]
    call    entry
    cmp     gs:[bx], eax
    jne     lost
    inc     eax
    mov     fs:[0], eax
    call    entry
    mov     gs:[bx], eax

    mov     es:[0], eax
    mov     lba, eax
    mov     si, offset packet
    mov     ax, 0x4300          # extended write
    mov     dl, drive
    int     0x13
    jc      lost

    mov     eax, fs:[0]
    call    print
    hlt
    jmp     next

lost:
    mov     si, offset message
1:  lodsb
    test    al, al
    jz      2f
    call    send
    jmp     1b
2:  cli
    hlt

# bx = where the table has the number of eax
entry:
    mov     bx, ax
    and     bx, 0x3fff
    shl     bx, 2
    ret

# Prints eax and a newline.
print:
    mov     ebx, 10
    xor     cx, cx
1:  xor     edx, edx
    div     ebx
    push    dx
    inc     cx
    test    eax, eax
    jnz     1b
2:  pop     ax
    add     al, '0'
    call    send
    loop    2b
    mov     al, '\n'

# Sends al.
send:
    push    ax
    mov     dx, COM1 + 5
1:  in      al, dx
    test    al, 0x20            # the transmitter is empty
    jz      1b
    pop     ax
    mov     dx, COM1
    out     dx, al
    ret

message: .asciz "lost\n"
drive:  .byte 0
packet: .byte 16, 0
        .word 1                 # sectors
        .word 0, SECTOR         # offset and segment of the buffer
lba:    .long 0, 0

.org 510
        .word 0xaa55
