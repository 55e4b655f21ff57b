//! The flattened format: header, memory reservation block, structure block, strings block (DTSpec chapter 5).
//!
//! The only file that knows the byte layout. It is strict about everything that later code relies on (bounds,
//! nesting, termination) and lenient about what real blobs get wrong: names may be longer than the 31 characters of
//! DTSpec 2.2.1, and blocks may come in any order. Time is linear in the blob: names are limited in length, so that
//! overlapping strings cannot make it quadratic.

use alloc::vec::Vec;
use core::ops::Range;

use crate::DtbError;

/// Bytes in a header of format version 17.
pub const HEADER_SIZE: usize = 40;
/// The largest blob accepted, in bytes; what the Linux arm64 boot protocol allows.
pub const MAX_SIZE: usize = 2 << 20;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
/// The deepest nesting accepted. Real trees have at most ten levels.
const MAX_DEPTH: usize = 64;
/// The longest name accepted, in bytes.
const MAX_NAME: usize = 255;

const FDT_BEGIN_NODE: u32 = 1;
const FDT_END_NODE: u32 = 2;
const FDT_PROP: u32 = 3;
const FDT_NOP: u32 = 4;
const FDT_END: u32 = 9;

/// The big-endian word at a byte offset.
pub(crate) fn word_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn long_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let long = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_be_bytes(long.try_into().ok()?))
}

/// Checks the header and returns the size of the whole blob in bytes.
///
/// For a boot loader's bare pointer: map or read [`HEADER_SIZE`] bytes, ask here how many there really are, then hand
/// all of them to [`crate::Tree::new`].
pub fn check_header(first_bytes: &[u8]) -> Result<usize, DtbError> {
    let field = |index: usize| {
        word_at(first_bytes, index * 4).ok_or(DtbError::Truncated { needed: HEADER_SIZE, available: first_bytes.len() })
    };
    let magic = field(0)?;
    if magic != MAGIC {
        return Err(DtbError::BadMagic(magic));
    }
    // The last field, so that all of them are there.
    field(9)?;
    let (version, compatible) = (field(5)?, field(6)?);
    if version < VERSION || compatible > VERSION {
        return Err(DtbError::BadVersion { version, compatible });
    }
    let size = field(1)? as usize;
    if !(HEADER_SIZE..=MAX_SIZE).contains(&size) {
        return Err(DtbError::BadSize(size));
    }
    let inside = |offset: u32, len: u32| (offset as usize).checked_add(len as usize).is_some_and(|end| end <= size);
    if !inside(field(2)?, field(9)?) || !field(2)?.is_multiple_of(4) {
        return Err(DtbError::BadBlock("structure block"));
    }
    if !inside(field(3)?, field(8)?) {
        return Err(DtbError::BadBlock("strings block"));
    }
    if !inside(field(4)?, 16) || !field(4)?.is_multiple_of(8) {
        return Err(DtbError::BadBlock("memory reservation block"));
    }
    Ok(size)
}

/// Takes what the structure block holds, in its order.
pub(crate) trait Visitor<'a> {
    /// A node opens; its parent is the innermost open one.
    fn begin_node(&mut self, name: &'a str);
    /// A property of the innermost open node. All come before that node's first child.
    fn property(&mut self, name: &'a str, value: &'a [u8]);
    /// The innermost open node closes.
    fn end_node(&mut self);
}

/// The blocks of a blob whose header has been checked.
pub(crate) struct Blob<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Checks the header and cuts the blob into its blocks. Bytes past `totalsize` are ignored.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DtbError> {
        let size = check_header(bytes)?;
        let blob = bytes.get(..size).ok_or(DtbError::Truncated { needed: size, available: bytes.len() })?;
        let block = |offset: usize, len: Option<usize>, name| {
            let start = word_at(blob, offset).ok_or(DtbError::BadBlock(name))? as usize;
            let end = match len {
                Some(len) => start.checked_add(word_at(blob, len).ok_or(DtbError::BadBlock(name))? as usize),
                None => Some(size),
            };
            blob.get(start..end.ok_or(DtbError::BadBlock(name))?).ok_or(DtbError::BadBlock(name))
        };
        Ok(Self {
            structure: block(8, Some(36), "structure block")?,
            strings: block(12, Some(32), "strings block")?,
            reservations: block(16, None, "memory reservation block")?,
        })
    }

    /// The entries of the memory reservation block; an unterminated list is an error.
    pub fn reservations(&self) -> Result<Vec<Range<u64>>, DtbError> {
        let mut found = Vec::new();
        let mut offset = 0;
        loop {
            let (Some(start), Some(len)) = (long_at(self.reservations, offset), long_at(self.reservations, offset + 8))
            else {
                return Err(DtbError::BadBlock("unterminated memory reservation block"));
            };
            if (start, len) == (0, 0) {
                return Ok(found);
            }
            found.push(start..start.saturating_add(len));
            offset += 16;
        }
    }

    /// Hands the whole structure block to the visitor, or says where it is malformed.
    pub fn walk(&self, visitor: &mut impl Visitor<'a>) -> Result<(), DtbError> {
        let mut at = 0;
        // For every open node, whether it has had a child: properties must come first.
        let mut open: Vec<bool> = Vec::new();
        let mut seen_root = false;
        loop {
            let bad = |what| DtbError::BadStructure { what, offset: at };
            let token = word_at(self.structure, at).ok_or(bad("missing end token"))?;
            let body = at + 4;
            at = match token {
                FDT_NOP => body,
                FDT_BEGIN_NODE => {
                    match open.last_mut() {
                        Some(has_child) => *has_child = true,
                        None if seen_root => return Err(bad("second root node")),
                        None => seen_root = true,
                    }
                    if open.len() == MAX_DEPTH {
                        return Err(bad("too deeply nested node"));
                    }
                    let name = name_at(self.structure, body).ok_or(bad("unreadable node name"))?;
                    // Otherwise paths would be ambiguous.
                    if name.contains('/') || (name.is_empty() && !open.is_empty()) {
                        return Err(bad("empty node name or one with a slash"));
                    }
                    open.push(false);
                    visitor.begin_node(name);
                    // The name and its NUL are inside the block, so this cannot overflow.
                    (body + name.len() + 1).next_multiple_of(4)
                }
                FDT_END_NODE => {
                    open.pop().ok_or(bad("unmatched node end"))?;
                    visitor.end_node();
                    body
                }
                FDT_PROP => {
                    if open.last() != Some(&false) {
                        return Err(bad("property outside a node or after a child node"));
                    }
                    let len = word_at(self.structure, body).ok_or(bad("cut-off property"))? as usize;
                    let name = word_at(self.structure, body + 4).ok_or(bad("cut-off property"))? as usize;
                    let name = name_at(self.strings, name).ok_or(bad("property with an unreadable name"))?;
                    let start = body + 8;
                    let value = start
                        .checked_add(len)
                        .and_then(|end| self.structure.get(start..end))
                        .ok_or(bad("property longer than the structure block"))?;
                    visitor.property(name, value);
                    (start + len).next_multiple_of(4)
                }
                FDT_END if open.is_empty() && seen_root => return Ok(()),
                FDT_END => return Err(bad("end token inside a node")),
                _ => return Err(bad("unknown token")),
            };
        }
    }
}

/// The NUL-terminated UTF-8 string of at most [`MAX_NAME`] bytes at an offset.
fn name_at(bytes: &[u8], offset: usize) -> Option<&str> {
    let rest = bytes.get(offset..)?;
    let head = rest.get(..MAX_NAME + 1).unwrap_or(rest);
    let len = head.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(head.get(..len)?).ok()
}
