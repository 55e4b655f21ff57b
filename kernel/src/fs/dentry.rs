//! The tree of names: which file has which place.
//!
//! A [`Dentry`] is one name in one directory and the inode behind it. Path walks ([`path`](super::path)) go from dentry
//! to dentry and reach a file system only for names that are not known yet. What is mounted where is in
//! [`mount`](super::mount).
//!
//! Directories whose names change only through this tree ([`Inode::names_are_constant`]: the root image and tmpfs)
//! keep every dentry, so that a walk over known names allocates nothing; a bounded number of names known to be absent
//! is kept as well, because an interpreter's import asks for many of those. Everything else (/proc, /sys, /dev) is
//! asked anew each time, and only mount points stay. A removed or replaced name leaves its dentry marked as deleted:
//! open files and working directories go on with it.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, Result, linux};

use super::{FileKind, Inode, notify};
use crate::sync::IrqLock;

/// The most absent names a directory remembers.
const MAX_ABSENT: usize = 128;

/// A name in the tree and the file it stands for.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    /// The inode's kind, which never changes.
    kind: FileKind,
    place: IrqLock<Place>,
    children: IrqLock<Children>,
    /// Mounts that hang here.
    mounts: AtomicU32,
    deleted: AtomicBool,
}

struct Place {
    name: Box<[u8]>,
    /// `None` for the root of a file system and for files without a place.
    parent: Option<Arc<Dentry>>,
}

enum Child {
    Present(Arc<Dentry>),
    Absent,
}

/// What came of a rename.
enum Renamed {
    Done,
    /// Both names stand for one file.
    SameFile,
    /// The names stand for something else by now: to be looked up again.
    NamesChanged,
}

struct Children {
    known: BTreeMap<Box<[u8]>, Child>,
    absent: usize,
    /// Counts changes: what was looked up before one is not kept after it.
    version: u64,
}

impl Children {
    fn put(&mut self, name: &[u8], child: Child) {
        self.remove(name);
        if matches!(child, Child::Absent) {
            if self.absent >= MAX_ABSENT {
                return;
            }
            self.absent += 1;
        }
        self.known.insert(name.into(), child);
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Dentry>> {
        match self.known.remove(name)? {
            Child::Present(dentry) => Some(dentry),
            Child::Absent => {
                self.absent -= 1;
                None
            }
        }
    }
}

impl Dentry {
    fn with_place(inode: Arc<dyn Inode>, name: &[u8], parent: Option<Arc<Self>>) -> Arc<Self> {
        let kind = inode.metadata().kind;
        Arc::new(Self {
            inode,
            kind,
            place: IrqLock::new(Place { name: name.into(), parent }),
            children: IrqLock::new(Children { known: BTreeMap::new(), absent: 0, version: 0 }),
            mounts: AtomicU32::new(0),
            deleted: AtomicBool::new(false),
        })
    }

    /// The root of a file system.
    pub fn root(inode: Arc<dyn Inode>) -> Arc<Self> {
        Self::with_place(inode, b"/", None)
    }

    /// A file that is in no file system's tree and is shown by this name alone.
    pub fn floating(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Self> {
        Self::with_place(inode, name, None)
    }

    /// A file of O_TMPFILE: as if it had been removed from `parent`.
    pub fn unlinked(inode: Arc<dyn Inode>, name: &[u8], parent: Arc<Self>) -> Arc<Self> {
        let dentry = Self::with_place(inode, name, Some(parent));
        dentry.deleted.store(true, Ordering::Relaxed);
        dentry
    }

    /// The file.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The file's kind.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whether the name was removed or replaced.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    /// The name and the directory it is in.
    pub fn place(&self) -> (Box<[u8]>, Option<Arc<Self>>) {
        let place = self.place.lock();
        (place.name.clone(), place.parent.clone())
    }

    /// The directory it is in; `None` for the root of a file system.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    /// The path from the root of the file system.
    pub fn path_in_file_system(self: &Arc<Self>) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.clone();
        while let (name, Some(parent)) = at.place() {
            names.push(name);
            at = parent;
        }
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.iter().rev().flat_map(|name| [b"/".as_slice(), name]).flatten().copied().collect()
    }

