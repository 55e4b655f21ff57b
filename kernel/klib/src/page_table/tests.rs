//! Tests of every operation, each over both formats.

use super::test_memory::Tables;
use super::*;
use crate::test_random::Random;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

const KIB4: u64 = PAGE_SIZE;
const MIB2: u64 = 2 << 20;
const GIB1: u64 = 1 << 30;
const RW: PageFlags = PageFlags::READ.union(PageFlags::WRITE).union(PageFlags::USER);
const RX: PageFlags = PageFlags::READ.union(PageFlags::EXECUTE).union(PageFlags::USER);
const R: PageFlags = PageFlags::READ.union(PageFlags::USER);

/// Runs each generic test below for both formats.
macro_rules! for_both_formats {
    ($($name:ident)*) => {
        mod aarch64_tables { $(#[test] fn $name() { super::$name::<super::Aarch64>() })* }
        mod x86_64_tables { $(#[test] fn $name() { super::$name::<super::X86_64>() })* }
    };
}

for_both_formats! {
    an_empty_table_translates_nothing
    flags_survive_encoding_at_every_level
    an_all_zero_entry_is_empty
    a_mapped_page_is_found_and_can_be_removed
    mapping_twice_is_refused
    bad_addresses_are_refused
    an_empty_mapping_makes_no_tables
    large_leaves_are_used_where_alignment_permits
    large_leaves_are_not_used_where_forbidden_or_misaligned
    a_large_leaf_gives_way_to_a_table_that_is_there
    a_failed_map_takes_back_what_it_mapped
    a_failed_map_leaves_a_large_leaf_in_its_way_alone
    a_shortage_of_tables_is_an_error_and_nothing_stays_mapped
    an_edge_inside_a_large_leaf_is_refused_until_it_is_split
    replace_removes_flushes_and_writes_in_that_order
    protect_reports_changed_leaves_and_never_opens_copy_on_write
    map_pages_skips_holes_and_present_pages
    map_pages_descends_once_per_table
    fill_pages_asks_only_for_absent_pages
    visit_sees_leaves_of_the_range_in_order
    tables_are_counted_whether_or_not_they_hold_anything
    ranges_end_with_their_half
    unmap_frees_tables_only_when_asked_and_empty
    destroy_frees_all_tables_below_the_root
    destroy_leaves_the_rest_of_shared_tables
    clone_range_shares_leaves_with_the_flags_given
    clone_range_refuses_a_child_that_is_not_empty
    random_operations_agree_with_a_map
}

fn new_table<F: Format>() -> (Tables, PageTable<F>) {
    let mut mem = Tables::new();
    let table = PageTable::new(&mut mem).unwrap();
    (mem, table)
}

fn leaves<F: Format>(table: &PageTable<F>, mem: &Tables, range: Range<u64>) -> Vec<(u64, u8, Leaf)> {
    let mut found = Vec::new();
    table.visit(mem, range, |va, level, leaf| found.push((va, level, leaf)));
    found
}

#[test]
fn sizes_of_levels() {
    assert_eq!([0, 1, 2, 3].map(level_size), [KIB4, MIB2, GIB1, 512 * GIB1]);
}

// Both formats.

fn an_empty_table_translates_nothing<F: Format>() {
    let (mem, table) = new_table::<F>();
    for va in [0, 0x1234, HALF - 1, HALF, UPPER - 1, UPPER, u64::MAX] {
        assert_eq!(table.lookup(&mem, va), None);
    }
}

fn flags_survive_encoding_at_every_level<F: Format>() {
    for level in 0..=2 {
        for bits in 0..=PageFlags::all().bits() {
            let flags = PageFlags::from_bits_retain(bits);
            let pa = PA_LIMIT - level_size(level);
            let leaf = Leaf { pa, flags: flags.effective() };
            assert_eq!(F::decode(F::leaf_entry(pa, level, flags), level), Entry::Leaf(leaf));
        }
        let table = PA_LIMIT - PAGE_SIZE;
        assert_eq!(F::decode(F::table_entry(table), level + 1), Entry::Table(table));
    }
}

fn an_all_zero_entry_is_empty<F: Format>() {
    (0..=3).for_each(|level| assert_eq!(F::decode(0, level), Entry::Empty));
}

fn a_mapped_page_is_found_and_can_be_removed<F: Format>() {
    for va in [0, 0x7fff_ffff_f000, HALF - PAGE_SIZE, UPPER, PAGE_SIZE.wrapping_neg()] {
        let (mut mem, table) = new_table::<F>();
        table.map_page(&mut mem, va, 0x9000, RW).unwrap();
        assert_eq!(table.lookup(&mem, va + 0x123), Some((0x9123, 0, RW)));
        assert_eq!(table.lookup(&mem, va.wrapping_sub(1)), None);
        assert_eq!(mem.live, 4);
        let mut removed = Vec::new();
        // The last page of the upper half is reached by rounding the end outwards.
        let range = va..va.saturating_add(PAGE_SIZE);
        table.unmap(&mut mem, range, true, |va, level, leaf| removed.push((va, level, leaf))).unwrap();
        assert_eq!(removed, [(va, 0, Leaf { pa: 0x9000, flags: RW })]);
        assert_eq!((table.lookup(&mem, va), mem.live), (None, 1));
    }
}

fn mapping_twice_is_refused<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map_page(&mut mem, 0x5000, 0x9000, RW).unwrap();
    assert_eq!(table.map_page(&mut mem, 0x5000, 0xa000, R), Err(MapError::AlreadyMapped));
    table.map(&mut mem, MIB2, 0, MIB2, RW, true).unwrap();
    assert_eq!(table.map_page(&mut mem, MIB2 + KIB4, 0xa000, R), Err(MapError::AlreadyMapped));
    assert_eq!(table.lookup(&mem, 0x5000), Some((0x9000, 0, RW)));
}

fn bad_addresses_are_refused<F: Format>() {
    use MapError::{Misaligned, OutOfRange};
    let (mut mem, table) = new_table::<F>();
    assert_eq!(table.map_page(&mut mem, 0x5001, 0x9000, RW), Err(Misaligned));
    assert_eq!(table.map_page(&mut mem, 0x5000, 0x9001, RW), Err(Misaligned));
    assert_eq!(table.map_page(&mut mem, HALF, 0x9000, RW), Err(OutOfRange));
    assert_eq!(table.map_page(&mut mem, UPPER - PAGE_SIZE, 0x9000, RW), Err(OutOfRange));
    assert_eq!(table.map_page(&mut mem, 0x5000, PA_LIMIT, RW), Err(OutOfRange));
    assert_eq!(table.map(&mut mem, 0, 0, 0x1001, RW, true), Err(Misaligned));
    assert_eq!(table.map(&mut mem, 0, 0x10, KIB4, RW, true), Err(Misaligned));
    assert_eq!(table.map(&mut mem, HALF - KIB4, 0, 2 * KIB4, RW, true), Err(OutOfRange));
    assert_eq!(table.map(&mut mem, UPPER, 0, !0xfff, RW, true), Err(OutOfRange));
    assert_eq!(table.map(&mut mem, 0, PA_LIMIT - KIB4, 2 * KIB4, RW, true), Err(OutOfRange));
    assert_eq!(table.map(&mut mem, 0, !0xfff, 2 * KIB4, RW, true), Err(OutOfRange));
    assert_eq!(table.map_pages(&mut mem, HALF - KIB4, [None, Some(0)], RW), Err(OutOfRange));
    assert_eq!(table.map_pages(&mut mem, 0, [Some(1)], RW), Err(Misaligned));
    let nothing = |_| -> Option<(u64, PageFlags)> { panic!("called for a bad range") };
    assert_eq!(table.fill_pages(&mut mem, 0x1000..0x1800, nothing), Err(Misaligned));
    assert_eq!(table.fill_pages(&mut mem, Range { start: 0x2000, end: 0x1000 }, nothing), Err(OutOfRange));
    assert_eq!(mem.live, 1);
}

fn an_empty_mapping_makes_no_tables<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    assert_eq!(table.map(&mut mem, 0x1000, 0x1000, 0, RW, true), Ok(()));
    assert_eq!(table.fill_pages(&mut mem, 0x1000..0x1000, |_| None), Ok(0));
    table.unmap(&mut mem, 0x1000..0x1000, true, |_, _, _| {}).unwrap();
    assert_eq!(mem.live, 1);
}

fn large_leaves_are_used_where_alignment_permits<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    // From two pages below 2 MiB to one page above 2 GiB + 2 MiB, physical equal to virtual.
    let (start, end) = (MIB2 - 2 * KIB4, 2 * GIB1 + MIB2 + KIB4);
    table.map(&mut mem, start, start, end - start, RW, true).unwrap();
    let mut count = [0_usize; 3];
    for (va, level, leaf) in leaves(&table, &mem, 0..HALF) {
        assert_eq!((leaf.pa, leaf.flags), (va, RW));
        count[usize::from(level)] += 1;
    }
    let expected = if F::MAX_LEAF_LEVEL == 2 { [3, 512, 1] } else { [3, 1024, 0] };
    assert_eq!(count, expected);
    let inside = GIB1 + MIB2 + 0x12_3456;
    assert_eq!(table.lookup(&mem, inside), Some((inside, F::MAX_LEAF_LEVEL, RW)));
}

fn large_leaves_are_not_used_where_forbidden_or_misaligned<F: Format>() {
    for (pa, allow) in [(MIB2, false), (MIB2 + KIB4, true)] {
        let (mut mem, table) = new_table::<F>();
        table.map(&mut mem, 0, pa, 2 * MIB2, RW, allow).unwrap();
        let found = leaves(&table, &mem, 0..HALF);
        assert_eq!(found.len(), 1024);
        assert!(found.iter().all(|&(va, level, leaf)| level == 0 && leaf.pa == pa + va));
    }
}

fn a_large_leaf_gives_way_to_a_table_that_is_there<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map_page(&mut mem, 0x5000, 0x9000, RW).unwrap();
    table.unmap(&mut mem, 0x5000..0x6000, false, |_, _, _| {}).unwrap();
    table.map(&mut mem, 0, 0, 2 * MIB2, RW, true).unwrap();
    assert_eq!(table.lookup(&mem, 0).unwrap().1, 0);
    assert_eq!(table.lookup(&mem, MIB2).unwrap().1, 1);
}

