//! The network interfaces, their addresses, and which way a packet would go.
//!
//! [`LOOPBACK`] is up from the start with 127.0.0.1/8 and ::1/128. The others have a wire
//! ([`Ethernet`]), whose stack says anew what the interface's addresses and routes are when they
//! change; here is a copy of that, so that a socket can ask while it holds its own lock. What an address means
//! ([`kind`]) and where a destination leads ([`route`]) are asked here and nowhere else.

use alloc::{string::String, vec, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use abi::{Errno, Result, net};
use klib::net::{
    Instant, Mac,
    routes::{Origin, Route as TableRoute},
    stack::{Own, Stack, Standing, choose_source, is_broadcast},
};

use super::{address::IpAddress, wire::Ethernet};
use crate::{
    sync::{IrqLock, Once},
    time,
};

/// The longest name of an interface, with its NUL (IFNAMSIZ).
pub const NAME_SIZE: usize = net::IFNAMSIZ as usize;
/// The most interfaces with a wire.
const MAX_ETHERNETS: usize = 4;
const NAMES: [&str; MAX_ETHERNETS] = ["eth0", "eth1", "eth2", "eth3"];
/// ARPHRD_ETHER and ARPHRD_LOOPBACK.
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
/// The longest packet of the loopback.
const LOOPBACK_MTU: u32 = 65536;

const UP: u32 = net::net_device_flags::IFF_UP as u32;
const RUNNING: u32 = net::net_device_flags::IFF_RUNNING as u32;
/// IFF_LOWER_UP, as netlink tells it.
pub const LOWER_UP: u32 = net::net_device_flags::IFF_LOWER_UP as u32;

/// What an interface's stack says of it.
#[derive(Clone, Default)]
struct Configuration {
    addresses: Vec<Own>,
    routes: Vec<TableRoute>,
    mtu: u32,
    link: bool,
    /// Name servers and the domain of names without one.
    dns: Vec<IpAddr>,
    domain: String,
    /// Time servers.
    ntp: Vec<Ipv4Addr>,
}

/// A network interface.
pub struct Interface {
    /// Its number (netdevice(7), `ifr_ifindex`); never 0.
    pub index: u32,
    /// Its name.
    pub name: &'static str,
    /// ARPHRD_*.
    pub hardware_type: u16,
    /// Its Ethernet address; zeroes for the loopback.
    pub mac: Mac,
    fixed_flags: u32,
    configuration: IrqLock<Configuration>,
    ethernet: Once<&'static Ethernet>,
    received: Counter,
    sent: Counter,
}

struct Counter {
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    fn count(&self, packets: u64, bytes: usize) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Count {
        Count {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}

/// Counts of one direction.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of their contents; of an Ethernet with the header.
    pub bytes: u64,
    /// Packets thrown away for lack of room.
    pub dropped: u64,
    /// Packets that the device could not take or send.
    pub errors: u64,
}

/// Counts of what an interface carried. What a loopback sends it also receives.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// What came.
    pub received: Count,
    /// What went.
    pub sent: Count,
}

/// The loopback interface.
pub static LOOPBACK: Interface = Interface {
    index: 1,
    name: "lo",
    hardware_type: ARPHRD_LOOPBACK,
    mac: [0; 6],
    fixed_flags: UP | RUNNING | net::net_device_flags::IFF_LOOPBACK as u32,
    configuration: IrqLock::new(Configuration {
        addresses: Vec::new(),
        routes: Vec::new(),
        mtu: LOOPBACK_MTU,
        link: true,
        dns: Vec::new(),
        domain: String::new(),
        ntp: Vec::new(),
    }),
    ethernet: Once::new(),
    received: Counter::new(),
    sent: Counter::new(),
};

static ETHERNETS: [Once<Interface>; MAX_ETHERNETS] = [const { Once::new() }; MAX_ETHERNETS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Adds an interface with a wire; `None` where there are too many.
pub fn add_ethernet(mac: Mac, mtu: usize) -> Option<&'static Interface> {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let place = ETHERNETS.get(number)?;
    let configuration = Configuration { mtu: mtu as u32, ..Configuration::default() };
    Some(place.call_once(|| Interface {
        index: LOOPBACK.index + 1 + number as u32,
        name: NAMES[number],
        hardware_type: ARPHRD_ETHER,
        mac,
        fixed_flags: UP | net::net_device_flags::IFF_BROADCAST as u32 | net::net_device_flags::IFF_MULTICAST as u32,
        configuration: IrqLock::new(configuration),
        ethernet: Once::new(),
        received: Counter::new(),
        sent: Counter::new(),
    }))
}

impl Interface {
    /// Names the wire of an interface.
    pub fn connect(&self, ethernet: &'static Ethernet) {
        self.ethernet.call_once(|| ethernet);
    }

    /// Its wire, where it has one.
    pub fn ethernet(&self) -> Option<&'static Ethernet> {
        self.ethernet.get().copied()
    }

    /// Whether it is the loopback.
    pub fn is_loopback(&self) -> bool {
        self.index == LOOPBACK.index
    }

    /// IFF_*.
    pub fn flags(&self) -> u32 {
        let running = !self.is_loopback() && self.configuration.lock().link;
        self.fixed_flags | if running { RUNNING } else { 0 }
    }

    /// Whether the other end of its wire is there.
    pub fn has_link(&self) -> bool {
        self.configuration.lock().link
    }

    /// The longest packet, in bytes.
    pub fn mtu(&self) -> u32 {
        self.configuration.lock().mtu
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<Own> {
        if self.is_loopback() {
            let own = |ip: IpAddress, prefix| Own {
                ip: ip.into(),
                prefix,
                origin: Origin::Kernel,
                standing: Standing::Usable,
                valid_until: None,
                preferred_until: None,
            };
            return vec![own(IpAddress::LOOPBACK_V4, 8), own(IpAddress::LOOPBACK_V6, 128)];
        }
        self.configuration.lock().addresses.clone()
    }

    /// Its routes, but for those to its own addresses.
    pub fn routes(&self) -> Vec<TableRoute> {
        self.configuration.lock().routes.clone()
    }

    /// What its stack says of it now.
    pub fn set(&self, stack: &Stack, link: bool) {
        let (dns, domain) = stack.dns();
        let new = Configuration {
            addresses: stack.addresses().to_vec(),
            routes: stack.routes().all().to_vec(),
            mtu: stack.mtu() as u32,
            link,
            dns,
            domain: domain.into(),
            ntp: stack.ntp().to_vec(),
        };
        let old = core::mem::replace(&mut *self.configuration.lock(), new);
        drop(old);
    }

    /// The time servers that DHCP told of.
    pub fn time_servers(&self) -> Vec<Ipv4Addr> {
        self.configuration.lock().ntp.clone()
    }

    /// Its name servers, and the domain of names without one.
    pub fn resolver(&self) -> (Vec<IpAddr>, String) {
        let configuration = self.configuration.lock();
        (configuration.dns.clone(), configuration.domain.clone())
    }

    /// Counts packets of `bytes` in all, headers included, that a loopback carried.
    pub fn count(&self, packets: u64, bytes: usize) {
        self.sent.count(packets, bytes);
    }

    /// Counts a frame that came.
    pub fn count_received(&self, bytes: usize) {
        self.received.count(1, bytes);
    }

    /// Counts a frame that went.
    pub fn count_sent(&self, bytes: usize) {
        self.sent.count(1, bytes);
    }

    /// Counts a packet that came and found no room.
    pub fn count_dropped(&self) {
        self.received.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a packet that could not be sent for lack of room.
    pub fn count_unsent(&self) {
        self.sent.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// What it carried.
    pub fn traffic(&self) -> Traffic {
        let (received, sent) = (self.received.read(), self.sent.read());
        match self.ethernet() {
            None => Traffic { received: Count { dropped: received.dropped, ..sent }, sent },
            Some(ethernet) => {
                let device = ethernet.device_counts();
                Traffic {
                    received: Count { errors: device.receive_errors, ..received },
                    sent: Count { errors: device.transmit_errors, ..sent },
                }
            }
        }
    }
}

/// Every interface, by number.
pub fn all() -> impl Iterator<Item = &'static Interface> {
    core::iter::once(&LOOPBACK).chain(ethernets())
}

/// Those with a wire.
pub fn ethernets() -> impl Iterator<Item = &'static Interface> {
    ETHERNETS.iter().filter_map(Once::get)
}

/// The interface with this number.
pub fn by_index(index: u32) -> Option<&'static Interface> {
    all().find(|interface| interface.index == index)
}

