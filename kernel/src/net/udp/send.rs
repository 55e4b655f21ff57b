//! Sending datagrams, and who they are for.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, net};

use super::{Endpoint, options::UDP_SEGMENT, ports};
use crate::{
    fs::socket::Outgoing,
    mm::frames,
    net::{
        address::{IpAddress, SocketAddress},
        inbox::Datagram,
        interface::{self, Kind, LOOPBACK, Route},
        ip_options::Arrival,
        multicast,
    },
    time,
};

/// The most bytes of a datagram: a packet of 65535 bytes less its headers, which IPv6 does not count.
const MAX_V4: usize = 65535 - 20 - 8;
const MAX_V6: usize = 65535 - 8;
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
    pub(super) fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
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
            self.send_bytes(bytes, destination, control)?;
        }
        Ok(len)
    }

    /// Sends what was held back, where something was (UDP_CORK set to 0).
    pub(super) fn uncork(&self) -> Result<()> {
        let corked = self.state.lock().corked.take();
        match corked {
            Some(corked) => self.send_bytes(corked.bytes, corked.destination, corked.control),
            None => Ok(()),
        }
    }

    fn send_bytes(&self, bytes: Vec<u8>, target: SocketAddress, control: Sending) -> Result<()> {
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
            local: route.destination.loopback_of_family(),
            hop_limit: control.hop_limit.unwrap_or(hop_limit),
            traffic_class: control.traffic_class.unwrap_or(traffic_class),
        };
        let datagram = Datagram {
            bytes: Arc::new(Vec::new()),
            source: SocketAddress { scope: scope_of(route.source, device), ..SocketAddress::new(route.source, port) },
            arrival,
            time_ns: time::realtime_ns(),
        };
        match control.segment.unwrap_or(set_segment) {
            0 => self.deliver_by(route, datagram, bytes),
            segment if bytes.len().div_ceil(usize::from(segment)) > MAX_SEGMENTS => return Err(Errno::EINVAL),
            segment => {
                for part in bytes.chunks(usize::from(segment)) {
                    self.deliver_by(route, datagram.clone(), part.to_vec());
                }
            }
        }
        Ok(())
    }

    /// Hands a datagram to everybody it is for.
    fn deliver_by(&self, route: Route, mut datagram: Datagram, bytes: Vec<u8>) {
        LOOPBACK.count(bytes.len());
        datagram.bytes = Arc::new(bytes);
        let source = (datagram.source.ip, datagram.source.port);
        let destination = (route.destination, datagram.arrival.destination.port);
        let found = ports(self.shared.protocol).receivers(source, destination, LOOPBACK.index);
        let found: Vec<(Arc<Self>, bool)> =
            found.into_iter().filter_map(|(owner, shares)| Some((owner.downcast().ok()?, shares))).collect();
        if route.kind != Kind::Local {
            if route.kind == Kind::Multicast && !multicast::is_taken(route.destination) {
                return;
            }
            for (receiver, _) in found {
                let wanted = route.kind == Kind::Broadcast
                    || receiver.shared.ip.lock().wants_group(route.destination, datagram.source.ip);
                if wanted && !receiver.inbox.deliver(&receiver.shared, datagram.clone()) {
                    LOOPBACK.count_dropped();
                }
            }
            return;
        }
        let sharing = found.iter().take_while(|(_, shares)| *shares).count();
        // Of several that share a port one gets all that one sender sends.
        let place = usize::from(source.1.rotate_left(5) ^ source.1).checked_rem(sharing).unwrap_or(0);
        match found.get(place) {
            Some((receiver, _)) => {
                if !receiver.inbox.deliver(&receiver.shared, datagram) {
                    LOOPBACK.count_dropped();
                }
            }
            None => self.refused(),
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
fn scope_of(source: IpAddress, device: u32) -> u32 {
    if source.is_link_local() { device } else { 0 }
}

/// Takes the program's bytes.
pub(in crate::net) fn take(message: &mut Outgoing<'_, '_>, len: usize) -> Result<Vec<u8>> {
    if frames::is_short() {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    bytes.resize(len, 0);
    let taken = message.data.take(&mut bytes)?;
    if taken < len { Err(Errno::EFAULT) } else { Ok(bytes) }
}
