//! Raw sockets (raw(7), icmp(7)), and the machine's answers to its own echo requests.
//!
//! A packet goes to every raw socket of its protocol that its addresses fit. On an IPv4 socket it has its header before
//! it. An echo request of the machine to itself is answered here, the answer goes the same way; those that come by a wire
//! are answered by its stack.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use abi::{Errno, Result, ioctl, linux, net};
use hal::UserAddr;
use klib::net::stack::NotSent;

use super::{
    address::{IpAddress, SocketAddress, family_of},
    inbox::{Datagram, Inbox},
    interface::{self, Interface, Kind, LOOPBACK},
    ip_options::{Arrival, Context},
    shared::{DEFAULT_BUFFER, Shared},
    tcp::address_to_bind,
    udp,
    wire::Ethernet,
};
use crate::{
    fs::{
        PollEvents, PollTable,
        socket::{CommonOptions, Incoming, Outgoing, Patience, SocketOps},
    },
    mm::user,
    sync::IrqLock,
    task::identity,
    time,
};

/// Every raw socket.
static SOCKETS: IrqLock<Vec<Weak<Endpoint>>> = IrqLock::new(Vec::new());

/// Bytes of an IPv4 header without options, and the most of a packet.
const HEADER: usize = 20;
const MAX_PACKET: usize = 65535;
/// Where the checksum is in an ICMP message, and the least bytes of an echo.
const CHECKSUM_AT: usize = 2;
const ECHO: usize = 8;
/// ICMP_ECHOREPLY, ICMP_ECHO, and those of ICMPv6 (RFC 792, RFC 4443).
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Options ICMP_FILTER of SOL_RAW and ICMPV6_FILTER of SOL_ICMPV6 (linux/icmp.h, linux/icmpv6.h).
const FILTER: u32 = 1;
/// Words of the filter: a bit for each type of ICMPv6; of ICMP the first word counts.
const FILTER_WORDS: usize = 8;

const ICMP: u32 = net::IPPROTO_ICMP as u32;
const ICMPV6: u32 = net::IPPROTO_ICMPV6;

struct Endpoint {
    shared: Arc<Shared>,
    inbox: Inbox,
    state: IrqLock<State>,
}

struct State {
    local: IpAddress,
    keeps_address: bool,
    remote: Option<SocketAddress>,
    /// A set bit keeps messages of that type out.
    filter: [u32; FILTER_WORDS],
}

/// A packet on its way.
#[derive(Clone)]
struct Packet {
    protocol: u32,
    source: IpAddress,
    destination: IpAddress,
    hop_limit: i32,
    traffic_class: u8,
    bytes: Vec<u8>,
}

/// The internet checksum (RFC 1071) of words and bytes.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Puts the checksum of an ICMP message, or an ICMPv6 one between these addresses, where it belongs.
fn seal(packet: &mut Packet) {
    let mut start = 0;
    if packet.protocol == ICMPV6 {
        // The pseudo-header (RFC 8200, 8.1).
        let pseudo = [packet.source.v6_bytes(), packet.destination.v6_bytes()].concat();
        start = u32::from(!checksum(0, &pseudo)) + packet.bytes.len() as u32 + ICMPV6;
    }
    set_checksum(&mut packet.bytes, [0; 2]);
    let sum = checksum(start, &packet.bytes);
    set_checksum(&mut packet.bytes, sum.to_be_bytes());
}

fn set_checksum(bytes: &mut [u8], sum: [u8; 2]) {
    if let Some(room) = bytes.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) {
        room.copy_from_slice(&sum);
    }
}

