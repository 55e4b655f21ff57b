//! What the pages of a mapping are, for /proc/PID/smaps: whose, and in how many page tables.
//!
//! A page is a program's own (anonymous) unless the mapped object has it. How many page tables have it is the number of
//! references to its frame, less the object's; pages of the root image are not counted, and whoever wants to know looks
//! through all address spaces ([`AddressSpace::visit_image_pages`]).

use core::{mem::ManuallyDrop, ops::Range};

use hal::{PAGE_SIZE, PhysAddr};

use super::{
    address_space::AddressSpace,
    frames::FrameRef,
    kernel_space::Tables,
    mapping::{Mapping, Source},
};

/// Whose a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The program's own, without a file.
    Program,
    /// Of memory that several have in common: tmpfs, memfd, shared anonymous memory.
    SharedMemory,
    /// Of a file.
    File,
}

/// A page that is present.
#[derive(Clone, Copy, Debug)]
pub struct PresentPage {
    /// Where it is.
    pub address: PhysAddr,
    /// Whose it is.
    pub owner: Owner,
    /// How many page tables have it; `None` for one of the root image.
    pub mapped: Option<u32>,
}

impl Mapping {
    fn page_at(&self, range: &Range<u64>, at: u64, address: PhysAddr) -> PresentPage {
        // SAFETY: borrows the page table's reference; the address space is locked.
        let frame = ManuallyDrop::new(unsafe { FrameRef::from_raw(address) });
        let references = frame.references();
        let (owner, objects) = match &self.source {
            Source::Anonymous => (Owner::Program, 0),
            Source::Object { .. } if references.is_none() => (Owner::File, 0),
            Source::Object { object, offset, .. } => {
                match object.holds((offset + (at - range.start)) / PAGE_SIZE as u64, address) {
                    true => (Owner::SharedMemory, 1),
                    // A copy was made for this mapping.
                    false => (Owner::Program, 0),
                }
            }
        };
        PresentPage { address, owner, mapped: references.map(|count| count.saturating_sub(objects).max(1)) }
    }
}

impl AddressSpace {
    /// Every present page of the mappings in a range. `visit` is called with the address space locked.
    pub fn survey(&self, range: Range<u64>, mut visit: impl FnMut(PresentPage)) {
        let inner = self.inner.lock();
        for (piece, mapping) in inner.map.iter_range(range.clone()) {
            let wanted = piece.start.max(range.start)..piece.end.min(range.end);
            inner.table.visit(&Tables, wanted, |at, _, leaf| {
                visit(mapping.page_at(&piece, at, PhysAddr::new(leaf.pa)));
            });
        }
    }

    /// The addresses of the pages of the root image that are present, as often as they are mapped. `visit` is called
    /// with the address space locked.
    pub fn visit_image_pages(&self, mut visit: impl FnMut(PhysAddr)) {
        let inner = self.inner.lock();
        for (piece, mapping) in inner.map.iter() {
            if matches!(mapping.source, Source::Anonymous) {
                continue;
            }
            inner.table.visit(&Tables, piece, |_, _, leaf| {
                let address = PhysAddr::new(leaf.pa);
                // SAFETY: borrows the page table's reference; the address space is locked.
                let frame = ManuallyDrop::new(unsafe { FrameRef::from_raw(address) });
                if frame.references().is_none() {
                    visit(address);
                }
            });
        }
    }
}
