//! The kernel heap.
//!
//! Purpose: the global allocator. What a request or a release costs depends on its size and not on what else is
//! allocated, and memory goes back to the frame allocator. Four parts:
//!
//! - up to 2 KiB: blocks from slabs, which [`klib::slab`] keeps the books of, one [`Cache`] and one lock a class;
//! - up to 4 MiB: a run of 2^n pages from the frame allocator;
//! - larger, or when no run of that length is left: a *span*, single pages mapped at a free slot of the span window;
//! - when the others cannot help, most of all before there are frames: `linked_list_allocator` over a window that
//!   grows. It starts on memory in the image, so that the device tree can be read before physical memory is known.
//!
//! Slabs and runs are used where they are in the linear mapping, the others have their own parts of the address space:
//! a block's address tells whose it is, and its layout the rest. Neighbours: [`frames`] gives memory, [`kernel_space`]
//! maps it. No lock is held while frames are asked for or given back, but for the window's. Why not
//! `linked_list_allocator` alone: docs/decisions/0003-kernel-heap.md.

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::{self, NonNull},
};

use hal::{Arch as _, PhysAddr};
use klib::{
    frames::MAX_ORDER,
    slab::{Cache, Class, Header, Headers},
};
use linked_list_allocator::Heap;

use super::{PAGE_SIZE, frames, kernel_space};
use crate::{arch::Arch, sync::IrqLock};

/// The window's growth steps are at least this many bytes, memory permitting.
const GROWTH: usize = 64 << 10;
/// Address space of a span, in bytes: the most one can hold.
const SPAN_LEN: usize = 256 << 20;
const _: () =
    assert!(kernel_space::SPAN_WINDOW.end - kernel_space::SPAN_WINDOW.start == u128::BITS as usize * SPAN_LEN);

struct KernelHeap {
    caches: [IrqLock<Cache>; Class::COUNT],
    /// Bit `n` is set while slot `n` of the span window is in use.
    spans: IrqLock<u128>,
    window: IrqLock<Heap>,
}

#[global_allocator]
static HEAP: KernelHeap = KernelHeap {
    caches: {
        let mut caches = [const { IrqLock::new(Cache::new(Class::ALL[0])) }; Class::COUNT];
        let mut index = 0;
        while index < caches.len() {
            caches[index] = IrqLock::new(Cache::new(Class::ALL[index]));
            index += 1;
        }
        caches
    },
    spans: IrqLock::new(0),
    window: IrqLock::new(Heap::empty()),
};

/// Starts the heap on `len` bytes mapped at `start`, the beginning of the heap window.
///
/// # Safety
/// The bytes are mapped for good and used by nobody else; called once.
pub unsafe fn init(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.window.lock().init(start, len) };
}

/// Takes a free page of the window away from the heap for good; `None` when it has none. The caller may unmap it: the
/// heap reads and writes nothing in a block that is allocated.
pub fn take_window_page() -> Option<NonNull<u8>> {
    let page = Layout::from_size_align(PAGE_SIZE, PAGE_SIZE).ok()?;
    HEAP.window.lock().allocate_first_fit(page).ok()
}

/// Where a block of some layout belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Slab(Class),
    /// 2^order pages.
    Run(u8),
    Span,
}

impl Home {
    #[inline]
    fn of(layout: Layout) -> Self {
        if let Some(class) = Class::of(layout.size(), layout.align()) {
            return Self::Slab(class);
        }
        // Runs are aligned to their own length.
        let pages = layout.size().max(layout.align()).div_ceil(PAGE_SIZE);
        match pages.next_power_of_two().trailing_zeros() as u8 {
            order @ 0..=MAX_ORDER => Self::Run(order),
            _ => Self::Span,
        }
    }
}

/// Reaches the headers of slabs in the linear mapping.
struct Slabs;

impl Headers for Slabs {
    fn header(&self, slab: usize) -> &Header {
        // SAFETY: `refill` wrote a header there, and it is changed only through its cells, by the cache that is locked.
        // For a block that was never allocated it is whatever is in memory at that address, of which any is a header.
        unsafe { &*ptr::with_exposed_provenance(slab) }
    }
}

/// 2^`order` pages in the linear mapping.
fn alloc_run(order: u8) -> Option<NonNull<u8>> {
    NonNull::new(frames::linear(frames::alloc_kernel(order)?))
}

fn free_run(address: usize, order: u8) {
    frames::free_kernel(PhysAddr::new((address - Arch::LINEAR_BASE) as u64), order);
}

