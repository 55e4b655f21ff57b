//! /proc/PID/{maps,smaps,smaps_rollup,statm}: a process's memory.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::{
    fmt::Write as _,
    ops::{AddAssign, Range},
};

use abi::{Errno, Result};
use hal::{Arch as _, PhysAddr};

use crate::{
    arch::Arch,
    mm::{
        PAGE_SIZE,
        address_space::AddressSpace,
        mapping::{MappingInfo, OnFork},
        survey::{Owner, PresentPage},
    },
    task::process::{self, Process},
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

/// Makes room for what is said of one mapping. ENOMEM: there may be many.
fn reserve(text: &mut String, mapping: &MappingInfo, details: usize) -> Result<()> {
    // A newline takes four characters.
    text.try_reserve(NAME_COLUMN + 4 * mapping.name.len() + 1 + details).map_err(|_| Errno::ENOMEM)
}

/// maps.
pub fn maps(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for mapping in process.memory().iter().flat_map(|memory| memory.mappings()) {
        reserve(&mut text, &mapping, 0)?;
        header(&mut text, &mapping);
    }
    Ok(text.into_bytes())
}

/// How often each page of the root image that a process has is mapped, by all processes; in the order of addresses.
struct ImagePages(BTreeMap<PhysAddr, u32>);

impl ImagePages {
    fn of(memory: &AddressSpace) -> Self {
        let mut pages = BTreeMap::new();
        memory.visit_image_pages(|page| {
            pages.insert(page, 0);
        });
        // Several processes may have one address space (vfork).
        let mut seen = BTreeMap::new();
        for other in process::all().iter().filter_map(|process| process.memory()) {
            let address = Arc::as_ptr(&other).addr();
            if seen.contains_key(&address) {
                continue;
            }
            other.visit_image_pages(|page| {
                if let Some(count) = pages.get_mut(&page) {
                    *count += 1;
                }
            });
            seen.insert(address, other);
        }
        Self(pages)
    }

    fn mapped(&self, page: PhysAddr) -> u32 {
        self.0.get(&page).map_or(1, |count| (*count).max(1))
    }
}

/// Pages of mappings, by whose they are and in how many page tables. All in pages but for the shares, which are in
/// bytes: a page that n page tables have counts as an nth of one.
#[derive(Clone, Copy, Default)]
struct Usage {
    resident: u64,
    anonymous: u64,
    shared_memory: u64,
    /// Of one page table: those of files, which are clean, and all others, which are the only copy there is.
    private_clean: u64,
    private_dirty: u64,
    /// Of several.
    shared_clean: u64,
    shared_dirty: u64,
    anonymous_share: u64,
    shared_memory_share: u64,
    file_share: u64,
    /// Of locked mappings.
    locked_share: u64,
}

impl Usage {
    fn add(&mut self, page: PresentPage, mapped: u32, locked: bool) {
        self.resident += 1;
        let share = PAGE_SIZE as u64 / u64::from(mapped.max(1));
        match page.owner {
            Owner::Program => {
                self.anonymous += 1;
                self.anonymous_share += share;
            }
            Owner::SharedMemory => {
                self.shared_memory += 1;
                self.shared_memory_share += share;
            }
            Owner::File => self.file_share += share,
        }
        match (mapped > 1, page.owner) {
            (false, Owner::File) => self.private_clean += 1,
            (false, _) => self.private_dirty += 1,
            (true, Owner::File) => self.shared_clean += 1,
            (true, _) => self.shared_dirty += 1,
        }
        if locked {
            self.locked_share += share;
        }
    }

    fn of(memory: &AddressSpace, range: Range<u64>, locked: bool, image: Option<&ImagePages>) -> Self {
        let mut usage = Self::default();
        memory.survey(range, |page| {
            let mapped = page.mapped.or_else(|| image.map(|image| image.mapped(page.address))).unwrap_or(1);
            usage.add(page, mapped, locked);
        });
        usage
    }

    fn write(self, text: &mut String, is_summary: bool) {
        let kib = |pages: u64| pages * KIB_PER_PAGE;
        let dirty_share = self.anonymous_share + self.shared_memory_share;
        let line = |text: &mut String, name: &str, kib: u64| {
            let _ = writeln!(text, "{:<16}{kib:>8} kB", alloc::format!("{name}:"));
        };
        line(text, "Rss", kib(self.resident));
        line(text, "Pss", (dirty_share + self.file_share) / 1024);
        line(text, "Pss_Dirty", dirty_share / 1024);
        if is_summary {
            line(text, "Pss_Anon", self.anonymous_share / 1024);
            line(text, "Pss_File", self.file_share / 1024);
            line(text, "Pss_Shmem", self.shared_memory_share / 1024);
        }
        for (name, kib) in [
            ("Shared_Clean", kib(self.shared_clean)),
            ("Shared_Dirty", kib(self.shared_dirty)),
            ("Private_Clean", kib(self.private_clean)),
            ("Private_Dirty", kib(self.private_dirty)),
            // Which pages were looked at since is not known.
            ("Referenced", kib(self.resident)),
            ("Anonymous", kib(self.anonymous)),
            ("KSM", 0),
            ("LazyFree", 0),
            ("AnonHugePages", 0),
            ("ShmemPmdMapped", 0),
            ("FilePmdMapped", 0),
            ("Shared_Hugetlb", 0),
            ("Private_Hugetlb", 0),
            ("Swap", 0),
            ("SwapPss", 0),
            ("Locked", self.locked_share / 1024),
        ] {
            line(text, name, kib);
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.resident += other.resident;
        self.anonymous += other.anonymous;
        self.shared_memory += other.shared_memory;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.anonymous_share += other.anonymous_share;
        self.shared_memory_share += other.shared_memory_share;
        self.file_share += other.file_share;
        self.locked_share += other.locked_share;
    }
}

/// VmFlags, as Linux's Documentation/filesystems/proc.rst has them.
fn flags(mapping: &MappingInfo) -> String {
    let mut text = String::from("VmFlags:");
    for (set, name) in [
        (mapping.readable, " rd"),
        (mapping.writable, " wr"),
        (mapping.executable, " ex"),
        (mapping.shared, " sh"),
        (true, " mr"),
        (mapping.may_write, " mw"),
        (true, " me"),
        (mapping.shared, " ms"),
        (mapping.is_stack, " gd"),
        (mapping.locked, " lo"),
        (mapping.on_fork == OnFork::Leave, " dc"),
        (mapping.writable && !mapping.shared, " ac"),
        (mapping.on_fork == OnFork::Wipe, " wf"),
    ] {
        if set {
            text.push_str(name);
        }
    }
    text.push_str(" \n");
    text
}

/// smaps.
pub fn detailed(process: &Arc<Process>) -> Result<Vec<u8>> {
    /// What the lines below the first one take.
    const DETAILS: usize = 1024;
    let mut text = String::new();
    let Some(memory) = process.memory() else { return Ok(Vec::new()) };
    let image = ImagePages::of(&memory);
    for mapping in memory.mappings() {
        reserve(&mut text, &mapping, DETAILS)?;
        header(&mut text, &mapping);
        let usage = Usage::of(&memory, mapping.range.clone(), mapping.locked, Some(&image));
        let size_kib = (mapping.range.end - mapping.range.start) / 1024;
        for (name, kib) in [("Size", size_kib), ("KernelPageSize", KIB_PER_PAGE), ("MMUPageSize", KIB_PER_PAGE)] {
            let _ = writeln!(text, "{:<16}{kib:>8} kB", alloc::format!("{name}:"));
        }
        usage.write(&mut text, false);
        text.push_str("THPeligible:           0\n");
        text.push_str(&flags(&mapping));
    }
    Ok(text.into_bytes())
}

/// Resident memory of a process by whose it is, in KiB.
pub struct Resident {
    /// The program's own.
    pub anonymous: u64,
    /// Of files.
    pub file: u64,
    /// Of memory that several have in common.
    pub shared_memory: u64,
}

/// Resident memory of a process.
pub fn resident(memory: &AddressSpace) -> Resident {
    let usage = Usage::of(memory, 0..Arch::USER_END, false, None);
    let [anonymous, shared_memory] = [usage.anonymous, usage.shared_memory].map(|pages| pages * KIB_PER_PAGE);
    Resident { anonymous, shared_memory, file: usage.resident * KIB_PER_PAGE - anonymous - shared_memory }
}

/// The sum over all mappings, and where the first begins and the last ends.
fn total(memory: &AddressSpace) -> (Usage, Range<u64>) {
    let image = ImagePages::of(memory);
    let mut total = Usage::default();
    let mut span: Option<Range<u64>> = None;
    for mapping in memory.mappings() {
        total += Usage::of(memory, mapping.range.clone(), mapping.locked, Some(&image));
        span = Some(span.map_or(mapping.range.start, |span| span.start)..mapping.range.end);
    }
    (total, span.unwrap_or_default())
}

/// smaps_rollup.
pub fn summary(process: &Arc<Process>) -> Result<Vec<u8>> {
    let (total, span) = process.memory().map(|memory| total(&memory)).unwrap_or_default();
    let mut text = String::new();
    let _ =
        writeln!(text, "{:08x}-{:08x} ---p 00000000 00:00 0                          [rollup]", span.start, span.end);
    total.write(&mut text, true);
    Ok(text.into_bytes())
}

/// statm: pages in all, resident, resident and shared, text, 0, data and stack, 0.
pub fn statm(process: &Arc<Process>) -> Result<Vec<u8>> {
    let Some(memory) = process.memory() else { return Ok(b"0 0 0 0 0 0 0\n".to_vec()) };
    let (mut code, mut data) = (0, 0);
    for mapping in memory.mappings() {
        let pages = (mapping.range.end - mapping.range.start) / PAGE_SIZE as u64;
        if mapping.executable {
            code += pages;
        } else if mapping.writable && !mapping.shared {
            data += pages;
        }
    }
    let resident_now = resident(&memory);
    let shared = (resident_now.file + resident_now.shared_memory) / KIB_PER_PAGE;
    let (size, resident) = (memory.virtual_pages(), memory.resident_pages());
    Ok(alloc::format!("{size} {resident} {shared} {code} 0 {data} 0\n").into_bytes())
}
