//! The kernel's half of the address space.
//!
//! Three parts: the image, mapped by the boot code; all of memory, mapped linearly; and the dynamic range for what
//! needs mappings of its own, cut into fixed windows. Nothing is writable and executable: in the linear mapping the
//! image's code and constants and the root image are read-only.

use alloc::vec::Vec;
use core::{
    cell::UnsafeCell,
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use hal::{Arch as _, PAGE_SIZE, PhysAddr, PhysRange, PlatformError, VirtAddr};
use klib::{
    frames::Frame,
    page_table::{PageFlags, PageTable, TableMemory},
};

use super::{frames, heap};
use crate::{
    arch::{Arch, PageFormat},
    sync::IrqLock,
};

/// The device tree, while it is checked and after.
const TREE_WINDOW: Range<usize> = window(0, 16 << 20);
/// Register blocks.
const MMIO_WINDOW: Range<usize> = window(1 << 30, 1 << 30);
/// The part of the heap that only grows (heap.rs).
pub const HEAP_WINDOW: Range<usize> = window(1 << 36, 1 << 35);
/// The heap's spans (heap.rs).
pub const SPAN_WINDOW: Range<usize> = window((1 << 36) + (1 << 35), 1 << 35);
/// Kernel stacks (stack.rs).
pub const STACK_WINDOW: Range<usize> = window(1 << 37, 1 << 36);
/// Aliases of memory: uncached ones for devices that do not snoop caches, words that other CPUs start by.
const ALIAS_WINDOW: Range<usize> = window(1 << 38, 1 << 36);

const fn window(offset: usize, len: usize) -> Range<usize> {
    Arch::DYNAMIC_RANGE.start + offset..Arch::DYNAMIC_RANGE.start + offset + len
}

/// Kernel data and code may be read by all address spaces and are never a program's.
const DATA: PageFlags = PageFlags::READ.union(PageFlags::WRITE).union(PageFlags::GLOBAL);
const CONSTANT: PageFlags = PageFlags::READ.union(PageFlags::GLOBAL);

unsafe extern "C" {
    static __image_start: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// Physical address of the image.
static IMAGE: AtomicU64 = AtomicU64::new(0);
/// Serialises changes of the kernel's page table.
static TABLE: IrqLock<()> = IrqLock::new(());

/// Memory in the image's data part, for before the frame allocator runs.
#[repr(C, align(4096))]
struct BootMemory<const LEN: usize>(UnsafeCell<[u8; LEN]>);

// SAFETY: only the address is taken; who uses the bytes is said at the statics.
unsafe impl<const LEN: usize> Sync for BootMemory<LEN> {}

impl<const LEN: usize> BootMemory<LEN> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; LEN]))
    }
    fn phys(&self) -> PhysAddr {
        image_to_phys(self.0.get().addr())
    }
}

/// Early page tables, handed out in order.
static BOOT_TABLES: BootMemory<{ 24 * PAGE_SIZE }> = BootMemory::new();
static BOOT_TABLES_USED: AtomicUsize = AtomicUsize::new(0);

/// The heap's first memory: it holds a list of the tree's memory and reservations, and takes 20 KiB on QEMU's `virt`.
const BOOT_HEAP_LEN: usize = 64 << 10;
static BOOT_HEAP: BootMemory<BOOT_HEAP_LEN> = BootMemory::new();
static HEAP_END: AtomicUsize = AtomicUsize::new(0);

/// The physical address of something in the image.
pub fn image_to_phys(address: usize) -> PhysAddr {
    PhysAddr::new((address - Arch::IMAGE_BASE) as u64 + IMAGE.load(Ordering::Relaxed))
}

/// How page tables reach memory: a table is in the image (early ones) or a frame.
pub struct Tables;

impl Tables {
    fn pointer(table: u64, index: usize) -> *mut u64 {
        let image = IMAGE.load(Ordering::Relaxed);
        let image_len = (&raw const __image_end).addr() - Arch::IMAGE_BASE;
        let base = match table.checked_sub(image) {
            Some(offset) if (offset as usize) < image_len => {
                core::ptr::with_exposed_provenance_mut(Arch::IMAGE_BASE + offset as usize)
            }
            _ => frames::linear(PhysAddr::new(table)),
        };
        base.cast::<u64>().wrapping_add(index)
    }
}

