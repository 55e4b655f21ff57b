//! The local transport: a connection with both ends in this machine.
//!
//! A [`Link`] holds both ends under one lock, so that the two never disagree: what one end does to the other — bytes,
//! the end of its stream (FIN), a reset (RST) — has happened when its call returns, as it has on Linux's loopback. There
//! are no packets, sequence numbers or timers; what they would be seen by (the states of tcp(7), which errors come when,
//! the loopback's counts but for acknowledgements alone) is kept. A socket connected to itself has a link with one end.
//!
//! Lock order: a socket's state, then a link, then the table of ports or a wait queue.

use alloc::sync::Arc;

use abi::{Errno, Result, net};

use super::flow::{Chunk, Flow, View};
use crate::{
    fs::PollEvents,
    net::{address::IpAddress, interface::LOOPBACK, memory, ports::TimeWait, shared::Shared},
    sync::IrqLock,
};

/// Bytes of a segment's header with a timestamp, as Linux has it, and of the options that the first segments have beside.
const TCP_HEADER: usize = 32;
const FIRST_OPTIONS: usize = 8;

/// How far a connection's end has come, as tcp(7) names it. What only lasts while packets travel is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Established,
    /// We ended our stream: FIN_WAIT2.
    FinWait,
    /// The peer ended its stream.
    CloseWait,
    /// Both ended, or reset.
    Closed,
}

/// One end.
pub(super) struct End {
    pub(super) inbox: Flow,
    pub(super) phase: Phase,
    /// Nothing more will be received.
    receive_shut: bool,
    /// Nothing more can be sent.
    send_shut: bool,
    /// The peer's stream ended in order.
    finished: bool,
    /// Its socket is closed.
    orphan: bool,
    /// It ended its stream first, so its address goes into TIME_WAIT.
    ended_first: bool,
    /// Reported once.
    error: Option<Errno>,
    /// The orphan's address.
    time_wait: Option<TimeWait>,
}

impl End {
    fn new() -> Self {
        Self {
            inbox: Flow::default(),
            phase: Phase::Established,
            receive_shut: false,
            send_shut: false,
            finished: false,
            orphan: false,
            ended_first: false,
            error: None,
            time_wait: None,
        }
    }

    /// The connection is over for this end.
    fn finish(&mut self) {
        self.phase = Phase::Closed;
        (self.receive_shut, self.send_shut) = (true, true);
    }

    /// The peer sent a reset.
    fn reset(&mut self) {
        let error = match self.phase {
            Phase::Closed => return,
            Phase::CloseWait => Errno::EPIPE,
            Phase::Established | Phase::FinWait => Errno::ECONNRESET,
        };
        self.error = Some(error);
        self.ended_first = false;
        self.finish();
    }

    /// The pending error, or that sending has ended.
    fn check_sending(&mut self) -> Result<()> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.send_shut => Err(Errno::EPIPE),
            None => Ok(()),
        }
    }
}

/// Bytes to be sent.
pub(super) enum Bytes<'a> {
    Few(&'a [u8]),
    Chunk(Chunk),
}

/// What came of sending.
pub(super) enum Sent<'a> {
    Done,
    /// No room yet; the bytes come back.
    Full(Bytes<'a>),
}

/// What is left of an end whose socket is closed.
#[derive(PartialEq, Eq)]
pub(super) enum Remains {
    Nothing,
    /// Its address is to be kept in TIME_WAIT.
    Address,
}

/// A connection within the machine.
pub(super) struct Link {
    ends: IrqLock<[End; 2]>,
    shared: [Arc<Shared>; 2],
    looped: bool,
    /// Bytes of the headers that its segments would have.
    headers: usize,
}

/// Which end of a link a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Side(usize);

impl Side {
    /// The end that connected.
    pub(super) const CLIENT: Self = Self(0);
    /// The end that was accepted.
    pub(super) const SERVER: Self = Self(1);
}

impl Link {
    /// A connection between two sockets, the server's at `place`.
    pub(super) fn new(client: Arc<Shared>, server: Arc<Shared>, place: IpAddress) -> Arc<Self> {
        Self::between([client, server], false, place)
    }

    /// A connection of a socket with itself.
    pub(super) fn looped(socket: &Arc<Shared>, place: IpAddress) -> Arc<Self> {
        Self::between([socket.clone(), socket.clone()], true, place)
    }

    fn between(shared: [Arc<Shared>; 2], looped: bool, place: IpAddress) -> Arc<Self> {
        let ends = IrqLock::new([End::new(), End::new()]);
        let headers = place.header_len() + TCP_HEADER;
        // Two first segments, with the options that only they have, and an acknowledgement.
        LOOPBACK.count(3, 3 * headers + 2 * FIRST_OPTIONS);
        Arc::new(Self { ends, shared, looped, headers })
    }

    /// Counts the segment that so many bytes would go in.
    fn count(&self, bytes: usize) {
        LOOPBACK.count(1, bytes + self.headers);
    }

    fn other(&self, side: Side) -> Side {
        if self.looped { side } else { Side(1 - side.0) }
    }

    fn wake(&self, side: Side) {
        self.shared[side.0].events.wake_all();
    }

    fn is_inline(&self, side: Side) -> bool {
        self.shared[side.0].common.is_on(net::SO_OOBINLINE)
    }

    /// The most that may wait for `side`: half of what both ends gave it, as Linux counts its overhead.
    fn limit(&self, side: Side) -> usize {
        let sender = &self.shared[self.other(side).0];
        let receiver = &self.shared[side.0];
        sender.send_buffer() / 2 + receiver.receive_buffer() / 2
    }

    fn has_room(&self, side: Side, end: &End) -> bool {
        let charge = end.inbox.charge();
        charge < self.limit(side) && (charge == 0 || !memory::is_high())
    }

    /// Whether so much is free that a sender should be told (poll(2)): a third.
    fn is_writable(&self, side: Side, end: &End) -> bool {
        let charge = end.inbox.charge();
        charge.saturating_mul(3) <= self.limit(side).saturating_mul(2) && (charge == 0 || !memory::is_high())
    }

    /// How far `side` has come.
    pub(super) fn phase(&self, side: Side) -> Phase {
        self.ends.lock()[side.0].phase
    }

    /// Takes the pending error.
    pub(super) fn take_error(&self, side: Side) -> Option<Errno> {
        self.ends.lock()[side.0].error.take()
    }

    /// An emptied chunk of the other end, where sending is possible at all.
    pub(super) fn prepare(&self, side: Side, len: usize) -> Result<Option<Chunk>> {
        let mut ends = self.ends.lock();
        ends[side.0].check_sending()?;
        Ok(ends[self.other(side).0].inbox.spare(len))
    }

    /// Whether a sender that found no room should try again.
    pub(super) fn may_send(&self, side: Side) -> bool {
        let ends = self.ends.lock();
        let own = &ends[side.0];
        let peer = self.other(side);
        own.error.is_some() || own.send_shut || self.is_writable(peer, &ends[peer.0])
    }

    /// Whether there is room now.
    pub(super) fn can_send(&self, side: Side) -> bool {
        let ends = self.ends.lock();
        let peer = self.other(side);
        let peer_end = &ends[peer.0];
        ends[side.0].send_shut || peer_end.orphan || self.has_room(peer, peer_end)
    }

