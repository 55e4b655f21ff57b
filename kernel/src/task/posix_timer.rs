//! POSIX timers (timer_create(2)).
//!
//! An expiration is a signal that waits in the queue of its receiver at most once. While it waits the timer stands
//! still; how many expirations were missed is counted when the signal is taken, and only then is the timer started
//! again. One whose signal is ignored stands still until it is not. So the shortest interval cannot keep the machine
//! busy.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};

use super::{
    clock_timer::{Schedule, TimerClock},
    pending::{QueueSlot, Quota, TimerSignal},
    process::Process,
    signal::{self, SignalInfo},
    thread::Thread,
    wait::{Registration, Wake},
};
use crate::{
    sync::IrqLock,
    time::{self, TimerAction, TimerCallback},
};

/// Who is told of an expiration (sigevent(3type)).
pub enum Notify {
    /// SIGEV_NONE: nobody.
    Nobody,
    /// SIGEV_SIGNAL and SIGEV_THREAD: the process.
    Process(Weak<Process>),
    /// SIGEV_THREAD_ID: one of its threads.
    Thread(Weak<Thread>),
}

/// A timer of a process.
pub struct PosixTimer {
    id: i32,
    clock: TimerClock,
    signal: u32,
    /// `sigev_value`.
    value: u64,
    notify: Notify,
    state: IrqLock<State>,
    /// Its signal is in a queue.
    queued: AtomicBool,
    follows_wall_clock: IrqLock<Option<Registration>>,
    this: Weak<Self>,
    _slot: QueueSlot,
}

struct State {
    schedule: Schedule,
    /// The expiration whose signal waits still counts: the timer was not set since.
    waiting: bool,
    /// That signal was ignored, or discarded: it is sent once it is not ignored any more.
    ignored: bool,
    /// As timer_getoverrun(2) tells it.
    last_overrun: i32,
    deleted: bool,
}

/// What a timer is made of.
pub struct NewTimer {
    /// Its clock.
    pub clock: TimerClock,
    /// The signal it sends.
    pub signal: u32,
    /// What comes with it; `None`: the timer's number.
    pub value: Option<u64>,
    /// Who gets it.
    pub notify: Notify,
}

/// The timers of a process.
#[derive(Default)]
pub struct PosixTimers {
    next_id: i32,
    list: BTreeMap<i32, Arc<PosixTimer>>,
}

/// Tells a timer that the wall clock was set.
struct WallClockFollower(Weak<PosixTimer>);

impl Wake for WallClockFollower {
    fn wake(&self) {
        // The timer is looked at in its turn: not with the lock of who waits for the clock held.
        if let Some(timer) = self.0.upgrade() {
            core::mem::forget(time::set_timer(0, TimerAction::Call(timer)));
        }
    }
}

/// timer_create(2). EAGAIN at the user's limit of queued signals.
pub fn create(process: &Arc<Process>, new: NewTimer) -> Result<i32> {
    let slot = QueueSlot::take(Quota::of(process), false).ok_or(Errno::EAGAIN)?;
    let mut timers = process.posix_timers.lock();
    let mut id = timers.next_id;
    while timers.list.contains_key(&id) {
        id = id.checked_add(1).unwrap_or(0);
    }
    timers.next_id = id.checked_add(1).unwrap_or(0);
    let timer = Arc::new_cyclic(|this| PosixTimer {
        id,
        state: IrqLock::new(State {
            schedule: Schedule::new(new.clock.clone()),
            waiting: false,
            ignored: false,
            last_overrun: 0,
            deleted: false,
        }),
        clock: new.clock,
        signal: new.signal,
        value: new.value.unwrap_or(id as u64),
        notify: new.notify,
        queued: AtomicBool::new(false),
        follows_wall_clock: IrqLock::new(None),
        this: this.clone(),
        _slot: slot,
    });
    if timer.clock.is_wall_clock() {
        let follower = Arc::new(WallClockFollower(Arc::downgrade(&timer)));
        *timer.follows_wall_clock.lock() = Some(Registration::new(time::wall_clock_queue(), follower));
    }
    timers.list.insert(id, timer);
    Ok(id)
}

/// The timer of a process with this number. EINVAL.
pub fn find(process: &Process, id: i32) -> Result<Arc<PosixTimer>> {
    process.posix_timers.lock().list.get(&id).cloned().ok_or(Errno::EINVAL)
}

/// timer_delete(2). EINVAL.
pub fn delete(process: &Process, id: i32) -> Result<()> {
    let timer = process.posix_timers.lock().list.remove(&id).ok_or(Errno::EINVAL)?;
    timer.delete();
    Ok(())
}

