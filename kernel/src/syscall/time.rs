//! Clocks and sleeping.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use abi::{Errno, Result, linux, timex::Timex};
use hal::UserAddr;
use klib::clock_discipline;

use super::Call;
use crate::{
    mm::user,
    sync::IrqLock,
    task::{
        clock_timer::{CpuClock, Measure, Schedule, TimerClock},
        process,
        thread::Thread,
        wait::{self, WaitError, Wake as _},
    },
    time::{self, SECOND, TimerCallback},
};

/// What Linux counts the coarse clocks in with its usual 250 ticks a second, in nanoseconds.
const TICK_NS: u64 = 4_000_000;

/// A time of a program, in nanoseconds; EINVAL for a negative or denormal one.
pub fn nanoseconds(time: &linux::__kernel_timespec) -> Result<u64> {
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    let rest = u64::try_from(time.tv_nsec).ok().filter(|rest| *rest < SECOND).ok_or(Errno::EINVAL)?;
    Ok(seconds.saturating_mul(SECOND).saturating_add(rest))
}

/// A `struct timespec` as nanoseconds; `None` for a null pointer. EINVAL when it is negative or not normalised.
pub fn timeout_in(address: Option<UserAddr>) -> Result<Option<u64>> {
    address.map_or(Ok(None), |address| Ok(Some(nanoseconds(&user::copy_in(address)?)?)))
}

/// As a `struct timespec`.
pub fn timespec(ns: u64) -> linux::__kernel_timespec {
    linux::__kernel_timespec { tv_sec: (ns / SECOND) as i64, tv_nsec: (ns % SECOND) as i64 }
}

fn timeval(ns: u64) -> linux::__kernel_old_timeval {
    linux::__kernel_old_timeval { tv_sec: (ns / SECOND) as i64, tv_usec: (ns % SECOND / 1000) as i64 }
}

/// The CPU clock with a negative number, as clock_getcpuclockid(3) makes them: the process's or thread's number
/// inverted, whether it is a thread's, and what of its time counts. EINVAL; a thread must be the caller's process's.
fn cpu_clock(call: &Call<'_>, clock: i32, reading: bool) -> Result<CpuClock> {
    let (id, of_thread) = (!(clock >> 3), clock & 4 != 0);
    let measure = match clock & 3 {
        0 | 2 => Measure::All,
        1 => Measure::User,
        _ => return Err(Errno::EINVAL),
    };
    let own = call.process();
    if of_thread {
        let thread = match id {
            0 => Some(call.thread.clone()),
            _ => process::find_thread(id).filter(|thread| Arc::ptr_eq(thread.process(), own)),
        };
        return Ok(CpuClock::Thread(Arc::downgrade(&thread.ok_or(Errno::EINVAL)?), measure));
    }
    let process = match id {
        0 => Some(own.clone()),
        _ if reading && id == call.thread.tid() => Some(own.clone()),
        _ => process::find(id),
    };
    Ok(CpuClock::Process(Arc::downgrade(&process.ok_or(Errno::EINVAL)?), measure))
}

