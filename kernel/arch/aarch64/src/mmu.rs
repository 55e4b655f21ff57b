//! Translation tables in use, TLB and cache maintenance.
//!
//! Ordering rules: Arm ARM D8.17 (TLB maintenance), B2.4 (caches). Every broadcast TLBI is preceded by DSB ISHST, so
//! that the table write is seen by all walkers, and followed by DSB ISH and ISB.

use core::{arch::asm, ops::Range};

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, TTBR0_EL1, TTBR1_EL1};
use hal::{PAGE_SIZE, PhysAddr, UserAddr};
use tock_registers::interfaces::{Readable, Writeable};

/// First address of the kernel's image, as linked.
pub(crate) const IMAGE_BASE: usize = 0xffff_ffff_8000_0000;

unsafe extern "C" {
    static boot_kernel_l0: u8;
}

pub(crate) fn kernel_table() -> PhysAddr {
    PhysAddr::new(TTBR1_EL1.get() & 0x0000_ffff_ffff_f000)
}

pub(crate) fn activate_user_table(root: Option<(PhysAddr, u16)>) {
    let value = match root {
        Some((table, id)) => u64::from(id) << 48 | table.get(),
        None => EMPTY_TABLE.physical(),
    };
    // The table's entries, and what says under which number it is cached, come before the first walk.
    dsb_ishst();
    TTBR0_EL1.set(value);
    isb();
}

/// The physical address of something in the image.
pub(crate) fn image_to_phys(address: usize) -> u64 {
    let image = kernel_table().get() - (&raw const boot_kernel_l0 as u64 - IMAGE_BASE as u64);
    (address - IMAGE_BASE) as u64 + image
}

/// The table for "no user mappings".
#[repr(C, align(4096))]
struct EmptyTable([u64; 512]);
static EMPTY_TABLE: EmptyTable = EmptyTable([0; 512]);

impl EmptyTable {
    fn physical(&self) -> u64 {
        image_to_phys((&raw const self.0).addr())
    }
}

pub(crate) fn nr_address_space_ids() -> u32 {
    if ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::ASIDBits) == 2 { 1 << 16 } else { 1 << 8 }
}

fn isb() {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

fn dsb_ish() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISH);
}

fn dsb_ishst() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
}

pub(crate) fn page_table_written() {
    dsb_ishst();
    isb();
}

pub(crate) fn flush_user_page(id: u16, address: UserAddr) {
    let operand = u64::from(id) << 48 | (address.get() >> 12 & 0xfff_ffff_ffff);
    dsb_ishst();
    // SAFETY: dropping a translation is always allowed.
    unsafe { asm!("tlbi vale1is, {}", in(reg) operand, options(nostack)) };
    dsb_ish();
    isb();
}

pub(crate) fn flush_user_space(id: u16) {
    dsb_ishst();
    // SAFETY: dropping translations is always allowed.
    unsafe { asm!("tlbi aside1is, {}", in(reg) u64::from(id) << 48, options(nostack)) };
    dsb_ish();
    isb();
}

pub(crate) fn flush_kernel_range(range: Range<usize>) {
    dsb_ishst();
    for page in range.step_by(PAGE_SIZE) {
        let operand = page as u64 >> 12 & 0xfff_ffff_ffff;
        // SAFETY: dropping a translation is always allowed.
        unsafe { asm!("tlbi vaale1is, {}", in(reg) operand, options(nostack)) };
    }
    dsb_ish();
    isb();
}

pub(crate) fn flush_all_local() {
    // SAFETY: dropping translations is always allowed.
    unsafe { asm!("dsb nshst", "tlbi vmalle1", "dsb nsh", "isb", options(nostack)) };
}

/// CTR_EL0 (Arm ARM D24.2.34): cache line sizes and what the hardware keeps coherent.
fn cache_type() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// DminLine, in bytes.
fn data_line() -> usize {
    4 << (cache_type() >> 16 & 0xf)
}

/// IminLine, in bytes.
fn instruction_line() -> usize {
    4 << (cache_type() & 0xf)
}

/// Makes instruction fetches see what was written (Arm ARM B2.4.4): clean to the point of unification, invalidate
/// instruction lines, unless CTR_EL0.IDC/DIC say the hardware does.
pub(crate) fn sync_instructions(range: Range<usize>) {
    let ctr = cache_type();
    if ctr & (1 << 28) == 0 {
        let line = data_line();
        for address in (range.start & !(line - 1)..range.end).step_by(line) {
            // SAFETY: cleaning by address to PoU changes no data.
            unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack)) };
        }
    }
    dsb_ish();
    if ctr & (1 << 29) == 0 {
        // An instruction cache may be virtually indexed and the alias given is not the program's address, so all of
        // it goes where the policy is not PIPT (CTR_EL0.L1Ip != 0b11).
        if ctr >> 14 & 3 == 3 {
            let line = instruction_line();
            for address in (range.start & !(line - 1)..range.end).step_by(line) {
                // SAFETY: invalidating instruction lines changes no data.
                unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack)) };
            }
        } else {
            // SAFETY: as above.
            unsafe { asm!("ic ialluis", options(nostack)) };
        }
    }
    dsb_ish();
    isb();
}

pub(crate) fn clean_and_invalidate(range: Range<usize>) {
    let line = data_line();
    for address in (range.start & !(line - 1)..range.end).step_by(line) {
        // SAFETY: clean and invalidate to PoC changes no data.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack)) };
    }
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
}

/// # Safety
/// `page` is page aligned and valid for writing.
pub(crate) unsafe fn zero_page(page: *mut u8) {
    let id: u64;
    // SAFETY: reads DCZID_EL0 (Arm ARM D24.2.38): block size and whether DC ZVA is prohibited.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) id, options(nomem, nostack, preserves_flags)) };
    if id & (1 << 4) != 0 {
        // SAFETY: the caller vouches for the page.
        unsafe { page.write_bytes(0, PAGE_SIZE) };
        return;
    }
    let block = 4usize << (id & 0xf);
    for offset in (0..PAGE_SIZE).step_by(block) {
        // SAFETY: within the page; Normal memory, so DC ZVA does not fault.
        unsafe { asm!("dc zva, {}", in(reg) page.add(offset), options(nostack)) };
    }
}
