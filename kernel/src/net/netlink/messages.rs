//! The messages of rtnetlink(7): what programs ask, and what they are told.

use alloc::vec::Vec;
use core::net::IpAddr;

use abi::{Errno, Result, linux, net, netlink, netlink::rtattr_type_t as rta};
use klib::net::{
    Instant,
    neighbours::Neighbour,
    routes::{Origin, Route, network},
    stack::{Own, Standing},
};

use super::{ALIGNMENT, HEADER, half, word};
use crate::{
    net::{
        address::IpAddress,
        device_ioctl::QUEUE_LENGTH,
        interface::{self, Interface, LOWER_UP},
    },
    task::identity,
};

/// Of `struct ifaddrmsg` and `struct rtmsg`: only this machine, only this wire, only this site, anywhere
/// (rtnetlink(7), RT_SCOPE_*).
pub const SCOPE_HOST: u8 = 254;
pub const SCOPE_LINK: u8 = 253;
pub const SCOPE_SITE: u8 = 200;
const SCOPE_UNIVERSE: u8 = 0;
/// The tables of the machine's own addresses, and of the routes (RT_TABLE_*).
const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;
/// IF_OPER_*: what a loopback says of its state, and what others do.
const STATE_UNKNOWN: u8 = 0;
const STATE_DOWN: u8 = 2;
const STATE_UP: u8 = 6;
/// RTPROT_*: who made a route.
const BY_KERNEL: u8 = netlink::RTPROT_KERNEL as u8;
const BY_BOOT: u8 = netlink::RTPROT_BOOT as u8;
const BY_ROUTER: u8 = 9;
const BY_DHCP: u8 = 16;
/// NUD_*: how sure a neighbour is.
const INCOMPLETE: u16 = 1;
const REACHABLE: u16 = 2;
const STALE: u16 = 4;

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
    let traffic = found.traffic();
    let (received, sent) = (traffic.received, traffic.sent);
    // `struct rtnl_link_stats64`: packets and bytes both ways, errors both ways, dropped both ways, and 16 more.
    let mut statistics = [0u64; 24];
    statistics[..8].copy_from_slice(&[
        received.packets,
        sent.packets,
        received.bytes,
        sent.bytes,
        received.errors,
        sent.errors,
        received.dropped,
        sent.dropped,
    ]);
    let statistics: Vec<u8> = statistics.iter().flat_map(|number| number.to_ne_bytes()).collect();
    let (lower, state, queue, broadcast) = match (found.is_loopback(), found.has_link()) {
        (true, _) => (LOWER_UP, STATE_UNKNOWN, &b"noqueue\0"[..], [0; 6]),
        (false, true) => (LOWER_UP, STATE_UP, &b"pfifo_fast\0"[..], [0xff; 6]),
        (false, false) => (0, STATE_DOWN, &b"pfifo_fast\0"[..], [0xff; 6]),
    };
    Writer::new(bytes, netlink::RTM_NEWLINK as u16, flags, question)
        .put(&[0; 2])
        .put(&found.hardware_type.to_ne_bytes())
        .put(&found.index.to_ne_bytes())
        .put(&(found.flags() | lower).to_ne_bytes())
        .put(&0u32.to_ne_bytes())
        .attribute(netlink::IFLA_IFNAME as u32, &[found.name.as_bytes(), &[0]].concat())
        .attribute(netlink::IFLA_TXQLEN as u32, &QUEUE_LENGTH.to_ne_bytes())
        .attribute(netlink::IFLA_OPERSTATE as u32, &[state])
        .attribute(netlink::IFLA_MTU as u32, &found.mtu().to_ne_bytes())
        .attribute(netlink::IFLA_QDISC as u32, queue)
        .attribute(netlink::IFLA_ADDRESS as u32, &found.mac)
        .attribute(netlink::IFLA_BROADCAST as u32, &broadcast)
        .attribute(netlink::IFLA_STATS64 as u32, &statistics)
        .finish()
}

fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { net::AF_INET } else { net::AF_INET6 }) as u8
}

/// The address of everybody in the network of an IPv4 address.
fn broadcast_of(own: &Own) -> Option<IpAddr> {
    match own.ip {
        IpAddr::V4(ip) if own.prefix < 31 => {
            let host = u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
            Some(IpAddr::V4((u32::from(ip) | host).into()))
        }
        _ => None,
    }
}

/// Seconds until then; all ones for good.
fn seconds_until(until: Option<Instant>) -> u32 {
    let now = interface::now();
    until.map_or(u32::MAX, |until| if until <= now { 0 } else { (until - now).secs() as u32 })
}

/// IFA_F_* of an address.
pub fn address_flags(own: &Own) -> u32 {
    let deprecated = own.preferred_until.is_some_and(|until| until <= interface::now());
    let mut flags = 0;
    for (bit, on) in [
        (netlink::IFA_F_PERMANENT, own.valid_until.is_none()),
        (netlink::IFA_F_TENTATIVE, own.standing.is_tentative()),
        (netlink::IFA_F_DADFAILED, own.standing == Standing::Duplicate),
        (netlink::IFA_F_DEPRECATED, deprecated),
    ] {
        flags |= if on { bit } else { 0 };
    }
    flags
}

/// RT_SCOPE_* of an address.
pub fn address_scope(own: &Own) -> u8 {
    match own.ip {
        ip if ip.is_loopback() => SCOPE_HOST,
        IpAddr::V6(ip) if u128::from(ip) >> 118 == 0xfe80 >> 6 => SCOPE_LINK,
        // fec0::/10, which QEMU's user network gives (RFC 3513, 2.5.6).
        IpAddr::V6(ip) if u128::from(ip) >> 118 == 0xfec0 >> 6 => SCOPE_SITE,
        _ => SCOPE_UNIVERSE,
    }
}

fn address_message(bytes: Vec<u8>, found: &Interface, own: &Own, question: &Question) -> Vec<u8> {
    let ip = ip_bytes(own.ip);
    let flags = address_flags(own);
    // `struct ifa_cacheinfo`: preferred and valid so long, made and changed at the start.
    let valid = seconds_until(own.valid_until);
    let preferred = if own.preferred_until.is_some() { seconds_until(own.preferred_until) } else { valid };
    let cache = [preferred, valid, 0, 0].map(u32::to_ne_bytes).concat();
    let mut message = Writer::new(bytes, netlink::RTM_NEWADDR as u16, netlink::NLM_F_MULTI, question)
        .put(&[family(own.ip), own.prefix, flags as u8, address_scope(own)])
        .put(&found.index.to_ne_bytes())
        .attribute(netlink::IFA_ADDRESS as u32, &ip);
    if own.ip.is_ipv4() {
        message = message.attribute(netlink::IFA_LOCAL as u32, &ip);
        if let Some(broadcast) = broadcast_of(own).filter(|_| !found.is_loopback()) {
            message = message.attribute(netlink::IFA_BROADCAST as u32, &ip_bytes(broadcast));
        }
        message = message.attribute(netlink::IFA_LABEL as u32, &[found.name.as_bytes(), &[0]].concat());
    }
    message
        .attribute(netlink::IFA_FLAGS as u32, &flags.to_ne_bytes())
        .attribute(netlink::IFA_CACHEINFO as u32, &cache)
        .finish()
}

/// The head of a route's message: `struct rtmsg`.
struct Head {
    prefix: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
}

