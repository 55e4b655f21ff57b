//! Extended attributes (xattr(7)).
//!
//! The twelve calls differ in how they name the file, the four newer ones take all of that as arguments; all come down
//! to [`set`], [`get`], [`list`] and [`remove`] on a [`Target`].

use alloc::{sync::Arc, vec, vec::Vec};

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{
    Call,
    file::{Target, resolve_at},
};
use crate::{
    fs::{Inode, notify, permission},
    mm::{PAGE_SIZE, user},
};

/// How a call names the file it is about.
#[derive(Clone, Copy)]
enum Named {
    /// A path, followed to its end.
    Path,
    /// A path whose last component may be a symbolic link, which then is meant.
    LinkItself,
    /// A descriptor.
    Descriptor,
}

/// Finds the file that argument 0 names.
fn target(call: &Call<'_>, named: Named) -> Result<Target> {
    if let Named::Descriptor = named {
        let file = call.file(0)?;
        return if file.flags().contains(linux::O_PATH) { Err(Errno::EBADF) } else { Ok(Target::File(file)) };
    }
    let path = call.path(0)?;
    Ok(Target::Path(resolve_at(call, linux::AT_FDCWD, &path, matches!(named, Named::Path))?))
}

/// Finds the file that arguments 0 to 2 of the `*at` calls name.
fn target_at(call: &Call<'_>) -> Result<Target> {
    let flags = call.uint(2);
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    Target::find(call, 0, flags)
}

