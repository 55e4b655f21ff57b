//! Uncompressed data: where in the image the bytes of a file are, and reading them.

use super::disk::{self, RawChunk};
use super::inode::{Inode, Layout};
use super::{Erofs, ErofsError, add, align_up, multiply};

/// Bytes of a file that are together in the image.
pub(super) struct Run {
    /// Offset in the image of the first of them; `None` for a hole, which reads as zeros.
    pub place: Option<u64>,
    /// How many there are: at least 1.
    pub len: u64,
}

impl<'a> Erofs<'a> {
    /// Reads bytes of a file of any layout from `offset` into `out`. Symbolic links are read the
    /// same way.
    ///
    /// Answers how many bytes were read: all of `out`, less if the file ends before, 0 at and past
    /// the end.
    ///
    /// # Errors
    ///
    /// The image is damaged there, or there is no memory to decompress.
    pub fn read_at(&self, inode: &Inode, offset: u64, out: &mut [u8]) -> Result<usize, ErofsError> {
        let wanted = inode.size.saturating_sub(offset).min(out.len() as u64) as usize;
        let mut position = offset;
        let mut rest = out.get_mut(..wanted).unwrap_or_default();
        while !rest.is_empty() {
            let done = match inode.layout {
                Layout::Compressed { .. } => self.read_compressed(inode, position, rest)?,
                _ => {
                    let run = self.run_at(inode, position, rest.len() as u64)?;
                    let len = run.len.min(rest.len() as u64);
                    let target = rest.get_mut(..len as usize).unwrap_or_default();
                    match run.place {
                        Some(place) => target.copy_from_slice(self.bytes(place, len)?),
                        None => target.fill(0),
                    }
                    len as usize
                }
            };
            position = add(position, done as u64)?;
            rest = rest.get_mut(done..).unwrap_or_default();
        }
        Ok(wanted)
    }

    /// The longest run of bytes from `offset` on that is in the image as it is: to the end of the
    /// file or to where the data goes on somewhere else. Empty at and past the end of the file.
    ///
    /// `None` where nothing is in place: in compressed files and in holes. [`Erofs::read_at`] reads
    /// those.
    ///
    /// # Errors
    ///
    /// The image is damaged there.
    pub fn slice_at(&self, inode: &Inode, offset: u64) -> Result<Option<&'a [u8]>, ErofsError> {
        if offset >= inode.size {
            return Ok(Some(&[]));
        }
        if inode.is_compressed() {
            return Ok(None);
        }
        let run = self.run_at(inode, offset, u64::MAX)?;
        match run.place {
            Some(place) => self.bytes(place, run.len).map(Some),
            None => Ok(None),
        }
    }

    /// The offset in the image, a multiple of 4096, of a page that can be mapped as page `page` of
    /// the file.
    ///
    /// The last page of a file qualifies if the image has only zeros from the end of the file to
    /// the end of that page. `None` for pages that are not in place: compressed, inline, in a hole,
    /// past the end.
    ///
    /// # Errors
    ///
    /// The image is damaged there.
    pub fn page_in_place(&self, inode: &Inode, page: u64) -> Result<Option<usize>, ErofsError> {
        let Some(offset) = page.checked_mul(disk::BLOCK).filter(|offset| *offset < inode.size) else {
            return Ok(None);
        };
        if inode.is_compressed() {
            return Ok(None);
        }
        let run = self.run_at(inode, offset, disk::BLOCK)?;
        // Inline data starts behind an inode, not at a page boundary.
        let Some(place) = run.place.filter(|place| place % disk::BLOCK == 0) else {
            return Ok(None);
        };
        let block = self.bytes(place, disk::BLOCK)?;
        let used = (inode.size - offset).min(disk::BLOCK);
        let padding = block.get(used as usize..).unwrap_or_default();
        if padding.iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        Ok(usize::try_from(place).ok())
    }

    /// Finds the run of uncompressed data at `offset`, which is below the file's size. It may be
    /// cut once it has `enough` bytes.
    pub(super) fn run_at(&self, inode: &Inode, offset: u64, enough: u64) -> Result<Run, ErofsError> {
        let to_end = inode.size.saturating_sub(offset);
        match inode.layout {
            Layout::Plain { block } => {
                let place = add(multiply(u64::from(block), disk::BLOCK)?, offset)?;
                Ok(Run { place: Some(place), len: to_end })
            }
            Layout::Inline { block } => {
                let tail_start = (inode.size.saturating_sub(1)) / disk::BLOCK * disk::BLOCK;
                if offset < tail_start {
                    let place = add(multiply(u64::from(block), disk::BLOCK)?, offset)?;
                    return Ok(Run { place: Some(place), len: tail_start - offset });
                }
                // The tail must be in the block in which it starts.
                if inode.tail % disk::BLOCK + (inode.size - tail_start) > disk::BLOCK {
                    return Err(ErofsError::InlineData(inode.nid));
                }
                Ok(Run { place: Some(add(inode.tail, offset - tail_start)?), len: to_end })
            }
            Layout::Chunked { bits, indexes } => self.chunk_run(inode, offset, enough, bits, indexes),
            // A compressed file has no runs; its callers have sorted it out before.
            Layout::Hole | Layout::None | Layout::Compressed { .. } => Ok(Run { place: None, len: to_end }),
        }
    }

    /// Finds the run at `offset` of a chunk-based file, joining chunks that follow each other in
    /// the image as well. The image bounds how many those are. Holes are not joined: nothing bounds
    /// them.
    fn chunk_run(&self, inode: &Inode, offset: u64, enough: u64, bits: u32, indexes: bool) -> Result<Run, ErofsError> {
        let chunk_len = 1u64 << bits;
        let mut chunk = offset >> bits;
        let skip = offset & (chunk_len - 1);
        let to_end = inode.size.saturating_sub(offset);

        let mut len = chunk_len - skip;
        let Some(start) = self.chunk_place(inode, chunk, indexes)? else {
            return Ok(Run { place: None, len: len.min(to_end) });
        };
        let place = add(start, skip)?;
        while len < to_end.min(enough) && len <= self.image.len() as u64 {
            chunk += 1;
            if self.chunk_place(inode, chunk, indexes)? != Some(add(place, len)?) {
                break;
            }
            len = add(len, chunk_len)?;
        }
        Ok(Run { place: Some(place), len: len.min(to_end) })
    }

    /// Offset in the image of a chunk; `None` for a hole.
    fn chunk_place(&self, inode: &Inode, chunk: u64, indexes: bool) -> Result<Option<u64>, ErofsError> {
        let unit = if indexes { size_of::<RawChunk>() } else { size_of::<u32>() } as u64;
        let entry = add(align_up(inode.tail, unit)?, multiply(chunk, unit)?)?;
        let block = if indexes {
            // There is one device only, so its number can be ignored, as Linux does by masking it.
            self.structure::<RawChunk>(entry)?.block.get()
        } else {
            self.structure::<zerocopy::byteorder::little_endian::U32>(entry)?.get()
        };
        if block == disk::NULL_BLOCK {
            return Ok(None);
        }
        multiply(u64::from(block), disk::BLOCK).map(Some)
    }
}