/// As [`Tables`], for a program's tables in use: the hardware may walk one that was taken out until the flush, so it is
/// kept as long as this lives.
pub struct KeptTables<'a> {
    kept: Vec<u64>,
    flush: &'a dyn Fn(),
}

impl<'a> KeptTables<'a> {
    /// None kept yet. `flush` drops what is cached of any table.
    pub fn new(flush: &'a dyn Fn()) -> Self {
        Self { kept: Vec::new(), flush }
    }

    /// Whether tables were taken out, and a flush is due.
    pub fn is_flush_due(&self) -> bool {
        !self.kept.is_empty()
    }
}

impl TableMemory for KeptTables<'_> {
    fn alloc_table(&mut self) -> Option<u64> {
        Tables.alloc_table()
    }
    fn free_table(&mut self, table: u64) {
        if self.kept.try_reserve(1).is_ok() {
            self.kept.push(table);
        } else {
            (self.flush)();
            Tables.free_table(table);
        }
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        Tables.read(table, index)
    }
    fn write(&mut self, table: u64, index: usize, entry: u64) {
        Tables.write(table, index, entry);
    }
}

impl Drop for KeptTables<'_> {
    fn drop(&mut self) {
        self.kept.iter().for_each(|table| Tables.free_table(*table));
    }
}

impl TableMemory for Tables {
    fn alloc_table(&mut self) -> Option<u64> {
        if let Some(frame) = frames::alloc_kernel(0) {
            frames::zero(frame);
            return Some(frame.get());
        }
        let offset = BOOT_TABLES_USED.fetch_add(PAGE_SIZE, Ordering::Relaxed);
        (offset < size_of_val(&BOOT_TABLES)).then(|| BOOT_TABLES.phys().get() + offset as u64)
    }
    fn free_table(&mut self, table: u64) {
        frames::free_kernel(PhysAddr::new(table), 0);
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `table` is a table and `index` in it; the hardware only reads.
        unsafe { Self::pointer(table, index).read_volatile() }
    }
    fn write(&mut self, table: u64, index: usize, entry: u64) {
        // A table's zeroes are ordered before the entry that leads to it; on this CPU `page_table_written` or a TLB
        // flush follows before anybody relies on the entry.
        core::sync::atomic::fence(Ordering::Release);
        // SAFETY: as above; one aligned 64-bit store.
        unsafe { Self::pointer(table, index).write_volatile(entry) };
    }
}

fn kernel_table() -> PageTable<PageFormat> {
    PageTable::from_root(Arch::kernel_table().get())
}

fn map(address: usize, physical: u64, len: u64, flags: PageFlags) -> Result<(), PlatformError> {
    let _guard = TABLE.lock();
    let result = kernel_table().map(&mut Tables, address as u64, physical, len, flags, true);
    Arch::page_table_written();
    result.map_err(|error| match error {
        klib::page_table::MapError::NoMemory => PlatformError::NoMemory,
        _ => PlatformError::BadRange,
    })
}

/// First step: the heap on image memory.
pub fn init(image: u64) -> Result<(), PlatformError> {
    IMAGE.store(image, Ordering::Relaxed);
    map(HEAP_WINDOW.start, BOOT_HEAP.phys().get(), BOOT_HEAP_LEN as u64, DATA)?;
    HEAP_END.store(HEAP_WINDOW.start + BOOT_HEAP_LEN, Ordering::Relaxed);
    // SAFETY: mapped just now, used by nobody else.
    unsafe { heap::init(core::ptr::with_exposed_provenance_mut(HEAP_WINDOW.start), BOOT_HEAP_LEN) };
    Ok(())
}

