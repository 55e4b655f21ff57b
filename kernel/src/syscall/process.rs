//! Processes: numbers, groups, exec, exit, limits.

use alloc::{format, vec::Vec};

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::Call;
use crate::{
    fs::{path, tty::controlling_terminal},
    mm::{PAGE_SIZE, frames, user},
    task::{
        exec::{self, Program},
        exit, identity,
        process::{self, ExitStatus},
    },
};

/// [getpid(2)](https://man7.org/linux/man-pages/man2/getpid.2.html).
pub fn sys_getpid(call: &mut Call<'_>) -> Result<u64> {
    Ok(call.process().pid() as u64)
}

/// [getppid(2)](https://man7.org/linux/man-pages/man2/getppid.2.html).
pub fn sys_getppid(call: &mut Call<'_>) -> Result<u64> {
    Ok(call.process().parent_pid() as u64)
}

/// [getpgid(2)](https://man7.org/linux/man-pages/man2/getpgid.2.html).
pub fn sys_getpgid(call: &mut Call<'_>) -> Result<u64> {
    Ok(target(call, 0)?.group() as u64)
}

/// [getsid(2)](https://man7.org/linux/man-pages/man2/getsid.2.html).
pub fn sys_getsid(call: &mut Call<'_>) -> Result<u64> {
    Ok(target(call, 0)?.session() as u64)
}

fn target(call: &Call<'_>, index: usize) -> Result<alloc::sync::Arc<process::Process>> {
    match call.int(index) {
        0 => Ok(call.process().clone()),
        pid => process::find(pid).ok_or(Errno::ESRCH),
    }
}

/// [setpgid(2)](https://man7.org/linux/man-pages/man2/setpgid.2.html).
pub fn sys_setpgid(call: &mut Call<'_>) -> Result<u64> {
    process::set_group(call.process(), call.int(0), call.int(1))?;
    Ok(0)
}

/// [setsid(2)](https://man7.org/linux/man-pages/man2/setsid.2.html).
pub fn sys_setsid(call: &mut Call<'_>) -> Result<u64> {
    Ok(process::new_session(call.process())? as u64)
}

/// [vhangup(2)](https://man7.org/linux/man-pages/man2/vhangup.2.html).
pub fn sys_vhangup(call: &mut Call<'_>) -> Result<u64> {
    call.thread.require(linux::CAP_SYS_TTY_CONFIG)?;
    if let Some(tty) = controlling_terminal(call.process()) {
        tty.hang_up(false);
    }
    Ok(0)
}

/// [exit_group(2)](https://man7.org/linux/man-pages/man2/exit_group.2.html).
pub fn sys_exit_group(call: &mut Call<'_>) -> Result<u64> {
    exit::exit_process(call.thread, ExitStatus::Exited(call.int(0) as u8))
}

/// [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html).
pub fn sys_execve(call: &mut Call<'_>) -> Result<u64> {
    let name = call.path(0)?;
    let (arguments, environment) = (copy_strings(call.address(1))?, copy_strings(call.address(2))?);
    let fs = call.thread.fs().lock().clone();
    let file = path::resolve(&fs.cwd, &fs.root, &name, true)?;
    run(call, file, Program { name, title: None, closes: false, arguments, environment })
}