/// The interface with this name.
pub fn by_name(name: &[u8]) -> Option<&'static Interface> {
    all().find(|interface| interface.name.as_bytes() == name)
}

/// The interface with a wire that has this address.
pub fn with_address(ip: IpAddress) -> Option<&'static Interface> {
    let ip = IpAddr::from(ip);
    let has = |own: &Own| own.ip == ip && own.standing == Standing::Usable;
    ethernets().find(|interface| interface.configuration.lock().addresses.iter().any(has))
}

/// Now, as the stacks count.
pub fn now() -> Instant {
    Instant::from_micros((time::monotonic_ns() / 1000) as i64)
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
    } else if ip == LOOPBACK_BROADCAST || ip == LIMITED_BROADCAST || network_broadcast(ip).is_some() {
        Kind::Broadcast
    } else if ip.is_loopback() || with_address(ip).is_some() {
        Kind::Local
    } else {
        Kind::Elsewhere
    }
}

/// The interface whose network has this address for everybody.
fn network_broadcast(ip: IpAddress) -> Option<&'static Interface> {
    let ip = IpAddr::from(ip);
    ethernets().find(|interface| is_broadcast(&interface.configuration.lock().addresses, ip))
}

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Route {
    /// The address it is sent from.
    pub source: IpAddress,
    /// The address it goes to: `0.0.0.0` and `::` mean the machine itself.
    pub destination: IpAddress,
    /// What the destination is.
    pub kind: Kind,
    /// By which interface.
    pub interface: &'static Interface,
}