fn a_failed_map_takes_back_what_it_mapped<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map_page(&mut mem, 2 * MIB2 + 3 * KIB4, 0x9000, R).unwrap();
    assert_eq!(table.map(&mut mem, KIB4, KIB4, 4 * MIB2, RW, true), Err(MapError::AlreadyMapped));
    let kept = (2 * MIB2 + 3 * KIB4, 0, Leaf { pa: 0x9000, flags: R });
    assert_eq!(leaves(&table, &mem, 0..HALF), [kept]);
}

fn a_failed_map_leaves_a_large_leaf_in_its_way_alone<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map(&mut mem, MIB2, 0, MIB2, R, true).unwrap();
    let before = leaves(&table, &mem, 0..HALF);
    for va in [MIB2, MIB2 + KIB4, MIB2 - KIB4] {
        assert_eq!(table.map(&mut mem, va, 0, 2 * KIB4, RW, true), Err(MapError::AlreadyMapped));
        assert_eq!(leaves(&table, &mem, 0..HALF), before);
    }
}

fn a_shortage_of_tables_is_an_error_and_nothing_stays_mapped<F: Format>() {
    for limit in 1..5 {
        let (mut mem, table) = new_table::<F>();
        mem.limit = limit;
        let (start, len) = (GIB1 - 4 * KIB4, 8 * KIB4);
        assert_eq!(table.map(&mut mem, start, 0, len, RW, true), Err(MapError::NoMemory));
        assert_eq!(leaves(&table, &mem, 0..HALF), []);
        let filled = table.fill_pages(&mut mem, start..start + len, |va| Some((va, RW)));
        assert_eq!(filled, Err(MapError::NoMemory));
        let count = leaves(&table, &mem, 0..HALF).len();
        assert_eq!(count, if limit == 4 { 4 } else { 0 });
    }
}

