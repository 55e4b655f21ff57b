//! IP packets: taken apart and checked, and put together.
//!
//! Reference: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 1071 (checksum).

use alloc::{borrow::Cow, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const IGMP: u8 = 2;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;
/// See [`ICMP`].
pub const UDPLITE: u8 = 136;
/// Extension headers of IPv6 (RFC 8200, 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;

/// Bytes of the headers without options.
pub const HEADER_V4: usize = 20;
/// See [`HEADER_V4`].
pub const HEADER_V6: usize = 40;
/// Bytes of IPv6's fragment header.
pub const FRAGMENT_HEADER: usize = 8;
/// The most extension headers looked through.
const MAX_EXTENSIONS: usize = 8;

/// Why a packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// Shorter than it says, a wrong version or checksum, headers that make no sense.
    Header,
    /// An address that nobody can send from.
    Source,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which packet of this source and destination.
    pub ident: u32,
    /// Where its bytes belong.
    pub offset: usize,
    /// Others come behind it.
    pub more: bool,
}

/// A packet: its addresses, what it carries, and its bytes.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// The whole packet.
    pub bytes: &'a [u8],
    /// Bytes before the payload.
    pub header: usize,
    /// Which part of a packet it is, where it is not whole.
    pub part: Option<Part>,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// A 16-bit word in network order; 0 beyond the end.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u16 {
    field(bytes, at).map_or(0, u16::from_be_bytes)
}

/// Sums 16-bit words for the internet checksum, without its complement. The sum of two even-sized parts is that of the
/// whole.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut carries = 0u64;
    for word in words {
        let (next, carry) = total.overflowing_add(u64::from_ne_bytes(*word));
        total = next;
        carries += u64::from(carry);
    }
    let mut last = [0; 8];
    if let Some(room) = last.get_mut(..rest.len()) {
        room.copy_from_slice(rest);
    }
    let (next, carry) = total.overflowing_add(u64::from_ne_bytes(last));
    let mut total = u128::from(next) + u128::from(carries + u64::from(carry));
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    // The order of bytes does not matter to the sum but to its result (RFC 1071, 2.B).
    u32::from(u16::from_be(total as u16))
}

/// The checksum of what sums up to `total`.
#[must_use]
pub fn finish(mut total: u32) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

/// The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
#[must_use]
pub fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u32 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => sum(&source.octets()) + sum(&destination.octets()),
        (source, destination) => sum(&octets(source)) + sum(&octets(destination)),
    };
    addresses + u32::from(protocol) + (len as u32 >> 16) + (len as u32 & 0xffff)
}

/// Sixteen bytes of an address; an IPv4 one mapped.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether somebody can have this address for its own.
#[must_use]
pub fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    }
}

impl<'a> Packet<'a> {
    /// Takes an IPv4 packet apart. The header's checksum is verified; bytes behind the packet are cut off.
    pub fn parse_v4(bytes: &'a [u8]) -> Result<Self, Bad> {
        let first = *bytes.first().ok_or(Bad::Header)?;
        let header = usize::from(first & 0xf) * 4;
        let len = usize::from(word(bytes, 2));
        if first >> 4 != 4 || header < HEADER_V4 || len < header {
            return Err(Bad::Header);
        }
        let bytes = bytes.get(..len).ok_or(Bad::Header)?;
        let head = bytes.get(..header).ok_or(Bad::Header)?;
        if finish(sum(head)) != 0 {
            return Err(Bad::Header);
        }
        let address = |at| field(bytes, at).map(|bytes: [u8; 4]| Ipv4Addr::from(bytes)).ok_or(Bad::Header);
        let (source, destination) = (address(12)?, address(16)?);
        if source.is_multicast() || source.is_broadcast() || source.is_loopback() || destination.is_loopback() {
            return Err(Bad::Source);
        }
        let flags = word(bytes, 6);
        let (more, offset) = (flags & 0x2000 != 0, usize::from(flags & 0x1fff) * 8);
        let part = (more || offset != 0).then(|| Part { ident: u32::from(word(bytes, 4)), offset, more });
        Ok(Self {
            source: source.into(),
            destination: destination.into(),
            protocol: *bytes.get(9).ok_or(Bad::Header)?,
            hop_limit: *bytes.get(8).ok_or(Bad::Header)?,
            traffic_class: *bytes.get(1).ok_or(Bad::Header)?,
            bytes,
            header,
            part,
        })
    }

