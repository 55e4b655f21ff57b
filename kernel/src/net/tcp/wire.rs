//! The transport over a wire: a connection of the packet stack, seen from its socket.
//!
//! A [`Wire`] answers what a [`Link`](super::link::Link) answers. What the program sends waits in a queue of chunks, as
//! long as SO_SNDBUF says, and goes from there into smoltcp's buffer, which holds what is on its way; what came waits in
//! smoltcp's buffer, whose free part is the window, until a receiver claims it. So the program's memory is copied without
//! a lock held, and the buffers that every connection has need not be as long as the longest queue.
//!
//! What time means to a connection is decided here ([`WireState::limit`]): how long it knocks, how long it waits for
//! acknowledgements, when it asks an idle peer whether it is there.

use alloc::sync::{Arc, Weak};

use abi::{Errno, Result, net};
use klib::net::{
    Duration, Instant,
    stack::NotSent,
    tcp::{Connection, State},
};

use super::{
    Attempt, Endpoint,
    flow::{Chunk, Flow, View},
    link::{Bytes, Phase, Received, Sent},
    options::Timing,
};
use crate::{
    fs::PollEvents,
    net::{
        memory::{self, Charge},
        ports::Binding,
        shared::Shared,
        wire::{Ethernet, Key},
    },
    sync::{IrqLock, PlainLock},
};

/// Buffers of a connection in bytes, by how much of the sockets' memory is taken: the least part of it that is still
/// free, in eighths, and the bytes.
const BUFFERS: [(usize, usize); 3] = [(6, 256 * 1024), (4, 64 * 1024), (0, 16 * 1024)];
/// The least that a program can make a buffer.
const LEAST_BUFFER: usize = 2048;
/// What the send queue grows to with a connection unless the program says otherwise.
const SEND_QUEUE: usize = 512 * 1024;
/// How long a connection that nothing is acknowledged on lives (tcp(7), `tcp_retries2`), and one without a socket
/// (`tcp_orphan_retries`).
const RETRIES: Duration = Duration::from_secs(924);
const ORPHAN_RETRIES: Duration = Duration::from_secs(100);
/// How long the answer to a first segment is repeated (`tcp_synack_retries`).
const SYN_RECEIVED: Duration = Duration::from_secs(63);

/// What a connection gets of the socket it belongs to.
pub struct Admission {
    /// What its socket and others share.
    pub shared: Arc<Shared>,
    /// How it keeps time.
    pub timing: Timing,
}

impl Admission {
    /// Bytes of its receive and send buffer; `None` where the sockets have all their memory.
    pub fn buffers(&self) -> Option<(usize, usize)> {
        let (used, limit) = (memory::used(), memory::limit());
        let free = limit.saturating_sub(used).saturating_mul(8) / limit.max(1);
        if used >= limit {
            return None;
        }
        let (_, most) = BUFFERS.into_iter().find(|(least, _)| free >= *least)?;
        let limited = |wanted: usize, default: usize| {
            // One that the program set counts as it is, and half of that is for bytes as on Linux.
            if wanted == default { most } else { (wanted / 2).clamp(LEAST_BUFFER, most) }
        };
        let receive = limited(self.shared.receive_buffer(), super::RECEIVE_BUFFER);
        Some((receive, most))
    }
}

/// What is behind a connection's lock.
pub struct WireState {
    /// smoltcp's part; gone when the connection is over.
    pub connection: Option<Connection>,
    /// When something last came, and when the connection last moved on.
    pub heard: Instant,
    /// See [`heard`](Self::heard).
    pub moved: Instant,
    /// Since the connection was last worked on: a segment has come, something was acknowledged, there is more or less in
    /// its buffers, a reset has come.
    pub waits: bool,
    /// See [`waits`](Self::waits).
    pub acknowledged: bool,
    /// See [`waits`](Self::waits).
    pub changed: bool,
    /// See [`waits`](Self::waits).
    pub reset: bool,
    /// As of when it was last worked on.
    pub state: State,
    began: Instant,
    timing: Timing,
    inbox: Flow,
    outbox: Flow,
    charge: Charge,
    /// Bytes that came, and bytes that were given to smoltcp.
    received: u64,
    sent: u64,
    receive_shut: bool,
    send_shut: bool,
    /// The peer's stream ended in order.
    finished: bool,
    /// Its socket is closed.
    orphan: bool,
    error: Option<Errno>,
    /// The address of a connection without a socket.
    binding: Option<Binding>,
}

