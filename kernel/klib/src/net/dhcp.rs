//! DHCP: an address, router and name servers from a server (RFC 2131, RFC 2132).
//!
//! [`Client`] decides what to send and when; the stack carries it. A lease is renewed with its server at half of its time,
//! with anybody at seven eighths, and given up when it ends.

use alloc::{string::String, vec::Vec};
use core::net::Ipv4Addr;

use super::{Duration, Instant, Mac};

/// The ports.
pub const CLIENT_PORT: u16 = 68;
/// See [`CLIENT_PORT`].
pub const SERVER_PORT: u16 = 67;

/// Bytes before the options, and the cookie they begin with (RFC 2131, 2; RFC 2132, 2).
const HEADER: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// The least bytes of a message (RFC 1542, 2.1).
const LEAST: usize = 300;
/// The most name servers taken.
const MAX_DNS: usize = 3;
/// Waits between two tries: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(64);
/// The shortest wait before a renewal is tried again (RFC 2131, 4.4.5).
const RENEW_RETRY: Duration = Duration::from_secs(60);
/// Requests of an offer before another is looked for.
const REQUESTS: u32 = 4;
/// A lease without a time, or a shorter one, holds this long.
const LEAST_LEASE: u32 = 30;

/// Message types (RFC 2132, 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Options (RFC 2132; 119 and 121 are not asked for).
mod option {
    pub const PAD: u8 = 0;
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const NTP: u8 = 42;
    pub const REQUESTED: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const END: u8 = 255;
}

/// What a server gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its network.
    pub prefix: u8,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, the first to be asked first.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// The domain that names without one are in.
    pub domain: String,
    /// The most bytes of a packet, where the server said so.
    pub mtu: Option<u16>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// When it is to be renewed, with anybody, and when it ends.
    renew_at: Instant,
    rebind_at: Instant,
    /// See above.
    pub ends_at: Instant,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// Looks for a server.
    Selecting,
    /// Asked for this offer so often.
    Requesting { address: Ipv4Addr, server: Ipv4Addr, tries: u32 },
    /// Has this.
    Bound(Lease),
}

/// A message to be sent.
#[derive(PartialEq, Eq, Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Who to; broadcast where there is none.
    pub server: Option<Ipv4Addr>,
    /// The address it comes from.
    pub source: Ipv4Addr,
}

/// What a message changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// There is a new lease, or the old one says something else.
    Bound(Lease),
    /// The lease has gone.
    Lost,
}

/// A message that was not taken: it changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotTaken;

/// A client.
pub struct Client {
    mac: Mac,
    host_name: String,
    state: State,
    transaction: u32,
    /// When to send next.
    next: Instant,
    retry: Duration,
    started: Instant,
}

/// The options of a message, those that are cut off left out.
fn options(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        loop {
            let (&kind, behind) = rest.split_first()?;
            match kind {
                option::PAD => rest = behind,
                option::END => return None,
                _ => {
                    let (&len, behind) = behind.split_first()?;
                    let value = behind.get(..usize::from(len))?;
                    rest = behind.get(usize::from(len)..)?;
                    return Some((kind, value));
                }
            }
        }
    })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}

