//! tmpfs: a file system in memory, complete as programs see it.
//!
//! A [`TmpInode`] is a file of any kind; a directory's entries hold its files, an open file or a mapping holds them
//! too, and the last reference frees pages and inode. Directory positions are numbers given to entries in the order of
//! their making and never used again, so that a listing survives any change beside it. [`new`] makes a file system,
//! [`unlinked_file`] a file without a name for memfd_create(2).
//!
//! Locks: `structure` before directories (by inode number where two are taken), those before attributes and content.

mod budget;
mod pages;

use alloc::{
    collections::BTreeMap,
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use abi::{Errno, Result, linux};
use hal::PhysAddr;

use self::{
    budget::Budget,
    pages::{PAGE, Pages},
};
use super::{
    AttributeChange, DirectoryEntry, FileKind, FileOps, FileSystemStatus, FileTime, Inode, Metadata, OpenFlags,
    ReadBuffer, WriteBuffer, devfs,
    extended_attributes::{self, Store},
    permission, pipe,
    virtual_files::next_device,
};
use crate::{
    mm::{
        frames::FrameRef,
        object::{Mappers, VmObject, WriteGrant},
    },
    sync::{IrqLock, Lazy},
    task::wait::Turn,
    time,
};
pub use budget::total_pages as pages_used;

/// statfs(2)'s magic number.
const MAGIC: u64 = 0x0102_1994;
/// Entries a listing copies out at a time.
const LIST_BATCH: usize = 64;
/// Size of a directory without entries, and what each entry adds: as Linux's tmpfs reports it.
const EMPTY_DIRECTORY_SIZE: u64 = 40;
const ENTRY_SIZE: u64 = 20;

struct Instance {
    budget: Arc<Budget>,
    /// What it was made with.
    shown: String,
    device: u64,
    next_inode: AtomicU64,
    /// Taken by what locks several directories: rename and rmdir.
    structure: IrqLock<()>,
}

/// A file of a tmpfs.
pub struct TmpInode {
    fs: Arc<Instance>,
    number: u64,
    kind: FileKind,
    rdev: u64,
    attributes: IrqLock<Attributes>,
    extended: IrqLock<Store>,
    /// When it was made.
    created: FileTime,
    write_hint: AtomicU64,
    writing: Turn,
    /// Whether it may get a name though it has none (O_TMPFILE).
    linkable: AtomicBool,
    content: Content,
    this: Weak<Self>,
}

struct Attributes {
    permissions: u32,
    uid: u32,
    gid: u32,
    links: u32,
    accessed: FileTime,
    modified: FileTime,
    changed: FileTime,
}

enum Content {
    File(Pages),
    Directory(IrqLock<Directory>),
    Symlink(Vec<u8>),
    Fifo(pipe::Fifo),
    /// Devices and sockets: what they do is elsewhere.
    Special,
}

#[derive(Default)]
struct Directory {
    entries: BTreeMap<Arc<[u8]>, Entry>,
    /// Names by position.
    order: BTreeMap<u64, Arc<[u8]>>,
    last_position: u64,
    /// Removed from its parent: nothing can be made in it any more.
    removed: bool,
}

struct Entry {
    position: u64,
    inode: Arc<TmpInode>,
}

impl Directory {
    fn find(&self, name: &[u8]) -> Result<&Arc<TmpInode>> {
        self.entries.get(name).map(|entry| &entry.inode).ok_or(Errno::ENOENT)
    }

    fn insert(&mut self, name: &[u8], inode: Arc<TmpInode>) {
        self.last_position += 1;
        let position = self.last_position;
        let name: Arc<[u8]> = name.into();
        self.order.insert(position, name.clone());
        self.entries.insert(name, Entry { position, inode });
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<TmpInode>> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&entry.position);
        Some(entry.inode)
    }
}

fn instance(budget: Budget, shown: String) -> Arc<Instance> {
    Arc::new(Instance {
        budget: Arc::new(budget),
        shown,
        device: next_device(),
        next_inode: AtomicU64::new(1),
        structure: IrqLock::new(()),
    })
}

/// What a file system is made with (tmpfs(5)).
#[derive(Default)]
pub struct Settings {
    /// Permission bits of the root directory.
    pub permissions: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The most pages of 4 KiB; `None` for half the memory.
    pub max_pages: Option<usize>,
    /// The most inodes; `None` for as many.
    pub max_inodes: Option<usize>,
    /// All that, as /proc/mounts shows it.
    pub shown: String,
}