/// [execveat(2)](https://man7.org/linux/man-pages/man2/execveat.2.html).
pub fn sys_execveat(call: &mut Call<'_>) -> Result<u64> {
    let name = call.path(1)?;
    let (arguments, environment) = (copy_strings(call.address(2))?, copy_strings(call.address(3))?);
    let flags = call.uint(4);
    if flags & !(linux::AT_EMPTY_PATH | linux::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let fs = call.thread.fs().lock().clone();
    let follow = flags & linux::AT_SYMLINK_NOFOLLOW == 0;
    let start = if call.int(0) == linux::AT_FDCWD || name.first() == Some(&b'/') {
        fs.cwd.clone()
    } else {
        call.file(0)?.path().cloned().ok_or(Errno::EACCES)?
    };
    let file = if name.is_empty() {
        if flags & linux::AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        start
    } else {
        path::resolve(&start, &fs.root, &name, follow)?
    };
    if !follow && file.kind() == crate::fs::FileKind::Symlink {
        return Err(Errno::ELOOP);
    }
    // Relative to a descriptor, the program is known by that.
    let mut program = Program { name, title: None, closes: false, arguments, environment };
    let fd = call.int(0);
    if fd != linux::AT_FDCWD && program.name.first() != Some(&b'/') {
        program.closes = call.process().files().is_close_on_exec(fd)?;
        program.name = if program.name.is_empty() {
            program.title = file.bytes().rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
            format!("/dev/fd/{fd}").into_bytes()
        } else {
            [format!("/dev/fd/{fd}/").as_bytes(), &program.name].concat()
        };
    }
    run(call, file, program)
}

fn run(call: &mut Call<'_>, file: path::Path, mut program: Program) -> Result<u64> {
    if program.arguments.is_empty() {
        // As Linux: programs rely on argv[0].
        program.arguments.push(Vec::new());
    }
    exec::replace(call.thread, call.frame, file, program)?;
    // The registers are the new program's; the value goes into the one that holds results, which starts as 0 anyway.
    Ok(0)
}

/// A null-terminated array of strings. E2BIG beyond what a stack can take.
fn copy_strings(array: UserAddr) -> Result<Vec<Vec<u8>>> {
    const MAX_STRINGS: usize = 1 << 18;
    const MAX_LEN: usize = 128 << 10;
    /// Bytes of the heap that one string takes beside its own.
    const KEPT: usize = 128;
    let mut strings = Vec::new();
    let mut total = 0;
    let limit = exec::string_limit();
    if array.is_null() {
        return Ok(strings);
    }
    loop {
        let slot = array.checked_add(strings.len() as u64 * 8).ok_or(Errno::EFAULT)?;
        let address: u64 = user::copy_in(slot)?;
        if address == 0 {
            return Ok(strings);
        }
        let string = user::copy_in_string(UserAddr::new(address), MAX_LEN, Errno::E2BIG)?;
        total += string.len() + 9;
        if strings.len() >= MAX_STRINGS || total > limit {
            return Err(Errno::E2BIG);
        }
        // Kept on the kernel heap until they are on the new stack, with their addresses: not more than there is room.
        if strings.len() % 256 == 0 && strings.len() * KEPT + total > frames::stats().free * PAGE_SIZE / 8 {
            return Err(Errno::ENOMEM);
        }
        strings.push(string);
    }
}

/// [prlimit64(2)](https://man7.org/linux/man-pages/man2/prlimit.2.html). Lacks: an effect of RLIMIT_CORE, as there are
/// no core files, and of RLIMIT_RTTIME.
pub fn sys_prlimit64(call: &mut Call<'_>) -> Result<u64> {
    let process = target(call, 0)?;
    let resource = call.uint(1);
    if resource >= linux::RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    let new: Option<linux::rlimit64> = match call.optional_address(2) {
        Some(address) => Some(user::copy_in(address)?),
        None => None,
    };
    if !alloc::sync::Arc::ptr_eq(&process, call.process()) {
        let caller = call.thread.identity.own();
        if !caller.is_same_user(&process.credentials(), false) && !caller.has(linux::CAP_SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
    }
    set_and_get_limit(&process, resource, new, call.optional_address(3))
}

/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html).
pub fn sys_getrlimit(call: &mut Call<'_>) -> Result<u64> {
    if call.uint(0) >= linux::RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    set_and_get_limit(call.process(), call.uint(0), None, Some(call.address(1)))
}

/// [setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html). Lacks: what prlimit64 lacks.
pub fn sys_setrlimit(call: &mut Call<'_>) -> Result<u64> {
    if call.uint(0) >= linux::RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    let new = user::copy_in(call.address(1))?;
    set_and_get_limit(call.process(), call.uint(0), Some(new), None)
}

fn set_and_get_limit(
    process: &alloc::sync::Arc<process::Process>,
    resource: u32,
    new: Option<linux::rlimit64>,
    old: Option<UserAddr>,
) -> Result<u64> {
    let (soft, hard) = process.rlimit(resource);
    if let Some(new) = new {
        if new.rlim_cur > new.rlim_max {
            return Err(Errno::EINVAL);
        }
        if resource == linux::RLIMIT_NOFILE && new.rlim_max > 1 << 20 {
            return Err(Errno::EPERM);
        }
        if new.rlim_max > hard {
            identity::require(linux::CAP_SYS_RESOURCE)?;
        }
        process.set_rlimit(resource, new.rlim_cur, new.rlim_max)?;
    }
    if let Some(address) = old {
        user::copy_out(address, &linux::rlimit64 { rlim_cur: soft, rlim_max: hard })?;
    }
    Ok(0)
}
