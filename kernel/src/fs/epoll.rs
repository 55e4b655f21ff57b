//! epoll(7): waiting for many files at the cost of those that are ready.
//!
//! Each watched file has an [`Item`], registered for good with the file's wait queues. A wake puts the item on the
//! instance's ready list and wakes who waits; only what is on that list is asked when somebody waits. A level-triggered
//! item that was reported goes back to the end of the list and leaves it when it is found not ready.
//!
//! A wake comes with the file's own lock held, so it touches nothing but the ready list: what needs the file happens in
//! the waiter. Items know their file weakly and the ready list strongly, the list its items only while they are on it.

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result, linux};

use super::{FileKind, FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, anonymous_metadata};
use crate::{
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
    /// On the ready list.
    queued: AtomicBool,
    /// No longer watched.
    removed: AtomicBool,
    ready: Arc<Ready>,
    registrations: IrqLock<Vec<Registration>>,
    this: Weak<Self>,
}

/// The items to be asked, and who waits for there being any.
struct Ready {
    list: IrqLock<VecDeque<Arc<Item>>>,
    waiters: Arc<WaitQueue>,
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
        if self.removed.load(Ordering::Acquire) {
            return;
        }
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(this) = self.this.upgrade()
        {
            self.ready.list.lock().push_back(this);
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
    }
}

impl Ready {
    /// The first item, to be looked at. A level-triggered one stays on the list, at the end, where others that look
    /// meanwhile find it; the others leave it, and a wake puts them back.
    fn next(&self) -> Option<Arc<Item>> {
        let mut list = self.list.lock();
        let item = list.pop_front()?;
        if item.interest.lock().events & (linux::EPOLLET | linux::EPOLLONESHOT) == 0 {
            list.push_back(item.clone());
        } else {
            item.queued.store(false, Ordering::Release);
        }
        Some(item)
    }

    /// Takes an item off the list that was found not ready.
    fn withdraw(&self, item: &Arc<Item>) {
        let removed = {
            let mut list = self.list.lock();
            let position = list.iter().position(|other| Arc::ptr_eq(other, item));
            let removed = position.and_then(|position| list.remove(position));
            if removed.is_some() {
                item.queued.store(false, Ordering::Release);
            }
            removed
        };
        // A wake between the look at it and the removal found it on the list.
        if removed.is_some() && item.look().is_some_and(|events| !events.is_empty()) {
            item.enqueue();
        }
    }

    fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
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
        let ready = Ready { list: IrqLock::new(VecDeque::new()), waiters: Arc::new(WaitQueue::new()) };
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
        let item = Arc::new_cyclic(|this| Item {
            file: Arc::downgrade(file),
            key: key_of(fd, file),
            interest: IrqLock::new(interest),
            queued: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            ready: self.ready.clone(),
            registrations: IrqLock::new(Vec::new()),
            this: this.clone(),
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
        let rounds = self.ready.list.lock().len();
        for _ in 0..rounds {
            if reported == max {
                break;
            }
            let Some(item) = self.ready.next() else { break };
            if item.removed.load(Ordering::Acquire) {
                self.ready.withdraw(&item);
                continue;
            }
            let Some(events) = item.look() else {
                self.items.lock().map.remove(&item.key);
                item.retire();
                self.ready.withdraw(&item);
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
            match wait_until(&[&self.ready.waiters], deadline_ns, || (!self.ready.is_empty()).then_some(())) {
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
        let queued = core::mem::take(&mut *self.ready.list.lock());
        drop(queued);
    }
}

impl FileOps for Epoll {
    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.ready.waiters);
        // Readable only where an item on the list still is ready. They stay on it, where others may be looking too; those
        // that are not ready any more leave it when they are collected.
        let listed: Vec<Arc<Item>> = self.ready.list.lock().iter().cloned().collect();
        let is_ready = |item: &Arc<Item>| {
            !item.removed.load(Ordering::Acquire) && item.look().is_some_and(|events| !events.is_empty())
        };
        PollEvents::IN.when(listed.iter().any(is_ready))
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