/// Makes an empty file system and answers its root directory.
pub fn new(permissions: u32) -> Result<Arc<dyn Inode>> {
    with_settings(Settings { permissions, ..Settings::default() })
}

/// Makes an empty file system with these settings and answers its root directory.
pub fn with_settings(settings: Settings) -> Result<Arc<dyn Inode>> {
    let fs = instance(Budget::new(settings.max_pages, settings.max_inodes), settings.shown);
    let content = Content::Directory(IrqLock::new(Directory::default()));
    let root = TmpInode::make(&fs, FileKind::Directory, settings.permissions, 0, content)?;
    {
        let mut attributes = root.attributes.lock();
        (attributes.uid, attributes.gid) = (settings.uid, settings.gid);
    }
    Ok(root)
}

static UNNAMED: Lazy<Arc<Instance>> = Lazy::new(|| instance(Budget::new(None, None), String::new()));

/// A regular file without a name in a file system without directories; `seals` are F_SEAL_ bits.
pub fn unlinked_file(permissions: u32, seals: u32) -> Result<Arc<TmpInode>> {
    let inode = TmpInode::make(
        &UNNAMED,
        FileKind::Regular,
        permissions,
        0,
        Content::File(Pages::new(seals, UNNAMED.budget.clone())),
    )?;
    let user = permission::acting();
    let mut attributes = inode.attributes.lock();
    (attributes.uid, attributes.gid) = (user.user.file, user.group.file);
    attributes.links = 0;
    drop(attributes);
    Ok(inode)
}

impl TmpInode {
    fn make(fs: &Arc<Instance>, kind: FileKind, permissions: u32, rdev: u64, content: Content) -> Result<Arc<Self>> {
        fs.budget.take_inode()?;
        let now = time::now_file_time();
        Ok(Arc::new_cyclic(|this| Self {
            fs: fs.clone(),
            number: fs.next_inode.fetch_add(1, Ordering::Relaxed),
            kind,
            rdev,
            attributes: IrqLock::new(Attributes {
                permissions: permissions & 0o7777,
                uid: 0,
                gid: 0,
                links: if kind == FileKind::Directory { 2 } else { 1 },
                accessed: now,
                modified: now,
                changed: now,
            }),
            extended: IrqLock::new(Store::default()),
            created: now,
            write_hint: AtomicU64::new(0),
            writing: Turn::new(),
            linkable: AtomicBool::new(false),
            content,
            this: this.clone(),
        }))
    }

    /// The seals of a regular file (memfd_create(2)); EINVAL for other kinds.
    pub fn seals(&self) -> Result<u32> {
        Ok(self.pages().ok_or(Errno::EINVAL)?.seals())
    }

