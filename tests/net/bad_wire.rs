//! Bad wires: a peer on the host at the other end of the guest's cable, which loses, repeats, delays and reorders frames,
//! or sends noise.
//!
//! QEMU's `dgram` network carries each frame as a UDP datagram between the guest's card and [`Cable`]. The peer's own
//! stack is smoltcp's.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use board::launch::{Network, Options};
use klib::net::packet::{self, Outgoing};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Now;
use smoltcp::wire::{EthernetAddress, IpCidr};
use tests::Guest;

const PROGRAM: &str = include_str!("guest.py");
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const ECHO: u16 = 7;
/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(240);

/// What a cable does to frames, in thousandths of them, each way.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u64,
    repeated: u64,
    /// These wait for up to `delay`, so that others overtake them.
    late: u64,
    delay: Duration,
}

/// A xorshift generator: the same faults in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }
    fn happens(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

/// One direction of a cable: frames with the time at which they come out.
#[derive(Default)]
struct Lane(VecDeque<(Instant, Vec<u8>)>);

impl Lane {
    fn put(&mut self, frame: Vec<u8>, faults: &Faults, random: &mut Random) {
        let times = if random.happens(faults.lost) { 0 } else { 1 + usize::from(random.happens(faults.repeated)) };
        for _ in 0..times {
            let late = if random.happens(faults.late) { random.below(faults.delay.as_micros() as u64) } else { 0 };
            self.0.push_back((Instant::now() + Duration::from_micros(late), frame.clone()));
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let now = Instant::now();
        let place = self.0.iter().position(|(at, _)| *at <= now)?;
        self.0.remove(place).map(|(_, frame)| frame)
    }
}

/// The host's end of the guest's cable.
struct Cable {
    socket: UdpSocket,
    guest: u16,
    faults: Faults,
    random: Random,
    from_guest: Lane,
    to_guest: Lane,
}

impl Cable {
    fn new(faults: Faults, seed: u64) -> (Self, Network) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        let own = socket.local_addr().expect("bound").port();
        let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|s| s.local_addr()).expect("a free port").port();
        let network = Network::Other(format!(
            "dgram,local.type=inet,local.host=127.0.0.1,local.port={guest},\
             remote.type=inet,remote.host=127.0.0.1,remote.port={own}"
        ));
        let (from_guest, to_guest) = (Lane::default(), Lane::default());
        (Self { socket, guest, faults, random: Random(seed), from_guest, to_guest }, network)
    }

    /// Moves frames along.
    fn turn(&mut self) {
        let mut bytes = [0; 2048];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            self.from_guest.put(bytes[..len].to_vec(), &self.faults, &mut self.random);
        }
        while let Some(frame) = self.to_guest.take() {
            // Before the guest runs nobody is there.
            let _ = self.socket.send_to(&frame, (Ipv4Addr::LOCALHOST, self.guest));
        }
    }
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Cable);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_frame: F) -> R {
        use_frame(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        let Cable { faults, random, to_guest, .. } = self.0;
        to_guest.put(frame, faults, random);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Now) -> Option<(Received, Sending<'_>)> {
        let frame = self.from_guest.take()?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _now: Now) -> Option<Sending<'_>> {
        Some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A thread that ends with this value.
struct Peer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends back what comes to a port, at the other end of the cable.
fn echo(mut cable: Cable) -> Peer {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let begun = Instant::now();
        let now = || Now::from_micros(begun.elapsed().as_micros() as i64);
        let mut interface = Interface::new(Config::new(EthernetAddress(PEER_MAC).into()), &mut cable, now());
        interface.update_ip_addrs(|own| own.push(IpCidr::new(PEER.into(), 24)).expect("there is room"));
        let mut sockets = SocketSet::new(Vec::new());
        let handles: Vec<_> = (0..4)
            .map(|_| {
                let buffer = || tcp::SocketBuffer::new(vec![0; 65535]);
                sockets.add(tcp::Socket::new(buffer(), buffer()))
            })
            .collect();
        while !stopped.load(Ordering::Relaxed) {
            cable.turn();
            interface.poll(now(), &mut cable, &mut sockets);
            for handle in &handles {
                let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
                if !socket.is_open() {
                    socket.listen(ECHO).expect("a port");
                }
                while socket.can_recv() && socket.can_send() {
                    let room = socket.send_capacity() - socket.send_queue();
                    let bytes = socket.recv(|bytes| {
                        let len = bytes.len().min(room);
                        (len, bytes[..len].to_vec())
                    });
                    socket.send_slice(&bytes.expect("some came")).expect("there is room");
                }
                if !socket.may_recv() && socket.may_send() && socket.recv_queue() == 0 {
                    socket.close();
                }
            }
            cable.turn();
            thread::sleep(Duration::from_micros(200));
        }
    });
    Peer { stop, thread: Some(thread) }
}

