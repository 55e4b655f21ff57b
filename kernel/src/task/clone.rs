//! New threads and processes (clone(2), clone3(2)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::{Errno, Result, linux};
use hal::{Arch as _, TrapFrame as _, UserAddr};

use super::{
    exit,
    identity::{self, TaskCharge},
    interval_timer,
    process::{self, NewProcess, Process},
    scheduler, signal,
    thread::Thread,
    wait,
};
use crate::{
    arch::{Arch, TrapFrame},
    fs::pidfd::{self, PidFd},
    mm::{frames, user},
    sync::IrqLock,
};

/// What clone is asked for.
#[derive(Clone, Copy, Debug)]
pub struct CloneRequest {
    /// CLONE_*, without the exit signal.
    pub flags: u64,
    /// Sent to the parent when the child ends; 0: none.
    pub exit_signal: u32,
    /// The child's stack pointer; `None`: the parent's.
    pub stack: Option<UserAddr>,
    /// Where CLONE_PIDFD stores a descriptor of the child, in the parent.
    pub pidfd: UserAddr,
    /// Where CLONE_PARENT_SETTID stores the number, in the parent.
    pub parent_tid: UserAddr,
    /// Where CLONE_CHILD_SETTID stores it and CLONE_CHILD_CLEARTID clears it, in the child.
    pub child_tid: UserAddr,
    /// CLONE_SETTLS: the child's thread pointer.
    pub tls: u64,
}

const SUPPORTED: u32 = linux::CLONE_VM
    | linux::CLONE_FS
    | linux::CLONE_FILES
    | linux::CLONE_SIGHAND
    | linux::CLONE_VFORK
    | linux::CLONE_PARENT
    | linux::CLONE_THREAD
    | linux::CLONE_SYSVSEM
    | linux::CLONE_SETTLS
    | linux::CLONE_PARENT_SETTID
    | linux::CLONE_CHILD_CLEARTID
    | linux::CLONE_DETACHED
    | linux::CLONE_CHILD_SETTID
    | linux::CLONE_IO
    | linux::CLONE_UNTRACED
    | linux::CLONE_PTRACE
    | linux::CLONE_PIDFD
    | linux::CLONE_NEWUTS;

/// Makes a thread or process that goes on with the caller's registers and 0 as the call's result. Returns its number,
/// with CLONE_VFORK when the child has let go of the memory.
pub fn clone(thread: &Arc<Thread>, frame: &TrapFrame, request: CloneRequest) -> Result<i32> {
    thread.measure_kernel_time();
    let (tid, child) = create(thread, frame, request)?;
    let is_thread = request.flags & u64::from(linux::CLONE_THREAD) != 0;
    if request.flags & u64::from(linux::CLONE_VFORK) != 0 && !is_thread {
        wait_for_vfork(&child, thread.process());
    }
    Ok(tid)
}

