//! Sets of CPUs, and which CPU a thread that becomes ready goes to.
//!
//! Purpose: affinity masks (sched_setaffinity(2)), the CPUs that are idle, and the choice between them. [`CpuSet`] holds
//! up to [`CpuSet::MAX`] CPUs, numbered as the kernel numbers them. Used by the scheduler.

use core::ops::{BitAnd, Not};

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuSet(u64);

impl CpuSet {
    /// One more than the highest CPU number a set can hold.
    pub const MAX: usize = 64;
    /// No CPU.
    pub const EMPTY: Self = Self(0);
    /// Every CPU there may ever be.
    pub const ALL: Self = Self(u64::MAX);

    /// CPU n is in the set where bit n is set.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit n is set where CPU n is in the set.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of one CPU; empty for one beyond [`CpuSet::MAX`].
    pub const fn of(cpu: usize) -> Self {
        Self(if cpu < Self::MAX { 1 << cpu } else { 0 })
    }

    /// Whether there is no CPU in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many CPUs are in it.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether a CPU is in it.
    pub const fn contains(self, cpu: usize) -> bool {
        self.0 & Self::of(cpu).0 != 0
    }

    /// The CPU with the lowest number.
    pub const fn first(self) -> Option<usize> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as usize) }
    }

    /// The CPUs in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |cpu| self.contains(*cpu))
    }
}

impl BitAnd for CpuSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for CpuSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

/// Where a thread that becomes ready should run: on the CPU it ran on last where that is idle, since its memory may
/// still be cached there; else on another idle one; else where it was. Where it may not stay, on the CPU with the least
/// `load`. `allowed` are the running CPUs it may run on; `None` where it is empty.
pub fn choose(last: usize, allowed: CpuSet, idle: CpuSet, load: impl Fn(usize) -> usize) -> Option<usize> {
    let candidates = allowed & idle;
    if candidates.contains(last) {
        return Some(last);
    }
    if let Some(cpu) = candidates.first() {
        return Some(cpu);
    }
    if allowed.contains(last) { Some(last) } else { allowed.iter().min_by_key(|cpu| load(*cpu)) }
}

/// The CPU that should give a waiting thread to one with `own` threads: the one with the most, where the difference is
/// worth a move. `load` counts running and waiting threads.
pub fn busiest(own: usize, cpus: CpuSet, load: impl Fn(usize) -> usize) -> Option<usize> {
    cpus.iter().map(|cpu| (load(cpu), cpu)).filter(|(load, _)| *load >= own + 2).max().map(|(_, cpu)| cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        CpuSet::from_bits(cpus.iter().fold(0, |bits, cpu| bits | 1 << cpu))
    }

    #[test]
    fn sets_hold_what_is_put_in() {
        let odd = set(&[1, 3, 63]);
        assert!(odd.contains(63) && !odd.contains(0) && !odd.contains(64) && !odd.contains(65));
        assert_eq!((odd.len(), odd.first()), (3, Some(1)));
        assert!(odd.iter().eq([1, 3, 63]));
        assert!(CpuSet::of(64).is_empty());
        assert_eq!(odd & !CpuSet::of(1), set(&[3, 63]));
    }

    #[test]
    fn last_cpu_is_best_where_idle_and_allowed() {
        assert_eq!(choose(2, CpuSet::ALL, set(&[0, 2]), |_| 0), Some(2));
        assert_eq!(choose(2, CpuSet::ALL, set(&[0, 3]), |_| 0), Some(0));
        assert_eq!(choose(2, set(&[1, 3]), set(&[0, 2, 3]), |_| 0), Some(3));
    }

    #[test]
    fn without_an_idle_cpu_a_thread_stays_where_it_may() {
        assert_eq!(choose(2, CpuSet::ALL, CpuSet::EMPTY, |_| 9), Some(2));
        assert_eq!(choose(2, set(&[0, 1, 3]), CpuSet::EMPTY, |cpu| [5, 4, 0, 7][cpu]), Some(1));
        assert_eq!(choose(2, CpuSet::EMPTY, CpuSet::ALL, |_| 0), None);
    }

    #[test]
    fn only_a_clear_difference_is_worth_a_move() {
        let cpus = set(&[0, 1, 2]);
        assert_eq!(busiest(0, cpus, |cpu| [1, 1, 0][cpu]), None, "nobody waits anywhere");
        assert_eq!(busiest(0, cpus, |cpu| [1, 2, 4][cpu]), Some(2));
        assert_eq!(busiest(1, cpus, |cpu| [1, 2, 2][cpu]), None);
        assert_eq!(busiest(1, cpus, |cpu| [1, 3, 2][cpu]), Some(1));
    }
}
