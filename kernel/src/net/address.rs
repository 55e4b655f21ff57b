//! Internet addresses, and the `struct sockaddr_in` and `sockaddr_in6` that programs name them by.
//!
//! An [`IpAddress`] is 128 bits for both families: an IPv4 address is kept as IPv4-mapped (RFC 4291, 2.5.5.2), as the
//! address a dual-stack socket shows it by. So one table of ports serves both families.

use alloc::{string::String, vec::Vec};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use abi::{Errno, Result, net};
use klib::net::packet::{HEADER_V4, HEADER_V6};

/// The bits above an IPv4-mapped address.
const MAPPED: u128 = 0xffff << 32;
/// Bytes of `struct sockaddr_in` and `struct sockaddr_in6`.
const SOCKADDR_IN: usize = size_of::<net::sockaddr_in>();
const SOCKADDR_IN6: usize = size_of::<net::sockaddr_in6>();
/// The shortest IPv6 address taken: that of RFC 2133, which lacks the scope.
const SOCKADDR_IN6_SHORT: usize = 24;

/// An address of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpAddress(u128);

impl IpAddress {
    /// `0.0.0.0`.
    pub const ANY_V4: Self = Self(MAPPED);
    /// `::`.
    pub const ANY_V6: Self = Self(0);
    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self(MAPPED | 0x7f00_0001);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self(1);

    /// An IPv4 address from its number in host order.
    pub const fn v4(number: u32) -> Self {
        Self(MAPPED | number as u128)
    }

    /// From the four bytes of an address in network order.
    pub const fn from_v4_bytes(bytes: [u8; 4]) -> Self {
        Self::v4(u32::from_be_bytes(bytes))
    }

    /// From the sixteen bytes of an address in network order.
    pub const fn from_v6_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The sixteen bytes in network order.
    pub const fn v6_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The IPv4 address in host order, if it is one.
    pub const fn as_v4(self) -> Option<u32> {
        if self.0 >> 32 == 0xffff { Some(self.0 as u32) } else { None }
    }

    /// Bytes of the header of a packet to it, without options.
    pub fn header_len(self) -> usize {
        if self.is_v4() { HEADER_V4 } else { HEADER_V6 }
    }

    /// Whether it is an IPv4 address.
    pub const fn is_v4(self) -> bool {
        self.as_v4().is_some()
    }

    /// The four bytes of an IPv4 address in network order; zeroes for IPv6.
    pub fn v4_bytes(self) -> [u8; 4] {
        self.as_v4().unwrap_or(0).to_be_bytes()
    }

    /// `0.0.0.0` or `::`.
    pub fn is_unspecified(self) -> bool {
        self == Self::ANY_V4 || self == Self::ANY_V6
    }

    /// 127.0.0.0/8 or `::1`.
    pub const fn is_loopback(self) -> bool {
        match self.as_v4() {
            Some(number) => number >> 24 == 127,
            None => self.0 == 1,
        }
    }

    /// 224.0.0.0/4 or ff00::/8.
    pub const fn is_multicast(self) -> bool {
        match self.as_v4() {
            Some(number) => number >> 28 == 0xe,
            None => self.0 >> 120 == 0xff,
        }
    }

    /// An IPv6 address that means something on one link only: fe80::/10, or multicast of that scope or less.
    pub const fn is_link_local(self) -> bool {
        self.0 >> 118 == 0xfe80 >> 6 || self.0 >> 120 == 0xff && matches!(self.0 >> 112 & 0xf, 1 | 2)
    }

    /// The unspecified address of the same family.
    pub const fn any_of_family(self) -> Self {
        if self.is_v4() { Self::ANY_V4 } else { Self::ANY_V6 }
    }

    /// The loopback address of the same family.
    pub const fn loopback_of_family(self) -> Self {
        if self.is_v4() { Self::LOOPBACK_V4 } else { Self::LOOPBACK_V6 }
    }

    /// Whether sockets bound to the two would both be meant by some packet. An IPv6 socket that is `only_v6` means no
    /// IPv4 packet.
    pub fn overlaps(self, only_v6: bool, other: Self, other_only_v6: bool) -> bool {
        match (self.is_v4(), other.is_v4()) {
            (true, true) => self == other || self == Self::ANY_V4 || other == Self::ANY_V4,
            (false, true) => self == Self::ANY_V6 && !only_v6,
            (true, false) => other == Self::ANY_V6 && !other_only_v6,
            (false, false) => self == other || self == Self::ANY_V6 || other == Self::ANY_V6,
        }
    }

