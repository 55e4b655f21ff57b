//! The per-CPU clock-event device and the monotonic counter behind it.

/// The counter and its per-CPU one-shot comparator.
pub trait Timer: Send + Sync {
    /// Counter ticks a second.
    fn frequency_hz(&self) -> u64;

    /// The counter now; never goes back, equal on all CPUs.
    fn now_ticks(&self) -> u64;

    /// Asks for an interrupt on this CPU when the counter reaches `deadline_ticks`; `None` cancels. A deadline in the
    /// past fires at once. Also silences an interrupt that has fired.
    fn set_deadline(&self, deadline_ticks: Option<u64>);
}
