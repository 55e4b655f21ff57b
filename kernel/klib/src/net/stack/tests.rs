//! A stack against made-up peers, and against noise.

use alloc::{collections::BTreeMap, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{cell::Cell, vec};

use super::*;
use crate::{
    net::{
        Duration,
        packet::{self, Outgoing, TCP, UDP},
        tcp::{Connection, State, is_first},
    },
    test_random::Random,
};

const OURS: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const THEIRS: Mac = [0x52, 0x55, 10, 0, 2, 2];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

#[derive(Default)]
struct Machine {
    sent: Vec<Vec<u8>>,
    room: Option<usize>,
    random: Cell<u64>,
    datagrams: Vec<Vec<u8>>,
    port: u16,
    errors: Vec<icmp::Error>,
    connections: BTreeMap<u16, Connection>,
    listens: bool,
}

impl Host for Machine {
    fn has_room(&self) -> bool {
        self.room.is_none_or(|room| self.sent.len() < room)
    }
    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if !self.has_room() {
            return false;
        }
        let mut frame = vec![0; len];
        fill(&mut frame);
        self.sent.push(frame);
        true
    }
    fn random(&mut self) -> u64 {
        self.random.set(self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99));
        self.random.get()
    }
    fn datagram(&mut self, packet: &Packet<'_>) -> bool {
        let known = packet::word(packet.payload(), 2) == self.port;
        if known {
            self.datagrams.push(packet.payload().to_vec());
        }
        known
    }
    fn segment(&mut self, stack: &mut Stack, packet: &Packet<'_>, now: Instant) {
        let ports = (packet::word(packet.payload(), 0), packet::word(packet.payload(), 2));
        let mut found = self.connections.remove(&ports.0);
        if found.is_none() && self.listens && is_first(packet.payload()) && self.connections.len() < 64 {
            let (local, remote) = ((packet.destination, ports.1), (packet.source, ports.0));
            let made = Connection::accept(local, remote, (4096, 4096), 1500, 7, &packet.plain(), now);
            if let Some(made) = made {
                self.connections.insert(ports.0, made);
            }
        } else if let Some(connection) = &mut found {
            stack.tcp_input(self, connection, &packet.plain(), now);
        } else {
            stack.tcp_refuse(self, packet, now);
        }
        if let Some(mut connection) = found.or_else(|| self.connections.remove(&ports.0)) {
            stack.tcp_output(self, &mut connection, now);
            if connection.state() != State::Closed {
                self.connections.insert(ports.0, connection);
            }
        }
    }
    fn raw(&mut self, _packet: &Packet<'_>) -> bool {
        false
    }
    fn error(&mut self, _stack: &mut Stack, error: &icmp::Error, _now: Instant) {
        self.errors.push(*error);
    }
    fn is_member(&mut self, group: IpAddr) -> bool {
        group == IpAddr::from(Ipv4Addr::new(224, 0, 0, 251))
    }
}

fn start() -> (Stack, Machine, Instant) {
    let now = Instant::from_secs(10);
    let config = BootConfig::parse("ip=10.0.2.15::10.0.2.2:255.255.255.0").unwrap();
    let mut stack = Stack::new(OURS, 1500, config, "piton", 1, now);
    let mut machine = Machine { port: 7, ..Machine::default() };
    stack.set_link(&mut machine, true, now);
    machine.sent.clear();
    (stack, machine, now)
}

fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    [&OURS[..], &THEIRS, &kind.to_be_bytes(), body].concat()
}

fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    frame(0x0806, &[&head[..], &THEIRS, &sender.octets(), &[0; 6], &target.octets()].concat())
}

fn head(protocol: u8) -> Outgoing {
    let (source, destination) = (PEER.into(), OWN.into());
    Outgoing { source, destination, protocol, hop_limit: 64, traffic_class: 0, may_fragment: true }
}

fn udp(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut datagram = [9u16.to_be_bytes(), port.to_be_bytes(), ((8 + bytes.len()) as u16).to_be_bytes()].concat();
    datagram.extend([0; 2]);
    datagram.extend(bytes);
    head(UDP).write_checksum(&mut datagram, 6);
    whole(UDP, &datagram)
}

fn whole(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes.extend(payload);
    head(protocol).write_header(&mut bytes, 1, None);
    frame(0x0800, &bytes)
}

