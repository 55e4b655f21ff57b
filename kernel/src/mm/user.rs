//! Copies between the kernel and the running program's memory.
//!
//! A user address is an allegation. These functions copy with the program's own rights; a page not there yet is
//! faulted in on the way, anything else is EFAULT. They may not be called with a lock held that the page-fault path
//! takes. With an [`IrqLock`](crate::sync::IrqLock) held no page is faulted in: one that is not there is EFAULT, too, and
//! the caller lets go, copies without the lock, and tries again (`task/futex.rs`).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::{Errno, Pod, Result};
use hal::{Arch as _, UserAddr};

use crate::{arch::Arch, task::scheduler};

/// An address as a program gave it, without the tag where the running thread may give one.
#[inline(never)]
pub fn given(address: u64) -> UserAddr {
    let address = UserAddr::new(address);
    meant(address).unwrap_or(address)
}

/// The address that a program means by this one. `None` for one with a tag, unless the running thread has asked for
/// those to be taken (prctl(2), PR_SET_TAGGED_ADDR_CTRL): the CPU itself ignores tags in either case.
#[inline]
fn meant(address: UserAddr) -> Option<UserAddr> {
    if Arch::untagged(address) == address { Some(address) } else { without_tag(address) }
}

#[cold]
fn without_tag(address: UserAddr) -> Option<UserAddr> {
    let takes_tags = scheduler::current().attributes.tagged_addresses.load(Ordering::Relaxed);
    takes_tags.then(|| Arch::untagged(address))
}

/// Copies in as much of `out` as can be read; returns the bytes copied.
#[inline(never)]
pub fn copy_in_partial(from: UserAddr, out: &mut [u8]) -> usize {
    let Some(from) = meant(from) else { return 0 };
    // SAFETY: `out` is valid for its length.
    out.len() - unsafe { Arch::copy_from_user(out.as_mut_ptr(), from, out.len()) }
}

/// Copies out as much of `bytes` as can be written; returns the bytes copied.
#[inline(never)]
pub fn copy_out_partial(to: UserAddr, bytes: &[u8]) -> usize {
    let Some(to) = meant(to) else { return 0 };
    // SAFETY: `bytes` is valid for its length.
    bytes.len() - unsafe { Arch::copy_to_user(to, bytes.as_ptr(), bytes.len()) }
}

/// Copies in exactly `out.len()` bytes, or EFAULT.
pub fn copy_in_bytes(from: UserAddr, out: &mut [u8]) -> Result<()> {
    if copy_in_partial(from, out) == out.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies out all of `bytes`, or EFAULT.
pub fn copy_out_bytes(to: UserAddr, bytes: &[u8]) -> Result<()> {
    if copy_out_partial(to, bytes) == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads a value, or EFAULT.
pub fn copy_in<T: Pod>(from: UserAddr) -> Result<T> {
    let mut value = abi::zeroed::<T>();
    copy_in_bytes(from, abi::bytes_of_mut(&mut value))?;
    Ok(value)
}

/// Writes a value, or EFAULT.
pub fn copy_out<T: Pod>(to: UserAddr, value: &T) -> Result<()> {
    copy_out_bytes(to, abi::bytes_of(value))
}

/// Reads a string up to its NUL, which is not returned. `too_long` when there is none within `max` bytes.
pub fn copy_in_string(from: UserAddr, max: usize, too_long: Errno) -> Result<Vec<u8>> {
    /// Bytes read at a time. Aligned chunks, so that a page boundary is crossed only where the string does.
    const CHUNK: u64 = 64;
    let mut string = Vec::new();
    let mut at = from;
    loop {
        let mut chunk = [0; CHUNK as usize];
        let wanted = (CHUNK - at.get() % CHUNK) as usize;
        let got = copy_in_partial(at, &mut chunk[..wanted]);
        if let Some(end) = chunk[..got].iter().position(|byte| *byte == 0) {
            string.extend_from_slice(&chunk[..end]);
            return if string.len() < max { Ok(string) } else { Err(too_long) };
        }
        if got < wanted {
            return Err(Errno::EFAULT);
        }
        string.extend_from_slice(&chunk[..got]);
        if string.len() >= max {
            return Err(too_long);
        }
        at = at.checked_add(got as u64).ok_or(Errno::EFAULT)?;
    }
}
