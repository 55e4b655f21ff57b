//! Sending datagrams, and who they are for.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, net};
use klib::net::{packet::Outgoing, stack::NotSent};

use super::{Endpoint, arrive, options::UDP_SEGMENT};
use crate::{
    fs::socket::{Outgoing as Message, Patience},
    mm::frames,
    net::{
        address::{IpAddress, SocketAddress},
        inbox::Datagram,
        interface::{self, Kind, LOOPBACK, Route},
        ip_options::Arrival,
    },
    time,
};

/// The most bytes of a datagram: a packet of 65535 bytes less its headers, which IPv6 does not count.
const MAX_V4: usize = 65535 - 20 - 8;
const MAX_V6: usize = 65535 - 8;
/// Bytes of a header.
const HEADER: usize = 8;
/// MSG_MORE does what UDP_CORK does, for one call.
const MSG_MORE: u32 = net::MSG_MORE;
/// The most datagrams that UDP_SEGMENT makes of one call (linux/udp.h, UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: usize = 128;

/// Bytes held back, and where they will go.
pub(super) struct Corked {
    bytes: Vec<u8>,
    destination: SocketAddress,
    control: Sending,
}

/// What the ancillary data of a send asks for.
#[derive(Clone, Copy, Default)]
struct Sending {
    source: Option<IpAddress>,
    device: u32,
    hop_limit: Option<i32>,
    traffic_class: Option<u8>,
    segment: Option<u16>,
}

fn int(data: &[u8]) -> Result<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)
}

