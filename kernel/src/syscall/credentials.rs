//! User and group ids, capabilities, and what prctl(2) has of them.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux, prctl};
use hal::UserAddr;
use klib::credentials::{Capabilities, Credentials, Ids};

use super::Call;
use crate::{mm::user, task::process};

/// [getuid(2)](https://man7.org/linux/man-pages/man2/getuid.2.html).
pub fn sys_getuid(call: &mut Call<'_>) -> Result<u64> {
    Ok(u64::from(call.thread.identity.own().user.real))
}

/// [geteuid(2)](https://man7.org/linux/man-pages/man2/getuid.2.html).
pub fn sys_geteuid(call: &mut Call<'_>) -> Result<u64> {
    Ok(u64::from(call.thread.identity.own().user.effective))
}

/// [getgid(2)](https://man7.org/linux/man-pages/man2/getgid.2.html).
pub fn sys_getgid(call: &mut Call<'_>) -> Result<u64> {
    Ok(u64::from(call.thread.identity.own().group.real))
}

/// [getegid(2)](https://man7.org/linux/man-pages/man2/getgid.2.html).
pub fn sys_getegid(call: &mut Call<'_>) -> Result<u64> {
    Ok(u64::from(call.thread.identity.own().group.effective))
}

fn put_ids(call: &Call<'_>, ids: Ids) -> Result<u64> {
    for (index, id) in [ids.real, ids.effective, ids.saved].iter().enumerate() {
        user::copy_out(call.address(index), id)?;
    }
    Ok(0)
}

/// [getresuid(2)](https://man7.org/linux/man-pages/man2/getresuid.2.html).
pub fn sys_getresuid(call: &mut Call<'_>) -> Result<u64> {
    put_ids(call, call.thread.identity.own().user)
}

/// [getresgid(2)](https://man7.org/linux/man-pages/man2/getresuid.2.html).
pub fn sys_getresgid(call: &mut Call<'_>) -> Result<u64> {
    put_ids(call, call.thread.identity.own().group)
}

/// Changes the user ids by `rule`, which is told whether any id may be taken.
fn change_user(call: &Call<'_>, rule: impl FnOnce(Ids, bool) -> Result<Ids>) -> Result<u64> {
    let old = call.thread.identity.own();
    let user = rule(old.user, old.has(linux::CAP_SETUID))?;
    call.thread.set_credentials(old.with_user(user));
    Ok(0)
}

/// Changes the group ids by `rule`, which is told whether any id may be taken.
fn change_group(call: &Call<'_>, rule: impl FnOnce(Ids, bool) -> Result<Ids>) -> Result<u64> {
    let old = call.thread.identity.own();
    let group = rule(old.group, old.has(linux::CAP_SETGID))?;
    call.thread.set_credentials(Credentials { group, ..Credentials::clone(&old) });
    Ok(0)
}

/// [setuid(2)](https://man7.org/linux/man-pages/man2/setuid.2.html).
pub fn sys_setuid(call: &mut Call<'_>) -> Result<u64> {
    change_user(call, |ids, capable| ids.set(call.uint(0), capable))
}

/// [setgid(2)](https://man7.org/linux/man-pages/man2/setgid.2.html).
pub fn sys_setgid(call: &mut Call<'_>) -> Result<u64> {
    change_group(call, |ids, capable| ids.set(call.uint(0), capable))
}

/// [setreuid(2)](https://man7.org/linux/man-pages/man2/setreuid.2.html).
pub fn sys_setreuid(call: &mut Call<'_>) -> Result<u64> {
    change_user(call, |ids, capable| ids.set_real_effective(call.uint(0), call.uint(1), capable))
}

/// [setregid(2)](https://man7.org/linux/man-pages/man2/setreuid.2.html).
pub fn sys_setregid(call: &mut Call<'_>) -> Result<u64> {
    change_group(call, |ids, capable| ids.set_real_effective(call.uint(0), call.uint(1), capable))
}

/// [setresuid(2)](https://man7.org/linux/man-pages/man2/setresuid.2.html).
pub fn sys_setresuid(call: &mut Call<'_>) -> Result<u64> {
    change_user(call, |ids, capable| ids.set_all(call.uint(0), call.uint(1), call.uint(2), capable))
}

/// [setresgid(2)](https://man7.org/linux/man-pages/man2/setresuid.2.html).
pub fn sys_setresgid(call: &mut Call<'_>) -> Result<u64> {
    change_group(call, |ids, capable| ids.set_all(call.uint(0), call.uint(1), call.uint(2), capable))
}

