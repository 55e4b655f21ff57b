//! Waiting for something to happen.
//!
//! A [`WaitQueue`] belongs to whatever can change (a pipe, a child's exit, a terminal). Who waits registers a
//! [`Wake`] and looks at the condition again after every wake; who changes something wakes everybody registered.
//! Threads wait through [`wait_until`]; epoll registers itself, so that one mechanism serves read, poll and epoll.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;

use crate::{
    sync::{IrqLock, Once},
    task::{exit, scheduler, signal, thread::Thread},
    time::{self, TimerAction},
};

/// Something that can be told "look again". Called with interrupts masked; must not block.
pub trait Wake: Send + Sync {
    /// Look again.
    fn wake(&self);
}

/// Who waits for one thing.
pub struct WaitQueue {
    entries: IrqLock<Entries>,
}

struct Entries {
    next_id: u64,
    /// Most queues have one at a time: it needs no memory of its own.
    one: Option<(u64, Arc<dyn Wake>)>,
    /// The others, by when they came. A program may register a million times with one queue (poll(2)), so leaving is no
    /// search, and no memory is needed in one piece.
    more: BTreeMap<u64, Arc<dyn Wake>>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { entries: IrqLock::new(Entries { next_id: 0, one: None, more: BTreeMap::new() }) }
    }

    /// Wakes everybody registered.
    pub fn wake_all(&self) {
        let entries = self.entries.lock();
        for waker in entries.one.iter().map(|(_, waker)| waker).chain(entries.more.values()) {
            waker.wake();
        }
    }

    fn register(&self, waker: Arc<dyn Wake>) -> u64 {
        let mut entries = self.entries.lock();
        entries.next_id += 1;
        let id = entries.next_id;
        if entries.one.is_none() {
            entries.one = Some((id, waker));
        } else {
            entries.more.insert(id, waker);
        }
        id
    }

    fn unregister(&self, id: u64) {
        let removed = {
            let mut entries = self.entries.lock();
            match entries.one.take_if(|(one, _)| *one == id) {
                Some((_, waker)) => Some(waker),
                None => entries.more.remove(&id),
            }
        };
        drop(removed);
    }
}

/// A place in a queue; leaves it when dropped.
pub struct Registration {
    queue: Arc<WaitQueue>,
    id: u64,
}

impl Registration {
    /// Registers `waker` with `queue`.
    pub fn new(queue: &Arc<WaitQueue>, waker: Arc<dyn Wake>) -> Self {
        Self { queue: queue.clone(), id: queue.register(waker) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.queue.unregister(self.id);
    }
}

/// Why a wait ended without its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// A signal is pending (or the process is being killed).
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

impl From<WaitError> for Errno {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Interrupted => Self::RESTART,
            WaitError::TimedOut => Self::ETIMEDOUT,
        }
    }
}

/// Blocks until `condition` gives a value. It is evaluated first without blocking and again after every wake of one of
/// `queues`; it must not block. `deadline_ns` is on the monotonic clock. Every wait ends when a signal is pending.
pub fn wait_until<T, const N: usize>(
    queues: &[&Arc<WaitQueue>; N],
    deadline_ns: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    if let Some(value) = condition() {
        return Ok(value);
    }
    let thread = scheduler::current();
    let _registrations = queues.map(|queue| Registration::new(queue, thread.clone()));
    block_until(&thread, deadline_ns, condition)
}

/// Blocks until `condition`, which is looked at again after every wake of `queue` and every signal; signals wait.
pub fn wait_uninterrupted(queue: &Arc<WaitQueue>, mut condition: impl FnMut() -> bool) {
    let thread = scheduler::current();
    let _registration = Registration::new(queue, thread.clone());
    loop {
        scheduler::prepare_to_block(&thread);
        if condition() {
            scheduler::cancel_block(&thread);
            return;
        }
        scheduler::schedule();
    }
}

/// A lock to wait for asleep, held over user copies: who has it does something that others must not come between, such as
/// a write at a file's end. Signals do not end the wait.
pub struct Turn {
    taken: AtomicBool,
    /// Made when somebody has to wait for the first time.
    waiting: Once<Arc<WaitQueue>>,
}

/// A held [`Turn`].
pub struct TurnGuard<'a>(&'a Turn);

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

impl Turn {
    /// A free one.
    pub const fn new() -> Self {
        Self { taken: AtomicBool::new(false), waiting: Once::new() }
    }

    /// Takes it, once it is free.
    pub fn take(&self) -> TurnGuard<'_> {
        let try_take = || !self.taken.swap(true, Ordering::SeqCst);
        if !try_take() {
            let queue = self.waiting.call_once(|| Arc::new(WaitQueue::new()));
            wait_uninterrupted(queue, try_take);
        }
        TurnGuard(self)
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::SeqCst);
        // Who made the queue looks at `taken` again after that, so nobody is missed.
        if let Some(queue) = self.0.waiting.get() {
            queue.wake_all();
        }
    }
}

/// As [`wait_until`] for a thread that has registered itself wherever it needs to.
pub fn block_until<T>(
    thread: &Arc<Thread>,
    deadline_ns: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    let _timer = deadline_ns.map(|deadline| time::set_timer(deadline, TimerAction::Wake(thread.clone())));
    loop {
        exit::wait_while_stopped(thread);
        scheduler::prepare_to_block(thread);
        let outcome = if let Some(value) = condition() {
            Some(Ok(value))
        } else if thread.must_stop_waiting() {
            if signal::stop_without_interrupting(thread) {
                continue;
            }
            Some(Err(WaitError::Interrupted))
        } else if deadline_ns.is_some_and(|deadline| time::monotonic_ns() >= deadline) {
            Some(Err(WaitError::TimedOut))
        } else {
            None
        };
        if let Some(outcome) = outcome {
            scheduler::cancel_block(thread);
            return outcome;
        }
        scheduler::schedule();
    }
}
