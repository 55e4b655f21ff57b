//! Boots the real image and drives it through its serial port.
//!
//! [`Guest`] is one booted machine: it is sent text, waited on for text, and ends with an exit status; [`screen`] takes
//! the control sequences out of what it writes. [`script`] runs a Python file through the `board` program as a user
//! does; [`host`] runs what talks with the machine from outside. For the tests of bad input [`image`] makes broken boot
//! images, [`tree`] changes device trees and [`raw`] enters the image as a boot loader may. [`debian`] fetches
//! programs that are in no image.
//!
//! Failures panic with the end of the guest's output; the whole of it is left in `build/test-logs/NAME.log`.

#![forbid(unsafe_code)]

pub mod archive;
pub mod debian;
pub mod guest;
pub mod host;
pub mod image;
pub mod initramfs;
pub mod linux;
pub mod raw;
pub mod screen;
pub mod script;
pub mod suite;
pub mod tree;

pub use guest::Guest;

/// The value of a variable, or what stands for it.
pub fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
