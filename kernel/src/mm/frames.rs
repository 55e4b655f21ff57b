//! Physical page frames.
//!
//! [`klib::frames`] keeps the books; this module puts it under a lock, gives frames addresses, and hands them out as
//! [`FrameRef`]. Programs get frames only while a reserve is left, so that the kernel's heap and page tables can grow
//! when memory is short: an out-of-memory condition hits the program that caused it, not the kernel.

use alloc::vec::Vec;
use core::{
    ptr,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use abi::Errno;
use hal::{Arch as _, PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use klib::frames::{Frame, FrameAllocator};

use super::reclaim;
use crate::{
    arch::Arch,
    sync::{IrqLock, Once},
};

/// Everything about physical memory that does not change after boot.
struct Frames {
    /// Physical address of frame 0.
    base: u64,
    metadata: &'static [Frame],
    /// One bit a frame: instruction fetches see the frame's bytes.
    executable: &'static [AtomicU32],
}

static FRAMES: Once<Frames> = Once::new();
/// Frames free, as of the last change.
static FREE: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Frames kept back from programs.
static RESERVE: AtomicUsize = AtomicUsize::new(0);
/// Frames in use by the kernel itself.
static KERNEL: AtomicUsize = AtomicUsize::new(0);
static ALLOCATOR: IrqLock<Option<FrameAllocator<'static>>> = IrqLock::new(None);

/// Frames kept back from programs: none before there are any.
fn reserve() -> usize {
    RESERVE.load(Ordering::Relaxed)
}

/// Where the byte at a physical address is in the kernel's linear mapping.
pub fn linear(address: PhysAddr) -> *mut u8 {
    ptr::with_exposed_provenance_mut(Arch::LINEAR_BASE + address.get() as usize)
}

/// Starts the allocator: `metadata` describes the frames from physical address `base` on, none of them free yet.
pub fn init(base: u64, metadata: &'static [Frame], executable: &'static [AtomicU32]) {
    FRAMES.call_once(|| Frames { base, metadata, executable });
    *ALLOCATOR.lock() = Some(FrameAllocator::new(metadata));
}

/// Gives the pages wholly inside a physical range to the allocator.
pub fn add_range(range: core::ops::Range<u64>) {
    let Some(frames) = FRAMES.get() else { return };
    let start = range.start.next_multiple_of(PAGE_SIZE as u64).saturating_sub(frames.base) >> PAGE_SHIFT;
    let end = range.end.saturating_sub(frames.base) >> PAGE_SHIFT;
    if start >= end {
        return;
    }
    // The lock is free again before the log allocates memory.
    let added = ALLOCATOR.lock().as_mut().map(|allocator| allocator.add_range(start as u32, end as u32));
    if let Some(Err(error)) = added {
        log::warn!("memory {range:#x?} not used: {error}");
    }
    let Stats { total, free, .. } = stats();
    FREE.store(free, Ordering::Relaxed);
    RESERVE.store((total / 64).clamp(128, 2048), Ordering::Relaxed);
}

/// How much memory there is, in pages.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Pages the allocator manages.
    pub total: usize,
    /// Pages free now.
    pub free: usize,
    /// Pages that the kernel itself uses: its heap and stacks, and page tables.
    pub kernel: usize,
}

/// How much memory there is.
pub fn stats() -> Stats {
    match ALLOCATOR.lock().as_ref() {
        Some(allocator) => {
            Stats { total: allocator.total(), free: allocator.free_frames(), kernel: KERNEL.load(Ordering::Relaxed) }
        }
        None => Stats { total: 0, free: 0, kernel: 0 },
    }
}

/// Pages that programs can still get, those in caches among them where the free ones are less than `wanted`.
pub fn available(wanted: usize) -> usize {
    let free = FREE.load(Ordering::Relaxed).saturating_sub(reserve());
    if free < wanted { free + reclaim::idle_pages() } else { free }
}

/// Whether so little is left that nothing more should be promised to programs: no mappings, tables or threads.
pub fn is_short() -> bool {
    FREE.load(Ordering::Relaxed) < reserve() / 2
}

/// Whether so little is left that a program has to end before the kernel itself runs out.
pub fn is_critical() -> bool {
    FREE.load(Ordering::Relaxed) < reserve() / 4
}

/// Remembers how much is free, to be read without the lock.
fn note_free(allocator: &FrameAllocator<'_>) {
    FREE.store(allocator.free_frames(), Ordering::Relaxed);
}

/// Allocates 2^`order` contiguous frames for the kernel's own use.
pub fn alloc_kernel(order: u8) -> Option<PhysAddr> {
    let frames = FRAMES.get()?;
    let index = {
        let mut guard = ALLOCATOR.lock();
        let allocator = guard.as_mut()?;
        let index = allocator.alloc(order)?;
        note_free(allocator);
        index
    };
    KERNEL.fetch_add(1 << order, Ordering::Relaxed);
    Some(PhysAddr::new(frames.base + (u64::from(index) << PAGE_SHIFT)))
}

/// Allocates 2^`order` contiguous frames, each to be given back by itself; content unknown. `None` also when only the
/// kernel's reserve would be left.
pub fn alloc_block(order: u8) -> Option<Vec<FrameRef>> {
    loop {
        match block_beyond_reserve(order) {
            None if reclaim::run() => {}
            block => return block,
        }
    }
}

fn block_beyond_reserve(order: u8) -> Option<Vec<FrameRef>> {
    let frames = FRAMES.get()?;
    let index = {
        let mut guard = ALLOCATOR.lock();
        let allocator = guard.as_mut()?;
        if allocator.free_frames() <= reserve() + (1 << order) {
            return None;
        }
        let index = allocator.alloc(order)?;
        let split = allocator.split_allocated(index, order);
        debug_assert!(split.is_ok(), "allocated just now");
        note_free(allocator);
        index
    };
    let address = |number| PhysAddr::new(frames.base + (u64::from(index + number) << PAGE_SHIFT));
    Some((0..1 << order).map(|number| FrameRef(address(number))).collect())
}

/// Gives back what [`alloc_kernel`] gave.
pub fn free_kernel(address: PhysAddr, order: u8) {
    KERNEL.fetch_sub(1 << order, Ordering::Relaxed);
    free(address, order);
}

fn free(address: PhysAddr, order: u8) {
    let Some(frames) = FRAMES.get() else { return };
    let index = (address.get() - frames.base) >> PAGE_SHIFT;
    if let Some(word) = frames.executable.get(index as usize / 32) {
        word.fetch_and(!(1 << (index % 32)), Ordering::Relaxed);
    }
    // The lock is free again before the log allocates memory.
    let freed = ALLOCATOR.lock().as_mut().map(|allocator| {
        let freed = allocator.free(index as u32, order);
        note_free(allocator);
        freed
    });
    if let Some(Err(error)) = freed {
        log::error!("frame {address} order {order} not freed: {error}");
    }
}

/// Zeroes a frame.
pub fn zero(address: PhysAddr) {
    // SAFETY: a frame in the linear mapping, page aligned, owned by the caller.
    unsafe { Arch::zero_page(linear(address)) };
}

/// Makes instruction fetches see the frame's bytes, once for each use of the frame.
pub fn make_executable(address: PhysAddr) {
    let Some(frames) = FRAMES.get() else { return };
    let index = address.get().wrapping_sub(frames.base) >> PAGE_SHIFT;
    let Some(word) = frames.executable.get(index as usize / 32) else { return };
    let bit = 1 << (index % 32);
    if word.load(Ordering::Acquire) & bit == 0 {
        let start = linear(address).addr();
        Arch::sync_instructions(start..start + PAGE_SIZE);
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

/// The kernel wrote to the frame: instruction fetches may see what was there before. To be said after the write: whoever
/// maps the frame for execution meanwhile may have made visible what was there by then.
pub fn content_changed(address: PhysAddr) {
    let Some(frames) = FRAMES.get() else { return };
    let index = address.get().wrapping_sub(frames.base) >> PAGE_SHIFT;
    if let Some(word) = frames.executable.get(index as usize / 32)
        && word.load(Ordering::Relaxed) & 1 << (index % 32) != 0
    {
        word.fetch_and(!(1 << (index % 32)), Ordering::Release);
    }
}

/// An owned reference to one page of physical memory. Pages of the root image are never freed; all others are when
/// their last reference goes.
pub struct FrameRef(PhysAddr);

impl FrameRef {
    /// A frame with unknown content, for a program. ENOMEM when only the kernel's reserve is left, and the caches have
    /// nothing to give.
    pub fn uninitialised() -> Result<Self, Errno> {
        loop {
            match Self::beyond_reserve() {
                None if reclaim::run() => {}
                frame => return frame.ok_or(Errno::ENOMEM),
            }
        }
    }

    /// A frame with unknown content, where the kernel's reserve stays whole.
    fn beyond_reserve() -> Option<Self> {
        let frames = FRAMES.get()?;
        let mut guard = ALLOCATOR.lock();
        let allocator = guard.as_mut()?;
        if allocator.free_frames() <= reserve() {
            return None;
        }
        let index = allocator.alloc(0)?;
        note_free(allocator);
        Some(Self(PhysAddr::new(frames.base + (u64::from(index) << PAGE_SHIFT))))
    }

    /// A zeroed frame. ENOMEM as above.
    pub fn zeroed() -> Result<Self, Errno> {
        let frame = Self::uninitialised()?;
        zero(frame.0);
        Ok(frame)
    }

    /// A new frame with the same content. ENOMEM as above.
    pub fn copied(&self) -> Result<Self, Errno> {
        let copy = Self::uninitialised()?;
        // SAFETY: two different frames in the linear mapping.
        unsafe { ptr::copy_nonoverlapping(self.bytes(), copy.bytes(), PAGE_SIZE) };
        Ok(copy)
    }

    /// A page of the root image, which nobody allocates or frees.
    pub const fn from_static(address: PhysAddr) -> Self {
        Self(address)
    }

    /// The page's address.
    pub const fn phys(&self) -> PhysAddr {
        self.0
    }

    /// Says that the page's bytes were written to: instruction fetches are made to see them when it is next mapped.
    pub fn written(&self) {
        content_changed(self.0);
    }

    /// The page's bytes. Programs and other CPUs may change them at any time.
    pub fn bytes(&self) -> *mut u8 {
        linear(self.0)
    }

    /// Copies from the page; what reaches beyond it is left out.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let len = out.len().min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: within the page.
        unsafe { ptr::copy_nonoverlapping(self.bytes().add(offset.min(PAGE_SIZE)), out.as_mut_ptr(), len) };
    }

    /// Copies to the page; what reaches beyond it is left out.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let len = bytes.len().min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: within the page.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.bytes().add(offset.min(PAGE_SIZE)), len) };
        self.written();
    }

    fn metadata(&self) -> Option<&'static Frame> {
        let frames = FRAMES.get()?;
        frames.metadata.get((self.0.get().checked_sub(frames.base)? >> PAGE_SHIFT) as usize)
    }

    /// Whether this is the only reference to an allocated frame.
    pub fn is_unique(&self) -> bool {
        self.metadata().is_some_and(|frame| !frame.is_reserved() && frame.ref_count() == 1)
    }

    /// How many references there are to an allocated frame; `None` for a page of the root image.
    pub fn references(&self) -> Option<u32> {
        self.metadata().filter(|frame| !frame.is_reserved()).map(|frame| frame.ref_count())
    }

    /// Gives the reference away as an address, to be kept in a page table.
    pub fn into_raw(self) -> PhysAddr {
        let address = self.0;
        core::mem::forget(self);
        address
    }

    /// Takes back what [`FrameRef::into_raw`] gave.
    ///
    /// # Safety
    /// The address came from `into_raw` and nobody else takes this reference back.
    pub unsafe fn from_raw(address: PhysAddr) -> Self {
        Self(address)
    }
}

impl Clone for FrameRef {
    fn clone(&self) -> Self {
        if let Some(frame) = self.metadata() {
            frame.inc_ref();
        }
        Self(self.0)
    }
}

impl Drop for FrameRef {
    fn drop(&mut self) {
        if self.metadata().is_some_and(|frame| !frame.is_reserved() && frame.dec_ref()) {
            free(self.0, 0);
        }
    }
}