    /// Takes an IPv6 packet apart, its extension headers passed over. Options in them ask nothing of a host that we do
    /// not do anyway, but for those that want the packet dropped.
    pub fn parse_v6(bytes: &'a [u8]) -> Result<Self, Bad> {
        let first = *bytes.first().ok_or(Bad::Header)?;
        let len = HEADER_V6 + usize::from(word(bytes, 4));
        if first >> 4 != 6 {
            return Err(Bad::Header);
        }
        let bytes = bytes.get(..len).ok_or(Bad::Header)?;
        let address = |at| field(bytes, at).map(|bytes: [u8; 16]| Ipv6Addr::from(bytes)).ok_or(Bad::Header);
        let (source, destination) = (address(8)?, address(24)?);
        if source.is_multicast() || source.is_loopback() || destination.is_loopback() || destination.is_unspecified() {
            return Err(Bad::Source);
        }
        let mut packet = Self {
            source: source.into(),
            destination: destination.into(),
            protocol: *bytes.get(6).ok_or(Bad::Header)?,
            hop_limit: *bytes.get(7).ok_or(Bad::Header)?,
            traffic_class: (word(bytes, 0) >> 4) as u8,
            bytes,
            header: HEADER_V6,
            part: None,
        };
        packet.skip_extensions()?;
        Ok(packet)
    }

    /// Passes over the extension headers from `header` on.
    fn skip_extensions(&mut self) -> Result<(), Bad> {
        for _ in 0..MAX_EXTENSIONS {
            let extension = self.bytes.get(self.header..).ok_or(Bad::Header)?;
            let len = match self.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    let len = 8 + usize::from(*extension.get(1).ok_or(Bad::Header)?) * 8;
                    let options = extension.get(2..len).ok_or(Bad::Header)?;
                    if self.protocol == ROUTING {
                        // No segments left is fine; a packet to be passed on is not for a host (RFC 8200, 4.4).
                        if options.get(1).is_some_and(|left| *left != 0) {
                            return Err(Bad::Header);
                        }
                    } else {
                        check_options(options)?;
                    }
                    len
                }
                FRAGMENT if self.part.is_none() => {
                    let place = word(extension, 2);
                    let ident = field(extension, 4).map(u32::from_be_bytes).ok_or(Bad::Header)?;
                    let part = Part { ident, offset: usize::from(place & !7), more: place & 1 != 0 };
                    self.protocol = *extension.first().ok_or(Bad::Header)?;
                    self.header += FRAGMENT_HEADER;
                    if part.more || part.offset != 0 {
                        self.part = Some(part);
                        return Ok(());
                    }
                    // A whole packet with a fragment header (RFC 6946).
                    continue;
                }
                FRAGMENT | NO_NEXT => return Err(Bad::Header),
                _ => return Ok(()),
            };
            self.protocol = *extension.first().ok_or(Bad::Header)?;
            self.header += len;
        }
        Err(Bad::Header)
    }

    /// The packet that fragments were put together to.
    pub fn whole(first: &Packet<'_>, header: usize, bytes: &'a [u8]) -> Result<Self, Bad> {
        let mut packet = Packet {
            source: first.source,
            destination: first.destination,
            protocol: first.protocol,
            hop_limit: first.hop_limit,
            traffic_class: first.traffic_class,
            bytes,
            header,
            part: None,
        };
        if packet.source.is_ipv6() {
            packet.skip_extensions()?;
        }
        Ok(packet)
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header..).unwrap_or_default()
    }

    /// The packet as if it had come without options or extension headers.
    #[must_use]
    pub fn plain(&self) -> Cow<'a, [u8]> {
        let plain = if self.source.is_ipv4() { HEADER_V4 } else { HEADER_V6 };
        if self.header == plain {
            return Cow::Borrowed(self.bytes);
        }
        let payload = self.payload();
        let mut bytes = Vec::with_capacity(plain + payload.len());
        bytes.resize(plain, 0);
        bytes.extend_from_slice(payload);
        Outgoing {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
            may_fragment: false,
        }
        .write_header(&mut bytes, 0, None);
        Cow::Owned(bytes)
    }
}

