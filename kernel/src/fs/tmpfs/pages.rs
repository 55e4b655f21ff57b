//! The content of a tmpfs file: page frames by number, with holes.
//!
//! A page is there once something was written to it or it was mapped; what is missing reads as zeroes. Pages cut off by
//! a shorter size, or by a hole, leave the file and then every address space that has them mapped.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};
use hal::PhysAddr;

use super::budget::Budget;
use crate::{
    fs::{ReadBuffer, WriteBuffer, regular::MAX_OFFSET},
    mm::{
        PAGE_SIZE,
        frames::FrameRef,
        object::{Mappers, VmObject, WriteGrant},
    },
    sync::IrqLock,
};

pub(super) const PAGE: u64 = PAGE_SIZE as u64;
static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Pages dealt with at a time: interrupts are masked meanwhile.
const BATCH: usize = 256;

/// Frames by page number.
type Frames = BTreeMap<u64, FrameRef>;

struct Inner {
    budget: Arc<Budget>,
    size: u64,
    frames: Frames,
    /// F_SEAL_ bits of fcntl(2).
    seals: u32,
}

/// A file's content.
pub(super) struct Pages {
    inner: IrqLock<Inner>,
    mappers: Mappers,
}

impl Inner {
    /// Page `index`, made where it is missing.
    fn page(&mut self, index: u64) -> Result<FrameRef> {
        if let Some(frame) = self.frames.get(&index) {
            return Ok(frame.clone());
        }
        let frame = self.budget.take_page()?;
        self.frames.insert(index, frame.clone());
        Ok(frame)
    }

    /// Takes some of the pages from `first` up to but not including `end` out, ascending; to be dropped without the lock.
    fn remove_some(&mut self, first: u64, end: u64) -> Vec<(u64, FrameRef)> {
        let mut removed = Vec::new();
        while removed.len() < BATCH
            && let Some((index, _)) = self.frames.range(first..end.max(first)).next()
        {
            let index = *index;
            removed.extend(self.frames.remove(&index).map(|frame| (index, frame)));
        }
        self.budget.release_pages(removed.len());
        removed
    }

    /// Zeroes the bytes from `start` up to `end` that lie in one page, where it is there.
    fn zero_within(&self, start: u64, end: u64) {
        if let Some(frame) = self.frames.get(&(start / PAGE)) {
            let len = (end - start).min(PAGE - start % PAGE) as usize;
            frame.write((start % PAGE) as usize, ZEROES.get(..len).unwrap_or(&ZEROES));
        }
    }

    /// Sets the size; answers the pages that are beyond it.
    fn resize(&mut self, size: u64) -> Frames {
        let grows = size > core::mem::replace(&mut self.size, size);
        if grows {
            return Frames::new();
        }
        let first_beyond = size.div_ceil(PAGE);
        if !size.is_multiple_of(PAGE) {
            self.zero_within(size, first_beyond * PAGE);
        }
        let removed = self.frames.split_off(&first_beyond);
        self.budget.release_pages(removed.len());
        removed
    }
}

impl Pages {
    pub fn new(seals: u32, budget: Arc<Budget>) -> Self {
        let inner = Inner { budget, size: 0, frames: Frames::new(), seals };
        Self { inner: IrqLock::new(inner), mappers: Mappers::new() }
    }

