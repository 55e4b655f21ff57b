//! The allocator of physical page frames.
//!
//! Purpose: hand out and take back 4 KiB frames and power-of-two runs of them, up to 4 MiB. It works in
//! index space: frame 0 is the first frame of the memory the kernel describes, and nothing here knows an
//! address or touches the memory itself.
//!
//! Key types: [`Frame`], the 16 bytes of metadata of one frame; [`FrameAllocator`], the free lists threaded
//! through an array of them. Neighbours: the kernel's `mm` supplies the array, puts the allocator under a
//! lock, and turns indices into physical addresses. Blocks are aligned in index space, so the address of
//! frame 0 should be a multiple of 4 MiB for large blocks to be aligned in physical memory too.
//!
//! Why a buddy allocator: a freed block finds its neighbour with one exclusive-or, so memory grows
//! together again and page tables, DMA rings and 2 MiB pages find contiguous runs after hours of use. Why
//! a stack of single frames in front of it: a page fault takes one frame and an exit gives hundreds back,
//! and splitting and rejoining blocks for each would cost up to ten steps where one does. The stack is
//! filled sixteen frames at a time in ascending order, so neighbouring faults get neighbouring frames.
//!
//! Why the metadata is atomic: the lists are changed only through `&mut FrameAllocator`, but the reference
//! count of a frame somebody holds may be changed by any processor at any time, through a shared `&Frame`
//! and with no lock. On the processors this kernel runs on a relaxed atomic access is a plain one.

use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, fence};

/// The order of the largest block: 2^10 frames, 4 MiB.
pub const MAX_ORDER: u8 = 10;

/// Number of orders.
const ORDERS: usize = MAX_ORDER as usize + 1;
/// The end of a list. No frame has this index.
const NONE: u32 = u32::MAX;
/// The most frames the stack of single frames holds: 1 MiB.
const STACK_LIMIT: u32 = 256;
/// The order of the block that refills an empty stack: one fault-around's worth of frames.
const REFILL_ORDER: u8 = 4;

/// Not the allocator's: device memory, firmware, the kernel, a ROM image. Zeroed metadata means this.
const RESERVED: u8 = 0;
/// Part of a block, but not its first frame.
const INTERIOR: u8 = 1;
/// First frame of a free block on the list of its order.
const FREE: u8 = 2;
/// A single free frame on the stack.
const STACKED: u8 = 3;
/// First frame of an allocated block.
const ALLOCATED: u8 = 4;

/// What the kernel knows about one physical page frame. All zero bytes mean [`Frame::new`].
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    references: AtomicU32,
    state: AtomicU8,
    order: AtomicU8,
    unused: AtomicU16,
    next: AtomicU32,
    previous: AtomicU32,
}

const _: () = assert!(size_of::<Frame>() == 16);

impl Frame {
    /// The metadata of a frame that does not belong to the allocator.
    pub const fn new() -> Self {
        Self {
            references: AtomicU32::new(0),
            state: AtomicU8::new(RESERVED),
            order: AtomicU8::new(0),
            unused: AtomicU16::new(0),
            next: AtomicU32::new(0),
            previous: AtomicU32::new(0),
        }
    }

    /// Whether the frame was never given to the allocator (device memory, a ROM image). Such frames are
    /// not counted and never freed, so a page table may map them without further ado.
    pub fn is_reserved(&self) -> bool {
        self.state.load(Relaxed) == RESERVED
    }

    /// How many hold the frame: 1 right after allocation, 0 while it is free. A moment's value when
    /// others hold it too, exact when it is 1 and the caller is the holder.
    pub fn ref_count(&self) -> u32 {
        self.references.load(Acquire)
    }

    /// Adds a holder. The caller must itself hold the frame. Nothing happens to a reserved frame.
    pub fn inc_ref(&self) {
        if !self.is_reserved() {
            self.references.fetch_add(1, Relaxed);
        }
    }

    /// Removes a holder and says whether it was the last, which then has to
    /// [free](FrameAllocator::free) the frame. Always `false` for a reserved frame, and for one with no
    /// holder, whose count stays 0.
    #[must_use = "the last holder has to free the frame"]
    pub fn dec_ref(&self) -> bool {
        if self.is_reserved() {
            return false;
        }
        match self.references.fetch_sub(1, Release) {
            1 => {
                // What the other holders did with the frame happens before it is used again.
                fence(Acquire);
                true
            }
            0 => {
                self.references.store(0, Relaxed);
                false
            }
            _ => false,
        }
    }

    fn state(&self) -> u8 {
        self.state.load(Relaxed)
    }

    fn order(&self) -> u8 {
        self.order.load(Relaxed)
    }

    fn set(&self, state: u8, order: u8) {
        self.state.store(state, Relaxed);
        self.order.store(order, Relaxed);
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// Why the allocator refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The index, the range or the order lies outside what the allocator manages.
    OutOfRange,
    /// The frame was never given to the allocator.
    Reserved,
    /// The frame is free already: a second free.
    AlreadyFree,
    /// The frame is not the first of an allocated block, or the block has another order.
    NotABlock,
    /// More than one holder is left.
    InUse,
    /// A frame of the range was given to the allocator before.
    AlreadyAdded,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "frame index, range or order out of range",
            Self::Reserved => "frame is reserved",
            Self::AlreadyFree => "frame is already free",
            Self::NotABlock => "frame is not the start of an allocated block of this order",
            Self::InUse => "frame has more than one holder",
            Self::AlreadyAdded => "frame was already given to the allocator",
        })
    }
}

impl core::error::Error for FrameError {}

/// The free lists over an array of [`Frame`]s.
#[derive(Debug)]
pub struct FrameAllocator<'a> {
    frames: &'a [Frame],
    /// First free block of each order, or `NONE`.
    heads: [u32; ORDERS],
    /// Bit `n` is set when `heads[n]` is not `NONE`.
    available: u16,
    /// Top of the stack of single frames, or `NONE`.
    stack: u32,
    stack_len: u32,
    free: usize,
    total: usize,
}

impl<'a> FrameAllocator<'a> {
    /// An allocator over `frames`, all of which count as reserved until [`add_range`](Self::add_range).
    ///
    /// The array must be fresh: every element as from [`Frame::new`]. Elements beyond 2^32 - 1 are
    /// not used (16 TiB of memory).
    pub fn new(frames: &'a [Frame]) -> Self {
        let usable = frames.len().min(NONE as usize);
        let frames = frames.get(..usable).unwrap_or_default();
        Self { frames, heads: [NONE; ORDERS], available: 0, stack: NONE, stack_len: 0, free: 0, total: 0 }
    }

