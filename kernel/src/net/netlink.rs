//! AF_NETLINK sockets (netlink(7)), for NETLINK_ROUTE (rtnetlink(7)): programs ask for interfaces, addresses and routes,
//! as getifaddrs(3), if_nameindex(3) and getaddrinfo(3) do.
//!
//! A question is answered at once into the asking socket's queue. Nothing changes by itself, so there is no news for the
//! groups that a program may join.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};

use abi::{Errno, Result, ioctl, net, netlink};
use hal::UserAddr;

use super::{
    address::{IpAddress, family_of},
    device_ioctl::QUEUE_LENGTH,
    interface::{self, Interface, InterfaceAddress},
};
use crate::{
    fs::{
        PollEvents, PollTable,
        socket::{Incoming, Outgoing, Patience, SocketOps, SocketType, option_int},
    },
    mm::user,
    sync::IrqLock,
    task::{scheduler, wait::WaitQueue},
};

/// Bytes of `struct sockaddr_nl` and of `struct nlmsghdr`.
const ADDRESS: usize = 12;
const HEADER: usize = 16;
/// The most that waits to be received, in bytes, and the most of one send.
const MAX_QUEUE: usize = 212_992;
const MAX_SEND: usize = 65536;
/// Messages begin at multiples of this.
const ALIGNMENT: usize = 4;
/// Of `struct ifaddrmsg` and `struct rtmsg`: only this machine (rtnetlink(7), RT_SCOPE_HOST).
const SCOPE_HOST: u8 = 254;
/// The table of the machine's own addresses (RT_TABLE_LOCAL).
const TABLE_LOCAL: u8 = 255;
/// IF_OPER_UNKNOWN: what a loopback says of its state.
const STATE_UNKNOWN: u8 = 0;

/// Which port numbers are taken.
static PORTS: IrqLock<BTreeMap<u32, ()>> = IrqLock::new(BTreeMap::new());

struct State {
    /// 0 until it has one.
    port: u32,
    groups: u32,
    peer: u32,
    inbox: VecDeque<Vec<u8>>,
    queued: usize,
    /// Options that are switches, bit n for option n.
    switches: u32,
    overrun: bool,
}

/// A socket of the family.
pub struct NetlinkSocket {
    events: Arc<WaitQueue>,
    state: IrqLock<State>,
}

/// `struct sockaddr_nl`.
fn address(port: u32, groups: u32) -> Vec<u8> {
    [&(net::AF_NETLINK as u16).to_ne_bytes()[..], &[0; 2], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_ne_bytes(*word))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |half| u16::from_ne_bytes(*half))
}

/// Port and groups of a `struct sockaddr_nl`. EINVAL where it is none.
fn parse(bytes: &[u8]) -> Result<(u32, u32)> {
    if bytes.len() < ADDRESS || family_of(bytes)? != net::AF_NETLINK {
        return Err(Errno::EINVAL);
    }
    Ok((word(bytes, 4), word(bytes, 8)))
}

/// A message being written.
struct Writer {
    bytes: Vec<u8>,
    start: usize,
}

