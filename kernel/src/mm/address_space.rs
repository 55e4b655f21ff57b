//! A program's address space: its mappings and page table, and mmap(2) and its relatives on them.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

use abi::{Errno, Result, linux};
use hal::{Arch as _, FaultAccess, MAX_CPUS, PAGE_SIZE, PhysAddr, UserAddr};
use klib::{
    address_space_ids::{self as ids, Active, Numbers},
    page_table::{PageFlags, PageTable, TableMemory as _},
    range_map::RangeMap,
};

use super::{
    fault::FaultOutcome,
    frames::FrameRef,
    kernel_space::{KeptTables, Tables},
    limits::Limits,
    mapping::{Mapping, OnFork, Protection, Purpose, Source},
    object::Mappers,
    page_up,
};
use crate::{
    arch::{Arch, PageFormat},
    sync::{IrqLock, PlainGuard, PlainLock},
    task::scheduler,
};

/// The lowest address a mapping may have (vm.mmap_min_addr): NULL and its neighbours always fault.
pub const LOWEST_ADDRESS: u64 = 64 << 10;
/// The most mappings one address space may have (vm.max_map_count).
const MAX_MAPPINGS: usize = 65530;
/// Up to this many pages are flushed from the TLB one by one; beyond, the whole address space is.
const FLUSH_SINGLY: u64 = 32;

/// What a page keeps when its rights change: whether it is to be copied, and what kind of memory it is.
const KEPT: PageFlags = PageFlags::COW.union(PageFlags::DEVICE).union(PageFlags::UNCACHED);

/// Bytes that a table of pages maps.
const TABLE_SPAN: u64 = 2 << 20;

/// What a process's memory consists of.
pub(super) struct Inner {
    pub(super) map: RangeMap<Mapping>,
    pub(super) table: PageTable<PageFormat>,
    /// Pages present.
    pub(super) resident: u64,
    /// The most there ever were, as of the last time some went.
    pub(super) peak: u64,
    brk: Range<u64>,
    /// mmap places new mappings below this.
    top: u64,
    /// New mappings are locked (mlockall(2), MCL_FUTURE).
    pub(super) lock_future: bool,
}

/// Where things are, for /proc.
#[derive(Clone, Default, Debug)]
pub struct Layout {
    /// The command line's strings.
    pub arguments: Range<u64>,
    /// The environment's strings.
    pub environment: Range<u64>,
    /// The auxiliary vector.
    pub auxv: Vec<u8>,
}

/// A program's address space.
pub struct AddressSpace {
    /// Held for work that grows with the number of pages, so interrupts stay on; no interrupt handler takes it.
    pub(super) inner: PlainLock<Inner>,
    root: PhysAddr,
    /// By which TLBs know it ([`klib::address_space_ids`]).
    id: AtomicU64,
    layout: IrqLock<Layout>,
    /// Whether others of the same user may look into it (PR_SET_DUMPABLE).
    dumpable: AtomicBool,
    this: Weak<Self>,
    /// What membarrier(2) was told by MEMBARRIER_CMD_REGISTER_*, as it answers it.
    barriers: AtomicU32,
}

/// What each CPU runs with.
static ACTIVE: Active<MAX_CPUS> = Active::new();
/// Which numbers of address spaces are taken. Made when first needed.
static NUMBERS: IrqLock<Option<Numbers<MAX_CPUS>>> = IrqLock::new(None);

/// What was taken out of an address space.
#[derive(Default)]
struct Removed {
    #[allow(dead_code, reason = "held only to be dropped later")]
    mappings: RangeMap<Mapping>,
    frames: Vec<FrameRef>,
    /// What a move left behind: the mapping where it was, and the frames that have no place where it is.
    #[allow(dead_code, reason = "held only to be dropped later")]
    moved: RangeMap<Mapping>,
    #[allow(dead_code, reason = "held only to be dropped later")]
    cut_off: Vec<FrameRef>,
}