impl KernelHeap {
    fn alloc_block(&self, class: Class) -> Option<NonNull<u8>> {
        let cache = self.caches.get(class.index())?;
        let mut block = cache.lock().alloc(&Slabs);
        while block.is_none() {
            let slab = alloc_run(class.order())?;
            // SAFETY: fresh memory of at least a page.
            unsafe { slab.cast::<Header>().write(Header::new(class)) };
            let mut cache = cache.lock();
            cache.add_slab(&Slabs, slab.addr().get());
            block = cache.alloc(&Slabs);
        }
        NonNull::new(ptr::with_exposed_provenance_mut(block?))
    }

    fn free_block(&self, class: Class, address: usize) {
        let Some(cache) = self.caches.get(class.index()) else { return };
        let freed = cache.lock().free(&Slabs, address);
        match freed {
            Ok(None) => {}
            Ok(Some(slab)) => free_run(slab, class.order()),
            // Only unsafe code can get here. It would damage other data next.
            Err(error) => panic!("heap: {address:#x} not freed as {} bytes: {error}", class.size()),
        }
    }

    fn alloc_span(&self, layout: Layout) -> Option<NonNull<u8>> {
        let pages = layout.size().div_ceil(PAGE_SIZE);
        if layout.size().max(layout.align()) > SPAN_LEN || pages > frames::stats().free {
            return None;
        }
        let slot = {
            let mut spans = self.spans.lock();
            let slot = spans.trailing_ones();
            *spans |= 1_u128.checked_shl(slot)?;
            slot
        };
        let address = kernel_space::SPAN_WINDOW.start + slot as usize * SPAN_LEN;
        if kernel_space::map_owned(address, pages) {
            return NonNull::new(ptr::with_exposed_provenance_mut(address));
        }
        *self.spans.lock() &= !(1 << slot);
        None
    }

    fn free_span(&self, address: usize, len: usize) {
        kernel_space::unmap_owned(address..address + len.next_multiple_of(PAGE_SIZE));
        let slot = (address - kernel_space::SPAN_WINDOW.start) / SPAN_LEN;
        *self.spans.lock() &= !(1 << slot);
    }

    fn alloc_in_window(&self, layout: Layout) -> Option<NonNull<u8>> {
        let mut heap = self.window.lock();
        if let Ok(block) = heap.allocate_first_fit(layout) {
            return Some(block);
        }
        // Room for the block wherever its alignment puts it, and the allocator's own hole headers.
        let wanted = layout.size().checked_add(layout.align())?.checked_add(64)?.checked_next_multiple_of(PAGE_SIZE)?;
        let free = frames::stats().free.saturating_mul(PAGE_SIZE);
        if free < wanted {
            return None;
        }
        let grown = kernel_space::grow_heap(wanted.max(GROWTH).min(free));
        if grown > 0 {
            // SAFETY: grow_heap mapped these bytes right behind the heap.
            unsafe { heap.extend(grown) };
        }
        heap.allocate_first_fit(layout).ok()
    }
}

// SAFETY: slabs, runs, spans and the window are disjoint memory, and each part hands out disjoint, aligned blocks of at
// least the layout's size; locks keep callers apart.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = match Home::of(layout) {
            Home::Slab(class) => self.alloc_block(class),
            Home::Run(order) => alloc_run(order).or_else(|| self.alloc_span(layout)),
            Home::Span => self.alloc_span(layout),
        };
        block.or_else(|| self.alloc_in_window(layout)).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let address = block.addr();
        if kernel_space::SPAN_WINDOW.contains(&address) {
            self.free_span(address, layout.size());
        } else if kernel_space::HEAP_WINDOW.contains(&address) {
            if let Some(block) = NonNull::new(block) {
                // SAFETY: the caller gives back what `alloc` gave, with the same layout.
                unsafe { self.window.lock().deallocate(block, layout) };
            }
        } else {
            match Home::of(layout) {
                Home::Slab(class) => self.free_block(class, address),
                Home::Run(order) => free_run(address, order),
                Home::Span => {}
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size does not overflow when rounded up to the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let address = block.addr();
        let has_room = if kernel_space::SPAN_WINDOW.contains(&address) {
            // As many pages as before.
            layout.size().div_ceil(PAGE_SIZE) == new_size.div_ceil(PAGE_SIZE)
        } else {
            // A block has room for every size of its class, a run for every size of its order.
            !kernel_space::HEAP_WINDOW.contains(&address) && Home::of(layout) == Home::of(new)
        };
        if has_room {
            return block;
        }
        // SAFETY: the caller's promise about `new_size`.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: two different blocks of at least this many bytes; the caller gives the old one up.
            unsafe {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}
