//! Files and directories whose content is made when asked for: the building blocks of /proc, /sys and /dev.
//!
//! A [`VirtualDirectory`] holds fixed entries; a [`TextFile`] makes its bytes when it is read and may take writes. What
//! changes by itself (the processes of /proc) implements [`Inode`] on its own.

use alloc::{borrow::ToOwned, boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use abi::{Errno, Result, linux};

use super::{
    DirectoryEntry, FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, ReadBuffer, WriteBuffer,
};
use crate::sync::{IrqLock, PlainLock};

/// What every inode of one virtual file system shares.
#[derive(Clone, Copy)]
pub struct VirtualFs {
    /// `st_dev`.
    pub device: u64,
    /// The magic number of statfs(2).
    pub magic: u64,
}

impl VirtualFs {
    /// What statfs(2) tells.
    pub const fn status(self) -> FileSystemStatus {
        FileSystemStatus {
            magic: self.magic,
            block_size: 4096,
            blocks: 0,
            free: 0,
            files: 0,
            free_files: 0,
            read_only: false,
        }
    }
}

/// A fresh inode number for a virtual file.
pub fn next_inode() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A fresh `st_dev` for a file system without a device.
pub fn next_device() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    device_number(0, NEXT.fetch_add(1, Ordering::Relaxed) as u32)
}

/// A directory with entries that the kernel adds.
pub struct VirtualDirectory {
    fs: VirtualFs,
    inode: u64,
    entries: IrqLock<BTreeMap<Vec<u8>, Arc<dyn Inode>>>,
}

impl VirtualDirectory {
    /// An empty directory.
    pub fn new(fs: VirtualFs) -> Arc<Self> {
        Arc::new(Self { fs, inode: next_inode(), entries: IrqLock::new(BTreeMap::new()) })
    }

    /// Adds or replaces an entry.
    pub fn add(&self, name: &str, inode: Arc<dyn Inode>) {
        self.entries.lock().insert(name.as_bytes().to_owned(), inode);
    }

    /// Removes an entry, if it is there.
    pub fn remove(&self, name: &str) {
        let removed = self.entries.lock().remove(name.as_bytes());
        drop(removed);
    }

    /// Adds a directory, or returns the one that is there.
    pub fn add_directory(&self, name: &str) -> Arc<Self> {
        if let Some(inode) = self.entries.lock().get(name.as_bytes()).cloned()
            && let Ok(directory) = Arc::downcast::<Self>(inode as Arc<dyn core::any::Any + Send + Sync>)
        {
            return directory;
        }
        let directory = Self::new(self.fs);
        self.add(name, directory.clone());
        directory
    }

    /// Adds a read-only file whose bytes `make` produces when it is read.
    pub fn add_text(&self, name: &str, make: impl Fn() -> Vec<u8> + Send + Sync + 'static) {
        self.add(name, TextFile::new(self.fs, 0o444, Make::Text(Box::new(make)), None));
    }

    /// Adds a read-only file with a line for each of many things, which `write` writes when it is read. Reading it is
    /// ENOMEM where there are too many.
    pub fn add_listing(&self, name: &str, write: impl Fn(&mut Listing) -> fmt::Result + Send + Sync + 'static) {
        self.add(name, TextFile::new(self.fs, 0o444, Make::Listing(Box::new(write)), None));
    }

    /// Adds a file that also takes writes, each write call whole.
    pub fn add_control(
        &self,
        name: &str,
        make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
        take: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) {
        self.add(name, TextFile::new(self.fs, 0o644, Make::Text(Box::new(make)), Some(Box::new(take))));
    }

    /// Adds such a file for its owner alone.
    pub fn add_private_listing(&self, name: &str, write: impl Fn(&mut Listing) -> fmt::Result + Send + Sync + 'static) {
        self.add(name, TextFile::new(self.fs, 0o400, Make::Listing(Box::new(write)), None));
    }

    /// Adds a file for its owner alone, whose bytes `make` produces when it is read, and that takes writes, each write call
    /// whole.
    pub fn add_private_control(
        &self,
        name: &str,
        make: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        take: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) {
        self.add(name, TextFile::new(self.fs, 0o600, Make::Bytes(Box::new(make)), Some(Box::new(take))));
    }

    /// Adds a symbolic link with a fixed target.
    pub fn add_link(&self, name: &str, target: &str) {
        self.add(name, VirtualLink::new(self.fs, target.as_bytes().to_owned()));
    }
}

impl Inode for VirtualDirectory {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(self.fs.device, self.inode, FileKind::Directory, 0o555);
        metadata.links = 2;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        self.fs.status()
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.entries.lock().get(name).cloned().ok_or(Errno::ENOENT)
    }
    fn names_are_refused(&self) -> (Errno, Errno) {
        (Errno::EPERM, Errno::EPERM)
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let entries: Vec<(Vec<u8>, Arc<dyn Inode>)> =
            self.entries.lock().iter().map(|(name, inode)| (name.clone(), inode.clone())).collect();
        for (index, (name, inode)) in entries.iter().enumerate().skip(position as usize) {
            let metadata = inode.metadata();
            let next = index as u64 + 1;
            if !visit(DirectoryEntry { name, inode: metadata.inode, kind: metadata.kind, next }) {
                break;
            }
        }
        Ok(())
    }
}

