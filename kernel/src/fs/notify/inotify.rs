//! inotify(7): a descriptor that delivers what happens to files as records to be read.
//!
//! An [`Inotify`] is the open file; its [`Watch`]es are marks in the table of [`notify`](super). A queue holds the
//! events until they are read: an event equal to the last one waiting is dropped, and beyond a number of them
//! (/proc/sys/fs/inotify/max_queued_events) one IN_Q_OVERFLOW stands for the rest, so that a program which does not
//! read costs bounded memory.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result, ioctl, linux};
use hal::UserAddr;

use super::{Event, Key, Mark};
use crate::{
    fs::{
        FileOps, Inode, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, WriteBuffer,
        anonymous_metadata,
    },
    mm::{frames, user},
    sync::IrqLock,
    task::wait::{WaitQueue, wait_until},
};

/// /proc/sys/fs/inotify/max_queued_events, by instance.
pub static MAX_QUEUED_EVENTS: AtomicU64 = AtomicU64::new(16384);
/// /proc/sys/fs/inotify/max_user_instances.
pub static MAX_INSTANCES: AtomicU64 = AtomicU64::new(128);
/// /proc/sys/fs/inotify/max_user_watches.
pub static MAX_WATCHES: AtomicU64 = AtomicU64::new(8192);

/// Instances and watches there are.
static NR_INSTANCES: AtomicU64 = AtomicU64::new(0);
static NR_WATCHES: AtomicU64 = AtomicU64::new(0);

/// Bytes of a record without its name (`struct inotify_event`), which also is what names are padded to.
const HEADER: usize = 16;
/// One read takes no further record once it has this many bytes.
const MAX_REPLY: usize = 64 << 10;
/// All bits that inotify_add_watch(2) knows.
const KNOWN: u32 = linux::IN_ALL_EVENTS
    | linux::IN_UNMOUNT
    | linux::IN_Q_OVERFLOW
    | linux::IN_IGNORED
    | linux::IN_ONLYDIR
    | linux::IN_DONT_FOLLOW
    | linux::IN_EXCL_UNLINK
    | linux::IN_MASK_CREATE
    | linux::IN_MASK_ADD
    | linux::IN_ISDIR
    | linux::IN_ONESHOT;
/// What a watch keeps of the bits it was made with.
const KEPT: u32 = linux::IN_ALL_EVENTS | linux::IN_EXCL_UNLINK | linux::IN_ONESHOT;

/// A counted claim on a limit; given back when dropped.
struct Claim(&'static AtomicU64);

impl Claim {
    fn new(counter: &'static AtomicU64, limit: &AtomicU64) -> Option<Self> {
        let limit = limit.load(Ordering::Relaxed);
        let more = |used| if used < limit { Some(used + 1) } else { None };
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(counter))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A record waiting to be read.
#[derive(PartialEq, Eq)]
struct Record {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Box<[u8]>,
}

impl Record {
    /// Stands for what could not be kept.
    fn overflow() -> Self {
        Self { wd: -1, mask: linux::IN_Q_OVERFLOW, cookie: 0, name: Box::default() }
    }

    /// Bytes it takes when read.
    fn len(&self) -> usize {
        let name = if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) };
        HEADER + name
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len() + self.len();
        bytes.extend(self.wd.to_ne_bytes());
        bytes.extend(self.mask.to_ne_bytes());
        bytes.extend(self.cookie.to_ne_bytes());
        bytes.extend(((self.len() - HEADER) as u32).to_ne_bytes());
        bytes.extend_from_slice(&self.name);
        bytes.resize(end, 0);
    }
}

/// What waits to be read, and who waits for that.
struct Queue {
    records: IrqLock<VecDeque<Record>>,
    readable: Arc<WaitQueue>,
}

impl Queue {
    fn push(&self, record: Record) {
        {
            let mut records = self.records.lock();
            if records.back() == Some(&record) {
                return;
            }
            let full = records.len() as u64 >= MAX_QUEUED_EVENTS.load(Ordering::Relaxed) || frames::is_short();
            let record = if full { Record::overflow() } else { record };
            if full && records.back() == Some(&record) {
                return;
            }
            records.push_back(record);
        }
        self.readable.wake_all();
    }

    fn len_bytes(&self) -> usize {
        self.records.lock().iter().map(Record::len).sum()
    }

    /// Takes as many whole records as fit into `room` bytes. EINVAL where not even the first does; `None` where there
    /// is none.
    fn take(&self, room: usize) -> Option<Result<Vec<u8>>> {
        let mut records = self.records.lock();
        if records.front()?.len() > room {
            return Some(Err(Errno::EINVAL));
        }
        let mut bytes = Vec::new();
        while let Some(first) = records.front()
            && bytes.len() + first.len() <= room
            && bytes.len() < MAX_REPLY
        {
            first.append_to(&mut bytes);
            records.pop_front();
        }
        Some(Ok(bytes))
    }
}

/// One watch of an instance.
struct Watch {
    wd: i32,
    key: Key,
    mask: AtomicU32,
    queue: Arc<Queue>,
    instance: Weak<Watches>,
    _claim: Claim,
}

impl Watch {
    fn note(&self, mask: u32, cookie: u32, name: &[u8]) {
        self.queue.push(Record { wd: self.wd, mask, cookie, name: name.into() });
    }

    /// Ends it: out of both tables, with a last IN_IGNORED.
    fn end(&self) {
        if super::remove(self.key, core::ptr::from_ref(self).cast()) {
            self.ended();
        }
    }

    fn ended(&self) {
        self.note(linux::IN_IGNORED, 0, &[]);
        let removed = self.instance.upgrade().and_then(|watches| watches.0.lock().remove(self.wd));
        drop(removed);
    }
}

