//! How threads and processes end, stop, and are waited for.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use abi::{Errno, Result, linux};

use super::{
    futex, futex_pi, interval_timer, job, posix_timer,
    process::{self, ExitStatus, Process},
    scheduler,
    signal::{self, SIG_IGN, SignalInfo},
    thread::Thread,
    usage::Usage,
    wait::{self, WaitError},
};
use crate::fs::{self, fd_table::FdTable};

/// Nanoseconds of a tick as times(2) counts them.
const TICK_NS: u64 = 10_000_000;

/// Ends the process of the running thread (exit_group(2), or a signal).
pub fn exit_process(thread: &Arc<Thread>, status: ExitStatus) -> ! {
    request_exit(thread.process(), status);
    exit_thread(thread)
}

/// Asks all threads of a process to end. The first request's status counts.
pub fn request_exit(process: &Arc<Process>, status: ExitStatus) {
    {
        let mut state = process.state.lock();
        state.requested.get_or_insert(status);
        process.set_exiting();
    }
    for thread in process.threads() {
        thread.notify();
    }
    process.changed.wake_all();
}

/// Ends the running thread, whose process is ending.
pub fn exit_thread(thread: &Arc<Thread>) -> ! {
    leave(thread, ExitStatus::Exited(0))
}

/// Ends the running thread (exit(2)); with the last one its process, with this status if it has no other.
pub fn exit_one_thread(thread: &Arc<Thread>, status: u8) -> ! {
    leave(thread, ExitStatus::Exited(status))
}

fn leave(thread: &Arc<Thread>, status: ExitStatus) -> ! {
    thread.measure_kernel_time();
    let process = thread.process().clone();
    let addresses = core::mem::take(&mut *thread.addresses.lock());
    if let Some(head) = addresses.robust_list {
        futex::release_robust_list(head, thread.tid());
    }
    futex_pi::release(thread, true);
    if let Some(address) = addresses.clear_child_tid {
        futex::clear_and_wake(address);
    }
    // So whoever ends the process can take its memory down.
    thread.leave_memory();
    // Before the process is without this thread: one that runs another program then takes the process's number.
    process::remove_thread(thread);
    thread.leave_kernel();
    let (last, gone) = {
        let mut state = process.state.lock();
        let position = state.threads.iter().position(|other| Arc::ptr_eq(other, thread));
        let gone = position.map(|position| state.threads.remove(position));
        state.dead_threads += thread.usage();
        let last = state.threads.is_empty();
        if last {
            state.requested.get_or_insert(status);
        }
        (last, gone)
    };
    drop(gone);
    thread_gone(&process, thread.tid());
    if !process.pending_signals().is_empty() {
        process.threads().iter().for_each(Thread::notify);
    }
    let charge = thread.identity.take_charge();
    if thread.tid() == process.pid() {
        process.identity.keep_charge(charge);
    } else {
        drop(charge);
    }
    if last {
        end_process(&process, thread);
    } else {
        process.changed.wake_all();
    }
    drop(process);
    scheduler::end(thread)
}

/// A thread ended: its children hear of it, as far as they asked to (prctl(2), PR_SET_PDEATHSIG).
fn thread_gone(process: &Arc<Process>, tid: i32) {
    let children: Vec<Arc<Process>> = process.state.lock().children.clone();
    for child in children.iter().filter(|child| child.parent_thread() == tid) {
        child.set_parent_thread(0);
        for thread in child.threads() {
            let signal = thread.attributes.death_signal.load(Ordering::Relaxed);
            if signal != 0 {
                signal::send_to_process(
                    child,
                    signal,
                    SignalInfo::user(signal, process.pid(), process.credentials().user.real),
                );
            }
        }
    }
}

/// The last thread is gone: gives everything back and tells the parent.
fn end_process(process: &Arc<Process>, thread: &Thread) {
    let counted_ns = thread.cpu_time_ns();
    interval_timer::stop_all(process);
    posix_timer::delete_all(process);
    if let Some(memory) = process.memory() {
        process.keep_peak(&memory);
    }
    let (files, memory, children, status, fs_executable) = {
        let mut state = process.state.lock();
        let status = state.requested.unwrap_or(ExitStatus::Exited(0));
        state.adopts = false;
        let files = core::mem::replace(&mut state.files, Arc::new(FdTable::new()));
        (files, state.memory.take(), core::mem::take(&mut state.children), status, state.executable.take())
    };
    drop(files);
    drop(fs_executable);
    scheduler::use_memory(None);
    if let Some(memory) = memory {
        scheduler::release_memory(&memory);
    }
    if process.session() == process.pid() {
        fs::tty::leave_session(process);
    }
    adopt(process, &children);
    job::leave_groups(process, &children);
    drop(children);
    let used_ns = thread.cpu_time_ns().saturating_sub(counted_ns);
    {
        let mut state = process.state.lock();
        state.dead_threads.system_ns += used_ns;
        state.exit = Some(status);
        state.vfork_done = true;
    }
    process.changed.wake_all();
    if process.pid() == 1 {
        super::init::process_one_ended(status);
        return;
    }
    tell_end(process);
}