/// How mremap(2) may move a mapping.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// MREMAP_MAYMOVE.
    pub allowed: bool,
    /// MREMAP_DONTUNMAP: the pages move, and the old mapping stays, without them. Of the same length.
    pub keeps_mapping: bool,
    /// MREMAP_FIXED: where to.
    pub to: Option<u64>,
}

/// Arguments of a new mapping.
pub struct MapRequest {
    /// Wanted address; where it must be when `fixed`.
    pub address: u64,
    /// Length in bytes; not 0.
    pub len: u64,
    /// MAP_FIXED.
    pub fixed: bool,
    /// MAP_FIXED_NOREPLACE: with `fixed`, EEXIST instead of replacing.
    pub no_replace: bool,
    /// What to map.
    pub mapping: Mapping,
}

impl AddressSpace {
    /// An empty address space. ENOMEM.
    pub fn new() -> Result<Arc<Self>> {
        let table = PageTable::new(&mut Tables).ok_or(Errno::ENOMEM)?;
        let root = PhysAddr::new(table.root());
        let inner = Inner {
            map: RangeMap::new(),
            table,
            resident: 0,
            peak: 0,
            brk: 0..0,
            top: Arch::USER_END,
            lock_future: false,
        };
        Ok(Arc::new_cyclic(|this| Self {
            inner: PlainLock::new(inner),
            root,
            id: AtomicU64::new(0),
            layout: IrqLock::new(Layout::default()),
            dumpable: AtomicBool::new(true),
            this: this.clone(),
            barriers: AtomicU32::new(0),
        }))
    }

    /// Makes the calling CPU, number `cpu`, use it. Interrupts are masked, and the CPU keeps a reference meanwhile.
    pub fn activate(&self, cpu: usize) {
        let mut id = self.id.load(Ordering::SeqCst);
        if !ACTIVE.take_up(cpu, id) {
            let mut numbers = NUMBERS.lock();
            let numbers = numbers.get_or_insert_with(|| Numbers::new(Arch::nr_address_space_ids()));
            // Another CPU may have given it one meanwhile.
            let assigned = numbers.assign(&ACTIVE, cpu, self.id.load(Ordering::SeqCst));
            id = assigned.id;
            self.id.store(id, Ordering::SeqCst);
            if assigned.flush {
                // Not while a space with an old number is active: it could be cached again behind the flush.
                Arch::activate_user_table(None);
                Arch::flush_all_local();
            }
        }
        Arch::activate_user_table(Some((self.root, ids::number(id))));
    }

    /// The number to flush, after the page table was changed. A CPU that takes the space up under a new number, and so
    /// could cache what was there before, has stored the number before it walks the table; the barrier orders the change
    /// before the look at it.
    fn number_to_flush(&self) -> u16 {
        fence(Ordering::SeqCst);
        ids::number(self.id.load(Ordering::SeqCst))
    }

    pub(super) fn flush_page(&self, address: u64) {
        Arch::flush_user_page(self.number_to_flush(), UserAddr::new(address));
    }

    fn flush_range(&self, range: &Range<u64>) {
        if (range.end - range.start) / PAGE_SIZE as u64 <= FLUSH_SINGLY {
            for page in range.clone().step_by(PAGE_SIZE) {
                self.flush_page(page);
            }
        } else {
            self.flush_space();
        }
    }

    fn flush_space(&self) {
        Arch::flush_user_space(self.number_to_flush());
    }

    /// The physical address of its root page table.
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// What membarrier(2) was registered for, as bits of its commands.
    pub fn barriers(&self) -> u32 {
        self.barriers.load(Ordering::SeqCst)
    }

    /// Registers for commands of membarrier(2).
    pub fn register_barriers(&self, commands: u32) {
        self.barriers.fetch_or(commands, Ordering::SeqCst);
    }

