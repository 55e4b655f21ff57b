//! Processes.

use alloc::{
    collections::BTreeMap,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence},
};

use abi::{Errno, Result, linux};
use klib::credentials::Credentials;

use super::{
    exec::Executable,
    identity::ProcessIdentity,
    interval_timer::{self, IntervalTimer},
    pending::Pending,
    posix_timer::PosixTimers,
    signal::{ActionTable, SignalSet},
    thread::Thread,
    usage::Usage,
    wait::WaitQueue,
};
use crate::{
    fs::{fd_table::FdTable, path::Path, tty::Claim},
    mm::address_space::AddressSpace,
    sync::IrqLock,
    time::TimerCallback,
};

/// Where a process is in the file system.
#[derive(Clone)]
pub struct FsContext {
    /// `/` of this process.
    pub root: Path,
    /// Working directory.
    pub cwd: Path,
    /// umask(2).
    pub umask: u32,
}

/// How a process ended or changed, as wait(2) reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitStatus {
    /// _exit(2) with this status.
    Exited(u8),
    /// Ended by a signal; `true`: one that dumps core by default.
    Signaled(u32, bool),
}

impl ExitStatus {
    /// The word that wait4(2) stores.
    pub const fn wait_word(self) -> i32 {
        match self {
            Self::Exited(status) => (status as i32) << 8,
            Self::Signaled(signal, _) => signal as i32,
        }
    }
}

/// Resource limits, indexed by RLIMIT_*: soft and hard.
pub type Limits = [(u64, u64); linux::RLIM_NLIMITS as usize];

/// What is shared with children at fork and replaced at exec.
pub(super) struct State {
    pub group: i32,
    pub session: i32,
    pub threads: Vec<Arc<Thread>>,
    pub children: Vec<Arc<Process>>,
    /// It is not ending: it may get further children.
    pub adopts: bool,
    pub memory: Option<Arc<AddressSpace>>,
    pub files: Arc<FdTable>,
    pub fs: Arc<IrqLock<FsContext>>,
    pub executable: Option<Executable>,
    pub name: String,
    /// How it is to end, once asked to.
    pub requested: Option<ExitStatus>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Stopped by this signal.
    pub stopped: Option<u32>,
    /// How often SIGCONT or SIGKILL came: a stop that was begun before is not carried out after it.
    pub continued: u64,
    /// A stop or continue that wait(2) has not reported yet: the wait word.
    pub changed: Option<i32>,
    pub limits: Limits,
    /// The signal sent to the parent at the end; 0: none.
    pub exit_signal: u32,
    /// What ended threads and waited-for children used.
    pub dead_threads: Usage,
    pub children_usage: Usage,
    /// On its controlling terminal.
    pub terminal: Claim,
    /// A parent waiting in vfork.
    pub vfork_done: bool,
}

/// A process: threads that share memory, descriptors and signal actions.
pub struct Process {
    pid: i32,
    parent: AtomicI32,
    /// The thread of the parent that made it; 0 once that has ended.
    parent_thread: AtomicI32,
    pub(super) state: IrqLock<State>,
    /// Signal actions; shared under CLONE_SIGHAND.
    pub actions: Arc<IrqLock<ActionTable>>,
    pub(super) pending: IrqLock<Pending>,
    pending_set: AtomicU64,
    exiting: AtomicBool,
    stopping: AtomicBool,
    /// Takes the orphans among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
    subreaper: AtomicBool,
    /// How it weighs when memory is out.
    oom_adjustment: AtomicI32,
    /// It runs another program than the one that made it: setpgid(2) is its own affair then.
    pub(super) has_executed: AtomicBool,
    /// How many signals it got with others, counted with `signal::GROUPS` locked.
    pub(super) group_signals: AtomicU64,
    /// POSIX timers.
    pub posix_timers: IrqLock<PosixTimers>,
    pub(super) interval_timers: IrqLock<[Option<Arc<IntervalTimer>>; interval_timer::KINDS]>,
    /// Timers of its CPU clocks that wait for it to go on.
    parked_timers: IrqLock<Vec<Weak<dyn TimerCallback>>>,
    /// Woken when a signal is queued for it or one of its threads: signalfd(2).
    pub signalled: Arc<WaitQueue>,
    /// Woken when a child ends, stops or continues.
    pub child_changed: Arc<WaitQueue>,
    /// Woken when this process goes on after a stop, ends, or lets go of a vfork parent's memory.
    pub changed: Arc<WaitQueue>,
    /// What others judge it by.
    pub identity: ProcessIdentity,
    /// When it started, in nanoseconds of monotonic time.
    started_ns: u64,
}

