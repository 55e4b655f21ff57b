//! The network interfaces, their addresses, and which way a packet would go.
//!
//! There is one interface, `lo`, up from the start with 127.0.0.1/8 and ::1/128. What an address means
//! ([`kind`]) and where a destination leads ([`route`]) are asked here and nowhere else, so an interface with a wire
//! joins by appearing in [`all`] and in these two.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result, net};

use super::address::IpAddress;

/// The longest name of an interface, with its NUL (IFNAMSIZ).
pub const NAME_SIZE: usize = net::IFNAMSIZ as usize;

/// An address that an interface has.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddress,
    /// Bits of the network's prefix.
    pub prefix: u8,
}

/// A network interface.
pub struct Interface {
    /// Its number (netdevice(7), `ifr_ifindex`); never 0.
    pub index: u32,
    /// Its name.
    pub name: &'static str,
    /// IFF_*.
    pub flags: u32,
    /// The longest packet, in bytes.
    pub mtu: u32,
    /// ARPHRD_*.
    pub hardware_type: u16,
    /// Its addresses.
    pub addresses: &'static [InterfaceAddress],
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

/// ARPHRD_LOOPBACK.
const ARPHRD_LOOPBACK: u16 = 772;

/// The loopback interface.
pub static LOOPBACK: Interface = Interface {
    index: 1,
    name: "lo",
    flags: (net::net_device_flags::IFF_UP as u32)
        | (net::net_device_flags::IFF_LOOPBACK as u32)
        | (net::net_device_flags::IFF_RUNNING as u32),
    mtu: 65536,
    hardware_type: ARPHRD_LOOPBACK,
    addresses: &[
        InterfaceAddress { ip: IpAddress::LOOPBACK_V4, prefix: 8 },
        InterfaceAddress { ip: IpAddress::LOOPBACK_V6, prefix: 128 },
    ],
    packets: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
    dropped: AtomicU64::new(0),
};

/// Counts of what an interface carried. What a loopback sends it also receives.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Packets thrown away for lack of room.
    pub dropped: u64,
}

impl Interface {
    /// Counts a packet with `bytes` of contents.
    pub fn count(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a packet that found no room.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// What it carried.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// Every interface, by number.
pub fn all() -> impl Iterator<Item = &'static Interface> {
    [&LOOPBACK].into_iter()
}

/// The interface with this number.
pub fn by_index(index: u32) -> Option<&'static Interface> {
    all().find(|interface| interface.index == index)
}

/// The interface with this name.
pub fn by_name(name: &[u8]) -> Option<&'static Interface> {
    all().find(|interface| interface.name.as_bytes() == name)
}

/// What an address means to this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `0.0.0.0` or `::`.
    Unspecified,
    /// One of the machine's own.
    Local,
    /// Everybody's of a network.
    Broadcast,
    /// A group's.
    Multicast,
    /// Somebody else's.
    Elsewhere,
}

/// What an address means to this machine. All of 127.0.0.0/8 is its own.
pub fn kind(ip: IpAddress) -> Kind {
    const LOOPBACK_BROADCAST: IpAddress = IpAddress::v4(0x7fff_ffff);
    const LIMITED_BROADCAST: IpAddress = IpAddress::v4(0xffff_ffff);
    if ip.is_unspecified() {
        Kind::Unspecified
    } else if ip.is_multicast() {
        Kind::Multicast
    } else if ip == LOOPBACK_BROADCAST || ip == LIMITED_BROADCAST {
        Kind::Broadcast
    } else if ip.is_loopback() {
        Kind::Local
    } else {
        Kind::Elsewhere
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The address it is sent from.
    pub source: IpAddress,
    /// The address it goes to: `0.0.0.0` and `::` mean the machine itself.
    pub destination: IpAddress,
    /// What the destination is.
    pub kind: Kind,
}

/// The way to `destination` from a socket bound to `source` (unspecified: any of the machine's) and to interface
/// `device` (0: any). ENETUNREACH where there is none.
pub fn route(source: IpAddress, destination: IpAddress, device: u32) -> Result<Route> {
    let own = destination.loopback_of_family();
    let bound = !source.is_unspecified() && source.is_v4() == destination.is_v4();
    let from = if bound && !source.is_multicast() { source } else { own };
    let answer = |destination, kind| Ok(Route { source: from, destination, kind });
    match kind(destination) {
        Kind::Unspecified => answer(if destination.is_v4() { from } else { own }, Kind::Local),
        Kind::Local => answer(destination, Kind::Local),
        Kind::Broadcast if destination.is_loopback() => answer(destination, Kind::Broadcast),
        // Without a route these go by the interface that the program chose, by number or by its address; those of IPv6
        // do not on a loopback.
        found @ (Kind::Broadcast | Kind::Multicast) if destination.is_v4() && (bound || device != 0) => {
            answer(destination, found)
        }
        _ => Err(Errno::ENETUNREACH),
    }
}
