//! Interactive sessions over TCP: within the machine, and with the clients that the host has.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use board::launch::{Network, Options};
use board::{transfer, workspace};
use tests::host::{free_port, mpremote, run_python};
use tests::script::run_on;
use tests::{Guest, archive};

/// The programs: `__main__.py` and `guard.py` are the machine's, the others the host's.
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

/// Seconds until a program of the machine's says that it listens.
const READY: Duration = Duration::from_secs(60);
/// What the sessions of a guarded machine ask for.
const TOKEN: &str = "open sesame";

/// Boots a machine that asks for [`TOKEN`], over TLS with a certificate and its key (PEM). Its sessions are on the port of
/// the host that is answered.
fn boot_guarded(name: &str, certificate: Option<&str>) -> (Guest, String) {
    let port = free_port();
    let options = Options {
        network: Network::User { forward: vec![(port, 5000)], restricted: true },
        script: Some(workspace::root().join(FOLDER).join("guard.py")),
        arguments: [TOKEN].into_iter().chain(certificate).map(String::from).collect(),
        ..Options::default()
    };
    let mut guest = Guest::boot(name, options);
    guest.wait_for("listening", READY);
    (guest, port.to_string())
}

#[test]
fn who_knows_the_token_gets_in_and_nobody_else() {
    let (_guest, port) = boot_guarded("who_knows_the_token_gets_in_and_nobody_else", None);
    let address = format!("127.0.0.1:{port}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, b"copied").expect("the file can be written");
    assert_eq!(transfer::put(&address, Some(TOKEN), &file, "/tmp").expect("it is put"), "/tmp/file");
    transfer::put(&address, Some("close sesame"), &file, "/tmp").expect_err("the token is wrong");
    ends_well("login.py", &[port.as_str(), TOKEN]);
}

#[test]
fn who_knows_the_token_gets_in_over_tls() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| folder.path().join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=piton.test", "-addext", "subjectAltName=DNS:piton.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("the host has openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = [&certificate, &key].map(|path| fs::read_to_string(path).expect("it was made")).concat();
    let (_guest, port) = boot_guarded("who_knows_the_token_gets_in_over_tls", Some(&both));
    ends_well("login.py", &[port.as_ref(), TOKEN.as_ref(), certificate.as_os_str()]);
}

#[test]
fn an_idle_machine_sleeps() {
    let (_guest, port) = boot("an_idle_machine_sleeps");
    println!("{}", ends_well("idle.py", &[port.as_str(), "20"]));
}

/// `make soak` sets `PITON_SOAK`, the seconds that it takes.
#[test]
fn as_many_sessions_as_there_may_be_answer_and_leave_nothing() {
    let (_guest, port) = boot("as_many_sessions_as_there_may_be");
    let seconds = env::var("PITON_SOAK").unwrap_or("0".into());
    println!("{}", ends_well("crowd.py", &[port, seconds]));
}
