//! The way in: from a frame to whom it is for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Host, Stack, Standing,
    output::{ETHERNET, TYPE_ARP, TYPE_V4, TYPE_V6},
    solicited_node,
};
use crate::net::{
    Instant, Mac, dhcp, groups,
    icmp::{self, Complaint},
    packet::{self, Bad, ICMP, ICMPV6, IGMP, Packet, TCP, UDP, UDPLITE, finish, is_intact, sum, word},
};

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// How a UDP or UDP-Lite datagram came.
enum Datagram {
    Fine,
    Bad,
    BadChecksum,
}

/// Checks a datagram's length and checksum (RFC 768; RFC 3828).
fn check_datagram(packet: &Packet<'_>) -> Datagram {
    const HEADER: usize = 8;
    let bytes = packet.payload();
    let (told, checksum) = (usize::from(word(bytes, 4)), word(bytes, 6));
    if bytes.len() < HEADER {
        return Datagram::Bad;
    }
    if packet.protocol == UDPLITE {
        // The second field says how much is covered; all of it where it is 0.
        let covered = if told == 0 { bytes.len() } else { told };
        let Some(part) = bytes.get(..covered).filter(|part| part.len() >= HEADER) else { return Datagram::Bad };
        let pseudo = packet::pseudo_sum(packet.source, packet.destination, UDPLITE, bytes.len());
        return if finish(pseudo + sum(part)) == 0 { Datagram::Fine } else { Datagram::BadChecksum };
    }
    let Some(whole) = bytes.get(..told).filter(|whole| whole.len() >= HEADER) else { return Datagram::Bad };
    // IPv4 may do without (RFC 768); IPv6 may not (RFC 8200, 8.1).
    if checksum == 0 {
        return if packet.source.is_ipv4() { Datagram::Fine } else { Datagram::BadChecksum };
    }
    let pseudo = packet::pseudo_sum(packet.source, packet.destination, UDP, told);
    if finish(pseudo + sum(whole)) == 0 { Datagram::Fine } else { Datagram::BadChecksum }
}

impl Stack {
    /// Takes a frame from the wire.
    pub fn input(&mut self, host: &mut dyn Host, frame: &[u8], now: Instant) {
        let (Some(destination), Some(source), Some(body)) =
            (field::<6>(frame, 0), field::<6>(frame, 6), frame.get(ETHERNET..))
        else {
            self.core.counts.frames_unknown += 1;
            return;
        };
        if destination != self.core.mac && destination[0] & 1 == 0 || source[0] & 1 != 0 {
            return;
        }
        match word(frame, 12) {
            TYPE_ARP => self.arp(host, body, now),
            TYPE_V4 => self.ip(host, Packet::parse_v4(body), now),
            TYPE_V6 => self.ip(host, Packet::parse_v6(body), now),
            _ => self.core.counts.frames_unknown += 1,
        }
        self.act(host, now);
    }

    /// RFC 826.
    fn arp(&mut self, host: &mut dyn Host, body: &[u8], now: Instant) {
        const ETHERNET_AND_V4: [u8; 6] = [0, 1, 8, 0, 6, 4];
        const REQUEST: u16 = 1;
        const REPLY: u16 = 2;
        let core = &mut self.core;
        let (Some(mac), Some(sender), Some(target)) = (field::<6>(body, 8), field::<4>(body, 14), field::<4>(body, 24))
        else {
            core.counts.frames_unknown += 1;
            return;
        };
        let operation = word(body, 6);
        if field(body, 0) != Some(ETHERNET_AND_V4) || !matches!(operation, REQUEST | REPLY) || mac == core.mac {
            return;
        }
        let (sender, target) = (Ipv4Addr::from(sender), Ipv4Addr::from(target));
        let ours = core.is_own(target.into());
        if packet::is_unicast(sender.into()) && !sender.is_loopback() && !core.is_own(sender.into()) {
            let near = core.routes.find(sender.into()).is_some_and(|route| route.gateway.is_none());
            let waiting = core.neighbours.learn(sender.into(), mac, ours && near, true, now);
            core.put_waiting(host, mac, waiting);
        }
        if ours && operation == REQUEST {
            core.put_arp(host, mac, REPLY, target.octets(), mac, sender.octets());
        }
    }

    fn ip(&mut self, host: &mut dyn Host, parsed: Result<Packet<'_>, Bad>, now: Instant) {
        self.core.counts.ip_in += 1;
        match parsed {
            Err(Bad::Header) => self.core.counts.ip_bad_header += 1,
            Err(Bad::Source) => self.core.counts.ip_bad_address += 1,
            Ok(packet) if !self.is_for_us(host, &packet) => self.core.counts.ip_bad_address += 1,
            Ok(packet) if packet.part.is_some() => {
                self.core.counts.fragments_in += 1;
                if let Some((bytes, header)) = self.core.fragments.add(&packet, now) {
                    match Packet::whole(&packet, header, &bytes) {
                        Ok(mut whole) => {
                            // A message about it quotes its header.
                            let mut bytes = bytes.clone();
                            whole_header(&whole).write_header(&mut bytes, 0, None);
                            whole.bytes = &bytes;
                            self.deliver(host, &whole, now);
                        }
                        Err(_) => self.core.counts.ip_bad_header += 1,
                    }
                }
            }
            Ok(packet) => self.deliver(host, &packet, now),
        }
    }

