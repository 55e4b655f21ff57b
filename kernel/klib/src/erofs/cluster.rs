//! Compression indexes: from an offset in a compressed file to the extent that holds it.
//!
//! A compressed file is cut into *logical clusters* of 4096 bytes (or a small power of two of
//! that), and, on other borders, into *extents*, each compressed on its own. The index has one
//! entry per cluster. If an extent starts in the cluster the entry is a *head*: it says where in
//! the cluster and in which block the compressed data is; otherwise it says how many clusters back
//! the head of the extent is that covers the whole cluster. An extent ends where the next begins.
//! The entry after a head may hold the number of blocks of the compressed data instead of the
//! distance (which can only be 1).
//!
//! The *full* index has 8-byte entries. The *compact* one packs 2 entries into 8 bytes or 16 into
//! 32, with one block address for each pack, to which the blocks of the heads before are added.
//!
//! Extents are at most [`disk::MAX_DECOMPRESSED`] long, which bounds every walk along the index.

use super::disk::{self, RawCluster, RawMapHeader};
use super::inode::{Inode, Layout};
use super::{Erofs, ErofsError, add, align_up, multiply};

/// Largest base-2 logarithm of the cluster size: what the 16 bits of a packed entry have room for.
const MAX_CLUSTER_BITS: u32 = 14;

/// The index of one compressed file.
struct Index<'a, 'i> {
    fs: &'i Erofs<'a>,
    inode: &'i Inode,
    compact: bool,
    advise: u16,
    /// Algorithms of the two kinds of heads; 0 is LZ4.
    algorithms: [u8; 2],
    /// Base-2 logarithm of the cluster size.
    bits: u32,
    /// Bytes of the last extent if it is stored behind the index, else 0.
    inline_size: u64,
    /// Offset in the image of the first entry.
    start: u64,
}

/// One decoded entry.
#[derive(Clone, Copy)]
enum Cluster {
    Head {
        /// Type of the head, never [`disk::CLUSTER_NONHEAD`].
        kind: u8,
        /// Where in the cluster the extent starts, in bytes.
        offset: u64,
        /// First block of its compressed data.
        block: u64,
    },
    /// Distance back to the head, or to another entry nearer to it.
    Back(u64),
    /// The head is the entry before, and its compressed data has this many blocks.
    BlockCount(u64),
}

/// An entry and where the index goes on after the pack it is in.
struct Loaded {
    cluster: Cluster,
    /// Offset in the image.
    next_pack: u64,
}

/// An extent of a compressed file.
pub(super) struct Located {
    /// Offset in the file, in bytes.
    pub start: u64,
    /// Decompressed length in bytes: at least 1, at most [`disk::MAX_DECOMPRESSED`].
    pub len: u64,
    /// Offset in the image of the compressed data.
    pub place: u64,
    /// Length of the compressed data in bytes, with padding.
    pub stored: u64,
    /// Whether it is stored as it is, from the start of its blocks on.
    pub plain: bool,
    /// Whether its compressed data fills the end of its blocks.
    pub at_end: bool,
}

impl<'a> Erofs<'a> {
    /// Finds the extent that holds `offset` of a compressed file; `offset` is below the file's
    /// size.
    pub(super) fn locate(&self, inode: &Inode, offset: u64) -> Result<Located, ErofsError> {
        Index::open(self, inode)?.locate(offset)
    }
}

impl<'a, 'i> Index<'a, 'i> {
    /// Reads the header of the index.
    fn open(fs: &'i Erofs<'a>, inode: &'i Inode) -> Result<Self, ErofsError> {
        let unknown = ErofsError::CompressionHeader(inode.nid);
        let compact = match inode.layout {
            Layout::Compressed { compact } => compact,
            _ => return Err(unknown),
        };
        let header_at = align_up(inode.tail, 8)?;
        let header: &RawMapHeader = fs.structure(header_at)?;
        let mut index = Self {
            fs,
            inode,
            compact,
            advise: 0,
            algorithms: [0; 2],
            bits: u32::from(disk::BLOCK_BITS),
            inline_size: 0,
            // A full index has 8 unused bytes after its header.
            start: add(header_at, if compact { 8 } else { 16 })?,
        };
        // Images of the first format version have no header before a full index, only room for one.
        if !compact && !fs.has(disk::INCOMPAT_BIG_CLUSTER) && !fs.has(disk::INCOMPAT_TAIL_PACKING) {
            return Ok(index);
        }
        index.advise = header.advise.get();
        index.algorithms = [header.algorithms & 0xf, header.algorithms >> 4];
        // The upper bits say that the file is a fragment, or are reserved.
        if header.cluster_bits & 0xf0 != 0 {
            return Err(unknown);
        }
        index.bits += u32::from(header.cluster_bits & 0xf);
        if index.bits > MAX_CLUSTER_BITS
            || index.advise & (disk::ADVISE_FRAGMENT | disk::ADVISE_INTERLACED) != 0
            || (!compact && index.advise & disk::ADVISE_EXTENTS != 0)
            || (compact && index.advised(disk::ADVISE_BIG_CLUSTER_1) != index.advised(disk::ADVISE_BIG_CLUSTER_2))
        {
            return Err(unknown);
        }
        if index.advised(disk::ADVISE_INLINE) {
            index.inline_size = u64::from(header.inline_size.get());
        }
        Ok(index)
    }

