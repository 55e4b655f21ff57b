//! Options of ip(7) and ipv6(7), for sockets of every protocol.
//!
//! Most are a switch or a number that says how packets look; within the machine they change nothing but what the
//! receiver is told. An IPv6 socket has those of IPv4 too, for its mapped addresses.

use alloc::vec::Vec;

use abi::{Errno, Result, linux, net};

use super::{
    address::{IpAddress, SocketAddress},
    interface::{self, LOOPBACK},
    multicast::Memberships,
};
use crate::{fs::socket::option_int, task::identity};

/// IP_RECVOPTS and others that are switches of IP, bit n for option n.
const SWITCHES_V4: u64 = bits_v4(&[
    net::IP_ROUTER_ALERT,
    net::IP_RECVOPTS,
    net::IP_RETOPTS,
    net::IP_PKTINFO,
    net::IP_RECVERR,
    net::IP_RECVTTL,
    net::IP_RECVTOS,
    net::IP_FREEBIND,
    net::IP_PASSSEC,
    net::IP_TRANSPARENT,
    net::IP_RECVORIGDSTADDR,
    net::IP_NODEFRAG,
    net::IP_CHECKSUM,
    net::IP_BIND_ADDRESS_NO_PORT,
    net::IP_RECVFRAGSIZE,
    net::IP_RECVERR_RFC4884,
    net::IP_MULTICAST_LOOP,
    net::IP_MULTICAST_ALL,
]);
/// Those of IPv6.
const SWITCHES_V6: u128 = bits_v6(&[
    net::IPV6_2292PKTINFO,
    net::IPV6_2292HOPOPTS,
    net::IPV6_2292DSTOPTS,
    net::IPV6_2292HOPLIMIT,
    net::IPV6_FLOWINFO,
    net::IPV6_MULTICAST_LOOP,
    net::IPV6_RECVERR,
    net::IPV6_MULTICAST_ALL,
    net::IPV6_ROUTER_ALERT_ISOLATE,
    net::IPV6_RECVERR_RFC4884,
    net::IPV6_FLOWINFO_SEND,
    net::IPV6_RECVPKTINFO,
    net::IPV6_RECVHOPLIMIT,
    net::IPV6_RECVHOPOPTS,
    net::IPV6_RECVRTHDR,
    net::IPV6_RECVDSTOPTS,
    net::IPV6_RECVPATHMTU,
    net::IPV6_DONTFRAG,
    net::IPV6_RECVTCLASS,
    net::IPV6_AUTOFLOWLABEL,
    net::IPV6_RECVORIGDSTADDR,
    net::IPV6_TRANSPARENT,
    net::IPV6_RECVFRAGSIZE,
    net::IPV6_FREEBIND,
]);
/// The hop limit of packets unless told otherwise (/proc/sys/net/ipv4/ip_default_ttl).
const DEFAULT_TTL: i32 = net::IPDEFTTL as i32;
/// The most IP_MTU tells: the longest packet of IPv4.
const MAX_MTU_V4: u32 = 65535;
/// IP_PMTUDISC_WANT, the default, and the highest of its kind.
const DISCOVER: i32 = net::IP_PMTUDISC_WANT as i32;
const MAX_DISCOVER: i32 = net::IP_PMTUDISC_OMIT as i32;
/// What IPV6_ADDR_PREFERENCES tells of a new socket.
const DEFAULT_PREFERENCES: u32 = net::IPV6_PREFER_SRC_PUBTMP_DEFAULT | net::IPV6_PREFER_SRC_HOME;

const fn bits_v4(options: &[u32]) -> u64 {
    let (mut bits, mut index) = (0, 0);
    while index < options.len() {
        bits |= 1 << options[index];
        index += 1;
    }
    bits
}

const fn bits_v6(options: &[u32]) -> u128 {
    let (mut bits, mut index) = (0, 0);
    while index < options.len() {
        bits |= 1 << options[index];
        index += 1;
    }
    bits
}

