// block-signals PROGRAM [ARGUMENT...]: blocks HUP, INT, QUIT and TERM, then becomes PROGRAM.
// The one for x86_64, beside this file, says why.

        .globl  _start
        .text
_start:
        mov     x8, #135                // rt_sigprocmask
        mov     x0, #0                  // SIG_BLOCK
        adr     x1, mask
        mov     x2, #0                  // what was blocked before is not asked for
        mov     x3, #8                  // bytes in a mask
        svc     #0

        ldr     x9, [sp]                // argc, argv[0], …, NULL, environment, NULL
        cmp     x9, #2
        b.lo    failed
        mov     x8, #221                // execve
        ldr     x0, [sp, #16]           // argv[1]
        add     x1, sp, #16
        add     x2, x1, x9, lsl #3
        svc     #0

failed:
        mov     x8, #64                 // write
        mov     x0, #2                  // standard error
        adr     x1, message
        mov     x2, #(end - message)
        svc     #0
        mov     x8, #93                 // exit
        mov     x0, #127
        svc     #0

        .balign 8
mask:   .quad   0x4007                  // bit N - 1 for signal N: HUP 1, INT 2, QUIT 3, TERM 15
message:
        .ascii  "block-signals: cannot execute its first argument: give it the path of a program\n"
end:
