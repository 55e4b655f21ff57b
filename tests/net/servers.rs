//! Servers in the guest that the host's own programs use: curl, over TLS too, and iperf3 both ways.

use std::fs;
use std::process::{Command, Output, Stdio};

use board::{run, workspace};
use tests::host::free_port;
use tests::{archive, debian};

use super::peers::{PROGRAM, digest, serve_on};

/// The guest's program.
const FOLDER: &str = "tests/net/servers";
/// How long a program of the host may take.
const SECONDS: &str = "120";

/// The guest's program with further files, and with the other one, of which it uses parts.
fn program(mut files: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    files.push(("guest.py".into(), PROGRAM.into()));
    archive::with_files(&[(&workspace::root().join(FOLDER), "")], &files)
}

/// Runs a program of the host; its standard output.
fn output(program: &str, arguments: &[&str]) -> Vec<u8> {
    let Output { status, stdout, stderr } =
        Command::new("timeout").args([SECONDS, program]).args(arguments).output().expect("the host has timeout");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{program} {arguments:?}: {status}\n{}\n{}", text(&stdout), text(&stderr));
    stdout
}

#[test]
fn curl_over_tls_gets_files_of_http_server_and_answers_of_asyncio() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    let made = ["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"];
    output("openssl", &[&made[..], &subject[..], &["-keyout", &key, "-out", &certificate]].concat());
    let both = [fs::read_to_string(&key).expect("made"), fs::read_to_string(&certificate).expect("made")].concat();

    let program = program(Vec::new());
    let (mut guest, ports) = serve_on("net_web", &program, &["web", &both], &[8000, 8001, 8002]);
    let sum = guest.tail(1000).lines().find_map(|line| line.strip_prefix("sum ").map(str::to_owned));
    let sum = sum.expect("the guest tells");
    let curl = |url: &str| output("curl", &["-sS", "--fail", "--cacert", &certificate, url]);
    assert_eq!(digest(&curl(&format!("http://127.0.0.1:{}/file", ports[0]))), sum);
    assert_eq!(digest(&curl(&format!("https://127.0.0.1:{}/file", ports[1]))), sum);
    // One connection, many requests.
    let urls: String = (0..20).map(|number| format!("url = https://127.0.0.1:{}/{number}\n", ports[2])).collect();
    let list = path("urls");
    fs::write(&list, urls).expect("the list can be written");
    let answers = output("curl", &["-sS", "--fail", "--cacert", &certificate, "--config", &list]);
    let expected: String = (0..20).map(|number| format!("GET /{number} HTTP/1.1")).collect();
    assert_eq!(String::from_utf8_lossy(&answers), expected);
    guest.send("\n");
}

#[test]
fn iperf3_of_debian_measures_against_the_host_s_both_ways() {
    let files = vec![
        debian::file("iperf3", "usr/bin/iperf3", "bin/iperf3"),
        debian::library("libiperf0", "libiperf.so.0"),
        debian::library("libsctp1", "libsctp.so.1"),
    ];
    let program = program(files);
    let port = free_port().to_string();
    let mut server = Command::new("iperf3");
    server.args(["-s", "-B", "127.0.0.1", "-p", &port]).stdout(Stdio::null());
    run::die_with_parent(&mut server);
    let mut server = server.spawn().expect("the host has iperf3");
    let (mut guest, ports) = serve_on("net_iperf", &program, &["iperf", &port], &[8000]);
    run::stop(&mut server).expect("it can be stopped");
    let told = guest.tail(2000);
    for name in ["out", "in", "datagrams"] {
        let line = told.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).expect("the guest tells");
        println!("{name}: {line}");
        let bytes: u64 = line.split(' ').next().and_then(|word| word.parse().ok()).expect("bytes");
        assert!(bytes > 1_000_000, "{name}: {line}");
    }
    for options in [&["-t", "2"][..], &["-t", "2", "-R"][..]] {
        output("iperf3", &[&["-c", "127.0.0.1", "-p", &ports[0].to_string()], options].concat());
    }
    guest.send("\n");
}
