//! Slabs: the bookkeeping of a heap of small blocks, by size class.
//!
//! Purpose: hand out and take back blocks of up to 2 KiB in a fixed number of steps. A *slab* is a run of 1, 2 or 4
//! pages, aligned to its own size, cut into blocks of one size; masking a block's address finds its slab, and a
//! [`Header`] at the slab's start says which blocks are free.
//!
//! Key types: [`Class`], a block size; [`Cache`], the slabs of one class. Neighbours: the kernel's `mm::heap` owns the
//! memory, finds headers in it ([`Headers`]), and puts each cache under a lock. A cache asks nobody for memory: when
//! [`Cache::alloc`] has none left the caller [adds a slab](Cache::add_slab), and [`Cache::free`] names a slab that is
//! no longer needed. So the caller calls the frame allocator with no lock of the heap held.
//!
//! Why a bit per block instead of a list threaded through the free blocks: nothing here touches a block, so this file
//! needs no `unsafe` and a program that writes to a block it freed cannot damage the books; a second free and a free
//! with the wrong size are noticed in the same step; and the lowest free block is taken first, so that a few long-lived
//! blocks do not spread over many slabs. There are at most four words to look at.
//!
//! Why one empty slab is kept for each class: a caller that allocates and frees one block at the edge of a slab would
//! else go to the frame allocator each time.

use core::cell::Cell;
use core::fmt;

/// What the pages of a slab come in.
const PAGE_SIZE: usize = 4096;
/// Bytes at the start of a slab that its blocks leave to the [`Header`].
pub const HEADER_LEN: usize = 64;
/// Blocks are a multiple of this long.
const STEP: usize = 16;
/// The longest block, in bytes.
pub const MAX_BLOCK: usize = 2048;
/// Words of 64 bits that say which blocks of a slab are free.
const WORDS: usize = 4;
/// No slab. Address 0 is never one.
const NONE: usize = 0;

/// Block sizes in bytes, and the order of their slabs (2^order pages). Between powers of two there is one more size, so
/// that a block is at most half as long again as what was asked for; slabs are large enough to lose at most an eighth.
const CLASSES: [(u16, u8); 14] = [
    (16, 0),
    (32, 0),
    (48, 0),
    (64, 0),
    (96, 0),
    (128, 0),
    (192, 0),
    (256, 0),
    (384, 0),
    (512, 1),
    (768, 1),
    (1024, 1),
    (1536, 2),
    (2048, 2),
];

/// The class for a size, by size in steps, rounded up.
const BY_SIZE: [u8; MAX_BLOCK / STEP + 1] = {
    let mut table = [0; MAX_BLOCK / STEP + 1];
    let (mut steps, mut class) = (0, 0);
    while steps < table.len() {
        if steps * STEP > CLASSES[class].0 as usize {
            class += 1;
        }
        table[steps] = class as u8;
        steps += 1;
    }
    table
};

/// A block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u8);

impl Class {
    /// Number of classes.
    pub const COUNT: usize = CLASSES.len();

    /// All classes by ascending size.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self(0); Self::COUNT];
        let mut index = 0;
        while index < all.len() {
            all[index] = Self(index as u8);
            index += 1;
        }
        all
    };

    /// The smallest class whose blocks hold `size` bytes aligned to `align` (a power of two). `None` when it is larger
    /// than all.
    #[inline]
    pub fn of(size: usize, align: usize) -> Option<Self> {
        let mut class = Self(*BY_SIZE.get(size.div_ceil(STEP))?);
        if align > STEP {
            while class.align() < align {
                class = Self(class.0 + 1);
                if class.index() == Self::COUNT {
                    return None;
                }
            }
        }
        Some(class)
    }

    /// The class's place in [`Class::ALL`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Bytes of a block.
    pub const fn size(self) -> usize {
        CLASSES[self.index()].0 as usize
    }

    /// What blocks are aligned to, in bytes: the largest power of two that divides their size. They are laid out
    /// from the slab's end down.
    pub const fn align(self) -> usize {
        1 << self.size().trailing_zeros()
    }

    /// A slab is 2^order pages.
    pub const fn order(self) -> u8 {
        CLASSES[self.index()].1
    }

    /// Bytes of a slab, and what it is aligned to.
    pub const fn slab_len(self) -> usize {
        PAGE_SIZE << self.order()
    }

    /// Blocks of a slab.
    pub const fn blocks(self) -> usize {
        (self.slab_len() - HEADER_LEN) / self.size()
    }
}

/// What is kept at the start of a slab. Only the class's [`Cache`] looks inside.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// Bit `n` of word `w` is set while block `64 * w + n` is free. Block 0 is the last of the slab.
    free: [Cell<u64>; WORDS],
    next: Cell<usize>,
    previous: Cell<usize>,
    free_count: Cell<u16>,
    class: Class,
}

const _: () = assert!(size_of::<Header>() <= HEADER_LEN);
const _: () = assert!(Class::ALL[0].blocks() <= 64 * WORDS);

impl Header {
    /// The header of a slab whose blocks are all free.
    pub fn new(class: Class) -> Self {
        let blocks = class.blocks();
        let word = |index: usize| match blocks.saturating_sub(64 * index) {
            0 => 0,
            count @ 1..64 => (1 << count) - 1,
            _ => u64::MAX,
        };
        Self {
            free: core::array::from_fn(|index| Cell::new(word(index))),
            next: Cell::new(NONE),
            previous: Cell::new(NONE),
            free_count: Cell::new(blocks as u16),
            class,
        }
    }
}

/// How a cache reaches the headers of its slabs.
pub trait Headers {
    /// The header of the slab that starts at `slab`, an address that was given to [`Cache::add_slab`] and not yet
    /// named by [`Cache::free`] as no longer needed (or one that a caller's wrong free made up: see there).
    fn header(&self, slab: usize) -> &Header;
}

/// Why a block was not taken back. All mean a bug in who frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// The block is free already.
    AlreadyFree,
    /// The address is in no slab of this class, or not a block's first byte.
    NotABlock,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyFree => "the block is free already",
            Self::NotABlock => "no block of this size is at the address",
        })
    }
}

impl core::error::Error for FreeError {}

/// The slabs of one class.
#[derive(Debug)]
pub struct Cache {
    class: Class,
    /// First of the slabs with some blocks free and some in use. Those with none free are on no list.
    partial: usize,
    /// The slab kept although all its blocks are free.
    spare: usize,
}

impl Cache {
    /// A cache without slabs.
    pub const fn new(class: Class) -> Self {
        Self { class, partial: NONE, spare: NONE }
    }

    /// The class.
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The address of a free block, which is in use from now on. `None` when a slab must be [added](Self::add_slab).
    #[inline]
    pub fn alloc(&mut self, headers: &impl Headers) -> Option<usize> {
        if self.partial == NONE {
            if self.spare == NONE {
                return None;
            }
            let slab = core::mem::replace(&mut self.spare, NONE);
            self.link(headers, slab);
        }
        let slab = self.partial;
        let header = headers.header(slab);
        let (index, word) = header.free.iter().enumerate().find(|(_, word)| word.get() != 0)?;
        let bits = word.get();
        let block = 64 * index + bits.trailing_zeros() as usize;
        // Clears the lowest bit that is set.
        word.set(bits & (bits - 1));
        let left = header.free_count.get() - 1;
        header.free_count.set(left);
        if left == 0 {
            self.unlink(headers, slab);
        }
        Some(slab + self.class.slab_len() - (block + 1) * self.class.size())
    }

    /// Gives the cache a fresh slab: aligned to its length ([`Class::slab_len`]), with [`Header::new`] at its start.
    pub fn add_slab(&mut self, headers: &impl Headers, slab: usize) {
        self.link(headers, slab);
    }

