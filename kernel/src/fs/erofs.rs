//! The root file system: an EROFS image in memory, mapped in place.
//!
//! All decoding is [`klib::erofs`]'s; here its inodes become the VFS's. Uncompressed file data is copied to programs
//! straight from the image and its pages are mapped where they are. What is not in place (the tail of a small file
//! behind its inode, compressed extents) is copied into page frames once and kept with the inode.

use alloc::{
    collections::BTreeMap,
    string::{String, ToString as _},
    sync::{Arc, Weak},
    vec,
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};
use hal::PhysAddr;
use klib::erofs::{self, Erofs, ErofsError};

use super::{
    DirectoryEntry, FileKind, FileOps, FileSystemStatus, FileTime, Inode, Metadata, OpenFlags, ReadBuffer, devfs,
    extended_attributes, virtual_files::next_device,
};
use crate::{
    mm::{
        PAGE_SIZE,
        frames::FrameRef,
        object::VmObject,
        reclaim::{self, Cache},
    },
    sync::IrqLock,
};

/// statfs(2)'s magic number.
const MAGIC: u64 = 0xe0f5_e1e2;
const PAGE: u64 = PAGE_SIZE as u64;

/// A damaged image is an input error; what is missing is memory otherwise.
fn errno(error: ErofsError) -> Errno {
    match error {
        ErofsError::OutOfMemory => Errno::ENOMEM,
        ErofsError::NotDirectory(_) => Errno::ENOTDIR,
        other => {
            log::error!("{other}");
            Errno::EIO
        }
    }
}

struct Instance {
    image: Erofs<'static>,
    image_phys: PhysAddr,
    device: u64,
    /// So that two names of one file give one inode.
    inodes: IrqLock<BTreeMap<u64, Weak<ErofsInode>>>,
    /// The inode from which on copies are given back next.
    shrunk_to: AtomicU64,
}

/// A file of the image.
pub struct ErofsInode {
    fs: Arc<Instance>,
    raw: erofs::Inode,
    kind: FileKind,
    /// Pages that are not in place.
    copies: IrqLock<BTreeMap<u64, FrameRef>>,
    this: Weak<Self>,
}

/// Opens the image at `image_phys`, which is page-aligned, and answers its root directory.
///
/// The error says what is wrong with the image.
pub fn open_image(image: &'static [u8], image_phys: PhysAddr) -> core::result::Result<Arc<dyn Inode>, String> {
    let image = Erofs::new(image).map_err(|error| error.to_string())?;
    let root = image.root().map_err(|error| error.to_string())?;
    let fs = Arc::new(Instance {
        image,
        image_phys,
        device: next_device(),
        inodes: IrqLock::new(BTreeMap::new()),
        shrunk_to: AtomicU64::new(0),
    });
    reclaim::register(fs.clone());
    let root = fs.inode(root.nid).map_err(|error| error.to_string())?;
    Ok(root)
}

fn kind_of(kind: erofs::FileKind) -> Option<FileKind> {
    Some(match kind {
        erofs::FileKind::Unknown => return None,
        erofs::FileKind::Regular => FileKind::Regular,
        erofs::FileKind::Directory => FileKind::Directory,
        erofs::FileKind::CharDevice => FileKind::CharDevice,
        erofs::FileKind::BlockDevice => FileKind::BlockDevice,
        erofs::FileKind::Fifo => FileKind::Fifo,
        erofs::FileKind::Socket => FileKind::Socket,
        erofs::FileKind::Symlink => FileKind::Symlink,
    })
}

impl Instance {
    fn inode(self: &Arc<Self>, nid: u64) -> Result<Arc<ErofsInode>> {
        if let Some(inode) = self.inodes.lock().get(&nid).and_then(Weak::upgrade) {
            return Ok(inode);
        }
        let raw = self.image.inode(nid).map_err(errno)?;
        let kind = kind_of(raw.kind()).ok_or(Errno::EIO)?;
        let inode = Arc::new_cyclic(|this| ErofsInode {
            fs: self.clone(),
            raw,
            kind,
            copies: IrqLock::new(BTreeMap::new()),
            this: this.clone(),
        });
        let mut inodes = self.inodes.lock();
        if let Some(other) = inodes.get(&nid).and_then(Weak::upgrade) {
            return Ok(other);
        }
        inodes.insert(nid, Arc::downgrade(&inode));
        Ok(inode)
    }
}

