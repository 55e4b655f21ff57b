//! /proc/PID/{maps,smaps,smaps_rollup,statm}: a process's memory.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt::Write as _;

use abi::Result;

use crate::{
    mm::{PAGE_SIZE, mapping::MappingInfo},
    task::process::Process,
};

/// The column where a mapping's name begins.
const NAME_COLUMN: usize = 73;
const KIB_PER_PAGE: u64 = PAGE_SIZE as u64 / 1024;

const fn flag(set: bool, letter: char) -> char {
    if set { letter } else { '-' }
}

fn header(text: &mut String, mapping: &MappingInfo) {
    let start = text.len();
    let _ = write!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        mapping.range.start,
        mapping.range.end,
        flag(mapping.readable, 'r'),
        flag(mapping.writable, 'w'),
        flag(mapping.executable, 'x'),
        if mapping.shared { 's' } else { 'p' },
        mapping.offset,
        mapping.device >> 8 & 0xfff,
        mapping.device & 0xff,
        mapping.inode,
    );
    if !mapping.name.is_empty() {
        while text.len() - start < NAME_COLUMN {
            text.push(' ');
        }
        // A newline in a name must not look like the next mapping.
        text.push_str(&mapping.name.replace('\n', "\\012"));
    }
    text.push('\n');
}

fn mappings(process: &Arc<Process>) -> Vec<MappingInfo> {
    process.memory().map(|memory| memory.mappings()).unwrap_or_default()
}

/// maps.
pub fn maps(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for mapping in mappings(process) {
        header(&mut text, &mapping);
    }
    Ok(text.into_bytes())
}

/// Pages of one mapping, by how they are held.
#[derive(Clone, Copy, Default)]
struct Usage {
    size_kib: u64,
    resident_kib: u64,
    /// Of the resident ones, those that belong to a private writable mapping.
    private_kib: u64,
}

impl Usage {
    fn of(process: &Arc<Process>, mapping: &MappingInfo) -> Self {
        let resident = match process.memory() {
            Some(memory) => memory.residency(mapping.range.clone()).unwrap_or_default(),
            None => Vec::new(),
        };
        let resident_kib = resident.iter().filter(|page| **page != 0).count() as u64 * KIB_PER_PAGE;
        Self {
            size_kib: (mapping.range.end - mapping.range.start) / 1024,
            resident_kib,
            private_kib: if !mapping.shared && mapping.writable { resident_kib } else { 0 },
        }
    }

    fn write(self, text: &mut String) {
        let shared_kib = self.resident_kib - self.private_kib;
        for (name, kib) in [
            ("Rss", self.resident_kib),
            ("Pss", self.resident_kib),
            ("Shared_Clean", shared_kib),
            ("Shared_Dirty", 0),
            ("Private_Clean", 0),
            ("Private_Dirty", self.private_kib),
            ("Referenced", self.resident_kib),
            ("Anonymous", self.private_kib),
            ("Swap", 0),
            ("SwapPss", 0),
            ("Locked", 0),
        ] {
            let _ = writeln!(text, "{:<16}{kib:>8} kB", alloc::format!("{name}:"));
        }
    }
}

/// smaps.
pub fn detailed(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for mapping in mappings(process) {
        header(&mut text, &mapping);
        let usage = Usage::of(process, &mapping);
        for (name, kib) in [("Size", usage.size_kib), ("KernelPageSize", KIB_PER_PAGE), ("MMUPageSize", KIB_PER_PAGE)] {
            let _ = writeln!(text, "{:<16}{kib:>8} kB", alloc::format!("{name}:"));
        }
        usage.write(&mut text);
    }
    Ok(text.into_bytes())
}

/// Resident memory of a process in KiB: all of it, and what is private and writable.
pub fn resident_kib(process: &Arc<Process>) -> (u64, u64) {
    let total = total(process, &mappings(process));
    (total.resident_kib, total.private_kib)
}

fn total(process: &Arc<Process>, mappings: &[MappingInfo]) -> Usage {
    let mut total = Usage::default();
    for mapping in mappings {
        let usage = Usage::of(process, mapping);
        total.resident_kib += usage.resident_kib;
        total.private_kib += usage.private_kib;
    }
    total
}

/// smaps_rollup.
pub fn summary(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mappings = mappings(process);
    let total = total(process, &mappings);
    let start = mappings.first().map_or(0, |mapping| mapping.range.start);
    let end = mappings.last().map_or(0, |mapping| mapping.range.end);
    let mut text = String::new();
    let _ = writeln!(text, "{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]");
    total.write(&mut text);
    Ok(text.into_bytes())
}

/// statm: pages in all, resident, resident and shared, text, 0, data and stack, 0.
pub fn statm(process: &Arc<Process>) -> Result<Vec<u8>> {
    let Some(memory) = process.memory() else { return Ok(b"0 0 0 0 0 0 0\n".to_vec()) };
    let (mut shared, mut code, mut data) = (0, 0, 0);
    for mapping in memory.mappings() {
        let pages = (mapping.range.end - mapping.range.start) / PAGE_SIZE as u64;
        if mapping.executable {
            code += pages;
        } else if mapping.writable && !mapping.shared {
            data += pages;
        }
        if mapping.inode != 0 && !mapping.writable {
            let usage = Usage::of(process, &mapping);
            shared += usage.resident_kib / KIB_PER_PAGE;
        }
    }
    let (size, resident) = (memory.virtual_pages(), memory.resident_pages());
    Ok(alloc::format!("{size} {resident} {shared} {code} 0 {data} 0\n").into_bytes())
}