fn addresses(bytes: &[u8]) -> Vec<Ipv4Addr> {
    bytes.as_chunks::<4>().0.iter().take(MAX_DNS).map(|bytes| Ipv4Addr::from(*bytes)).collect()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A name as it may stand in a file: letters, digits, dots and hyphens.
fn name(bytes: &[u8]) -> String {
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.iter().all(fine) { text.iter().map(|byte| char::from(*byte)).collect() } else { String::new() }
}

impl Client {
    /// A client that begins at once. `transaction` is random.
    #[must_use]
    pub fn new(mac: Mac, host_name: &str, transaction: u32, now: Instant) -> Self {
        let host_name = host_name.chars().filter(char::is_ascii).take(63).collect();
        Self { mac, host_name, state: State::Selecting, transaction, next: now, retry: FIRST_RETRY, started: now }
    }

    /// The lease, if there is one.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease) => Some(lease),
            _ => None,
        }
    }

    /// When to call [`poll`](Self::poll) next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        match &self.state {
            State::Bound(lease) => self.next.min(lease.ends_at),
            _ => self.next,
        }
    }

    /// Begins anew, as when the link was away.
    pub fn restart(&mut self, transaction: u32, now: Instant) {
        *self = Self::new(self.mac, &core::mem::take(&mut self.host_name), transaction, now);
    }

    /// What is due: a message to be sent, or that the lease has ended. `random` spreads the tries.
    pub fn poll(&mut self, now: Instant, random: u32) -> (Option<Message>, Option<Change>) {
        if let State::Bound(lease) = &self.state
            && now >= lease.ends_at
        {
            self.begin(random, now);
            return (None, Some(Change::Lost));
        }
        if now < self.next {
            return (None, None);
        }
        let message = match &mut self.state {
            State::Selecting => {
                self.next = now + self.retry + Duration::from_millis(u64::from(random % 1000));
                self.retry = (self.retry + self.retry).min(LAST_RETRY);
                self.message(now, DISCOVER, Ipv4Addr::UNSPECIFIED, None, None)
            }
            State::Requesting { tries, .. } if *tries >= REQUESTS => {
                self.begin(random, now);
                return (None, None);
            }
            State::Requesting { address, server, tries } => {
                *tries += 1;
                let (address, server) = (*address, *server);
                self.next = now + self.retry;
                self.retry = (self.retry + self.retry).min(LAST_RETRY);
                self.message(now, REQUEST, Ipv4Addr::UNSPECIFIED, Some(address), Some(server))
            }
            State::Bound(lease) => {
                // Half of what is left, but not too often.
                let limit = if now < lease.rebind_at { lease.rebind_at } else { lease.ends_at };
                let half = Duration::from_micros((limit - now).total_micros() / 2);
                self.next = (now + half.max(RENEW_RETRY)).min(limit.max(now + Duration::from_secs(1)));
                let (address, server) = (lease.address, lease.server);
                let server = (now < lease.rebind_at).then_some(server);
                let message = self.message(now, REQUEST, address, None, None);
                return (Some(Message { server, source: address, ..message }), None);
            }
        };
        (Some(message), None)
    }

    fn begin(&mut self, random: u32, now: Instant) {
        self.state = State::Selecting;
        self.transaction = random;
        self.retry = FIRST_RETRY;
        self.next = now;
        self.started = now;
    }

    fn message(
        &self,
        now: Instant,
        kind: u8,
        own: Ipv4Addr,
        requested: Option<Ipv4Addr>,
        server: Option<Ipv4Addr>,
    ) -> Message {
        const TO_SERVER: u8 = 1;
        const ETHERNET: u8 = 1;
        const MAX_SIZE: u16 = 1500;
        let mut bytes = alloc::vec![0; HEADER];
        bytes[..4].copy_from_slice(&[TO_SERVER, ETHERNET, 6, 0]);
        bytes[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        let seconds = (now - self.started).secs().min(u64::from(u16::MAX)) as u16;
        bytes[8..10].copy_from_slice(&seconds.to_be_bytes());
        bytes[12..16].copy_from_slice(&own.octets());
        bytes[28..34].copy_from_slice(&self.mac);
        bytes.extend(COOKIE);
        let mut put = |kind: u8, value: &[u8]| {
            bytes.extend([kind, value.len() as u8]);
            bytes.extend(value);
        };
        put(option::KIND, &[kind]);
        let [a, b, c, d, e, f] = self.mac;
        put(option::CLIENT, &[ETHERNET, a, b, c, d, e, f]);
        if let Some(address) = requested {
            put(option::REQUESTED, &address.octets());
        }
        if let Some(server) = server {
            put(option::SERVER, &server.octets());
        }
        put(option::MAX_SIZE, &MAX_SIZE.to_be_bytes());
        if !self.host_name.is_empty() {
            put(option::HOST_NAME, self.host_name.as_bytes());
        }
        let wanted = [option::MASK, option::ROUTER, option::DNS, option::DOMAIN, option::MTU, option::NTP];
        put(option::WANTED, &wanted);
        bytes.push(option::END);
        bytes.resize(bytes.len().max(LEAST), option::PAD);
        Message { bytes, server: None, source: own }
    }

    /// A message came from `source`.
    ///
    /// # Errors
    /// It is not for this client, makes no sense, or nobody asked for it: it changes nothing.
    pub fn input(&mut self, bytes: &[u8], source: Ipv4Addr, now: Instant) -> Result<Option<Change>, NotTaken> {
        self.take(bytes, source, now).ok_or(NotTaken)
    }

    /// As [`input`](Self::input); `None` where the message is not taken.
    fn take(&mut self, bytes: &[u8], source: Ipv4Addr, now: Instant) -> Option<Option<Change>> {
        const TO_CLIENT: u8 = 2;
        let own = bytes.first() == Some(&TO_CLIENT)
            && bytes.get(4..8) == Some(&self.transaction.to_be_bytes())
            && bytes.get(28..34) == Some(&self.mac)
            && bytes.get(HEADER..HEADER + 4) == Some(&COOKIE);
        if !own {
            return None;
        }
        let given = address(bytes.get(16..)?)?;
        let all = bytes.get(HEADER + 4..)?;
        let find = |wanted| options(all).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let server = find(option::SERVER).and_then(address);
        match (&self.state, find(option::KIND)?.first()?) {
            (State::Selecting, &OFFER) => {
                let usable = !given.is_unspecified() && !given.is_multicast() && !given.is_broadcast();
                let server = server.filter(|_| usable && !given.is_loopback())?;
                self.state = State::Requesting { address: given, server, tries: 0 };
                (self.next, self.retry) = (now, FIRST_RETRY);
                Some(None)
            }
            (State::Requesting { address: wanted, server: asked, .. }, &ACK)
                if *wanted == given && server.is_none_or(|server| server == *asked) =>
            {
                let server = *asked;
                Some(Some(self.bind(find, given, server, now)))
            }
            (State::Bound(lease), &ACK) if lease.address == given => {
                let server = server.unwrap_or(source);
                Some(Some(self.bind(find, given, server, now)))
            }
            (State::Requesting { server: asked, .. }, &NAK) if server.is_none_or(|server| server == *asked) => {
                self.begin(self.transaction.wrapping_add(1), now + FIRST_RETRY);
                Some(None)
            }
            (State::Bound(_), &NAK) => {
                self.begin(self.transaction.wrapping_add(1), now);
                Some(Some(Change::Lost))
            }
            _ => None,
        }
    }

    fn bind<'a>(
        &mut self,
        find: impl Fn(u8) -> Option<&'a [u8]>,
        given: Ipv4Addr,
        server: Ipv4Addr,
        now: Instant,
    ) -> Change {
        let seconds = find(option::LEASE).and_then(number).unwrap_or(0).max(LEAST_LEASE);
        let told = |kind, otherwise: u32| {
            let told = find(kind).and_then(number).filter(|told| (1..seconds).contains(told));
            now + Duration::from_secs(u64::from(told.unwrap_or(otherwise)))
        };
        let renew_at = told(option::RENEWAL, seconds / 2);
        let rebind_at = told(option::REBINDING, (u64::from(seconds) * 7 / 8) as u32).max(renew_at);
        let mask = find(option::MASK).and_then(number).unwrap_or(0xffff_ff00);
        let lease = Lease {
            address: given,
            prefix: if mask.leading_ones() + mask.trailing_zeros() >= 32 { mask.leading_ones() as u8 } else { 24 },
            gateway: find(option::ROUTER).and_then(address).filter(|router| !router.is_unspecified()),
            dns: find(option::DNS).map_or_else(Vec::new, addresses),
            ntp: find(option::NTP).map_or_else(Vec::new, addresses),
            domain: find(option::DOMAIN).map_or_else(String::new, name),
            mtu: find(option::MTU).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_be_bytes(*bytes)),
            server,
            renew_at,
            rebind_at,
            ends_at: now + Duration::from_secs(u64::from(seconds)),
        };
        self.next = lease.renew_at;
        self.state = State::Bound(lease.clone());
        Change::Bound(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

    fn answer(request: &[u8], kind: u8, seconds: u32) -> Vec<u8> {
        let mut bytes = request[..HEADER].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&GIVEN.octets());
        bytes.extend(COOKIE);
        bytes.extend([option::KIND, 1, kind, option::SERVER, 4]);
        bytes.extend(SERVER.octets());
        bytes.extend([option::MASK, 4, 255, 255, 255, 0, option::ROUTER, 4, 10, 0, 2, 2, option::DNS, 4, 10, 0, 2, 3]);
        bytes.extend([option::LEASE, 4]);
        bytes.extend(seconds.to_be_bytes());
        bytes.extend(*b"\x0f\x07example\xff");
        bytes
    }

    fn bound(seconds: u32) -> (Client, Instant) {
        let now = Instant::from_secs(5);
        let mut client = Client::new(MAC, "piton", 77, now);
        let discover = client.poll(now, 0).0.unwrap();
        assert_eq!((discover.server, discover.bytes.len()), (None, LEAST));
        assert_eq!(client.input(&answer(&discover.bytes, OFFER, seconds), SERVER, now), Ok(None));
        let request = client.poll(now, 0).0.unwrap();
        let change = client.input(&answer(&request.bytes, ACK, seconds), SERVER, now);
        let Ok(Some(Change::Bound(lease))) = change else { panic!("no lease: {change:?}") };
        assert_eq!((lease.address, lease.prefix, lease.gateway), (GIVEN, 24, Some(SERVER)));
        assert_eq!((lease.dns[0], lease.domain.as_str()), (Ipv4Addr::new(10, 0, 2, 3), "example"));
        (client, now)
    }

    #[test]
    fn a_lease_is_renewed_at_half_of_its_time_and_lost_at_its_end() {
        let (mut client, now) = bound(1000);
        assert_eq!(client.deadline(), now + Duration::from_secs(500));
        let at = client.deadline();
        let (message, _) = client.poll(at, 0);
        let message = message.unwrap();
        assert_eq!((message.server, message.source), (Some(SERVER), GIVEN), "asked of the server alone");
        assert!(matches!(client.input(&answer(&message.bytes, ACK, 1000), SERVER, at), Ok(Some(Change::Bound(_)))));
        assert_eq!(client.deadline(), at + Duration::from_secs(500));
        let mut asked = (0, 0);
        let end = loop {
            let at = client.deadline();
            match client.poll(at, 0) {
                (_, Some(change)) => break (at, change),
                (Some(Message { server: Some(_), .. }), _) => asked.0 += 1,
                (Some(_), _) => asked.1 += 1,
                (None, None) => panic!("nothing to do at its deadline"),
            }
        };
        assert_eq!(end, (at + Duration::from_secs(1000), Change::Lost));
        assert!(asked.0 >= 3 && asked.1 >= 1, "{asked:?}");
    }

    #[test]
    fn tries_get_rarer_and_a_refused_request_begins_anew() {
        let mut client = Client::new(MAC, "", 1, Instant::from_secs(0));
        let mut times = Vec::new();
        for _ in 0..6 {
            times.push(client.deadline().secs());
            client.poll(client.deadline(), 0);
        }
        assert_eq!(times, [0, 2, 6, 14, 30, 62]);
        let (mut client, now) = bound(1000);
        let (message, _) = client.poll(client.deadline(), 0);
        assert_eq!(client.input(&answer(&message.unwrap().bytes, NAK, 0), SERVER, now), Ok(Some(Change::Lost)));
    }

    #[test]
    fn nonsense_changes_nothing_and_hurts_nobody() {
        let (mut client, now) = bound(1000);
        let good = answer(&client.poll(client.deadline(), 0).0.unwrap().bytes, ACK, 0);
        let mut random = Random::new(11);
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            for _ in 0..random.below(6) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.next() as u8;
                }
            }
            if let Ok(Some(Change::Bound(lease))) = client.input(&bytes, SERVER, now) {
                assert!(lease.prefix <= 32 && lease.ends_at > now && lease.dns.len() <= MAX_DNS);
            }
            let (mut fresh, _) = bound(1000);
            core::mem::swap(&mut client, &mut fresh);
            client.transaction = u32::from_be_bytes(good[4..8].try_into().unwrap());
        }
    }
}
