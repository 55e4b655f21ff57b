//! Addresses and routes: what DHCP, routers, the command line and programs say, and what time takes away.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Core, Host, MAX_ADDRESSES, Own, Stack, Standing, output::Hop, solicited_node};
use crate::net::{
    Duration, Instant,
    autoconfiguration::{Autoconfiguration, News, new_validity},
    dhcp::{self, Change, Client},
    icmp,
    packet::{Outgoing, UDP},
    routes::{Origin, Route},
};

/// How long others may object to an address (RFC 4862, 5.1: one solicitation, RETRANS_TIMER).
const OBJECTION: Duration = Duration::from_secs(1);
/// How long a DHCP server may be silent before the static address is taken.
const SILENCE: Duration = Duration::from_secs(10);
/// The least MTU that anybody may set.
const LEAST_MTU: usize = 576;
const LEAST_MTU_V6: usize = 1280;
/// Of routes by router advertisement, as Linux has it.
const METRIC_ROUTER: u32 = 1024;

fn earlier(first: Option<Instant>, second: Option<Instant>) -> Option<Instant> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.min(second)),
        (one, other) => one.or(other),
    }
}

impl Stack {
    /// The other end of the wire is there, or has gone.
    pub fn set_link(&mut self, host: &mut dyn Host, up: bool, now: Instant) {
        let core = &mut self.core;
        if core.link == up {
            return;
        }
        core.link = up;
        core.changed = true;
        core.neighbours.clear();
        if !up {
            return;
        }
        core.groups.restart(now);
        let transaction = host.random() as u32;
        if core.config.dhcp {
            match &mut core.dhcp {
                // Perhaps it is another network now.
                Some(client) => client.restart(transaction, now),
                None => core.dhcp = Some(Client::new(core.mac, &core.host_name, transaction, now)),
            }
            core.fallback_at = core.config.address.map(|_| now + SILENCE);
        } else {
            core.add_static(now);
        }
        if core.config.v6 {
            let own = core.link_local();
            core.add_address(own.into(), 64, Origin::Kernel, None, None, now);
            // Asked for once the address may be used.
            core.autoconfiguration = Some(Autoconfiguration::new(now + OBJECTION));
        }
        self.poll(host, now);
    }