/// The interface that leads to `destination`: `device` where that is not 0, else the one with the best route.
fn leading_to(destination: IpAddress, device: u32) -> Result<&'static Interface> {
    let ip = IpAddr::from(destination);
    let mut best: Option<((u8, u32), &'static Interface)> = None;
    for interface in ethernets().filter(|interface| device == 0 || interface.index == device) {
        let configuration = interface.configuration.lock();
        let fitting = configuration
            .routes
            .iter()
            .filter(|route| klib::net::routes::contains(route.destination, route.prefix, ip))
            .map(|route| (u8::MAX - route.prefix, route.metric));
        if let Some(found) = fitting.min()
            && best.is_none_or(|(known, _)| found < known)
        {
            best = Some((found, interface));
        } else if device != 0 && destination.is_v4() {
            // Without a route everybody is next door there.
            best = best.or(Some(((u8::MAX, u32::MAX), interface)));
        }
    }
    best.map(|(_, interface)| interface).ok_or(Errno::ENETUNREACH)
}

/// The interface that packets to a group or to everybody go by.
fn for_many(destination: IpAddress, source: IpAddress, device: u32) -> Result<&'static Interface> {
    if device != 0 {
        return by_index(device).ok_or(Errno::ENODEV);
    }
    if !source.is_unspecified() && !source.is_multicast() {
        return if source.is_loopback() { Ok(&LOOPBACK) } else { with_address(source).ok_or(Errno::ENETUNREACH) };
    }
    if let Some(found) = network_broadcast(destination).filter(|_| destination != IpAddress::v4(u32::MAX)) {
        return Ok(found);
    }
    if destination.is_v4() { leading_to(destination, 0) } else { ethernets().next().ok_or(Errno::ENETUNREACH) }
}

/// The way to `destination` from a socket bound to `source` (unspecified: any of the machine's) and to interface
/// `device` (0: any). ENETUNREACH where there is none, EADDRNOTAVAIL where the interface has no address to send from.
pub fn route(source: IpAddress, destination: IpAddress, device: u32) -> Result<Route> {
    let own = destination.loopback_of_family();
    let bound = !source.is_unspecified() && source.is_v4() == destination.is_v4();
    let kind = kind(destination);
    let local = |destination: IpAddress, from: IpAddress| {
        let from = if bound && !source.is_multicast() { source } else { from };
        Ok(Route { source: from, destination, kind: Kind::Local, interface: &LOOPBACK })
    };
    let interface = match kind {
        Kind::Unspecified if destination.is_v4() => return local(if bound { source } else { own }, own),
        Kind::Unspecified => return local(own, own),
        // A packet of the machine to itself comes from the address it goes to.
        Kind::Local if destination.is_loopback() => return local(destination, own),
        Kind::Local => return local(destination, destination),
        Kind::Broadcast if destination.is_loopback() => &LOOPBACK,
        Kind::Broadcast | Kind::Multicast => {
            let from = if bound { source } else { IpAddress::ANY_V4 };
            for_many(destination, from, device)?
        }
        Kind::Elsewhere => leading_to(destination, device)?,
    };
    if interface.is_loopback() {
        // Groups of IPv6 do not go by a loopback.
        if !destination.is_v4() {
            return Err(Errno::ENETUNREACH);
        }
        let from = if bound && !source.is_multicast() { source } else { own };
        return Ok(Route { source: from, destination, kind, interface });
    }
    if bound && source.is_loopback() {
        return Err(Errno::EINVAL);
    }
    let from = if bound && !source.is_multicast() {
        source
    } else {
        let addresses = interface.configuration.lock().addresses.clone();
        match choose_source(&addresses, destination.into(), now()) {
            Some(ip) => ip.into(),
            None if destination.is_v4() && kind != Kind::Elsewhere => IpAddress::ANY_V4,
            None => return Err(if destination.is_v4() { Errno::ENETUNREACH } else { Errno::EADDRNOTAVAIL }),
        }
    };
    Ok(Route { source: from, destination, kind, interface })
}
