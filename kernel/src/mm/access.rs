//! An address space as others see it: the kernel, other processes and /proc. It need not be the active one.

use abi::{Errno, Result};
use hal::{Arch as _, FaultAccess, PAGE_SIZE, PhysAddr, UserAddr};
use klib::page_table::PageFlags;

use super::{
    address_space::AddressSpace,
    fault::FaultOutcome,
    frames::FrameRef,
    kernel_space::Tables,
    mapping::{MappingInfo, Source},
};
use crate::arch::Arch;

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
                    // Hardware is accessed through its mapping only, by whoever has it.
                    && !flags.intersects(PageFlags::DEVICE | PageFlags::UNCACHED)
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

    /// All mappings, ascending, each as it is when it is come to: what a file is called is found out without the lock.
    pub fn mappings(&self) -> impl Iterator<Item = MappingInfo> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let (range, mapping) = {
                let inner = self.inner.lock();
                let next = inner.map.iter_range(from..Arch::USER_END).next();
                next.map(|(range, mapping)| (range, mapping.clone()))?
            };
            from = range.end;
            Some(MappingInfo::new(range, &mapping))
        })
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

    /// mincore(2): one byte a page from `start` on, 1 where present. ENOMEM where something is not mapped.
    pub fn residency(&self, start: u64, pages: &mut [u8]) -> Result<()> {
        let range = start..start + (pages.len() * PAGE_SIZE) as u64;
        let inner = self.inner.lock();
        if !inner.map.covered(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        pages.fill(0);
        inner.table.visit(&Tables, range, |at, _, _| {
            if let Some(page) = pages.get_mut((at - start) as usize / PAGE_SIZE) {
                *page = 1;
            }
        });
        Ok(())
    }

    /// Pages present.
    pub fn resident_pages(&self) -> u64 {
        self.inner.lock().resident
    }

    /// Pages of its page tables.
    pub fn table_pages(&self) -> u64 {
        self.inner.lock().table.tables(&Tables) as u64
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
