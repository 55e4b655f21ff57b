//! The symbol table that the kernel carries for its backtraces.
//!
//! The kernel looks a name up while it goes down, without memory of its own, so that the table must be readable in
//! place; and it is part of every image, so that it must be small. Names are packed by byte-pair encoding (Gage, "A New
//! Algorithm for Data Compression", 1994): again and again the most frequent pair of bytes becomes one byte that no
//! name has. The format, all little endian:
//!
//! | What | Size |
//! |---|---|
//! | `count`, the number of functions | u32 |
//! | what each byte stands for: where its piece begins in the pieces, and where the last one ends | 257 u16 |
//! | where every [`GROUP`]-th name begins in the names | u32 each |
//! | distances of the functions from the start of the image, ascending | `count` u32 |
//! | the pieces | up to 64 KiB |
//! | the names in the same order, packed, each ended by a zero byte | the rest |
//!
//! The reader is `kernel/klib/src/symbols.rs`.

/// Every so many names there is an entry that says where they begin.
const GROUP: usize = 16;
/// A pair that is rarer than this is not worth a byte of its own.
const FEWEST: u32 = 4;

/// A function of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Distance in bytes from the start of the image.
    pub offset: u32,
    /// The name as the linker knows it.
    pub name: String,
}

/// Encodes the functions; of several names for one offset the first in alphabetical order is kept.
#[must_use]
pub fn encode(mut functions: Vec<Function>) -> Vec<u8> {
    functions.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    functions.dedup_by_key(|f| f.offset);

    let mut names = Vec::new();
    for function in &functions {
        // `{:#}` leaves out the hash at the end of a Rust name.
        let name = format!("{:#}", rustc_demangle::demangle(&function.name));
        names.extend(name.bytes().map(|byte| if byte.is_ascii() && byte != 0 { byte } else { b'?' }));
        names.push(0);
    }
    let pieces = pack(&mut names);

    let mut table = to_u32(functions.len()).to_le_bytes().to_vec();
    let mut start = 0;
    for piece in &pieces {
        table.extend_from_slice(&to_u16(start).to_le_bytes());
        start += piece.len();
    }
    table.extend_from_slice(&to_u16(start).to_le_bytes());
    let mut start = 0;
    for (number, name) in names.split_inclusive(|byte| *byte == 0).enumerate() {
        if number % GROUP == 0 {
            table.extend_from_slice(&to_u32(start).to_le_bytes());
        }
        start += name.len();
    }
    for function in &functions {
        table.extend_from_slice(&function.offset.to_le_bytes());
    }
    table.extend(pieces.concat());
    table.extend_from_slice(&names);
    table
}

/// Replaces frequent pairs, and tells what each byte then stands for. Zeros stay where they are.
fn pack(names: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new(); 256];
    for &byte in names.iter().filter(|byte| **byte != 0) {
        pieces[usize::from(byte)] = vec![byte];
    }
    for new in 1..=u8::MAX {
        if !pieces[usize::from(new)].is_empty() {
            continue;
        }
        let mut counts = vec![0_u32; 1 << 16];
        for pair in names.array_windows().filter(|pair: &&[u8; 2]| !pair.contains(&0)) {
            counts[usize::from(u16::from_be_bytes(*pair))] += 1;
        }
        // Of pairs as frequent the first one, so that the same functions give the same table.
        let Some(best) = (0..=u16::MAX).rev().max_by_key(|pair| counts[usize::from(*pair)]) else { break };
        if counts[usize::from(best)] < FEWEST {
            break;
        }
        let [first, second] = best.to_be_bytes();
        pieces[usize::from(new)] = [&pieces[usize::from(first)][..], &pieces[usize::from(second)][..]].concat();
        let mut kept = 0;
        let mut at = 0;
        while at < names.len() {
            let pair = names[at] == first && names.get(at + 1) == Some(&second);
            names[kept] = if pair { new } else { names[at] };
            at += if pair { 2 } else { 1 };
            kept += 1;
        }
        names.truncate(kept);
    }
    pieces
}

/// Sizes here are bounded by the image's own limit of a few megabytes.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a symbol table is smaller than 4 GiB")
}

/// A piece is at most twice as long as the longest before it, and no longer than a name; 256 of them are some kilobytes.
fn to_u16(n: usize) -> u16 {
    u16::try_from(n).expect("what the bytes of packed names stand for is shorter than 64 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(offset: u32, name: &str) -> Function {
        Function { offset, name: name.into() }
    }

    /// Offsets and names of a table.
    fn decode(table: &[u8]) -> Vec<(u32, String)> {
        let u32_at = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        let start_of = |byte: usize| usize::from(u16::from_le_bytes([table[4 + 2 * byte], table[5 + 2 * byte]]));
        let count = u32_at(0) as usize;
        let groups = 4 + 2 * 257;
        let offsets = groups + 4 * count.div_ceil(GROUP);
        let pieces = offsets + 4 * count;
        let names = &table[pieces + start_of(256)..];
        let piece = |&byte: &u8| {
            let byte = usize::from(byte);
            table[pieces + start_of(byte)..pieces + start_of(byte + 1)].to_vec()
        };
        let mut at = 0;
        let mut decoded = Vec::new();
        for (number, name) in names.split_inclusive(|byte| *byte == 0).enumerate() {
            if number % GROUP == 0 {
                assert_eq!(u32_at(groups + 4 * (number / GROUP)) as usize, at, "group of name {number}");
            }
            at += name.len();
            let name: Vec<u8> = name[..name.len() - 1].iter().flat_map(piece).collect();
            decoded.push((u32_at(offsets + 4 * number), String::from_utf8(name).unwrap()));
        }
        assert_eq!(decoded.len(), count);
        decoded
    }

    #[test]
    fn no_functions_is_a_count_of_zero_and_no_pieces() {
        assert_eq!(encode(vec![]), [0; 4 + 2 * 257]);
    }

    #[test]
    fn entries_are_sorted_and_names_demangled_without_hash() {
        let table = encode(vec![function(0x20, "_ZN6kernel5panic17h0123456789abcdefE"), function(0x10, "start")]);
        assert_eq!(decode(&table), [(0x10, "start".into()), (0x20, "kernel::panic".into())]);
    }

    #[test]
    fn one_name_per_offset() {
        assert_eq!(decode(&encode(vec![function(8, "b"), function(8, "a")])), [(8, "a".into())]);
    }

    #[test]
    fn names_that_repeat_take_less_and_stay_the_same() {
        let name = |number: u32| format!("kernel::module_{}::function_{number}", number % 7);
        let functions: Vec<_> = (0..100).map(|number| function(4 * number, &name(number))).collect();
        let plain: usize = functions.iter().map(|function| function.name.len() + 1).sum();
        let table = encode(functions);
        assert_eq!(decode(&table), (0..100).map(|number| (4 * number, name(number))).collect::<Vec<_>>());
        assert!(table.len() < 4 + 2 * 257 + 4 * 7 + 4 * 100 + plain / 2, "{} bytes", table.len());
    }

    #[test]
    fn what_is_not_ascii_is_replaced() {
        assert_eq!(decode(&encode(vec![function(0, "é\0")])), [(0, "???".into())]);
    }
}
