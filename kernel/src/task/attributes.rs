//! What a thread's own calls set for it: prctl(2), nice(2), sched_setscheduler(2), ioprio_set(2).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::linux;

/// What a wait may be late by when nothing else was asked for, in nanoseconds.
pub const DEFAULT_TIMER_SLACK_NS: u64 = 50_000;

/// The settings of a thread.
pub struct Attributes {
    /// Sent to the process when the thread that made it ends (PR_SET_PDEATHSIG); 0: nothing.
    pub death_signal: AtomicU32,
    /// PR_SET_TIMERSLACK and what 0 goes back to, in nanoseconds.
    pub timer_slack_ns: AtomicU64,
    /// As `timer_slack_ns` was when the thread was made.
    pub default_timer_slack_ns: AtomicU64,
    /// SCHED_*.
    pub policy: AtomicU32,
    /// The priority of SCHED_FIFO and SCHED_RR, 1 to 99; else 0.
    pub priority: AtomicU32,
    /// SCHED_RESET_ON_FORK.
    pub reset_on_fork: AtomicBool,
    /// PR_SET_TAGGED_ADDR_CTRL: calls take addresses with a tag in the byte that the CPU ignores.
    pub tagged_addresses: AtomicBool,
    /// ioprio_set(2): class and level.
    pub io_priority: AtomicU32,
    /// How many urgent threads wait for locks it owns (`futex_pi`): as long as there is one it is urgent itself.
    pub waited_for: Arc<AtomicUsize>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            death_signal: AtomicU32::new(0),
            timer_slack_ns: AtomicU64::new(DEFAULT_TIMER_SLACK_NS),
            default_timer_slack_ns: AtomicU64::new(DEFAULT_TIMER_SLACK_NS),
            policy: AtomicU32::new(linux::SCHED_NORMAL),
            priority: AtomicU32::new(0),
            reset_on_fork: AtomicBool::new(false),
            tagged_addresses: AtomicBool::new(false),
            io_priority: AtomicU32::new(0),
            waited_for: Arc::new(AtomicUsize::new(0)),
        }
    }
}

impl Attributes {
    /// The nice value that a thread of this one weighs as. Real-time policies order nothing: their threads weigh as the
    /// least nice ones, as does who keeps them waiting; those of SCHED_IDLE as the nicest.
    pub fn weighing_as(&self, nice: i8) -> i8 {
        match self.policy.load(Ordering::Relaxed) {
            _ if self.is_urgent() => -20,
            linux::SCHED_IDLE => 19,
            _ => nice,
        }
    }

    /// Whether it has a real-time policy, or owns a lock that one waits for which is urgent.
    pub fn is_urgent(&self) -> bool {
        self.waited_for.load(Ordering::Relaxed) > 0
            || matches!(self.policy.load(Ordering::Relaxed), linux::SCHED_FIFO | linux::SCHED_RR)
    }

    /// The order in which locks are handed out: real-time priorities, the highest first, then all others.
    pub fn lock_rank(&self) -> u32 {
        match self.policy.load(Ordering::Relaxed) {
            linux::SCHED_FIFO | linux::SCHED_RR => self.priority.load(Ordering::Relaxed) + 1,
            _ => u32::from(self.is_urgent()),
        }
    }

    /// The nice value of what a thread of this one makes.
    pub fn nice_of_child(&self, nice: i32) -> i32 {
        if self.reset_on_fork.load(Ordering::Relaxed) { nice.max(0) } else { nice }
    }

    /// Takes over what a new thread or process gets from the one that makes it.
    pub fn inherit(&self, parent: &Self) {
        use Ordering::Relaxed;
        let slack = parent.timer_slack_ns.load(Relaxed);
        self.timer_slack_ns.store(slack, Relaxed);
        self.default_timer_slack_ns.store(slack, Relaxed);
        self.tagged_addresses.store(parent.tagged_addresses.load(Relaxed), Relaxed);
        self.io_priority.store(parent.io_priority.load(Relaxed), Relaxed);
        if parent.reset_on_fork.load(Relaxed) {
            return;
        }
        self.policy.store(parent.policy.load(Relaxed), Relaxed);
        self.priority.store(parent.priority.load(Relaxed), Relaxed);
    }
}
