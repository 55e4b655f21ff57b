//! Directories: searching and listing them.
//!
//! A directory's data is a row of blocks. Each begins with its entries, which are followed by their
//! names. Entries are in the order of their names' bytes, within a block and from block to block,
//! so a name is found by two binary searches: for the block whose first name is not above it, then
//! in that block.

use alloc::borrow::Cow;
use alloc::vec;
use core::cmp::Ordering;

use zerocopy::FromBytes;

use super::disk::{self, RawDirent};
use super::inode::{FileKind, Inode};
use super::{Erofs, ErofsError};

/// Longest name in bytes (`EROFS_NAME_LEN`, equal to `NAME_MAX`).
const MAX_NAME: usize = 255;

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'n> {
    /// Cookie with which [`Erofs::read_dir`] goes on after this entry.
    pub next_cookie: u64,
    /// Number of the inode it names.
    pub nid: u64,
    /// Type of the file it names.
    pub kind: FileKind,
    /// Its name: 1 to 255 bytes, none of them `/` or NUL.
    pub name: &'n [u8],
}

/// A block of a directory with its entries counted.
struct Block<'a> {
    bytes: Cow<'a, [u8]>,
    entries: usize,
    damaged: ErofsError,
}

impl Block<'_> {
    /// The on-disk entry with this index.
    fn raw(&self, index: usize) -> Result<&RawDirent, ErofsError> {
        let start = index.checked_mul(size_of::<RawDirent>()).ok_or(self.damaged)?;
        let bytes = self.bytes.get(start..).ok_or(self.damaged)?;
        RawDirent::ref_from_prefix(bytes).map(|(raw, _)| raw).map_err(|_| self.damaged)
    }

    /// The entry with this index and its checked name.
    fn entry(&self, index: usize) -> Result<(&RawDirent, &[u8]), ErofsError> {
        let raw = self.raw(index)?;
        let start = usize::from(raw.name_offset.get());
        let name = if index + 1 < self.entries {
            let end = usize::from(self.raw(index + 1)?.name_offset.get());
            self.bytes.get(start..end).ok_or(self.damaged)?
        } else {
            // The last name ends with the block or with the first NUL.
            let rest = self.bytes.get(start..).ok_or(self.damaged)?;
            rest.split(|byte| *byte == 0).next().unwrap_or_default()
        };
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(self.damaged);
        }
        Ok((raw, name))
    }
}

impl<'a> Erofs<'a> {
    /// Finds `name` in the directory `dir` and answers the number of the inode it names. The names
    /// `.` and `..` are found like any other.
    ///
    /// # Errors
    ///
    /// `dir` is not a directory, or is damaged.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<u64>, ErofsError> {
        // Blocks before `low` begin with a name that is not above the wanted one, those from `high`
        // on with one above.
        let mut low = 0;
        let mut high = self.dir_blocks(dir)?;
        let mut candidate = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.dir_block(dir, middle)?;
            let order = block.entry(0)?.1.cmp(name);
            match order {
                Ordering::Greater => high = middle,
                Ordering::Equal | Ordering::Less => {
                    low = middle + 1;
                    candidate = Some(block);
                }
            }
        }
        let Some(block) = candidate else {
            return Ok(None);
        };
        let mut low = 0;
        let mut high = block.entries;
        while low < high {
            let middle = low + (high - low) / 2;
            let (raw, found) = block.entry(middle)?;
            match found.cmp(name) {
                Ordering::Equal => return Ok(Some(raw.nid.get())),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Lists the directory `dir` in the order of its names, `.` and `..` among them, from the entry
    /// with index `cookie` on (0 is the first), until `f` answers false or the directory ends.
    ///
    /// # Errors
    ///
    /// `dir` is not a directory, or is damaged; `f` may have been called before.
    pub fn read_dir(
        &self,
        dir: &Inode,
        cookie: u64,
        f: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), ErofsError> {
        let mut first = 0u64;
        for index in 0..self.dir_blocks(dir)? {
            let block = self.dir_block(dir, index)?;
            let end = first + block.entries as u64;
            for position in cookie.max(first)..end {
                let (raw, name) = block.entry((position - first) as usize)?;
                let entry = DirEntry {
                    next_cookie: position + 1,
                    nid: raw.nid.get(),
                    kind: FileKind::from_dirent(raw.file_type),
                    name,
                };
                if !f(entry) {
                    return Ok(());
                }
            }
            first = end;
        }
        Ok(())
    }

    /// Number of blocks of the directory `dir`.
    fn dir_blocks(&self, dir: &Inode) -> Result<u64, ErofsError> {
        if dir.kind() != FileKind::Directory {
            return Err(ErofsError::NotDirectory(dir.nid));
        }
        Ok(dir.size.div_ceil(disk::BLOCK))
    }

    /// Block `index` of the directory `dir`; it must be one of its blocks.
    fn dir_block(&self, dir: &Inode, index: u64) -> Result<Block<'a>, ErofsError> {
        let damaged = ErofsError::Directory { nid: dir.nid, block: index };
        let offset = index.checked_mul(disk::BLOCK).ok_or(damaged)?;
        let len = dir.size.saturating_sub(offset).min(disk::BLOCK) as usize;
        let bytes = match self.slice_at(dir, offset)?.and_then(|run| run.get(..len)) {
            Some(bytes) => Cow::Borrowed(bytes),
            // Not in place: mkfs never writes this, but the format allows it.
            None => {
                let mut copy = vec![0; len];
                self.read_at(dir, offset, &mut copy)?;
                Cow::Owned(copy)
            }
        };
        let (first, _) = RawDirent::ref_from_prefix(&bytes).map_err(|_| damaged)?;
        // The first name comes right after the last entry.
        let names = usize::from(first.name_offset.get());
        if names < size_of::<RawDirent>() || names % size_of::<RawDirent>() != 0 || names >= bytes.len() {
            return Err(damaged);
        }
        Ok(Block { entries: names / size_of::<RawDirent>(), bytes, damaged })
    }
}
