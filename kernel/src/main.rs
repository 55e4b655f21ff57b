//! The Piton kernel: brings a board up from its device tree and runs CPython on it.
//!
//! `boot` is the list of start-up steps. Below it: `device` (tree to drivers), `irq`, `smp` (the other CPUs), `time`,
//! `console`, `mm` (memory), `task` (processes), `fs` (files), `net` (the internet families), `syscall` (the Linux ABI on
//! top of these). `arch` names the architecture.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod boot;
mod command_line;
mod console;
mod device;
mod fs;
mod image;
mod inspect;
mod irq;
#[cfg(debug_assertions)]
mod lock_order;
mod log_buffer;
mod mm;
mod net;
mod panic;
mod power;
mod rng;
mod smp;
mod sync;
mod syscall;
mod task;
mod time;
