//! Locking memory: mlock, munlock, mlockall and their relatives.

use alloc::sync::Arc;
use core::ops::Range;

use abi::{Errno, Result, linux};
use hal::{Arch as _, PAGE_SIZE};

use super::Call;
use crate::{
    arch::Arch,
    mm::{address_space::AddressSpace, page_up},
};

const PAGE: u64 = PAGE_SIZE as u64;

fn memory(call: &Call<'_>) -> Result<Arc<AddressSpace>> {
    call.process().memory().ok_or(Errno::ESRCH)
}

/// EPERM for who may lock nothing at all.
pub fn check_may_lock(call: &Call<'_>) -> Result<()> {
    if call.process().rlimit(linux::RLIMIT_MEMLOCK).0 == 0 { call.thread.require(linux::CAP_IPC_LOCK) } else { Ok(()) }
}

/// The whole pages of the range in arguments 0 and 1. EINVAL where it wraps around, ENOMEM beyond the address space.
fn pages(call: &Call<'_>) -> Result<Range<u64>> {
    let address = call.mapped_address(0);
    let start = address & !(PAGE - 1);
    let len = call.raw(1).checked_add(address - start).and_then(page_up).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    if end > Arch::USER_END && len > 0 { Err(Errno::ENOMEM) } else { Ok(start..end) }
}

fn lock(call: &Call<'_>, on_fault: bool) -> Result<u64> {
    check_may_lock(call)?;
    let range = pages(call)?;
    if range.is_empty() {
        return Ok(0);
    }
    let memory = memory(call)?;
    memory.set_locked(range.clone(), true)?;
    if !on_fault {
        memory.populate_locked(range)?;
    }
    Ok(0)
}

/// [mlock(2)](https://man7.org/linux/man-pages/man2/mlock.2.html).
pub fn sys_mlock(call: &mut Call<'_>) -> Result<u64> {
    lock(call, false)
}

/// [mlock2(2)](https://man7.org/linux/man-pages/man2/mlock.2.html).
pub fn sys_mlock2(call: &mut Call<'_>) -> Result<u64> {
    match call.uint(2) {
        0 => lock(call, false),
        linux::MLOCK_ONFAULT => lock(call, true),
        _ => Err(Errno::EINVAL),
    }
}

/// [munlock(2)](https://man7.org/linux/man-pages/man2/mlock.2.html).
pub fn sys_munlock(call: &mut Call<'_>) -> Result<u64> {
    let range = pages(call)?;
    if !range.is_empty() {
        memory(call)?.set_locked(range, false)?;
    }
    Ok(0)
}

/// [mlockall(2)](https://man7.org/linux/man-pages/man2/mlock.2.html).
pub fn sys_mlockall(call: &mut Call<'_>) -> Result<u64> {
    const KNOWN: u32 = linux::MCL_CURRENT | linux::MCL_FUTURE | linux::MCL_ONFAULT;
    let flags = call.uint(0);
    if flags == 0 || flags & !KNOWN != 0 || flags == linux::MCL_ONFAULT {
        return Err(Errno::EINVAL);
    }
    check_may_lock(call)?;
    let memory = memory(call)?;
    let now = flags & linux::MCL_CURRENT != 0;
    memory.set_all_locked(now, flags & linux::MCL_FUTURE != 0)?;
    if now && flags & linux::MCL_ONFAULT == 0 {
        // What cannot be brought in stays locked all the same (mlock(2)).
        let _ = memory.populate_locked(0..Arch::USER_END);
    }
    Ok(0)
}

/// [munlockall(2)](https://man7.org/linux/man-pages/man2/mlock.2.html).
pub fn sys_munlockall(call: &mut Call<'_>) -> Result<u64> {
    memory(call)?.set_all_locked(false, false)?;
    Ok(0)
}
