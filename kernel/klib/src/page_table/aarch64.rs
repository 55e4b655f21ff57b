//! AArch64 stage 1 descriptors of the EL1&0 regime, 4 KiB granule, 48-bit output addresses.
//!
//! Source: Arm Architecture Reference Manual DDI 0487, D8.3 (translation table descriptor formats), D8.4
//! (memory access control) and D8.6 (memory region attributes). The access flag is always set and neither
//! it nor the dirty state is managed by hardware (`TCR_EL1.HA` and `HD` stay 0, `DBM` is not set), so an
//! entry changes only when the kernel writes it.

use super::{Entry, Format, Leaf, PA_LIMIT, PAGE_SIZE, PageFlags};

/// What `MAIR_EL1` has to hold for the attribute indices used here (DDI 0487, `MAIR_EL1`): attribute 0 is Normal
/// Write-Back, Read- and Write-Allocate (0xff), 1 is Device-nGnRE (0x04), 2 is Normal Non-cacheable (0x44).
pub const MAIR_VALUE: u64 = 0x44_04_ff;

/// Bit 0: the descriptor is valid.
const VALID: u64 = 1 << 0;
/// Bit 1: set in a table descriptor and in a page descriptor, clear in a block descriptor.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bits 4:2, `AttrIndx`: which byte of `MAIR_EL1` applies.
const ATTR_MASK: u64 = 0b111 << 2;
const ATTR_NORMAL: u64 = 0 << 2;
const ATTR_DEVICE: u64 = 1 << 2;
const ATTR_UNCACHED: u64 = 2 << 2;
/// Bit 6, `AP[1]`: EL0 may access.
const AP_USER: u64 = 1 << 6;
/// Bit 7, `AP[2]`: read-only.
const AP_READ_ONLY: u64 = 1 << 7;
/// Bits 9:8, `SH`. Device and Non-cacheable memory is Outer Shareable whatever these bits say (D8.6.2), so
/// they say it.
const SH_OUTER: u64 = 0b10 << 8;
const SH_INNER: u64 = 0b11 << 8;
/// Bit 10, `AF`: accesses raise no Access flag fault.
const ACCESS_FLAG: u64 = 1 << 10;
/// Bit 11, `nG`: TLB entries belong to the current ASID.
const NOT_GLOBAL: u64 = 1 << 11;
/// Bit 53, `PXN`: EL1 may not execute.
const PRIVILEGED_NEVER: u64 = 1 << 53;
/// Bit 54, `UXN`: EL0 may not execute.
const USER_NEVER: u64 = 1 << 54;
/// Bits 58:55 are ignored by hardware and kept for software.
const SOFTWARE_COW: u64 = 1 << 55;
/// Bits 47:12: the output address or the next table.
const ADDRESS: u64 = PA_LIMIT - PAGE_SIZE;

/// The AArch64 format.
#[derive(Debug)]
pub enum Aarch64 {}

impl Format for Aarch64 {
    const MAX_LEAF_LEVEL: u8 = 2;

    /// The hierarchical attributes (bits 63:59) stay 0: they would take rights away from every leaf below.
    #[inline]
    fn table_entry(pa: u64) -> u64 {
        (pa & ADDRESS) | TABLE_OR_PAGE | VALID
    }

    #[inline]
    fn leaf_entry(pa: u64, level: u8, flags: PageFlags) -> u64 {
        let flags = flags.effective();
        let mut entry = (pa & ADDRESS) | ACCESS_FLAG | VALID;
        if level == 0 {
            entry |= TABLE_OR_PAGE;
        }
        entry |= if flags.contains(PageFlags::DEVICE) {
            ATTR_DEVICE | SH_OUTER
        } else if flags.contains(PageFlags::UNCACHED) {
            ATTR_UNCACHED | SH_OUTER
        } else {
            ATTR_NORMAL | SH_INNER
        };
        if !flags.contains(PageFlags::WRITE) {
            entry |= AP_READ_ONLY;
        }
        if !flags.contains(PageFlags::GLOBAL) {
            entry |= NOT_GLOBAL;
        }
        if flags.contains(PageFlags::COW) {
            entry |= SOFTWARE_COW;
        }
        // Whoever may execute, the other level never does.
        let execute = flags.contains(PageFlags::EXECUTE);
        entry
            | match (flags.contains(PageFlags::USER), execute) {
                (true, true) => AP_USER | PRIVILEGED_NEVER,
                (true, false) => AP_USER | PRIVILEGED_NEVER | USER_NEVER,
                (false, true) => USER_NEVER,
                (false, false) => PRIVILEGED_NEVER | USER_NEVER,
            }
    }

