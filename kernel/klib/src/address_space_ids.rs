//! Numbers for address spaces, by which a TLB tells their translations apart (Arm's ASID, x86's PCID).
//!
//! There are fewer numbers than address spaces may come to be, so a number is given for a *generation*. When they run
//! out, a new generation begins: every CPU drops its cached translations before it next takes up an address space, and
//! each address space gets a new number when it is next taken up. What runs on a CPU at that moment cannot be
//! interrupted, so its number stays its own in the new generation. That is the scheme of Linux on arm64.
//!
//! Two parts. [`Active`] is shared: with it a CPU switches between address spaces of the present generation without a
//! lock. [`Numbers`] is what the kernel keeps under a lock: which numbers are taken, and who still has to flush.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::cpu_set::CpuSet;

/// An address space's number in the low 16 bits, its generation above. 0: none yet.
pub type Id = u64;

/// Bits of a number.
const NUMBER_BITS: u32 = 16;

/// The number without its generation.
pub const fn number(id: Id) -> u16 {
    id as u16
}

const fn generation(id: Id) -> u64 {
    id >> NUMBER_BITS
}

const fn id(generation: u64, number: u32) -> Id {
    generation << NUMBER_BITS | number as u64
}

/// What each CPU runs with, and the generation.
pub struct Active<const CPUS: usize> {
    generation: AtomicU64,
    /// 0 from the beginning of a generation until the CPU takes up an address space in it.
    ids: [AtomicU64; CPUS],
}

impl<const CPUS: usize> Active<CPUS> {
    /// The first generation; no CPU has taken anything up.
    pub const fn new() -> Self {
        Self { generation: AtomicU64::new(1), ids: [const { AtomicU64::new(0) }; CPUS] }
    }

    /// CPU `cpu` takes up the address space with this id. `false`: it needs [`Numbers::assign`] first.
    pub fn take_up(&self, cpu: usize, id: Id) -> bool {
        let Some(active) = self.ids.get(cpu) else { return false };
        let old = active.load(SeqCst);
        // Where a new generation begins between the look and the exchange, the exchange fails: `active` is 0 then.
        // Where it begins afterwards, it finds `id` and lets it keep its number.
        old != 0
            && generation(id) == self.generation.load(SeqCst)
            && active.compare_exchange(old, id, SeqCst, SeqCst).is_ok()
    }
}

