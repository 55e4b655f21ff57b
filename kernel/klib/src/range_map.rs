//! An ordered map of non-overlapping address ranges.
//!
//! Purpose: the record of what a process has mapped where. `mmap` inserts a range, `munmap` cuts a piece
//! out of the middle of one, `mprotect` changes a part and leaves two edges behind, and a page fault asks
//! which range an address falls in.
//!
//! Key types: [`RangeMap`], and [`RangeValue`], by which a value says what it becomes when its range is cut
//! and whether two neighbours are really one. Neighbours: the kernel's `mm` owns one map per address space.
//!
//! Why a `BTreeMap` keyed by the start: lookups, splits and merges are all `O(log n)`, iteration is in
//! address order (as `/proc/self/maps` wants it), and a process has tens to hundreds of ranges, for which
//! a linear walk over the gaps beats the upkeep of an augmented tree.
//!
//! Ranges are half-open. An empty range (also one whose end is below its start) holds nothing: inserting
//! it does nothing. The last byte of the 64-bit space therefore cannot be in a range.

use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::Bound::{Excluded, Unbounded};
use core::ops::Range;

/// What is attached to a range, and how it behaves when the range is cut or joined.
pub trait RangeValue: Clone {
    /// The value for the part that starts `delta` bytes in: a file offset moves on by as much.
    fn skip(&self, delta: u64) -> Self;

    /// Whether a range with value `next` that starts right where this one of `len` bytes ends is the same
    /// mapping going on, so that both may become one range with the value `self`.
    fn continues(&self, len: u64, next: &Self) -> bool;
}

/// The range to be inserted shares at least one address with a range already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap;

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the range overlaps one that is already mapped")
    }
}

impl core::error::Error for Overlap {}

/// Non-overlapping half-open ranges of `u64`, each with a value.
#[derive(Clone, Debug)]
pub struct RangeMap<V> {
    /// Start of a range, to its end and value. Ends are above their start and at most the next start.
    ranges: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> RangeMap<V> {
    /// An empty map.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no range at all.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Removes every range.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// The range that holds `addr`, with its value.
    pub fn get(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        let (&start, (end, value)) = self.ranges.range(..=addr).next_back()?;
        (addr < *end).then_some((start..*end, value))
    }

    /// The range that holds `addr`, with its value to change.
    ///
    /// A change that would let the range join a neighbour does not join them; [`RangeMap::update`] does.
    pub fn get_mut(&mut self, addr: u64) -> Option<(Range<u64>, &mut V)> {
        let (&start, (end, value)) = self.ranges.range_mut(..=addr).next_back()?;
        (addr < *end).then_some((start..*end, value))
    }

    /// Every range in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Range<u64>, &V)> {
        self.ranges.iter().map(|(&start, (end, value))| (start..*end, value))
    }

    /// Every range that shares an address with `range`, ascending and *unclipped*: the first and the last
    /// may reach beyond `range`.
    pub fn iter_range(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = (Range<u64>, &V)> {
        let first = match self.get(range.start) {
            Some((found, _)) if range.start < range.end => found.start,
            _ => range.start,
        };
        // `BTreeMap::range` does not accept an end below the start.
        self.ranges.range(first..range.end.max(first)).map(|(&start, (end, value))| (start..*end, value))
    }

    /// Whether every address of `range` is in some range. An empty `range` is covered.
    pub fn covered(&self, range: Range<u64>) -> bool {
        let mut reached = range.start;
        for (found, _) in self.iter_range(range.clone()) {
            if found.start > reached {
                return false;
            }
            reached = found.end;
        }
        reached >= range.end
    }

    /// Whether no address of `range` is in any range. An empty `range` is free.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.iter_range(range).next().is_none()
    }

    /// The highest multiple of `align` in `window` at which `len` bytes are free and end inside `window`:
    /// the place `mmap` takes when it fills an address space from the top down.
    ///
    /// `None` when nothing fits, and for a `len` of 0. An `align` of 0 counts as 1.
    pub fn find_gap_below(&self, len: u64, align: u64, window: Range<u64>) -> Option<u64> {
        let fit = |gap: Range<u64>| -> Option<u64> {
            let highest = gap.end.checked_sub(len)?;
            let address = highest - highest % align.max(1);
            (address >= gap.start).then_some(address)
        };
        if len == 0 || window.is_empty() {
            return None;
        }
        let mut gap_end = window.end;
        for (found, _) in self.iter_range(window.clone()).rev() {
            if found.end < gap_end
                && let Some(address) = fit(found.end..gap_end)
            {
                return Some(address);
            }
            gap_end = found.start;
        }
        fit(window.start..gap_end)
    }

