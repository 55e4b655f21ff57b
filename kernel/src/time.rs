//! Clocks and timers.
//!
//! One counter gives monotonic time; the wall clock is an offset to it. Timers are kept in one ordered map, and the
//! hardware is asked for an interrupt only for the earliest of them or the end of a time slice: an idle machine gets
//! no ticks.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hal::{Arch as _, Timer};

use crate::{
    arch::Arch,
    fs::{FileTime, timerfd},
    sync::{IrqLock, Once},
    task::{scheduler, thread::Thread, vdso, wait::Wake as _},
};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

struct Clock {
    timer: Arc<dyn Timer>,
    /// The counter when the kernel started.
    start_ticks: u64,
    /// Nanoseconds a tick, as a 32.32 fixed-point number.
    ns_per_tick: u64,
}

static CLOCK: Once<Clock> = Once::new();
/// Wall-clock time minus monotonic time, in nanoseconds.
static REALTIME_OFFSET: AtomicI64 = AtomicI64::new(0);
static TIMERS: IrqLock<Timers> = IrqLock::new(Timers { queue: BTreeMap::new(), next_id: 0 });
/// The deadline the hardware was given, in nanoseconds; `u64::MAX`: none.
static PROGRAMMED: AtomicU64 = AtomicU64::new(u64::MAX);

struct Timers {
    queue: BTreeMap<(u64, u64), TimerAction>,
    next_id: u64,
}

/// What happens when a timer expires.
#[derive(Clone)]
pub enum TimerAction {
    /// Wakes a thread.
    Wake(Arc<Thread>),
    /// Calls back, with interrupts masked.
    Call(Arc<dyn TimerCallback>),
}

/// Called when a timer expires, with interrupts masked; must not block.
pub trait TimerCallback: Send + Sync {
    /// The timer expired.
    fn expired(&self);
}

/// A running timer; cancelled when dropped.
pub struct TimerHandle {
    key: (u64, u64),
}

impl Drop for TimerHandle {
    fn drop(&mut self) {
        let action = TIMERS.lock().queue.remove(&self.key);
        drop(action);
    }
}

/// Starts the clock on a timer. Only the first is used.
pub fn add_timer(timer: Arc<dyn Timer>) {
    CLOCK.call_once(|| Clock {
        start_ticks: timer.now_ticks(),
        ns_per_tick: ((u128::from(SECOND) << 32) / u128::from(timer.frequency_hz())) as u64,
        timer,
    });
    publish();
}

/// Lets programs compute the clocks themselves.
fn publish() {
    let Some(clock) = CLOCK.get() else { return };
    let offset = REALTIME_OFFSET.load(Ordering::Relaxed);
    if let Err(error) = vdso::publish(clock.start_ticks, clock.ns_per_tick, offset) {
        log::error!("no page for clock data: {error}");
    }
}

/// Whether there is a timer.
pub fn is_running() -> bool {
    CLOCK.get().is_some()
}

/// Time since the kernel started, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    match CLOCK.get() {
        Some(clock) => {
            let ticks = clock.timer.now_ticks().wrapping_sub(clock.start_ticks);
            ((u128::from(ticks) * u128::from(clock.ns_per_tick)) >> 32) as u64
        }
        None => 0,
    }
}

/// Time since 1970-01-01 00:00:00 UTC, in nanoseconds.
pub fn realtime_ns() -> u64 {
    monotonic_ns().saturating_add_signed(REALTIME_OFFSET.load(Ordering::Relaxed))
}

/// Sets the wall clock.
pub fn set_realtime_ns(realtime_ns: u64) {
    REALTIME_OFFSET.store(realtime_ns.wrapping_sub(monotonic_ns()) as i64, Ordering::Relaxed);
    publish();
    timerfd::realtime_was_set();
}

/// A wall-clock time as monotonic time.
pub fn realtime_to_monotonic(realtime_ns: u64) -> u64 {
    realtime_ns.saturating_add_signed(-REALTIME_OFFSET.load(Ordering::Relaxed))
}

/// The wall-clock time, for a file's timestamps.
pub fn now_file_time() -> FileTime {
    let now = realtime_ns();
    FileTime { seconds: (now / SECOND) as i64, nanoseconds: (now % SECOND) as u32 }
}

/// Starts a timer for a monotonic time.
pub fn set_timer(deadline_ns: u64, action: TimerAction) -> TimerHandle {
    let key = {
        let mut timers = TIMERS.lock();
        timers.next_id += 1;
        let key = (deadline_ns, timers.next_id);
        timers.queue.insert(key, action);
        key
    };
    program(deadline_ns);
    TimerHandle { key }
}

/// Makes sure an interrupt comes at `deadline_ns` or before.
pub fn program(deadline_ns: u64) {
    // The interrupt itself programs the timer too.
    let state = Arch::mask_interrupts();
    program_masked(deadline_ns);
    Arch::restore_interrupts(state);
}

fn program_masked(deadline_ns: u64) {
    if deadline_ns >= PROGRAMMED.load(Ordering::Relaxed) {
        return;
    }
    let Some(clock) = CLOCK.get() else { return };
    PROGRAMMED.store(deadline_ns, Ordering::Relaxed);
    // Rounded up, so that the deadline has passed when the interrupt comes.
    let ticks = (u128::from(deadline_ns) << 32).div_ceil(u128::from(clock.ns_per_tick.max(1)));
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(clock.start_ticks + 1);
    clock.timer.set_deadline(Some(ticks));
}

/// The timer interrupt: runs what has expired and asks for the next interrupt.
pub fn interrupt() {
    let Some(clock) = CLOCK.get() else { return };
    clock.timer.set_deadline(None);
    PROGRAMMED.store(u64::MAX, Ordering::Relaxed);
    let now = monotonic_ns();
    loop {
        let action = {
            let mut timers = TIMERS.lock();
            match timers.queue.first_key_value() {
                Some((key, _)) if key.0 <= now => {
                    // Taken out before it runs, so that a callback may start the next one.
                    timers.queue.pop_first()
                }
                _ => None,
            }
        };
        match action {
            Some((_, TimerAction::Wake(thread))) => thread.wake(),
            Some((_, TimerAction::Call(callback))) => callback.expired(),
            None => break,
        }
    }
    scheduler::tick(now);
    let next = TIMERS.lock().queue.first_key_value().map(|(key, _)| key.0);
    if let Some(next) = next {
        program(next);
    }
}
