//! Four-level page tables with 4 KiB pages, for AArch64 and x86-64.
//!
//! Purpose: map, find, change and remove translations. Both architectures have the same tree (four
//! levels, 512 entries of 64 bits, 4 KiB, 2 MiB and 1 GiB leaves) and differ in the bits of an entry, so
//! the walker is written once, over a [`Format`].
//!
//! Key types: [`PageTable`], a root and the operations on it; [`Format`] with its two implementations
//! [`Aarch64`] and [`X86_64`]; [`PageFlags`]; [`TableMemory`], through which tables are reached.
//! Neighbours: the arch crates load a root into the MMU and flush TLBs; the kernel's `mm` implements
//! `TableMemory` over its direct map and the frame allocator.
//!
//! Why memory access is a trait: the walker never holds a pointer, so it is safe code, and a test runs it
//! over plain arrays that notice a use after free.
//!
//! Levels count from the leaf: 0 holds 4 KiB pages, 1 2 MiB blocks, 2 1 GiB blocks, 3 is the root (Arm
//! calls them 3 to 0). A root translates the lower half (addresses that start with sixteen 0 bits) or the
//! upper half (sixteen 1 bits) of the address space, as the caller chooses; on x86-64 one root serves both.
//! Ranges given to an operation end where their half ends, and their edges are rounded outwards to 4 KiB.
//!
//! Nothing here flushes a TLB. Callers do, after [`unmap`](PageTable::unmap),
//! [`protect`](PageTable::protect), [`update`](PageTable::update) and [`clone_range`](PageTable::clone_range)
//! changed a valid entry. Where the architecture wants a valid entry made invalid and flushed *before* its
//! successor is written (break-before-make), the operation takes the flush as an argument.

mod aarch64;
mod edit;
#[cfg(test)]
mod test_memory;
#[cfg(test)]
mod tests;
mod x86_64;

pub use aarch64::{Aarch64, MAIR_VALUE};
pub use x86_64::{PAT_VALUE, X86_64};

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

/// Bytes of a page, and of a table.
pub const PAGE_SIZE: u64 = 4096;
/// Entries of a table.
pub const ENTRIES: usize = 512;
/// First physical address beyond what an entry can hold: 48 bits.
pub const PA_LIMIT: u64 = 1 << 48;

/// The level of the root table.
const ROOT_LEVEL: u8 = 3;
/// First address beyond the lower half, and the number of bytes of each half.
const HALF: u64 = 1 << 48;
/// First address of the upper half.
const UPPER: u64 = HALF.wrapping_neg();

/// Bytes that one entry of `level` covers.
pub const fn level_size(level: u8) -> u64 {
    PAGE_SIZE << (9 * level as u32)
}

/// Index of the entry of `level` that covers `address`.
const fn index(address: u64, level: u8) -> usize {
    (address >> (12 + 9 * level as u32)) as usize % ENTRIES
}

bitflags::bitflags! {
    /// What may be done with a page, and how its memory behaves.
    ///
    /// Some combinations cannot be had, or must not be; [`PageFlags::effective`] says what becomes of them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PageFlags: u32 {
        /// May be read. Implied by being mapped: a `PROT_NONE` page is not mapped.
        const READ = 1 << 0;
        /// May be written.
        const WRITE = 1 << 1;
        /// Instructions may be fetched: by user code with `USER`, else by the kernel.
        const EXECUTE = 1 << 2;
        /// Open to user code. The kernel may access the page too, but never executes it.
        const USER = 1 << 3;
        /// The same in every address space, so that its TLB entries outlive a switch.
        const GLOBAL = 1 << 4;
        /// Device registers: uncached, in order, not merged, not read ahead (Device-nGnRE, UC).
        const DEVICE = 1 << 5;
        /// Uncached ordinary memory: writes may be merged (Normal Non-cacheable, WC).
        const UNCACHED = 1 << 6;
        /// Copy on write: the frame is shared and a write has to fault. Kept by software, and withholds `WRITE`.
        const COW = 1 << 7;
    }
}

impl PageFlags {
    /// The flags a leaf made from these really has, which are also the ones it decodes to:
    /// `READ` is always there, `COW` withholds `WRITE`, `DEVICE` wins over `UNCACHED`, and a kernel page
    /// that may be written is never executable (W^X; user pages may be both, as `mmap` allows).
    pub const fn effective(self) -> Self {
        let mut flags = self.union(Self::READ);
        if flags.contains(Self::COW) {
            flags = flags.difference(Self::WRITE);
        }
        if flags.contains(Self::DEVICE) {
            flags = flags.difference(Self::UNCACHED);
        }
        if flags.contains(Self::WRITE) && !flags.contains(Self::USER) {
            flags = flags.difference(Self::EXECUTE);
        }
        flags
    }
}

/// A translation: where a leaf entry leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Physical address of the first byte of the page or block.
    pub pa: u64,
    /// Its permissions and kind of memory.
    pub flags: PageFlags,
}

/// A table entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Not valid: translation faults.
    Empty,
    /// Leads to the table of the next lower level at this physical address.
    Table(u64),
    /// Ends the walk.
    Leaf(Leaf),
}

/// An architecture's encoding of table entries. An entry of all zeroes is [`Entry::Empty`].
pub trait Format {
    /// The highest level at which [`PageTable::map`] may place a leaf.
    const MAX_LEAF_LEVEL: u8;

    /// The entry that leads to the table at `pa`, a multiple of 4096 below [`PA_LIMIT`].
    fn table_entry(pa: u64) -> u64;

    /// The entry of `level` (0 to 2) that maps `pa`, a multiple of [`level_size`] below [`PA_LIMIT`], with
    /// the [effective](PageFlags::effective) ones of `flags`.
    fn leaf_entry(pa: u64, level: u8, flags: PageFlags) -> u64;

    /// What `entry` means in a table of `level`.
    fn decode(entry: u64, level: u8) -> Entry;
}

/// The memory tables live in.
///
/// `table` is always a root or an address that [`alloc_table`](Self::alloc_table) returned, and `index` is
/// below [`ENTRIES`]. A table in use by an MMU is read by hardware at any time: `write` is one 64-bit store,
/// ordered so that a table's zeroes are visible before the entry that leads to it.
pub trait TableMemory {
    /// A zeroed 4 KiB frame for a table, or `None` when memory is short.
    fn alloc_table(&mut self) -> Option<u64>;

    /// Takes back the frame of a table. It is not reachable any more, but a TLB may still remember it:
    /// the frame must not be used again before the flush that follows the operation.
    fn free_table(&mut self, pa: u64);

    /// Entry `index` of the table at `table`.
    fn read(&self, table: u64, index: usize) -> u64;

    /// Sets entry `index` of the table at `table`.
    fn write(&mut self, table: u64, index: usize, entry: u64);
}

/// Why a mapping could not be made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Something is mapped in the range already.
    AlreadyMapped,
    /// No frame for a table.
    NoMemory,
    /// An address or a length is not a multiple of 4096.
    Misaligned,
    /// The virtual range leaves its half of the address space, or the physical one the 48-bit space.
    OutOfRange,
    /// An edge of the range lies inside a 2 MiB or 1 GiB leaf: [`PageTable::split_leaf`] it first.
    InsideLargeLeaf,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyMapped => "the address range is mapped already",
            Self::NoMemory => "no memory for a page table",
            Self::Misaligned => "address or length is not a multiple of the page size",
            Self::OutOfRange => "address is outside the address space",
            Self::InsideLargeLeaf => "the range ends inside a large page",
        })
    }
}

impl core::error::Error for MapError {}

/// A range of virtual addresses inside one half: offsets from the start of that half, on page boundaries.
#[derive(Clone, Copy)]
struct Span {
    half: u64,
    start: u64,
    end: u64,
}

impl Span {
    /// The part of `range` that lies in the half where it starts, rounded outwards; `None` if it is empty.
    fn clipped(range: &Range<u64>) -> Option<Self> {
        let (half, start) = match range.start {
            low if low < HALF => (0, low),
            high => (UPPER, high.saturating_sub(UPPER)),
        };
        let end = range.end.saturating_sub(half).min(HALF);
        let span = Self { half, start: start & !(PAGE_SIZE - 1), end: end.next_multiple_of(PAGE_SIZE) };
        (start < end).then_some(span)
    }

    /// `len` bytes from `va`, for making mappings, where nothing is rounded or clipped.
    fn exact(va: u64, len: u64) -> Result<Self, MapError> {
        if !va.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Misaligned);
        }
        let half = match va {
            low if low < HALF => 0,
            high if high >= UPPER => UPPER,
            _ => return Err(MapError::OutOfRange),
        };
        let start = va - half;
        let end = start.checked_add(len).filter(|end| *end <= HALF).ok_or(MapError::OutOfRange)?;
        Ok(Self { half, start, end })
    }

    /// The indices of this span in the table of `level` that starts at offset `base`.
    fn indices(&self, base: u64, level: u8) -> Range<usize> {
        let size = level_size(level);
        let first = self.start.saturating_sub(base) / size;
        let last = self.end.saturating_sub(base).div_ceil(size);
        first as usize..(last as usize).min(ENTRIES)
    }

    /// Whether the span holds all of the `size` bytes at offset `at`.
    fn holds(&self, at: u64, size: u64) -> bool {
        self.start <= at && at + size <= self.end
    }
}

/// Checks that a frame of 4 KiB can be put into an entry.
#[inline]
fn check_pa(pa: u64) -> Result<(), MapError> {
    if !pa.is_multiple_of(PAGE_SIZE) {
        return Err(MapError::Misaligned);
    }
    if pa >= PA_LIMIT {
        return Err(MapError::OutOfRange);
    }
    Ok(())
}

/// A leaf entry and the place it was found.
struct Found {
    table: u64,
    index: usize,
    level: u8,
    leaf: Leaf,
}

/// A tree of tables, known by the physical address of its root.
///
/// It does not own the memory: [`destroy`](Self::destroy) what it maps, then free the root. Changes take
/// `&self`, since all state is in the tables; the caller's lock on the address space keeps them apart.
#[derive(Debug)]
pub struct PageTable<F: Format> {
    root: u64,
    format: PhantomData<fn() -> F>,
}

impl<F: Format> PageTable<F> {
    /// A new, empty tree, or `None` when there is no frame for its root.
    pub fn new<M: TableMemory + ?Sized>(mem: &mut M) -> Option<Self> {
        mem.alloc_table().map(Self::from_root)
    }

    /// The tree whose root table is at physical address `root`.
    pub const fn from_root(root: u64) -> Self {
        Self { root, format: PhantomData }
    }

    /// Physical address of the root table.
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Where `va` leads: the physical address of that very byte, and the level and flags of its leaf.
    #[inline]
    pub fn lookup<M: TableMemory + ?Sized>(&self, mem: &M, va: u64) -> Option<(u64, u8, PageFlags)> {
        let Found { level, leaf, .. } = self.find(mem, va)?;
        Some((leaf.pa + va % level_size(level), level, leaf.flags))
    }

    /// Calls `f` with the address, level and contents of every leaf that shares an address with `range`,
    /// ascending. A large leaf is given whole, even if it reaches out of `range`.
    pub fn visit<M: TableMemory + ?Sized>(&self, mem: &M, range: Range<u64>, mut f: impl FnMut(u64, u8, Leaf)) {
        if let Some(span) = Span::clipped(&range) {
            Self::visit_table(mem, self.root, ROOT_LEVEL, 0, span, &mut f);
        }
    }

    fn visit_table<M: TableMemory + ?Sized>(
        mem: &M,
        table: u64,
        level: u8,
        base: u64,
        span: Span,
        f: &mut impl FnMut(u64, u8, Leaf),
    ) {
        for index in span.indices(base, level) {
            let at = base + index as u64 * level_size(level);
            match F::decode(mem.read(table, index), level) {
                Entry::Empty => {}
                Entry::Leaf(leaf) => f(span.half | at, level, leaf),
                Entry::Table(next) => {
                    if let Some(lower) = level.checked_sub(1) {
                        Self::visit_table(mem, next, lower, at, span, f);
                    }
                }
            }
        }
    }

    /// How many tables there are, the root among them. Tables of pages are not looked into, so this costs little.
    pub fn tables<M: TableMemory + ?Sized>(&self, mem: &M) -> usize {
        Self::count_tables(mem, self.root, ROOT_LEVEL)
    }

    fn count_tables<M: TableMemory + ?Sized>(mem: &M, table: u64, level: u8) -> usize {
        let Some(lower) = level.checked_sub(1) else { return 1 };
        let below = |index| match F::decode(mem.read(table, index), level) {
            Entry::Table(next) => Self::count_tables(mem, next, lower),
            Entry::Empty | Entry::Leaf(_) => 0,
        };
        1 + (0..ENTRIES).map(below).sum::<usize>()
    }

    /// The leaf entry that translates `va`.
    #[inline]
    fn find<M: TableMemory + ?Sized>(&self, mem: &M, va: u64) -> Option<Found> {
        if (HALF..UPPER).contains(&va) {
            return None;
        }
        let (mut table, mut level) = (self.root, ROOT_LEVEL);
        loop {
            let index = index(va, level);
            match F::decode(mem.read(table, index), level) {
                Entry::Empty => return None,
                Entry::Leaf(leaf) => {
                    return Some(Found { table, index, level, leaf });
                }
                Entry::Table(next) => (table, level) = (next, level.checked_sub(1)?),
            }
        }
    }

    /// The level-0 table for `va`, made with the tables above it where they are missing.
    #[inline]
    fn page_table_of<M: TableMemory + ?Sized>(&self, mem: &mut M, va: u64) -> Result<u64, MapError> {
        let mut table = self.root;
        for level in (1..=ROOT_LEVEL).rev() {
            table = Self::next_table(mem, table, index(va, level), level)?;
        }
        Ok(table)
    }

    /// The table behind entry `index` of `table`, made if the entry is empty.
    #[inline]
    fn next_table<M: TableMemory + ?Sized>(mem: &mut M, table: u64, index: usize, level: u8) -> Result<u64, MapError> {
        match F::decode(mem.read(table, index), level) {
            Entry::Table(next) => Ok(next),
            Entry::Leaf(_) => Err(MapError::AlreadyMapped),
            Entry::Empty => {
                let next = mem.alloc_table().ok_or(MapError::NoMemory)?;
                mem.write(table, index, F::table_entry(next));
                Ok(next)
            }
        }
    }
}
