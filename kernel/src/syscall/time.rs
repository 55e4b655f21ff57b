//! Clocks, sleeping and interval timers.

use alloc::sync::{Arc, Weak};

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::Call;
use crate::{
    mm::user,
    task::{
        process::{self, Process},
        signal::{self, SignalInfo},
        wait::{self, WaitError},
    },
    time::{self, SECOND, TimerAction, TimerCallback},
};

/// A `struct timespec` as nanoseconds; `None` for a null pointer. EINVAL when it is negative or not normalised.
pub fn timeout_in(address: Option<UserAddr>) -> Result<Option<u64>> {
    let Some(address) = address else { return Ok(None) };
    let time: linux::__kernel_timespec = user::copy_in(address)?;
    if time.tv_sec < 0 || !(0..SECOND as i64).contains(&time.tv_nsec) {
        return Err(Errno::EINVAL);
    }
    Ok(Some((time.tv_sec as u64).saturating_mul(SECOND).saturating_add(time.tv_nsec as u64)))
}

fn timespec(ns: u64) -> linux::__kernel_timespec {
    linux::__kernel_timespec { tv_sec: (ns / SECOND) as i64, tv_nsec: (ns % SECOND) as i64 }
}

fn timeval(ns: u64) -> linux::__kernel_old_timeval {
    linux::__kernel_old_timeval { tv_sec: (ns / SECOND) as i64, tv_usec: (ns % SECOND / 1000) as i64 }
}

/// The time of a clock. Negative numbers are CPU clocks of a process or thread, as clock_getcpuclockid(3) makes them.
fn read_clock(call: &Call<'_>, clock: i32) -> Result<u64> {
    if clock < 0 {
        let id = !(clock >> 3);
        if clock & 4 != 0 {
            let thread = if id == 0 { call.thread.clone() } else { process::find_thread(id).ok_or(Errno::EINVAL)? };
            return Ok(thread.cpu_time_ns());
        }
        let process = if id == 0 { call.process().clone() } else { process::find(id).ok_or(Errno::EINVAL)? };
        return Ok(process.cpu_time_ns());
    }
    match clock as u32 {
        linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_COARSE | linux::CLOCK_TAI => Ok(time::realtime_ns()),
        linux::CLOCK_MONOTONIC | linux::CLOCK_MONOTONIC_COARSE | linux::CLOCK_MONOTONIC_RAW | linux::CLOCK_BOOTTIME => {
            Ok(time::monotonic_ns())
        }
        linux::CLOCK_PROCESS_CPUTIME_ID => Ok(call.process().cpu_time_ns()),
        linux::CLOCK_THREAD_CPUTIME_ID => Ok(call.thread.cpu_time_ns()),
        _ => Err(Errno::EINVAL),
    }
}

/// [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html).
pub fn sys_clock_gettime(call: &mut Call<'_>) -> Result<u64> {
    let now = read_clock(call, call.int(0))?;
    user::copy_out(call.address(1), &timespec(now))?;
    Ok(0)
}

/// [clock_getres(2)](https://man7.org/linux/man-pages/man2/clock_getres.2.html): 1 ns, as Linux says wherever timers are
/// not bound to a tick.
pub fn sys_clock_getres(call: &mut Call<'_>) -> Result<u64> {
    read_clock(call, call.int(0))?;
    if let Some(address) = call.optional_address(1) {
        user::copy_out(address, &timespec(1))?;
    }
    Ok(0)
}

/// [clock_settime(2)](https://man7.org/linux/man-pages/man2/clock_settime.2.html).
pub fn sys_clock_settime(call: &mut Call<'_>) -> Result<u64> {
    if call.uint(0) != linux::CLOCK_REALTIME {
        return Err(Errno::EINVAL);
    }
    let time = timeout_in(Some(call.address(1)))?.ok_or(Errno::EFAULT)?;
    call.thread.require(linux::CAP_SYS_TIME)?;
    time::set_realtime_ns(time);
    Ok(0)
}

/// [gettimeofday(2)](https://man7.org/linux/man-pages/man2/gettimeofday.2.html).
pub fn sys_gettimeofday(call: &mut Call<'_>) -> Result<u64> {
    if let Some(address) = call.optional_address(0) {
        user::copy_out(address, &timeval(time::realtime_ns()))?;
    }
    if let Some(address) = call.optional_address(1) {
        user::copy_out(address, &[0i32; 2])?;
    }
    Ok(0)
}

