//! Extents of compressed files: decompressing them.

use alloc::vec::Vec;

use super::cluster::Located;
use super::disk;
use super::inode::Inode;
use super::{Erofs, ErofsError};

/// Bytes of a file that were decompressed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file of the first byte.
    pub start: u64,
    /// The bytes.
    pub data: Vec<u8>,
}

impl Erofs<'_> {
    /// Decompresses the extent of a compressed file that holds `offset`: at most 12 MiB, usually
    /// far less.
    ///
    /// For uncompressed files the answer is the block of 4096 bytes that holds `offset`. At and
    /// past the end of the file it is empty.
    ///
    /// # Errors
    ///
    /// The image is damaged there, or there is no memory.
    pub fn extent_at(&self, inode: &Inode, offset: u64) -> Result<Extent, ErofsError> {
        if offset >= inode.size {
            return Ok(Extent { start: inode.size, data: Vec::new() });
        }
        if inode.is_compressed() {
            let located = self.locate(inode, offset)?;
            let mut data = self.buffer(inode, &located)?;
            self.decompress(inode, &located, &mut data)?;
            return Ok(Extent { start: located.start, data });
        }
        let start = offset - offset % disk::BLOCK;
        let mut data = zeros((inode.size - start).min(disk::BLOCK))?;
        self.read_at(inode, start, &mut data)?;
        Ok(Extent { start, data })
    }

    /// Reads bytes of a compressed file from `offset` on, which is below its size, into the start
    /// of `out`, which must not be empty: as many as one extent gives, at least 1.
    pub(super) fn read_compressed(&self, inode: &Inode, offset: u64, out: &mut [u8]) -> Result<usize, ErofsError> {
        let located = self.locate(inode, offset)?;
        let damaged = ErofsError::Compressed { nid: inode.nid, offset: located.start };
        let len = located.len as usize;
        // A whole extent needs no buffer in between.
        if located.start == offset
            && let Some(target) = out.get_mut(..len)
        {
            self.decompress(inode, &located, target)?;
            return Ok(len);
        }
        let mut data = self.buffer(inode, &located)?;
        self.decompress(inode, &located, &mut data)?;
        let wanted = data.get((offset - located.start) as usize..).ok_or(damaged)?;
        let count = wanted.len().min(out.len());
        match (out.get_mut(..count), wanted.get(..count)) {
            (Some(target), Some(source)) if count > 0 => target.copy_from_slice(source),
            _ => return Err(damaged),
        }
        Ok(count)
    }

    /// Room for the extent, if its length is possible for its compressed bytes.
    fn buffer(&self, inode: &Inode, located: &Located) -> Result<Vec<u8>, ErofsError> {
        // No LZ4 byte stands for more than 255 bytes of output.
        if located.len / 255 > located.stored {
            return Err(ErofsError::Compressed { nid: inode.nid, offset: located.start });
        }
        zeros(located.len)
    }

    /// Decompresses an extent into `out`, which has its length.
    fn decompress(&self, inode: &Inode, located: &Located, out: &mut [u8]) -> Result<(), ErofsError> {
        let damaged = ErofsError::Compressed { nid: inode.nid, offset: located.start };
        let stored = self.bytes(located.place, located.stored)?;
        if located.plain {
            out.copy_from_slice(stored.get(..out.len()).ok_or(damaged)?);
            return Ok(());
        }
        let input = if located.at_end {
            // No LZ4 block begins with a zero byte, so the padding before it ends where the zeros
            // do.
            let start = stored.iter().position(|byte| *byte != 0).ok_or(damaged)?;
            stored.get(start..)
        } else {
            stored.get(..lz4_end(stored, out.len()).ok_or(damaged)?)
        };
        match lz4_flex::block::decompress_into(input.ok_or(damaged)?, out) {
            Ok(len) if len == out.len() => Ok(()),
            _ => Err(damaged),
        }
    }
}

/// A vector of `len` zeros, or an error where the allocator gives no memory.
fn zeros(len: u64) -> Result<Vec<u8>, ErofsError> {
    let len = usize::try_from(len).map_err(|_| ErofsError::OutOfMemory)?;
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| ErofsError::OutOfMemory)?;
    data.resize(len, 0);
    Ok(data)
}

/// Where in `input` the LZ4 block ends that decompresses to `out_len` bytes and is followed by
/// padding.
///
/// An LZ4 block does not say how long it is, but its sequences say how much each gives, and it ends
/// with one that has only literals (LZ4 block format, "End of block conditions").
fn lz4_end(input: &[u8], out_len: usize) -> Option<usize> {
    let mut at = 0usize;
    let mut produced = 0usize;
    loop {
        let token = *input.get(at)?;
        at += 1;
        let literals = lz4_length(input, &mut at, token >> 4)?;
        produced = produced.checked_add(literals)?;
        at = at.checked_add(literals)?;
        if produced >= out_len {
            return (produced == out_len && at <= input.len()).then_some(at);
        }
        // Two bytes of match offset.
        at = at.checked_add(2)?;
        produced = produced.checked_add(lz4_length(input, &mut at, token & 0xf)?)?.checked_add(4)?;
    }
}

/// Reads a length of which `nibble` is in the token, the rest in bytes at `at` up to the first that
/// is not 255.
fn lz4_length(input: &[u8], at: &mut usize, nibble: u8) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let byte = *input.get(*at)?;
            *at += 1;
            length = length.checked_add(usize::from(byte))?;
            if byte != 255 {
                break;
            }
        }
    }
    Some(length)
}
