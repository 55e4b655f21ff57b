//! One mapping of an address space: what mmap(2) made.

use alloc::{collections::BTreeMap, string::String, sync::Arc};
use core::ops::Range;

use abi::{Errno, linux};
use hal::PhysAddr;
use klib::{page_table::PageFlags, range_map::RangeValue};

use super::{
    PAGE_SIZE,
    frames::FrameRef,
    object::{Mappers, VmObject, WriteGrant},
};
use crate::{fs::path::Path, sync::IrqLock};

/// What a program may do with a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub execute: bool,
}

impl Protection {
    /// From mmap's bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self {
            read: bits & linux::PROT_READ != 0,
            write: bits & linux::PROT_WRITE != 0,
            execute: bits & linux::PROT_EXEC != 0,
        }
    }

    /// Nothing at all: pages are not mapped.
    pub const fn is_none(self) -> bool {
        !self.read && !self.write && !self.execute
    }

    /// The page-table flags of an ordinary page of a program.
    pub fn flags(self) -> PageFlags {
        let mut flags = PageFlags::USER | PageFlags::READ;
        flags.set(PageFlags::WRITE, self.write);
        flags.set(PageFlags::EXECUTE, self.execute);
        flags
    }
}

/// What a mapping is for, shown in /proc/PID/maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Ordinary.
    General,
    /// brk(2)'s.
    Heap,
    /// The main thread's stack.
    Stack,
    /// The vDSO's code.
    Vdso,
    /// The vDSO's data.
    ClockData,
}

/// What a child of fork(2) gets of a mapping (madvise(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFork {
    /// The same memory.
    Copy,
    /// Nothing (MADV_DONTFORK).
    Leave,
    /// Zeroes (MADV_WIPEONFORK).
    Wipe,
}

/// Where a mapping's pages come from.
#[derive(Clone)]
pub enum Source {
    /// Zeroes, private.
    Anonymous,
    /// An object, from this byte offset on.
    Object {
        /// The supplier of pages.
        object: Arc<dyn VmObject>,
        /// Byte offset of the mapping's first page.
        offset: u64,
        /// The mapped file.
        path: Option<Path>,
        /// Of a shared mapping that is or may become writable.
        _grant: Option<Arc<WriteGrant>>,
    },
}

impl Source {
    /// Who else has the object mapped, where its pages can go away.
    pub fn mappers(&self) -> Option<&Mappers> {
        match self {
            Self::Anonymous => None,
            Self::Object { object, .. } => object.mappers(),
        }
    }
}

/// One mapping.
#[derive(Clone)]
pub struct Mapping {
    /// What the program may do.
    pub protection: Protection,
    /// MAP_SHARED.
    pub shared: bool,
    /// Whether PROT_WRITE may be granted (a shared mapping of a file opened for reading may not).
    pub may_write: bool,
    /// What for.
    pub purpose: Purpose,
    /// What a child gets.
    pub on_fork: OnFork,
    /// mlock(2).
    pub locked: bool,
    /// Where pages come from.
    pub source: Source,
}

impl Mapping {
    /// The page-table flags of the page at `address` in the mapping, which begins at `start`.
    pub fn page_flags(&self, start: u64, address: u64) -> PageFlags {
        let kind = match &self.source {
            Source::Anonymous => PageFlags::empty(),
            Source::Object { object, offset, .. } => object.attributes((offset + (address - start)) / PAGE_SIZE as u64),
        };
        self.protection.flags() | kind
    }

    /// Whether it is of hardware ([`VmObject::is_hardware`]).
    pub fn is_hardware(&self) -> bool {
        matches!(&self.source, Source::Object { object, .. } if object.is_hardware())
    }
}

impl RangeValue for Mapping {
    fn skip(&self, delta: u64) -> Self {
        let mut rest = self.clone();
        if let Source::Object { offset, .. } = &mut rest.source {
            *offset += delta;
        }
        rest
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        self.protection == next.protection
            && self.shared == next.shared
            && self.may_write == next.may_write
            && self.purpose == next.purpose
            && self.on_fork == next.on_fork
            && self.locked == next.locked
            && match (&self.source, &next.source) {
                (Source::Anonymous, Source::Anonymous) => true,
                (
                    Source::Object { object, offset, .. },
                    Source::Object { object: next_object, offset: next_offset, .. },
                ) => object.identity() == next_object.identity() && offset + len == *next_offset,
                _ => false,
            }
    }
}

