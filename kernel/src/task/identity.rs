//! The credentials of threads and processes, and how many tasks each user has.
//!
//! Every thread has an [`Identity`]: its [`Credentials`], shared until somebody changes them, and for the length of a
//! call that asks in another's name (access(2)) those it acts with instead. Path walks ask on every component, so what
//! they need in the common case, whether permission bits count at all, is a flag read without a lock. A process is
//! known to others by the credentials of the thread with its number; they outlive that thread in the process.
//!
//! A [`TaskCharge`] stands for one task of a user, as RLIMIT_NPROC counts them: a thread until it ends, the one with
//! the process's number until the process is waited for.
//!
//! Locks: each is taken alone, below the process's and above the heap's.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result, linux};
use klib::credentials::Credentials;

use super::{process::Process, scheduler, thread::Thread};
use crate::{
    mm::{PAGE_SIZE, frames, stack::STACK_SIZE},
    sync::{IrqLock, Lazy},
};

static ROOT: Lazy<Arc<Credentials>> = Lazy::new(|| Arc::new(Credentials::root()));
/// Tasks by real user id.
static TASKS: IrqLock<BTreeMap<u32, u64>> = IrqLock::new(BTreeMap::new());

/// Tasks of all users.
static NR_TASKS: AtomicUsize = AtomicUsize::new(0);
/// The most tasks there may be (/proc/sys/kernel/threads-max); 0 until it is known.
static MAX_TASKS: AtomicUsize = AtomicUsize::new(0);
/// The range that [`MAX_TASKS`] can be set to.
pub const MAX_TASKS_RANGE: core::ops::RangeInclusive<usize> = 20..=1 << 20;
/// Tasks that process 1 may start beyond that, so that the console stays usable.
const RESERVED_TASKS: usize = 64;

/// The most tasks there may be. At first as many as leave their kernel stacks a sixteenth of memory: a process that does
/// nothing but fork has its page tables and a few pages of its own beside, about eight times its stack.
pub fn max_tasks() -> usize {
    match MAX_TASKS.load(Ordering::Relaxed) {
        0 => {
            let max = (frames::stats().total * PAGE_SIZE / (16 * STACK_SIZE)).clamp(256, 1 << 15);
            MAX_TASKS.store(max, Ordering::Relaxed);
            max
        }
        max => max,
    }
}

/// Sets [`max_tasks`]; EINVAL beyond [`MAX_TASKS_RANGE`].
pub fn set_max_tasks(max: usize) -> Result<()> {
    if !MAX_TASKS_RANGE.contains(&max) {
        return Err(Errno::EINVAL);
    }
    MAX_TASKS.store(max, Ordering::Relaxed);
    Ok(())
}

/// Whether there are more tasks than there may be for `process` to have one more, which is counted already.
pub(super) fn are_too_many(process: &Process) -> bool {
    let reserve = if process.pid() == 1 { RESERVED_TASKS } else { 0 };
    NR_TASKS.load(Ordering::Relaxed) > max_tasks() + reserve
}

/// The credentials of the kernel and of process 1.
pub fn root() -> Arc<Credentials> {
    ROOT.clone()
}

/// How many tasks a user has.
fn tasks_of(uid: u32) -> u64 {
    TASKS.lock().get(&uid).copied().unwrap_or(0)
}

/// One task of a user.
pub struct TaskCharge(u32);

impl TaskCharge {
    /// Counts one more task of user `uid`.
    pub fn new(uid: u32) -> Self {
        *TASKS.lock().entry(uid).or_insert(0) += 1;
        NR_TASKS.fetch_add(1, Ordering::Relaxed);
        Self(uid)
    }

    /// Whether the user has more tasks than `limit`.
    pub fn exceeds(&self, limit: u64) -> bool {
        tasks_of(self.0) > limit
    }
}

impl Drop for TaskCharge {
    fn drop(&mut self) {
        NR_TASKS.fetch_sub(1, Ordering::Relaxed);
        let mut tasks = TASKS.lock();
        if let Some(count) = tasks.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                tasks.remove(&self.0);
            }
        }
    }
}

