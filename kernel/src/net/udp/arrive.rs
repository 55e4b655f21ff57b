//! Whom a datagram is for, and what becomes of errors about those that were sent.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, net};
use klib::net::{
    icmp::{Error, Reason},
    packet::{Packet, word},
};

use super::{Endpoint, ports, send::scope_of};
use crate::{
    net::{
        address::SocketAddress,
        inbox::Datagram,
        interface::{self, Interface, Kind},
        ip_options::Arrival,
        multicast,
    },
    time,
};

/// Bytes of a header.
const HEADER: usize = 8;

/// The sockets that a datagram could be for, best first, each with whether it shares its port.
fn receivers(protocol: u32, interface: &Interface, datagram: &Datagram) -> Vec<(Arc<Endpoint>, bool)> {
    let source = (datagram.source.ip, datagram.source.port);
    let destination = (datagram.arrival.destination.ip, datagram.arrival.destination.port);
    let found = ports(protocol).receivers(source, destination, interface.index);
    found.into_iter().filter_map(|(owner, shares)| Some((owner.downcast().ok()?, shares))).collect()
}

/// Hands a datagram to the socket it is for: whether there is one.
pub(super) fn deliver_to_one(protocol: u32, interface: &Interface, datagram: Datagram) -> bool {
    let found = receivers(protocol, interface, &datagram);
    let sharing = found.iter().take_while(|(_, shares)| *shares).count();
    // Of several that share a port one gets all that one sender sends.
    let port = datagram.source.port;
    let place = usize::from(port.rotate_left(5) ^ port).checked_rem(sharing).unwrap_or(0);
    let Some((receiver, _)) = found.get(place) else { return false };
    if !receiver.inbox.deliver(&receiver.shared, datagram) {
        interface.count_dropped();
    }
    true
}

/// Hands a datagram for a group, or for everybody, to all sockets that want it: whether there are any.
pub(super) fn deliver_to_many(protocol: u32, interface: &Interface, datagram: &Datagram) -> bool {
    let destination = datagram.arrival.destination.ip;
    let group = destination.is_multicast();
    if group && !multicast::is_taken(destination, interface.index) {
        return false;
    }
    let mut any = false;
    for (receiver, _) in receivers(protocol, interface, datagram) {
        let wanted = !group || receiver.shared.ip.lock().wants_group(destination, datagram.source.ip, interface.index);
        any |= wanted;
        if wanted && !receiver.inbox.deliver(&receiver.shared, datagram.clone()) {
            interface.count_dropped();
        }
    }
    any
}

/// A datagram came from a wire, its checksum is right: whether anybody is at its port.
pub fn arrived(interface: &'static Interface, packet: &Packet<'_>) -> bool {
    let bytes = packet.payload();
    let (source, destination) = (packet.source.into(), packet.destination.into());
    let protocol = u32::from(packet.protocol);
    let end = match word(bytes, 4) {
        len if protocol == net::IPPROTO_UDP as u32 => usize::from(len),
        _ => bytes.len(),
    };
    let scope = scope_of(source, interface.index);
    let local = match interface::kind(destination) {
        Kind::Local => destination,
        _ => interface::route(destination.any_of_family(), source, interface.index)
            .map_or(destination.any_of_family(), |route| route.source),
    };
    let datagram = Datagram {
        bytes: Arc::new(bytes.get(HEADER..end).unwrap_or_default().to_vec()),
        source: SocketAddress { scope, ..SocketAddress::new(source, word(bytes, 0)) },
        arrival: Arrival {
            destination: SocketAddress::new(destination, word(bytes, 2)),
            local,
            interface: interface.index,
            hop_limit: i32::from(packet.hop_limit),
            traffic_class: packet.traffic_class,
        },
        time_ns: time::realtime_ns(),
    };
    match interface::kind(destination) {
        Kind::Multicast | Kind::Broadcast => deliver_to_many(protocol, interface, &datagram),
        _ => deliver_to_one(protocol, interface, datagram),
    }
}

/// The errno that a reason is told by (Linux's icmp_err_convert).
pub fn errno(reason: Reason) -> Errno {
    match reason {
        Reason::Network => Errno::ENETUNREACH,
        Reason::Host | Reason::Prohibited | Reason::TimeExceeded => Errno::EHOSTUNREACH,
        Reason::Protocol => Errno::ENOPROTOOPT,
        Reason::Port => Errno::ECONNREFUSED,
        Reason::TooBig(_) => Errno::EMSGSIZE,
        Reason::Parameter => Errno::EPROTO,
    }
}

/// An error about a datagram that was sent. A connected socket hears of what will not change by itself, one that asked
/// to hear of errors (IP_RECVERR) of all.
pub fn failed(interface: &'static Interface, protocol: u32, error: &Error) {
    if ![net::IPPROTO_UDP as u32, net::IPPROTO_UDPLITE as u32].contains(&protocol) {
        return;
    }
    let (remote, local) = ((error.remote.0.into(), error.remote.1), (error.local.0.into(), error.local.1));
    let found = ports(protocol).receivers(remote, local, interface.index);
    let Some(socket) = found.into_iter().find_map(|(owner, _)| owner.downcast::<Endpoint>().ok()) else { return };
    let connected = socket.state.lock().remote.is_some();
    let told = {
        let ip = socket.shared.ip.lock();
        if remote.0.is_v4() { ip.is_on_v4(net::IP_RECVERR) } else { ip.is_on_v6(net::IPV6_RECVERR) }
    };
    let lasts = matches!(error.reason, Reason::Port | Reason::Protocol | Reason::Prohibited);
    if told || connected && lasts {
        socket.inbox.fail(&socket.shared, errno(error.reason));
    }
}
