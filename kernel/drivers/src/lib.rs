//! Device drivers, one file per hardware block.
//!
//! A driver reads its device-tree node through [`hal::DeviceNode`], takes what it needs from [`hal::Platform`] and
//! hands the device back to it behind a trait of `hal`; it knows neither the kernel nor the architecture. So every
//! driver runs on the host against the fakes in `fake.rs`, with plain memory as registers.
//!
//! Each file ends in `pub static DRIVER`. [`DRIVERS`] lists them in plain sight: a table collected by the linker would
//! lose a driver without a word.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod dma;
#[cfg(test)]
mod fake;
pub mod fw_cfg;
mod gic;
pub mod gicv2;
pub mod gicv3;
pub mod pl011;
pub mod pl031;
mod registers;
mod virtio_hal;
pub mod virtio_mmio;
pub mod virtio_net;
pub mod virtio_rng;

use hal::Driver;

/// Every driver, interrupt controllers first: others are deferred until those are up.
pub static DRIVERS: &[&Driver] =
    &[&gicv2::DRIVER, &gicv3::DRIVER, &pl011::DRIVER, &pl031::DRIVER, &fw_cfg::DRIVER, &virtio_mmio::DRIVER];
