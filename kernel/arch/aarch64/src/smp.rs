//! Starting the other CPUs: PSCI CPU_ON (Arm DEN 0022) and the spin table of Linux's arm64 boot protocol
//! (Documentation/arch/arm64/booting.rst).
//!
//! A CPU comes in at `arch_secondary_entry` of `boot.S` knowing nothing but its own number, since a spin table passes
//! nothing along. It finds the [`Record`] with that number. Records are never taken back: a CPU may be so late that the
//! kernel has given it up, and still needs its stack.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hal::{CpuStart, CpuStartError, MAX_CPUS, VirtAddr};

use crate::{mmu, power};

/// Marks a record as filled in: bit 31 of MPIDR_EL1, which is no part of a CPU's number.
pub(crate) const PRESENT: u64 = 1 << 31;

/// What a CPU starts with, in the layout of `virtual_secondary` in `boot.S`.
#[repr(C)]
struct Record {
    /// The CPU's number and [`PRESENT`]; written last.
    id: AtomicU64,
    stack: AtomicUsize,
    entry: AtomicUsize,
    argument: AtomicUsize,
}

const _: () = assert!(size_of::<Record>() == 32);

#[unsafe(no_mangle)]
static arch_secondary_records: [Record; MAX_CPUS] = [const {
    Record {
        id: AtomicU64::new(0),
        stack: AtomicUsize::new(0),
        entry: AtomicUsize::new(0),
        argument: AtomicUsize::new(0),
    }
}; MAX_CPUS];

unsafe extern "C" {
    fn arch_secondary_entry();
}

/// # Safety
/// As [`hal::Arch::start_cpu`]. Called by one CPU at a time.
pub(crate) unsafe fn start_cpu(
    hardware_id: u64,
    how: CpuStart,
    stack_top: VirtAddr,
    entry: extern "C" fn(usize) -> !,
    argument: usize,
) -> Result<(), CpuStartError> {
    let record = arch_secondary_records.iter().find(|record| record.id.load(Ordering::Relaxed) == 0);
    let record = record.ok_or(CpuStartError::Unsupported)?;
    record.stack.store(stack_top.get(), Ordering::Relaxed);
    record.entry.store(entry as *const () as usize, Ordering::Relaxed);
    record.argument.store(argument, Ordering::Relaxed);
    record.id.store(hardware_id | PRESENT, Ordering::Release);
    // All of the kernel's memory is inner shareable, so the record needs no cache maintenance: the CPU reads it with
    // its MMU and caches on.
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    let start = mmu::image_to_phys(arch_secondary_entry as *const () as usize);
    match how {
        CpuStart::Firmware => power::cpu_on(hardware_id, start),
        CpuStart::ReleaseWord(word) => {
            let word = word.get();
            // SAFETY: the caller says that this is the CPU's word; it polls it with caches off.
            unsafe { core::ptr::with_exposed_provenance_mut::<u64>(word).write_volatile(start) };
            mmu::clean_and_invalidate(word..word + size_of::<u64>());
            aarch64_cpu::asm::sev();
            Ok(())
        }
    }
}