/// Second step: makes `len` bytes of unchecked memory readable, to look at the device tree.
pub fn map_tree(physical: u64, len: u64) -> Option<&'static [u8]> {
    let start = physical & !(PAGE_SIZE as u64 - 1);
    let end = physical.checked_add(len)?.checked_next_multiple_of(PAGE_SIZE as u64)?;
    if end - start > TREE_WINDOW.len() as u64 || end > 1 << 47 {
        return None;
    }
    {
        let _guard = TABLE.lock();
        // A second look at more of the tree finds the first page mapped: map the rest only.
        for page in (start..end).step_by(PAGE_SIZE) {
            let address = TREE_WINDOW.start as u64 + (page - start);
            match kernel_table().map_page(&mut Tables, address, page, CONSTANT) {
                Ok(()) | Err(klib::page_table::MapError::AlreadyMapped) => {}
                Err(_) => return None,
            }
        }
        Arch::page_table_written();
    }
    let pointer = core::ptr::with_exposed_provenance(TREE_WINDOW.start + (physical - start) as usize);
    // SAFETY: mapped above, read-only, for good; nobody else writes there, since the range is kept from the allocator.
    Some(unsafe { core::slice::from_raw_parts(pointer, len as usize) })
}

/// Third step: maps all of memory linearly, starts the frame allocator, and leaves it the boot heap's unused pages.
/// `memory` is RAM, `reserved` is not to be touched, `constant` holds read-only data (root image, device tree) that is
/// not to be given out.
pub fn init_memory(
    memory: &[Range<u64>],
    reserved: &[Range<u64>],
    constant: &[Range<u64>],
) -> Result<(), &'static str> {
    let image_start = IMAGE.load(Ordering::Relaxed);
    let image_code = image_start..image_to_phys((&raw const __rodata_end).addr()).get();
    let image_end = image_to_phys((&raw const __image_end).addr()).get();
    let read_only: Vec<Range<u64>> = constant.iter().cloned().chain([image_code]).collect();

    let usable = subtract(memory, reserved);
    // A boot loader may reserve the root image or the tree; they are needed all the same.
    let reserved_constant = subtract(&subtract(constant, &usable), &subtract(constant, memory));
    for range in usable.iter().chain(&reserved_constant) {
        for (piece, flags) in
            [(subtract(core::slice::from_ref(range), &read_only), DATA), (intersect(range, &read_only), CONSTANT)]
        {
            for part in piece {
                let len = part.end - part.start;
                map(Arch::LINEAR_BASE + part.start as usize, part.start, len, flags)
                    .map_err(|_| "memory could not be mapped")?;
            }
        }
    }

    let mut taken = constant.to_vec();
    taken.push(image_start..image_end);
    let free = subtract(&usable, &taken);
    let mapped = || usable.iter().chain(&reserved_constant);
    let lowest = mapped().map(|range| range.start).min().ok_or("the device tree names no memory")?;
    let highest = mapped().map(|range| range.end).max().unwrap_or(lowest);
    let base = lowest & !((4 << 20) - 1);
    let count = ((highest - base) / PAGE_SIZE as u64) as usize;
    let words = count.div_ceil(32);
    let metadata_len = (count * size_of::<Frame>() + words * 4).next_multiple_of(PAGE_SIZE);
    let home = free
        .iter()
        .filter(|range| range.end - range.start >= metadata_len as u64)
        .max_by_key(|range| range.end - range.start)
        .ok_or("not enough memory: no room for the page frame table")?;
    let home = home.end - metadata_len as u64..home.end;
    let pointer = frames::linear(PhysAddr::new(home.start));
    // SAFETY: `home` is mapped read-write just above and taken out of what is given to the allocator below. Zeroes
    // are valid values of both element types.
    let (metadata, executable) = unsafe {
        pointer.write_bytes(0, metadata_len);
        let words_at = pointer.add(count * size_of::<Frame>());
        (
            core::slice::from_raw_parts(pointer.cast::<Frame>(), count),
            core::slice::from_raw_parts(words_at.cast::<AtomicU32>(), words),
        )
    };
    frames::init(base, metadata, executable);
    for range in subtract(&free, core::slice::from_ref(&home)) {
        frames::add_range(range);
    }
    give_back_boot_heap();
    Ok(())
}

