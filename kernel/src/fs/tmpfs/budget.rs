//! What a tmpfs may hold: pages, inodes and bytes of extended attributes.
//!
//! Each file system has limits of its own, half the machine's memory unless told otherwise (tmpfs(5)); all together get
//! no more than three quarters of it, so that full file systems leave programs something to run with.

use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};

use crate::{
    mm::frames::{self, FrameRef},
    sync::Once,
};

/// Bytes of extended attributes there may be for each inode there may be.
const ATTRIBUTE_BYTES_PER_INODE: usize = 1024;

/// Pages that all tmpfs file systems hold.
static TOTAL_PAGES: AtomicUsize = AtomicUsize::new(0);

/// Pages that all tmpfs file systems hold.
pub fn total_pages() -> usize {
    TOTAL_PAGES.load(Ordering::Relaxed)
}

/// Pages of memory in all.
fn memory_pages() -> usize {
    static PAGES: Once<usize> = Once::new();
    *PAGES.call_once(|| frames::stats().total)
}

/// What a file system may hold, and holds.
pub struct Budget {
    /// The most pages.
    pub max_pages: usize,
    /// The most inodes.
    pub max_inodes: usize,
    pages: AtomicUsize,
    inodes: AtomicUsize,
    attribute_bytes: AtomicUsize,
}

fn take(counter: &AtomicUsize, count: usize, limit: usize) -> Result<()> {
    let more = |used: usize| used.checked_add(count).filter(|used| *used <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(|_| ()).map_err(|_| Errno::ENOSPC)
}

impl Budget {
    /// `None` for half the machine's memory, and as many inodes as it has pages.
    pub fn new(max_pages: Option<usize>, max_inodes: Option<usize>) -> Self {
        let half = memory_pages() / 2;
        Self {
            max_pages: max_pages.unwrap_or(half),
            max_inodes: max_inodes.unwrap_or(half),
            pages: AtomicUsize::new(0),
            inodes: AtomicUsize::new(0),
            attribute_bytes: AtomicUsize::new(0),
        }
    }

    /// Pages that can still be had.
    pub fn free_pages(&self) -> usize {
        let all = (memory_pages() / 4 * 3).saturating_sub(total_pages());
        self.max_pages.saturating_sub(self.pages.load(Ordering::Relaxed)).min(all)
    }

    /// Inodes that can still be made.
    pub fn free_inodes(&self) -> usize {
        self.max_inodes.saturating_sub(self.inodes.load(Ordering::Relaxed))
    }

    /// Counts a new inode; ENOSPC where there are too many.
    pub fn take_inode(&self) -> Result<()> {
        take(&self.inodes, 1, self.max_inodes)
    }

    /// An inode went.
    pub fn release_inode(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts bytes of an extended attribute; ENOSPC where there are too many.
    pub fn take_attribute(&self, bytes: usize) -> Result<()> {
        let limit = self.max_inodes.min(memory_pages() / 2).saturating_mul(ATTRIBUTE_BYTES_PER_INODE);
        take(&self.attribute_bytes, bytes, limit)
    }

    /// Bytes of an extended attribute went.
    pub fn release_attribute(&self, bytes: usize) {
        self.attribute_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A new page of zeroes. ENOSPC.
    pub fn take_page(&self) -> Result<FrameRef> {
        take(&self.pages, 1, self.max_pages)?;
        if take(&TOTAL_PAGES, 1, memory_pages() / 4 * 3).is_err() {
            self.pages.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        FrameRef::zeroed().map_err(|_| {
            self.release_pages(1);
            Errno::ENOSPC
        })
    }

    /// Pages went.
    pub fn release_pages(&self, count: usize) {
        self.pages.fetch_sub(count, Ordering::Relaxed);
        TOTAL_PAGES.fetch_sub(count, Ordering::Relaxed);
    }
}
