//! Locks on files: fcntl(2)'s record locks of processes and of open file descriptions, and flock(2).
//!
//! One table for all files, keyed by file system and inode number, since few files are locked at a time. A record lock
//! belongs to a descriptor table (POSIX) or to an open file description (OFD); both exclude each other. flock locks
//! are a world of their own. Whoever waits does so on one queue and looks again after every release; a POSIX wait that
//! closes a ring of owners is refused with EDEADLK.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicUsize, Ordering},
};

use abi::{Errno, Result};

use super::{OpenFile, virtual_files::Listing};
use crate::{
    sync::{IrqLock, Lazy},
    task::{
        scheduler,
        wait::{WaitQueue, wait_until},
    },
};

/// Whose a lock is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A descriptor table, by its [`lock_owner`](super::fd_table::FdTable::lock_owner).
    Process(u64),
    /// An open file description, by its address.
    Description(usize),
}

impl Owner {
    /// The owner of locks of this open file description.
    pub fn description(file: &OpenFile) -> Self {
        Self::Description(core::ptr::from_ref(file).addr())
    }
}

/// A lock on the bytes from `start` up to and including `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// The process that set it; -1 for an open file description's.
    pub pid: i32,
    /// Whether it excludes all others, not only the exclusive ones.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` for "to the end, wherever that will be".
    pub end: u64,
}

impl Record {
    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && (self.exclusive || other.exclusive)
            && self.start <= other.end
            && other.start <= self.end
    }
}

#[derive(Default)]
struct FileLocks {
    records: Vec<Record>,
    /// Open file descriptions with a flock lock, whether it is exclusive, and the process that set it.
    whole: Vec<(Owner, bool, i32)>,
}

type Key = (u64, u64);

/// The most record locks on one file: each takes kernel memory, and every look at the file passes them all.
const MAX_RECORDS: usize = 16_384;

#[derive(Default)]
struct Table {
    files: BTreeMap<Key, FileLocks>,
    /// Who waits for whom.
    waits: Vec<(Owner, Owner)>,
}

static TABLE: IrqLock<Table> = IrqLock::new(Table { files: BTreeMap::new(), waits: Vec::new() });
/// Files with locks. Zero nearly always, which spares every close a look at the table.
static LOCKED_FILES: AtomicUsize = AtomicUsize::new(0);
static RELEASED: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));

fn key(file: &OpenFile) -> Option<Key> {
    let metadata = file.metadata().ok()?;
    Some((metadata.device, metadata.inode))
}

impl Table {
    /// Whether `waiter` waiting for `holder` would wait for itself in the end.
    fn closes_ring(&self, waiter: Owner, holder: Owner) -> bool {
        let mut at = holder;
        for _ in 0..=self.waits.len() {
            if at == waiter {
                return true;
            }
            match self.waits.iter().find(|(from, _)| *from == at) {
                Some((_, to)) => at = *to,
                None => return false,
            }
        }
        false
    }

    /// The lock at a place, or the next one, with what /proc/locks calls its kind; moves the place on.
    fn next(&self, at: &mut (Key, usize)) -> Option<(&'static str, Record)> {
        for (key, locks) in self.files.range(at.0..) {
            if *key != at.0 {
                *at = (*key, 0);
            }
            if let Some(found) = locks.nth(at.1) {
                at.1 += 1;
                return Some(found);
            }
        }
        None
    }

    fn clean(&mut self, key: Key) {
        if self.files.get(&key).is_some_and(|locks| locks.records.is_empty() && locks.whole.is_empty()) {
            self.files.remove(&key);
        }
        LOCKED_FILES.store(self.files.len(), Ordering::Relaxed);
    }
}

impl FileLocks {
    /// The lock with this number and what /proc/locks calls its kind; of those of flock(2), as one on all bytes.
    fn nth(&self, index: usize) -> Option<(&'static str, Record)> {
        if let Some(record) = self.records.get(index) {
            let is_process = matches!(record.owner, Owner::Process(_));
            return Some((if is_process { "POSIX " } else { "OFDLCK" }, *record));
        }
        let (owner, exclusive, pid) = *self.whole.get(index - self.records.len())?;
        Some(("FLOCK ", Record { owner, pid, exclusive, start: 0, end: u64::MAX }))
    }

    /// Takes `start..=end` out of `owner`'s locks, splitting what only partly lies in it.
    fn cut(&mut self, owner: Owner, start: u64, end: u64) {
        let mut kept = Vec::with_capacity(self.records.len() + 1);
        for record in self.records.drain(..) {
            if record.owner != owner || record.end < start || end < record.start {
                kept.push(record);
                continue;
            }
            if record.start < start {
                kept.push(Record { end: start - 1, ..record });
            }
            if record.end > end {
                kept.push(Record { start: end + 1, ..record });
            }
        }
        self.records = kept;
    }

    /// Adds a lock, joined with the owner's neighbours of the same kind.
    fn add(&mut self, mut lock: Record) {
        self.cut(lock.owner, lock.start, lock.end);
        self.records.retain(|record| {
            let same = record.owner == lock.owner && record.exclusive == lock.exclusive;
            let touching =
                record.end.checked_add(1) == Some(lock.start) || lock.end.checked_add(1) == Some(record.start);
            if same && touching {
                lock.start = lock.start.min(record.start);
                lock.end = lock.end.max(record.end);
            }
            !(same && touching)
        });
        let place = self.records.partition_point(|record| record.start < lock.start);
        self.records.insert(place, lock);
    }
}