fn an_edge_inside_a_large_leaf_is_refused_until_it_is_split<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map(&mut mem, MIB2, 8 * MIB2, 2 * MIB2, RW, true).unwrap();
    let before = leaves(&table, &mem, 0..HALF);
    for range in [0..MIB2 + KIB4, 2 * MIB2 - KIB4..8 * MIB2, MIB2 + KIB4..MIB2 + 2 * KIB4] {
        let refused = Err(MapError::InsideLargeLeaf);
        assert_eq!(table.unmap(&mut mem, range.clone(), true, |_, _, _| panic!()), refused);
        assert_eq!(table.protect(&mut mem, range.clone(), R, |_, _, _| panic!()), refused);
        assert_eq!(leaves(&table, &mem, 0..HALF), before);
    }
    let mut flushed = false;
    assert_eq!(table.split_leaf(&mut mem, MIB2 + 0x5123, || flushed = true), Ok(true));
    assert!(flushed);
    assert_eq!(table.split_leaf(&mut mem, MIB2 + 0x5123, || panic!()), Ok(false));
    assert_eq!(table.split_leaf(&mut mem, 0, || panic!()), Ok(false));
    assert_eq!(table.lookup(&mem, MIB2 + 0x5123), Some((8 * MIB2 + 0x5123, 0, RW)));
    table.unmap(&mut mem, MIB2 + 0x5000..MIB2 + 0x6000, true, |_, _, _| {}).unwrap();
    assert_eq!(table.lookup(&mem, MIB2 + 0x5123), None);
    assert_eq!(leaves(&table, &mem, 0..HALF).len(), 511 + 1);
    table.unmap(&mut mem, MIB2..3 * MIB2, true, |_, _, _| {}).unwrap();
    assert_eq!(mem.live, 1);
}

