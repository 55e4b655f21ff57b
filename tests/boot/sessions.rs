//! Interactive sessions over TCP: within the machine, and with the clients that the host has.

use std::path::Path;

use board::launch::{Network, Options};
use tests::Guest;
use tests::host::{free_port, mpremote, run_python};
use tests::script::run;

/// Boots to the console's prompt, with a port of the host that leads to the sessions.
fn boot(name: &str) -> (Guest, String) {
    let port = free_port();
    let network = Network::User { forward: vec![(port, 5000)], restricted: true };
    let mut guest = Guest::boot(name, Options { network, ..Options::default() });
    guest.wait_for_prompt();
    (guest, port.to_string())
}

#[test]
fn sessions_within_the_machine() {
    let outcome = run("sessions_within_the_machine", include_str!("sessions.py"), &[], "", 300);
    outcome.expect_status(0);
    outcome.expect_output("well\n");
}

#[test]
fn nc_telnet_curl_and_mpremote_of_the_host() {
    let (_guest, port) = boot("nc_telnet_curl_and_mpremote_of_the_host");
    let said = run_python(Path::new("tests/boot/clients.py"), &[port.as_ref(), mpremote().as_os_str()]);
    assert!(said.ends_with("well\n"), "{said}");
}
