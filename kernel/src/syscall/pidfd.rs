//! Processes as descriptors.

use alloc::sync::Arc;

use abi::{Errno, Result, linux};

use super::{
    Call,
    signal::{send_as_program, send_to_all},
};
use crate::{
    fs::pidfd::{self, PidFd},
    task::{
        process,
        signal::{self, NSIG, SignalInfo},
    },
};

/// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
pub fn sys_pidfd_open(call: &mut Call<'_>) -> Result<u64> {
    let (id, flags) = (call.int(0), call.uint(1));
    if flags & !(pidfd::NONBLOCK | pidfd::THREAD) != 0 || id <= 0 {
        return Err(Errno::EINVAL);
    }
    let file = if flags & pidfd::THREAD != 0 {
        let thread = process::find_thread(id).ok_or(Errno::ESRCH)?;
        PidFd::open(thread.process().clone(), Some(&thread), flags)
    } else {
        match process::find(id) {
            Some(process) => PidFd::open(process, None, flags),
            // A thread's number, but no process's.
            None if process::find_thread(id).is_some() => return Err(Errno::ENOENT),
            None => return Err(Errno::ESRCH),
        }
    };
    Ok(call.process().files().install(file, true)? as u64)
}

/// [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html).
pub fn sys_pidfd_send_signal(call: &mut Call<'_>) -> Result<u64> {
    const TO_THREAD: u32 = 1;
    const TO_PROCESS: u32 = 2;
    const TO_GROUP: u32 = 4;
    let (signal, flags) = (call.uint(1), call.uint(3));
    if !matches!(flags, 0 | TO_THREAD | TO_PROCESS | TO_GROUP) {
        return Err(Errno::EINVAL);
    }
    let file = call.file(0)?;
    let target = file.downcast::<PidFd>();
    // A process's directory in /proc does as well.
    let found = match (target, file.inode().and_then(|inode| inode.process())) {
        (Some(target), _) => target.process().cloned(),
        (None, Some(process)) => {
            let is_current = process::find(process.pid()).is_some_and(|current| Arc::ptr_eq(&current, &process));
            if is_current { Ok(process) } else { Err(Errno::ESRCH) }
        }
        (None, None) => return Err(Errno::EBADF),
    };
    let to_thread = flags == TO_THREAD || flags == 0 && target.is_some_and(PidFd::is_thread);
    let itself = found.as_ref().is_ok_and(|process| process.pid() == call.thread.tid());
    let uid = call.thread.identity.own().user.real;
    let info = match call.optional_address(2) {
        Some(address) => {
            let given = super::signal::read_info(address)?;
            if given.half(0) != signal {
                return Err(Errno::EINVAL);
            }
            if (!itself || flags == TO_GROUP) && (given.code() >= 0 || given.code() == linux::SI_TKILL) {
                return Err(Errno::EPERM);
            }
            given
        }
        None if to_thread => SignalInfo::thread(signal, call.process().pid(), uid),
        None => SignalInfo::user(signal, call.process().pid(), uid),
    };
    let process = found?;
    if signal >= NSIG {
        return Err(Errno::EINVAL);
    }
    if flags == TO_GROUP {
        let group = process.pid();
        return send_to_all(call, |process| process.group() == group, signal, info);
    }
    process.check_signal(call.thread, signal)?;
    if to_thread {
        let thread = target.map_or_else(|| process.main_thread().ok_or(Errno::ESRCH), PidFd::thread)?;
        send_as_program(|| signal::send_to_thread(&thread, signal, info))
    } else {
        send_as_program(|| signal::send_to_process(&process, signal, info))
    }
}

/// [pidfd_getfd(2)](https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html).
pub fn sys_pidfd_getfd(call: &mut Call<'_>) -> Result<u64> {
    if call.uint(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = call.file(0)?;
    let target = file.downcast::<PidFd>().ok_or(Errno::EBADF)?;
    let process = target.process()?;
    if process.exit_status().is_some() {
        return Err(Errno::ESRCH);
    }
    process.check_attachment(call.thread)?;
    let theirs = process.files().get(call.int(1))?;
    Ok(call.process().files().install(theirs, true)? as u64)
}
