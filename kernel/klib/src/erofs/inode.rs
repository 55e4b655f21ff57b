//! Inodes: decoding both on-disk forms into one.

use super::disk::{self, RawCompact, RawExtended};
use super::{Erofs, ErofsError, add, multiply};

/// Largest file size Linux can express (`loff_t`).
const MAX_SIZE: u64 = i64::MAX as u64;

/// Type of a file, as directory entries and modes give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Not known (only in directory entries).
    Unknown,
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
}

impl FileKind {
    /// The kind a `st_mode` states (inode(7)), if it states one.
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0o170000 {
            0o100000 => Self::Regular,
            0o040000 => Self::Directory,
            0o020000 => Self::CharDevice,
            0o060000 => Self::BlockDevice,
            0o010000 => Self::Fifo,
            0o140000 => Self::Socket,
            0o120000 => Self::Symlink,
            _ => return None,
        })
    }

    /// The kind a directory entry states.
    pub(super) fn from_dirent(file_type: u8) -> Self {
        match file_type {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => Self::Unknown,
        }
    }
}

/// Where an inode's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// No data: devices, pipes, sockets.
    None,
    /// All zeros, nothing stored.
    Hole,
    /// Whole blocks from this one on.
    Plain { block: u32 },
    /// Whole blocks from this one on, and the rest behind the inode.
    Inline { block: u32 },
    /// A table of chunks behind the inode; a chunk has `1 << bits` bytes.
    Chunked { bits: u32, indexes: bool },
    /// Compressed, with an index behind the inode: packed (`compact`) or full.
    Compressed { compact: bool },
}

/// A decoded inode. It stays valid for the file system it came from.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Number that finds the inode: [`Erofs::inode`].
    pub nid: u64,
    /// `st_mode`: file type and permissions, see inode(7).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Length of the data in bytes.
    pub size: u64,
    /// Time of modification, seconds since 1970.
    pub mtime: u64,
    /// Time of modification, nanoseconds within the second: below 1,000,000,000.
    pub mtime_nsec: u32,
    /// The inode number mkfs assigned, dense from 1; unique in the image like `nid`, but always 32
    /// bits.
    pub ino: u32,
    /// For devices the device number as stat(2) gives it: minor bits 0-7 and 20-31, major bits
    /// 8-19. Else 0.
    pub rdev: u32,
    pub(super) layout: Layout,
    /// Offset in the image, in bytes, of what follows the inode and its extended attributes.
    pub(super) tail: u64,
}

impl Inode {
    /// Type of the file.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::Unknown)
    }

    /// Whether the data is compressed, and so never in place.
    pub fn is_compressed(&self) -> bool {
        matches!(self.layout, Layout::Compressed { .. })
    }
}

/// The fields that both on-disk forms have, and those that differ, widened.
struct Common {
    format: u16,
    xattr_icount: u16,
    union: u32,
    len: u64,
}

impl Erofs<'_> {
    /// Reads the inode with number `nid`.
    ///
    /// # Errors
    ///
    /// There is no inode in the image at that number, or what is there is not a supported one.
    pub fn inode(&self, nid: u64) -> Result<Inode, ErofsError> {
        let start = add(self.inodes_start, multiply(nid, disk::INODE_SLOT)?)?;
        let compact: &RawCompact = self.structure(start)?;
        let mut inode;
        let common;
        if compact.format.get() & disk::FORMAT_EXTENDED == 0 {
            common = Common {
                format: compact.format.get(),
                xattr_icount: compact.xattr_icount.get(),
                union: compact.union.get(),
                len: size_of::<RawCompact>() as u64,
            };
            inode = Inode {
                nid,
                mode: compact.mode.get(),
                uid: u32::from(compact.uid.get()),
                gid: u32::from(compact.gid.get()),
                nlink: u32::from(compact.nlink.get()),
                size: u64::from(compact.size.get()),
                mtime: self.epoch.wrapping_add(u64::from(compact.mtime.get())),
                mtime_nsec: self.fixed_nsec,
                ino: compact.ino.get(),
                rdev: 0,
                layout: Layout::None,
                tail: 0,
            };
        } else {
            let extended: &RawExtended = self.structure(start)?;
            common = Common {
                format: extended.format.get(),
                xattr_icount: extended.xattr_icount.get(),
                union: extended.union.get(),
                len: size_of::<RawExtended>() as u64,
            };
            inode = Inode {
                nid,
                mode: extended.mode.get(),
                uid: extended.uid.get(),
                gid: extended.gid.get(),
                nlink: extended.nlink.get(),
                size: extended.size.get(),
                mtime: extended.mtime.get(),
                mtime_nsec: extended.mtime_nsec.get(),
                ino: extended.ino.get(),
                rdev: 0,
                layout: Layout::None,
                tail: 0,
            };
        }
        if common.format & !disk::FORMAT_KNOWN != 0 || inode.mtime_nsec >= 1_000_000_000 {
            return Err(ErofsError::InodeFormat(nid));
        }
        if inode.size > MAX_SIZE {
            return Err(ErofsError::InodeSize(nid));
        }
        inode.tail = add(add(start, common.len)?, xattr_len(common.xattr_icount))?;
        match FileKind::from_mode(inode.mode) {
            Some(FileKind::Regular | FileKind::Directory | FileKind::Symlink) => {
                inode.layout = layout(common.format, common.union).ok_or(ErofsError::InodeFormat(nid))?;
            }
            Some(FileKind::CharDevice | FileKind::BlockDevice) => inode.rdev = common.union,
            Some(_) => {}
            None => return Err(ErofsError::InodeMode(nid)),
        }
        // Whatever is stored as their size, these have no data.
        if inode.layout == Layout::None {
            inode.size = 0;
        }
        Ok(inode)
    }
}

/// Bytes of extended attributes behind an inode.
fn xattr_len(icount: u16) -> u64 {
    match icount.checked_sub(1) {
        None => 0,
        Some(units) => disk::XATTR_HEADER + u64::from(units) * disk::XATTR_UNIT,
    }
}

/// Decodes the data layout; `None` if it is unknown.
fn layout(format: u16, union: u32) -> Option<Layout> {
    Some(match (format >> disk::FORMAT_LAYOUT_SHIFT) & disk::FORMAT_LAYOUT_MASK {
        disk::LAYOUT_PLAIN if union == disk::NULL_BLOCK => Layout::Hole,
        disk::LAYOUT_PLAIN => Layout::Plain { block: union },
        disk::LAYOUT_INLINE => Layout::Inline { block: union },
        disk::LAYOUT_COMPRESSED_FULL => Layout::Compressed { compact: false },
        disk::LAYOUT_COMPRESSED_COMPACT => Layout::Compressed { compact: true },
        disk::LAYOUT_CHUNKED => {
            let chunk = union as u16;
            if chunk & !(disk::CHUNK_BITS_MASK | disk::CHUNK_INDEXES) != 0 {
                return None;
            }
            Layout::Chunked {
                bits: u32::from(chunk & disk::CHUNK_BITS_MASK) + u32::from(disk::BLOCK_BITS),
                indexes: chunk & disk::CHUNK_INDEXES != 0,
            }
        }
        _ => return None,
    })
}
