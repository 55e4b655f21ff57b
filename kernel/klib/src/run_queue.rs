//! The queue of threads that are ready to run, in the order in which fairness wants them.
//!
//! Every thread has a virtual run time: the CPU time it has had, [`weighted`] by its nice value. The one with the least
//! runs next. A thread that slept comes back with what it had, but at most [`SLEEPER_CREDIT_NS`] behind the others, so
//! that it answers soon and yet cannot hold the CPU for all the time it slept through. That is the scheme of Linux's
//! CFS.
//!
//! Each CPU has a queue, and its virtual time runs by itself: a thread that changes queues keeps its distance to the
//! others ([`carried_over`]).
//!
//! [`RunQueue`] only orders; the kernel's scheduler locks it, switches and keeps the time.

use alloc::collections::BTreeMap;

/// How far behind the others a thread may be when it comes back from a sleep, in nanoseconds.
pub const SLEEPER_CREDIT_NS: u64 = 3_000_000;
/// How much less than the running thread one that wakes must have had to take the CPU from it at once, in nanoseconds.
pub const PREEMPTION_NS: u64 = 1_000_000;

/// Threads ready to run, by virtual run time; those with equal times in the order they came.
pub struct RunQueue<T> {
    /// The first. Mostly there is no other, and then no memory is needed.
    first: Option<((u64, u64), T)>,
    /// Those behind it.
    rest: BTreeMap<(u64, u64), T>,
    arrivals: u64,
    /// The least virtual run time among those that want to run; never falls.
    floor: u64,
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> RunQueue<T> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { first: None, rest: BTreeMap::new(), arrivals: 0, floor: 0 }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// The least virtual run time among those that want to run.
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Adds a thread with the virtual run time it has.
    pub fn push(&mut self, run_time_ns: u64, thread: T) {
        self.arrivals += 1;
        let new = ((run_time_ns, self.arrivals), thread);
        let (key, thread) = match self.first.take() {
            None => {
                self.first = Some(new);
                return;
            }
            Some(old) if new.0 < old.0 => {
                self.first = Some(new);
                old
            }
            first => {
                self.first = first;
                new
            }
        };
        self.rest.insert(key, thread);
    }

    /// Adds a thread that slept or is new and returns its virtual run time from now on.
    pub fn push_waking(&mut self, run_time_ns: u64, thread: T) -> u64 {
        let run_time_ns = run_time_ns.max(self.floor.saturating_sub(SLEEPER_CREDIT_NS));
        self.push(run_time_ns, thread);
        run_time_ns
    }

    /// Takes the thread to run next.
    pub fn pop(&mut self) -> Option<T> {
        let ((run_time_ns, _), thread) = self.first.take()?;
        if !self.rest.is_empty() {
            self.first = self.rest.pop_first();
        }
        self.floor = self.floor.max(run_time_ns);
        Some(thread)
    }

    /// Takes the thread whose turn is furthest away, of those that `may_go`.
    pub fn take_last(&mut self, may_go: impl Fn(&T) -> bool) -> Option<T> {
        let key = self.rest.iter().rev().find(|(_, thread)| may_go(thread)).map(|(key, _)| *key);
        match key {
            Some(key) => self.rest.remove(&key),
            None => {
                let (_, thread) = self.first.take_if(|(_, thread)| may_go(thread))?;
                self.first = self.rest.pop_first();
                Some(thread)
            }
        }
    }

    /// Whether somebody has had less than a running thread with `run_time_ns`.
    pub fn beats(&self, run_time_ns: u64) -> bool {
        self.first.as_ref().is_some_and(|((least, _), _)| *least < run_time_ns)
    }
}

/// The virtual run time, in a queue with the floor `to`, of a thread that has `run_time_ns` in a queue with the floor
/// `from`: as far from the others as before.
pub const fn carried_over(run_time_ns: u64, from: u64, to: u64) -> u64 {
    to.saturating_add_signed(run_time_ns.wrapping_sub(from) as i64)
}

/// Whether a thread that wakes should take the CPU at once from the running one.
pub const fn preempts(waking_ns: u64, running_ns: u64) -> bool {
    waking_ns.saturating_add(PREEMPTION_NS) < running_ns
}