/// A text as long as what it tells of, and so maybe longer than there is memory for: writing fails then.
pub struct Listing(String);

impl Write for Listing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(text);
        Ok(())
    }
}

/// Makes a virtual file's bytes.
pub enum Make {
    /// Gives a text.
    Text(Box<dyn Fn() -> Vec<u8> + Send + Sync>),
    /// Gives bytes, where it can.
    Bytes(Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>),
    /// Writes a text.
    Listing(Box<dyn Fn(&mut Listing) -> fmt::Result + Send + Sync>),
}

impl Make {
    fn make(&self) -> Result<Vec<u8>> {
        match self {
            Self::Text(make) => Ok(make()),
            Self::Bytes(make) => make(),
            Self::Listing(write) => {
                let mut listing = Listing(String::new());
                write(&mut listing).map_err(|_| Errno::ENOMEM)?;
                Ok(listing.0.into_bytes())
            }
        }
    }
}

/// Takes the bytes of one write call.
pub type Take = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

/// A file whose bytes are made when it is read from its beginning.
pub struct TextFile {
    fs: VirtualFs,
    inode: u64,
    permissions: u32,
    make: Arc<Make>,
    take: Option<Arc<Take>>,
}

impl TextFile {
    /// A file with these permissions; writes go to `take`.
    pub fn new(fs: VirtualFs, permissions: u32, make: Make, take: Option<Take>) -> Arc<Self> {
        Arc::new(Self { fs, inode: next_inode(), permissions, make: Arc::new(make), take: take.map(Arc::new) })
    }
}

impl Inode for TextFile {
    fn metadata(&self) -> Metadata {
        Metadata::new(self.fs.device, self.inode, FileKind::Regular, self.permissions)
    }
    fn status(&self) -> FileSystemStatus {
        self.fs.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        if self.take.is_some() { Ok(()) } else { Err(Errno::EACCES) }
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if flags.writable() && self.take.is_none() {
            return Err(Errno::EACCES);
        }
        let make = self.make.clone();
        Ok(Some(Arc::new(OpenText::new(Box::new(move || make.make()), self.take.clone()))))
    }
}

/// What an open file with the bytes that `make` gives does; writes go to `take`.
pub fn open_text(make: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static, take: Option<Take>) -> Arc<dyn FileOps> {
    Arc::new(OpenText::new(Box::new(make), take.map(Arc::new)))
}

type Remake = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;

struct OpenText {
    make: Remake,
    /// As it was when it was last read from its beginning.
    content: PlainLock<Option<Arc<Vec<u8>>>>,
    take: Option<Arc<Take>>,
}

impl OpenText {
    const fn new(make: Remake, take: Option<Arc<Take>>) -> Self {
        Self { make, content: PlainLock::new(None), take }
    }

    /// What a read at `position` is of: who reads in pieces gets the pieces of one text, who goes back to the beginning
    /// a new one.
    fn content(&self, position: u64) -> Result<Arc<Vec<u8>>> {
        let kept = if position > 0 { self.content.lock().clone() } else { None };
        match kept {
            Some(content) => Ok(content),
            None => {
                let content = Arc::new((self.make)()?);
                let old = self.content.lock().replace(content.clone());
                drop(old);
                Ok(content)
            }
        }
    }
}

/// The most one write call may hand to a control file.
const MAX_CONTROL_WRITE: usize = 4096;

impl FileOps for OpenText {
    fn read(&self, _file: &OpenFile, position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let content = self.content(*position)?;
        let rest = usize::try_from(*position).ok().and_then(|start| content.get(start..)).unwrap_or(&[]);
        let copied = if rest.is_empty() { 0 } else { buffer.put(rest)? };
        *position += copied as u64;
        Ok(copied)
    }
    fn write(&self, _file: &OpenFile, position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let Some(take) = &self.take else { return Err(Errno::EACCES) };
        if buffer.remaining() > MAX_CONTROL_WRITE {
            return Err(Errno::EINVAL);
        }
        let mut bytes = alloc::vec![0; buffer.remaining()];
        let len = buffer.take(&mut bytes)?;
        take(&bytes[..len])?;
        *position += len as u64;
        Ok(len)
    }
    fn is_seekable(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// A symbolic link with a fixed target.
pub struct VirtualLink {
    fs: VirtualFs,
    inode: u64,
    target: Vec<u8>,
}

impl VirtualLink {
    /// A link to `target`.
    pub fn new(fs: VirtualFs, target: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { fs, inode: next_inode(), target })
    }
}

impl Inode for VirtualLink {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(self.fs.device, self.inode, FileKind::Symlink, 0o777);
        metadata.size = self.target.len() as u64;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        self.fs.status()
    }
    fn read_link(&self) -> Result<Vec<u8>> {
        Ok(self.target.clone())
    }
}

/// The device number of a character device, as makedev(3) packs it.
pub const fn device_number(major: u32, minor: u32) -> u64 {
    ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)) as u64
}

const _: () = assert!(linux::O_RDONLY == 0);