    /// Whether anything is mounted here, in any view of the directory it is in.
    pub fn is_mount_point(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    /// Something was mounted here.
    pub fn mounted_on(&self) {
        self.mounts.fetch_add(1, Ordering::Release);
    }

    /// What was mounted here is not any more.
    pub fn unmounted_from(&self) {
        self.mounts.fetch_sub(1, Ordering::Release);
    }

    /// Whether `self` is `other` or above it in the same file system.
    pub fn contains(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut at = Some(other.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// The entry `name` (never empty, `.` or `..`) of this directory.
    ///
    /// ENOENT where there is none; ENOTDIR where this is no directory.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>> {
        loop {
            let version = {
                let children = self.children.lock();
                match children.known.get(name) {
                    Some(Child::Present(dentry)) => return Ok(dentry.clone()),
                    Some(Child::Absent) => return Err(Errno::ENOENT),
                    None => children.version,
                }
            };
            let keep = self.inode.names_are_constant();
            match self.inode.lookup(name) {
                Ok(inode) => {
                    let dentry = Self::with_place(inode, name, Some(self.clone()));
                    if !keep {
                        return Ok(dentry);
                    }
                    let mut children = self.children.lock();
                    if let Some(Child::Present(other)) = children.known.get(name) {
                        return Ok(other.clone());
                    }
                    if children.version != version {
                        continue;
                    }
                    children.put(name, Child::Present(dentry.clone()));
                    return Ok(dentry);
                }
                Err(Errno::ENOENT) if keep => {
                    let mut children = self.children.lock();
                    if children.version == version && !children.known.contains_key(name) {
                        children.put(name, Child::Absent);
                    }
                    return Err(Errno::ENOENT);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs `operation` on the file system, then `record` on what is known of this directory if it succeeded. Both
    /// with the directory locked: of two changes of one name what is known is what the later one made of it. File
    /// systems do not block in them.
    fn change<T>(&self, operation: impl FnOnce() -> Result<T>, record: impl FnOnce(&mut Children, &T)) -> Result<T> {
        let mut children = self.children.lock();
        let value = operation()?;
        children.version += 1;
        record(&mut children, &value);
        Ok(value)
    }

    /// Whether `child`, which was looked up as `name`, still has that name. The directory is locked.
    fn still_has(&self, children: &Children, name: &[u8], child: &Arc<Self>) -> bool {
        match children.known.get(name) {
            Some(Child::Present(known)) => Arc::ptr_eq(known, child),
            _ => !self.inode.names_are_constant(),
        }
    }

    fn add(self: &Arc<Self>, name: &[u8], make: impl FnOnce() -> Result<Arc<dyn Inode>>) -> Result<Arc<Self>> {
        let keep = self.inode.names_are_constant();
        self.change(
            || Ok(Self::with_place(make()?, name, Some(self.clone()))),
            |children, dentry| {
                if keep {
                    children.put(name, Child::Present(dentry.clone()));
                }
            },
        )
    }

    /// Says that a name was added.
    fn added(&self, name: &[u8], dentry: Arc<Self>) -> Arc<Self> {
        notify::entry(&self.inode, name, linux::IN_CREATE, dentry.kind, 0);
        dentry
    }

    /// Makes a file; see [`Inode::create`].
    pub fn create(self: &Arc<Self>, name: &[u8], kind: FileKind, permissions: u32, rdev: u64) -> Result<Arc<Self>> {
        Ok(self.added(name, self.add(name, || self.inode.create(name, kind, permissions, rdev))?))
    }

    /// Makes a symbolic link.
    pub fn symlink(self: &Arc<Self>, name: &[u8], target: &[u8]) -> Result<Arc<Self>> {
        Ok(self.added(name, self.add(name, || self.inode.symlink(name, target))?))
    }

    /// Gives `target`'s file another name here.
    pub fn link(self: &Arc<Self>, name: &[u8], target: &Arc<dyn Inode>) -> Result<Arc<Self>> {
        let dentry = self.add(name, || {
            self.inode.link(name, target)?;
            Ok(target.clone())
        })?;
        notify::inode(target, linux::IN_ATTRIB);
        Ok(self.added(name, dentry))
    }

    /// Removes a name; see [`Inode::unlink`]. EBUSY for a mount point.
    pub fn unlink(self: &Arc<Self>, name: &[u8], directory: bool) -> Result<()> {
        // Held while the directory is locked, so that nothing is let go meanwhile.
        let child = loop {
            let child = self.lookup(name)?;
            if child.is_mount_point() {
                return Err(Errno::EBUSY);
            }
            let mut children = self.children.lock();
            if !self.still_has(&children, name, &child) {
                continue;
            }
            self.inode.unlink(name, directory)?;
            children.version += 1;
            children.remove(name);
            child.deleted.store(true, Ordering::Relaxed);
            drop(children);
            break child;
        };
        if !directory {
            notify::inode(&child.inode, linux::IN_ATTRIB);
        }
        let kind = child.kind;
        drop(child);
        notify::entry(&self.inode, name, linux::IN_DELETE, kind, 0);
        Ok(())
    }

    /// Moves `name` of this directory to `new_name` of `new_parent`, of the same file system; with `exchange` the two
    /// swap. What the file system decides by itself is in [`Inode::rename`]; decided here: EBUSY for mount points,
    /// EINVAL for moving a directory into itself, ENOTEMPTY for replacing what contains the moved one, and nothing at
    /// all where both names stand for the same file.
    pub fn rename(
        self: &Arc<Self>,
        name: &[u8],
        new_parent: &Arc<Self>,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<()> {
        /// Keeps two moves of directories from making a ring together. Taken over the file system's own rename,
        /// which does not block in the file systems there are.
        static MOVING: IrqLock<()> = IrqLock::new(());
        let (source, target) = loop {
            let source = self.lookup(name)?;
            let target = match new_parent.lookup(new_name) {
                Ok(target) => Some(target),
                Err(Errno::ENOENT) if !exchange => None,
                Err(error) => return Err(error),
            };
            let moving = MOVING.lock();
            match self.rename_found(name, &source, new_parent, new_name, target.as_ref(), exchange)? {
                Renamed::Done => {
                    drop(moving);
                    break (source, target);
                }
                Renamed::SameFile => return Ok(()),
                Renamed::NamesChanged => drop(moving),
            }
        };
        let moved = |from: &Arc<Self>, name: &[u8], to: &Arc<Self>, new_name: &[u8], what: &Arc<Self>| {
            let cookie = notify::new_cookie();
            notify::entry(&from.inode, name, linux::IN_MOVED_FROM, what.kind, cookie);
            notify::entry(&to.inode, new_name, linux::IN_MOVED_TO, what.kind, cookie);
        };
        moved(self, name, new_parent, new_name, &source);
        match &target {
            Some(target) if exchange => {
                notify::inode(&source.inode, linux::IN_MOVE_SELF);
                moved(new_parent, new_name, self, name, target);
                notify::inode(&target.inode, linux::IN_MOVE_SELF);
            }
            Some(target) => {
                notify::inode(&target.inode, linux::IN_ATTRIB);
                notify::inode(&source.inode, linux::IN_MOVE_SELF);
            }
            None => notify::inode(&source.inode, linux::IN_MOVE_SELF),
        }
        Ok(())
    }

    /// [`Dentry::rename`] of what was found by the names; one at a time.
    fn rename_found(
        self: &Arc<Self>,
        name: &[u8],
        source: &Arc<Self>,
        new_parent: &Arc<Self>,
        new_name: &[u8],
        target: Option<&Arc<Self>>,
        exchange: bool,
    ) -> Result<Renamed> {
        if source.contains(new_parent) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = target {
            if target.contains(self) {
                return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if Arc::ptr_eq(&source.inode, &target.inode) {
                return Ok(Renamed::SameFile);
            }
        }
        let busy = |dentry: &Arc<Self>| dentry.is_mount_point();
        if busy(source) || target.is_some_and(busy) {
            return Err(Errno::EBUSY);
        }
        // Both directories at once. They need no order: nothing else locks two, and one rename goes on at a time.
        let mut from = self.children.lock();
        let mut to = (!Arc::ptr_eq(self, new_parent)).then(|| new_parent.children.lock());
        let new_children = to.as_deref().unwrap_or(&from);
        let target_is_there = match target {
            Some(target) => new_parent.still_has(new_children, new_name, target),
            None => !matches!(new_children.known.get(new_name), Some(Child::Present(_))),
        };
        if !target_is_there || !self.still_has(&from, name, source) {
            return Ok(Renamed::NamesChanged);
        }
        self.inode.rename(name, &new_parent.inode, new_name, exchange)?;
        let settle = |children: &mut Children, directory: &Arc<Self>, name: &[u8], now: Option<&Arc<Self>>| {
            children.version += 1;
            children.remove(name);
            if let Some(dentry) = now {
                children.put(name, Child::Present(dentry.clone()));
                let mut place = dentry.place.lock();
                place.name = name.into();
                place.parent = Some(directory.clone());
            }
        };
        settle(&mut from, self, name, target.filter(|_| exchange));
        settle(to.as_deref_mut().unwrap_or(&mut from), new_parent, new_name, Some(source));
        if let (Some(target), false) = (target, exchange) {
            target.deleted.store(true, Ordering::Relaxed);
        }
        Ok(Renamed::Done)
    }

    /// Keeps this dentry where its directory would ask anew for the name: something is mounted here.
    pub fn keep(self: &Arc<Self>) {
        if let (name, Some(parent)) = self.place()
            && !parent.inode.names_are_constant()
        {
            parent.children.lock().put(&name, Child::Present(self.clone()));
        }
    }

    /// Undoes [`keep`](Self::keep) once nothing is mounted here any more.
    pub fn let_go(self: &Arc<Self>) {
        if let (name, Some(parent)) = self.place()
            && !parent.inode.names_are_constant()
            && !self.is_mount_point()
        {
            let kept = parent.children.lock().remove(&name);
            drop(kept);
        }
    }

    /// Forgets all that is known below `root`, whose file system is used no more. Dentries refer to their directories
    /// and directories to what is in them, so nothing would go by itself; and it goes one by one, because a tree may be
    /// deeper than the stack.
    pub fn forget_tree(root: &Arc<Self>) {
        let mut left = alloc::vec![root.clone()];
        while let Some(dentry) = left.pop() {
            let known = core::mem::take(&mut dentry.children.lock().known);
            left.extend(known.into_values().filter_map(|child| match child {
                Child::Present(dentry) => Some(dentry),
                Child::Absent => None,
            }));
        }
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        notify::place_forgotten(&self.inode);
        // The directories above that only this name kept go one after the other: removed ones may be more than the stack
        // has room for.
        let mut above = self.place.lock().parent.take();
        while let Some(directory) = above.and_then(Arc::into_inner) {
            above = directory.place.lock().parent.take();
        }
    }
}
