//! The table of file descriptors of a process, or of several that share it (clone(2), CLONE_FILES).
//!
//! Slots are a plain vector with a lower bound for the lowest free number, so that both looking up and installing are
//! short. A file that leaves the table is dropped after the lock is released, since its last reference may do work; the
//! POSIX locks that this table held on it are released with it, as fcntl(2) says of every close.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result};

use super::{OpenFile, locks, open_file};
use crate::sync::IrqLock;

/// RLIMIT_NOFILE's usual soft limit.
pub const DEFAULT_LIMIT: usize = 1024;
/// The most descriptors any limit allows (/proc/sys/fs/nr_open).
pub const MAX_LIMIT: usize = 1 << 20;

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

#[derive(Default)]
struct Slots {
    list: Vec<Option<Slot>>,
    /// No number below is free.
    lowest_free: usize,
}

/// The descriptors.
pub struct FdTable {
    /// Who owns the POSIX locks set through this table.
    id: u64,
    limit: AtomicUsize,
    slots: IrqLock<Slots>,
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn index(fd: i32) -> Result<usize> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

impl Slots {
    fn slot(&mut self, fd: i32) -> Result<&mut Slot> {
        self.list.get_mut(index(fd)?).and_then(Option::as_mut).ok_or(Errno::EBADF)
    }

    fn remove(&mut self, index: usize) -> Option<Slot> {
        let slot = self.list.get_mut(index)?.take()?;
        self.lowest_free = self.lowest_free.min(index);
        Some(slot)
    }

    /// One past the highest number in use.
    fn used(&self) -> usize {
        self.list.iter().rposition(Option::is_some).map_or(0, |last| last + 1)
    }

    fn grow(&mut self, len: usize) -> Result<()> {
        if self.list.len() < len {
            self.list.try_reserve(len - self.list.len()).map_err(|_| Errno::ENOMEM)?;
            self.list.resize(len, None);
        }
        Ok(())
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Self {
        Self { id: next_id(), limit: AtomicUsize::new(DEFAULT_LIMIT), slots: IrqLock::new(Slots::default()) }
    }

    /// Who owns POSIX locks that are set through this table.
    pub fn lock_owner(&self) -> u64 {
        self.id
    }

    /// One more than the highest number that may be given out: RLIMIT_NOFILE's soft limit.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets [`limit`](Self::limit); what is open beyond it stays open.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit.min(MAX_LIMIT), Ordering::Relaxed);
    }

    /// The open file behind `fd`; EBADF where there is none.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>> {
        let index = index(fd)?;
        match self.slots.lock().list.get(index) {
            Some(Some(slot)) => Ok(slot.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// Gives `file` the lowest free number. EMFILE at the limit.
    pub fn install(&self, file: Arc<OpenFile>, close_on_exec: bool) -> Result<i32> {
        self.install_from(0, file, close_on_exec)
    }

    /// Gives `file` the lowest free number that is at least `minimum`. EMFILE at the limit, ENFILE at that of all.
    pub fn install_from(&self, minimum: usize, file: Arc<OpenFile>, close_on_exec: bool) -> Result<i32> {
        let limit = self.limit();
        open_file::check_count()?;
        let mut slots = self.slots.lock();
        let start = minimum.max(slots.lowest_free);
        let free = (start..slots.list.len())
            .find(|index| matches!(slots.list.get(*index), Some(None)))
            .unwrap_or(start.max(slots.list.len()));
        let fd = i32::try_from(free).map_err(|_| Errno::EMFILE)?;
        if free >= limit {
            return Err(Errno::EMFILE);
        }
        slots.grow(free + 1)?;
        if let Some(slot) = slots.list.get_mut(free) {
            *slot = Some(Slot { file, close_on_exec });
        }
        if minimum <= slots.lowest_free {
            slots.lowest_free = free + 1;
        }
        Ok(fd)
    }

    /// Puts `file` at `fd`, closing what was there. EBADF at or above the limit.
    pub fn replace(&self, fd: i32, file: Arc<OpenFile>, close_on_exec: bool) -> Result<()> {
        let index = index(fd)?;
        if index >= self.limit() {
            return Err(Errno::EBADF);
        }
        let old = {
            let mut slots = self.slots.lock();
            slots.grow(index + 1)?;
            slots.list.get_mut(index).and_then(|slot| slot.replace(Slot { file, close_on_exec }))
        };
        if let Some(old) = old {
            self.closed(&old);
        }
        Ok(())
    }

    /// Closes `fd`.
    pub fn close(&self, fd: i32) -> Result<()> {
        let index = index(fd)?;
        let slot = self.slots.lock().remove(index).ok_or(Errno::EBADF)?;
        self.closed(&slot);
        Ok(())
    }

    /// Closes all descriptors from `first` to `last`.
    pub fn close_range(&self, first: usize, last: usize) {
        self.close_where(|index, _| index >= first && index <= last);
    }

    /// Marks all descriptors from `first` to `last` to be closed by execve(2).
    pub fn set_close_on_exec_range(&self, first: usize, last: usize) {
        let mut slots = self.slots.lock();
        for slot in slots.list.iter_mut().skip(first).take(last.saturating_sub(first).saturating_add(1)).flatten() {
            slot.close_on_exec = true;
        }
    }

    /// Closes what is marked to be closed by execve(2).
    pub fn close_on_exec(&self) {
        self.close_where(|_, slot| slot.close_on_exec);
    }

    /// Closes everything: the last process with this table has ended.
    pub fn close_all(&self) {
        self.close_where(|_, _| true);
    }

    fn close_where(&self, mut condition: impl FnMut(usize, &Slot) -> bool) {
        // One at a time, since a process may end for lack of the memory that a list would take.
        for index in 0.. {
            let closed = {
                let mut slots = self.slots.lock();
                match slots.list.get(index) {
                    None => return,
                    Some(Some(slot)) if condition(index, slot) => slots.remove(index),
                    Some(_) => None,
                }
            };
            if let Some(slot) = closed {
                self.closed(&slot);
            }
        }
    }

    fn closed(&self, slot: &Slot) {
        locks::release_process_locks(&slot.file, self.id);
        slot.file.asynchronous().remove_marks(self.id);
    }

    /// Whether execve(2) closes `fd`.
    pub fn is_close_on_exec(&self, fd: i32) -> Result<bool> {
        Ok(self.slots.lock().slot(fd)?.close_on_exec)
    }

    /// Sets whether execve(2) closes `fd`.
    pub fn set_close_on_exec(&self, fd: i32, close_on_exec: bool) -> Result<()> {
        self.slots.lock().slot(fd)?.close_on_exec = close_on_exec;
        Ok(())
    }

    /// A table of its own with the same open files (fork(2)). POSIX locks are not inherited. ENOMEM.
    pub fn fork_copy(&self) -> Result<Self> {
        let mut list = Vec::new();
        loop {
            let len = self.slots.lock().used();
            // Without the lock: there may be a million, and what takes long is not to keep interrupts masked.
            list.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
            let slots = self.slots.lock();
            let used = slots.used();
            if used <= list.capacity() {
                list.extend(slots.list.iter().take(used).cloned());
                let slots = IrqLock::new(Slots { list, lowest_free: slots.lowest_free.min(used) });
                return Ok(Self { id: next_id(), limit: AtomicUsize::new(self.limit()), slots });
            }
        }
    }

    /// How many descriptors are open.
    pub fn count(&self) -> usize {
        self.slots.lock().list.iter().flatten().count()
    }

    /// Bytes of memory that come back when all are closed, as far as nobody else has them open.
    pub fn held_bytes(&self) -> usize {
        let mut held = 0;
        let mut from = 0;
        while let Some(fd) = self.next(from) {
            held += self.get(fd).map_or(0, |file| file.held_bytes());
            from = fd as usize + 1;
        }
        held
    }

    /// One past the highest open descriptor.
    pub fn end(&self) -> usize {
        self.slots.lock().used()
    }

    /// The lowest open descriptor that is at least `from`.
    pub fn next(&self, from: usize) -> Option<i32> {
        let slots = self.slots.lock();
        let index = (from..slots.list.len()).find(|index| matches!(slots.list.get(*index), Some(Some(_))))?;
        i32::try_from(index).ok()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_all();
    }
}
