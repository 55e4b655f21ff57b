//! Real peers on the host's loopback, through QEMU's user network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use board::launch::{Network, Options};
use tests::host::free_port;
use tests::script::{Outcome, run_on};
use tests::{Guest, setting};

/// The guest's program.
pub const PROGRAM: &str = include_str!("guest.py");
/// Far more than a test takes.
const SECONDS: u32 = 240;
/// How long the guest may take to listen.
const READY: Duration = Duration::from_secs(90);
const TRANSFER: usize = 20 << 20;

/// The guest's program with arguments, on a machine with QEMU's user network.
fn guest(name: &str, arguments: &[&str]) -> Outcome {
    run_on(name, &["--net", "user", "--forward", &forward_nowhere()], PROGRAM, arguments, "", SECONDS)
}

/// A forward that nobody uses, so that the usual port stays free.
fn forward_nowhere() -> String {
    format!("{}:9", free_port())
}

/// Starts the guest's program as a server behind a port of the host, and waits until it listens.
fn server(name: &str, arguments: &[&str]) -> (Guest, u16) {
    let (guest, ports) = serve_on(name, PROGRAM.as_bytes(), arguments, &[8000]);
    (guest, ports[0])
}

/// Starts a program in the guest, with a port of the host for each of these of the guest, and waits until it listens.
pub fn serve_on(name: &str, program: &[u8], arguments: &[&str], ports: &[u16]) -> (Guest, Vec<u16>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("guest.py");
    std::fs::write(&script, program).expect("the script can be written");
    let forward: Vec<(u16, u16)> = ports.iter().map(|port| (free_port(), *port)).collect();
    let own = forward.iter().map(|(own, _)| *own).collect();
    let options = Options {
        network: Network::User { forward, restricted: false },
        script: Some(script),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        ..Options::default()
    };
    let mut guest = Guest::boot(name, options).keeping(folder);
    guest.wait_for("listening", READY);
    (guest, own)
}

/// The pattern of `guest.py`.
fn pattern(seed: &str, size: usize) -> Vec<u8> {
    // The same bytes as the guest's, made by the same program of the host.
    let source = format!(
        "import hashlib,sys;b=hashlib.sha256({seed:?}.encode()).digest()*2048;\
         sys.stdout.buffer.write((b*({size}//len(b)+1))[:{size}])"
    );
    let output = Command::new("python3").args(["-c", &source]).output().expect("the host has python3");
    assert_eq!(output.stdout.len(), size);
    output.stdout
}

/// The SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the host has sha256sum");
    child.stdin.take().expect("piped").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().into()
}

#[test]
fn dhcp_and_router_advertisements_give_addresses_routes_and_a_name_server() {
    let outcome = guest("net_addresses", &["addresses"]);
    outcome.expect_status(0);
    for line in [
        "address 10.0.2.15",
        "netmask 255.255.255.0",
        "broadcast 10.0.2.255",
        "hardware 52:54:00:12:34:56",
        "mtu 1500",
        "interfaces [(1, 'lo'), (2, 'eth0')]",
        "resolver ['nameserver', '10.0.2.3'",
        "operstate up",
        "sysfs 52:54:00:12:34:56",
        "ipv6 ['fe80000000000000505400fffe123456', '02', '40', '20', '80', 'eth0']",
        "ipv6 ['fec0000000000000505400fffe123456', '02', '40', '40',",
        "source 10.0.2.15",
        "arp True",
    ] {
        outcome.expect_output(line);
    }
}

#[test]
fn piton_net_shows_interfaces_routes_connections_and_what_was_dropped() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let late = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the same port for datagrams");
    thread::spawn(move || {
        let mut bytes = [0; 100];
        let (len, from) = late.recv_from(&mut bytes).expect("the guest asks");
        thread::sleep(Duration::from_millis(500));
        late.send_to(&bytes[..len], from).expect("QEMU listens");
    });
    let outcome = guest("net_seen", &["seen", &port.to_string()]);
    outcome.expect_status(0);
    for line in [
        "eth0  2      yes  yes   52:54:00:12:34:56  1500   10.0.2.15/24",
        "10.0.2.0/24",
        &format!("connection tcp established True 10.0.2.2:{port}"),
        "owned True",
        "dropped 1",
        "datagrams for no socket (Udp.NoPorts)",
    ] {
        outcome.expect_output(line);
    }
}

#[test]
fn bytes_arrive_whole_in_both_directions() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let data = pattern("host", TRANSFER);
    let expected = format!("received {TRANSFER} {}", digest(&data));
    let peer = thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("the guest connects");
        connection.write_all(&data).expect("the guest takes all");
        drop(connection);
        let (mut connection, _) = listener.accept().expect("the guest connects again");
        let mut came = Vec::new();
        connection.read_to_end(&mut came).expect("the guest sends all");
        connection.write_all(digest(&came).as_bytes()).expect("the guest reads");
    });
    let outcome = guest("net_bulk", &["bulk", &port, &TRANSFER.to_string()]);
    outcome.expect_status(0);
    outcome.expect_output(&expected);
    let sent = digest(&pattern("guest", TRANSFER));
    outcome.expect_output(&format!("sent {TRANSFER} {sent} {sent}"));
    peer.join().expect("the peer is done");
}

