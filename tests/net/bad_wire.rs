//! Bad wires: a peer on the host at the other end of the guest's cable, which loses, repeats, delays and reorders
//! frames. The peer's stack is the guest's, [`klib::net`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use klib::net::Instant as Now;
use klib::net::boot_config::BootConfig;
use klib::net::icmp;
use klib::net::packet::{self, Packet};
use klib::net::stack::{Host, Output, Stack};
use klib::net::tcp::{Connection, State, is_first};

use crate::cable::{Cable, Faults, LIMIT, PEER, PEER_MAC, Peer, boot};

const ECHO: u16 = 7;

/// Sends back what comes to a port, at the other end of the cable: the same stack as the guest's.
struct Echo {
    cable: Cable,
    connections: BTreeMap<u16, Connection>,
}

impl Echo {
    /// Sends back what came over a connection, and ends the stream behind the last of it.
    fn answer(&mut self, stack: &mut Stack, connection: &mut Connection, now: Now) {
        let len = connection.queued().0.min(connection.room());
        let mut bytes = vec![0; len];
        if len > 0 {
            let socket = connection.socket();
            socket.recv_slice(&mut bytes).expect("so many came");
            socket.send_slice(&bytes).expect("there is room");
        }
        if connection.queued().0 == 0 && connection.state() == State::CloseWait {
            connection.close();
        }
        while stack.tcp_output(self, connection, now) == Output::More {}
    }

    /// Does what is due.
    fn turn(&mut self, stack: &mut Stack, now: Now) {
        self.cable.turn();
        while let Some(frame) = self.cable.from_guest.take() {
            stack.input(self, &frame, now);
        }
        stack.poll(self, now);
        let mut connections = std::mem::take(&mut self.connections);
        connections.values_mut().for_each(|connection| self.answer(stack, connection, now));
        connections.retain(|_, connection| connection.state() != State::Closed);
        self.connections = connections;
        self.cable.turn();
    }
}

impl Host for Echo {
    fn has_room(&self) -> bool {
        true
    }

    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let mut frame = vec![0; len];
        fill(&mut frame);
        self.cable.put(frame);
        true
    }

    fn random(&mut self) -> u64 {
        self.cable.random.next()
    }

    fn segment(&mut self, stack: &mut Stack, packet: &Packet<'_>, now: Now) {
        const BUFFERS: (usize, usize) = (1 << 16, 1 << 16);
        let (from, to) = (packet::word(packet.payload(), 0), packet::word(packet.payload(), 2));
        if let Some(mut connection) = self.connections.remove(&from) {
            stack.tcp_input(self, &mut connection, &packet.plain(), now);
            self.connections.insert(from, connection);
        } else if to == ECHO && is_first(packet.payload()) {
            let (local, remote) = ((packet.destination, to), (packet.source, from));
            let seed = self.random();
            let made = Connection::accept(local, remote, BUFFERS, stack.mtu(), seed, &packet.plain(), now);
            self.connections.extend(made.map(|connection| (from, connection)));
        } else {
            stack.tcp_refuse(self, packet, now);
        }
    }

    fn datagram(&mut self, _packet: &Packet<'_>) -> bool {
        false
    }

    fn raw(&mut self, _packet: &Packet<'_>) -> bool {
        false
    }

    fn error(&mut self, _stack: &mut Stack, _error: &icmp::Error, _now: Now) {}

    fn is_member(&mut self, _group: IpAddr) -> bool {
        false
    }
}

fn echo(cable: Cable) -> Peer {
    let begun = Instant::now();
    let now = move || Now::from_micros(begun.elapsed().as_micros() as i64);
    let config = BootConfig::parse(&format!("ip={PEER}:::255.255.255.0")).expect("it makes sense");
    let mut stack = Stack::new(PEER_MAC, 1500, config, "peer", 1, now());
    let mut echo = Echo { cable, connections: BTreeMap::new() };
    stack.set_link(&mut echo, true, now());
    Peer::start(move || {
        echo.turn(&mut stack, now());
        thread::sleep(Duration::from_micros(200));
    })
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
