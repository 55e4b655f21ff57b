//! TCP connections: one smoltcp socket each, in a set of its own.
//!
//! smoltcp looks through all sockets of a set for each packet and each turn of sending. With a set for each connection the
//! kernel finds the connection (by its addresses, in a table of its own) and smoltcp has only that to look at.
//!
//! smoltcp gets whole IP packets and gives whole IP packets; the Ethernet header and the checksum of the segment are the
//! stack's, which sums eight bytes at a time. Initial sequence numbers come from the interface's random numbers, so each
//! connection begins on an interface with a new seed.
//!
//! smoltcp's clock of a connection is the machine's, moved ahead: when its [`Recovery`] finds the retransmission timer over
//! before smoltcp does, the clock is moved on until smoltcp finds so too. None of its other timers that a later clock could
//! set off runs at the same time.

mod recovery;
#[cfg(test)]
mod tests;

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::net::IpAddr;

pub use smoltcp::socket::tcp::State;
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage},
    phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium},
    socket::tcp::{self, CongestionControl},
    time::{Duration, Instant},
    wire::{HardwareAddress, IpEndpoint, IpListenEndpoint},
};

use self::recovery::{Due, Recovery};
use super::packet::{HEADER_V4, HEADER_V6, Outgoing, TCP, word};

/// An address and a port.
pub type Place = (IpAddr, u16);
/// Acknowledgements wait so long for an answer that they can go with, in a conversation (RFC 9293, 3.8.6.3: less than half
/// a second) and before there is one: a sender that waits for each acknowledgement is not held up much.
const ACK_DELAY: Duration = Duration::from_millis(40);
const FIRST_ACK_DELAY: Duration = Duration::from_millis(2);
/// The longest retransmission timer of smoltcp's.
const MAX_TIMER: Duration = Duration::from_secs(60);

/// Takes a packet of `len` bytes, which the function given writes. There was room when it was asked.
pub type Send<'a> = dyn FnMut(usize, &mut dyn FnMut(&mut [u8])) + 'a;

/// Where packets come from and go to while smoltcp works on a connection.
struct Wire<'a, 'b> {
    input: Option<&'a [u8]>,
    mtu: usize,
    has_room: &'a mut dyn FnMut() -> bool,
    send: &'a mut Send<'b>,
}

struct Receive<'a>(&'a [u8]);

struct Transmit<'a, 'b>(&'a mut Send<'b>);

impl phy::RxToken for Receive<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_packet: F) -> R {
        use_packet(self.0)
    }
}

impl phy::TxToken for Transmit<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let (mut fill, mut result) = (Some(fill), None);
        (self.0)(len, &mut |packet| {
            if let Some(fill) = fill.take() {
                result = Some(fill(packet));
            }
        });
        match (result, fill) {
            (Some(result), _) => result,
            // Nobody took it after all: it is lost, as on a wire.
            (None, Some(fill)) => fill(&mut alloc::vec![0; len]),
            (None, None) => unreachable!("what was called gave a result"),
        }
    }
}

impl<'b> phy::Device for Wire<'_, 'b> {
    type RxToken<'c>
        = Receive<'c>
    where
        Self: 'c;
    type TxToken<'c>
        = Transmit<'c, 'b>
    where
        Self: 'c;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.input.take()?;
        Some((Receive(packet), Transmit(self.send)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        (self.has_room)().then_some(Transmit(self.send))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.mtu)
    }
}

fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut checksum = ChecksumCapabilities::default();
    // Verified before smoltcp gets a segment, and written after.
    checksum.tcp = Checksum::None;
    checksum.ipv4 = Checksum::Tx;
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    capabilities.checksum = checksum;
    capabilities
}

/// An interface for packets of at most `mtu` bytes.
fn interface(mtu: usize, seed: u64, now: Instant) -> Box<Interface> {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let (mut has_room, mut send) = (|| false, |_: usize, _: &mut dyn FnMut(&mut [u8])| {});
    let mut device = Wire { input: None, mtu, has_room: &mut has_room, send: &mut send };
    let mut interface = Box::new(Interface::new(config, &mut device, now));
    // Which addresses are the machine's is decided before a packet gets here.
    interface.set_any_ip(true);
    interface
}

/// What smoltcp needs to work on connections: an interface for each length of packets.
#[derive(Default)]
pub struct Engine {
    interfaces: BTreeMap<usize, Box<Interface>>,
}

/// Lengths that a path may be found to have (RFC 1191, 7.1): it is rounded down to one of these.
const PATH_MTUS: [usize; 7] = [1500, 1492, 1400, 1280, 1006, 576, 552];

/// The length of packets for a path that takes `told` bytes (0: less than `now`), never less than a path of its family
/// must take.
#[must_use]
pub fn path_mtu(told: usize, now: usize, v4: bool) -> usize {
    let least = if v4 { 552 } else { 1280 };
    let fits = |mtu: &usize| if told == 0 { *mtu < now } else { *mtu <= told };
    PATH_MTUS.into_iter().find(fits).unwrap_or(least).max(least).min(now)
}

impl Engine {
    fn get(&mut self, mtu: usize, now: Instant) -> &mut Interface {
        // Lengths are few: the interface's own and those of `PATH_MTUS`.
        self.interfaces.entry(mtu).or_insert_with(|| interface(mtu, 0, now))
    }

    /// Gives a segment for no connection to smoltcp, which answers with a reset where that is due.
    pub fn refuse(&mut self, packet: &[u8], mtu: usize, now: Instant, send: &mut Send<'_>) {
        let mut device = Wire { input: Some(packet), mtu, has_room: &mut || true, send };
        let mut nobody = SocketSet::new(Vec::new());
        self.get(mtu, now).poll_ingress_single(now, &mut device, &mut nobody);
    }
}

/// Whether a segment begins a connection.
#[must_use]
pub fn is_first(segment: &[u8]) -> bool {
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 2;
    segment.get(13).is_some_and(|flags| flags & FIN_SYN_RST_ACK == SYN)
}

/// Whether a segment is a reset.
#[must_use]
pub fn is_reset(segment: &[u8]) -> bool {
    segment.get(13).is_some_and(|flags| flags & 4 != 0)
}

/// What a segment says.
#[derive(Clone, Copy)]
struct Segment {
    first: u32,
    acknowledges: u32,
    flags: u8,
    window: u16,
    payload: usize,
}

impl Segment {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 0x10;

    /// That of a packet without options of IP.
    fn read(packet: &[u8]) -> Option<Self> {
        let header = if packet.first()? >> 4 == 4 { HEADER_V4 } else { HEADER_V6 };
        let segment = packet.get(header..)?;
        let number = |at: usize| Some(u32::from_be_bytes(*segment.get(at..)?.first_chunk()?));
        let (offset, flags) = (*segment.get(12)?, *segment.get(13)?);
        Some(Self {
            first: number(4)?,
            acknowledges: number(8)?,
            flags,
            window: word(segment, 14),
            payload: segment.len().checked_sub(usize::from(offset >> 4) * 4)?,
        })
    }

    /// How many numbers it takes.
    fn len(&self) -> u32 {
        let control = u32::from(self.flags & Self::SYN != 0) + u32::from(self.flags & Self::FIN != 0);
        if self.flags & Self::RST != 0 { 0 } else { self.payload as u32 + control }
    }
}

/// A connection.
pub struct Connection {
    set: SocketSet<'static>,
    handle: SocketHandle,
    /// The machine's end.
    pub local: Place,
    /// The other.
    pub remote: Place,
    /// The longest packet to send.
    pub mtu: usize,
    /// How far smoltcp's clock is ahead.
    ahead: Duration,
    recovery: Recovery,
    /// The number that the other end sends next, and the window it last told of.
    next: u32,
    window: u16,
    /// When bytes last came, and whether they were answered soon: then acknowledgements wait for the answer.
    came: Option<Instant>,
    converses: bool,
    /// Nothing more will be given: the stream ends behind what was.
    ends: bool,
}

fn endpoint(place: Place) -> IpEndpoint {
    IpEndpoint::new(place.0.into(), place.1)
}

/// Whether the other end has said that it sends no more.
fn has_ended(state: State) -> bool {
    matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
}

impl Connection {
    fn new(local: Place, remote: Place, receive: usize, send: usize, mtu: usize) -> Option<Self> {
        let buffer = |len: usize| {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).ok()?;
            bytes.resize(len, 0);
            Some(tcp::SocketBuffer::new(bytes))
        };
        let mut socket = tcp::Socket::new(buffer(receive)?, buffer(send)?);
        socket.set_ack_delay(Some(FIRST_ACK_DELAY));
        socket.set_congestion_control(CongestionControl::None);
        let mut set = SocketSet::new(alloc::vec![SocketStorage::EMPTY]);
        let handle = set.add(socket);
        Some(Self {
            set,
            handle,
            local,
            remote,
            mtu,
            ahead: Duration::ZERO,
            recovery: Recovery::new(),
            next: 0,
            window: 0,
            came: None,
            converses: false,
            ends: false,
        })
    }

    /// One that is to be made from `local` to `remote`, with buffers of so many bytes. `None` without memory.
    #[must_use]
    pub fn connect(
        local: Place,
        remote: Place,
        (receive, send): (usize, usize),
        mtu: usize,
        seed: u64,
        now: Instant,
    ) -> Option<Self> {
        let mut connection = Self::new(local, remote, receive, send, mtu)?;
        let mut seeded = interface(mtu, seed, now);
        connection.socket().connect(seeded.context(), endpoint(remote), endpoint(local)).ok()?;
        Some(connection)
    }

    /// One that somebody begins with `packet`. `None` without memory, or where that is not the first of a connection.
    #[must_use]
    pub fn accept(
        local: Place,
        remote: Place,
        (receive, send): (usize, usize),
        mtu: usize,
        seed: u64,
        packet: &[u8],
        now: Instant,
    ) -> Option<Self> {
        let mut connection = Self::new(local, remote, receive, send, mtu)?;
        connection.next = Segment::read(packet)?.first.wrapping_add(1);
        connection.socket().listen(IpListenEndpoint::from(endpoint(local))).ok()?;
        let mut seeded = interface(mtu, seed, now);
        connection.take(&mut seeded, packet, now, &mut |_, _| {});
        (connection.socket().state() == State::SynReceived).then_some(connection)
    }

    /// smoltcp's socket.
    pub fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.set.get::<tcp::Socket<'_>>(self.handle).state()
    }

    /// Bytes received and not taken yet, and bytes that were given and not acknowledged yet.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        let socket = self.set.get::<tcp::Socket<'_>>(self.handle);
        (socket.recv_queue(), socket.send_queue())
    }

    /// The number that the other end sends next.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Bytes that can be given now.
    #[must_use]
    pub fn room(&self) -> usize {
        let socket = self.set.get::<tcp::Socket<'_>>(self.handle);
        let most = self.recovery.window().min(socket.send_capacity());
        if socket.may_send() { most.saturating_sub(socket.send_queue()) } else { 0 }
    }

    /// Whether so much was taken out of the receive buffer that the other end should be told: half of it is free again.
    #[must_use]
    pub fn is_window_due(&self) -> bool {
        let socket = self.set.get::<tcp::Socket<'_>>(self.handle);
        socket.recv_queue() <= socket.recv_capacity() / 2
    }

    /// Ends the stream behind what was given.
    pub fn close(&mut self) {
        self.ends = true;
        self.end();
    }

    /// Tells smoltcp of the end, when it may hear of it.
    fn end(&mut self) {
        // In LAST-ACK smoltcp counts no acknowledgements that repeat the last one, so that each loss would take a timeout.
        // In SYN-RECEIVED it would forget to answer the first segment.
        let may_end = match self.state() {
            State::CloseWait => self.queued().1 == 0,
            state => state != State::SynReceived,
        };
        if self.ends && may_end {
            self.socket().close();
        }
    }

    /// Gives a packet to smoltcp; what it answers at once goes to `send`.
    fn take(&mut self, interface: &mut Interface, packet: &[u8], clock: Instant, send: &mut Send<'_>) {
        let mut device = Wire { input: Some(packet), mtu: self.mtu, has_room: &mut || true, send };
        interface.poll_ingress_single(clock, &mut device, &mut self.set);
    }

    /// Takes a packet that came for it; what it answers at once goes to `send`.
    pub fn input(&mut self, engine: &mut Engine, packet: &[u8], now: Instant, send: &mut Send<'_>) {
        let Some(segment) = Segment::read(packet) else { return };
        let (before, queued) = (self.state(), self.queued());
        if self.says_nothing(&segment, queued.1) {
            return;
        }
        if self.repeats(&segment) {
            self.recovery.repeats();
        }
        self.take(engine.get(self.mtu, now), packet, now + self.ahead, send);
        let (after, left) = (self.state(), self.queued());
        let moved = before != after;
        if before == State::SynSent && moved {
            self.next = segment.first.wrapping_add(1);
        }
        if left.0 > queued.0 {
            self.next = self.next.wrapping_add((left.0 - queued.0) as u32);
            self.came = Some(now);
        }
        if has_ended(after) && !has_ended(before) {
            self.next = self.next.wrapping_add(1);
        }
        if after == State::TimeWait && moved {
            // What is the last segment must be acknowledged now: nobody may be there to do it later.
            self.ahead += ACK_DELAY;
        }
        if segment.flags & (Segment::ACK | Segment::RST) == Segment::ACK {
            self.window = segment.window;
            let held_back = self.recovery.is_after_timeout();
            if (moved || left.1 < queued.1) && self.recovery.acknowledged(segment.acknowledges, now) {
                self.repeat_first(engine, now);
            }
            if held_back && !self.recovery.is_after_timeout() {
                self.socket().set_congestion_control(CongestionControl::None);
            }
        }
        self.end();
    }

    /// Whether a segment only repeats the last acknowledgement.
    fn repeats(&self, segment: &Segment) -> bool {
        segment.flags == Segment::ACK
            && segment.payload == 0
            && segment.window == self.window
            && self.recovery.outstanding() == Some(segment.acknowledges)
    }

    /// Whether a segment only repeats an acknowledgement, and smoltcp would make too much of that: after a timeout, and
    /// where only the end of the stream is not acknowledged, which it would never send again.
    fn says_nothing(&self, segment: &Segment, unacknowledged: usize) -> bool {
        segment.flags == Segment::ACK
            && segment.payload == 0
            && segment.first == self.next
            && self.recovery.outstanding() == Some(segment.acknowledges)
            && (unacknowledged == 0 || segment.window == self.window && self.recovery.is_after_timeout())
    }

    /// Makes smoltcp send the first segment again, by three acknowledgements that repeat the last one. It counts them from
    /// one with another window on.
    fn repeat_first(&mut self, engine: &mut Engine, now: Instant) {
        let Some(first) = self.recovery.outstanding() else { return };
        let window = self.window;
        for window in [window ^ 1, window, window, window, window] {
            let packet = self.acknowledgement(first, window);
            self.take(engine.get(self.mtu, now), &packet, now + self.ahead, &mut |_, _| {});
        }
    }

    /// An acknowledgement of all before `number`, as the other end would send it.
    fn acknowledgement(&self, number: u32, window: u16) -> Vec<u8> {
        const HEADER: u8 = 5 << 4;
        let head = Outgoing {
            source: self.remote.0,
            destination: self.local.0,
            protocol: TCP,
            hop_limit: 64,
            traffic_class: 0,
            may_fragment: false,
        };
        let mut packet = alloc::vec![0; head.header_len()];
        packet.extend(self.remote.1.to_be_bytes());
        packet.extend(self.local.1.to_be_bytes());
        packet.extend(self.next.to_be_bytes());
        packet.extend(number.to_be_bytes());
        packet.extend([HEADER, Segment::ACK]);
        packet.extend(window.to_be_bytes());
        packet.extend([0; 4]);
        head.write_header(&mut packet, 0, None);
        packet
    }

    /// Sends what is due, at most `limit` packets and while there is room. `true` where more is due.
    pub fn output(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        limit: usize,
        has_room: &mut dyn FnMut() -> bool,
        send: &mut Send<'_>,
    ) -> bool {
        match if self.is_over() { None } else { self.recovery.due(now) } {
            Some(Due::Timeout) => {
                // No timer of smoltcp's is longer.
                self.ahead += MAX_TIMER;
                self.put(engine, now, has_room, send);
                if self.recovery.repeated() != Some(now) && has_room() {
                    // It has none running: it saw the other end's window close.
                    self.repeat_first(engine, now);
                }
                self.socket().set_congestion_control(CongestionControl::Reno);
            }
            Some(Due::Probe) if self.queued().1 > 0 => self.repeat_first(engine, now),
            Some(Due::Probe) | None => {}
        }
        for _ in 0..limit {
            if self.put(engine, now, has_room, send) == PollResult::None {
                return self.deadline(engine, now).is_some_and(|at| at <= now);
            }
        }
        true
    }

    /// Sends a packet where one is due.
    fn put(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        has_room: &mut dyn FnMut() -> bool,
        send: &mut Send<'_>,
    ) -> PollResult {
        let Self { set, recovery, came, converses, mtu, ahead, .. } = self;
        let mut answers = None;
        let mut watched = |len: usize, fill: &mut dyn FnMut(&mut [u8])| {
            send(len, &mut |packet| {
                fill(packet);
                if let Some(segment) = Segment::read(packet) {
                    recovery.sent(segment.first, segment.len(), now);
                    answers = Some(segment.payload > 0);
                }
            });
        };
        let mut device = Wire { input: None, mtu: *mtu, has_room, send: &mut watched };
        let result = engine.get(*mtu, now).poll_egress(now + *ahead, &mut device, set);
        let soon = came.is_some_and(|came| now - came < ACK_DELAY);
        let converses_now = match answers {
            Some(true) if soon => true,
            // An acknowledgement waited for nothing.
            Some(false) if !soon => false,
            _ => *converses,
        };
        if converses_now != *converses {
            *converses = converses_now;
            let delay = if converses_now { ACK_DELAY } else { FIRST_ACK_DELAY };
            self.socket().set_ack_delay(Some(delay));
        }
        result
    }

    /// Whether it has come to its end, so that nothing is sent again.
    fn is_over(&self) -> bool {
        matches!(self.state(), State::Closed | State::Listen | State::TimeWait)
    }

    /// When to call [`output`](Self::output) next.
    #[must_use]
    pub fn deadline(&mut self, engine: &mut Engine, now: Instant) -> Option<Instant> {
        let smoltcp = engine.get(self.mtu, now).poll_at(now + self.ahead, &self.set);
        let smoltcp = smoltcp.map(|at| if at == Instant::ZERO { at } else { at - self.ahead });
        let again = if self.is_over() { None } else { self.recovery.deadline() };
        [smoltcp, again].into_iter().flatten().min()
    }
}
