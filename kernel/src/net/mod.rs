//! The network: the socket layer of the internet families, AF_NETLINK, and what /proc and /sys show of it.
//!
//! The socket layer is the kernel's own: addresses and ports ([`ports`]), options ([`shared`], [`ip_options`]), listen
//! queues, states, errors and readiness. Below it is what carries bytes. Between two sockets of this machine nothing
//! does: bytes go from one socket's queue straight to the other's, without packets, checksums, acknowledgements or
//! timers ([`tcp`]'s link, [`udp`]'s delivery).
//!
//! What leaves the machine goes by a [`wire`]: an interface with its packet stack (`klib::net`) and the thread that drives
//! it. [`interface`] says which addresses are the machine's and where a destination leads. A connection ([`tcp`]) has its
//! transport in one value, a link or a wire, which answer the same questions: send, receive, shut down, close, what is
//! ready. A datagram ([`udp`]) that is not for this machine is handed to the stack after its route is known, and one that
//! came in goes the way of a local one from the table of ports on. Nothing above these knows the difference. Why:
//! docs/decisions/0013-sockets.md and 0014-packet-stack.md.

pub mod address;
pub mod device_ioctl;
mod inbox;
pub mod interface;
mod ip_options;
mod memory;
mod multicast;
pub mod netlink;
mod ports;
pub mod proc;
mod raw;
mod shared;
mod tcp;
mod udp;
pub mod wire;

use alloc::sync::Arc;

use abi::{Errno, Result, net};

use crate::fs::socket::{SocketOps, SocketType};
use address::{SocketAddress, family_of};

/// One more than the highest number a protocol has (IPPROTO_MAX).
const NR_PROTOCOLS: u32 = net::IPPROTO_MAX as u32;

/// socket(2) for AF_INET and AF_INET6: the socket, and its protocol's number.
pub fn open(family: u32, kind: SocketType, protocol: u32) -> Result<(Arc<dyn SocketOps>, u32)> {
    const TCP: u32 = net::IPPROTO_TCP as u32;
    const UDP: u32 = net::IPPROTO_UDP as u32;
    const UDPLITE: u32 = net::IPPROTO_UDPLITE as u32;
    const ICMP: u32 = net::IPPROTO_ICMP as u32;
    const ICMPV6: u32 = net::IPPROTO_ICMPV6;
    if protocol >= NR_PROTOCOLS {
        return Err(Errno::EINVAL);
    }
    match (kind, protocol) {
        (SocketType::Stream, 0 | TCP) => Ok((tcp::TcpSocket::open(family), TCP)),
        (SocketType::Datagram, 0 | UDP) => Ok((udp::UdpSocket::open(family, UDP), UDP)),
        (SocketType::Datagram, UDPLITE) => Ok((udp::UdpSocket::open(family, UDPLITE), UDPLITE)),
        // Nobody is in the group range that may ping without rights (icmp(7), ping_group_range).
        (SocketType::Datagram, ICMP) if family == net::AF_INET => Err(Errno::EACCES),
        (SocketType::Datagram, ICMPV6) if family == net::AF_INET6 => Err(Errno::EACCES),
        (SocketType::Raw, 1..) => Ok((raw::RawSocket::open(family, protocol)?, protocol)),
        (SocketType::SequencedPacket, _) => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EPROTONOSUPPORT),
    }
}

/// Reads an address for bind(2): EINVAL where it is too short, EAFNOSUPPORT for another family's. As on Linux an
/// IPv4 socket takes one without a family where the address is unspecified.
fn parse_to_bind(family: u32, bytes: &[u8]) -> Result<SocketAddress> {
    if family == net::AF_INET && family_of(bytes)? == net::AF_UNSPEC {
        let address = SocketAddress::parse_v4(bytes)?;
        return if address.ip.is_unspecified() { Ok(address) } else { Err(Errno::EAFNOSUPPORT) };
    }
    SocketAddress::parse(family, bytes)
}
