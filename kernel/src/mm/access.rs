//! An address space as others see it: the kernel, other processes and /proc. It need not be the active one.

use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};
use hal::{FaultAccess, PAGE_SIZE, PhysAddr, UserAddr};
use klib::page_table::PageFlags;

use super::{
    address_space::AddressSpace,
    fault::FaultOutcome,
    frames::FrameRef,
    kernel_space::Tables,
    mapping::{Mapping, MappingInfo, Source},
};

impl AddressSpace {
    /// Makes the page at `address` accessible and calls `with` its frame and the offset in it. For futex words, the
    /// kernel's own writes into a new program, and reads of another process. `with` runs with the address space locked,
    /// so that the page is not copied (fork and a write) or taken away in the middle of it; it takes no lock.
    /// EFAULT, ENOMEM.
    pub fn with_frame<T>(
        &self,
        address: UserAddr,
        access: FaultAccess,
        with: impl FnOnce(&FrameRef, usize) -> T,
    ) -> Result<T> {
        // Another thread may take the page away between fault and look-up; a few tries are plenty.
        for _ in 0..8 {
            {
                let inner = self.inner.lock();
                if let Some((physical, _, flags)) = inner.table.lookup(&Tables, address.get())
                    && (access != FaultAccess::Write || flags.contains(PageFlags::WRITE))
                    && flags.contains(PageFlags::USER)
                {
                    let page = PhysAddr::new(physical).page_down();
                    // SAFETY: borrows the page table's reference while the lock is held.
                    let borrowed = core::mem::ManuallyDrop::new(unsafe { FrameRef::from_raw(page) });
                    return Ok(with(&borrowed, address.page_offset()));
                }
            }
            match self.fault(address, access) {
                FaultOutcome::Resolved => {}
                FaultOutcome::OutOfMemory => return Err(Errno::ENOMEM),
                _ => return Err(Errno::EFAULT),
            }
        }
        Err(Errno::EFAULT)
    }

    /// Copies from the address space, which need not be the active one; returns the bytes copied.
    pub fn read(&self, address: UserAddr, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let len = (PAGE_SIZE - at.page_offset()).min(out.len() - done);
            let piece = &mut out[done..done + len];
            if self.with_frame(at, FaultAccess::Read, |frame, offset| frame.read(offset, piece)).is_err() {
                break;
            }
            done += len;
        }
        done
    }

    /// Copies into the address space, which need not be the active one. EFAULT where it is not writable, ENOMEM.
    pub fn write(&self, address: UserAddr, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let len = (PAGE_SIZE - at.page_offset()).min(bytes.len() - done);
            let piece = &bytes[done..done + len];
            self.with_frame(at, FaultAccess::Write, |frame, offset| frame.write(offset, piece))?;
            done += len;
        }
        Ok(())
    }

    /// All mappings, ascending.
    pub fn mappings(&self) -> Vec<MappingInfo> {
        let mappings: Vec<(Range<u64>, Mapping)> =
            self.inner.lock().map.iter().map(|(range, mapping)| (range, mapping.clone())).collect();
        mappings.into_iter().map(|(range, mapping)| MappingInfo::new(range, &mapping)).collect()
    }

    /// Identifies the object behind a shared mapping and the byte offset in it, for shared futexes; `None` for
    /// private memory.
    pub fn shared_key(&self, address: UserAddr) -> Option<(usize, u64)> {
        let inner = self.inner.lock();
        let (range, mapping) = inner.map.get(address.get())?;
        match &mapping.source {
            Source::Object { object, offset, .. } if mapping.shared => {
                Some((object.identity(), offset + (address.get() - range.start)))
            }
            _ => None,
        }
    }

    /// mincore(2): one byte a page, 1 where present. ENOMEM where something is not mapped.
    pub fn residency(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let inner = self.inner.lock();
        if !inner.map.covered(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        Ok(range.step_by(PAGE_SIZE).map(|page| inner.table.lookup(&Tables, page).is_some().into()).collect())
    }

    /// Pages present.
    pub fn resident_pages(&self) -> u64 {
        self.inner.lock().resident
    }

    /// The most pages that were present at once.
    pub fn peak_pages(&self) -> u64 {
        let inner = self.inner.lock();
        inner.peak.max(inner.resident)
    }

    /// Pages mapped, present or not.
    pub fn virtual_pages(&self) -> u64 {
        self.inner.lock().map.iter().map(|(range, _)| (range.end - range.start) / PAGE_SIZE as u64).sum()
    }
}
