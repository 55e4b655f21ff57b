//! A DHCP server at the other end of the guest's cable: what it says reaches the files that programs read.
//!
//! QEMU's own server knows neither time servers nor a domain, and never answers nonsense.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tests::script::run_on;

use super::peers::PROGRAM;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Options of RFC 2132: mask, router, name servers, domain, time servers, lease time, server.
const OPTIONS: &[u8] = b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x09\x00\x01\x06\x08\x0a\x09\x00\x35\x0a\x09\x00\x36\
    \x0f\x0cexample.test\x2a\x08\x0a\x09\x00\x7b\x0a\x09\x00\x7c\x33\x04\x00\x00\x0e\x10\x36\x04\x0a\x09\x00\x01\xff";
/// Bytes before the message in a frame: Ethernet, IPv4, UDP; before its options, with their cookie.
const HEADERS: usize = 14 + 20 + 8;
const FIXED: usize = 240;

/// The frame that carries an answer to everybody.
fn frame(message: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(SERVER.octets());
    ip.extend(Ipv4Addr::BROADCAST.octets());
    ip[2..4].copy_from_slice(&((28 + message.len()) as u16).to_be_bytes());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let udp = [67, 68, (8 + message.len()) as u16, 0].map(u16::to_be_bytes).concat();
    [&[0xff; 6], &MAC[..], &[8, 0], &ip, &udp, message].concat()
}

/// What the server says to a frame of the guest's: nonsense, then the answer.
fn answers(asked: &[u8]) -> Vec<Vec<u8>> {
    const DISCOVER: u8 = 1;
    const OFFER: u8 = 2;
    const REQUEST: u8 = 3;
    const ACK: u8 = 5;
    let udp = asked.get(12..14) == Some(&[8, 0]) && asked.get(23) == Some(&17) && asked.get(36..38) == Some(&[0, 67]);
    let Some(message) = asked.get(HEADERS..).filter(|message| udp && message.len() > FIXED) else { return Vec::new() };
    let kind = match message[FIXED..].windows(3).find(|bytes| bytes[..2] == [53, 1]).map(|bytes| bytes[2]) {
        Some(DISCOVER) => OFFER,
        Some(REQUEST) => ACK,
        _ => return Vec::new(),
    };
    let mut answer = message[..FIXED].to_vec();
    answer[0] = 2;
    answer[16..20].copy_from_slice(&GIVEN.octets());
    answer.extend([53, 1, kind]);
    let right = [&answer, OPTIONS].concat();
    let changed = |at: usize, byte: u8| {
        let mut wrong = right.clone();
        wrong[at] = byte;
        frame(&wrong)
    };
    vec![
        // Cut off; not an answer; of another transaction; for another card; without the cookie; an option too long.
        frame(&right[..FIXED - 1]),
        changed(0, 1),
        changed(4, !right[4]),
        changed(28, !right[28]),
        changed(236, 0),
        frame(&[&answer, &[1, 200, 255][..]].concat()),
        frame(&right),
    ]
}

#[test]
fn what_a_dhcp_server_tells_is_in_the_files_that_programs_read() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    let own = socket.local_addr().expect("bound").port();
    let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|s| s.local_addr()).expect("a free port").port();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let server = thread::spawn(move || {
        let mut bytes = [0; 2048];
        while !stopped.load(Ordering::Relaxed) {
            let Ok(len) = socket.recv(&mut bytes) else { continue };
            for answer in answers(&bytes[..len]) {
                // Before the guest runs nobody is there.
                let _ = socket.send_to(&answer, (Ipv4Addr::LOCALHOST, guest));
            }
        }
    });
    let net = format!(
        "dgram,local.type=inet,local.host=127.0.0.1,local.port={guest},\
         remote.type=inet,remote.host=127.0.0.1,remote.port={own}"
    );
    let outcome = run_on("net_lease", &["--net", &net], PROGRAM, &["told"], "", 120);
    stop.store(true, Ordering::Relaxed);
    server.join().expect("the server ended well");
    outcome.expect_status(0);
    for line in [
        "address 10.9.0.77/24",
        "gateway 10.9.0.1",
        "resolver ['search', 'example.test', 'nameserver', '10.9.0.53', 'nameserver', '10.9.0.54']",
        "ntp_servers '10.9.0.123\\n10.9.0.124\\n'",
        "asked ['10.9.0.123', '10.9.0.124']",
        // The last kind of nonsense is enough for a lease, once it was offered.
        "dropped 11",
    ] {
        outcome.expect_output(line);
    }
}