/// Who a thread is.
pub struct Identity {
    own: IrqLock<Arc<Credentials>>,
    acting: IrqLock<Option<Arc<Credentials>>>,
    /// [`Credentials::reaches_all_files`] of what it acts with.
    reaches_all_files: AtomicBool,
    /// Changed to a user with more tasks than its limit: the next execve(2) fails unless there are fewer by then.
    over_limit: AtomicBool,
    charge: IrqLock<Option<TaskCharge>>,
    /// personality(2).
    personality: AtomicU32,
}

impl Default for Identity {
    /// Root's.
    fn default() -> Self {
        Self {
            own: IrqLock::new(root()),
            acting: IrqLock::new(None),
            reaches_all_files: AtomicBool::new(true),
            over_limit: AtomicBool::new(false),
            charge: IrqLock::new(None),
            personality: AtomicU32::new(0),
        }
    }
}

impl Identity {
    /// Which system's behaviour it asked for (personality(2)).
    pub fn personality(&self) -> u32 {
        self.personality.load(Ordering::Relaxed)
    }

    /// Sets [`personality`](Self::personality).
    pub fn set_personality(&self, personality: u32) {
        self.personality.store(personality, Ordering::Relaxed);
    }

    /// What others judge the thread by.
    pub fn own(&self) -> Arc<Credentials> {
        self.own.lock().clone()
    }

    /// What the thread acts with.
    pub fn acting(&self) -> Arc<Credentials> {
        let acting = self.acting.lock().clone();
        acting.unwrap_or_else(|| self.own())
    }

    /// Whether a capability counts for what the thread does.
    pub fn has(&self, capability: u32) -> bool {
        self.own.lock().has(capability)
    }

    /// Whether permission bits do not stand in the thread's way ([`Credentials::reaches_all_files`]).
    #[inline]
    pub fn reaches_all_files(&self) -> bool {
        self.reaches_all_files.load(Ordering::Relaxed)
    }

    /// Whether access(2) asks with something else than other calls.
    pub fn asks_differently(&self) -> bool {
        self.own.lock().differs_as_real()
    }

    /// Makes a new thread what the one that made it is.
    pub(super) fn inherit(&self, parent: &Self, credentials: Arc<Credentials>, charge: TaskCharge) {
        self.set_personality(parent.personality());
        self.reaches_all_files.store(credentials.reaches_all_files(), Ordering::Relaxed);
        *self.own.lock() = credentials;
        *self.charge.lock() = Some(charge);
    }

    /// The task it counts as; it is none any more.
    pub(super) fn take_charge(&self) -> Option<TaskCharge> {
        self.charge.lock().take()
    }
}