static PROCESSES: IrqLock<BTreeMap<i32, Arc<Process>>> = IrqLock::new(BTreeMap::new());
static THREADS: IrqLock<BTreeMap<i32, Arc<Thread>>> = IrqLock::new(BTreeMap::new());
static NEXT_PID: AtomicI32 = AtomicI32::new(2);

/// One past the highest process number (/proc/sys/kernel/pid_max).
pub const PID_MAX: i32 = 4_194_304;

/// A number that no process, thread, group or session has.
pub fn new_pid() -> i32 {
    loop {
        // In one step, so that no two CPUs get the same where the numbers begin anew.
        let next = |pid| Some(if pid + 1 < PID_MAX { pid + 1 } else { 2 });
        let pid = NEXT_PID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(2);
        let in_use = THREADS.lock().contains_key(&pid)
            || PROCESSES.lock().values().any(|process| {
                let state = process.state.lock();
                process.pid == pid || state.group == pid || state.session == pid
            });
        if !in_use {
            return pid;
        }
    }
}

/// The process with this number, zombies included.
pub fn find(pid: i32) -> Option<Arc<Process>> {
    PROCESSES.lock().get(&pid).cloned()
}

/// All processes, zombies included.
pub fn all() -> Vec<Arc<Process>> {
    PROCESSES.lock().values().cloned().collect()
}

/// The thread with this number.
pub fn find_thread(tid: i32) -> Option<Arc<Thread>> {
    THREADS.lock().get(&tid).cloned()
}

/// How many threads there are.
pub fn nr_threads() -> usize {
    THREADS.lock().len()
}

pub(super) fn add_process(process: Arc<Process>) {
    PROCESSES.lock().insert(process.pid, process);
}

pub(super) fn remove_process(pid: i32) {
    let process = PROCESSES.lock().remove(&pid);
    if let Some(process) = process {
        process.identity.drop_charge();
    }
}

pub(super) fn add_thread(thread: Arc<Thread>) {
    THREADS.lock().insert(thread.tid(), thread);
}

pub(super) fn remove_thread(thread: &Arc<Thread>) {
    let removed = THREADS.lock().remove(&thread.tid());
    drop(removed);
}

