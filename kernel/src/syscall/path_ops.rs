//! Changing the tree of names and what is known of files: make, remove, rename, link, chmod, chown, times, and the
//! working directory.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{
    Call,
    file::{Target, origin, resolve_at, without_umask},
};
use crate::{
    fs::{
        AttributeChange, FileKind, FileTime,
        dentry::Dentry,
        notify,
        path::{self, Path},
        permission::{self, EXECUTE, WRITE},
    },
    mm::user,
    time,
};

/// The last component of a path and the directory it is in.
struct Place {
    directory: Path,
    name: Vec<u8>,
    trailing_slash: bool,
}

impl Place {
    /// Finds the place for the descriptor and path in arguments `first` and `first + 1`.
    fn find(call: &Call<'_>, first: usize) -> Result<Self> {
        let path = call.path(first + 1)?;
        let origin = origin(call, call.int(first), &path)?;
        let (directory, name, trailing_slash) = path::resolve_parent(origin.start(), &origin.root, &path)?;
        Ok(Self { directory, name, trailing_slash })
    }

    /// Whether the name is `.`, `..`, or that of the root.
    fn is_special(&self) -> bool {
        matches!(&*self.name, b"" | b"." | b"..")
    }

    fn require_writable(&self) -> Result<()> {
        self.directory.require_writable()
    }

    /// Whether the caller may make this name.
    fn check_create(&self) -> Result<()> {
        permission::check_create(&**self.directory.inode())
    }

    /// Checks that the name is free and the file system writable, in Linux's order.
    fn require_free(&self) -> Result<()> {
        if self.is_special() {
            return Err(Errno::EEXIST);
        }
        match self.directory.dentry().lookup(&self.name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => self.require_writable(),
            Err(error) => Err(error),
        }
    }
}

/// [mkdirat(2)](https://man7.org/linux/man-pages/man2/mkdirat.2.html).
pub fn sys_mkdirat(call: &mut Call<'_>) -> Result<u64> {
    let place = Place::find(call, 0)?;
    place.require_free()?;
    place.check_create()?;
    let permissions = without_umask(call, call.uint(2)) & 0o1777;
    place.directory.dentry().create(&place.name, FileKind::Directory, permissions, 0)?;
    Ok(0)
}

/// [mknodat(2)](https://man7.org/linux/man-pages/man2/mknodat.2.html).
pub fn sys_mknodat(call: &mut Call<'_>) -> Result<u64> {
    let mode = call.uint(2);
    let kind = match (mode & linux::S_IFMT, FileKind::from_mode(mode)) {
        (0, _) => FileKind::Regular,
        (_, Some(FileKind::Directory)) => return Err(Errno::EPERM),
        (_, Some(FileKind::Symlink) | None) => return Err(Errno::EINVAL),
        (_, Some(kind)) => kind,
    };
    let place = Place::find(call, 0)?;
    place.require_free()?;
    if place.trailing_slash {
        return Err(Errno::ENOENT);
    }
    place.check_create()?;
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    if is_device {
        call.thread.require(linux::CAP_MKNOD)?;
    }
    let rdev = if is_device { u64::from(call.uint(3)) } else { 0 };
    place.directory.dentry().create(&place.name, kind, without_umask(call, mode), rdev)?;
    Ok(0)
}

/// [symlinkat(2)](https://man7.org/linux/man-pages/man2/symlinkat.2.html).
pub fn sys_symlinkat(call: &mut Call<'_>) -> Result<u64> {
    let target = call.path(0)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let place = Place::find(call, 1)?;
    place.require_free()?;
    if place.trailing_slash {
        return Err(Errno::ENOENT);
    }
    place.check_create()?;
    place.directory.dentry().symlink(&place.name, &target)?;
    Ok(0)
}

