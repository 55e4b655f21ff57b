//! Two connections at the ends of a wire that loses packets, in a time of their own.

use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::test_random::Random;

const CLIENT: Place = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40000);
const SERVER: Place = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 80);
const MTU: usize = 1500;
const BUFFERS: (usize, usize) = (256 << 10, 256 << 10);
/// How long a packet is on its way.
const DELAY: Duration = Duration::from_millis(5);

/// One end.
struct End {
    engine: Engine,
    connection: Option<Connection>,
    /// Bytes still to be given to the connection, and bytes that came.
    to_send: usize,
    came: usize,
    /// The stream ends behind the last byte.
    ends: bool,
    /// The program takes what comes.
    reads: bool,
}

impl End {
    fn new(connection: Option<Connection>, to_send: usize) -> Self {
        Self { engine: Engine::default(), connection, to_send, came: 0, ends: true, reads: true }
    }

    /// The program at this end: takes what came, gives what is left.
    fn run(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let len = connection.room().min(self.to_send);
        if len > 0 {
            connection.socket().send_slice(&vec![7; len]).unwrap();
            self.to_send -= len;
        }
        if self.to_send == 0 && self.ends {
            connection.close();
        }
        let mut room = vec![0; if self.reads { connection.queued().0 } else { 0 }];
        let _ = connection.socket().recv_slice(&mut room);
        self.came += room.len();
    }
}

/// A wire between two ends.
struct Wire {
    ends: [End; 2],
    /// Packets under way by when they arrive, to which end.
    packets: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    now: Instant,
    sent: u64,
    random: Random,
    /// Packets lost, in thousandths.
    lost: u64,
    /// Segments to be lost, each once, by the end that sends them and what they say.
    loses: Vec<fn(usize, &Segment) -> bool>,
    /// Every segment with its time and the end that sent it.
    trace: Vec<(Instant, usize, Segment)>,
}

impl Wire {
    fn new(to_send: [usize; 2], lost: u64, seed: u64) -> Self {
        let now = Instant::from_secs(1);
        let connection = Connection::connect(CLIENT, SERVER, BUFFERS, MTU, seed, now);
        let ends = [End::new(Some(connection.unwrap()), to_send[0]), End::new(None, to_send[1])];
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..8 {
            random.next();
        }
        Self { ends, packets: BTreeMap::new(), now, sent: 0, random, lost, loses: Vec::new(), trace: Vec::new() }
    }

    /// Takes one step: what is due at each end, then the next packet or timer.
    fn step(&mut self) -> bool {
        let mut next = self.packets.first_key_value().map(|((at, _), _)| *at);
        for number in 0..2 {
            let (mut out, now) = (Vec::new(), self.now);
            let end = &mut self.ends[number];
            end.run();
            let Some(connection) = &mut end.connection else { continue };
            let mut send = |len: usize, fill: &mut dyn FnMut(&mut [u8])| {
                let mut packet = vec![0; len];
                fill(&mut packet);
                out.push(packet);
            };
            while connection.output(&mut end.engine, now, 64, &mut || true, &mut send) {}
            let deadline = connection.deadline(&mut end.engine, now);
            self.put(number, out);
            next = [next, deadline, self.packets.first_key_value().map(|((at, _), _)| *at)].into_iter().flatten().min();
        }
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.packets.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, packet) = entry.remove();
            self.deliver(to, &packet);
        }
        true
    }

    fn put(&mut self, from: usize, packets: Vec<Vec<u8>>) {
        for packet in packets {
            self.sent += 1;
            let segment = Segment::read(&packet).unwrap();
            self.trace.push((self.now, from, segment));
            let place = self.loses.iter().position(|loses| loses(from, &segment));
            if self.random.below(1000) < self.lost || place.map(|place| self.loses.remove(place)).is_some() {
                continue;
            }
            self.packets.insert((self.now + DELAY, self.sent), (1 - from, packet));
        }
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let (mut out, now) = (Vec::new(), self.now);
        let end = &mut self.ends[to];
        match &mut end.connection {
            Some(connection) => connection.input(&mut end.engine, packet, now, &mut |len, fill| {
                let mut packet = vec![0; len];
                fill(&mut packet);
                out.push(packet);
            }),
            None => end.connection = Connection::accept(SERVER, CLIENT, BUFFERS, MTU, 7, packet, now),
        }
        self.put(to, out);
    }

    /// Runs until all bytes have come and are acknowledged. Answers how long that took.
    fn carry(&mut self, bytes: [usize; 2]) -> Duration {
        let begun = self.now;
        while self.ends[0].came < bytes[1] || self.ends[1].came < bytes[0] {
            assert!(self.step(), "nothing is due, and not all has come");
            assert!(self.now - begun < Duration::from_secs(3600), "an hour, and not all has come");
        }
        self.now - begun
    }
}

