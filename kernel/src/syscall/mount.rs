//! mount, umount2 and pivot_root.

use alloc::{
    string::{String, ToString as _},
    sync::Arc,
    vec::Vec,
};

use abi::{Errno, Result, linux};

use super::{Call, file::resolve_at};
use crate::{
    fs::{
        Inode, devfs,
        mount::{FileSystem, MOUNT_FLAGS, Mount},
        path::Path,
        permission, procfs, sysfs,
        tmpfs::{self, Settings},
    },
    mm::{PAGE_SIZE, user},
};

/// EPERM unless the running thread may mount.
fn require_right() -> Result<()> {
    if permission::acting().has(linux::CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The string in argument `index`, which may be null.
fn optional_string(call: &Call<'_>, index: usize) -> Result<Option<Vec<u8>>> {
    match call.optional_address(index) {
        None => Ok(None),
        Some(address) => user::copy_in_string(address, PAGE_SIZE, Errno::EINVAL).map(Some),
    }
}

/// [mount(2)](https://man7.org/linux/man-pages/man2/mount.2.html). Lacks: propagation (MS_SHARED and its kind change
/// nothing); file systems other than tmpfs, ramfs, proc, sysfs, devtmpfs (ENODEV).
pub fn sys_mount(call: &mut Call<'_>) -> Result<u64> {
    let kind = optional_string(call, 2)?;
    let source = optional_string(call, 0)?;
    let data = match call.optional_address(4) {
        None => Vec::new(),
        // A page that need not be there as a whole.
        Some(address) => user::copy_in_string(address, PAGE_SIZE, Errno::EINVAL)?,
    };
    let mut flags = call.uint(3);
    if flags & linux::MS_MGC_MSK == linux::MS_MGC_VAL {
        flags &= !linux::MS_MGC_MSK;
    }
    let path = call.path(1)?;
    let at = resolve_at(call, linux::AT_FDCWD, &path, true)?;
    require_right()?;
    const KIND_OF_SHARING: u32 = linux::MS_SHARED | linux::MS_PRIVATE | linux::MS_SLAVE | linux::MS_UNBINDABLE;
    let is_mount = Arc::ptr_eq(at.dentry(), at.mount().root());
    if flags & linux::MS_REMOUNT != 0 {
        if !is_mount {
            return Err(Errno::EINVAL);
        }
        at.mount().remount(flags, flags & linux::MS_BIND == 0)?;
    } else if flags & linux::MS_BIND != 0 {
        let source = source_path(call, source)?;
        Mount::bind(&source, &at, flags & linux::MS_REC != 0)?;
    } else if flags & KIND_OF_SHARING != 0 {
        // Mounts are in one name space, so nothing is ever passed on; only whether the request makes sense counts.
        let kinds = flags & KIND_OF_SHARING;
        let known = KIND_OF_SHARING | linux::MS_REC | linux::MS_SILENT;
        if !is_mount || !kinds.is_power_of_two() || flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
    } else if flags & linux::MS_MOVE != 0 {
        let source = source_path(call, source)?;
        if !Arc::ptr_eq(source.dentry(), source.mount().root()) {
            return Err(Errno::EINVAL);
        }
        source.mount().move_to(&at)?;
    } else {
        let kind = kind.ok_or(Errno::EINVAL)?;
        let source = String::from_utf8_lossy(source.as_deref().unwrap_or(b"none")).into_owned();
        let (kind, root) = open_file_system(&kind, &data)?;
        Mount::hang_at(FileSystem::new(kind, source, root), &at, flags & MOUNT_FLAGS)?;
    }
    Ok(0)
}

/// Where a bind or a move comes from. EINVAL without a name.
fn source_path(call: &Call<'_>, source: Option<Vec<u8>>) -> Result<Path> {
    let source = source.filter(|source| !source.is_empty()).ok_or(Errno::EINVAL)?;
    resolve_at(call, linux::AT_FDCWD, &source, true)
}

/// The root of a file system of a type, made with `data`. ENODEV for an unknown type, EINVAL for unknown settings.
fn open_file_system(kind: &[u8], data: &[u8]) -> Result<(&'static str, Arc<dyn Inode>)> {
    match kind {
        b"tmpfs" | b"ramfs" => Ok(("tmpfs", tmpfs::with_settings(settings(data)?)?)),
        b"proc" => Ok(("proc", procfs::root())),
        b"sysfs" => Ok(("sysfs", sysfs::directory())),
        b"devtmpfs" => Ok(("devtmpfs", devfs::directory())),
        _ => Err(Errno::ENODEV),
    }
}

/// A number of tmpfs(5)'s settings: with k, m or g behind it, or (as a share of memory) with %.
fn size(text: &str, pages: usize) -> Result<usize> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, unit)) if !unit.is_ascii_digit() => (text.get(..at).unwrap_or_default(), Some(unit)),
        _ => (text, None),
    };
    let number: usize = digits.parse().map_err(|_| Errno::EINVAL)?;
    let factor = match unit.map(|unit| unit.to_ascii_lowercase()) {
        None => 1,
        Some('k') => 1 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some('%') => return Ok((pages.saturating_mul(number) / 100).saturating_mul(PAGE_SIZE)),
        Some(_) => return Err(Errno::EINVAL),
    };
    number.checked_mul(factor).ok_or(Errno::EINVAL)
}

