//! Noise: frames of all kinds that a stack looks at, changed at random, and more beginnings than a listener takes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use klib::net::packet::{self, Outgoing};
use tests::setting;

use crate::cable::{Cable, Faults, GUEST, GUEST_MAC, LIMIT, PEER, PEER_MAC, Peer, boot};
use crate::station::Station;

/// Frames that noise begins with: all that a stack looks at.
fn seeds() -> Vec<Vec<u8>> {
    let mut tcp_segment = vec![0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4];
    let syn = whole(packet::TCP, &tcp_segment);
    tcp_segment[13] = 0x18;
    let data = whole(packet::TCP, &tcp_segment);
    let mut dhcp = vec![0; 300];
    dhcp[..8].copy_from_slice(&[0, 67, 0, 68, 1, 44, 0, 0]);
    let v6 = |kind: u8, len: usize| {
        let mut bytes = vec![0; 40 + len];
        bytes[0] = 0x60;
        bytes[4..8].copy_from_slice(&[0, len as u8, packet::ICMPV6, 255]);
        bytes[8..10].copy_from_slice(&[0xfe, 0x80]);
        bytes[24..40].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes[40] = kind;
        frame(0x86dd, &bytes)
    };
    let echo = [8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4];
    let udp = [0, 9, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4];
    vec![
        arp(1),
        arp(2),
        syn,
        data,
        whole(packet::ICMP, &echo),
        whole(packet::ICMP, &[3; 60]),
        whole(packet::UDP, &udp),
        whole(packet::UDP, &dhcp),
        whole(packet::IGMP, &[0x11, 10, 0, 0, 0, 0, 0, 0]),
        v6(134, 64),
        v6(135, 32),
        v6(136, 32),
        v6(128, 16),
        v6(130, 24),
        v6(2, 64),
    ]
}

fn head(protocol: u8) -> Outgoing {
    let (source, destination) = (PEER.into(), GUEST.into());
    Outgoing { source, destination, protocol, hop_limit: 64, traffic_class: 0, may_fragment: true }
}

/// Puts the checksums of a packet of IPv4 right.
fn mend(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..).filter(|packet| packet.len() > 28 && packet[0] == 0x45) else { return };
    packet[10..12].fill(0);
    let checksum = packet::finish(packet::sum(&packet[..20])).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    let protocol = packet[9];
    let end = usize::from(packet::word(packet, 2));
    let Some(payload) = packet.get_mut(20..end) else { return };
    match protocol {
        packet::TCP => head(protocol).write_checksum(payload, 16),
        packet::UDP => head(protocol).write_checksum(payload, 6),
        packet::ICMP | packet::IGMP if payload.len() > 4 => {
            payload[2..4].fill(0);
            let checksum = packet::finish(packet::sum(payload)).to_be_bytes();
            payload[2..4].copy_from_slice(&checksum);
        }
        _ => {}
    }
}

/// A frame of the peer's with a packet of IPv4.
fn whole(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes.extend(payload);
    head(protocol).write_header(&mut bytes, 1, None);
    frame(0x0800, &bytes)
}

fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    [&GUEST_MAC[..], &PEER_MAC, &kind.to_be_bytes(), body].concat()
}

/// ARP from the peer to the guest: a request or a reply.
fn arp(operation: u8) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    frame(0x0806, &[&head[..], &PEER_MAC, &PEER.octets(), &[0; 6], &GUEST.octets()].concat())
}

/// Marks echo requests.
const IDENT: u16 = 0x5a5a;

/// An echo request.
fn ping(number: u16) -> Vec<u8> {
    let mut ping = whole(packet::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    ping[38..40].copy_from_slice(&IDENT.to_be_bytes());
    ping[40..42].copy_from_slice(&number.to_be_bytes());
    mend(&mut ping);
    ping
}

/// Sends frames only as fast as the guest takes them: behind each bunch an echo request, which the guest answers when it
/// has taken what was before it.
#[derive(Default)]
struct Pace {
    number: u16,
    in_bunch: usize,
}

impl Pace {
    /// What a guest that has just no time may take.
    const PATIENCE: Duration = Duration::from_millis(200);

    fn sent(&mut self, cable: &Cable) {
        self.in_bunch += 1;
        if self.in_bunch < 96 {
            return;
        }
        self.in_bunch = 0;
        self.number = self.number.wrapping_add(1);
        let ping = ping(self.number);
        let answer = [IDENT.to_be_bytes(), self.number.to_be_bytes()].concat();
        let mut bytes = [0; 2048];
        // The noise may have said that the peer has another address.
        if cable.send(&arp(2)) && cable.send(&ping) {
            while let Some(len) = cable.receive(&mut bytes, Self::PATIENCE) {
                if len >= 42 && bytes[23] == packet::ICMP && bytes[34] == 0 && bytes[38..42] == answer {
                    return;
                }
            }
        }
    }
}

/// Sends changed frames to the guest until it ends.
fn noise(mut cable: Cable) -> Peer {
    let (seeds, mut pace) = (seeds(), Pace::default());
    Peer::start(move || {
        let random = &mut cable.random;
        let mut frame = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..random.below(5) {
            let at = random.below(frame.len() as u64) as usize;
            frame[at] = [random.next() as u8, frame[at].wrapping_add(1), 0xff, 0][random.below(4) as usize];
        }
        if random.below(5) == 0 {
            frame.truncate(14 + random.below(frame.len() as u64 - 13) as usize);
        }
        if random.below(3) > 0 {
            mend(&mut frame);
        }
        cable.send(&frame);
        pace.sent(&cable);
    })
}

/// The number behind a name in the guest's output.
fn number(output: &str, name: &str) -> u64 {
    let value = output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    value.trim().parse().unwrap_or_else(|_| panic!("no {name:?} in\n{output}"))
}

#[test]
fn noise_on_the_wire_is_dropped_and_counted() {
    let frames: u64 = setting("PITON_FRAMES", 20_000);
    let (cable, network) = Cable::new(Faults::default(), setting("PITON_SEED", 99));
    let _peer = noise(cable);
    let guest = boot("net_noise", network, "off", &["listen_to_noise", &frames.to_string()]);
    let (status, output) = guest.finish(LIMIT + Duration::from_millis(frames));
    assert_eq!(status, 0, "{output}");
    println!("noise: {}", output.lines().filter(|line| line.contains(' ')).collect::<Vec<_>>().join(", "));
    assert!(output.contains("still there"), "{output}");
    assert!(number(&output, "frames") >= frames, "{output}");
    assert!(number(&output, "dropped") > frames / 10, "{output}");
    assert!(number(&output, "lost") < 24, "{output}");
}

/// A first segment from somewhere behind the peer, which nobody there knows of.
fn beginning(random: u64) -> Vec<u8> {
    const NETWORK: u32 = 0xac10_0000;
    let source = Ipv4Addr::from(NETWORK | (random >> 44) as u32);
    let head = Outgoing { source: source.into(), ..head(packet::TCP) };
    let mut segment = vec![(random >> 8) as u8 | 4, random as u8, 0, 80];
    segment.extend((random as u32).to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
    head.write_checksum(&mut segment, 16);
    let mut bytes = vec![0; 20];
    bytes.extend(segment);
    head.write_header(&mut bytes, 1, None);
    frame(0x0800, &bytes)
}

/// Floods the guest with beginnings as fast as it takes them, and visits it all the while. Counts the visits.
fn siege(cable: Cable, seed: u64) -> (Peer, Arc<AtomicU32>) {
    const PATIENCE: Duration = Duration::from_millis(200);
    let (mut station, mut number, mut random) = (Station::new(cable), 0u16, crate::cable::Random::new(seed));
    let visits = Arc::new(AtomicU32::new(0));
    let counted = visits.clone();
    let peer = Peer::start(move || {
        number = number.wrapping_add(1);
        // Before the guest answers the first time it has no listener.
        let bunch = if station.answered().is_some() { 64 } else { 0 };
        for at in 0..bunch {
            station.put(beginning(random.next()));
            if at == bunch / 2 && station.visits().1 == 0 {
                station.visit(80, 10_000 + number % 50_000);
            }
        }
        station.put(ping(number));
        let until = Instant::now() + PATIENCE;
        while station.answered() != Some(number) && Instant::now() < until {
            station.turn();
            thread::sleep(Duration::from_micros(100));
        }
        counted.store(station.visits().0, Ordering::Relaxed);
    });
    (peer, visits)
}

#[test]
fn a_flood_of_beginnings_is_dropped_and_counted_and_shuts_nobody_out() {
    const VISITS: u64 = 50;
    let frames: u64 = setting("PITON_FRAMES", 20_000);
    let (cable, network) = Cable::new(Faults::default(), 1);
    let (_peer, visits) = siege(cable, 7);
    let guest = boot("net_flood", network, "off", &["under_siege", &frames.to_string(), &VISITS.to_string()]);
    let (status, output) = guest.finish(LIMIT + Duration::from_millis(frames));
    assert_eq!(status, 0, "{output}");
    println!(
        "flood of {frames} frames: {} visits, {}",
        visits.load(Ordering::Relaxed),
        output.trim().replace('\n', ", ")
    );
    assert!(number(&output, "evicted") > frames / 2, "{output}");
    assert!(number(&output, "lost") < 24, "{output}");
    assert!(visits.load(Ordering::Relaxed) as u64 >= VISITS - 1, "{output}");
}
