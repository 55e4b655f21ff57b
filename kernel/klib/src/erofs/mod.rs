//! EROFS: a read-only file system in an image that is already in memory.
//!
//! [`Erofs`] borrows the image and keeps nothing else: every answer is computed from the image's
//! bytes, so it can be copied and used from several threads without a lock, and file data that is
//! stored uncompressed is handed out in place ([`Erofs::slice_at`], [`Erofs::page_in_place`]), to
//! be copied once or mapped without a copy at all. Compressed files (LZ4) are decompressed one
//! extent at a time ([`Erofs::extent_at`]); caching the result is the business of the page cache
//! above.
//!
//! The image is outside input. All arithmetic on it is checked, every loop is bounded by the image,
//! by the caller's buffer or by the largest legal extent, and nothing is allocated but one extent,
//! whose size is plausible for its compressed bytes. A damaged image gives an [`ErofsError`], never
//! a panic.
//!
//! Inside: `disk` has the on-disk structures, `inode` decodes inodes, `flat` places uncompressed
//! data, `dir` searches directories, `cluster` reads compression indexes, `extent` decompresses.
//!
//! Not supported, and refused by [`Erofs::new`]: blocks of other than 4096 bytes, several devices,
//! fragments and deduplication, 48-bit addresses, compressed metadata. Extended attributes are
//! skipped.
//!
//! Source: Linux `Documentation/filesystems/erofs.rst` and the on-disk format definition of
//! erofs-utils.

mod cluster;
mod dir;
mod disk;
mod error;
mod extent;
mod flat;
mod inode;

use crc::{CRC_32_ISCSI, Crc};
use zerocopy::FromBytes;

pub use dir::DirEntry;
pub use error::ErofsError;
pub use extent::Extent;
pub use inode::{FileKind, Inode};

/// A read-only EROFS file system in memory.
#[derive(Clone, Copy, Debug)]
pub struct Erofs<'a> {
    /// The image, cut to the blocks the superblock counts.
    image: &'a [u8],
    /// Number of the root directory's inode.
    root_nid: u64,
    /// Offset in the image, in bytes, of inode 0.
    inodes_start: u64,
    /// Time of modification of compact inodes: seconds to add, and nanoseconds.
    epoch: u64,
    fixed_nsec: u32,
    /// Number of inodes, as the superblock counts them.
    inode_count: u64,
    /// `feature_incompat`.
    features: u32,
}

impl<'a> Erofs<'a> {
    /// Checks the superblock of `image` and opens it. Bytes past the blocks it counts are ignored.
    ///
    /// # Errors
    ///
    /// The image is too short, has no EROFS magic or an unsupported block size, fails its checksum,
    /// needs unsupported features or devices, or is shorter than its superblock says: in this
    /// order.
    pub fn new(image: &'a [u8]) -> Result<Self, ErofsError> {
        let too_small = ErofsError::TooSmall(image.len() as u64);
        let checked = image.get(disk::SUPER_OFFSET..disk::BLOCK as usize).ok_or(too_small)?;
        let (sb, _) = disk::RawSuper::ref_from_prefix(checked).map_err(|_| too_small)?;
        if sb.magic.get() != disk::SUPER_MAGIC {
            return Err(ErofsError::Magic(sb.magic.get()));
        }
        if sb.blkszbits != disk::BLOCK_BITS {
            return Err(ErofsError::BlockSize(sb.blkszbits));
        }
        if sb.feature_compat.get() & disk::COMPAT_CHECKSUM != 0 {
            let stored = sb.checksum.get();
            let computed = checksum(checked);
            if stored != computed {
                return Err(ErofsError::Checksum { stored, computed });
            }
        }
        let features = sb.feature_incompat.get();
        if features & !disk::INCOMPAT_SUPPORTED != 0 {
            return Err(ErofsError::Features(features & !disk::INCOMPAT_SUPPORTED));
        }
        // Directory blocks of another size have never been written.
        if sb.dirblkbits != 0 {
            return Err(ErofsError::BlockSize(sb.dirblkbits.saturating_add(sb.blkszbits)));
        }
        // The feature bit also stands for a second algorithm per file; only the count tells.
        let extra_devices = sb.extra_devices.get();
        if features & disk::INCOMPAT_DEVICES_OR_HEAD2 != 0 && extra_devices != 0 {
            return Err(ErofsError::ExtraDevices(extra_devices));
        }
        let expected = u64::from(sb.blocks.get()) * disk::BLOCK;
        let truncated = ErofsError::Truncated { expected, found: image.len() as u64 };
        let len = usize::try_from(expected).map_err(|_| truncated)?;
        Ok(Self {
            image: image.get(..len).ok_or(truncated)?,
            root_nid: u64::from(sb.root_nid.get()),
            inodes_start: u64::from(sb.meta_blkaddr.get()) * disk::BLOCK,
            epoch: sb.epoch.get(),
            fixed_nsec: sb.fixed_nsec.get(),
            inode_count: sb.inos.get(),
            features,
        })
    }

    /// Blocks of 4096 bytes in the file system, for statfs(2).
    pub fn block_count(&self) -> u64 {
        self.image.len() as u64 / disk::BLOCK
    }

    /// Inodes in the file system, for statfs(2).
    pub fn inode_count(&self) -> u64 {
        self.inode_count
    }

    /// The inode of the root directory.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not a directory.
    pub fn root(&self) -> Result<Inode, ErofsError> {
        let root = self.inode(self.root_nid)?;
        if root.kind() != FileKind::Directory {
            return Err(ErofsError::RootNotDirectory);
        }
        Ok(root)
    }

    /// Whether the image was written with this bit of `feature_incompat`.
    fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    /// The `len` bytes of the image at `offset`.
    fn bytes(&self, offset: u64, len: u64) -> Result<&'a [u8], ErofsError> {
        let outside = ErofsError::OutsideImage(offset);
        let end = offset.checked_add(len).ok_or(outside)?;
        let start = usize::try_from(offset).map_err(|_| outside)?;
        let end = usize::try_from(end).map_err(|_| outside)?;
        self.image.get(start..end).ok_or(outside)
    }

    /// The on-disk structure at `offset`.
    fn structure<T>(&self, offset: u64) -> Result<&'a T, ErofsError>
    where
        T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned,
    {
        let bytes = self.bytes(offset, size_of::<T>() as u64)?;
        T::ref_from_bytes(bytes).map_err(|_| ErofsError::OutsideImage(offset))
    }
}

/// The CRC-32C of the rest of the superblock's block, from the superblock on, with its checksum
/// field taken as 0 and without the final inversion.
fn checksum(from_super: &[u8]) -> u32 {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    let (magic, rest) = from_super.split_at_checked(4).unwrap_or((from_super, &[]));
    let mut digest = CRC.digest();
    digest.update(magic);
    digest.update(&[0; 4]);
    digest.update(rest.get(4..).unwrap_or_default());
    !digest.finalize()
}

/// `value` rounded up to a multiple of `unit`.
fn align_up(value: u64, unit: u64) -> Result<u64, ErofsError> {
    value.checked_next_multiple_of(unit).ok_or(ErofsError::OutsideImage(u64::MAX))
}

/// `a + b` for offsets from the image.
fn add(a: u64, b: u64) -> Result<u64, ErofsError> {
    a.checked_add(b).ok_or(ErofsError::OutsideImage(u64::MAX))
}

/// `a * b` for offsets from the image.
fn multiply(a: u64, b: u64) -> Result<u64, ErofsError> {
    a.checked_mul(b).ok_or(ErofsError::OutsideImage(u64::MAX))
}