fn replace_removes_flushes_and_writes_in_that_order<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    let old = Leaf { pa: 0x9000, flags: R | PageFlags::COW };
    assert_eq!(table.replace_page(&mut mem, 0x5000, 0xa000, RW, || panic!()), None);
    table.map_page(&mut mem, 0x5000, old.pa, old.flags).unwrap();
    assert_eq!(table.replace_page(&mut mem, 0x5000, 0xa001, RW, || panic!()), None);
    let mut flushed = 0;
    assert_eq!(table.replace_page(&mut mem, 0x5000, 0xa000, RW, || flushed += 1), Some(old));
    assert_eq!(flushed, 1);
    assert_eq!(table.lookup(&mem, 0x5000), Some((0xa000, 0, RW)));
    table.map(&mut mem, MIB2, 0, MIB2, RW, true).unwrap();
    assert_eq!(table.replace_page(&mut mem, MIB2, 0xa000, RW, || panic!()), None);
}

fn protect_reports_changed_leaves_and_never_opens_copy_on_write<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map_page(&mut mem, 0x1000, 0x9000, RW).unwrap();
    table.map_page(&mut mem, 0x2000, 0xa000, R | PageFlags::COW).unwrap();
    table.map_page(&mut mem, 0x3000, 0xb000, R).unwrap();
    let mut changed = Vec::new();
    table.protect(&mut mem, 0x1000..0x4000, RW, |va, _, old| changed.push((va, old.flags))).unwrap();
    assert_eq!(changed, [(0x3000, R)]);
    assert_eq!(table.lookup(&mem, 0x2000), Some((0xa000, 0, R | PageFlags::COW)));
    assert_eq!(table.lookup(&mem, 0x3000), Some((0xb000, 0, RW)));
    table.protect(&mut mem, 0x1000..0x4000, PageFlags::READ | PageFlags::EXECUTE, |_, _, _| {}).unwrap();
    assert_eq!(table.lookup(&mem, 0x1000), Some((0x9000, 0, RX)));
    assert_eq!(table.lookup(&mem, 0x2000), Some((0xa000, 0, RX | PageFlags::COW)));
}

fn map_pages_skips_holes_and_present_pages<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map(&mut mem, 2 * MIB2, 0, MIB2, R, true).unwrap();
    let start = 2 * MIB2 - 3 * KIB4;
    table.map_page(&mut mem, start + KIB4, 0x9000, R).unwrap();
    let pages = [Some(0x1000), Some(0x2000), None, Some(0x4000), Some(0x5000)];
    assert_eq!(table.map_pages(&mut mem, start, pages, RW), Ok(1));
    assert_eq!(table.lookup(&mem, start), Some((0x1000, 0, RW)));
    assert_eq!(table.lookup(&mem, start + KIB4), Some((0x9000, 0, R)));
    assert_eq!(table.lookup(&mem, start + 2 * KIB4), None);
    assert_eq!(table.lookup(&mem, start + 3 * KIB4), Some((0, 1, R)));
}