    /// Adds seals; EPERM where sealing is over, EBUSY where a mapping is in the way.
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        let permissions = self.attributes.lock().permissions;
        self.pages().ok_or(Errno::EINVAL)?.add_seals(seals, permissions)
    }

    fn pages(&self) -> Option<&Pages> {
        match &self.content {
            Content::File(pages) => Some(pages),
            _ => None,
        }
    }

    fn directory(&self) -> Result<&IrqLock<Directory>> {
        match &self.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// `inode` as a file of this same file system; EXDEV otherwise.
    fn sibling<'a>(&self, inode: &'a Arc<dyn Inode>) -> Result<&'a Self> {
        let any: &dyn Any = inode.as_ref();
        any.downcast_ref::<Self>().filter(|other| Arc::ptr_eq(&other.fs, &self.fs)).ok_or(Errno::EXDEV)
    }

    fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Content changed.
    fn touch(&self) {
        let now = time::now_file_time();
        let mut attributes = self.attributes.lock();
        (attributes.modified, attributes.changed) = (now, now);
    }

    fn change_links(&self, by: i32) {
        let mut attributes = self.attributes.lock();
        attributes.links = attributes.links.saturating_add_signed(by);
        attributes.changed = time::now_file_time();
    }

    fn add(&self, name: &[u8], make: impl FnOnce() -> Result<Arc<Self>>) -> Result<Arc<Self>> {
        let directory = self.directory()?;
        // Made before the lock: it takes memory. Given up again where the name is taken.
        let inode = make()?;
        {
            let mut directory = directory.lock();
            if directory.removed {
                return Err(Errno::ENOENT);
            }
            if directory.find(name).is_ok() {
                return Err(Errno::EEXIST);
            }
            directory.insert(name, inode.clone());
        }
        if inode.is_directory() {
            self.change_links(1);
        }
        self.touch();
        Ok(inode)
    }

    /// Gives a new file in this directory to who makes it.
    fn inherit(&self, inode: &Arc<Self>) {
        let made = inode.attributes.lock().permissions;
        let (uid, gid, permissions) = permission::of_new_file(&self.metadata(), inode.kind, made);
        let mut attributes = inode.attributes.lock();
        (attributes.uid, attributes.gid, attributes.permissions) = (uid, gid, permissions);
    }

    /// Marks a directory as removed if it is empty; ENOTEMPTY otherwise. Nothing for other files.
    fn retire(&self) -> Result<()> {
        if let Content::Directory(directory) = &self.content {
            let mut directory = directory.lock();
            if !directory.entries.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            directory.removed = true;
        }
        Ok(())
    }

    /// A name of this file went.
    fn unnamed(&self) {
        if self.is_directory() {
            let mut attributes = self.attributes.lock();
            attributes.links = 0;
            attributes.changed = time::now_file_time();
        } else {
            self.change_links(-1);
        }
    }

    /// rename(2) in locked directories; `to` is `None` where both are the same. Answers the file moved, and the one
    /// that was at the new name.
    fn rename_locked(
        from: &mut Directory,
        to: Option<&mut Directory>,
        name: &[u8],
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(Arc<Self>, Option<Arc<Self>>)> {
        let source = from.find(name)?.clone();
        let known_target = to.as_deref().unwrap_or(from);
        if known_target.removed {
            return Err(Errno::ENOENT);
        }
        let target = known_target.find(new_name).ok().cloned();
        if let Some(target) = &target
            && !exchange
        {
            if source.is_directory() && !target.is_directory() {
                return Err(Errno::ENOTDIR);
            }
            if !source.is_directory() && target.is_directory() {
                return Err(Errno::EISDIR);
            }
            target.retire()?;
        }
        from.remove(name);
        match to {
            Some(to) => {
                to.remove(new_name);
                to.insert(new_name, source.clone());
            }
            None => {
                from.remove(new_name);
                from.insert(new_name, source.clone());
            }
        }
        if let Some(target) = &target
            && exchange
        {
            from.insert(name, target.clone());
        }
        Ok((source, target))
    }
}