/// Makes it and starts it. Apart, so that its large stack frame is gone while the parent waits.
#[inline(never)]
fn create(thread: &Arc<Thread>, frame: &TrapFrame, request: CloneRequest) -> Result<(i32, Arc<Process>)> {
    let has = |flag: u32| request.flags & u64::from(flag) != 0;
    let clear_handlers = request.flags & linux::CLONE_CLEAR_SIGHAND != 0;
    if request.flags & !(u64::from(SUPPORTED) | linux::CLONE_CLEAR_SIGHAND) != 0
        || has(linux::CLONE_THREAD) && !has(linux::CLONE_SIGHAND)
        || has(linux::CLONE_PIDFD) && has(linux::CLONE_DETACHED)
        || has(linux::CLONE_PARENT) && thread.process().pid() == 1
        || has(linux::CLONE_SIGHAND) && (!has(linux::CLONE_VM) || clear_handlers)
    {
        return Err(Errno::EINVAL);
    }
    let parent = thread.process();
    let group_signals = parent.group_signals.load(Ordering::Acquire);
    if thread.signal_pending() {
        // What has come comes before the child: it may end the process, or mean the child as well.
        thread.mark_for_attention();
        return Err(Errno::RESTART_ALWAYS);
    }
    let credentials = thread.identity.own();
    let charge = TaskCharge::new(credentials.user.real);
    let (limit, _) = parent.rlimit(linux::RLIMIT_NPROC);
    let unlimited =
        credentials.user.real == 0 || credentials.has(linux::CAP_SYS_RESOURCE) || credentials.has(linux::CAP_SYS_ADMIN);
    if !unlimited && charge.exceeds(limit) || identity::are_too_many(parent) {
        return Err(Errno::EAGAIN);
    }
    if frames::is_short() {
        return Err(Errno::ENOMEM);
    }
    let parent_memory = parent.memory().ok_or(Errno::ESRCH)?;
    let tid = process::new_pid();

    let mut child_frame = frame.clone();
    child_frame.set_return(0);
    if let Some(stack) = request.stack {
        child_frame.set_sp(stack);
    }
    let (child_process, memory) = if has(linux::CLONE_THREAD) {
        (parent.clone(), parent_memory)
    } else {
        let memory = if has(linux::CLONE_VM) { parent_memory } else { parent_memory.fork()? };
        (new_process(thread, tid, memory.clone(), &request)?, memory)
    };
    let name = thread.name_bytes();
    let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let child = Thread::user(tid, child_process.clone(), &child_frame, &name[..len], |context| {
        Arch::save_user_state(context);
        if has(linux::CLONE_SETTLS) {
            Arch::set_thread_pointer(context, request.tls);
        }
    })?;
    child.set_nice(thread.attributes.nice_of_child(thread.nice()));
    child.set_affinity(thread.affinity());
    child.identity.inherit(&thread.identity, credentials, charge);
    {
        let (mask, alt_stack) = {
            let own = thread.signals.lock();
            (own.mask, own.alt_stack)
        };
        let mut signals = child.signals.lock();
        signals.mask = mask;
        if !has(linux::CLONE_VM) || has(linux::CLONE_VFORK) {
            signals.alt_stack = alt_stack;
        }
    }
    child.attributes.inherit(&thread.attributes);
    if has(linux::CLONE_THREAD) {
        child.move_with(thread);
        if !has(linux::CLONE_FS) {
            child.unshare_fs();
        }
    }
    child.set_uts(if has(linux::CLONE_NEWUTS) { thread.uts().copy() } else { thread.uts() });
    if has(linux::CLONE_PARENT_SETTID) {
        user::copy_out(request.parent_tid, &tid)?;
    }
    if has(linux::CLONE_CHILD_SETTID) {
        // An address that cannot be written to is the program's own affair (schedule_tail of Linux).
        if memory.write(request.child_tid, &tid.to_ne_bytes()) == Err(Errno::ENOMEM) {
            return Err(Errno::ENOMEM);
        }
    }
    if has(linux::CLONE_CHILD_CLEARTID) {
        child.addresses.lock().clear_child_tid = Some(request.child_tid);
    }
    let mut pidfd = None;
    if has(linux::CLONE_PIDFD) {
        let of_thread = has(linux::CLONE_THREAD).then_some(&child);
        let flags = if of_thread.is_some() { pidfd::THREAD } else { 0 };
        let fd = pidfd.insert(parent.files().install(PidFd::open(child_process.clone(), of_thread, flags), true)?);
        if let Err(error) = user::copy_out(request.pidfd, fd) {
            parent.files().close(*fd)?;
            return Err(error);
        }
    }
    if let Err(error) = publish(parent, &child, &child_process, group_signals) {
        if let Some(fd) = pidfd {
            parent.files().close(fd)?;
        }
        return Err(error);
    }
    if !has(linux::CLONE_THREAD) {
        interval_timer::limit_changed(&child_process);
        let parent_pid = child_process.parent_pid();
        let owner = if parent_pid == parent.pid() { Some(parent.clone()) } else { process::find(parent_pid) };
        // With CLONE_PARENT that may have ended meanwhile.
        if !owner.is_some_and(|owner| owner.take_child(&child_process)) {
            exit::adopt(parent, core::slice::from_ref(&child_process));
        }
    }
    // A stop that comes meanwhile is for the new thread too.
    child.mark_for_attention();
    scheduler::start(child);
    Ok((tid, child_process))
}

/// Makes a new thread, and its process where that is new too, known to others. RESTART_ALWAYS where `parent` got a signal
/// with others since it had got `group_signals` of them, EAGAIN where it ends.
fn publish(parent: &Arc<Process>, child: &Arc<Thread>, process: &Arc<Process>, group_signals: u64) -> Result<()> {
    let _guard = signal::GROUPS.lock();
    let is_thread = Arc::ptr_eq(parent, process);
    if !is_thread && parent.group_signals.load(Ordering::Acquire) != group_signals {
        return Err(Errno::RESTART_ALWAYS);
    }
    {
        let mut state = process.state.lock();
        if is_thread && process.is_exiting() {
            return Err(Errno::EAGAIN);
        }
        state.threads.push(child.clone());
    }
    process::add_thread(child.clone());
    if !is_thread {
        process::add_process(process.clone());
    }
    Ok(())
}

fn new_process(
    thread: &Arc<Thread>,
    pid: i32,
    memory: Arc<crate::mm::address_space::AddressSpace>,
    request: &CloneRequest,
) -> Result<Arc<Process>> {
    let has = |flag: u32| request.flags & u64::from(flag) != 0;
    let parent = thread.process();
    let fs = thread.fs();
    let files = if has(linux::CLONE_FILES) { parent.files() } else { Arc::new(parent.files().fork_copy()?) };
    let actions = if has(linux::CLONE_SIGHAND) {
        parent.actions.clone()
    } else {
        let mut table = parent.actions.lock().clone();
        if request.flags & linux::CLONE_CLEAR_SIGHAND != 0 {
            table.reset_handlers();
        }
        Arc::new(IrqLock::new(table))
    };
    let name = parent.name();
    let state = parent.state.lock();
    Ok(Process::new(NewProcess {
        pid,
        parent: if has(linux::CLONE_PARENT) { parent.parent_pid() } else { parent.pid() },
        parent_thread: if has(linux::CLONE_PARENT) { parent.parent_thread() } else { thread.tid() },
        group: state.group,
        session: state.session,
        memory: Some(memory),
        files,
        fs: if has(linux::CLONE_FS) { fs } else { Arc::new(IrqLock::new(fs.lock().clone())) },
        actions,
        executable: state.executable.clone(),
        name,
        limits: state.limits,
        exit_signal: request.exit_signal,
        credentials: thread.identity.own(),
        terminal: state.terminal.inherited(),
        oom_adjustment: parent.oom_adjustment(),
    }))
}

/// The parent's memory is the child's until it runs another program or ends.
fn wait_for_vfork(child: &Arc<Process>, parent: &Arc<Process>) {
    let killed = || parent.is_exiting() || parent.pending_signals().contains(linux::SIGKILL);
    wait::wait_uninterrupted(&child.changed, || child.state.lock().vfork_done || killed());
}