    /// Size in bytes and pages present.
    pub fn size(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.size, inner.frames.len() as u64)
    }

    /// The seals set.
    pub fn seals(&self) -> u32 {
        self.inner.lock().seals
    }

    /// Who has the pages mapped.
    pub fn mappers(&self) -> &Mappers {
        &self.mappers
    }

    /// fcntl(2) with F_ADD_SEALS, where the file has `permissions`. EPERM where sealing is over, EBUSY where
    /// F_SEAL_WRITE is asked for and a shared mapping may be written to.
    pub fn add_seals(&self, seals: u32, permissions: u32) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.seals & linux::F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if seals & !inner.seals & linux::F_SEAL_WRITE != 0 && self.mappers.has_writers() {
            return Err(Errno::EBUSY);
        }
        inner.seals |= seals;
        // What stays executable for good need not stay changeable.
        if seals & linux::F_SEAL_EXEC != 0 && permissions & 0o111 != 0 {
            inner.seals |= linux::F_SEAL_SHRINK | linux::F_SEAL_GROW | linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE;
        }
        Ok(())
    }

    /// Claims the right to write through a shared mapping of `object`, whose pages these are. EPERM where a seal
    /// forbids it.
    pub fn grant_writes(&self, object: Arc<dyn VmObject>) -> Result<WriteGrant> {
        // With the seals locked, so that a new one sees this grant.
        let inner = self.inner.lock();
        if inner.seals & (linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        Ok(WriteGrant::new(object))
    }

    /// Makes a hole of the bytes from `start` up to `end`. EPERM where a seal forbids it.
    pub fn punch(&self, start: u64, end: u64) -> Result<()> {
        let (mut first, behind) = (start.div_ceil(PAGE), end / PAGE);
        {
            let inner = self.inner.lock();
            if inner.seals & (linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE) != 0 {
                return Err(Errno::EPERM);
            }
            if !start.is_multiple_of(PAGE) {
                inner.zero_within(start, end.min(first * PAGE));
            }
            if !end.is_multiple_of(PAGE) && behind >= first {
                inner.zero_within(behind * PAGE, end);
            }
        }
        loop {
            let removed = self.inner.lock().remove_some(first, behind);
            let Some((last, _)) = removed.last() else { return Ok(()) };
            let pages = first..*last + 1;
            first = pages.end;
            // Copies that a private mapping has made stay.
            self.mappers.unmap(pages, &|index, frame| {
                let found = removed.binary_search_by_key(&index, |(index, _)| *index);
                found.ok().and_then(|at| removed.get(at)).is_some_and(|(_, gone)| gone.phys() == frame)
            });
        }
    }

    pub fn read_at(&self, offset: u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        buffer.fill(offset, |at, buffer| {
            let (size, frame) = {
                let inner = self.inner.lock();
                (inner.size, inner.frames.get(&(at / PAGE)).cloned())
            };
            if at >= size {
                return Ok(None);
            }
            let wanted = (size - at).min(PAGE - at % PAGE).min(buffer.remaining() as u64) as usize;
            let copied = match &frame {
                Some(frame) => buffer.put_frame(frame, (at % PAGE) as usize, wanted)?,
                None => buffer.put(ZEROES.get(..wanted).unwrap_or(&ZEROES))?,
            };
            Ok(Some((copied, wanted)))
        })
    }

    pub fn write_at(&self, offset: u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let mut done = 0;
        while buffer.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            let within = (at % PAGE) as usize;
            let wanted = (PAGE_SIZE - within).min(buffer.remaining());
            let step = self.page_to_write(at, wanted).and_then(|frame| buffer.take_frame(&frame, within, wanted));
            match step {
                Ok(copied) => {
                    done += copied;
                    let mut inner = self.inner.lock();
                    inner.size = inner.size.max(at + copied as u64);
                    if copied < wanted {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn page_to_write(&self, at: u64, len: usize) -> Result<FrameRef> {
        let end = at.checked_add(len as u64).filter(|end| *end <= MAX_OFFSET).ok_or(Errno::EFBIG)?;
        let mut inner = self.inner.lock();
        if inner.seals & (linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        if end > inner.size && inner.seals & linux::F_SEAL_GROW != 0 {
            return Err(Errno::EPERM);
        }
        inner.page(at / PAGE)
    }

    pub fn truncate(&self, size: u64) -> Result<()> {
        if size > MAX_OFFSET {
            return Err(Errno::EFBIG);
        }
        let removed = {
            let mut inner = self.inner.lock();
            let sealed = (size < inner.size && inner.seals & linux::F_SEAL_SHRINK != 0)
                || (size > inner.size && inner.seals & linux::F_SEAL_GROW != 0);
            if sealed {
                return Err(Errno::EPERM);
            }
            let shrinks = size < inner.size;
            (inner.resize(size), shrinks)
        };
        if removed.1 {
            // Private copies go as well.
            self.mappers.unmap(size.div_ceil(PAGE)..u64::MAX, &|_, _| true);
        }
        drop(removed);
        Ok(())
    }

    /// fallocate(2): reserves pages, or makes holes, or zeroes. EOPNOTSUPP for moving data (FALLOC_FL_COLLAPSE_RANGE
    /// and FALLOC_FL_INSERT_RANGE), as on Linux's tmpfs.
    pub fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= MAX_OFFSET).ok_or(Errno::EFBIG)?;
        let keep_size = mode & linux::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !linux::FALLOC_FL_KEEP_SIZE {
            0 => {
                let first = offset / PAGE;
                let wanted = end.div_ceil(PAGE) - first;
                let (present, free) = {
                    let inner = self.inner.lock();
                    if inner.seals & linux::F_SEAL_GROW != 0 && end > inner.size && !keep_size {
                        return Err(Errno::EPERM);
                    }
                    (inner.frames.range(first..end.div_ceil(PAGE)).count() as u64, inner.budget.free_pages() as u64)
                };
                if wanted - present > free {
                    return Err(Errno::ENOSPC);
                }
                for index in first..end.div_ceil(PAGE) {
                    self.inner.lock().page(index)?;
                }
                let mut inner = self.inner.lock();
                if !keep_size {
                    inner.size = inner.size.max(end);
                }
                Ok(())
            }
            linux::FALLOC_FL_PUNCH_HOLE if keep_size => self.punch(offset, end),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Where at or after `offset` the next data, or the next hole, begins.
    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let mut first = offset / PAGE;
        let inner = loop {
            let inner = self.inner.lock();
            if offset >= inner.size {
                return Err(Errno::ENXIO);
            }
            if !hole {
                break inner;
            }
            let present = inner.frames.range(first..).take(BATCH).zip(first..);
            let run = present.take_while(|((index, _), expected)| **index == *expected).count();
            first += run as u64;
            if run < BATCH {
                return Ok((first * PAGE).clamp(offset, inner.size));
            }
        };
        let next = inner.frames.range(first..).next().map(|(index, _)| (index * PAGE).max(offset));
        next.filter(|next| *next < inner.size).ok_or(Errno::ENXIO)
    }

    /// Whether page `index` is there and in this frame.
    pub fn holds(&self, index: u64, frame: PhysAddr) -> bool {
        self.inner.lock().frames.get(&index).is_some_and(|own| own.phys() == frame)
    }

    /// Page `index` to be mapped; ENXIO beyond the end or where there is no space.
    pub fn page(&self, index: u64) -> Result<FrameRef> {
        let mut inner = self.inner.lock();
        if index >= inner.size.div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        inner.page(index).map_err(|_| Errno::ENXIO)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let inner = self.inner.lock();
        inner.budget.release_pages(inner.frames.len());
    }
}
