//! ICMP messages: errors that came, errors to be sent, echoes (RFC 792, RFC 1122 3.2.2, RFC 4443).

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{
    Instant,
    packet::{self, HEADER_V4, HEADER_V6, ICMP, ICMPV6, Outgoing, Packet, finish, sum, word},
};

/// Message types of ICMP and ICMPv6.
pub const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
/// See [`ECHO_REPLY`].
pub const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER: u8 = 12;
const UNREACHABLE_V6: u8 = 1;
const TOO_BIG_V6: u8 = 2;
const TIME_EXCEEDED_V6: u8 = 3;
const PARAMETER_V6: u8 = 4;
/// See [`ECHO_REPLY`].
pub const ECHO_REQUEST_V6: u8 = 128;
/// See [`ECHO_REPLY`].
pub const ECHO_REPLY_V6: u8 = 129;
/// Neighbour discovery (RFC 4861, 4).
pub const ROUTER_SOLICITATION: u8 = 133;
/// See [`ROUTER_SOLICITATION`].
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// See [`ROUTER_SOLICITATION`].
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// See [`ROUTER_SOLICITATION`].
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Bytes of a message's head.
const HEAD: usize = 8;
/// The most bytes of an error as a packet: what every host takes.
const MOST_V4: usize = 576;
const MOST_V6: usize = 1280;

/// Why a packet did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No way to the network.
    Network,
    /// No way to the host.
    Host,
    /// The host does not speak the protocol.
    Protocol,
    /// Nobody is at the port.
    Port,
    /// Longer than a wire on its way takes, which takes this many bytes (0: it did not say).
    TooBig(usize),
    /// Somebody forbids it.
    Prohibited,
    /// It went round too long.
    TimeExceeded,
    /// Its header made no sense to somebody.
    Parameter,
}

/// An error about a packet that the machine sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error {
    /// Who says so.
    pub from: IpAddr,
    /// Why.
    pub reason: Reason,
    /// Type and code as they came.
    pub code: (u8, u8),
    /// The packet's protocol.
    pub protocol: u8,
    /// The machine's own address and port that it came from.
    pub local: (IpAddr, u16),
    /// Where it went.
    pub remote: (IpAddr, u16),
    /// The first word of what it carried: a TCP segment's sequence number.
    pub sequence: u32,
}

impl Error {
    /// Reads an error message; `None` for any other, or one about what nobody here can have sent.
    #[must_use]
    pub fn read(message: &Packet<'_>) -> Option<Self> {
        let payload = message.payload();
        let (kind, code) = (*payload.first()?, *payload.get(1)?);
        let about = payload.get(HEAD..)?;
        let rest = payload.get(4..8)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
        let reason = match (message.protocol, kind, code) {
            (ICMP, UNREACHABLE, 0 | 6 | 8 | 11) => Reason::Network,
            (ICMP, UNREACHABLE, 1 | 5 | 7 | 12) => Reason::Host,
            (ICMP, UNREACHABLE, 2) => Reason::Protocol,
            (ICMP, UNREACHABLE, 3) => Reason::Port,
            (ICMP, UNREACHABLE, 4) => Reason::TooBig((rest & 0xffff) as usize),
            (ICMP, UNREACHABLE, 9 | 10 | 13..=15) => Reason::Prohibited,
            (ICMP, TIME_EXCEEDED, 0) => Reason::TimeExceeded,
            (ICMP, PARAMETER, _) => Reason::Parameter,
            (ICMPV6, UNREACHABLE_V6, 0 | 2) => Reason::Network,
            (ICMPV6, UNREACHABLE_V6, 3) => Reason::Host,
            (ICMPV6, UNREACHABLE_V6, 4) => Reason::Port,
            (ICMPV6, UNREACHABLE_V6, 1 | 5 | 6) => Reason::Prohibited,
            (ICMPV6, TOO_BIG_V6, _) => Reason::TooBig(rest as usize),
            (ICMPV6, TIME_EXCEEDED_V6, 0) => Reason::TimeExceeded,
            (ICMPV6, PARAMETER_V6, 1) => Reason::Protocol,
            (ICMPV6, PARAMETER_V6, _) => Reason::Parameter,
            _ => return None,
        };
        // The packet it is about is cut off, so its lengths and checksums cannot be checked.
        let (source, destination, protocol, header): (IpAddr, IpAddr, u8, usize) = match message.source {
            IpAddr::V4(_) => {
                let header = usize::from(about.first()? & 0xf) * 4;
                let later = word(about, 6) & 0x1fff != 0;
                if about.first()? >> 4 != 4 || header < HEADER_V4 || later {
                    return None;
                }
                let address = |at: usize| about.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
                (address(12)?, address(16)?, *about.get(9)?, header)
            }
            IpAddr::V6(_) => {
                if about.first()? >> 4 != 6 {
                    return None;
                }
                let address = |at: usize| about.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
                (address(8)?, address(24)?, *about.get(6)?, HEADER_V6)
            }
        };
        let carried = about.get(header..)?;
        let sequence = carried.get(4..8)?.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        Some(Self {
            from: message.source,
            reason,
            code: (kind, code),
            protocol,
            local: (source, word(carried, 0)),
            remote: (destination, word(carried, 2)),
            sequence,
        })
    }
}