/// A connection over a wire.
pub struct Wire {
    /// What its socket and others share.
    pub shared: Arc<Shared>,
    /// Its numbers.
    pub key: Key,
    /// Which one it is.
    pub id: u64,
    /// When the stack's timers know it next.
    pub timer: IrqLock<Option<Instant>>,
    /// The rest.
    pub state: PlainLock<WireState>,
    ethernet: &'static Ethernet,
    /// Taken when the connection is complete.
    origin: IrqLock<Option<Origin>>,
}

/// Who is told when a connection is complete, or will not be.
pub enum Origin {
    /// The socket that connects.
    Client(Attempt),
    /// The one that listened.
    Listener(Weak<Endpoint>),
}

impl WireState {
    /// Gives smoltcp what waits to be sent, as far as it has room, and the end behind it.
    pub fn feed(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while connection.room() > 0 {
            let start = self.outbox.position();
            match self.outbox.view(start, connection.room(), true, false) {
                View::Bytes(piece) => {
                    let taken = connection.socket().send_slice(piece.bytes()).unwrap_or(0);
                    if taken == 0 {
                        break;
                    }
                    self.sent += taken as u64;
                    self.outbox.advance(start + taken as u64);
                    self.outbox.give_back_memory(piece);
                }
                View::Mark | View::Nothing(_) => break,
            }
        }
        if self.send_shut && self.outbox.available(true) == 0 {
            connection.close();
        }
        connection.socket().set_nagle_enabled(!self.timing.no_delay);
    }

    /// Says how far smoltcp has come.
    pub fn note(&mut self, state: State) {
        self.state = state;
        if matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait) && !self.finished {
            self.finished = true;
            self.receive_shut = true;
        }
    }

    /// smoltcp is done with the connection, which was in `before`: by a reset that `came`, or in order. Answers the error
    /// for who connects.
    pub fn closed(&mut self, before: State, came: bool) -> Option<Errno> {
        let error = match before {
            State::SynSent if came => Some(Errno::ECONNREFUSED),
            _ if !came => None,
            State::CloseWait => Some(Errno::EPIPE),
            State::TimeWait | State::SynReceived => None,
            _ => Some(Errno::ECONNRESET),
        };
        self.end(error);
        error
    }

    /// The connection is over. What came stays for the receiver.
    pub fn end(&mut self, error: Option<Errno>) {
        if !self.orphan {
            while self.pull() {}
        }
        self.connection = None;
        self.charge = Charge::default();
        self.outbox.clear();
        self.state = State::Closed;
        self.error = self.error.or(error);
        (self.receive_shut, self.send_shut) = (true, true);
    }

    /// Ends it by a reset.
    pub fn abort(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.socket().abort();
        }
        self.outbox.clear();
        (self.receive_shut, self.send_shut) = (true, true);
    }

    /// Whether its socket is closed.
    pub fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// Until when the connection lives if nothing happens; `None`: for good.
    pub fn limit(&mut self, shared: &Shared, state: State, unacknowledged: bool, now: Instant) -> Option<Instant> {
        let timing = &self.timing;
        match state {
            State::SynSent => Some(self.began + timing.connect),
            State::SynReceived => Some(self.began + SYN_RECEIVED),
            State::FinWait2 | State::TimeWait if self.orphan => Some(self.moved + timing.fin),
            State::FinWait1 | State::LastAck | State::Closing => Some(
                self.moved.max(self.heard) + if self.orphan { ORPHAN_RETRIES } else { timing.user.unwrap_or(RETRIES) },
            ),
            _ if unacknowledged => Some(self.moved.max(self.heard) + timing.user.unwrap_or(RETRIES)),
            State::Established | State::CloseWait | State::FinWait2 => {
                let keeps = shared.common.is_on(net::SO_KEEPALIVE);
                let quiet = now - self.heard;
                let interval = if quiet >= timing.keep_idle { timing.keep_interval } else { timing.keep_idle };
                if let Some(connection) = &mut self.connection {
                    let wanted = keeps.then_some(interval);
                    if connection.socket().keep_alive() != wanted {
                        connection.socket().set_keep_alive(wanted);
                    }
                }
                keeps.then(|| self.heard + timing.keep_idle + timing.keep_interval * timing.keep_count)
            }
            _ => None,
        }
    }

    /// Bytes that wait for the receiver.
    fn available(&self) -> usize {
        self.inbox.available(true) + self.connection.as_ref().map_or(0, |connection| connection.queued().0)
    }

    /// Claims bytes from smoltcp's buffer: whether there were any, and memory for them.
    fn pull(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let waiting = connection.queued().0;
        if waiting == 0 {
            return false;
        }
        let len = waiting.min(super::flow::MAX_CHUNK);
        let chunk = self.inbox.spare(len).map_or_else(|| Chunk::new(len), Ok);
        let Ok(mut chunk) = chunk else { return false };
        let filled = chunk.fill(len, |room| Ok(connection.socket().recv_slice(room).unwrap_or(0))).unwrap_or(0);
        if filled == 0 {
            return false;
        }
        self.received += filled as u64;
        self.inbox.push(chunk, false, true);
        true
    }

    /// Bytes that wait to be sent or acknowledged, as they count for SO_SNDBUF.
    fn pending(&self) -> usize {
        self.outbox.charge() + self.connection.as_ref().map_or(0, |connection| connection.queued().1)
    }

    fn has_room(&self, shared: &Shared) -> bool {
        let pending = self.pending();
        pending < shared.send_buffer() && (self.outbox.charge() == 0 || !memory::is_high())
    }

    fn is_writable(&self, shared: &Shared) -> bool {
        self.pending().saturating_mul(3) <= shared.send_buffer().saturating_mul(2)
            && (self.outbox.charge() == 0 || !memory::is_high())
    }

    fn check_sending(&mut self) -> Result<()> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.send_shut => Err(Errno::EPIPE),
            None => Ok(()),
        }
    }
}

impl Wire {
    /// A connection that smoltcp has begun.
    pub fn new(
        ethernet: &'static Ethernet,
        id: u64,
        key: Key,
        mut connection: Connection,
        admission: Admission,
        origin: Origin,
        now: Instant,
    ) -> Arc<Self> {
        let Admission { shared, timing } = admission;
        let mut charge = Charge::default();
        let socket = connection.socket();
        charge.add(socket.recv_capacity() + socket.send_capacity());
        let hops = shared.ip.lock().hop_limit(key.2);
        socket.set_hop_limit(Some(u8::try_from(hops).unwrap_or(u8::MAX).max(1)));
        let state = WireState {
            state: connection.state(),
            connection: Some(connection),
            heard: now,
            moved: now,
            waits: false,
            acknowledged: false,
            changed: false,
            reset: false,
            began: now,
            timing,
            inbox: Flow::default(),
            outbox: Flow::default(),
            charge,
            received: 0,
            sent: 0,
            receive_shut: false,
            send_shut: false,
            finished: false,
            orphan: false,
            error: None,
            binding: None,
        };
        shared.grow_send_buffer(SEND_QUEUE);
        Arc::new(Self {
            shared,
            key,
            id,
            timer: IrqLock::new(None),
            state: PlainLock::new(state),
            ethernet,
            origin: IrqLock::new(Some(origin)),
        })
    }

    /// Both sides know of it: its socket gets it, or the queue of who listened. `false` where nobody wants it any more.
    pub fn established(self: &Arc<Self>) -> bool {
        let origin = self.origin.lock().take();
        match origin {
            None => false,
            Some(Origin::Listener(listener)) => listener.upgrade().is_some_and(|listener| listener.enqueue(self)),
            Some(Origin::Client(attempt)) => attempt.connected(self),
        }
    }

    /// Whether nobody has it yet.
    pub fn is_new(&self) -> bool {
        self.origin.lock().is_some()
    }

    /// Whether this listener is told of it when it is complete.
    pub fn is_for(&self, listener: &Arc<Endpoint>) -> bool {
        let origin = self.origin.lock();
        matches!(&*origin, Some(Origin::Listener(own)) if core::ptr::eq(own.as_ptr(), Arc::as_ptr(listener)))
    }

    /// Whether a socket of ours waits for it.
    pub fn is_connecting(&self) -> bool {
        matches!(&*self.origin.lock(), Some(Origin::Client(_)))
    }

    /// It will not come to be: tells who connects why, and who listened that there is one less to wait for.
    pub fn fail(&self, error: Errno) {
        let origin = self.origin.lock().take();
        match origin {
            None => {}
            Some(Origin::Client(attempt)) => attempt.fail(error),
            Some(Origin::Listener(listener)) => {
                if let Some(listener) = listener.upgrade() {
                    listener.left();
                }
            }
        }
    }

    /// Ends it without a word.
    pub fn give_up(&self, error: Option<Errno>) {
        self.state.lock().end(error);
    }

