//! Putting fragments together (RFC 815, RFC 8200 4.5, RFC 5722).
//!
//! A fragment that overlaps another makes its whole packet void: nobody sends such, but to deceive. What is incomplete is
//! forgotten after half a minute, or when it takes more than [`MAX_BYTES`] together: then the oldest goes first.

use alloc::{collections::BTreeMap, vec::Vec};
use core::net::IpAddr;

use super::{
    Duration, Instant,
    packet::{FRAGMENT_HEADER, HEADER_V4, HEADER_V6, Packet},
};

/// The most bytes of incomplete packets, with what keeping them costs.
pub const MAX_BYTES: usize = 256 * 1024;
/// The most bytes of a packet.
const MAX_PACKET: usize = 65535;
/// What a fragment counts beside its bytes.
const OVERHEAD: usize = 128;
/// How long a packet may be incomplete.
const TIMEOUT: Duration = Duration::from_secs(30);

type Key = (IpAddr, IpAddr, u32, u8);

struct Incomplete {
    /// By offset.
    parts: BTreeMap<usize, Vec<u8>>,
    /// Where the last one ends.
    end: Option<usize>,
    /// Bytes so far.
    have: usize,
    charge: usize,
    since: Instant,
    /// Two overlapped: all later ones are dropped too.
    void: bool,
}

/// Incomplete packets of one interface.
#[derive(Default)]
pub struct Fragments {
    packets: BTreeMap<Key, Incomplete>,
    charge: usize,
    /// Packets put together, and packets given up.
    pub complete: u64,
    /// See [`complete`](Self::complete).
    pub failed: u64,
}

impl Fragments {
    /// Takes a fragment. Answers the whole packet's bytes behind a plain header, and that header's length, once it is
    /// complete.
    pub fn add(&mut self, packet: &Packet<'_>, now: Instant) -> Option<(Vec<u8>, usize)> {
        let part = packet.part?;
        let (bytes, start) = (packet.payload(), part.offset);
        let end = start + bytes.len();
        let header = if packet.source.is_ipv4() { HEADER_V4 } else { HEADER_V6 };
        // All but the last are multiples of 8 bytes.
        let odd = part.more && !bytes.len().is_multiple_of(8);
        if bytes.is_empty() || odd || header + end > MAX_PACKET {
            self.failed += 1;
            return None;
        }
        let key = (packet.source, packet.destination, part.ident, packet.protocol);
        let cost = bytes.len() + OVERHEAD;
        self.make_room(cost, &key);
        let known = self.packets.entry(key).or_insert_with(|| Incomplete {
            parts: BTreeMap::new(),
            end: None,
            have: 0,
            charge: 0,
            since: now,
            void: false,
        });
        if known.void || known.parts.get(&start).is_some_and(|same| same.as_slice() == bytes) {
            return None;
        }
        let before = known.parts.range(..=start).next_back().map_or(0, |(at, bytes)| at + bytes.len());
        let after = known.parts.range(start..).next().map_or(usize::MAX, |(at, _)| *at);
        let beyond = known.end.is_some_and(|known_end| end > known_end || !part.more && end != known_end);
        let cut = !part.more && known.parts.last_key_value().is_some_and(|(at, bytes)| at + bytes.len() > end);
        if start < before || end > after || beyond || cut {
            known.void = true;
            known.parts.clear();
            self.charge -= core::mem::take(&mut known.charge);
            self.failed += 1;
            return None;
        }
        if !part.more {
            known.end = Some(end);
        }
        known.parts.insert(start, bytes.to_vec());
        known.have += bytes.len();
        known.charge += cost;
        self.charge += cost;
        if known.end != Some(known.have) {
            return None;
        }
        let done = self.packets.remove(&key)?;
        self.charge -= done.charge;
        self.complete += 1;
        let mut whole = alloc::vec![0; header];
        whole.reserve_exact(done.have);
        for part in done.parts.values() {
            whole.extend_from_slice(part);
        }
        Some((whole, header))
    }