fn route_head(bytes: Vec<u8>, destination: IpAddr, head: &Head, question: &Question) -> Writer {
    let message = Writer::new(bytes, netlink::RTM_NEWROUTE as u16, netlink::NLM_F_MULTI, question)
        .put(&[family(destination), head.prefix, 0, 0, head.table, head.protocol, head.scope, head.kind])
        .put(&0u32.to_ne_bytes())
        .attribute(rta::RTA_TABLE as u32, &u32::from(head.table).to_ne_bytes());
    if head.prefix == 0 { message } else { message.attribute(rta::RTA_DST as u32, &ip_bytes(destination)) }
}

/// The route to an address of the machine.
fn own_route_message(bytes: Vec<u8>, found: &Interface, own: &Own, question: &Question) -> Vec<u8> {
    let whole = if own.ip.is_ipv4() { 32 } else { 128 };
    let head = Head {
        prefix: if found.is_loopback() { own.prefix } else { whole },
        table: TABLE_LOCAL,
        protocol: BY_KERNEL,
        scope: if own.ip.is_ipv4() { SCOPE_HOST } else { SCOPE_UNIVERSE },
        kind: netlink::RTN_LOCAL as u8,
    };
    let mut message = route_head(bytes, network(own.ip, head.prefix), &head, question);
    if own.ip.is_ipv4() {
        message = message.attribute(rta::RTA_PREFSRC as u32, &ip_bytes(own.ip));
    }
    message.attribute(rta::RTA_OIF as u32, &found.index.to_ne_bytes()).finish()
}

fn route_message(bytes: Vec<u8>, found: &Interface, route: &Route, question: &Question) -> Vec<u8> {
    let v4 = route.destination.is_ipv4();
    let head = Head {
        prefix: route.prefix,
        table: TABLE_MAIN,
        protocol: match route.origin {
            Origin::Kernel => BY_KERNEL,
            Origin::Dhcp => BY_DHCP,
            Origin::Router => BY_ROUTER,
            Origin::Static => BY_BOOT,
        },
        scope: if v4 && route.gateway.is_none() { SCOPE_LINK } else { SCOPE_UNIVERSE },
        kind: netlink::RTN_UNICAST as u8,
    };
    let mut message = route_head(bytes, route.destination, &head, question);
    if let Some(gateway) = route.gateway {
        message = message.attribute(rta::RTA_GATEWAY as u32, &ip_bytes(gateway));
    }
    if route.metric != 0 {
        message = message.attribute(rta::RTA_PRIORITY as u32, &route.metric.to_ne_bytes());
    }
    if v4
        && let Ok(way) = interface::route(IpAddress::ANY_V4, gateway_or_network(route), found.index)
        && !way.source.is_unspecified()
    {
        message = message.attribute(rta::RTA_PREFSRC as u32, &way.source.v4_bytes());
    }
    message.attribute(rta::RTA_OIF as u32, &found.index.to_ne_bytes()).finish()
}

/// An address that a route leads to.
fn gateway_or_network(route: &Route) -> IpAddress {
    route.gateway.unwrap_or(route.destination).into()
}

fn neighbour_message(bytes: Vec<u8>, found: &Interface, neighbour: &Neighbour, question: &Question) -> Vec<u8> {
    let state = match (neighbour.mac, neighbour.is_reachable) {
        (None, _) => INCOMPLETE,
        (_, true) => REACHABLE,
        (_, false) => STALE,
    };
    let message = Writer::new(bytes, netlink::RTM_NEWNEIGH as u16, netlink::NLM_F_MULTI, question)
        .put(&[family(neighbour.ip), 0, 0, 0])
        .put(&found.index.to_ne_bytes())
        .put(&state.to_ne_bytes())
        .put(&[0, netlink::RTN_UNICAST as u8])
        .attribute(netlink::NDA_DST as u32, &ip_bytes(neighbour.ip));
    match neighbour.mac {
        Some(mac) => message.attribute(netlink::NDA_LLADDR as u32, &mac),
        None => message,
    }
    .finish()
}

