//! Copies between kernel and user memory, and where they continue after a fault.

use core::arch::global_asm;

use hal::UserAddr;

global_asm!(include_str!("user_copy.S"));

unsafe extern "C" {
    static user_copy_start: u8;
    static user_copy_end: u8;
    static from_blocks: u8;
    static from_bytes: u8;
    static to_blocks: u8;
    static to_bytes: u8;
    static copy_done: u8;
    fn arch_copy_from_user(to: *mut u8, from: u64, len: usize) -> usize;
    fn arch_copy_to_user(to: u64, from: *const u8, len: usize) -> usize;
}

/// Whether `pc` is inside the copy routines.
pub(crate) fn contains(pc: u64) -> bool {
    (&raw const user_copy_start as u64..&raw const user_copy_end as u64).contains(&pc)
}

/// Where to continue after an unresolved fault at `pc`: block loops fall back to their byte loop, byte loops end.
pub(crate) fn continuation(pc: u64) -> u64 {
    let loops = [
        (&raw const from_blocks as u64, &raw const from_bytes as u64),
        (&raw const to_blocks as u64, &raw const to_bytes as u64),
    ];
    match loops.iter().find(|(blocks, bytes)| (*blocks..*bytes).contains(&pc)) {
        Some((_, bytes)) => *bytes,
        None => &raw const copy_done as u64,
    }
}

/// # Safety
/// `to` is valid for `len` bytes of writing.
pub(crate) unsafe fn copy_from_user(to: *mut u8, from: UserAddr, len: usize) -> usize {
    // SAFETY: LDTR cannot reach kernel memory; the caller vouches for `to`.
    unsafe { arch_copy_from_user(to, from.get(), len) }
}

/// # Safety
/// `from` is valid for `len` bytes of reading.
pub(crate) unsafe fn copy_to_user(to: UserAddr, from: *const u8, len: usize) -> usize {
    // SAFETY: STTR cannot reach kernel memory; the caller vouches for `from`.
    unsafe { arch_copy_to_user(to.get(), from, len) }
}