/// The name at `address`: 1 to XATTR_NAME_MAX bytes, else ERANGE.
fn name(address: UserAddr) -> Result<Vec<u8>> {
    let name = user::copy_in_string(address, linux::XATTR_NAME_MAX as usize + 1, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// The file's inode. What is in no file system has no attributes, and answers as Linux's pipes and sockets do.
fn inode(target: &Target, name: &[u8], change: bool) -> Result<Arc<dyn Inode>> {
    let inode = target.inode().map_err(|_| match name.starts_with(b"user.") {
        true if change => Errno::EPERM,
        true => Errno::ENODATA,
        false => Errno::EOPNOTSUPP,
    })?;
    if change {
        target.require_writable()?;
    }
    permission::check_attribute(&*inode, name, change)?;
    Ok(inode)
}

/// A value to be set: where it is, its length, and XATTR_ flags.
struct NewValue {
    address: UserAddr,
    len: usize,
    flags: u32,
}

impl NewValue {
    /// Checks the flags and copies the value in. EINVAL, E2BIG, EFAULT.
    fn read(&self) -> Result<Vec<u8>> {
        if self.flags & !(linux::XATTR_CREATE | linux::XATTR_REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        if self.len > linux::XATTR_SIZE_MAX as usize {
            return Err(Errno::E2BIG);
        }
        let mut value = vec![0; self.len];
        user::copy_in_bytes(self.address, &mut value)?;
        Ok(value)
    }
}

fn set(find: impl FnOnce() -> Result<Target>, name_at: UserAddr, new: &NewValue) -> Result<u64> {
    if new.flags & !(linux::XATTR_CREATE | linux::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name(name_at)?;
    let value = new.read()?;
    let target = find()?;
    inode(&target, &name, true)?.set_extended_attribute(&name, &value, new.flags)?;
    changed(&target);
    Ok(0)
}

fn changed(target: &Target) {
    if let Some(path) = target.path() {
        notify::path(path, linux::IN_ATTRIB);
    }
}

/// Hands `bytes` out where there is `room`; without room only tells how many there are. ERANGE where they do not fit.
fn answer(bytes: &[u8], to: UserAddr, room: usize) -> Result<u64> {
    if room == 0 {
        return Ok(bytes.len() as u64);
    }
    if bytes.len() > room {
        return Err(Errno::ERANGE);
    }
    user::copy_out_bytes(to, bytes)?;
    Ok(bytes.len() as u64)
}

fn get(find: impl FnOnce() -> Result<Target>, name_at: UserAddr, to: UserAddr, room: usize) -> Result<u64> {
    let name = name(name_at)?;
    let target = find()?;
    answer(&inode(&target, &name, false)?.extended_attribute(&name)?, to, room)
}

/// Leaves out the names that the running thread may not see.
fn visible(names: Vec<u8>) -> Vec<u8> {
    if permission::acting().has(linux::CAP_SYS_ADMIN) {
        return names;
    }
    names.split_inclusive(|byte| *byte == 0).filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect()
}

fn list(target: &Target, to: UserAddr, room: usize) -> Result<u64> {
    let names = match target.inode() {
        Ok(inode) => visible(inode.extended_attribute_names()?),
        Err(_) => Vec::new(),
    };
    answer(&names, to, room)
}

fn remove(find: impl FnOnce() -> Result<Target>, name_at: UserAddr) -> Result<u64> {
    let name = name(name_at)?;
    let target = find()?;
    inode(&target, &name, true)?.remove_extended_attribute(&name)?;
    changed(&target);
    Ok(0)
}

/// Handlers that differ in how they name the file.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $operation:ident, $named:ident;)*) => { $(
        $(#[$doc])*
        pub fn $name(call: &mut Call<'_>) -> Result<u64> {
            $operation(call, Named::$named)
        }
    )* };
}

fn set_named(call: &Call<'_>, named: Named) -> Result<u64> {
    let new = NewValue { address: call.address(2), len: call.size(3), flags: call.uint(4) };
    set(|| target(call, named), call.address(1), &new)
}

fn get_named(call: &Call<'_>, named: Named) -> Result<u64> {
    get(|| target(call, named), call.address(1), call.address(2), call.size(3))
}

fn list_named(call: &Call<'_>, named: Named) -> Result<u64> {
    list(&target(call, named)?, call.address(1), call.size(2))
}

fn remove_named(call: &Call<'_>, named: Named) -> Result<u64> {
    remove(|| target(call, named), call.address(1))
}

calls! {
    /// [getxattr(2)](https://man7.org/linux/man-pages/man2/getxattr.2.html).
    sys_getxattr: get_named, Path;
    /// [lgetxattr(2)](https://man7.org/linux/man-pages/man2/lgetxattr.2.html).
    sys_lgetxattr: get_named, LinkItself;
    /// [fgetxattr(2)](https://man7.org/linux/man-pages/man2/fgetxattr.2.html).
    sys_fgetxattr: get_named, Descriptor;
    /// [setxattr(2)](https://man7.org/linux/man-pages/man2/setxattr.2.html).
    sys_setxattr: set_named, Path;
    /// [lsetxattr(2)](https://man7.org/linux/man-pages/man2/lsetxattr.2.html).
    sys_lsetxattr: set_named, LinkItself;
    /// [fsetxattr(2)](https://man7.org/linux/man-pages/man2/fsetxattr.2.html).
    sys_fsetxattr: set_named, Descriptor;
    /// [removexattr(2)](https://man7.org/linux/man-pages/man2/removexattr.2.html).
    sys_removexattr: remove_named, Path;
    /// [lremovexattr(2)](https://man7.org/linux/man-pages/man2/lremovexattr.2.html).
    sys_lremovexattr: remove_named, LinkItself;
    /// [fremovexattr(2)](https://man7.org/linux/man-pages/man2/fremovexattr.2.html).
    sys_fremovexattr: remove_named, Descriptor;
    /// [listxattr(2)](https://man7.org/linux/man-pages/man2/listxattr.2.html).
    sys_listxattr: list_named, Path;
    /// [llistxattr(2)](https://man7.org/linux/man-pages/man2/llistxattr.2.html).
    sys_llistxattr: list_named, LinkItself;
    /// [flistxattr(2)](https://man7.org/linux/man-pages/man2/flistxattr.2.html).
    sys_flistxattr: list_named, Descriptor;
}

/// Reads the `struct xattr_args` of `len` bytes at `address`. EINVAL where it is too short, E2BIG where too long or
/// where bytes that are not known are set.
fn arguments(address: UserAddr, len: usize) -> Result<NewValue> {
    const LEN: usize = size_of::<linux::xattr_args>();
    if len < LEN {
        return Err(Errno::EINVAL);
    }
    if len > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0; len];
    user::copy_in_bytes(address, &mut bytes)?;
    let (known, rest) = bytes.split_first_chunk::<LEN>().ok_or(Errno::EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let [v0, v1, v2, v3, v4, v5, v6, v7, s0, s1, s2, s3, f0, f1, f2, f3] = *known;
    Ok(NewValue {
        address: UserAddr::new(u64::from_ne_bytes([v0, v1, v2, v3, v4, v5, v6, v7])),
        len: u32::from_ne_bytes([s0, s1, s2, s3]) as usize,
        flags: u32::from_ne_bytes([f0, f1, f2, f3]),
    })
}

/// [setxattrat(2)](https://man7.org/linux/man-pages/man2/setxattr.2.html). Lacks: access control
/// lists (EOPNOTSUPP, as from all calls here).
pub fn sys_setxattrat(call: &mut Call<'_>) -> Result<u64> {
    let new = arguments(call.address(4), call.size(5))?;
    set(|| target_at(call), call.address(3), &new)
}

/// [getxattrat(2)](https://man7.org/linux/man-pages/man2/getxattr.2.html).
pub fn sys_getxattrat(call: &mut Call<'_>) -> Result<u64> {
    let room = arguments(call.address(4), call.size(5))?;
    if room.flags != 0 {
        return Err(Errno::EINVAL);
    }
    get(|| target_at(call), call.address(3), room.address, room.len)
}

/// [listxattrat(2)](https://man7.org/linux/man-pages/man2/listxattr.2.html).
pub fn sys_listxattrat(call: &mut Call<'_>) -> Result<u64> {
    list(&target_at(call)?, call.address(3), call.size(4))
}

/// [removexattrat(2)](https://man7.org/linux/man-pages/man2/removexattr.2.html).
pub fn sys_removexattrat(call: &mut Call<'_>) -> Result<u64> {
    remove(|| target_at(call), call.address(3))
}
