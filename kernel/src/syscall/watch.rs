//! Watching files: inotify(7).

use abi::{Errno, Result, linux};

use super::{Call, file::resolve_at};
use crate::fs::{FileKind, notify::inotify::Inotify, permission};

/// [inotify_init1(2)](https://man7.org/linux/man-pages/man2/inotify_init.2.html).
pub fn sys_inotify_init1(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(0);
    if flags & !(linux::IN_CLOEXEC | linux::IN_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = Inotify::open(flags)?;
    Ok(call.process().files().install(file, flags & linux::IN_CLOEXEC != 0)? as u64)
}

/// [inotify_add_watch(2)](https://man7.org/linux/man-pages/man2/inotify_add_watch.2.html).
pub fn sys_inotify_add_watch(call: &mut Call<'_>) -> Result<u64> {
    let mask = call.uint(2);
    Inotify::check_mask(mask)?;
    let file = call.file(0)?;
    const BOTH: u32 = linux::IN_MASK_ADD | linux::IN_MASK_CREATE;
    if mask & BOTH == BOTH {
        return Err(Errno::EINVAL);
    }
    let inotify = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = call.path(1)?;
    let found = resolve_at(call, linux::AT_FDCWD, &path, mask & linux::IN_DONT_FOLLOW == 0)?;
    if mask & linux::IN_ONLYDIR != 0 && found.kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    permission::check(&**found.inode(), permission::READ)?;
    Ok(inotify.add_watch(found.inode(), mask)? as u64)
}

/// [inotify_rm_watch(2)](https://man7.org/linux/man-pages/man2/inotify_rm_watch.2.html).
pub fn sys_inotify_rm_watch(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    file.downcast::<Inotify>().ok_or(Errno::EINVAL)?.remove_watch(call.int(1))?;
    Ok(0)
}
