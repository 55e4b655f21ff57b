//! A battery- or host-backed wall clock.

/// A real-time clock.
pub trait Rtc: Send + Sync {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    fn unix_seconds(&self) -> u64;
}
