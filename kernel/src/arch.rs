//! The architecture in use. The only place that names one.

#[cfg(target_arch = "aarch64")]
pub use arch_aarch64::{Aarch64 as Arch, BootInfo, Context, DRIVERS, PageFormat, TrapFrame};
