//! The EROFS on-disk structures, little-endian and without alignment.
//!
//! Source: Linux `Documentation/filesystems/erofs.rst` and the format definition `erofs_fs.h`; the
//! field names are theirs. Only what a reader of one device with 4096-byte blocks needs is here.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes per block; no other block size is supported.
pub const BLOCK: u64 = 4096;
/// Base-2 logarithm of [`BLOCK`].
pub const BLOCK_BITS: u8 = 12;
/// Offset of the superblock in the image, in bytes.
pub const SUPER_OFFSET: usize = 1024;
/// The magic number of the superblock.
pub const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
/// Bytes per inode slot: an inode's number counts these from the start of the metadata area.
pub const INODE_SLOT: u64 = 32;

/// `feature_compat`: the superblock has a CRC-32C over the rest of its block.
pub const COMPAT_CHECKSUM: u32 = 0x1;

/// `feature_incompat`: LZ4 data ends at the end of its blocks, with zeros before it (else it starts
/// at the start).
pub const INCOMPAT_ZERO_PADDING: u32 = 0x1;
/// `feature_incompat`: compressed data may fill several blocks; compression is configured after the
/// superblock.
pub const INCOMPAT_BIG_CLUSTER: u32 = 0x2;
/// `feature_incompat`: files may be chunk-based.
pub const INCOMPAT_CHUNKED: u32 = 0x4;
/// `feature_incompat`: there is a table of further devices, or a second compression algorithm per
/// file.
pub const INCOMPAT_DEVICES_OR_HEAD2: u32 = 0x8;
/// `feature_incompat`: the last compressed extent of a file may be in its inode's block.
pub const INCOMPAT_TAIL_PACKING: u32 = 0x10;
/// `feature_incompat`: extended attributes may use long name prefixes; this reader skips all
/// attributes.
pub const INCOMPAT_XATTR_PREFIXES: u32 = 0x40;
/// All of `feature_incompat` that this reader understands.
pub const INCOMPAT_SUPPORTED: u32 = INCOMPAT_ZERO_PADDING
    | INCOMPAT_BIG_CLUSTER
    | INCOMPAT_CHUNKED
    | INCOMPAT_DEVICES_OR_HEAD2
    | INCOMPAT_TAIL_PACKING
    | INCOMPAT_XATTR_PREFIXES;

/// The superblock (`erofs_super_block`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSuper {
    pub magic: U32,
    pub checksum: U32,
    pub feature_compat: U32,
    pub blkszbits: u8,
    pub sb_extslots: u8,
    pub root_nid: U16,
    pub inos: U64,
    pub epoch: U64,
    pub fixed_nsec: U32,
    pub blocks: U32,
    pub meta_blkaddr: U32,
    pub xattr_blkaddr: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub feature_incompat: U32,
    pub compression: U16,
    pub extra_devices: U16,
    pub devt_slotoff: U16,
    pub dirblkbits: u8,
    pub reserved: [u8; 37],
}
const _: () = assert!(size_of::<RawSuper>() == 128);

/// `i_format`: the inode is [`RawExtended`], else [`RawCompact`].
pub const FORMAT_EXTENDED: u16 = 0x1;
/// `i_format`: where the data layout is.
pub const FORMAT_LAYOUT_SHIFT: u32 = 1;
/// `i_format`: width of the data layout.
pub const FORMAT_LAYOUT_MASK: u16 = 0x7;
/// `i_format`: all bits this reader knows.
pub const FORMAT_KNOWN: u16 = 0xf;

/// Data layout: whole blocks.
pub const LAYOUT_PLAIN: u16 = 0;
/// Data layout: compressed, with an 8-byte index entry per logical cluster.
pub const LAYOUT_COMPRESSED_FULL: u16 = 1;
/// Data layout: whole blocks, and the rest right after the inode.
pub const LAYOUT_INLINE: u16 = 2;
/// Data layout: compressed, with a packed index.
pub const LAYOUT_COMPRESSED_COMPACT: u16 = 3;
/// Data layout: a table of chunks.
pub const LAYOUT_CHUNKED: u16 = 4;

/// The 32-byte inode (`erofs_inode_compact`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawCompact {
    pub format: U16,
    pub xattr_icount: U16,
    pub mode: U16,
    pub nlink: U16,
    pub size: U32,
    pub mtime: U32,
    pub union: U32,
    pub ino: U32,
    pub uid: U16,
    pub gid: U16,
    pub reserved: U32,
}
const _: () = assert!(size_of::<RawCompact>() == 32);

