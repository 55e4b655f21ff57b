//! x86-64 paging-structure entries, 4-level paging.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3A, 4.5.4 (linear-address
//! translation with 4-level paging) and 4.9.2 (memory types with the PAT). The accessed flag is always set, and
//! the dirty flag of every writable page, so that the processor never has to write to a table itself.
//! `EFER.NXE` and `CR4.PGE` are expected to be on.

use super::{Entry, Format, Leaf, PA_LIMIT, PAGE_SIZE, PageFlags};

/// What the `IA32_PAT` register has to hold (SDM 3A, 4.9.2 and 13.12): its value at power-up, but entry 2,
/// which is selected by `PCD` alone, is write-combining (01) in place of UC-.
pub const PAT_VALUE: u64 = 0x0007_0406_0001_0406;

/// Bit 0, `P`.
const PRESENT: u64 = 1 << 0;
/// Bit 1, `R/W`.
const WRITABLE: u64 = 1 << 1;
/// Bit 2, `U/S`.
const USER: u64 = 1 << 2;
/// Bit 3, `PWT`, and bit 4, `PCD`: with bit `PAT` 0 they number an entry of the PAT.
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
/// Bit 5, `A`.
const ACCESSED: u64 = 1 << 5;
/// Bit 6, `D`, of a leaf.
const DIRTY: u64 = 1 << 6;
/// Bit 7, `PS`, above the lowest level: the entry is a leaf. In the lowest level it is `PAT`, unused here.
const PAGE_SIZE_BIT: u64 = 1 << 7;
/// Bit 8, `G`, of a leaf.
const GLOBAL: u64 = 1 << 8;
/// Bits 11:9 are ignored by hardware (with `HLAT` paging off).
const SOFTWARE_COW: u64 = 1 << 9;
/// Bit 63, `XD`.
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 47:12: the address. In a large leaf bit 12 is `PAT`, which is 0 here as the address is aligned.
const ADDRESS: u64 = PA_LIMIT - PAGE_SIZE;

/// The x86-64 format.
#[derive(Debug)]
pub enum X86_64 {}

impl Format for X86_64 {
    /// 1 GiB pages are decoded but not made: not every processor has them (CPUID 80000001H:EDX bit 26).
    const MAX_LEAF_LEVEL: u8 = 1;

    /// Rights are the conjunction over the levels of a walk, so a table grants all and its leaves decide.
    #[inline]
    fn table_entry(pa: u64) -> u64 {
        (pa & ADDRESS) | ACCESSED | USER | WRITABLE | PRESENT
    }

    #[inline]
    fn leaf_entry(pa: u64, level: u8, flags: PageFlags) -> u64 {
        let flags = flags.effective();
        let mut entry = (pa & ADDRESS) | ACCESSED | PRESENT;
        if level > 0 {
            entry |= PAGE_SIZE_BIT;
        }
        if flags.contains(PageFlags::WRITE) {
            entry |= DIRTY | WRITABLE;
        }
        if flags.contains(PageFlags::USER) {
            entry |= USER;
        }
        if flags.contains(PageFlags::DEVICE) {
            entry |= PCD | PWT;
        } else if flags.contains(PageFlags::UNCACHED) {
            entry |= PCD;
        }
        if flags.contains(PageFlags::GLOBAL) {
            entry |= GLOBAL;
        }
        if flags.contains(PageFlags::COW) {
            entry |= SOFTWARE_COW;
        }
        if !flags.contains(PageFlags::EXECUTE) {
            entry |= NO_EXECUTE;
        }
        entry
    }

    #[inline]
    fn decode(entry: u64, level: u8) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Empty;
        }
        if level > 0 && entry & PAGE_SIZE_BIT == 0 {
            return Entry::Table(entry & ADDRESS);
        }
        // `PS` is reserved in the root and faults.
        if level > 2 {
            return Entry::Empty;
        }
        let mut flags = PageFlags::READ;
        flags.set(PageFlags::WRITE, entry & WRITABLE != 0);
        flags.set(PageFlags::EXECUTE, entry & NO_EXECUTE == 0);
        flags.set(PageFlags::USER, entry & USER != 0);
        flags.set(PageFlags::GLOBAL, entry & GLOBAL != 0);
        flags.set(PageFlags::DEVICE, entry & (PCD | PWT) == PCD | PWT);
        flags.set(PageFlags::UNCACHED, entry & (PCD | PWT) == PCD);
        flags.set(PageFlags::COW, entry & SOFTWARE_COW != 0);
        Entry::Leaf(Leaf { pa: entry & ADDRESS, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_table::level_size;

    const R: PageFlags = PageFlags::READ.union(PageFlags::USER);
    const RW: PageFlags = R.union(PageFlags::WRITE);
    const RX: PageFlags = R.union(PageFlags::EXECUTE);

    #[test]
    fn table_entry_grants_all_and_leaves_decide() {
        // SDM 3A, tables 4-15 to 4-19: P 0, R/W 1, U/S 2, A 5, XD (63) clear.
        assert_eq!(X86_64::table_entry(0x1234_5678_9000), 0x1234_5678_9027);
    }

    #[test]
    fn page_bits() {
        // SDM 3A, table 4-20: P 0, R/W 1, U/S 2, PWT 3, PCD 4, A 5, D 6, G 8, XD 63; bits 11:9 ignored.
        let xd = 1 << 63;
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, RW), xd | 0x8000_0067);
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, R), xd | 0x8000_0025);
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, RX), 0x8000_0025);
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, RW | PageFlags::COW), xd | 0x8000_0225);
        let kernel = PageFlags::GLOBAL | PageFlags::WRITE;
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, kernel), xd | 0x8000_0163);
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, kernel | PageFlags::EXECUTE), xd | 0x8000_0163, "W^X");
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, kernel | PageFlags::DEVICE), xd | 0x8000_017b);
        assert_eq!(X86_64::leaf_entry(0x8000_0000, 0, kernel | PageFlags::UNCACHED), xd | 0x8000_0173);
    }

    #[test]
    fn large_pages_have_ps_and_the_pat_has_wc_for_pcd() {
        // SDM 3A, table 4-18: PS is bit 7. 4.9.2: the PAT entry is 4*PAT + 2*PCD + PWT; 01 is write-combining.
        assert_eq!(X86_64::leaf_entry(level_size(1), 1, R) & 0xff, 0xa5);
        assert_eq!(X86_64::decode(X86_64::leaf_entry(level_size(2), 2, R), 3), Entry::Empty);
        let bytes = PAT_VALUE.to_le_bytes();
        assert_eq!((bytes[0], bytes[2], bytes[3]), (0x06, 0x01, 0x00));
    }
}