/// What the machine says to a packet that it cannot do anything with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// Nobody is at the port.
    Port,
    /// The protocol is not spoken.
    Protocol,
}

/// A message about `packet`, as header and payload; `None` where none may be sent: about packets to groups, from nobody, or
/// about errors (RFC 1122, 3.2.2).
#[must_use]
pub fn complain(packet: &Packet<'_>, complaint: Complaint) -> Option<(Outgoing, Vec<u8>)> {
    if !packet::is_unicast(packet.source) || !packet::is_unicast(packet.destination) {
        return None;
    }
    let v4 = packet.source.is_ipv4();
    let (kind, code) = match (v4, complaint) {
        (true, Complaint::Port) => (UNREACHABLE, 3),
        (true, Complaint::Protocol) => (UNREACHABLE, 2),
        (false, Complaint::Port) => (UNREACHABLE_V6, 4),
        (false, Complaint::Protocol) => (PARAMETER_V6, 1),
    };
    let room = if v4 { MOST_V4 - HEADER_V4 } else { MOST_V6 - HEADER_V6 } - HEAD;
    let about = packet.bytes.get(..room.min(packet.bytes.len()))?;
    let mut message = alloc::vec![kind, code, 0, 0, 0, 0, 0, 0];
    if complaint == Complaint::Protocol && !v4 {
        // Where the number stands that is not known: the header's own field, without extensions.
        message[4..8].copy_from_slice(&6u32.to_be_bytes());
    }
    message.extend_from_slice(about);
    Some(seal(packet.destination, packet.source, message, 64))
}

/// The answer to an echo request.
#[must_use]
pub fn echo(packet: &Packet<'_>, own: IpAddr) -> Option<(Outgoing, Vec<u8>)> {
    let mut message = packet.payload().to_vec();
    if message.len() < HEAD || !packet::is_unicast(packet.source) {
        return None;
    }
    message[0] = if packet.source.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    Some(seal(own, packet.source, message, 64))
}

/// Puts the checksum of a message where it belongs, and makes its packet's header.
#[must_use]
pub fn seal(source: IpAddr, destination: IpAddr, mut message: Vec<u8>, hop_limit: u8) -> (Outgoing, Vec<u8>) {
    let protocol = if destination.is_ipv4() { ICMP } else { ICMPV6 };
    let head = Outgoing { source, destination, protocol, hop_limit, traffic_class: 0, may_fragment: true };
    if protocol == ICMPV6 {
        head.write_checksum(&mut message, 2);
    } else if message.len() >= 4 {
        message[2..4].fill(0);
        let checksum = finish(sum(&message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    (head, message)
}

/// How many errors may be sent: a thousand a second, fifty at once (as Linux's `icmp_msgs_per_sec`, `icmp_msgs_burst`).
#[derive(Debug)]
pub struct Limit {
    left: u64,
    since: Instant,
}

impl Limit {
    const BURST: u64 = 50;

    /// From now on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { left: Self::BURST, since: now }
    }

    /// Whether one more may be sent.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = (now - self.since).total_millis();
        if passed > 0 {
            self.left = (self.left + passed).min(Self::BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}
