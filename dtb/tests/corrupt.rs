//! Blobs that are no good: each gives its own error, with a line that names the cause.

mod common;

use common::BOARD;
use dtb::{DtbError, HEADER_SIZE, MAX_SIZE, Tree, check_header};

/// The board's blob with header words replaced.
fn with_words(words: &[(usize, u32)]) -> Vec<u8> {
    let mut blob = BOARD.to_vec();
    for &(index, word) in words {
        blob[index * 4..][..4].copy_from_slice(&word.to_be_bytes());
    }
    blob
}

fn error(blob: &[u8]) -> DtbError {
    Tree::new(blob).err().expect("the blob is corrupt")
}

/// A blob of these words as structure block, with one property name in the strings block.
fn with_structure(words: &[u32]) -> Vec<u8> {
    let structure: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let strings = b"reg\0\xff\0endless";
    let strings_at = 56 + structure.len() as u32;
    let total = strings_at + strings.len() as u32;
    let header = [0xd00d_feed, total, 56, strings_at, 40, 17, 16, 0, strings.len() as u32, structure.len() as u32];
    let header: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    [header.as_slice(), &[0; 16], &structure, strings].concat()
}

#[test]
fn header_tells_the_size() {
    assert_eq!(check_header(&BOARD[..HEADER_SIZE]), Ok(BOARD.len()));
}

#[test]
fn short_header_is_truncated() {
    for len in 0..HEADER_SIZE {
        let expected = DtbError::Truncated { needed: HEADER_SIZE, available: len };
        assert_eq!(check_header(&BOARD[..len]), Err(expected));
        assert_eq!(error(&BOARD[..len]), expected);
    }
}

#[test]
fn short_blob_is_truncated() {
    let expected = DtbError::Truncated { needed: BOARD.len(), available: BOARD.len() - 1 };
    assert_eq!(error(&BOARD[..BOARD.len() - 1]), expected);
}

#[test]
fn bytes_after_the_blob_are_ignored() {
    assert!(Tree::new(&[BOARD, &[0xff; 100]].concat()).is_ok());
}

#[test]
fn bad_header_fields_are_named() {
    let cases = [
        (with_words(&[(0, 0x5441_0001)]), DtbError::BadMagic(0x5441_0001)),
        (with_words(&[(1, 39)]), DtbError::BadSize(39)),
        (with_words(&[(1, MAX_SIZE as u32 + 1)]), DtbError::BadSize(MAX_SIZE + 1)),
        (with_words(&[(2, 2)]), DtbError::BadBlock("structure block")),
        (with_words(&[(2, u32::MAX - 3)]), DtbError::BadBlock("structure block")),
        (with_words(&[(9, u32::MAX)]), DtbError::BadBlock("structure block")),
        (with_words(&[(3, u32::MAX)]), DtbError::BadBlock("strings block")),
        (with_words(&[(8, u32::MAX)]), DtbError::BadBlock("strings block")),
        (with_words(&[(4, 4)]), DtbError::BadBlock("memory reservation block")),
        (with_words(&[(5, 16)]), DtbError::BadVersion { version: 16, compatible: 16 }),
        (with_words(&[(6, 18)]), DtbError::BadVersion { version: 17, compatible: 18 }),
    ];
    for (blob, expected) in cases {
        assert_eq!(error(&blob), expected);
        assert_eq!(check_header(&blob).err(), Some(expected));
    }
}

#[test]
fn reservations_without_an_end_are_an_error() {
    let mut blob = with_structure(&[1, 0, 2, 9]);
    let end = blob.len();
    blob[40..].fill(1);
    blob[36..40].copy_from_slice(&0_u32.to_be_bytes());
    blob[32..36].copy_from_slice(&0_u32.to_be_bytes());
    assert_eq!(error(&blob[..end]), DtbError::BadBlock("unterminated memory reservation block"));
}

