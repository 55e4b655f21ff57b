//! The connections of an interface: which segment is whose, and when each has something to do.
//!
//! A connection is found by its four numbers. One that somebody begins is made when its first segment comes and a socket
//! listens there, so a listener has as many at once as its queue is long; the oldest that are not complete give way
//! where there are too many. Of a connection in TIME_WAIT whose socket is closed only its numbers are kept.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};

use abi::Errno;
use klib::net::{
    Duration, Instant,
    icmp::{self, Reason},
    packet::{Outgoing, Packet, TCP, word},
    stack::{Output, Stack},
    tcp::{Connection, State, is_first, is_reset, path_mtu},
};

use super::{Ethernet, Machine, random};
use crate::net::{
    address::IpAddress,
    memory,
    tcp::{Admission, Attempt, Crowd, Endpoint, Origin, PORTS, Wire, WireState},
};

/// The most connections that are not complete (`tcp_max_syn_backlog`).
const MAX_HALF_OPEN: usize = 1024;
/// The most in TIME_WAIT, and how long each stays.
const MAX_WAITING: usize = 4096;
const WAITING: Duration = Duration::from_secs(60);
/// How long after that it is forgotten at the latest.
const EXPIRY: Duration = Duration::from_secs(1);
/// How long a connection that found no way waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// Its own address and port, and the other's.
pub type Key = (IpAddress, u16, IpAddress, u16);

/// A connection to be made.
pub struct Begin {
    /// Whose it is.
    pub attempt: Attempt,
    /// Its numbers.
    pub key: Key,
    /// What its socket asks for.
    pub admission: Admission,
}

/// A connection in TIME_WAIT: the number of the next byte it would send and receive.
struct Waiting {
    next: u32,
    until: Instant,
}

/// What connections are counted by (/proc/net/snmp, /proc/net/netstat).
#[derive(Clone, Copy, Default)]
pub struct ConnectionCounts {
    /// Begun by a socket of ours, and by others.
    pub active: u64,
    /// See [`active`](Self::active).
    pub passive: u64,
    /// Begun and never complete.
    pub failed: u64,
    /// Ended by a reset.
    pub resets: u64,
    /// First segments dropped because a listener's queue was full.
    pub overflows: u64,
    /// Connections not complete that gave way to others.
    pub evicted: u64,
    /// Ended because nothing came for too long.
    pub timeouts: u64,
    /// First segments dropped for lack of memory.
    pub no_memory: u64,
}

impl ConnectionCounts {
    /// Adds those of another interface.
    pub fn add(&mut self, other: &Self) {
        self.active += other.active;
        self.passive += other.passive;
        self.failed += other.failed;
        self.resets += other.resets;
        self.overflows += other.overflows;
        self.evicted += other.evicted;
        self.timeouts += other.timeouts;
        self.no_memory += other.no_memory;
    }
}

/// The connections of one interface.
#[derive(Default)]
pub struct Connections {
    table: BTreeMap<Key, Arc<Wire>>,
    timers: BTreeMap<(Instant, u64), Arc<Wire>>,
    waiting: BTreeMap<Key, Waiting>,
    order: VecDeque<(Instant, Key)>,
    /// Those that found no room in the device.
    stalled: Vec<Arc<Wire>>,
    /// Those with something to do at once.
    again: Vec<Arc<Wire>>,
    /// Those that segments have come for in this batch.
    touched: Vec<Arc<Wire>>,
    errors: Vec<(Key, Reason, u32)>,
    half_open: BTreeMap<u64, Key>,
    next_id: u64,
    /// See [`ConnectionCounts`].
    pub counts: ConnectionCounts,
}

/// What came of working on a connection.
pub(in crate::net) struct Outcome {
    /// When to work on it next.
    pub next: Option<Instant>,
    /// There was no room for all it has to send.
    pub stalled: bool,
    /// It has more to send at once.
    pub again: bool,
    /// Both sides know of it now.
    pub established: bool,
    /// It is over; the error that its socket is told while it connects.
    pub over: Option<Option<Errno>>,
    /// Over, and its address is kept: the number of the next byte.
    pub waits: Option<u32>,
    /// Its socket should look again.
    pub wake: bool,
    /// It ended by a reset, or because nothing came.
    pub reset: bool,
    /// See [`reset`](Self::reset).
    pub timed_out: bool,
}

