//! Interactive sessions over TCP: within the machine, and with the clients that the host has.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

use board::launch::{Network, Options};
use board::workspace;
use tests::host::{free_port, mpremote, run_python};
use tests::script::run_on;
use tests::{Guest, archive};

/// The programs: `__main__.py` is the machine's, `clients.py` and `crowd.py` are the host's.
const FOLDER: &str = "tests/boot/sessions";

/// Boots to the console's prompt, with a port of the host that leads to the sessions.
fn boot(name: &str) -> (Guest, String) {
    let port = free_port();
    let network = Network::User { forward: vec![(port, 5000)], restricted: true };
    let mut guest = Guest::boot(name, Options { network, ..Options::default() });
    guest.wait_for_prompt();
    (guest, port.to_string())
}

/// Runs a program of the host that prints `well` at its end, and returns what it wrote.
fn ends_well<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let said = run_python(&Path::new(FOLDER).join(program), arguments);
    assert!(said.ends_with("well\n"), "{said}");
    said
}

#[test]
fn sessions_within_the_machine() {
    let program = archive::of_folders(&[(&workspace::root().join(FOLDER), "")]);
    let outcome = run_on("sessions_within_the_machine", &[], program, &[], "", 300);
    outcome.expect_status(0);
    outcome.expect_output("well\n");
}

#[test]
fn nc_telnet_curl_and_mpremote_of_the_host() {
    let (_guest, port) = boot("nc_telnet_curl_and_mpremote_of_the_host");
    ends_well("clients.py", &[port.as_ref(), mpremote().as_os_str()]);
}

/// `make soak` sets `PITON_SOAK`, the seconds that it takes.
#[test]
fn as_many_sessions_as_there_may_be_answer_and_leave_nothing() {
    let (_guest, port) = boot("as_many_sessions_as_there_may_be");
    let seconds = env::var("PITON_SOAK").unwrap_or("0".into());
    println!("{}", ends_well("crowd.py", &[port, seconds]));
}