/// Tells the parent that a process has ended.
fn tell_end(process: &Arc<Process>) {
    let (code, value) = match process.exit_status() {
        Some(ExitStatus::Exited(status)) => (linux::CLD_EXITED, i32::from(status)),
        Some(ExitStatus::Signaled(signal, false)) => (linux::CLD_KILLED, signal as i32),
        Some(ExitStatus::Signaled(signal, true)) => (linux::CLD_DUMPED, signal as i32),
        None => return,
    };
    notify_parent(process, code as i32, value);
}

/// Orphans of `process` become children of the nearest of its ancestors that asked for them (prctl(2),
/// PR_SET_CHILD_SUBREAPER), else of process 1, which is told of those that have ended.
pub(super) fn adopt(process: &Process, children: &[Arc<Process>]) {
    for child in children {
        // The one that is found may end before it has the child; then it is not found again.
        while let Some(reaper) = reaper_for(process) {
            if reaper.take_child(child) {
                break;
            }
        }
        child.set_parent_thread(0);
        // One that has ended and told its old parent is told of here; one that ends later sees its new parent.
        if child.exit_status().is_some() {
            child.state.lock().exit_signal = linux::SIGCHLD;
            tell_end(child);
        }
    }
}

/// Who takes the orphans of a process; `None` where process 1 itself has ended.
fn reaper_for(process: &Process) -> Option<Arc<Process>> {
    let mut reaper = process::find(process.parent_pid());
    while let Some(candidate) = &reaper
        && candidate.pid() > 1
        && !(candidate.is_subreaper() && candidate.adopts())
    {
        reaper = process::find(candidate.parent_pid());
    }
    reaper.filter(|reaper| reaper.pid() > 0).or_else(|| process::find(1)).filter(|reaper| reaper.adopts())
}

/// SIGCHLD for the parent; an ended child whose parent does not care goes at once.
pub(super) fn notify_parent(process: &Arc<Process>, code: i32, value: i32) {
    let Some(parent) = process::find(process.parent_pid()) else {
        process::remove_process(process.pid());
        return;
    };
    let action = parent.actions.lock().get(linux::SIGCHLD);
    let ended = process.exit_status().is_some();
    let exit_signal = process.state.lock().exit_signal;
    let no_zombie = action.handler == SIG_IGN || action.flags & u64::from(linux::SA_NOCLDWAIT) != 0;
    if ended && exit_signal == linux::SIGCHLD && no_zombie {
        reap(&parent, process);
    }
    let wanted = ended || action.flags & u64::from(linux::SA_NOCLDSTOP) == 0;
    if wanted && exit_signal != 0 && (ended || exit_signal == linux::SIGCHLD) {
        let info = if exit_signal == linux::SIGCHLD {
            let usage = process.usage();
            SignalInfo::child(code, process.pid(), process.credentials().user.real, value)
                .with_times(usage.user_ns / TICK_NS, usage.system_ns / TICK_NS)
        } else {
            SignalInfo::kernel(exit_signal)
        };
        signal::send_to_process(&parent, exit_signal, info);
    }
    parent.child_changed.wake_all();
}

/// What an ended child and those it waited for used.
fn usage_with_children(child: &Process) -> Usage {
    let mut usage = child.usage();
    usage += child.children_usage();
    usage
}

/// Takes an ended child away from its parent. `false` where another thread has: a child is reported once.
fn reap(parent: &Process, child: &Arc<Process>) -> bool {
    let usage = usage_with_children(child);
    let removed = {
        let mut state = parent.state.lock();
        let position = state.children.iter().position(|other| Arc::ptr_eq(other, child));
        let removed = position.map(|position| state.children.remove(position));
        if removed.is_some() {
            state.children_usage += usage;
        }
        removed
    };
    if removed.is_some() {
        process::remove_process(child.pid());
        child.changed.wake_all();
    }
    removed.is_some()
}

/// How often the thread's process was told to go on; to be looked at before a stop signal is taken.
pub(super) fn times_continued(thread: &Thread) -> u64 {
    thread.process().state.lock().continued
}