/// [nanosleep(2)](https://man7.org/linux/man-pages/man2/nanosleep.2.html).
pub fn sys_nanosleep(call: &mut Call<'_>) -> Result<u64> {
    let len = timeout_in(Some(call.address(0)))?.ok_or(Errno::EFAULT)?;
    sleep(time::monotonic_ns().saturating_add(len), call.optional_address(1))
}

/// [clock_nanosleep(2)](https://man7.org/linux/man-pages/man2/clock_nanosleep.2.html).
pub fn sys_clock_nanosleep(call: &mut Call<'_>) -> Result<u64> {
    let time = timeout_in(Some(call.address(2)))?.ok_or(Errno::EFAULT)?;
    let absolute = call.uint(1) & linux::TIMER_ABSTIME != 0;
    let deadline = match (call.uint(0), absolute) {
        (linux::CLOCK_REALTIME | linux::CLOCK_TAI, true) => time::realtime_to_monotonic(time),
        (linux::CLOCK_MONOTONIC | linux::CLOCK_BOOTTIME, true) => time,
        (linux::CLOCK_REALTIME | linux::CLOCK_TAI | linux::CLOCK_MONOTONIC | linux::CLOCK_BOOTTIME, false) => {
            time::monotonic_ns().saturating_add(time)
        }
        (linux::CLOCK_PROCESS_CPUTIME_ID | linux::CLOCK_THREAD_CPUTIME_ID, _) => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    sleep(deadline, if absolute { None } else { call.optional_address(3) })
}

fn sleep(deadline_ns: u64, remaining: Option<UserAddr>) -> Result<u64> {
    match wait::wait_until::<()>(&[], Some(deadline_ns), || None) {
        Err(WaitError::Interrupted) => {
            if let Some(address) = remaining {
                user::copy_out(address, &timespec(deadline_ns.saturating_sub(time::monotonic_ns())))?;
            }
            Err(Errno::EINTR)
        }
        Ok(()) | Err(WaitError::TimedOut) => Ok(0),
    }
}

/// The process's real-time interval timer.
struct Alarm(Weak<Process>);

impl TimerCallback for Alarm {
    fn expired(&self) {
        let Some(process) = self.0.upgrade() else { return };
        process.rearm_alarm(|deadline| time::set_timer(deadline, TimerAction::Call(Arc::new(Self(self.0.clone())))));
        signal::send_to_process(&process, linux::SIGALRM, SignalInfo::kernel(linux::SIGALRM));
    }
}

fn alarm_value(process: &Process) -> linux::__kernel_old_itimerval {
    let (deadline, interval) = process.alarm().unwrap_or((0, 0));
    let left = if deadline == 0 { 0 } else { deadline.saturating_sub(time::monotonic_ns()).max(1000) };
    linux::__kernel_old_itimerval { it_interval: timeval(interval), it_value: timeval(left) }
}

/// [getitimer(2)](https://man7.org/linux/man-pages/man2/getitimer.2.html): ITIMER_REAL.
pub fn sys_getitimer(call: &mut Call<'_>) -> Result<u64> {
    if call.uint(0) != linux::ITIMER_REAL {
        return Err(Errno::EINVAL);
    }
    user::copy_out(call.address(1), &alarm_value(call.process()))?;
    Ok(0)
}

/// [setitimer(2)](https://man7.org/linux/man-pages/man2/getitimer.2.html): ITIMER_REAL.
pub fn sys_setitimer(call: &mut Call<'_>) -> Result<u64> {
    if call.uint(0) != linux::ITIMER_REAL {
        return Err(Errno::EINVAL);
    }
    let mut new = abi::zeroed::<linux::__kernel_old_itimerval>();
    if let Some(address) = call.optional_address(1) {
        new = user::copy_in(address)?;
    }
    let ns = |time: linux::__kernel_old_timeval| {
        let valid = time.tv_sec >= 0 && (0..1_000_000).contains(&time.tv_usec);
        valid.then(|| (time.tv_sec as u64).saturating_mul(SECOND).saturating_add(time.tv_usec as u64 * 1000))
    };
    let (value, interval) = (ns(new.it_value).ok_or(Errno::EINVAL)?, ns(new.it_interval).ok_or(Errno::EINVAL)?);
    let process = call.process();
    let old = alarm_value(process);
    let deadline = time::monotonic_ns().saturating_add(value);
    let start = |deadline| time::set_timer(deadline, TimerAction::Call(Arc::new(Alarm(Arc::downgrade(process)))));
    process.set_alarm((value > 0).then_some((deadline, interval)), start);
    if let Some(address) = call.optional_address(2) {
        user::copy_out(address, &old)?;
    }
    Ok(0)
}
