//! Descriptors: dup, close, fcntl, file locks and the ioctls that every file knows.

use alloc::sync::Arc;

use abi::{Errno, Result, ioctl, linux};
use hal::UserAddr;

use super::Call;
use crate::{
    fs::{
        FileKind, OpenFile,
        async_signal::Owner,
        locks::{self, Record},
        notify::dnotify,
        permission, pipe,
        regular::MAX_OFFSET,
        tmpfs::TmpInode,
    },
    mm::user,
    task::signal::NSIG,
};

/// [close(2)](https://man7.org/linux/man-pages/man2/close.2.html).
pub fn sys_close(call: &mut Call<'_>) -> Result<u64> {
    call.process().files().close(call.int(0))?;
    Ok(0)
}

/// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html).
pub fn sys_close_range(call: &mut Call<'_>) -> Result<u64> {
    /// linux/close_range.h.
    const CLOSE_RANGE_UNSHARE: u32 = 1 << 1;
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    let (first, last, flags) = (call.uint(0), call.uint(1), call.uint(2));
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        call.process().unshare_files()?;
    }
    let files = call.process().files();
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        files.set_close_on_exec_range(first as usize, last as usize);
    } else {
        files.close_range(first as usize, last as usize);
    }
    Ok(0)
}

/// [dup(2)](https://man7.org/linux/man-pages/man2/dup.2.html).
pub fn sys_dup(call: &mut Call<'_>) -> Result<u64> {
    let files = call.process().files();
    Ok(files.install(files.get(call.int(0))?, false)? as u64)
}

/// [dup3(2)](https://man7.org/linux/man-pages/man2/dup3.2.html).
pub fn sys_dup3(call: &mut Call<'_>) -> Result<u64> {
    let (old, new, flags) = (call.int(0), call.int(1), call.uint(2));
    if flags & !linux::O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    let files = call.process().files();
    // As on Linux a number beyond the limit is found before a descriptor that is not open.
    if usize::try_from(new).map_or(true, |new| new >= files.limit()) {
        return Err(Errno::EBADF);
    }
    files.replace(new, files.get(old)?, flags & linux::O_CLOEXEC != 0)?;
    Ok(new as u64)
}

/// Whether the open made the file (linux/fcntl.h, since 6.12).
const F_CREATED_QUERY: u32 = 1028;

