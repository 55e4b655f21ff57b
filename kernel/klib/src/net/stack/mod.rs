//! One interface's stack.
//!
//! [`Stack::input`] takes a frame, [`Stack::send`] a packet of the sockets, [`Stack::tcp_output`] lets a connection send;
//! [`Stack::poll`] does what time brings. What concerns the machine's sockets goes to the [`Host`]. `input.rs` has the way
//! in, `output.rs` the way out, `configure.rs` addresses and routes.

mod configure;
mod input;
mod output;
#[cfg(test)]
mod tests;

use alloc::{string::String, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Instant, Mac,
    autoconfiguration::{Autoconfiguration, link_local},
    boot_config::BootConfig,
    counts::Counts,
    dhcp,
    fragments::Fragments,
    groups::Groups,
    icmp,
    neighbours::Neighbours,
    packet::Packet,
    routes::{Origin, Routes},
    tcp::Engine,
};
pub use output::{NotSent, Output};

/// The most addresses of an interface.
pub const MAX_ADDRESSES: usize = 16;

/// What a stack needs of the machine around it.
pub trait Host {
    /// Whether a frame can be sent now.
    fn has_room(&self) -> bool;

    /// Sends a frame of `len` bytes, which `fill` writes. `false` where there is no room.
    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool;

    /// A random number that nobody can guess.
    fn random(&mut self) -> u64;

    /// A datagram of UDP or UDP-Lite with a right checksum: whether anybody is at its port.
    fn datagram(&mut self, packet: &Packet<'_>) -> bool;

    /// A TCP segment with a right checksum, for one of the machine's addresses.
    fn segment(&mut self, stack: &mut Stack, packet: &Packet<'_>, now: Instant);

    /// Any packet for the machine, for raw sockets: whether one took it.
    fn raw(&mut self, packet: &Packet<'_>) -> bool;

    /// An error about a packet of the machine's, from the network or found here.
    fn error(&mut self, stack: &mut Stack, error: &icmp::Error, now: Instant);

    /// Whether a socket is in this group.
    fn is_member(&mut self, group: IpAddr) -> bool;
}

/// How far an address has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Others are to be asked at that time whether it is theirs.
    New(Instant),
    /// They may say so until then.
    Tentative(Instant),
    /// To be used.
    Usable,
    /// Somebody else has it.
    Duplicate,
}

impl Standing {
    /// Whether others may still say that it is theirs.
    #[must_use]
    pub fn is_tentative(self) -> bool {
        matches!(self, Self::New(_) | Self::Tentative(_))
    }
}

/// An address of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// It.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Who gave it.
    pub origin: Origin,
    /// How far it has come.
    pub standing: Standing,
    /// Until when it is valid, and until when connections may begin with it; `None`: for good.
    pub valid_until: Option<Instant>,
    /// See [`valid_until`](Self::valid_until).
    pub preferred_until: Option<Instant>,
}

/// The stack of one interface.
pub struct Stack {
    /// TCP's part.
    engine: Engine,
    /// All else.
    core: Core,
}

/// What all packets go through.
struct Core {
    mac: Mac,
    device_mtu: usize,
    mtu: usize,
    link: bool,
    config: BootConfig,
    host_name: String,
    addresses: Vec<Own>,
    routes: Routes,
    neighbours: Neighbours,
    fragments: Fragments,
    groups: Groups,
    dhcp: Option<dhcp::Client>,
    autoconfiguration: Option<Autoconfiguration>,
    /// When the static address takes the place of a server that does not answer.
    fallback_at: Option<Instant>,
    dns_v4: Vec<Ipv4Addr>,
    dns_v6: Vec<Ipv6Addr>,
    ntp: Vec<Ipv4Addr>,
    domain: String,
    limit: icmp::Limit,
    /// The next packet's number, for fragments.
    ident: u32,
    counts: Counts,
    /// Addresses, routes or name servers are others since this was asked.
    changed: bool,
    /// A neighbour was asked for since this was asked.
    asked: bool,
}

/// The group of a neighbour solicitation (RFC 4291, 2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from(PREFIX | u128::from(ip) & 0xff_ffff)
}

