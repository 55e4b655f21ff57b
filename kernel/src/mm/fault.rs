//! Page faults: what a program touched that was mapped but not there, or not writable yet.

use core::{mem::ManuallyDrop, ops::Range};

use abi::Errno;
use hal::{Arch as _, FaultAccess, PAGE_SIZE, PhysAddr, UserAddr};
use klib::page_table::{PageFlags, PageTable};

use super::{
    address_space::{AddressSpace, Inner},
    frames::{self, FrameRef},
    kernel_space::Tables,
    mapping::{Mapping, Source},
};
use crate::arch::{Arch, PageFormat};

/// How a fault ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// The access can be made again.
    Resolved,
    /// Nothing is mapped there (SIGSEGV, SEGV_MAPERR).
    NotMapped,
    /// The mapping forbids it (SIGSEGV, SEGV_ACCERR).
    Forbidden,
    /// Beyond the end of the mapped file (SIGBUS, BUS_ADRERR).
    BeyondEnd,
    /// No memory is left.
    OutOfMemory,
}

/// Bytes of file pages mapped around a faulting one: most files are read in order, and a trap costs more than mapping
/// a page that is in memory already.
const FAULT_AROUND: u64 = 128 << 10;
/// Bytes of anonymous memory made at once when it is touched in order: the page below is there already.
const FAULT_AHEAD: u64 = 32 << 10;

impl AddressSpace {
    /// Resolves a program's access to `address`. The running thread's stack grows where it is touched below its end.
    pub fn fault(&self, address: UserAddr, access: FaultAccess) -> FaultOutcome {
        let page = address.page_down().get();
        match self.fault_mapped(page, access) {
            FaultOutcome::NotMapped if access != FaultAccess::Execute && self.grow_stack(page) => {
                self.fault_mapped(page, access)
            }
            outcome => outcome,
        }
    }

    fn fault_mapped(&self, page: u64, access: FaultAccess) -> FaultOutcome {
        let mut inner = self.inner.lock();
        let Inner { map, table, resident, .. } = &mut *inner;
        let Some((range, mapping)) = map.get(page) else { return FaultOutcome::NotMapped };
        let allowed = match access {
            FaultAccess::Read => mapping.protection.read || mapping.protection.write,
            FaultAccess::Write => mapping.protection.write,
            FaultAccess::Execute => mapping.protection.execute,
        };
        if !allowed {
            return FaultOutcome::Forbidden;
        }
        let mut pages = Pages { space: self, table, resident, range, mapping };
        let result = match pages.table.lookup(&Tables, page) {
            Some((physical, _, flags)) => pages.fault_present(page, PhysAddr::new(physical), flags, access),
            None => pages.fault_absent(page, access),
        };
        match result {
            Ok(()) => FaultOutcome::Resolved,
            Err(Errno::ENOMEM) => FaultOutcome::OutOfMemory,
            Err(_) => FaultOutcome::BeyondEnd,
        }
    }
}

/// The pages of the mapping that a fault is in, with the address space locked.
struct Pages<'a> {
    space: &'a AddressSpace,
    table: &'a mut PageTable<PageFormat>,
    resident: &'a mut u64,
    range: Range<u64>,
    mapping: &'a Mapping,
}

impl Pages<'_> {
    /// The page is there: a first write to a shared frame, or a translation cached before rights were given.
    fn fault_present(
        &mut self,
        page: u64,
        physical: PhysAddr,
        flags: PageFlags,
        access: FaultAccess,
    ) -> Result<(), Errno> {
        let wanted = self.mapping.page_flags(self.range.start, page);
        if access == FaultAccess::Write && flags.contains(PageFlags::COW) {
            // SAFETY: borrows the page table's reference; the lock is held.
            let frame = ManuallyDrop::new(unsafe { FrameRef::from_raw(physical) });
            if frame.is_unique() {
                self.set_flags(page, wanted);
                return Ok(());
            }
            let copy = frame.copied()?;
            if self.mapping.protection.execute {
                frames::make_executable(copy.phys());
            }
            let copy = copy.into_raw();
            let space = self.space;
            let old = self.table.replace_page(&mut Tables, page, copy.get(), wanted, || space.flush_page(page));
            Arch::page_table_written();
            debug_assert!(old.is_some(), "looked up under the same lock");
            // SAFETY: the reference the replaced entry held.
            drop(unsafe { FrameRef::from_raw(physical) });
            return Ok(());
        }
        if !flags.contains(PageFlags::COW) {
            self.set_flags(page, wanted);
        } else {
            self.space.flush_page(page);
        }
        Ok(())
    }

    fn set_flags(&mut self, page: u64, flags: PageFlags) {
        let result = self.table.update(&mut Tables, page..page + PAGE_SIZE as u64, |_, _, _| Some(flags));
        debug_assert!(result.is_ok(), "user pages are 4 KiB");
        self.space.flush_page(page);
    }

    /// The page is not there: makes it.
    fn fault_absent(&mut self, page: u64, access: FaultAccess) -> Result<(), Errno> {
        if frames::is_short() {
            // A page table may be needed, even where the page is there.
            return Err(Errno::ENOMEM);
        }
        let flags = self.mapping.page_flags(self.range.start, page);
        match &self.mapping.source {
            Source::Anonymous => {
                self.install(page, FrameRef::zeroed()?, flags)?;
                if page > self.range.start && self.table.lookup(&Tables, page - PAGE_SIZE as u64).is_some() {
                    let end = self.range.end.min((page & !(FAULT_AHEAD - 1)) + FAULT_AHEAD);
                    self.fill(page + PAGE_SIZE as u64..end, flags, |_| FrameRef::zeroed().ok());
                }
            }
            Source::Object { object, offset, .. } => {
                let (start, offset) = (self.range.start, *offset);
                let index = |at: u64| (offset + (at - start)) / PAGE_SIZE as u64;
                if self.mapping.shared {
                    self.install(page, object.page(index(page))?, flags)?;
                } else if access == FaultAccess::Write {
                    self.install(page, object.page(index(page))?.copied()?, flags)?;
                } else {
                    // The page itself must be had; its neighbours are mapped where that works.
                    let flags = flags | PageFlags::COW;
                    self.install(page, object.page(index(page))?, flags)?;
                    let around = page & !(FAULT_AROUND - 1);
                    let window = start.max(around)..self.range.end.min(around + FAULT_AROUND);
                    self.fill(window, flags, |at| object.page(index(at)).ok());
                }
            }
        }
        Arch::page_table_written();
        Ok(())
    }

    /// Puts a frame into the page table, which keeps the reference.
    fn install(&mut self, page: u64, frame: FrameRef, flags: PageFlags) -> Result<(), Errno> {
        if self.mapping.protection.execute {
            frames::make_executable(frame.phys());
        }
        self.table.map_page(&mut Tables, page, frame.phys().get(), flags).map_err(|_| Errno::ENOMEM)?;
        let _kept = frame.into_raw();
        *self.resident += 1;
        Ok(())
    }

    /// Puts frames where pages are absent, as far as `frame` gives any.
    fn fill(&mut self, window: Range<u64>, flags: PageFlags, frame: impl Fn(u64) -> Option<FrameRef>) {
        let execute = self.mapping.protection.execute;
        let filled = self.table.fill_pages(&mut Tables, window, |at| {
            let frame = frame(at)?;
            if execute {
                frames::make_executable(frame.phys());
            }
            Some((frame.into_raw().get(), flags))
        });
        *self.resident += filled.unwrap_or(0) as u64;
    }
}
