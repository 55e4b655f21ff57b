//! How threads and processes end, stop, and are waited for.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};

use super::{
    futex, job,
    process::{self, ExitStatus, Process},
    scheduler,
    signal::{self, SIG_IGN, SignalInfo},
    thread::Thread,
    wait::{self, WaitError},
};
use crate::fs::{self, fd_table::FdTable};

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

/// Ends the running thread (exit(2)); with the last one, its process.
pub fn exit_thread(thread: &Arc<Thread>) -> ! {
    let process = thread.process().clone();
    let addresses = core::mem::take(&mut *thread.addresses.lock());
    if let Some(head) = addresses.robust_list {
        futex::release_robust_list(head, thread.tid());
    }
    if let Some(address) = addresses.clear_child_tid {
        futex::clear_and_wake(address);
    }
    // Nothing of the program's memory is touched from here on, so its last user can take it down.
    scheduler::use_memory(None);
    // Before the process is without this thread: one that runs another program then takes the process's number.
    process::remove_thread(thread);
    let (last, gone) = {
        let mut state = process.state.lock();
        let position = state.threads.iter().position(|other| Arc::ptr_eq(other, thread));
        let gone = position.map(|position| state.threads.remove(position));
        state.dead_threads_ns += thread.cpu_time_ns();
        (state.threads.is_empty(), gone)
    };
    drop(gone);
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
        end_process(&process);
    } else {
        process.changed.wake_all();
    }
    drop(process);
    scheduler::end(thread)
}

/// The last thread is gone: gives everything back and tells the parent.
fn end_process(process: &Arc<Process>) {
    let (files, memory, alarm, children, status, fs_executable) = {
        let mut state = process.state.lock();
        let status = state.requested.unwrap_or(ExitStatus::Exited(0));
        let files = core::mem::replace(&mut state.files, Arc::new(FdTable::new()));
        (
            files,
            state.memory.take(),
            state.alarm.take(),
            core::mem::take(&mut state.children),
            status,
            state.executable.take(),
        )
    };
    drop(alarm);
    drop(files);
    drop(fs_executable);
    drop(memory);
    if process.session() == process.pid() {
        fs::tty::leave_session(process);
    }
    adopt(&children);
    job::leave_groups(process, &children);
    drop(children);
    {
        let mut state = process.state.lock();
        state.exit = Some(status);
        state.vfork_done = true;
    }
    process.changed.wake_all();
    if process.pid() == 1 {
        super::init::process_one_ended(status);
        return;
    }
    let (code, value) = match status {
        ExitStatus::Exited(status) => (linux::CLD_EXITED, i32::from(status)),
        ExitStatus::Signaled(signal, false) => (linux::CLD_KILLED, signal as i32),
        ExitStatus::Signaled(signal, true) => (linux::CLD_DUMPED, signal as i32),
    };
    notify_parent(process, code as i32, value);
}

/// Orphans become children of process 1, which is told of those that have ended.
fn adopt(children: &[Arc<Process>]) {
    let Some(first) = process::find(1) else { return };
    let mut ended = false;
    for child in children {
        // Known before it is told so: a child that ends now is looked for among its parent's children.
        first.state.lock().children.push(child.clone());
        child.set_parent(1);
        // One that has ended and told its old parent is told of here; one that ends later sees its new parent.
        ended |= child.exit_status().is_some();
    }
    if ended {
        signal::send_to_process(&first, linux::SIGCHLD, SignalInfo::kernel(linux::SIGCHLD));
        first.child_changed.wake_all();
    }
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
            SignalInfo::child(code, process.pid(), process.credentials().user.real, value)
        } else {
            SignalInfo::kernel(exit_signal)
        };
        signal::send_to_process(&parent, exit_signal, info);
    }
    parent.child_changed.wake_all();
}

/// Takes an ended child away from its parent. `false` where another thread has: a child is reported once.
fn reap(parent: &Process, child: &Arc<Process>) -> bool {
    let used_ns = child.cpu_time_ns() + child.children_cpu_time_ns();
    let removed = {
        let mut state = parent.state.lock();
        let position = state.children.iter().position(|other| Arc::ptr_eq(other, child));
        let removed = position.map(|position| state.children.remove(position));
        if removed.is_some() {
            state.children_ns += used_ns;
        }
        removed
    };
    if removed.is_some() {
        process::remove_process(child.pid());
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

/// What a wait found.
pub struct WaitOutcome {
    /// The child's number.
    pub pid: i32,
    /// The wait word.
    pub word: i32,
    /// The child's real user id.
    pub uid: u32,
    /// CPU time of the child and its own waited-for children, in nanoseconds.
    pub cpu_time_ns: u64,
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
}

/// wait4(2) and waitid(2). `None`: nothing to report and `no_hang`. ECHILD without such a child.
pub fn wait_for_child(caller: &Arc<Process>, which: WaitFor, options: WaitOptions) -> Result<Option<WaitOutcome>> {
    let look = || -> Option<Result<Option<WaitOutcome>>> {
        let candidates: Vec<Arc<Process>> = caller
            .state
            .lock()
            .children
            .iter()
            .filter(|child| match which {
                WaitFor::Any => true,
                WaitFor::Pid(pid) => child.pid() == pid,
                WaitFor::Group(group) => child.group() == group,
            })
            .cloned()
            .collect();
        if candidates.is_empty() {
            return Some(Err(Errno::ECHILD));
        }
        for child in &candidates {
            if let Some(word) = report(child, options) {
                let cpu_time_ns = child.cpu_time_ns() + child.children_cpu_time_ns();
                if !options.keep && child.exit_status().is_some() && !reap(caller, child) {
                    continue;
                }
                return Some(Ok(Some(WaitOutcome {
                    pid: child.pid(),
                    word,
                    uid: child.credentials().user.real,
                    cpu_time_ns,
                })));
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