/// The clock with this number, for timers and sleeping. EINVAL.
pub fn timer_clock(call: &Call<'_>, clock: i32) -> Result<TimerClock> {
    if clock < 0 {
        return Ok(TimerClock::Cpu(cpu_clock(call, clock, false)?));
    }
    match clock as u32 {
        linux::CLOCK_REALTIME | linux::CLOCK_REALTIME_ALARM => Ok(TimerClock::Realtime),
        linux::CLOCK_MONOTONIC | linux::CLOCK_BOOTTIME | linux::CLOCK_BOOTTIME_ALARM => Ok(TimerClock::Monotonic),
        linux::CLOCK_TAI => Ok(TimerClock::Tai),
        linux::CLOCK_PROCESS_CPUTIME_ID => {
            Ok(TimerClock::Cpu(CpuClock::Process(Arc::downgrade(call.process()), Measure::All)))
        }
        linux::CLOCK_THREAD_CPUTIME_ID => {
            Ok(TimerClock::Cpu(CpuClock::Thread(Arc::downgrade(call.thread), Measure::All)))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The time of any clock. EINVAL.
fn read_clock(call: &Call<'_>, clock: i32) -> Result<u64> {
    let clock = match u32::try_from(clock) {
        Ok(linux::CLOCK_REALTIME_COARSE) => TimerClock::Realtime,
        Ok(linux::CLOCK_MONOTONIC_RAW) => return Ok(time::raw_ns()),
        Ok(linux::CLOCK_MONOTONIC_COARSE) => TimerClock::Monotonic,
        Ok(_) => timer_clock(call, clock)?,
        Err(_) => TimerClock::Cpu(cpu_clock(call, clock, true)?),
    };
    clock.now_ns().ok_or(Errno::EINVAL)
}

/// [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html).
pub fn sys_clock_gettime(call: &mut Call<'_>) -> Result<u64> {
    let now = read_clock(call, call.int(0))?;
    user::copy_out(call.address(1), &timespec(now))?;
    Ok(0)
}

/// [clock_getres(2)](https://man7.org/linux/man-pages/man2/clock_getres.2.html): as Linux says wherever timers are not
/// bound to a tick.
pub fn sys_clock_getres(call: &mut Call<'_>) -> Result<u64> {
    let clock = call.int(0);
    read_clock(call, clock)?;
    let resolution = match u32::try_from(clock) {
        Ok(linux::CLOCK_REALTIME_COARSE | linux::CLOCK_MONOTONIC_COARSE) => TICK_NS,
        Err(_) if clock & 3 != 2 => TICK_NS,
        _ => 1,
    };
    if let Some(address) = call.optional_address(1) {
        user::copy_out(address, &timespec(resolution))?;
    }
    Ok(0)
}

/// Sets the wall clock. EPERM; EINVAL before the machine's start or centuries ahead, as on Linux.
fn set_wall_clock(call: &Call<'_>, ns: u64) -> Result<()> {
    if ns / SECOND >= time::LATEST_S {
        return Err(Errno::EINVAL);
    }
    call.thread.require(linux::CAP_SYS_TIME)?;
    time::set_realtime_ns(ns)
}

/// [clock_settime(2)](https://man7.org/linux/man-pages/man2/clock_settime.2.html).
pub fn sys_clock_settime(call: &mut Call<'_>) -> Result<u64> {
    let clock = call.int(0);
    if clock >= 0 && clock as u32 != linux::CLOCK_REALTIME {
        return Err(Errno::EINVAL);
    }
    let new: linux::__kernel_timespec = user::copy_in(call.address(1))?;
    if clock < 0 {
        cpu_clock(call, clock, false)?;
        return Err(Errno::EPERM);
    }
    set_wall_clock(call, nanoseconds(&new)?)?;
    Ok(0)
}

fn adjust_clock(call: &Call<'_>, timex: &mut Timex, address: UserAddr) -> Result<u64> {
    clock_discipline::check(timex, call.thread.require(linux::CAP_SYS_TIME).is_ok())?;
    let state = time::adjust(timex)?;
    user::copy_out(address, timex)?;
    Ok(state as u64)
}

/// [adjtimex(2)](https://man7.org/linux/man-pages/man2/adjtimex.2.html).
pub fn sys_adjtimex(call: &mut Call<'_>) -> Result<u64> {
    let address = call.address(0);
    let mut timex: Timex = user::copy_in(address)?;
    adjust_clock(call, &mut timex, address)
}

/// [clock_adjtime(2)](https://man7.org/linux/man-pages/man2/clock_adjtime.2.html): the wall clock is the one that can be
/// adjusted.
pub fn sys_clock_adjtime(call: &mut Call<'_>) -> Result<u64> {
    let (clock, address) = (call.int(0), call.address(1));
    let mut timex: Timex = user::copy_in(address)?;
    match u32::try_from(clock) {
        Ok(linux::CLOCK_REALTIME) => adjust_clock(call, &mut timex, address),
        Ok(_) => read_clock(call, clock).and(Err(Errno::EOPNOTSUPP)),
        // A descriptor's clock (none has one), else the CPU time of somebody, who need not exist.
        Err(_) if clock & 7 == 3 => Err(Errno::EINVAL),
        Err(_) => Err(Errno::EOPNOTSUPP),
    }
}

/// `struct timezone`, kept and told: minutes west of Greenwich, and a number that means nothing.
static ZONE: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2];
static ZONE_WAS_SET: AtomicBool = AtomicBool::new(false);

/// [gettimeofday(2)](https://man7.org/linux/man-pages/man2/gettimeofday.2.html).
pub fn sys_gettimeofday(call: &mut Call<'_>) -> Result<u64> {
    if let Some(address) = call.optional_address(0) {
        user::copy_out(address, &timeval(time::realtime_ns()))?;
    }
    if let Some(address) = call.optional_address(1) {
        user::copy_out(address, &[ZONE[0].load(Ordering::Relaxed), ZONE[1].load(Ordering::Relaxed)])?;
    }
    Ok(0)
}

/// [settimeofday(2)](https://man7.org/linux/man-pages/man2/gettimeofday.2.html). The first zone that is set without a
/// time moves the clock by it: it is taken to have been local time.
pub fn sys_settimeofday(call: &mut Call<'_>) -> Result<u64> {
    let mut new = None;
    if let Some(address) = call.optional_address(0) {
        let value: linux::__kernel_old_timeval = user::copy_in(address)?;
        if !(0..1_000_000).contains(&value.tv_usec) {
            return Err(Errno::EINVAL);
        }
        let time = linux::__kernel_timespec { tv_sec: value.tv_sec, tv_nsec: value.tv_usec * 1000 };
        new = Some(nanoseconds(&time)?);
    }
    if let Some(address) = call.optional_address(1) {
        const FARTHEST: i32 = 15 * 60;
        let [west, other]: [i32; 2] = user::copy_in(address)?;
        if !(-FARTHEST..=FARTHEST).contains(&west) {
            return Err(Errno::EINVAL);
        }
        call.thread.require(linux::CAP_SYS_TIME)?;
        ZONE[0].store(west, Ordering::Relaxed);
        ZONE[1].store(other, Ordering::Relaxed);
        if !ZONE_WAS_SET.swap(true, Ordering::Relaxed) && new.is_none() {
            set_wall_clock(call, time::realtime_ns().saturating_add_signed(i64::from(west) * 60 * SECOND as i64))?;
        }
    }
    if let Some(ns) = new {
        set_wall_clock(call, ns)?;
    }
    Ok(0)
}

/// [nanosleep(2)](https://man7.org/linux/man-pages/man2/nanosleep.2.html).
pub fn sys_nanosleep(call: &mut Call<'_>) -> Result<u64> {
    let len = timeout_in(Some(call.address(0)))?.ok_or(Errno::EFAULT)?;
    sleep(&TimerClock::Monotonic, time::monotonic_ns().saturating_add(len), call.optional_address(1), call.thread)
}

/// [clock_nanosleep(2)](https://man7.org/linux/man-pages/man2/clock_nanosleep.2.html).
pub fn sys_clock_nanosleep(call: &mut Call<'_>) -> Result<u64> {
    let number = call.int(0);
    let clock = match u32::try_from(number) {
        Ok(
            linux::CLOCK_THREAD_CPUTIME_ID
            | linux::CLOCK_MONOTONIC_RAW
            | linux::CLOCK_REALTIME_COARSE
            | linux::CLOCK_MONOTONIC_COARSE,
        ) => return Err(Errno::EOPNOTSUPP),
        Ok(_) => timer_clock(call, number)?,
        // Refused below, after the time was looked at.
        Err(_) => TimerClock::Monotonic,
    };
    let time = timeout_in(Some(call.address(2)))?.ok_or(Errno::EFAULT)?;
    let clock = if number < 0 { timer_clock(call, number)? } else { clock };
    if let TimerClock::Cpu(CpuClock::Thread(thread, _)) = &clock
        && core::ptr::eq(thread.as_ptr(), Arc::as_ptr(call.thread))
    {
        // It would wait for itself.
        return Err(Errno::EINVAL);
    }
    let absolute = call.uint(1) & linux::TIMER_ABSTIME != 0;
    if absolute {
        return sleep(&clock, time, None, call.thread);
    }
    // A span of wall-clock time does not change when that clock is set.
    let clock = if clock.is_wall_clock() { TimerClock::Monotonic } else { clock };
    let until = clock.now_ns().ok_or(Errno::EINVAL)?.saturating_add(time);
    sleep(&clock, until, call.optional_address(3), call.thread)
}

/// Sleeps until `clock` says `until_ns`.
fn sleep(clock: &TimerClock, until_ns: u64, remaining: Option<UserAddr>, thread: &Arc<Thread>) -> Result<u64> {
    let left = || clock.now_ns().map_or(0, |now| until_ns.saturating_sub(now));
    let interrupted = loop {
        let offset = time::realtime_offset_ns() + time::tai_offset_ns();
        let moved = || clock.is_wall_clock() && time::realtime_offset_ns() + time::tai_offset_ns() != offset;
        let look = || if left() == 0 { Some(true) } else { moved().then_some(false) };
        let result = match clock {
            TimerClock::Cpu(_) => sleep_on_cpu_clock(clock, until_ns, thread),
            TimerClock::Monotonic => wait::wait_until(&[], Some(until_ns), look),
            _ => {
                let deadline = time::monotonic_ns().saturating_add(left());
                wait::wait_until(&[time::wall_clock_queue()], Some(deadline), look)
            }
        };
        match result {
            Ok(true) => break false,
            Ok(false) => {}
            Err(WaitError::TimedOut) if left() > 0 && clock.is_wall_clock() => {}
            Err(WaitError::TimedOut) => break false,
            Err(WaitError::Interrupted) => break true,
        }
    };
    if !interrupted {
        return Ok(0);
    }
    if let Some(address) = remaining {
        user::copy_out(address, &timespec(left()))?;
    }
    Err(Errno::EINTR)
}

/// Wakes a thread when a CPU clock has come to a time.
struct CpuSleeper {
    thread: Weak<Thread>,
    schedule: IrqLock<Schedule>,
    this: Weak<Self>,
}

impl CpuSleeper {
    fn arm(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let old = self.schedule.lock().arm(this, 0);
        drop(old);
    }
}

impl TimerCallback for CpuSleeper {
    fn expired(&self) {
        if !self.schedule.lock().is_due() {
            self.arm();
        } else if let Some(thread) = self.thread.upgrade() {
            thread.wake();
        }
    }
}

fn sleep_on_cpu_clock(
    clock: &TimerClock,
    until_ns: u64,
    thread: &Arc<Thread>,
) -> core::result::Result<bool, WaitError> {
    let sleeper = Arc::new_cyclic(|this| {
        let mut schedule = Schedule::new(clock.clone());
        schedule.set(clock.clone(), Some(until_ns), 0);
        CpuSleeper { thread: Arc::downgrade(thread), schedule: IrqLock::new(schedule), this: this.clone() }
    });
    sleeper.arm();
    // What it counts may have ended: then nothing comes any more, as on Linux, until a signal does.
    let result = wait::wait_until(&[], None, || sleeper.schedule.lock().is_due().then_some(true));
    let handle = sleeper.schedule.lock().stop();
    drop(handle);
    result
}
