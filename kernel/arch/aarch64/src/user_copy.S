// Copying between kernel and user memory. The unprivileged loads and stores (LDTR, STTR) access with a program's
// rights, so a kernel address faults like any other bad one. A fault inside [user_copy_start, user_copy_end) that
// cannot be resolved continues at the address user_copy.rs's table gives for it: from a block loop in the byte loop,
// which stops at the exact byte, and from there at the end, with x2 = bytes missing.

.section .text.user_copy, "ax"
.global user_copy_start
user_copy_start:

// arch_copy_from_user(x0 = to, x1 = from, x2 = len) -> missing
.global arch_copy_from_user
arch_copy_from_user:
    cmp     x2, #8
    b.lo    from_bytes
.global from_blocks
from_blocks:
    cmp     x2, #32
    b.lo    from_words
    ldtr    x3, [x1]
    ldtr    x4, [x1, #8]
    ldtr    x5, [x1, #16]
    ldtr    x6, [x1, #24]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    add     x0, x0, #32
    add     x1, x1, #32
    sub     x2, x2, #32
    b       from_blocks
from_words:
    cmp     x2, #8
    b.lo    from_bytes
    ldtr    x3, [x1]
    str     x3, [x0], #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       from_words
.global from_bytes
from_bytes:
    cbz     x2, copy_done
    ldtrb   w3, [x1]
    strb    w3, [x0], #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       from_bytes

// arch_copy_to_user(x0 = to, x1 = from, x2 = len) -> missing
.global arch_copy_to_user
arch_copy_to_user:
    cmp     x2, #8
    b.lo    to_bytes
.global to_blocks
to_blocks:
    cmp     x2, #32
    b.lo    to_words
    ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    sttr    x3, [x0]
    sttr    x4, [x0, #8]
    sttr    x5, [x0, #16]
    sttr    x6, [x0, #24]
    add     x0, x0, #32
    add     x1, x1, #32
    sub     x2, x2, #32
    b       to_blocks
to_words:
    cmp     x2, #8
    b.lo    to_bytes
    ldr     x3, [x1]
    sttr    x3, [x0]
    add     x0, x0, #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       to_words
.global to_bytes
to_bytes:
    cbz     x2, copy_done
    ldrb    w3, [x1]
    sttrb   w3, [x0]
    add     x0, x0, #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       to_bytes

.global copy_done
copy_done:
    mov     x0, x2
    ret
.global user_copy_end
user_copy_end:
