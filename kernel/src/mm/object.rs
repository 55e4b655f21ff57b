//! What can be mapped: a supplier of pages, and who has them mapped.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use abi::Errno;
use hal::PhysAddr;
use klib::page_table::PageFlags;

use crate::{
    mm::{address_space::AddressSpace, frames::FrameRef},
    sync::PlainLock,
};

/// Pages of a file or of shared memory, each 4 KiB, numbered from 0.
pub trait VmObject: Send + Sync {
    /// The page with this number, to be mapped shared or copied from. Beyond the end (rounded up to a page):
    /// ENXIO, which the fault handler turns into SIGBUS; ENOMEM when no memory is left. Must not block.
    fn page(&self, index: u64) -> Result<FrameRef, Errno>;

    /// Whether the page with this number is there and in this frame. An object that makes a copy for every mapping has
    /// none.
    fn holds(&self, index: u64, frame: PhysAddr) -> bool {
        let _ = (index, frame);
        false
    }

    /// What kind of memory the page with this number is: empty for ordinary memory.
    fn attributes(&self, index: u64) -> PageFlags {
        let _ = index;
        PageFlags::empty()
    }

    /// Whether it is hardware: its pages can only be mapped shared, never for execution, and are not a child's of
    /// fork(2).
    fn is_hardware(&self) -> bool {
        false
    }

    /// Claims the right to make a shared mapping that may be written to; it is kept with the mapping. EPERM where the
    /// object does not allow any.
    fn grant_writes(self: Arc<Self>) -> Result<WriteGrant, Errno> {
        Err(Errno::EPERM)
    }

    /// Who has it mapped; `None` where its pages never go away.
    fn mappers(&self) -> Option<&Mappers> {
        None
    }

    /// madvise(2), MADV_REMOVE: gives up the pages in this range of bytes, which then read as zeroes. EOPNOTSUPP where
    /// the object cannot.
    fn punch(&self, range: Range<u64>) -> Result<(), Errno> {
        let _ = range;
        Err(Errno::EOPNOTSUPP)
    }

    /// Identifies the object for shared futexes and /proc/PID/maps.
    fn identity(&self) -> usize;
}

/// The right of a shared mapping to be written to, or to become writable. As long as one exists its object cannot be
/// sealed against writes.
pub struct WriteGrant {
    object: Arc<dyn VmObject>,
}

impl WriteGrant {
    /// Counts a new grant on `object`, with what may not change meanwhile locked by the caller.
    pub fn new(object: Arc<dyn VmObject>) -> Self {
        if let Some(mappers) = object.mappers() {
            mappers.writers.fetch_add(1, Ordering::Relaxed);
        }
        Self { object }
    }
}

impl Drop for WriteGrant {
    fn drop(&mut self) {
        if let Some(mappers) = self.object.mappers() {
            mappers.writers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The address spaces that have, or had, an object mapped.
///
/// An address space joins before it maps the object or copies another's pages of it, and is visited after all that
/// joined before it: what a fork copied while pages were being taken away is found in the child, too.
pub struct Mappers {
    /// Outside the lock of any address space.
    spaces: PlainLock<Spaces>,
    /// [`WriteGrant`]s.
    writers: AtomicUsize,
}

struct Spaces {
    list: Vec<Weak<AddressSpace>>,
    /// Look for those that are gone when there are this many.
    sweep_at: usize,
}

impl Default for Mappers {
    fn default() -> Self {
        Self::new()
    }
}

impl Mappers {
    /// Nobody.
    pub const fn new() -> Self {
        const FIRST_SWEEP: usize = 16;
        Self {
            spaces: PlainLock::new(Spaces { list: Vec::new(), sweep_at: FIRST_SWEEP }),
            writers: AtomicUsize::new(0),
        }
    }

    /// Adds an address space, which is not locked.
    pub fn join(&self, space: &Weak<AddressSpace>) {
        let mut spaces = self.spaces.lock();
        if spaces.list.iter().any(|known| known.ptr_eq(space)) {
            return;
        }
        if spaces.list.len() >= spaces.sweep_at {
            spaces.list.retain(|known| known.strong_count() > 0);
            spaces.sweep_at = spaces.list.len() * 2 + spaces.sweep_at / 2;
        }
        spaces.list.push(space.clone());
    }

    /// Whether a mapping exists that is or may become writable and shared.
    pub fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
    }

    /// Takes pages with these numbers out of every address space where `chosen` says so of number and frame; the
    /// object has given them up already.
    pub fn unmap(&self, pages: Range<u64>, chosen: &dyn Fn(u64, PhysAddr) -> bool) {
        // Outlive the lock: the last reference to an address space ends it.
        let mut visited = Vec::new();
        let spaces = self.spaces.lock();
        for space in spaces.list.iter().filter_map(Weak::upgrade) {
            space.unmap_object(self, pages.clone(), chosen);
            visited.push(space);
        }
        drop(spaces);
        drop(visited);
    }
}