    /// Does what is due.
    pub fn poll(&mut self, host: &mut dyn Host, now: Instant) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        self.core.neighbours.poll(now);
        self.core.fragments.poll(now);
        self.core.expire(host, now);
        if self.core.link {
            self.poll_dhcp(host, now);
            let core = &mut self.core;
            if core.fallback_at.is_some_and(|at| at <= now) {
                core.fallback_at = None;
                core.add_static(now);
            }
            if core.autoconfiguration.as_mut().is_some_and(|own| own.poll(now)) {
                core.ask_routers(host);
            }
            let link_local = core.link_local();
            let usable = core.is_own(link_local.into());
            let v4 = core.source_for(Ipv4Addr::BROADCAST.into(), now).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            let v6 = if usable { link_local } else { Ipv6Addr::UNSPECIFIED };
            for report in core.groups.poll(now, |is_v4| if is_v4 { v4 } else { v6.into() }) {
                core.put_whole(host, &report, now);
            }
        }
        self.act(host, now);
    }

    /// When to [`poll`](Self::poll) next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let core = &self.core;
        let mut next = earlier(core.neighbours.deadline(), core.fragments.deadline());
        for own in &core.addresses {
            let tentative = match own.standing {
                Standing::New(at) | Standing::Tentative(at) => Some(at),
                _ => None,
            };
            next = earlier(next, earlier(own.valid_until, tentative));
        }
        for route in core.routes.all() {
            next = earlier(next, route.until);
        }
        if core.link {
            next = earlier(next, core.dhcp.as_ref().map(Client::deadline));
            next = earlier(next, core.fallback_at);
            next = earlier(next, core.autoconfiguration.as_ref().and_then(Autoconfiguration::deadline));
            next = earlier(next, core.groups.deadline());
        }
        next
    }

    fn poll_dhcp(&mut self, host: &mut dyn Host, now: Instant) {
        loop {
            let Some(client) = self.core.dhcp.as_mut().filter(|client| client.deadline() <= now) else { return };
            let (message, change) = client.poll(now, host.random() as u32);
            if let Some(message) = message {
                self.core.put_dhcp(host, &message, now);
            }
            self.lease_changed(host, change, now);
        }
    }

    pub(super) fn lease_changed(&mut self, host: &mut dyn Host, change: Option<Change>, now: Instant) {
        let core = &mut self.core;
        match change {
            None => {
                // An offer is asked for at once.
                if core.dhcp.as_ref().is_some_and(|client| client.lease().is_none() && client.deadline() <= now) {
                    self.poll_dhcp(host, now);
                }
            }
            Some(Change::Lost) => core.forget(Origin::Dhcp),
            Some(Change::Bound(lease)) => {
                core.fallback_at = None;
                let ip = IpAddr::from(lease.address);
                let until = Some(lease.ends_at);
                if core.own(ip).is_none_or(|own| own.prefix != lease.prefix) {
                    core.forget(Origin::Dhcp);
                }
                core.forget(Origin::Static);
                core.add_address(ip, lease.prefix, Origin::Dhcp, until, None, now);
                core.routes.remove(|route| route.origin == Origin::Dhcp);
                if let Some(gateway) = lease.gateway {
                    core.add_default(gateway.into(), Origin::Dhcp, 0, None);
                }
                core.dns_v4 = if lease.dns.is_empty() { core.config.dns.clone() } else { lease.dns };
                core.ntp = lease.ntp;
                core.domain = lease.domain;
                if let Some(mtu) = lease.mtu {
                    core.set_mtu(usize::from(mtu));
                }
                core.changed = true;
            }
        }
    }

    /// A router advertised something.
    pub(super) fn advertised(&mut self, host: &mut dyn Host, message: &[u8], router: Ipv6Addr, now: Instant) {
        let core = &mut self.core;
        let mac = core.mac;
        let Some(own) = &mut core.autoconfiguration else { return };
        for news in own.input(message, router, mac) {
            match news {
                News::Router(router, lifetime) if lifetime == Duration::ZERO => {
                    let gone = |route: &Route| route.origin == Origin::Router && route.gateway == Some(router.into());
                    core.changed |= core.routes.remove(gone);
                }
                News::Router(router, lifetime) => {
                    core.add_default(router.into(), Origin::Router, METRIC_ROUTER, Some(now + lifetime));
                }
                News::OnLink(prefix, bits, lifetime) => {
                    let until = lifetime.map(|lifetime| now + lifetime);
                    let route = Route {
                        destination: prefix.into(),
                        prefix: bits,
                        gateway: None,
                        metric: 256,
                        origin: Origin::Router,
                        until,
                    };
                    core.changed |= core.routes.add(route);
                }
                News::Address { ip, valid, preferred } => {
                    let preferred = preferred.map(|lifetime| now + lifetime);
                    match core.addresses.iter_mut().find(|own| own.ip == ip && own.origin == Origin::Router) {
                        Some(own) => {
                            own.valid_until = new_validity(own.valid_until, valid, now);
                            own.preferred_until = preferred;
                        }
                        None if valid == Some(Duration::ZERO) => {}
                        None => {
                            let until = valid.map(|lifetime| now + lifetime);
                            core.add_address(ip.into(), 64, Origin::Router, until, preferred, now);
                        }
                    }
                }
                News::Mtu(mtu) if mtu as usize >= LEAST_MTU_V6 => core.set_mtu(mtu as usize),
                News::Mtu(_) => {}
                News::Dns(servers) => {
                    core.changed |= core.dns_v6 != servers;
                    core.dns_v6 = servers;
                }
            }
        }
        self.poll(host, now);
    }

    /// Somebody else has the address.
    pub(super) fn duplicate(&mut self, ip: Ipv6Addr) {
        if let Some(own) = self.core.addresses.iter_mut().find(|own| own.ip == ip) {
            own.standing = Standing::Duplicate;
            self.core.changed = true;
        }
    }

    /// A program gives the interface an address, or takes one.
    pub fn set_address(&mut self, host: &mut dyn Host, ip: IpAddr, prefix: u8, give: bool, now: Instant) -> bool {
        let done = if give {
            self.core.add_address(ip, prefix, Origin::Static, None, None, now)
        } else {
            self.core.remove_address(|own| own.ip == ip)
        };
        self.poll(host, now);
        done
    }

    /// A program adds a route, or takes one away.
    pub fn set_route(&mut self, route: Route, add: bool) -> bool {
        let done = if add {
            self.core.routes.add(route)
        } else {
            self.core.routes.remove(|known| {
                (known.destination, known.prefix) == (route.destination, route.prefix)
                    && (route.gateway.is_none() || route.gateway == known.gateway)
            })
        };
        self.core.changed |= done;
        done
    }

    /// The machine is in a group now, or no more.
    pub fn set_group(&mut self, host: &mut dyn Host, group: IpAddr, join: bool, now: Instant) {
        if join {
            self.core.groups.join(group, now);
        } else {
            let own = match group {
                IpAddr::V4(_) => self.core.source_for(group, now).unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                IpAddr::V6(_) => self.core.link_local().into(),
            };
            if let Some(report) = self.core.groups.leave(group, own, now) {
                self.core.put_whole(host, &report, now);
            }
        }
        self.poll(host, now);
    }
}

impl Core {
    fn set_mtu(&mut self, mtu: usize) {
        let mtu = mtu.clamp(LEAST_MTU, self.device_mtu);
        self.changed |= self.mtu != mtu;
        self.mtu = mtu;
    }

    /// The address of the command line.
    fn add_static(&mut self, now: Instant) {
        if let Some((ip, prefix)) = self.config.address {
            self.add_address(ip.into(), prefix, Origin::Static, None, None, now);
            if let Some(gateway) = self.config.gateway {
                self.add_default(gateway.into(), Origin::Static, 0, None);
            }
            self.dns_v4 = self.config.dns.clone();
            self.changed = true;
        }
    }

