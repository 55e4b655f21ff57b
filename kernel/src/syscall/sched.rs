//! How threads share the CPUs: policies, priorities, nice values, and the order of input and output.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result, linux};

use super::{Call, time::timespec};
use crate::{
    mm::{PAGE_SIZE, user},
    task::{futex_pi, process, thread::Thread},
};

/// Bytes of the first `struct sched_attr`, and of the one known here.
const FIRST_SIZE: u32 = 48;
const KNOWN_SIZE: u32 = 56;
/// SCHED_RESET_ON_FORK beside a policy.
const RESET_ON_FORK: u32 = 0x4000_0000;
/// SCHED_FLAG_RESET_ON_FORK, SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_KEEP_PARAMS of `sched_attr`.
const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMS: u64 = 16;
/// Between two threads of SCHED_RR, and the usual slice, in nanoseconds.
const ROUND_ROBIN_NS: u64 = 100_000_000;
const SLICE_NS: u64 = 4_000_000;

/// The thread that a call is about; 0 is the caller. EINVAL below, ESRCH.
fn target(call: &Call<'_>, index: usize) -> Result<Arc<Thread>> {
    match call.int(index) {
        id if id < 0 => Err(Errno::EINVAL),
        0 => Ok(call.thread.clone()),
        id => process::find_thread(id).ok_or(Errno::ESRCH),
    }
}

/// EPERM unless the caller may change how `thread` is scheduled.
fn check_owner(call: &Call<'_>, thread: &Thread) -> Result<()> {
    let (caller, owner) = (call.thread.identity.own(), thread.identity.own());
    let own = [owner.user.real, owner.user.effective].contains(&caller.user.effective);
    if own { Ok(()) } else { call.thread.require(linux::CAP_SYS_NICE) }
}

/// Whether a thread may come to this nice value: not below its own without a limit or right that allows it.
fn may_be_nice(call: &Call<'_>, thread: &Thread, nice: i32) -> bool {
    let (limit, _) = thread.process().rlimit(linux::RLIMIT_NICE);
    nice >= thread.nice() || (20 - nice) as u64 <= limit || call.thread.require(linux::CAP_SYS_NICE).is_ok()
}

/// What a thread is to be scheduled by; `None` leaves something as it is.
struct Change {
    policy: Option<u32>,
    priority: Option<u32>,
    nice: Option<i32>,
    reset_on_fork: Option<bool>,
}

fn is_real_time(policy: u32) -> bool {
    matches!(policy, linux::SCHED_FIFO | linux::SCHED_RR)
}