impl Mark for Watch {
    fn wants(&self) -> u32 {
        self.mask.load(Ordering::Relaxed) & linux::IN_ALL_EVENTS
    }

    fn deliver(&self, event: &Event<'_>) {
        let mask = self.mask.load(Ordering::Relaxed);
        if event.unlinked && mask & linux::IN_EXCL_UNLINK != 0 {
            return;
        }
        // As on Linux, events about the watched file itself do not say that it is a directory.
        let own = linux::IN_DELETE_SELF | linux::IN_MOVE_SELF;
        let shown = if event.mask & own != 0 { event.mask & !linux::IN_ISDIR } else { event.mask };
        self.note(shown, event.cookie, event.name.unwrap_or_default());
        if mask & linux::IN_ONESHOT != 0 {
            self.end();
        }
    }

    fn file_gone(&self, unmounted: bool) {
        if unmounted {
            self.note(linux::IN_UNMOUNT, 0, &[]);
        }
        self.ended();
    }
}

#[derive(Default)]
struct Index {
    by_number: BTreeMap<i32, Arc<Watch>>,
    by_file: BTreeMap<Key, i32>,
    last: i32,
}

impl Index {
    fn remove(&mut self, wd: i32) -> Option<Arc<Watch>> {
        let watch = self.by_number.remove(&wd)?;
        self.by_file.remove(&watch.key);
        Some(watch)
    }
}

/// The watches of an instance.
struct Watches(IrqLock<Index>);

/// An inotify instance.
pub struct Inotify {
    queue: Arc<Queue>,
    watches: Arc<Watches>,
    _claim: Claim,
}

impl Inotify {
    /// inotify_init1(2); `flags` are IN_NONBLOCK and IN_CLOEXEC. EMFILE where there are too many.
    pub fn open(flags: u32) -> Result<Arc<OpenFile>> {
        let claim = Claim::new(&NR_INSTANCES, &MAX_INSTANCES).ok_or(Errno::EMFILE)?;
        let queue = Arc::new(Queue { records: IrqLock::new(VecDeque::new()), readable: Arc::new(WaitQueue::new()) });
        let watches = Arc::new(Watches(IrqLock::new(Index::default())));
        let flags = OpenFlags::from_bits(linux::O_RDONLY | flags & linux::IN_NONBLOCK);
        Ok(OpenFile::anonymous(Arc::new(Self { queue, watches, _claim: claim }), flags))
    }

    /// Whether `mask` asks for anything (inotify_add_watch(2)); EINVAL otherwise.
    pub fn check_mask(mask: u32) -> Result<()> {
        if mask & KNOWN == 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// inotify_add_watch(2): the watch descriptor. EEXIST with IN_MASK_CREATE, ENOSPC where there are too many.
    pub fn add_watch(&self, inode: &Arc<dyn Inode>, mask: u32) -> Result<i32> {
        let key = super::key_of(inode);
        let mut index = self.watches.0.lock();
        if let Some(watch) = index.by_file.get(&key).and_then(|wd| index.by_number.get(wd)) {
            if mask & linux::IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let kept = if mask & linux::IN_MASK_ADD != 0 { watch.mask.load(Ordering::Relaxed) } else { 0 };
            watch.mask.store(kept | mask & KEPT, Ordering::Relaxed);
            return Ok(watch.wd);
        }
        let claim = Claim::new(&NR_WATCHES, &MAX_WATCHES).ok_or(Errno::ENOSPC)?;
        // Numbers go up and begin anew at the end, as Linux's do.
        let mut wd = index.last;
        loop {
            wd = wd.checked_add(1).unwrap_or(1);
            if !index.by_number.contains_key(&wd) {
                break;
            }
        }
        index.last = wd;
        let watch = Arc::new(Watch {
            wd,
            key,
            mask: AtomicU32::new(mask & KEPT),
            queue: self.queue.clone(),
            instance: Arc::downgrade(&self.watches),
            _claim: claim,
        });
        index.by_number.insert(wd, watch.clone());
        index.by_file.insert(key, wd);
        // With the index locked, so that nobody finds the watch in one table only.
        super::add(key, inode, watch);
        Ok(wd)
    }

    /// inotify_rm_watch(2). EINVAL where there is no such watch.
    pub fn remove_watch(&self, wd: i32) -> Result<()> {
        let watch = self.watches.0.lock().by_number.get(&wd).cloned().ok_or(Errno::EINVAL)?;
        watch.end();
        Ok(())
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let index = core::mem::take(&mut *self.watches.0.lock());
        for watch in index.by_number.values() {
            super::remove(watch.key, Arc::as_ptr(watch).cast());
        }
    }
}

impl FileOps for Inotify {
    fn information(&self) -> String {
        use core::fmt::Write as _;
        let mut text = String::new();
        for watch in self.watches.0.lock().by_number.values() {
            let mask = watch.mask.load(Ordering::Relaxed);
            let (device, inode) = watch.key;
            let _ =
                writeln!(text, "inotify wd:{:x} ino:{inode:x} sdev:{device:x} mask:{mask:x} ignored_mask:0", watch.wd);
        }
        text
    }

    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let room = buffer.remaining();
        let bytes = match self.queue.take(room) {
            Some(bytes) => bytes?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_until(&[&self.queue.readable], None, || self.queue.take(room))??,
        };
        // What a bad buffer does not take is lost, as on Linux.
        buffer.put(&bytes)
    }

    fn write(&self, _file: &OpenFile, _position: &mut u64, _buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.queue.readable);
        PollEvents::IN.when(!self.queue.records.lock().is_empty())
    }

    fn ioctl(&self, _file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if command != ioctl::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        user::copy_out(argument, &i32::try_from(self.queue.len_bytes()).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:inotify")
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
