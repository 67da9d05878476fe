# Prints a checksum of standard input in 8 bytes, for the Linux guest of the tests: each word of 8 bytes counts, and its
# place. md5sum takes ten times as long on an emulated processor. The input has a multiple of 8 bytes.
# With an argument it writes to standard output until that is full, and no page is as another.
#
#     as --64 sum.S -o sum.o && ld sum.o -o sum

.globl _start
.set SIZE, 65536
.lcomm buffer, SIZE

_start:
    cmpq    $1, (%rsp)
    jne     fill
    xor     %ebx, %ebx
next:
    xor     %eax, %eax          # read(0, buffer, SIZE)
    xor     %edi, %edi
    lea     buffer(%rip), %rsi
    mov     $SIZE, %edx
    syscall
    sar     $3, %rax
    jle     end
    mov     %rax, %rcx
word:
    rol     $5, %rbx
    xor     (%rsi), %rbx
    add     %rcx, %rbx
    add     $8, %rsi
    dec     %rcx
    jnz     word
    jmp     next
end:
    push    %rbx
    mov     $1, %eax            # write(1, the 8 bytes, 8)
    mov     $1, %edi
    mov     %rsp, %rsi
    mov     $8, %edx
    syscall
    mov     $60, %eax           # exit(0)
    xor     %edi, %edi
    syscall

fill:
    mov     $6364136223846793005, %r12
    mov     $1, %ebx
block:
    lea     buffer(%rip), %rsi
    mov     $SIZE / 8, %ecx
random:
    imul    %r12, %rbx
    inc     %rbx
    mov     %rbx, (%rsi)
    add     $8, %rsi
    dec     %ecx
    jnz     random
    mov     $1, %eax            # write(1, buffer, SIZE)
    mov     $1, %edi
    lea     buffer(%rip), %rsi
    mov     $SIZE, %edx
    syscall
    cmp     $SIZE, %rax
    je      block
    mov     $60, %eax           # exit(0)
    xor     %edi, %edi
    syscall
