//! Threads: clone, affinity, barriers.

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use abi::{Errno, Result, linux};
use hal::UserAddr;
use klib::cpu_set::CpuSet;

use super::{Call, namespace};
use crate::{
    mm::user,
    smp,
    task::{
        clone::{self, CloneRequest},
        exit, process, scheduler,
        thread::Thread,
    },
};

/// [gettid(2)](https://man7.org/linux/man-pages/man2/gettid.2.html).
pub fn sys_gettid(call: &mut Call<'_>) -> Result<u64> {
    Ok(call.thread.tid() as u64)
}

/// [exit(2)](https://man7.org/linux/man-pages/man2/exit.2.html): of one thread.
pub fn sys_exit(call: &mut Call<'_>) -> Result<u64> {
    exit::exit_one_thread(call.thread, call.int(0) as u8)
}

/// [set_tid_address(2)](https://man7.org/linux/man-pages/man2/set_tid_address.2.html).
pub fn sys_set_tid_address(call: &mut Call<'_>) -> Result<u64> {
    call.thread.addresses.lock().clear_child_tid = call.optional_address(0);
    Ok(call.thread.tid() as u64)
}

/// [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html), with the argument order of arm64: flags, stack,
/// parent_tid, tls, child_tid. Lacks: namespaces other than UTS (EINVAL); threads of one process with descriptors of
/// their own.
pub fn sys_clone(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.raw(0);
    const EITHER: u64 = (linux::CLONE_PIDFD | linux::CLONE_PARENT_SETTID) as u64;
    if flags & EITHER == EITHER {
        return Err(Errno::EINVAL);
    }
    namespace::check_new(call.thread, flags & !0xff)?;
    let request = CloneRequest {
        flags: flags & !0xff,
        exit_signal: (flags & 0xff) as u32,
        stack: call.optional_address(1),
        // The descriptor and the number share their place, so only one can be asked for.
        pidfd: call.address(2),
        parent_tid: call.address(2),
        child_tid: call.address(4),
        tls: call.raw(3),
    };
    Ok(clone::clone(call.thread, call.frame, request)? as u64)
}

