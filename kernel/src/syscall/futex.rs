//! Futexes and lists of robust ones: futex, the calls that stand for its operations one by one, set_robust_list.

use alloc::vec::Vec;

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{Call, time::timeout_in};
use crate::{
    mm::user,
    task::{futex, futex_pi, process},
    time,
};

/// [set_robust_list(2)](https://man7.org/linux/man-pages/man2/set_robust_list.2.html).
pub fn sys_set_robust_list(call: &mut Call<'_>) -> Result<u64> {
    if call.size(1) != size_of::<linux::robust_list_head>() {
        return Err(Errno::EINVAL);
    }
    call.thread.addresses.lock().robust_list = call.optional_address(0);
    Ok(0)
}

/// [get_robust_list(2)](https://man7.org/linux/man-pages/man2/get_robust_list.2.html).
pub fn sys_get_robust_list(call: &mut Call<'_>) -> Result<u64> {
    let thread = match call.int(0) {
        0 => call.thread.clone(),
        tid => process::find_thread(tid).ok_or(Errno::ESRCH)?,
    };
    thread.process().check_attachment(call.thread)?;
    let list = thread.addresses.lock().robust_list.unwrap_or(UserAddr::NULL);
    user::copy_out(call.address(1), &list.get())?;
    user::copy_out(call.address(2), &size_of::<linux::robust_list_head>())?;
    Ok(0)
}

/// [futex(2)](https://man7.org/linux/man-pages/man2/futex.2.html).
pub fn sys_futex(call: &mut Call<'_>) -> Result<u64> {
    let (address, operation, value, second, third) =
        (call.address(0), call.uint(1), call.uint(2), call.address(4), call.uint(5));
    let private = operation & linux::FUTEX_PRIVATE_FLAG != 0;
    let realtime = operation & linux::FUTEX_CLOCK_REALTIME != 0;
    let operation = operation & !(linux::FUTEX_PRIVATE_FLAG | linux::FUTEX_CLOCK_REALTIME);
    let limit = call.uint(3);
    // The time comes first, whatever else is wrong.
    let time = match operation {
        linux::FUTEX_WAIT
        | linux::FUTEX_WAIT_BITSET
        | linux::FUTEX_LOCK_PI
        | linux::FUTEX_LOCK_PI2
        | linux::FUTEX_WAIT_REQUEUE_PI => timeout_in(call.optional_address(3))?,
        _ => None,
    };
    let takes_clock =
        matches!(operation, linux::FUTEX_WAIT_BITSET | linux::FUTEX_WAIT_REQUEUE_PI | linux::FUTEX_LOCK_PI2);
    if realtime && !takes_clock {
        return Err(Errno::ENOSYS);
    }
    let deadline = time.map(|ns| match operation {
        linux::FUTEX_WAIT => time::monotonic_ns().saturating_add(ns),
        linux::FUTEX_LOCK_PI => time::realtime_to_monotonic(ns),
        _ if realtime => time::realtime_to_monotonic(ns),
        _ => ns,
    });
    let result = match operation {
        linux::FUTEX_WAIT => futex::wait(address, private, value, futex::MATCH_ANY, deadline).map(|()| 0),
        linux::FUTEX_WAIT_BITSET => futex::wait(address, private, value, third, deadline).map(|()| 0),
        // At least one, whatever the number says.
        linux::FUTEX_WAKE => futex::wake(address, private, (value as i32).max(1) as u32, futex::MATCH_ANY),
        linux::FUTEX_WAKE_BITSET => futex::wake(address, private, (value as i32).max(1) as u32, third),
        linux::FUTEX_REQUEUE => futex::requeue(address, second, private, value, limit, None),
        linux::FUTEX_CMP_REQUEUE => futex::requeue(address, second, private, value, limit, Some(third)),
        linux::FUTEX_WAKE_OP => futex::wake_op(address, second, private, value, limit, third),
        linux::FUTEX_LOCK_PI | linux::FUTEX_LOCK_PI2 => futex_pi::lock(address, private, deadline).map(|()| 0),
        linux::FUTEX_TRYLOCK_PI => futex_pi::try_lock(address, private).map(|()| 0),
        linux::FUTEX_UNLOCK_PI => futex_pi::unlock(address, private).map(|()| 0),
        linux::FUTEX_WAIT_REQUEUE_PI => futex::wait_requeue_pi(address, second, private, value, deadline).map(|()| 0),
        linux::FUTEX_CMP_REQUEUE_PI => futex::requeue_pi(address, second, private, value, limit, third),
        _ => Err(Errno::ENOSYS),
    };
    result.map(u64::from)
}

