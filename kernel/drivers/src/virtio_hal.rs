//! What `virtio-drivers` asks of its host: memory that the device can reach.
//!
//! The crate's trait has no `self`, so the platform is a static. Buffers handed to a queue must be DMA memory
//! allocated here: ordinary memory may be cached where the device is not coherent, and its physical address is the
//! kernel's secret. Drivers copy in and out, which for what runs over them (random bytes) is cheap.

use alloc::vec::Vec;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering},
};

use hal::{DmaMemory, PAGE_SIZE, PhysAddr, Platform};
use spin::{Mutex, Once};
use virtio_drivers::{BufferDirection, Hal};

static PLATFORM: Once<&'static dyn Platform> = Once::new();
/// Whether all devices so far are coherent. One that is not makes all later memory uncached, which is right for both
/// kinds.
static COHERENT: AtomicBool = AtomicBool::new(true);
/// The memory given out, as virtual address, physical address and pages.
static REGIONS: Mutex<Vec<(usize, u64, usize)>> = Mutex::new(Vec::new());

/// Says where memory comes from; before a device is initialised.
pub(crate) fn attach(platform: &'static dyn Platform, coherent: bool) {
    PLATFORM.call_once(|| platform);
    COHERENT.fetch_and(coherent, Ordering::Relaxed);
}

/// The implementation of [`Hal`].
pub(crate) struct VirtioHal;

// SAFETY: `dma_alloc` gives what `Platform::dma_alloc` promises: zeroed pages of nobody else's.
unsafe impl Hal for VirtioHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (u64, NonNull<u8>) {
        let coherent = COHERENT.load(Ordering::Relaxed);
        match PLATFORM.get().map(|platform| platform.dma_alloc(pages, coherent)) {
            Some(Ok(memory)) => {
                REGIONS.lock().push((memory.virt.as_ptr() as usize, memory.phys.get(), pages));
                (memory.phys.get(), memory.virt)
            }
            // Address 0 stands for failure (`virtio_drivers::Error::DmaError`).
            _ => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(paddr: u64, vaddr: NonNull<u8>, pages: usize) -> i32 {
        REGIONS.lock().retain(|&(virt, ..)| virt != vaddr.as_ptr() as usize);
        if let Some(platform) = PLATFORM.get() {
            platform.dma_free(DmaMemory { virt: vaddr, phys: PhysAddr::new(paddr), pages });
        }
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: u64, _size: usize) -> NonNull<u8> {
        // Asked for by the PCI transport only, which is not used.
        unreachable!("virtio over PCI is not driven here")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> u64 {
        let start = buffer.cast::<u8>().as_ptr() as usize;
        let regions = REGIONS.lock();
        let found = regions.iter().find_map(|&(virt, phys, pages)| {
            let offset = start.checked_sub(virt)?;
            (offset + buffer.len() <= pages * PAGE_SIZE).then_some(phys + offset as u64)
        });
        found.expect("a virtio driver must pass DMA memory to its queues")
    }

    unsafe fn unshare(_paddr: u64, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
