//! Telling routers which multicast groups the machine is in: IGMP (RFC 2236, RFC 3376) and MLD (RFC 3810).
//!
//! Reports go out when a group is joined, once again a second later, and when a router asks; another when it is left. While
//! a router of IGMP's version 2 was heard, reports are of that version.

use alloc::{collections::BTreeMap, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Duration, Instant,
    packet::{HEADER_V4, HEADER_V6, ICMPV6, IGMP, Outgoing, Packet, finish, pseudo_sum, sum},
};

/// The most groups reported.
pub const MAX_GROUPS: usize = 256;
/// Reports of a new group, and how far apart.
const REPORTS: u8 = 2;
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a router of an older version is remembered (RFC 3376, 8.12).
const OLDER: Duration = Duration::from_secs(260);
/// Where reports go: all routers that speak the newer version; all routers.
const ALL_IGMP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_MLD: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Message types.
const QUERY: u8 = 0x11;
const REPORT_2: u8 = 0x16;
const LEAVE_2: u8 = 0x17;
const REPORT_3: u8 = 0x22;
/// MLD's query (RFC 3810, 5.1) and report (5.2).
pub const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 143;
/// Kinds of records: in the group, joined, left.
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;

struct Group {
    /// Reports still to be sent of joining, and when the next report is due.
    left: u8,
    next: Option<Instant>,
}

/// The groups of one interface.
#[derive(Default)]
pub struct Groups {
    groups: BTreeMap<IpAddr, Group>,
    /// A router of version 2 was heard, and is remembered until then.
    older_until: Option<Instant>,
}

/// Whether routers are told of a group: all but those of this wire that everybody is in.
fn is_reported(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group != Ipv4Addr::new(224, 0, 0, 1),
        // Interface-local groups do not leave the machine.
        IpAddr::V6(group) => group.segments()[0] & 0xf > 1 && u128::from(group) != 0xff02 << 112 | 1,
    }
}

impl Groups {
    /// The machine is in a group now.
    pub fn join(&mut self, group: IpAddr, now: Instant) {
        if is_reported(group) && self.groups.len() < MAX_GROUPS {
            self.groups.entry(group).or_insert(Group { left: REPORTS, next: Some(now) });
        }
    }

    /// The machine is in a group no more. Answers the report of that.
    pub fn leave(&mut self, group: IpAddr, own: IpAddr, now: Instant) -> Option<Vec<u8>> {
        self.groups.remove(&group)?;
        Some(self.report(group, own, TO_INCLUDE, now))
    }

    /// The groups told of.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.groups.keys().copied()
    }

    /// A router asks, in an IGMP message or an MLD query. `random` spreads the answers.
    pub fn input(&mut self, packet: &Packet<'_>, now: Instant, random: u64) {
        let message = packet.payload();
        let (asked, longest) = match packet.source {
            IpAddr::V4(_) => {
                let Some([QUERY, code, _, _, a, b, c, d]) = message.first_chunk::<8>().copied() else { return };
                if finish(sum(message)) != 0 || packet.hop_limit != 1 {
                    return;
                }
                if message.len() == 8 {
                    self.older_until = Some(now + OLDER);
                }
                // Tenths of a second, or a small floating-point number of them.
                let tenths =
                    if code < 128 { u64::from(code) } else { (u64::from(code) & 15 | 16) << ((code >> 4 & 7) + 3) };
                (IpAddr::from([a, b, c, d]), Duration::from_millis(tenths.max(1) * 100))
            }
            IpAddr::V6(source) => {
                let Some(group) = message.get(8..).and_then(<[u8]>::first_chunk::<16>) else { return };
                if packet.hop_limit != 1 || u128::from(source) >> 118 != 0xfe80 >> 6 {
                    return;
                }
                let code = u64::from(message.get(4..6).map_or(0, |code| u16::from_be_bytes([code[0], code[1]])));
                let millis = if code < 0x8000 { code } else { (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3) };
                (IpAddr::from(*group), Duration::from_millis(millis))
            }
        };
        let delay = Duration::from_micros(random % longest.total_micros().max(1));
        for (ip, group) in &mut self.groups {
            let meant = asked == *ip || asked.is_unspecified() && asked.is_ipv4() == ip.is_ipv4();
            if meant && group.next.is_none_or(|next| next > now + delay) {
                group.next = Some(now + delay);
            }
        }
    }

    /// The reports that are due, sent from the addresses that `own` gives for a family.
    pub fn poll(&mut self, now: Instant, own: impl Fn(bool) -> IpAddr) -> Vec<Vec<u8>> {
        let mut due = Vec::new();
        for (ip, group) in &mut self.groups {
            if group.next.is_some_and(|next| next <= now) {
                let kind = if group.left > 0 { TO_EXCLUDE } else { IS_EXCLUDE };
                group.left = group.left.saturating_sub(1);
                group.next = (group.left > 0).then_some(now + INTERVAL);
                due.push((*ip, kind));
            }
        }
        due.into_iter().map(|(ip, kind)| self.report(ip, own(ip.is_ipv4()), kind, now)).collect()
    }

    /// When to [`poll`](Self::poll) next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.groups.values().filter_map(|group| group.next).min()
    }

    /// Tells of all groups anew: the link was away.
    pub fn restart(&mut self, now: Instant) {
        for group in self.groups.values_mut() {
            *group = Group { left: REPORTS, next: Some(now) };
        }
    }

    /// A report as a whole packet.
    fn report(&self, group: IpAddr, own: IpAddr, kind: u8, now: Instant) -> Vec<u8> {
        match group {
            IpAddr::V4(group) => {
                let older = self.older_until.is_some_and(|until| now < until);
                let (destination, mut message) = if older {
                    let leaves = kind == TO_INCLUDE;
                    let mut message = alloc::vec![if leaves { LEAVE_2 } else { REPORT_2 }, 0, 0, 0];
                    message.extend(group.octets());
                    (if leaves { ALL_ROUTERS } else { group }, message)
                } else {
                    let mut message = alloc::vec![REPORT_3, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0];
                    message.extend(group.octets());
                    (ALL_IGMP, message)
                };
                let checksum = finish(sum(&message)).to_be_bytes();
                message[2..4].copy_from_slice(&checksum);
                with_alert_v4(own, destination, &message)
            }
            IpAddr::V6(group) => {
                let mut message = alloc::vec![MLD_REPORT, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0];
                message.extend(group.octets());
                let total = pseudo_sum(own, ALL_MLD.into(), ICMPV6, message.len()) + sum(&message);
                message[2..4].copy_from_slice(&finish(total).to_be_bytes());
                with_alert_v6(own, &message)
            }
        }
    }
}