impl Thread {
    /// EPERM unless a capability counts for it.
    pub fn require(&self, capability: u32) -> Result<()> {
        if self.identity.has(capability) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Changes its credentials: only the running thread does that to itself. The process hides from others where the
    /// change says so, and the task counts for its new user.
    pub fn set_credentials(&self, new: Credentials) {
        let old = self.identity.own();
        if *old == new {
            // The same ones still: what was opened with them counts as the thread's own.
            return;
        }
        let new = Arc::new(new);
        if old.must_hide(&new)
            && let Some(memory) = self.process().memory()
        {
            memory.set_dumpable(false);
        }
        self.identity.reaches_all_files.store(new.reaches_all_files(), Ordering::Relaxed);
        *self.identity.own.lock() = new.clone();
        if old.user.real != new.user.real {
            let (limit, _) = self.process().rlimit(linux::RLIMIT_NPROC);
            // As Linux: what the user has had so far counts here, without this thread.
            let over = new.user.real != 0 && tasks_of(new.user.real) > limit;
            self.identity.over_limit.store(over, Ordering::Relaxed);
            let charge = TaskCharge::new(new.user.real);
            let old = self.identity.charge.lock().replace(charge);
            drop(old);
        }
        if self.tid() == self.process().pid() {
            self.process().identity.set(new);
        }
    }

    /// EAGAIN where the thread became a user that has more tasks than its limit still (execve(2)).
    pub fn check_task_limit(&self) -> Result<()> {
        if !self.identity.over_limit.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (limit, _) = self.process().rlimit(linux::RLIMIT_NPROC);
        if self.identity.charge.lock().as_ref().is_some_and(|charge| charge.exceeds(limit)) {
            return Err(Errno::EAGAIN);
        }
        self.identity.over_limit.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `work` in the name of `credentials`.
    pub fn act_as<T>(&self, credentials: Credentials, work: impl FnOnce() -> T) -> T {
        let reaches = credentials.reaches_all_files();
        *self.identity.acting.lock() = Some(Arc::new(credentials));
        let before = self.identity.reaches_all_files.swap(reaches, Ordering::Relaxed);
        let result = work();
        self.identity.reaches_all_files.store(before, Ordering::Relaxed);
        let acted = self.identity.acting.lock().take();
        drop(acted);
        result
    }
}

/// What a process is known by: the credentials of the thread with its number, and the task that counts for it once
/// that thread has ended.
pub struct ProcessIdentity {
    credentials: IrqLock<Arc<Credentials>>,
    charge: IrqLock<Option<TaskCharge>>,
}

impl ProcessIdentity {
    pub(super) fn new(credentials: Arc<Credentials>) -> Self {
        Self { credentials: IrqLock::new(credentials), charge: IrqLock::new(None) }
    }

    fn set(&self, credentials: Arc<Credentials>) {
        let old = core::mem::replace(&mut *self.credentials.lock(), credentials);
        drop(old);
    }

    /// The thread with the process's number ended: it counts until the process is waited for.
    pub(super) fn keep_charge(&self, charge: Option<TaskCharge>) {
        *self.charge.lock() = charge;
    }

    /// The process was waited for, or another thread took its number.
    pub(super) fn drop_charge(&self) {
        let charge = self.charge.lock().take();
        drop(charge);
    }
}

impl Process {
    /// What others judge it by.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.identity.credentials.lock().clone()
    }

    /// Who its files in /proc belong to: its effective ids, but root's where others must not look into it.
    pub fn file_owner(&self) -> (u32, u32) {
        if !self.memory().is_none_or(|memory| memory.is_dumpable()) {
            return (0, 0);
        }
        let credentials = self.credentials();
        (credentials.user.effective, credentials.group.effective)
    }

    /// Whether `thread` may look into this process (ptrace(2), PTRACE_MODE_READ_FSCREDS): EPERM.
    pub fn check_inspection(&self, thread: &Thread) -> Result<()> {
        self.check_access(thread, true)
    }

    /// As [`check_inspection`](Self::check_inspection) with the real ids (PTRACE_MODE_ATTACH_REALCREDS).
    pub fn check_attachment(&self, thread: &Thread) -> Result<()> {
        self.check_access(thread, false)
    }

    fn check_access(&self, thread: &Thread, file_ids: bool) -> Result<()> {
        if core::ptr::eq(Arc::as_ptr(thread.process()), self) {
            return Ok(());
        }
        let (caller, target) = (thread.identity.own(), self.credentials());
        if caller.has(linux::CAP_SYS_PTRACE) {
            return Ok(());
        }
        let counting = if file_ids { caller.effective } else { caller.permitted };
        let dumpable = self.memory().is_none_or(|memory| memory.is_dumpable());
        if caller.is_same_user(&target, file_ids) && dumpable && target.permitted.is_within(counting) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// Whether `thread` may send it `signal`: EPERM (kill(2)).
    pub fn check_signal(&self, thread: &Thread, signal: u32) -> Result<()> {
        let sender = thread.process();
        let allowed = core::ptr::eq(Arc::as_ptr(sender), self)
            || thread.identity.own().may_signal(&self.credentials())
            || signal == linux::SIGCONT && sender.session() == self.session();
        if allowed { Ok(()) } else { Err(Errno::EPERM) }
    }
}

/// EPERM unless a capability counts for the running thread.
pub fn require(capability: u32) -> Result<()> {
    scheduler::current().require(capability)
}