/// Gives the pages of the heap's first memory that nobody uses to the frame allocator.
fn give_back_boot_heap() {
    while let Some(page) = heap::take_window_page() {
        let start = page.addr().get();
        let offset = (start - HEAP_WINDOW.start) as u64;
        let result = {
            let _guard = TABLE.lock();
            let range = start as u64..(start + PAGE_SIZE) as u64;
            let result = kernel_table().unmap(&mut Tables, range, false, |_, _, _| {});
            Arch::flush_kernel_range(start..start + PAGE_SIZE);
            result
        };
        if result.is_ok() && offset < BOOT_HEAP_LEN as u64 {
            let frame = BOOT_HEAP.phys().get() + offset;
            frames::add_range(frame..frame + PAGE_SIZE as u64);
        }
    }
}

/// The parts of `ranges` that `holes` leave, in whole pages.
fn subtract(ranges: &[Range<u64>], holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let page = PAGE_SIZE as u64;
    let mut left: Vec<Range<u64>> =
        ranges.iter().map(|range| range.start.next_multiple_of(page)..range.end & !(page - 1)).collect();
    for hole in holes {
        let hole = hole.start & !(page - 1)..hole.end.next_multiple_of(page);
        left = left
            .into_iter()
            .flat_map(|range| {
                let before = range.start..range.end.min(hole.start);
                let after = range.start.max(hole.end)..range.end;
                [before, after]
            })
            .filter(|range| range.start < range.end)
            .collect();
    }
    left
}

/// The parts of `range` that are in one of `others`, in whole pages, without overlap.
fn intersect(range: &Range<u64>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let outside = subtract(core::slice::from_ref(range), others);
    subtract(core::slice::from_ref(range), &outside)
}

/// Maps `len` more bytes, whole pages, behind the heap window's used part. Returns how many it mapped: fewer when
/// memory is short.
pub fn grow_heap(len: usize) -> usize {
    let start = HEAP_END.load(Ordering::Relaxed);
    let mut mapped = 0;
    while mapped < len && start + mapped < HEAP_WINDOW.end {
        let Some(frame) = frames::alloc_kernel(0) else { break };
        if map(start + mapped, frame.get(), PAGE_SIZE as u64, DATA).is_err() {
            frames::free_kernel(frame, 0);
            break;
        }
        mapped += PAGE_SIZE;
    }
    HEAP_END.store(start + mapped, Ordering::Relaxed);
    mapped
}

/// Maps pages of fresh memory at `address`. `false` when memory is short; nothing is mapped then.
pub fn map_owned(address: usize, pages: usize) -> bool {
    for page in 0..pages {
        let at = address + page * PAGE_SIZE;
        let frame = frames::alloc_kernel(0);
        let mapped = frame.is_some_and(|frame| map(at, frame.get(), PAGE_SIZE as u64, DATA).is_ok());
        if !mapped {
            if let Some(frame) = frame {
                frames::free_kernel(frame, 0);
            }
            unmap_owned(address..at);
            return false;
        }
    }
    true
}

/// Unmaps a range and frees the frames behind it.
pub fn unmap_owned(range: Range<usize>) {
    /// Pages unmapped at a time: the heap, which may be what is unmapped, is not asked for room to remember them.
    const PAGES: usize = 32;
    for start in range.clone().step_by(PAGES * PAGE_SIZE) {
        let piece = start..range.end.min(start + PAGES * PAGE_SIZE);
        let mut freed = [None; PAGES];
        {
            let _guard = TABLE.lock();
            let mut room = freed.iter_mut();
            let result =
                kernel_table().unmap(&mut Tables, piece.start as u64..piece.end as u64, false, |_, _, leaf| {
                    if let Some(place) = room.next() {
                        *place = Some(PhysAddr::new(leaf.pa));
                    }
                });
            debug_assert!(result.is_ok(), "what is owned is mapped in 4 KiB pages");
            Arch::flush_kernel_range(piece);
        }
        for frame in freed.into_iter().flatten() {
            frames::free_kernel(frame, 0);
        }
    }
}