/// The 64-byte inode (`erofs_inode_extended`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawExtended {
    pub format: U16,
    pub xattr_icount: U16,
    pub mode: U16,
    pub reserved: U16,
    pub size: U64,
    pub union: U32,
    pub ino: U32,
    pub uid: U32,
    pub gid: U32,
    pub mtime: U64,
    pub mtime_nsec: U32,
    pub nlink: U32,
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<RawExtended>() == 64);

/// Bytes of the header before an inode's extended attributes (`erofs_xattr_ibody_header`).
pub const XATTR_HEADER: u64 = 12;
/// Bytes per further unit of `i_xattr_icount`.
pub const XATTR_UNIT: u64 = 4;

/// A block address that stands for a hole.
pub const NULL_BLOCK: u32 = u32::MAX;
/// Chunk format: base-2 logarithm of the chunk size, less [`BLOCK_BITS`].
pub const CHUNK_BITS_MASK: u16 = 0x1f;
/// Chunk format: the table has [`RawChunk`] entries, else bare 4-byte block addresses.
pub const CHUNK_INDEXES: u16 = 0x20;

/// An entry of a chunk table (`erofs_inode_chunk_index`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawChunk {
    pub reserved: U16,
    pub device_id: U16,
    pub block: U32,
}
const _: () = assert!(size_of::<RawChunk>() == 8);

/// A directory entry (`erofs_dirent`); the entries of a block are followed by their names, in
/// order.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawDirent {
    pub nid: U64,
    pub name_offset: U16,
    pub file_type: u8,
    pub reserved: u8,
}
const _: () = assert!(size_of::<RawDirent>() == 12);

/// The header of a compressed file's index (`z_erofs_map_header`), 8-byte aligned after the inode.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawMapHeader {
    pub reserved: U16,
    pub inline_size: U16,
    pub advise: U16,
    pub algorithms: u8,
    pub cluster_bits: u8,
}
const _: () = assert!(size_of::<RawMapHeader>() == 8);

/// `advise` of a packed index: the middle of the index takes 2 bytes per cluster instead of 4.
pub const ADVISE_COMPACT_2B: u16 = 0x1;
/// `advise` of a full index: extent records instead of clusters (48-bit images only).
pub const ADVISE_EXTENTS: u16 = 0x1;
/// `advise`: extents of the first algorithm may fill several blocks.
pub const ADVISE_BIG_CLUSTER_1: u16 = 0x2;
/// `advise`: extents of the second algorithm, and plain ones, may fill several blocks.
pub const ADVISE_BIG_CLUSTER_2: u16 = 0x4;
/// `advise`: the last extent is stored after the index.
pub const ADVISE_INLINE: u16 = 0x8;
/// `advise`: plain extents keep each byte at its file offset modulo the block size.
pub const ADVISE_INTERLACED: u16 = 0x10;
/// `advise`: the last extent is in the packed inode.
pub const ADVISE_FRAGMENT: u16 = 0x20;

/// An entry of a full index (`z_erofs_lcluster_index`).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawCluster {
    pub advise: U16,
    pub cluster_offset: U16,
    /// Block address of a head; for others the distances to the head before and after.
    pub block_or_deltas: U32,
}
const _: () = assert!(size_of::<RawCluster>() == 8);

/// Cluster type: an extent that is stored as it is starts here.
pub const CLUSTER_PLAIN: u8 = 0;
/// Cluster type: an extent compressed by the first algorithm starts here.
pub const CLUSTER_HEAD1: u8 = 1;
/// Cluster type: the extent before goes on to the end of this cluster.
pub const CLUSTER_NONHEAD: u8 = 2;
/// Cluster type: an extent compressed by the second algorithm starts here.
pub const CLUSTER_HEAD2: u8 = 3;

/// In the distance of the cluster after a head: the rest is the number of blocks of the compressed
/// data instead.
pub const DELTA_IS_BLOCK_COUNT: u16 = 1 << 11;

/// Most bytes of compressed data in one extent.
pub const MAX_COMPRESSED: u64 = 1 << 20;
/// Most bytes one extent decompresses to.
pub const MAX_DECOMPRESSED: u64 = 12 << 20;
