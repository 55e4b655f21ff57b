//! PL031: a real-time clock that counts seconds. QEMU's is the host's clock.
//!
//! Only the data register is of use here: firmware or the virtual machine has set the clock, and 32 bits of seconds
//! last until 2106.
//!
//! Reference: ARM PrimeCell Real Time Clock (PL031) Technical Reference Manual, ARM DDI 0224C.

use alloc::sync::Arc;

use hal::{DeviceNode, Driver, Mmio, Platform, ProbeError, Rtc};
use tock_registers::{interfaces::Readable, register_structs, registers::ReadOnly};

use crate::registers::{Registers, map_reg};

register_structs! {
    Pl031Registers {
        /// Data register RTCDR, 3.3.1: seconds.
        (0x00 => dr: ReadOnly<u32>),
        (0x04 => @END),
    }
}

/// The clock.
pub struct Pl031 {
    registers: Registers<Pl031Registers>,
}

impl Pl031 {
    /// Takes over the clock as it runs.
    ///
    /// # Safety
    ///
    /// `mmio` must map the registers of a PL031.
    unsafe fn new(mmio: Mmio) -> Result<Self, ProbeError> {
        // SAFETY: The caller's promise; reading needs no order between CPUs.
        let registers = unsafe { Registers::new(mmio)? };
        Ok(Self { registers })
    }
}

impl Rtc for Pl031 {
    fn unix_seconds(&self) -> u64 {
        self.registers.dr.get().into()
    }
}

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let mmio = map_reg(node, platform, 0)?;
    // SAFETY: The tree says that these are a PL031's registers.
    let clock = Arc::new(unsafe { Pl031::new(mmio)? });
    platform.add_rtc(node, clock);
    Ok(())
}

fn remove(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    platform.remove_rtc(node);
    Ok(())
}

/// PL031.
pub static DRIVER: Driver = Driver { name: "pl031", compatible: &["arm,pl031"], probe, remove: Some(remove) };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeNode, FakePlatform};

    #[test]
    fn seconds_are_the_data_register() {
        let platform = FakePlatform::new();
        let registers = platform.add_registers(0x901_0000, 0x1000);
        (DRIVER.probe)(&FakeNode::new("arm,pl031").with_reg(0x901_0000, 0x1000), platform).unwrap();
        let clock = platform.rtc.lock().unwrap().clone().unwrap();
        registers.write(0, 0xffff_fff0);
        assert_eq!(clock.unix_seconds(), 0xffff_fff0);
    }

    #[test]
    fn probe_without_reg_is_a_bad_node() {
        let result = (DRIVER.probe)(&FakeNode::new("arm,pl031"), FakePlatform::new());
        assert_eq!(result, Err(ProbeError::BadNode("reg")));
    }
}
