//! Memory that is kept only because it may be wanted again: it is given back when a program would get none otherwise.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{sync::IrqLock, time};

/// How many pages are asked for at a time.
const BATCH: usize = 64;
/// For how long nothing is asked of the caches again once they had nothing, in nanoseconds: looking costs time, too.
const REST_NS: u64 = 1_000_000;

/// A holder of pages that can be made again.
pub trait Cache: Send + Sync {
    /// Gives back about `pages` pages, or all that nobody uses; answers how many. Its locks are taken beneath any under
    /// which a program's page may be allocated.
    fn shrink(&self, pages: usize) -> usize;
    /// How many pages nobody uses now.
    fn idle_pages(&self) -> usize;
}

static CACHES: IrqLock<Vec<Arc<dyn Cache>>> = IrqLock::new(Vec::new());
/// Until when the caches are left alone, in nanoseconds of monotonic time.
static RESTING_UNTIL: AtomicU64 = AtomicU64::new(0);

/// Has `cache` asked when memory is short.
pub fn register(cache: Arc<dyn Cache>) {
    CACHES.lock().push(cache);
}

/// Each cache, with no lock held and no memory taken.
fn caches() -> impl Iterator<Item = Arc<dyn Cache>> {
    (0..).map_while(|index| CACHES.lock().get(index).cloned())
}

/// Gives back some of what the caches hold; answers whether that was anything.
pub fn run() -> bool {
    let now = time::monotonic_ns();
    if now < RESTING_UNTIL.load(Ordering::Relaxed) {
        return false;
    }
    let freed: usize = caches().map(|cache| cache.shrink(BATCH)).sum();
    if freed == 0 {
        RESTING_UNTIL.store(now + REST_NS, Ordering::Relaxed);
    }
    freed > 0
}

/// How many pages would come back.
pub fn idle_pages() -> usize {
    caches().map(|cache| cache.idle_pages()).sum()
}