/// [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html). Lacks: leases (F_SETLEASE never grants one).
pub fn sys_fcntl(call: &mut Call<'_>) -> Result<u64> {
    let files = call.process().files();
    let fd = call.int(0);
    let file = files.get(fd)?;
    let command = call.uint(1);
    let anywhere = matches!(
        command,
        linux::F_DUPFD
            | linux::F_DUPFD_CLOEXEC
            | linux::F_GETFD
            | linux::F_SETFD
            | linux::F_GETFL
            | linux::F_DUPFD_QUERY
            | F_CREATED_QUERY
    );
    if file.flags().contains(linux::O_PATH) && !anywhere {
        return Err(Errno::EBADF);
    }
    match command {
        linux::F_DUPFD | linux::F_DUPFD_CLOEXEC => {
            let minimum = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
            if minimum >= files.limit() {
                return Err(Errno::EINVAL);
            }
            Ok(files.install_from(minimum, file, command == linux::F_DUPFD_CLOEXEC)? as u64)
        }
        linux::F_DUPFD_QUERY => Ok(u64::from(Arc::ptr_eq(&file, &files.get(call.int(2))?))),
        linux::F_GETFD => Ok(if files.is_close_on_exec(fd)? { u64::from(linux::FD_CLOEXEC) } else { 0 }),
        linux::F_SETFD => {
            files.set_close_on_exec(fd, call.uint(2) & linux::FD_CLOEXEC != 0)?;
            Ok(0)
        }
        linux::F_GETFL => Ok(u64::from(file.flags().bits())),
        linux::F_SETFL => {
            file.change_flags(call.uint(2), fd);
            Ok(0)
        }
        linux::F_GETLK | linux::F_OFD_GETLK => get_lock(call, &file, command == linux::F_OFD_GETLK),
        linux::F_SETLK | linux::F_SETLKW => set_lock(call, &file, false, command == linux::F_SETLKW),
        linux::F_OFD_SETLK | linux::F_OFD_SETLKW => set_lock(call, &file, true, command == linux::F_OFD_SETLKW),
        linux::F_GETOWN => Ok(match file.asynchronous().owner() {
            owner if owner.check().is_err() => 0,
            Owner::Nobody => 0,
            Owner::Thread(id) | Owner::Process(id) => id as u64,
            Owner::Group(id) => id.wrapping_neg() as u64,
        }),
        linux::F_SETOWN => {
            let owner = match call.int(2) {
                0 => Owner::Nobody,
                i32::MIN => return Err(Errno::EINVAL),
                group if group < 0 => Owner::Group(-group),
                pid => Owner::Process(pid),
            };
            owner.check()?;
            file.asynchronous().set_owner(owner);
            Ok(0)
        }
        linux::F_GETOWN_EX => {
            let (kind, id) = match file.asynchronous().owner() {
                Owner::Thread(id) => (linux::F_OWNER_TID, id),
                Owner::Nobody => (linux::F_OWNER_PID, 0),
                Owner::Process(id) => (linux::F_OWNER_PID, id),
                Owner::Group(id) => (linux::F_OWNER_PGRP, id),
            };
            user::copy_out(call.address(2), &[kind as i32, id])?;
            Ok(0)
        }
        linux::F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = user::copy_in(call.address(2))?;
            let owner = match (kind as u32, id) {
                (linux::F_OWNER_TID | linux::F_OWNER_PID | linux::F_OWNER_PGRP, 0) => Owner::Nobody,
                (linux::F_OWNER_TID, id) => Owner::Thread(id),
                (linux::F_OWNER_PID, id) => Owner::Process(id),
                (linux::F_OWNER_PGRP, id) => Owner::Group(id),
                _ => return Err(Errno::EINVAL),
            };
            owner.check()?;
            file.asynchronous().set_owner(owner);
            Ok(0)
        }
        linux::F_GETSIG => Ok(u64::from(file.asynchronous().signal())),
        linux::F_SETSIG => {
            let signal = u32::try_from(call.int(2)).ok().filter(|signal| *signal < NSIG).ok_or(Errno::EINVAL)?;
            file.asynchronous().set_signal(signal);
            Ok(0)
        }
        linux::F_NOTIFY => {
            let process = call.process();
            dnotify::ask(&file, fd, call.uint(2), files.lock_owner(), process.pid())?;
            Ok(0)
        }
        F_CREATED_QUERY => Ok(u64::from(file.is_created())),
        linux::F_GETLEASE => Ok(u64::from(linux::F_UNLCK)),
        linux::F_SETLEASE => set_lease(call, &file),
        linux::F_GET_RW_HINT => {
            user::copy_out(call.address(2), &file.inode().map_or(0, |inode| inode.write_hint()))?;
            Ok(0)
        }
        linux::F_SET_RW_HINT => {
            let hint: u64 = user::copy_in(call.address(2))?;
            if hint > u64::from(linux::RWH_WRITE_LIFE_EXTREME) {
                return Err(Errno::EINVAL);
            }
            if let Some(inode) = file.inode() {
                permission::check_owner(&**inode)?;
                inode.set_write_hint(hint);
            }
            Ok(0)
        }
        linux::F_GETPIPE_SZ => Ok(pipe::capacity(&file)? as u64),
        linux::F_SETPIPE_SZ => {
            let wanted = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
            Ok(pipe::set_capacity(&file, wanted)? as u64)
        }
        linux::F_GET_SEALS => Ok(u64::from(sealable(&file)?.seals()?)),
        linux::F_ADD_SEALS => {
            const SEALS: u32 = linux::F_SEAL_SEAL
                | linux::F_SEAL_SHRINK
                | linux::F_SEAL_GROW
                | linux::F_SEAL_WRITE
                | linux::F_SEAL_FUTURE_WRITE
                | linux::F_SEAL_EXEC;
            let seals = call.uint(2);
            let inode = sealable(&file)?;
            if !file.flags().writable() {
                return Err(Errno::EPERM);
            }
            if seals & !SEALS != 0 {
                return Err(Errno::EINVAL);
            }
            inode.add_seals(seals)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// F_SETLEASE. Nobody is ever granted a lease: EAGAIN, which a program has to expect, since it is also the answer where
/// somebody else has the file open. EINVAL where there could be none anyway.
fn set_lease(call: &Call<'_>, file: &OpenFile) -> Result<u64> {
    let known = [linux::F_RDLCK, linux::F_WRLCK, linux::F_UNLCK].contains(&call.uint(2));
    let regular = file.path().is_some_and(|path| path.kind() == FileKind::Regular);
    Err(if known && regular { Errno::EAGAIN } else { Errno::EINVAL })
}

/// The memory file behind an open file; EINVAL for all others.
fn sealable(file: &OpenFile) -> Result<&TmpInode> {
    let any: &dyn core::any::Any = file.inode().ok_or(Errno::EINVAL)?.as_ref();
    any.downcast_ref().ok_or(Errno::EINVAL)
}

/// The lock that a `struct flock` asks for, or `None` for F_UNLCK; and its range.
fn record(call: &Call<'_>, file: &OpenFile, ofd: bool) -> Result<(linux::flock, Option<Record>, u64, u64)> {
    let request: linux::flock = user::copy_in(call.address(2))?;
    if ofd && request.l_pid != 0 {
        return Err(Errno::EINVAL);
    }
    let base = match request.l_whence as u32 {
        linux::SEEK_SET => 0,
        linux::SEEK_CUR => file.position(),
        linux::SEEK_END => file.metadata()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let first = base.checked_add_signed(request.l_start).ok_or(Errno::EINVAL)?;
    if first > MAX_OFFSET {
        return Err(Errno::EOVERFLOW);
    }
    // A negative length means the bytes before the start; 0 means to the end, wherever that will be.
    let (start, end) = match request.l_len {
        0 => (first, u64::MAX),
        len if len > 0 => {
            (first, first.checked_add(len as u64 - 1).filter(|end| *end <= MAX_OFFSET).ok_or(Errno::EOVERFLOW)?)
        }
        len => {
            let start = first.checked_add_signed(len).ok_or(Errno::EINVAL)?;
            (start, first.checked_sub(1).ok_or(Errno::EINVAL)?)
        }
    };
    let owner = lock_owner(call, file, ofd);
    let pid = if ofd { -1 } else { call.process().pid() };
    let lock = |exclusive| Record { owner, pid, exclusive, start, end };
    let record = match request.l_type as u32 {
        linux::F_RDLCK => Some(lock(false)),
        linux::F_WRLCK => Some(lock(true)),
        linux::F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    Ok((request, record, start, end))
}

fn lock_owner(call: &Call<'_>, file: &OpenFile, ofd: bool) -> locks::Owner {
    if ofd { locks::Owner::description(file) } else { locks::Owner::Process(call.process().files().lock_owner()) }
}

fn get_lock(call: &Call<'_>, file: &OpenFile, ofd: bool) -> Result<u64> {
    let (mut answer, wanted, ..) = record(call, file, ofd)?;
    let wanted = wanted.ok_or(Errno::EINVAL)?;
    match locks::conflicting(file, &wanted) {
        None => answer.l_type = linux::F_UNLCK as i16,
        Some(held) => {
            answer.l_type = if held.exclusive { linux::F_WRLCK } else { linux::F_RDLCK } as i16;
            answer.l_whence = linux::SEEK_SET as i16;
            answer.l_start = held.start as i64;
            answer.l_len = if held.end == u64::MAX { 0 } else { (held.end - held.start + 1) as i64 };
            answer.l_pid = held.pid;
        }
    }
    let mut zeroed: linux::flock = abi::zeroed();
    (zeroed.l_type, zeroed.l_whence, zeroed.l_pid) = (answer.l_type, answer.l_whence, answer.l_pid);
    (zeroed.l_start, zeroed.l_len) = (answer.l_start, answer.l_len);
    user::copy_out(call.address(2), &zeroed)?;
    Ok(0)
}

fn set_lock(call: &Call<'_>, file: &OpenFile, ofd: bool, wait: bool) -> Result<u64> {
    let (_, wanted, start, end) = record(call, file, ofd)?;
    match wanted {
        None => locks::unlock_range(file, lock_owner(call, file, ofd), start, end)?,
        Some(wanted) => {
            let flags = file.flags();
            if wanted.exclusive && !flags.writable() || !wanted.exclusive && !flags.readable() {
                return Err(Errno::EBADF);
            }
            locks::lock_range(file, wanted, wait)?;
        }
    }
    Ok(0)
}

/// [flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html).
pub fn sys_flock(call: &mut Call<'_>) -> Result<u64> {
    let operation = call.uint(1);
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    let wait = operation & linux::LOCK_NB == 0;
    match operation & !linux::LOCK_NB {
        linux::LOCK_SH => locks::lock_whole(&file, false, wait)?,
        linux::LOCK_EX => locks::lock_whole(&file, true, wait)?,
        linux::LOCK_UN => locks::unlock_whole(&file),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Sets or clears a status flag by the `int` at `address`, as FIONBIO and FIOASYNC do.
fn set_flag(file: &Arc<OpenFile>, fd: i32, flag: u32, address: UserAddr) -> Result<u64> {
    let on: i32 = user::copy_in(address)?;
    let flags = file.flags().bits();
    file.change_flags(if on != 0 { flags | flag } else { flags & !flag }, fd);
    Ok(0)
}

/// [ioctl(2)](https://man7.org/linux/man-pages/man2/ioctl.2.html). Lacks: the flags of chattr(1); of terminals
/// TIOCCONS, a break on the line, and what sets or reads a serial port (TIOCGSERIAL, TIOCMGET).
pub fn sys_ioctl(call: &mut Call<'_>) -> Result<u64> {
    let files = call.process().files();
    let fd = call.int(0);
    let file = files.get(fd)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    match call.uint(1) {
        ioctl::FIOCLEX => files.set_close_on_exec(fd, true).map(|()| 0),
        ioctl::FIONCLEX => files.set_close_on_exec(fd, false).map(|()| 0),
        ioctl::FIONBIO => set_flag(&file, fd, linux::O_NONBLOCK, call.address(2)),
        ioctl::FIOASYNC => set_flag(&file, fd, linux::FASYNC, call.address(2)),
        ioctl::FIOQSIZE => {
            let metadata = file.metadata()?;
            if !matches!(metadata.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink) {
                return Err(Errno::ENOTTY);
            }
            user::copy_out(call.address(2), &metadata.size)?;
            Ok(0)
        }
        command => file.ioctl(command, call.address(2)),
    }
}
