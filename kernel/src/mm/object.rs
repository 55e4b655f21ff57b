//! What can be mapped: a supplier of pages.

use abi::Errno;

use crate::mm::frames::FrameRef;

/// Pages of a file or of shared memory, each 4 KiB, numbered from 0.
pub trait VmObject: Send + Sync {
    /// The page with this number, to be mapped shared or copied from. Beyond the end (rounded up to a page):
    /// ENXIO, which the fault handler turns into SIGBUS; ENOMEM when no memory is left. Must not block.
    fn page(&self, index: u64) -> Result<FrameRef, Errno>;

    /// Whether shared, writable mappings may be made of it.
    fn allows_shared_writes(&self) -> bool {
        false
    }

    /// Identifies the object for shared futexes and /proc/PID/maps.
    fn identity(&self) -> usize;
}
