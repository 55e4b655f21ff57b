//! A buffer that a device reads or writes by itself.

use hal::{DmaMemory, PAGE_SIZE, Platform, PlatformError};

/// DMA memory of one driver. Given back when dropped, which must not be while the device may still use it.
pub(crate) struct DmaBuffer {
    memory: DmaMemory,
    platform: &'static dyn Platform,
}

impl DmaBuffer {
    /// Allocates zeroed memory. `coherent` is what the device's node says of it.
    pub fn new(platform: &'static dyn Platform, pages: usize, coherent: bool) -> Result<Self, PlatformError> {
        Ok(Self { memory: platform.dma_alloc(pages, coherent)?, platform })
    }

    /// The physical address of a byte of the buffer.
    pub fn phys(&self, offset: usize) -> u64 {
        self.memory.phys.get() + offset as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.memory.pages * PAGE_SIZE
    }

    /// Whether `len` bytes at `offset` are inside the buffer.
    fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }

    /// Copies out of the buffer. Panics where the range is outside, which is the driver's mistake.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(self.contains(offset, into.len()));
        // SAFETY: Inside the allocation, which nothing refers to. A device that writes it at the same time garbles the
        // bytes and nothing else.
        unsafe { core::ptr::copy_nonoverlapping(self.memory.virt.add(offset).as_ptr(), into.as_mut_ptr(), into.len()) }
    }

    /// Copies into the buffer. Panics where the range is outside, which is the driver's mistake.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(self.contains(offset, from.len()));
        // SAFETY: As in `read`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), self.memory.virt.add(offset).as_ptr(), from.len()) }
    }

    /// One big-endian word, read anew each time: for polling what the device writes.
    pub fn read_be32(&self, offset: usize) -> u32 {
        assert!(self.contains(offset, 4) && offset.is_multiple_of(4));
        // SAFETY: Inside the allocation and aligned.
        u32::from_be(unsafe { self.memory.virt.add(offset).cast::<u32>().read_volatile() })
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        self.platform.dma_free(self.memory);
    }
}

// SAFETY: The buffer is this value's alone; what several CPUs may do at a time is for the driver to serialise.
unsafe impl Send for DmaBuffer {}
// SAFETY: As above.
unsafe impl Sync for DmaBuffer {}
