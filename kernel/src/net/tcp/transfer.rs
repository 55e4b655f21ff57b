//! Sending and receiving on TCP sockets.
//!
//! Bytes are copied from and to the program without a lock held: a sender fills a chunk first and hands it over whole, a
//! receiver claims bytes under the lock and copies them afterwards.

use abi::{Errno, Result, net};

use super::{
    Endpoint, Role, Transport,
    flow::{Chunk, MAX_CHUNK, View},
    link::{Bytes, Received, Sent},
};
use crate::fs::{
    WriteBuffer,
    socket::{Incoming, Outgoing, Patience},
};

/// Sends of up to this many bytes go through the stack.
const SMALL: usize = 256;
/// MSG_FASTOPEN of sendto(2), which the headers keep to the C library.
const MSG_FASTOPEN: u32 = 0x2000_0000;

impl Endpoint {
    /// The connection, once there is one. `without` is the answer of a socket that has none and makes none.
    fn connection(&self, patience: Patience, without: Errno) -> Result<Transport> {
        patience.wait(&[&self.shared.events], || {
            let mut state = self.state.lock();
            match &state.role {
                Role::Connected(transport) => Some(Ok(transport.clone())),
                Role::Connecting(_) => None,
                Role::Listening { .. } => Some(Err(without)),
                Role::Idle => Some(Err(state.error.take().unwrap_or(without))),
            }
        })?
    }

    /// send(2) and its relatives.
    pub(super) fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        if message.flags & MSG_FASTOPEN != 0
            && let Some(address) = message.address
            && self.transport().is_none()
        {
            self.connect(address, message.patience)?;
        }
        let link = self.connection(message.patience, Errno::EPIPE)?;
        let mut sent = 0;
        loop {
            match self.send_part(&link, message) {
                Ok(part) => sent += part,
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
            if message.data.remaining() == 0 {
                return Ok(sent);
            }
        }
    }

    /// Sends up to a chunk.
    fn send_part(&self, link: &Transport, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        let spare = link.prepare(message.data.remaining().min(MAX_CHUNK))?;
        if message.data.remaining() == 0 {
            return Ok(0);
        }
        // First the room, so that bytes that cannot be sent stay the program's.
        message.patience.wait(&[&self.shared.events], || link.can_send().then_some(()))?;
        let mut small = [0; SMALL];
        let mut few = None;
        if message.data.remaining() <= SMALL {
            let taken = message.data.take(&mut small)?;
            few = Some(taken);
        }
        let (len, mut bytes) = match few.and_then(|len| small.get(..len)) {
            Some(few) => (few.len(), Bytes::Few(few)),
            None => {
                let chunk = filled_chunk(spare, message.data)?;
                (chunk.len(), Bytes::Chunk(chunk))
            }
        };
        let urgent = message.flags & net::MSG_OOB != 0 && message.data.remaining() == 0;
        loop {
            bytes = match link.send(bytes, urgent)? {
                Sent::Done => return Ok(len),
                Sent::Full(bytes) => bytes,
            };
            // A few that found room but no place in a chunk get their own.
            if let Bytes::Few(few) = bytes
                && link.can_send()
            {
                let mut chunk = Chunk::new(SMALL)?;
                chunk.fill(few.len(), |room| {
                    room.copy_from_slice(few);
                    Ok(few.len())
                })?;
                bytes = Bytes::Chunk(chunk);
                continue;
            }
            message.patience.wait(&[&self.shared.events], || link.may_send().then_some(()))?;
        }
    }

    /// recv(2) and its relatives.
    pub(super) fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        let link = self.connection(message.patience, Errno::ENOTCONN)?;
        let peek = message.flags & net::MSG_PEEK != 0;
        if message.flags & net::MSG_OOB != 0 {
            let Some(byte) = link.take_urgent(peek)? else { return Ok(0) };
            message.result_flags |= net::MSG_OOB;
            if message.data.remaining() == 0 {
                message.result_flags |= net::MSG_TRUNC;
                return Ok(0);
            }
            return message.data.put(&[byte]);
        }
        let discard = message.flags & net::MSG_TRUNC != 0;
        let room = message.data.remaining();
        let least = if message.flags & net::MSG_WAITALL != 0 { room } else { self.shared.common.low_water().min(room) };
        let mut position = peek.then(|| link.with_inbox(|inbox| inbox.position()));
        let mut done = 0;
        loop {
            while done < room || room == 0 {
                let view = match link.receive(position, room - done, done > 0) {
                    Received::View(view) => view,
                    Received::End => return Ok(done),
                    Received::Failed(error) => return Err(error),
                };
                let piece = match view {
                    View::Bytes(piece) => piece,
                    View::Mark => return Ok(done),
                    View::Nothing(next) => {
                        position = position.map(|_| next);
                        break;
                    }
                };
                let len = piece.bytes().len();
                let copied = if discard || len == 0 { Ok(len) } else { message.data.put(piece.bytes()) };
                let so_far = *copied.as_ref().unwrap_or(&0);
                done += so_far;
                position = position.map(|_| piece.next);
                if so_far < len {
                    if !peek {
                        link.with_inbox(|inbox| inbox.give_back(piece, so_far));
                    }
                    return if done > 0 { Ok(done) } else { copied };
                }
                if !peek && len > SMALL {
                    link.with_inbox(|inbox| inbox.give_back_memory(piece));
                }
                if room == 0 {
                    return Ok(0);
                }
            }
            if done >= least.max(1) || done == room && room > 0 {
                return Ok(done);
            }
            let waited =
                message.patience.wait(&[&self.shared.events], || link.is_receivable(position, 1).then_some(()));
            match waited {
                Ok(()) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A chunk with the program's next bytes, in `spare`'s memory where there is one.
fn filled_chunk(spare: Option<Chunk>, data: &mut WriteBuffer<'_>) -> Result<Chunk> {
    let len = data.remaining().min(MAX_CHUNK);
    let mut chunk = match spare {
        Some(chunk) => chunk,
        None => Chunk::new(len)?,
    };
    chunk.fill(len, |room| data.take(room))?;
    Ok(chunk)
}