    /// It is over: its address is free, or `waits`.
    pub fn release(&self, waits: bool) {
        let binding = self.state.lock().binding.take();
        if let Some(binding) = binding
            && waits
        {
            binding.into_time_wait();
        }
    }

    /// What a program is told of a packet that could not be sent.
    pub fn not_sent(&self, error: NotSent) -> Errno {
        match error {
            NotSent::NoRoute => Errno::ENETUNREACH,
            NotSent::Unreachable => Errno::EHOSTUNREACH,
            NotSent::TooLong => Errno::EMSGSIZE,
            NotSent::NoRoom => Errno::ENOBUFS,
        }
    }

    /// The number of the interface it goes by.
    pub fn interface_index(&self) -> u32 {
        self.ethernet.interface.index
    }

    fn drive(self: &Arc<Self>) {
        self.ethernet.drive(self);
    }

    /// The options of its socket are others now.
    pub(super) fn set_timing(self: &Arc<Self>, timing: Timing) {
        self.state.lock().timing = timing;
        self.drive();
    }

    /// How far it has come.
    pub(super) fn phase(&self) -> Phase {
        match self.state.lock().state {
            State::FinWait1 | State::FinWait2 => Phase::FinWait,
            State::CloseWait => Phase::CloseWait,
            State::Closed | State::Listen | State::LastAck | State::Closing | State::TimeWait => Phase::Closed,
            State::SynSent | State::SynReceived | State::Established => Phase::Established,
        }
    }

    /// The number of its state in /proc/net/tcp.
    pub(super) fn number(&self) -> u8 {
        match self.state.lock().state {
            State::Established => 1,
            State::SynSent => 2,
            State::SynReceived => 3,
            State::FinWait1 => 4,
            State::FinWait2 => 5,
            State::TimeWait => 6,
            State::Closed | State::Listen => 7,
            State::CloseWait => 8,
            State::LastAck => 9,
            State::Closing => 11,
        }
    }

    /// The longest packet it sends.
    pub(super) fn mtu(&self) -> usize {
        let state = self.state.lock();
        state.connection.as_ref().map_or(self.ethernet.interface.mtu() as usize, |connection| connection.mtu)
    }

    /// Takes the pending error.
    pub(super) fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// Memory for the next bytes, where sending is possible at all.
    pub(super) fn prepare(&self, len: usize) -> Result<Option<Chunk>> {
        let mut state = self.state.lock();
        state.check_sending()?;
        Ok(state.outbox.spare(len))
    }

    /// Whether a sender that found no room should try again.
    pub(super) fn may_send(&self) -> bool {
        let state = self.state.lock();
        state.error.is_some() || state.send_shut || state.is_writable(&self.shared)
    }

    /// Whether there is room now.
    pub(super) fn can_send(&self) -> bool {
        let state = self.state.lock();
        state.send_shut || state.has_room(&self.shared)
    }

