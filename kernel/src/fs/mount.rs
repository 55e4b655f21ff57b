//! Mounts: which file system, or part of one, hangs where in the tree (mount(2)).
//!
//! A [`FileSystem`] is what was made once, with its tree of names; a [`Mount`] shows it, or with a bind mount a part of
//! it, at a place. What is mounted on a place is known by the mount and the dentry of that place, so that two views of
//! one directory can have different things on it; a dentry only counts how many there are, for walks to look no
//! further. A mount is busy while anybody holds a [`Path`] in it; one that is detached lives on as long as that.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result, linux};

use super::{FileKind, Inode, dentry::Dentry, notify, path::Path};
use crate::sync::IrqLock;

/// The most mounts there may be (/proc/sys/fs/mount-max).
pub const MAX_MOUNTS: usize = 10_000;
/// The flags of mount(2) that belong to a mount.
pub const MOUNT_FLAGS: u32 = linux::MS_RDONLY
    | linux::MS_NOSUID
    | linux::MS_NODEV
    | linux::MS_NOEXEC
    | linux::MS_NOATIME
    | linux::MS_NODIRATIME
    | linux::MS_NOSYMFOLLOW
    | linux::MS_RELATIME
    | linux::MS_STRICTATIME;

/// A file system with its tree of names.
pub struct FileSystem {
    kind: &'static str,
    /// What it was mounted from, as /proc/mounts tells.
    source: String,
    root: Arc<Dentry>,
    read_only: AtomicBool,
    /// Whether its files are in no other [`FileSystem`], so that they go with it.
    owns_files: bool,
}

/// Those of [`MOUNT_FLAGS`] that are about access times.
const ACCESS_TIMES: u32 = linux::MS_NOATIME | linux::MS_NODIRATIME | linux::MS_RELATIME | linux::MS_STRICTATIME;

/// The flags that a mount asked for with `flags` has: access times are relative unless something else is asked for.
const fn with_access_times(flags: u32) -> u32 {
    let kept = flags & MOUNT_FLAGS & !(linux::MS_STRICTATIME | linux::MS_RELATIME);
    if flags & linux::MS_STRICTATIME != 0 {
        kept & !linux::MS_NOATIME
    } else if flags & linux::MS_NOATIME != 0 {
        kept
    } else {
        kept | linux::MS_RELATIME
    }
}

/// When reading a file notes the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoteAccess {
    /// Never.
    Never,
    /// Where the last access was before the last change, or a day ago.
    Relative,
    /// Always.
    Always,
}

impl FileSystem {
    /// A file system of this type with this root directory.
    pub fn new(kind: &'static str, source: String, root: Arc<dyn Inode>) -> Arc<Self> {
        let owns_files = root.names_are_constant();
        let read_only = AtomicBool::new(root.status().read_only);
        Arc::new(Self { kind, source, root: Dentry::root(root), read_only, owns_files })
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let device = self.root.inode().metadata().device;
        Dentry::forget_tree(&self.root);
        if self.owns_files {
            notify::file_system_gone(device);
            self.root.inode().unmounted();
        }
    }
}

/// A file system, or a part of one, with a place in the tree.
pub struct Mount {
    id: u32,
    fs: Arc<FileSystem>,
    root: Arc<Dentry>,
    /// [`MOUNT_FLAGS`].
    flags: AtomicU32,
    /// `None` for the root of the tree and for what hangs nowhere.
    at: IrqLock<Option<Path>>,
    /// Open files that may write.
    writers: AtomicUsize,
    /// Marked by umount2(2) with MNT_EXPIRE, and not used since.
    expiring: AtomicBool,
}

/// A place: the number of a mount, and the address of a dentry in it.
type Place = (u32, usize);

struct Table {
    /// All with a place, in the order of mounting.
    list: Vec<Arc<Mount>>,
    by_place: BTreeMap<Place, Arc<Mount>>,
}

static TABLE: IrqLock<Table> = IrqLock::new(Table { list: Vec::new(), by_place: BTreeMap::new() });

fn place_of(at: &Path) -> Place {
    (at.mount().id(), Arc::as_ptr(at.dentry()).addr())
}

impl Table {
    fn add(&mut self, mount: &Arc<Mount>, at: Path) -> Result<()> {
        if self.list.len() >= MAX_MOUNTS {
            return Err(Errno::ENOSPC);
        }
        let place = place_of(&at);
        if self.by_place.contains_key(&place) {
            return Err(Errno::EBUSY);
        }
        at.dentry().mounted_on();
        *mount.at.lock() = Some(at);
        self.by_place.insert(place, mount.clone());
        self.list.push(mount.clone());
        Ok(())
    }

    /// Takes a mount out; its place is handed back, to be dropped without the lock.
    fn remove(&mut self, mount: &Arc<Mount>) -> Option<Path> {
        let at = mount.at.lock().take()?;
        self.by_place.remove(&place_of(&at));
        self.list.retain(|other| !Arc::ptr_eq(other, mount));
        at.dentry().unmounted_from();
        Some(at)
    }

