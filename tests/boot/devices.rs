//! Devices from Python.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tests::{script::run_on, tree};

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