/// Settings of a tmpfs (tmpfs(5)).
fn settings(data: &[u8]) -> Result<Settings> {
    let mut settings = Settings { permissions: 0o1777, ..Settings::default() };
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let pages = crate::mm::frames::stats().total;
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        let number = || value.parse().map_err(|_| Errno::EINVAL);
        // 0 means without a limit; the machine's memory is one anyway.
        let limit = |value: usize| if value == 0 { pages } else { value };
        match name {
            "size" => settings.max_pages = Some(limit(size(value, pages)?.div_ceil(PAGE_SIZE))),
            "nr_blocks" => settings.max_pages = Some(limit(size(value, pages)?)),
            "nr_inodes" => settings.max_inodes = Some(limit(size(value, pages)?)),
            "mode" => {
                settings.permissions = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777;
            }
            "uid" => settings.uid = number()?,
            "gid" => settings.gid = number()?,
            "inode32" | "inode64" | "noswap" if value.is_empty() => {}
            "huge" if matches!(value, "never" | "always" | "within_size" | "advise") => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    settings.shown = text.to_string();
    Ok(settings)
}

/// [umount2(2)](https://man7.org/linux/man-pages/man2/umount.2.html).
pub fn sys_umount2(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(1);
    let known = linux::MNT_FORCE | linux::MNT_DETACH | linux::MNT_EXPIRE | linux::UMOUNT_NOFOLLOW;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let path = call.path(0)?;
    let found = resolve_at(call, linux::AT_FDCWD, &path, flags & linux::UMOUNT_NOFOLLOW == 0)?;
    require_right()?;
    if !Arc::ptr_eq(found.dentry(), found.mount().root()) {
        return Err(Errno::EINVAL);
    }
    if flags & linux::MNT_EXPIRE != 0 {
        if flags & (linux::MNT_FORCE | linux::MNT_DETACH) != 0 {
            return Err(Errno::EINVAL);
        }
        if !found.mount().mark_expiring() {
            return Err(Errno::EAGAIN);
        }
    }
    Mount::unmount(found, flags & linux::MNT_DETACH != 0)?;
    Ok(0)
}

/// [pivot_root(2)](https://man7.org/linux/man-pages/man2/pivot_root.2.html). The root of the tree is the image in
/// memory, which never moves: EINVAL, as Linux says of its first root file system. Lacks: all but the checks.
pub fn sys_pivot_root(call: &mut Call<'_>) -> Result<u64> {
    require_right()?;
    for index in 0..2 {
        let path = call.path(index)?;
        if resolve_at(call, linux::AT_FDCWD, &path, true)?.kind() != crate::fs::FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
    }
    Err(Errno::EINVAL)
}
