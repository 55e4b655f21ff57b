//! Bad wires: a peer on the host at the other end of the guest's cable, which loses, repeats, delays and reorders
//! frames.

use std::thread;
use std::time::Duration;

use crate::cable::{Cable, Faults, LIMIT, Peer, boot};
use crate::station::{ECHO, Station};

/// A station that sends back what comes.
fn echo(cable: Cable) -> Peer {
    let mut station = Station::new(cable);
    Peer::start(move || {
        station.turn();
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