/// NLMSG_ERROR: an errno, or 0 for an acknowledgement, and the message it is about.
fn error_message(error: Option<Errno>, about: &[u8], question: &Question) -> Vec<u8> {
    let number = error.map_or(0, |error| -i32::from(error.number()));
    let about = if error.is_some() { about } else { about.get(..HEADER).unwrap_or(about) };
    Writer::new(Vec::new(), netlink::NLMSG_ERROR as u16, 0, question).put(&number.to_ne_bytes()).put(about).finish()
}

/// The attribute `wanted` among those from `at` on.
fn attribute(message: &[u8], at: usize, wanted: u32) -> Option<&[u8]> {
    let mut rest = message.get(at..)?;
    loop {
        let len = usize::from(half(rest, 0));
        let one = rest.get(..len).filter(|one| one.len() >= 4)?;
        if u32::from(half(one, 2)) == wanted {
            return one.get(4..);
        }
        rest = rest.get(len.next_multiple_of(ALIGNMENT)..)?;
    }
}

/// The address in an attribute.
fn address_in(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

/// RTM_NEWADDR and RTM_DELADDR.
fn change_address(message: &[u8], give: bool) -> Result<()> {
    const ATTRIBUTES: usize = HEADER + 8;
    identity::require(linux::CAP_NET_ADMIN)?;
    let prefix = *message.get(HEADER + 1).ok_or(Errno::EINVAL)?;
    let found = interface::by_index(word(message, HEADER + 4)).ok_or(Errno::ENODEV)?;
    let bytes = attribute(message, ATTRIBUTES, netlink::IFA_LOCAL as u32)
        .or_else(|| attribute(message, ATTRIBUTES, netlink::IFA_ADDRESS as u32));
    let ip = bytes.and_then(address_in).ok_or(Errno::EINVAL)?;
    if prefix > if ip.is_ipv4() { 32 } else { 128 } || ip.is_multicast() || ip.is_unspecified() {
        return Err(Errno::EINVAL);
    }
    let ethernet = found.ethernet().ok_or(Errno::EOPNOTSUPP)?;
    if give && found.addresses().iter().any(|own| own.ip == ip) {
        return Err(Errno::EEXIST);
    }
    match ethernet.set_address(ip.into(), prefix, give) {
        true => Ok(()),
        false if give => Err(Errno::ENOBUFS),
        false => Err(Errno::EADDRNOTAVAIL),
    }
}

/// RTM_NEWROUTE and RTM_DELROUTE.
fn change_route(message: &[u8], add: bool) -> Result<()> {
    const ATTRIBUTES: usize = HEADER + 12;
    identity::require(linux::CAP_NET_ADMIN)?;
    let (own_family, prefix) = (*message.get(HEADER).ok_or(Errno::EINVAL)?, message.get(HEADER + 1).copied());
    let prefix = prefix.ok_or(Errno::EINVAL)?;
    let find = |kind: u32| attribute(message, ATTRIBUTES, kind);
    let gateway = match find(rta::RTA_GATEWAY as u32) {
        Some(bytes) => Some(address_in(bytes).ok_or(Errno::EINVAL)?),
        None => None,
    };
    let v4 = u32::from(own_family) == net::AF_INET;
    let any = if v4 { IpAddress::ANY_V4 } else { IpAddress::ANY_V6 };
    let destination = match find(rta::RTA_DST as u32) {
        Some(bytes) => address_in(bytes).ok_or(Errno::EINVAL)?,
        None => any.into(),
    };
    if destination.is_ipv4() != v4 || prefix > if v4 { 32 } else { 128 } {
        return Err(Errno::EINVAL);
    }
    let index = find(rta::RTA_OIF as u32).map_or(0, |bytes| word(bytes, 0));
    let found = match (index, gateway) {
        (0, Some(gateway)) => interface::route(any, gateway.into(), 0)?.interface,
        (0, None) => interface::ethernets().next().ok_or(Errno::ENODEV)?,
        (index, _) => interface::by_index(index).ok_or(Errno::ENODEV)?,
    };
    let metric = find(rta::RTA_PRIORITY as u32).map_or(0, |bytes| word(bytes, 0));
    let route = Route { destination, prefix, gateway, metric, origin: Origin::Static, until: None };
    let ethernet = found.ethernet().ok_or(Errno::EOPNOTSUPP)?;
    match ethernet.set_route(route, add) {
        true => Ok(()),
        false if add => Err(Errno::ENOBUFS),
        false => Err(Errno::ESRCH),
    }
}

/// Answers one message: the answers, each a datagram.
pub(super) fn answer(message: &[u8], port: u32) -> Vec<Vec<u8>> {
    const GET_LINK: u16 = netlink::RTM_GETLINK as u16;
    const GET_ADDRESS: u16 = netlink::RTM_GETADDR as u16;
    const GET_ROUTE: u16 = netlink::RTM_GETROUTE as u16;
    const GET_NEIGHBOUR: u16 = netlink::RTM_GETNEIGH as u16;
    const NEW_ADDRESS: u16 = netlink::RTM_NEWADDR as u16;
    const DELETE_ADDRESS: u16 = netlink::RTM_DELADDR as u16;
    const NEW_ROUTE: u16 = netlink::RTM_NEWROUTE as u16;
    const DELETE_ROUTE: u16 = netlink::RTM_DELROUTE as u16;
    let (kind, flags) = (half(message, 4), u32::from(half(message, 6)));
    let question = Question { sequence: word(message, 8), port };
    let acknowledged = |error| alloc::vec![error_message(error, message, &question)];
    let wants_all = flags & netlink::NLM_F_DUMP == netlink::NLM_F_DUMP;
    if flags & netlink::NLM_F_REQUEST == 0 || u32::from(kind) < netlink::NLMSG_MIN_TYPE {
        return if flags & netlink::NLM_F_ACK != 0 { acknowledged(None) } else { Vec::new() };
    }
    let wanted = message.get(HEADER).copied().unwrap_or(0);
    let is_wanted = |ip: IpAddr| wanted == 0 || family(ip) == wanted;
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
                for own in found.addresses().iter().filter(|own| is_wanted(own.ip)) {
                    all = address_message(all, found, own, &question);
                }
            }
        }
        GET_ROUTE if wants_all => {
            for found in interface::all() {
                for route in found.routes().iter().filter(|route| is_wanted(route.destination)) {
                    all = route_message(all, found, route, &question);
                }
            }
            for found in interface::all() {
                for own in found.addresses().iter().filter(|own| is_wanted(own.ip)) {
                    all = own_route_message(all, found, own, &question);
                }
            }
        }
        GET_NEIGHBOUR if wants_all => {
            for found in interface::ethernets() {
                let neighbours = found.ethernet().map_or_else(Vec::new, |ethernet| ethernet.neighbours());
                for neighbour in neighbours.iter().filter(|neighbour| is_wanted(neighbour.ip)) {
                    all = neighbour_message(all, found, neighbour, &question);
                }
            }
        }
        NEW_ADDRESS | DELETE_ADDRESS | NEW_ROUTE | DELETE_ROUTE => {
            let done = match kind {
                NEW_ADDRESS | DELETE_ADDRESS => change_address(message, kind == NEW_ADDRESS),
                _ => change_route(message, kind == NEW_ROUTE),
            };
            return match done {
                Ok(()) if flags & netlink::NLM_F_ACK == 0 => Vec::new(),
                done => acknowledged(done.err()),
            };
        }
        _ => return acknowledged(Some(Errno::EOPNOTSUPP)),
    }
    let done = Writer::new(Vec::new(), netlink::NLMSG_DONE as u16, netlink::NLM_F_MULTI, &question);
    let done = done.put(&0i32.to_ne_bytes()).finish();
    if all.is_empty() { alloc::vec![done] } else { alloc::vec![all, done] }
}
