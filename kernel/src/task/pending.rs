//! Signals that wait to be delivered, and how many may wait for one user's processes (RLIMIT_SIGPENDING).
//!
//! A standard signal waits at most once; a real-time one queues. Beyond the limit a real-time signal is refused, and a
//! standard one keeps its place in the set but loses what was told with it, as signal(7) and getrlimit(2) say.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use abi::linux;

use super::{
    posix_timer::PosixTimer,
    process::Process,
    signal::{SignalInfo, SignalSet},
};
use crate::sync::IrqLock;

/// The first real-time signal (SIGRTMIN of the kernel).
pub const FIRST_REAL_TIME: u32 = 32;

/// How many queued signals each user has. Taken inside the lock of a queue.
static QUEUED: IrqLock<BTreeMap<u32, u64>> = IrqLock::new(BTreeMap::new());

/// Whose limit counts, and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    user: u32,
    limit: u64,
}

impl Quota {
    /// Of the process that a signal goes to.
    pub fn of(process: &Process) -> Self {
        Self { user: process.credentials().user.real, limit: process.rlimit(linux::RLIMIT_SIGPENDING).0 }
    }
}

/// One queued signal's share of its user's limit; given back when dropped.
pub struct QueueSlot {
    user: u32,
}

impl QueueSlot {
    /// Takes a share where the user has fewer than the limit, or in any case with `unlimited`.
    pub fn take(quota: Quota, unlimited: bool) -> Option<Self> {
        let mut queued = QUEUED.lock();
        let count = queued.entry(quota.user).or_insert(0);
        if *count >= quota.limit && !unlimited {
            return None;
        }
        *count += 1;
        Some(Self { user: quota.user })
    }

    /// How many signals wait for a user's processes (/proc/PID/status, SigQ).
    pub fn count(user: u32) -> u64 {
        QUEUED.lock().get(&user).copied().unwrap_or(0)
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        let mut queued = QUEUED.lock();
        if let Some(count) = queued.get_mut(&self.user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                queued.remove(&self.user);
            }
        }
    }
}

/// A POSIX timer's expiration while it is in a queue.
pub struct TimerSignal(Option<Arc<PosixTimer>>);

impl TimerSignal {
    /// To be queued.
    pub fn new(timer: Arc<PosixTimer>) -> Self {
        Self(Some(timer))
    }

    /// It is delivered: starts the timer again and says how many expirations were missed. `None` where the timer was set
    /// or deleted since: then the signal is none, as on Linux.
    pub fn deliver(mut self) -> Option<i32> {
        let timer = self.0.take()?;
        timer.left_queue();
        timer.delivered()
    }
}

impl Drop for TimerSignal {
    fn drop(&mut self) {
        if let Some(timer) = &self.0 {
            timer.dropped();
        }
    }
}

/// One signal in a queue.
struct Waiting {
    signal: u32,
    info: SignalInfo,
    timer: Option<TimerSignal>,
    _slot: Option<QueueSlot>,
}

/// What became of a signal that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It waits, or one like it did already.
    Waits,
    /// The process ignores it.
    Ignored,
    /// The user's limit is reached: nothing was sent.
    Full,
}

/// Signals that wait for a thread, or for a process.
#[derive(Default)]
pub struct Pending {
    set: SignalSet,
    queue: VecDeque<Waiting>,
}

impl Pending {
    /// Which signals wait.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal within the receiver's quota.
    pub fn add(&mut self, quota: Quota, signal: u32, info: SignalInfo) -> Sent {
        if signal < FIRST_REAL_TIME && self.set.contains(signal) {
            return Sent::Waits;
        }
        // What the kernel and kill(2) say with a standard signal is never lost.
        let unlimited = signal < FIRST_REAL_TIME && info.code() >= 0;
        match QueueSlot::take(quota, unlimited) {
            Some(slot) => self.queue.push_back(Waiting { signal, info, timer: None, _slot: Some(slot) }),
            None if signal >= FIRST_REAL_TIME && info.code() != linux::SI_USER as i32 => return Sent::Full,
            None => {}
        }
        self.set = self.set | SignalSet::of(signal);
        Sent::Waits
    }

    /// Adds a timer's expiration, which has its share of the limit for as long as the timer exists.
    pub fn add_timer(&mut self, signal: u32, info: SignalInfo, timer: TimerSignal) {
        self.queue.push_back(Waiting { signal, info, timer: Some(timer), _slot: None });
        self.set = self.set | SignalSet::of(signal);
    }

    /// Takes the first of `wanted`, in the order signals are delivered.
    pub fn take(&mut self, wanted: SignalSet) -> Option<(u32, SignalInfo, Option<TimerSignal>)> {
        let signal = (self.set & wanted).first()?;
        let position = self.queue.iter().position(|waiting| waiting.signal == signal);
        let taken = position.and_then(|position| self.queue.remove(position));
        if !self.queue.iter().any(|waiting| waiting.signal == signal) {
            self.set = self.set & !SignalSet::of(signal);
        }
        Some(match taken {
            Some(waiting) => (signal, waiting.info, waiting.timer),
            None => (signal, SignalInfo::user(signal, 0, 0), None),
        })
    }

    /// Drops all of `unwanted`.
    pub fn discard(&mut self, unwanted: SignalSet) {
        if (self.set & unwanted).is_empty() {
            return;
        }
        self.set = self.set & !unwanted;
        self.queue.retain(|waiting| !unwanted.contains(waiting.signal));
    }
}