/// A signal is not ignored any more: what timers of the process would have sent meanwhile is sent.
pub fn unignore(process: &Process, signal: u32) {
    let timers: Vec<_> = process.posix_timers.lock().list.values().cloned().collect();
    for timer in timers.iter().filter(|timer| timer.signal == signal) {
        if core::mem::take(&mut timer.state.lock().ignored) {
            timer.send();
        }
    }
}

/// Deletes all timers of a process: it ends or runs another program.
pub fn delete_all(process: &Process) {
    let timers: Vec<_> = core::mem::take(&mut *process.posix_timers.lock()).list.into_values().collect();
    timers.iter().for_each(|timer| timer.delete());
}

impl PosixTimer {
    /// timer_settime(2): expires at or in `value_ns` (0: stops), then every `interval_ns` (0: not again). Answers what
    /// [`PosixTimer::remaining`] did before.
    pub fn set(&self, value_ns: u64, interval_ns: u64, absolute: bool) -> (u64, u64) {
        let (old, handle) = {
            let mut state = self.state.lock();
            let old = state.schedule.remaining();
            // A span of wall-clock time does not change when that clock is set.
            let clock = match &self.clock {
                clock if clock.is_wall_clock() && !absolute => TimerClock::Monotonic,
                clock => clock.clone(),
            };
            let next = match value_ns {
                0 => None,
                at if absolute => Some(at),
                span => clock.now_ns().map(|now| now.saturating_add(span)),
            };
            (state.waiting, state.ignored, state.last_overrun) = (false, false, 0);
            (old, state.schedule.set(clock, next, interval_ns))
        };
        drop(handle);
        self.arm();
        old
    }

    /// Time to the next expiration (0: stopped) and interval, in nanoseconds.
    pub fn remaining(&self) -> (u64, u64) {
        let state = self.state.lock();
        match state.schedule.remaining() {
            // Nobody was told, so nobody stopped it.
            (_, 0) if matches!(self.notify, Notify::Nobody) && state.schedule.is_due() => (0, 0),
            remaining => remaining,
        }
    }

    /// timer_getoverrun(2).
    pub fn last_overrun(&self) -> i32 {
        self.state.lock().last_overrun
    }

    fn arm(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let silent = matches!(self.notify, Notify::Nobody);
        let old = {
            let mut state = self.state.lock();
            if state.deleted || state.waiting || silent { None } else { state.schedule.arm(this, 0) }
        };
        drop(old);
    }

    fn delete(&self) {
        let handle = {
            let mut state = self.state.lock();
            state.deleted = true;
            state.schedule.stop()
        };
        let registration = self.follows_wall_clock.lock().take();
        drop((handle, registration));
    }

    /// Its signal left the queue, taken or dropped.
    pub(super) fn left_queue(&self) {
        self.queued.store(false, Ordering::Release);
    }

    /// Its signal was dropped: nobody wants it now.
    pub(super) fn dropped(&self) {
        self.left_queue();
        let mut state = self.state.lock();
        state.ignored = state.waiting && state.schedule.interval_ns() != 0;
        state.waiting = state.ignored;
    }

    /// Its signal is being delivered: counts what was missed and starts the timer again. `None` where the signal tells of
    /// nothing any more.
    pub(super) fn delivered(&self) -> Option<i32> {
        let overrun = {
            let mut state = self.state.lock();
            if !state.waiting || state.deleted {
                return None;
            }
            state.waiting = false;
            let missed = state.schedule.advance().saturating_sub(1);
            state.last_overrun = i32::try_from(missed).unwrap_or(i32::MAX);
            state.last_overrun
        };
        self.arm();
        Some(overrun)
    }

    /// Sends its signal; where nobody takes it, the entry is dropped.
    fn send(&self) {
        let Some(this) = self.this.upgrade() else { return };
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let info = SignalInfo::timer(self.signal, self.id, self.value);
        let entry = TimerSignal::new(this);
        match &self.notify {
            Notify::Nobody => {}
            Notify::Process(process) => {
                if let Some(process) = process.upgrade() {
                    signal::send_timer(&process, None, self.signal, info, entry);
                }
            }
            Notify::Thread(thread) => {
                if let Some(thread) = thread.upgrade() {
                    signal::send_timer(thread.process(), Some(&thread), self.signal, info, entry);
                }
            }
        }
    }
}

impl TimerCallback for PosixTimer {
    fn expired(&self) {
        let due = {
            let mut state = self.state.lock();
            let due = state.schedule.is_due() && !state.waiting && !state.deleted;
            state.waiting |= due;
            if due && state.schedule.interval_ns() == 0 {
                state.schedule.advance();
            }
            due
        };
        if due {
            self.send();
        } else {
            self.arm();
        }
    }
}