    /// Whether others of the same user may look into it (prctl(2), PR_SET_DUMPABLE).
    pub fn is_dumpable(&self) -> bool {
        self.dumpable.load(Ordering::Relaxed)
    }

    /// Sets whether others of the same user may look into it.
    pub fn set_dumpable(&self, dumpable: bool) {
        self.dumpable.store(dumpable, Ordering::Relaxed);
    }

    /// Where execve put things.
    pub fn layout(&self) -> Layout {
        self.layout.lock().clone()
    }

    /// Remembers where execve put things; mappings go below `top`, the heap starts at `brk`.
    pub fn set_layout(&self, layout: Layout, top: u64, brk: u64) {
        *self.layout.lock() = layout;
        let mut inner = self.inner.lock();
        inner.top = top;
        inner.brk = brk..brk;
    }

    /// Limits where mmap places mappings before the final layout is known.
    pub fn set_top(&self, top: u64) {
        self.inner.lock().top = top;
    }

    /// mmap(2): makes a mapping and returns its address.
    pub fn map(&self, request: MapRequest) -> Result<u64> {
        let len = page_up(request.len).filter(|len| *len > 0).ok_or(Errno::ENOMEM)?;
        if let Some(mappers) = request.mapping.source.mappers() {
            mappers.join(&self.this);
        }
        let limits = Limits::current();
        let mut mapping = request.mapping;
        let replaced = {
            let mut inner = self.inner.lock();
            inner.check_room()?;
            mapping.locked |= inner.lock_future;
            let address = if request.fixed {
                let end = request.address.checked_add(len).ok_or(Errno::ENOMEM)?;
                if request.address < LOWEST_ADDRESS {
                    return Err(Errno::EPERM);
                }
                if end > Arch::USER_END {
                    return Err(Errno::ENOMEM);
                }
                if request.no_replace && !inner.map.is_free(request.address..end) {
                    return Err(Errno::EEXIST);
                }
                request.address
            } else {
                inner.place(request.address, len)?
            };
            let replaced = if request.fixed { address..address + len } else { 0..0 };
            inner.check_growth(&limits, len, mapping.is_data(), replaced)?;
            if mapping.locked {
                inner.check_locked(&limits, len)?;
            }
            let replaced =
                if request.fixed { self.take_out(&mut inner, address..address + len) } else { Removed::default() };
            inner.map.insert(address..address + len, mapping).map_err(|_| Errno::ENOMEM)?;
            (address, replaced)
        };
        Ok(replaced.0)
    }

    /// Removes mappings and pages of a range; files and frames go when the result is dropped, after the lock.
    fn take_out(&self, inner: &mut Inner, range: Range<u64>) -> Removed {
        let mappings = inner.map.remove(range.clone());
        let frames = if mappings.is_empty() {
            Vec::new()
        } else {
            let free_tables = inner.frees_tables(&range);
            self.take_pages(inner, range, free_tables)
        };
        Removed { mappings, frames, ..Removed::default() }
    }

    /// Removes the pages of a range, leaving mappings; with `free_tables`, the tables that hold nothing then, too.
    fn take_pages(&self, inner: &mut Inner, range: Range<u64>, free_tables: bool) -> Vec<FrameRef> {
        let mut frames = Vec::new();
        let mut taken = 0;
        let flush = || self.flush_space();
        let mut tables = KeptTables::new(&flush);
        let result = inner.table.unmap(&mut tables, range.clone(), free_tables, |_, _, leaf| {
            // SAFETY: the entry held the reference that `install` or `fork` put there.
            let frame = unsafe { FrameRef::from_raw(PhysAddr::new(leaf.pa)) };
            taken += 1;
            if frames.try_reserve(1).is_err() {
                // No memory to keep the frames in until the flush: flush now, and let this one go at once.
                self.flush_space();
                return;
            }
            frames.push(frame);
        });
        debug_assert!(result.is_ok(), "user pages are 4 KiB");
        inner.peak = inner.peak.max(inner.resident);
        inner.resident -= taken;
        if tables.is_flush_due() {
            // What leads to a table may be cached as well, which only this drops (Arm ARM D8.17.5).
            self.flush_space();
        } else if !frames.is_empty() {
            self.flush_range(&range);
        }
        frames
    }