fn tcp(port: u16, sequence: u32, ack: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let mut segment = [port.to_be_bytes(), 80u16.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(bytes);
    head(TCP).write_checksum(&mut segment, 16);
    whole(TCP, &segment)
}

/// The parsed IPv4 packets among the frames sent.
fn packets(machine: &Machine) -> Vec<Packet<'_>> {
    let v4 = machine.sent.iter().filter(|frame| packet::word(frame, 12) == 0x0800);
    v4.map(|frame| Packet::parse_v4(&frame[14..]).unwrap()).collect()
}

#[test]
fn arp_is_answered_and_waiting_packets_go_to_who_answers() {
    let (mut stack, mut machine, now) = start();
    stack.input(&mut machine, &arp(1, PEER, OWN), now);
    assert_eq!(machine.sent.len(), 1);
    assert_eq!(machine.sent[0][20..22], [0, 2]);
    machine.sent.clear();
    let far = Outgoing { source: OWN.into(), destination: Ipv4Addr::new(10, 0, 2, 77).into(), ..head(UDP) };
    stack.send(&mut machine, &far, &[0; 30], now).unwrap();
    assert_eq!(packet::word(&machine.sent[0], 12), 0x0806, "asked for first");
    stack.input(&mut machine, &arp(2, Ipv4Addr::new(10, 0, 2, 77), OWN), now);
    assert_eq!(packets(&machine).len(), 1);
}

#[test]
fn who_does_not_answer_is_an_error_for_the_sender() {
    let (mut stack, mut machine, mut now) = start();
    let far = Outgoing { source: OWN.into(), destination: Ipv4Addr::new(10, 0, 2, 77).into(), ..head(UDP) };
    stack.send(&mut machine, &far, &[0, 1, 0, 2, 0, 0, 0, 0], now).unwrap();
    for _ in 0..40 {
        now += Duration::from_millis(100);
        stack.poll(&mut machine, now);
    }
    assert_eq!(machine.errors.len(), 1);
    assert_eq!((machine.errors[0].reason, machine.errors[0].local.1), (icmp::Reason::Host, 1));
    assert_eq!(stack.send(&mut machine, &far, &[0; 8], now), Err(NotSent::Unreachable));
}

#[test]
fn datagrams_reach_their_port_whole_or_cut_and_others_are_refused() {
    let (mut stack, mut machine, now) = start();
    stack.input(&mut machine, &arp(1, PEER, OWN), now);
    stack.input(&mut machine, &udp(7, b"hello"), now);
    assert_eq!(machine.datagrams[0][8..], *b"hello");
    machine.sent.clear();
    stack.input(&mut machine, &udp(8, b"hello"), now);
    assert_eq!(packets(&machine)[0].payload()[..2], [3, 3]);
    // Cut into three, the last first.
    let long: Vec<u8> = (0..4000u32).map(|number| number as u8).collect();
    let whole = udp(7, &long);
    let payload = &whole[34..];
    let mut parts: Vec<_> = crate::net::fragments::cut(payload.len(), 1500, true).collect();
    parts.reverse();
    for (start, end) in parts {
        let mut bytes = vec![0; 20];
        bytes.extend(&payload[start..end]);
        let part = packet::Part { ident: 5, offset: start, more: end < payload.len() };
        head(UDP).write_header(&mut bytes, 5, Some(part));
        stack.input(&mut machine, &frame(0x0800, &bytes), now);
    }
    assert_eq!(machine.datagrams[1][8..], long);
    let mut broken = udp(7, b"hello");
    *broken.last_mut().unwrap() ^= 1;
    stack.input(&mut machine, &broken, now);
    assert_eq!((machine.datagrams.len(), stack.counts().udp_bad_checksum), (2, 1));
}

#[test]
fn an_echo_comes_back_and_a_long_datagram_goes_out_in_parts() {
    let (mut stack, mut machine, now) = start();
    stack.input(&mut machine, &arp(1, PEER, OWN), now);
    machine.sent.clear();
    let (_, echo) = icmp::seal(PEER.into(), OWN.into(), vec![8, 0, 0, 0, 0, 1, 0, 2, 9, 9], 64);
    stack.input(&mut machine, &whole(packet::ICMP, &echo), now);
    let answer = packets(&machine)[0].clone();
    assert_eq!((answer.payload()[0], &answer.payload()[4..]), (0, &[0, 1, 0, 2, 9, 9][..]));
    machine.sent.clear();
    let out = Outgoing { source: OWN.into(), destination: PEER.into(), ..head(UDP) };
    stack.send(&mut machine, &out, &[1; 5000], now).unwrap();
    let sent: usize = packets(&machine).iter().map(|packet| packet.payload().len()).sum();
    assert_eq!((packets(&machine).len(), sent), (4, 5000));
    let whole = Outgoing { may_fragment: false, ..out };
    assert_eq!(stack.send(&mut machine, &whole, &[1; 5000], now), Err(NotSent::TooLong));
}

