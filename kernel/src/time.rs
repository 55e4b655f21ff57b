//! Clocks and timers.
//!
//! One counter gives monotonic time; the wall clock is an offset to it. Timers are kept in an ordered map on the CPU
//! that starts them, and its hardware is asked for an interrupt only for the earliest of them or the end of a time
//! slice: an idle machine gets no ticks.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};

use hal::{Arch as _, MAX_CPUS, Timer};

use crate::{
    arch::Arch,
    fs::FileTime,
    sync::{IrqLock, Lazy, Once},
    task::{
        scheduler,
        thread::Thread,
        vdso,
        wait::{WaitQueue, Wake as _},
    },
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
/// Seconds that international atomic time is ahead of the wall clock.
static TAI_OFFSET_S: AtomicI32 = AtomicI32::new(0);
/// Woken when the wall clock was set.
static WALL_CLOCK_SET: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));
/// Serialises setting the wall clock, so that programs and kernel come to agree on it.
static SETTING: IrqLock<()> = IrqLock::new(());
/// The timers of each CPU.
static TIMERS: [IrqLock<Timers>; MAX_CPUS] =
    [const { IrqLock::new(Timers { queue: BTreeMap::new(), next_id: 0 }) }; MAX_CPUS];
/// The deadline each CPU's hardware was given, in nanoseconds; `u64::MAX`: none. Each CPU uses its own only.
static PROGRAMMED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];

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

/// A running timer; cancelled when dropped, on whatever CPU. One that had expired before may still be at work on its
/// CPU then, so a callback must look, under its owner's lock, whether it is still wanted. A wake-up too many is harmless.
pub struct TimerHandle {
    /// Whose queue it is in.
    cpu: usize,
    key: (u64, u64),
}

impl Drop for TimerHandle {
    fn drop(&mut self) {
        let action = TIMERS[self.cpu].lock().queue.remove(&self.key);
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

/// Makes the calling CPU's timer ready. Interrupts are masked.
pub fn init_cpu() {
    if let Some(clock) = CLOCK.get() {
        clock.timer.set_deadline(None);
    }
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
    {
        let _guard = SETTING.lock();
        REALTIME_OFFSET.store(realtime_ns.wrapping_sub(monotonic_ns()) as i64, Ordering::Relaxed);
        publish();
    }
    WALL_CLOCK_SET.wake_all();
}

/// Woken when the wall clock was set: whoever waits for a wall-clock time computes its deadline anew.
pub fn wall_clock_queue() -> &'static Arc<WaitQueue> {
    &WALL_CLOCK_SET
}

/// Wall-clock time minus monotonic time, in nanoseconds: changes when the clock is set.
pub fn realtime_offset_ns() -> i64 {
    REALTIME_OFFSET.load(Ordering::Relaxed)
}

/// Time since the kernel started as the counter has it (CLOCK_MONOTONIC_RAW), in nanoseconds.
pub fn raw_ns() -> u64 {
    monotonic_ns()
}

/// International atomic time minus wall-clock time, in nanoseconds.
pub fn tai_offset_ns() -> i64 {
    i64::from(TAI_OFFSET_S.load(Ordering::Relaxed)) * SECOND as i64
}

/// International atomic time (CLOCK_TAI), in nanoseconds.
pub fn tai_ns() -> u64 {
    realtime_ns().saturating_add_signed(tai_offset_ns())
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

/// Starts a timer for a monotonic time, on the calling CPU.
pub fn set_timer(deadline_ns: u64, action: TimerAction) -> TimerHandle {
    let cpu = scheduler::cpu_number();
    let mut timers = TIMERS[cpu].lock();
    timers.next_id += 1;
    let key = (deadline_ns, timers.next_id);
    timers.queue.insert(key, action);
    program_masked(deadline_ns);
    TimerHandle { cpu, key }
}

/// Makes sure that an interrupt comes to the calling CPU at `deadline_ns` or before.
pub fn program(deadline_ns: u64) {
    // The interrupt itself programs the timer too.
    let state = Arch::mask_interrupts();
    program_masked(deadline_ns);
    Arch::restore_interrupts(state);
}

fn program_masked(deadline_ns: u64) {
    let programmed = &PROGRAMMED[scheduler::cpu_number()];
    if deadline_ns >= programmed.load(Ordering::Relaxed) {
        return;
    }
    let Some(clock) = CLOCK.get() else { return };
    programmed.store(deadline_ns, Ordering::Relaxed);
    // Rounded up, so that the deadline has passed when the interrupt comes.
    let ticks = (u128::from(deadline_ns) << 32).div_ceil(u128::from(clock.ns_per_tick.max(1)));
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(clock.start_ticks + 1);
    clock.timer.set_deadline(Some(ticks));
}

/// The calling CPU's timer interrupt: runs what has expired and asks for the next interrupt.
pub fn interrupt() {
    let Some(clock) = CLOCK.get() else { return };
    let cpu = scheduler::cpu_number();
    clock.timer.set_deadline(None);
    PROGRAMMED[cpu].store(u64::MAX, Ordering::Relaxed);
    let now = monotonic_ns();
    loop {
        let action = {
            let mut timers = TIMERS[cpu].lock();
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
    let next = TIMERS[cpu].lock().queue.first_key_value().map(|(key, _)| key.0);
    if let Some(next) = next {
        program(next);
    }
}
