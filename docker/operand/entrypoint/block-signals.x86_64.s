# block-signals PROGRAM [ARGUMENT...]: blocks HUP, INT, QUIT and TERM, then becomes PROGRAM.
#
# The kernel discards a signal to PID 1 that has no handler for it and does not block it
# (pid_namespaces(7)); what is blocked stays pending over execve(2). So the mask has to stand as
# early as anything can: here it does after six instructions, with no library loaded before them.
#
# PROGRAM is a path; PATH is not searched. The end is 127 where it can't be executed, as in a shell.

        .globl  _start
        .text
_start:
        mov     $14, %eax               # rt_sigprocmask
        xor     %edi, %edi              # SIG_BLOCK
        lea     mask(%rip), %rsi
        xor     %edx, %edx              # what was blocked before is not asked for
        mov     $8, %r10d               # bytes in a mask
        syscall

        mov     (%rsp), %rcx            # argc, argv[0], …, NULL, environment, NULL
        cmp     $2, %rcx
        jb      failed
        mov     $59, %eax               # execve
        mov     16(%rsp), %rdi          # argv[1]
        lea     16(%rsp), %rsi
        lea     16(%rsp, %rcx, 8), %rdx
        syscall

failed:
        mov     $1, %eax                # write
        mov     $2, %edi                # standard error
        lea     message(%rip), %rsi
        mov     $(end - message), %edx
        syscall
        mov     $60, %eax               # exit
        mov     $127, %edi
        syscall

        .balign 8
mask:   .quad   0x4007                  # bit N - 1 for signal N: HUP 1, INT 2, QUIT 3, TERM 15
message:
        .ascii  "block-signals: cannot execute its first argument: give it the path of a program\n"
end:
