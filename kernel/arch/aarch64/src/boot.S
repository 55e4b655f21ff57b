// Entry of the image, from power-on state to Rust in the upper half.
//
// State on entry (Linux Documentation/arch/arm64/booting.rst): x0 = physical address of the device tree, MMU off,
// caches clean to the point of coherency for the image, any of EL3, EL2, EL1, one CPU. The other CPUs come later, by
// secondary_entry.

.equ PAGE_TABLE,        0b11            // descriptor: table (Arm ARM DDI 0487, D8.3.1)
.equ PAGE_4K,           0b11            // level 3 descriptor: page
.equ BLOCK,             0b01
.equ ATTR_NORMAL,       (0 << 2)        // MAIR index 0, klib::page_table::MAIR_VALUE
.equ SH_INNER,          (3 << 8)
.equ AF,                (1 << 10)
.equ READ_ONLY,         (1 << 7)        // AP[2]
.equ PXN,               (1 << 53)
.equ UXN,               (1 << 54)
.equ NORMAL,            ATTR_NORMAL | SH_INNER | AF

.section .text.head, "ax"
.global _start
_start:
    b       primary_entry
    .long   0
    .quad   0                           // text_offset: at a 2 MiB boundary
    .quad   __image_size                // image_size; the image builder writes the size with root image
    .quad   0b1010                      // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

primary_entry:
    mov     x20, x0                     // x20: device tree, physical
    mrs     x19, CurrentEL
    lsr     x19, x19, #2                // x19: the exception level we came from
    adrp    x21, _start                 // x21: image, physical
    bl      drop_to_el1

    // Stale cache lines over memory we write with the MMU off would hide it later (Arm ARM B2.7.2).
    adrp    x0, __bss_start
    adrp    x1, __image_end
    bl      invalidate_range
    adrp    x0, __bss_start
    adrp    x1, __image_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    // Identity map: the 2 MiB block with this code, read-only, for the instructions that turn the MMU on. No more, as
    // the CPU may fetch ahead from whatever is executable, device registers included.
    adrp    x0, boot_identity_l0
    adrp    x1, boot_identity_l1
    adrp    x5, boot_identity_l2
    orr     x2, x1, #PAGE_TABLE
    ubfx    x3, x21, #39, #9
    str     x2, [x0, x3, lsl #3]
    orr     x2, x5, #PAGE_TABLE
    ubfx    x3, x21, #30, #9
    str     x2, [x1, x3, lsl #3]
    ldr     x4, =(NORMAL | BLOCK | READ_ONLY | UXN)
    orr     x2, x21, x4
    ubfx    x3, x21, #21, #9
    str     x2, [x5, x3, lsl #3]

    // Kernel map: L0[511] -> L1; L1[510] -> L2; L2[0..2] -> two L3 tables for 4 MiB of image.
    adrp    x0, boot_kernel_l0
    adrp    x1, boot_kernel_l1
    adrp    x2, boot_kernel_l2
    adrp    x3, boot_kernel_l3
    orr     x4, x1, #PAGE_TABLE
    str     x4, [x0, #511 * 8]
    orr     x4, x2, #PAGE_TABLE
    str     x4, [x1, #510 * 8]
    orr     x4, x3, #PAGE_TABLE
    str     x4, [x2]
    add     x4, x4, #4096
    str     x4, [x2, #8]
    mov     x0, x21
    adrp    x1, __text_end
    ldr     x2, =(NORMAL | PAGE_4K | READ_ONLY | UXN)
    bl      map_pages
    adrp    x1, __rodata_end
    ldr     x2, =(NORMAL | PAGE_4K | READ_ONLY | UXN | PXN)
    bl      map_pages
    adrp    x1, __image_end
    ldr     x2, =(NORMAL | PAGE_4K | UXN | PXN)
    bl      map_pages
    // A hole below the boot stack: an overflow faults.
    adrp    x0, boot_stack_guard
    sub     x0, x0, x21
    adrp    x3, boot_kernel_l3
    lsr     x0, x0, #12
    str     xzr, [x3, x0, lsl #3]

    adrp    x0, __bss_start             // lines fetched speculatively while we wrote
    adrp    x1, __image_end
    bl      invalidate_range

    bl      enable_mmu
    ldr     x0, =virtual_entry
    br      x0

// Where a CPU comes in that the kernel started (smp.rs), in any of EL3, EL2, EL1, MMU off. Nothing of the image is read
// as data until the MMU is on: what the other CPUs wrote may still be in their caches only.
.global arch_secondary_entry
arch_secondary_entry:
    mrs     x19, CurrentEL
    lsr     x19, x19, #2
    bl      drop_to_el1
    bl      enable_mmu
    ldr     x0, =virtual_secondary
    br      x0
.ltorg

// enable_mmu: turns the MMU on with the boot tables, at the identity-mapped caller. Clobbers x0-x3.
enable_mmu:
    ldr     x0, ={mair}
    msr     mair_el1, x0
    // TCR_EL1: 48-bit halves, 4 KiB granules, write-back inner-shareable walks, the top byte of programs' addresses ignored
    // (TBI0); IPS and ASID size as the CPU has.
    ldr     x0, =((1 << 37) | (16 << 0) | (16 << 16) | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 24) | (1 << 26) | (3 << 28) | (2 << 30))
    mrs     x1, id_aa64mmfr0_el1
    and     x2, x1, #0xf
    cmp     x2, #5
    mov     x3, #5
    csel    x2, x2, x3, lo
    bfi     x0, x2, #32, #3
    ubfx    x2, x1, #4, #4              // ASIDBits: 2 = 16 bits
    cmp     x2, #2
    cset    x2, eq
    bfi     x0, x2, #36, #1
    msr     tcr_el1, x0
    adrp    x0, boot_identity_l0
    msr     ttbr0_el1, x0
    adrp    x0, boot_kernel_l0
    msr     ttbr1_el1, x0
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, ={sctlr}
    msr     sctlr_el1, x0
    isb

    ret
.ltorg

// drop_to_el1: continues at the caller in EL1 with the MMU off. Clobbers x0-x3.
drop_to_el1:
    mrs     x0, CurrentEL
    cmp     x0, #(3 << 2)
    b.eq    from_el3
    cmp     x0, #(2 << 2)
    b.eq    from_el2
    b       at_el1
from_el3:
    // The CPU joins coherency before its caches, MMU or any maintenance is used (CPUECTLR_EL1.SMPEN, Cortex-A53, A57
    // and A72 TRMs 4.3).
    mrs     x0, midr_el1
    ubfx    x1, x0, #24, #8
    cmp     x1, #0x41                   // Arm
    b.ne    4f
    ubfx    x1, x0, #4, #12
    mov     x2, #0xd03
    cmp     x1, x2
    mov     x2, #0xd07
    ccmp    x1, x2, #4, ne
    mov     x2, #0xd08
    ccmp    x1, x2, #4, ne
    b.ne    4f
    mrs     x0, S3_1_C15_C2_1
    orr     x0, x0, #(1 << 6)
    msr     S3_1_C15_C2_1, x0
    isb
4:  msr     mdcr_el3, xzr
    mov     x0, #0x5b1                  // SCR_EL3: NS, RES1, SMD off, HCE, RW
    and     x0, x0, #~(1 << 7)
    msr     scr_el3, x0
    msr     cptr_el3, xzr
    adr     x0, monitor_vectors
    msr     vbar_el3, x0
    mrs     x0, id_aa64pfr0_el1
    ubfx    x1, x0, #24, #4             // GIC system registers
    cbz     x1, 1f
    mrs     x1, S3_6_C12_C12_5          // ICC_SRE_EL3: SRE, Enable
    mov     x2, #0b1001
    orr     x1, x1, x2
    msr     S3_6_C12_C12_5, x1
    isb
1:  ubfx    x1, x0, #8, #4              // EL2 implemented?
    cbz     x1, 2f
    ldr     x1, =0x30c50830             // SCTLR_EL2: RES1 bits, MMU and caches off; unknown at reset
    msr     sctlr_el2, x1
    mov     x1, #0x3c9                  // EL2h, DAIF masked
    adr     x2, from_el2
    b       3f
2:  mov     x1, #0x3c5                  // EL1h, DAIF masked
    adr     x2, at_el1
3:  msr     spsr_el3, x1
    msr     elr_el3, x2
    isb
    eret
from_el2:
    mov     x0, #(1 << 31)              // HCR_EL2: RW alone
    msr     hcr_el2, x0
    isb
    mov     x0, #0b11                   // CNTHCTL_EL2: EL1 may use the physical counter and timer
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    msr     mdcr_el2, xzr
    adr     x0, monitor_vectors         // a hypervisor call is answered "not supported"
    msr     vbar_el2, x0
    mov     x0, #0x33ff                 // CPTR_EL2: no traps
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, mpidr_el1
    msr     vmpidr_el2, x0
    mrs     x0, id_aa64dfr0_el1
    ubfx    x1, x0, #8, #4              // PMUVer
    cbz     x1, 1f
    cmp     x1, #0xf
    b.eq    1f
    mrs     x1, pmcr_el0
    ubfx    x1, x1, #11, #5
    msr     mdcr_el2, x1                // all event counters to EL1
1:  mrs     x0, id_aa64pfr0_el1
    ubfx    x0, x0, #24, #4
    cbz     x0, 2f
    mrs     x0, S3_4_C12_C9_5           // ICC_SRE_EL2: SRE, Enable
    mov     x1, #0b1001
    orr     x0, x0, x1
    msr     S3_4_C12_C9_5, x0
    isb
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2: no virtual interrupts
2:  mov     x0, #0x3c5                  // EL1h, DAIF masked
    msr     spsr_el2, x0
    adr     x0, at_el1
    msr     elr_el2, x0
    ldr     x0, =0x30d00800             // SCTLR_EL1: RES1 bits, MMU and caches off
    msr     sctlr_el1, x0
    isb
    eret
at_el1:
    ldr     x0, =0x30d00800
    msr     sctlr_el1, x0
    msr     mdscr_el1, xzr              // no single step or breakpoints; unknown at reset
    mrs     x0, id_aa64dfr0_el1
    ubfx    x0, x0, #8, #4              // PMUVer
    cbz     x0, 1f
    cmp     x0, #0xf
    b.eq    1f
    msr     pmuserenr_el0, xzr          // programs do not reach the performance counters
1:  isb
    ret
.ltorg

// The secure monitor, where the image was entered at EL3 and is therefore the firmware. x0 = MONITOR_WRITE: writes one
// 32-bit register of the secure world for the kernel, x1 = physical address, x2 = value. x0 = MONITOR_FREQUENCY: says in
// this CPU's CNTFRQ_EL0, which only the highest level writes, how often the counter counts, x1 = Hz. Both change x0 alone.
// At EL2 the same vectors take a call to a hypervisor that is not there, from the kernel: programs cannot call either
// level.
.equ MONITOR_WRITE, 0x70746e57
.equ MONITOR_FREQUENCY, MONITOR_WRITE + (1 << 24)
.balign 2048
monitor_vectors:
    .org    monitor_vectors + 0x400     // synchronous, from a lower level in AArch64
    sub     x0, x0, #(MONITOR_WRITE & 0xfff)
    sub     x0, x0, #(MONITOR_WRITE & 0xfff000)
    lsr     x0, x0, #24
    cmp     x0, #(MONITOR_FREQUENCY >> 24)
    b.eq    2f
    cmp     x0, #(MONITOR_WRITE >> 24)
    b.ne    1f
    str     w2, [x1]
    dsb     sy
    mov     x0, #0
    eret
2:  msr     cntfrq_el0, x1
    mov     x0, #0
    eret
1:  mov     x0, #-1                     // SMCCC: not supported
    eret
    .org    monitor_vectors + 0x800

// map_pages: maps pages from x0 up to x1 with attributes x2; leaves x0 = x1. Clobbers x3-x5.
map_pages:
    adrp    x3, boot_kernel_l3
1:  cmp     x0, x1
    b.hs    2f
    sub     x4, x0, x21
    lsr     x4, x4, #12
    orr     x5, x0, x2
    str     x5, [x3, x4, lsl #3]
    add     x0, x0, #4096
    b       1b
2:  ret

// invalidate_range: drops data-cache lines of [x0, x1) to the point of coherency. Clobbers x0, x2, x3.
invalidate_range:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4             // DminLine: log2 of words
    mov     x3, #4
    lsl     x3, x3, x2
1:  dc      ivac, x0
    add     x0, x0, x3
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    ret

.section .text, "ax"
virtual_entry:
    msr     spsel, #1
    adrp    x0, boot_stack_top
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    adrp    x0, exception_vectors
    add     x0, x0, :lo12:exception_vectors
    msr     vbar_el1, x0
    isb
    mov     x0, x20
    mov     x1, x21
    mov     x2, x19
    bl      arch_start
    brk     #0

virtual_secondary:
    msr     spsel, #1
    adrp    x0, exception_vectors
    add     x0, x0, :lo12:exception_vectors
    msr     vbar_el1, x0
    isb
    // The record with this CPU's number (smp.rs, Record). Before there is a stack, hence here.
    mrs     x0, mpidr_el1
    ldr     x1, ={affinity}
    and     x0, x0, x1
    orr     x0, x0, #{present}
    adrp    x1, arch_secondary_records
    add     x1, x1, :lo12:arch_secondary_records
    mov     x2, #{max_cpus}
1:  ldar    x3, [x1]
    cmp     x3, x0
    b.eq    2f
    add     x1, x1, #32
    subs    x2, x2, #1
    b.ne    1b
3:  wfi                                 // nobody asked for this CPU
    b       3b
2:  ldp     x2, x0, [x1, #8]            // stack, entry
    ldr     x1, [x1, #24]               // its argument
    mov     sp, x2
    mov     x2, x19
    mov     x29, xzr
    mov     x30, xzr
    bl      arch_start_secondary
    brk     #0

// 64 KiB aligned so that an address in the stack has bit 15 set, which the overflow check of vectors.S relies on.
.section .boot_stack, "aw", %nobits
.balign 65536
.global boot_kernel_l0
boot_kernel_l0:     .space 4096
boot_kernel_l1:     .space 4096
boot_kernel_l2:     .space 4096
boot_identity_l0:   .space 4096
boot_identity_l1:   .space 4096
boot_identity_l2:   .space 4096
                    .space 4096
boot_stack_guard:   .space 4096
boot_stack_bottom:  .space 32768
boot_stack_top:

// Not among those above, which fill 64 KiB.
.section .bss.boot_kernel_l3, "aw", %nobits
.balign 4096
boot_kernel_l3:     .space 8192
