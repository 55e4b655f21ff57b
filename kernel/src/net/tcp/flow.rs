//! The bytes on their way to one end of a connection, and the urgent one among them.
//!
//! A [`Flow`] is a queue of chunks. A chunk's memory is filled before it joins and copied out after its bytes were
//! claimed, so no lock is held over a user copy; small sends join the last chunk. Memory goes round: emptied chunks are
//! kept for the next bytes, a few of them.
//!
//! Bytes have positions, counted from the start of the connection. The urgent byte (tcp(7), "Sockets API") is the last
//! of a send with MSG_OOB. Without SO_OOBINLINE it is left out of what is received in order; a receive stops at it
//! either way.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use abi::{Errno, Result};

use crate::{
    mm::{PAGE_SIZE, frames},
    net::memory::Charge,
};

/// The most bytes of one chunk.
pub(super) const MAX_CHUNK: usize = 64 * 1024;
/// Emptied chunks kept.
const MAX_SPARE: usize = 4;

/// Bytes of one send or of several small ones.
pub(super) struct Chunk {
    bytes: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Chunk {
    /// Memory for `len` bytes, at most [`MAX_CHUNK`]. ENOBUFS where there is none.
    pub(super) fn new(len: usize) -> Result<Self> {
        let len = len.clamp(1, MAX_CHUNK).next_multiple_of(PAGE_SIZE);
        if frames::is_short() {
            return Err(Errno::ENOBUFS);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        Ok(Self { bytes: Arc::new(bytes), start: 0, end: 0 })
    }

    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Room behind them, where nobody else looks at this memory.
    fn room(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.bytes)?.get_mut(self.end..)
    }

    /// Fills an empty chunk with up to `len` bytes from `fill`, which says how many it had.
    pub(super) fn fill(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<usize> {
        let room = self.room().and_then(|room| room.get_mut(..len)).ok_or(Errno::ENOBUFS)?;
        let filled = fill(room)?;
        self.end += filled.min(len);
        Ok(filled)
    }
}

/// The urgent byte.
#[derive(Clone, Copy)]
struct Urgent {
    at: u64,
    byte: u8,
    /// Received with MSG_OOB.
    taken: bool,
}

/// Bytes to be copied out, and the position behind them.
pub(super) struct Piece {
    bytes: Arc<Vec<u8>>,
    start: usize,
    end: usize,
    pub(super) next: u64,
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

/// What is at a position.
pub(super) enum View {
    Bytes(Piece),
    /// The urgent byte: a receive that has something ends here.
    Mark,
    /// Nothing yet, from this position on.
    Nothing(u64),
}

/// A queue of bytes in one direction.
#[derive(Default)]
pub(super) struct Flow {
    chunks: VecDeque<Chunk>,
    charge: Charge,
    /// Position of the first byte there is, and behind the last.
    read: u64,
    written: u64,
    urgent: Option<Urgent>,
    spare: Vec<Arc<Vec<u8>>>,
}

impl Flow {
    /// What its chunks take, in bytes.
    pub(super) fn charge(&self) -> usize {
        self.charge.get()
    }

    /// Bytes that came so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Position of the first byte there is.
    pub(super) fn position(&self) -> u64 {
        self.read
    }

    /// Bytes there are, the urgent one left out where a receive would leave it out first.
    pub(super) fn available(&self, inline: bool) -> usize {
        (self.written - self.read) as usize - usize::from(!inline && self.is_at_mark())
    }

    /// Bytes that one receive could give: up to the urgent one.
    pub(super) fn until_mark(&self, inline: bool) -> usize {
        match self.urgent {
            Some(urgent) if !inline && urgent.at >= self.read => (urgent.at - self.read) as usize,
            _ => (self.written - self.read) as usize,
        }
    }

    /// Whether the next byte is the urgent one (ioctl SIOCATMARK).
    pub(super) fn is_at_mark(&self) -> bool {
        self.urgent.is_some_and(|urgent| urgent.at == self.read)
    }

    /// Whether there is an urgent byte to be received with MSG_OOB.
    pub(super) fn has_urgent(&self) -> bool {
        self.urgent.is_some_and(|urgent| !urgent.taken)
    }

    /// The urgent byte, for MSG_OOB. EINVAL where there is none or it was taken.
    pub(super) fn take_urgent(&mut self, peek: bool) -> Result<u8> {
        let urgent = self.urgent.as_mut().filter(|urgent| !urgent.taken).ok_or(Errno::EINVAL)?;
        urgent.taken = !peek;
        Ok(urgent.byte)
    }

    /// An emptied chunk with room for `len` bytes.
    pub(super) fn spare(&mut self, len: usize) -> Option<Chunk> {
        let place = self.spare.iter().position(|bytes| bytes.len() >= len && bytes.len() / 4 <= len.max(PAGE_SIZE))?;
        Some(Chunk { bytes: self.spare.swap_remove(place), start: 0, end: 0 })
    }

    /// Appends a chunk.
    pub(super) fn push(&mut self, chunk: Chunk, urgent: bool, inline: bool) {
        let last = chunk.end.checked_sub(1).and_then(|last| chunk.bytes.get(last)).copied();
        self.written += chunk.len() as u64;
        self.charge.add(chunk.bytes.len());
        self.chunks.push_back(chunk);
        self.mark(last.filter(|_| urgent), inline);
    }

    /// Appends a few bytes to the last chunk; `false` where they do not fit there.
    pub(super) fn append(&mut self, bytes: &[u8], urgent: bool, inline: bool) -> bool {
        let Some(last) = self.chunks.back_mut() else { return false };
        let Some(room) = last.room().and_then(|room| room.get_mut(..bytes.len())) else { return false };
        room.copy_from_slice(bytes);
        last.end += bytes.len();
        self.written += bytes.len() as u64;
        self.mark(bytes.last().copied().filter(|_| urgent), inline);
        true
    }

    /// The byte just written is urgent. One before it that nobody took becomes one like others, but is lost where it
    /// is next (as on Linux).
    fn mark(&mut self, byte: Option<u8>, inline: bool) {
        let Some(byte) = byte else { return };
        if self.is_at_mark() && !inline {
            self.advance(self.read + 1);
        }
        self.urgent = Some(Urgent { at: self.written - 1, byte, taken: false });
    }

    /// What is at `position`, which is not before the first byte: at most `limit` bytes of one chunk.
    pub(super) fn view(&self, position: u64, limit: usize, inline: bool, has_some: bool) -> View {
        let mut position = position;
        let mut limit = limit;
        if let Some(urgent) = self.urgent {
            if urgent.at == position {
                if has_some {
                    return View::Mark;
                }
                if !inline {
                    position += 1;
                }
            }
            if urgent.at > position {
                limit = limit.min((urgent.at - position) as usize);
            }
        }
        let mut at = self.read;
        for chunk in &self.chunks {
            let len = chunk.len() as u64;
            if position < at + len {
                let start = chunk.start + position.saturating_sub(at) as usize;
                let end = chunk.end.min(start.saturating_add(limit));
                let next = position + (end - start) as u64;
                return View::Bytes(Piece { bytes: chunk.bytes.clone(), start, end, next });
            }
            at += len;
        }
        View::Nothing(position)
    }

    /// Drops what is before `position`.
    pub(super) fn advance(&mut self, position: u64) {
        let mut rest = position.min(self.written).saturating_sub(self.read) as usize;
        self.read += rest as u64;
        while rest > 0 {
            let Some(first) = self.chunks.front_mut() else { break };
            let step = rest.min(first.len());
            first.start += step;
            rest -= step;
            if first.len() == 0
                && let Some(chunk) = self.chunks.pop_front()
            {
                self.charge.sub(chunk.bytes.len());
                self.recycle(chunk.bytes);
            }
        }
        if self.urgent.is_some_and(|urgent| urgent.at < self.read) {
            self.urgent = None;
        }
    }

    /// Keeps a chunk's memory where nobody else looks at it.
    fn recycle(&mut self, mut bytes: Arc<Vec<u8>>) {
        if self.spare.len() < MAX_SPARE && Arc::get_mut(&mut bytes).is_some() {
            self.spare.push(bytes);
        }
    }

    /// Takes back a piece's memory once it is copied.
    pub(super) fn give_back_memory(&mut self, piece: Piece) {
        self.recycle(piece.bytes);
    }

    /// Puts the rest of a piece back that could not be copied to the program.
    pub(super) fn give_back(&mut self, piece: Piece, copied: usize) {
        let start = piece.start + copied.min(piece.end - piece.start);
        self.read -= (piece.end - start) as u64;
        self.charge.add(piece.bytes.len());
        self.chunks.push_front(Chunk { bytes: piece.bytes, start, end: piece.end });
    }

    /// Throws everything away.
    pub(super) fn clear(&mut self) {
        *self = Self { read: self.written, written: self.written, ..Self::default() };
    }
}
