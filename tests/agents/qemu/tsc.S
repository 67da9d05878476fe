# Prints the time stamp counter of the processor in 8 bytes, without a library: for the Linux guest of the tests.
#
#     as --64 tsc.S -o tsc.o && ld tsc.o -o tsc

.globl _start

_start:
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    push    %rax
    mov     $1, %eax            # write(1, the 8 bytes, 8)
    mov     $1, %edi
    mov     %rsp, %rsi
    mov     $8, %edx
    syscall
    mov     $60, %eax           # exit(0)
    xor     %edi, %edi
    syscall