impl Connections {
    /// When the next of them has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let timers = self.timers.first_key_value().map(|((at, _), _)| *at);
        // Those that leave TIME_WAIT within the same second go together.
        let waiting = self.order.front().map(|(until, _)| *until + EXPIRY);
        if self.has_work() { Some(Instant::from_micros(0)) } else { [timers, waiting].into_iter().flatten().min() }
    }

    /// Whether there is something to do at once.
    pub fn has_work(&self) -> bool {
        !self.again.is_empty() || !self.errors.is_empty()
    }

    /// How many there are, and how many are in TIME_WAIT without a socket.
    pub fn len(&self) -> (usize, usize) {
        (self.table.len(), self.waiting.len())
    }

    /// Makes a connection for a socket of ours; `None` without memory. It sends when it is driven.
    pub fn begin(
        &mut self,
        ethernet: &'static Ethernet,
        begin: Begin,
        stack: &Stack,
        now: Instant,
    ) -> Option<Arc<Wire>> {
        let Begin { attempt, key, admission } = begin;
        let buffers = admission.buffers()?;
        let (local, remote) = ((key.0.into(), key.1), (key.2.into(), key.3));
        let connection = Connection::connect(local, remote, buffers, stack.mtu(), random(), now)?;
        self.counts.active += 1;
        // An address in TIME_WAIT is taken over: the table of ports has allowed it.
        self.waiting.remove(&key);
        Some(self.add(ethernet, key, connection, admission, Origin::Client(attempt), now))
    }

    fn add(
        &mut self,
        ethernet: &'static Ethernet,
        key: Key,
        connection: Connection,
        admission: Admission,
        origin: Origin,
        now: Instant,
    ) -> Arc<Wire> {
        self.next_id += 1;
        let wire = Wire::new(ethernet, self.next_id, key, connection, admission, origin, now);
        self.table.insert(key, wire.clone());
        wire
    }

    /// Forgets what has left TIME_WAIT, and the oldest where there are more than `most`.
    fn expire(&mut self, now: Instant, most: usize) {
        while let Some((until, oldest)) = self.order.front().copied()
            && (until <= now || self.order.len() > most)
        {
            self.order.pop_front();
            if self.waiting.get(&oldest).is_some_and(|waiting| waiting.until == until) {
                self.waiting.remove(&oldest);
            }
        }
    }

    /// Keeps the address of a connection that is over.
    fn keep(&mut self, key: Key, next: u32, now: Instant) {
        self.expire(now, MAX_WAITING - 1);
        let until = now + WAITING;
        self.waiting.insert(key, Waiting { next, until });
        self.order.push_back((until, key));
    }

    fn forget(&mut self, wire: &Arc<Wire>) {
        if self.table.get(&wire.key).is_some_and(|known| Arc::ptr_eq(known, wire)) {
            self.table.remove(&wire.key);
        }
        self.half_open.remove(&wire.id);
        self.set_timer(wire, None);
    }

    /// Sees to it that a connection is worked on at `next`, or before: a timer that is too early is left, since most
    /// packets only put it off. `None` takes it away.
    fn set_timer(&mut self, wire: &Arc<Wire>, next: Option<Instant>) {
        let mut timer = wire.timer.lock();
        if *timer == next || timer.is_some_and(|old| next.is_some_and(|next| old <= next)) {
            return;
        }
        if let Some(old) = timer.take() {
            self.timers.remove(&(old, wire.id));
        }
        if let Some(next) = next {
            self.timers.insert((next, wire.id), wire.clone());
        }
        *timer = next;
    }
}

fn key_of(packet: &Packet<'_>) -> Key {
    let segment = packet.payload();
    (packet.destination.into(), word(segment, 2), packet.source.into(), word(segment, 0))
}