fn head(source: IpAddr, destination: IpAddr, protocol: u8, traffic_class: u8) -> Outgoing {
    Outgoing { source, destination, protocol, hop_limit: 1, traffic_class, may_fragment: false }
}

/// A packet of IPv4 with the option Router Alert (RFC 2113).
fn with_alert_v4(own: IpAddr, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    const ALERT: [u8; 4] = [0x94, 4, 0, 0];
    /// Internetwork control (RFC 3376, 4).
    const CONTROL: u8 = 0xc0;
    let mut packet = alloc::vec![0; HEADER_V4];
    packet.extend(ALERT);
    packet.extend(message);
    head(own, destination.into(), IGMP, CONTROL).write_header(&mut packet, 0, None);
    packet[0] = 0x46;
    packet[10..12].fill(0);
    let checksum = finish(sum(&packet[..HEADER_V4 + ALERT.len()]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// A packet of IPv6 with that option in a hop-by-hop header (RFC 2711).
fn with_alert_v6(own: IpAddr, message: &[u8]) -> Vec<u8> {
    const HOP_BY_HOP: u8 = 0;
    const ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let mut packet = alloc::vec![0; HEADER_V6];
    packet.extend(ALERT);
    packet.extend(message);
    head(own, ALL_MLD.into(), HOP_BY_HOP, 0).write_header(&mut packet, 0, None);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_is_reported_twice_and_leaving_once() {
        let mut groups = Groups::default();
        let now = Instant::from_secs(1);
        let group: IpAddr = "224.0.0.251".parse().unwrap();
        let own: IpAddr = "10.0.0.2".parse().unwrap();
        groups.join(group, now);
        groups.join("224.0.0.1".parse().unwrap(), now);
        let mut sent = 0;
        while let Some(at) = groups.deadline() {
            for packet in groups.poll(at, |_| own) {
                let parsed = Packet::parse_v4(&packet).unwrap();
                assert_eq!((parsed.protocol, parsed.hop_limit, parsed.header), (IGMP, 1, 24));
                assert_eq!(parsed.payload()[8], TO_EXCLUDE);
                assert_eq!(finish(sum(parsed.payload())), 0);
                sent += 1;
            }
        }
        assert_eq!(sent, 2);
        let left = groups.leave(group, own, now).unwrap();
        assert_eq!(Packet::parse_v4(&left).unwrap().payload()[8], TO_INCLUDE);
        assert_eq!(groups.leave(group, own, now), None);
    }

    #[test]
    fn a_router_of_version_2_gets_reports_of_that_version() {
        let mut groups = Groups::default();
        let now = Instant::from_secs(1);
        let group: IpAddr = "239.1.2.3".parse().unwrap();
        let own: IpAddr = "10.0.0.2".parse().unwrap();
        groups.join(group, now);
        while let Some(at) = groups.deadline() {
            groups.poll(at, |_| own);
        }
        let mut query = alloc::vec![QUERY, 100, 0, 0, 0, 0, 0, 0];
        let checksum = finish(sum(&query)).to_be_bytes();
        query[2..4].copy_from_slice(&checksum);
        let packet = with_alert_v4("10.0.0.1".parse().unwrap(), Ipv4Addr::new(224, 0, 0, 1), &query);
        groups.input(&Packet::parse_v4(&packet).unwrap(), now, 123_456_789);
        let at = groups.deadline().unwrap();
        assert!(at > now && at <= now + Duration::from_secs(10));
        let report = groups.poll(at, |_| own).remove(0);
        let parsed = Packet::parse_v4(&report).unwrap();
        assert_eq!((parsed.destination, parsed.payload()[0]), (group, REPORT_2));
    }

    #[test]
    fn reports_of_ipv6_have_a_right_checksum_behind_the_option() {
        let mut groups = Groups::default();
        let now = Instant::from_secs(1);
        groups.join("ff02::fb".parse().unwrap(), now);
        let report = groups.poll(now, |_| "fe80::1".parse().unwrap()).remove(0);
        let parsed = Packet::parse_v6(&report).unwrap();
        assert_eq!((parsed.protocol, parsed.payload()[0], parsed.payload()[8]), (ICMPV6, MLD_REPORT, TO_EXCLUDE));
        assert!(super::super::packet::is_intact(&parsed));
    }
}