/// Runs one that carries `bytes` from the client to the server many times, and answers the longest time in
/// milliseconds.
fn longest(bytes: usize, lost: u64) -> u64 {
    let mut times: Vec<_> =
        (1..=40).map(|seed| Wire::new([bytes, 0], lost, seed).carry([bytes, 0]).total_millis()).collect();
    times.sort_unstable();
    let (middle, most) = (times[times.len() / 2], times[times.len() - 1]);
    std::println!("{bytes} bytes, {lost} of 1000 packets lost: {middle} ms, at most {most} ms");
    most
}

#[test]
fn time_to_carry_bytes_grows_no_faster_than_the_losses() {
    for (bytes, lost, limit_ms) in [
        (60_000, 0, 50),
        (60_000, 10, 1500),
        (60_000, 30, 2000),
        (60_000, 100, 3000),
        (1 << 20, 0, 100),
        (1 << 20, 10, 2000),
        (1 << 20, 30, 3000),
        (1 << 20, 100, 12_000),
    ] {
        let most = longest(bytes, lost);
        assert!(most <= limit_ms, "{bytes} bytes with {lost} of 1000 lost took {most} ms");
    }
}

/// When the client sent segments of `payload` bytes, in milliseconds since the first of them.
fn times(wire: &Wire, payload: usize) -> Vec<u64> {
    let sent = wire.trace.iter().filter(|(_, from, segment)| *from == 0 && segment.payload == payload);
    let all: Vec<Instant> = sent.map(|(at, ..)| *at).collect();
    all.iter().map(|at| (*at - all[0]).total_millis()).collect()
}

/// How many segments with bytes the client sent at each time, in milliseconds since the first of them.
fn flights(wire: &Wire) -> Vec<(u64, usize)> {
    let sent = wire.trace.iter().filter(|(_, from, segment)| *from == 0 && segment.payload > 0);
    let all: Vec<Instant> = sent.map(|(at, ..)| *at).collect();
    all.chunk_by(PartialEq::eq).map(|flight| ((flight[0] - all[0]).total_millis(), flight.len())).collect()
}

#[test]
fn ten_segments_go_before_the_first_acknowledgement_and_twice_as_many_behind_it() {
    let mut wire = Wire::new([100_000, 0], 0, 1);
    wire.carry([100_000, 0]);
    let flights = flights(&wire);
    assert_eq!(flights[0], (0, 10));
    let second: usize = flights.iter().filter(|(at, _)| (10..20).contains(at)).map(|(_, count)| count).sum();
    assert_eq!(second, 20, "{flights:?}");
}

#[test]
fn after_a_timeout_one_segment_goes_and_then_two() {
    let mut wire = Wire::new([100_000, 0], 0, 1);
    // The whole first flight, and the probe.
    wire.loses = vec![|from, segment| from == 0 && segment.payload > 0; 11];
    wire.carry([100_000, 0]);
    let flights = flights(&wire);
    let lost = flights.iter().position(|(_, count)| *count == 10).expect("ten segments at once");
    let again: Vec<usize> = flights[lost + 1..].iter().map(|(_, count)| *count).collect();
    assert!(again.starts_with(&[1, 1, 2]), "{flights:?}");
}

#[test]
fn one_segment_is_sent_again_after_200_ms_and_then_twice_as_long() {
    let mut wire = Wire::new([10, 0], 0, 1);
    wire.loses = vec![|from, segment| from == 0 && segment.payload == 10; 3];
    wire.carry([10, 0]);
    // The round trip took 10 ms.
    assert_eq!(times(&wire, 10), [0, 210, 630, 1470]);
}

#[test]
fn a_doubled_timer_is_forgotten_with_the_next_acknowledgement() {
    let mut wire = Wire::new([0, 0], 0, 1);
    wire.ends[0].ends = false;
    for turn in 0..6 {
        wire.loses = vec![|from, segment| from == 0 && segment.payload > 0; 2];
        wire.ends[0].to_send = 100;
        let took = wire.carry([100 * (turn + 1), 0]).total_millis();
        assert!(took < 700, "{took} ms in turn {turn}");
    }
}

#[test]
fn each_of_several_lost_segments_takes_one_round_trip() {
    let mut wire = Wire::new([400_000, 0], 0, 1);
    wire.carry([200_000, 0]);
    let numbers = |from: usize, segment: &Segment| from == 0 && segment.payload > 1000;
    wire.loses = vec![numbers; 4];
    let begun = wire.trace.len();
    let took = wire.carry([400_000, 0]).total_millis();
    assert!(took < 250, "{took} ms");
    let again = wire.trace[begun..].iter().filter(|(_, from, segment)| *from == 0 && segment.payload > 0);
    assert!(again.count() < 200_000 / 1460 + 20, "much was sent again");
}

impl Wire {
    fn connection(&mut self, end: usize) -> &mut Connection {
        self.ends[end].connection.as_mut().unwrap()
    }

    /// Runs until nothing is due within a second.
    fn settle(&mut self) {
        let mut last = self.now;
        while self.step() && self.now - last < Duration::from_secs(1) {
            last = self.now;
        }
    }

