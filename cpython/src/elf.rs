//! The one question the builder asks of an ELF file: its `DT_SONAME`.
//!
//! 64-bit little-endian files only, which all target architectures are. The files come from packages, so every
//! offset is checked. Source: ELF gABI, chapters "Program Header" and "Dynamic Section".

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const EHDR_MACHINE: usize = 18;
const EHDR_PHOFF: usize = 32;
const EHDR_PHENTSIZE: usize = 54;
const EHDR_PHNUM: usize = 56;

/// What the dynamic loader needs to know about a shared library.
#[derive(Debug, PartialEq, Eq)]
pub struct Library {
    /// `e_machine`.
    pub machine: u16,
    /// `DT_SONAME`, where it has one.
    pub soname: Option<String>,
}

/// Whether the bytes start like an ELF file.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads a shared library; the error says what is wrong with it.
pub fn library(bytes: &[u8]) -> Result<Library, &'static str> {
    if !is_elf(bytes) || bytes.get(4..6) != Some(&[2, 1]) {
        return Err("it is not a 64-bit little-endian ELF file");
    }
    let machine = u16_at(bytes, EHDR_MACHINE)?;
    let table = offset_at(bytes, EHDR_PHOFF)?;
    let entry_size = usize::from(u16_at(bytes, EHDR_PHENTSIZE)?);
    let count = usize::from(u16_at(bytes, EHDR_PHNUM)?);
    let mut loads = Vec::new();
    let mut dynamic = None;
    for index in 0..count {
        let at = index.checked_mul(entry_size).and_then(|skip| table.checked_add(skip)).ok_or(CUT)?;
        let (file_offset, address, file_size) =
            (offset_at(bytes, at + 8)?, u64_at(bytes, at + 16)?, u64_at(bytes, at + 32)?);
        match u32_at(bytes, at)? {
            PT_LOAD => loads.push((file_offset, address, file_size)),
            PT_DYNAMIC => dynamic = Some((file_offset, file_size)),
            _ => {}
        }
    }
    let Some((start, size)) = dynamic else {
        return Ok(Library { machine, soname: None });
    };
    let (mut strings, mut name) = (None, None);
    for entry in 0..size / 16 {
        let at = usize::try_from(entry).ok().and_then(|entry| start.checked_add(entry * 16)).ok_or(CUT)?;
        let (tag, value) = (u64_at(bytes, at)?, u64_at(bytes, at + 8)?);
        match tag {
            DT_NULL => break,
            DT_STRTAB => strings = Some(value),
            DT_SONAME => name = Some(value),
            _ => {}
        }
    }
    let Some(name) = name else {
        return Ok(Library { machine, soname: None });
    };
    let strings = strings.ok_or("it has a DT_SONAME but no DT_STRTAB")?;
    let in_file = loads.iter().find_map(|(offset, address, size)| {
        let inside = strings.checked_sub(*address).filter(|inside| inside < size)?;
        usize::try_from(inside.checked_add(name)?).ok()?.checked_add(*offset)
    });
    let text = bytes.get(in_file.ok_or("its string table is in no segment")?..).ok_or(CUT)?;
    let end = text.iter().position(|byte| *byte == 0).ok_or(CUT)?;
    let soname = std::str::from_utf8(text.get(..end).ok_or(CUT)?).map_err(|_| "its DT_SONAME is not text")?;
    Ok(Library { machine, soname: Some(soname.to_owned()) })
}

const CUT: &str = "it is cut short";

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], &'static str> {
    let end = at.checked_add(N).ok_or(CUT)?;
    bytes.get(at..end).and_then(|slice| slice.try_into().ok()).ok_or(CUT)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, &'static str> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, &'static str> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, &'static str> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

fn offset_at(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    // Offsets are kept below 2^40 so that later sums of small constants cannot overflow.
    u64_at(bytes, at).and_then(|value| match usize::try_from(value) {
        Ok(offset) if value < 1 << 40 => Ok(offset),
        _ => Err(CUT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal library: header, PT_LOAD and PT_DYNAMIC, a dynamic section and the string table.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[EHDR_MACHINE..][..2].copy_from_slice(&183u16.to_le_bytes());
        bytes[EHDR_PHOFF..][..8].copy_from_slice(&64u64.to_le_bytes());
        bytes[EHDR_PHENTSIZE..][..2].copy_from_slice(&56u16.to_le_bytes());
        bytes[EHDR_PHNUM..][..2].copy_from_slice(&2u16.to_le_bytes());
        let mut header = |at: usize, kind: u32, offset: u64, address: u64, size: u64| {
            bytes[at..][..4].copy_from_slice(&kind.to_le_bytes());
            bytes[at + 8..][..8].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 16..][..8].copy_from_slice(&address.to_le_bytes());
            bytes[at + 32..][..8].copy_from_slice(&size.to_le_bytes());
        };
        header(64, PT_LOAD, 0, 0x1000, 0x200);
        header(120, PT_DYNAMIC, 0x100, 0x1100, 48);
        for (index, (tag, value)) in [(DT_STRTAB, 0x1180), (DT_SONAME, 1), (DT_NULL, 0)].into_iter().enumerate() {
            bytes[0x100 + index * 16..][..8].copy_from_slice(&u64::to_le_bytes(tag));
            bytes[0x108 + index * 16..][..8].copy_from_slice(&u64::to_le_bytes(value));
        }
        bytes[0x181..][..11].copy_from_slice(b"libdemo.so\0");
        bytes
    }

    #[test]
    fn soname_is_read_through_the_load_segment() {
        let found = library(&sample()).unwrap();
        assert_eq!(found, Library { machine: 183, soname: Some("libdemo.so".into()) });
    }

    #[test]
    fn every_truncation_is_an_error_or_a_library_and_never_a_panic() {
        let bytes = sample();
        for length in 0..bytes.len() {
            let _ = library(&bytes[..length]);
        }
        assert!(library(&bytes[..100]).is_err());
    }

    #[test]
    fn every_single_corrupted_byte_is_survived() {
        for at in 0..0x200 {
            let mut bytes = sample();
            bytes[at] ^= 0xff;
            let _ = library(&bytes);
        }
    }

    #[test]
    fn text_file_is_not_a_library() {
        assert!(library(b"#!/bin/sh\n").is_err());
    }
}
