//! Which way a packet goes: routes by their prefix, the longest first.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::Instant;

/// The most routes.
pub const MAX_ROUTES: usize = 64;

/// Who made a route or an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It follows from an address.
    Kernel,
    /// DHCP.
    Dhcp,
    /// A router advertised it.
    Router,
    /// The command line, or a program.
    Static,
}

/// A route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where it leads.
    pub destination: IpAddr,
    /// Bits of the destination that count.
    pub prefix: u8,
    /// The router; `None` where the destination is next door.
    pub gateway: Option<IpAddr>,
    /// Of two with the same prefix the lower one counts.
    pub metric: u32,
    /// Who made it.
    pub origin: Origin,
    /// Until when; `None`: for good.
    pub until: Option<Instant>,
}

/// The first `prefix` bits of an address, the others 0.
#[must_use]
pub fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// Whether an address is in a network.
#[must_use]
pub fn contains(destination: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    destination.is_ipv4() == ip.is_ipv4() && network(destination, prefix) == network(ip, prefix)
}

/// The routes of one interface.
#[derive(Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// The route to `ip`.
    #[must_use]
    pub fn find(&self, ip: IpAddr) -> Option<&Route> {
        let fitting = self.0.iter().filter(|route| contains(route.destination, route.prefix, ip));
        fitting.min_by_key(|route| (u8::MAX - route.prefix, route.metric))
    }

    /// Adds a route, or says anew until when it holds. `false` where there are too many.
    pub fn add(&mut self, route: Route) -> bool {
        let route = Route { destination: network(route.destination, route.prefix), ..route };
        let same = |old: &&mut Route| {
            (old.destination, old.prefix, old.gateway, old.origin)
                == (route.destination, route.prefix, route.gateway, route.origin)
        };
        if let Some(old) = self.0.iter_mut().find(same) {
            *old = route;
        } else if self.0.len() < MAX_ROUTES {
            self.0.push(route);
        } else {
            return false;
        }
        true
    }

    /// Removes those that `is_unwanted`; whether there were any.
    pub fn remove(&mut self, is_unwanted: impl Fn(&Route) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|route| !is_unwanted(route));
        self.0.len() != before
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Route] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, prefix: u8, gateway: Option<&str>) -> Route {
        let gateway = gateway.map(|ip| ip.parse().unwrap());
        Route {
            destination: destination.parse().unwrap(),
            prefix,
            gateway,
            metric: 0,
            origin: Origin::Static,
            until: None,
        }
    }

    #[test]
    fn the_longest_prefix_of_the_family_counts() {
        let mut routes = Routes::default();
        routes.add(route("0.0.0.0", 0, Some("10.0.2.2")));
        routes.add(route("10.0.2.15", 24, None));
        routes.add(route("::", 0, Some("fe80::2")));
        let gateway = |ip: &str| routes.find(ip.parse().unwrap()).and_then(|route| route.gateway);
        assert_eq!(gateway("10.0.2.9"), None);
        assert_eq!(gateway("8.8.8.8"), Some("10.0.2.2".parse().unwrap()));
        assert_eq!(gateway("2001:db8::1"), Some("fe80::2".parse().unwrap()));
        assert!(routes.remove(|route| route.destination.is_ipv6()));
        assert_eq!(routes.find("2001:db8::1".parse().unwrap()), None);
    }
}
