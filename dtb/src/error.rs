//! What can be wrong with a device tree.

use core::fmt;

/// Why a blob or a property was refused. Displays as one line that starts with `device tree:`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtbError {
    /// The first word is not `0xd00dfeed`: this is no device tree.
    BadMagic(u32),
    /// The format version is not one this crate reads (17 or compatible with it).
    BadVersion {
        /// `version` of the header.
        version: u32,
        /// `last_comp_version` of the header.
        compatible: u32,
    },
    /// The header promises more bytes than there are.
    Truncated {
        /// `totalsize` of the header, or the size of a header.
        needed: usize,
        /// How many bytes there are.
        available: usize,
    },
    /// The header promises more than [`crate::MAX_SIZE`] or less than a header.
    BadSize(usize),
    /// The named block is misaligned or reaches beyond the blob.
    BadBlock(&'static str),
    /// The structure block is wrong at this offset from its start.
    BadStructure {
        /// What is wrong.
        what: &'static str,
        /// Offset in bytes from the start of the structure block.
        offset: usize,
    },
    /// The property has a length or content that its definition does not allow.
    BadProperty(&'static str),
    /// The address lies behind a bus without `ranges`, or outside all of its windows.
    NotTranslatable,
    /// An interrupt leads nowhere: no controller, no matching `interrupt-map` entry, or a loop.
    BadInterrupt(&'static str),
}

impl fmt::Display for DtbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("device tree: ")?;
        match *self {
            Self::BadMagic(magic) => write!(f, "bad magic {magic:#010x}, expected 0xd00dfeed"),
            Self::BadVersion { version, compatible } => {
                write!(f, "version {version} (compatible with {compatible}) is not readable as version 17")
            }
            Self::Truncated { needed, available } => {
                write!(f, "truncated: header says {needed} bytes, only {available} are there")
            }
            Self::BadSize(size) => write!(f, "header says {size} bytes, which is not between 40 and 2 MiB"),
            Self::BadBlock(block) => {
                write!(f, "corrupt: {block} is misaligned or outside the blob")
            }
            Self::BadStructure { what, offset } => {
                write!(f, "corrupt: {what} at offset {offset:#x} of the structure block")
            }
            Self::BadProperty(name) => write!(f, "malformed property {name}"),
            Self::NotTranslatable => f.write_str("address cannot be translated through the ranges above it"),
            Self::BadInterrupt(what) => write!(f, "interrupt cannot be resolved: {what}"),
        }
    }
}

impl core::error::Error for DtbError {}
