//! Whether two processes have something in common: kcmp.

use alloc::sync::Arc;

use abi::{Errno, Result};

use super::Call;
use crate::{
    fs::epoll::Epoll,
    mm::user,
    rng,
    sync::Once,
    task::{process, thread::Thread},
};

/// What is compared (linux/kcmp.h).
const KCMP_FILE: u32 = 0;
const KCMP_VM: u32 = 1;
const KCMP_FILES: u32 = 2;
const KCMP_FS: u32 = 3;
const KCMP_SIGHAND: u32 = 4;
const KCMP_IO: u32 = 5;
const KCMP_SYSVSEM: u32 = 6;
const KCMP_EPOLL_TFD: u32 = 7;

/// Puts addresses into an order that tells nothing of where they are: it is the same as long as the machine runs.
fn order(address: usize) -> Result<u64> {
    static SECRET: Once<[u64; 2]> = Once::new();
    let [mask, factor] = *SECRET.try_call_once(|| {
        let mut bytes = [[0; 8]; 2];
        rng::fill(bytes.as_flattened_mut())?;
        let [mask, factor] = bytes.map(u64::from_ne_bytes);
        Ok::<_, Errno>([mask, factor | 1])
    })?;
    Ok((address as u64 ^ mask).wrapping_mul(factor))
}

/// 0 for the same thing, 1 and 2 for one that comes before or after the other.
fn compare(first: usize, second: usize) -> Result<u64> {
    Ok(match order(first)?.cmp(&order(second)?) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    })
}

fn thread(id: i32) -> Result<Arc<Thread>> {
    let of_process = || process::find(id)?.main_thread();
    process::find_thread(id).or_else(of_process).ok_or(Errno::ESRCH)
}

/// The open file behind a number. EBADF.
fn file(thread: &Thread, number: u64) -> Result<usize> {
    // Linux looks at 32 bits of it.
    let number = number as i32;
    Ok(Arc::as_ptr(&thread.process().files().get(number)?).addr())
}

/// The address of what the thread has for itself or shares, where it has it.
fn part(thread: &Thread, kind: u32) -> usize {
    let process = thread.process();
    match kind {
        KCMP_VM => process.memory().map_or(0, |memory| Arc::as_ptr(&memory).addr()),
        KCMP_FILES => Arc::as_ptr(&process.files()).addr(),
        KCMP_FS => Arc::as_ptr(&thread.fs()).addr(),
        KCMP_SIGHAND => Arc::as_ptr(&process.actions).addr(),
        // There are no contexts of I/O, and no System V semaphores: all have the same, nothing.
        _ => 0,
    }
}

/// [kcmp(2)](https://man7.org/linux/man-pages/man2/kcmp.2.html).
pub fn sys_kcmp(call: &mut Call<'_>) -> Result<u64> {
    let (kind, first_index, second_index) = (call.uint(2), call.raw(3), call.raw(4));
    let (first, second) = (thread(call.int(0))?, thread(call.int(1))?);
    first.process().check_attachment(call.thread)?;
    second.process().check_attachment(call.thread)?;
    match kind {
        KCMP_FILE => compare(file(&first, first_index)?, file(&second, second_index)?),
        KCMP_VM | KCMP_FILES | KCMP_FS | KCMP_SIGHAND | KCMP_IO | KCMP_SYSVSEM => {
            compare(part(&first, kind), part(&second, kind))
        }
        KCMP_EPOLL_TFD => {
            // The instance's descriptor, the watched one's number, and which of several that had the number.
            let [instance, number, offset]: [u32; 3] = user::copy_in(call.address(4))?;
            let watched = file(&first, first_index)?;
            let instance = second.process().files().get(instance as i32)?;
            let epoll = instance.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
            let target = epoll.watched(number as i32, offset as usize).ok_or(Errno::ENOENT)?;
            compare(watched, Arc::as_ptr(&target).addr())
        }
        _ => Err(Errno::EINVAL),
    }
}