fn map_pages_descends_once_per_table<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    mem.reads.set(0);
    let pages = (0..64).map(|page| Some(page * PAGE_SIZE));
    assert_eq!(table.map_pages(&mut mem, MIB2 - 32 * KIB4, pages, RW), Ok(64));
    assert_eq!(mem.reads.get(), 2 * 3 + 64);
    mem.reads.set(0);
    let range = 3 * MIB2 - 32 * KIB4..3 * MIB2 + 32 * KIB4;
    assert_eq!(table.fill_pages(&mut mem, range, |va| Some((va, RW))), Ok(64));
    assert_eq!(mem.reads.get(), 2 * 3 + 64);
}

fn fill_pages_asks_only_for_absent_pages<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    let start = UPPER + 2 * MIB2;
    table.map(&mut mem, start, 0, MIB2, R, true).unwrap();
    table.map_page(&mut mem, start - KIB4, 0x9000, R).unwrap();
    let mut asked = Vec::new();
    let filled = table.fill_pages(&mut mem, start - 3 * KIB4..start + MIB2 + KIB4, |va| {
        asked.push(va);
        (va != start - 3 * KIB4).then_some((0x1000, RW))
    });
    assert_eq!(filled, Ok(2));
    assert_eq!(asked, [start - 3 * KIB4, start - 2 * KIB4, start + MIB2]);
    assert_eq!(table.fill_pages(&mut mem, start - KIB4..start, |_| Some((1, R))), Ok(0));
    let bad = table.fill_pages(&mut mem, start - 3 * KIB4..start, |_| Some((1, R)));
    assert_eq!(bad, Err(MapError::Misaligned));
}

fn visit_sees_leaves_of_the_range_in_order<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    for va in [0x1000, 0x3000, GIB1, 600 * GIB1] {
        table.map_page(&mut mem, va, va % GIB1, RW).unwrap();
    }
    table.map(&mut mem, 2 * GIB1, 0, MIB2, R, true).unwrap();
    let seen = |range| leaves(&table, &mem, range).iter().map(|leaf| leaf.0).collect::<Vec<_>>();
    assert_eq!(seen(0..HALF), [0x1000, 0x3000, GIB1, 2 * GIB1, 600 * GIB1]);
    assert_eq!(seen(0x1fff..0x3000), [0x1000]);
    assert_eq!(seen(0x3001..2 * GIB1 + 1), [0x3000, GIB1, 2 * GIB1]);
    assert_eq!(seen(2 * GIB1 + 0x5000..2 * GIB1 + 0x6000), [2 * GIB1]);
    assert_eq!(seen(0x5000..0x5000), []);
}

fn tables_are_counted_whether_or_not_they_hold_anything<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    assert_eq!(table.tables(&mem), 1);
    for at in [0, MIB2, GIB1, 512 * GIB1] {
        table.map_page(&mut mem, at, KIB4, RW).unwrap();
    }
    table.map(&mut mem, 2 * GIB1, 0, GIB1, RW, true).unwrap();
    assert_eq!(table.tables(&mem), mem.live);
    table.unmap(&mut mem, 0..GIB1, false, |_, _, _| {}).unwrap();
    assert_eq!(table.tables(&mem), mem.live);
}

fn ranges_end_with_their_half<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map_page(&mut mem, 0x1000, 0x9000, RW).unwrap();
    assert_eq!(leaves(&table, &mem, 0..u64::MAX).len(), 1);
    // The same root read as the other half.
    assert_eq!(leaves(&table, &mem, UPPER..u64::MAX)[0].0, UPPER + 0x1000);
    assert_eq!(leaves(&table, &mem, HALF..u64::MAX)[0].0, UPPER + 0x1000);
    assert_eq!(leaves(&table, &mem, HALF..UPPER), []);
    assert_eq!(leaves(&table, &mem, HALF + 5..HALF + 6), []);
    table.map_page(&mut mem, PAGE_SIZE.wrapping_neg(), 0x9000, RW).unwrap();
    assert_eq!(leaves(&table, &mem, UPPER..u64::MAX).len(), 2);
}

