//! The way out: from a packet to its frame.

use alloc::vec::Vec;
use core::{cell::RefCell, net::IpAddr};

use super::{Core, Host, Stack};
use crate::net::{
    Instant, Mac,
    fragments::cut,
    icmp,
    neighbours::{Action, Place},
    packet::{self, HEADER_V4, HEADER_V6, ICMPV6, Outgoing, Part, finish, sum, word},
    tcp::{Connection, is_reset},
};

/// Bytes of an Ethernet header, and the types it can say.
pub(super) const ETHERNET: usize = 14;
pub(super) const TYPE_V4: u16 = 0x0800;
pub(super) const TYPE_ARP: u16 = 0x0806;
pub(super) const TYPE_V6: u16 = 0x86dd;
pub(super) const BROADCAST: Mac = [0xff; 6];
/// Packets that a connection sends in one turn.
const TURN: usize = 64;

/// Why a packet was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// Nothing leads there.
    NoRoute,
    /// The next hop does not answer.
    Unreachable,
    /// Longer than the wire takes, and not to be cut.
    TooLong,
    /// The device has no room now.
    NoRoom,
}

/// How a connection's turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Nothing more is due before then.
    Until(Option<Instant>),
    /// There was no room for all of it.
    NoRoom,
    /// More is due at once.
    More,
    /// Nothing leads there, or the next hop does not answer; the next try is due then.
    Failed(NotSent, Option<Instant>),
}

/// The next hop of a packet.
#[derive(Clone, Copy)]
pub(super) enum Hop {
    Known(Mac),
    /// The packet waits until this neighbour answers.
    Waits(IpAddr),
}

/// The Ethernet address of a group (RFC 1112, 6.4; RFC 2464, 7).
fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// The destination of a whole packet.
fn destination_of(packet: &[u8]) -> Option<IpAddr> {
    if packet.first()? >> 4 == 4 {
        packet.get(16..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes))
    } else {
        packet.get(24..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes))
    }
}

impl Core {
    /// Where a packet for `ip` goes next.
    pub(super) fn next_hop(&mut self, ip: IpAddr, now: Instant) -> Result<Hop, NotSent> {
        if !self.link {
            return Err(NotSent::Unreachable);
        }
        if ip.is_multicast() {
            return Ok(Hop::Known(group_mac(ip)));
        }
        if self.is_broadcast(ip) {
            return Ok(Hop::Known(BROADCAST));
        }
        let link_local = matches!(ip, IpAddr::V6(ip) if super::is_link_local(ip));
        let next = match self.routes.find(ip) {
            Some(route) => route.gateway.unwrap_or(ip),
            None if link_local => ip,
            None => return Err(NotSent::NoRoute),
        };
        match self.neighbours.find(next, now) {
            Place::Known(mac) => Ok(Hop::Known(mac)),
            Place::Waits => Ok(Hop::Waits(next)),
            Place::Unreachable => Err(NotSent::Unreachable),
        }
    }

    /// Puts a packet of `len` bytes, which `fill` writes, on the wire, or where it waits. `false` without room.
    pub(super) fn put(&mut self, host: &mut dyn Host, hop: Hop, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        match hop {
            Hop::Known(mac) => {
                let own = self.mac;
                let sent = host.transmit(ETHERNET + len, &mut |frame| {
                    let Some((header, packet)) = frame.split_at_mut_checked(ETHERNET) else { return };
                    fill(packet);
                    let kind = if packet.first().is_some_and(|first| first >> 4 == 6) { TYPE_V6 } else { TYPE_V4 };
                    header[..6].copy_from_slice(&mac);
                    header[6..12].copy_from_slice(&own);
                    header[12..].copy_from_slice(&kind.to_be_bytes());
                });
                self.counts.ip_out += u64::from(sent);
                sent
            }
            Hop::Waits(ip) => {
                let mut packet = alloc::vec![0; len];
                fill(&mut packet);
                self.neighbours.wait(ip, packet);
                true
            }
        }
    }

    /// Sends a whole packet that the stack itself made.
    pub(super) fn put_whole(&mut self, host: &mut dyn Host, packet: &[u8], now: Instant) {
        let sent = destination_of(packet).is_some_and(|destination| match self.next_hop(destination, now) {
            Ok(hop) => self.put(host, hop, packet.len(), &mut |room| room.copy_from_slice(packet)),
            Err(_) => false,
        });
        self.counts.ip_out_dropped += u64::from(!sent);
    }

    /// Sends what the sockets or the stack have to say, cut where it is too long.
    pub(super) fn send(
        &mut self,
        host: &mut dyn Host,
        head: &Outgoing,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), NotSent> {
        let v4 = head.destination.is_ipv4();
        let hop = self.next_hop(head.destination, now).inspect_err(|_| self.counts.ip_no_route += 1)?;
        let header = head.header_len();
        if header + payload.len() <= self.mtu {
            self.ident = self.ident.wrapping_add(1);
            let ident = self.ident;
            let sent = self.put(host, hop, header + payload.len(), &mut |packet| {
                if let Some(room) = packet.get_mut(header..) {
                    room.copy_from_slice(payload);
                }
                head.write_header(packet, ident, None);
            });
            return if sent { Ok(()) } else { Err(NotSent::NoRoom) };
        }
        if v4 && !head.may_fragment {
            self.counts.fragment_failed += 1;
            return Err(NotSent::TooLong);
        }
        self.ident = self.ident.wrapping_add(1);
        let ident = self.ident;
        let header = if v4 { HEADER_V4 } else { HEADER_V6 + packet::FRAGMENT_HEADER };
        self.counts.fragmented += 1;
        for (start, end) in cut(payload.len(), self.mtu, v4) {
            let part = Part { ident, offset: start, more: end < payload.len() };
            let sent = self.put(host, hop, header + end - start, &mut |packet| {
                if let (Some(room), Some(bytes)) = (packet.get_mut(header..), payload.get(start..end)) {
                    room.copy_from_slice(bytes);
                }
                head.write_header(packet, ident, Some(part));
            });
            if !sent {
                // Without one part the others are nothing.
                return Err(NotSent::NoRoom);
            }
            self.counts.fragments_made += 1;
        }
        Ok(())
    }

    /// Sends an ICMP message that the stack made.
    pub(super) fn send_icmp(&mut self, host: &mut dyn Host, message: &(Outgoing, Vec<u8>), now: Instant) {
        match self.send(host, &message.0, &message.1, now) {
            Ok(()) => self.counts.icmp_out += 1,
            Err(_) => self.counts.ip_out_dropped += 1,
        }
    }

    /// Does what the neighbours need.
    pub(super) fn act(&mut self, host: &mut dyn Host, now: Instant) -> Vec<Vec<u8>> {
        let mut unreachable = Vec::new();
        for action in self.neighbours.take_actions() {
            match action {
                Action::Ask(ip, mac) => {
                    self.asked = true;
                    self.ask(host, ip, mac, now);
                }
                Action::Unreachable(packet) => unreachable.push(packet),
            }
        }
        unreachable
    }

    /// Asks for a neighbour.
    fn ask(&mut self, host: &mut dyn Host, ip: IpAddr, mac: Option<Mac>, now: Instant) {
        match ip {
            IpAddr::V4(target) => {
                let Some(IpAddr::V4(own)) = self.source_for(ip, now) else { return };
                let to = mac.unwrap_or([0; 6]);
                self.put_arp(host, mac.unwrap_or(BROADCAST), 1, own.octets(), to, target.octets());
            }
            IpAddr::V6(target) => {
                let Some(own) = self.source_for(ip, now) else { return };
                let destination = if mac.is_some() { ip } else { super::solicited_node(target).into() };
                let message = self.solicitation(target, true);
                let (head, message) = icmp::seal(own, destination, message, 255);
                let hop = Hop::Known(mac.unwrap_or(group_mac(destination)));
                self.put_message(host, hop, &head, &message);
            }
        }
    }