impl Sending {
    /// From the parts of ip(7) and ipv6(7). EINVAL for one that is none, or of the wrong size.
    fn new(parts: &[(u32, u32, Vec<u8>)], family: u32) -> Result<Self> {
        let mut sending = Self::default();
        for (level, kind, data) in parts {
            match (*level, *kind) {
                (net::SOL_IP, net::IP_PKTINFO) => {
                    let info = data.first_chunk::<12>().ok_or(Errno::EINVAL)?;
                    sending.device = int(info)? as u32;
                    let [_, _, _, _, a, b, c, d, ..] = *info;
                    let source = IpAddress::from_v4_bytes([a, b, c, d]);
                    sending.source = Some(source).filter(|source| !source.is_unspecified());
                }
                (net::SOL_IP, net::IP_TTL) => {
                    sending.hop_limit =
                        Some(int(data).ok().filter(|ttl| (1..=255).contains(ttl)).ok_or(Errno::EINVAL)?);
                }
                (net::SOL_IP, net::IP_TOS) => {
                    let class = match data.as_slice() {
                        [class] => i32::from(*class),
                        data => int(data)?,
                    };
                    sending.traffic_class = Some(u8::try_from(class).map_err(|_| Errno::EINVAL)?);
                }
                (net::SOL_IP, _) if family == net::AF_INET => return Err(Errno::EINVAL),
                (net::SOL_IPV6, net::IPV6_PKTINFO) if family == net::AF_INET6 => {
                    let info = data.first_chunk::<20>().ok_or(Errno::EINVAL)?;
                    let address = info.first_chunk().copied().ok_or(Errno::EINVAL)?;
                    let source = IpAddress::from_v6_bytes(address);
                    sending.device = int(info.get(16..).unwrap_or_default())? as u32;
                    sending.source = Some(source).filter(|source| !source.is_unspecified());
                }
                (net::SOL_IPV6, net::IPV6_HOPLIMIT) if family == net::AF_INET6 => {
                    let limit = int(data).ok().filter(|limit| (-1..=255).contains(limit)).ok_or(Errno::EINVAL)?;
                    sending.hop_limit = Some(limit).filter(|limit| *limit >= 0);
                }
                (net::SOL_IPV6, net::IPV6_TCLASS) if family == net::AF_INET6 => {
                    let class = int(data).ok().filter(|class| (-1..=255).contains(class)).ok_or(Errno::EINVAL)?;
                    sending.traffic_class = u8::try_from(class).ok();
                }
                (net::SOL_IPV6, net::IPV6_DONTFRAG) if family == net::AF_INET6 => {}
                (net::SOL_IPV6, _) if family == net::AF_INET6 => return Err(Errno::EINVAL),
                (net::SOL_UDP, UDP_SEGMENT) => {
                    let size = data.as_slice().try_into().map_err(|_| Errno::EINVAL)?;
                    sending.segment = Some(u16::from_ne_bytes(size));
                }
                (net::SOL_UDP, _) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        if sending.device != 0 && interface::by_index(sending.device).is_none() {
            return Err(Errno::ENODEV);
        }
        Ok(sending)
    }
}

impl Endpoint {
    /// send(2) and its relatives.
    pub(super) fn send(&self, message: &mut Message<'_, '_>) -> Result<usize> {
        let len = message.data.remaining();
        if len > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let corked = self.state.lock().corked.as_ref().map(|corked| (corked.destination, corked.control));
        let (destination, control) = match corked {
            Some(known) => known,
            None => {
                let destination = match message.address {
                    Some(address) => {
                        let target = self.parse_destination(address)?;
                        if target.port == 0 {
                            return Err(Errno::EINVAL);
                        }
                        target
                    }
                    None => self.state.lock().remote.ok_or(Errno::EDESTADDRREQ)?,
                };
                (destination, Sending::new(&message.control.others, self.shared.family)?)
            }
        };
        self.bind_itself()?;
        let bytes = take(message, len)?;
        let held = {
            self.inbox.check_sending()?;
            let mut state = self.state.lock();
            let more = state.options.cork || message.flags & MSG_MORE != 0;
            match state.corked.take() {
                None if !more => Some(bytes),
                before => {
                    let mut all = before.map_or_else(Vec::new, |corked| corked.bytes);
                    if all.len() + bytes.len() > MAX_V4 {
                        return Err(Errno::EMSGSIZE);
                    }
                    all.extend(bytes);
                    if more {
                        state.corked = Some(Corked { bytes: all, destination, control });
                        None
                    } else {
                        Some(all)
                    }
                }
            }
        };
        if let Some(bytes) = held {
            self.send_bytes(bytes, destination, control, message.patience)?;
        }
        Ok(len)
    }

    /// Sends what was held back, where something was (UDP_CORK set to 0).
    pub(super) fn uncork(&self) -> Result<()> {
        let corked = self.state.lock().corked.take();
        match corked {
            Some(corked) => {
                let patience = Patience { nonblocking: true, deadline_ns: None };
                self.send_bytes(corked.bytes, corked.destination, corked.control, patience)
            }
            None => Ok(()),
        }
    }

    fn send_bytes(&self, bytes: Vec<u8>, target: SocketAddress, control: Sending, patience: Patience) -> Result<()> {
        let shared = &self.shared;
        let v4 = target.ip.is_v4();
        if bytes.len() > if v4 { MAX_V4 } else { MAX_V6 } {
            return Err(Errno::EMSGSIZE);
        }
        let (local, port, set_segment) = {
            let state = self.state.lock();
            (state.local, state.binding.as_ref().map_or(0, |binding| binding.port()), state.options.segment)
        };
        let (hop_limit, traffic_class, multicast) = {
            let ip = shared.ip.lock();
            (ip.hop_limit(target.ip), ip.traffic_class(target.ip), ip.multicast_interface(v4))
        };
        let mut device = [control.device, target.scope, shared.device()].into_iter().find(|index| *index != 0);
        let mut source = control.source.unwrap_or(local);
        if let Some(chosen) = control.source
            && interface::kind(chosen) != Kind::Local
            && !shared.ip.lock().binds_anywhere()
        {
            return Err(Errno::EINVAL);
        }
        if target.ip.is_multicast() {
            device = device.or(Some(multicast.0).filter(|index| *index != 0));
            if source.is_unspecified() {
                source = multicast.1.unwrap_or(source);
            }
        }
        let device = device.unwrap_or(0);
        let route = interface::route(source, target.ip, device)?;
        if route.kind == Kind::Broadcast && !shared.common.is_on(net::SO_BROADCAST) {
            return Err(Errno::EACCES);
        }
        let arrival = Arrival {
            destination: SocketAddress { ip: route.destination, ..target },
            local: if route.interface.is_loopback() { route.destination.loopback_of_family() } else { route.source },
            interface: route.interface.index,
            hop_limit: control.hop_limit.unwrap_or(hop_limit),
            traffic_class: control.traffic_class.unwrap_or(traffic_class),
        };
        let datagram = Datagram {
            bytes: Arc::new(Vec::new()),
            source: SocketAddress {
                scope: scope_of(route.source, route.interface.index),
                ..SocketAddress::new(route.source, port)
            },
            arrival,
            time_ns: time::realtime_ns(),
        };
        match control.segment.unwrap_or(set_segment) {
            0 => self.deliver_by(route, datagram, bytes, patience)?,
            segment if bytes.len().div_ceil(usize::from(segment)) > MAX_SEGMENTS => return Err(Errno::EINVAL),
            segment => {
                for part in bytes.chunks(usize::from(segment)) {
                    self.deliver_by(route, datagram.clone(), part.to_vec(), patience)?;
                }
            }
        }
        Ok(())
    }

    /// Hands a datagram to everybody it is for.
    fn deliver_by(&self, route: Route, mut datagram: Datagram, bytes: Vec<u8>, patience: Patience) -> Result<()> {
        if !route.interface.is_loopback() {
            self.send_outside(&route, &datagram, &bytes, patience)?;
            let loops = match route.kind {
                Kind::Multicast => self.shared.ip.lock().loops(route.destination.is_v4()),
                kind => kind == Kind::Broadcast,
            };
            if loops {
                datagram.bytes = Arc::new(bytes);
                arrive::deliver_to_many(self.shared.protocol, route.interface, &datagram);
            }
            return Ok(());
        }
        LOOPBACK.count(1, route.destination.header_len() + HEADER + bytes.len());
        datagram.bytes = Arc::new(bytes);
        let delivered = match route.kind {
            Kind::Local => arrive::deliver_to_one(self.shared.protocol, &LOOPBACK, datagram),
            _ => arrive::deliver_to_many(self.shared.protocol, &LOOPBACK, &datagram),
        };
        if !delivered && route.kind == Kind::Local {
            self.refused();
        }
        Ok(())
    }

    /// Sends a datagram over a wire.
    fn send_outside(&self, route: &Route, datagram: &Datagram, bytes: &[u8], patience: Patience) -> Result<()> {
        const CHECKSUM_AT: usize = 6;
        let Some(ethernet) = route.interface.ethernet() else { return Err(Errno::ENODEV) };
        let len = HEADER + bytes.len();
        let protocol = self.shared.protocol;
        let arrival = &datagram.arrival;
        let head = Outgoing {
            source: route.source.into(),
            destination: route.destination.into(),
            protocol: protocol as u8,
            hop_limit: u8::try_from(arrival.hop_limit).unwrap_or(u8::MAX),
            traffic_class: arrival.traffic_class,
            may_fragment: self.shared.ip.lock().may_fragment(route.destination.is_v4()),
        };
        let mut payload = Vec::new();
        payload.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        payload.extend(datagram.source.port.to_be_bytes());
        payload.extend(arrival.destination.port.to_be_bytes());
        // UDP-Lite says here how much its checksum covers: all of it.
        let told = if protocol == net::IPPROTO_UDPLITE as u32 { 0 } else { len as u16 };
        payload.extend(told.to_be_bytes());
        payload.extend([0; 2]);
        payload.extend_from_slice(bytes);
        head.write_checksum(&mut payload, CHECKSUM_AT);
        loop {
            match ethernet.send(&head, &payload) {
                Ok(()) => return Ok(()),
                Err(NotSent::NoRoute) => return Err(Errno::ENETUNREACH),
                Err(NotSent::TooLong) => return Err(Errno::EMSGSIZE),
                // Nobody is told of a datagram that finds nobody next door, but by the error queue.
                Err(NotSent::Unreachable) => {
                    let told = {
                        let ip = self.shared.ip.lock();
                        ip.is_on_v4(net::IP_RECVERR) || ip.is_on_v6(net::IPV6_RECVERR)
                    };
                    if told {
                        self.inbox.fail(&self.shared, Errno::EHOSTUNREACH);
                    }
                    return Ok(());
                }
                Err(NotSent::NoRoom) => {
                    patience.wait(&[ethernet.room()], || ethernet.has_room().then_some(()))?;
                }
            }
        }
    }

    /// Nobody is at the port: an ICMP message would say so, which a connected socket hears of (udp(7)).
    fn refused(&self) {
        let connected = self.state.lock().remote.is_some();
        let told = {
            let ip = self.shared.ip.lock();
            ip.is_on_v4(net::IP_RECVERR) || ip.is_on_v6(net::IPV6_RECVERR)
        };
        if connected || told {
            self.inbox.fail(&self.shared, Errno::ECONNREFUSED);
        }
    }
}

/// The scope that a receiver is shown with a source.
pub(super) fn scope_of(source: IpAddress, device: u32) -> u32 {
    if source.is_link_local() { device } else { 0 }
}

/// Takes the program's bytes.
pub(in crate::net) fn take(message: &mut Message<'_, '_>, len: usize) -> Result<Vec<u8>> {
    if frames::is_short() {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    bytes.resize(len, 0);
    let taken = message.data.take(&mut bytes)?;
    if taken < len { Err(Errno::EFAULT) } else { Ok(bytes) }
}