    /// Runs for so long.
    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until && self.step() {}
    }
}

/// Two whose client has sent ten bytes.
fn open() -> Wire {
    let mut wire = Wire::new([10, 0], 0, 1);
    wire.ends.iter_mut().for_each(|end| end.ends = false);
    wire.carry([10, 0]);
    wire.settle();
    wire.trace.clear();
    wire
}

#[test]
fn the_end_of_a_stream_is_sent_again_whatever_the_other_end_repeats() {
    let mut wire = open();
    wire.loses = vec![|from, segment| from == 0 && segment.flags & Segment::FIN != 0];
    wire.connection(0).close();
    wire.step();
    let client = wire.connection(0);
    assert_eq!(client.state(), State::FinWait1);
    let same = client.acknowledgement(client.recovery.outstanding().unwrap(), client.window);
    for _ in 0..5 {
        wire.deliver(0, &same);
    }
    let begun = wire.now;
    while wire.connection(1).state() != State::CloseWait {
        assert!(wire.step(), "the end is never sent again");
    }
    assert!(wire.now - begun < Duration::from_millis(250));
}

#[test]
fn the_last_segment_of_a_connection_is_acknowledged_at_once() {
    let mut wire = open();
    wire.connection(0).close();
    while wire.connection(1).state() != State::CloseWait {
        wire.step();
    }
    wire.ends[1].to_send = 10;
    wire.ends[1].ends = true;
    while wire.connection(0).state() != State::TimeWait {
        wire.step();
    }
    let begun = wire.now;
    while wire.connection(1).state() != State::Closed {
        wire.step();
    }
    assert!(wire.now - begun <= DELAY);
    while wire.connection(0).state() == State::TimeWait {
        wire.step();
    }
    // smoltcp waits for ten seconds.
    assert!((9_900..=10_000).contains(&(wire.now - begun).total_millis()), "{}", wire.now - begun);
}

#[test]
fn acknowledgements_wait_only_in_a_conversation() {
    let mut wire = open();
    // The server only listens: each segment is acknowledged soon.
    for _ in 0..3 {
        wire.ends[0].to_send = 10;
        wire.settle();
    }
    let answers = |wire: &Wire| -> Vec<u64> {
        let sent = wire.trace.iter().filter(|(_, from, segment)| *from == 0 && segment.payload > 0);
        let back = wire.trace.iter().filter(|(_, from, _)| *from == 1);
        sent.zip(back).map(|(sent, back)| (back.0 - sent.0).total_millis()).collect()
    };
    assert_eq!(answers(&wire), [7, 7, 7]);
    // It answers: the answer acknowledges.
    wire.trace.clear();
    for _ in 0..3 {
        wire.ends[0].to_send = 10;
        wire.run_for(DELAY);
        wire.ends[1].to_send = 10;
        wire.settle();
    }
    let from_server = wire.trace.iter().filter(|(_, from, _)| *from == 1).count();
    assert!(from_server <= 4, "{from_server} segments for three answers");
    // It does so no more: one waits in vain, the next does not.
    wire.trace.clear();
    for _ in 0..3 {
        wire.ends[0].to_send = 10;
        wire.settle();
    }
    assert_eq!(answers(&wire), [45, 7, 7]);
}

#[test]
fn lost_segments_change_nothing_about_when_an_idle_peer_is_asked() {
    let mut wire = open();
    wire.loses = vec![|from, segment| from == 0 && segment.payload == 100; 3];
    wire.ends[0].to_send = 100;
    wire.carry([110, 0]);
    wire.settle();
    wire.connection(0).socket().set_keep_alive(Some(Duration::from_secs(30)));
    wire.step();
    wire.run_for(Duration::from_secs(1));
    wire.trace.clear();
    wire.run_for(Duration::from_secs(100));
    let asked: Vec<u64> =
        wire.trace.iter().filter(|(_, from, _)| *from == 0).map(|(at, ..)| at.total_millis() as u64).collect();
    assert!(asked.len() >= 3);
    assert!(asked.windows(2).all(|two| (29_900..30_200).contains(&(two[1] - two[0]))), "{asked:?}");
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    let mut wire = open();
    wire.ends[1].reads = false;
    wire.ends[0].to_send = 300_000;
    wire.run_for(Duration::from_secs(60));
    // A window is told in units of eight bytes.
    assert!(wire.connection(1).queued().0 > BUFFERS.0 - 8, "the buffer is full");
    wire.trace.clear();
    wire.run_for(Duration::from_secs(120));
    let probes = wire.trace.iter().filter(|(_, from, segment)| *from == 0 && segment.payload > 0);
    assert!((1..=8).contains(&probes.count()));
    // The announcement is lost.
    wire.loses = vec![|from, _| from == 1; 2];
    wire.ends[1].reads = true;
    let took = wire.carry([300_010, 0]);
    assert!(took < Duration::from_secs(121), "{took}");
}
