//! Devices from Python.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use board::launch::Options;
use tests::{Guest, guest, script::run_on, tree};

/// What libfdt's own tool says of a node.
fn fdtget(blob: &Path, arguments: &[&str], of: &[&str]) -> String {
    let output = Command::new("fdtget").args(arguments).arg(blob).args(of).output().expect("fdtget starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A tree's properties in hexadecimal, by path and name.
fn read(blob: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let (mut nodes, mut open) = (BTreeMap::new(), vec![String::from("/")]);
    while let Some(path) = open.pop() {
        let mut properties = BTreeMap::new();
        for name in fdtget(blob, &["-p"], &[&path]).lines() {
            let bytes = fdtget(blob, &["-t", "bx"], &[&path, name]);
            let bytes = bytes.split_whitespace().map(|byte| format!("{byte:0>2}")).collect();
            properties.insert(name.to_owned(), bytes);
        }
        let below = fdtget(blob, &["-l"], &[&path]);
        open.extend(below.lines().map(|name| format!("{}/{name}", path.trim_end_matches('/'))));
        nodes.insert(path, properties);
    }
    nodes
}

#[test]
fn tree_and_devices_are_what_libfdt_reads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let blob = folder.path().join("virt.dtb");
    tree::dump(&blob);
    for (node, compatible) in
        [("/off", "test,disabled-device"), ("/pl031@badbad", "arm,pl031"), ("/pl011@feed", "arm,pl011")]
    {
        tree::add_node(&blob, node);
        tree::set_text(&blob, node, "compatible", compatible);
    }
    tree::set_text(&blob, "/off", "status", "disabled");
    // Its interrupt is another controller's, which has no driver.
    tree::set_cells(&blob, "/pl011@feed", "reg", &["0", "9000000", "0", "1000"]);
    tree::set_cells(&blob, "/pl011@feed", "interrupts-extended", &["7777", "1"]);
    tree::add_node(&blob, "/pic");
    tree::set_cells(&blob, "/pic", "phandle", &["7777"]);
    tree::set_cells(&blob, "/pic", "#interrupt-cells", &["1"]);
    let source = include_str!("devices.py");
    let machine = ["--dtb", blob.to_str().expect("text")];
    let outcome = run_on("tree_and_devices", &machine, source, &[], "", 120);
    outcome.expect_output("well\n");
    outcome.expect_status(0);
    assert_eq!(outcome.output.matches("refused Permission denied").count(), 1, "{}", outcome.output);
    assert_eq!(outcome.output.matches("refused Operation not permitted").count(), 1, "{}", outcome.output);
    let told = outcome.output.lines().find_map(|line| line.strip_prefix("TREE ")).expect("the tree is told");
    let mut told: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(told).expect("JSON");
    let mut read = read(&blob);
    // What QEMU sets in any tree that it hands over.
    for nodes in [&mut told, &mut read] {
        nodes.get_mut("/chosen").expect("the node").retain(|name, _| !name.ends_with("-seed"));
    }
    assert_eq!(told, read);
}

#[test]
fn devices_are_claimed_used_and_given_back() {
    let outcome = run_on("devices_are_claimed", &[], include_str!("claims.py"), &[], "", 180);
    outcome.expect_output("well\n");
    outcome.expect_status(0);
    outcome.expect_output("ValueError: the callback's mistake");
}

/// With several CPUs an interrupt comes to one while others wait, claim and give back.
#[test]
fn devices_are_claimed_with_several_cpus() {
    let machine = ["--cpus", "2", "--qemu-arg=-device", "--qemu-arg=virtio-rng-device"];
    let outcome = run_on("devices_on_two_cpus", &machine, include_str!("claims.py"), &[], "", 300);
    outcome.expect_output("well\n");
    outcome.expect_output("entropy\n");
    outcome.expect_status(0);
}

/// Runs `drivers.py` on a machine with an entropy source, a port whose other end is here, and a monitor through which
/// the power button is pressed.
fn drive(name: &str, more: &[&str]) {
    const SECONDS: Duration = Duration::from_secs(120);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let script = folder.path().join("drivers.py");
    std::fs::write(&script, include_str!("drivers.py")).expect("the script can be written");
    let port = format!("socket,path={},server=on,wait=off,id=port", path("port"));
    let monitor = format!("unix:{},server=on,wait=off", path("monitor"));
    let extra = ["-device", "virtio-rng-device", "-chardev", &port, "-device", "virtio-serial-device"].into_iter();
    let extra = extra.chain(["-device", "virtconsole,chardev=port", "-monitor", &monitor]).chain(more.iter().copied());
    let options = Options { script: Some(script), extra: extra.map(Into::into).collect(), ..Options::default() };
    let mut guest = Guest::boot(name, options);

    let mut port = connect(Path::new(&path("port")));
    let mut monitor = connect(Path::new(&path("monitor")));
    port.set_read_timeout(Some(SECONDS)).expect("a limit can be set");
    let mut greeting = [0; "from the machine\n".len()];
    port.read_exact(&mut greeting).expect("the port's other end writes");
    assert_eq!(&greeting, b"from the machine\n");
    port.write_all(b"from the host\n").expect("the port takes bytes");
    let mut bytes = vec![0; 256 * 200];
    port.read_exact(&mut bytes).expect("the port's other end writes");
    assert!(bytes.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 256), "bytes are changed");
    for press in ["press 1\n", "press 2\n"] {
        guest.wait_for(press, SECONDS);
        monitor.write_all(b"system_powerdown\n").expect("the monitor listens");
    }
    guest.wait_for("well\n", SECONDS);
}

/// Connects to a socket that QEMU makes when it starts.
fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + guest::ANSWER;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > end => panic!("{}: {error}", path.display()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[test]
fn drivers_in_python_drive_their_devices() {
    drive("drivers_in_python", &[]);
}

#[test]
fn drivers_in_python_drive_devices_that_are_no_legacy() {
    drive("drivers_in_python_modern", &["-global", "virtio-mmio.force-legacy=false"]);
}