impl Packet {
    /// The packet with its IPv4 header (RFC 791, 3.1).
    fn with_header(&self) -> Vec<u8> {
        const VERSION_AND_WORDS: u8 = 0x45;
        const DO_NOT_FRAGMENT: [u8; 2] = [0x40, 0];
        let len = (HEADER + self.bytes.len()).min(MAX_PACKET) as u16;
        let mut header = alloc::vec![VERSION_AND_WORDS, self.traffic_class];
        header.extend(len.to_be_bytes());
        header.extend([0; 2]);
        header.extend(DO_NOT_FRAGMENT);
        header.extend([self.hop_limit as u8, self.protocol as u8, 0, 0]);
        header.extend(self.source.v4_bytes());
        header.extend(self.destination.v4_bytes());
        let sum = checksum(0, &header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        [header, self.bytes.clone()].concat()
    }

    /// Hands it to every socket it fits, and answers it where it asks for that.
    fn deliver(self) {
        LOOPBACK.count(1, self.destination.header_len() + self.bytes.len());
        let bytes = if self.destination.is_v4() { self.with_header() } else { self.bytes.clone() };
        self.spread(bytes, &LOOPBACK);
        if let Some(answer) = self.answer() {
            answer.deliver();
        }
    }

    /// Hands it, as `bytes`, to every socket it fits: whether there was any.
    fn spread(&self, bytes: Vec<u8>, interface: &'static Interface) -> bool {
        let v4 = self.destination.is_v4();
        let family = if v4 { net::AF_INET } else { net::AF_INET6 };
        let scope = if self.source.is_link_local() { interface.index } else { 0 };
        let datagram = Datagram {
            bytes: Arc::new(bytes),
            source: SocketAddress { scope, ..SocketAddress::new(self.source, 0) },
            arrival: Arrival {
                destination: SocketAddress::new(self.destination, 0),
                local: if interface.is_loopback() { self.destination.loopback_of_family() } else { self.destination },
                interface: interface.index,
                hop_limit: self.hop_limit,
                traffic_class: self.traffic_class,
            },
            time_ns: time::realtime_ns(),
        };
        let sockets: Vec<Arc<Endpoint>> = SOCKETS.lock().iter().filter_map(Weak::upgrade).collect();
        let mut any = false;
        for socket in sockets {
            let device = socket.shared.device();
            let near = device == 0 || device == interface.index;
            if near && socket.shared.family == family && socket.wants(self) {
                socket.inbox.deliver(&socket.shared, datagram.clone());
                any = true;
            }
        }
        any
    }

    /// What the machine answers: to an echo request the same bytes, as a reply.
    fn answer(mut self) -> Option<Self> {
        let reply = match (self.protocol, self.bytes.first()?) {
            (ICMP, &ECHO_REQUEST) => ECHO_REPLY,
            (ICMPV6, &ECHO_REQUEST_V6) => ECHO_REPLY_V6,
            _ => return None,
        };
        if self.bytes.len() < ECHO || interface::kind(self.destination) != Kind::Local {
            return None;
        }
        *self.bytes.first_mut()? = reply;
        (self.source, self.destination) = (self.destination, self.source);
        self.hop_limit = i32::from(net::IPDEFTTL as u8);
        seal(&mut self);
        Some(self)
    }
}

/// A packet came from a wire: whether a raw socket took it.
pub fn arrived(interface: &'static Interface, packet: &klib::net::packet::Packet<'_>) -> bool {
    if SOCKETS.lock().is_empty() {
        return false;
    }
    let own = Packet {
        protocol: u32::from(packet.protocol),
        source: packet.source.into(),
        destination: packet.destination.into(),
        hop_limit: i32::from(packet.hop_limit),
        traffic_class: packet.traffic_class,
        bytes: packet.payload().to_vec(),
    };
    let bytes = if packet.source.is_ipv4() { packet.bytes.to_vec() } else { own.bytes.clone() };
    own.spread(bytes, interface)
}

impl Packet {
    /// Sends it over a wire.
    fn send_outside(&self, ethernet: &'static Ethernet, may_fragment: bool, patience: Patience) -> Result<()> {
        let head = klib::net::packet::Outgoing {
            source: self.source.into(),
            destination: self.destination.into(),
            protocol: self.protocol as u8,
            hop_limit: u8::try_from(self.hop_limit).unwrap_or(u8::MAX),
            traffic_class: self.traffic_class,
            may_fragment,
        };
        loop {
            match ethernet.send(&head, &self.bytes) {
                Ok(()) => return Ok(()),
                Err(NotSent::NoRoute) => return Err(Errno::ENETUNREACH),
                Err(NotSent::Unreachable) => return Err(Errno::EHOSTUNREACH),
                Err(NotSent::TooLong) => return Err(Errno::EMSGSIZE),
                Err(NotSent::NoRoom) => {
                    patience.wait(&[ethernet.room()], || ethernet.has_room().then_some(()))?;
                }
            }
        }
    }
}

impl Endpoint {
    fn wants(&self, packet: &Packet) -> bool {
        if self.shared.protocol != packet.protocol {
            return false;
        }
        let state = self.state.lock();
        let for_us = state.local.is_unspecified() || state.local == packet.destination;
        let from_peer = state.remote.is_none_or(|remote| remote.ip == packet.source);
        let kind = packet.bytes.first().copied().unwrap_or(0);
        let filtered = match packet.protocol {
            ICMP if kind >= 32 => false,
            ICMP | ICMPV6 => state.filter.get(usize::from(kind / 32)).is_some_and(|word| word >> (kind % 32) & 1 != 0),
            _ => false,
        };
        for_us && from_peer && !filtered
    }