impl Inode for TmpInode {
    fn metadata(&self) -> Metadata {
        let (size, blocks) = match &self.content {
            Content::File(pages) => {
                let (size, present) = pages.size();
                (size, present * (PAGE / 512))
            }
            Content::Directory(directory) => {
                (EMPTY_DIRECTORY_SIZE + ENTRY_SIZE * directory.lock().entries.len() as u64, 0)
            }
            Content::Symlink(target) => (target.len() as u64, 0),
            Content::Fifo(_) | Content::Special => (0, 0),
        };
        let attributes = self.attributes.lock();
        Metadata {
            device: self.fs.device,
            inode: self.number,
            kind: self.kind,
            permissions: attributes.permissions,
            links: attributes.links,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: self.rdev,
            size,
            blocks,
            accessed: attributes.accessed,
            modified: attributes.modified,
            changed: attributes.changed,
            created: Some(self.created),
        }
    }

    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        if self.kind == FileKind::Symlink && change.permissions.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let now = time::now_file_time();
        let mut attributes = self.attributes.lock();
        if change.uid.is_some() || change.gid.is_some() {
            attributes.uid = change.uid.unwrap_or(attributes.uid);
            attributes.gid = change.gid.unwrap_or(attributes.gid);
        }
        if let Some(permissions) = change.permissions {
            let sealed = self.pages().is_some_and(|pages| pages.seals() & linux::F_SEAL_EXEC != 0);
            if sealed && (permissions ^ attributes.permissions) & 0o111 != 0 {
                return Err(Errno::EPERM);
            }
            attributes.permissions = permissions & 0o7777;
        }
        attributes.accessed = change.accessed.unwrap_or(attributes.accessed);
        attributes.modified = change.modified.unwrap_or(attributes.modified);
        attributes.changed = now;
        Ok(())
    }

    fn status(&self) -> FileSystemStatus {
        let budget = &self.fs.budget;
        FileSystemStatus {
            magic: MAGIC,
            block_size: PAGE,
            blocks: budget.max_pages as u64,
            free: budget.free_pages() as u64,
            files: budget.max_inodes as u64,
            free_files: budget.free_inodes() as u64,
            read_only: false,
        }
    }

    fn names_are_constant(&self) -> bool {
        true
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let inode = self.directory()?.lock().find(name)?.clone();
        Ok(inode)
    }

    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let directory = self.directory()?;
        let mut position = position;
        loop {
            let batch: Vec<(u64, Arc<[u8]>, u64, FileKind)> = {
                let directory = directory.lock();
                let entries = directory.order.range(position.saturating_add(1)..).take(LIST_BATCH);
                entries
                    .filter_map(|(position, name)| {
                        let inode = &directory.entries.get(name)?.inode;
                        Some((*position, name.clone(), inode.number, inode.kind))
                    })
                    .collect()
            };
            let Some((last, ..)) = batch.last() else { return Ok(()) };
            position = *last;
            for (next, name, inode, kind) in &batch {
                if !visit(DirectoryEntry { name, inode: *inode, kind: *kind, next: *next }) {
                    return Ok(());
                }
            }
        }
    }

    fn create(&self, name: &[u8], kind: FileKind, permissions: u32, rdev: u64) -> Result<Arc<dyn Inode>> {
        let inode = self.add(name, || {
            let content = match kind {
                FileKind::Regular => Content::File(Pages::new(linux::F_SEAL_SEAL, self.fs.budget.clone())),
                FileKind::Directory => Content::Directory(IrqLock::new(Directory::default())),
                FileKind::Symlink | FileKind::Anonymous => return Err(Errno::EINVAL),
                FileKind::Fifo => Content::Fifo(pipe::Fifo::new()),
                FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket => Content::Special,
            };
            let inode = Self::make(&self.fs, kind, permissions, rdev, content)?;
            self.inherit(&inode);
            Ok(inode)
        })?;
        Ok(inode)
    }

    fn create_unlinked(&self, permissions: u32, linkable: bool) -> Result<Arc<dyn Inode>> {
        self.directory()?;
        let content = Content::File(Pages::new(linux::F_SEAL_SEAL, self.fs.budget.clone()));
        let inode = Self::make(&self.fs, FileKind::Regular, permissions, 0, content)?;
        self.inherit(&inode);
        inode.attributes.lock().links = 0;
        inode.linkable.store(linkable, Ordering::Relaxed);
        Ok(inode)
    }

    fn symlink(&self, name: &[u8], target: &[u8]) -> Result<Arc<dyn Inode>> {
        let inode = self.add(name, || {
            let inode = Self::make(&self.fs, FileKind::Symlink, 0o777, 0, Content::Symlink(target.into()))?;
            self.inherit(&inode);
            Ok(inode)
        })?;
        Ok(inode)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let inode = self.sibling(target)?;
        if inode.is_directory() {
            return Err(Errno::EPERM);
        }
        if inode.attributes.lock().links == 0 && !inode.linkable.load(Ordering::Relaxed) {
            return Err(Errno::ENOENT);
        }
        let inode = inode.this.upgrade().ok_or(Errno::ENOENT)?;
        self.add(name, || Ok(inode.clone()))?;
        inode.linkable.store(false, Ordering::Relaxed);
        inode.change_links(1);
        Ok(())
    }

    fn unlink(&self, name: &[u8], directory: bool) -> Result<()> {
        let _structure = directory.then(|| self.fs.structure.lock());
        let removed = {
            let mut entries = self.directory()?.lock();
            let inode = entries.find(name)?;
            match (inode.is_directory(), directory) {
                (true, false) => return Err(Errno::EISDIR),
                (false, true) => return Err(Errno::ENOTDIR),
                _ => {}
            }
            inode.retire()?;
            entries.remove(name)
        };
        if let Some(inode) = removed {
            inode.unnamed();
        }
        if directory {
            self.change_links(-1);
        }
        self.touch();
        Ok(())
    }

    fn rename(&self, name: &[u8], new_parent: &Arc<dyn Inode>, new_name: &[u8], exchange: bool) -> Result<()> {
        let other = self.sibling(new_parent)?;
        let _structure = self.fs.structure.lock();
        let (here, there) = (self.directory()?, other.directory()?);
        let (source, target) = if core::ptr::eq(self, other) {
            Self::rename_locked(&mut here.lock(), None, name, new_name, exchange)?
        } else if self.number < other.number {
            let mut from = here.lock();
            let mut to = there.lock();
            Self::rename_locked(&mut from, Some(&mut to), name, new_name, exchange)?
        } else {
            let mut to = there.lock();
            let mut from = here.lock();
            Self::rename_locked(&mut from, Some(&mut to), name, new_name, exchange)?
        };
        let moved = |inode: &Self, from: &Self, to: &Self| {
            if inode.is_directory() {
                from.change_links(-1);
                to.change_links(1);
            }
            inode.change_links(0);
        };
        moved(&source, self, other);
        match &target {
            Some(target) if exchange => moved(target, other, self),
            Some(target) => {
                if target.is_directory() {
                    other.change_links(-1);
                }
                target.unnamed();
            }
            None => {}
        }
        self.touch();
        other.touch();
        Ok(())
    }

    fn mount_options(&self) -> String {
        match self.fs.shown.as_str() {
            "" => String::new(),
            shown => format!(",{shown}"),
        }
    }

    fn unmounted(&self) {
        // One by one, since a tree may be deeper than the stack.
        let mut left: Vec<Arc<Self>> = self.this.upgrade().into_iter().collect();
        while let Some(inode) = left.pop() {
            if let Content::Directory(directory) = &inode.content {
                let entries = {
                    let mut directory = directory.lock();
                    directory.removed = true;
                    directory.order.clear();
                    core::mem::take(&mut directory.entries)
                };
                left.extend(entries.into_values().map(|entry| entry.inode));
            }
        }
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        self.pages().ok_or(Errno::EINVAL)?.read_at(offset, buffer)
    }

    fn note_access(&self, always: bool) {
        const DAY_S: i64 = 24 * 3600;
        let now = time::now_file_time();
        let mut attributes = self.attributes.lock();
        let key = |time: FileTime| (time.seconds, time.nanoseconds);
        let newest = key(attributes.modified).max(key(attributes.changed));
        let last = attributes.accessed;
        if always || key(last) <= newest || now.seconds.saturating_sub(last.seconds) >= DAY_S {
            attributes.accessed = now;
        }
    }

    fn write_at(&self, offset: u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let written = self.pages().ok_or(Errno::EINVAL)?.write_at(offset, buffer)?;
        self.touch();
        Ok(written)
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.pages().ok_or(Errno::EINVAL)?.seek_data(offset, hole)
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.pages().ok_or(Errno::ENODEV)?.allocate(mode, offset, len)?;
        self.touch();
        Ok(())
    }

    fn writing(&self) -> Option<&Turn> {
        Some(&self.writing)
    }

    fn write_hint(&self) -> u64 {
        self.write_hint.load(Ordering::Relaxed)
    }

    fn set_write_hint(&self, hint: u64) {
        self.write_hint.store(hint, Ordering::Relaxed);
    }

    fn extended_attribute(&self, name: &[u8]) -> Result<Vec<u8>> {
        extended_attributes::check_name(name)?;
        self.extended.lock().get(name)
    }

    fn extended_attribute_names(&self) -> Result<Vec<u8>> {
        Ok(self.extended.lock().names())
    }

    fn set_extended_attribute(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        extended_attributes::check_name(name)?;
        let cost = Store::cost(name, value);
        self.fs.budget.take_attribute(cost)?;
        let replaced = self.extended.lock().set(name, value, flags);
        self.fs.budget.release_attribute(replaced.unwrap_or(cost));
        replaced?;
        self.attributes.lock().changed = time::now_file_time();
        Ok(())
    }

    fn remove_extended_attribute(&self, name: &[u8]) -> Result<()> {
        extended_attributes::check_name(name)?;
        let cost = self.extended.lock().remove(name)?;
        self.fs.budget.release_attribute(cost);
        self.attributes.lock().changed = time::now_file_time();
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<()> {
        match &self.content {
            Content::File(pages) => pages.truncate(size)?,
            Content::Directory(_) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        self.touch();
        Ok(())
    }

    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        self.pages()?;
        Some(self.this.upgrade()?)
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        match (&self.content, self.kind) {
            (Content::Fifo(fifo), _) => fifo.open(flags).map(Some),
            (_, FileKind::CharDevice | FileKind::BlockDevice) => {
                devfs::open_device(self.kind, self.rdev, flags).map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl VmObject for TmpInode {
    fn page(&self, index: u64) -> Result<FrameRef> {
        self.pages().ok_or(Errno::ENXIO)?.page(index)
    }

    fn holds(&self, index: u64, frame: PhysAddr) -> bool {
        self.pages().is_some_and(|pages| pages.holds(index, frame))
    }

    fn grant_writes(self: Arc<Self>) -> Result<WriteGrant> {
        self.pages().ok_or(Errno::EPERM)?.grant_writes(self.clone())
    }

    fn mappers(&self) -> Option<&Mappers> {
        self.pages().map(Pages::mappers)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.pages().ok_or(Errno::EOPNOTSUPP)?.punch(range.start, range.end)?;
        self.touch();
        Ok(())
    }

    fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.fs.budget.release_attribute(self.extended.lock().total_cost());
        self.fs.budget.release_inode();
    }
}