    /// The lowest multiple of `align` in `window` at which `len` bytes are free and end inside `window`.
    ///
    /// `None` when nothing fits, and for a `len` of 0. An `align` of 0 counts as 1.
    pub fn find_gap_above(&self, len: u64, align: u64, window: Range<u64>) -> Option<u64> {
        let fit = |gap: Range<u64>| -> Option<u64> {
            let address = gap.start.checked_next_multiple_of(align.max(1))?;
            (address.checked_add(len)? <= gap.end).then_some(address)
        };
        if len == 0 || window.is_empty() {
            return None;
        }
        let mut gap_start = window.start;
        for (found, _) in self.iter_range(window.clone()) {
            if found.start > gap_start
                && let Some(address) = fit(gap_start..found.start)
            {
                return Some(address);
            }
            gap_start = found.end;
        }
        fit(gap_start..window.end)
    }
}

impl<V: RangeValue> RangeMap<V> {
    /// Adds `range` with `value`, and joins it with the neighbours it [continues](RangeValue::continues).
    ///
    /// # Errors
    ///
    /// [`Overlap`] when part of the range is taken; the map is then unchanged.
    pub fn insert(&mut self, range: Range<u64>, value: V) -> Result<(), Overlap> {
        if range.is_empty() {
            return Ok(());
        }
        if !self.is_free(range.clone()) {
            return Err(Overlap);
        }
        self.ranges.insert(range.start, (range.end, value));
        self.merge(range);
        Ok(())
    }

    /// Takes `range` out of the map, cutting the ranges it meets at its edges, and returns the pieces that
    /// were in it. A map of their own keeps them, so that no memory is needed in one piece.
    pub fn remove(&mut self, range: Range<u64>) -> Self {
        let mut removed = Self::new();
        if range.is_empty() {
            return removed;
        }
        self.split(range.start);
        self.split(range.end);
        while let Some((&start, _)) = self.ranges.range(range.clone()).next() {
            if let Some(piece) = self.ranges.remove(&start) {
                removed.ranges.insert(start, piece);
            }
        }
        removed
    }