/// [clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html). Lacks: what clone lacks; set_tid and
/// CLONE_INTO_CGROUP (EINVAL).
pub fn sys_clone3(call: &mut Call<'_>) -> Result<u64> {
    let size = call.size(1);
    if size < 64 {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let mut arguments: linux::clone_args = abi::zeroed();
    let known = size.min(size_of::<linux::clone_args>());
    user::copy_in_bytes(call.address(0), &mut abi::bytes_of_mut(&mut arguments)[..known])?;
    for offset in known..size {
        // What this kernel does not know must be absent.
        if user::copy_in::<u8>(call.address(0).checked_add(offset as u64).ok_or(Errno::EFAULT)?)? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    if arguments.set_tid_size != 0 || arguments.flags & linux::CLONE_INTO_CGROUP != 0 || arguments.flags & 0xff != 0 {
        return Err(Errno::EINVAL);
    }
    let stack = match (arguments.stack, arguments.stack_size) {
        (0, 0) => None,
        (0, _) | (_, 0) => return Err(Errno::EINVAL),
        (start, size) => Some(UserAddr::new(start.checked_add(size).ok_or(Errno::EINVAL)?)),
    };
    namespace::check_new(call.thread, arguments.flags)?;
    let request = CloneRequest {
        flags: arguments.flags,
        exit_signal: u32::try_from(arguments.exit_signal).ok().filter(|signal| *signal < 65).ok_or(Errno::EINVAL)?,
        stack,
        pidfd: UserAddr::new(arguments.pidfd),
        parent_tid: UserAddr::new(arguments.parent_tid),
        child_tid: UserAddr::new(arguments.child_tid),
        tls: arguments.tls,
    };
    Ok(clone::clone(call.thread, call.frame, request)? as u64)
}

/// [sched_yield(2)](https://man7.org/linux/man-pages/man2/sched_yield.2.html).
pub fn sys_sched_yield(_call: &mut Call<'_>) -> Result<u64> {
    scheduler::yield_now();
    Ok(0)
}

/// The thread that argument 0 of an affinity call names. ESRCH.
fn affinity_of(call: &Call<'_>) -> Result<Arc<Thread>> {
    match call.int(0) {
        0 => Ok(call.thread.clone()),
        tid => process::find_thread(tid).ok_or(Errno::ESRCH),
    }
}

/// [sched_getaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html): of the CPUs that run.
pub fn sys_sched_getaffinity(call: &mut Call<'_>) -> Result<u64> {
    if !call.size(1).is_multiple_of(8) || call.size(1) == 0 {
        return Err(Errno::EINVAL);
    }
    let cpus = affinity_of(call)?.affinity() & smp::online();
    user::copy_out(call.address(2), &cpus.bits())?;
    Ok(size_of::<u64>() as u64)
}

/// [sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html). EPERM for another user's
/// thread.
pub fn sys_sched_setaffinity(call: &mut Call<'_>) -> Result<u64> {
    let mut mask = [0; size_of::<u64>()];
    let len = call.size(1).min(mask.len());
    user::copy_in_bytes(call.address(2), &mut mask[..len])?;
    let thread = affinity_of(call)?;
    if !call.thread.identity.own().may_schedule(&thread.identity.own()) {
        return Err(Errno::EPERM);
    }
    // As Linux on arm64, a little-endian word.
    let cpus = CpuSet::from_bits(u64::from_le_bytes(mask)) & smp::present();
    if (cpus & smp::online()).is_empty() {
        return Err(Errno::EINVAL);
    }
    scheduler::set_affinity(&thread, cpus);
    Ok(0)
}

/// [getcpu(2)](https://man7.org/linux/man-pages/man2/getcpu.2.html): all memory is equally near.
pub fn sys_getcpu(call: &mut Call<'_>) -> Result<u64> {
    for (index, value) in [scheduler::cpu_number() as u32, 0].into_iter().enumerate() {
        if let Some(address) = call.optional_address(index) {
            user::copy_out(address, &value)?;
        }
    }
    Ok(0)
}

/// Commands of membarrier(2), as `enum membarrier_cmd` numbers them.
mod membarrier {
    pub const QUERY: u32 = 0;
    pub const GLOBAL: u32 = 1 << 0;
    pub const GLOBAL_EXPEDITED: u32 = 1 << 1;
    pub const REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;
    pub const PRIVATE_EXPEDITED: u32 = 1 << 3;
    pub const REGISTER_PRIVATE_EXPEDITED: u32 = 1 << 4;
    pub const PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 5;
    pub const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 6;
    pub const GET_REGISTRATIONS: u32 = 1 << 9;
    /// All but those for rseq(2).
    pub const SUPPORTED: u32 = 0x7f | GET_REGISTRATIONS;
}

/// [membarrier(2)](https://man7.org/linux/man-pages/man2/membarrier.2.html). EPERM for a private barrier without
/// registration. Lacks: the commands for rseq(2) (EINVAL).
pub fn sys_membarrier(call: &mut Call<'_>) -> Result<u64> {
    let (command, flags) = (call.uint(0), call.uint(1));
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let memory = call.thread.memory().ok_or(Errno::EINVAL)?;
    let private = |registration: u32| {
        if memory.barriers() & registration == 0 {
            return Err(Errno::EPERM);
        }
        // The caller's own accesses come before the look at who runs; see `scheduler::users_of`.
        fence(Ordering::SeqCst);
        smp::barrier_on(scheduler::users_of(&memory));
        Ok(0)
    };
    match command {
        membarrier::QUERY => Ok(u64::from(membarrier::SUPPORTED)),
        membarrier::GLOBAL | membarrier::GLOBAL_EXPEDITED => {
            smp::barrier_on(CpuSet::ALL);
            Ok(0)
        }
        membarrier::REGISTER_GLOBAL_EXPEDITED
        | membarrier::REGISTER_PRIVATE_EXPEDITED
        | membarrier::REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            memory.register_barriers(command);
            Ok(0)
        }
        membarrier::PRIVATE_EXPEDITED => private(membarrier::REGISTER_PRIVATE_EXPEDITED),
        membarrier::PRIVATE_EXPEDITED_SYNC_CORE => private(membarrier::REGISTER_PRIVATE_EXPEDITED_SYNC_CORE),
        membarrier::GET_REGISTRATIONS => Ok(u64::from(memory.barriers())),
        _ => Err(Errno::EINVAL),
    }
}
