//! IPv6 addresses without a server: by router advertisements (RFC 4861, 6.3; RFC 4862; RFC 8106).
//!
//! [`Autoconfiguration`] asks for routers and says what their advertisements mean; the stack keeps the addresses and
//! routes. Advertisements are taken from neighbours alone (hop limit 255, checked by the stack).

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::{Duration, Instant, Mac};

/// How often routers are asked for, and how far apart (RFC 4861, 10).
const SOLICITATIONS: u8 = 3;
const INTERVAL: Duration = Duration::from_secs(4);
/// The most name servers kept.
const MAX_DNS: usize = 3;
/// The least a packet's limit may be (RFC 8200, 5).
const LEAST_MTU: u32 = 1280;
/// A valid lifetime is not shortened below this by a message that anybody could send (RFC 4862, 5.5.3 e).
const TWO_HOURS: Duration = Duration::from_secs(7200);
/// A lifetime without end.
const FOREVER: u32 = u32::MAX;

/// Bytes of an advertisement before its options.
const ADVERTISEMENT: usize = 16;
/// Options (RFC 4861, 4.6; RFC 8106, 5.1).
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_DNS: u8 = 25;
/// Flags of a prefix: it is next door; addresses may be made of it.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// What an advertisement said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// The router is to be used as long; not at all where that is 0.
    Router(Ipv6Addr, Duration),
    /// Addresses with this prefix are next door, as long; `None`: for good.
    OnLink(Ipv6Addr, u8, Option<Duration>),
    /// The machine has this address: valid and preferred as long.
    Address {
        /// It.
        ip: Ipv6Addr,
        /// How long it may be used; `None`: for good.
        valid: Option<Duration>,
        /// How long new connections may begin with it.
        preferred: Option<Duration>,
    },
    /// The longest packet, in bytes.
    Mtu(u32),
    /// Name servers.
    Dns(Vec<Ipv6Addr>),
}

/// The interface part of an address, made of the Ethernet address (RFC 4291, appendix A).
#[must_use]
pub fn interface_part(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The address with this prefix of 64 bits.
#[must_use]
pub fn with_interface(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) >> 64 << 64 | u128::from(interface_part(mac)))
}

/// The link-local address.
#[must_use]
pub fn link_local(mac: Mac) -> Ipv6Addr {
    with_interface(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), mac)
}

fn lifetime(seconds: u32) -> Option<Duration> {
    (seconds != FOREVER).then(|| Duration::from_secs(u64::from(seconds)))
}

/// Asking for routers.
#[derive(Debug)]
pub struct Autoconfiguration {
    left: u8,
    next: Instant,
}

impl Autoconfiguration {
    /// Asks from `start` on.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { left: SOLICITATIONS, next: start }
    }

    /// Whether to send a solicitation now.
    pub fn poll(&mut self, now: Instant) -> bool {
        let due = self.left > 0 && now >= self.next;
        if due {
            self.left -= 1;
            self.next = now + INTERVAL;
        }
        due
    }

    /// When to ask next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.next)
    }

    /// Reads an advertisement (ICMPv6 from its type on) from `router`, which is link-local.
    pub fn input(&mut self, message: &[u8], router: Ipv6Addr, mac: Mac) -> Vec<News> {
        let mut news = Vec::new();
        let Some(head) = message.first_chunk::<ADVERTISEMENT>() else { return news };
        self.left = 0;
        let seconds = u16::from_be_bytes([head[6], head[7]]);
        news.push(News::Router(router, Duration::from_secs(u64::from(seconds))));
        let mut options = message.get(ADVERTISEMENT..).unwrap_or_default();
        while let [kind, units, ..] = options {
            let len = usize::from(*units) * 8;
            // One without a length makes the rest unreadable.
            let Some(option) = options.get(..len).filter(|_| len > 0) else { break };
            read_option(*kind, option, mac, &mut news);
            options = options.get(len..).unwrap_or_default();
        }
        news
    }
}

fn read_option(kind: u8, option: &[u8], mac: Mac, news: &mut Vec<News>) {
    let word = |at: usize| option.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let address = |at: usize| {
        let bytes = option.get(at..)?.first_chunk::<16>()?;
        Some(Ipv6Addr::from(*bytes))
    };
    match kind {
        OPTION_PREFIX if option.len() == 32 => {
            let (bits, flags) = (option[2], option[3]);
            let (valid, preferred) = (word(4), word(8));
            let Some(prefix) = address(16) else { return };
            let local = u128::from(prefix) >> 118 == 0xfe80 >> 6 || prefix.is_multicast();
            if local || preferred > valid || bits > 128 {
                return;
            }
            if flags & ON_LINK != 0 {
                news.push(News::OnLink(prefix, bits, lifetime(valid)));
            }
            if flags & AUTONOMOUS != 0 && bits == 64 {
                let ip = with_interface(prefix, mac);
                news.push(News::Address { ip, valid: lifetime(valid), preferred: lifetime(preferred) });
            }
        }
        OPTION_MTU if option.len() == 8 && word(4) >= LEAST_MTU => news.push(News::Mtu(word(4))),
        OPTION_DNS if option.len() >= 24 => {
            // With a lifetime of 0 they are not to be used any more.
            let count = if word(4) == 0 { 0 } else { (option.len() - 8) / 16 };
            news.push(News::Dns((0..count.min(MAX_DNS)).filter_map(|at| address(8 + 16 * at)).collect()));
        }
        _ => {}
    }
}

/// Until when an address is valid that was so until `known` and now is said to be for `told` more: nobody can take it
/// away at once (RFC 4862, 5.5.3 e).
#[must_use]
pub fn new_validity(known: Option<Instant>, told: Option<Duration>, now: Instant) -> Option<Instant> {
    let told = now + told?;
    let Some(known) = known else { return Some(told.max(now + TWO_HOURS)) };
    if told > now + TWO_HOURS || told > known {
        Some(told)
    } else if known <= now + TWO_HOURS {
        Some(known)
    } else {
        Some(now + TWO_HOURS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    const MAC: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn advertisement(prefix_flags: u8, valid: u32) -> Vec<u8> {
        let mut message = alloc::vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend([OPTION_PREFIX, 4, 64, prefix_flags]);
        message.extend(valid.to_be_bytes());
        message.extend((valid / 2).to_be_bytes());
        message.extend([0; 4]);
        message.extend("fec0::".parse::<Ipv6Addr>().unwrap().octets());
        message.extend([OPTION_MTU, 1, 0, 0, 0, 0, 5, 0xdc, OPTION_DNS, 3, 0, 0, 0, 0, 0, 60]);
        message.extend("fec0::3".parse::<Ipv6Addr>().unwrap().octets());
        message
    }

    #[test]
    fn an_advertisement_gives_router_prefix_address_and_name_server() {
        let mut own = Autoconfiguration::new(Instant::from_secs(0));
        let router = "fe80::2".parse().unwrap();
        let news = own.input(&advertisement(ON_LINK | AUTONOMOUS, 600), router, MAC);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            news,
            [
                News::Router(router, Duration::from_secs(1800)),
                News::OnLink("fec0::".parse().unwrap(), 64, seconds(600)),
                News::Address {
                    ip: "fec0::5054:ff:fe12:3456".parse().unwrap(),
                    valid: seconds(600),
                    preferred: seconds(300)
                },
                News::Mtu(1500),
                News::Dns(alloc::vec!["fec0::3".parse().unwrap()]),
            ]
        );
        assert_eq!(own.deadline(), None, "a router is known");
        assert_eq!(link_local(MAC), "fe80::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn cut_and_changed_advertisements_hurt_nobody() {
        let good = advertisement(0xff, FOREVER);
        let mut random = Random::new(5);
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..random.below(5) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            Autoconfiguration::new(Instant::from_secs(0)).input(&bytes, Ipv6Addr::LOCALHOST, MAC);
        }
    }

    #[test]
    fn validity_is_not_shortened_below_two_hours() {
        let now = Instant::from_secs(100_000);
        let hours = |hours: u64| now + Duration::from_secs(hours * 3600);
        let told = |hours: u64| Some(Duration::from_secs(hours * 3600));
        assert_eq!(new_validity(Some(hours(10)), told(5), now), Some(hours(5)));
        assert_eq!(new_validity(Some(hours(10)), told(0), now), Some(hours(2)));
        assert_eq!(new_validity(Some(hours(1)), told(0), now), Some(hours(1)));
        assert_eq!(new_validity(Some(hours(1)), None, now), None);
    }
}
