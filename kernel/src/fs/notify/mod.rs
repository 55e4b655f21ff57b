//! Telling programs what happens to files: who wants to know, and the places in the kernel that tell.
//!
//! A [`Mark`] says that somebody (an [`inotify`] instance, or with [`dnotify`] who asked by fcntl(2)) wants to hear of one file. Marks stand in one table, by file
//! system and inode number. What happens is told by [`entry`] (a name came, went or moved), [`path`] (something was done to a file that
//! has a place; its directory hears of it, with the name) and [`inode`] (the file alone hears of it). Events are the
//! IN_ bits of inotify(7).
//!
//! While nobody watches anything all this costs one look at a counter. Marks are told without the table's lock, since
//! a mark may send signals.

pub mod dnotify;
pub mod inotify;

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::linux;

use super::{FileKind, Inode, dentry::Dentry, path::Path};
use crate::sync::IrqLock;

/// Something that happened.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    /// One of inotify's event bits, perhaps with IN_ISDIR.
    pub mask: u32,
    /// Connects the two halves of a move; else 0.
    pub cookie: u32,
    /// The name in the marked directory; `None` where it is the marked file itself.
    pub name: Option<&'a [u8]>,
    /// Whether that name is gone already.
    pub unlinked: bool,
}

/// Somebody's wish to hear of one file.
pub trait Mark: Send + Sync {
    /// The events wanted now.
    fn wants(&self) -> u32;
    /// One of them happened.
    fn deliver(&self, event: &Event<'_>);
    /// The file is gone, and the mark is out of the table.
    fn file_gone(&self, unmounted: bool);
}

/// A file, by file system and inode number.
pub type Key = (u64, u64);

struct Watched {
    /// Kept, so that its number is not given to another file.
    _inode: Arc<dyn Inode>,
    marks: Vec<Arc<dyn Mark>>,
}

static TABLE: IrqLock<BTreeMap<Key, Watched>> = IrqLock::new(BTreeMap::new());
static NR_MARKS: AtomicUsize = AtomicUsize::new(0);

/// Whether anybody wants to hear of anything.
pub fn is_used() -> bool {
    NR_MARKS.load(Ordering::Relaxed) != 0
}

/// What a file is known by here.
pub fn key_of(inode: &Arc<dyn Inode>) -> Key {
    let metadata = inode.metadata();
    (metadata.device, metadata.inode)
}

/// Adds a mark to the file that `key` is known by.
pub fn add(key: Key, inode: &Arc<dyn Inode>, mark: Arc<dyn Mark>) {
    let mut table = TABLE.lock();
    table.entry(key).or_insert_with(|| Watched { _inode: inode.clone(), marks: Vec::new() }).marks.push(mark);
    NR_MARKS.fetch_add(1, Ordering::Relaxed);
}

/// Takes a mark of a file out, if it is still there; whether it was.
pub fn remove(key: Key, mark: *const ()) -> bool {
    // What leaves the table is dropped after the lock: a file may go with it.
    let removed = {
        let mut table = TABLE.lock();
        let Some(watched) = table.get_mut(&key) else { return false };
        let position = watched.marks.iter().position(|other| Arc::as_ptr(other).cast::<()>() == mark);
        let Some(position) = position else { return false };
        let mark = watched.marks.swap_remove(position);
        NR_MARKS.fetch_sub(1, Ordering::Relaxed);
        let watched = if watched.marks.is_empty() { table.remove(&key) } else { None };
        (mark, watched)
    };
    drop(removed);
    true
}

fn tell(key: Key, event: &Event<'_>) {
    let kind = event.mask & linux::IN_ALL_EVENTS;
    let marks: Vec<Arc<dyn Mark>> = {
        let table = TABLE.lock();
        let Some(watched) = table.get(&key) else { return };
        watched.marks.iter().filter(|mark| mark.wants() & kind != 0).cloned().collect()
    };
    for mark in marks {
        mark.deliver(event);
    }
}

const fn directory_bit(is_directory: bool) -> u32 {
    if is_directory { linux::IN_ISDIR } else { 0 }
}

/// Something happened to a file that only the file's own watchers hear of.
pub fn inode(inode: &Arc<dyn Inode>, mask: u32) {
    if is_used() {
        let metadata = inode.metadata();
        let mask = mask | directory_bit(metadata.kind == FileKind::Directory);
        tell((metadata.device, metadata.inode), &Event { mask, cookie: 0, name: None, unlinked: false });
    }
}

/// Something was done to the file at `dentry`: its watchers hear of it, and its directory's.
pub fn dentry(dentry: &Arc<Dentry>, mask: u32) {
    if !is_used() {
        return;
    }
    let mask = mask | directory_bit(dentry.kind() == FileKind::Directory);
    if let (name, Some(parent)) = dentry.place() {
        let event = Event { mask, cookie: 0, name: Some(&name), unlinked: dentry.is_deleted() };
        tell(key_of(parent.inode()), &event);
    }
    tell(key_of(dentry.inode()), &Event { mask, cookie: 0, name: None, unlinked: false });
}

/// As [`dentry`], for the file at a place.
pub fn path(path: &Path, mask: u32) {
    dentry(path.dentry(), mask);
}

/// A name of `directory` came (IN_CREATE), went (IN_DELETE) or moved (IN_MOVED_FROM, IN_MOVED_TO, with a cookie).
pub fn entry(directory: &Arc<dyn Inode>, name: &[u8], mask: u32, kind: FileKind, cookie: u32) {
    if is_used() {
        let mask = mask | directory_bit(kind == FileKind::Directory);
        tell(key_of(directory), &Event { mask, cookie, name: Some(name), unlinked: false });
    }
}

/// A number that connects the halves of a move.
pub fn new_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The last place of a file was forgotten; if it has no name any more, its watchers are told and let go.
pub fn place_forgotten(inode: &Arc<dyn Inode>) {
    if !is_used() {
        return;
    }
    let metadata = inode.metadata();
    if metadata.links != 0 {
        return;
    }
    let key = (metadata.device, metadata.inode);
    tell(key, &Event { mask: linux::IN_DELETE_SELF, cookie: 0, name: None, unlinked: false });
    let watched = TABLE.lock().remove(&key);
    detach(watched, false);
}

/// The file system `device` is mounted nowhere any more: its watchers are told and let go.
pub fn file_system_gone(device: u64) {
    if !is_used() {
        return;
    }
    loop {
        let watched = {
            let mut table = TABLE.lock();
            let key = table.range((device, 0)..=(device, u64::MAX)).next().map(|(key, _)| *key);
            key.and_then(|key| table.remove(&key))
        };
        if watched.is_none() {
            return;
        }
        detach(watched, true);
    }
}

fn detach(watched: Option<Watched>, unmounted: bool) {
    let Some(watched) = watched else { return };
    NR_MARKS.fetch_sub(watched.marks.len(), Ordering::Relaxed);
    for mark in &watched.marks {
        mark.file_gone(unmounted);
    }
}