fn unmap_frees_tables_only_when_asked_and_empty<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map(&mut mem, MIB2 - 4 * KIB4, 0, 8 * KIB4, RW, false).unwrap();
    assert_eq!(mem.live, 5);
    table.unmap(&mut mem, 0..MIB2 - KIB4, true, |_, _, _| {}).unwrap();
    assert_eq!(mem.live, 5);
    table.unmap(&mut mem, MIB2 - KIB4..MIB2, false, |_, _, _| {}).unwrap();
    assert_eq!(mem.live, 5);
    table.unmap(&mut mem, 0..MIB2, true, |_, _, _| {}).unwrap();
    assert_eq!(mem.live, 4);
    assert_eq!(leaves(&table, &mem, 0..HALF).len(), 4);
    table.unmap(&mut mem, 0..HALF, true, |_, _, _| {}).unwrap();
    assert_eq!(mem.live, 1);
}

fn destroy_frees_all_tables_below_the_root<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    for va in [0, 0x5000, GIB1, 77 * GIB1, 600 * GIB1, HALF - PAGE_SIZE] {
        table.map_page(&mut mem, va, 0x9000, RW).unwrap();
    }
    table.map(&mut mem, 2 * GIB1, 0, GIB1, R, true).unwrap();
    let expected = leaves(&table, &mem, 0..HALF);
    let mut seen = Vec::new();
    table.destroy(&mut mem, 0..HALF, |va, level, leaf| seen.push((va, level, leaf)));
    assert_eq!(seen, expected);
    assert_eq!(mem.live, 1);
    assert!((0..ENTRIES).all(|index| mem.read(table.root(), index) == 0));
    mem.free_table(table.root());
}

fn destroy_leaves_the_rest_of_shared_tables<F: Format>() {
    let (mut mem, table) = new_table::<F>();
    table.map(&mut mem, 0, 0, 4 * MIB2, RW, true).unwrap();
    table.map_page(&mut mem, 4 * MIB2, 0x9000, R).unwrap();
    table.map_page(&mut mem, 4 * MIB2 + KIB4, 0xa000, R).unwrap();
    let live = mem.live;
    let mut seen = Vec::new();
    table.destroy(&mut mem, MIB2 / 2..4 * MIB2 + KIB4, |va, _, _| seen.push(va));
    assert_eq!(seen, [MIB2, 2 * MIB2, 3 * MIB2, 4 * MIB2]);
    let left: Vec<_> = leaves(&table, &mem, 0..HALF).iter().map(|leaf| leaf.0).collect();
    assert_eq!(left, [0, 4 * MIB2 + KIB4]);
    assert_eq!(mem.live, live);
}

fn clone_range_shares_leaves_with_the_flags_given<F: Format>() {
    let (mut mem, parent) = new_table::<F>();
    let child = PageTable::<F>::new(&mut mem).unwrap();
    parent.map_page(&mut mem, 0x1000, 0x9000, RW).unwrap();
    parent.map_page(&mut mem, 0x2000, 0xa000, RX).unwrap();
    parent.map_page(&mut mem, 0x3000, 0xb000, RW).unwrap();
    parent.map(&mut mem, MIB2, 0, MIB2, RW, true).unwrap();
    let cow = PageFlags::COW;
    parent.clone_range(&mut mem, &child, 0..HALF, |va, _, leaf| (va != 0x3000).then_some(leaf.flags | cow)).unwrap();
    let shared = R | cow;
    assert_eq!(parent.lookup(&mem, 0x1000), Some((0x9000, 0, shared)));
    assert_eq!(parent.lookup(&mem, 0x3000), Some((0xb000, 0, RW)));
    assert_eq!(child.lookup(&mem, 0x1000), Some((0x9000, 0, shared)));
    assert_eq!(child.lookup(&mem, 0x2000), Some((0xa000, 0, RX | cow)));
    assert_eq!(child.lookup(&mem, 0x3000), None);
    assert_eq!(child.lookup(&mem, MIB2), Some((0, 1, shared)));
}

fn clone_range_refuses_a_child_that_is_not_empty<F: Format>() {
    let (mut mem, parent) = new_table::<F>();
    let child = PageTable::<F>::new(&mut mem).unwrap();
    parent.map_page(&mut mem, 0x1000, 0x9000, RW).unwrap();
    child.map_page(&mut mem, 0x1000, 0xc000, RW).unwrap();
    let result = parent.clone_range(&mut mem, &child, 0..HALF, |_, _, _| panic!());
    assert_eq!(result, Err(MapError::AlreadyMapped));
    let other = PageTable::<F>::new(&mut mem).unwrap();
    mem.limit = mem.live + 2;
    let result = parent.clone_range(&mut mem, &other, 0..HALF, |_, _, _| panic!());
    assert_eq!(result, Err(MapError::NoMemory));
}

