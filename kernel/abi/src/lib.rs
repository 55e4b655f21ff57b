//! The Linux user ABI: numbers, errno, flags and struct layouts.
//!
//! The numbers and structs come from `linux-raw-sys`, which generates them from Linux's own headers for the
//! architecture being built; this crate chooses what the kernel uses, gives errno a type, and says which structs may
//! be copied to and from programs ([`Pod`]).
#![no_std]

mod errno;
mod pod;
pub mod timex;

pub use errno::Errno;
pub use linux_raw_sys::{auxvec, general as linux, ioctl, net, netlink, prctl, system};
pub use pod::{Pod, bytes_of, bytes_of_mut, zeroed};

/// What every system call answers.
pub type Result<T> = core::result::Result<T, Errno>;
