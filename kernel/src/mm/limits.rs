//! What setrlimit(2) and mlock(2) mean for an address space: how large it may become, how far the stack grows, and
//! which pages are locked.
//!
//! There is no swap, so a locked page differs from another in that it is there from the start, cannot be given up with
//! madvise(2), and counts against RLIMIT_MEMLOCK. Sizes are counted when somebody asks or a limit is set, not kept.
//!
//! [`Limits`] are read before the address space is locked, for the process's lock comes first.

use core::ops::Range;

use abi::{Errno, Result, linux};
use hal::{Arch as _, FaultAccess, PAGE_SIZE, UserAddr};

use super::{
    address_space::{AddressSpace, Inner},
    mapping::{Mapping, Purpose, Source},
};
use crate::{arch::Arch, task::scheduler};

/// The stack keeps at least this much unmapped below it (stack_guard_gap).
const STACK_GUARD: u64 = 256 * PAGE_SIZE as u64;

/// The limits of the process that changes an address space, in bytes; `u64::MAX` for none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// RLIMIT_AS.
    pub total: u64,
    /// RLIMIT_DATA.
    pub data: u64,
    /// RLIMIT_STACK.
    pub stack: u64,
    /// RLIMIT_MEMLOCK; none with CAP_IPC_LOCK.
    pub locked: u64,
}

impl Limits {
    /// The running process's.
    pub fn current() -> Self {
        let thread = scheduler::current();
        let [total, data, stack, locked] = thread.process().rlimits([
            linux::RLIMIT_AS,
            linux::RLIMIT_DATA,
            linux::RLIMIT_STACK,
            linux::RLIMIT_MEMLOCK,
        ]);
        let locked = if thread.identity.has(linux::CAP_IPC_LOCK) { u64::MAX } else { locked };
        Self { total, data, stack, locked }
    }
}

const fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

impl Mapping {
    /// Whether it counts as data (RLIMIT_DATA): private, writable, and not the stack.
    pub fn is_data(&self) -> bool {
        !self.shared && self.protection.write && self.purpose != Purpose::Stack
    }
}

impl Inner {
    fn sum(&self, range: Range<u64>, which: impl Fn(&Mapping) -> bool) -> u64 {
        let inside = |piece: Range<u64>| len(&(piece.start.max(range.start)..piece.end.min(range.end)));
        self.map.iter_range(range.clone()).filter(|(_, mapping)| which(mapping)).map(|(piece, _)| inside(piece)).sum()
    }

    /// Bytes of locked mappings.
    pub(super) fn locked(&self, range: Range<u64>) -> u64 {
        self.sum(range, |mapping| mapping.locked)
    }