    /// Forgets the oldest until `cost` more bytes fit.
    fn make_room(&mut self, cost: usize, keep: &Key) {
        // Void ones cost nothing but their entry, so their number is limited too.
        while self.charge + cost > MAX_BYTES || self.packets.len() > MAX_BYTES / (8 * OVERHEAD) {
            let others = self.packets.iter().filter(|(key, _)| *key != keep);
            let Some(oldest) = others.min_by_key(|(_, known)| known.since).map(|(key, _)| *key) else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(gone) = self.packets.remove(key) {
            self.charge -= gone.charge;
            self.failed += u64::from(!gone.void);
        }
    }

    /// Forgets what took too long.
    pub fn poll(&mut self, now: Instant) {
        while let Some(key) = self.packets.iter().find(|(_, known)| known.since + TIMEOUT <= now).map(|(key, _)| *key) {
            self.forget(&key);
        }
    }

    /// When to [`poll`](Self::poll) next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.packets.values().map(|known| known.since + TIMEOUT).min()
    }

    /// Bytes of incomplete packets, and how many there are.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (self.charge, self.packets.len())
    }
}

/// How a payload of `len` bytes is cut for packets of at most `mtu` bytes: where each part begins and ends.
pub fn cut(len: usize, mtu: usize, v4: bool) -> impl Iterator<Item = (usize, usize)> {
    let header = if v4 { HEADER_V4 } else { HEADER_V6 + FRAGMENT_HEADER };
    let step = (mtu.saturating_sub(header) & !7).max(8);
    (0..len).step_by(step).map(move |start| (start, (start + step).min(len)))
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::{
        net::packet::{Outgoing, Part, UDP},
        test_random::Random,
    };

    fn fragment(ident: u32, start: usize, bytes: &[u8], more: bool) -> Vec<u8> {
        let head = Outgoing {
            source: Ipv4Addr::new(10, 0, 0, 1).into(),
            destination: Ipv4Addr::new(10, 0, 0, 2).into(),
            protocol: UDP,
            hop_limit: 64,
            traffic_class: 0,
            may_fragment: true,
        };
        let mut packet = alloc::vec![0; HEADER_V4];
        packet.extend_from_slice(bytes);
        head.write_header(&mut packet, ident, Some(Part { ident, offset: start, more }));
        packet
    }

    fn add(fragments: &mut Fragments, packet: &[u8]) -> Option<Vec<u8>> {
        let parsed = Packet::parse_v4(packet).unwrap();
        fragments.add(&parsed, Instant::from_secs(1)).map(|(bytes, header)| bytes[header..].to_vec())
    }

    #[test]
    fn parts_in_any_order_and_twice_make_the_packet() {
        let payload: Vec<u8> = (0..9000u32).map(|number| (number * 7) as u8).collect();
        let mut random = Random::new(3);
        for round in 0..50 {
            let mut fragments = Fragments::default();
            let mut parts: Vec<(usize, usize)> = cut(payload.len(), 1500, true).collect();
            parts.push(parts[round % parts.len()]);
            let mut whole = None;
            while !parts.is_empty() {
                let (start, end) = parts.swap_remove(random.below(parts.len() as u64) as usize);
                let packet = fragment(round as u32, start, &payload[start..end], end < payload.len());
                whole = add(&mut fragments, &packet).or(whole);
            }
            assert_eq!(whole.as_deref(), Some(payload.as_slice()));
            assert!(fragments.usage().1 <= 1, "a copy of one part may begin anew");
        }
    }

    #[test]
    fn overlapping_parts_make_the_packet_void() {
        let mut fragments = Fragments::default();
        assert_eq!(add(&mut fragments, &fragment(1, 0, &[1; 16], true)), None);
        assert_eq!(add(&mut fragments, &fragment(1, 8, &[2; 16], true)), None);
        assert_eq!(add(&mut fragments, &fragment(1, 16, &[3; 8], false)), None);
        assert_eq!((fragments.failed, fragments.complete), (1, 0));
        assert_eq!(add(&mut fragments, &fragment(2, 0, &[1; 12], true)), None, "not a multiple of 8");
    }

    #[test]
    fn a_flood_of_parts_takes_limited_memory_and_goes_with_time() {
        let mut fragments = Fragments::default();
        for ident in 0..5000 {
            add(&mut fragments, &fragment(ident, 800, &[0; 1400], true));
        }
        let (bytes, packets) = fragments.usage();
        assert!(bytes <= MAX_BYTES && packets < 300, "{bytes} bytes in {packets} packets");
        fragments.poll(Instant::from_secs(31));
        assert_eq!(fragments.usage(), (0, 0));
    }
}
