//! epoll(7): waiting for many files at the cost of those that are ready.
//!
//! Each watched file has an [`Item`], registered for good with the file's wait queues. A wake puts the item on the
//! instance's ready list and wakes who waits; only what is on that list is asked when somebody waits. A level-triggered
//! item that was reported goes back to the end of the list and leaves it when it is found not ready.
//!
//! A wake comes with the file's own lock held, so it touches nothing but the ready list: what needs the file happens in
//! the waiter. Items know their file weakly and the ready list strongly, the list its items only while they are on it.

use alloc::{
    collections::BTreeMap,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result, linux};

use super::{FileKind, FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, anonymous_metadata};
use crate::{
    mm::{PAGE_SIZE, frames},
    sync::IrqLock,
    task::wait::{Registration, WaitError, WaitQueue, Wake, wait_until},
};

/// How deep instances may watch each other (epoll_ctl(2), ELOOP).
const MAX_NESTING: u32 = 5;
/// How many more entries than after the last sweep make a sweep for closed files worth it.
const SWEEP_STEP: usize = 64;
/// The bits of an interest that are not events.
const MODES: u32 = linux::EPOLLET | linux::EPOLLONESHOT | linux::EPOLLEXCLUSIVE | linux::EPOLLWAKEUP;
/// The bits that may stand beside EPOLLEXCLUSIVE (epoll_ctl(2)).
const EXCLUSIVE_ALLOWED: u32 = linux::EPOLLIN
    | linux::EPOLLOUT
    | linux::EPOLLERR
    | linux::EPOLLHUP
    | linux::EPOLLET
    | linux::EPOLLWAKEUP
    | linux::EPOLLEXCLUSIVE;

/// What a program wants to know of a file: `events` and `data` of its `struct epoll_event`.
#[derive(Clone, Copy, Debug)]
pub struct Interest {
    /// Events and modes.
    pub events: u32,
    /// Handed back with each event.
    pub data: u64,
}

impl Interest {
    /// With the events that are reported asked for or not. An interest left without any is one that EPOLLONESHOT
    /// switched off.
    const fn with_always(self) -> Self {
        Self { events: self.events | PollEvents::ALWAYS.bits(), ..self }
    }
}

/// A descriptor and the open file it stood for.
type Key = (i32, usize);

/// One watched file.
struct Item {
    file: Weak<OpenFile>,
    key: Key,
    interest: IrqLock<Interest>,
    /// Its key in the ready list, changed with that locked; 0: it is not there.
    place: AtomicU64,
    /// No longer watched.
    removed: AtomicBool,
    ready: Arc<Ready>,
    registrations: IrqLock<Vec<Registration>>,
    this: Weak<Self>,
    _counted: Counted,
}

/// The items to be asked, and who waits for there being any.
struct Ready {
    list: IrqLock<List>,
    waiters: Arc<WaitQueue>,
}

/// The items to be asked, by the order in which they came. A map, so that any one can leave, and that no memory is needed
/// in one piece: a wake finds no way to say that there is none.
#[derive(Default)]
struct List {
    last: u64,
    items: BTreeMap<u64, Arc<Item>>,
}

impl List {
    fn add(&mut self, item: Arc<Item>) {
        self.last += 1;
        item.place.store(self.last, Ordering::Relaxed);
        self.items.insert(self.last, item);
    }

    fn remove(&mut self, item: &Item) -> Option<Arc<Item>> {
        self.items.remove(&item.place.swap(0, Ordering::Relaxed))
    }
}

/// Watched files of all instances.
static NR_WATCHES: AtomicUsize = AtomicUsize::new(0);

/// About what one takes, in bytes.
const COST: usize = 512;

/// How many there may be (/proc/sys/fs/epoll/max_user_watches): what they take of memory is at most a 25th of it.
pub fn max_watches() -> usize {
    frames::stats().total * PAGE_SIZE / 25 / COST
}