    fn is_for_us(&mut self, host: &mut dyn Host, packet: &Packet<'_>) -> bool {
        let core = &self.core;
        match packet.destination {
            ip if core.is_own(ip) => true,
            ip if core.is_broadcast(ip) => true,
            IpAddr::V4(ip) if ip.is_multicast() => ip.octets() == [224, 0, 0, 1] || host.is_member(ip.into()),
            IpAddr::V6(ip) if ip.is_multicast() => {
                let everybody = [0xff01 << 112 | 1, 0xff02 << 112 | 1].contains(&u128::from(ip));
                everybody
                    || core.addresses.iter().any(|own| matches!(own.ip, IpAddr::V6(own) if solicited_node(own) == ip))
                    || host.is_member(ip.into())
            }
            // A server may send its offer to the address it offers.
            IpAddr::V4(_) => {
                core.dhcp.as_ref().is_some_and(|client| client.lease().is_none())
                    && packet.protocol == UDP
                    && word(packet.payload(), 2) == dhcp::CLIENT_PORT
            }
            IpAddr::V6(_) => false,
        }
    }

    /// A whole packet for the machine.
    fn deliver(&mut self, host: &mut dyn Host, packet: &Packet<'_>, now: Instant) {
        self.core.counts.ip_delivered += 1;
        let took = host.raw(packet);
        match packet.protocol {
            TCP => {
                self.core.counts.tcp_in += 1;
                if packet.payload().len() < 20 || !packet::is_unicast(packet.source) {
                    self.core.counts.tcp_bad += 1;
                } else if !is_intact(packet) {
                    self.core.counts.tcp_bad_checksum += 1;
                } else if self.core.is_own(packet.destination) {
                    host.segment(self, packet, now);
                }
            }
            UDP | UDPLITE => match check_datagram(packet) {
                Datagram::Bad => self.core.counts.udp_bad += 1,
                Datagram::BadChecksum => self.core.counts.udp_bad_checksum += 1,
                Datagram::Fine => self.datagram(host, packet, now),
            },
            ICMP if packet.source.is_ipv4() => self.icmp(host, packet, now),
            ICMPV6 if packet.source.is_ipv6() => self.icmp(host, packet, now),
            IGMP if packet.source.is_ipv4() => {
                let random = host.random();
                self.core.groups.input(packet, now, random);
            }
            _ if took => {}
            _ => {
                self.core.counts.ip_unknown_protocol += 1;
                self.complain(host, packet, Complaint::Protocol, now);
            }
        }
    }

    fn datagram(&mut self, host: &mut dyn Host, packet: &Packet<'_>, now: Instant) {
        let bytes = packet.payload();
        let ports = (word(bytes, 0), word(bytes, 2));
        if let (IpAddr::V4(source), Some(client)) = (packet.source, &mut self.core.dhcp)
            && (packet.protocol, ports) == (UDP, (dhcp::SERVER_PORT, dhcp::CLIENT_PORT))
        {
            match client.input(bytes.get(8..).unwrap_or_default(), source, now) {
                Ok(change) => self.lease_changed(host, change, now),
                Err(dhcp::NotTaken) => self.core.counts.dhcp_dropped += 1,
            }
            return;
        }
        if host.datagram(packet) {
            self.core.counts.udp_in += 1;
        } else {
            self.core.counts.udp_no_port += 1;
            self.complain(host, packet, Complaint::Port, now);
        }
    }

    fn complain(&mut self, host: &mut dyn Host, packet: &Packet<'_>, complaint: Complaint, now: Instant) {
        if !self.core.is_own(packet.destination) {
            return;
        }
        if !self.core.limit.take(now) {
            self.core.counts.icmp_limited += 1;
        } else if let Some(message) = icmp::complain(packet, complaint) {
            self.core.send_icmp(host, &message, now);
        }
    }

