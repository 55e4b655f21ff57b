//! Timers that follow a clock, for setitimer(2), timer_create(2) and RLIMIT_CPU.
//!
//! A [`Schedule`] says when a timer expires next on its clock and keeps the kernel timer that looks. On the wall clock
//! it is set anew when that is set. A CPU clock stands still while nobody it counts runs: the kernel timer looks when
//! the time could have passed at the earliest, and a timer whose process sleeps is parked until it goes on.

use alloc::sync::{Arc, Weak};

use super::{
    process::Process,
    thread::{RunState, Thread},
};
use crate::time::{self, TimerAction, TimerCallback, TimerHandle};

/// CPU timers are looked at no more often than this, in nanoseconds.
const CPU_STEP_NS: u64 = 1_000_000;

/// Which part of CPU time counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// The program's and the kernel's.
    All,
    /// The program's.
    User,
}

/// A clock that counts the CPU time of a process or thread (clock_getcpuclockid(3)).
#[derive(Clone)]
pub enum CpuClock {
    /// Of all threads, the ended ones too.
    Process(Weak<Process>, Measure),
    /// Of one.
    Thread(Weak<Thread>, Measure),
}

impl CpuClock {
    /// Its time in nanoseconds; `None` when what it counts is gone.
    pub fn now_ns(&self) -> Option<u64> {
        let (usage, measure) = match self {
            Self::Process(process, measure) => (process.upgrade()?.usage(), measure),
            Self::Thread(thread, measure) => (thread.upgrade()?.usage(), measure),
        };
        Some(if *measure == Measure::User { usage.user_ns } else { usage.cpu_ns() })
    }

    fn process(&self) -> Option<Arc<Process>> {
        match self {
            Self::Process(process, _) => process.upgrade(),
            Self::Thread(thread, _) => Some(thread.upgrade()?.process().clone()),
        }
    }

    /// Whether somebody it counts runs or is about to.
    fn advances(&self) -> bool {
        let runs = |thread: &Thread| matches!(thread.run_state(), RunState::Running | RunState::Runnable);
        match self {
            Self::Process(process, _) => {
                process.upgrade().is_some_and(|process| process.threads().iter().any(|thread| runs(thread)))
            }
            Self::Thread(thread, _) => thread.upgrade().is_some_and(|thread| runs(&thread)),
        }
    }
}

/// What a timer's times are measured on.
#[derive(Clone)]
pub enum TimerClock {
    /// Monotonic time, and time since boot, which is the same on a machine that never sleeps.
    Monotonic,
    /// The wall clock.
    Realtime,
    /// International atomic time: the wall clock without leap seconds.
    Tai,
    /// CPU time.
    Cpu(CpuClock),
}

impl TimerClock {
    /// The time, in nanoseconds; `None` for the CPU clock of what has ended.
    pub fn now_ns(&self) -> Option<u64> {
        match self {
            Self::Monotonic => Some(time::monotonic_ns()),
            Self::Realtime => Some(time::realtime_ns()),
            Self::Tai => Some(time::tai_ns()),
            Self::Cpu(clock) => clock.now_ns(),
        }
    }

    /// Whether setting the wall clock moves it.
    pub const fn is_wall_clock(&self) -> bool {
        matches!(self, Self::Realtime | Self::Tai)
    }
}

/// When a timer expires.
pub struct Schedule {
    clock: TimerClock,
    /// The next expiration on `clock`; `None`: not running.
    next_ns: Option<u64>,
    interval_ns: u64,
    timer: Option<TimerHandle>,
}

impl Schedule {
    /// A timer that does not run.
    pub const fn new(clock: TimerClock) -> Self {
        Self { clock, next_ns: None, interval_ns: 0, timer: None }
    }

    /// Sets when it expires on `clock` (`None` stops it) and the interval to later expirations (0: only once). The
    /// caller arms it afterwards, and drops what this returns without the lock.
    pub fn set(&mut self, clock: TimerClock, next_ns: Option<u64>, interval_ns: u64) -> Option<TimerHandle> {
        (self.clock, self.next_ns, self.interval_ns) = (clock, next_ns, interval_ns);
        self.timer.take()
    }

    /// The time to the next expiration (0: not running; at least 1 where it runs) and the interval, in nanoseconds.
    pub fn remaining(&self) -> (u64, u64) {
        let (Some(next), Some(now)) = (self.next_ns, self.clock.now_ns()) else { return (0, self.interval_ns) };
        let left = match now.checked_sub(next).and_then(|late| late.checked_rem(self.interval_ns)) {
            Some(into_interval) => self.interval_ns - into_interval,
            None => next.saturating_sub(now).max(1),
        };
        (left, self.interval_ns)
    }

    /// Between expirations, in nanoseconds; 0: it expires once.
    pub const fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// Whether the next expiration is due.
    pub fn is_due(&self) -> bool {
        self.next_ns.is_some_and(|next| self.clock.now_ns().is_some_and(|now| now >= next))
    }

    /// Moves on behind all expirations that are due and says how many they were. A timer that expires once stops.
    pub fn advance(&mut self) -> u64 {
        let (Some(next), Some(now)) = (self.next_ns, self.clock.now_ns()) else { return 0 };
        let Some(late) = now.checked_sub(next) else { return 0 };
        match late.checked_div(self.interval_ns) {
            None => {
                self.next_ns = None;
                1
            }
            Some(more) => {
                let count = more.saturating_add(1);
                self.next_ns = Some(next.saturating_add(count.saturating_mul(self.interval_ns)));
                count
            }
        }
    }

    /// Has `callback` called at the next expiration, or before where only then it can be known; at least
    /// `earliest_ns` from now.
    pub fn arm(&mut self, callback: Arc<dyn TimerCallback>, earliest_ns: u64) -> Option<TimerHandle> {
        let now = time::monotonic_ns();
        let start = |deadline: u64| {
            time::set_timer(deadline.max(now.saturating_add(earliest_ns)), TimerAction::Call(callback.clone()))
        };
        let timer = match (&self.clock, self.next_ns) {
            (_, None) => None,
            (TimerClock::Monotonic, Some(next)) => Some(start(next)),
            (TimerClock::Realtime, Some(next)) => Some(start(time::realtime_to_monotonic(next))),
            (TimerClock::Tai, Some(next)) => {
                Some(start(time::realtime_to_monotonic(next.saturating_sub_signed(time::tai_offset_ns()))))
            }
            (TimerClock::Cpu(clock), Some(next)) => {
                let left = clock.now_ns().map(|cpu_now| next.saturating_sub(cpu_now));
                let parked = !clock.advances() && clock.process().is_some_and(|process| process.park_timer(&callback));
                // Looked at again after parking: it may have gone on in between.
                let waits = !parked || clock.advances();
                left.filter(|_| waits).map(|left| start(now.saturating_add(left.max(CPU_STEP_NS))))
            }
        };
        core::mem::replace(&mut self.timer, timer)
    }

    /// Stops it; what this returns is to be dropped without the lock.
    pub fn stop(&mut self) -> Option<TimerHandle> {
        self.next_ns = None;
        self.timer.take()
    }
}