    /// The metadata of every frame, shared with whoever holds frames.
    pub fn frames(&self) -> &'a [Frame] {
        self.frames
    }

    /// Number of free frames.
    pub fn free_frames(&self) -> usize {
        self.free
    }

    /// Number of frames the allocator was given.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The largest order [`alloc`](Self::alloc) would serve now, `None` when no frame is free.
    ///
    /// Single frames set aside for quick allocation are rejoined first, which costs up to 256 steps.
    pub fn largest_order(&mut self) -> Option<u8> {
        self.empty_stack();
        self.available.checked_ilog2().map(|order| order as u8)
    }

    /// Gives frames `start..end` to the allocator as free ones.
    ///
    /// # Errors
    ///
    /// [`FrameError::OutOfRange`] or [`FrameError::AlreadyAdded`]; nothing is added then.
    pub fn add_range(&mut self, start: u32, end: u32) -> Result<(), FrameError> {
        if start > end {
            return Err(FrameError::OutOfRange);
        }
        let added = self.frames.get(start as usize..end as usize).ok_or(FrameError::OutOfRange)?;
        if added.iter().any(|frame| !frame.is_reserved()) {
            return Err(FrameError::AlreadyAdded);
        }
        for frame in added {
            frame.set(INTERIOR, 0);
        }
        self.total += added.len();
        self.free += added.len();
        let mut index = start;
        while index < end {
            // The largest block that starts here: by alignment, and by what is left.
            let aligned = index.trailing_zeros().min(u32::from(MAX_ORDER));
            let order = aligned.min((end - index).ilog2()) as u8;
            self.release(index, order);
            index += 1 << order;
        }
        Ok(())
    }

    /// Takes a block of 2^`order` frames and returns its first index, a multiple of 2^`order`. Its
    /// reference count is 1. `None` when no such block is free, or for an order above [`MAX_ORDER`].
    ///
    /// The contents of the frames are whatever their last holder left.
    #[inline]
    pub fn alloc(&mut self, order: u8) -> Option<u32> {
        let index = if order == 0 { self.alloc_single() } else { self.alloc_block(order) }?;
        let frame = self.frames.get(index as usize)?;
        frame.set(ALLOCATED, order);
        frame.references.store(1, Relaxed);
        self.free -= 1 << order;
        Some(index)
    }

    /// Gives back the block of 2^`order` frames that starts at `index`.
    ///
    /// # Errors
    ///
    /// Says why the block cannot be freed ([`FrameError`]); nothing is changed then.
    #[inline]
    pub fn free(&mut self, index: u32, order: u8) -> Result<(), FrameError> {
        let frame = self.check_allocated(index, order)?;
        if frame.ref_count() > 1 {
            return Err(FrameError::InUse);
        }
        frame.references.store(0, Relaxed);
        self.free += 1 << order;
        if order == 0 && self.stack_len < STACK_LIMIT {
            self.push(index);
        } else {
            self.release(index, order);
        }
        Ok(())
    }

    /// Turns an allocated block into 2^`order` allocated single frames with one holder each, so that they
    /// can be freed one by one (for a run whose length is not a power of two, or pages mapped singly).
    ///
    /// # Errors
    ///
    /// As for [`free`](Self::free).
    pub fn split_allocated(&mut self, index: u32, order: u8) -> Result<(), FrameError> {
        if self.check_allocated(index, order)?.ref_count() > 1 {
            return Err(FrameError::InUse);
        }
        let end = index as usize + (1 << order);
        for frame in self.frames.get(index as usize..end).ok_or(FrameError::OutOfRange)? {
            frame.references.store(1, Relaxed);
            frame.set(ALLOCATED, 0);
        }
        Ok(())
    }

    /// The first frame of an allocated block of `order`, or why `index` is not one.
    fn check_allocated(&self, index: u32, order: u8) -> Result<&'a Frame, FrameError> {
        let frame = self.frames.get(index as usize).ok_or(FrameError::OutOfRange)?;
        match frame.state() {
            ALLOCATED if frame.order() == order => Ok(frame),
            RESERVED => Err(FrameError::Reserved),
            FREE | STACKED => Err(FrameError::AlreadyFree),
            _ => Err(FrameError::NotABlock),
        }
    }

    /// A frame from the stack, refilled from the smallest free block when it is empty.
    #[inline]
    fn alloc_single(&mut self) -> Option<u32> {
        if let Some(index) = self.pop() {
            return Some(index);
        }
        self.refill()
    }

    /// Moves a block to the empty stack but for its first frame, which it returns.
    fn refill(&mut self) -> Option<u32> {
        let smallest = self.available.trailing_zeros() as u8;
        if smallest > MAX_ORDER {
            return None;
        }
        let order = smallest.min(REFILL_ORDER);
        let first = self.take(order)?;
        // Pushed from the top down, so that they come off in ascending order.
        for offset in (1..1 << order).rev() {
            self.push(first + offset);
        }
        Some(first)
    }

    /// A block of an order above 0, if need be after rejoining the single frames.
    fn alloc_block(&mut self, order: u8) -> Option<u32> {
        if order > MAX_ORDER {
            return None;
        }
        if let Some(index) = self.take(order) {
            return Some(index);
        }
        self.empty_stack();
        self.take(order)
    }

    /// Unlinks a block of `order`, cut from the smallest free block that is large enough.
    fn take(&mut self, order: u8) -> Option<u32> {
        let enough = u32::from(self.available >> order);
        if enough == 0 {
            return None;
        }
        let mut current = order + enough.trailing_zeros() as u8;
        let index = *self.heads.get(usize::from(current))?;
        self.unlink(index, current);
        while current > order {
            // Keep the lower half, free the upper one.
            current -= 1;
            self.link(index + (1 << current), current);
        }
        Some(index)
    }

    /// Puts a block on the free lists, joined with its free buddies.
    fn release(&mut self, index: u32, order: u8) {
        let (mut index, mut order) = (index, order);
        while order < MAX_ORDER {
            let buddy = index ^ (1 << order);
            match self.frames.get(buddy as usize) {
                Some(frame) if frame.state() == FREE && frame.order() == order => {}
                _ => break,
            }
            self.unlink(buddy, order);
            let upper = index | buddy;
            if let Some(frame) = self.frames.get(upper as usize) {
                frame.set(INTERIOR, 0);
            }
            index &= buddy;
            order += 1;
        }
        self.link(index, order);
    }

    /// Returns every frame of the stack to the buddy lists.
    fn empty_stack(&mut self) {
        while let Some(index) = self.pop() {
            self.release(index, 0);
        }
    }

    #[inline]
    fn push(&mut self, index: u32) {
        if let Some(frame) = self.frames.get(index as usize) {
            frame.set(STACKED, 0);
            frame.next.store(self.stack, Relaxed);
            self.stack = index;
            self.stack_len += 1;
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<u32> {
        // The index `NONE` is past the end of the array.
        let frame = self.frames.get(self.stack as usize)?;
        let index = self.stack;
        self.stack = frame.next.load(Relaxed);
        self.stack_len -= 1;
        Some(index)
    }

    /// Puts a block at the head of the list of its order.
    fn link(&mut self, index: u32, order: u8) {
        let (Some(frame), Some(head)) = (self.frames.get(index as usize), self.heads.get_mut(usize::from(order)))
        else {
            return;
        };
        frame.set(FREE, order);
        frame.next.store(*head, Relaxed);
        frame.previous.store(NONE, Relaxed);
        if let Some(next) = self.frames.get(*head as usize) {
            next.previous.store(index, Relaxed);
        }
        *head = index;
        self.available |= 1 << order;
    }

    /// Takes a block off the list of its order. Its state is for the caller to set.
    fn unlink(&mut self, index: u32, order: u8) {
        let (Some(frame), Some(head)) = (self.frames.get(index as usize), self.heads.get_mut(usize::from(order)))
        else {
            return;
        };
        let (next, previous) = (frame.next.load(Relaxed), frame.previous.load(Relaxed));
        match self.frames.get(previous as usize) {
            Some(frame) => frame.next.store(next, Relaxed),
            None => *head = next,
        }
        if let Some(frame) = self.frames.get(next as usize) {
            frame.previous.store(previous, Relaxed);
        }
        if *head == NONE {
            self.available &= !(1 << order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    fn metadata(count: usize) -> Vec<Frame> {
        (0..count).map(|_| Frame::new()).collect()
    }

    /// The free blocks of each order as (first frame, order), ascending; checks the lists on the way.
    fn free_blocks(allocator: &FrameAllocator) -> Vec<(u32, u8)> {
        let mut blocks = Vec::new();
        for (order, &head) in allocator.heads.iter().enumerate() {
            assert_eq!(allocator.available >> order & 1 == 1, head != NONE);
            let (mut index, mut previous) = (head, NONE);
            while index != NONE {
                let frame = &allocator.frames[index as usize];
                assert_eq!((frame.state(), frame.order() as usize), (FREE, order));
                assert_eq!(frame.previous.load(Relaxed), previous);
                assert_eq!(index % (1 << order), 0);
                blocks.push((index, order as u8));
                (previous, index) = (index, frame.next.load(Relaxed));
            }
        }
        blocks.sort_unstable();
        blocks
    }

    #[test]
    fn a_fresh_allocator_has_nothing_to_give() {
        let frames = metadata(64);
        let mut allocator = FrameAllocator::new(&frames);
        assert_eq!((allocator.total(), allocator.free_frames()), (0, 0));
        assert_eq!(allocator.alloc(0), None);
        assert_eq!(allocator.largest_order(), None);
        assert!(frames.iter().all(Frame::is_reserved));
    }

    #[test]
    fn a_range_becomes_the_largest_aligned_blocks() {
        let frames = metadata(5000);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(3, 3000).unwrap();
        assert_eq!((allocator.total(), allocator.free_frames()), (2997, 2997));
        let blocks = free_blocks(&allocator);
        assert_eq!(blocks[..4], [(3, 0), (4, 2), (8, 3), (16, 4)]);
        assert!(blocks.contains(&(1024, 10)));
        assert!(frames[2].is_reserved() && !frames[3].is_reserved() && frames[3000].is_reserved());
        assert_eq!(allocator.largest_order(), Some(10));
    }

    #[test]
    fn adjoining_ranges_grow_together() {
        let frames = metadata(32);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 7).unwrap();
        allocator.add_range(9, 32).unwrap();
        allocator.add_range(7, 9).unwrap();
        assert_eq!(free_blocks(&allocator), [(0, 5)]);
    }

    #[test]
    fn a_bad_range_is_refused_whole() {
        let frames = metadata(32);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(8, 16).unwrap();
        assert_eq!(allocator.add_range(0, 33), Err(FrameError::OutOfRange));
        assert_eq!(allocator.add_range(9, 8), Err(FrameError::OutOfRange));
        assert_eq!(allocator.add_range(0, 9), Err(FrameError::AlreadyAdded));
        assert_eq!(allocator.add_range(20, 20), Ok(()));
        assert_eq!(allocator.total(), 8);
        assert!(frames[0].is_reserved());
    }

    #[test]
    fn single_frames_come_in_ascending_order() {
        let frames = metadata(64);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 64).unwrap();
        let taken: Vec<u32> = (0..64).filter_map(|_| allocator.alloc(0)).collect();
        assert!(taken.iter().copied().eq(0..64));
        assert_eq!(allocator.alloc(0), None);
        assert_eq!(allocator.free_frames(), 0);
    }

    #[test]
    fn blocks_are_aligned_to_their_size() {
        let frames = metadata(4096);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(1, 4096).unwrap();
        for order in 0..=MAX_ORDER {
            assert_eq!(allocator.alloc(order).unwrap() % (1 << order), 0);
        }
        assert_eq!(allocator.alloc(MAX_ORDER + 1), None);
        assert_eq!(allocator.alloc(u8::MAX), None);
    }

    #[test]
    fn freeing_everything_restores_the_original_blocks() {
        let frames = metadata(3000);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(5, 2999).unwrap();
        let original = free_blocks(&allocator);
        let mut taken: Vec<u32> = core::iter::from_fn(|| allocator.alloc(0)).collect();
        assert_eq!(taken.len(), 2994);
        let mut random = Random::new(7);
        for index in (1..taken.len()).rev() {
            taken.swap(index, random.below(index as u64 + 1) as usize);
        }
        for index in taken {
            allocator.free(index, 0).unwrap();
        }
        assert_eq!(allocator.largest_order(), Some(10));
        assert_eq!(free_blocks(&allocator), original);
        assert_eq!(allocator.free_frames(), 2994);
    }

    #[test]
    fn a_block_is_found_among_frames_set_aside_singly() {
        let frames = metadata(16);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 16).unwrap();
        let first = allocator.alloc(0).unwrap();
        allocator.free(first, 0).unwrap();
        assert_eq!(allocator.alloc(4), Some(0));
    }

    #[test]
    fn wrong_frees_are_refused_and_change_nothing() {
        let frames = metadata(64);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 32).unwrap();
        let block = allocator.alloc(3).unwrap();
        let single = allocator.alloc(0).unwrap();
        assert_eq!(allocator.free(40, 0), Err(FrameError::Reserved));
        assert_eq!(allocator.free(64, 0), Err(FrameError::OutOfRange));
        assert_eq!(allocator.free(NONE, 0), Err(FrameError::OutOfRange));
        assert_eq!(allocator.free(block, 2), Err(FrameError::NotABlock));
        assert_eq!(allocator.free(block, 200), Err(FrameError::NotABlock));
        assert_eq!(allocator.free(block + 1, 0), Err(FrameError::NotABlock));
        assert_eq!(allocator.free(single, 0), Ok(()));
        assert_eq!(allocator.free(single, 0), Err(FrameError::AlreadyFree));
        assert_eq!(allocator.free(block, 3), Ok(()));
        assert!(allocator.free(block, 3).is_err());
        assert_eq!(allocator.free_frames(), 32);
        assert_eq!(allocator.largest_order(), Some(5));
    }

    #[test]
    fn a_frame_with_two_holders_cannot_be_freed_until_one_lets_go() {
        let frames = metadata(4);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 4).unwrap();
        let index = allocator.alloc(0).unwrap();
        let frame = &frames[index as usize];
        assert_eq!(frame.ref_count(), 1);
        frame.inc_ref();
        assert_eq!(allocator.free(index, 0), Err(FrameError::InUse));
        assert!(!frame.dec_ref());
        assert!(frame.dec_ref());
        assert!(!frame.dec_ref());
        assert_eq!(frame.ref_count(), 0);
        assert_eq!(allocator.free(index, 0), Ok(()));
    }

    #[test]
    fn the_last_of_many_holders_on_many_threads_is_told_once() {
        let frames = metadata(1);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 1).unwrap();
        let index = allocator.alloc(0).unwrap();
        let frame = &frames[index as usize];
        let last = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                frame.inc_ref();
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        frame.inc_ref();
                        assert!(!frame.dec_ref());
                    }
                    last.fetch_add(u32::from(frame.dec_ref()), Relaxed);
                });
            }
            last.fetch_add(u32::from(frame.dec_ref()), Relaxed);
        });
        assert_eq!((last.load(Relaxed), frame.ref_count()), (1, 0));
    }

    #[test]
    fn reserved_frames_are_not_counted() {
        let frame = Frame::new();
        frame.inc_ref();
        assert_eq!(frame.ref_count(), 0);
        assert!(!frame.dec_ref());
    }

    #[test]
    fn a_split_block_is_freed_frame_by_frame() {
        let frames = metadata(16);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(0, 16).unwrap();
        let block = allocator.alloc(3).unwrap();
        assert_eq!(allocator.split_allocated(block, 2), Err(FrameError::NotABlock));
        allocator.split_allocated(block, 3).unwrap();
        assert_eq!(allocator.free(block, 3), Err(FrameError::NotABlock));
        for index in block..block + 8 {
            assert_eq!(frames[index as usize].ref_count(), 1);
            allocator.free(index, 0).unwrap();
        }
        assert_eq!(allocator.largest_order(), Some(4));
    }

    #[test]
    fn random_use_agrees_with_a_model_and_ends_where_it_began() {
        const COUNT: u32 = 6000;
        let frames = metadata(COUNT as usize);
        let mut allocator = FrameAllocator::new(&frames);
        allocator.add_range(2, 1500).unwrap();
        allocator.add_range(1507, COUNT - 1).unwrap();
        let original = free_blocks(&allocator);
        let total = allocator.total();
        let mut random = Random::new(0xf4a3e5);
        // First frame of each allocated block, to its order.
        let mut model: BTreeMap<u32, u8> = BTreeMap::new();
        let mut used = 0;
        for step in 0..200_000 {
            // Swings between nearly full and nearly empty.
            let filling = step / 10_000 % 2 == 0;
            if random.below(10) < if filling { 7 } else { 3 } {
                let order = if random.below(3) == 0 { random.below(11) as u8 } else { 0 };
                if let Some(index) = allocator.alloc(order) {
                    let end = index + (1 << order);
                    assert!(!frames[index as usize..end as usize].iter().any(Frame::is_reserved));
                    let before = model.range(..end).next_back().map_or(0, |(at, order)| at + (1 << order));
                    assert!(before <= index, "block at {index} handed out twice");
                    model.insert(index, order);
                    used += 1 << order;
                } else if order == 0 {
                    assert_eq!(used, total);
                }
            } else {
                let at = random.below(u64::from(COUNT)) as u32;
                let Some((&index, &order)) = model.range(at..).next() else {
                    continue;
                };
                model.remove(&index);
                used -= 1 << order;
                allocator.free(index, order).unwrap();
                assert!(allocator.free(index, order).is_err());
            }
            assert_eq!(allocator.free_frames(), total - used);
        }
        for (index, order) in model {
            allocator.free(index, order).unwrap();
        }
        assert_eq!(allocator.largest_order(), Some(10));
        assert_eq!(free_blocks(&allocator), original);
    }
}
