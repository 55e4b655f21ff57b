//! Why an EROFS image, or something in it, cannot be used.

use core::fmt;

/// What is wrong with an image.
///
/// The variants up to [`ErofsError::RootNotDirectory`] are about the image as a whole and come from
/// [`Erofs::new`](super::Erofs::new) and [`Erofs::root`](super::Erofs::root). At the system-call
/// edge all are `EIO` except [`ErofsError::NotDirectory`] (`ENOTDIR`) and
/// [`ErofsError::OutOfMemory`] (`ENOMEM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErofsError {
    /// The image has no room for a superblock: its length in bytes.
    TooSmall(u64),
    /// The superblock does not start with the EROFS magic: what is there instead.
    Magic(u32),
    /// The block size is not 4096 bytes: its base-2 logarithm.
    BlockSize(u8),
    /// The superblock's checksum does not match its bytes.
    Checksum {
        /// The checksum in the superblock.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The image needs features this reader does not have: their bits in `feature_incompat`.
    Features(u32),
    /// Part of the image's data is on this many further devices.
    ExtraDevices(u16),
    /// The superblock counts more blocks than the image holds.
    Truncated {
        /// Bytes the superblock counts.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The root inode is not a directory.
    RootNotDirectory,
    /// Something refers to bytes outside the image: the offset in bytes, `u64::MAX` if it does not
    /// fit.
    OutsideImage(u64),
    /// The inode has an unknown format: its number.
    InodeFormat(u64),
    /// The inode has an impossible file type: its number.
    InodeMode(u64),
    /// The inode has an impossible size: its number.
    InodeSize(u64),
    /// The inode's inline data does not fit the block it starts in: the inode's number.
    InlineData(u64),
    /// The inode is not a directory: its number.
    NotDirectory(u64),
    /// A directory block is damaged.
    Directory {
        /// Number of the directory's inode.
        nid: u64,
        /// Index of the block in the directory.
        block: u64,
    },
    /// The file's compression parameters are unknown: the inode's number.
    CompressionHeader(u64),
    /// The file is compressed by something other than LZ4: the inode's number.
    Algorithm(u64),
    /// The file's compression index is damaged.
    ClusterIndex {
        /// Number of the file's inode.
        nid: u64,
        /// Index of the logical cluster.
        cluster: u64,
    },
    /// Compressed data is damaged.
    Compressed {
        /// Number of the file's inode.
        nid: u64,
        /// Offset in the file, in bytes, of the extent.
        offset: u64,
    },
    /// There is no memory for the decompressed data.
    OutOfMemory,
}

impl fmt::Display for ErofsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall(len) => {
                write!(f, "EROFS image of {len} bytes has no room for a superblock")
            }
            Self::Magic(found) => write!(f, "not an EROFS image: bad magic {found:#010x}"),
            Self::BlockSize(bits) => write!(f, "EROFS block size 2^{bits} is not supported, only 4096 is"),
            Self::Checksum { stored, computed } => {
                write!(f, "EROFS superblock is damaged: checksum {stored:#010x}, computed {computed:#010x}")
            }
            Self::Features(bits) => write!(f, "EROFS image needs unsupported features {bits:#x}"),
            Self::ExtraDevices(count) => write!(f, "EROFS image needs {count} further devices"),
            Self::Truncated { expected, found } => {
                write!(f, "EROFS image is truncated: {expected} bytes expected, {found} found")
            }
            Self::RootNotDirectory => write!(f, "EROFS root inode is not a directory"),
            Self::OutsideImage(offset) => {
                write!(f, "EROFS image refers to offset {offset:#x} outside itself")
            }
            Self::InodeFormat(nid) => write!(f, "EROFS inode {nid} has an unknown format"),
            Self::InodeMode(nid) => write!(f, "EROFS inode {nid} has an impossible file type"),
            Self::InodeSize(nid) => write!(f, "EROFS inode {nid} has an impossible size"),
            Self::InlineData(nid) => write!(f, "EROFS inode {nid} has damaged inline data"),
            Self::NotDirectory(nid) => write!(f, "EROFS inode {nid} is not a directory"),
            Self::Directory { nid, block } => {
                write!(f, "EROFS directory {nid} is damaged in block {block}")
            }
            Self::CompressionHeader(nid) => {
                write!(f, "EROFS inode {nid} has unknown compression parameters")
            }
            Self::Algorithm(nid) => write!(f, "EROFS inode {nid} is not compressed with LZ4"),
            Self::ClusterIndex { nid, cluster } => {
                write!(f, "EROFS inode {nid} has a damaged compression index at cluster {cluster}")
            }
            Self::Compressed { nid, offset } => {
                write!(f, "EROFS inode {nid} has damaged compressed data at offset {offset}")
            }
            Self::OutOfMemory => write!(f, "no memory to decompress EROFS data"),
        }
    }
}

impl core::error::Error for ErofsError {}