    /// Whether a socket bound to this address gets packets for `destination`.
    pub fn accepts(self, only_v6: bool, destination: Self) -> bool {
        self == destination
            || self == Self::ANY_V6 && !(only_v6 && destination.is_v4())
            || self == Self::ANY_V4 && destination.is_v4()
    }

    /// As /proc/net/tcp writes it: words of the address in memory order, each as a number of this machine.
    pub fn hex(self, family: u32) -> String {
        use core::fmt::Write as _;
        let mut text = String::new();
        let (v4, v6) = (self.v4_bytes(), self.v6_bytes());
        let bytes: &[u8] = if family == net::AF_INET { &v4 } else { &v6 };
        for word in bytes.as_chunks().0 {
            let _ = write!(text, "{:08X}", u32::from_ne_bytes(*word));
        }
        text
    }
}

impl From<IpAddr> for IpAddress {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip.into()),
            IpAddr::V6(ip) => Self(ip.into()),
        }
    }
}

impl From<IpAddress> for IpAddr {
    fn from(ip: IpAddress) -> Self {
        match ip.as_v4() {
            Some(number) => Self::V4(number.into()),
            None => Self::V6(ip.0.into()),
        }
    }
}

impl fmt::Display for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_v4() {
            Some(number) => Ipv4Addr::from(number).fmt(f),
            None => Ipv6Addr::from(self.0).fmt(f),
        }
    }
}

impl fmt::Debug for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a `struct sockaddr` of the internet families says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketAddress {
    /// Address.
    pub ip: IpAddress,
    /// Port.
    pub port: u16,
    /// Index of the interface a link-local address belongs to; 0 for none.
    pub scope: u32,
    /// IPv6 flow information, in network order as it came.
    pub flow: u32,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// `sa_family` of a `struct sockaddr`. EINVAL where there is not even that.
pub fn family_of(bytes: &[u8]) -> Result<u32> {
    bytes.first_chunk().map(|family| u32::from(u16::from_ne_bytes(*family))).ok_or(Errno::EINVAL)
}

impl SocketAddress {
    /// An address without scope or flow.
    pub const fn new(ip: IpAddress, port: u16) -> Self {
        Self { ip, port, scope: 0, flow: 0 }
    }

    /// Reads a `struct sockaddr_in`. EINVAL where it is too short.
    pub fn parse_v4(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < SOCKADDR_IN {
            return Err(Errno::EINVAL);
        }
        Ok(Self::new(IpAddress::from_v4_bytes(field(bytes, 4)), u16::from_be_bytes(field(bytes, 2))))
    }

    /// Reads a `struct sockaddr_in6`. EINVAL where it is too short.
    pub fn parse_v6(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < SOCKADDR_IN6_SHORT {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            ip: IpAddress::from_v6_bytes(field(bytes, 8)),
            port: u16::from_be_bytes(field(bytes, 2)),
            scope: u32::from_ne_bytes(field(bytes, 24)),
            flow: u32::from_ne_bytes(field(bytes, 4)),
        })
    }

    /// Reads an address as a socket of `family` takes it; EINVAL where it is too short, EAFNOSUPPORT for another
    /// family's.
    pub fn parse(family: u32, bytes: &[u8]) -> Result<Self> {
        let parsed = if family == net::AF_INET { Self::parse_v4(bytes)? } else { Self::parse_v6(bytes)? };
        if family_of(bytes)? != family {
            return Err(Errno::EAFNOSUPPORT);
        }
        Ok(parsed)
    }

    /// The `struct sockaddr` that a socket of `family` shows for it.
    pub fn to_bytes(self, family: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SOCKADDR_IN6);
        bytes.extend((family as u16).to_ne_bytes());
        bytes.extend(self.port.to_be_bytes());
        if family == net::AF_INET {
            bytes.extend(self.ip.v4_bytes());
            bytes.resize(SOCKADDR_IN, 0);
        } else {
            bytes.extend(self.flow.to_ne_bytes());
            bytes.extend(self.ip.v6_bytes());
            bytes.extend(self.scope.to_ne_bytes());
        }
        bytes
    }
}