#[test]
fn a_connection_is_made_carries_bytes_and_ends() {
    let (mut stack, mut machine, now) = start();
    machine.listens = true;
    stack.input(&mut machine, &arp(1, PEER, OWN), now);
    machine.sent.clear();
    stack.input(&mut machine, &tcp(1000, 500, 0, 2, b""), now);
    let answer = packets(&machine)[0].payload().to_vec();
    assert_eq!(answer[13], 0x12, "SYN and ACK");
    let ours = u32::from_be_bytes(answer[4..8].try_into().unwrap()).wrapping_add(1);
    stack.input(&mut machine, &tcp(1000, 501, ours, 0x18, b"question"), now);
    let connection = machine.connections.get_mut(&1000).unwrap();
    let mut bytes = [0; 20];
    assert_eq!((connection.socket().recv_slice(&mut bytes), &bytes[..8]), (Ok(8), &b"question"[..]));
    connection.socket().send_slice(b"answer").unwrap();
    let mut connection = machine.connections.remove(&1000).unwrap();
    machine.sent.clear();
    stack.tcp_output(&mut machine, &mut connection, now);
    machine.connections.insert(1000, connection);
    assert!(packets(&machine)[0].payload().ends_with(b"answer"));
    assert!(packet::is_intact(&packets(&machine)[0]));
    stack.input(&mut machine, &tcp(1000, 509, ours.wrapping_add(6), 4, b""), now);
    assert!(machine.connections.is_empty(), "reset");
    machine.sent.clear();
    machine.listens = false;
    stack.input(&mut machine, &tcp(1000, 509, 0, 2, b""), now);
    assert_eq!(packets(&machine)[0].payload()[13], 0x14, "nobody listens");
    assert_eq!(stack.counts().tcp_resets_out, 1);
}

