//! What time it is.
//!
//! One counter gives all clocks. Monotonic time is a multiple of it that [`steering`](super::steering) changes, from a
//! base that moves with every such change; the wall clock and atomic time are offsets to it. What they are computed
//! from is in one page, [`ClockData`], that programs have too (`task/vdso.rs`), so that both compute the same. Readers
//! take no lock: they read again when the page's sequence number was odd or has changed.

use alloc::sync::Arc;
use core::{
    hint::spin_loop,
    sync::atomic::{Ordering, fence},
};

use hal::{ClockData, PAGE_SIZE, Timer};

use super::SECOND;
use crate::{fs::FileTime, sync::Once};

/// The page of clock data.
#[repr(C, align(4096))]
struct Page(ClockData);

const _: () = assert!(size_of::<Page>() == PAGE_SIZE);

static PAGE: Page = Page(ClockData::new());
static TIMER: Once<Arc<dyn Timer>> = Once::new();

/// What the clocks are computed from, as it was at one moment.
struct Values {
    ticks: u64,
    base_ticks: u64,
    ns_per_tick: u64,
    base_ns: u64,
    realtime_offset: i64,
    tai_offset: i64,
}

/// `ticks` of so many nanoseconds, a 32.32 fixed-point number.
fn span_ns(ticks: u64, ns_per_tick: u64) -> u64 {
    ((u128::from(ticks) * u128::from(ns_per_tick)) >> 32) as u64
}

/// The counter; 0 before there is one.
fn now_ticks() -> u64 {
    TIMER.get().map_or(0, |timer| timer.now_ticks())
}

impl Values {
    fn now() -> Self {
        let data = &PAGE.0;
        loop {
            let sequence = data.sequence.load(Ordering::Acquire);
            if sequence & 1 == 0 {
                let values = Self {
                    base_ticks: data.base_ticks.load(Ordering::Relaxed),
                    ns_per_tick: data.ns_per_tick.load(Ordering::Relaxed),
                    base_ns: data.base_ns.load(Ordering::Relaxed),
                    realtime_offset: data.realtime_offset.load(Ordering::Relaxed),
                    tai_offset: data.tai_offset.load(Ordering::Relaxed),
                    ticks: now_ticks(),
                };
                fence(Ordering::Acquire);
                if data.sequence.load(Ordering::Relaxed) == sequence {
                    return values;
                }
            }
            spin_loop();
        }
    }

    fn monotonic_ns(&self) -> u64 {
        // The counter may have been read a little before the base was set.
        self.base_ns.saturating_add(span_ns(self.ticks.saturating_sub(self.base_ticks), self.ns_per_tick))
    }
}

/// Starts the clocks on a timer. Only the first is used.
pub fn add_timer(timer: Arc<dyn Timer>) {
    let now = timer.now_ticks();
    let ns_per_tick = ((u128::from(SECOND) << 32) / u128::from(timer.frequency_hz())) as u64;
    TIMER.call_once(|| {
        let data = &PAGE.0;
        data.start_ticks.store(now, Ordering::Relaxed);
        data.raw_ns_per_tick.store(ns_per_tick, Ordering::Relaxed);
        data.base_ticks.store(now, Ordering::Relaxed);
        data.ns_per_tick.store(ns_per_tick, Ordering::Relaxed);
        timer
    });
}

/// What the clocks run on.
pub(super) fn hardware() -> Option<&'static Arc<dyn Timer>> {
    TIMER.get()
}

/// Whether there is a timer.
pub fn is_running() -> bool {
    TIMER.get().is_some()
}

/// Where in the kernel's image the page of clock data is.
pub fn clock_page() -> usize {
    (&raw const PAGE).addr()
}

/// What a change of the clocks sets.
pub(super) struct Change {
    /// The new length of a tick, as a 32.32 fixed-point number.
    pub ns_per_tick: u64,
    /// Wall clock minus monotonic time, in nanoseconds.
    pub realtime_offset: i64,
    /// Atomic time minus monotonic time, in nanoseconds.
    pub tai_offset: i64,
}

/// Changes the clocks from now on; monotonic time does not jump. Interrupts are masked and nobody else does the same.
/// Answers whether the speed is another.
pub(super) fn change(change: &Change) -> bool {
    let data = &PAGE.0;
    let sequence = data.sequence.load(Ordering::Relaxed);
    let old_ns_per_tick = data.ns_per_tick.load(Ordering::Relaxed);
    let changes_speed = old_ns_per_tick != change.ns_per_tick;
    data.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if changes_speed {
        // Read after the sequence is odd: a reader that does not see that has read the counter before.
        let now = now_ticks();
        let passed = now.saturating_sub(data.base_ticks.load(Ordering::Relaxed));
        data.base_ns.fetch_add(span_ns(passed, old_ns_per_tick), Ordering::Relaxed);
        data.base_ticks.fetch_max(now, Ordering::Relaxed);
        data.ns_per_tick.store(change.ns_per_tick, Ordering::Relaxed);
    }
    data.realtime_offset.store(change.realtime_offset, Ordering::Relaxed);
    data.tai_offset.store(change.tai_offset, Ordering::Relaxed);
    data.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    changes_speed
}

/// The length of a tick where nothing changes the clocks' speed, as a 32.32 fixed-point number.
pub(super) fn raw_ns_per_tick() -> u64 {
    PAGE.0.raw_ns_per_tick.load(Ordering::Relaxed)
}

/// The counter at a monotonic time, if the clocks' speed stays what it is; rounded up, so that the time has come.
pub(super) fn ticks_at(monotonic_ns: u64) -> u64 {
    let values = Values::now();
    let ahead_ns = u128::from(monotonic_ns.saturating_sub(values.base_ns));
    let ticks = (ahead_ns << 32).div_ceil(u128::from(values.ns_per_tick.max(1)));
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(values.base_ticks + 1)
}

/// Time since the kernel started, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    Values::now().monotonic_ns()
}

/// Time since 1970-01-01 00:00:00 UTC, in nanoseconds.
pub fn realtime_ns() -> u64 {
    let values = Values::now();
    values.monotonic_ns().saturating_add_signed(values.realtime_offset)
}

/// Time since the kernel started as the counter has it (CLOCK_MONOTONIC_RAW), in nanoseconds: not steered.
pub fn raw_ns() -> u64 {
    let ticks = now_ticks().saturating_sub(PAGE.0.start_ticks.load(Ordering::Relaxed));
    span_ns(ticks, raw_ns_per_tick())
}

/// International atomic time (CLOCK_TAI), in nanoseconds.
pub fn tai_ns() -> u64 {
    let values = Values::now();
    values.monotonic_ns().saturating_add_signed(values.tai_offset)
}

/// Wall-clock time minus monotonic time, in nanoseconds: changes when the clock is set.
pub fn realtime_offset_ns() -> i64 {
    Values::now().realtime_offset
}

/// International atomic time minus wall-clock time, in nanoseconds.
pub fn tai_offset_ns() -> i64 {
    let values = Values::now();
    values.tai_offset - values.realtime_offset
}

/// A wall-clock time as monotonic time.
pub fn realtime_to_monotonic(realtime_ns: u64) -> u64 {
    realtime_ns.saturating_add_signed(-realtime_offset_ns())
}

/// The wall-clock time, for a file's timestamps.
pub fn now_file_time() -> FileTime {
    let now = realtime_ns();
    FileTime { seconds: (now / SECOND) as i64, nanoseconds: (now % SECOND) as u32 }
}