/// The limits a first process has.
pub fn default_limits() -> Limits {
    const INFINITY: u64 = u64::MAX;
    let mut limits = [(INFINITY, INFINITY); linux::RLIM_NLIMITS as usize];
    let mut set = |resource: u32, soft, hard| {
        if let Some(limit) = limits.get_mut(resource as usize) {
            *limit = (soft, hard);
        }
    };
    set(linux::RLIMIT_STACK, super::exec::STACK_LEN, INFINITY);
    set(linux::RLIMIT_CORE, 0, INFINITY);
    set(linux::RLIMIT_NOFILE, 1024, 1 << 20);
    let tasks = super::identity::max_tasks() as u64 / 2;
    set(linux::RLIMIT_NPROC, tasks, tasks);
    set(linux::RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
    set(linux::RLIMIT_SIGPENDING, tasks, tasks);
    set(linux::RLIMIT_MSGQUEUE, 819_200, 819_200);
    set(linux::RLIMIT_NICE, 0, 0);
    set(linux::RLIMIT_RTPRIO, 0, 0);
    limits
}

/// What a new process starts with.
pub(super) struct NewProcess {
    pub pid: i32,
    pub parent: i32,
    pub parent_thread: i32,
    pub group: i32,
    pub session: i32,
    pub memory: Option<Arc<AddressSpace>>,
    pub files: Arc<FdTable>,
    pub fs: Arc<IrqLock<FsContext>>,
    pub actions: Arc<IrqLock<ActionTable>>,
    pub executable: Option<Executable>,
    pub name: String,
    pub limits: Limits,
    pub exit_signal: u32,
    pub credentials: Arc<Credentials>,
    pub terminal: Claim,
    pub oom_adjustment: i32,
}

impl Process {
    pub(super) fn new(new: NewProcess) -> Arc<Self> {
        Arc::new(Self {
            pid: new.pid,
            parent: AtomicI32::new(new.parent),
            parent_thread: AtomicI32::new(new.parent_thread),
            state: IrqLock::new(State {
                group: new.group,
                session: new.session,
                threads: Vec::new(),
                children: Vec::new(),
                adopts: true,
                memory: new.memory,
                files: new.files,
                fs: new.fs,
                executable: new.executable,
                name: new.name,
                requested: None,
                exit: None,
                stopped: None,
                continued: 0,
                changed: None,
                limits: new.limits,
                exit_signal: new.exit_signal,
                dead_threads: Usage::default(),
                children_usage: Usage::default(),
                terminal: new.terminal,
                vfork_done: false,
            }),
            actions: new.actions,
            pending: IrqLock::new(Pending::default()),
            pending_set: AtomicU64::new(0),
            exiting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            subreaper: AtomicBool::new(false),
            oom_adjustment: AtomicI32::new(new.oom_adjustment),
            has_executed: AtomicBool::new(false),
            group_signals: AtomicU64::new(0),
            posix_timers: IrqLock::new(PosixTimers::default()),
            interval_timers: IrqLock::new([const { None }; interval_timer::KINDS]),
            parked_timers: IrqLock::new(Vec::new()),
            signalled: Arc::new(WaitQueue::new()),
            child_changed: Arc::new(WaitQueue::new()),
            changed: Arc::new(WaitQueue::new()),
            identity: ProcessIdentity::new(new.credentials),
            started_ns: crate::time::monotonic_ns(),
        })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }
    /// Its parent's number.
    pub fn parent_pid(&self) -> i32 {
        self.parent.load(Ordering::SeqCst)
    }
    pub(super) fn set_parent(&self, pid: i32) {
        self.parent.store(pid, Ordering::SeqCst);
        // Before a look at whether it has ended; who ends looks the other way round (`exit::adopt`).
        fence(Ordering::SeqCst);
    }
    /// Whether it goes on and can have children, orphans of others among them.
    pub(super) fn adopts(&self) -> bool {
        let state = self.state.lock();
        state.adopts && state.requested.is_none()
    }
    /// Becomes the parent of `child`; `false` where it has given its children away already, for it ends.
    pub(super) fn take_child(&self, child: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.adopts {
            // Known before it is told so: a child that ends now is looked for among its parent's children.
            state.children.push(child.clone());
            child.set_parent(self.pid);
        }
        state.adopts
    }
    /// The thread of the parent that made it; 0 once that has ended.
    pub(super) fn parent_thread(&self) -> i32 {
        self.parent_thread.load(Ordering::Relaxed)
    }
    pub(super) fn set_parent_thread(&self, tid: i32) {
        self.parent_thread.store(tid, Ordering::Relaxed);
    }
    /// Whether it takes the orphans among its descendants.
    pub fn is_subreaper(&self) -> bool {
        self.subreaper.load(Ordering::Relaxed)
    }
    /// Sets [`Process::is_subreaper`].
    pub fn set_subreaper(&self, on: bool) {
        self.subreaper.store(on, Ordering::Relaxed);
    }
    /// How it weighs when memory is out: from -1000 (it is not ended) to 1000, in thousandths of memory.
    pub fn oom_adjustment(&self) -> i32 {
        self.oom_adjustment.load(Ordering::Relaxed)
    }
    /// Sets [`Process::oom_adjustment`].
    pub fn set_oom_adjustment(&self, adjustment: i32) {
        self.oom_adjustment.store(adjustment, Ordering::Relaxed);
    }
    /// Its process group.
    pub fn group(&self) -> i32 {
        self.state.lock().group
    }
    /// Its session.
    pub fn session(&self) -> i32 {
        self.state.lock().session
    }
    /// Its claim on its controlling terminal.
    pub fn terminal_claim(&self) -> Claim {
        self.state.lock().terminal.clone()
    }
    /// Gives it another claim on a terminal.
    pub fn set_terminal_claim(&self, claim: Claim) {
        let old = core::mem::replace(&mut self.state.lock().terminal, claim);
        drop(old);
    }
    /// Its descriptors.
    pub fn files(&self) -> Arc<FdTable> {
        self.state.lock().files.clone()
    }
    /// A descriptor table of its own where it shares one with another process (CLONE_FILES), else the one it has, with
    /// its locks. ENOMEM.
    pub(super) fn own_files(&self) -> Result<Arc<FdTable>> {
        let files = self.files();
        // The process and this function hold it.
        Ok(if Arc::strong_count(&files) > 2 { Arc::new(files.fork_copy()?) } else { files })
    }
    /// Gives it a descriptor table of its own where it shares one with another process. ENOMEM.
    pub fn unshare_files(&self) -> Result<()> {
        let own = self.own_files()?;
        let old = core::mem::replace(&mut self.state.lock().files, own);
        // Goes after the lock.
        drop(old);
        Ok(())
    }
    /// Puts it, with the threads that move with it, into another place in the file system.
    pub(super) fn set_fs(&self, fs: Arc<IrqLock<FsContext>>) {
        let old = core::mem::replace(&mut self.state.lock().fs, fs);
        drop(old);
    }
    /// Where it is in the file system.
    pub fn fs(&self) -> Arc<IrqLock<FsContext>> {
        self.state.lock().fs.clone()
    }
    /// Its name, the first thread's.
    pub fn name(&self) -> String {
        match self.main_thread() {
            Some(thread) => thread.name(),
            None => self.state.lock().name.clone(),
        }
    }
    /// Its threads, the first one first.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.state.lock().threads.clone()
    }
    /// The thread that has the process's number.
    pub fn main_thread(&self) -> Option<Arc<Thread>> {
        self.state.lock().threads.iter().find(|thread| thread.tid() == self.pid).cloned()
    }
    /// Its address space; `None` once it has ended.
    pub fn memory(&self) -> Option<Arc<AddressSpace>> {
        self.state.lock().memory.clone()
    }
    /// The program it runs.
    pub fn executable(&self) -> Option<Path> {
        self.state.lock().executable.as_ref().map(|executable| executable.path.clone())
    }
    /// A resource limit, soft and hard.
    pub fn rlimit(&self, resource: u32) -> (u64, u64) {
        self.state.lock().limits.get(resource as usize).copied().unwrap_or((u64::MAX, u64::MAX))
    }
    /// The soft limits of several resources.
    pub fn rlimits<const N: usize>(&self, resources: [u32; N]) -> [u64; N] {
        let state = self.state.lock();
        resources.map(|resource| state.limits.get(resource as usize).map_or(u64::MAX, |(soft, _)| *soft))
    }
    /// Sets a resource limit. EINVAL for an unknown one.
    pub fn set_rlimit(self: &Arc<Self>, resource: u32, soft: u64, hard: u64) -> Result<()> {
        let files = {
            let mut state = self.state.lock();
            *state.limits.get_mut(resource as usize).ok_or(Errno::EINVAL)? = (soft, hard);
            state.files.clone()
        };
        if resource == linux::RLIMIT_NOFILE {
            files.set_limit(soft as usize);
        }
        if resource == linux::RLIMIT_CPU {
            interval_timer::limit_changed(self);
        }
        Ok(())
    }
    /// Moves the soft limit on CPU time on.
    pub(super) fn move_cpu_limit(&self, soft: u64) {
        if let Some(limit) = self.state.lock().limits.get_mut(linux::RLIMIT_CPU as usize) {
            limit.0 = soft;
        }
    }
    /// The command line's strings.
    pub fn arguments_range(&self) -> Range<u64> {
        self.memory().map_or(0..0, |memory| memory.layout().arguments)
    }
    /// The environment's strings.
    pub fn environment_range(&self) -> Range<u64> {
        self.memory().map_or(0..0, |memory| memory.layout().environment)
    }
    /// When it started, in nanoseconds of monotonic time.
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }
    /// What all its threads used, the ended ones too. Its memory is not looked at ([`AddressSpace::peak_pages`]).
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        let mut usage = state.dead_threads;
        state.threads.iter().for_each(|thread| usage += thread.usage());
        usage
    }
    /// What children that were waited for used, with theirs.
    pub fn children_usage(&self) -> Usage {
        self.state.lock().children_usage
    }
    /// Remembers how much of its memory was present at most: it lets go of it.
    pub(super) fn keep_peak(&self, memory: &AddressSpace) {
        let peak = memory.peak_pages();
        let mut state = self.state.lock();
        state.dead_threads.peak_pages = state.dead_threads.peak_pages.max(peak);
    }
    /// Keeps a timer of one of its CPU clocks until it goes on. `false` where it has too many.
    pub(super) fn park_timer(&self, timer: &Arc<dyn TimerCallback>) -> bool {
        const MOST: usize = 1024;
        let mut parked = self.parked_timers.lock();
        parked.retain(|other| other.strong_count() > 0);
        let known = parked.iter().any(|other| core::ptr::addr_eq(other.as_ptr(), Arc::as_ptr(timer)));
        if !known {
            if parked.len() >= MOST {
                return false;
            }
            parked.push(Arc::downgrade(timer));
        }
        drop(parked);
        self.threads().iter().for_each(|thread| thread.mark_for_attention());
        true
    }
    /// It goes on: its parked timers look again.
    pub(super) fn unpark_timers(&self) {
        let parked = core::mem::take(&mut *self.parked_timers.lock());
        for timer in parked.iter().filter_map(Weak::upgrade) {
            timer.expired();
        }
    }
    /// How it ended, once it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.state.lock().exit
    }
    /// Whether a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped.is_some()
    }

    /// Whether all its threads are being ended.
    pub fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::Relaxed)
    }
    /// Says that all are to end; `false` where it was said before. Changed with the state locked, as `requested` is, and
    /// so are `clear_exiting` and `set_stopping`.
    pub(super) fn set_exiting(&self) -> bool {
        !self.exiting.swap(true, Ordering::AcqRel)
    }
    pub(super) fn clear_exiting(&self) {
        self.exiting.store(false, Ordering::Release);
    }
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
    pub(super) fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Relaxed);
    }

    /// Signals pending for the process as a whole.
    pub fn pending_signals(&self) -> SignalSet {
        SignalSet::from_bits(self.pending_set.load(Ordering::Relaxed))
    }
    /// Changes the pending signals and keeps the copy that is read without the lock.
    pub(super) fn with_pending<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        let mut pending = self.pending.lock();
        let result = change(&mut pending);
        self.pending_set.store(pending.set().bits(), Ordering::Relaxed);
        result
    }

    pub(super) fn set_job(&self, group: i32, session: Option<i32>) {
        let mut state = self.state.lock();
        state.group = group;
        if let Some(session) = session {
            state.session = session;
        }
    }
}