impl<const CPUS: usize> Default for Active<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Numbers::assign`] answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assigned {
    /// The address space's id from now on.
    pub id: Id,
    /// The CPU has to drop all its cached translations before it uses the id.
    pub flush: bool,
}

/// Which numbers are taken.
pub struct Numbers<const CPUS: usize> {
    /// One bit a number of the present generation. Number 0 is nobody's.
    taken: Vec<u64>,
    count: u32,
    /// Where to look for a free one.
    next: u32,
    /// What each CPU ran with when the generation began, and may still.
    reserved: [Id; CPUS],
    /// CPUs that have not flushed since the generation began.
    flush_pending: CpuSet,
}

impl<const CPUS: usize> Numbers<CPUS> {
    /// Numbers 1 to `count` - 1.
    pub fn new(count: u32) -> Self {
        let count = count.min(1 << NUMBER_BITS);
        let mut taken = alloc::vec![0; count.div_ceil(64) as usize];
        if let Some(first) = taken.first_mut() {
            *first = 1;
        }
        Self { taken, count, next: 1, reserved: [0; CPUS], flush_pending: CpuSet::EMPTY }
    }

    /// Gives the address space that had `old` (0: none) an id of the present generation, which CPU `cpu` takes up.
    pub fn assign(&mut self, active: &Active<CPUS>, cpu: usize, old: Id) -> Assigned {
        let current = active.generation.load(SeqCst);
        let id = if old != 0 && generation(old) == current { old } else { self.renew(active, current, old) };
        let flush = self.flush_pending.contains(cpu);
        self.flush_pending = self.flush_pending & !CpuSet::of(cpu);
        if let Some(active) = active.ids.get(cpu) {
            active.store(id, SeqCst);
        }
        Assigned { id, flush }
    }

    fn renew(&mut self, active: &Active<CPUS>, current: u64, old: Id) -> Id {
        if old != 0 {
            let same = id(current, u32::from(number(old)));
            // Some CPU ran with it when the generation began, and may yet: everybody must go on with that number.
            let mut is_reserved = false;
            for reserved in self.reserved.iter_mut().filter(|reserved| **reserved == old) {
                *reserved = same;
                is_reserved = true;
            }
            if is_reserved || self.take(u32::from(number(old))) {
                return same;
            }
        }
        if let Some(number) = self.take_free() {
            return id(current, number);
        }
        let next = current + 1;
        active.generation.store(next, SeqCst);
        self.begin_generation(active);
        // As many numbers as CPUs are taken, which is never all.
        id(next, self.take_free().unwrap_or(0))
    }

    fn begin_generation(&mut self, active: &Active<CPUS>) {
        self.taken.fill(0);
        self.take(0);
        self.next = 1;
        for cpu in 0..CPUS {
            let running = active.ids[cpu].swap(0, SeqCst);
            // 0: it has taken up nothing since the last generation began, so it still runs with what it had then.
            if running != 0 {
                self.reserved[cpu] = running;
            }
            self.take(u32::from(number(self.reserved[cpu])));
        }
        self.flush_pending = CpuSet::ALL;
    }

    /// Marks a number as taken; `false` where it was.
    fn take(&mut self, number: u32) -> bool {
        let Some(word) = self.taken.get_mut(number as usize / 64) else { return false };
        let bit = 1 << (number % 64);
        let was_free = *word & bit == 0;
        *word |= bit;
        was_free
    }

    fn take_free(&mut self) -> Option<u32> {
        while self.next < self.count {
            let number = self.next;
            self.next += 1;
            if self.take(number) {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, vec};

    use super::*;
    use crate::test_random::Random;

    const CPUS: usize = 4;

    struct Machine {
        active: Active<CPUS>,
        numbers: Numbers<CPUS>,
        /// The id of each address space.
        spaces: Vec<Id>,
        /// What each CPU runs: address space and id.
        running: [Option<(usize, Id)>; CPUS],
        /// For each CPU, which address space its TLB has translations of under a number.
        tlbs: [BTreeMap<u16, usize>; CPUS],
    }

    impl Machine {
        fn new(count: u32, spaces: usize) -> Self {
            Self {
                active: Active::new(),
                numbers: Numbers::new(count),
                spaces: vec![0; spaces],
                running: [None; CPUS],
                tlbs: Default::default(),
            }
        }

        fn switch(&mut self, cpu: usize, space: usize) {
            if !self.active.take_up(cpu, self.spaces[space]) {
                let assigned = self.numbers.assign(&self.active, cpu, self.spaces[space]);
                self.spaces[space] = assigned.id;
                if assigned.flush {
                    self.tlbs[cpu].clear();
                }
            }
            self.running[cpu] = Some((space, self.spaces[space]));
            let number = number(self.spaces[space]);
            assert_ne!(number, 0);
            let cached = self.tlbs[cpu].insert(number, space);
            assert!(cached.is_none_or(|other| other == space), "CPU {cpu} would use translations of {cached:?}");
        }

        fn check(&self) {
            for (space, id) in self.running.iter().flatten() {
                assert_eq!(number(self.spaces[*space]), number(*id), "{space} has another number while it runs");
                for (other, other_id) in self.running.iter().flatten() {
                    assert_eq!(number(*id) == number(*other_id), space == other, "two with one number");
                }
            }
        }
    }

    #[test]
    fn second_switch_to_the_same_space_needs_no_lock() {
        let mut machine = Machine::new(256, 2);
        machine.switch(0, 0);
        machine.switch(0, 1);
        assert!(machine.active.take_up(0, machine.spaces[0]));
        assert!(!machine.active.take_up(1, machine.spaces[0]), "the first on this CPU");
        assert!(!machine.active.take_up(CPUS, machine.spaces[0]), "no such CPU");
    }

    #[test]
    fn a_running_space_keeps_its_number_over_generations() {
        let mut machine = Machine::new(8, 40);
        machine.switch(3, 0);
        let kept = number(machine.spaces[0]);
        for round in 1..200 {
            machine.switch(0, 1 + round % 39);
            machine.check();
        }
        machine.switch(3, 0);
        assert_eq!(number(machine.spaces[0]), kept);
        machine.check();
    }

    #[test]
    fn everybody_flushes_once_in_a_generation() {
        let mut machine = Machine::new(4, 8);
        for space in 0..4 {
            machine.switch(0, space);
        }
        let flushes: Vec<bool> =
            (0..2).map(|_| machine.numbers.assign(&machine.active, 1, machine.spaces[3]).flush).collect();
        assert_eq!(flushes, [true, false]);
    }

    #[test]
    fn random_switches_never_mix_translations() {
        let mut random = Random::new(7);
        for count in [6, 7, 16, 64] {
            let mut machine = Machine::new(count, 50);
            for _ in 0..20_000 {
                machine.switch(random.below(CPUS as u64) as usize, random.below(50) as usize);
                machine.check();
            }
        }
    }
}
