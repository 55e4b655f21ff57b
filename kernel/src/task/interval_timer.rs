//! The timers that every process has: the three of setitimer(2), and the limit on its CPU time (RLIMIT_CPU).

use alloc::sync::{Arc, Weak};

use abi::linux;

use super::{
    clock_timer::{CpuClock, Measure, Schedule, TimerClock},
    process::Process,
    signal::{self, SignalInfo},
};
use crate::{
    sync::IrqLock,
    time::{SECOND, TimerCallback},
};

/// Between two expirations the program gets to run for this long, in nanoseconds.
const SHORTEST_NS: u64 = 100_000;
/// How many kinds there are.
pub(super) const KINDS: usize = 4;

/// Which timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// ITIMER_REAL: SIGALRM after a time.
    Real,
    /// ITIMER_VIRTUAL: SIGVTALRM after CPU time in the program.
    Virtual,
    /// ITIMER_PROF: SIGPROF after CPU time.
    Profile,
    /// RLIMIT_CPU: SIGXCPU every second from the soft limit on, SIGKILL at the hard one.
    Limit,
}

/// One of them.
pub struct IntervalTimer {
    kind: Kind,
    process: Weak<Process>,
    schedule: IrqLock<Schedule>,
    this: Weak<Self>,
}

impl Kind {
    fn clock(self, process: &Weak<Process>) -> TimerClock {
        match self {
            Self::Real => TimerClock::Monotonic,
            Self::Virtual => TimerClock::Cpu(CpuClock::Process(process.clone(), Measure::User)),
            Self::Profile | Self::Limit => TimerClock::Cpu(CpuClock::Process(process.clone(), Measure::All)),
        }
    }
}

/// The timer of a process, which is made when it is first set.
fn timer(process: &Arc<Process>, kind: Kind) -> Arc<IntervalTimer> {
    let mut timers = process.interval_timers.lock();
    let make = || {
        let process = Arc::downgrade(process);
        let schedule = IrqLock::new(Schedule::new(kind.clock(&process)));
        Arc::new_cyclic(|this| IntervalTimer { kind, process, schedule, this: this.clone() })
    };
    timers[kind as usize].get_or_insert_with(make).clone()
}

/// Time to the next expiration (0: stopped) and interval, in nanoseconds.
pub fn remaining(process: &Process, kind: Kind) -> (u64, u64) {
    let timer = process.interval_timers.lock()[kind as usize].clone();
    timer.map_or((0, 0), |timer| timer.schedule.lock().remaining())
}

/// Has the timer expire in `value_ns` (0: stops it), then every `interval_ns` (0: not again). Answers what
/// [`remaining`] did before.
pub fn set(process: &Arc<Process>, kind: Kind, value_ns: u64, interval_ns: u64) -> (u64, u64) {
    let timer = timer(process, kind);
    let (old, handle) = {
        let mut schedule = timer.schedule.lock();
        let clock = kind.clock(&timer.process);
        let next = if value_ns == 0 { None } else { clock.now_ns().map(|now| now.saturating_add(value_ns)) };
        (schedule.remaining(), schedule.set(clock, next, interval_ns))
    };
    drop(handle);
    timer.arm(0);
    old
}

/// RLIMIT_CPU was set, or came from the parent.
pub fn limit_changed(process: &Arc<Process>) {
    let (soft, _) = process.rlimit(linux::RLIMIT_CPU);
    if soft == u64::MAX && process.interval_timers.lock()[Kind::Limit as usize].is_none() {
        return;
    }
    let timer = timer(process, Kind::Limit);
    let next = (soft != u64::MAX).then(|| soft.saturating_mul(SECOND));
    let handle = timer.schedule.lock().set(Kind::Limit.clock(&timer.process), next, SECOND);
    drop(handle);
    timer.arm(0);
}

/// Stops all of them: the process ends.
pub(super) fn stop_all(process: &Process) {
    let timers = core::mem::take(&mut *process.interval_timers.lock());
    for timer in timers.into_iter().flatten() {
        let handle = timer.schedule.lock().stop();
        drop(handle);
    }
}

impl IntervalTimer {
    fn arm(&self, earliest_ns: u64) {
        let Some(this) = self.this.upgrade() else { return };
        let old = self.schedule.lock().arm(this, earliest_ns);
        drop(old);
    }

    fn signal(&self, process: &Arc<Process>) -> u32 {
        match self.kind {
            Kind::Real => linux::SIGALRM,
            Kind::Virtual => linux::SIGVTALRM,
            Kind::Profile => linux::SIGPROF,
            Kind::Limit => {
                let (soft, hard) = process.rlimit(linux::RLIMIT_CPU);
                let used = process.usage().cpu_ns() / SECOND;
                if used >= hard {
                    return linux::SIGKILL;
                }
                // As Linux: the soft limit moves on with every warning.
                process.move_cpu_limit(soft.max(used).saturating_add(1).min(hard));
                linux::SIGXCPU
            }
        }
    }
}

impl TimerCallback for IntervalTimer {
    fn expired(&self) {
        let Some(process) = self.process.upgrade() else { return };
        {
            // Locked until the signal is sent: none comes after setitimer(2) has stopped the timer.
            let mut schedule = self.schedule.lock();
            if schedule.advance() > 0 {
                let signal = self.signal(&process);
                signal::send_to_process(&process, signal, SignalInfo::kernel(signal));
            }
        }
        self.arm(SHORTEST_NS);
    }
}
