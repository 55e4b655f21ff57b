//! How long something took, how often.

use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Times below this, in nanoseconds, are in the first of the counts; each further one ends at twice the time of the one
/// before it, and the last has no end.
const FIRST_NS: u64 = 128;
const COUNTS: usize = 20;

/// Counts of times, by their powers of two. Shows itself as the counts, a space before each.
pub struct Histogram([AtomicU64; COUNTS]);

impl Histogram {
    /// No times yet.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; COUNTS])
    }

    /// Counts a time.
    pub fn add(&self, ns: u64) {
        let power = (ns / FIRST_NS).checked_ilog2().map_or(0, |power| power as usize + 1);
        self.0[power.min(COUNTS - 1)].fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|count| write!(out, " {}", count.load(Ordering::Relaxed)))
    }
}