impl Writer {
    /// Begins a message behind others in `bytes`.
    fn new(mut bytes: Vec<u8>, kind: u16, flags: u32, question: &Question) -> Self {
        let start = bytes.len();
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags as u16).to_ne_bytes());
        bytes.extend(question.sequence.to_ne_bytes());
        bytes.extend(question.port.to_ne_bytes());
        Self { bytes, start }
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// An attribute: length and type, then its bytes.
    fn attribute(mut self, kind: u32, data: &[u8]) -> Self {
        self.bytes.extend(((4 + data.len()) as u16).to_ne_bytes());
        self.bytes.extend((kind as u16).to_ne_bytes());
        self.bytes.extend(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// The bytes, with the message's length where it belongs.
    fn finish(mut self) -> Vec<u8> {
        let len = (self.bytes.len() - self.start) as u32;
        if let Some(room) = self.bytes.get_mut(self.start..self.start + 4) {
            room.copy_from_slice(&len.to_ne_bytes());
        }
        self.bytes
    }
}

/// Who asks: what answers repeat.
struct Question {
    sequence: u32,
    port: u32,
}

fn link_message(bytes: Vec<u8>, found: &Interface, flags: u32, question: &Question) -> Vec<u8> {
    /// Bytes of a hardware address; a loopback's is zeroes.
    const HARDWARE: [u8; 6] = [0; 6];
    let traffic = found.traffic();
    // `struct rtnl_link_stats64`: packets and bytes both ways, errors, dropped both ways, and 16 more.
    let mut statistics = [0u64; 24];
    statistics[..4].copy_from_slice(&[traffic.packets, traffic.packets, traffic.bytes, traffic.bytes]);
    statistics[6] = traffic.dropped;
    let statistics: Vec<u8> = statistics.iter().flat_map(|number| number.to_ne_bytes()).collect();
    Writer::new(bytes, netlink::RTM_NEWLINK as u16, flags, question)
        .put(&[0; 2])
        .put(&found.hardware_type.to_ne_bytes())
        .put(&found.index.to_ne_bytes())
        .put(&(found.flags | net::net_device_flags::IFF_LOWER_UP as u32).to_ne_bytes())
        .put(&0u32.to_ne_bytes())
        .attribute(netlink::IFLA_IFNAME as u32, &[found.name.as_bytes(), &[0]].concat())
        .attribute(netlink::IFLA_TXQLEN as u32, &QUEUE_LENGTH.to_ne_bytes())
        .attribute(netlink::IFLA_OPERSTATE as u32, &[STATE_UNKNOWN])
        .attribute(netlink::IFLA_MTU as u32, &found.mtu.to_ne_bytes())
        .attribute(netlink::IFLA_QDISC as u32, b"noqueue\0")
        .attribute(netlink::IFLA_ADDRESS as u32, &HARDWARE)
        .attribute(netlink::IFLA_BROADCAST as u32, &HARDWARE)
        .attribute(netlink::IFLA_STATS64 as u32, &statistics)
        .finish()
}

fn ip_bytes(ip: IpAddress) -> Vec<u8> {
    if ip.is_v4() { ip.v4_bytes().to_vec() } else { ip.v6_bytes().to_vec() }
}

fn family(ip: IpAddress) -> u8 {
    (if ip.is_v4() { net::AF_INET } else { net::AF_INET6 }) as u8
}

fn address_message(bytes: Vec<u8>, found: &Interface, own: &InterfaceAddress, question: &Question) -> Vec<u8> {
    let ip = ip_bytes(own.ip);
    let permanent = netlink::IFA_F_PERMANENT;
    // `struct ifa_cacheinfo`: valid and preferred for ever, made and changed at the start.
    let cache = [u32::MAX, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
    let mut message = Writer::new(bytes, netlink::RTM_NEWADDR as u16, netlink::NLM_F_MULTI, question)
        .put(&[family(own.ip), own.prefix, permanent as u8, SCOPE_HOST])
        .put(&found.index.to_ne_bytes())
        .attribute(netlink::IFA_ADDRESS as u32, &ip);
    if own.ip.is_v4() {
        message = message
            .attribute(netlink::IFA_LOCAL as u32, &ip)
            .attribute(netlink::IFA_LABEL as u32, &[found.name.as_bytes(), &[0]].concat());
    }
    message
        .attribute(netlink::IFA_FLAGS as u32, &permanent.to_ne_bytes())
        .attribute(netlink::IFA_CACHEINFO as u32, &cache)
        .finish()
}

fn route_message(bytes: Vec<u8>, found: &Interface, own: &InterfaceAddress, question: &Question) -> Vec<u8> {
    let kind = netlink::RTN_LOCAL as u8;
    let scope = if own.ip.is_v4() { SCOPE_HOST } else { 0 };
    let mut message = Writer::new(bytes, netlink::RTM_NEWROUTE as u16, netlink::NLM_F_MULTI, question)
        .put(&[family(own.ip), own.prefix, 0, 0, TABLE_LOCAL, netlink::RTPROT_KERNEL as u8, scope, kind])
        .put(&0u32.to_ne_bytes())
        .attribute(netlink::rtattr_type_t::RTA_TABLE as u32, &u32::from(TABLE_LOCAL).to_ne_bytes());
    let network = match own.ip.as_v4() {
        Some(number) => IpAddress::v4(number & u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0)),
        None => own.ip,
    };
    message = message.attribute(netlink::rtattr_type_t::RTA_DST as u32, &ip_bytes(network));
    if own.ip.is_v4() {
        message = message.attribute(netlink::rtattr_type_t::RTA_PREFSRC as u32, &ip_bytes(own.ip));
    }
    message.attribute(netlink::rtattr_type_t::RTA_OIF as u32, &found.index.to_ne_bytes()).finish()
}

/// NLMSG_ERROR: an errno, or 0 for an acknowledgement, and the message it is about.
fn error_message(error: Option<Errno>, about: &[u8], question: &Question) -> Vec<u8> {
    let number = error.map_or(0, |error| -i32::from(error.number()));
    let about = if error.is_some() { about } else { about.get(..HEADER).unwrap_or(about) };
    Writer::new(Vec::new(), netlink::NLMSG_ERROR as u16, 0, question).put(&number.to_ne_bytes()).put(about).finish()
}

/// Answers one message: the answers, each a datagram.
fn answer(message: &[u8], port: u32) -> Vec<Vec<u8>> {
    const GET_LINK: u16 = netlink::RTM_GETLINK as u16;
    const GET_ADDRESS: u16 = netlink::RTM_GETADDR as u16;
    const GET_ROUTE: u16 = netlink::RTM_GETROUTE as u16;
    let (kind, flags) = (half(message, 4), u32::from(half(message, 6)));
    let question = Question { sequence: word(message, 8), port };
    let acknowledged = |error| alloc::vec![error_message(error, message, &question)];
    let wants_all = flags & netlink::NLM_F_DUMP == netlink::NLM_F_DUMP;
    if flags & netlink::NLM_F_REQUEST == 0 || u32::from(kind) < netlink::NLMSG_MIN_TYPE {
        return if flags & netlink::NLM_F_ACK != 0 { acknowledged(None) } else { Vec::new() };
    }
    let wanted = message.get(HEADER).copied().unwrap_or(0);
    let is_wanted = |own: &&InterfaceAddress| wanted == 0 || family(own.ip) == wanted;
    let mut all = Vec::new();
    match kind {
        GET_LINK if wants_all => {
            for found in interface::all() {
                all = link_message(all, found, netlink::NLM_F_MULTI, &question);
            }
        }
        GET_LINK => {
            // `struct ifinfomsg`, then perhaps a name.
            let index = word(message, HEADER + 4);
            let name_at = HEADER + 16 + 4;
            let name = message.get(name_at..).unwrap_or_default().split(|byte| *byte == 0).next();
            let found = match index {
                0 => name.and_then(interface::by_name),
                index => interface::by_index(index),
            };
            let Some(found) = found else { return acknowledged(Some(Errno::ENODEV)) };
            return alloc::vec![link_message(Vec::new(), found, 0, &question)];
        }
        GET_ADDRESS if wants_all => {
            for found in interface::all() {
                for own in found.addresses.iter().filter(is_wanted) {
                    all = address_message(all, found, own, &question);
                }
            }
        }
        GET_ROUTE if wants_all => {
            for found in interface::all() {
                for own in found.addresses.iter().filter(is_wanted) {
                    all = route_message(all, found, own, &question);
                }
            }
        }
        _ => return acknowledged(Some(Errno::EOPNOTSUPP)),
    }
    let done = Writer::new(Vec::new(), netlink::NLMSG_DONE as u16, netlink::NLM_F_MULTI, &question);
    let done = done.put(&0i32.to_ne_bytes()).finish();
    if all.is_empty() { alloc::vec![done] } else { alloc::vec![all, done] }
}

impl NetlinkSocket {
    /// socket(2).
    pub fn open(kind: SocketType, protocol: u32) -> Result<Arc<dyn SocketOps>> {
        if !matches!(kind, SocketType::Raw | SocketType::Datagram) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if protocol != netlink::NETLINK_ROUTE {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let state =
            State { port: 0, groups: 0, peer: 0, inbox: VecDeque::new(), queued: 0, switches: 0, overrun: false };
        Ok(Arc::new(Self { events: Arc::new(WaitQueue::new()), state: IrqLock::new(state) }))
    }

    /// Takes a port number: the process's own where that is free.
    fn bind_itself(&self) {
        let mut state = self.state.lock();
        if state.port != 0 {
            return;
        }
        let mut ports = PORTS.lock();
        let own = scheduler::current().process().pid() as u32;
        // Others are above any process number, from the top down.
        let mut others = (0..=u32::MAX - (1 << 31)).map(|step| u32::MAX - step);
        let port = if ports.contains_key(&own) { others.find(|port| !ports.contains_key(port)) } else { Some(own) };
        if let Some(port) = port {
            ports.insert(port, ());
            state.port = port;
        }
    }

    fn take(&self, peek: bool) -> Result<Option<Vec<u8>>> {
        let mut state = self.state.lock();
        if core::mem::take(&mut state.overrun) {
            return Err(Errno::ENOBUFS);
        }
        if peek {
            return Ok(state.inbox.front().cloned());
        }
        let taken = state.inbox.pop_front();
        state.queued -= taken.as_ref().map_or(0, Vec::len);
        Ok(taken)
    }
}

impl Drop for NetlinkSocket {
    fn drop(&mut self) {
        let port = self.state.lock().port;
        if port != 0 {
            PORTS.lock().remove(&port);
        }
    }
}

impl SocketOps for NetlinkSocket {
    fn bind(&self, bytes: &[u8]) -> Result<()> {
        let (port, groups) = parse(bytes)?;
        {
            let mut state = self.state.lock();
            if state.port != 0 && port != state.port && port != 0 {
                return Err(Errno::EINVAL);
            }
            state.groups = groups;
            if state.port == 0 && port != 0 {
                let mut ports = PORTS.lock();
                if ports.contains_key(&port) {
                    return Err(Errno::EADDRINUSE);
                }
                ports.insert(port, ());
                state.port = port;
            }
        }
        self.bind_itself();
        Ok(())
    }

    fn listen(&self, _backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn accept(&self, _patience: Patience) -> Result<(Arc<dyn SocketOps>, Vec<u8>)> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, bytes: &[u8], _patience: Patience) -> Result<()> {
        if family_of(bytes)? == net::AF_UNSPEC {
            self.state.lock().peer = 0;
            return Ok(());
        }
        let (port, _) = parse(bytes)?;
        self.bind_itself();
        self.state.lock().peer = port;
        Ok(())
    }

    fn local_address(&self) -> Vec<u8> {
        let state = self.state.lock();
        address(state.port, state.groups)
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        Ok(address(self.state.lock().peer, 0))
    }

    fn shutdown(&self, _read: bool, _write: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let to = match message.address {
            Some(bytes) => parse(bytes)?.0,
            None => self.state.lock().peer,
        };
        self.bind_itself();
        let len = message.data.remaining();
        if len > MAX_SEND {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = alloc::vec![0; len];
        if message.data.take(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        // Only the kernel listens.
        if to != 0 {
            return Err(Errno::ECONNREFUSED);
        }
        let port = self.state.lock().port;
        let mut rest = bytes.as_slice();
        while rest.len() >= HEADER {
            let size = word(rest, 0) as usize;
            let Some(one) = rest.get(..size).filter(|one| one.len() >= HEADER) else { break };
            let answers = answer(one, port);
            let mut state = self.state.lock();
            for answer in answers {
                if state.queued + answer.len() > MAX_QUEUE {
                    state.overrun = true;
                    break;
                }
                state.queued += answer.len();
                state.inbox.push_back(answer);
            }
            drop(state);
            rest = rest.get(size.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        self.events.wake_all();
        Ok(len)
    }

    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = message.flags & net::MSG_PEEK != 0;
        let bytes = loop {
            if let Some(bytes) = self.take(peek)? {
                break bytes;
            }
            message.patience.wait(&[&self.events], || {
                let state = self.state.lock();
                (!state.inbox.is_empty() || state.overrun).then_some(())
            })?;
        };
        message.address = address(0, 0);
        let room = message.data.remaining();
        let copied = if room > 0 && !bytes.is_empty() { message.data.put(&bytes)? } else { 0 };
        if bytes.len() > room {
            message.result_flags |= net::MSG_TRUNC;
        }
        Ok(if message.flags & net::MSG_TRUNC != 0 { bytes.len() } else { copied })
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.events);
        let state = self.state.lock();
        PollEvents::IN.when(!state.inbox.is_empty()) | PollEvents::ERR.when(state.overrun) | PollEvents::OUT_BAND
    }

    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        let state = self.state.lock();
        let number = match (level, name) {
            (net::SOL_SOCKET, net::SO_ERROR | net::SO_ACCEPTCONN) => 0,
            (net::SOL_SOCKET, net::SO_SNDBUF | net::SO_RCVBUF) => MAX_QUEUE as i32,
            (net::SOL_NETLINK, 1..32) => i32::from(state.switches >> name & 1 != 0),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let number = option_int(value)?;
        let mut state = self.state.lock();
        match (level, name) {
            (net::SOL_SOCKET, net::SO_SNDBUF | net::SO_RCVBUF | net::SO_SNDBUFFORCE | net::SO_RCVBUFFORCE) => {}
            (net::SOL_NETLINK, netlink::NETLINK_ADD_MEMBERSHIP | netlink::NETLINK_DROP_MEMBERSHIP) => {
                let group = u32::try_from(number).ok().filter(|group| (1..=32).contains(group)).ok_or(Errno::EINVAL)?;
                let bit = 1 << (group - 1);
                let on = name == netlink::NETLINK_ADD_MEMBERSHIP;
                state.groups = if on { state.groups | bit } else { state.groups & !bit };
            }
            (
                net::SOL_NETLINK,
                netlink::NETLINK_PKTINFO
                | netlink::NETLINK_BROADCAST_ERROR
                | netlink::NETLINK_NO_ENOBUFS
                | netlink::NETLINK_CAP_ACK
                | netlink::NETLINK_EXT_ACK
                | netlink::NETLINK_GET_STRICT_CHK,
            ) => state.switches = state.switches & !(1 << name) | u32::from(number != 0) << name,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        match command {
            ioctl::FIONREAD => {
                let len = self.state.lock().inbox.front().map_or(0, Vec::len);
                user::copy_out(argument, &(len as i32))?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}
