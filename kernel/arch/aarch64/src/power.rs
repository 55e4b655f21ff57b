//! Leaving the machine and turning CPUs on: PSCI (Arm DEN 0022) and semihosting (Arm "Semihosting for AArch32 and AArch64").
//!
//! PSCI's conduit comes from the tree's `/psci` node. Semihosting is tried where an exit status has to reach a
//! debugger or virtual machine: without one, HLT is an undefined instruction, which the trap code turns into a
//! failure result.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU8, Ordering},
};

use hal::{CpuStartError, DeviceNode, Driver, Platform, PowerAction, ProbeError};
use smccc::{Hvc, Smc, psci};

const NONE: u8 = 0;
const HVC: u8 = 1;
const SMC: u8 = 2;
static CONDUIT: AtomicU8 = AtomicU8::new(NONE);

global_asm!(
    ".section .text.semihosting, \"ax\"",
    ".global arch_semihosting",
    "arch_semihosting:",
    "hlt #0xf000",
    "ret",
);

unsafe extern "C" {
    fn arch_semihosting(operation: u64, parameter: u64) -> u64;
}

/// Operation numbers and the reason code of the semihosting specification.
const SYS_WRITE0: u64 = 0x04;
const SYS_EXIT_EXTENDED: u64 = 0x20;
const ADP_STOPPED_APPLICATION_EXIT: u64 = 0x20026;

/// Whether `pc` is the semihosting instruction.
pub(crate) fn is_semihosting_call(pc: u64) -> bool {
    pc == arch_semihosting as *const () as u64
}

pub(crate) fn debug_write(text: &str) {
    let mut buffer = [0u8; 128];
    for chunk in text.as_bytes().chunks(buffer.len() - 1) {
        buffer[..chunk.len()].copy_from_slice(chunk);
        buffer[chunk.len()] = 0;
        // SAFETY: the parameter is a NUL-terminated string that lives across the call.
        unsafe { arch_semihosting(SYS_WRITE0, buffer.as_ptr() as u64) };
    }
}

pub(crate) fn power(action: PowerAction) {
    let conduit = CONDUIT.load(Ordering::Relaxed);
    if let PowerAction::Off(status) = action
        && (status != 0 || conduit == NONE)
    {
        let block = [ADP_STOPPED_APPLICATION_EXIT, u64::from(status)];
        // SAFETY: the parameter block has the two words the operation reads.
        unsafe { arch_semihosting(SYS_EXIT_EXTENDED, block.as_ptr() as u64) };
    }
    let result = match (conduit, action) {
        (HVC, PowerAction::Off(_)) => psci::system_off::<Hvc>(),
        (SMC, PowerAction::Off(_)) => psci::system_off::<Smc>(),
        (HVC, PowerAction::Reset) => psci::system_reset::<Hvc>(),
        (SMC, PowerAction::Reset) => psci::system_reset::<Smc>(),
        _ => return,
    };
    if let Err(error) = result {
        log::error!("psci: {action:?} refused: {error}");
    }
}

/// Turns a CPU on at a physical address (CPU_ON, 5.4).
pub(crate) fn cpu_on(hardware_id: u64, entry: u64) -> Result<(), CpuStartError> {
    let result = match CONDUIT.load(Ordering::Relaxed) {
        HVC => psci::cpu_on::<Hvc>(hardware_id, entry, 0),
        SMC => psci::cpu_on::<Smc>(hardware_id, entry, 0),
        _ => return Err(CpuStartError::Unsupported),
    };
    result.map_err(|error| CpuStartError::Refused(error.into()))
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: masks all interrupts and waits.
        unsafe { asm!("msr daifset, #0xf", "wfi", options(nostack)) };
    }
}

fn probe(node: &dyn DeviceNode, _platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let conduit = match node.property("method") {
        Some(b"hvc\0") => HVC,
        Some(b"smc\0") => SMC,
        _ => return Err(ProbeError::BadNode("method")),
    };
    CONDUIT.store(conduit, Ordering::Relaxed);
    Ok(())
}

/// PSCI firmware.
pub static DRIVER: Driver =
    Driver { name: "psci", compatible: &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"], probe, remove: None };
