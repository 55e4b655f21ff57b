//! A hardware source of random bytes.

/// A source of entropy. Its bytes seed the kernel's generator and are never handed out directly.
pub trait Rng: Send + Sync {
    /// Fills the front of `out` with fresh random bytes and returns how many; 0 when none can be had now.
    fn fill(&self, out: &mut [u8]) -> usize;
}
