// The vDSO (vdso(7)): a small shared object mapped into every program, so that reading a clock costs no system call.
//
// The whole ELF image is laid out here by hand: headers, dynamic symbols with the version LINUX_2.6.39 that C
// libraries ask for, and the code. One page of clock data (`hal::ClockData`) lies right below it in memory.

.equ PAGE, 4096
.equ NR_CLOCK_GETTIME, 113
.equ NR_CLOCK_GETRES, 114
.equ NR_GETTIMEOFDAY, 169
.equ NR_RT_SIGRETURN, 139

.section .rodata.vdso, "a"
.balign PAGE
.global vdso_start
vdso_start:
// Elf64_Ehdr
    .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0
    .quad   0
    .short  3, 183                      // ET_DYN, EM_AARCH64
    .long   1
    .quad   0                           // e_entry
    .quad   program_headers - vdso_start
    .quad   0                           // no sections
    .long   0
    .short  64, 56, 2, 64, 0, 0
program_headers:
    .long   1, 5                        // PT_LOAD, R+X
    .quad   0, 0, 0, vdso_end - vdso_start, vdso_end - vdso_start, PAGE
    .long   2, 4                        // PT_DYNAMIC, R
    .quad   dynamic - vdso_start, dynamic - vdso_start, dynamic - vdso_start
    .quad   dynamic_end - dynamic, dynamic_end - dynamic, 8

.macro symbol name, start, end, info, section
    .long   \name - strings
    .byte   \info, 0
    .short  \section
    .quad   \start, \end
.endm
.macro function name, start, end
    symbol  \name, \start - vdso_start, \end - \start, 0x12, 1
.endm

.balign 8
symbols:
    .quad   0, 0, 0
    function name_gettime, clock_gettime, clock_gettime_end
    function name_gettimeofday, gettimeofday, gettimeofday_end
    function name_getres, clock_getres, clock_getres_end
    function name_sigreturn, rt_sigreturn, rt_sigreturn_end
    symbol  name_version, 0, 0, 0x11, 0xfff1    // the version itself: OBJECT, SHN_ABS
symbols_end:

strings:
    .byte   0
name_gettime:       .asciz "__kernel_clock_gettime"
name_gettimeofday:  .asciz "__kernel_gettimeofday"
name_getres:        .asciz "__kernel_clock_getres"
name_sigreturn:     .asciz "__kernel_rt_sigreturn"
name_version:       .asciz "LINUX_2.6.39"
name_soname:        .asciz "linux-vdso.so.1"
strings_end:

// DT_HASH with one bucket: every look-up walks the chain 1, 2, 3, 4, 5.
.balign 8
hash:
    .long   1, 6, 1, 0, 2, 3, 4, 5, 0

.balign 2
versions:
    .short  0, 2, 2, 2, 2, 2

.balign 8
version_definitions:
    .short  1, 1, 1, 1                  // the object itself
    .long   0x0deebfa1                  // hash of its name, linux-vdso.so.1
    .long   20, 28
    .long   name_soname - strings, 0
    .short  1, 0, 2, 1                  // LINUX_2.6.39
    .long   0x075fcb89
    .long   20, 0
    .long   name_version - strings, 0

.balign 8
dynamic:
    .quad   14, name_soname - strings                       // DT_SONAME
    .quad   4, hash - vdso_start                            // DT_HASH
    .quad   5, strings - vdso_start                         // DT_STRTAB
    .quad   6, symbols - vdso_start                         // DT_SYMTAB
    .quad   10, strings_end - strings                       // DT_STRSZ
    .quad   11, 24                                          // DT_SYMENT
    .quad   0x6ffffff0, versions - vdso_start               // DT_VERSYM
    .quad   0x6ffffffc, version_definitions - vdso_start    // DT_VERDEF
    .quad   0x6ffffffd, 2                                   // DT_VERDEFNUM
    .quad   0, 0
dynamic_end:

// ticks_to_ns ticks, ns_per_tick: x9 = their product, a 32.32 fixed-point number, as nanoseconds. Clobbers x10.
.macro ticks_to_ns ticks, ns_per_tick
    mul     x9, \ticks, \ns_per_tick
    umulh   x10, \ticks, \ns_per_tick
    lsr     x9, x9, #32
    orr     x9, x9, x10, lsl #32
.endm

// read_clock: x9 = monotonic nanoseconds; x7, x8 = what the wall clock and atomic time are ahead by. Clobbers x2-x6,
// x10, x12. Reads again while the kernel changes the data; the ISB keeps the counter from being read ahead (Arm ARM
// D12.1.2).
.macro read_clock
    adr     x2, vdso_start - PAGE
1:  ldr     w3, [x2]                    // sequence: odd while changing
    tbnz    w3, #0, 1b
    dmb     ishld
    ldp     x5, x6, [x2, #8]            // base: ticks; nanoseconds a tick, 32.32
    ldp     x12, x7, [x2, #24]          // base: nanoseconds; wall clock less monotonic time
    ldr     x8, [x2, #40]               // atomic less monotonic time
    isb
    mrs     x4, cntvct_el0
    dmb     ishld
    ldr     w10, [x2]
    cmp     w10, w3
    b.ne    1b
    subs    x4, x4, x5
    csel    x4, x4, xzr, hs             // read a little before the base was set
    ticks_to_ns x4, x6
    add     x9, x9, x12
.endm

// int clock_gettime(clockid_t w0, struct timespec *x1)
.balign 16
clock_gettime:
    // CLOCK_REALTIME 0 and its coarse one 5; CLOCK_MONOTONIC 1, raw 4, coarse 6, CLOCK_BOOTTIME 7; CLOCK_TAI 11.
    cmp     w0, #11
    b.hi    5f
    mov     w11, #0b100011110011
    lsr     w11, w11, w0
    tbz     w11, #0, 5f
    cmp     w0, #4
    b.eq    4f
    read_clock
    mov     w11, #0b00100001
    lsr     w11, w11, w0
    tbnz    w11, #0, 2f
    cmp     w0, #11
    csel    x7, x8, xzr, eq
2:  add     x9, x9, x7
3:  ldr     x10, nanoseconds
    udiv    x11, x9, x10
    msub    x12, x11, x10, x9
    stp     x11, x12, [x1]
    mov     x0, #0
    ret
4:  adr     x2, vdso_start - PAGE
    ldp     x5, x6, [x2, #48]           // ticks at start; nanoseconds a tick, unchanged
    isb
    mrs     x4, cntvct_el0
    sub     x4, x4, x5
    ticks_to_ns x4, x6
    b       3b
5:  mov     x8, #NR_CLOCK_GETTIME
    svc     #0
    ret
clock_gettime_end:

// int gettimeofday(struct timeval *x0, struct timezone *x1)
.balign 16
gettimeofday:
    cbnz    x1, 3f
    cbz     x0, 2f
    read_clock
    add     x9, x9, x7
    ldr     x10, nanoseconds
    udiv    x11, x9, x10
    msub    x12, x11, x10, x9
    mov     x10, #1000
    udiv    x12, x12, x10
    stp     x11, x12, [x0]
2:  mov     x0, #0
    ret
3:  mov     x8, #NR_GETTIMEOFDAY
    svc     #0
    ret
gettimeofday_end:

.balign 16
clock_getres:
    mov     x8, #NR_CLOCK_GETRES
    svc     #0
    ret
clock_getres_end:

// Debuggers and unwinders know a signal frame by these two instructions.
.balign 16
rt_sigreturn:
    mov     x8, #NR_RT_SIGRETURN
    svc     #0
rt_sigreturn_end:

.balign 8
nanoseconds:
    .quad   1000000000
.balign 8
.global vdso_end
vdso_end:
.global vdso_sigreturn
.set vdso_sigreturn, rt_sigreturn
.balign PAGE