/// A mapping as /proc/PID/maps shows it.
pub struct MappingInfo {
    /// Addresses.
    pub range: Range<u64>,
    /// PROT_READ.
    pub readable: bool,
    /// PROT_WRITE.
    pub writable: bool,
    /// PROT_EXEC.
    pub executable: bool,
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Path or label.
    pub name: String,
    /// `st_dev` of the file.
    pub device: u64,
    /// `st_ino` of the file.
    pub inode: u64,
    /// Whether PROT_WRITE may be granted.
    pub may_write: bool,
    /// mlock(2).
    pub locked: bool,
    /// What a child of fork(2) gets.
    pub on_fork: OnFork,
    /// Grows downwards.
    pub is_stack: bool,
}

impl MappingInfo {
    /// Describes a mapping.
    pub fn new(range: Range<u64>, mapping: &Mapping) -> Self {
        let (mut offset, mut device, mut inode) = (0, 0, 0);
        let name = match (mapping.purpose, &mapping.source) {
            (Purpose::Heap, _) => "[heap]".into(),
            (Purpose::Stack, _) => "[stack]".into(),
            (Purpose::Vdso, _) => "[vdso]".into(),
            (Purpose::ClockData, _) => "[vvar]".into(),
            (Purpose::General, Source::Anonymous) => String::new(),
            (Purpose::General, Source::Object { offset: at, path, .. }) => {
                offset = *at;
                match path {
                    Some(path) => {
                        let metadata = path.inode().metadata();
                        (device, inode) = (metadata.device, metadata.inode);
                        path.display()
                    }
                    None => "/dev/zero (deleted)".into(),
                }
            }
        };
        Self {
            range,
            readable: mapping.protection.read,
            writable: mapping.protection.write,
            executable: mapping.protection.execute,
            shared: mapping.shared,
            offset,
            name,
            device,
            inode,
            may_write: mapping.may_write,
            locked: mapping.locked,
            on_fork: mapping.on_fork,
            is_stack: mapping.purpose == Purpose::Stack,
        }
    }
}

/// Memory shared between processes without a file (MAP_SHARED | MAP_ANONYMOUS).
pub struct SharedMemory {
    pages: IrqLock<BTreeMap<u64, FrameRef>>,
    len: u64,
    mappers: Mappers,
}

impl SharedMemory {
    /// `len` bytes of zeroes.
    pub fn new(len: u64) -> Arc<Self> {
        Arc::new(Self { pages: IrqLock::new(BTreeMap::new()), len, mappers: Mappers::new() })
    }
}

impl VmObject for SharedMemory {
    fn page(&self, index: u64) -> Result<FrameRef, Errno> {
        if index >= self.len.div_ceil(PAGE_SIZE as u64) {
            return Err(Errno::ENXIO);
        }
        let mut pages = self.pages.lock();
        if let Some(frame) = pages.get(&index) {
            return Ok(frame.clone());
        }
        let frame = FrameRef::zeroed()?;
        pages.insert(index, frame.clone());
        Ok(frame)
    }
    fn holds(&self, index: u64, frame: PhysAddr) -> bool {
        self.pages.lock().get(&index).is_some_and(|own| own.phys() == frame)
    }
    fn grant_writes(self: Arc<Self>) -> Result<WriteGrant, Errno> {
        Ok(WriteGrant::new(self))
    }
    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }
    fn punch(&self, range: Range<u64>) -> Result<(), Errno> {
        let page = PAGE_SIZE as u64;
        let pages = range.start.div_ceil(page)..range.end / page;
        let removed = {
            let mut all = self.pages.lock();
            let mut removed = all.split_off(&pages.start);
            all.append(&mut removed.split_off(&pages.end));
            removed
        };
        self.mappers.unmap(pages, &|_, _| true);
        drop(removed);
        Ok(())
    }
    fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}
