//! Damaged blobs never panic the view and never keep it busy for long.
//!
//! Real blobs are damaged at random, in ways that keep enough of them intact to get past the header, and everything the
//! crate offers is asked of what is still accepted. `PITON_FUZZ_ITERATIONS` sets how many (4000 by default) and
//! `PITON_FUZZ_SEED` the first seed. A failure names the seed that repeats it.

mod common;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use common::{BOARD, qemu_virt};
use dtb::Tree;

/// SplitMix64: a full-period generator of which every seed is good.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A word that tends to matter somewhere: a token, a count, a phandle, a limit.
fn interesting(random: &mut Random) -> u32 {
    const WORDS: [u32; 12] = [0, 1, 2, 3, 4, 9, 0x7f, 0x1000, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, u32::MAX];
    match random.below(4) {
        0 => random.next() as u32,
        1 => random.below(64) as u32,
        _ => WORDS[random.below(WORDS.len())],
    }
}

/// Where the property values are in a blob.
fn values(blob: &[u8]) -> Vec<Range<usize>> {
    let tree = Tree::new(blob).expect("an original is sound");
    let place = |value: &[u8]| {
        let start = value.as_ptr() as usize - blob.as_ptr() as usize;
        start..start + value.len()
    };
    let values = tree.nodes().flat_map(|node| node.properties().map(|(_, value)| place(value)).collect::<Vec<_>>());
    values.filter(|range| !range.is_empty()).collect()
}

/// Changes what properties say and leaves the structure whole.
fn damage_values(blob: &mut [u8], values: &[Range<usize>], random: &mut Random) {
    for _ in 0..=random.below(20) {
        let range = values[random.below(values.len())].clone();
        let at = range.start + random.below(range.len());
        let word = at & !3;
        if random.below(4) == 0 || word + 4 > range.end {
            blob[at] = random.next() as u8;
        } else {
            blob[word..word + 4].copy_from_slice(&interesting(random).to_be_bytes());
        }
    }
}

/// Changes anything.
fn damage(blob: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(12) {
        let len = blob.len();
        if len < 64 {
            return;
        }
        let at = random.below(len);
        let word = at & !3;
        match random.below(16) {
            0..3 => blob[at] ^= 1 << random.below(8),
            3..5 => blob[at] = random.next() as u8,
            5..10 if word + 4 <= len => blob[word..word + 4].copy_from_slice(&interesting(random).to_be_bytes()),
            // A block of words moved within the blob, or taken from another one.
            10..12 => {
                let count = random.below(64).min(len - at);
                let from = random.below(len - count + 1);
                blob.copy_within(from..from + count, at);
            }
            12 => {
                let count = random.below(64).min(len - at).min(other.len());
                let from = random.below(other.len() - count + 1);
                blob[at..at + count].copy_from_slice(&other[from..from + count]);
            }
            13 if random.below(8) == 0 => blob.truncate(at),
            14 if random.below(4) == 0 => {
                let field = 4 * random.below(10);
                blob[field..field + 4].copy_from_slice(&interesting(random).to_be_bytes());
            }
            // A name of the strings block made equal to another: properties of the wrong type.
            _ => {
                let count = random.below(16).min(len - at);
                blob[at..at + count].fill(b'#');
            }
        }
    }
}

/// Asks everything; the answers' sizes are added up so that nothing is optimised away.
fn exercise(tree: &Tree<'_>) -> usize {
    let mut seen = 0;
    for node in tree.nodes() {
        seen += node.path().len() + node.children().count() + node.descendants().count();
        seen += usize::from(node.status_okay()) + usize::from(node.dma_coherent());
        seen += node.reg().count() + node.reg_untranslated().count();
        seen += node.reg().flatten().filter(|&(start, size)| start.checked_add(size).is_some()).count();
        seen += node.interrupts().flatten().map(|interrupt| interrupt.cells().len()).sum::<usize>();
        seen += node.interrupts().filter_map(Result::err).map(|error| error.to_string().len()).sum::<usize>();
        seen += node.dma_ranges().map_or(0, |ranges| ranges.len());
        seen += usize::from(node.cpu_to_bus(0x4000_0000, 0x1000).is_some());
        seen += usize::from(node.bus_to_cpu(u64::MAX, u64::MAX).is_some());
        seen += node.compatible().map(str::len).sum::<usize>();
        for (name, _) in node.properties() {
            seen += node.property(name).map_or(0, <[u8]>::len);
            seen += usize::from(node.property_u32(name).is_some()) + usize::from(node.property_u64(name).is_some());
            seen += node.property_str(name).map_or(0, str::len);
        }
        // Not always this node: damage can give two siblings one name.
        seen += tree.node(&node.path()).map_or(0, |found| found.name().len());
    }
    let chosen = tree.chosen();
    seen += usize::from(chosen.initrd.is_some()) + chosen.stdout_path.map_or(0, |node| node.path().len());
    seen += tree.memory().len() + tree.reserved().len() + tree.cpus().len();
    seen + usize::from(tree.psci().is_some()) + usize::from(tree.model().is_some()) + tree.compatible().count()
}

#[test]
fn damaged_blobs_never_panic() {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    };
    let iterations: u64 = number("PITON_FUZZ_ITERATIONS", 4000);
    let first: u64 = number("PITON_FUZZ_SEED", 0);
    let originals = [BOARD.to_vec(), qemu_virt(2), qemu_virt(3)];
    let values = originals.each_ref().map(|blob| values(blob));
    let mut accepted = 0;
    let mut slowest = (Duration::ZERO, 0);
    for seed in first..first + iterations {
        let mut random = Random(seed);
        let chosen = random.below(originals.len());
        let mut blob = originals[chosen].clone();
        if random.below(2) == 0 {
            damage_values(&mut blob, &values[chosen], &mut random);
        } else {
            let other = &originals[random.below(originals.len())];
            damage(&mut blob, other, &mut random);
        }
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| match Tree::new(&blob) {
            Ok(tree) => exercise(&tree) > 0,
            Err(error) => error.to_string().is_empty(),
        }));
        slowest = slowest.max((start.elapsed(), seed));
        match outcome {
            Ok(was_accepted) => accepted += u64::from(was_accepted),
            Err(_) => panic!("seed {seed} panics: repeat with PITON_FUZZ_SEED={seed} PITON_FUZZ_ITERATIONS=1"),
        }
        assert!(start.elapsed() < Duration::from_secs(10), "seed {seed} takes {:?}", start.elapsed());
    }
    println!("{iterations} damaged blobs, {accepted} accepted, slowest (time and seed) {slowest:?}");
    // A generator that only ever breaks the header would test nothing.
    assert!(iterations < 100 || accepted * 3 > iterations, "only {accepted} of {iterations} were accepted");
}
