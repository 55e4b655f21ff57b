//! A machine at the other end of the guest's cable, with the guest's own stack ([`klib::net`]). It sends back what comes to
//! a port, and visits ports of the guest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use klib::net::Instant as Now;
use klib::net::boot_config::BootConfig;
use klib::net::icmp;
use klib::net::packet::{self, Packet};
use klib::net::stack::{Host, Output, Stack};
use klib::net::tcp::{Connection, State, is_first};

use crate::cable::{Cable, GUEST, PEER, PEER_MAC};

/// The port whose bytes come back.
pub const ECHO: u16 = 7;
const BUFFERS: (usize, usize) = (1 << 16, 1 << 16);
/// What a visit says and hears.
const HELLO: &[u8] = b"hello";

/// The machine.
pub struct Station {
    stack: Box<Stack>,
    begun: Instant,
    ends: Ends,
}

/// What its stack serves.
struct Ends {
    cable: Cable,
    /// By the other end's port and the own one.
    connections: BTreeMap<(u16, u16), Connection>,
    /// The last echo reply: its number.
    answered: Option<u16>,
    /// Visits that heard what they said.
    visits: u32,
}

impl Ends {
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
        self.send(stack, connection, now);
    }

    /// Ends a visit that has heard what it said.
    fn visit(&mut self, stack: &mut Stack, connection: &mut Connection, now: Now) {
        let mut bytes = vec![0; connection.queued().0];
        if !bytes.is_empty() {
            connection.socket().recv_slice(&mut bytes).expect("so many came");
            self.visits += u32::from(bytes == HELLO);
            connection.close();
        }
        self.send(stack, connection, now);
    }

    fn send(&mut self, stack: &mut Stack, connection: &mut Connection, now: Now) {
        while stack.tcp_output(self, connection, now) == Output::More {}
    }
}

impl Station {
    /// One whose cable this is.
    pub fn new(cable: Cable) -> Self {
        let config = BootConfig::parse(&format!("ip={PEER}:::255.255.255.0")).expect("it makes sense");
        let mut station = Self {
            stack: Box::new(Stack::new(PEER_MAC, 1500, config, "peer", 1, Now::ZERO)),
            begun: Instant::now(),
            ends: Ends { cable, connections: BTreeMap::new(), answered: None, visits: 0 },
        };
        station.with(|ends, stack, now| stack.set_link(ends, true, now));
        station
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Ends, &mut Stack, Now) -> T) -> T {
        let now = Now::from_micros(self.begun.elapsed().as_micros() as i64);
        act(&mut self.ends, &mut self.stack, now)
    }

    /// Does what is due.
    pub fn turn(&mut self) {
        self.with(|ends, stack, now| {
            ends.cable.turn();
            while let Some(frame) = ends.cable.from_guest.take() {
                stack.input(ends, &frame, now);
            }
            stack.poll(ends, now);
            let mut connections = std::mem::take(&mut ends.connections);
            for (ports, connection) in &mut connections {
                if ports.1 == ECHO {
                    ends.answer(stack, connection, now);
                } else {
                    ends.visit(stack, connection, now);
                }
            }
            connections.retain(|_, connection| !matches!(connection.state(), State::Closed | State::TimeWait));
            ends.connections = connections;
            ends.cable.turn();
        });
    }

    /// Sends a frame.
    pub fn put(&mut self, frame: Vec<u8>) {
        self.ends.cable.put(frame);
    }

    /// The number of the last echo reply.
    pub fn answered(&self) -> Option<u16> {
        self.ends.answered
    }

    /// Visits that are over, each of which heard what it said, and those under way.
    pub fn visits(&self) -> (u32, usize) {
        (self.ends.visits, self.ends.connections.len())
    }

    /// Visits a port of the guest from one of its own.
    pub fn visit(&mut self, port: u16, own: u16) {
        self.with(|ends, stack, now| {
            let (local, remote) = ((PEER.into(), own), (GUEST.into(), port));
            let seed = ends.random();
            let mut connection =
                Connection::connect(local, remote, BUFFERS, stack.mtu(), seed, now).expect("there is memory");
            ends.send(stack, &mut connection, now);
            ends.connections.insert((port, own), connection);
        });
    }
}

impl Host for Ends {
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
        let (from, to) = (packet::word(packet.payload(), 0), packet::word(packet.payload(), 2));
        if let Some(mut connection) = self.connections.remove(&(from, to)) {
            let was_new = connection.state() == State::SynSent;
            stack.tcp_input(self, &mut connection, &packet.plain(), now);
            if was_new && connection.state() == State::Established {
                connection.socket().send_slice(HELLO).expect("there is room");
            }
            self.connections.insert((from, to), connection);
        } else if to == ECHO && is_first(packet.payload()) {
            let (local, remote) = ((packet.destination, to), (packet.source, from));
            let seed = self.random();
            let made = Connection::accept(local, remote, BUFFERS, stack.mtu(), seed, &packet.plain(), now);
            self.connections.extend(made.map(|connection| ((from, to), connection)));
        } else {
            stack.tcp_refuse(self, packet, now);
        }
    }

    fn datagram(&mut self, _packet: &Packet<'_>) -> bool {
        false
    }

    fn raw(&mut self, packet: &Packet<'_>) -> bool {
        let message = packet.payload();
        if packet.protocol == packet::ICMP && message.len() >= 8 && message[0] == 0 {
            self.answered = Some(packet::word(message, 6));
        }
        false
    }

    fn error(&mut self, _stack: &mut Stack, _error: &icmp::Error, _now: Now) {}

    fn is_member(&mut self, _group: IpAddr) -> bool {
        false
    }
}