/// A stop signal was taken: the whole process stops, unless it was told to go on since it had been `continued` times.
pub(super) fn stop(thread: &Arc<Thread>, signal: u32, continued: u64) {
    let process = thread.process();
    // Nobody could let an orphaned group go on (credentials(7)).
    if process.pid() == 1 || signal != linux::SIGSTOP && job::is_orphaned(process.group()) {
        return;
    }
    {
        let mut state = process.state.lock();
        if state.continued != continued {
            return;
        }
        state.stopped = Some(signal);
        state.changed = Some((signal as i32) << 8 | 0x7f);
        process.set_stopping(true);
    }
    for other in process.threads() {
        if !Arc::ptr_eq(&other, thread) {
            other.notify();
        }
    }
    notify_parent(process, linux::CLD_STOPPED as i32, signal as i32);
    wait_while_stopped(thread);
}

/// Stays here while the process is stopped and not being ended.
pub(super) fn wait_while_stopped(thread: &Arc<Thread>) {
    let process = thread.process();
    while process.is_stopping() && !process.is_exiting() {
        let _registration = wait::Registration::new(&process.changed, thread.clone());
        scheduler::prepare_to_block(thread);
        if !process.is_stopping() || process.is_exiting() {
            scheduler::cancel_block(thread);
            break;
        }
        scheduler::schedule();
    }
}

/// Which children a wait is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// Any.
    Any,
    /// The one with this number.
    Pid(i32),
    /// Those of this group.
    Group(i32),
}

impl WaitFor {
    fn includes(self, child: &Process) -> bool {
        match self {
            Self::Any => true,
            Self::Pid(pid) => child.pid() == pid,
            Self::Group(group) => child.group() == group,
        }
    }
}

/// What a wait found.
pub struct WaitOutcome {
    /// The child's number.
    pub pid: i32,
    /// The wait word.
    pub word: i32,
    /// The child's real user id.
    pub uid: u32,
    /// What the child and its own waited-for children used.
    pub usage: Usage,
}

/// What a wait is interested in (waitid(2)).
#[derive(Clone, Copy, Debug)]
pub struct WaitOptions {
    /// Ended children.
    pub exited: bool,
    /// Stopped children.
    pub stopped: bool,
    /// Continued children.
    pub continued: bool,
    /// Do not block.
    pub no_hang: bool,
    /// Leave the child as it is.
    pub keep: bool,
    /// Children whatever signal they end with (__WALL); else only those with SIGCHLD, or with `clones` (__WCLONE) only
    /// the others.
    pub all: bool,
    /// See `all`.
    pub clones: bool,
    /// Only children of the calling thread itself (__WNOTHREAD).
    pub own_thread: bool,
}

impl WaitOptions {
    fn concern(&self, child: &Process, caller_tid: i32) -> bool {
        let is_clone = child.state.lock().exit_signal != linux::SIGCHLD;
        (self.all || is_clone == self.clones) && !(self.own_thread && child.parent_thread() != caller_tid)
    }
}

/// wait4(2) and waitid(2). `None`: nothing to report and `no_hang`. ECHILD without such a child.
pub fn wait_for_child(caller: &Arc<Thread>, which: WaitFor, options: WaitOptions) -> Result<Option<WaitOutcome>> {
    let caller_tid = caller.tid();
    let caller = caller.process();
    let look = || -> Option<Result<Option<WaitOutcome>>> {
        let candidates: Vec<Arc<Process>> = caller
            .state
            .lock()
            .children
            .iter()
            .filter(|child| which.includes(child) && options.concern(child, caller_tid))
            .cloned()
            .collect();
        if candidates.is_empty() {
            return Some(Err(Errno::ECHILD));
        }
        for child in &candidates {
            if let Some(word) = report(child, options) {
                let usage = usage_with_children(child);
                if !options.keep && child.exit_status().is_some() && !reap(caller, child) {
                    continue;
                }
                let uid = child.credentials().user.real;
                return Some(Ok(Some(WaitOutcome { pid: child.pid(), word, uid, usage })));
            }
        }
        options.no_hang.then_some(Ok(None))
    };
    match wait::wait_until(&[&caller.child_changed], None, look) {
        Ok(result) => result,
        Err(WaitError::Interrupted | WaitError::TimedOut) => Err(Errno::RESTART),
    }
}

/// The wait word of a child with something to report.
fn report(child: &Process, options: WaitOptions) -> Option<i32> {
    let mut state = child.state.lock();
    if let Some(status) = state.exit {
        return options.exited.then(|| status.wait_word());
    }
    let word = state.changed?;
    let wanted = if word == 0xffff { options.continued } else { options.stopped };
    if wanted && !options.keep {
        state.changed = None;
    }
    wanted.then_some(word)
}
