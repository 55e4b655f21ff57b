//! Waiting for children, and what they and the caller used.

use abi::{Errno, Result, linux};

use super::Call;
use crate::{
    fs::pidfd::PidFd,
    mm::user,
    task::{
        exit::{self, WaitFor, WaitOptions, WaitOutcome},
        process::Process,
        signal::SignalInfo,
        usage::Usage,
    },
    time::SECOND,
};

/// The options that say which children.
const CHOICES: u32 = linux::__WALL | linux::__WCLONE | linux::__WNOTHREAD;

/// What to wait for, but for ended children and WNOWAIT.
const fn wait_options(options: u32) -> WaitOptions {
    WaitOptions {
        exited: true,
        stopped: options & linux::WUNTRACED != 0,
        continued: options & linux::WCONTINUED != 0,
        no_hang: options & linux::WNOHANG != 0,
        keep: false,
        all: options & linux::__WALL != 0,
        clones: options & linux::__WCLONE != 0,
        own_thread: options & linux::__WNOTHREAD != 0,
    }
}

/// [wait4(2)](https://man7.org/linux/man-pages/man2/wait4.2.html).
pub fn sys_wait4(call: &mut Call<'_>) -> Result<u64> {
    let options = call.uint(2);
    if options & !(linux::WNOHANG | linux::WUNTRACED | linux::WCONTINUED | CHOICES) != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match call.int(0) {
        -1 => WaitFor::Any,
        0 => WaitFor::Group(call.process().group()),
        i32::MIN => return Err(Errno::ESRCH),
        group if group < 0 => WaitFor::Group(-group),
        pid => WaitFor::Pid(pid),
    };
    let Some(outcome) = exit::wait_for_child(call.thread, which, wait_options(options))? else { return Ok(0) };
    if let Some(address) = call.optional_address(1) {
        user::copy_out(address, &outcome.word)?;
    }
    if let Some(address) = call.optional_address(3) {
        user::copy_out(address, &rusage(outcome.usage))?;
    }
    Ok(outcome.pid as u64)
}

/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html).
pub fn sys_waitid(call: &mut Call<'_>) -> Result<u64> {
    let options = call.uint(3);
    const EVENTS: u32 = linux::WEXITED | linux::WSTOPPED | linux::WCONTINUED;
    if options & !(EVENTS | linux::WNOHANG | linux::WNOWAIT | CHOICES) != 0 || options & EVENTS == 0 {
        return Err(Errno::EINVAL);
    }
    let mut nonblocking = false;
    let which = match call.uint(0) {
        linux::P_ALL => WaitFor::Any,
        linux::P_PID if call.int(1) > 0 => WaitFor::Pid(call.int(1)),
        linux::P_PGID if call.int(1) >= 0 => {
            WaitFor::Group(if call.int(1) == 0 { call.process().group() } else { call.int(1) })
        }
        linux::P_PIDFD if call.int(1) >= 0 => {
            let file = call.file(1)?;
            let target = file.downcast::<PidFd>().ok_or(Errno::EBADF)?;
            nonblocking = file.is_nonblocking() && options & linux::WNOHANG == 0;
            WaitFor::Pid(target.process().map_err(|_| Errno::ECHILD)?.pid())
        }
        _ => return Err(Errno::EINVAL),
    };
    let wanted = WaitOptions {
        exited: options & linux::WEXITED != 0,
        no_hang: options & linux::WNOHANG != 0 || nonblocking,
        keep: options & linux::WNOWAIT != 0,
        ..wait_options(options)
    };
    let outcome = exit::wait_for_child(call.thread, which, wanted)?;
    if outcome.is_none() && nonblocking {
        return Err(Errno::EAGAIN);
    }
    if let (Some(address), Some(outcome)) = (call.optional_address(4), &outcome) {
        user::copy_out(address, &rusage(outcome.usage))?;
    }
    if let Some(address) = call.optional_address(2) {
        user::copy_out_bytes(address, &child_info(outcome.as_ref()))?;
    }
    Ok(0)
}

/// The `siginfo_t` of waitid: all zero when there is nothing to report.
fn child_info(outcome: Option<&WaitOutcome>) -> [u8; 128] {
    let Some(outcome) = outcome else { return [0; 128] };
    let (code, status) = match outcome.word {
        0xffff => (linux::CLD_CONTINUED, linux::SIGCONT as i32),
        word if word & 0xff == 0x7f => (linux::CLD_STOPPED, word >> 8),
        word if word & 0x7f == 0 => (linux::CLD_EXITED, word >> 8),
        word if word & 0x80 != 0 => (linux::CLD_DUMPED, word & 0x7f),
        word => (linux::CLD_KILLED, word & 0x7f),
    };
    *SignalInfo::child(code as i32, outcome.pid, outcome.uid, status).bytes()
}

/// A `struct rusage`. What Linux keeps at 0, or counts of swapping and block devices, is 0.
fn rusage(used: Usage) -> linux::rusage {
    let timeval =
        |ns: u64| linux::__kernel_old_timeval { tv_sec: (ns / SECOND) as i64, tv_usec: (ns % SECOND / 1000) as i64 };
    let mut usage: linux::rusage = abi::zeroed();
    usage.ru_utime = timeval(used.user_ns);
    usage.ru_stime = timeval(used.system_ns);
    usage.ru_maxrss = (used.peak_pages * 4) as i64;
    usage.ru_minflt = used.faults as i64;
    usage.ru_nvcsw = used.voluntary_switches as i64;
    usage.ru_nivcsw = used.involuntary_switches as i64;
    usage
}

/// [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html).
pub fn sys_getrusage(call: &mut Call<'_>) -> Result<u64> {
    const THREAD: i32 = linux::RUSAGE_THREAD as i32;
    let process = call.process();
    let with_peak = |mut usage: Usage, process: &Process| {
        usage.peak_pages = usage.peak_pages.max(process.memory().map_or(0, |memory| memory.peak_pages()));
        usage
    };
    let usage = match call.int(0) {
        0 => with_peak(process.usage(), process),
        -1 => process.children_usage(),
        THREAD => with_peak(call.thread.usage(), process),
        _ => return Err(Errno::EINVAL),
    };
    user::copy_out(call.address(1), &rusage(usage))?;
    Ok(0)
}

/// [times(2)](https://man7.org/linux/man-pages/man2/times.2.html), in ticks of 10 ms.
pub fn sys_times(call: &mut Call<'_>) -> Result<u64> {
    const TICK_NS: u64 = SECOND / 100;
    let (own, children) = (call.process().usage(), call.process().children_usage());
    if let Some(address) = call.optional_address(0) {
        let times = [own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(|ns| ns / TICK_NS);
        user::copy_out(address, &times)?;
    }
    Ok(crate::time::monotonic_ns() / TICK_NS)
}