    #[inline]
    fn decode(entry: u64, level: u8) -> Entry {
        if entry & VALID == 0 {
            return Entry::Empty;
        }
        if level > 0 && entry & TABLE_OR_PAGE != 0 {
            return Entry::Table(entry & ADDRESS);
        }
        // A block in the root, or a block in the lowest table, is a reserved encoding that faults (D8.3.1).
        if level > Self::MAX_LEAF_LEVEL || (level == 0 && entry & TABLE_OR_PAGE == 0) {
            return Entry::Empty;
        }
        let user = entry & AP_USER != 0;
        let never = if user { USER_NEVER } else { PRIVILEGED_NEVER };
        let mut flags = PageFlags::READ;
        flags.set(PageFlags::USER, user);
        flags.set(PageFlags::WRITE, entry & AP_READ_ONLY == 0);
        flags.set(PageFlags::EXECUTE, entry & never == 0);
        flags.set(PageFlags::GLOBAL, entry & NOT_GLOBAL == 0);
        flags.set(PageFlags::DEVICE, entry & ATTR_MASK == ATTR_DEVICE);
        flags.set(PageFlags::UNCACHED, entry & ATTR_MASK == ATTR_UNCACHED);
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
    fn table_descriptor_is_address_and_0b11() {
        // DDI 0487, D8.3.1, table descriptors: bits 47:12 next table, bits 1:0 0b11, hierarchical bits 63:59 zero.
        assert_eq!(Aarch64::table_entry(0x1234_5678_9000), 0x1234_5678_9003);
    }

    #[test]
    fn user_page_bits() {
        // D8.3.1, page descriptors, and D8.4: AF (10), SH inner (9:8), AttrIndx 0, AP[1] user (6), nG (11).
        let common = 0x8000_0000 | 1 << 10 | 0b11 << 8 | 1 << 6 | 1 << 11 | 0b11;
        let (pxn, uxn, read_only) = (1 << 53, 1 << 54, 1 << 7);
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, RW), common | pxn | uxn);
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, R), common | pxn | uxn | read_only);
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, RX), common | pxn | read_only);
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, RW | RX), common | pxn);
        // Bit 55 is the first of those left to software; it withholds the right to write.
        let cow = Aarch64::leaf_entry(0x8000_0000, 0, RW | PageFlags::COW);
        assert_eq!(cow, common | pxn | uxn | read_only | 1 << 55);
    }

    #[test]
    fn kernel_page_bits() {
        // Kernel pages: AP[1] clear, UXN always, PXN unless executable, nG clear when global.
        let common = 0x8000_0000 | 1 << 10 | 0b11 << 8 | 1 << 54 | 0b11;
        let global = PageFlags::GLOBAL;
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, global | PageFlags::EXECUTE), common | 1 << 7);
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, global | PageFlags::WRITE), common | 1 << 53);
        let both = global | PageFlags::WRITE | PageFlags::EXECUTE;
        assert_eq!(Aarch64::leaf_entry(0x8000_0000, 0, both), common | 1 << 53, "W^X");
    }

    #[test]
    fn memory_types_select_the_bytes_of_mair() {
        // DDI 0487, MAIR_EL1: byte n is attribute n. D8.6.2: Outer Shareable for Device and Non-cacheable.
        let kernel = PageFlags::WRITE | PageFlags::GLOBAL;
        let attribute = |flags| (Aarch64::leaf_entry(0, 0, flags) >> 2 & 7, Aarch64::leaf_entry(0, 0, flags) >> 8 & 3);
        assert_eq!(attribute(kernel), (0, 0b11));
        assert_eq!(attribute(kernel | PageFlags::DEVICE), (1, 0b10));
        assert_eq!(attribute(kernel | PageFlags::UNCACHED), (2, 0b10));
        assert_eq!(MAIR_VALUE.to_le_bytes()[..3], [0xff, 0x04, 0x44]);
    }

    #[test]
    fn blocks_have_bit_1_clear_and_reserved_encodings_are_empty() {
        assert_eq!(Aarch64::leaf_entry(level_size(1), 1, RW) & 3, 0b01);
        assert_eq!(Aarch64::leaf_entry(level_size(2), 2, RW) & 3, 0b01);
        // D8.3.1: 0b01 is reserved at lookup level 3, and at level 0 with a 4 KiB granule and 48-bit addresses.
        assert_eq!(Aarch64::decode(Aarch64::leaf_entry(level_size(1), 1, RW), 0), Entry::Empty);
        assert_eq!(Aarch64::decode(Aarch64::leaf_entry(level_size(2), 2, RW), 3), Entry::Empty);
    }
}