/// Maps a register block as device memory, for good: one that has been mapped before is where it was.
pub fn map_mmio(range: PhysRange) -> Result<hal::Mmio, PlatformError> {
    /// Where pages of registers are mapped: physical addresses, and where the first of them is.
    static MAPPED: IrqLock<Vec<(Range<u64>, usize)>> = IrqLock::new(Vec::new());
    static NEXT: AtomicUsize = AtomicUsize::new(MMIO_WINDOW.start);
    let start = range.start.page_down().get();
    let end = range.range().end.checked_next_multiple_of(PAGE_SIZE as u64).ok_or(PlatformError::BadRange)?;
    if range.len == 0 || end > 1 << 47 || end <= start {
        return Err(PlatformError::BadRange);
    }
    let len = (end - start) as usize;
    let known = MAPPED.lock().iter().find(|(pages, _)| *pages == (start..end)).map(|(_, address)| *address);
    let address = match known {
        Some(address) => address,
        None => {
            // One unmapped page after each block.
            let address = NEXT.fetch_add(len + PAGE_SIZE, Ordering::Relaxed);
            if address + len > MMIO_WINDOW.end {
                return Err(PlatformError::NoMemory);
            }
            map(address, start, end - start, DATA | PageFlags::DEVICE)?;
            MAPPED.lock().push((start..end, address));
            address
        }
    };
    let base = core::ptr::with_exposed_provenance_mut(address + range.start.page_offset());
    Ok(hal::Mmio { base: NonNull::new(base).ok_or(PlatformError::BadRange)?, len: range.len as usize })
}

/// Maps the 64-bit word at `physical`, which may be memory that is not the kernel's, as ordinary memory, for good.
pub fn map_word(physical: PhysAddr) -> Result<VirtAddr, PlatformError> {
    let page = physical.page_down();
    let address = take_alias(PAGE_SIZE)?;
    map(address, page.get(), PAGE_SIZE as u64, DATA)?;
    Ok(VirtAddr::new(address + physical.page_offset()))
}

/// Takes `len` bytes of the window for aliases, and one page more that stays unmapped.
fn take_alias(len: usize) -> Result<usize, PlatformError> {
    static NEXT: AtomicUsize = AtomicUsize::new(ALIAS_WINDOW.start);
    let address = NEXT.fetch_add(len + PAGE_SIZE, Ordering::Relaxed);
    if address + len > ALIAS_WINDOW.end { Err(PlatformError::NoMemory) } else { Ok(address) }
}

/// Maps `pages` of physical memory uncached, after writing back and dropping what caches hold of it.
pub fn map_uncached(physical: PhysAddr, pages: usize) -> Result<NonNull<u8>, PlatformError> {
    let len = pages * PAGE_SIZE;
    let cached = frames::linear(physical).addr();
    Arch::clean_and_invalidate(cached..cached + len);
    let address = take_alias(len)?;
    map(address, physical.get(), len as u64, DATA | PageFlags::UNCACHED)?;
    NonNull::new(core::ptr::with_exposed_provenance_mut(address)).ok_or(PlatformError::BadRange)
}

/// Takes [`map_uncached`] back.
pub fn unmap_uncached(address: NonNull<u8>, pages: usize) {
    let range = address.addr().get()..address.addr().get() + pages * PAGE_SIZE;
    let _guard = TABLE.lock();
    let result = kernel_table().unmap(&mut Tables, range.start as u64..range.end as u64, false, |_, _, _| {});
    debug_assert!(result.is_ok(), "the window has no other mappings");
    Arch::flush_kernel_range(range);
}

/// Whether a physical address is memory that is mapped linearly, and may be written to there if `writing`.
pub fn is_memory(address: PhysAddr, writing: bool) -> bool {
    let linear =
        (Arch::LINEAR_BASE as u64).checked_add(address.get()).filter(|linear| *linear < Arch::IMAGE_BASE as u64);
    let _guard = TABLE.lock();
    let leaf = linear.and_then(|linear| kernel_table().lookup(&Tables, linear));
    leaf.is_some_and(|(at, _, flags)| {
        at == address.get() && !flags.contains(PageFlags::DEVICE) && (!writing || flags.contains(PageFlags::WRITE))
    })
}

/// Whether an address is in the kernel's code.
pub fn is_kernel_text(address: usize) -> bool {
    ((&raw const __image_start).addr()..(&raw const __rodata_end).addr()).contains(&address)
}