    /// Takes bytes to be sent.
    pub(super) fn send<'a>(self: &Arc<Self>, bytes: Bytes<'a>) -> Result<Sent<'a>> {
        let goes = {
            let mut state = self.state.lock();
            state.check_sending()?;
            let room = state.has_room(&self.shared);
            match bytes {
                Bytes::Few(few) if room && state.outbox.available(true) == 0 => {
                    let fits = state.connection.as_ref().is_some_and(|connection| connection.room() >= few.len());
                    let sent = match &mut state.connection {
                        Some(connection) if fits => connection.socket().send_slice(few).is_ok(),
                        _ => false,
                    };
                    if !sent {
                        return Ok(Sent::Full(Bytes::Few(few)));
                    }
                    state.sent += few.len() as u64;
                }
                Bytes::Few(few) if room && state.outbox.append(few, false, true) => {}
                Bytes::Chunk(chunk) if room => state.outbox.push(chunk, false, true),
                bytes => return Ok(Sent::Full(bytes)),
            }
            state.connection.as_ref().is_some_and(|connection| connection.room() > 0)
                || state.outbox.available(true) == 0
        };
        if goes {
            self.drive();
        }
        Ok(Sent::Done)
    }

    /// shutdown(2). ENOTCONN where the connection is over.
    pub(super) fn shutdown(self: &Arc<Self>, read: bool, write: bool) -> Result<()> {
        let over = {
            let mut state = self.state.lock();
            state.receive_shut |= read;
            state.send_shut |= write;
            state.connection.is_none()
        };
        self.drive();
        self.shared.events.wake_all();
        if over { Err(Errno::ENOTCONN) } else { Ok(()) }
    }

    /// The socket is closed, or with `abort` reset; what nobody read resets as well. The connection keeps the socket's
    /// place in the table of ports until it is over.
    pub(super) fn close(self: &Arc<Self>, abort: bool, binding: Option<Binding>) {
        {
            let mut state = self.state.lock();
            let unread = state.available() > 0;
            state.orphan = true;
            state.receive_shut = true;
            state.inbox.clear();
            if state.connection.is_none() {
                drop(state);
                return;
            }
            state.binding = binding;
            if abort || unread {
                state.abort();
            } else {
                state.send_shut = true;
            }
        }
        self.drive();
        self.shared.events.wake_all();
    }

    /// Whether all that was sent has arrived, or never will.
    pub(super) fn is_drained(&self) -> bool {
        let state = self.state.lock();
        state.connection.is_none() || state.pending() == 0 && !matches!(state.state, State::FinWait1 | State::LastAck)
    }

    /// What can be received at `position` (`None`: at the first byte), which moves there.
    pub(super) fn receive(self: &Arc<Self>, position: Option<u64>, limit: usize, has_some: bool) -> Received {
        let mut state = self.state.lock();
        let before = state.connection.as_ref().map_or(0, |connection| connection.queued().0);
        let start = position.unwrap_or(state.inbox.position());
        let mut view = state.inbox.view(start, limit, true, has_some);
        if matches!(view, View::Nothing(_)) && state.pull() {
            view = state.inbox.view(start, limit, true, has_some);
        }
        let next = match &view {
            View::Bytes(piece) => piece.next,
            View::Nothing(next) => *next,
            View::Mark => return Received::View(view),
        };
        if position.is_none() {
            state.inbox.advance(next);
        }
        if matches!(view, View::Nothing(_)) {
            if !has_some && state.finished {
                return Received::End;
            }
            if !has_some && let Some(error) = state.error.take() {
                return Received::Failed(error);
            }
            if state.receive_shut || state.error.is_some() {
                return Received::End;
            }
        }
        // The sender may wait for the window to open.
        let opened = state.connection.as_ref().is_some_and(|connection| {
            let after = connection.queued().0;
            after < before && connection.is_window_due()
        });
        drop(state);
        if opened {
            self.drive();
        }
        Received::View(view)
    }

    /// Does something with the inbox.
    pub(super) fn with_inbox<T>(&self, act: impl FnOnce(&mut Flow) -> T) -> T {
        act(&mut self.state.lock().inbox)
    }

    /// Whether `target` bytes from `position` on, or the end, or an error wait.
    pub(super) fn is_receivable(&self, position: Option<u64>, target: usize) -> bool {
        let state = self.state.lock();
        let before = position.map_or(0, |position| position.saturating_sub(state.inbox.position()) as usize);
        state.available().saturating_sub(before) >= target.max(1) || state.receive_shut || state.error.is_some()
    }

    /// MSG_OOB: none is told apart. `None` where the stream has ended.
    pub(super) fn take_urgent(&self) -> Result<Option<u8>> {
        let state = self.state.lock();
        if state.receive_shut { Ok(None) } else { Err(Errno::EINVAL) }
    }

    /// poll(2), as Linux's tcp_poll answers.
    pub(super) fn poll(&self) -> PollEvents {
        let low_water = self.shared.common.low_water();
        let state = self.state.lock();
        let over = state.connection.is_none();
        PollEvents::HUP.when(state.receive_shut && state.send_shut || over)
            | (PollEvents::IN | PollEvents::RDHUP).when(state.receive_shut)
            | PollEvents::IN.when(state.available() >= low_water.min(self.shared.receive_buffer()).max(1))
            | PollEvents::OUT.when(state.send_shut || state.is_writable(&self.shared))
            | PollEvents::ERR.when(state.error.is_some())
    }

    /// Bytes that came, and that were sent, so far.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        let waiting = state.connection.as_ref().map_or(0, |connection| connection.queued().0);
        (state.received + waiting as u64, state.sent)
    }

    /// Bytes that wait to be received, and those not acknowledged yet.
    pub(super) fn queued(&self) -> (usize, usize) {
        let state = self.state.lock();
        let unacknowledged = state.connection.as_ref().map_or(0, |connection| connection.queued().1);
        (state.available(), state.outbox.available(true) + unacknowledged)
    }
}