/// Whether the file that argument 0 of linkat(2) stands for, if any, is one that the caller opened itself: then it needs no
/// right to link it. EBADF.
fn names_own_descriptor(call: &Call<'_>) -> Result<bool> {
    if call.int(0) == linux::AT_FDCWD || call.path(1)?.first() == Some(&b'/') {
        return Ok(true);
    }
    Ok(call.file(0)?.is_opened_by_caller())
}

/// [linkat(2)](https://man7.org/linux/man-pages/man2/linkat.2.html).
pub fn sys_linkat(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(4);
    if flags & !(linux::AT_SYMLINK_FOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let follow = if flags & linux::AT_SYMLINK_FOLLOW != 0 { 0 } else { linux::AT_SYMLINK_NOFOLLOW };
    if flags & linux::AT_EMPTY_PATH != 0
        && !call.thread.identity.has(linux::CAP_DAC_READ_SEARCH)
        && !names_own_descriptor(call)?
    {
        return Err(Errno::ENOENT);
    }
    let target = Target::find(call, 0, follow | flags & linux::AT_EMPTY_PATH)?;
    let target = target.path().ok_or(Errno::EXDEV)?;
    let place = Place::find(call, 2)?;
    place.require_free()?;
    if place.trailing_slash {
        return Err(Errno::ENOENT);
    }
    if target.mount().id() != place.directory.mount().id() {
        return Err(Errno::EXDEV);
    }
    permission::check_link(&**target.inode())?;
    place.check_create()?;
    if target.kind() == FileKind::Directory {
        return Err(Errno::EPERM);
    }
    place.directory.dentry().link(&place.name, target.inode())?;
    Ok(0)
}

/// [unlinkat(2)](https://man7.org/linux/man-pages/man2/unlinkat.2.html).
pub fn sys_unlinkat(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(2);
    if flags & !linux::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let place = Place::find(call, 0)?;
    let directory = flags & linux::AT_REMOVEDIR != 0;
    match (&*place.name, directory) {
        (b"", true) => return Err(Errno::EBUSY),
        (b".", true) => return Err(Errno::EINVAL),
        (b"..", true) => return Err(Errno::ENOTEMPTY),
        (b"" | b"." | b"..", false) => return Err(Errno::EISDIR),
        _ => {}
    }
    place.require_writable()?;
    if place.trailing_slash && !directory {
        let found = place.directory.dentry().lookup(&place.name)?;
        return Err(if found.kind() == FileKind::Directory { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    let victim = place.directory.dentry().lookup(&place.name)?;
    permission::check_remove(&**place.directory.inode(), &**victim.inode())?;
    // Who watches the file hears of its end from the last reference.
    drop(victim);
    place.directory.dentry().unlink(&place.name, directory)?;
    Ok(0)
}

/// [renameat2(2)](https://man7.org/linux/man-pages/man2/renameat2.2.html). Lacks: RENAME_WHITEOUT (EINVAL).
pub fn sys_renameat2(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(4);
    rename(call, flags)
}

/// [renameat(2)](https://man7.org/linux/man-pages/man2/renameat.2.html).
pub fn sys_renameat(call: &mut Call<'_>) -> Result<u64> {
    rename(call, 0)
}

fn rename(call: &Call<'_>, flags: u32) -> Result<u64> {
    let exchange = flags & linux::RENAME_EXCHANGE != 0;
    let no_replace = flags & linux::RENAME_NOREPLACE != 0;
    // RENAME_WHITEOUT is for overlay file systems, of which there are none.
    if flags & !(linux::RENAME_EXCHANGE | linux::RENAME_NOREPLACE) != 0 || (exchange && no_replace) {
        return Err(Errno::EINVAL);
    }
    let old = Place::find(call, 0)?;
    let new = Place::find(call, 2)?;
    if old.directory.mount().id() != new.directory.mount().id() {
        return Err(Errno::EXDEV);
    }
    if old.is_special() || new.is_special() {
        return Err(if no_replace && !old.is_special() { Errno::EEXIST } else { Errno::EBUSY });
    }
    old.require_writable()?;
    let source = old.directory.dentry().lookup(&old.name)?;
    let target = match new.directory.dentry().lookup(&new.name) {
        Ok(target) => Some(target),
        Err(Errno::ENOENT) => None,
        Err(error) => return Err(error),
    };
    if no_replace && target.is_some() {
        return Err(Errno::EEXIST);
    }
    if exchange && target.is_none() {
        return Err(Errno::ENOENT);
    }
    if source.kind() != FileKind::Directory && (old.trailing_slash || (!exchange && new.trailing_slash)) {
        return Err(Errno::ENOTDIR);
    }
    if exchange && new.trailing_slash && target.as_ref().is_some_and(|target| target.kind() != FileKind::Directory) {
        return Err(Errno::ENOTDIR);
    }
    if target.as_ref().is_none_or(|target| !Arc::ptr_eq(target.inode(), source.inode())) {
        check_move(&old, &source, &new, target.as_ref(), exchange)?;
    }
    old.directory.dentry().rename(&old.name, new.directory.dentry(), &new.name, exchange)?;
    Ok(0)
}

/// Whether the caller may move `source` from `old` to `new`, where `target` is. A directory that gets another parent
/// must be writable itself, for its `..` changes.
fn check_move(old: &Place, source: &Dentry, new: &Place, target: Option<&Arc<Dentry>>, exchange: bool) -> Result<()> {
    permission::check_remove(&**old.directory.inode(), &**source.inode())?;
    match target {
        None => new.check_create()?,
        Some(target) => permission::check_remove(&**new.directory.inode(), &**target.inode())?,
    }
    if Arc::ptr_eq(old.directory.dentry(), new.directory.dentry()) {
        return Ok(());
    }
    if source.kind() == FileKind::Directory {
        permission::check(&**source.inode(), WRITE)?;
    }
    match target {
        Some(target) if exchange && target.kind() == FileKind::Directory => permission::check(&**target.inode(), WRITE),
        _ => Ok(()),
    }
}

/// [readlinkat(2)](https://man7.org/linux/man-pages/man2/readlinkat.2.html).
pub fn sys_readlinkat(call: &mut Call<'_>) -> Result<u64> {
    let room = call.int(3);
    if room <= 0 {
        return Err(Errno::EINVAL);
    }
    // An empty path means the symbolic link that the descriptor was opened on with O_PATH.
    let path = call.path(1)?;
    let found = if path.is_empty() {
        let found = call.file(0)?.path().ok_or(Errno::ENOENT)?.clone();
        if found.kind() != FileKind::Symlink {
            return Err(Errno::ENOENT);
        }
        found
    } else {
        resolve_at(call, call.int(0), &path, false)?
    };
    let target = found.inode().read_link()?;
    let bytes = target.get(..room as usize).unwrap_or(&target);
    user::copy_out_bytes(call.address(2), bytes)?;
    Ok(bytes.len() as u64)
}

/// [faccessat(2)](https://man7.org/linux/man-pages/man2/faccessat.2.html).
pub fn sys_faccessat(call: &mut Call<'_>) -> Result<u64> {
    access(call, 0)
}

/// [faccessat2(2)](https://man7.org/linux/man-pages/man2/faccessat2.2.html).
pub fn sys_faccessat2(call: &mut Call<'_>) -> Result<u64> {
    access(call, call.uint(3))
}

/// Asks with the real ids, with AT_EACCESS with the effective ones.
fn access(call: &Call<'_>, flags: u32) -> Result<u64> {
    let wanted = call.uint(2);
    let known = linux::AT_EACCESS | linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH;
    if wanted & !7 != 0 || flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let ask = || {
        let target = Target::find(call, 0, flags)?;
        match target.inode() {
            Ok(inode) => {
                let stored =
                    matches!(inode.metadata().kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
                if wanted & WRITE != 0 && stored {
                    target.require_writable()?;
                }
                permission::check(&*inode, wanted)
            }
            // What is in no file system can be read and written to.
            Err(_) => target.metadata().map(|_| ()),
        }
    };
    if flags & linux::AT_EACCESS != 0 || !call.thread.identity.asks_differently() {
        ask()?;
    } else {
        call.thread.act_as(call.thread.identity.own().as_real(), ask)?;
    }
    Ok(0)
}

fn change_mode(target: &Target, mode: u32) -> Result<u64> {
    target.require_writable()?;
    permission::change_mode(&*target.inode()?, mode)?;
    attributes_changed(target, linux::IN_ATTRIB);
    Ok(0)
}

fn attributes_changed(target: &Target, event: u32) {
    if let Some(path) = target.path() {
        notify::path(path, event);
    }
}

/// The descriptor in argument 0, which must not be a bare path (O_PATH).
fn open_target(call: &Call<'_>) -> Result<Target> {
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    Ok(Target::File(file))
}

/// [fchmod(2)](https://man7.org/linux/man-pages/man2/fchmod.2.html).
pub fn sys_fchmod(call: &mut Call<'_>) -> Result<u64> {
    change_mode(&open_target(call)?, call.uint(1))
}

/// [fchmodat(2)](https://man7.org/linux/man-pages/man2/fchmodat.2.html).
pub fn sys_fchmodat(call: &mut Call<'_>) -> Result<u64> {
    change_mode(&Target::find(call, 0, 0)?, call.uint(2))
}

/// [fchmodat2(2)](https://man7.org/linux/man-pages/man2/fchmodat2.2.html).
pub fn sys_fchmodat2(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(3);
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    change_mode(&Target::find(call, 0, flags)?, call.uint(2))
}

fn change_owner(target: &Target, uid: u32, gid: u32) -> Result<u64> {
    let given = |id: u32| (id != u32::MAX).then_some(id);
    target.require_writable()?;
    permission::change_owner(&*target.inode()?, given(uid), given(gid))?;
    attributes_changed(target, linux::IN_ATTRIB);
    Ok(0)
}

/// [fchown(2)](https://man7.org/linux/man-pages/man2/fchown.2.html).
pub fn sys_fchown(call: &mut Call<'_>) -> Result<u64> {
    change_owner(&open_target(call)?, call.uint(1), call.uint(2))
}

/// [fchownat(2)](https://man7.org/linux/man-pages/man2/fchownat.2.html).
pub fn sys_fchownat(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(4);
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    change_owner(&Target::find(call, 0, flags)?, call.uint(2), call.uint(3))
}

/// One of utimensat's two times, and whether it is UTIME_NOW; `None` for UTIME_OMIT.
fn file_time(address: UserAddr) -> Result<Option<(FileTime, bool)>> {
    let time: linux::__kernel_timespec = user::copy_in(address)?;
    match u32::try_from(time.tv_nsec).map_err(|_| Errno::EINVAL)? {
        linux::UTIME_OMIT => Ok(None),
        linux::UTIME_NOW => Ok(Some((time::now_file_time(), true))),
        nanoseconds @ 0..1_000_000_000 => Ok(Some((FileTime { seconds: time.tv_sec, nanoseconds }, false))),
        _ => Err(Errno::EINVAL),
    }
}

/// [utimensat(2)](https://man7.org/linux/man-pages/man2/utimensat.2.html).
pub fn sys_utimensat(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(3);
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (accessed, modified) = match call.optional_address(2) {
        None => (Some((time::now_file_time(), true)), Some((time::now_file_time(), true))),
        Some(times) => {
            let second = times.checked_add(size_of::<linux::__kernel_timespec>() as u64).ok_or(Errno::EFAULT)?;
            (file_time(times)?, file_time(second)?)
        }
    };
    if accessed.is_none() && modified.is_none() {
        return Ok(0);
    }
    // Without a path the descriptor itself is meant (futimens(3)).
    let target = match call.optional_address(1) {
        None if call.int(0) == linux::AT_FDCWD => return Err(Errno::EFAULT),
        None if flags != 0 => return Err(Errno::EINVAL),
        None => open_target(call)?,
        Some(_) => Target::find(call, 0, flags)?,
    };
    let inode = target.inode()?;
    let now = accessed.is_some_and(|(_, now)| now) && modified.is_some_and(|(_, now)| now);
    target.require_writable()?;
    permission::check_times(&*inode, now)?;
    let time = |given: Option<(FileTime, bool)>| given.map(|(time, _)| time);
    let change = AttributeChange { accessed: time(accessed), modified: time(modified), ..AttributeChange::default() };
    inode.set_attributes(change)?;
    // As Linux tells it: one time alone looks like a read or a write.
    let event = match (accessed, modified) {
        (Some(_), None) => linux::IN_ACCESS,
        (None, Some(_)) => linux::IN_MODIFY,
        _ => linux::IN_ATTRIB,
    };
    attributes_changed(&target, event);
    Ok(0)
}

fn set_cwd(call: &Call<'_>, directory: Path) -> Result<u64> {
    if directory.kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    permission::check(&**directory.inode(), EXECUTE)?;
    let context = call.thread.fs();
    let old = core::mem::replace(&mut context.lock().cwd, directory);
    drop(old);
    Ok(0)
}

/// [chdir(2)](https://man7.org/linux/man-pages/man2/chdir.2.html).
pub fn sys_chdir(call: &mut Call<'_>) -> Result<u64> {
    let path = call.path(0)?;
    set_cwd(call, resolve_at(call, linux::AT_FDCWD, &path, true)?)
}

/// [fchdir(2)](https://man7.org/linux/man-pages/man2/fchdir.2.html).
pub fn sys_fchdir(call: &mut Call<'_>) -> Result<u64> {
    let directory = call.file(0)?.path().ok_or(Errno::ENOTDIR)?.clone();
    set_cwd(call, directory)
}

/// [chroot(2)](https://man7.org/linux/man-pages/man2/chroot.2.html).
pub fn sys_chroot(call: &mut Call<'_>) -> Result<u64> {
    let path = call.path(0)?;
    let directory = resolve_at(call, linux::AT_FDCWD, &path, true)?;
    if directory.kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    permission::check(&**directory.inode(), EXECUTE)?;
    call.thread.require(linux::CAP_SYS_CHROOT)?;
    let context = call.thread.fs();
    let old = core::mem::replace(&mut context.lock().root, directory);
    drop(old);
    Ok(0)
}

/// [getcwd(2)](https://man7.org/linux/man-pages/man2/getcwd.2.html).
pub fn sys_getcwd(call: &mut Call<'_>) -> Result<u64> {
    let (root, cwd) = {
        let context = call.thread.fs();
        let context = context.lock();
        (context.root.clone(), context.cwd.clone())
    };
    if cwd.dentry().is_deleted() {
        return Err(Errno::ENOENT);
    }
    let (path, reached) = cwd.bytes_from(Some(&root));
    let mut bytes = Vec::with_capacity(path.len() + 1);
    if !reached {
        bytes.extend_from_slice(b"(unreachable)");
    }
    bytes.extend_from_slice(&path);
    bytes.push(0);
    if bytes.len() > call.size(1) {
        return Err(Errno::ERANGE);
    }
    user::copy_out_bytes(call.address(0), &bytes)?;
    Ok(bytes.len() as u64)
}

/// [umask(2)](https://man7.org/linux/man-pages/man2/umask.2.html).
pub fn sys_umask(call: &mut Call<'_>) -> Result<u64> {
    let context = call.thread.fs();
    let mut context = context.lock();
    Ok(u64::from(core::mem::replace(&mut context.umask, call.uint(0) & 0o777)))
}
