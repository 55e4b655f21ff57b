//! Where read and write calls put and take their bytes: user memory, in one piece or many, or kernel memory.
//!
//! A file sees one [`ReadBuffer`] or [`WriteBuffer`] and copies in as many steps as suit it; a fault in user memory
//! shows as EFAULT at the byte where it happens, after which what came before still counts. Do not call these with a
//! lock held that a page fault could need.

use abi::{Errno, Result};
use hal::{Arch as _, UserAddr};

use crate::{
    arch::Arch,
    mm::{PAGE_SIZE, frames::FrameRef, user},
    task::scheduler,
};

/// One stretch of user memory.
#[derive(Clone, Copy, Debug)]
pub struct UserSlice {
    /// First byte.
    pub address: UserAddr,
    /// Length in bytes.
    pub len: usize,
}

impl UserSlice {
    fn skip(&mut self, bytes: usize) {
        self.address = UserAddr::new(self.address.get().wrapping_add(bytes as u64));
        self.len -= bytes;
    }
}

enum Memory<'a, K> {
    User(UserSlice),
    Vector(&'a mut [UserSlice]),
    Kernel(K),
}

impl<K> Memory<'_, K> {
    /// EFAULT where an address is not a program's at all. Read and write calls say so even where they copy nothing.
    #[inline]
    fn check(&self) -> Result<()> {
        let ours = |piece: &UserSlice| {
            piece.address.get().checked_add(piece.len as u64).is_some_and(|end| end <= Arch::USER_END)
        };
        let all = match self {
            Self::User(piece) => ours(piece),
            Self::Vector(pieces) => pieces.iter().all(ours),
            Self::Kernel(_) => true,
        };
        if all { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

/// Room that a read call fills.
pub struct ReadBuffer<'a> {
    memory: Memory<'a, &'a mut [u8]>,
    remaining: usize,
    pace: Pace,
}

/// Bytes copied between two looks at whether another thread is due.
const STRIDE: usize = 64 << 10;

/// How much was copied from or to a program since others were let run.
#[derive(Default)]
struct Pace(usize);

impl Pace {
    /// To be called after a copy, with no lock held.
    fn copied(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= STRIDE {
            self.0 = 0;
            scheduler::give_way();
        }
    }
}

/// What moves much takes long: its time is measured (`task::usage`).
fn measure_large(len: usize) {
    const LARGE: usize = 64 << 10;
    if len >= LARGE {
        scheduler::current().measure_kernel_time();
    }
}

impl<'a> ReadBuffer<'a> {
    /// User memory in one piece.
    pub fn user(address: UserAddr, len: usize) -> Self {
        measure_large(len);
        Self { memory: Memory::User(UserSlice { address, len }), remaining: len, pace: Pace::default() }
    }

    /// User memory in pieces (readv).
    pub fn user_vector(pieces: &'a mut [UserSlice]) -> Self {
        let remaining = pieces.iter().map(|piece| piece.len).sum();
        measure_large(remaining);
        Self { memory: Memory::Vector(pieces), remaining, pace: Pace::default() }
    }

    /// Kernel memory.
    pub fn kernel(bytes: &'a mut [u8]) -> Self {
        let remaining = bytes.len();
        Self { memory: Memory::Kernel(bytes), remaining, pace: Pace::default() }
    }

    /// EFAULT where some of it is not a program's memory whatever is mapped.
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.memory.check()
    }

    /// Room left, in bytes.
    pub const fn remaining(&self) -> usize {
        self.remaining
    }

    /// Takes pieces of a file from `offset` on until there is no room left. `put` puts the one at an offset into the buffer
    /// and answers how many bytes were copied, and how many were to be; `None` at the end of the file. Returns the bytes
    /// copied; an error only where there are none.
    pub fn fill(
        &mut self,
        offset: u64,
        mut put: impl FnMut(u64, &mut Self) -> Result<Option<(usize, usize)>>,
    ) -> Result<usize> {
        let mut done = 0;
        while self.remaining > 0 {
            match put(offset.saturating_add(done as u64), self) {
                Ok(Some((copied, wanted))) => {
                    done += copied;
                    if copied < wanted {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Copies as much of `bytes` as there is room for; returns how much. EFAULT only when nothing at all was copied by
    /// this call.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let wanted = bytes.len().min(self.remaining);
        let mut bytes = &bytes[..wanted];
        let mut done = 0;
        while !bytes.is_empty() {
            let step = match &mut self.memory {
                Memory::Kernel(room) => {
                    let (front, rest) = core::mem::take(room).split_at_mut(bytes.len());
                    front.copy_from_slice(bytes);
                    *room = rest;
                    bytes.len()
                }
                Memory::User(slice) => put_user(slice, bytes),
                Memory::Vector(pieces) => match pieces.iter_mut().find(|piece| piece.len > 0) {
                    Some(piece) => put_user(piece, &bytes[..bytes.len().min(piece.len)]),
                    None => 0,
                },
            };
            if step == 0 {
                self.remaining -= done;
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
            done += step;
            bytes = &bytes[step..];
            if !matches!(self.memory, Memory::Kernel(_)) {
                self.pace.copied(step);
            }
        }
        self.remaining -= done;
        Ok(done)
    }

    /// Copies from a page: `len` bytes at `offset`, as far as they are in the page. As [`put`](Self::put) otherwise.
    pub fn put_frame(&mut self, frame: &FrameRef, offset: usize, len: usize) -> Result<usize> {
        let offset = offset.min(PAGE_SIZE);
        let len = len.min(PAGE_SIZE - offset);
        // SAFETY: within the page, which lives as long as `frame`. A program that writes to the page meanwhile gets
        // some mix of old and new bytes, as read(2) of a mapped file gives; nothing depends on the values.
        self.put(unsafe { core::slice::from_raw_parts(frame.bytes().add(offset), len) })
    }
}

fn put_user(slice: &mut UserSlice, bytes: &[u8]) -> usize {
    let copied = user::copy_out_partial(slice.address, bytes);
    slice.skip(copied);
    copied
}

/// Bytes that a write call hands over.
pub struct WriteBuffer<'a> {
    memory: Memory<'a, &'a [u8]>,
    remaining: usize,
    pace: Pace,
}

impl<'a> WriteBuffer<'a> {
    /// User memory in one piece.
    pub fn user(address: UserAddr, len: usize) -> Self {
        measure_large(len);
        Self { memory: Memory::User(UserSlice { address, len }), remaining: len, pace: Pace::default() }
    }

    /// User memory in pieces (writev).
    pub fn user_vector(pieces: &'a mut [UserSlice]) -> Self {
        let remaining = pieces.iter().map(|piece| piece.len).sum();
        measure_large(remaining);
        Self { memory: Memory::Vector(pieces), remaining, pace: Pace::default() }
    }

    /// Kernel memory.
    pub fn kernel(bytes: &'a [u8]) -> Self {
        Self { memory: Memory::Kernel(bytes), remaining: bytes.len(), pace: Pace::default() }
    }

    /// EFAULT where some of it is not a program's memory whatever is mapped.
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.memory.check()
    }

    /// Bytes left.
    pub const fn remaining(&self) -> usize {
        self.remaining
    }

    /// Hands over at most `len` bytes from here on.
    pub fn limit(&mut self, len: usize) {
        self.remaining = self.remaining.min(len);
    }

    /// Takes up to `out.len()` bytes; returns how many, 0 only when none are left. EFAULT only when nothing at all
    /// was copied by this call.
    pub fn take(&mut self, out: &mut [u8]) -> Result<usize> {
        let wanted = out.len().min(self.remaining);
        let mut done = 0;
        while done < wanted {
            let room = &mut out[done..wanted];
            let step = match &mut self.memory {
                Memory::Kernel(bytes) => {
                    let (front, rest) = bytes.split_at(room.len());
                    room.copy_from_slice(front);
                    *bytes = rest;
                    room.len()
                }
                Memory::User(slice) => take_user(slice, room),
                Memory::Vector(pieces) => match pieces.iter_mut().find(|piece| piece.len > 0) {
                    Some(piece) => {
                        let len = room.len().min(piece.len);
                        take_user(piece, &mut room[..len])
                    }
                    None => 0,
                },
            };
            if step == 0 {
                self.remaining -= done;
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
            done += step;
            if !matches!(self.memory, Memory::Kernel(_)) {
                self.pace.copied(step);
            }
        }
        self.remaining -= done;
        Ok(done)
    }

    /// Takes up to `len` bytes into a page at `offset`, as far as they fit. As [`take`](Self::take) otherwise.
    pub fn take_frame(&mut self, frame: &FrameRef, offset: usize, len: usize) -> Result<usize> {
        let offset = offset.min(PAGE_SIZE);
        let len = len.min(PAGE_SIZE - offset);
        // SAFETY: within the page, which lives as long as `frame`. Who else has the page mapped or reads it gets some
        // mix of old and new bytes; nothing depends on the values.
        let taken = self.take(unsafe { core::slice::from_raw_parts_mut(frame.bytes().add(offset), len) });
        frame.written();
        taken
    }
}

fn take_user(slice: &mut UserSlice, room: &mut [u8]) -> usize {
    let copied = user::copy_in_partial(slice.address, room);
    slice.skip(copied);
    copied
}