#[test]
fn bad_structure_is_named_with_its_place() {
    const BEGIN: u32 = 1;
    const END: u32 = 2;
    const PROP: u32 = 3;
    const STOP: u32 = 9;
    let cases: &[(&[u32], &str, usize)] = &[
        (&[], "missing end token", 0),
        (&[STOP], "end token inside a node", 0),
        (&[BEGIN, 0, STOP], "end token inside a node", 8),
        (&[BEGIN, 0, END], "missing end token", 12),
        (&[BEGIN, 0, END, BEGIN, 0, END, STOP], "second root node", 12),
        (&[END], "unmatched node end", 0),
        (&[BEGIN, 0, END, END], "unmatched node end", 12),
        (&[PROP, 0, 0], "property outside a node or after a child node", 0),
        (&[BEGIN, 0, BEGIN, 0x6100_0000, END, PROP, 0, 0], "property outside a node or after a child node", 20),
        (&[BEGIN, 0, PROP], "cut-off property", 8),
        (&[BEGIN, 0, PROP, 0], "cut-off property", 8),
        (&[BEGIN, 0, PROP, 1, 0], "property longer than the structure block", 8),
        (&[BEGIN, 0, PROP, u32::MAX, 0], "property longer than the structure block", 8),
        (&[BEGIN, 0, PROP, 0, u32::MAX], "property with an unreadable name", 8),
        (&[BEGIN, 0, PROP, 0, 4], "property with an unreadable name", 8),
        (&[BEGIN, 0, PROP, 0, 6], "property with an unreadable name", 8),
        (&[BEGIN], "unreadable node name", 0),
        (&[BEGIN, 0x6161_6161], "unreadable node name", 0),
        (&[BEGIN, 0xff00_0000, END, STOP], "unreadable node name", 0),
        (&[BEGIN, 0, BEGIN, 0, END, END, STOP], "empty node name or one with a slash", 8),
        (&[BEGIN, 0, BEGIN, 0x612f_6200, END, END, STOP], "empty node name or one with a slash", 8),
        (&[7], "unknown token", 0),
    ];
    for &(words, what, offset) in cases {
        assert_eq!(error(&with_structure(words)), DtbError::BadStructure { what, offset }, "{words:?}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth| [vec![1, 0], [1, 0x6100_0000].repeat(depth - 1), vec![2; depth], vec![9]].concat();
    assert!(Tree::new(&with_structure(&nested(64))).is_ok());
    let expected = DtbError::BadStructure { what: "too deeply nested node", offset: 64 * 8 };
    assert_eq!(error(&with_structure(&nested(65))), expected);
}

#[test]
fn smallest_tree_has_nothing_to_say() {
    let blob = with_structure(&[4, 1, 0, 4, 2, 4, 9]);
    let tree = Tree::new(&blob).unwrap();
    assert_eq!(tree.nodes().count(), 1);
    assert_eq!(tree.memory(), []);
    assert_eq!(tree.reserved(), []);
    assert_eq!(tree.cpus(), []);
    assert_eq!(tree.psci(), None);
    assert_eq!(tree.model(), None);
    assert!(tree.chosen().stdout_path.is_none() && tree.chosen().initrd.is_none());
}

#[test]
fn malformed_reg_is_an_error() {
    // A root with `reg` of one cell, where an address has two.
    let blob = with_structure(&[1, 0, 3, 4, 0, 7, 2, 9]);
    let tree = Tree::new(&blob).unwrap();
    assert_eq!(tree.root().reg().collect::<Vec<_>>(), [Err(DtbError::BadProperty("reg"))]);
}

#[test]
fn every_error_is_one_line_that_names_the_device_tree() {
    let lines = [
        (DtbError::BadMagic(0x5441_0001), "device tree: bad magic 0x54410001, expected 0xd00dfeed"),
        (
            DtbError::Truncated { needed: 5000, available: 100 },
            "device tree: truncated: header says 5000 bytes, only 100 are there",
        ),
        (
            DtbError::BadStructure { what: "unknown token", offset: 16 },
            "device tree: corrupt: unknown token at offset 0x10 of the structure block",
        ),
        (DtbError::BadSize(7), "device tree: header says 7 bytes, which is not between 40 and 2 MiB"),
    ];
    for (error, line) in lines {
        assert_eq!(error.to_string(), line);
    }
}