fn number(segment: &[u8], at: usize) -> u32 {
    segment.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The number behind a segment: of its bytes, and one each for SYN and FIN.
fn behind(segment: &[u8]) -> u32 {
    let header = usize::from(segment.get(12).copied().unwrap_or(0) >> 4) * 4;
    let flags = segment.get(13).copied().unwrap_or(0);
    let len = segment.len().saturating_sub(header) as u32;
    number(segment, 4).wrapping_add(len).wrapping_add(u32::from(flags & 1 != 0) + u32::from(flags & 2 != 0))
}

impl Machine<'_> {
    /// A segment came.
    pub(super) fn take_segment(&mut self, stack: &mut Stack, packet: &Packet<'_>, now: Instant) {
        let key = key_of(packet);
        if let Some(wire) = self.connections.table.get(&key).cloned() {
            self.take(stack, wire, packet, now);
            return;
        }
        let segment = packet.payload();
        if let Some(waiting) = self.connections.waiting.get(&key) {
            // Only the beginning of a later connection ends it before its time (RFC 9293, 3.6.1; RFC 1337).
            let later = number(segment, 4).wrapping_sub(waiting.next) as i32 > 0;
            if waiting.until > now && !(is_first(segment) && later) {
                if !is_reset(segment) && !is_first(segment) {
                    self.acknowledge(stack, packet, now);
                }
                return;
            }
            self.connections.waiting.remove(&key);
        }
        if !is_first(segment) {
            stack.tcp_refuse(self, packet, now);
            return;
        }
        let listener = PORTS.listener(key.0, key.1, self.ethernet.interface.index);
        let Some(listener) = listener.and_then(|owner| owner.downcast::<Endpoint>().ok()) else {
            stack.tcp_refuse(self, packet, now);
            return;
        };
        let admission = match listener.knock() {
            Err(Crowd::HalfOpen) => {
                // The one that has been incomplete for longest gives way: of a flood none will ever be complete.
                self.evict(|wire| wire.is_for(&listener));
                listener.knock()
            }
            known => known,
        };
        let Ok(admission) = admission else {
            // Who knocks will knock again.
            self.connections.counts.overflows += 1;
            return;
        };
        let made = admission.buffers().and_then(|buffers| {
            let (local, remote) = ((packet.destination, key.1), (packet.source, key.3));
            Connection::accept(local, remote, buffers, stack.mtu(), random(), &packet.plain(), now)
        });
        let Some(connection) = made.filter(|_| !memory::is_high()) else {
            self.connections.counts.no_memory += 1;
            listener.left();
            return;
        };
        self.connections.counts.passive += 1;
        if self.connections.half_open.len() >= MAX_HALF_OPEN {
            self.evict(|_| true);
        }
        let listener = Origin::Listener(Arc::downgrade(&listener));
        let wire = self.connections.add(self.ethernet, key, connection, admission, listener, now);
        self.connections.half_open.insert(wire.id, key);
        self.drive(stack, &wire, now);
    }

    /// Gives a connection a segment. What comes of it is done once for all segments of a batch, so that they are
    /// acknowledged together and wake the socket once; but at once where the connection is in another state now.
    fn take(&mut self, stack: &mut Stack, wire: Arc<Wire>, packet: &Packet<'_>, now: Instant) {
        let (moved, is_first) = {
            let mut guard = wire.state.lock();
            let state = &mut *guard;
            let Some(connection) = &mut state.connection else { return };
            let (before, queued) = (connection.state(), connection.queued());
            stack.tcp_input(self, connection, &packet.plain(), now);
            let (after, left) = (connection.state(), connection.queued());
            state.heard = now;
            if left.1 < queued.1 {
                (state.moved, state.acknowledged) = (now, true);
            }
            state.reset |= before != after && is_reset(packet.payload());
            state.changed |= left != queued;
            (before != after, !core::mem::replace(&mut state.waits, true))
        };
        if moved {
            self.drive(stack, &wire, now);
        } else if is_first {
            self.connections.touched.push(wire);
        }
    }

    /// Drops the connection that has been incomplete for longest, of those that are `meant`.
    fn evict(&mut self, meant: impl Fn(&Wire) -> bool) {
        let mut known = self.connections.half_open.values().filter_map(|key| self.connections.table.get(key));
        let Some(wire) = known.find(|wire| meant(wire)).cloned() else { return };
        self.connections.counts.evicted += 1;
        wire.give_up(None);
        self.connections.forget(&wire);
        wire.fail(Errno::ECONNABORTED);
    }

    /// Answers a segment of a connection in TIME_WAIT.
    fn acknowledge(&mut self, stack: &mut Stack, packet: &Packet<'_>, now: Instant) {
        const ACK: u8 = 0x10;
        const HEADER: u8 = 5 << 4;
        let segment = packet.payload();
        let mut answer = Vec::with_capacity(20);
        answer.extend(segment.get(2..4).unwrap_or(&[0; 2]));
        answer.extend(segment.get(..2).unwrap_or(&[0; 2]));
        answer.extend(number(segment, 8).to_be_bytes());
        answer.extend(behind(segment).to_be_bytes());
        answer.extend([HEADER, ACK, 0, 0, 0, 0, 0, 0]);
        let head = Outgoing {
            source: packet.destination,
            destination: packet.source,
            protocol: TCP,
            hop_limit: 64,
            traffic_class: 0,
            may_fragment: false,
        };
        head.write_checksum(&mut answer, 16);
        // One that cannot be sent is asked for again.
        let _ = stack.send(self, &head, &answer, now);
    }

    /// Works on a connection: sends what is due, and sees to what has come of its segments.
    pub(super) fn drive(&mut self, stack: &mut Stack, wire: &Arc<Wire>, now: Instant) {
        let outcome = {
            let mut state = wire.state.lock();
            self.work(stack, &mut state, wire, now)
        };
        let connections = &mut self.connections;
        let counts = &mut connections.counts;
        counts.resets += u64::from(outcome.reset);
        counts.timeouts += u64::from(outcome.timed_out);
        if outcome.stalled {
            connections.stalled.push(wire.clone());
            self.ethernet.wants_room();
        }
        if outcome.again {
            self.connections.again.push(wire.clone());
        }
        if outcome.established {
            self.connections.half_open.remove(&wire.id);
            if !wire.established() {
                // Its socket has turned to something else.
                wire.state.lock().abort();
                self.connections.again.push(wire.clone());
            }
        }
        match outcome.over {
            Some(error) => {
                self.connections.forget(wire);
                if let Some(next) = outcome.waits {
                    self.connections.keep(wire.key, next, now);
                }
                if wire.is_new() {
                    self.connections.counts.failed += 1;
                    wire.fail(error.unwrap_or(Errno::ECONNABORTED));
                }
                wire.release(outcome.waits.is_some());
            }
            None if outcome.next.is_some() => self.connections.set_timer(wire, outcome.next),
            None => {}
        }
        if outcome.wake {
            wire.shared.events.wake_all();
        }
    }

    fn work(&mut self, stack: &mut Stack, state: &mut WireState, wire: &Wire, now: Instant) -> Outcome {
        let mut outcome = Outcome {
            next: None,
            stalled: false,
            again: false,
            established: false,
            over: None,
            waits: None,
            wake: false,
            reset: false,
            timed_out: false,
        };
        state.waits = false;
        let Some(connection) = &mut state.connection else {
            outcome.over = Some(None);
            return outcome;
        };
        let (before, queued) = (state.state, connection.queued());
        if core::mem::take(&mut state.acknowledged) {
            // Whoever is in between is there.
            stack.confirm(wire.key.2.into(), now);
        }
        if state.is_orphan() && state.connection.as_ref().is_some_and(|connection| connection.queued().0 > 0) {
            // Nobody will read it (RFC 9293, 3.6: as Linux resets what comes after close(2)).
            state.abort();
        }
        state.feed();
        let Some(connection) = &mut state.connection else { return outcome };
        let output = stack.tcp_output(self, connection, now);
        let (after, left, next) = (connection.state(), connection.queued(), connection.next());
        outcome.wake = core::mem::take(&mut state.changed) || before != after || left != queued;
        let was_new = matches!(before, State::SynSent | State::SynReceived);
        outcome.established =
            was_new && !matches!(after, State::SynSent | State::SynReceived | State::Closed | State::Listen);
        if before != after {
            state.moved = now;
        }
        state.note(after);
        match output {
            Output::Until(next) => outcome.next = next,
            Output::NoRoom => outcome.stalled = true,
            Output::More => outcome.again = true,
            Output::Failed(error, next) => {
                if before == State::SynSent {
                    state.end(Some(wire.not_sent(error)));
                    outcome.over = Some(Some(wire.not_sent(error)));
                    return outcome;
                }
                outcome.next = Some(next.unwrap_or(now + RETRY).max(now + RETRY));
            }
        }
        let sent_all = matches!(output, Output::Until(None));
        if matches!(after, State::Closed | State::Listen) && (sent_all || after == State::Listen) {
            outcome.reset = state.reset;
            let error = state.closed(before, state.reset);
            outcome.over = Some(error);
            outcome.wake = true;
            return outcome;
        }
        if after == State::TimeWait && state.is_orphan() && output != Output::NoRoom {
            outcome.waits = Some(next);
            state.end(None);
            outcome.over = Some(None);
            return outcome;
        }
        let limit = state.limit(&wire.shared, after, left.1 > 0, now);
        if let Some(limit) = limit {
            if limit <= now {
                outcome.timed_out = true;
                outcome.wake = true;
                state.end(Some(Errno::ETIMEDOUT));
                outcome.over = Some(Some(Errno::ETIMEDOUT));
                return outcome;
            }
            outcome.next = Some(outcome.next.map_or(limit, |next| next.min(limit)));
        }
        outcome
    }

    /// Works on the connections whose time has come, and those with something to do at once.
    pub(super) fn poll_connections(&mut self, stack: &mut Stack, now: Instant) {
        self.settle(stack, now);
        if self.connections.order.front().is_some_and(|(until, _)| *until <= now) {
            self.connections.expire(now, MAX_WAITING);
            PORTS.expire();
        }
        for (key, reason, sequence) in core::mem::take(&mut self.connections.errors) {
            self.tell(stack, key, reason, sequence, now);
        }
        for wire in core::mem::take(&mut self.connections.again) {
            self.drive(stack, &wire, now);
        }
        let mut due = Vec::new();
        while let Some(entry) = self.connections.timers.first_entry()
            && entry.key().0 <= now
        {
            let wire = entry.remove();
            *wire.timer.lock() = None;
            due.push(wire);
        }
        for wire in due {
            self.drive(stack, &wire, now);
        }
    }

    /// Works on those that segments have come for.
    fn settle(&mut self, stack: &mut Stack, now: Instant) {
        let mut touched = core::mem::take(&mut self.connections.touched);
        for wire in touched.drain(..) {
            if wire.state.lock().waits {
                self.drive(stack, &wire, now);
            }
        }
        self.connections.touched = touched;
    }

    /// Works on those that found no room.
    pub(super) fn retry(&mut self, stack: &mut Stack, now: Instant) {
        for wire in core::mem::take(&mut self.connections.stalled) {
            self.drive(stack, &wire, now);
        }
    }

    /// An error about a segment of ours. It is told later: whoever is at work may hold the connection.
    pub(super) fn connection_error(&mut self, _stack: &mut Stack, error: &icmp::Error, _now: Instant) {
        let key = (error.local.0.into(), error.local.1, error.remote.0.into(), error.remote.1);
        if self.connections.table.contains_key(&key) && self.connections.errors.len() < MAX_HALF_OPEN {
            self.connections.errors.push((key, error.reason, error.sequence));
        }
    }

    /// An attempt to connect fails by an error; a connection goes on, but for the length of its packets
    /// (RFC 5461; RFC 1191).
    fn tell(&mut self, stack: &mut Stack, key: Key, reason: Reason, _sequence: u32, now: Instant) {
        let Some(wire) = self.connections.table.get(&key).cloned() else { return };
        if let Reason::TooBig(told) = reason {
            if let Some(connection) = &mut wire.state.lock().connection {
                connection.mtu = path_mtu(told, connection.mtu, key.0.is_v4());
            }
            self.drive(stack, &wire, now);
        } else if wire.is_connecting() {
            wire.give_up(Some(crate::net::udp::errno(reason)));
            self.connections.forget(&wire);
            self.connections.counts.failed += 1;
            wire.fail(crate::net::udp::errno(reason));
            wire.release(false);
        }
    }
}