    fn advised(&self, bit: u16) -> bool {
        self.advise & bit != 0
    }

    fn damaged(&self, cluster: u64) -> ErofsError {
        ErofsError::ClusterIndex { nid: self.inode.nid, cluster }
    }

    /// See [`Erofs::locate`].
    fn locate(&self, offset: u64) -> Result<Located, ErofsError> {
        let (lcn, kind, start, block) = self.head_of(offset)?;
        let len = self.extent_end(lcn)?.checked_sub(start).filter(|len| *len > 0).ok_or(self.damaged(lcn))?;
        if len > disk::MAX_DECOMPRESSED || start > offset || offset - start >= len {
            return Err(self.damaged(lcn));
        }
        let plain = kind == disk::CLUSTER_PLAIN;
        let algorithm = self.algorithms[usize::from(kind == disk::CLUSTER_HEAD2)];
        if !plain && algorithm != 0 {
            return Err(ErofsError::Algorithm(self.inode.nid));
        }
        let inline = if self.inline_size > 0 { self.inline_place(lcn)? } else { None };
        let (place, stored) = match inline {
            Some(place) => (place, self.inline_size),
            None => (multiply(block, disk::BLOCK)?, self.stored_len(lcn, kind)?),
        };
        let at_end = inline.is_some() || self.fs.has(disk::INCOMPAT_ZERO_PADDING);
        Ok(Located { start, len, place, stored, plain, at_end })
    }

    /// Finds the head of the extent that holds `offset`: its cluster, kind, offset in the file, and
    /// first block.
    fn head_of(&self, offset: u64) -> Result<(u64, u8, u64, u64), ErofsError> {
        let first = offset >> self.bits;
        let nearest = first.saturating_sub(disk::MAX_DECOMPRESSED >> self.bits).saturating_sub(1);
        let mut lcn = first;
        loop {
            let back = match self.load(lcn)?.cluster {
                Cluster::Head { kind, offset: in_cluster, block } => {
                    let start = (lcn << self.bits) + in_cluster;
                    if start <= offset {
                        return Ok((lcn, kind, start, block));
                    }
                    // The extent that starts here starts after `offset`, which so belongs to the
                    // one before.
                    1
                }
                Cluster::Back(distance) => distance,
                Cluster::BlockCount(_) => 1,
            };
            // Every step goes back, and not further than an extent can reach.
            lcn = match lcn.checked_sub(back) {
                Some(previous) if back > 0 && previous >= nearest => previous,
                _ => return Err(self.damaged(lcn)),
            };
        }
    }

    /// Offset in the file of the end of the extent with its head in cluster `head`.
    fn extent_end(&self, head: u64) -> Result<u64, ErofsError> {
        let furthest = head + (disk::MAX_DECOMPRESSED >> self.bits) + 1;
        for lcn in head + 1..=furthest {
            if lcn << self.bits >= self.inode.size {
                return Ok(self.inode.size);
            }
            if let Cluster::Head { offset, .. } = self.load(lcn)?.cluster {
                return Ok(((lcn << self.bits) + offset).min(self.inode.size));
            }
        }
        Err(self.damaged(head))
    }