    fn icmp(&mut self, host: &mut dyn Host, packet: &Packet<'_>, now: Instant) {
        let message = packet.payload();
        self.core.counts.icmp_in += 1;
        let intact = if packet.protocol == ICMP { finish(sum(message)) == 0 } else { is_intact(packet) };
        let (Some(&kind), true) = (message.first(), intact && message.len() >= 8) else {
            self.core.counts.icmp_bad += 1;
            return;
        };
        match (packet.protocol, kind) {
            // Nobody answers everybody (RFC 1122, 3.2.2.6; Linux's icmp_echo_ignore_broadcasts).
            (ICMP, icmp::ECHO_REQUEST) | (ICMPV6, icmp::ECHO_REQUEST_V6) => {
                if self.core.is_own(packet.destination)
                    && let Some(answer) = icmp::echo(packet, packet.destination)
                {
                    self.core.send_icmp(host, &answer, now);
                }
            }
            (ICMPV6, groups::MLD_QUERY) => {
                let random = host.random();
                self.core.groups.input(packet, now, random);
            }
            (ICMPV6, icmp::ROUTER_ADVERTISEMENT..=icmp::NEIGHBOUR_ADVERTISEMENT) => {
                // A router in between would have lowered it: the sender is a neighbour (RFC 4861, 6.1.2).
                if let (IpAddr::V6(source), 255, Some(0)) = (packet.source, packet.hop_limit, message.get(1)) {
                    self.discovery(host, packet, source, now);
                } else {
                    self.core.counts.icmp_bad += 1;
                }
            }
            _ => {
                if let Some(error) = icmp::Error::read(packet)
                    && self.core.is_own(error.local.0)
                {
                    host.error(self, &error, now);
                }
            }
        }
    }

    /// Neighbour discovery (RFC 4861, 7).
    fn discovery(&mut self, host: &mut dyn Host, packet: &Packet<'_>, source: Ipv6Addr, now: Instant) {
        const SOURCE: u8 = 1;
        const TARGET: u8 = 2;
        let message = packet.payload();
        if message.first() == Some(&icmp::ROUTER_ADVERTISEMENT) {
            if super::is_link_local(source) {
                if let Some(mac) = option(message.get(16..).unwrap_or_default(), SOURCE) {
                    let waiting = self.core.neighbours.learn(source.into(), mac, true, true, now);
                    self.core.put_waiting(host, mac, waiting);
                }
                self.advertised(host, message, source, now);
            }
            return;
        }
        let Some(target) = field::<16>(message, 8).map(Ipv6Addr::from).filter(|target| !target.is_multicast()) else {
            self.core.counts.icmp_bad += 1;
            return;
        };
        let options = message.get(24..).unwrap_or_default();
        let core = &mut self.core;
        let standing = core.own(target.into()).map(|own| own.standing);
        if message.first() == Some(&icmp::NEIGHBOUR_SOLICITATION) {
            if source.is_unspecified() {
                // Somebody is about to take the address for his own.
                match standing {
                    Some(standing) if standing.is_tentative() => self.duplicate(target),
                    Some(Standing::Usable) => core.advertise(host, target, None, now),
                    _ => {}
                }
                return;
            }
            if standing != Some(Standing::Usable) {
                return;
            }
            if let Some(mac) = option(options, SOURCE) {
                let waiting = core.neighbours.learn(source.into(), mac, true, true, now);
                core.put_waiting(host, mac, waiting);
            }
            core.advertise(host, target, Some(source), now);
            return;
        }
        if standing.is_some() {
            if standing.is_some_and(Standing::is_tentative) {
                self.duplicate(target);
            }
            return;
        }
        const SOLICITED: u8 = 0x40;
        const OVERRIDE: u8 = 0x20;
        let flags = message.get(4).copied().unwrap_or(0);
        match option(options, TARGET) {
            Some(mac) => {
                let waiting = core.neighbours.learn(target.into(), mac, false, flags & OVERRIDE != 0, now);
                core.put_waiting(host, mac, waiting);
            }
            None if flags & SOLICITED != 0 => core.neighbours.confirm(target.into(), now),
            None => {}
        }
    }
}

impl super::Core {
    /// A neighbour advertisement: to who asked, or to all.
    fn advertise(&mut self, host: &mut dyn Host, target: Ipv6Addr, to: Option<Ipv6Addr>, now: Instant) {
        const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        const TARGET: u8 = 2;
        let flags = if to.is_some() { 0x60 } else { 0x20 };
        let mut message = alloc::vec![icmp::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
        message.extend(target.octets());
        message.extend([TARGET, 1]);
        message.extend(self.mac);
        let destination = IpAddr::from(to.unwrap_or(ALL_NODES));
        let (head, message) = icmp::seal(target.into(), destination, message, 255);
        // A solicitation without an Ethernet address makes us ask for it first.
        if let Ok(hop) = self.next_hop(destination, now) {
            self.put_message(host, hop, &head, &message);
        }
    }
}

/// The Ethernet address in the options of neighbour discovery.
fn option(mut options: &[u8], wanted: u8) -> Option<Mac> {
    while let [kind, units, rest @ ..] = options {
        let len = usize::from(*units) * 8;
        if len == 0 {
            return None;
        }
        if *kind == wanted {
            return rest.first_chunk().copied();
        }
        options = options.get(len..)?;
    }
    None
}

/// The header of a packet that was put together.
fn whole_header(packet: &Packet<'_>) -> packet::Outgoing {
    packet::Outgoing {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        hop_limit: packet.hop_limit,
        traffic_class: packet.traffic_class,
        may_fragment: true,
    }
}
