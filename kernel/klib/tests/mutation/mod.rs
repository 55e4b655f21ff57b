//! Deterministic damage for the fuzz loops: a seeded generator and small edits of a byte buffer.

use std::time::{Duration, Instant};

/// Fuzz iterations of one test: `PITON_FUZZ_ITERATIONS`, or `default`.
pub fn iterations(default: u64) -> u64 {
    match std::env::var("PITON_FUZZ_ITERATIONS") {
        Ok(text) => text.parse().expect("PITON_FUZZ_ITERATIONS must be a number"),
        Err(_) => default,
    }
}

/// The xorshift64* generator.
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any 64-bit number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers at which arithmetic tends to go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7ff,
    0x800,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_ffff,
];

/// Damages `bytes` in one to eight places. Most are at offsets that `pick` chooses.
pub fn damage(bytes: &mut Vec<u8>, random: &mut Random, pick: &mut dyn FnMut(&mut Random) -> usize) {
    for _ in 0..1 + random.below(8) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        let at = if random.below(8) == 0 { random.below(len) } else { pick(random) % len };
        match random.below(12) {
            0..=2 => bytes[at] ^= 1 << random.below(8),
            3 | 4 => bytes[at] = random.next() as u8,
            5..=8 => {
                // A little-endian field of 1 to 8 bytes, set to an edge or moved a little.
                let width = 1 << random.below(4);
                let at = if random.below(2) == 0 { at - at % width } else { at };
                let end = (at + width).min(len);
                let mut field = [0; 8];
                field[..end - at].copy_from_slice(&bytes[at..end]);
                let old = u64::from_le_bytes(field);
                let new = match random.below(3) {
                    0 => EDGES[random.below(EDGES.len())],
                    1 => old.wrapping_add(random.below(17) as u64).wrapping_sub(8),
                    _ => 1 << random.below(64),
                };
                bytes[at..end].copy_from_slice(&new.to_le_bytes()[..end - at]);
            }
            9 => {
                let end = (at + 1 + random.below(64)).min(len);
                let fill = if random.below(2) == 0 { 0 } else { 0xff };
                bytes[at..end].fill(fill);
            }
            10 => {
                let count = (1 + random.below(128)).min(len - at);
                let from = random.below(len - count + 1);
                bytes.copy_within(from..from + count, at);
            }
            _ if random.below(16) == 0 => bytes.truncate(at),
            _ => bytes[at] = 0,
        }
    }
}

/// Fails if one iteration took so long that a loop must have run away.
pub fn check_time(started: Instant, what: impl FnOnce() -> String) {
    let spent = started.elapsed();
    assert!(spent < Duration::from_secs(20), "{} took {spent:?}", what());
}