    /// Applies `change` to the value of each piece inside `range`, ascending, after cutting the ranges at
    /// the edges of `range`; then joins whatever continues its neighbour. Holes stay holes.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(&mut V)) {
        if range.is_empty() {
            return;
        }
        self.split(range.start);
        self.split(range.end);
        for (_, (_, value)) in self.ranges.range_mut(range.clone()) {
            change(value);
        }
        self.merge(range);
    }

    /// Makes `at` a boundary: the range that holds it strictly inside becomes two.
    fn split(&mut self, at: u64) {
        let Some((&start, entry)) = self.ranges.range_mut(..at).next_back() else {
            return;
        };
        if entry.0 <= at {
            return;
        }
        let end = core::mem::replace(&mut entry.0, at);
        let upper = entry.1.skip(at - start);
        self.ranges.insert(at, (end, upper));
    }

    /// Joins neighbours from the range before `range` to the one that starts at its end.
    fn merge(&mut self, range: Range<u64>) {
        let before = self.ranges.range(..range.start).next_back().map(|(&start, _)| start);
        let mut current = before.unwrap_or(range.start);
        loop {
            let joined = match self.ranges.get(&current) {
                Some((end, value)) if *end <= range.end => match self.ranges.get(end) {
                    Some((_, next)) if value.continues(*end - current, next) => Some(*end),
                    _ => None,
                },
                _ => None,
            };
            if let Some(next) = joined {
                let next_end = self.ranges.remove(&next).map(|(end, _)| end);
                if let (Some(entry), Some(end)) = (self.ranges.get_mut(&current), next_end) {
                    entry.0 = end;
                }
                continue;
            }
            match self.ranges.range((Excluded(current), Unbounded)).next() {
                Some((&next, _)) if next < range.end => current = next,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;
    use alloc::{vec, vec::Vec};

    /// A file mapping: which file, from which offset, with which protection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Mapping {
        file: u32,
        offset: u64,
        protection: u8,
    }

    impl RangeValue for Mapping {
        fn skip(&self, delta: u64) -> Self {
            Self { offset: self.offset + delta, ..*self }
        }
        fn continues(&self, len: u64, next: &Self) -> bool {
            *next == self.skip(len)
        }
    }

    fn mapping(file: u32, offset: u64) -> Mapping {
        Mapping { file, offset, protection: 5 }
    }

    fn all(map: &RangeMap<Mapping>) -> Vec<(Range<u64>, Mapping)> {
        map.iter().map(|(range, value)| (range, *value)).collect()
    }

    #[test]
    fn lookup_finds_the_range_around_an_address_and_nothing_in_a_hole() {
        let mut map = RangeMap::new();
        map.insert(10..20, mapping(1, 0)).unwrap();
        assert_eq!(map.get(9), None);
        assert_eq!(map.get(10), Some((10..20, &mapping(1, 0))));
        assert_eq!(map.get(19).map(|found| found.0), Some(10..20));
        assert_eq!(map.get(20), None);
        map.get_mut(15).unwrap().1.protection = 1;
        assert_eq!(map.get(10).unwrap().1.protection, 1);
        assert!(map.get_mut(20).is_none());
    }

    #[test]
    fn an_overlapping_insert_is_refused_and_changes_nothing() {
        let mut map = RangeMap::new();
        map.insert(10..20, mapping(1, 0)).unwrap();
        for range in [5..11, 10..20, 12..15, 19..30, 0..100] {
            assert_eq!(map.insert(range, mapping(2, 0)), Err(Overlap));
        }
        assert_eq!(all(&map), [(10..20, mapping(1, 0))]);
    }

    #[test]
    fn neighbours_that_continue_each_other_become_one() {
        let mut map = RangeMap::new();
        map.insert(10..20, mapping(1, 0)).unwrap();
        map.insert(30..40, mapping(1, 20)).unwrap();
        map.insert(20..30, mapping(1, 10)).unwrap();
        assert_eq!(all(&map), [(10..40, mapping(1, 0))]);
        map.insert(40..50, mapping(2, 30)).unwrap();
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn removing_the_middle_leaves_two_ranges_with_moved_offsets() {
        let mut map = RangeMap::new();
        map.insert(100..200, mapping(1, 1000)).unwrap();
        assert_eq!(all(&map.remove(140..160)), [(140..160, mapping(1, 1040))]);
        assert_eq!(all(&map), [(100..140, mapping(1, 1000)), (160..200, mapping(1, 1060))]);
    }

    #[test]
    fn removing_across_ranges_returns_the_pieces_ascending() {
        let mut map = RangeMap::new();
        map.insert(0..10, mapping(1, 0)).unwrap();
        map.insert(20..30, mapping(2, 0)).unwrap();
        map.insert(40..50, mapping(3, 0)).unwrap();
        let removed = map.remove(5..45);
        assert_eq!(all(&removed), [(5..10, mapping(1, 5)), (20..30, mapping(2, 0)), (40..45, mapping(3, 0))]);
        assert_eq!(all(&map), [(0..5, mapping(1, 0)), (45..50, mapping(3, 5))]);
        assert!(map.remove(5..45).is_empty());
    }

    #[test]
    fn update_splits_at_the_edges_and_a_reverse_update_joins_again() {
        let mut map = RangeMap::new();
        map.insert(0..100, mapping(1, 0)).unwrap();
        map.update(40..60, |value| value.protection = 1);
        assert_eq!(map.len(), 3);
        assert_eq!(map.get(40).unwrap().1, &Mapping { file: 1, offset: 40, protection: 1 });
        map.update(40..60, |value| value.protection = 5);
        assert_eq!(all(&map), [(0..100, mapping(1, 0))]);
    }

    #[test]
    fn an_update_that_changes_nothing_leaves_no_cuts() {
        let mut map = RangeMap::new();
        map.insert(0..100, mapping(1, 0)).unwrap();
        map.update(10..20, |_| {});
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn empty_and_reversed_ranges_are_harmless() {
        let mut map = RangeMap::new();
        map.insert(10..20, mapping(1, 0)).unwrap();
        let reversed = Range { start: 18, end: 12 };
        assert_eq!(map.insert(15..15, mapping(2, 0)), Ok(()));
        assert_eq!(map.insert(reversed.clone(), mapping(2, 0)), Ok(()));
        assert!(map.remove(15..15).is_empty() && map.remove(reversed.clone()).is_empty());
        map.update(reversed.clone(), |value| value.file = 9);
        assert_eq!(map.iter_range(reversed.clone()).count(), 0);
        assert_eq!(map.iter_range(15..15).count(), 0);
        assert!(map.covered(reversed.clone()) && map.is_free(reversed.clone()));
        assert_eq!(map.find_gap_below(1, 1, reversed.clone()), None);
        assert_eq!(map.find_gap_above(1, 1, reversed), None);
        assert_eq!(all(&map), [(10..20, mapping(1, 0))]);
    }

    #[test]
    fn iter_range_is_unclipped() {
        let mut map = RangeMap::new();
        map.insert(0..10, mapping(1, 0)).unwrap();
        map.insert(10..20, mapping(2, 0)).unwrap();
        map.insert(20..30, mapping(3, 0)).unwrap();
        let found: Vec<_> = map.iter_range(5..15).map(|(range, _)| range).collect();
        assert_eq!(found, [0..10, 10..20]);
    }

    #[test]
    fn covered_sees_holes_at_either_end_and_between() {
        let mut map = RangeMap::new();
        map.insert(10..20, mapping(1, 0)).unwrap();
        map.insert(20..30, mapping(2, 0)).unwrap();
        map.insert(31..40, mapping(3, 0)).unwrap();
        assert!(map.covered(10..30) && map.covered(15..25));
        assert!(!map.covered(9..30) && !map.covered(10..31) && !map.covered(15..35) && !map.covered(39..41));
        assert!(map.is_free(30..31) && map.is_free(0..10) && !map.is_free(29..31));
    }

    #[test]
    fn gaps_are_found_from_the_top_and_from_the_bottom() {
        let mut map = RangeMap::new();
        map.insert(100..200, mapping(1, 0)).unwrap();
        map.insert(300..400, mapping(2, 0)).unwrap();
        assert_eq!(map.find_gap_below(50, 1, 0..500), Some(450));
        assert_eq!(map.find_gap_below(50, 64, 0..500), Some(448));
        assert_eq!(map.find_gap_below(100, 1, 0..450), Some(200));
        assert_eq!(map.find_gap_below(100, 64, 0..450), Some(0));
        assert_eq!(map.find_gap_below(101, 1, 0..450), None);
        assert_eq!(map.find_gap_above(50, 1, 0..500), Some(0));
        assert_eq!(map.find_gap_above(40, 64, 60..500), Some(200u64.next_multiple_of(64)));
        assert_eq!(map.find_gap_above(100, 1, 10..500), Some(200));
        assert_eq!(map.find_gap_above(101, 1, 10..500), None);
        assert_eq!(map.find_gap_above(100, 1, 350..500), Some(400));
        assert_eq!(map.find_gap_above(0, 1, 0..500), None);
        assert_eq!(map.find_gap_below(u64::MAX, 1, 0..500), None);
        assert_eq!(map.find_gap_above(2, 1 << 63, 1..u64::MAX), Some(1 << 63));
        assert_eq!(map.find_gap_above(2, 1 << 63, (1 << 63) + 1..u64::MAX), None);
    }

    #[test]
    fn random_operations_agree_with_a_plain_array() {
        const SIZE: u64 = 96;
        let mut random = Random::new(0x5eed);
        let mut map = RangeMap::new();
        let mut model: Vec<Option<Mapping>> = vec![None; SIZE as usize];
        for step in 0..40_000 {
            let (a, b) = (random.below(SIZE + 1), random.below(SIZE + 1));
            let range = a.min(b)..a.max(b);
            let cells = range.start as usize..range.end as usize;
            match random.below(4) {
                0 | 1 => {
                    // Offsets follow the address, so that many neighbours continue each other.
                    let value = mapping(random.below(2) as u32, range.start);
                    let free = model[cells.clone()].iter().all(Option::is_none);
                    assert_eq!(map.insert(range.clone(), value).is_ok(), free);
                    if free {
                        for (index, cell) in model[cells].iter_mut().enumerate() {
                            *cell = Some(value.skip(index as u64));
                        }
                    }
                }
                2 => {
                    let mut seen = vec![None; SIZE as usize];
                    for (piece, value) in map.remove(range).iter() {
                        for address in piece.clone() {
                            seen[address as usize] = Some(value.skip(address - piece.start));
                        }
                    }
                    assert_eq!(seen[cells.clone()], model[cells.clone()]);
                    model[cells].fill(None);
                }
                _ => {
                    let protection = random.below(2) as u8;
                    map.update(range, |value| value.protection = protection);
                    model[cells].iter_mut().flatten().for_each(|value| value.protection = protection);
                }
            }
            let mut rebuilt = vec![None; SIZE as usize];
            let mut previous: Option<(Range<u64>, Mapping)> = None;
            for (piece, value) in map.iter() {
                for address in piece.clone() {
                    rebuilt[address as usize] = Some(value.skip(address - piece.start));
                }
                if let Some((before, its)) = previous {
                    assert!(before.end <= piece.start, "step {step}: ranges overlap");
                    let joins = before.end == piece.start && its.continues(before.end - before.start, value);
                    assert!(!joins, "step {step}: {before:?} and {piece:?} should be one");
                }
                previous = Some((piece, *value));
            }
            assert_eq!(rebuilt, model, "step {step}");

            let (len, align) = (1 + random.below(20), 1 << random.below(4));
            let (a, b) = (random.below(SIZE + 1), random.below(SIZE + 1));
            let window = a.min(b)..a.max(b);
            let fits = |address: &u64| {
                address.is_multiple_of(align)
                    && address + len <= window.end
                    && (*address..address + len).all(|cell| model[cell as usize].is_none())
            };
            assert_eq!(map.find_gap_above(len, align, window.clone()), window.clone().find(fits));
            assert_eq!(map.find_gap_below(len, align, window.clone()), window.clone().rev().find(fits));
            let covered = window.clone().all(|cell| model[cell as usize].is_some());
            assert_eq!(map.covered(window), covered);
        }
    }
}
