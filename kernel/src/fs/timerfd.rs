//! Timers that are files (timerfd_create(2)).
//!
//! A [`TimerFd`] keeps when it expires next and its interval; how often it has expired is computed when somebody
//! reads, so that a fast interval costs one kernel timer between reads. Timers of the wall clock remember the wall
//! time and are set anew when the clock is ([`WallClockFollower`]).

use alloc::{
    string::String,
    sync::{Arc, Weak},
};

use abi::{Errno, Result, linux};

use super::{FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, anonymous_metadata};
use crate::{
    sync::IrqLock,
    task::wait::{Registration, WaitQueue, Wake, wait_until},
    time::{self, TimerAction, TimerCallback, TimerHandle},
};

/// Which clock a timer follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerClock {
    /// CLOCK_REALTIME and CLOCK_REALTIME_ALARM.
    Realtime,
    /// CLOCK_MONOTONIC, CLOCK_BOOTTIME and CLOCK_BOOTTIME_ALARM; the machine never sleeps.
    Monotonic,
}

impl TimerClock {
    /// From a clock number; EINVAL for one without timers.
    pub fn from_number(clock: u32) -> Result<Self> {
        match clock {
            linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_ALARM => Ok(Self::Realtime),
            linux::CLOCK_MONOTONIC | linux::CLOCK_BOOTTIME | linux::CLOCK_BOOTTIME_ALARM => Ok(Self::Monotonic),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What a timer is set to, in nanoseconds.
#[derive(Clone, Copy, Default, Debug)]
pub struct TimerSetting {
    /// Until it expires; 0 disarms.
    pub value_ns: u64,
    /// Between later expirations; 0 for a single one.
    pub interval_ns: u64,
}

/// A timer.
pub struct TimerFd {
    clock: TimerClock,
    state: IrqLock<State>,
    expired: Arc<WaitQueue>,
    /// A timer of the wall clock hears when that is set.
    follows_wall_clock: IrqLock<Option<Registration>>,
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    /// The next expiration on the timer's own clock.
    next_ns: Option<u64>,
    /// Whether `next_ns` is a wall-clock time that moves with the clock.
    follows_realtime: bool,
    interval_ns: u64,
    timer: Option<TimerHandle>,
    /// TFD_TIMER_CANCEL_ON_SET: setting the wall clock ends a read with ECANCELED, once.
    cancel_on_set: bool,
    cancelled: bool,
}

impl State {
    /// The next expiration in monotonic time.
    fn deadline_ns(&self) -> Option<u64> {
        let next = self.next_ns?;
        Some(if self.follows_realtime { time::realtime_to_monotonic(next) } else { next })
    }

    fn has_expired(&self) -> bool {
        self.deadline_ns().is_some_and(|deadline| time::monotonic_ns() >= deadline)
    }

    /// Counts the expirations so far and moves on to the one after; `None` before the first.
    fn take(&mut self) -> Option<u64> {
        let next = self.next_ns?;
        let now = if self.follows_realtime { time::realtime_ns() } else { time::monotonic_ns() };
        let late = now.checked_sub(next)?;
        match late.checked_div(self.interval_ns) {
            None => {
                self.next_ns = None;
                Some(1)
            }
            Some(more) => {
                let count = more.saturating_add(1);
                self.next_ns = Some(next.saturating_add(count.saturating_mul(self.interval_ns)));
                Some(count)
            }
        }
    }
}

/// Tells a timer that the wall clock was set.
struct WallClockFollower(Weak<TimerFd>);

impl Wake for WallClockFollower {
    fn wake(&self) {
        let Some(timer) = self.0.upgrade() else { return };
        {
            let mut state = timer.state.lock();
            state.cancelled |= state.cancel_on_set;
        }
        timer.arm();
        timer.expired.wake_all();
    }
}

impl TimerFd {
    /// A disarmed timer. `flags` are those of timerfd_create(2).
    pub fn open(clock: TimerClock, flags: u32) -> Arc<OpenFile> {
        let timer = Arc::new_cyclic(|this| Self {
            clock,
            state: IrqLock::new(State::default()),
            expired: Arc::new(WaitQueue::new()),
            follows_wall_clock: IrqLock::new(None),
            this: this.clone(),
        });
        if clock == TimerClock::Realtime {
            let follower = Arc::new(WallClockFollower(Arc::downgrade(&timer)));
            *timer.follows_wall_clock.lock() = Some(Registration::new(time::wall_clock_queue(), follower));
        }
        OpenFile::anonymous(timer, OpenFlags::from_bits(linux::O_RDWR | flags & linux::TFD_NONBLOCK))
    }

    /// timerfd_settime(2) with its `flags`. Answers the setting before.
    pub fn set(&self, setting: TimerSetting, flags: u32) -> TimerSetting {
        let absolute = flags & linux::TFD_TIMER_ABSTIME != 0;
        let old = {
            let mut state = self.state.lock();
            let old = Self::setting(&mut state);
            state.follows_realtime = absolute && self.clock == TimerClock::Realtime;
            state.cancel_on_set = state.follows_realtime && flags & linux::TFD_TIMER_CANCEL_ON_SET != 0;
            state.cancelled = false;
            state.interval_ns = setting.interval_ns;
            state.next_ns = match setting.value_ns {
                0 => None,
                value if absolute => Some(value),
                value => Some(time::monotonic_ns().saturating_add(value)),
            };
            old
        };
        self.arm();
        old
    }

    /// timerfd_gettime(2).
    pub fn get(&self) -> TimerSetting {
        let mut state = self.state.lock();
        Self::setting(&mut state)
    }

    fn setting(state: &mut State) -> TimerSetting {
        let value_ns = state.deadline_ns().map_or(0, |deadline| {
            let now = time::monotonic_ns();
            let late = now.saturating_sub(deadline);
            match late.checked_rem(state.interval_ns) {
                // Expired and not yet read: the time to the expiration after.
                Some(into_interval) if now >= deadline => state.interval_ns - into_interval,
                _ => deadline.saturating_sub(now),
            }
        });
        TimerSetting { value_ns, interval_ns: state.interval_ns }
    }

    /// Sets the kernel timer for the next expiration, in one step with the look at when that is: of two that arm at once
    /// the later one knows what the other set.
    fn arm(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let old = {
            let mut state = self.state.lock();
            let timer = state.deadline_ns().map(|deadline| time::set_timer(deadline, TimerAction::Call(this)));
            core::mem::replace(&mut state.timer, timer)
        };
        drop(old);
    }

    /// Takes the expirations and sets the timer for the next one. ECANCELED.
    fn take(&self) -> Option<Result<u64>> {
        let count = {
            let mut state = self.state.lock();
            if core::mem::take(&mut state.cancelled) {
                return Some(Err(Errno::ECANCELED));
            }
            state.take()?
        };
        self.arm();
        Some(Ok(count))
    }
}

impl TimerCallback for TimerFd {
    fn expired(&self) {
        self.expired.wake_all();
    }
}

impl FileOps for TimerFd {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let count = match self.take() {
            Some(count) => count?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_until(&[&self.expired], None, || self.take())??,
        };
        buffer.put(&count.to_ne_bytes())
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.expired);
        let state = self.state.lock();
        PollEvents::IN.when(state.cancelled || state.has_expired())
    }

    fn released(&self, _file: &OpenFile) {
        // First who could arm it again.
        let registration = self.follows_wall_clock.lock().take();
        drop(registration);
        // The running timer refers to this object.
        let timer = self.state.lock().timer.take();
        drop(timer);
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