impl Instance {
    /// The first inode in use with at least this number.
    fn inode_from(&self, nid: u64) -> Option<Arc<ErofsInode>> {
        self.inodes.lock().range(nid..).find_map(|(_, inode)| inode.upgrade())
    }
}

impl Cache for Instance {
    fn shrink(&self, pages: usize) -> usize {
        let start = self.shrunk_to.load(Ordering::Relaxed);
        let (mut next, mut wrapped, mut freed) = (start, false, 0);
        while freed < pages {
            match self.inode_from(next) {
                Some(inode) if !(wrapped && inode.raw.nid >= start) => {
                    next = inode.raw.nid + 1;
                    freed += inode.forget_idle_copies();
                }
                _ if wrapped => break,
                _ => (next, wrapped) = (0, true),
            }
        }
        self.shrunk_to.store(next, Ordering::Relaxed);
        freed
    }

    fn idle_pages(&self) -> usize {
        let (mut next, mut pages) = (0, 0);
        while let Some(inode) = self.inode_from(next) {
            next = inode.raw.nid + 1;
            pages += inode.copies.lock().values().filter(|frame| frame.is_unique()).count();
        }
        pages
    }
}

impl ErofsInode {
    /// Gives back the copies that no program has mapped; answers how many.
    fn forget_idle_copies(&self) -> usize {
        let mut copies = self.copies.lock();
        let before = copies.len();
        // Who takes a reference does so under this lock, or has the page mapped.
        copies.retain(|_, frame| !frame.is_unique());
        before - copies.len()
    }

    /// Page `index` as a frame of its own, with zeroes behind the end of the file.
    fn copied_page(&self, index: u64) -> Result<FrameRef> {
        if let Some(frame) = self.copies.lock().get(&index) {
            return Ok(frame.clone());
        }
        let offset = index.checked_mul(PAGE).ok_or(Errno::ENXIO)?;
        if self.raw.is_compressed() {
            self.keep_extent(offset)?;
            if let Some(frame) = self.copies.lock().get(&index) {
                return Ok(frame.clone());
            }
        }
        // A page with parts of several extents, or one behind its inode.
        let mut bytes = vec![0; PAGE_SIZE];
        let len = self.fs.image.read_at(&self.raw, offset, &mut bytes).map_err(errno)?;
        let frame = FrameRef::zeroed()?;
        frame.write(0, bytes.get(..len).unwrap_or_default());
        Ok(self.copies.lock().entry(index).or_insert(frame).clone())
    }

    /// Decompresses the extent that holds `offset` and keeps all pages that lie wholly in it.
    fn keep_extent(&self, offset: u64) -> Result<()> {
        let extent = self.fs.image.extent_at(&self.raw, offset).map_err(errno)?;
        let end = extent.start + extent.data.len() as u64;
        let first = extent.start.div_ceil(PAGE);
        // The file's last page counts as whole.
        let last = if end >= self.raw.size { end.div_ceil(PAGE) } else { end / PAGE };
        for index in first..last {
            let from = usize::try_from(index * PAGE - extent.start).map_err(|_| Errno::EIO)?;
            let rest = extent.data.get(from..).unwrap_or_default();
            let frame = FrameRef::zeroed()?;
            frame.write(0, rest.get(..PAGE_SIZE).unwrap_or(rest));
            self.copies.lock().entry(index).or_insert(frame);
        }
        Ok(())
    }
}

impl Inode for ErofsInode {
    fn metadata(&self) -> Metadata {
        let raw = &self.raw;
        let mut metadata = Metadata::new(self.fs.device, raw.nid, self.kind, u32::from(raw.mode) & 0o7777);
        let time = FileTime { seconds: raw.mtime as i64, nanoseconds: raw.mtime_nsec };
        metadata.links = raw.nlink;
        metadata.uid = raw.uid;
        metadata.gid = raw.gid;
        metadata.rdev = u64::from(raw.rdev);
        metadata.size = raw.size;
        metadata.blocks = raw.size.div_ceil(PAGE) * (PAGE / 512);
        (metadata.accessed, metadata.modified, metadata.changed) = (time, time, time);
        metadata
    }

