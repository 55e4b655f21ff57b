//! /dev/pts: the directory of pseudo-terminals (pts(4)), and /dev/ptmx, which makes them.
//!
//! An entry lives from the opening of the master to its closing; the number stays taken until the last file on the
//! terminal is closed too. How many there may be is /proc/sys/kernel/pty/max, which starts with what the machine's
//! memory can bear.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString as _},
    sync::Arc,
};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};

use super::{
    Device, Tty,
    inode::{Opens, TtyInode},
    pty::MasterFile,
};
use crate::{
    fs::{
        AttributeChange, DirectoryEntry, FileKind, FileOps, FileSystemStatus, Inode, Metadata, permission,
        virtual_files::{VirtualFs, next_device, next_inode},
    },
    mm::{PAGE_SIZE, frames},
    sync::{IrqLock, Lazy},
};

/// DEVPTS_SUPER_MAGIC of statfs(2).
const MAGIC: u64 = 0x1cd1;
/// The group `tty`, which may write to everybody's terminal (group 5 in Debian), and the mode that says so.
const TTY_GROUP: u32 = 5;
const MODE: u32 = 0o620;
/// How many there may be to begin with, as on Linux.
const USUAL: u64 = 4096;
/// How many there may be at most: what minor numbers have room for.
pub const MOST: u64 = 1 << 20;
/// What the queues of one may come to, in bytes, and the part of memory that all of them may come to.
const LARGEST: u64 = 64 * 1024;
const PART_OF_MEMORY: u64 = 16;

/// The inode numbers of the directory, of its `ptmx`, and of terminal 0, as on Linux.
const DIRECTORY_INODE: u64 = 1;
const PTMX_INODE: u64 = 2;
const FIRST_INODE: u64 = 3;

static FS: Lazy<VirtualFs> = Lazy::new(|| VirtualFs { device: next_device(), magic: MAGIC });
static PTMX: Lazy<Arc<TtyInode>> = Lazy::new(|| TtyInode::multiplexer(*FS, PTMX_INODE));
/// Numbers in use; `None` where the master is closed.
static TERMINALS: IrqLock<BTreeMap<u32, Option<Arc<TtyInode>>>> = IrqLock::new(BTreeMap::new());

/// /proc/sys/kernel/pty/max: one more than there may be.
pub static LIMIT: Lazy<AtomicU64> = Lazy::new(|| {
    let memory = frames::stats().total as u64 * PAGE_SIZE as u64;
    AtomicU64::new((memory / PART_OF_MEMORY / LARGEST).min(USUAL))
});

/// How many there are (/proc/sys/kernel/pty/nr).
pub fn count() -> usize {
    TERMINALS.lock().len()
}

/// The directory that is mounted at /dev/pts.
pub fn directory() -> Arc<dyn Inode> {
    Arc::new(Directory)
}

/// /dev/ptmx, for the file system `fs`.
pub fn ptmx(fs: VirtualFs) -> Arc<dyn Inode> {
    TtyInode::multiplexer(fs, next_inode())
}

/// Makes a pseudo-terminal and opens its master. ENOSPC where there are too many, ENOMEM where memory is short.
pub(super) fn make() -> Result<Arc<dyn FileOps>> {
    if frames::is_short() {
        return Err(Errno::ENOMEM);
    }
    let index = {
        let mut terminals = TERMINALS.lock();
        if terminals.len() as u64 + 1 >= LIMIT.load(Ordering::Relaxed) {
            return Err(Errno::ENOSPC);
        }
        let index = (0..).zip(terminals.keys()).find(|(index, used)| index != *used);
        let index = index.map_or(terminals.len() as u32, |(index, _)| index);
        terminals.insert(index, None);
        index
    };
    let tty = Tty::pseudo(index);
    let Device::Pseudo(pseudo) = &tty.device else { return Err(Errno::EIO) };
    let file = MasterFile::open(tty.clone(), pseudo);
    let inode = FIRST_INODE + u64::from(index);
    let inode = TtyInode::new(*FS, inode, tty.number(), MODE, Opens::Terminal(tty.clone()));
    let owner = permission::acting().user.file;
    inode.set_attributes(AttributeChange { uid: Some(owner), gid: Some(TTY_GROUP), ..AttributeChange::default() })?;
    TERMINALS.lock().insert(index, Some(inode));
    Ok(file)
}

/// The master of a terminal was closed: its name goes.
pub(super) fn remove(index: u32) {
    let inode = TERMINALS.lock().get_mut(&index).and_then(Option::take);
    drop(inode);
}

/// The last file on a terminal whose master is closed was closed: its number is free.
pub(super) fn release(index: u32) {
    TERMINALS.lock().remove(&index);
}

/// /dev/pts.
struct Directory;

impl Inode for Directory {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(FS.device, DIRECTORY_INODE, FileKind::Directory, 0o755);
        metadata.links = 2;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn mount_options(&self) -> String {
        format!(",gid={TTY_GROUP},mode={MODE:o},ptmxmode=666")
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if name == b"ptmx" {
            return Ok(PTMX.clone());
        }
        let text = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let index: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        if index.to_string() != text {
            return Err(Errno::ENOENT);
        }
        let inode = TERMINALS.lock().get(&index).cloned().flatten().ok_or(Errno::ENOENT)?;
        Ok(inode)
    }
    fn create(&self, _name: &[u8], kind: FileKind, _permissions: u32, _rdev: u64) -> Result<Arc<dyn Inode>> {
        // As Linux answers for a directory that lacks the operation.
        Err(if kind == FileKind::Regular { Errno::EACCES } else { Errno::EPERM })
    }
    fn names_are_refused(&self) -> (Errno, Errno) {
        (Errno::EPERM, Errno::EPERM)
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let device = FileKind::CharDevice;
        if position == 0 && !visit(DirectoryEntry { name: b"ptmx", inode: PTMX_INODE, kind: device, next: 1 }) {
            return Ok(());
        }
        // Position 1 + N is before terminal N.
        let mut from = u32::try_from(position.saturating_sub(1)).unwrap_or(u32::MAX);
        loop {
            let next = TERMINALS.lock().range(from..).find(|(_, inode)| inode.is_some()).map(|(index, _)| *index);
            let Some(index) = next else { return Ok(()) };
            let name = index.to_string();
            let inode = FIRST_INODE + u64::from(index);
            let entry = DirectoryEntry { name: name.as_bytes(), inode, kind: device, next: u64::from(index) + 2 };
            if !visit(entry) {
                return Ok(());
            }
            from = index.saturating_add(1);
        }
    }
}