/// One of [`NR_WATCHES`].
struct Counted;

impl Counted {
    /// ENOSPC where there are as many as there may be, ENOMEM where next to no memory is left.
    fn new() -> Result<Self> {
        if frames::is_short() {
            return Err(Errno::ENOMEM);
        }
        let counted = Self;
        let others = NR_WATCHES.fetch_add(1, Ordering::Relaxed);
        if others < max_watches() { Ok(counted) } else { Err(Errno::ENOSPC) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        NR_WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An epoll instance.
pub struct Epoll {
    items: IrqLock<Items>,
    ready: Arc<Ready>,
}

#[derive(Default)]
struct Items {
    map: BTreeMap<Key, Arc<Item>>,
    /// Sweep for closed files when there are this many.
    sweep_at: usize,
}

/// Serialises additions of instances to instances, so that two of them cannot close a circle together.
static NESTING: IrqLock<()> = IrqLock::new(());

impl Wake for Item {
    fn wake(&self) {
        if self.interest.lock().events & !MODES == 0 {
            return;
        }
        self.enqueue();
    }
}

impl Item {
    /// Puts it on the ready list, once, and wakes the waiters.
    fn enqueue(&self) {
        let Some(this) = self.this.upgrade() else { return };
        {
            let mut list = self.ready.list.lock();
            // With the list locked: who takes it away looks there afterwards.
            if self.removed.load(Ordering::Relaxed) {
                return;
            }
            if self.place.load(Ordering::Relaxed) == 0 {
                list.add(this);
            }
        }
        self.ready.waiters.wake_all();
    }

    /// Asks the file; answers what of it is wanted. `None` where the file is closed.
    fn look(&self) -> Option<PollEvents> {
        let interest = self.interest.lock().events;
        let file = self.file.upgrade()?;
        let wanted = PollEvents::from_bits(interest & !MODES);
        if wanted.is_empty() {
            return Some(PollEvents::NONE);
        }
        Some(file.poll(&mut PollTable::look()) & wanted)
    }

    /// Stops watching.
    fn retire(&self) {
        self.removed.store(true, Ordering::Release);
        let registrations = core::mem::take(&mut *self.registrations.lock());
        drop(registrations);
        let listed = self.ready.list.lock().remove(self);
        drop(listed);
    }
}

impl Ready {
    /// The first item, to be looked at. A level-triggered one stays on the list, at the end, where others that look
    /// meanwhile find it; the others leave it, and a wake puts them back.
    fn next(&self) -> Option<Arc<Item>> {
        let mut list = self.list.lock();
        let (_, item) = list.items.pop_first()?;
        item.place.store(0, Ordering::Relaxed);
        if item.interest.lock().events & (linux::EPOLLET | linux::EPOLLONESHOT) == 0 {
            list.add(item.clone());
        }
        Some(item)
    }

    /// Takes an item off the list that was found not ready.
    fn withdraw(&self, item: &Arc<Item>) {
        let removed = self.list.lock().remove(item);
        // A wake between the look at it and the removal found it on the list.
        if removed.is_some() && item.look().is_some_and(|events| !events.is_empty()) {
            item.enqueue();
        }
    }

    fn len(&self) -> usize {
        self.list.lock().items.len()
    }
}

fn key_of(fd: i32, file: &Arc<OpenFile>) -> Key {
    (fd, Arc::as_ptr(file).addr())
}

/// Whether readiness of the file means anything: regular files and directories are always ready, and epoll_ctl(2)
/// refuses them with EPERM.
pub fn can_watch(file: &OpenFile) -> bool {
    file.metadata().is_ok_and(|metadata| !matches!(metadata.kind, FileKind::Regular | FileKind::Directory))
}

impl Epoll {
    /// A new instance, as epoll_create1(2) makes it.
    pub fn open() -> Arc<OpenFile> {
        let ready = Ready { list: IrqLock::new(List::default()), waiters: Arc::new(WaitQueue::new()) };
        let epoll = Self { items: IrqLock::new(Items::default()), ready: Arc::new(ready) };
        OpenFile::anonymous(Arc::new(epoll), OpenFlags::from_bits(linux::O_RDWR))
    }

    /// epoll_ctl(2) `EPOLL_CTL_ADD`. EEXIST, ELOOP, EINVAL.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, interest: Interest) -> Result<()> {
        let interest = interest.with_always();
        let inner = file.downcast::<Self>();
        if interest.events & linux::EPOLLEXCLUSIVE != 0
            && (inner.is_some() || interest.events & !EXCLUSIVE_ALLOWED != 0)
        {
            return Err(Errno::EINVAL);
        }
        self.sweep();
        let counted = Counted::new()?;
        let item = Arc::new_cyclic(|this| Item {
            file: Arc::downgrade(file),
            key: key_of(fd, file),
            interest: IrqLock::new(interest),
            place: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            ready: self.ready.clone(),
            registrations: IrqLock::new(Vec::new()),
            this: this.clone(),
            _counted: counted,
        });
        self.insert(&item, inner)?;
        let mut registrations = Vec::new();
        let events = file.poll(&mut PollTable::register(&mut registrations, item.clone()));
        *item.registrations.lock() = registrations;
        if item.removed.load(Ordering::Acquire) {
            // Taken away again by another thread meanwhile.
            item.retire();
        }
        if events.intersects(PollEvents::from_bits(interest.events & !MODES)) {
            item.enqueue();
        }
        Ok(())
    }

    fn insert(&self, item: &Arc<Item>, inner: Option<&Self>) -> Result<()> {
        // What is looked at while the lock is held is let go after: a file's end may need any lock.
        let mut seen = Vec::new();
        let nesting = inner.map(|inner| (NESTING.lock(), inner));
        let checked = nesting.as_ref().map_or(Ok(()), |(_, inner)| inner.check_nesting(self, 1, &mut seen));
        let inserted = checked.and_then(|()| {
            let mut items = self.items.lock();
            if items.map.contains_key(&item.key) {
                return Err(Errno::EEXIST);
            }
            items.map.insert(item.key, item.clone());
            Ok(())
        });
        drop(nesting);
        drop(seen);
        inserted
    }

    /// ELOOP where `outer` is reached from here, or the chain of instances gets too long.
    fn check_nesting(&self, outer: &Self, depth: u32, seen: &mut Vec<Arc<OpenFile>>) -> Result<()> {
        if core::ptr::eq(self, outer) || depth >= MAX_NESTING {
            return Err(Errno::ELOOP);
        }
        let first = seen.len();
        seen.extend(self.items.lock().map.values().filter_map(|item| item.file.upgrade()));
        let inner: Vec<Arc<OpenFile>> =
            seen.iter().skip(first).filter(|file| file.downcast::<Self>().is_some()).cloned().collect();
        for file in &inner {
            if let Some(inner) = file.downcast::<Self>() {
                inner.check_nesting(outer, depth + 1, seen)?;
            }
        }
        Ok(())
    }

    /// epoll_ctl(2) `EPOLL_CTL_MOD`. ENOENT, EINVAL.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, interest: Interest) -> Result<()> {
        let interest = interest.with_always();
        let item = self.items.lock().map.get(&key_of(fd, file)).cloned().ok_or(Errno::ENOENT)?;
        {
            let mut current = item.interest.lock();
            if (current.events | interest.events) & linux::EPOLLEXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            *current = interest;
        }
        if item.look().is_some_and(|events| !events.is_empty()) {
            item.enqueue();
        }
        Ok(())
    }

    /// epoll_ctl(2) `EPOLL_CTL_DEL`. ENOENT.
    pub fn remove(&self, fd: i32, file: &Arc<OpenFile>) -> Result<()> {
        let item = self.items.lock().map.remove(&key_of(fd, file)).ok_or(Errno::ENOENT)?;
        item.retire();
        Ok(())
    }

    /// The file that is watched under a descriptor's number; `offset` tells those apart that had the same number, by the
    /// order of no meaning that they have here.
    pub fn watched(&self, fd: i32, offset: usize) -> Option<Arc<OpenFile>> {
        let items: Vec<Arc<Item>> =
            self.items.lock().map.range((fd, 0)..=(fd, usize::MAX)).map(|(_, item)| item.clone()).collect();
        items.iter().filter_map(|item| item.file.upgrade()).nth(offset)
    }

    /// Drops the entries of closed files now and then; otherwise they go when they are found on the ready list.
    fn sweep(&self) {
        let dead: Vec<Arc<Item>> = {
            let mut items = self.items.lock();
            if items.map.len() < items.sweep_at.max(SWEEP_STEP) {
                return;
            }
            let dead: Vec<Key> =
                items.map.values().filter(|item| item.file.strong_count() == 0).map(|item| item.key).collect();
            let dead = dead.iter().filter_map(|key| items.map.remove(key)).collect();
            items.sweep_at = items.map.len() * 2;
            dead
        };
        dead.iter().for_each(|item| item.retire());
    }

    /// Asks what is on the ready list, each item once, and hands up to `max` events to `report`.
    fn collect(&self, max: usize, mut report: impl FnMut(PollEvents, u64)) -> usize {
        let mut reported = 0;
        let rounds = self.ready.len();
        for _ in 0..rounds {
            if reported == max {
                break;
            }
            let Some(item) = self.ready.next() else { break };
            if item.removed.load(Ordering::Acquire) {
                continue;
            }
            let Some(events) = item.look() else {
                let closed = self.items.lock().map.remove(&item.key);
                item.retire();
                drop(closed);
                continue;
            };
            if events.is_empty() {
                self.ready.withdraw(&item);
                continue;
            }
            let interest = {
                let mut interest = item.interest.lock();
                let current = *interest;
                if current.events & linux::EPOLLONESHOT != 0 {
                    // In one step with the look: another thread may find it on the list again already.
                    interest.events &= MODES;
                }
                current
            };
            if events.intersects(PollEvents::from_bits(interest.events & !MODES)) {
                report(events, interest.data);
                reported += 1;
            }
        }
        reported
    }

    /// epoll_wait(2): hands at least one and up to `max` events to `report`; 0 when `deadline_ns` passes. EINTR.
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>, mut report: impl FnMut(PollEvents, u64)) -> Result<usize> {
        loop {
            let reported = self.collect(max, &mut report);
            if reported > 0 || deadline_ns == Some(0) {
                return Ok(reported);
            }
            match wait_until(&[&self.ready.waiters], deadline_ns, || (self.ready.len() > 0).then_some(())) {
                Ok(()) => {}
                Err(WaitError::TimedOut) => return Ok(0),
                Err(WaitError::Interrupted) => return Err(Errno::EINTR),
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = core::mem::take(&mut self.items.lock().map);
        items.values().for_each(|item| item.retire());
    }
}

impl FileOps for Epoll {
    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.ready.waiters);
        // Readable only where an item on the list still is ready. They stay on it, where others may be looking too; those
        // that are not ready any more leave it when they are collected.
        let (mut first, end) = (0, self.ready.list.lock().last);
        loop {
            let next = {
                let list = self.ready.list.lock();
                list.items.range(first..=end).next().map(|(place, item)| (*place, item.clone()))
            };
            let Some((place, item)) = next else { return PollEvents::NONE };
            if !item.removed.load(Ordering::Acquire) && item.look().is_some_and(|events| !events.is_empty()) {
                return PollEvents::IN;
            }
            first = place + 1;
            if first > end {
                return PollEvents::NONE;
            }
        }
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn held_bytes(&self) -> usize {
        self.items.lock().map.len() * COST
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
