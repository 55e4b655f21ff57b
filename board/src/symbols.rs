//! The symbol table that the kernel carries for its backtraces.
//!
//! Format, all little endian: `u32 count`, then `count` pairs `{u32 offset_from_image_start, u32 name_offset}` sorted
//! by offset, then the names, each ended by a NUL; `name_offset` counts from the start of the names. A reader finds
//! the function of an address by binary search and needs no allocation.

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
    let mut table = Vec::with_capacity(4 + functions.len() * 8);
    table.extend_from_slice(&to_u32(functions.len()).to_le_bytes());
    for function in &functions {
        table.extend_from_slice(&function.offset.to_le_bytes());
        table.extend_from_slice(&to_u32(names.len()).to_le_bytes());
        // `{:#}` leaves out the hash at the end of a Rust name.
        names.extend_from_slice(format!("{:#}", rustc_demangle::demangle(&function.name)).as_bytes());
        names.push(0);
    }
    table.extend_from_slice(&names);
    table
}

/// Sizes here are bounded by the image's own limit of a few megabytes.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a symbol table is smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(offset: u32, name: &str) -> Function {
        Function { offset, name: name.into() }
    }

    #[test]
    fn no_functions_is_a_count_of_zero() {
        assert_eq!(encode(vec![]), [0; 4]);
    }

    #[test]
    fn entries_are_sorted_and_names_demangled_without_hash() {
        let table = encode(vec![function(0x20, "_ZN6kernel5panic17h0123456789abcdefE"), function(0x10, "start")]);
        let mut expected = Vec::new();
        for word in [2_u32, 0x10, 0, 0x20, 6] {
            expected.extend_from_slice(&word.to_le_bytes());
        }
        expected.extend_from_slice(b"start\0kernel::panic\0");
        assert_eq!(table, expected);
    }

    #[test]
    fn one_name_per_offset() {
        let table = encode(vec![function(8, "b"), function(8, "a")]);
        assert_eq!(&table[..4], 1_u32.to_le_bytes());
        assert_eq!(&table[12..], b"a\0");
    }
}
