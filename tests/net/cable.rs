//! The guest's cable: its other end is a socket of the host.
//!
//! QEMU's `dgram` network carries each frame as a UDP datagram between the guest's card and [`Cable`], which may lose,
//! repeat and delay them.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use board::launch::{Network, Options};
use tests::Guest;

use crate::peers::PROGRAM;

pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// How long a test may take.
pub const LIMIT: Duration = Duration::from_secs(240);

/// What a cable does to frames, in thousandths of them, each way.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lost: u64,
    pub repeated: u64,
    /// These wait for up to `delay`, so that others overtake them.
    pub late: u64,
    pub delay: Duration,
}

/// A xorshift generator: the same faults in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }
    fn happens(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

/// One direction of a cable: frames with the time at which they come out.
#[derive(Default)]
pub struct Lane(VecDeque<(Instant, Vec<u8>)>);

impl Lane {
    pub fn put(&mut self, frame: Vec<u8>, faults: &Faults, random: &mut Random) {
        // Who asks three times for a neighbour and hears nothing says so to the program, on Linux as well: these frames
        // are not what is tested.
        let is_arp = frame.get(12..14) == Some(&[8, 6]);
        let faults = if is_arp { &Faults::default() } else { faults };
        let times = if random.happens(faults.lost) { 0 } else { 1 + usize::from(random.happens(faults.repeated)) };
        for _ in 0..times {
            let late = if random.happens(faults.late) { random.below(faults.delay.as_micros() as u64) } else { 0 };
            self.0.push_back((Instant::now() + Duration::from_micros(late), frame.clone()));
        }
    }

    pub fn take(&mut self) -> Option<Vec<u8>> {
        let now = Instant::now();
        let place = self.0.iter().position(|(at, _)| *at <= now)?;
        self.0.remove(place).map(|(_, frame)| frame)
    }
}

/// The host's end of the guest's cable.
pub struct Cable {
    socket: UdpSocket,
    guest: u16,
    faults: Faults,
    pub random: Random,
    pub from_guest: Lane,
    to_guest: Lane,
}

impl Cable {
    pub fn new(faults: Faults, seed: u64) -> (Self, Network) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        let own = socket.local_addr().expect("bound").port();
        let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|s| s.local_addr()).expect("a free port").port();
        let network = Network::Other(format!(
            "dgram,local.type=inet,local.host=127.0.0.1,local.port={guest},\
             remote.type=inet,remote.host=127.0.0.1,remote.port={own}"
        ));
        let (from_guest, to_guest) = (Lane::default(), Lane::default());
        (Self { socket, guest, faults, random: Random::new(seed), from_guest, to_guest }, network)
    }

    /// Moves frames along.
    pub fn turn(&mut self) {
        let mut bytes = [0; 2048];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            self.from_guest.put(bytes[..len].to_vec(), &self.faults, &mut self.random);
        }
        while let Some(frame) = self.to_guest.take() {
            self.send(&frame);
        }
    }

    /// Sends a frame, with whatever faults the cable has.
    pub fn put(&mut self, frame: Vec<u8>) {
        self.to_guest.put(frame, &self.faults, &mut self.random);
    }

    /// Sends a frame as it is, at once: whether it is on its way. Before the guest runs nobody is there.
    pub fn send(&self, frame: &[u8]) -> bool {
        self.socket.send_to(frame, (Ipv4Addr::LOCALHOST, self.guest)).is_ok()
    }

    /// The guest's next frame, if it comes in time.
    pub fn receive(&self, bytes: &mut [u8], limit: Duration) -> Option<usize> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(len) = self.socket.recv(bytes) {
                return Some(len);
            }
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// A thread of somebody at the other end of a cable, which ends with this value.
pub struct Peer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Does something again and again.
    pub fn start(mut turn: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                turn();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Boots the guest's program at the other end of a cable; `how` says whether it asks for an address first.
pub fn boot(name: &str, network: Network, how: &str, arguments: &[&str]) -> Guest {
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