    /// The mounts whose places are in `mount`, below `top` of it.
    fn children(&self, mount: &Arc<Mount>, top: &Arc<Dentry>) -> Vec<Arc<Mount>> {
        let is_below = |child: &&Arc<Mount>| {
            child.at.lock().as_ref().is_some_and(|at| Arc::ptr_eq(at.mount(), mount) && top.contains(at.dentry()))
        };
        self.list.iter().filter(is_below).cloned().collect()
    }
}

impl Mount {
    fn new(fs: Arc<FileSystem>, root: Arc<Dentry>, flags: u32) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            fs,
            root,
            flags: AtomicU32::new(flags),
            at: IrqLock::new(None),
            writers: AtomicUsize::new(0),
            expiring: AtomicBool::new(false),
        })
    }

    /// The file system that everything else hangs in.
    pub fn root_of_all(fs: Arc<FileSystem>) -> Arc<Self> {
        let root = fs.root.clone();
        let mount = Self::new(fs, root, with_access_times(0));
        TABLE.lock().list.push(mount.clone());
        mount
    }

    /// A file system without a place, for files that have none.
    pub fn detached(fs: Arc<FileSystem>) -> Arc<Self> {
        let root = fs.root.clone();
        Self::new(fs, root, 0)
    }

    /// Hangs a file system at a place. ENOTDIR where one is a directory and the other is not, EBUSY where somebody
    /// else was faster, ENOSPC where there are too many.
    pub fn hang_at(fs: Arc<FileSystem>, at: &Path, flags: u32) -> Result<Arc<Self>> {
        let root = fs.root.clone();
        Self::hang(fs, root, at, with_access_times(flags))
    }

    fn hang(fs: Arc<FileSystem>, root: Arc<Dentry>, at: &Path, flags: u32) -> Result<Arc<Self>> {
        if (at.kind() == FileKind::Directory) != (root.kind() == FileKind::Directory) {
            return Err(Errno::ENOTDIR);
        }
        let mount = Self::new(fs, root, flags);
        TABLE.lock().add(&mount, at.clone())?;
        at.dentry().keep();
        Ok(mount)
    }

    /// Shows what is at `source` at another place as well; with `recursive` also what is mounted below it.
    pub fn bind(source: &Path, at: &Path, recursive: bool) -> Result<()> {
        let flags = source.mount().flags.load(Ordering::Relaxed);
        let below = if recursive { TABLE.lock().children(source.mount(), source.dentry()) } else { Vec::new() };
        let top = Self::hang(source.mount().fs.clone(), source.dentry().clone(), at, flags)?;
        let mut left: Vec<(Arc<Self>, Arc<Self>)> = below.into_iter().map(|child| (child, top.clone())).collect();
        while let Some((child, parent)) = left.pop() {
            let Some(place) = child.at() else { continue };
            // What was bound just now is not bound into itself.
            if Arc::ptr_eq(&child, &top) {
                continue;
            }
            let flags = child.flags.load(Ordering::Relaxed);
            let place = Path::new(parent, place.dentry().clone());
            let copy = Self::hang(child.fs.clone(), child.root.clone(), &place, flags)?;
            let below = TABLE.lock().children(&child, &child.root);
            left.extend(below.into_iter().map(|below| (below, copy.clone())));
        }
        Ok(())
    }

    /// Moves a mount with all below it to another place. EINVAL where it has none, or the place is in it; ELOOP.
    pub fn move_to(self: &Arc<Self>, at: &Path) -> Result<()> {
        if (at.kind() == FileKind::Directory) != (self.root.kind() == FileKind::Directory) {
            return Err(Errno::ENOTDIR);
        }
        let mut above = Some(at.mount().clone());
        while let Some(mount) = above {
            if Arc::ptr_eq(&mount, self) {
                return Err(Errno::ELOOP);
            }
            above = mount.at().map(|at| at.mount().clone());
        }
        let old = {
            let mut table = TABLE.lock();
            let old = table.remove(self).ok_or(Errno::EINVAL)?;
            if let Err(error) = table.add(self, at.clone()) {
                // It was there a moment ago, so there is room for it.
                let _ = table.add(self, old);
                return Err(error);
            }
            old
        };
        at.dentry().keep();
        old.dentry().let_go();
        Ok(())
    }

    /// What is mounted on a place.
    pub fn on(mount: &Arc<Self>, dentry: &Arc<Dentry>) -> Option<Arc<Self>> {
        if !dentry.is_mount_point() {
            return None;
        }
        TABLE.lock().by_place.get(&(mount.id, Arc::as_ptr(dentry).addr())).cloned()
    }

    /// Takes the mount at `path`, of which it is the root, out of the tree. With `detach` everything below goes with it,
    /// used or not; otherwise EBUSY where it is used. EINVAL where it is the root of the tree.
    pub fn unmount(path: Path, detach: bool) -> Result<()> {
        /// References to a mount that nobody uses: the two of the table, and `path`.
        const UNUSED: usize = 3;
        let mount = path.mount();
        // Outlive the lock: a file system may go with its last mount.
        let mut gone = Vec::new();
        let mut kept = Vec::new();
        {
            let mut table = TABLE.lock();
            if mount.at.lock().is_none() {
                return Err(Errno::EINVAL);
            }
            if !detach && Arc::strong_count(mount) > UNUSED {
                mount.expiring.store(false, Ordering::Relaxed);
                return Err(Errno::EBUSY);
            }
            let mut left = alloc::vec![mount.clone()];
            while let Some(mount) = left.pop() {
                left.extend(table.children(&mount, &mount.root));
                gone.extend(table.remove(&mount));
                kept.push(mount);
            }
        }
        gone.iter().for_each(|place| place.dentry().let_go());
        drop(kept);
        Ok(())
    }

    /// umount2(2) with MNT_EXPIRE: whether it was marked before and not used since.
    pub fn mark_expiring(&self) -> bool {
        self.expiring.swap(true, Ordering::Relaxed)
    }

    /// Changes the flags of a mount (MS_REMOUNT). With `whole` the file system itself becomes read-only or writable for
    /// all its mounts. EBUSY where that takes away what somebody has open for writing.
    pub fn remount(self: &Arc<Self>, flags: u32, whole: bool) -> Result<()> {
        let read_only = flags & linux::MS_RDONLY != 0;
        let writers = |mount: &Arc<Self>| mount.writers.load(Ordering::Relaxed) > 0;
        if whole {
            if read_only && Self::all().iter().any(|mount| Arc::ptr_eq(&mount.fs, &self.fs) && writers(mount)) {
                return Err(Errno::EBUSY);
            }
            if !read_only && self.fs.root.inode().status().read_only {
                return Err(Errno::EROFS);
            }
            self.fs.read_only.store(read_only, Ordering::Relaxed);
        } else if read_only && writers(self) {
            return Err(Errno::EBUSY);
        }
        let new = match flags & ACCESS_TIMES {
            // What is not asked for stays.
            0 => flags & MOUNT_FLAGS | self.flags.load(Ordering::Relaxed) & ACCESS_TIMES,
            _ => with_access_times(flags),
        };
        self.flags.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// All that have a place, in the order of mounting.
    pub fn all() -> Vec<Arc<Self>> {
        TABLE.lock().list.clone()
    }

    /// Its number in mountinfo and statx.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The type of file system, as in /proc/filesystems.
    pub fn kind(&self) -> &'static str {
        self.fs.kind
    }

    /// What it was mounted from.
    pub fn source(&self) -> &str {
        &self.fs.source
    }

    /// Its root directory, or the file that is bound.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// Where it hangs; `None` for the root of the tree and for what is detached.
    pub fn at(&self) -> Option<Path> {
        self.at.lock().clone()
    }

    /// Whether nothing can be written through it.
    pub fn is_read_only(&self) -> bool {
        self.has(linux::MS_RDONLY) || self.fs.read_only.load(Ordering::Relaxed)
    }

    /// Whether one of [`MOUNT_FLAGS`] is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// When reading a file, or a directory, through it notes the time.
    pub fn notes_access(&self, is_directory: bool) -> NoteAccess {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & linux::MS_NOATIME != 0 || is_directory && flags & linux::MS_NODIRATIME != 0 {
            NoteAccess::Never
        } else if flags & linux::MS_RELATIME != 0 {
            NoteAccess::Relative
        } else {
            NoteAccess::Always
        }
    }

    /// Its options as /proc/mounts shows them; with `whole` those of the file system, as mountinfo shows last.
    pub fn options(&self, whole: bool) -> String {
        let read_only = if whole { self.fs.read_only.load(Ordering::Relaxed) } else { self.is_read_only() };
        let mut text = String::from(if read_only { "ro" } else { "rw" });
        if whole {
            return text;
        }
        for (flag, name) in [
            (linux::MS_NOSUID, ",nosuid"),
            (linux::MS_NODEV, ",nodev"),
            (linux::MS_NOEXEC, ",noexec"),
            (linux::MS_NOATIME, ",noatime"),
            (linux::MS_NODIRATIME, ",nodiratime"),
            (linux::MS_RELATIME, ",relatime"),
            (linux::MS_NOSYMFOLLOW, ",nosymfollow"),
        ] {
            if self.has(flag) {
                text.push_str(name);
            }
        }
        text
    }

    /// What the file system was made with, as /proc/mounts shows it behind the options.
    pub fn settings(&self) -> String {
        self.fs.root.inode().mount_options()
    }

    /// An open file that may write came.
    pub fn writer_came(&self) {
        self.writers.fetch_add(1, Ordering::Relaxed);
    }

    /// It went.
    pub fn writer_left(&self) {
        self.writers.fetch_sub(1, Ordering::Relaxed);
    }
}
