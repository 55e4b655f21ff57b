//! Clocks and timers.
//!
//! What time it is is in `clock.rs`, and how programs steer the clocks in `steering.rs`. Timers are kept in an ordered
//! map on the CPU that starts them, and its hardware is asked for an interrupt only for the earliest of them or the end
//! of a time slice: an idle machine gets no ticks.

mod clock;
mod steering;

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

pub use clock::{
    add_timer, clock_page, is_running, monotonic_ns, now_file_time, raw_ns, realtime_ns, realtime_offset_ns,
    realtime_to_monotonic, tai_ns, tai_offset_ns,
};
use hal::{Arch as _, MAX_CPUS};
pub use steering::{LATEST_S, adjust, set_realtime_ns, wall_clock_queue};

use crate::{
    arch::Arch,
    inspect::histogram::Histogram,
    irq::{self, Ipi},
    smp,
    sync::IrqLock,
    task::{scheduler, thread::Thread, wait::Wake as _},
};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// The timers of each CPU.
static TIMERS: [IrqLock<Timers>; MAX_CPUS] =
    [const { IrqLock::new(Timers { queue: BTreeMap::new(), next_id: 0 }) }; MAX_CPUS];
/// The deadline each CPU's hardware was given, in nanoseconds; `u64::MAX`: none. Each CPU uses its own only.
static PROGRAMMED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];
/// How much later than asked timers went off.
static LATENESS: Histogram = Histogram::new();

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

/// Makes the calling CPU's timer ready. Interrupts are masked.
pub fn init_cpu() {
    if let Some(timer) = clock::hardware() {
        timer.set_deadline(None);
    }
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
    let Some(timer) = clock::hardware() else { return };
    programmed.store(deadline_ns, Ordering::Relaxed);
    timer.set_deadline(Some(clock::ticks_at(deadline_ns)));
}

/// The clocks run faster or slower from now on: the deadlines that the CPUs' hardware was given no longer hold.
fn speed_changed() {
    let state = Arch::mask_interrupts();
    let own = scheduler::cpu_number();
    for cpu in smp::online().iter().filter(|cpu| *cpu != own) {
        irq::send(cpu, Ipi::Timer);
    }
    PROGRAMMED[own].store(u64::MAX, Ordering::Relaxed);
    program_masked(monotonic_ns());
    Arch::restore_interrupts(state);
}

/// The calling CPU's timer interrupt: runs what has expired and asks for the next interrupt.
pub fn interrupt() {
    let Some(timer) = clock::hardware() else { return };
    let cpu = scheduler::cpu_number();
    timer.set_deadline(None);
    PROGRAMMED[cpu].store(u64::MAX, Ordering::Relaxed);
    let now = monotonic_ns();
    loop {
        let action = {
            let mut timers = TIMERS[cpu].lock();
            match timers.queue.first_key_value() {
                Some((key, _)) if key.0 <= now => {
                    LATENESS.add(now - key.0);
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

/// How much later than asked timers went off.
pub fn lateness() -> &'static Histogram {
    &LATENESS
}
