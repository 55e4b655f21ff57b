//! The same programs on Linux and on Piton: both must print the same.
//!
//! `programs/` has one Python program per area; they make system calls, good and bad ones, and print what came of each.
//! What they print on Debian's Linux for arm64 is recorded in `expected/`; here they run on Piton and are compared. All
//! run in one boot, packed into one archive that Python executes; if the machine goes down in one, the
//! rest run in another boot. With `PITON_RECORD=1` they run on Linux instead and `expected/` is written ([`linux`]).
//!
//! A check that is known to differ stands in `known.toml` with the reason; one that no longer differs must leave it.

#![forbid(unsafe_code)]

mod lines;
mod linux;
mod piton;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use board::workspace;

/// One test per program: each looks at its part of the run that they share.
macro_rules! programs {
    ($($name:ident)*) => {
        const PROGRAMS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { prints_what_it_prints_on_linux(stringify!($name)); })*
    };
}

programs! {
    accounting attributes clock_steering comparisons credentials descriptors elf files futexes job_control limits mappings memory mounts namespaces paths pidfds pipes places
    poll priority_inheritance processes procfs pseudo_terminals quotas scheduling signals splice tagged_addresses tcp_connections tcp_streams terminals threads timers times
    udp_sockets unix_sockets watches
}

/// This folder.
fn folder() -> PathBuf {
    workspace::root().join("tests/syscall")
}

/// The programs and what runs them as one file that Python executes.
fn archive() -> Vec<u8> {
    let folder = folder();
    tests::archive::of_folders(&[(&folder, ""), (&folder.join("programs"), "programs/")])
}

/// Where the lines that a program prints on Linux are.
fn expected_path(name: &str) -> PathBuf {
    folder().join("expected").join(format!("{name}.txt"))
}

/// The programs to run: all, or those that `PITON_ONLY` names with spaces between.
fn wanted() -> Vec<&'static str> {
    let only = std::env::var("PITON_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    PROGRAMS.iter().copied().filter(|name| only.is_empty() || only.contains(name)).collect()
}

/// What each program printed, from the one run that all tests share.
fn printed() -> &'static BTreeMap<String, Vec<String>> {
    static PRINTED: OnceLock<BTreeMap<String, Vec<String>>> = OnceLock::new();
    PRINTED.get_or_init(|| {
        let names = wanted();
        if std::env::var_os("PITON_RECORD").is_none() {
            return piton::run(&names);
        }
        let printed = linux::run(&names);
        for (name, lines) in &printed {
            write(&expected_path(name), &(lines.join("\n") + "\n"));
        }
        printed
    })
}

fn prints_what_it_prints_on_linux(name: &str) {
    if !wanted().contains(&name) {
        return;
    }
    let Some(printed) = printed().get(name) else {
        panic!("{name} was not run: the machine went down before");
    };
    let path = expected_path(name);
    let expected =
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; PITON_RECORD=1 records it", path.display()));
    let expected: Vec<String> = expected.lines().map(Into::into).collect();
    let known = known().remove(name).unwrap_or_default();
    let findings = lines::compare(&expected, printed, &known);
    assert!(findings.is_empty(), "{name}: - is Linux, + is this run\n{}", findings.join("\n"));
}

/// The checks that are known to differ, by program, with the reasons.
fn known() -> BTreeMap<String, BTreeMap<String, String>> {
    let path = folder().join("known.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[test]
fn every_program_has_a_test() {
    let mut found: Vec<String> = fs::read_dir(folder().join("programs"))
        .expect("the programs are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "py"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| name != "__init__")
        .collect();
    found.sort();
    assert_eq!(found, PROGRAMS);
}