    /// Bytes of the blocks in which the extent with its head in cluster `head` is stored.
    fn stored_len(&self, head: u64, kind: u8) -> Result<u64, ErofsError> {
        let big = self.advised(match kind {
            disk::CLUSTER_HEAD1 => disk::ADVISE_BIG_CLUSTER_1,
            _ => disk::ADVISE_BIG_CLUSTER_2,
        });
        let next = head + 1;
        let blocks = if !big || next << self.bits >= self.inode.size {
            1
        } else {
            match self.load(next)?.cluster {
                Cluster::Head { .. } => 1,
                Cluster::BlockCount(blocks) => blocks,
                Cluster::Back(_) => return Err(self.damaged(next)),
            }
        };
        let len = multiply(blocks, disk::BLOCK)?;
        if len == 0 || len > disk::MAX_COMPRESSED {
            return Err(self.damaged(next));
        }
        Ok(len)
    }

    /// Offset in the image of the inline data, if the extent with its head in cluster `head` is the
    /// last one.
    fn inline_place(&self, head: u64) -> Result<Option<u64>, ErofsError> {
        let last = self.inode.size.saturating_sub(1);
        // A file can have many clusters: look for the last head only from clusters it can reach.
        if (last >> self.bits).saturating_sub(head) > (disk::MAX_DECOMPRESSED >> self.bits) + 1
            || self.head_of(last)?.0 != head
        {
            return Ok(None);
        }
        let place = self.load(last >> self.bits)?.next_pack;
        if place % disk::BLOCK + self.inline_size > disk::BLOCK {
            return Err(ErofsError::InlineData(self.inode.nid));
        }
        Ok(Some(place))
    }

    /// Reads the entry of cluster `lcn`.
    fn load(&self, lcn: u64) -> Result<Loaded, ErofsError> {
        let loaded = if self.compact { self.load_compact(lcn)? } else { self.load_full(lcn)? };
        match loaded.cluster {
            Cluster::Head { offset, .. } if offset >> self.bits != 0 => Err(self.damaged(lcn)),
            _ => Ok(loaded),
        }
    }

    fn load_full(&self, lcn: u64) -> Result<Loaded, ErofsError> {
        let place = add(self.start, multiply(lcn, size_of::<RawCluster>() as u64)?)?;
        let raw: &RawCluster = self.fs.structure(place)?;
        // The two lowest bits are the type, so all values are known.
        let kind = (raw.advise.get() & 3) as u8;
        let cluster = if kind == disk::CLUSTER_NONHEAD {
            self.back(raw.block_or_deltas.get() as u16, lcn)?
        } else {
            Cluster::Head {
                kind,
                offset: u64::from(raw.cluster_offset.get()),
                block: u64::from(raw.block_or_deltas.get()),
            }
        };
        Ok(Loaded { cluster, next_pack: add(place, size_of::<RawCluster>() as u64)? })
    }

    /// Decodes the distance of an entry that is not a head.
    fn back(&self, delta: u16, lcn: u64) -> Result<Cluster, ErofsError> {
        if delta & disk::DELTA_IS_BLOCK_COUNT == 0 {
            return Ok(Cluster::Back(u64::from(delta)));
        }
        if !self.advised(disk::ADVISE_BIG_CLUSTER_1 | disk::ADVISE_BIG_CLUSTER_2) {
            return Err(self.damaged(lcn));
        }
        Ok(Cluster::BlockCount(u64::from(delta & !disk::DELTA_IS_BLOCK_COUNT)))
    }

    fn load_compact(&self, lcn: u64) -> Result<Loaded, ErofsError> {
        let total = self.inode.size.div_ceil(disk::BLOCK);
        if lcn >= total {
            return Err(self.damaged(lcn));
        }
        // First 4-byte entries up to a multiple of 32 bytes, then 2-byte entries in packs of 16,
        // then 4-byte ones.
        let leading = (32 - self.start % 32) / 4 % 8;
        let middle = if self.advised(disk::ADVISE_COMPACT_2B) && self.bits <= 12 && leading < total {
            (total - leading) / 16 * 16
        } else {
            0
        };
        let (skip, entry, in_pack, pack_len) = if lcn < leading {
            (0, lcn, 2, 8)
        } else if lcn - leading < middle {
            (leading * 4, lcn - leading, 16, 32)
        } else {
            (leading * 4 + middle * 2, lcn - leading - middle, 2, 8)
        };
        let entry_len = pack_len / in_pack;
        let place = add(self.start, add(skip, multiply(entry, entry_len)?)?)?;
        // Packs are aligned in the image.
        let pack_start = place & !(pack_len - 1);
        let position = ((place - pack_start) / entry_len) as usize;
        let bytes = self.fs.bytes(pack_start, pack_len)?;
        let pack = Pack::new(bytes, in_pack as usize, self.bits).ok_or(self.damaged(lcn))?;
        let cluster = self.unpack(&pack, position, lcn).ok_or(self.damaged(lcn))?;
        Ok(Loaded { cluster, next_pack: add(pack_start, pack_len)? })
    }

