//! Hardware abstraction: the traits between the kernel, the drivers and the architectures.
//!
//! Nothing here has an implementation. A driver implements a device trait ([`Uart`], [`IrqChip`], ...) and reaches
//! the kernel only through [`Platform`]; the kernel uses devices only through these traits; an architecture
//! implements [`Arch`] and the kernel names it once. So the arrows point here from all sides, and each side can be
//! tested with a fake of the other.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod address;
#[allow(unsafe_code, reason = "declares unsafe methods; has no unsafe block")]
mod arch;
mod config_store;
mod device;
mod irq_chip;
mod net;
mod platform;
mod rng;
mod rtc;
mod timer;
mod uart;

pub use address::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, PhysRange, UserAddr, VirtAddr};
pub use arch::{
    Arch, ClockData, CpuStart, CpuStartError, FaultAccess, MAX_CPUS, PowerAction, SignalRestore, SignalSetup,
    TrapFrame, TrapHandler, UserException, UserFault, Vdso,
};
pub use config_store::ConfigStore;
pub use device::{DeviceNode, Driver, DriverCall, IrqSpecifier, ProbeError};
pub use irq_chip::{Acknowledged, Cause, Irq, IrqChip, IrqError, IrqHandler, NR_IPIS, Trigger};
pub use net::{ETHERNET_HEADER, MAC_LEN, Net, NetCounts, NetEvents};
pub use platform::{DmaMemory, Mmio, Platform, PlatformError};
pub use rng::Rng;
pub use rtc::Rtc;
pub use timer::Timer;
pub use uart::Uart;