    fn set_attributes(&self, _change: super::AttributeChange) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn status(&self) -> FileSystemStatus {
        FileSystemStatus {
            magic: MAGIC,
            block_size: PAGE,
            blocks: self.fs.image.block_count(),
            free: 0,
            files: self.fs.image.inode_count(),
            free_files: 0,
            read_only: true,
        }
    }

    /// The images that are made for this kernel have no extended attributes; any name answers as one that is not set.
    fn extended_attribute(&self, name: &[u8]) -> Result<Vec<u8>> {
        extended_attributes::check_name(name)?;
        Err(Errno::ENODATA)
    }

    fn names_are_constant(&self) -> bool {
        true
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let nid = self.fs.image.lookup(&self.raw, name).map_err(errno)?.ok_or(Errno::ENOENT)?;
        Ok(self.fs.inode(nid)?)
    }

    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let mut each = |entry: erofs::DirEntry<'_>| {
            let kind = match kind_of(entry.kind) {
                Some(kind) => kind,
                None => match self.fs.inode(entry.nid) {
                    Ok(inode) => inode.kind,
                    Err(_) => return true,
                },
            };
            matches!(entry.name, b"." | b"..")
                || visit(DirectoryEntry { name: entry.name, inode: entry.nid, kind, next: entry.next_cookie })
        };
        self.fs.image.read_dir(&self.raw, position, &mut each).map_err(errno)
    }

    fn create(&self, _name: &[u8], _kind: FileKind, _permissions: u32, _rdev: u64) -> Result<Arc<dyn Inode>> {
        Err(if self.kind == FileKind::Directory { Errno::EROFS } else { Errno::ENOTDIR })
    }

    fn create_unlinked(&self, _permissions: u32, _linkable: bool) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        // A longer target could not be followed, and its size is only the image's claim.
        let len = usize::try_from(self.raw.size).ok().filter(|len| *len < PAGE_SIZE).ok_or(Errno::ENAMETOOLONG)?;
        let mut target = vec![0; len];
        let read = self.fs.image.read_at(&self.raw, 0, &mut target).map_err(errno)?;
        target.truncate(read);
        Ok(target)
    }

    fn read_at(&self, offset: u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if self.kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        buffer.fill(offset, |at, buffer| {
            if at >= self.raw.size {
                return Ok(None);
            }
            let (wanted, copied) = match self.fs.image.slice_at(&self.raw, at).map_err(errno)? {
                Some(bytes) => (bytes.len().min(buffer.remaining()), buffer.put(bytes)?),
                None => {
                    let frame = self.copied_page(at / PAGE)?;
                    let wanted = (self.raw.size - at).min(PAGE - at % PAGE).min(buffer.remaining() as u64) as usize;
                    (wanted, buffer.put_frame(&frame, (at % PAGE) as usize, wanted)?)
                }
            };
            Ok(Some((copied, wanted)))
        })
    }

    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        if self.kind != FileKind::Regular {
            return None;
        }
        Some(self.this.upgrade()?)
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        match self.kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                devfs::open_device(self.kind, u64::from(self.raw.rdev), flags).map(Some)
            }
            // A FIFO needs a place for its state, which a read-only image is not.
            FileKind::Fifo => Err(Errno::ENXIO),
            _ => Ok(None),
        }
    }
}

impl VmObject for ErofsInode {
    fn page(&self, index: u64) -> Result<FrameRef> {
        if index >= self.raw.size.div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        match self.fs.image.page_in_place(&self.raw, index).map_err(errno)? {
            Some(offset) => Ok(FrameRef::from_static(self.fs.image_phys.checked_add(offset as u64).ok_or(Errno::EIO)?)),
            None => self.copied_page(index),
        }
    }

    fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}
