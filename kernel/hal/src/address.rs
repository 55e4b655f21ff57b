//! Typed addresses, so that a physical, a kernel and a user address cannot be confused.
//!
//! A [`UserAddr`] is an allegation: it comes from a program and may only be followed by the checked copy functions.

use core::{fmt, ops::Range};

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: usize = 12;
/// Bytes in a page of the translation granule used on every architecture.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw address.
            pub const fn new(address: $inner) -> Self {
                Self(address)
            }
            /// The raw address.
            pub const fn get(self) -> $inner {
                self.0
            }
            /// The address rounded down to its page.
            pub const fn page_down(self) -> Self {
                Self(self.0 & !(PAGE_SIZE as $inner - 1))
            }
            /// The offset within the page, in bytes.
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE as $inner - 1)) as usize
            }
            /// The address `bytes` further on, or `None` where that overflows.
            pub const fn checked_add(self, bytes: $inner) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// An address on the CPU's physical bus.
    PhysAddr, u64
);
address!(
    /// An address in the kernel's half of the virtual address space.
    VirtAddr, usize
);
address!(
    /// An address a program gave; unchecked.
    UserAddr, u64
);

impl UserAddr {
    /// The null pointer.
    pub const NULL: Self = Self::new(0);
    /// Whether this is the null pointer.
    pub const fn is_null(self) -> bool {
        self.get() == 0
    }
}

/// A stretch of physical addresses, from a `reg` entry or a memory node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRange {
    /// First address.
    pub start: PhysAddr,
    /// Length in bytes.
    pub len: u64,
}

impl PhysRange {
    /// The range as plain numbers; saturates at the end of the address space.
    pub const fn range(self) -> Range<u64> {
        self.start.get()..self.start.get().saturating_add(self.len)
    }
}