    /// Takes back the block at `address`. Returns a slab that is no longer needed, which the caller may use otherwise.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing is changed then. To find out, the start of the slab the address would be in is looked at.
    #[inline]
    pub fn free(&mut self, headers: &impl Headers, address: usize) -> Result<Option<usize>, FreeError> {
        let (len, size) = (self.class.slab_len(), self.class.size());
        let slab = address & !(len - 1);
        let header = headers.header(slab);
        // 32 bits divide in fewer cycles.
        let below_end = (slab + len - address) as u32;
        let block = (below_end / size as u32) as usize;
        if header.class != self.class || !below_end.is_multiple_of(size as u32) || block > self.class.blocks() {
            return Err(FreeError::NotABlock);
        }
        let block = block - 1;
        let word = header.free.get(block / 64).ok_or(FreeError::NotABlock)?;
        let (bits, bit) = (word.get(), 1 << (block % 64));
        if bits & bit != 0 {
            return Err(FreeError::AlreadyFree);
        }
        word.set(bits | bit);
        let free = header.free_count.get() + 1;
        header.free_count.set(free);
        if free == 1 {
            self.link(headers, slab);
        }
        if usize::from(free) < self.class.blocks() {
            return Ok(None);
        }
        self.unlink(headers, slab);
        if self.spare == NONE {
            self.spare = slab;
            return Ok(None);
        }
        Ok(Some(slab))
    }

    /// Puts a slab at the head of the list of those with free blocks.
    fn link(&mut self, headers: &impl Headers, slab: usize) {
        let header = headers.header(slab);
        header.previous.set(NONE);
        header.next.set(self.partial);
        if self.partial != NONE {
            headers.header(self.partial).previous.set(slab);
        }
        self.partial = slab;
    }