    fn add_default(&mut self, gateway: IpAddr, origin: Origin, metric: u32, until: Option<Instant>) {
        let destination = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let known = self.routes.all().len();
        self.routes.add(Route { destination, prefix: 0, gateway: Some(gateway), metric, origin, until });
        self.changed |= self.routes.all().len() != known;
    }

    fn add_address(
        &mut self,
        ip: IpAddr,
        prefix: u8,
        origin: Origin,
        valid_until: Option<Instant>,
        preferred_until: Option<Instant>,
        now: Instant,
    ) -> bool {
        if let Some(own) = self.addresses.iter_mut().find(|own| own.ip == ip) {
            self.changed |= own.prefix != prefix;
            (own.prefix, own.origin) = (prefix, origin);
            (own.valid_until, own.preferred_until) = (valid_until, preferred_until);
            return true;
        }
        if self.addresses.len() >= MAX_ADDRESSES {
            return false;
        }
        let standing = match ip {
            IpAddr::V4(_) => Standing::Usable,
            IpAddr::V6(_) => Standing::New(now),
        };
        self.addresses.push(Own { ip, prefix, origin, standing, valid_until, preferred_until });
        if let IpAddr::V6(ip) = ip {
            self.groups.join(solicited_node(ip).into(), now);
        }
        // A router's prefix says itself whether it is next door.
        if origin != Origin::Router {
            let gateway = None;
            let metric = if ip.is_ipv6() { 256 } else { 0 };
            let route = Route { destination: ip, prefix, gateway, metric, origin: Origin::Kernel, until: None };
            self.routes.add(route);
        }
        self.changed = true;
        true
    }

    fn remove_address(&mut self, is_unwanted: impl Fn(&Own) -> bool) -> bool {
        let gone: Vec<Own> = self.addresses.iter().copied().filter(&is_unwanted).collect();
        self.addresses.retain(|own| !is_unwanted(own));
        for own in &gone {
            let network = crate::net::routes::network(own.ip, own.prefix);
            self.routes.remove(|route| {
                route.origin == Origin::Kernel && (route.destination, route.prefix) == (network, own.prefix)
            });
        }
        self.changed |= !gone.is_empty();
        !gone.is_empty()
    }

    /// Everything of this origin has gone.
    fn forget(&mut self, origin: Origin) {
        self.remove_address(|own| own.origin == origin);
        self.changed |= self.routes.remove(|route| route.origin == origin);
    }

    /// Addresses and routes that time takes away, and addresses that nobody objected to.
    fn expire(&mut self, host: &mut dyn Host, now: Instant) {
        self.remove_address(|own| own.valid_until.is_some_and(|until| until <= now));
        self.changed |= self.routes.remove(|route| route.until.is_some_and(|until| until <= now));
        let mut asked = Vec::new();
        for own in &mut self.addresses {
            match (own.standing, own.ip) {
                (Standing::New(at), IpAddr::V6(ip)) if at <= now => {
                    own.standing = Standing::Tentative(now + OBJECTION);
                    asked.push(ip);
                }
                (Standing::Tentative(until), _) if until <= now => {
                    own.standing = Standing::Usable;
                    self.changed = true;
                }
                _ => {}
            }
        }
        for ip in asked {
            self.object(host, ip, now);
        }
    }

    /// Asks whether anybody has an address (RFC 4862, 5.4.2).
    fn object(&mut self, host: &mut dyn Host, ip: Ipv6Addr, now: Instant) {
        let message = self.solicitation(ip, false);
        let group = IpAddr::from(solicited_node(ip));
        let (head, message) = icmp::seal(Ipv6Addr::UNSPECIFIED.into(), group, message, 255);
        if let Ok(hop) = self.next_hop(group, now) {
            self.put_message(host, hop, &head, &message);
        }
    }

    /// A router solicitation.
    fn ask_routers(&mut self, host: &mut dyn Host) {
        const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        const ALL_ROUTERS_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 2];
        const SOURCE: u8 = 1;
        let mut message = alloc::vec![icmp::ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        let own = self.link_local();
        let source = if self.is_own(own.into()) { own } else { Ipv6Addr::UNSPECIFIED };
        if !source.is_unspecified() {
            message.extend([SOURCE, 1]);
            message.extend(self.mac);
        }
        let (head, message) = icmp::seal(source.into(), ALL_ROUTERS.into(), message, 255);
        self.put_message(host, Hop::Known(ALL_ROUTERS_MAC), &head, &message);
    }

    fn put_dhcp(&mut self, host: &mut dyn Host, message: &dhcp::Message, now: Instant) {
        let mut datagram = [dhcp::CLIENT_PORT.to_be_bytes(), dhcp::SERVER_PORT.to_be_bytes()].concat();
        datagram.extend(((8 + message.bytes.len()) as u16).to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(&message.bytes);
        let head = Outgoing {
            source: message.source.into(),
            destination: message.server.unwrap_or(Ipv4Addr::BROADCAST).into(),
            protocol: UDP,
            hop_limit: 64,
            traffic_class: 0,
            may_fragment: true,
        };
        head.write_checksum(&mut datagram, 6);
        if self.send(host, &head, &datagram, now).is_err() {
            self.counts.ip_out_dropped += 1;
        }
    }
}
