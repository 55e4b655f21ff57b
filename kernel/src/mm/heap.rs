//! The kernel heap: `linked_list_allocator` over a stretch of kernel space that grows by whole pages.
//!
//! It starts on memory in the image, so that the device tree can be read before physical memory is known.

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::{self, NonNull},
};

use linked_list_allocator::Heap;

use crate::{mm::kernel_space, sync::IrqLock};

/// Growth steps are at least this many bytes.
const GROWTH: usize = 256 << 10;

struct KernelHeap(IrqLock<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(IrqLock::new(Heap::empty()));

/// Starts the heap on `len` bytes mapped at `start`.
///
/// # Safety
/// The bytes are mapped for good and used by nobody else; called once.
pub unsafe fn init(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(start, len) };
}

// SAFETY: `Heap` hands out disjoint, aligned blocks; the lock keeps callers apart.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        if let Ok(block) = heap.allocate_first_fit(layout) {
            return block.as_ptr();
        }
        // Room for the block wherever its alignment puts it, and the allocator's own hole headers.
        let wanted = (layout.size() + layout.align() + 64).next_multiple_of(GROWTH);
        let grown = kernel_space::grow_heap(heap.top(), wanted)
            || kernel_space::grow_heap(heap.top(), (layout.size() + layout.align() + 64).next_multiple_of(4096));
        if !grown {
            return ptr::null_mut();
        }
        let added = kernel_space::heap_end() - heap.top().addr();
        // SAFETY: grow_heap mapped these bytes right behind the heap.
        unsafe { heap.extend(added) };
        heap.allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller gives back what `alloc` gave, with the same layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}
