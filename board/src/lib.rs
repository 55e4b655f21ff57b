//! The host side of Piton: makes the boot image, reads the boards, starts QEMU and checks the layer rules.
//!
//! [`image`] turns the kernel ELF and the root image into one file; [`spec`] reads `board/NAME/board.toml`;
//! [`launch`] turns a board and the caller's wishes into a QEMU command line and [`run`] runs it with a time limit
//! and a restored terminal; [`layers`] checks who imports whom;
//! [`system_calls`] makes docs/system-calls.md; [`transfer`] copies files to and from a running machine. The library exists so that the `tests` crate starts
//! boards exactly as the command does.

pub mod error;
pub mod image;
pub mod launch;
pub mod layers;
pub mod run;
pub mod spec;
pub mod symbols;
pub mod system_calls;
mod terminal;
pub mod transfer;
pub mod workspace;

pub use error::Error;