    /// Takes a slab off that list.
    fn unlink(&mut self, headers: &impl Headers, slab: usize) {
        let header = headers.header(slab);
        let (next, previous) = (header.next.get(), header.previous.get());
        if previous == NONE {
            self.partial = next;
        } else {
            headers.header(previous).next.set(next);
        }
        if next != NONE {
            headers.header(next).previous.set(previous);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;
    use alloc::boxed::Box;
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::vec::Vec;

    /// Slabs at made-up addresses, one behind the other.
    struct Memory {
        headers: BTreeMap<usize, Box<Header>>,
        next: usize,
    }

    impl Headers for Memory {
        fn header(&self, slab: usize) -> &Header {
            &self.headers[&slab]
        }
    }

    impl Memory {
        fn new() -> Self {
            Self { headers: BTreeMap::new(), next: 1 << 20 }
        }

        fn alloc(&mut self, cache: &mut Cache) -> usize {
            if let Some(block) = cache.alloc(self) {
                return block;
            }
            let slab = self.next.next_multiple_of(cache.class().slab_len());
            self.next = slab + cache.class().slab_len();
            self.headers.insert(slab, Box::new(Header::new(cache.class())));
            cache.add_slab(self, slab);
            cache.alloc(self).unwrap()
        }

        fn free(&mut self, cache: &mut Cache, block: usize) {
            if let Some(slab) = cache.free(self, block).unwrap() {
                self.headers.remove(&slab).unwrap();
            }
        }
    }

    #[test]
    fn the_class_of_a_size_is_the_smallest_that_holds_it() {
        for size in 1..=MAX_BLOCK {
            let class = Class::of(size, 1).unwrap();
            assert!(class.size() >= size);
            assert!(class.index() == 0 || Class::ALL[class.index() - 1].size() < size, "{size}");
        }
        assert_eq!(Class::of(0, 1), Some(Class::ALL[0]));
        assert_eq!(Class::of(MAX_BLOCK + 1, 1), None);
        assert_eq!(Class::of(usize::MAX, 1), None);
    }

    #[test]
    fn the_class_of_an_alignment_has_it() {
        for size in [1, 16, 48, 100, 700, 1500, 2048] {
            for shift in 0..=11 {
                let class = Class::of(size, 1 << shift).unwrap();
                assert!(class.size() >= size && class.align() >= 1 << shift, "{size} aligned to 2^{shift}");
            }
            assert_eq!(Class::of(size, 4096), None);
        }
        assert_eq!(Class::of(48, 64).map(Class::size), Some(64));
    }

    #[test]
    fn slabs_lose_at_most_an_eighth() {
        for class in Class::ALL {
            let used = class.blocks() * class.size();
            assert!(used + HEADER_LEN <= class.slab_len());
            assert!(class.slab_len() - used <= class.slab_len() / 8, "{class:?}");
        }
    }

    #[test]
    fn blocks_are_aligned_apart_and_clear_of_the_header() {
        for class in Class::ALL {
            let (mut memory, mut cache) = (Memory::new(), Cache::new(class));
            let blocks: BTreeSet<usize> = (0..2 * class.blocks() + 1).map(|_| memory.alloc(&mut cache)).collect();
            assert_eq!((blocks.len(), memory.headers.len()), (2 * class.blocks() + 1, 3));
            for &block in &blocks {
                assert_eq!(block % class.align(), 0);
                let offset = block % class.slab_len();
                assert!(offset >= HEADER_LEN && offset + class.size() <= class.slab_len());
            }
            let blocks: Vec<usize> = blocks.into_iter().collect();
            assert!(blocks.windows(2).all(|pair| pair[1] - pair[0] >= class.size()));
        }
    }

    #[test]
    fn one_empty_slab_is_kept_and_the_rest_given_back() {
        let (mut memory, mut cache) = (Memory::new(), Cache::new(Class::ALL[7]));
        let blocks: Vec<usize> = (0..5 * cache.class().blocks()).map(|_| memory.alloc(&mut cache)).collect();
        assert_eq!(memory.headers.len(), 5);
        for block in blocks {
            memory.free(&mut cache, block);
        }
        assert_eq!(memory.headers.len(), 1);
    }

    #[test]
    fn alternating_at_the_edge_of_a_slab_asks_for_one_slab() {
        let (mut memory, mut cache) = (Memory::new(), Cache::new(Class::ALL[3]));
        for _ in 0..cache.class().blocks() {
            memory.alloc(&mut cache);
        }
        let slab = memory.next;
        for _ in 0..100 {
            let block = memory.alloc(&mut cache);
            assert_eq!(block & !(cache.class().slab_len() - 1), slab);
            memory.free(&mut cache, block);
        }
        assert_eq!(memory.headers.len(), 2);
    }

    #[test]
    fn wrong_frees_are_refused_and_change_nothing() {
        let (mut memory, mut cache) = (Memory::new(), Cache::new(Class::ALL[4]));
        let blocks: Vec<usize> = (0..3).map(|_| memory.alloc(&mut cache)).collect();
        memory.free(&mut cache, blocks[1]);
        assert_eq!(cache.free(&memory, blocks[1]), Err(FreeError::AlreadyFree));
        assert_eq!(cache.free(&memory, blocks[0] + 16), Err(FreeError::NotABlock));
        let slab = blocks[0] & !(cache.class().slab_len() - 1);
        assert_eq!(cache.free(&memory, slab), Err(FreeError::NotABlock));
        let mut other = Cache::new(Class::ALL[5]);
        assert_eq!(other.free(&memory, blocks[0]), Err(FreeError::NotABlock));
        assert_eq!(memory.alloc(&mut cache), blocks[1]);
        assert_eq!(memory.headers[&slab].free_count.get() as usize, cache.class().blocks() - 3);
    }

    #[test]
    fn random_use_gives_no_block_twice_and_keeps_few_slabs() {
        for (seed, class) in Class::ALL.into_iter().enumerate() {
            let (mut memory, mut cache) = (Memory::new(), Cache::new(class));
            let mut random = Random::new(seed as u64 + 77);
            let (mut order, mut held) = (Vec::new(), BTreeSet::new());
            for step in 0..20_000 {
                // Grows and shrinks in waves.
                let growing = random.below(100) < if step / 2500 % 2 == 0 { 60 } else { 40 };
                if growing || order.is_empty() {
                    let block = memory.alloc(&mut cache);
                    assert!(held.insert(block));
                    order.push(block);
                } else {
                    let block = order.swap_remove(random.below(order.len() as u64) as usize);
                    assert!(held.remove(&block));
                    memory.free(&mut cache, block);
                }
                let free: usize = memory.headers.values().map(|header| usize::from(header.free_count.get())).sum();
                assert_eq!(free + held.len(), memory.headers.len() * class.blocks());
            }
            for block in order {
                memory.free(&mut cache, block);
            }
            assert_eq!(memory.headers.len(), 1);
        }
    }
}