/// Options whose two highest bits are not 0 want a packet dropped by who does not know them (RFC 8200, 4.2).
fn check_options(mut options: &[u8]) -> Result<(), Bad> {
    while let Some(&kind) = options.first() {
        let len = if kind == 0 { 1 } else { 2 + usize::from(*options.get(1).ok_or(Bad::Header)?) };
        options = options.get(len..).ok_or(Bad::Header)?;
        if kind >> 6 != 0 {
            return Err(Bad::Header);
        }
    }
    Ok(())
}

/// What the header of a packet to be sent says.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Who sends it.
    pub source: IpAddr,
    /// Whom it is for, of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// Whether it may be cut on its way (IPv4).
    pub may_fragment: bool,
}

impl Outgoing {
    /// Bytes of its header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        if self.destination.is_ipv4() { HEADER_V4 } else { HEADER_V6 }
    }

    /// Writes the header to the front of `packet`, whose length says the packet's. With a `part` of IPv6 the fragment
    /// header is written behind it.
    pub fn write_header(&self, packet: &mut [u8], ident: u32, part: Option<Part>) {
        let len = packet.len();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [0; HEADER_V4];
                header[0] = 0x45;
                header[1] = self.traffic_class;
                header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                header[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
                let flags = match part {
                    Some(part) => (part.offset / 8) as u16 | if part.more { 0x2000 } else { 0 },
                    None if self.may_fragment => 0,
                    None => 0x4000,
                };
                header[6..8].copy_from_slice(&flags.to_be_bytes());
                header[8] = self.hop_limit;
                header[9] = self.protocol;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let checksum = finish(sum(&header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                if let Some(room) = packet.get_mut(..HEADER_V4) {
                    room.copy_from_slice(&header);
                }
            }
            (source, destination) => {
                let mut header = [0; HEADER_V6 + FRAGMENT_HEADER];
                header[0] = 0x60 | self.traffic_class >> 4;
                header[1] = self.traffic_class << 4;
                header[4..6].copy_from_slice(&(len.saturating_sub(HEADER_V6) as u16).to_be_bytes());
                header[6] = if part.is_some() { FRAGMENT } else { self.protocol };
                header[7] = self.hop_limit;
                header[8..24].copy_from_slice(&octets(source));
                header[24..40].copy_from_slice(&octets(destination));
                let mut used = HEADER_V6;
                if let Some(part) = part {
                    header[40] = self.protocol;
                    header[42..44].copy_from_slice(&(part.offset as u16 | u16::from(part.more)).to_be_bytes());
                    header[44..48].copy_from_slice(&ident.to_be_bytes());
                    used += FRAGMENT_HEADER;
                }
                if let (Some(room), Some(header)) = (packet.get_mut(..used), header.get(..used)) {
                    room.copy_from_slice(header);
                }
            }
        }
    }

    /// Writes a transport checksum at `at` of `payload`, as UDP, TCP and ICMPv6 have it. UDP never sends 0.
    pub fn write_checksum(&self, payload: &mut [u8], at: usize) {
        if let Some(room) = payload.get_mut(at..at + 2) {
            room.fill(0);
        }
        let pseudo = pseudo_sum(self.source, self.destination, self.protocol, payload.len());
        let checksum = match finish(pseudo + sum(payload)) {
            0 if self.protocol == UDP => 0xffff,
            checksum => checksum,
        };
        if let Some(room) = payload.get_mut(at..at + 2) {
            room.copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// Whether the checksum of what a packet carries, with its pseudo-header, is right.
#[must_use]
pub fn is_intact(packet: &Packet<'_>) -> bool {
    let payload = packet.payload();
    finish(pseudo_sum(packet.source, packet.destination, packet.protocol, payload.len()) + sum(payload)) == 0
}
