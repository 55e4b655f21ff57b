//! Files of CPython's own test suite, run by Debian's unmodified Python on Piton.
//!
//! The suite comes with the `testsuite` variant of the root image, which takes the place of the image's own as initrd.
//! `driver.py` runs the files on the machine, each in a process of its own with a time limit. Two machines share the
//! files, because a file takes up to minutes under emulation. Every result that went wrong must stand in
//! `expected.toml` with a reason, and what stands there must go wrong.
//!
//! `PITON_ONLY="test_io test_re"` runs these alone.

#![forbid(unsafe_code)]

mod judge;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use board::workspace;
use tests::guest;

use judge::{Expected, Outcome};

/// The files, each with about what it takes under emulation, in seconds: what the machines share them by.
const FILES: &[(&str, u32)] = &[
    ("test_builtin", 20),
    ("test_ctypes", 60),
    ("test_decimal", 60),
    ("test_dict", 20),
    ("test_float", 20),
    ("test_grammar", 10),
    ("test_hashlib", 60),
    ("test_io", 300),
    ("test_json", 30),
    ("test_list", 20),
    ("test_math", 20),
    ("test_re", 30),
    ("test_sqlite3", 60),
    ("test_str", 60),
    ("test_struct", 30),
    ("test_zlib", 30),
];
/// How many machines run at the same time.
const MACHINES: usize = 2;
/// The time limit of one file, in seconds.
const FILE_LIMIT: u32 = 600;
/// The time limit of one machine, in seconds.
const MACHINE_LIMIT: u32 = 1800;

#[test]
fn cpython_test_files_pass() {
    let started = Instant::now();
    let root = test_root();
    let wanted = wanted();
    let machines: Vec<_> = share(&wanted)
        .into_iter()
        .enumerate()
        .map(|(number, files)| {
            let root = root.clone();
            thread::spawn(move || run(&format!("python-{number}"), &root, &files))
        })
        .collect();
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    for machine in machines {
        outcomes.extend(machine.join().expect("the machine's thread ends"));
    }
    let expected = Expected::read(&folder().join("expected.toml"));
    let mut findings = Vec::new();
    let mut table = String::new();
    for (name, _) in &wanted {
        let outcome = outcomes.get(*name);
        table += &judge::row(name, outcome);
        findings.extend(judge::findings(name, outcome, &expected));
    }
    table += &judge::total(outcomes.values());
    // Straight to the terminal: the harness holds back what a passing test prints.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("\n{table}{:.0} s on {MACHINES} machines\n", started.elapsed().as_secs_f64()).as_bytes(),
    );
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    for number in 0..MACHINES {
        let _ = fs::remove_file(guest::log_path(&format!("python-{number}")));
    }
}

/// This folder.
fn folder() -> PathBuf {
    workspace::root().join("tests/python")
}

fn wanted() -> Vec<(&'static str, u32)> {
    let only = std::env::var("PITON_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    FILES.iter().copied().filter(|(name, _)| only.is_empty() || only.contains(name)).collect()
}

/// Shares the files out: the longest first, each to the machine that has least to do.
fn share(files: &[(&'static str, u32)]) -> Vec<Vec<&'static str>> {
    let mut files = files.to_vec();
    files.sort_by_key(|&(_, seconds)| std::cmp::Reverse(seconds));
    let mut machines = vec![(0, Vec::new()); MACHINES];
    for (name, seconds) in files {
        if let Some(machine) = machines.iter_mut().min_by_key(|machine| machine.0) {
            machine.0 += seconds;
            machine.1.push(name);
        }
    }
    machines.into_iter().map(|(_, files)| files).filter(|files| !files.is_empty()).collect()
}

/// The root image with the test suite, made when something in it changed.
fn test_root() -> PathBuf {
    let made = Command::new(workspace::cargo())
        .args(["run", "--quiet", "--package", "cpython", "--", "build"])
        .args(["--variant", "testsuite"])
        .current_dir(workspace::root())
        .output()
        .expect("cargo starts");
    assert!(
        made.status.success(),
        "the root image with the test suite could not be made:\n{}",
        String::from_utf8_lossy(&made.stderr)
    );
    workspace::root().join("build/arm64/rootfs-testsuite.erofs")
}

/// Runs files on one machine. A file in which the machine went down says so, and the rest runs on another.
fn run(name: &str, root: &PathBuf, files: &[&str]) -> BTreeMap<String, Outcome> {
    let log = guest::log_path(name);
    fs::create_dir_all(log.parent().expect("a folder")).expect("the log folder can be made");
    let mut console = Vec::new();
    let mut outcomes = BTreeMap::new();
    let mut left = files.to_vec();
    while let Some(&first) = left.first() {
        let output = Command::new(workspace::cargo())
            .args(arguments(root, &left))
            .current_dir(workspace::root())
            .stdin(Stdio::null())
            .output()
            .expect("cargo starts");
        console.extend([output.stdout.as_slice(), &output.stderr].concat());
        fs::write(&log, &console).expect("the log can be written");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let (found, begun) = judge::read(&text);
        outcomes.extend(found);
        if let Some(cut) = begun.or_else(|| (!outcomes.contains_key(first)).then(|| first.into())) {
            let status = board::run::status_byte(output.status);
            let log = log.display();
            let status = format!("the machine ended with status {status}; {log}");
            outcomes.insert(cut.clone(), Outcome::cut(cut, status));
        }
        left.retain(|file| !outcomes.contains_key(*file));
    }
    outcomes
}

fn arguments(root: &PathBuf, files: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["board", "run", "qemu-virt", "--memory", "1G", "--timeout"].map(Into::into).into();
    arguments.push(MACHINE_LIMIT.to_string().into());
    arguments.push("--initrd".into());
    arguments.push(root.into());
    arguments.push("--script".into());
    arguments.push(folder().join("driver.py").into());
    arguments.push("--".into());
    arguments.push(FILE_LIMIT.to_string().into());
    arguments.extend(files.iter().map(Into::into));
    arguments
}

#[test]
fn longest_files_are_shared_out_first() {
    let shared = share(&[("a", 1), ("b", 9), ("c", 5), ("d", 5)]);
    assert_eq!(shared, [vec!["b", "a"], vec!["c", "d"]]);
}