    /// An object has given up the pages with these numbers: takes those out that are mapped here and that `chosen`
    /// names.
    pub(super) fn unmap_object(&self, mappers: &Mappers, pages: Range<u64>, chosen: &dyn Fn(u64, PhysAddr) -> bool) {
        const PAGE: u64 = PAGE_SIZE as u64;
        let frames = {
            let mut inner = self.inner.lock();
            let mut doomed = Vec::new();
            for (range, mapping) in inner.map.iter() {
                let Source::Object { offset, .. } = &mapping.source else { continue };
                if !mapping.source.mappers().is_some_and(|other| core::ptr::eq(other, mappers)) {
                    continue;
                }
                let first = offset / PAGE;
                let start = pages.start.max(first);
                let end = pages.end.min(first + (range.end - range.start) / PAGE);
                if start < end {
                    doomed.push((start, range.start + (start - first) * PAGE..range.start + (end - first) * PAGE));
                }
            }
            let mut frames = Vec::new();
            for (first, range) in doomed {
                let mut found = Vec::new();
                let start = range.start;
                inner.table.visit(&Tables, range, |at, _, leaf| {
                    if chosen(first + (at - start) / PAGE, PhysAddr::new(leaf.pa)) {
                        found.push(at);
                    }
                });
                for at in found {
                    frames.extend(self.take_pages(&mut inner, at..at + PAGE, false));
                }
            }
            frames
        };
        drop(frames);
    }

    /// munmap(2).
    pub fn unmap(&self, range: Range<u64>) -> Result<()> {
        let frames = {
            let mut inner = self.inner.lock();
            // A hole in a mapping makes two of it.
            let makes_hole =
                inner.map.get(range.start).is_some_and(|(all, _)| all.start < range.start && range.end < all.end);
            if makes_hole && inner.map.len() >= MAX_MAPPINGS {
                return Err(Errno::ENOMEM);
            }
            self.take_out(&mut inner, range)
        };
        drop(frames);
        Ok(())
    }

    /// madvise(2) with MADV_DONTNEED: pages go; private ones read as at first again. With `private_only`, as MADV_FREE
    /// is, EINVAL where something else than private memory without a file is there. What is mapped of the range is
    /// dealt with even where the answer is ENOMEM, because not all of it is.
    pub fn discard(&self, range: Range<u64>, private_only: bool) -> Result<()> {
        let mut frames = Vec::new();
        let outcome = {
            let mut inner = self.inner.lock();
            let mut pieces = Vec::new();
            let mut outcome = if inner.map.covered(range.clone()) { Ok(()) } else { Err(Errno::ENOMEM) };
            for (piece, mapping) in inner.map.iter_range(range.clone()) {
                if private_only && (mapping.shared || !matches!(mapping.source, Source::Anonymous)) {
                    outcome = Err(Errno::EINVAL);
                    break;
                }
                pieces.push(piece.start.max(range.start)..piece.end.min(range.end));
            }
            for piece in pieces {
                frames.extend(self.take_pages(&mut inner, piece, false));
            }
            outcome
        };
        drop(frames);
        outcome
    }