/// The run time that counts for a thread of this nice value (-20 to 19) after `ns` of running: each step gives a tenth
/// of the CPU to or from another thread (sched(7)), which makes a factor of 5/4.
pub fn weighted(ns: u64, nice: i8) -> u64 {
    const ONE: u64 = 1 << 10;
    /// The factor of nice 0 to 20, in units of 1/1024.
    const FACTORS: [u64; 21] = [
        1024, 1280, 1600, 2000, 2500, 3125, 3906, 4883, 6104, 7629, 9537, 11921, 14901, 18626, 23283, 29104, 36380,
        45475, 56843, 71054, 88818,
    ];
    if nice == 0 {
        return ns;
    }
    let factor = FACTORS.get(usize::from(nice.unsigned_abs())).copied().unwrap_or(ONE);
    if nice > 0 { ns.saturating_mul(factor) / ONE } else { (ns.saturating_mul(ONE) / factor).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_run_time_goes_first_and_equals_in_order() {
        let mut queue = RunQueue::new();
        for (time, name) in [(5, 'a'), (3, 'b'), (5, 'c'), (4, 'd')] {
            queue.push(time, name);
        }
        let order: alloc::string::String = core::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, "bdac");
    }

    #[test]
    fn long_sleeper_gets_a_limited_credit() {
        let mut queue = RunQueue::new();
        queue.push(10 * SLEEPER_CREDIT_NS, 'a');
        queue.pop();
        assert_eq!(queue.push_waking(0, 'b'), 9 * SLEEPER_CREDIT_NS);
        assert_eq!(queue.push_waking(u64::MAX, 'c'), u64::MAX);
    }

    #[test]
    fn short_sleeper_keeps_its_run_time() {
        let mut queue = RunQueue::new();
        queue.push(10 * SLEEPER_CREDIT_NS, 'a');
        queue.pop();
        let had = 10 * SLEEPER_CREDIT_NS - 7;
        assert_eq!(queue.push_waking(had, 'b'), had);
    }

    #[test]
    fn everybody_gets_an_equal_share_beside_one_that_sleeps() {
        let mut queue = RunQueue::new();
        let mut had = [0u64; 3];
        (0..3).for_each(|thread| queue.push(0, thread));
        for step in 0..3000 {
            let thread = queue.pop().expect("three threads want to run");
            // The third one sleeps after a tenth of a slice; the others use theirs up.
            had[thread] += if thread == 2 { 400_000 } else { 4_000_000 };
            if thread == 2 && step % 2 == 0 {
                had[thread] = queue.push_waking(had[thread], thread);
            } else {
                queue.push(had[thread], thread);
            }
        }
        assert!(had[0].abs_diff(had[1]) <= 8_000_000, "{had:?}");
        assert!(had[0].abs_diff(had[2]) <= 8_000_000, "{had:?}");
    }

    #[test]
    fn last_one_that_may_go_is_taken() {
        let mut queue = RunQueue::new();
        for (time, name) in [(5, 'a'), (3, 'b'), (5, 'c'), (4, 'd')] {
            queue.push(time, name);
        }
        assert_eq!(queue.take_last(|name| *name != 'c'), Some('a'));
        assert_eq!(queue.take_last(|_| true), Some('c'));
        assert_eq!(queue.take_last(|_| false), None);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn distance_to_the_others_survives_a_move() {
        assert_eq!(carried_over(120, 100, 5000), 5020);
        assert_eq!(carried_over(90, 100, 5000), 4990);
        assert_eq!(carried_over(90, 100, 5), 0, "at least 0");
        assert_eq!(carried_over(5000, 5000, u64::MAX), u64::MAX);
    }

    #[test]
    fn only_a_clear_difference_preempts() {
        assert!(!preempts(100, 100 + PREEMPTION_NS));
        assert!(preempts(100, 101 + PREEMPTION_NS));
        assert!(!preempts(u64::MAX, 5));
    }

    #[test]
    fn nice_threads_age_faster() {
        assert_eq!(weighted(1000, 0), 1000);
        assert_eq!(weighted(1000, 1), 1250);
        assert_eq!(weighted(1000, -1), 800);
        assert!(weighted(1000, 19) > 60_000);
        assert_eq!(weighted(1, -20), 1);
    }
}
