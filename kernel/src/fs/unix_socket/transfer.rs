//! Sending and receiving on AF_UNIX sockets.
//!
//! Bytes are copied from and to the program without a lock held: a sender fills a buffer first and delivers it whole; a
//! receiver takes its share of a message by moving the message's start under the lock and copies afterwards.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, net};

use super::{
    endpoint::{Endpoint, MESSAGE_OVERHEAD, Message, State, sender_credentials},
    in_flight::InFlight,
    name,
};
use crate::{
    fs::{
        OpenFile, WriteBuffer,
        socket::{Credentials, Incoming, Outgoing, SocketType},
    },
    mm::frames,
};

/// Bytes of a stream sent at a time.
const STREAM_CHUNK: usize = 32 * 1024;
/// Room that a small message of a stream leaves for what is sent after it.
const STREAM_SLACK: usize = 256;
/// Messages that wait for a datagram socket which is not connected to their sender
/// (/proc/sys/net/unix/max_dgram_qlen).
const MAX_DATAGRAMS: usize = 10;

/// Takes `len` bytes from the program.
fn take(data: &mut WriteBuffer<'_>, len: usize, capacity: usize) -> Result<Vec<u8>> {
    if frames::is_short() {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(capacity.max(len)).map_err(|_| Errno::ENOBUFS)?;
    bytes.resize(len, 0);
    let taken = data.take(&mut bytes)?;
    bytes.truncate(taken);
    Ok(bytes)
}

/// What came of an attempt to deliver.
enum Delivery {
    Done,
    /// No room yet; the message comes back.
    Full(Message),
    Failed(Errno),
}

impl Endpoint {
    /// Whether what this endpoint sends fits into `peer`'s inbox.
    fn has_room(&self, peer: &State) -> bool {
        peer.charge < self.send_limit()
    }

    /// Sends on a connected stream: all bytes, or those before an error or a full buffer.
    pub(super) fn send_stream(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        let credentials = message.control.credentials.unwrap_or_else(sender_credentials);
        let mut files = InFlight::new(core::mem::take(&mut message.control.files))?;
        let mut sent = 0;
        while message.data.remaining() > 0 {
            let step = self.stream_peer().and_then(|peer| {
                let len = message.data.remaining().min(STREAM_CHUNK);
                let bytes = take(message.data, len, STREAM_SLACK)?;
                let taken = bytes.len();
                let chunk = Message {
                    data: Arc::new(bytes),
                    start: 0,
                    source: None,
                    files: core::mem::take(&mut files),
                    credentials,
                };
                self.deliver_stream(&peer, chunk, message)?;
                Ok((taken, taken == len))
            });
            match step {
                Ok((taken, whole)) => {
                    sent += taken;
                    if !whole {
                        break;
                    }
                }
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn stream_peer(&self) -> Result<Arc<Self>> {
        let state = self.state.lock();
        if state.send_shut {
            return Err(Errno::EPIPE);
        }
        state.peer.clone().ok_or(Errno::ENOTCONN)
    }

    fn deliver_stream(&self, peer: &Arc<Self>, chunk: Message, message: &Outgoing<'_, '_>) -> Result<()> {
        let mut chunk = chunk;
        loop {
            match self.try_stream(peer, chunk) {
                Delivery::Done => break,
                Delivery::Failed(error) => return Err(error),
                Delivery::Full(back) => chunk = back,
            }
            let waited = message.patience.wait(&[&self.events], || {
                let broken = self.state.lock().send_shut;
                (broken || self.has_room(&peer.state.lock())).then_some(())
            });
            waited?;
        }
        peer.events.wake_all();
        Ok(())
    }

    fn try_stream(&self, peer: &Self, chunk: Message) -> Delivery {
        if self.state.lock().send_shut {
            return Delivery::Failed(Errno::EPIPE);
        }
        let mut state = peer.state.lock();
        if state.closed || state.receive_shut {
            drop(state);
            return Delivery::Failed(Errno::EPIPE);
        }
        if !self.has_room(&state) {
            return Delivery::Full(chunk);
        }
        if !append_to_last(&mut state, &chunk) {
            Self::deliver(&mut state, chunk);
        }
        Delivery::Done
    }

    /// Sends one message of a datagram or sequenced-packet socket.
    pub(super) fn send_packet(self: &Arc<Self>, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        let files = InFlight::new(core::mem::take(&mut message.control.files))?;
        let credentials = message.control.credentials.unwrap_or_else(sender_credentials);
        let (peer, data) = self.prepare_packet(message)?;
        let len = data.len();
        let source = self.state.lock().name.clone();
        let mut packet = Message { data: Arc::new(data), start: 0, source, files, credentials };
        loop {
            match self.try_packet(&peer, packet) {
                Delivery::Done => break,
                Delivery::Failed(error) => return Err(error),
                Delivery::Full(back) => packet = back,
            }
            // The receiver wakes its own queue as it reads: its senders may be many.
            let waited = message.patience.wait(&[&peer.events, &self.events], || {
                let shut = self.state.lock().send_shut;
                let state = peer.state.lock();
                (shut || state.receive_shut || self.packet_fits(&state)).then_some(())
            });
            waited?;
        }
        peer.events.wake_all();
        Ok(len)
    }

    /// Finds the receiver and takes the bytes.
    fn prepare_packet(self: &Arc<Self>, message: &mut Outgoing<'_, '_>) -> Result<(Arc<Self>, Vec<u8>)> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        if self.state.lock().send_shut {
            return Err(Errno::EPIPE);
        }
        let needs_name = {
            let state = self.state.lock();
            state.pass_credentials && state.name.is_none()
        };
        if needs_name {
            let name = name::autobind(self)?;
            self.state.lock().name = Some(name);
        }
        let peer = match message.address {
            Some(address) if self.kind == SocketType::Datagram => name::find(address)?,
            _ => self.peer().ok_or(Errno::ENOTCONN)?,
        };
        if peer.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let len = message.data.remaining();
        // Linux keeps 32 bytes of the buffer for itself.
        if len > self.send_limit().saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        let data = take(message.data, len, len)?;
        if data.len() < len { Err(Errno::EFAULT) } else { Ok((peer, data)) }
    }

    /// Whether `receiver` belongs to an endpoint whose peer is this one.
    fn is_peer_of(&self, receiver: &State) -> bool {
        receiver.peer.as_ref().is_some_and(|peer| core::ptr::eq(Arc::as_ptr(peer), self))
    }

    /// Whether `receiver` takes another message: as on Linux one that begins within the sender's buffer, whatever its
    /// length.
    fn packet_fits(&self, receiver: &State) -> bool {
        let few = receiver.inbox.len() <= MAX_DATAGRAMS || self.is_peer_of(receiver);
        few && self.has_room(receiver)
    }

    fn try_packet(&self, peer: &Self, packet: Message) -> Delivery {
        let failure = {
            let mut state = peer.state.lock();
            if state.closed {
                if self.kind == SocketType::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE }
            } else if state.receive_shut {
                Errno::EPIPE
            } else if state.peer.is_some() && !self.is_peer_of(&state) {
                Errno::EPERM
            } else if self.packet_fits(&state) {
                Self::deliver(&mut state, packet);
                return Delivery::Done;
            } else {
                return Delivery::Full(packet);
            }
        };
        drop(packet);
        if failure == Errno::ECONNREFUSED {
            self.forget_peer(peer);
        }
        Delivery::Failed(failure)
    }

    /// A datagram socket's connection ends when its peer is found closed.
    fn forget_peer(&self, peer: &Self) {
        if self.peer().is_some_and(|current| core::ptr::eq(Arc::as_ptr(&current), peer)) {
            self.set_peer(None);
        }
    }

    /// Whether poll(2) reports room to send.
    pub(super) fn can_send(&self) -> bool {
        let Some(peer) = self.peer() else { return true };
        let state = peer.state.lock();
        if self.kind == SocketType::Datagram && (state.closed || !self.packet_fits(&state)) {
            return state.closed;
        }
        // A quarter full, as Linux counts it.
        state.charge.saturating_mul(4) <= self.send_limit()
    }

    /// After bytes left the inbox, which counted `charge_before`: tells a sender that may wait for room.
    fn made_room(&self, charge_before: usize) {
        if self.kind == SocketType::Datagram {
            self.changed();
        }
        if let Some(peer) = self.peer()
            && (self.kind != SocketType::Stream || charge_before.saturating_mul(4) > peer.send_limit())
        {
            peer.events.wake_all();
        }
    }

    /// Receives from a stream.
    pub(super) fn receive_stream(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        let peek = message.flags & net::MSG_PEEK != 0;
        // A peek answers what is there, MSG_WAITALL or not.
        let wait_all = !peek && message.flags & net::MSG_WAITALL != 0;
        let target = if wait_all { message.data.remaining().max(1) } else { 1 };
        let mut progress = StreamProgress { done: 0, peeked: 0, credentials: None, ended: false };
        loop {
            while !progress.ended && (message.data.remaining() > 0 || progress.credentials.is_none()) {
                match self.receive_part(message, peek, &mut progress) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) if progress.done > 0 => return Ok(progress.done),
                    Err(error) => return Err(error),
                }
            }
            let satisfied = progress.done >= target || message.data.remaining() == 0;
            if progress.ended || progress.credentials.is_some() && satisfied {
                break;
            }
            {
                let mut state = self.state.lock();
                if progress.done == 0
                    && let Some(error) = state.error.take()
                {
                    return Err(error);
                }
                if state.receive_shut {
                    break;
                }
                if state.peer.is_none() {
                    return Err(Errno::EINVAL);
                }
            }
            let waited = message.patience.wait(&[&self.events], || {
                let state = self.state.lock();
                (state.inbox.len() > progress.peeked || state.receive_shut).then_some(())
            });
            if let Err(error) = waited {
                return if progress.done > 0 { Ok(progress.done) } else { Err(error) };
            }
        }
        message.control.credentials = progress.credentials;
        Ok(progress.done)
    }

    /// Moves bytes of one message to the program; `false` where there is none.
    fn receive_part(&self, message: &mut Incoming<'_, '_>, peek: bool, progress: &mut StreamProgress) -> Result<bool> {
        let (data, start, end, files, charge_before) = {
            let mut state = self.state.lock();
            let charge_before = state.charge;
            let pass_credentials = state.pass_credentials;
            let Some(first) = state.inbox.get_mut(progress.peeked) else { return Ok(false) };
            if pass_credentials && progress.credentials.is_some_and(|known| known != first.credentials) {
                progress.ended = true;
                return Ok(true);
            }
            progress.credentials = Some(first.credentials);
            let step = first.len().min(message.data.remaining());
            let (data, start) = (first.data.clone(), first.start);
            let (seen, taken) = match peek {
                true => (first.files.peek(), InFlight::default()),
                false => (Vec::new(), core::mem::take(&mut first.files)),
            };
            if peek {
                progress.peeked += 1;
            } else {
                first.start += step;
                let emptied = first.len() == 0;
                let freed = step + if emptied { MESSAGE_OVERHEAD } else { 0 };
                if emptied {
                    state.inbox.pop_front();
                }
                state.charge = state.charge.saturating_sub(freed);
            }
            (data, start, start + step, (seen, taken), charge_before)
        };
        let files = if peek { files.0 } else { files.1.into_files() };
        // Files end what one call receives (unix(7)).
        progress.ended |= !files.is_empty();
        message.control.files.extend(files);
        let bytes = data.get(start..end).unwrap_or_default();
        if bytes.is_empty() {
            // A call without room has seen that there is something.
            progress.ended = true;
            return Ok(true);
        }
        if !peek {
            self.made_room(charge_before);
        }
        let copied = match message.data.put(bytes) {
            Ok(copied) => copied,
            Err(error) => {
                self.give_back(peek, &data, start, end, progress.credentials);
                return Err(error);
            }
        };
        progress.done += copied;
        if copied < bytes.len() {
            self.give_back(peek, &data, start + copied, end, progress.credentials);
            progress.ended = true;
        }
        Ok(true)
    }

    /// Puts bytes back that could not be copied to the program.
    fn give_back(&self, peek: bool, data: &Arc<Vec<u8>>, start: usize, end: usize, from: Option<Credentials>) {
        let Some(credentials) = from.filter(|_| !peek) else { return };
        let bytes = data.get(start..end).unwrap_or_default().to_vec();
        let message =
            Message { data: Arc::new(bytes), start: 0, source: None, files: InFlight::default(), credentials };
        let mut state = self.state.lock();
        state.charge += message.charge();
        state.inbox.push_front(message);
    }

    /// Receives one message of a datagram or sequenced-packet socket.
    pub(super) fn receive_packet(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        let peek = message.flags & net::MSG_PEEK != 0;
        let (data, files, source, credentials, charge_before) = loop {
            if let Some(taken) = self.take_packet(peek)? {
                break taken;
            }
            {
                let mut state = self.state.lock();
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if state.receive_shut {
                    return Ok(0);
                }
                if self.kind == SocketType::SequencedPacket && state.peer.is_none() {
                    return Err(Errno::ENOTCONN);
                }
            }
            message.patience.wait(&[&self.events], || {
                let state = self.state.lock();
                (!state.inbox.is_empty() || state.receive_shut || state.error.is_some()).then_some(())
            })?;
        };
        if !peek {
            self.made_room(charge_before);
        }
        message.control.files = files;
        message.control.credentials = Some(credentials);
        message.address = source.unwrap_or_default();
        let room = message.data.remaining();
        let copied = if room > 0 && !data.is_empty() { message.data.put(&data)? } else { 0 };
        if data.len() > room {
            message.result_flags |= net::MSG_TRUNC;
            if message.flags & net::MSG_TRUNC != 0 {
                return Ok(data.len());
            }
        }
        Ok(copied)
    }

    /// The first message, removed unless `peek`.
    fn take_packet(&self, peek: bool) -> Result<Option<Packet>> {
        let mut state = self.state.lock();
        let charge_before = state.charge;
        if peek {
            let first = state.inbox.front();
            return Ok(first.map(|first| {
                let source = first.source.as_ref().map(|name| name.address().to_vec());
                (first.data.clone(), first.files.peek(), source, first.credentials, charge_before)
            }));
        }
        let Some(first) = state.inbox.pop_front() else { return Ok(None) };
        state.charge = state.charge.saturating_sub(first.charge());
        drop(state);
        let source = first.source.as_ref().map(|name| name.address().to_vec());
        Ok(Some((first.data, first.files.into_files(), source, first.credentials, charge_before)))
    }
}

/// Bytes, files, sender's address, sender's credentials, and the inbox's charge before.
type Packet = (Arc<Vec<u8>>, Vec<Arc<OpenFile>>, Option<Vec<u8>>, Credentials, usize);

/// How far a receive call on a stream has come.
struct StreamProgress {
    done: usize,
    /// Messages looked at by a peek.
    peeked: usize,
    /// Those of the first message: where they are asked for, bytes of another sender wait for another call.
    credentials: Option<Credentials>,
    ended: bool,
}

/// Joins a chunk without files to the last message of a stream where that has the room and the same sender.
fn append_to_last(state: &mut State, chunk: &Message) -> bool {
    let Some(last) = state.inbox.back_mut() else { return false };
    let joins = chunk.files.is_empty() && last.files.is_empty() && last.credentials == chunk.credentials;
    if !joins {
        return false;
    }
    let Some(bytes) = Arc::get_mut(&mut last.data) else { return false };
    if bytes.capacity() - bytes.len() < chunk.len() {
        return false;
    }
    bytes.extend_from_slice(chunk.bytes());
    state.charge += chunk.len();
    true
}