/// The options of one socket.
pub struct IpOptions {
    v4: u64,
    v6: u128,
    tos: u8,
    /// IP_TTL and IPV6_UNICAST_HOPS; -1 for the default.
    ttl: i32,
    hops: i32,
    multicast_ttl: u8,
    multicast_hops: i32,
    min_ttl: u8,
    min_hops: u8,
    tclass: u8,
    discover: i32,
    discover_v6: i32,
    /// IP_MULTICAST_IF: an interface, and the address it was named by.
    multicast_interface: u32,
    multicast_address: IpAddress,
    multicast_interface_v6: u32,
    unicast_interface: i32,
    unicast_interface_v6: i32,
    preferences: u32,
    port_range: u32,
    /// The groups it is a member of.
    pub memberships: Memberships,
}

/// What of a socket its options depend on.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// AF_INET or AF_INET6.
    pub family: u32,
    /// IPPROTO_*.
    pub protocol: u32,
    /// SOCK_RAW.
    pub raw: bool,
    /// SOCK_STREAM.
    pub stream: bool,
    /// It is connected, by an interface that takes packets so long; 0: not.
    pub mtu: u32,
}

/// The number an option of IP gives: an `int`, or one byte where there is no room for one.
fn v4_number(value: &[u8]) -> i32 {
    match (value.first_chunk(), value.first()) {
        (Some(bytes), _) => i32::from_ne_bytes(*bytes),
        (None, Some(byte)) => i32::from(*byte),
        (None, None) => 0,
    }
}

