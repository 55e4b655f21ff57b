//! Page faults: what a program touched that was mapped but not there, or not writable yet.

use hal::{Arch as _, FaultAccess, PAGE_SIZE, PhysAddr, UserAddr};
use klib::page_table::PageFlags;

use super::{
    address_space::{AddressSpace, Inner},
    frames::{self, FrameRef},
    kernel_space::Tables,
    mapping::{Mapping, Source},
};
use crate::arch::Arch;

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
const FAULT_AROUND: u64 = 64 << 10;

impl AddressSpace {
    /// Resolves a program's access to `address`.
    pub fn fault(&self, address: UserAddr, access: FaultAccess) -> FaultOutcome {
        let page = address.page_down().get();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some((range, mapping)) = inner.map.get(page) else { return FaultOutcome::NotMapped };
        let allowed = match access {
            FaultAccess::Read => mapping.protection.read || mapping.protection.write,
            FaultAccess::Write => mapping.protection.write,
            FaultAccess::Execute => mapping.protection.execute,
        };
        if !allowed {
            return FaultOutcome::Forbidden;
        }
        let mapping = mapping.clone();
        let result = match inner.table.lookup(&Tables, page) {
            Some((physical, _, flags)) => self.fault_present(inner, page, PhysAddr::new(physical), flags, access, &mapping),
            None => fault_absent(inner, page, range, access, &mapping),
        };
        match result {
            Ok(()) => FaultOutcome::Resolved,
            Err(abi::Errno::ENOMEM) => FaultOutcome::OutOfMemory,
            Err(_) => FaultOutcome::BeyondEnd,
        }
    }

    /// The page is there: a first write to a shared frame, or a translation cached before rights were given.
    fn fault_present(
        &self,
        inner: &mut Inner,
        page: u64,
        physical: PhysAddr,
        flags: PageFlags,
        access: FaultAccess,
        mapping: &Mapping,
    ) -> Result<(), abi::Errno> {
        let wanted = mapping.protection.flags();
        if access == FaultAccess::Write && flags.contains(PageFlags::COW) {
            // SAFETY: borrows the page table's reference; the lock is held.
            let frame = core::mem::ManuallyDrop::new(unsafe { FrameRef::from_raw(physical) });
            if frame.is_unique() {
                set_flags(inner, page, wanted);
                self.flush_page(page);
                return Ok(());
            }
            let copy = frame.copied()?;
            if mapping.protection.execute {
                frames::make_executable(copy.phys());
            }
            let copy = copy.into_raw();
            let old = inner.table.replace_page(&mut Tables, page, copy.get(), wanted, || self.flush_page(page));
            Arch::page_table_written();
            debug_assert!(old.is_some(), "looked up under the same lock");
            // SAFETY: the reference the replaced entry held.
            drop(unsafe { FrameRef::from_raw(physical) });
            return Ok(());
        }
        if flags & (PageFlags::WRITE | PageFlags::EXECUTE | PageFlags::USER | PageFlags::READ)
            != wanted.effective() & (PageFlags::WRITE | PageFlags::EXECUTE | PageFlags::USER | PageFlags::READ)
            && !flags.contains(PageFlags::COW)
        {
            set_flags(inner, page, wanted);
        }
        self.flush_page(page);
        Ok(())
    }
}

fn set_flags(inner: &mut Inner, page: u64, flags: PageFlags) {
    let result = inner.table.update(&mut Tables, page..page + PAGE_SIZE as u64, |_, _, _| Some(flags));
    debug_assert!(result.is_ok(), "user pages are 4 KiB");
}

/// The page is not there: makes it.
fn fault_absent(
    inner: &mut Inner,
    page: u64,
    range: core::ops::Range<u64>,
    access: FaultAccess,
    mapping: &Mapping,
) -> Result<(), abi::Errno> {
    let flags = mapping.protection.flags();
    match &mapping.source {
        Source::Anonymous => {
            let frame = FrameRef::zeroed()?;
            install(inner, page, frame, flags, mapping)?;
        }
        Source::Object { object, offset, .. } => {
            let index = (offset + (page - range.start)) / PAGE_SIZE as u64;
            if mapping.shared {
                let frame = object.page(index)?;
                install(inner, page, frame, flags, mapping)?;
            } else if access == FaultAccess::Write {
                let frame = object.page(index)?.copied()?;
                install(inner, page, frame, flags, mapping)?;
            } else {
                // The page itself must be had; its neighbours are mapped where that costs nothing.
                let frame = object.page(index)?;
                install(inner, page, frame, flags | PageFlags::COW, mapping)?;
                let start = range.start.max(page & !(FAULT_AROUND - 1));
                let end = range.end.min((page & !(FAULT_AROUND - 1)) + FAULT_AROUND);
                let mapped = inner.table.fill_pages(&mut Tables, start..end, |at| {
                    let frame = object.page((offset + (at - range.start)) / PAGE_SIZE as u64).ok()?;
                    if mapping.protection.execute {
                        frames::make_executable(frame.phys());
                    }
                    Some((frame.into_raw().get(), flags | PageFlags::COW))
                });
                inner.resident += mapped.unwrap_or(0) as u64;
            }
        }
    }
    Arch::page_table_written();
    Ok(())
}

/// Puts a frame into the page table, which keeps the reference.
fn install(
    inner: &mut Inner,
    page: u64,
    frame: FrameRef,
    flags: PageFlags,
    mapping: &Mapping,
) -> Result<(), abi::Errno> {
    if mapping.protection.execute {
        frames::make_executable(frame.phys());
    }
    let physical = frame.phys().get();
    inner.table.map_page(&mut Tables, page, physical, flags).map_err(|_| abi::Errno::ENOMEM)?;
    let _kept = frame.into_raw();
    inner.resident += 1;
    Ok(())
}