/// setpgid(2).
pub fn set_group(caller: &Arc<Process>, pid: i32, group: i32) -> Result<()> {
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let target = match find(pid) {
        _ if pid == 0 => caller.clone(),
        Some(target) => target,
        // A thread that is no process's first.
        None if find_thread(pid).is_some() => return Err(Errno::EINVAL),
        None => return Err(Errno::ESRCH),
    };
    if target.parent_pid() == caller.pid() {
        if target.session() != caller.session() {
            return Err(Errno::EPERM);
        }
        if target.has_executed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if !Arc::ptr_eq(&target, caller) {
        return Err(Errno::ESRCH);
    }
    if target.session() == target.pid() {
        return Err(Errno::EPERM);
    }
    let group = if group == 0 { target.pid() } else { group };
    if group != target.pid()
        && !all().iter().any(|process| process.group() == group && process.session() == caller.session())
    {
        return Err(Errno::EPERM);
    }
    target.set_job(group, None);
    Ok(())
}

/// setsid(2).
pub fn new_session(caller: &Arc<Process>) -> Result<i32> {
    let pid = caller.pid();
    if all().iter().any(|process| process.group() == pid) {
        return Err(Errno::EPERM);
    }
    caller.set_job(pid, Some(pid));
    caller.set_terminal_claim(Claim::default());
    Ok(pid)
}