impl Stack {
    /// A stack for an interface whose link is down; [`set_link`](Self::set_link) begins.
    #[must_use]
    pub fn new(mac: Mac, mtu: usize, config: BootConfig, host_name: &str, seed: u64, now: Instant) -> Self {
        Self {
            engine: Engine::default(),
            core: Core {
                mac,
                device_mtu: mtu,
                mtu,
                link: false,
                config,
                host_name: host_name.into(),
                addresses: Vec::new(),
                routes: Routes::default(),
                neighbours: Neighbours::default(),
                fragments: Fragments::default(),
                groups: Groups::default(),
                dhcp: None,
                autoconfiguration: None,
                fallback_at: None,
                dns_v4: Vec::new(),
                dns_v6: Vec::new(),
                ntp: Vec::new(),
                domain: String::new(),
                limit: icmp::Limit::new(now),
                ident: seed as u32,
                counts: Counts::default(),
                changed: true,
                asked: false,
            },
        }
    }

    /// The longest packet, in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.core.mtu
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[Own] {
        &self.core.addresses
    }

    /// The routes.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.core.routes
    }

    /// The neighbours.
    #[must_use]
    pub fn neighbours(&self) -> &Neighbours {
        &self.core.neighbours
    }

    /// Incomplete packets.
    #[must_use]
    pub fn fragments(&self) -> &Fragments {
        &self.core.fragments
    }

    /// Name servers, those of IPv4 first, and the domain of names without one.
    #[must_use]
    pub fn dns(&self) -> (Vec<IpAddr>, &str) {
        let v4 = self.core.dns_v4.iter().copied().map(IpAddr::from);
        (v4.chain(self.core.dns_v6.iter().copied().map(IpAddr::from)).collect(), &self.core.domain)
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.core.counts
    }

    /// Whether addresses, routes or name servers are others since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.core.changed)
    }

    /// Whether a neighbour was asked for since this was last asked: its answer is waited for from then on, so
    /// [`deadline`](Self::deadline) is another.
    pub fn take_asked(&mut self) -> bool {
        core::mem::take(&mut self.core.asked)
    }

    /// Time servers that DHCP told of.
    #[must_use]
    pub fn ntp(&self) -> &[Ipv4Addr] {
        &self.core.ntp
    }
}

impl Core {
    /// The address an interface has of itself.
    fn link_local(&self) -> Ipv6Addr {
        link_local(self.mac)
    }

    fn own(&self, ip: IpAddr) -> Option<&Own> {
        self.addresses.iter().find(|own| own.ip == ip)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.own(ip).is_some_and(|own| own.standing == Standing::Usable)
    }

    fn is_broadcast(&self, ip: IpAddr) -> bool {
        is_broadcast(&self.addresses, ip)
    }

    /// The address to send to `destination` from.
    fn source_for(&self, destination: IpAddr, now: Instant) -> Option<IpAddr> {
        choose_source(&self.addresses, destination, now)
    }
}

/// The usable address to send to `destination` from (RFC 6724, 5, as far as it matters here).
#[must_use]
pub fn choose_source(addresses: &[Own], destination: IpAddr, now: Instant) -> Option<IpAddr> {
    let usable =
        addresses.iter().filter(|own| own.standing == Standing::Usable && own.ip.is_ipv4() == destination.is_ipv4());
    let best = usable.max_by_key(|own| {
        let preferred = own.preferred_until.is_none_or(|until| now < until);
        match (own.ip, destination) {
            (IpAddr::V6(own), IpAddr::V6(destination)) => {
                let common = (u128::from(own) ^ u128::from(destination)).leading_zeros();
                (is_link_local(own) == is_link_local(destination), preferred, common)
            }
            _ => (super::routes::contains(own.ip, own.prefix, destination), preferred, 0),
        }
    });
    best.map(|own| own.ip)
}

/// Whether packets to `ip` are everybody's of a network that one of these addresses is in.
#[must_use]
pub fn is_broadcast(addresses: &[Own], ip: IpAddr) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    ip.is_broadcast()
        || addresses.iter().any(|own| match own.ip {
            IpAddr::V4(address) if own.prefix < 31 => {
                let host = u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
                u32::from(ip) == u32::from(address) | host
            }
            _ => false,
        })
}

/// Whether an address or group means something on one wire only.
pub(super) fn is_link_local(ip: Ipv6Addr) -> bool {
    u128::from(ip) >> 118 == 0xfe80 >> 6 || ip.is_multicast() && ip.segments()[0] & 0xf <= 2
}