    /// madvise(2) with MADV_REMOVE: makes holes in the mapped objects. EINVAL where there is none, EACCES where the
    /// mapping may not be written to or is private.
    pub fn punch(&self, range: Range<u64>) -> Result<()> {
        let mut pieces = Vec::new();
        let covered = {
            let inner = self.inner.lock();
            for (piece, mapping) in inner.map.iter_range(range.clone()) {
                let Source::Object { object, offset, .. } = &mapping.source else {
                    pieces.push(Err(Errno::EINVAL));
                    break;
                };
                if !mapping.shared || !mapping.may_write {
                    pieces.push(Err(Errno::EACCES));
                    break;
                }
                let first = piece.start.max(range.start);
                let start = offset + (first - piece.start);
                pieces.push(Ok((object.clone(), start..start + (piece.end.min(range.end) - first))));
            }
            inner.map.covered(range)
        };
        for piece in pieces {
            let (object, bytes) = piece?;
            object.punch(bytes)?;
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// madvise(2) about fork. EINVAL where what is to be wiped is not private memory without a file, ENOMEM where not
    /// all is mapped.
    pub fn set_on_fork(&self, range: Range<u64>, on_fork: OnFork) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.check_room()?;
        let private = |mapping: &Mapping| !mapping.shared && matches!(mapping.source, Source::Anonymous);
        if on_fork == OnFork::Wipe && !inner.map.iter_range(range.clone()).all(|(_, mapping)| private(mapping)) {
            return Err(Errno::EINVAL);
        }
        // A child never has a device's registers, as with Linux's VM_IO.
        let of_hardware = inner.map.iter_range(range.clone()).any(|(_, mapping)| mapping.is_hardware());
        if on_fork != OnFork::Leave && of_hardware {
            return Err(Errno::EINVAL);
        }
        let covered = inner.map.covered(range.clone());
        inner.map.update(range, |mapping| mapping.on_fork = on_fork);
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Makes the pages of a range present (MAP_POPULATE, madvise(2)). ENOMEM where nothing is mapped or no memory is
    /// left, EINVAL where the access is not allowed, EFAULT behind the end of a file.
    pub fn populate(&self, range: Range<u64>, access: FaultAccess) -> Result<()> {
        for page in range.step_by(PAGE_SIZE) {
            scheduler::give_way();
            let present = {
                let inner = self.inner.lock();
                let wanted = if access == FaultAccess::Write { PageFlags::WRITE } else { PageFlags::READ };
                inner.table.lookup(&Tables, page).is_some_and(|(_, _, flags)| flags.contains(wanted | PageFlags::USER))
            };
            if present {
                continue;
            }
            match self.fault(UserAddr::new(page), access) {
                FaultOutcome::Resolved => {}
                FaultOutcome::NotMapped | FaultOutcome::OutOfMemory => return Err(Errno::ENOMEM),
                FaultOutcome::Forbidden => return Err(Errno::EINVAL),
                FaultOutcome::BeyondEnd => return Err(Errno::EFAULT),
            }
        }
        Ok(())
    }

    /// Whether all of a range is mapped.
    pub fn is_mapped(&self, range: Range<u64>) -> bool {
        self.inner.lock().map.covered(range)
    }

    /// mprotect(2). ENOMEM where something is not mapped, EACCES where PROT_WRITE may not be granted, or PROT_EXEC
    /// on hardware.
    pub fn protect(&self, range: Range<u64>, protection: Protection) -> Result<()> {
        let limits = Limits::current();
        let mut inner = self.inner.lock();
        if !inner.map.covered(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        inner.check_room()?;
        if protection.write && inner.map.iter_range(range.clone()).any(|(_, mapping)| !mapping.may_write) {
            return Err(Errno::EACCES);
        }
        if protection.execute && inner.map.iter_range(range.clone()).any(|(_, mapping)| mapping.is_hardware()) {
            return Err(Errno::EACCES);
        }
        if protection.write {
            inner.check_writable(&limits, range.clone())?;
        }
        inner.map.update(range.clone(), |mapping| mapping.protection = protection);
        if protection.is_none() {
            // Pages of a private mapping must keep their content, so they stay, out of the program's reach.
            inner.hide_pages(range.clone());
        } else {
            inner.show_pages(range.clone(), protection);
        }
        self.flush_range(&range);
        Ok(())
    }

    /// brk(2): sets the heap's end and returns it, or the old one where it cannot be.
    pub fn brk(&self, end: u64) -> u64 {
        let limits = Limits::current();
        let frames;
        let result = {
            let mut inner = self.inner.lock();
            let (start, old) = (inner.brk.start, inner.brk.end);
            let (Some(old_page), Some(new_page)) = (page_up(old), page_up(end)) else { return old };
            if end < start || end > inner.top {
                return old;
            }
            if new_page > old_page {
                if end - start > limits.data {
                    return old;
                }
                let mapping = Mapping {
                    protection: Protection { read: true, write: true, execute: false },
                    shared: false,
                    may_write: true,
                    purpose: Purpose::Heap,
                    on_fork: OnFork::Copy,
                    locked: inner.lock_future,
                    source: Source::Anonymous,
                };
                let growth = new_page - old_page;
                if inner.check_growth(&limits, growth, true, 0..0).is_err()
                    || mapping.locked && inner.check_locked(&limits, growth).is_err()
                {
                    return old;
                }
                if inner.map.insert(old_page..new_page, mapping).is_err() {
                    return old;
                }
                frames = Removed::default();
            } else {
                frames = self.take_out(&mut inner, new_page..old_page);
            }
            inner.brk.end = end;
            end
        };
        drop(frames);
        result
    }

    /// mremap(2). An empty `old` stands for a second mapping of the shared memory that is there.
    pub fn remap(&self, old: Range<u64>, new_len: u64, moving: Move) -> Result<u64> {
        let Move { allowed: may_move, keeps_mapping, to: target } = moving;
        let new_len = page_up(new_len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let old_len = old.end - old.start;
        let limits = Limits::current();
        let (address, frames) = {
            let mut inner = self.inner.lock();
            inner.check_room()?;
            let mapping = {
                let (range, mapping) = inner.map.get(old.start).ok_or(Errno::EFAULT)?;
                if old.end > range.end {
                    return Err(Errno::EFAULT);
                }
                mapping.skip_to(&range, old.start)
            };
            let is_kernels = matches!(mapping.purpose, Purpose::Vdso | Purpose::ClockData);
            if old.is_empty() && !mapping.shared || keeps_mapping && is_kernels {
                return Err(Errno::EINVAL);
            }
            if new_len > old_len || keeps_mapping {
                let growth = if keeps_mapping { new_len } else { new_len - old_len };
                if mapping.locked && !keeps_mapping {
                    inner.check_locked(&limits, growth)?;
                }
                inner.check_growth(&limits, growth, mapping.is_data(), 0..0)?;
            }
            let mut frames = Removed::default();
            if target.is_none() && new_len <= old_len && !keeps_mapping {
                frames = self.take_out(&mut inner, old.start + new_len..old.end);
                (old.start, frames)
            } else if target.is_none()
                && !keeps_mapping
                && !old.is_empty()
                && old.start.checked_add(new_len).is_some_and(|end| end <= inner.top)
                && inner.map.is_free(old.end..old.start + new_len)
            {
                let tail = klib::range_map::RangeValue::skip(&mapping, old_len);
                inner.map.insert(old.end..old.start + new_len, tail).map_err(|_| Errno::ENOMEM)?;
                (old.start, frames)
            } else if may_move {
                let address = match target {
                    Some(address) => {
                        if address < LOWEST_ADDRESS {
                            return Err(Errno::EPERM);
                        }
                        let end = address.checked_add(new_len).filter(|end| *end <= Arch::USER_END);
                        let end = end.ok_or(Errno::EINVAL)?;
                        if address < end && address < old.end && old.start < end {
                            return Err(Errno::EINVAL);
                        }
                        address
                    }
                    None => inner.place(0, new_len)?,
                };
                let kept = old.start..old.start + old_len.min(new_len);
                // Before anything changes: a page that finds no table would be lost.
                inner.reserve_tables(kept.clone(), address)?;
                if target.is_some() {
                    frames = self.take_out(&mut inner, address..address + new_len);
                }
                frames.cut_off = self.take_out(&mut inner, kept.end..old.end).frames;
                inner.map.insert(address..address + new_len, mapping).map_err(|_| Errno::ENOMEM)?;
                if keeps_mapping {
                    inner.map.update(kept.clone(), |mapping| mapping.locked = false);
                } else {
                    frames.moved = inner.map.remove(kept.clone());
                }
                self.move_pages(&inner, kept.clone(), address);
                if inner.frees_tables(&kept) {
                    self.take_pages(&mut inner, kept, true);
                }
                (address, frames)
            } else {
                return Err(Errno::ENOMEM);
            }
        };
        drop(frames);
        Ok(address)
    }

    /// Moves the pages of a range to `address`, where their tables are and nothing is mapped.
    fn move_pages(&self, inner: &Inner, old: Range<u64>, address: u64) {
        let table = &inner.table;
        let result = table.unmap(&mut Tables, old.clone(), false, |at, _, leaf| {
            let moved = table.map_page(&mut Tables, address + (at - old.start), leaf.pa, leaf.flags);
            debug_assert!(moved.is_ok(), "its table is reserved");
        });
        debug_assert!(result.is_ok(), "user pages are 4 KiB");
        self.flush_range(&old);
    }

    /// Makes `child` known to every object that is mapped here, which it must be before pages are copied (see
    /// [`Mappers`]), and locks this address space.
    fn lock_with_child_joined(&self, child: &Self) -> PlainGuard<'_, Inner> {
        // By address, which is nobody else's as long as the source is here.
        let mut joined: BTreeMap<usize, Source> = BTreeMap::new();
        loop {
            let inner = self.inner.lock();
            let mut new: BTreeMap<usize, Source> = BTreeMap::new();
            for (_, mapping) in inner.map.iter() {
                if let Some(address) = mapping.source.mappers().map(|mappers| core::ptr::from_ref(mappers).addr())
                    && !joined.contains_key(&address)
                {
                    new.entry(address).or_insert_with(|| mapping.source.clone());
                }
            }
            if new.is_empty() {
                return inner;
            }
            // An object's list is locked before any address space, so this starts over.
            drop(inner);
            new.values().filter_map(Source::mappers).for_each(|mappers| mappers.join(&child.this));
            joined.append(&mut new);
        }
    }

    /// fork(2): a copy that shares all private pages until one side writes. ENOMEM.
    pub fn fork(&self) -> Result<Arc<Self>> {
        let child = Self::new()?;
        *child.layout.lock() = self.layout();
        child.set_dumpable(self.is_dumpable());
        child.register_barriers(self.barriers());
        let result = {
            let inner = self.lock_with_child_joined(&child);
            let mut other = child.inner.lock();
            other.brk = inner.brk.clone();
            other.top = inner.top;
            let mut result = Ok(());
            for (range, mapping) in inner.map.iter().filter(|(_, mapping)| mapping.on_fork != OnFork::Leave) {
                let copy = Mapping { locked: false, ..mapping.clone() };
                if other.map.insert(range.clone(), copy).is_err() {
                    result = Err(klib::page_table::MapError::NoMemory);
                    break;
                }
                if mapping.on_fork == OnFork::Wipe {
                    continue;
                }
                let mut shared_pages = 0;
                result = inner.table.clone_range(&mut Tables, &other.table, range, |_, _, leaf| {
                    // SAFETY: borrows the parent's reference to make another, which the child's entry keeps.
                    let frame = unsafe { FrameRef::from_raw(PhysAddr::new(leaf.pa)) };
                    core::mem::forget(frame.clone());
                    core::mem::forget(frame);
                    shared_pages += 1;
                    Some(if mapping.shared { leaf.flags } else { leaf.flags | PageFlags::COW })
                });
                other.resident += shared_pages;
                if result.is_err() {
                    break;
                }
            }
            self.flush_space();
            result
        };
        result.map_err(|_| Errno::ENOMEM)?;
        Ok(child)
    }
}

impl Inner {
    /// ENOMEM when there are as many mappings as there may be, or next to no memory is left.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.map.len() >= MAX_MAPPINGS || super::frames::is_short() { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Whether all that a table of pages maps lies in `range`, where nothing is mapped any more, and beside it.
    fn frees_tables(&self, range: &Range<u64>) -> bool {
        let (first, last) = (range.start & !(TABLE_SPAN - 1), range.end.next_multiple_of(TABLE_SPAN));
        let start = if self.map.is_free(first..range.start) { first } else { first + TABLE_SPAN };
        let end = if self.map.is_free(range.end..last) { last } else { last - TABLE_SPAN };
        start < end && self.map.is_free(range.clone())
    }

    /// A free place for `len` bytes: at `hint` where that is free, else as high as possible.
    fn place(&self, hint: u64, len: u64) -> Result<u64> {
        let hint = hint & !(PAGE_SIZE as u64 - 1);
        if let Some(end) = hint.checked_add(len)
            && hint >= LOWEST_ADDRESS
            && end <= self.top
            && self.map.is_free(hint..end)
        {
            return Ok(hint);
        }
        self.map.find_gap_below(len, PAGE_SIZE as u64, LOWEST_ADDRESS..self.top).ok_or(Errno::ENOMEM)
    }

    /// Makes the tables that the pages of a range need at `address`. ENOMEM.
    fn reserve_tables(&self, range: Range<u64>, address: u64) -> Result<()> {
        let (mut result, mut last) = (Ok(()), None);
        self.table.visit(&Tables, range.clone(), |at, _, _| {
            let to = address + (at - range.start);
            if result.is_err() || last == Some(to / TABLE_SPAN) {
                return;
            }
            last = Some(to / TABLE_SPAN);
            let made = self.table.fill_pages(&mut Tables, to..to + PAGE_SIZE as u64, |_| None);
            if made.is_err() || super::frames::is_short() {
                result = Err(Errno::ENOMEM);
            }
        });
        result
    }

    /// Takes present pages out of the program's reach without losing them (PROT_NONE).
    fn hide_pages(&mut self, range: Range<u64>) {
        // Without EXECUTE too: a page that is not the program's must not become the kernel's code.
        let result = self.table.update(&mut Tables, range, |_, _, leaf| Some(PageFlags::READ | leaf.flags & KEPT));
        debug_assert!(result.is_ok(), "user pages are 4 KiB");
    }

    /// Gives present pages new rights; copy-on-write ones stay read-only until a write copies them.
    fn show_pages(&mut self, range: Range<u64>, protection: Protection) {
        let result = self.table.update(&mut Tables, range, |_, _, leaf| {
            if protection.execute && !leaf.flags.contains(PageFlags::EXECUTE) {
                super::frames::make_executable(PhysAddr::new(leaf.pa));
            }
            Some(protection.flags() | leaf.flags & KEPT)
        });
        debug_assert!(result.is_ok(), "user pages are 4 KiB");
    }
}

impl Mapping {
    /// The mapping as seen from `address` in it.
    fn skip_to(&self, range: &Range<u64>, address: u64) -> Self {
        klib::range_map::RangeValue::skip(self, address - range.start)
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // Nobody runs with it any more, so once its translations are gone its frames may go as they are found.
        self.flush_space();
        let mut inner = self.inner.lock();
        inner.table.destroy(&mut Tables, 0..Arch::USER_END, |_, _, leaf| {
            // SAFETY: the reference the entry held.
            drop(unsafe { FrameRef::from_raw(PhysAddr::new(leaf.pa)) });
        });
        Tables.free_table(self.root.get());
        inner.map.clear();
    }
}

/// Protection bits that mmap and mprotect know.
pub const KNOWN_PROTECTION: u32 = linux::PROT_READ | linux::PROT_WRITE | linux::PROT_EXEC;