/// [setfsuid(2)](https://man7.org/linux/man-pages/man2/setfsuid.2.html): answers the old id, changed or not.
pub fn sys_setfsuid(call: &mut Call<'_>) -> Result<u64> {
    let old = call.thread.identity.own();
    let new = old.with_file_user(call.uint(0));
    if new.user != old.user {
        call.thread.set_credentials(new);
    }
    Ok(u64::from(old.user.file))
}

/// [setfsgid(2)](https://man7.org/linux/man-pages/man2/setfsgid.2.html): answers the old id, changed or not.
pub fn sys_setfsgid(call: &mut Call<'_>) -> Result<u64> {
    let old = call.thread.identity.own();
    let group = old.group.set_file(call.uint(0), old.has(linux::CAP_SETGID));
    if group != old.group {
        call.thread.set_credentials(Credentials { group, ..Credentials::clone(&old) });
    }
    Ok(u64::from(old.group.file))
}

/// [getgroups(2)](https://man7.org/linux/man-pages/man2/getgroups.2.html).
pub fn sys_getgroups(call: &mut Call<'_>) -> Result<u64> {
    let room = usize::try_from(call.int(0)).map_err(|_| Errno::EINVAL)?;
    let groups = call.thread.identity.own().groups.clone();
    if room != 0 {
        if groups.len() > room {
            return Err(Errno::EINVAL);
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        user::copy_out_bytes(call.address(1), &bytes)?;
    }
    Ok(groups.len() as u64)
}

/// [setgroups(2)](https://man7.org/linux/man-pages/man2/getgroups.2.html).
pub fn sys_setgroups(call: &mut Call<'_>) -> Result<u64> {
    call.thread.require(linux::CAP_SETGID)?;
    let count = call.uint(0);
    if count > linux::NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = alloc::vec![0; count as usize * size_of::<u32>()];
    user::copy_in_bytes(call.address(1), &mut bytes)?;
    let mut groups: Vec<u32> = bytes.as_chunks().0.iter().map(|group| u32::from_ne_bytes(*group)).collect();
    if groups.contains(&u32::MAX) {
        return Err(Errno::EINVAL);
    }
    groups.sort_unstable();
    let old = call.thread.identity.own();
    call.thread.set_credentials(Credentials { groups: Arc::from(groups), ..Credentials::clone(&old) });
    Ok(0)
}

/// The header of capget and capset: how many words each set has, and whom it is about. An unknown version is EINVAL
/// after the preferred one was written over it.
fn read_header(at: UserAddr) -> Result<(usize, i32)> {
    let [version, pid]: [u32; 2] = match user::copy_in(at) {
        Ok(header) => header,
        // The version alone is looked at first.
        Err(_) => [user::copy_in(at)?, 0],
    };
    let words = match version {
        linux::_LINUX_CAPABILITY_VERSION_1 => 1,
        linux::_LINUX_CAPABILITY_VERSION_2 | linux::_LINUX_CAPABILITY_VERSION_3 => 2,
        _ => {
            user::copy_out(at, &linux::_LINUX_CAPABILITY_VERSION_3)?;
            return Err(Errno::EINVAL);
        }
    };
    Ok((words, user::copy_in::<[i32; 2]>(at).map(|_| pid as i32)?))
}

/// [capget(2)](https://man7.org/linux/man-pages/man2/capget.2.html). Without a place for the sets it asks whether the
/// version is known.
pub fn sys_capget(call: &mut Call<'_>) -> Result<u64> {
    let header = read_header(call.address(0));
    let Some(data) = call.optional_address(1) else {
        return match header {
            Ok(_) | Err(Errno::EINVAL) => Ok(0),
            Err(error) => Err(error),
        };
    };
    let (words, pid) = header?;
    let whose = match pid {
        0 => call.thread.identity.own(),
        pid if pid < 0 => return Err(Errno::EINVAL),
        tid => process::find_thread(tid).ok_or(Errno::ESRCH)?.identity.own(),
    };
    let sets = [whose.effective, whose.permitted, whose.inheritable].map(Capabilities::bits);
    let bytes: Vec<u8> = (0..words as u32)
        .flat_map(|word| sets.map(|set| (set >> (32 * word)) as u32))
        .flat_map(u32::to_ne_bytes)
        .collect();
    user::copy_out_bytes(data, &bytes)?;
    Ok(0)
}

/// [capset(2)](https://man7.org/linux/man-pages/man2/capget.2.html): of the caller alone.
pub fn sys_capset(call: &mut Call<'_>) -> Result<u64> {
    let (words, pid) = read_header(call.address(0))?;
    if pid != 0 && pid != call.thread.tid() {
        return Err(Errno::EPERM);
    }
    let mut data = [[0u32; 3]; 2];
    for (index, word) in data.iter_mut().enumerate().take(words) {
        let at = call.address(1).checked_add((index * size_of::<[u32; 3]>()) as u64).ok_or(Errno::EFAULT)?;
        *word = user::copy_in(at)?;
    }
    let set = |which: usize| {
        let [low, high] = [data[0][which], data[1][which]];
        Capabilities::from_bits(u64::from(low) | u64::from(high) << 32)
    };
    let old = call.thread.identity.own();
    call.thread.set_credentials(old.with_capabilities(set(0), set(1), set(2))?);
    Ok(0)
}

/// What prctl(2) has about credentials; EINVAL for what is not that.
pub fn credentials_prctl(call: &Call<'_>) -> Result<u64> {
    let old = call.thread.identity.own();
    let (argument, rest) = (call.raw(1), [call.raw(2), call.raw(3), call.raw(4)]);
    let capability = u32::try_from(argument).unwrap_or(u32::MAX);
    let memory = || call.process().memory().ok_or(Errno::ESRCH);
    match call.uint(0) {
        prctl::PR_GET_DUMPABLE => return Ok(u64::from(memory()?.is_dumpable())),
        prctl::PR_SET_DUMPABLE => match argument {
            0 | 1 => memory()?.set_dumpable(argument == 1),
            _ => return Err(Errno::EINVAL),
        },
        prctl::PR_GET_KEEPCAPS => return Ok(u64::from(old.keeps_capabilities())),
        prctl::PR_SET_KEEPCAPS => match argument {
            0 | 1 => call.thread.set_credentials(old.with_kept_capabilities(argument == 1)?),
            _ => return Err(Errno::EINVAL),
        },
        prctl::PR_GET_NO_NEW_PRIVS if argument == 0 && rest == [0; 3] => return Ok(u64::from(old.no_new_privileges)),
        prctl::PR_SET_NO_NEW_PRIVS if argument == 1 && rest == [0; 3] => {
            call.thread.set_credentials(Credentials { no_new_privileges: true, ..Credentials::clone(&old) });
        }
        prctl::PR_CAPBSET_READ => return Ok(u64::from(Capabilities::of(capability)?.is_within(old.bounding))),
        prctl::PR_CAPBSET_DROP => call.thread.set_credentials(old.without_bounding(capability)?),
        prctl::PR_GET_SECUREBITS => return Ok(u64::from(old.securebits)),
        prctl::PR_SET_SECUREBITS => {
            let bits = u32::try_from(argument).map_err(|_| Errno::EPERM)?;
            call.thread.set_credentials(old.with_securebits(bits)?);
        }
        prctl::PR_CAP_AMBIENT => return ambient(call, &old),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// PR_CAP_AMBIENT.
fn ambient(call: &Call<'_>, old: &Credentials) -> Result<u64> {
    let rest = [call.raw(3), call.raw(4)];
    let operation = call.raw(1);
    if operation == u64::from(prctl::PR_CAP_AMBIENT_CLEAR_ALL) {
        if call.raw(2) != 0 || rest != [0; 2] {
            return Err(Errno::EINVAL);
        }
        call.thread.set_credentials(Credentials { ambient: Capabilities::EMPTY, ..old.clone() });
        return Ok(0);
    }
    let capability = u32::try_from(call.raw(2)).unwrap_or(u32::MAX);
    let one = Capabilities::of(capability)?;
    if rest != [0; 2] {
        return Err(Errno::EINVAL);
    }
    match u32::try_from(operation) {
        Ok(prctl::PR_CAP_AMBIENT_IS_SET) => return Ok(u64::from(one.is_within(old.ambient))),
        Ok(prctl::PR_CAP_AMBIENT_RAISE) => call.thread.set_credentials(old.with_ambient(capability, true)?),
        Ok(prctl::PR_CAP_AMBIENT_LOWER) => call.thread.set_credentials(old.with_ambient(capability, false)?),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