#[test]
fn a_router_gives_an_address_that_nobody_objects_to() {
    let (mut stack, mut machine, mut now) = start();
    let own: IpAddr = "fe80::5054:ff:fe12:3456".parse().unwrap();
    assert!(stack.addresses().iter().any(|known| known.ip == own && known.standing.is_tentative()));
    for _ in 0..30 {
        now += Duration::from_millis(100);
        stack.poll(&mut machine, now);
    }
    assert!(stack.addresses().iter().any(|known| known.ip == own && known.standing == Standing::Usable));
    let sent: Vec<u8> = machine.sent.iter().filter(|f| packet::word(f, 12) == 0x86dd).map(|f| f[14 + 40]).collect();
    assert!(sent.contains(&icmp::ROUTER_SOLICITATION), "{sent:?}");
    let router: Ipv6Addr = "fe80::2".parse().unwrap();
    let mut message = vec![icmp::ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([1, 1]);
    message.extend(THEIRS);
    message.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    message.extend("fec0::".parse::<Ipv6Addr>().unwrap().octets());
    let (head, message) = icmp::seal(router.into(), "ff02::1".parse().unwrap(), message, 255);
    let mut packet = vec![0; 40];
    packet.extend(message);
    head.write_header(&mut packet, 0, None);
    let mut advertisement = frame(0x86dd, &packet);
    advertisement[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    stack.input(&mut machine, &advertisement, now);
    for _ in 0..30 {
        now += Duration::from_millis(100);
        stack.poll(&mut machine, now);
    }
    let far: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(stack.source_for(far, now), Some("fec0::5054:ff:fe12:3456".parse().unwrap()));
    assert_eq!(stack.routes().find(far).and_then(|route| route.gateway), Some(router.into()));
    now += Duration::from_secs(90_000);
    stack.poll(&mut machine, now);
    assert_eq!(stack.routes().find(far), None, "the router's time is over");
}

/// Frames that begin well and go wrong: whatever comes, nothing panics, and no table grows beyond its limit.
#[test]
fn noise_neither_panics_nor_fills_memory() {
    let (mut stack, mut machine, mut now) = start();
    machine.listens = true;
    let mut seeds = vec![arp(1, PEER, OWN), arp(2, PEER, OWN), udp(7, b"x"), udp(8, &[0; 600]), tcp(5, 1, 0, 2, b"")];
    seeds.push(tcp(5, 2, 1, 0x18, &[7; 300]));
    seeds.push(tcp(5, 2, 1, 0x11, b""));
    let v6 = |kind: u8, len: usize| {
        let mut message = vec![0; len];
        message[0] = kind;
        let (head, message) =
            icmp::seal("fe80::9".parse().unwrap(), "fe80::5054:ff:fe12:3456".parse().unwrap(), message, 255);
        let mut packet = vec![0; 40];
        packet.extend(message);
        head.write_header(&mut packet, 0, None);
        frame(0x86dd, &packet)
    };
    seeds.extend([v6(134, 60), v6(135, 32), v6(136, 32), v6(128, 20), v6(1, 80), v6(2, 80)]);
    let mut random = Random::new(42);
    let rounds: u32 = std::env::var("PITON_FRAMES").ok().and_then(|count| count.parse().ok()).unwrap_or(200_000);
    for _ in 0..rounds {
        let mut frame = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..random.below(5) {
            let at = random.below(frame.len() as u64) as usize;
            frame[at] = match random.below(3) {
                0 => random.next() as u8,
                1 => frame[at].wrapping_add(1),
                _ => [0, 0xff, 0x7f, 0x80][random.below(4) as usize],
            };
        }
        if random.below(4) == 0 {
            frame.truncate(random.below(frame.len() as u64 + 1) as usize);
        }
        // Half of them with checksums that are right again, so that they get further.
        if random.below(2) == 0 {
            mend(&mut frame);
        }
        stack.input(&mut machine, &frame, now);
        machine.sent.clear();
        machine.errors.clear();
        machine.datagrams.clear();
        if random.below(50) == 0 {
            now += Duration::from_millis(random.below(3000));
            stack.poll(&mut machine, now);
            for connection in machine.connections.values_mut() {
                let mut nobody = Machine::default();
                stack.tcp_output(&mut nobody, connection, now);
            }
            machine.connections.retain(|_, connection| connection.state() != State::Closed);
        }
    }
    assert!(stack.neighbours().iter().count() <= crate::net::neighbours::MAX_NEIGHBOURS);
    assert!(stack.fragments().usage().0 <= crate::net::fragments::MAX_BYTES);
    assert!(stack.addresses().len() <= MAX_ADDRESSES && stack.routes().all().len() <= 64);
}

/// Puts checksums right where the frame is long enough to have them.
fn mend(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..) else { return };
    let v4 = packet.first().is_some_and(|first| *first == 0x45);
    let (header, at) = if v4 { (20, 9) } else { (40, 6) };
    if packet.len() < header + 8 {
        return;
    }
    if v4 {
        packet[10..12].fill(0);
        let checksum = packet::finish(packet::sum(&packet[..20])).to_be_bytes();
        packet[10..12].copy_from_slice(&checksum);
    }
    let address = |from: usize, len: usize| -> IpAddr {
        match len {
            4 => <[u8; 4]>::try_from(&packet[from..from + 4]).unwrap().into(),
            _ => <[u8; 16]>::try_from(&packet[from..from + 16]).unwrap().into(),
        }
    };
    let (source, destination) = if v4 { (address(12, 4), address(16, 4)) } else { (address(8, 16), address(24, 16)) };
    let protocol = packet[at];
    let end = if v4 { usize::from(packet::word(packet, 2)) } else { 40 + usize::from(packet::word(packet, 4)) };
    let Some(payload) = packet.get_mut(header..end) else { return };
    let head = Outgoing { source, destination, protocol, hop_limit: 0, traffic_class: 0, may_fragment: true };
    match protocol {
        packet::ICMP => {
            let sealed = icmp::seal(source, destination, payload.to_vec(), 0).1;
            payload.copy_from_slice(&sealed);
        }
        packet::ICMPV6 => head.write_checksum(payload, 2),
        UDP => head.write_checksum(payload, 6),
        TCP => head.write_checksum(payload, 16),
        _ => {}
    }
}