/// The first lock that is in the way of `wanted`.
pub fn conflicting(file: &OpenFile, wanted: &Record) -> Option<Record> {
    let key = key(file)?;
    let table = TABLE.lock();
    table.files.get(&key)?.records.iter().find(|record| record.conflicts(wanted)).copied()
}

/// Sets a record lock; waits for it with `wait`. EAGAIN where it is taken, EDEADLK where waiting would never end, ENOLCK
/// where the file has too many.
pub fn lock_range(file: &OpenFile, wanted: Record, wait: bool) -> Result<()> {
    let key = key(file).ok_or(Errno::EBADF)?;
    let attempt = || {
        let mut table = TABLE.lock();
        table.waits.retain(|(waiter, _)| *waiter != wanted.owner);
        let locks = table.files.entry(key).or_default();
        if let Some(holder) = locks.records.iter().find(|record| record.conflicts(&wanted)) {
            let holder = holder.owner;
            if !wait {
                return Some(Err(Errno::EAGAIN));
            }
            if matches!(wanted.owner, Owner::Process(_)) {
                if table.closes_ring(wanted.owner, holder) {
                    return Some(Err(Errno::EDEADLK));
                }
                table.waits.push((wanted.owner, holder));
            }
            return None;
        }
        if locks.records.len() >= MAX_RECORDS {
            return Some(Err(Errno::ENOLCK));
        }
        locks.add(wanted);
        LOCKED_FILES.store(table.files.len(), Ordering::Relaxed);
        Some(Ok(()))
    };
    let result = wait_until(&[&RELEASED], None, attempt);
    if result.is_err() {
        TABLE.lock().waits.retain(|(waiter, _)| *waiter != wanted.owner);
    }
    let outcome = result?;
    // A lock that became shared or smaller lets others in.
    RELEASED.wake_all();
    outcome
}

/// Releases `owner`'s record locks on a range. ENOLCK where that would make two of one and the file has too many.
pub fn unlock_range(file: &OpenFile, owner: Owner, start: u64, end: u64) -> Result<()> {
    if LOCKED_FILES.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let Some(key) = key(file) else { return Ok(()) };
    let mut table = TABLE.lock();
    if let Some(locks) = table.files.get_mut(&key) {
        let is_split = |record: &Record| record.owner == owner && record.start < start && end < record.end;
        if locks.records.len() >= MAX_RECORDS && locks.records.iter().any(is_split) {
            return Err(Errno::ENOLCK);
        }
        locks.cut(owner, start, end);
    }
    table.clean(key);
    drop(table);
    RELEASED.wake_all();
    Ok(())
}

/// flock(2): locks the whole file; waits with `wait`. EAGAIN where it is taken. As on Linux a conversion first gives
/// the old lock up.
pub fn lock_whole(file: &OpenFile, exclusive: bool, wait: bool) -> Result<()> {
    let key = key(file).ok_or(Errno::EBADF)?;
    let owner = Owner::description(file);
    let pid = scheduler::current().process().pid();
    let attempt = || {
        let mut table = TABLE.lock();
        let locks = table.files.entry(key).or_default();
        if locks.whole.iter().any(|(other, kind, _)| *other == owner && *kind == exclusive) {
            return Some(Ok(()));
        }
        locks.whole.retain(|(other, ..)| *other != owner);
        let taken = locks.whole.iter().any(|(_, other, _)| exclusive || *other);
        if !taken {
            locks.whole.push((owner, exclusive, pid));
        }
        LOCKED_FILES.store(table.files.len(), Ordering::Relaxed);
        match (taken, wait) {
            (false, _) => Some(Ok(())),
            (true, false) => Some(Err(Errno::EAGAIN)),
            (true, true) => None,
        }
    };
    let outcome = wait_until(&[&RELEASED], None, attempt)?;
    RELEASED.wake_all();
    outcome
}

/// flock(2) with LOCK_UN.
pub fn unlock_whole(file: &OpenFile) {
    if LOCKED_FILES.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some(key) = key(file) else { return };
    let owner = Owner::description(file);
    let mut table = TABLE.lock();
    if let Some(locks) = table.files.get_mut(&key) {
        locks.whole.retain(|(other, ..)| *other != owner);
    }
    table.clean(key);
    drop(table);
    RELEASED.wake_all();
}

/// Releases the POSIX locks a descriptor table holds on a file of which it closes a descriptor.
pub fn release_process_locks(file: &OpenFile, table: u64) {
    // All of them go, so none is cut in two.
    let _ = unlock_range(file, Owner::Process(table), 0, u64::MAX);
}

/// Releases the locks of an open file description that goes away.
pub fn release_description_locks(file: &OpenFile) {
    if LOCKED_FILES.load(Ordering::Relaxed) == 0 {
        return;
    }
    // All of them go, so none is cut in two.
    let _ = unlock_range(file, Owner::description(file), 0, u64::MAX);
    unlock_whole(file);
}

/// The lines of /proc/locks, in proc(5)'s format. The table is locked for each of them anew: there may be many.
pub fn list(text: &mut Listing) -> fmt::Result {
    let (mut at, mut number) = ((Key::default(), 0), 0);
    loop {
        let found = TABLE.lock().next(&mut at);
        let Some((kind, record)) = found else { return Ok(()) };
        number += 1;
        let access = if record.exclusive { "WRITE" } else { "READ " };
        let (device, inode) = at.0;
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff);
        write!(text, "{number}: {kind}  ADVISORY  {access} {} ", record.pid)?;
        write!(text, "{major:02x}:{minor:02x}:{inode} {} ", record.start)?;
        match record.end {
            u64::MAX => writeln!(text, "EOF")?,
            end => writeln!(text, "{end}")?,
        }
    }
}
