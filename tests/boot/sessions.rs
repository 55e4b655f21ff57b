//! Interactive sessions over TCP: within the machine, and with the clients that the host has.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use board::launch::{Network, Options};
use board::{transfer, workspace};
use tests::host::{free_port, mpremote, run_python};
use tests::script::run_on;
use tests::{Guest, archive};

/// The programs: `__main__.py` is the machine's, `clients.py` and `crowd.py` are the host's.
const FOLDER: &str = "tests/boot/sessions";
/// Bytes of the file that is copied.
const COPIED: u32 = 8 << 20;

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

#[test]
fn files_are_put_and_got_whole() {
    let (_guest, port) = boot("files_are_put_and_got_whole");
    let address = format!("127.0.0.1:{port}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    // No piece of it is like another.
    let bytes: Vec<u8> = (0..COPIED / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&there, &bytes).expect("the file can be written");
    let path = transfer::put(&address, None, &there, "/tmp").expect("it is put");
    assert_eq!(path, "/tmp/there");
    transfer::get(&address, None, &path, &back).expect("it is got");
    assert!(fs::read(&back).expect("it is there") == bytes, "what came back is something else");
    let error = transfer::put(&address, None, &there, "/nonexistent/").expect_err("there is no such folder");
    assert!(error.to_string().contains("No such file or directory"), "{error}");
}

/// `make soak` sets `PITON_SOAK`, the seconds that it takes.
#[test]
fn as_many_sessions_as_there_may_be_answer_and_leave_nothing() {
    let (_guest, port) = boot("as_many_sessions_as_there_may_be");
    let seconds = env::var("PITON_SOAK").unwrap_or("0".into());
    println!("{}", ends_well("crowd.py", &[port, seconds]));
}
