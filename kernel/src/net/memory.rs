//! The memory that all sockets' queues take together, and its limit.
//!
//! Every queue has its own limit, which the program sets; their sum is limited here, as `tcp_mem` and `udp_mem` do on
//! Linux. Beyond it streams keep one piece in flight, so that they still move, and datagrams are dropped.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::mm::{PAGE_SIZE, frames};

/// Sockets together get this part of memory.
const SHARE: usize = 8;

static USED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that queues may take.
pub fn limit() -> usize {
    frames::stats().total / SHARE * PAGE_SIZE
}

/// Bytes that queues take.
pub fn used() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Whether queues should grow no further.
pub fn is_high() -> bool {
    static LIMIT: AtomicUsize = AtomicUsize::new(0);
    let mut most = LIMIT.load(Ordering::Relaxed);
    if most == 0 {
        // Memory does not grow once programs run.
        most = limit();
        LIMIT.store(most, Ordering::Relaxed);
    }
    used() > most || frames::is_short()
}

/// Bytes in a queue; given back when dropped.
#[derive(Default)]
pub struct Charge(usize);

impl Charge {
    /// Bytes counted.
    pub fn get(&self) -> usize {
        self.0
    }

    /// Counts more.
    pub fn add(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes);
        USED.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts less.
    pub fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.0);
        self.0 -= bytes;
        USED.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        USED.fetch_sub(self.0, Ordering::Relaxed);
    }
}
