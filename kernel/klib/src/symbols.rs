//! The reader of the kernel's symbol table, for backtraces.
//!
//! It works on the packed table in place and takes no memory, since it is read while the kernel goes down. The format is
//! described where it is written, `board/src/symbols.rs`. Nothing in a table is trusted: one that makes no sense has no
//! names.

use core::fmt;

/// Every so many names there is an entry that says where they begin.
const GROUP: usize = 16;
/// Where the starts of the pieces are.
const PIECES: usize = 4;
/// Where the starts of the groups are.
const GROUPS: usize = PIECES + 2 * 257;

/// A symbol table.
#[derive(Debug, Clone, Copy)]
pub struct Symbols<'a> {
    table: &'a [u8],
}

/// The name of a function, to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    symbols: Symbols<'a>,
    packed: &'a [u8],
}

impl<'a> Symbols<'a> {
    /// A table from an image.
    #[must_use]
    pub const fn new(table: &'a [u8]) -> Self {
        Self { table }
    }

    /// The function that contains the byte at `offset` from the start of the image, with the distance from the
    /// function's start; `None` before the first function.
    #[must_use]
    pub fn find(self, offset: u32) -> Option<(Name<'a>, u32)> {
        let count = self.count()?;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.word(self.offsets()? + 4 * middle)? <= offset { low = middle + 1 } else { high = middle }
        }
        let number = low.checked_sub(1)?;
        let start = self.word(self.offsets()? + 4 * number)?;
        Some((self.name(number)?, offset - start))
    }

    /// Every function's distance from the start of the image, and its name.
    pub fn iter(self) -> impl Iterator<Item = (u32, Name<'a>)> {
        let entry = move |number| Some((self.word(self.offsets()? + 4 * number)?, self.name(number)?));
        (0..self.count().unwrap_or(0)).map_while(entry)
    }

    fn count(self) -> Option<usize> {
        let count = self.word(0)? as usize;
        // So that no sum below can overflow.
        (count <= self.table.len() / 4).then_some(count)
    }

    /// Where the functions' distances from the start of the image are.
    fn offsets(self) -> Option<usize> {
        Some(GROUPS + 4 * self.count()?.div_ceil(GROUP))
    }

    /// The pieces and all names after them.
    fn text(self) -> Option<&'a [u8]> {
        self.table.get(self.offsets()? + 4 * self.count()?..)
    }

    fn name(self, number: usize) -> Option<Name<'a>> {
        let names = self.text()?.get(self.piece_start(256)?..)?;
        let group = names.get(self.word(GROUPS + 4 * (number / GROUP))? as usize..)?;
        let packed = group.split(|byte| *byte == 0).nth(number % GROUP)?;
        Some(Name { symbols: self, packed })
    }

    fn word(self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.table.get(at..at + 4)?.try_into().ok()?))
    }

    fn piece_start(self, byte: usize) -> Option<usize> {
        let at = PIECES + 2 * byte;
        Some(u16::from_le_bytes(self.table.get(at..at + 2)?.try_into().ok()?).into())
    }

    /// What a byte of a packed name stands for.
    fn piece(self, byte: u8) -> Option<&'a str> {
        let byte = usize::from(byte);
        let piece = self.text()?.get(self.piece_start(byte)?..self.piece_start(byte + 1)?)?;
        core::str::from_utf8(piece).ok()
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.packed.iter().try_for_each(|byte| out.write_str(self.symbols.piece(*byte).unwrap_or("?")))
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;
    use crate::test_random::Random;

    /// `start` at 0x10, 20 names `ab`, `ab`, ... from 0x20, where the byte 1 stands for `ab`.
    fn table() -> Vec<u8> {
        let pieces = [(1, "ab"), (b'a', "a"), (b'r', "r"), (b's', "s"), (b't', "t")];
        let text: String = pieces.iter().map(|(_, text)| *text).collect();
        let mut table = 21_u32.to_le_bytes().to_vec();
        for byte in 0..=256_u16 {
            let before = pieces.iter().filter(|(other, _)| u16::from(*other) < byte);
            let start: usize = before.map(|(_, text)| text.len()).sum();
            table.extend_from_slice(&u16::try_from(start).unwrap().to_le_bytes());
        }
        let names = [b"start\0".to_vec(), b"\x01\0".repeat(20)].concat();
        for group in [0_u32, 6 + 15 * 2] {
            table.extend_from_slice(&group.to_le_bytes());
        }
        for number in 1..=21_u32 {
            table.extend_from_slice(&(0x10 * number).to_le_bytes());
        }
        table.extend_from_slice(text.as_bytes());
        table.extend_from_slice(&names);
        table
    }

    fn find(table: &[u8], offset: u32) -> Option<(String, u32)> {
        let (name, distance) = Symbols::new(table).find(offset)?;
        Some((name.to_string(), distance))
    }

    #[test]
    fn the_function_around_an_address_is_found() {
        let table = table();
        assert_eq!(find(&table, 0xf), None);
        assert_eq!(find(&table, 0x10), Some(("start".into(), 0)));
        assert_eq!(find(&table, 0x1f), Some(("start".into(), 0xf)));
        assert_eq!(find(&table, 0x20), Some(("ab".into(), 0)));
        assert_eq!(find(&table, 0x154), Some(("ab".into(), 4)));
        assert_eq!(find(&table, u32::MAX), Some(("ab".into(), u32::MAX - 0x150)));
        let all: Vec<(u32, String)> = Symbols::new(&table).iter().map(|(at, name)| (at, name.to_string())).collect();
        assert_eq!((all.len(), &all[0], &all[20]), (21, &(0x10, "start".into()), &(0x150, "ab".into())));
    }

    #[test]
    fn a_damaged_table_gives_no_panic() {
        let good = table();
        for length in 0..good.len() {
            find(&good[..length], 0x30);
        }
        let mut random = Random::new(11);
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bad.len() as u64) as usize;
                bad[at] = random.next() as u8;
            }
            find(&bad, random.below(0x200) as u32);
        }
    }
}
