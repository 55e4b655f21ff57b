// memcpy, memmove, memset, memcmp and bcmp of the C library (C17 7.24), which compiled Rust calls. Those that come with
// the compiler move a word at a time; these move up to 64 bytes in a turn. Only normal memory is touched: unaligned
// accesses are allowed there (Arm ARM B2.8.2), and registers of devices are reached by volatile accesses alone.

.section .text.memory, "ax"

// memcpy(x0 = to, x1 = from, x2 = len) -> x0. x3 moves through the destination.
// memmove comes here too where going upwards is right: every turn loads all it stores first.
.global memcpy
memcpy:
    mov     x3, x0
    subs    x4, x2, #64
    b.lo    2f
1:  ldp     x5, x6, [x1]
    ldp     x7, x8, [x1, #16]
    ldp     x9, x10, [x1, #32]
    ldp     x11, x12, [x1, #48]
    stp     x5, x6, [x3]
    stp     x7, x8, [x3, #16]
    stp     x9, x10, [x3, #32]
    stp     x11, x12, [x3, #48]
    add     x1, x1, #64
    add     x3, x3, #64
    subs    x4, x4, #64
    b.hs    1b
2:  tbz     x2, #5, 3f                  // the low bits of len say what is left
    ldp     x5, x6, [x1]
    ldp     x7, x8, [x1, #16]
    stp     x5, x6, [x3]
    stp     x7, x8, [x3, #16]
    add     x1, x1, #32
    add     x3, x3, #32
3:  tbz     x2, #4, 4f
    ldp     x5, x6, [x1], #16
    stp     x5, x6, [x3], #16
4:  tbz     x2, #3, 5f
    ldr     x5, [x1], #8
    str     x5, [x3], #8
5:  tbz     x2, #2, 6f
    ldr     w5, [x1], #4
    str     w5, [x3], #4
6:  tbz     x2, #1, 7f
    ldrh    w5, [x1], #2
    strh    w5, [x3], #2
7:  tbz     x2, #0, 8f
    ldrb    w5, [x1]
    strb    w5, [x3]
8:  ret

// memmove(x0 = to, x1 = from, x2 = len) -> x0
.global memmove
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.hs    memcpy                      // the destination does not begin inside the source
    add     x3, x0, x2                  // downwards from the ends
    add     x1, x1, x2
    subs    x4, x2, #64
    b.lo    2f
1:  ldp     x5, x6, [x1, #-16]
    ldp     x7, x8, [x1, #-32]
    ldp     x9, x10, [x1, #-48]
    ldp     x11, x12, [x1, #-64]!
    stp     x5, x6, [x3, #-16]
    stp     x7, x8, [x3, #-32]
    stp     x9, x10, [x3, #-48]
    stp     x11, x12, [x3, #-64]!
    subs    x4, x4, #64
    b.hs    1b
2:  tbz     x2, #5, 3f
    ldp     x5, x6, [x1, #-16]
    ldp     x7, x8, [x1, #-32]!
    stp     x5, x6, [x3, #-16]
    stp     x7, x8, [x3, #-32]!
3:  tbz     x2, #4, 4f
    ldp     x5, x6, [x1, #-16]!
    stp     x5, x6, [x3, #-16]!
4:  tbz     x2, #3, 5f
    ldr     x5, [x1, #-8]!
    str     x5, [x3, #-8]!
5:  tbz     x2, #2, 6f
    ldr     w5, [x1, #-4]!
    str     w5, [x3, #-4]!
6:  tbz     x2, #1, 7f
    ldrh    w5, [x1, #-2]!
    strh    w5, [x3, #-2]!
7:  tbz     x2, #0, 8f
    ldrb    w5, [x1, #-1]
    strb    w5, [x3, #-1]
8:  ret

// memset(x0 = to, w1 = byte, x2 = len) -> x0
.global memset
memset:
    mov     x3, x0
    and     x1, x1, #0xff
    orr     x1, x1, x1, lsl #8
    orr     x1, x1, x1, lsl #16
    orr     x1, x1, x1, lsl #32
    subs    x4, x2, #64
    b.lo    2f
1:  stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    stp     x1, x1, [x3, #32]
    stp     x1, x1, [x3, #48]
    add     x3, x3, #64
    subs    x4, x4, #64
    b.hs    1b
2:  tbz     x2, #5, 3f
    stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    add     x3, x3, #32
3:  tbz     x2, #4, 4f
    stp     x1, x1, [x3], #16
4:  tbz     x2, #3, 5f
    str     x1, [x3], #8
5:  tbz     x2, #2, 6f
    str     w1, [x3], #4
6:  tbz     x2, #1, 7f
    strh    w1, [x3], #2
7:  tbz     x2, #0, 8f
    strb    w1, [x3]
8:  ret

// memcmp(x0 = one, x1 = other, x2 = len) -> w0: below, at or above 0 as the first bytes that differ. bcmp asks only
// whether any do.
.global memcmp
.global bcmp
memcmp:
bcmp:
    subs    x2, x2, #8
    b.lo    2f
1:  ldr     x3, [x0], #8
    ldr     x4, [x1], #8
    cmp     x3, x4
    b.ne    4f
    subs    x2, x2, #8
    b.hs    1b
2:  adds    x2, x2, #8
    b.eq    5f
3:  ldrb    w3, [x0], #1
    ldrb    w4, [x1], #1
    subs    w3, w3, w4
    b.ne    6f
    subs    x2, x2, #1
    b.ne    3b
5:  mov     w0, #0
    ret
4:  rev     x3, x3                      // the lowest address in the highest place
    rev     x4, x4
    cmp     x3, x4
    mov     w3, #1
    cneg    w3, w3, lo
6:  mov     w0, w3
    ret
