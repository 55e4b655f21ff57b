//! Timers that send signals: setitimer and the POSIX ones.

use alloc::sync::Arc;

use abi::{Errno, Result, linux};

use super::{
    Call,
    time::{nanoseconds, timer_clock, timespec},
};
use crate::{
    mm::user,
    task::{
        clock_timer::TimerClock,
        interval_timer::{self, Kind},
        posix_timer::{self, NewTimer, Notify},
        process,
        signal::NSIG,
    },
    time::SECOND,
};

fn kind(which: u32) -> Result<Kind> {
    match which {
        linux::ITIMER_REAL => Ok(Kind::Real),
        linux::ITIMER_VIRTUAL => Ok(Kind::Virtual),
        linux::ITIMER_PROF => Ok(Kind::Profile),
        _ => Err(Errno::EINVAL),
    }
}

/// A timer that runs has at least a microsecond left.
fn interval_value((left_ns, interval_ns): (u64, u64)) -> linux::__kernel_old_itimerval {
    let timeval =
        |ns: u64| linux::__kernel_old_timeval { tv_sec: (ns / SECOND) as i64, tv_usec: (ns % SECOND / 1000) as i64 };
    let left = if left_ns == 0 { 0 } else { left_ns.max(1000) };
    linux::__kernel_old_itimerval { it_interval: timeval(interval_ns), it_value: timeval(left) }
}

/// [getitimer(2)](https://man7.org/linux/man-pages/man2/getitimer.2.html).
pub fn sys_getitimer(call: &mut Call<'_>) -> Result<u64> {
    let value = interval_value(interval_timer::remaining(call.process(), kind(call.uint(0))?));
    user::copy_out(call.address(1), &value)?;
    Ok(0)
}

/// [setitimer(2)](https://man7.org/linux/man-pages/man2/getitimer.2.html).
pub fn sys_setitimer(call: &mut Call<'_>) -> Result<u64> {
    let mut new = abi::zeroed::<linux::__kernel_old_itimerval>();
    if let Some(address) = call.optional_address(1) {
        new = user::copy_in(address)?;
    }
    let ns = |time: linux::__kernel_old_timeval| {
        let valid = time.tv_sec >= 0 && (0..1_000_000).contains(&time.tv_usec);
        valid.then(|| (time.tv_sec as u64).saturating_mul(SECOND).saturating_add(time.tv_usec as u64 * 1000))
    };
    let (value, interval) = (ns(new.it_value).ok_or(Errno::EINVAL)?, ns(new.it_interval).ok_or(Errno::EINVAL)?);
    let old = interval_timer::set(call.process(), kind(call.uint(0))?, value, interval);
    if let Some(address) = call.optional_address(2) {
        user::copy_out(address, &interval_value(old))?;
    }
    Ok(0)
}

/// Which clocks POSIX timers run on.
fn clock_of_timer(call: &Call<'_>) -> Result<TimerClock> {
    match call.uint(0) {
        linux::CLOCK_MONOTONIC_RAW | linux::CLOCK_REALTIME_COARSE | linux::CLOCK_MONOTONIC_COARSE => {
            Err(Errno::EOPNOTSUPP)
        }
        linux::CLOCK_REALTIME_ALARM | linux::CLOCK_BOOTTIME_ALARM => {
            call.thread.require(linux::CAP_WAKE_ALARM)?;
            timer_clock(call, call.int(0))
        }
        _ => timer_clock(call, call.int(0)),
    }
}

/// [timer_create(2)](https://man7.org/linux/man-pages/man2/timer_create.2.html). `struct sigevent` is value, signal,
/// kind, thread.
pub fn sys_timer_create(call: &mut Call<'_>) -> Result<u64> {
    let process = call.process();
    let event: Option<[u32; 5]> = match call.optional_address(1) {
        Some(address) => {
            Some(user::copy_in::<[u32; 16]>(address).map(|words| [words[0], words[1], words[2], words[3], words[4]])?)
        }
        None => None,
    };
    let clock = clock_of_timer(call)?;
    let (signal, value, notify) = match event {
        None => (linux::SIGALRM, None, Notify::Process(Arc::downgrade(process))),
        Some([low, high, signal, how, tid]) => {
            let notify = match how {
                linux::SIGEV_NONE => Notify::Nobody,
                linux::SIGEV_SIGNAL | linux::SIGEV_THREAD => Notify::Process(Arc::downgrade(process)),
                linux::SIGEV_THREAD_ID => {
                    let own = |thread: &Arc<_>| Arc::ptr_eq(crate::task::thread::Thread::process(thread), process);
                    let thread = process::find_thread(tid as i32).filter(own).ok_or(Errno::EINVAL)?;
                    Notify::Thread(Arc::downgrade(&thread))
                }
                _ => return Err(Errno::EINVAL),
            };
            if how != linux::SIGEV_NONE && !(1..NSIG).contains(&signal) {
                return Err(Errno::EINVAL);
            }
            (signal, Some(u64::from(low) | u64::from(high) << 32), notify)
        }
    };
    let id = posix_timer::create(process, NewTimer { clock, signal, value, notify })?;
    if let Err(error) = user::copy_out(call.address(2), &id) {
        posix_timer::delete(process, id)?;
        return Err(error);
    }
    Ok(0)
}

fn timer_value((left, interval): (u64, u64)) -> linux::__kernel_itimerspec {
    linux::__kernel_itimerspec { it_interval: timespec(interval), it_value: timespec(left) }
}

/// [timer_settime(2)](https://man7.org/linux/man-pages/man2/timer_settime.2.html).
pub fn sys_timer_settime(call: &mut Call<'_>) -> Result<u64> {
    let new: linux::__kernel_itimerspec = user::copy_in(call.optional_address(2).ok_or(Errno::EINVAL)?)?;
    let (value, interval) = (nanoseconds(&new.it_value)?, nanoseconds(&new.it_interval)?);
    let timer = posix_timer::find(call.process(), call.int(0))?;
    let old = timer.set(value, interval, call.uint(1) & linux::TIMER_ABSTIME != 0);
    if let Some(address) = call.optional_address(3) {
        user::copy_out(address, &timer_value(old))?;
    }
    Ok(0)
}

/// [timer_gettime(2)](https://man7.org/linux/man-pages/man2/timer_settime.2.html).
pub fn sys_timer_gettime(call: &mut Call<'_>) -> Result<u64> {
    let timer = posix_timer::find(call.process(), call.int(0))?;
    user::copy_out(call.address(1), &timer_value(timer.remaining()))?;
    Ok(0)
}

/// [timer_getoverrun(2)](https://man7.org/linux/man-pages/man2/timer_getoverrun.2.html).
pub fn sys_timer_getoverrun(call: &mut Call<'_>) -> Result<u64> {
    Ok(posix_timer::find(call.process(), call.int(0))?.last_overrun() as u64)
}

/// [timer_delete(2)](https://man7.org/linux/man-pages/man2/timer_delete.2.html).
pub fn sys_timer_delete(call: &mut Call<'_>) -> Result<u64> {
    posix_timer::delete(call.process(), call.int(0))?;
    Ok(0)
}