    fn parse(&self, bytes: &[u8]) -> Result<SocketAddress> {
        if self.shared.family == net::AF_INET {
            let target = SocketAddress::parse_v4(bytes)?;
            return if matches!(family_of(bytes)?, net::AF_INET | net::AF_UNSPEC) {
                Ok(target)
            } else {
                Err(Errno::EAFNOSUPPORT)
            };
        }
        let target = SocketAddress::parse(net::AF_INET6, bytes)?;
        if target.port != 0 && u32::from(target.port) != self.shared.protocol || target.ip.is_v4() {
            return Err(Errno::EINVAL);
        }
        Ok(target)
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        let len = message.data.remaining();
        let includes_header = self.shared.ip.lock().is_on_v4(net::IP_HDRINCL);
        let headers = if includes_header || self.shared.family == net::AF_INET6 { 0 } else { HEADER };
        if len + headers > MAX_PACKET {
            return Err(Errno::EMSGSIZE);
        }
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let target = match message.address {
            Some(address) => self.parse(address)?,
            None => self.state.lock().remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        let local = self.state.lock().local;
        let route = interface::route(local, target.ip, target.scope.max(self.shared.device()))?;
        if route.kind == Kind::Broadcast && !self.shared.common.is_on(net::SO_BROADCAST) {
            return Err(Errno::EACCES);
        }
        self.inbox.check_sending()?;
        let mut bytes = udp::take(message, len)?;
        let mut protocol = self.shared.protocol;
        let (hop_limit, traffic_class) = {
            let ip = self.shared.ip.lock();
            (ip.hop_limit(route.destination), ip.traffic_class(route.destination))
        };
        if includes_header && route.destination.is_v4() {
            // The program's own header counts for its protocol; the rest is written anew for the receiver.
            if len < HEADER {
                return Err(Errno::EINVAL);
            }
            let words = usize::from(bytes.first().copied().unwrap_or(0) & 0xf) * 4;
            if words < HEADER || words > len {
                return Err(Errno::EINVAL);
            }
            protocol = u32::from(bytes.get(9).copied().unwrap_or(0));
            bytes.drain(..words);
        }
        let (source, destination) = (route.source, route.destination);
        let mut packet = Packet { protocol, source, destination, hop_limit, traffic_class, bytes };
        if protocol == ICMPV6 {
            seal(&mut packet);
        }
        match route.interface.ethernet() {
            None => packet.deliver(),
            Some(ethernet) => {
                let may_fragment = self.shared.ip.lock().may_fragment(destination.is_v4());
                packet.send_outside(ethernet, may_fragment, message.patience)?;
            }
        }
        Ok(len)
    }

    fn context(&self) -> Context {
        Context {
            family: self.shared.family,
            protocol: self.shared.protocol,
            raw: true,
            stream: false,
            mtu: {
                let state = self.state.lock();
                state.remote.map_or(0, |remote| udp::mtu_to(state.local, remote))
            },
        }
    }
}

/// What a program's raw socket refers to.
pub(super) struct RawSocket {
    endpoint: Arc<Endpoint>,
}

impl RawSocket {
    /// socket(2). EPERM without CAP_NET_RAW.
    pub(super) fn open(family: u32, protocol: u32) -> Result<Arc<dyn SocketOps>> {
        identity::require(linux::CAP_NET_RAW)?;
        let shared = Shared::new(family, protocol, DEFAULT_BUFFER, DEFAULT_BUFFER);
        if family == net::AF_INET && protocol == net::IPPROTO_RAW as u32 {
            // Who names no protocol brings the header (raw(7)).
            shared.ip.lock().include_header();
        }
        let local = shared.any();
        let state = State { local, keeps_address: false, remote: None, filter: [0; FILTER_WORDS] };
        let endpoint = Arc::new(Endpoint { shared, inbox: Inbox::new(), state: IrqLock::new(state) });
        SOCKETS.lock().push(Arc::downgrade(&endpoint));
        Ok(Arc::new(Self { endpoint }))
    }
}

impl Drop for RawSocket {
    fn drop(&mut self) {
        let own = Arc::as_ptr(&self.endpoint);
        SOCKETS.lock().retain(|socket| !core::ptr::eq(socket.as_ptr(), own));
    }
}

impl SocketOps for RawSocket {
    fn identity(&self) -> Option<(Arc<CommonOptions>, u64)> {
        Some((self.endpoint.shared.common.clone(), self.endpoint.shared.inode))
    }