    /// Sends to the other end. EPIPE or the pending error where that is not possible.
    pub(super) fn send<'a>(&self, side: Side, bytes: Bytes<'a>, urgent: bool) -> Result<Sent<'a>> {
        let peer = self.other(side);
        let inline = self.is_inline(peer);
        {
            let mut ends = self.ends.lock();
            ends[side.0].check_sending()?;
            let receiver = &mut ends[peer.0];
            if receiver.orphan {
                // Nobody will read it: the answer is a reset.
                let time_wait = receiver.time_wait.take();
                receiver.finish();
                ends[side.0].reset();
                drop(ends);
                if let Some(time_wait) = time_wait {
                    time_wait.end();
                }
                self.wake(side);
                return Ok(Sent::Done);
            }
            let room = self.has_room(peer, receiver);
            match bytes {
                Bytes::Few(few) if room && receiver.inbox.append(few, urgent, inline) => self.count(few.len()),
                Bytes::Chunk(chunk) if room => {
                    self.count(chunk.len());
                    receiver.inbox.push(chunk, urgent, inline);
                }
                bytes => return Ok(Sent::Full(bytes)),
            }
        }
        self.wake(peer);
        Ok(Sent::Done)
    }

    /// Ends the stream to the other end.
    fn end_stream(&self, ends: &mut [End; 2], side: Side) {
        let own = &mut ends[side.0];
        if own.send_shut {
            return;
        }
        own.send_shut = true;
        self.count(0);
        match own.phase {
            Phase::Established => {
                own.phase = Phase::FinWait;
                own.ended_first = true;
            }
            Phase::CloseWait => own.finish(),
            Phase::FinWait | Phase::Closed => {}
        }
        let peer = &mut ends[self.other(side).0];
        peer.finished = true;
        peer.receive_shut = true;
        match peer.phase {
            Phase::Established => peer.phase = Phase::CloseWait,
            Phase::FinWait => peer.finish(),
            Phase::CloseWait | Phase::Closed => {}
        }
    }

    /// shutdown(2). ENOTCONN where the connection is over.
    pub(super) fn shutdown(&self, side: Side, read: bool, write: bool) -> Result<()> {
        let result = {
            let mut ends = self.ends.lock();
            let over = ends[side.0].phase == Phase::Closed;
            ends[side.0].receive_shut |= read;
            if write {
                self.end_stream(&mut ends, side);
            }
            if over { Err(Errno::ENOTCONN) } else { Ok(()) }
        };
        self.wake(self.other(side));
        self.wake(side);
        result
    }

    /// The socket of `side` is closed, or with `abort` reset; what nobody read resets as well.
    pub(super) fn close(&self, side: Side, abort: bool) -> Remains {
        let remains = {
            let mut ends = self.ends.lock();
            let unread = ends[side.0].inbox.available(true) > 0;
            let over = ends[side.0].phase == Phase::Closed;
            if !over && (abort || unread) {
                ends[side.0].ended_first = false;
                ends[side.0].finish();
                self.count(0);
                let peer = &mut ends[self.other(side).0];
                peer.reset();
                // The table of ports comes behind a link.
                if let Some(time_wait) = peer.time_wait.take() {
                    time_wait.end();
                }
            } else if !over {
                self.end_stream(&mut ends, side);
            }
            let own = &mut ends[side.0];
            own.orphan = true;
            own.receive_shut = true;
            own.inbox.clear();
            if own.ended_first { Remains::Address } else { Remains::Nothing }
        };
        self.wake(self.other(side));
        self.wake(side);
        remains
    }

    /// Keeps the address of a closed end, so that a reset can end its TIME_WAIT.
    pub(super) fn keep_address(&self, side: Side, time_wait: TimeWait) {
        let mut ends = self.ends.lock();
        if ends[side.0].phase == Phase::FinWait {
            ends[side.0].time_wait = Some(time_wait);
        }
    }

    /// What can be received at `position` (`None`: at the first byte), which moves there unless `peek`.
    pub(super) fn receive(&self, side: Side, position: Option<u64>, limit: usize, has_some: bool) -> Received {
        let inline = self.is_inline(side);
        let sender = self.other(side);
        let mut ends = self.ends.lock();
        let writable = self.is_writable(side, &ends[side.0]);
        let own = &mut ends[side.0];
        let view = own.inbox.view(position.unwrap_or(own.inbox.position()), limit, inline, has_some);
        let next = match &view {
            View::Bytes(piece) => piece.next,
            View::Nothing(next) => *next,
            View::Mark => return Received::View(view),
        };
        let nothing = matches!(view, View::Nothing(_));
        if position.is_none() {
            own.inbox.advance(next);
        }
        if nothing && !has_some {
            if own.finished {
                return Received::End;
            }
            if let Some(error) = own.error.take() {
                return Received::Failed(error);
            }
            if own.receive_shut {
                return Received::End;
            }
        } else if nothing && (own.receive_shut || own.error.is_some()) {
            return Received::End;
        }
        let made_room = position.is_none() && !writable && self.is_writable(side, &ends[side.0]);
        drop(ends);
        if made_room {
            self.wake(sender);
        }
        Received::View(view)
    }

    /// Does something with the inbox of `side`.
    pub(super) fn with_inbox<T>(&self, side: Side, act: impl FnOnce(&mut Flow) -> T) -> T {
        act(&mut self.ends.lock()[side.0].inbox)
    }

    /// Whether `target` bytes from `position` on, or the end, or an error wait for `side`.
    pub(super) fn is_receivable(&self, side: Side, position: Option<u64>, target: usize) -> bool {
        let inline = self.is_inline(side);
        let ends = self.ends.lock();
        let own = &ends[side.0];
        let before = position.map_or(0, |position| position.saturating_sub(own.inbox.position()) as usize);
        own.inbox.available(inline).saturating_sub(before) >= target.max(1) || own.receive_shut || own.error.is_some()
    }

    /// MSG_OOB: the urgent byte. `None` where the stream has ended.
    pub(super) fn take_urgent(&self, side: Side, peek: bool) -> Result<Option<u8>> {
        if self.is_inline(side) {
            return Err(Errno::EINVAL);
        }
        let mut ends = self.ends.lock();
        let own = &mut ends[side.0];
        match own.inbox.take_urgent(peek) {
            Err(_) if own.phase == Phase::Closed || own.receive_shut => Ok(None),
            byte => byte.map(Some),
        }
    }

    /// poll(2), as Linux's tcp_poll answers.
    pub(super) fn poll(&self, side: Side) -> PollEvents {
        let inline = self.is_inline(side);
        let low_water = self.shared[side.0].common.low_water();
        let ends = self.ends.lock();
        let own = &ends[side.0];
        let peer = self.other(side);
        let peer_end = &ends[peer.0];
        let writable = own.send_shut || peer_end.orphan || self.is_writable(peer, peer_end);
        // What does not fit is not waited for.
        let target = low_water.min(self.limit(side)).max(1);
        PollEvents::HUP.when(own.receive_shut && own.send_shut || own.phase == Phase::Closed)
            | (PollEvents::IN | PollEvents::RDHUP).when(own.receive_shut)
            | PollEvents::IN.when(own.inbox.available(inline) >= target)
            | PollEvents::OUT.when(writable)
            | PollEvents::PRI.when(own.inbox.has_urgent())
            | PollEvents::ERR.when(own.error.is_some())
    }

    /// Bytes that came to `side`, and that it sent, so far.
    pub(super) fn totals(&self, side: Side) -> (u64, u64) {
        let ends = self.ends.lock();
        (ends[side.0].inbox.written(), ends[self.other(side).0].inbox.written())
    }

    /// Bytes that wait for `side`, and sent ones that wait for the peer beyond its receive buffer.
    pub(super) fn queued(&self, side: Side) -> (usize, usize) {
        let inline = self.is_inline(side);
        let peer = self.other(side);
        let window = self.shared[peer.0].receive_buffer();
        let ends = self.ends.lock();
        let unsent = ends[peer.0].inbox.available(true).saturating_sub(window);
        (ends[side.0].inbox.until_mark(inline), unsent)
    }
}

/// What a receive found.
pub(super) enum Received {
    View(View),
    /// The stream has ended.
    End,
    Failed(Errno),
}
