//! A typed, checked view of a flattened device tree.
//!
//! [`Tree::new`] walks the blob once, checks all of its structure and builds an index of nodes and properties; from
//! then on nothing can fail for structural reasons and nothing panics, whatever the blob says. What a single property
//! says is still only a claim, so the typed readers ([`Node::reg`], [`Node::interrupts`], ...) answer with errors.
//!
//! Key types: [`Tree`], [`Node`], [`Interrupt`], [`DtbError`]. Used by the kernel's device code, by its early boot
//! (memory, reservations, console) and by host programs that check a board's tree. The parser is our own, in
//! `parse.rs` alone; `docs/decisions/0001-device-tree-parser.md` gives the figures behind that.
//!
//! References: Devicetree Specification, release v0.4 ("DTSpec").
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod error;
mod interrupt;
mod node;
mod parse;
mod system;
mod tree;

pub use address::{DmaRange, Reg};
pub use error::DtbError;
pub use interrupt::{Interrupt, Interrupts};
pub use node::{Children, Node, Strings};
pub use parse::{HEADER_SIZE, MAX_SIZE, check_header};
pub use system::{Chosen, Cpu, Psci, PsciMethod};
pub use tree::{Nodes, Tree};