/// EINVAL for a policy that is not there or a priority that is not its; EPERM.
fn apply(call: &Call<'_>, thread: &Thread, change: &Change) -> Result<()> {
    let attributes = &thread.attributes;
    let (old_policy, old_priority) = (attributes.policy.load(Relaxed), attributes.priority.load(Relaxed));
    let policy = change.policy.unwrap_or(old_policy);
    let priority = change.priority.unwrap_or(old_priority);
    match policy {
        linux::SCHED_FIFO | linux::SCHED_RR if (1..=99).contains(&priority) => {}
        linux::SCHED_NORMAL | linux::SCHED_BATCH | linux::SCHED_IDLE if priority == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    check_owner(call, thread)?;
    let (limit, _) = thread.process().rlimit(linux::RLIMIT_RTPRIO);
    let rises = is_real_time(policy)
        && (policy != old_policy && limit == 0 || priority > old_priority && u64::from(priority) > limit);
    let nicer = change.nice.is_some_and(|nice| !is_real_time(policy) && !may_be_nice(call, thread, nice));
    let loses_reset = change.reset_on_fork == Some(false) && attributes.reset_on_fork.load(Relaxed);
    if rises || nicer || loses_reset {
        call.thread.require(linux::CAP_SYS_NICE)?;
    }
    attributes.policy.store(policy, Relaxed);
    attributes.priority.store(priority, Relaxed);
    futex_pi::priority_changed(thread);
    if let Some(nice) = change.nice.filter(|_| !is_real_time(policy)) {
        thread.set_nice(nice);
    }
    if let Some(reset) = change.reset_on_fork {
        attributes.reset_on_fork.store(reset, Relaxed);
    }
    Ok(())
}

/// [sched_getscheduler(2)](https://man7.org/linux/man-pages/man2/sched_setscheduler.2.html).
pub fn sys_sched_getscheduler(call: &mut Call<'_>) -> Result<u64> {
    let attributes = &target(call, 0)?.attributes;
    let reset = if attributes.reset_on_fork.load(Relaxed) { RESET_ON_FORK } else { 0 };
    Ok(u64::from(attributes.policy.load(Relaxed) | reset))
}

/// [sched_setscheduler(2)](https://man7.org/linux/man-pages/man2/sched_setscheduler.2.html). Lacks: real-time policies
/// only give a larger share, and SCHED_DEADLINE is EINVAL.
pub fn sys_sched_setscheduler(call: &mut Call<'_>) -> Result<u64> {
    let policy = call.int(1);
    let parameter = call.optional_address(2).filter(|_| policy >= 0 && call.int(0) >= 0).ok_or(Errno::EINVAL)?;
    let priority: u32 = user::copy_in(parameter)?;
    let policy = policy as u32;
    let change = Change {
        policy: Some(policy & !RESET_ON_FORK),
        priority: Some(priority),
        nice: None,
        reset_on_fork: Some(policy & RESET_ON_FORK != 0),
    };
    apply(call, &*target(call, 0)?, &change)?;
    Ok(0)
}

/// [sched_getparam(2)](https://man7.org/linux/man-pages/man2/sched_setparam.2.html).
pub fn sys_sched_getparam(call: &mut Call<'_>) -> Result<u64> {
    let parameter = call.optional_address(1).filter(|_| call.int(0) >= 0).ok_or(Errno::EINVAL)?;
    let priority = target(call, 0)?.attributes.priority.load(Relaxed);
    user::copy_out(parameter, &priority)?;
    Ok(0)
}

/// [sched_setparam(2)](https://man7.org/linux/man-pages/man2/sched_setparam.2.html). Lacks: an order of real-time
/// priorities, which all give the same share.
pub fn sys_sched_setparam(call: &mut Call<'_>) -> Result<u64> {
    let parameter = call.optional_address(1).filter(|_| call.int(0) >= 0).ok_or(Errno::EINVAL)?;
    let priority: u32 = user::copy_in(parameter)?;
    let change = Change { policy: None, priority: Some(priority), nice: None, reset_on_fork: None };
    apply(call, &*target(call, 0)?, &change)?;
    Ok(0)
}

/// [sched_setattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html). `struct sched_attr` is size, policy,
/// flags, nice, priority, and what deadlines and clamps need. Lacks: what sched_setscheduler
/// lacks; utilisation clamps.
pub fn sys_sched_setattr(call: &mut Call<'_>) -> Result<u64> {
    let address = call.optional_address(1).filter(|_| call.int(0) >= 0 && call.uint(2) == 0).ok_or(Errno::EINVAL)?;
    let size = match user::copy_in::<u32>(address)? {
        0 => FIRST_SIZE,
        size => size,
    };
    let too_big = || {
        // A fault here changes nothing about the answer.
        let _ = user::copy_out(address, &KNOWN_SIZE);
        Errno::E2BIG
    };
    if size < FIRST_SIZE || size as usize > PAGE_SIZE {
        return Err(too_big());
    }
    let mut bytes = alloc::vec![0; size as usize];
    user::copy_in_bytes(address, &mut bytes)?;
    if bytes.iter().skip(KNOWN_SIZE as usize).any(|byte| *byte != 0) {
        return Err(too_big());
    }
    let words: [u64; 3] = user::copy_in(address)?;
    let [policy, nice, priority] =
        [(words[0] >> 32) as u32, words[2] as u32, (words[2] >> 32) as u32].map(|value| value as i32);
    let flags = words[1];
    if policy < 0 || flags & !(FLAG_RESET_ON_FORK | FLAG_KEEP_POLICY | FLAG_KEEP_PARAMS) != 0 {
        return Err(Errno::EINVAL);
    }
    let keeps_parameters = flags & FLAG_KEEP_PARAMS != 0;
    let change = Change {
        policy: (flags & FLAG_KEEP_POLICY == 0).then_some(policy as u32),
        priority: (!keeps_parameters).then_some(priority as u32),
        nice: (!keeps_parameters).then_some(nice.clamp(-20, 19)),
        reset_on_fork: (flags & FLAG_KEEP_POLICY == 0).then_some(flags & FLAG_RESET_ON_FORK != 0),
    };
    apply(call, &*target(call, 0)?, &change)?;
    Ok(0)
}

/// [sched_getattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html).
pub fn sys_sched_getattr(call: &mut Call<'_>) -> Result<u64> {
    let size = call.uint(2);
    let fits = (FIRST_SIZE..=PAGE_SIZE as u32).contains(&size) && call.uint(3) == 0 && call.int(0) >= 0;
    let address = call.optional_address(1).filter(|_| fits).ok_or(Errno::EINVAL)?;
    let thread = target(call, 0)?;
    let attributes = &thread.attributes;
    let policy = attributes.policy.load(Relaxed);
    let size = size.min(KNOWN_SIZE);
    let nice = if is_real_time(policy) { 0 } else { thread.nice() as u32 };
    let mut words = [0u64; KNOWN_SIZE as usize / 8];
    words[0] = u64::from(size) | u64::from(policy) << 32;
    words[1] = u64::from(attributes.reset_on_fork.load(Relaxed));
    words[2] = u64::from(nice) | u64::from(attributes.priority.load(Relaxed)) << 32;
    if !is_real_time(policy) {
        words[3] = SLICE_NS;
    }
    // Utilisation is not clamped: from nothing to all.
    words[6] = 1024 << 32;
    user::copy_out_bytes(address, &abi::bytes_of(&words)[..size as usize])?;
    Ok(0)
}

/// [sched_get_priority_max(2)](https://man7.org/linux/man-pages/man2/sched_get_priority_max.2.html).
pub fn sys_sched_get_priority_max(call: &mut Call<'_>) -> Result<u64> {
    priority_bound(call.uint(0), 99)
}

/// [sched_get_priority_min(2)](https://man7.org/linux/man-pages/man2/sched_get_priority_max.2.html).
pub fn sys_sched_get_priority_min(call: &mut Call<'_>) -> Result<u64> {
    priority_bound(call.uint(0), 1)
}

fn priority_bound(policy: u32, bound: u64) -> Result<u64> {
    match policy {
        linux::SCHED_FIFO | linux::SCHED_RR => Ok(bound),
        linux::SCHED_NORMAL | linux::SCHED_BATCH | linux::SCHED_IDLE | linux::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// [sched_rr_get_interval(2)](https://man7.org/linux/man-pages/man2/sched_rr_get_interval.2.html).
pub fn sys_sched_rr_get_interval(call: &mut Call<'_>) -> Result<u64> {
    let interval = match target(call, 0)?.attributes.policy.load(Relaxed) {
        linux::SCHED_RR => ROUND_ROBIN_NS,
        linux::SCHED_FIFO => 0,
        _ => SLICE_NS,
    };
    user::copy_out(call.address(1), &timespec(interval))?;
    Ok(0)
}

/// The threads that getpriority(2) or ioprio_get(2) means: one, a group's, a user's (from `first` on, in this order).
fn chosen(call: &Call<'_>, first: u32) -> Result<Vec<Arc<Thread>>> {
    let (which, who) = (call.uint(0).wrapping_sub(first), call.int(1));
    let of_processes = |filter: &dyn Fn(&process::Process) -> bool| -> Vec<Arc<Thread>> {
        let processes = process::all().into_iter().filter(|process| filter(process));
        processes.flat_map(|process| process.threads()).collect()
    };
    let threads = match which {
        0 if who == 0 => alloc::vec![call.thread.clone()],
        0 => process::find_thread(who).into_iter().collect(),
        1 => {
            let group = if who == 0 { call.process().group() } else { who };
            of_processes(&|process| process.group() == group)
        }
        2 => {
            let user = if who == 0 { call.thread.identity.own().user.real } else { who as u32 };
            of_processes(&|process| process.credentials().user.real == user)
        }
        _ => return Err(Errno::EINVAL),
    };
    if threads.is_empty() { Err(Errno::ESRCH) } else { Ok(threads) }
}

/// [getpriority(2)](https://man7.org/linux/man-pages/man2/getpriority.2.html): the raw call answers 20 less the nice
/// value, the highest of all.
pub fn sys_getpriority(call: &mut Call<'_>) -> Result<u64> {
    let values = chosen(call, linux::PRIO_PROCESS)?.into_iter().map(|thread| 20 - thread.nice());
    Ok(values.max().unwrap_or(0) as u64)
}

/// [setpriority(2)](https://man7.org/linux/man-pages/man2/getpriority.2.html).
pub fn sys_setpriority(call: &mut Call<'_>) -> Result<u64> {
    let nice = call.int(2).clamp(-20, 19);
    let mut result = Ok(0);
    for thread in chosen(call, linux::PRIO_PROCESS)? {
        if check_owner(call, &thread).is_err() {
            result = Err(Errno::EPERM);
        } else if !may_be_nice(call, &thread, nice) {
            result = Err(Errno::EACCES);
        } else {
            thread.set_nice(nice);
        }
    }
    result
}

/// IOPRIO_WHO_PROCESS.
const IOPRIO_FIRST: u32 = 1;
/// Bits of the class in an input/output priority.
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// [ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html). It is kept and given back: no device has a
/// queue to order.
pub fn sys_ioprio_set(call: &mut Call<'_>) -> Result<u64> {
    const REAL_TIME: u32 = 1;
    const BEST_EFFORT: u32 = 2;
    const IDLE: u32 = 3;
    let value = call.uint(2);
    match value >> IOPRIO_CLASS_SHIFT {
        0 if value == 0 => {}
        REAL_TIME if call.thread.require(linux::CAP_SYS_ADMIN).is_err() => call.thread.require(linux::CAP_SYS_NICE)?,
        REAL_TIME | BEST_EFFORT | IDLE => {}
        _ => return Err(Errno::EINVAL),
    }
    for thread in chosen(call, IOPRIO_FIRST)? {
        check_owner(call, &thread)?;
        thread.attributes.io_priority.store(value, Relaxed);
    }
    Ok(0)
}

/// [ioprio_get(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html): the best of all.
pub fn sys_ioprio_get(call: &mut Call<'_>) -> Result<u64> {
    let values = chosen(call, IOPRIO_FIRST)?.into_iter().map(|thread| thread.attributes.io_priority.load(Relaxed));
    // No class at all is worse than any.
    let best = values.min_by_key(|value| if *value == 0 { u32::MAX } else { *value });
    Ok(u64::from(best.unwrap_or(0)))
}