    /// Decodes entry `position` of a pack; `None` if the pack is damaged.
    fn unpack(&self, pack: &Pack<'_>, position: usize, lcn: u64) -> Option<Cluster> {
        let big = self.advised(disk::ADVISE_BIG_CLUSTER_1);
        let (kind, value) = pack.get(position)?;
        if kind != disk::CLUSTER_NONHEAD {
            let blocks = if big { pack.blocks_before_big(position)? } else { pack.blocks_before(position)? };
            return Some(Cluster::Head {
                kind,
                offset: u64::from(value),
                block: u64::from(pack.base).checked_add(blocks)?,
            });
        }
        if value & disk::DELTA_IS_BLOCK_COUNT != 0 || position + 1 != pack.count {
            return self.back(value, lcn).ok();
        }
        // The last entry of a pack holds the distance to the next head instead; its own follows
        // from the one before.
        let (kind, value) = pack.get(position.checked_sub(1)?)?;
        let distance = match kind {
            disk::CLUSTER_NONHEAD if value & disk::DELTA_IS_BLOCK_COUNT != 0 => 1,
            disk::CLUSTER_NONHEAD => u64::from(value),
            _ => 0,
        };
        Some(Cluster::Back(distance + 1))
    }
}

/// A pack of a compact index: `count` entries of a few bits each, and a block address.
struct Pack<'p> {
    entries: &'p [u8],
    count: usize,
    /// Bits per entry.
    width: usize,
    /// Bits of an entry's value; the type is in the two bits above.
    value_bits: usize,
    base: u32,
}

impl<'p> Pack<'p> {
    fn new(bytes: &'p [u8], count: usize, cluster_bits: u32) -> Option<Self> {
        let (entries, base) = bytes.split_last_chunk::<4>()?;
        let width = entries.len() * 8 / count;
        // The value holds an offset in the cluster or a distance of 12 bits.
        let value_bits = cluster_bits.max(12) as usize;
        (value_bits + 2 <= width).then_some(Self { entries, count, width, value_bits, base: u32::from_le_bytes(*base) })
    }

    /// Type and value of entry `index`.
    fn get(&self, index: usize) -> Option<(u8, u16)> {
        let bit = index * self.width;
        // An entry has at most 16 bits, so it is within three bytes.
        let byte = |n: usize| self.entries.get(bit / 8 + n).copied().map_or(0, u32::from);
        let word = (byte(0) | byte(1) << 8 | byte(2) << 16) >> (bit % 8);
        if index >= self.count {
            return None;
        }
        Some(((word >> self.value_bits & 3) as u8, (word & ((1 << self.value_bits) - 1)) as u16))
    }

    /// Blocks from the pack's base to the head at `position`, where every extent has one block.
    fn blocks_before(&self, position: usize) -> Option<u64> {
        // The base is one below the block of the first head.
        let mut blocks = 1;
        let mut at = position;
        while at > 0 {
            at -= 1;
            let (kind, value) = self.get(at)?;
            if kind == disk::CLUSTER_NONHEAD {
                // Skip to its head; if that is in a pack before, its block is not counted here.
                match at.checked_sub(usize::from(value)) {
                    Some(head) => at = head,
                    None => break,
                }
            }
            blocks += 1;
        }
        Some(blocks)
    }

    /// Blocks from the pack's base to the head at `position`, where extents may have several
    /// blocks.
    fn blocks_before_big(&self, position: usize) -> Option<u64> {
        let mut blocks = 0;
        let mut at = position;
        while at > 0 {
            at -= 1;
            let (kind, value) = self.get(at)?;
            if kind != disk::CLUSTER_NONHEAD {
                blocks += 1;
            } else if value & disk::DELTA_IS_BLOCK_COUNT != 0 {
                blocks += u64::from(value & !disk::DELTA_IS_BLOCK_COUNT);
                // The head itself, if it is in this pack.
                at = at.saturating_sub(1);
            } else {
                // Go on with the entry after the head, which has the number of blocks. That entry
                // itself would have the distance 1, but has the number instead.
                let skip = usize::from(value).checked_sub(2)?;
                match at.checked_sub(skip) {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        Some(blocks)
    }
}
