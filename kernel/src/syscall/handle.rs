//! File handles (name_to_handle_at(2)): no file system here can find a file by a number that outlives its names, so both
//! calls check their arguments and answer EOPNOTSUPP.

use abi::{Errno, Result, linux};

use super::{Call, file::Target};
use crate::{fs::permission, mm::user};

/// The most bytes a handle has (linux/exportfs.h).
const MAX_HANDLE: u32 = 128;

/// [name_to_handle_at(2)](https://man7.org/linux/man-pages/man2/name_to_handle_at.2.html). Lacks: handles (EOPNOTSUPP).
pub fn sys_name_to_handle_at(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(4);
    if flags & !(linux::AT_SYMLINK_FOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let follow = if flags & linux::AT_SYMLINK_FOLLOW != 0 { 0 } else { linux::AT_SYMLINK_NOFOLLOW };
    Target::find(call, 0, follow | flags & linux::AT_EMPTY_PATH)?;
    let room: u32 = user::copy_in(call.address(2))?;
    if room > MAX_HANDLE {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EOPNOTSUPP)
}

/// [open_by_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html). Lacks: handles (EOPNOTSUPP).
pub fn sys_open_by_handle_at(call: &mut Call<'_>) -> Result<u64> {
    if !permission::acting().has(linux::CAP_DAC_READ_SEARCH) {
        return Err(Errno::EPERM);
    }
    let [len, _kind]: [u32; 2] = user::copy_in(call.address(1))?;
    if len == 0 || len > MAX_HANDLE {
        return Err(Errno::EINVAL);
    }
    if call.int(0) != linux::AT_FDCWD {
        call.file(0)?;
    }
    Err(Errno::EOPNOTSUPP)
}
