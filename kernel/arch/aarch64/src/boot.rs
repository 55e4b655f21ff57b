//! From the image's first instruction to the kernel's `kernel_main`.
//!
//! `boot.S` runs at the physical address the loader chose: it drops to EL1, builds the first page tables with the
//! image's final permissions (so nothing is ever writable and executable, and no live entry has to be changed later),
//! and enters [`arch_start`] in the upper half.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use aarch64_cpu::registers::{CNTKCTL_EL1, CPACR_EL1, ID_AA64MMFR1_EL1, SCTLR_EL1, TPIDR_EL1};
use hal::PhysAddr;
use tock_registers::interfaces::{Readable, Writeable};

use crate::{cpu, mmu, smp};

/// SCTLR_EL1 (Arm ARM D24.2.175): MMU and caches on, stack alignment checked, EL0 may use DC ZVA, cache maintenance
/// by address, CTR_EL0, WFI and WFE; RES1 bits of Armv8.0 set.
const SCTLR: u64 = 1 << 0   // M
    | 1 << 2                // C
    | 1 << 3                // SA
    | 1 << 4                // SA0
    | 1 << 8                // SED
    | 1 << 11               // EOS or RES1
    | 1 << 12               // I
    | 1 << 14               // DZE
    | 1 << 15               // UCT
    | 1 << 16               // nTWI
    | 1 << 18               // nTWE
    | 1 << 20               // TSCXT or RES1
    | 1 << 22               // EIS or RES1
    | 1 << 23               // SPAN or RES1
    | 1 << 26               // UCI
    | 1 << 28               // nTLSMD or RES1
    | 1 << 29; // LSMAOE or RES1

global_asm!(
    include_str!("boot.S"),
    mair = const klib::page_table::MAIR_VALUE,
    sctlr = const SCTLR,
    affinity = const cpu::AFFINITY,
    present = const smp::PRESENT,
    max_cpus = const hal::MAX_CPUS,
);

/// What the boot code knows.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// x0 at entry: the physical address of the device tree, unchecked.
    pub device_tree: u64,
    /// Physical address of the image's first byte.
    pub image: u64,
    /// The exception level the image was entered in.
    pub exception_level: u64,
}

unsafe extern "Rust" {
    /// The kernel's first function.
    fn kernel_main(info: BootInfo) -> !;
}

/// Whether the image was entered at EL3, so that `boot.S` is the firmware there.
static OWNS_EL3: AtomicBool = AtomicBool::new(false);

/// Writes a register of the secure world through the secure monitor in `boot.S`.
pub(crate) fn secure_write(address: PhysAddr, value: u32) -> bool {
    /// `MONITOR_WRITE` of `boot.S`.
    const WRITE: u64 = 0x7074_6e57;
    if !OWNS_EL3.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: our own monitor takes the call and changes x0 alone; the caller names a device register.
    unsafe {
        asm!("smc #0", inout("x0") WRITE => _, in("x1") address.get(), in("x2") u64::from(value), options(nostack));
    }
    true
}

/// How often the counter counts, in Hz; 0 until the timer's driver knows.
static COUNTER_HZ: AtomicU64 = AtomicU64::new(0);

/// The counter counts `hz` times a second: every CPU says so to who reads its CNTFRQ_EL0, where nobody but this image
/// could have written it (Arm ARM D24.10, CNTFRQ_EL0).
pub(crate) fn set_counter_frequency(hz: u64) {
    COUNTER_HZ.store(hz, Ordering::Relaxed);
    if OWNS_EL3.load(Ordering::Relaxed) {
        announce_counter_frequency();
    }
}

/// Called on a CPU that was entered at EL3.
fn announce_counter_frequency() {
    /// `MONITOR_FREQUENCY` of `boot.S`.
    const FREQUENCY: u64 = 0x7174_6e57;
    let hz = COUNTER_HZ.load(Ordering::Relaxed);
    // SAFETY: our own monitor takes the call, changes x0 alone and writes a register that the kernel does not read any
    // more.
    unsafe { asm!("smc #0", inout("x0") FREQUENCY => _, in("x1") hz, options(nostack)) };
}

#[unsafe(no_mangle)]
extern "C" fn arch_start(device_tree: u64, image: u64, exception_level: u64) -> ! {
    OWNS_EL3.store(exception_level == 3, Ordering::Relaxed);
    init_cpu();
    // SAFETY: the kernel crate defines it with this signature.
    unsafe { kernel_main(BootInfo { device_tree, image, exception_level }) }
}

#[unsafe(no_mangle)]
extern "C" fn arch_start_secondary(entry: extern "C" fn(usize) -> !, argument: usize, exception_level: u64) -> ! {
    init_cpu();
    if exception_level == 3 {
        announce_counter_frequency();
    }
    entry(argument)
}

/// What every CPU does first with its own registers.
fn init_cpu() {
    // The identity map has done its work.
    mmu::activate_user_table(None);
    mmu::flush_all_local();
    TPIDR_EL1.set(0);
    CPACR_EL1.write(CPACR_EL1::FPEN::TrapNothing);
    // EL0 reads the virtual counter (clock_gettime without a trap), nothing else of the timer.
    CNTKCTL_EL1.set(1 << 1);
    if ID_AA64MMFR1_EL1.read(ID_AA64MMFR1_EL1::PAN) != 0 {
        // Privileged loads and stores to user pages fault from the next exception on (SPAN = 0); copies use LDTR/STTR.
        SCTLR_EL1.set(SCTLR_EL1.get() & !(1 << 23));
    }
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    cpu::note_features();
}