#[test]
fn ipv6_reaches_the_host_and_the_router() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("the host has IPv6");
    let port = listener.local_addr().expect("bound").port().to_string();
    echo(listener);
    let outcome = guest("net_six", &["six", &port]);
    outcome.expect_status(0);
    outcome.expect_output("answer six fec0::5054:ff:fe12:3456");
    outcome.expect_output("echo b'echo' fe80::2 2");
}

#[test]
fn connections_to_nobody_fail_as_on_linux() {
    let outcome = guest("net_refused", &["refused", &free_port().to_string()]);
    outcome.expect_status(0);
    for line in [
        "connect ECONNREFUSED",
        "connect EINPROGRESS",
        "events True True",
        "error ECONNREFUSED",
        "again 0",
        "unreachable EHOSTUNREACH True",
    ] {
        outcome.expect_output(line);
    }
}

#[test]
fn a_backlog_of_128_holds_128_connections() {
    const COUNT: usize = 128;
    let (mut guest, port) = server("net_backlog", &["backlog", "8000", &COUNT.to_string()]);
    let mut connections: Vec<TcpStream> = (0..COUNT)
        .map(|number| {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the host forwards");
            connection.write_all(number.to_string().as_bytes()).expect("there is room");
            connection
        })
        .collect();
    // All have their SYN answered before the first is accepted.
    thread::sleep(Duration::from_secs(2));
    guest.send("\n");
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("the guest answers");
        assert_eq!(answer, number.to_string());
    }
    guest.wait_for("accepted True", READY);
}

/// Sends every line back.
fn echo(listener: TcpListener) {
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let mut bytes = [0; 1000];
                    while let Ok(len @ 1..) = connection.read(&mut bytes) {
                        if connection.write_all(&bytes[..len]).is_err() {
                            return;
                        }
                    }
                })
                .expect("a thread");
        }
    });
}

#[test]
fn connections_come_and_go_and_memory_comes_back() {
    const AT_ONCE: u32 = 50;
    let rounds = setting("PITON_COUNT", 1000u32).div_ceil(AT_ONCE);
    // Of many the addresses in TIME_WAIT take more than the rest: these last a minute.
    let seconds = if rounds > 20 { "65" } else { "2" };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    echo(listener);
    let outcome = guest("net_churn", &["churn", &port, &rounds.to_string(), &AT_ONCE.to_string(), seconds]);
    outcome.expect_status(0);
    let lost = outcome.output.lines().find_map(|line| line.strip_prefix("lost ")?.strip_suffix(" MiB"));
    let lost: u64 = lost.and_then(|lost| lost.parse().ok()).expect("the guest tells");
    println!("{} connections came and went; {lost} MiB are missing", rounds * AT_ONCE);
    // One connection's buffers are half a MiB; what stays is TIME_WAIT, and Python's own.
    assert!(lost < 8, "lost {lost} MiB");
}

#[test]
fn connections_live_at_once_1024_of_them() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    echo(listener);
    let outcome = guest("net_many", &["many", &port, "1024"]);
    outcome.expect_status(0);
    outcome.expect_output("alive 1024");
}

#[test]
fn datagrams_go_both_ways_whole_and_in_fragments() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = socket.local_addr().expect("bound").port().to_string();
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
    let outcome = guest("net_datagrams", &["datagrams", &port]);
    outcome.expect_status(0);
    for size in [0, 1, 1000, 1472, 1473, 4000, 9000] {
        outcome.expect_output(&format!("{size} True"));
    }
    outcome.expect_output("EMSGSIZE");
}

#[test]
fn curl_gets_a_file_from_the_guest() {
    let (mut guest, port) = server("net_curl", &["serve", "8000"]);
    let url = format!("http://127.0.0.1:{port}/data");
    for _ in 0..3 {
        let output = Command::new("curl").args(["-sS", "--max-time", "60", &url]).output().expect("the host has curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(digest(&output.stdout), digest(&pattern("file", 3_000_000)));
    }
    // Half of a request, then nothing: the next is answered all the same.
    let mut rude = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the host forwards");
    rude.write_all(b"GET /data HTT").expect("there is room");
    rude.shutdown(Shutdown::Both).expect("it is open");
    let begun = Instant::now();
    let output = Command::new("curl").args(["-sS", "--max-time", "60", &url]).output().expect("the host has curl");
    assert!(output.status.success() && begun.elapsed() < Duration::from_secs(60));
    guest.send("\n");
}