    /// A neighbour solicitation, with our Ethernet address where `tells`.
    pub(super) fn solicitation(&self, target: core::net::Ipv6Addr, tells: bool) -> Vec<u8> {
        const SOURCE: u8 = 1;
        let mut message = alloc::vec![icmp::NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        if tells {
            message.extend([SOURCE, 1]);
            message.extend(self.mac);
        }
        message
    }

    /// Sends a message to a next hop that is known.
    pub(super) fn put_message(&mut self, host: &mut dyn Host, hop: Hop, head: &Outgoing, message: &[u8]) {
        let header = head.header_len();
        self.put(host, hop, header + message.len(), &mut |packet| {
            if let Some(room) = packet.get_mut(header..) {
                room.copy_from_slice(message);
            }
            head.write_header(packet, 0, None);
        });
        self.counts.icmp_out += u64::from(head.protocol == ICMPV6);
    }

    /// Sends an ARP packet (RFC 826).
    pub(super) fn put_arp(
        &mut self,
        host: &mut dyn Host,
        to: Mac,
        operation: u16,
        own: [u8; 4],
        target_mac: Mac,
        target: [u8; 4],
    ) {
        const ETHERNET_AND_V4: [u8; 6] = [0, 1, 8, 0, 6, 4];
        let mac = self.mac;
        let packet = [
            &to[..],
            &mac,
            &TYPE_ARP.to_be_bytes(),
            &ETHERNET_AND_V4,
            &operation.to_be_bytes(),
            &mac,
            &own,
            &target_mac,
            &target,
        ]
        .concat();
        host.transmit(packet.len(), &mut |frame| frame.copy_from_slice(&packet));
    }

    /// Sends what waited for a neighbour.
    pub(super) fn put_waiting(&mut self, host: &mut dyn Host, mac: Mac, packets: impl IntoIterator<Item = Vec<u8>>) {
        for packet in packets {
            let sent = self.put(host, Hop::Known(mac), packet.len(), &mut |room| room.copy_from_slice(&packet));
            self.counts.ip_out_dropped += u64::from(!sent);
        }
    }
}

/// Writes the checksum of the segment in a TCP packet.
fn seal_segment(packet: &mut [u8]) {
    const CHECKSUM_AT: usize = 16;
    let (header, source, destination) = match packet.first().map(|first| first >> 4) {
        Some(4) => (HEADER_V4, packet.get(12..16), packet.get(16..20)),
        _ => (HEADER_V6, packet.get(8..24), packet.get(24..40)),
    };
    let (Some(source), Some(destination)) = (source, destination) else { return };
    let addresses = sum(source) + sum(destination);
    let Some(segment) = packet.get_mut(header..) else { return };
    let len = segment.len() as u32;
    let Some(room) = segment.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) else { return };
    room.fill(0);
    let checksum = finish(addresses + u32::from(packet::TCP) + len + sum(segment));
    if let Some(room) = segment.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) {
        room.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Puts a packet of smoltcp's on its way.
fn put_segment(core: &mut Core, host: &mut dyn Host, hop: Hop, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
    let mut resets = false;
    let sent = core.put(host, hop, len, &mut |packet| {
        fill(packet);
        seal_segment(packet);
        let header = if packet.first().is_some_and(|first| first >> 4 == 4) { HEADER_V4 } else { HEADER_V6 };
        resets = packet.get(header..).is_some_and(is_reset);
    });
    core.counts.tcp_out += u64::from(sent);
    core.counts.tcp_resets_out += u64::from(sent && resets);
    core.counts.ip_out_dropped += u64::from(!sent);
}

impl Stack {
    /// Sends a packet of the sockets. Its source is one of the interface's addresses, its checksum is written.
    pub fn send(&mut self, host: &mut dyn Host, head: &Outgoing, payload: &[u8], now: Instant) -> Result<(), NotSent> {
        let sent = self.core.send(host, head, payload, now);
        self.core.counts.udp_out += u64::from(head.protocol == packet::UDP && sent.is_ok());
        self.act(host, now);
        sent
    }

    /// The address to send to `destination` from, where the interface leads there.
    #[must_use]
    pub fn source_for(&self, destination: IpAddr, now: Instant) -> Option<IpAddr> {
        self.core.source_for(destination, now)
    }

    /// Does what the neighbours need, and tells the sockets of those that did not answer.
    pub(super) fn act(&mut self, host: &mut dyn Host, now: Instant) {
        for packet in self.core.act(host, now) {
            self.core.counts.ip_out_dropped += 1;
            if let Some(error) = unreachable_error(&packet) {
                host.error(self, &error, now);
            }
        }
    }

    /// Gives a connection a packet that came for it.
    pub fn tcp_input(&mut self, host: &mut dyn Host, connection: &mut Connection, packet: &[u8], now: Instant) {
        let Self { engine, core } = self;
        let hop = core.next_hop(connection.remote.0, now);
        connection.input(engine, packet, now, &mut |len, fill| {
            if let Ok(hop) = hop {
                put_segment(core, host, hop, len, fill);
            }
        });
    }

    /// Lets a connection send what is due.
    pub fn tcp_output(&mut self, host: &mut dyn Host, connection: &mut Connection, now: Instant) -> Output {
        let Self { engine, core } = self;
        if connection.deadline(engine, now).is_none_or(|at| at > now) {
            return Output::Until(connection.deadline(engine, now));
        }
        let hop = match core.next_hop(connection.remote.0, now) {
            Ok(hop) => hop,
            Err(error) => return Output::Failed(error, connection.deadline(engine, now)),
        };
        let host = RefCell::new(host);
        let mut full = false;
        let more = connection.output(
            engine,
            now,
            if matches!(hop, Hop::Known(_)) { TURN } else { 1 },
            &mut || {
                full = matches!(hop, Hop::Known(_)) && !host.borrow().has_room();
                !full
            },
            &mut |len, fill| put_segment(core, &mut **host.borrow_mut(), hop, len, fill),
        );
        let host = host.into_inner();
        self.act(host, now);
        match (more, full) {
            (_, true) => Output::NoRoom,
            (true, false) => Output::More,
            (false, false) => Output::Until(connection.deadline(&mut self.engine, now)),
        }
    }

    /// Answers a segment for no connection with a reset, where that is due.
    pub fn tcp_refuse(&mut self, host: &mut dyn Host, packet: &packet::Packet<'_>, now: Instant) {
        let Self { engine, core } = self;
        let Ok(hop) = core.next_hop(packet.source, now) else { return };
        let mtu = core.mtu;
        engine.refuse(&packet.plain(), mtu, now, &mut |len, fill| put_segment(core, host, hop, len, fill));
        self.act(host, now);
    }

    /// Another sign that the next hop to `ip` is there: it moves a connection on.
    pub fn confirm(&mut self, ip: IpAddr, now: Instant) {
        let next = self.core.routes.find(ip).and_then(|route| route.gateway).unwrap_or(ip);
        self.core.neighbours.confirm(next, now);
    }
}

/// What the sockets are told of a packet whose next hop did not answer.
fn unreachable_error(packet: &[u8]) -> Option<icmp::Error> {
    let v4 = packet.first()? >> 4 == 4;
    let (header, source): (usize, IpAddr) = if v4 {
        (HEADER_V4, IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?))
    } else {
        (HEADER_V6, IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?))
    };
    let carried = packet.get(header..)?;
    Some(icmp::Error {
        from: source,
        reason: icmp::Reason::Host,
        code: if v4 { (3, 1) } else { (1, 3) },
        protocol: *packet.get(if v4 { 9 } else { 6 })?,
        local: (source, word(carried, 0)),
        remote: (destination_of(packet)?, word(carried, 2)),
        sequence: carried.get(4..)?.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)),
    })
}