    fn bind(&self, bytes: &[u8]) -> Result<()> {
        let address = address_to_bind(&self.endpoint.shared, bytes, false)?;
        let mut state = self.endpoint.state.lock();
        if state.remote.is_some() {
            return Err(Errno::EINVAL);
        }
        state.local = address.ip;
        state.keeps_address = !address.ip.is_unspecified();
        Ok(())
    }

    fn connect(&self, bytes: &[u8], _patience: Patience) -> Result<()> {
        let endpoint = &self.endpoint;
        if family_of(bytes)? == net::AF_UNSPEC {
            let mut state = endpoint.state.lock();
            state.remote = None;
            if !state.keeps_address {
                state.local = endpoint.shared.any();
            }
            return Ok(());
        }
        let target = endpoint.parse(bytes)?;
        let mut state = endpoint.state.lock();
        let route = interface::route(state.local, target.ip, target.scope.max(endpoint.shared.device()))?;
        if route.kind == Kind::Broadcast && !endpoint.shared.common.is_on(net::SO_BROADCAST) {
            return Err(Errno::EACCES);
        }
        state.local = route.source;
        state.remote = Some(SocketAddress { ip: route.destination, ..target });
        Ok(())
    }

    fn local_address(&self) -> Vec<u8> {
        let shared = &self.endpoint.shared;
        // The port of a raw socket is its protocol.
        SocketAddress::new(self.endpoint.state.lock().local, shared.protocol as u16).to_bytes(shared.family)
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        let remote = self.endpoint.state.lock().remote.filter(|remote| remote.port != 0).ok_or(Errno::ENOTCONN)?;
        Ok(remote.to_bytes(self.endpoint.shared.family))
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = self.endpoint.state.lock().remote.is_some();
        self.endpoint.inbox.shut(&self.endpoint.shared, read, write);
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        self.endpoint.send(message)
    }

    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        self.endpoint.inbox.receive(&self.endpoint.shared, message)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.endpoint.shared.events);
        self.endpoint.inbox.poll()
    }

    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        let endpoint = &self.endpoint;
        match (level, name, endpoint.shared.protocol) {
            (net::SOL_SOCKET, net::SO_ERROR, _) => {
                let error = endpoint.inbox.take_error();
                Ok(error.map_or(0, |error| i32::from(error.number())).to_ne_bytes().to_vec())
            }
            (net::SOL_SOCKET, ..) => endpoint.shared.socket_option(name),
            (net::SOL_RAW, FILTER, ICMP) => Ok(endpoint.state.lock().filter[0].to_ne_bytes().to_vec()),
            (net::SOL_RAW, FILTER, _) => Err(Errno::EOPNOTSUPP),
            (net::SOL_ICMPV6, FILTER, ICMPV6) => {
                Ok(endpoint.state.lock().filter.iter().flat_map(|word| word.to_ne_bytes()).collect())
            }
            _ => {
                let context = endpoint.context();
                endpoint.shared.ip.lock().get(context, level, name)
            }
        }
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let endpoint = &self.endpoint;
        match (level, name, endpoint.shared.protocol) {
            (net::SOL_SOCKET, ..) => endpoint.shared.set_socket_option(name, value),
            (net::SOL_RAW, FILTER, ICMP) | (net::SOL_ICMPV6, FILTER, ICMPV6) => {
                let mut state = endpoint.state.lock();
                for (word, bytes) in state.filter.iter_mut().zip(value.as_chunks().0) {
                    *word = u32::from_ne_bytes(*bytes);
                }
                Ok(())
            }
            (net::SOL_RAW, FILTER, _) => Err(Errno::EOPNOTSUPP),
            _ => {
                let context = endpoint.context();
                endpoint.shared.ip.lock().set(context, level, name, value)
            }
        }
    }

    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        let number = match command {
            ioctl::FIONREAD => self.endpoint.inbox.first_len(),
            ioctl::TIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        user::copy_out(argument, &i32::try_from(number).unwrap_or(i32::MAX))?;
        Ok(0)
    }
}