/// What the flags of the newer calls ask for: words of 32 bits, of one process alone or not. EINVAL.
fn is_private(flags: u32) -> Result<bool> {
    if flags & !(linux::FUTEX2_SIZE_MASK | linux::FUTEX2_PRIVATE) != 0
        || flags & linux::FUTEX2_SIZE_MASK != linux::FUTEX2_SIZE_U32
    {
        return Err(Errno::EINVAL);
    }
    Ok(flags & linux::FUTEX2_PRIVATE != 0)
}

/// A value or a mask of a word. EINVAL beyond it.
fn word(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Errno::EINVAL)
}

/// The time of a clock at which a wait ends, as monotonic time. EINVAL, EFAULT.
fn deadline(address: Option<UserAddr>, clock: u32) -> Result<Option<u64>> {
    let Some(address) = address else { return Ok(None) };
    match clock {
        linux::CLOCK_REALTIME => Ok(timeout_in(Some(address))?.map(time::realtime_to_monotonic)),
        linux::CLOCK_MONOTONIC => timeout_in(Some(address)),
        _ => Err(Errno::EINVAL),
    }
}

/// An interrupted wait until a certain time goes on like any other.
fn restarted(error: Errno) -> Errno {
    if error == Errno::EINTR { Errno::RESTART } else { error }
}

/// futex_wake(2) (linux/kernel/futex/syscalls.c): as FUTEX_WAKE_BITSET.
pub fn sys_futex_wake(call: &mut Call<'_>) -> Result<u64> {
    let private = is_private(call.uint(3))?;
    let mask = word(call.raw(1))?;
    match call.int(2) {
        0 => Ok(0),
        count => futex::wake(call.address(0), private, count.max(1) as u32, mask).map(u64::from),
    }
}

/// futex_wait(2) (linux/kernel/futex/syscalls.c): as FUTEX_WAIT_BITSET.
pub fn sys_futex_wait(call: &mut Call<'_>) -> Result<u64> {
    let private = is_private(call.uint(3))?;
    let (value, mask) = (word(call.raw(1))?, word(call.raw(2))?);
    let deadline = deadline(call.optional_address(4), call.uint(5))?;
    futex::wait(call.address(0), private, value, mask, deadline).map(|()| 0).map_err(restarted)
}

/// `struct futex_waitv` entries. EFAULT, EINVAL.
fn words(address: UserAddr, count: usize) -> Result<Vec<futex::Word>> {
    let mut words = Vec::with_capacity(count);
    for index in 0..count {
        let at = address.checked_add((index * size_of::<linux::futex_waitv>()) as u64).ok_or(Errno::EFAULT)?;
        let entry: linux::futex_waitv = user::copy_in(at)?;
        if entry.__reserved != 0 {
            return Err(Errno::EINVAL);
        }
        let (private, expected) = (is_private(entry.flags)?, word(entry.val)?);
        words.push(futex::Word { address: user::given(entry.uaddr), private, expected });
    }
    Ok(words)
}

/// futex_requeue(2) (linux/kernel/futex/syscalls.c): as FUTEX_CMP_REQUEUE.
pub fn sys_futex_requeue(call: &mut Call<'_>) -> Result<u64> {
    let address = call.optional_address(0).filter(|_| call.uint(1) == 0).ok_or(Errno::EINVAL)?;
    let words = words(address, 2)?;
    let [from, to] = words.as_slice() else { return Err(Errno::EINVAL) };
    if from.private != to.private {
        return Err(Errno::EINVAL);
    }
    let (count, limit) = (call.uint(2), call.uint(3));
    futex::requeue(from.address, to.address, from.private, count, limit, Some(from.expected)).map(u64::from)
}

/// [futex_waitv(2)](https://docs.kernel.org/userspace-api/futex2.html): waits for the first of several words.
pub fn sys_futex_waitv(call: &mut Call<'_>) -> Result<u64> {
    let count = call.uint(1);
    let address = call.optional_address(0).filter(|_| call.uint(2) == 0).ok_or(Errno::EINVAL)?;
    if count == 0 || count > linux::FUTEX_WAITV_MAX {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(call.optional_address(3), call.uint(4))?;
    let words = words(address, count as usize)?;
    futex::wait_for_any(&words, deadline).map(|index| index as u64)
}