    /// Whether `bytes` more, of data or not, may be mapped where `replaced` goes: ENOMEM.
    pub(super) fn check_growth(&self, limits: &Limits, bytes: u64, is_data: bool, replaced: Range<u64>) -> Result<()> {
        let exceeds = |limit: u64, which: fn(&Mapping) -> bool| {
            limit != u64::MAX
                && self
                    .sum(0..Arch::USER_END, which)
                    .saturating_sub(self.sum(replaced.clone(), which))
                    .saturating_add(bytes)
                    > limit
        };
        if exceeds(limits.total, |_| true) || is_data && exceeds(limits.data, Mapping::is_data) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Whether `bytes` more may be locked: EAGAIN.
    pub(super) fn check_locked(&self, limits: &Limits, bytes: u64) -> Result<()> {
        if limits.locked != u64::MAX && self.locked(0..Arch::USER_END).saturating_add(bytes) > limits.locked {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// Whether making `range` writable keeps to RLIMIT_DATA: ENOMEM.
    pub(super) fn check_writable(&self, limits: &Limits, range: Range<u64>) -> Result<()> {
        if limits.data == u64::MAX {
            return Ok(());
        }
        let new = self.sum(range, |mapping| !mapping.shared && !mapping.is_data() && mapping.purpose != Purpose::Stack);
        if new > 0 { self.check_growth(limits, new, true, 0..0) } else { Ok(()) }
    }
}

impl AddressSpace {
    /// Makes the stack reach down to `page`, if that is where the running thread's stack may grow to.
    pub(super) fn grow_stack(&self, page: u64) -> bool {
        let thread = scheduler::current();
        if !thread.memory().is_some_and(|memory| core::ptr::eq(alloc::sync::Arc::as_ptr(&memory), self)) {
            return false;
        }
        let limits = Limits::current();
        let mut inner = self.inner.lock();
        let Some((stack, mapping)) = inner.map.iter_range(page..Arch::USER_END).next() else { return false };
        let mapping = mapping.clone();
        if mapping.purpose != Purpose::Stack {
            return false;
        }
        if stack.start <= page {
            // Another thread was faster.
            return true;
        }
        let growth = stack.start - page;
        let blocked =
            inner.map.iter_range(page.saturating_sub(STACK_GUARD)..page).any(|(_, below)| !below.protection.is_none());
        if blocked
            || stack.end - page > limits.stack
            || inner.check_growth(&limits, growth, false, 0..0).is_err()
            || mapping.locked && inner.check_locked(&limits, growth).is_err()
        {
            return false;
        }
        inner.map.insert(page..stack.start, mapping).is_ok()
    }

    /// mlock(2) and munlock(2): marks what is mapped in a range, up to the first hole. ENOMEM for a hole, and for more
    /// than may be locked.
    pub fn set_locked(&self, range: Range<u64>, locked: bool) -> Result<()> {
        let limits = Limits::current();
        let mut inner = self.inner.lock();
        if locked && limits.locked != u64::MAX {
            let others = inner.locked(0..Arch::USER_END) - inner.locked(range.clone());
            if others.saturating_add(len(&range)) > limits.locked {
                return Err(Errno::ENOMEM);
            }
        }
        inner.check_room()?;
        let mut end = range.start;
        for (piece, _) in inner.map.iter_range(range.clone()) {
            if piece.start > end {
                break;
            }
            end = piece.end.min(range.end);
        }
        inner.map.update(range.start..end, |mapping| mapping.locked = locked);
        if end < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// mlockall(2) and munlockall(2): `now` is about what is mapped, `future` about what will be. ENOMEM for more than
    /// may be locked.
    pub fn set_all_locked(&self, now: bool, future: bool) -> Result<()> {
        let limits = Limits::current();
        let mut inner = self.inner.lock();
        let all = 0..Arch::USER_END;
        if now && limits.locked != u64::MAX && inner.sum(all.clone(), |_| true) > limits.locked {
            return Err(Errno::ENOMEM);
        }
        inner.lock_future = future;
        // munlockall unlocks; mlockall of the future alone leaves what there is.
        if now || !future {
            inner.map.update(all, |mapping| mapping.locked = now && !mapping.is_device());
        }
        Ok(())
    }

    /// Whether new mappings are locked (MCL_FUTURE).
    pub fn locks_new_mappings(&self) -> bool {
        self.inner.lock().lock_future
    }

    /// Bytes locked (VmLck).
    pub fn locked_bytes(&self) -> u64 {
        self.inner.lock().locked(0..Arch::USER_END)
    }

    /// Whether anything in a range is locked.
    pub fn has_locked(&self, range: Range<u64>) -> bool {
        self.inner.lock().locked(range) > 0
    }

    /// Brings in the pages of locked mappings in a range. ENOMEM where one cannot be had.
    pub fn populate_locked(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let next = {
                let inner = self.inner.lock();
                let found = inner.map.iter_range(at..range.end).next();
                found.map(|(piece, mapping)| {
                    let write = mapping.protection.write && !mapping.shared;
                    (piece.start.max(at)..piece.end.min(range.end), mapping.locked, write)
                })
            };
            let Some((piece, locked, write)) = next else { return Ok(()) };
            if locked {
                let access = if write { FaultAccess::Write } else { FaultAccess::Read };
                for page in piece.clone().step_by(PAGE_SIZE) {
                    scheduler::give_way();
                    self.with_frame(UserAddr::new(page), access, |_, _| ()).map_err(|_| Errno::ENOMEM)?;
                }
            }
            at = piece.end;
        }
        Ok(())
    }
}

impl Mapping {
    /// The pages the kernel shares with programs are there anyway, and so are those of hardware.
    fn is_device(&self) -> bool {
        let is_shared_code = matches!(self.purpose, Purpose::Vdso | Purpose::ClockData);
        is_shared_code && matches!(self.source, Source::Object { .. }) || self.is_hardware()
    }
}
