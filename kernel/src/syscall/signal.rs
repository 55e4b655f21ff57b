//! Signals.

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{Call, time::timeout_in};
use crate::{
    mm::user,
    task::{
        pending::Sent,
        posix_timer,
        process::{self, Process},
        signal::{self, Action, AltStack, NSIG, SIG_IGN, SignalInfo, SignalSet},
        wait::{self, WaitError},
    },
    time,
};

/// Bytes of the kernel's `sigset_t`.
const SET_SIZE: usize = 8;

/// The flags of sigaction(2). Others, SA_UNSUPPORTED first of all, read back as 0, so that programs can find out.
const KNOWN_FLAGS: u64 = linux::SA_NOCLDSTOP as u64
    | linux::SA_NOCLDWAIT as u64
    | linux::SA_SIGINFO as u64
    | linux::SA_ONSTACK as u64
    | linux::SA_RESTART as u64
    | linux::SA_NODEFER as u64
    | linux::SA_RESETHAND as u64
    | linux::SA_EXPOSE_TAGBITS as u64
    | signal::SA_RESTORER;

fn check_set_size(call: &Call<'_>, index: usize) -> Result<()> {
    if call.size(index) == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

fn valid(signal: u32) -> Result<u32> {
    if (1..NSIG).contains(&signal) { Ok(signal) } else { Err(Errno::EINVAL) }
}

/// [rt_sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html). `struct kernel_sigaction` is handler,
/// flags, restorer, mask: four words.
pub fn sys_rt_sigaction(call: &mut Call<'_>) -> Result<u64> {
    check_set_size(call, 3)?;
    let signal = valid(call.uint(0))?;
    let new: Option<[u64; 4]> = match call.optional_address(1) {
        Some(address) => Some(user::copy_in(address)?),
        None => None,
    };
    if new.is_some() && (signal == linux::SIGKILL || signal == linux::SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let old = {
        let mut actions = call.process().actions.lock();
        let old = actions.get(signal);
        if let Some([handler, flags, restorer, mask]) = new {
            let flags = flags & KNOWN_FLAGS;
            actions.set(signal, Action { handler, flags, restorer, mask: SignalSet::from_bits(mask).blockable() });
        }
        old
    };
    if let Some([handler, ..]) = new {
        if signal::ignores(handler, signal) {
            signal::discard(call.process(), signal);
        } else if old.handler == SIG_IGN {
            posix_timer::unignore(call.process(), signal);
        }
    }
    if let Some(address) = call.optional_address(2) {
        user::copy_out(address, &[old.handler, old.flags, old.restorer, old.mask.bits()])?;
    }
    Ok(0)
}

/// [rt_sigprocmask(2)](https://man7.org/linux/man-pages/man2/sigprocmask.2.html).
pub fn sys_rt_sigprocmask(call: &mut Call<'_>) -> Result<u64> {
    check_set_size(call, 3)?;
    let old = call.thread.signal_mask();
    if let Some(address) = call.optional_address(1) {
        let set: u64 = user::copy_in(address)?;
        let new = match call.uint(0) {
            linux::SIG_BLOCK => old | set,
            linux::SIG_UNBLOCK => old & !set,
            linux::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        call.thread.swap_signal_mask(new);
    }
    if let Some(address) = call.optional_address(2) {
        user::copy_out(address, &old)?;
    }
    Ok(0)
}

/// [rt_sigpending(2)](https://man7.org/linux/man-pages/man2/sigpending.2.html).
pub fn sys_rt_sigpending(call: &mut Call<'_>) -> Result<u64> {
    if call.size(1) > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let signals = call.thread.signals.lock();
    let pending = (signals.pending.set() | call.process().pending_signals()) & signals.mask;
    drop(signals);
    user::copy_out_bytes(call.address(0), &pending.bits().to_ne_bytes()[..call.size(1)])?;
    Ok(0)
}

/// [rt_sigsuspend(2)](https://man7.org/linux/man-pages/man2/sigsuspend.2.html).
pub fn sys_rt_sigsuspend(call: &mut Call<'_>) -> Result<u64> {
    check_set_size(call, 1)?;
    let mask: u64 = user::copy_in(call.address(0))?;
    call.thread.set_temporary_mask(mask);
    // Only a signal ends this wait.
    let _ = wait::wait_until::<(), 0>(&[], None, || None);
    Err(Errno::EINTR)
}

/// [rt_sigtimedwait(2)](https://man7.org/linux/man-pages/man2/sigwaitinfo.2.html).
pub fn sys_rt_sigtimedwait(call: &mut Call<'_>) -> Result<u64> {
    check_set_size(call, 3)?;
    let wanted = SignalSet::from_bits(user::copy_in(call.address(0))?).blockable();
    let deadline = timeout_in(call.optional_address(2))?.map(|ns| time::monotonic_ns().saturating_add(ns));
    let take = || signal::take_pending(call.thread, wanted);
    let result = match take() {
        Some(found) => Ok(found),
        None => {
            call.thread.signals.lock().waited_for = wanted;
            let result = wait::wait_until(&[], deadline, take);
            call.thread.signals.lock().waited_for = SignalSet::default();
            result
        }
    };
    // One that came for this thread while it stopped waiting was announced to no other.
    let (signal, info) = match result {
        Ok(found) => found,
        Err(WaitError::TimedOut) => take().ok_or(Errno::EAGAIN)?,
        Err(WaitError::Interrupted) => take().ok_or(Errno::EINTR)?,
    };
    if let Some(address) = call.optional_address(1) {
        user::copy_out_bytes(address, info.bytes())?;
    }
    Ok(u64::from(signal))
}

/// [rt_sigreturn(2)](https://man7.org/linux/man-pages/man2/sigreturn.2.html).
pub fn sys_rt_sigreturn(call: &mut Call<'_>) -> Result<u64> {
    if signal::return_from_handler(call.thread, call.frame).is_err() {
        signal::force(call.thread, linux::SIGSEGV, SignalInfo::kernel(linux::SIGSEGV));
        return Ok(0);
    }
    // The result register holds what it did when the signal came.
    Ok(hal::TrapFrame::syscall_arguments(call.frame)[0])
}

/// [sigaltstack(2)](https://man7.org/linux/man-pages/man2/sigaltstack.2.html). `stack_t` is address, flags, size.
pub fn sys_sigaltstack(call: &mut Call<'_>) -> Result<u64> {
    let sp = hal::TrapFrame::sp(call.frame).get();
    let new: Option<[u64; 3]> = call.optional_address(0).map(user::copy_in).transpose()?;
    let old = {
        let mut signals = call.thread.signals.lock();
        let old = signals.alt_stack;
        if let Some([address, flags, size]) = new {
            signals.alt_stack.replace(AltStack { address, size, flags: flags as u32 }, sp)?;
        }
        old
    };
    if let Some(address) = call.optional_address(1) {
        user::copy_out(address, &[old.address, u64::from(old.reported_flags(sp)), old.size])?;
    }
    Ok(0)
}

/// [restart_syscall(2)](https://man7.org/linux/man-pages/man2/restart_syscall.2.html): calls go on after a stop by
/// themselves, so there is never one to restart.
pub fn sys_restart_syscall(_call: &mut Call<'_>) -> Result<u64> {
    Err(Errno::EINTR)
}

/// [kill(2)](https://man7.org/linux/man-pages/man2/kill.2.html).
pub fn sys_kill(call: &mut Call<'_>) -> Result<u64> {
    let (pid, signal) = (call.int(0), call.uint(1));
    if signal >= NSIG {
        return Err(Errno::EINVAL);
    }
    let own = call.process().pid();
    let info = SignalInfo::user(signal, own, call.thread.identity.own().user.real);
    match pid {
        i32::MIN => Err(Errno::ESRCH),
        // To have found nobody who may be signalled is no error where everybody is meant (kill(2), "BUGS").
        -1 => match send_to_all(call, |process| process.pid() > 1 && process.pid() != own, signal, info) {
            Err(Errno::EPERM) => Ok(0),
            result => result,
        },
        pid if pid > 0 => {
            let target = process::find(pid).ok_or(Errno::ESRCH)?;
            target.check_signal(call.thread, signal)?;
            signal::send_to_process(&target, signal, info);
            Ok(0)
        }
        pid => {
            let group = if pid == 0 { call.process().group() } else { -pid };
            send_to_all(call, |process| process.group() == group, signal, info)
        }
    }
}

/// Sends a signal to those of the processes that `chosen` names which the caller may signal. ESRCH where there are none,
/// EPERM where it may none.
pub(super) fn send_to_all(
    call: &Call<'_>,
    chosen: impl Fn(&Process) -> bool,
    signal: u32,
    info: SignalInfo,
) -> Result<u64> {
    let mut result = Err(Errno::ESRCH);
    signal::send_to_many(chosen, |target| match target.check_signal(call.thread, signal) {
        Ok(()) => {
            signal::send_to_process(target, signal, info);
            result = Ok(0);
        }
        Err(error) if result.is_err() => result = Err(error),
        Err(_) => {}
    });
    result
}

/// [tgkill(2)](https://man7.org/linux/man-pages/man2/tgkill.2.html).
pub fn sys_tgkill(call: &mut Call<'_>) -> Result<u64> {
    send_to_tid(call, Some(call.int(0)), call.int(1), call.uint(2))
}

/// [tkill(2)](https://man7.org/linux/man-pages/man2/tkill.2.html).
pub fn sys_tkill(call: &mut Call<'_>) -> Result<u64> {
    send_to_tid(call, None, call.int(0), call.uint(1))
}

fn send_to_tid(call: &Call<'_>, pid: Option<i32>, tid: i32, signal: u32) -> Result<u64> {
    if tid <= 0 || pid.is_some_and(|pid| pid <= 0) || signal >= NSIG {
        return Err(Errno::EINVAL);
    }
    let thread = process::find_thread(tid).ok_or(Errno::ESRCH)?;
    if pid.is_some_and(|pid| thread.process().pid() != pid) {
        return Err(Errno::ESRCH);
    }
    thread.process().check_signal(call.thread, signal)?;
    let uid = call.thread.identity.own().user.real;
    let info = SignalInfo::thread(signal, call.process().pid(), uid);
    send_as_program(|| signal::send_to_thread(&thread, signal, info))
}

/// Sends a signal of a program's. EAGAIN where its receiver's user has as many waiting as it may.
pub(super) fn send_as_program(send: impl FnOnce() -> Sent) -> Result<u64> {
    if send() == Sent::Full { Err(Errno::EAGAIN) } else { Ok(0) }
}

/// A `siginfo_t` that a program made. E2BIG where it has something beyond what its code says there is.
pub(super) fn read_info(address: UserAddr) -> Result<SignalInfo> {
    /// Bytes of what the kernel knows of it.
    const KNOWN: usize = 48;
    let bytes: [u8; 128] = user::copy_in(address)?;
    let info = SignalInfo::from_bytes(bytes);
    let known_code = matches!(info.code(), linux::SI_DETHREAD..=6) || info.code() == linux::SI_KERNEL as i32;
    if !known_code && bytes[KNOWN..].iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    Ok(info)
}

/// What a program says a signal is. EPERM where it claims to be the kernel, or kill(2), towards others.
fn queued_info(call: &Call<'_>, index: usize, signal: u32, own: bool) -> Result<SignalInfo> {
    let info = read_info(call.address(index))?.with_signal(signal);
    if !own && (info.code() >= 0 || info.code() == linux::SI_TKILL) {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

/// [rt_sigqueueinfo(2)](https://man7.org/linux/man-pages/man2/rt_sigqueueinfo.2.html).
pub fn sys_rt_sigqueueinfo(call: &mut Call<'_>) -> Result<u64> {
    let (pid, signal) = (call.int(0), call.uint(1));
    let info = queued_info(call, 2, signal, pid == call.thread.tid())?;
    let target = process::find(pid).ok_or(Errno::ESRCH)?;
    if signal >= NSIG {
        return Err(Errno::EINVAL);
    }
    target.check_signal(call.thread, signal)?;
    send_as_program(|| signal::send_to_process(&target, signal, info))
}

/// [rt_tgsigqueueinfo(2)](https://man7.org/linux/man-pages/man2/rt_sigqueueinfo.2.html).
pub fn sys_rt_tgsigqueueinfo(call: &mut Call<'_>) -> Result<u64> {
    let (pid, tid, signal) = (call.int(0), call.int(1), call.uint(2));
    let info = read_info(call.address(3))?.with_signal(signal);
    if pid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    if tid != call.thread.tid() && (info.code() >= 0 || info.code() == linux::SI_TKILL) {
        return Err(Errno::EPERM);
    }
    let thread = process::find_thread(tid).filter(|thread| thread.process().pid() == pid).ok_or(Errno::ESRCH)?;
    if signal >= NSIG {
        return Err(Errno::EINVAL);
    }
    thread.process().check_signal(call.thread, signal)?;
    send_as_program(|| signal::send_to_thread(&thread, signal, info))
}