fn random_operations_agree_with_a_map<F: Format>() {
    // Windows around table boundaries of every level.
    const BASES: [u64; 4] = [0, GIB1 - 4 * MIB2, 512 * GIB1 - 4 * MIB2, UPPER + 9 * GIB1];
    let flags = [RW, R, RX, R | PageFlags::COW];
    let (mut mem, table) = new_table::<F>();
    // Page address to leaf; large leaves appear as their pages.
    let mut model: BTreeMap<u64, Leaf> = BTreeMap::new();
    let mut random = Random::new(0x7ab1e);
    for step in 0..6000 {
        let base = BASES[random.below(4) as usize];
        let large = random.below(8) == 0;
        let (start, len) = if large {
            (base + random.below(7) * MIB2, (1 + random.below(2)) * MIB2)
        } else {
            (base + random.below(8 * 512 - 64) * KIB4, (1 + random.below(64)) * KIB4)
        };
        let range = start..start + len;
        let pick = flags[random.below(4) as usize];
        let pages: Vec<u64> = range.clone().step_by(KIB4 as usize).collect();
        // What unmap and protect refuse is split at both edges and tried again.
        let split = |mem: &mut Tables| {
            table.split_leaf(mem, range.start, || {}).unwrap();
            table.split_leaf(mem, range.end - 1, || {}).unwrap();
        };
        match random.below(5) {
            0 => {
                let pa = random.below(1 << 20) * if large { MIB2 } else { KIB4 };
                let result = table.map(&mut mem, start, pa, len, pick, true);
                if pages.iter().any(|page| model.contains_key(page)) {
                    assert_eq!(result, Err(MapError::AlreadyMapped));
                } else {
                    assert_eq!(result, Ok(()));
                    model.extend(pages.iter().map(|page| (*page, Leaf { pa: pa + page - start, flags: pick })));
                }
            }
            1 => {
                let pa = random.below(1 << 30) * KIB4;
                let expected = pages.iter().filter(|page| !model.contains_key(*page)).count();
                let filled = table.fill_pages(&mut mem, range.clone(), |va| Some((pa + va - start, pick)));
                assert_eq!(filled, Ok(expected));
                for page in pages {
                    model.entry(page).or_insert(Leaf { pa: pa + page - start, flags: pick });
                }
            }
            2 => {
                let mut result = table.protect(&mut mem, range.clone(), pick, |_, _, _| {});
                if result.is_err() {
                    split(&mut mem);
                    result = table.protect(&mut mem, range.clone(), pick, |_, _, _| {});
                }
                assert_eq!(result, Ok(()));
                for (_, leaf) in model.range_mut(range) {
                    let cow = leaf.flags & PageFlags::COW;
                    leaf.flags = ((pick - PageFlags::COW) | cow).effective();
                }
            }
            _ => {
                let free_tables = random.below(2) == 0;
                let mut removed = Vec::new();
                let mut record = |va: u64, level: u8, leaf: Leaf| {
                    let parts = (0..level_size(level)).step_by(KIB4 as usize);
                    removed.extend(parts.map(|at| (va + at, Leaf { pa: leaf.pa + at, ..leaf })));
                };
                let mut result = table.unmap(&mut mem, range.clone(), free_tables, &mut record);
                if result.is_err() {
                    split(&mut mem);
                    result = table.unmap(&mut mem, range.clone(), free_tables, &mut record);
                }
                assert_eq!(result, Ok(()));
                let expected: Vec<_> = model.range(range.clone()).map(|(va, leaf)| (*va, *leaf)).collect();
                assert_eq!(removed, expected);
                model.retain(|page, _| !range.contains(page));
            }
        }
        for _ in 0..8 {
            let page = base + random.below(8 * 512) * KIB4;
            let found = table.lookup(&mem, page).map(|(pa, _, flags)| Leaf { pa, flags });
            assert_eq!(found, model.get(&page).copied(), "step {step}, address {page:#x}");
        }
    }
    for half in [0..HALF, UPPER..u64::MAX] {
        table.unmap(&mut mem, half, true, |_, _, _| {}).unwrap();
    }
    assert_eq!(mem.live, 1);
    assert_eq!(vec![0; ENTRIES], *mem.tables[0].as_ref().unwrap().as_slice());
}
