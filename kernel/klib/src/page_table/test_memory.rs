//! Memory for the page tables of tests.

use super::{ENTRIES, PAGE_SIZE, TableMemory};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

/// Tables in plain arrays, which fails a test that touches a freed one or frees one twice.
pub struct Tables {
    /// By number of the frame after `BASE`; `None` once freed.
    pub tables: Vec<Option<Box<[u64; ENTRIES]>>>,
    /// Tables allocated and not freed.
    pub live: usize,
    /// Allocation fails at so many live ones.
    pub limit: usize,
    /// Entries read.
    pub reads: Cell<usize>,
}

impl Tables {
    const BASE: u64 = 0x4000_0000;

    pub fn new() -> Self {
        Self { tables: Vec::new(), live: 0, limit: usize::MAX, reads: Cell::new(0) }
    }

    fn at(pa: u64) -> usize {
        assert!(pa >= Self::BASE && pa.is_multiple_of(PAGE_SIZE));
        ((pa - Self::BASE) / PAGE_SIZE) as usize
    }
}

impl TableMemory for Tables {
    fn alloc_table(&mut self) -> Option<u64> {
        if self.live == self.limit {
            return None;
        }
        self.live += 1;
        self.tables.push(Some(Box::new([0; ENTRIES])));
        Some(Self::BASE + (self.tables.len() as u64 - 1) * PAGE_SIZE)
    }

    fn free_table(&mut self, pa: u64) {
        self.tables[Self::at(pa)].take().expect("table freed twice");
        self.live -= 1;
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.tables[Self::at(table)].as_ref().expect("read of a freed table")[index]
    }

    fn write(&mut self, table: u64, index: usize, entry: u64) {
        self.tables[Self::at(table)].as_mut().expect("write to a freed table")[index] = entry;
    }
}
