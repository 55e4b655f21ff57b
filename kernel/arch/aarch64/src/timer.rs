//! The generic timer (Arm ARM D12): the virtual counter and its comparator, which need no privilege above EL1.

extern crate alloc;

use alloc::sync::Arc;

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0};
use hal::{DeviceNode, Driver, IrqHandler, Platform, ProbeError, Timer};
use tock_registers::interfaces::{Readable, Writeable};

use crate::boot;

struct GenericTimer {
    frequency_hz: u64,
}

const ENABLE: u64 = 1;
const IMASK: u64 = 2;

impl Timer for GenericTimer {
    fn frequency_hz(&self) -> u64 {
        self.frequency_hz
    }

    fn now_ticks(&self) -> u64 {
        // The counter may be read early otherwise (Arm ARM D12.1.2).
        aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
        CNTVCT_EL0.get()
    }

    fn set_deadline(&self, deadline_ticks: Option<u64>) {
        match deadline_ticks {
            Some(ticks) => {
                CNTV_CVAL_EL0.set(ticks);
                CNTV_CTL_EL0.set(ENABLE);
            }
            None => CNTV_CTL_EL0.set(ENABLE | IMASK),
        }
        aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    }
}

struct Expiry(&'static dyn Platform);

impl IrqHandler for Expiry {
    fn handle_irq(&self) {
        self.0.timer_interrupt();
    }
}

/// The virtual timer's place in `interrupts` (Linux bindings/timer/arm,arch_timer.yaml): secure, non-secure, virtual.
const VIRTUAL_TIMER: usize = 2;

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    // Firmware that forgot CNTFRQ_EL0 is helped by the tree.
    let frequency_hz = match node.property_u32("clock-frequency") {
        Some(hz) => u64::from(hz),
        None => CNTFRQ_EL0.get(),
    };
    if frequency_hz == 0 {
        return Err(ProbeError::Device("the counter's frequency is not set"));
    }
    boot::set_counter_frequency(frequency_hz);
    CNTV_CTL_EL0.set(IMASK);
    platform.request_irq(node, VIRTUAL_TIMER, Arc::new(Expiry(platform)))?;
    platform.add_timer(node, Arc::new(GenericTimer { frequency_hz }));
    Ok(())
}

/// The generic timer.
pub static DRIVER: Driver =
    Driver { name: "generic-timer", compatible: &["arm,armv8-timer", "arm,armv7-timer"], probe, remove: None };