/// Boots the guest's program at the other end of a cable; `how` says whether it asks for an address first.
fn boot(name: &str, network: Network, how: &str, arguments: &[&str]) -> Guest {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("guest.py");
    std::fs::write(&script, PROGRAM).expect("the script can be written");
    let options = Options {
        network,
        script: Some(script),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        append: Some(format!("ip={GUEST}::{PEER}:255.255.255.0:::{how}")),
        ..Options::default()
    };
    Guest::boot(name, options).keeping(folder)
}

/// Connections through a wire with these faults: all bytes come back.
fn survives(name: &str, faults: Faults, how: &str, count: u32) {
    let (cable, network) = Cable::new(faults, 0x1234_5678);
    let _peer = echo(cable);
    let guest = boot(name, network, how, &["sums", &ECHO.to_string(), &count.to_string()]);
    let (status, output) = guest.finish(LIMIT);
    assert_eq!(status, 0, "{output}");
    for number in 0..count {
        assert!(output.contains(&format!("{number} 60000 True")), "{output}");
    }
}

#[test]
#[ignore = "a connection that follows another at once is refused now and then; the cause is not known yet"]
fn a_good_cable_carries_connections() {
    survives("net_cable", Faults::default(), "off", 8);
}

#[test]
fn the_static_address_is_taken_when_no_dhcp_server_answers() {
    survives("net_fallback", Faults::default(), "dhcp", 1);
}

#[test]
fn a_tenth_of_the_frames_lost_loses_no_byte() {
    survives("net_lossy", Faults { lost: 100, ..Faults::default() }, "off", 2);
}

#[test]
fn frames_repeated_delayed_and_reordered_change_no_byte() {
    let faults = Faults { lost: 10, repeated: 100, late: 200, delay: Duration::from_millis(20) };
    survives("net_disordered", faults, "off", 4);
}

/// Frames that noise begins with: all that a stack looks at.
fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u16, body: &[u8]| [&GUEST_MAC[..], &PEER_MAC, &kind.to_be_bytes(), body].concat();
    let arp = |operation: u8| {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        frame(0x0806, &[&head[..], &PEER_MAC, &PEER.octets(), &[0; 6], &GUEST.octets()].concat())
    };
    let whole = |protocol: u8, payload: &[u8]| {
        let mut bytes = vec![0; 20];
        bytes.extend(payload);
        head(protocol).write_header(&mut bytes, 1, None);
        frame(0x0800, &bytes)
    };
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

/// Sends changed frames to the guest until it ends. Answers how many.
fn noise(cable: Cable) -> (Peer, Arc<AtomicU64>) {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, counted) = (stop.clone(), count.clone());
    let thread = thread::spawn(move || {
        let Cable { socket, guest, mut random, .. } = cable;
        let (seeds, mut bytes) = (seeds(), [0; 2048]);
        while !stopped.load(Ordering::Relaxed) {
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
            if socket.send_to(&frame, (Ipv4Addr::LOCALHOST, guest)).is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            while socket.recv(&mut bytes).is_ok() {}
            // The guest's queue is short: what does not fit would only be lost.
            if random.below(64) == 0 {
                thread::sleep(Duration::from_micros(500));
            }
        }
    });
    (Peer { stop, thread: Some(thread) }, count)
}

#[test]
#[ignore = "one count differed on a busy host; the cause is not known yet"]
fn noise_on_the_wire_is_dropped_and_counted() {
    let (cable, network) = Cable::new(Faults::default(), 99);
    let (_peer, count) = noise(cable);
    let guest = boot("net_noise", network, "off", &["listen_to_noise", "15"]);
    let (status, output) = guest.finish(LIMIT);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("still there"), "{output}");
    let number = |name: &str| {
        let value = output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.trim().parse::<u64>().unwrap_or(0)
    };
    let sent = count.load(Ordering::Relaxed);
    assert!(number("frames") > 10_000, "{sent} sent\n{output}");
    assert!(number("dropped") > 1000, "{output}");
    assert!(number("lost") < 24, "{output}");
}
