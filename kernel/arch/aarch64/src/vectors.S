// Exception vectors and the way back.
//
// A TrapFrame (trap.rs) is pushed on the kernel stack of the running thread; from a program it is then at the very top.

.equ FRAME_SIZE, 288
.equ STACK_SHIFT, 15

.macro save_frame
    sub     sp, sp, #FRAME_SIZE
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x21, sp_el0
    stp     x30, x21, [sp, #240]
    mrs     x22, elr_el1
    mrs     x23, spsr_el1
    stp     x22, x23, [sp, #256]
.endm

.macro restore_frame
    ldp     x22, x23, [sp, #256]
    msr     elr_el1, x22
    msr     spsr_el1, x23
    ldp     x30, x21, [sp, #240]
    msr     sp_el0, x21
    ldp     x0, x1, [sp, #0]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    add     sp, sp, #FRAME_SIZE
    eret
.endm

.macro kernel_vector handler
    .balign 128
    // Has the frame still room? Stacks have bit STACK_SHIFT set throughout and a hole below. Swap sp and x0 by
    // arithmetic, since no register is free yet.
    sub     sp, sp, #FRAME_SIZE
    add     sp, sp, x0
    sub     x0, sp, x0
    tbz     x0, #STACK_SHIFT, 9f
    sub     x0, sp, x0
    sub     sp, sp, x0
    add     sp, sp, #FRAME_SIZE
    b       \handler
9:  b       stack_overflow
.endm

.macro user_vector handler
    .balign 128
    b       \handler
.endm

.section .text.vectors, "ax"
.balign 2048
.global exception_vectors
exception_vectors:
    user_vector bad_vector              // EL1 with SP_EL0: never used
    user_vector bad_vector
    user_vector bad_vector
    user_vector bad_vector
    kernel_vector kernel_sync
    kernel_vector kernel_irq
    kernel_vector bad_vector
    kernel_vector kernel_serror
    user_vector user_sync
    user_vector user_irq
    user_vector user_serror             // FIQ: not routed to us
    user_vector user_serror
    user_vector user_aarch32
    user_vector user_aarch32
    user_vector user_aarch32
    user_vector user_aarch32

kernel_sync:
    save_frame
    mov     x0, sp
    add     x29, sp, #232               // saved x29, x30 are a frame record for the backtrace
    bl      arch_kernel_sync
    restore_frame

kernel_irq:
    save_frame
    mov     x0, sp
    bl      arch_kernel_irq
    restore_frame

kernel_serror:
bad_vector:
    save_frame
    mov     x0, sp
    bl      arch_kernel_bad
    brk     #0

stack_overflow:
    // x0 holds the overflowed sp, sp that plus the true x0. Park both where a program's thread pointer was, take the
    // emergency stack and put x0 back.
    msr     tpidrro_el0, x0
    sub     x0, sp, x0
    msr     tpidr_el0, x0
    adrp    x0, emergency_stack_top
    mov     sp, x0
    mrs     x0, tpidr_el0
    save_frame
    mov     x0, sp
    mrs     x1, tpidrro_el0
    bl      arch_stack_overflow
    brk     #0

user_sync:
    save_frame
    mov     x29, xzr
    mov     x0, sp
    bl      arch_user_sync
    restore_frame

user_irq:
    save_frame
    mov     x29, xzr
    mov     x0, sp
    bl      arch_user_irq
    restore_frame

user_serror:
    save_frame
    mov     x0, sp
    bl      arch_user_serror
    restore_frame

user_aarch32:
    save_frame
    mov     x0, sp
    bl      arch_user_aarch32
    restore_frame

// arch_return_to_user(frame): x0 is a frame at the top of this thread's stack.
.global arch_return_to_user
arch_return_to_user:
    mov     sp, x0
    restore_frame

// arch_switch(from, to): the callee-saved half of a context switch (Context in context.rs).
.global arch_switch
arch_switch:
    // The old thread may go on elsewhere. Cache maintenance that its program has begun is complete only once this CPU
    // executes a DSB: the one that the program would execute next does nothing for it there (Arm ARM DDI 0487, "Ordering
    // and completion of data and instruction cache instructions").
    dsb     ish
    stp     x19, x20, [x0, #0]
    stp     x21, x22, [x0, #16]
    stp     x23, x24, [x0, #32]
    stp     x25, x26, [x0, #48]
    stp     x27, x28, [x0, #64]
    stp     x29, x30, [x0, #80]
    mov     x2, sp
    str     x2, [x0, #96]
    ldp     x19, x20, [x1, #0]
    ldp     x21, x22, [x1, #16]
    ldp     x23, x24, [x1, #32]
    ldp     x25, x26, [x1, #48]
    ldp     x27, x28, [x1, #64]
    ldp     x29, x30, [x1, #80]
    ldr     x2, [x1, #96]
    mov     sp, x2
    ret

// First code of a new thread: x19 = entry, x20 = argument.
.global arch_thread_start
arch_thread_start:
    mov     x0, x20
    mov     x29, xzr
    mov     x30, xzr
    blr     x19
    brk     #0

.arch_extension fp
.arch_extension simd
// arch_fp_save(to), arch_fp_load(from): q0-q31, FPSR, FPCR (FpState in context.rs).
.global arch_fp_save
arch_fp_save:
    stp     q0, q1, [x0, #0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    mrs     x1, fpsr
    mrs     x2, fpcr
    add     x0, x0, #512
    stp     w1, w2, [x0]
    ret

.global arch_fp_load
arch_fp_load:
    ldp     q0, q1, [x0, #0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    add     x0, x0, #512
    ldp     w1, w2, [x0]
    msr     fpsr, x1
    msr     fpcr, x2
    ret

// The upper half of a 64 KiB block (linker.ld), so that an address in it has bit 15 set.
.section .emergency_stack, "aw", %nobits
.balign 32768
    .space 32768
emergency_stack_top:
