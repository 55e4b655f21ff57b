//! AArch64: boot, the other CPUs, vectors, context switch, MMU, user copy, timer, power.
//!
//! Implements [`hal::Arch`] as [`Aarch64`]. The assembly keeps to what Rust cannot say (entry, vectors, switch, user
//! copies); everything else is Rust over `aarch64-cpu`. References are to the Arm Architecture Reference Manual,
//! DDI 0487 ("Arm ARM").
#![no_std]

mod boot;
mod context;
mod cpu;
mod interface;
mod memory;
mod mmu;
mod power;
mod signal;
mod smp;
mod timer;
mod trap;
mod user_copy;
mod vdso;

pub use boot::BootInfo;
pub use context::Context;
pub use interface::Aarch64;
pub use klib::page_table::Aarch64 as PageFormat;
pub use trap::TrapFrame;

/// Drivers for what is part of the CPU or its firmware.
pub static DRIVERS: &[&hal::Driver] = &[&timer::DRIVER, &power::DRIVER];
