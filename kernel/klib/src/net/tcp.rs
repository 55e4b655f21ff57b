//! TCP connections: one smoltcp socket each, in a set of its own.
//!
//! smoltcp looks through all sockets of a set for each packet and each turn of sending. With a set for each connection the
//! kernel finds the connection (by its addresses, in a table of its own) and smoltcp has only that to look at.
//!
//! smoltcp gets whole IP packets and gives whole IP packets; the Ethernet header and the checksum of the segment are the
//! stack's, which sums eight bytes at a time. Initial sequence numbers come from the interface's random numbers, so each
//! connection begins on an interface with a new seed.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::net::IpAddr;

pub use smoltcp::socket::tcp::{CongestionControl, State};
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage},
    phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium},
    socket::tcp,
    time::{Duration, Instant},
    wire::{HardwareAddress, IpEndpoint, IpListenEndpoint},
};

/// An address and a port.
pub type Place = (IpAddr, u16);
/// Segments of a delayed acknowledgement wait this long (RFC 9293, 3.8.6.3: less than half a second).
const ACK_DELAY: Duration = Duration::from_millis(40);

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
}

fn endpoint(place: Place) -> IpEndpoint {
    IpEndpoint::new(place.0.into(), place.1)
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
        socket.set_ack_delay(Some(ACK_DELAY));
        let mut set = SocketSet::new(alloc::vec![SocketStorage::EMPTY]);
        let handle = set.add(socket);
        Some(Self { set, handle, local, remote, mtu })
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
        connection.socket().listen(IpListenEndpoint::from(endpoint(local))).ok()?;
        let mut seeded = interface(mtu, seed, now);
        let mut nothing = |_: usize, _: &mut dyn FnMut(&mut [u8])| {};
        let mut device = Wire { input: Some(packet), mtu, has_room: &mut || false, send: &mut nothing };
        seeded.poll_ingress_single(now, &mut device, &mut connection.set);
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

    /// Bytes that can be given now.
    #[must_use]
    pub fn room(&self) -> usize {
        let socket = self.set.get::<tcp::Socket<'_>>(self.handle);
        if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 }
    }

    /// Whether so much was taken out of the receive buffer that the other end should be told: half of it is free again.
    #[must_use]
    pub fn is_window_due(&self) -> bool {
        let socket = self.set.get::<tcp::Socket<'_>>(self.handle);
        socket.recv_queue() <= socket.recv_capacity() / 2
    }

    /// Takes a packet that came for it; what it answers at once goes to `send`.
    pub fn input(&mut self, engine: &mut Engine, packet: &[u8], now: Instant, send: &mut Send<'_>) {
        let mut device = Wire { input: Some(packet), mtu: self.mtu, has_room: &mut || true, send };
        engine.get(self.mtu, now).poll_ingress_single(now, &mut device, &mut self.set);
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
        let mut device = Wire { input: None, mtu: self.mtu, has_room, send };
        let interface = engine.get(self.mtu, now);
        for _ in 0..limit {
            if interface.poll_egress(now, &mut device, &mut self.set) == PollResult::None {
                return self.deadline(engine, now).is_some_and(|at| at <= now);
            }
        }
        true
    }

    /// When to call [`output`](Self::output) next.
    #[must_use]
    pub fn deadline(&mut self, engine: &mut Engine, now: Instant) -> Option<Instant> {
        engine.get(self.mtu, now).poll_at(now, &self.set)
    }
}
