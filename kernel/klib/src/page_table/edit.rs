//! The operations that change a page table.
//!
//! They are apart from the walk and the types in the parent module only for size. Each is a walk of its
//! own, so that a long range costs one descent per table and not one per page.

use super::{
    ENTRIES, Entry, Format, Found, HALF, Leaf, MapError, PA_LIMIT, PAGE_SIZE, PageFlags, PageTable, ROOT_LEVEL, Span,
    TableMemory, check_pa, index, level_size,
};
use core::ops::Range;

/// What [`PageTable::map`] puts where.
struct Mapping {
    span: Span,
    /// Physical address of the first byte of the span.
    pa: u64,
    flags: PageFlags,
    /// The highest level at which to place leaves.
    max_level: u8,
    /// How far the work got: everything of the span below this offset is mapped.
    reached: u64,
}

impl<F: Format> PageTable<F> {
    /// Maps `len` bytes at `va` to `pa`, with 2 MiB and 1 GiB leaves where `allow_large` and alignment permit.
    ///
    /// # Errors
    ///
    /// On any error nothing stays mapped that was not before (tables made on the way may stay). After
    /// [`MapError::AlreadyMapped`] or [`MapError::NoMemory`] the range has to be flushed from the TLB like
    /// an unmapped one, since part of it may have been valid for a moment.
    #[allow(clippy::too_many_arguments)]
    pub fn map<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        va: u64,
        pa: u64,
        len: u64,
        flags: PageFlags,
        allow_large: bool,
    ) -> Result<(), MapError> {
        let span = Span::exact(va, len)?;
        if !pa.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Misaligned);
        }
        if pa.checked_add(len).is_none_or(|end| end > PA_LIMIT) {
            return Err(MapError::OutOfRange);
        }
        if len == 0 {
            return Ok(());
        }
        let max_level = if allow_large { F::MAX_LEAF_LEVEL } else { 0 };
        let mut mapping = Mapping { span, pa, flags, max_level, reached: span.start };
        let result = Self::map_table(mem, self.root, ROOT_LEVEL, 0, &mut mapping);
        // An empty span must not be unmapped: rounding would take a whole leaf around it.
        if result.is_err() && mapping.reached > span.start {
            let done = Span { end: mapping.reached, ..span };
            Self::unmap_table(mem, self.root, ROOT_LEVEL, 0, done, false, &mut |_, _, _| {});
        }
        result
    }

    fn map_table<M: TableMemory + ?Sized>(
        mem: &mut M,
        table: u64,
        level: u8,
        base: u64,
        mapping: &mut Mapping,
    ) -> Result<(), MapError> {
        let size = level_size(level);
        for index in mapping.span.indices(base, level) {
            let at = base + index as u64 * size;
            let pa = mapping.pa + (at.max(mapping.span.start) - mapping.span.start);
            let fits = level <= mapping.max_level && mapping.span.holds(at, size) && pa.is_multiple_of(size);
            if fits && F::decode(mem.read(table, index), level) == Entry::Empty {
                mem.write(table, index, F::leaf_entry(pa, level, mapping.flags));
                mapping.reached = at + size;
                continue;
            }
            let lower = level.checked_sub(1).ok_or(MapError::AlreadyMapped)?;
            let next = Self::next_table(mem, table, index, level)?;
            Self::map_table(mem, next, lower, at, mapping)?;
        }
        Ok(())
    }

    /// Maps the 4 KiB page at `va` to the frame at `pa`: what a page fault does.
    ///
    /// # Errors
    ///
    /// Any [`MapError`]; nothing is mapped then.
    #[inline]
    pub fn map_page<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        va: u64,
        pa: u64,
        flags: PageFlags,
    ) -> Result<(), MapError> {
        Span::exact(va, PAGE_SIZE)?;
        check_pa(pa)?;
        let table = self.page_table_of(mem, va)?;
        let index = index(va, 0);
        if F::decode(mem.read(table, index), 0) != Entry::Empty {
            return Err(MapError::AlreadyMapped);
        }
        mem.write(table, index, F::leaf_entry(pa, 0, flags));
        Ok(())
    }

    /// Maps consecutive 4 KiB pages from `va` on to the frames of `pages`, with one descent per table.
    ///
    /// `None` leaves a page alone, and so does a page that is mapped already. Returns the number of pages
    /// mapped. Where a frame must be taken only if it is used, [`fill_pages`](Self::fill_pages) fits better.
    ///
    /// # Errors
    ///
    /// As for [`fill_pages`](Self::fill_pages).
    pub fn map_pages<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        va: u64,
        pages: impl IntoIterator<Item = Option<u64>>,
        flags: PageFlags,
    ) -> Result<usize, MapError> {
        let (mut mapped, mut at) = (0, va);
        // The table last used, and the first address beyond it.
        let mut current = (0, va);
        for page in pages {
            if let Some(pa) = page {
                Span::exact(at, PAGE_SIZE)?;
                check_pa(pa)?;
                if at >= current.1 {
                    match self.page_table_of(mem, at) {
                        Ok(table) => current = (table, (at | (level_size(1) - 1)).wrapping_add(1)),
                        // A large leaf maps the page already.
                        Err(MapError::AlreadyMapped) => {
                            at = at.wrapping_add(PAGE_SIZE);
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
                let index = index(at, 0);
                if F::decode(mem.read(current.0, index), 0) == Entry::Empty {
                    mem.write(current.0, index, F::leaf_entry(pa, 0, flags));
                    mapped += 1;
                }
            }
            at = at.wrapping_add(PAGE_SIZE);
        }
        Ok(mapped)
    }

    /// Maps each page of `range` that is not mapped yet and for which `f`, called with its address in
    /// ascending order, gives a frame and flags; with one descent per table. Returns the number of pages
    /// mapped. What is mapped already is passed over without a call, so `f` may take a reference to each
    /// frame it returns. This is fault-around.
    ///
    /// # Errors
    ///
    /// [`MapError::Misaligned`] or [`MapError::OutOfRange`] for a bad range, before any call of `f`, or for a
    /// bad frame that `f` returned; [`MapError::NoMemory`] when a table is missing, before `f` was called
    /// for its pages. Pages mapped until then stay.
    pub fn fill_pages<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        range: Range<u64>,
        mut f: impl FnMut(u64) -> Option<(u64, PageFlags)>,
    ) -> Result<usize, MapError> {
        let len = range.end.checked_sub(range.start).ok_or(MapError::OutOfRange)?;
        let span = Span::exact(range.start, len)?;
        let (mut mapped, mut at) = (0, span.start);
        while at < span.end {
            let end = span.end.min((at | (level_size(1) - 1)) + 1);
            match self.page_table_of(mem, at) {
                Ok(table) => {
                    for at in (at..end).step_by(PAGE_SIZE as usize) {
                        let index = index(at, 0);
                        if F::decode(mem.read(table, index), 0) != Entry::Empty {
                            continue;
                        }
                        let Some((pa, flags)) = f(span.half | at) else {
                            continue;
                        };
                        check_pa(pa)?;
                        mem.write(table, index, F::leaf_entry(pa, 0, flags));
                        mapped += 1;
                    }
                }
                // A large leaf maps all of this already.
                Err(MapError::AlreadyMapped) => {}
                Err(error) => return Err(error),
            }
            at = end;
        }
        Ok(mapped)
    }

    /// Gives the mapped 4 KiB page at `va` another frame or other rights and returns what was there; the
    /// write half of copy on write. `None`, and nothing done, if no 4 KiB page is mapped at `va` or `pa` is
    /// no frame address.
    ///
    /// `flush` has to remove the page's old translation from every TLB. It runs between the removal of the
    /// old entry and the writing of the new one: a change of output address or memory type of a valid entry
    /// needs break-before-make, or two translations of one address may be live at once (Arm ARM DDI 0487, D8,
    /// "Using break-before-make when updating translation table entries"). In between, other threads fault
    /// on the page, and wait for the lock the caller holds. Where only the rights change, use
    /// [`protect`](Self::protect) and flush afterwards.
    pub fn replace_page<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        va: u64,
        pa: u64,
        flags: PageFlags,
        flush: impl FnOnce(),
    ) -> Option<Leaf> {
        check_pa(pa).ok()?;
        let Found { table, index, level: 0, leaf } = self.find(mem, va)? else {
            return None;
        };
        mem.write(table, index, 0);
        flush();
        mem.write(table, index, F::leaf_entry(pa, 0, flags));
        Some(leaf)
    }

    /// Cuts the 2 MiB or 1 GiB leaf that maps `va` into 512 leaves of the next lower level with the same
    /// rights, and returns whether there was one. `flush` as for [`replace_page`](Self::replace_page).
    ///
    /// # Errors
    ///
    /// [`MapError::NoMemory`]; nothing is changed then.
    pub fn split_leaf<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        va: u64,
        flush: impl FnOnce(),
    ) -> Result<bool, MapError> {
        let Some(Found { table, index, level, leaf }) = self.find(mem, va) else {
            return Ok(false);
        };
        let Some(lower) = level.checked_sub(1) else {
            return Ok(false);
        };
        let next = mem.alloc_table().ok_or(MapError::NoMemory)?;
        for part in 0..ENTRIES {
            let pa = leaf.pa + part as u64 * level_size(lower);
            mem.write(next, part, F::leaf_entry(pa, lower, leaf.flags));
        }
        mem.write(table, index, 0);
        flush();
        mem.write(table, index, F::table_entry(next));
        Ok(true)
    }

    /// Removes every leaf in `range` and calls `f` with the address, level and contents of each, ascending.
    ///
    /// With `free_tables`, tables that hold nothing any more are freed too. That costs a scan of each
    /// table touched, and must not be done where roots share tables; without it they are there for the next
    /// mapping, and [`destroy`](Self::destroy) frees them. The caller flushes the TLB before a frame seen by
    /// `f` is used again.
    ///
    /// # Errors
    ///
    /// [`MapError::InsideLargeLeaf`] if an edge of `range` cuts a large leaf; nothing is removed then.
    pub fn unmap<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        range: Range<u64>,
        free_tables: bool,
        mut f: impl FnMut(u64, u8, Leaf),
    ) -> Result<(), MapError> {
        let Some(span) = Span::clipped(&range) else {
            return Ok(());
        };
        self.check_edges(mem, span)?;
        Self::unmap_table(mem, self.root, ROOT_LEVEL, 0, span, free_tables, &mut f);
        Ok(())
    }

    /// Empties the part of `span` in one table; with `free_tables`, says whether the table is now empty.
    fn unmap_table<M: TableMemory + ?Sized>(
        mem: &mut M,
        table: u64,
        level: u8,
        base: u64,
        span: Span,
        free_tables: bool,
        f: &mut impl FnMut(u64, u8, Leaf),
    ) -> bool {
        let indices = span.indices(base, level);
        let mut empty = free_tables;
        for index in indices.clone() {
            let at = base + index as u64 * level_size(level);
            match F::decode(mem.read(table, index), level) {
                Entry::Empty => {}
                Entry::Leaf(leaf) => {
                    mem.write(table, index, 0);
                    f(span.half | at, level, leaf);
                }
                Entry::Table(next) => {
                    let Some(lower) = level.checked_sub(1) else {
                        continue;
                    };
                    if Self::unmap_table(mem, next, lower, at, span, free_tables, f) {
                        mem.write(table, index, 0);
                        mem.free_table(next);
                    } else {
                        empty = false;
                    }
                }
            }
        }
        empty && (0..ENTRIES).filter(|index| !indices.contains(index)).all(|index| mem.read(table, index) == 0)
    }

    /// Gives every leaf in `range` that has other rights the rights `flags`, and calls `f` with the address,
    /// level and former contents of each that changed. The caller flushes the TLB afterwards.
    ///
    /// `READ`, `WRITE` and `EXECUTE` are taken from `flags`; whom a page belongs to, its kind of memory and its
    /// `COW` mark stay. A page marked `COW` is therefore not writable afterwards whatever `flags` says: its
    /// frame is shared, and the write fault that comes is what copies it.
    ///
    /// # Errors
    ///
    /// [`MapError::InsideLargeLeaf`] if an edge of `range` cuts a large leaf; nothing is changed then.
    pub fn protect<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        range: Range<u64>,
        flags: PageFlags,
        mut f: impl FnMut(u64, u8, Leaf),
    ) -> Result<(), MapError> {
        let rights = PageFlags::READ | PageFlags::WRITE | PageFlags::EXECUTE;
        self.update(mem, range, |va, level, leaf| {
            let new = ((leaf.flags - rights) | (flags & rights)).effective();
            if new == leaf.flags {
                return None;
            }
            f(va, level, leaf);
            Some(new)
        })
    }

    /// Calls `f` with the address, level and contents of every leaf in `range`, ascending, and gives it the
    /// flags that `f` returns; `None` leaves it alone. The caller flushes the TLB afterwards.
    ///
    /// The kind of memory (`DEVICE`, `UNCACHED`) must not change this way: it needs break-before-make, as
    /// in [`replace_page`](Self::replace_page).
    ///
    /// # Errors
    ///
    /// [`MapError::InsideLargeLeaf`] if an edge of `range` cuts a large leaf; nothing is changed then.
    pub fn update<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        range: Range<u64>,
        mut f: impl FnMut(u64, u8, Leaf) -> Option<PageFlags>,
    ) -> Result<(), MapError> {
        let Some(span) = Span::clipped(&range) else {
            return Ok(());
        };
        self.check_edges(mem, span)?;
        Self::update_table(mem, self.root, ROOT_LEVEL, 0, span, &mut f);
        Ok(())
    }

    fn update_table<M: TableMemory + ?Sized>(
        mem: &mut M,
        table: u64,
        level: u8,
        base: u64,
        span: Span,
        f: &mut impl FnMut(u64, u8, Leaf) -> Option<PageFlags>,
    ) {
        for index in span.indices(base, level) {
            let at = base + index as u64 * level_size(level);
            match F::decode(mem.read(table, index), level) {
                Entry::Empty => {}
                Entry::Leaf(leaf) => {
                    if let Some(flags) = f(span.half | at, level, leaf) {
                        mem.write(table, index, F::leaf_entry(leaf.pa, level, flags));
                    }
                }
                Entry::Table(next) => {
                    if let Some(lower) = level.checked_sub(1) {
                        Self::update_table(mem, next, lower, at, span, f);
                    }
                }
            }
        }
    }

    /// Shares the leaves of `range` with `child`, as `fork` does, walking both trees at once.
    ///
    /// `f` is called with the address, level and contents of each leaf, ascending, and returns the flags
    /// that the leaf has afterwards in *both* trees, or `None` to leave it alone and out of `child`. For a
    /// private page those are the old flags with `COW`. The caller then flushes this tree's TLB entries, as
    /// rights may have been taken away.
    ///
    /// # Errors
    ///
    /// [`MapError::InsideLargeLeaf`], before anything is done; [`MapError::NoMemory`], and
    /// [`MapError::AlreadyMapped`] if `child` maps one of the pages: what was shared until then stays so, and
    /// `f` was called for nothing else.
    pub fn clone_range<M: TableMemory + ?Sized>(
        &self,
        mem: &mut M,
        child: &Self,
        range: Range<u64>,
        mut f: impl FnMut(u64, u8, Leaf) -> Option<PageFlags>,
    ) -> Result<(), MapError> {
        let Some(span) = Span::clipped(&range) else {
            return Ok(());
        };
        self.check_edges(mem, span)?;
        Self::clone_table(mem, (self.root, child.root), ROOT_LEVEL, 0, span, &mut f)
    }

    fn clone_table<M: TableMemory + ?Sized>(
        mem: &mut M,
        (source, target): (u64, u64),
        level: u8,
        base: u64,
        span: Span,
        f: &mut impl FnMut(u64, u8, Leaf) -> Option<PageFlags>,
    ) -> Result<(), MapError> {
        for index in span.indices(base, level) {
            let at = base + index as u64 * level_size(level);
            match F::decode(mem.read(source, index), level) {
                Entry::Empty => {}
                Entry::Leaf(leaf) => {
                    if F::decode(mem.read(target, index), level) != Entry::Empty {
                        return Err(MapError::AlreadyMapped);
                    }
                    let Some(flags) = f(span.half | at, level, leaf) else {
                        continue;
                    };
                    let entry = F::leaf_entry(leaf.pa, level, flags);
                    mem.write(source, index, entry);
                    mem.write(target, index, entry);
                }
                Entry::Table(next) => {
                    let Some(lower) = level.checked_sub(1) else {
                        continue;
                    };
                    let other = Self::next_table(mem, target, index, level)?;
                    Self::clone_table(mem, (next, other), lower, at, span, f)?;
                }
            }
        }
        Ok(())
    }

    /// Takes down `range`, calling `f` with the address, level and contents of every leaf that lies wholly in
    /// it, and frees every table that covers nothing outside it. The root itself stays; free it with
    /// [`TableMemory::free_table`].
    ///
    /// For the end of an address space: no processor may be using the tree, so tables are not cleared
    /// before they are freed.
    pub fn destroy<M: TableMemory + ?Sized>(&self, mem: &mut M, range: Range<u64>, mut f: impl FnMut(u64, u8, Leaf)) {
        if let Some(span) = Span::clipped(&range) {
            Self::destroy_table(mem, self.root, ROOT_LEVEL, 0, span, &mut f);
        }
    }

    fn destroy_table<M: TableMemory + ?Sized>(
        mem: &mut M,
        table: u64,
        level: u8,
        base: u64,
        span: Span,
        f: &mut impl FnMut(u64, u8, Leaf),
    ) {
        let size = level_size(level);
        let goes = level != ROOT_LEVEL && span.holds(base, size * ENTRIES as u64);
        for index in span.indices(base, level) {
            let at = base + index as u64 * size;
            let whole = span.holds(at, size);
            match F::decode(mem.read(table, index), level) {
                Entry::Empty => continue,
                Entry::Leaf(leaf) if whole => f(span.half | at, level, leaf),
                Entry::Leaf(_) => continue,
                Entry::Table(next) => {
                    let Some(lower) = level.checked_sub(1) else {
                        continue;
                    };
                    Self::destroy_table(mem, next, lower, at, span, f);
                    if !whole {
                        continue;
                    }
                    mem.free_table(next);
                }
            }
            if !goes {
                mem.write(table, index, 0);
            }
        }
    }

    /// Refuses a span one of whose edges lies inside a large leaf.
    fn check_edges<M: TableMemory + ?Sized>(&self, mem: &M, span: Span) -> Result<(), MapError> {
        for edge in [span.start, span.end] {
            // At such a boundary no large leaf can be cut.
            if edge % level_size(2) == 0 || edge >= HALF {
                continue;
            }
            if let Some(Found { level, .. }) = self.find(mem, span.half | edge)
                && edge % level_size(level) != 0
            {
                return Err(MapError::InsideLargeLeaf);
            }
        }
        Ok(())
    }
}