/// IPV6_ADDR_PREFERENCES (RFC 5014): the preferences after `asked`, in which each kind has one answer or none.
fn preferences(current: u32, asked: u32) -> Result<u32> {
    use net::{
        IPV6_PREFER_SRC_CGA as CGA, IPV6_PREFER_SRC_COA as COA, IPV6_PREFER_SRC_HOME as HOME,
        IPV6_PREFER_SRC_NONCGA as NONCGA, IPV6_PREFER_SRC_PUBLIC as PUBLIC, IPV6_PREFER_SRC_PUBTMP_DEFAULT as EITHER,
        IPV6_PREFER_SRC_TMP as TEMPORARY,
    };
    let mut result = current;
    for kind in [PUBLIC | TEMPORARY | EITHER, COA | HOME, CGA | NONCGA] {
        match asked & kind {
            0 => {}
            CGA => return Err(Errno::EINVAL),
            NONCGA => {}
            one if one.is_power_of_two() => result = result & !kind | one,
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(result)
}

/// Checks a range; EINVAL outside.
fn within(number: i32, range: core::ops::RangeInclusive<i32>) -> Result<i32> {
    if range.contains(&number) { Ok(number) } else { Err(Errno::EINVAL) }
}

impl IpOptions {
    /// Those of a new socket.
    pub fn new() -> Self {
        Self {
            v4: bits_v4(&[net::IP_MULTICAST_LOOP, net::IP_MULTICAST_ALL]),
            v6: bits_v6(&[net::IPV6_MULTICAST_LOOP, net::IPV6_MULTICAST_ALL, net::IPV6_AUTOFLOWLABEL]),
            tos: 0,
            ttl: -1,
            hops: -1,
            multicast_ttl: 1,
            multicast_hops: -1,
            min_ttl: 0,
            min_hops: 0,
            tclass: 0,
            discover: DISCOVER,
            discover_v6: DISCOVER,
            multicast_interface: 0,
            multicast_address: IpAddress::ANY_V4,
            multicast_interface_v6: 0,
            unicast_interface: 0,
            unicast_interface_v6: 0,
            preferences: DEFAULT_PREFERENCES,
            port_range: 0,
            memberships: Memberships::new(),
        }
    }

    /// Those of a connection that a listener with these took: all but the groups.
    pub fn inherited(&self) -> Self {
        Self { memberships: Memberships::new(), ..*self }
    }

    /// Whether a switch of IP is on.
    pub fn is_on_v4(&self, name: u32) -> bool {
        self.v4 >> name & 1 != 0
    }

    /// Whether a switch of IPv6 is on.
    pub fn is_on_v6(&self, name: u32) -> bool {
        self.v6 >> name & 1 != 0
    }

    /// Whether an address that is not the machine's may be bound to.
    pub fn binds_anywhere(&self) -> bool {
        self.is_on_v4(net::IP_FREEBIND)
            || self.is_on_v4(net::IP_TRANSPARENT)
            || self.is_on_v6(net::IPV6_FREEBIND)
            || self.is_on_v6(net::IPV6_TRANSPARENT)
    }

    /// The hop limit of what is sent to `destination`.
    pub fn hop_limit(&self, destination: IpAddress) -> i32 {
        let set = match (destination.is_v4(), destination.is_multicast()) {
            (true, true) => i32::from(self.multicast_ttl),
            (true, false) => self.ttl,
            (false, true) if self.multicast_hops < 0 => 1,
            (false, true) => self.multicast_hops,
            (false, false) => self.hops,
        };
        if set < 0 { DEFAULT_TTL } else { set }
    }

    /// IP_TOS or IPV6_TCLASS of what is sent to `destination`.
    pub fn traffic_class(&self, destination: IpAddress) -> u8 {
        if destination.is_v4() { self.tos } else { self.tclass }
    }

    /// Whether what is sent to a group comes back to the machine's own members.
    pub fn loops(&self, v4: bool) -> bool {
        if v4 { self.is_on_v4(net::IP_MULTICAST_LOOP) } else { self.is_on_v6(net::IPV6_MULTICAST_LOOP) }
    }

    /// Whether packets may be cut on their way (IP_MTU_DISCOVER, IPV6_DONTFRAG).
    pub fn may_fragment(&self, v4: bool) -> bool {
        const NEVER: [i32; 2] = [net::IP_PMTUDISC_DO as i32, net::IP_PMTUDISC_PROBE as i32];
        if v4 { !NEVER.contains(&self.discover) } else { !self.is_on_v6(net::IPV6_DONTFRAG) }
    }

    /// The interface that multicast goes by, and the address it is sent from where the program named one.
    pub fn multicast_interface(&self, family_v4: bool) -> (u32, Option<IpAddress>) {
        if family_v4 {
            let named = Some(self.multicast_address).filter(|ip| !ip.is_unspecified());
            (self.multicast_interface, named)
        } else {
            (self.multicast_interface_v6, None)
        }
    }

    /// Whether a datagram from `source` to a group is for this socket.
    pub fn wants_group(&self, group: IpAddress, source: IpAddress, interface: u32) -> bool {
        let otherwise =
            if group.is_v4() { self.is_on_v4(net::IP_MULTICAST_ALL) } else { self.is_on_v6(net::IPV6_MULTICAST_ALL) };
        self.memberships.wants(group, source, interface).unwrap_or(otherwise)
    }

    /// getsockopt(2) for SOL_IP and SOL_IPV6.
    pub fn get(&self, context: Context, level: u32, name: u32) -> Result<Vec<u8>> {
        match level {
            net::SOL_IP => self.get_v4(context, name),
            net::SOL_IPV6 if context.family == net::AF_INET6 => self.get_v6(context, name),
            _ if context.family == net::AF_INET => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// setsockopt(2) for SOL_IP and SOL_IPV6.
    pub fn set(&mut self, context: Context, level: u32, name: u32, value: &[u8]) -> Result<()> {
        match level {
            net::SOL_IP => self.set_v4(context, name, value),
            net::SOL_IPV6 if context.family == net::AF_INET6 => self.set_v6(context, name, value),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn get_v4(&self, context: Context, name: u32) -> Result<Vec<u8>> {
        let number = match name {
            net::IP_OPTIONS => return Ok(Vec::new()),
            net::IP_TOS => i32::from(self.tos),
            net::IP_TTL => self.hop_limit(IpAddress::LOOPBACK_V4),
            net::IP_MTU_DISCOVER => self.discover,
            net::IP_MTU if context.mtu != 0 => context.mtu.min(MAX_MTU_V4) as i32,
            net::IP_MTU => return Err(Errno::ENOTCONN),
            net::IP_MULTICAST_TTL => i32::from(self.multicast_ttl),
            net::IP_MULTICAST_IF => return Ok(self.multicast_address.v4_bytes().to_vec()),
            net::IP_MINTTL => i32::from(self.min_ttl),
            net::IP_UNICAST_IF => self.unicast_interface.to_be(),
            net::IP_LOCAL_PORT_RANGE => self.port_range as i32,
            net::IP_PROTOCOL => context.protocol as i32,
            net::IP_HDRINCL => i32::from(self.is_on_v4(name)),
            _ if name < u64::BITS && SWITCHES_V4 >> name & 1 != 0 => i32::from(self.is_on_v4(name)),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn set_v4(&mut self, context: Context, name: u32, value: &[u8]) -> Result<()> {
        if self.memberships.set_v4(name, value, context.stream)?.is_some() {
            return Ok(());
        }
        let number = v4_number(value);
        match name {
            net::IP_OPTIONS if value.is_empty() => {}
            net::IP_OPTIONS => return Err(Errno::EINVAL),
            // Bits for congestion are the protocol's on a stream.
            net::IP_TOS if context.stream => self.tos = number as u8 & !3 | self.tos & 3,
            net::IP_TOS => self.tos = number as u8,
            net::IP_TTL if value.is_empty() => return Err(Errno::EINVAL),
            net::IP_TTL => {
                self.ttl = if number == -1 { -1 } else { within(number, 1..=255)? };
            }
            net::IP_MTU_DISCOVER => self.discover = within(number, 0..=MAX_DISCOVER)?,
            net::IP_MULTICAST_TTL if context.stream || value.is_empty() => return Err(Errno::EINVAL),
            net::IP_MULTICAST_TTL => {
                self.multicast_ttl = if number == -1 { 1 } else { within(number, 0..=255)? as u8 };
            }
            net::IP_MULTICAST_LOOP if value.is_empty() => return Err(Errno::EINVAL),
            net::IP_MULTICAST_IF => self.set_multicast_interface(context, value)?,
            net::IP_MULTICAST_ALL | net::IP_FREEBIND if value.is_empty() => return Err(Errno::EINVAL),
            net::IP_MULTICAST_ALL => {
                let on = u64::from(within(number, 0..=1)? != 0);
                self.v4 = self.v4 & !(1 << name) | on << name;
            }
            net::IP_MINTTL => self.min_ttl = within(number, 0..=255)? as u8,
            net::IP_UNICAST_IF => {
                let index = i32::from_be(option_int(value)?);
                if index != 0 && interface::by_index(index as u32).is_none() {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                self.unicast_interface = index;
            }
            net::IP_LOCAL_PORT_RANGE => {
                let range = option_int(value)? as u32;
                let (low, high) = (range as u16, (range >> 16) as u16);
                if low != 0 && high != 0 && low > high {
                    return Err(Errno::EINVAL);
                }
                self.port_range = range;
            }
            net::IP_TRANSPARENT if number != 0 => {
                identity::require(linux::CAP_NET_ADMIN)?;
                self.switch_v4(name, true);
            }
            net::IP_NODEFRAG if !context.raw => return Err(Errno::ENOPROTOOPT),
            net::IP_HDRINCL if context.raw => self.switch_v4(name, number != 0),
            _ if name < u64::BITS && SWITCHES_V4 >> name & 1 != 0 => self.switch_v4(name, number != 0),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// Switches IP_HDRINCL on.
    pub fn include_header(&mut self) {
        self.switch_v4(net::IP_HDRINCL, true);
    }

    fn switch_v4(&mut self, name: u32, on: bool) {
        self.v4 = self.v4 & !(1 << name) | u64::from(on) << name;
    }

    /// IP_MULTICAST_IF: a `struct ip_mreqn`, an `ip_mreq` or an address.
    fn set_multicast_interface(&mut self, context: Context, value: &[u8]) -> Result<()> {
        if context.stream {
            return Err(Errno::EINVAL);
        }
        let word = |at: usize| value.get(at..).and_then(<[u8]>::first_chunk).copied();
        let (address, index) = match (value.len(), word(0), word(4), word(8)) {
            (12.., _, Some(address), Some(index)) => (address, u32::from_ne_bytes(index)),
            (8..12, _, Some(address), _) | (4..8, Some(address), ..) => (address, 0),
            _ => return Err(Errno::EINVAL),
        };
        let address = IpAddress::from_v4_bytes(address);
        let index = match index {
            0 if address.is_unspecified() => 0,
            0 if address.is_loopback() => LOOPBACK.index,
            0 => interface::with_address(address).ok_or(Errno::EADDRNOTAVAIL)?.index,
            index => interface::by_index(index).ok_or(Errno::EADDRNOTAVAIL)?.index,
        };
        (self.multicast_interface, self.multicast_address) = (index, address);
        Ok(())
    }

    fn get_v6(&self, context: Context, name: u32) -> Result<Vec<u8>> {
        let number = match name {
            net::IPV6_UNICAST_HOPS => self.hop_limit(IpAddress::LOOPBACK_V6),
            net::IPV6_MULTICAST_HOPS if self.multicast_hops < 0 => 1,
            net::IPV6_MULTICAST_HOPS => self.multicast_hops,
            net::IPV6_MULTICAST_IF => self.multicast_interface_v6 as i32,
            net::IPV6_UNICAST_IF => self.unicast_interface_v6.to_be(),
            net::IPV6_MTU if context.mtu != 0 => context.mtu as i32,
            net::IPV6_MTU => return Err(Errno::ENOTCONN),
            net::IPV6_MTU_DISCOVER => self.discover_v6,
            net::IPV6_TCLASS => i32::from(self.tclass),
            net::IPV6_ADDR_PREFERENCES => self.preferences as i32,
            net::IPV6_MINHOPCOUNT => i32::from(self.min_hops),
            net::IPV6_ADDRFORM if context.protocol == net::IPPROTO_TCP as u32 && context.mtu == 0 => {
                return Err(Errno::ENOTCONN);
            }
            net::IPV6_ADDRFORM => net::AF_INET6 as i32,
            net::IPV6_HOPOPTS | net::IPV6_RTHDR | net::IPV6_RTHDRDSTOPTS | net::IPV6_DSTOPTS => return Ok(Vec::new()),
            _ if name < u128::BITS && SWITCHES_V6 >> name & 1 != 0 => i32::from(self.is_on_v6(name)),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn set_v6(&mut self, context: Context, name: u32, value: &[u8]) -> Result<()> {
        if self.memberships.set_v6(name, value, context.stream)?.is_some() {
            return Ok(());
        }
        if matches!(name, net::IPV6_HOPOPTS | net::IPV6_RTHDR | net::IPV6_RTHDRDSTOPTS | net::IPV6_DSTOPTS) {
            // None at all is what a socket has anyway; extension headers are not sent.
            return if value.is_empty() { Ok(()) } else { Err(Errno::EPERM) };
        }
        let is_known = name < u128::BITS && SWITCHES_V6 >> name & 1 != 0;
        let number = match option_int(value) {
            Ok(number) => number,
            Err(_) if !is_known && self.get_v6(context, name) == Err(Errno::ENOPROTOOPT) => {
                return Err(Errno::ENOPROTOOPT);
            }
            Err(error) => return Err(error),
        };
        match name {
            net::IPV6_UNICAST_HOPS => self.hops = within(number, -1..=255)?,
            net::IPV6_MULTICAST_HOPS if context.stream => return Err(Errno::ENOPROTOOPT),
            net::IPV6_MULTICAST_HOPS => self.multicast_hops = within(number, -1..=255)?,
            net::IPV6_MULTICAST_IF if context.stream => return Err(Errno::ENOPROTOOPT),
            net::IPV6_MULTICAST_IF => {
                if number != 0 && interface::by_index(number as u32).is_none() {
                    return Err(Errno::ENODEV);
                }
                self.multicast_interface_v6 = number as u32;
            }
            net::IPV6_UNICAST_IF => {
                let index = i32::from_be(number);
                if index != 0 && interface::by_index(index as u32).is_none() {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                self.unicast_interface_v6 = index;
            }
            net::IPV6_MTU if number != 0 && number < net::IPV6_MIN_MTU as i32 => return Err(Errno::EINVAL),
            net::IPV6_MTU => {}
            net::IPV6_MTU_DISCOVER => self.discover_v6 = within(number, 0..=MAX_DISCOVER)?,
            net::IPV6_TCLASS => {
                let class = within(number, -1..=255)?.max(0) as u8;
                // Bits for congestion are the protocol's on a stream.
                self.tclass = if context.stream { class & !3 } else { class };
            }
            net::IPV6_ADDR_PREFERENCES => self.preferences = preferences(self.preferences, number as u32)?,
            net::IPV6_MINHOPCOUNT => self.min_hops = within(number, 0..=255)? as u8,
            net::IPV6_MULTICAST_LOOP | net::IPV6_MULTICAST_ALL => {
                let on = within(number, 0..=1)? != 0;
                self.v6 = self.v6 & !(1 << name) | u128::from(on) << name;
            }
            net::IPV6_TRANSPARENT if number != 0 => {
                identity::require(linux::CAP_NET_ADMIN)?;
                self.v6 |= 1 << name;
            }
            _ if is_known => self.v6 = self.v6 & !(1 << name) | u128::from(number != 0) << name,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// The ancillary data that a receiver with these options gets with a datagram.
    pub fn ancillary(&self, family: u32, packet: &Arrival) -> Vec<(u32, u32, Vec<u8>)> {
        let mut parts = Vec::new();
        let (mapped, v6) = (packet.destination.ip.is_v4(), family == net::AF_INET6);
        let number = |number: i32| number.to_ne_bytes().to_vec();
        let index = packet.interface.to_ne_bytes();
        if v6 {
            if self.is_on_v6(net::IPV6_RECVPKTINFO) {
                let bytes = [&packet.destination.ip.v6_bytes()[..], &index].concat();
                parts.push((net::SOL_IPV6, net::IPV6_PKTINFO, bytes));
            }
            if self.is_on_v6(net::IPV6_RECVHOPLIMIT) && !mapped {
                parts.push((net::SOL_IPV6, net::IPV6_HOPLIMIT, number(packet.hop_limit)));
            }
            if self.is_on_v6(net::IPV6_RECVTCLASS) && !mapped {
                parts.push((net::SOL_IPV6, net::IPV6_TCLASS, number(i32::from(packet.traffic_class))));
            }
            if self.is_on_v6(net::IPV6_RECVORIGDSTADDR) && !mapped {
                let address = packet.destination.to_bytes(net::AF_INET6);
                parts.push((net::SOL_IPV6, net::IPV6_RECVORIGDSTADDR, address));
            }
        }
        if mapped {
            if self.is_on_v4(net::IP_PKTINFO) {
                // The address that answers would come from, and the one the datagram was sent to.
                let bytes = packet.destination.ip.v4_bytes();
                let specific = if packet.destination.ip.is_loopback() { bytes } else { packet.local.v4_bytes() };
                parts.push((net::SOL_IP, net::IP_PKTINFO, [&index[..], &specific, &bytes].concat()));
            }
            if self.is_on_v4(net::IP_RECVTTL) {
                parts.push((net::SOL_IP, net::IP_TTL, number(packet.hop_limit)));
            }
            if self.is_on_v4(net::IP_RECVTOS) {
                parts.push((net::SOL_IP, net::IP_TOS, alloc::vec![packet.traffic_class]));
            }
            if self.is_on_v4(net::IP_RECVORIGDSTADDR) {
                parts.push((net::SOL_IP, net::IP_RECVORIGDSTADDR, packet.destination.to_bytes(net::AF_INET)));
            }
        }
        parts
    }
}

/// What is told of a datagram besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Where it was sent to.
    pub destination: SocketAddress,
    /// The machine's own address on the interface it came by.
    pub local: IpAddress,
    /// The number of that interface.
    pub interface: u32,
    /// IP_TTL or hop limit.
    pub hop_limit: i32,
    /// IP_TOS or traffic class.
    pub traffic_class: u8,
}
