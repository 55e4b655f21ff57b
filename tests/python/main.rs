//! Files of CPython's own test suite, run by Debian's unmodified Python on Piton: those that cover most system calls
//! and modules in a time that `make test` has. `make test-cpython` runs all.
//!
//! Every result that went wrong must stand in `expected.toml` with a reason, and what stands there must go wrong.
//! `PITON_ONLY="test_io test_re"` runs these alone.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use tests::suite::{self, Expected, Outcome, Source, System, Verdict, pool};

/// The files, those first that take longest.
const FILES: &[&str] = &[
    "test_io",
    "test_decimal",
    "test_json",
    "test_str",
    "test_sqlite3",
    "test_ctypes",
    "test_math",
    "test_re",
    "test_struct",
    "test_list",
    "test_dict",
    "test_zlib",
    "test_builtin",
    "test_hashlib",
    "test_float",
    "test_resource",
    "test_threadsignals",
    "test_thread",
    "test_time",
    "test_fork1",
    "test_fcntl",
    "test_mmap",
    "test_poll",
    "test_select",
    "test_file",
    "test_fileio",
    "test_largefile",
    "test_grammar",
];
/// How many guests run at the same time.
const GUESTS: usize = 2;
/// The time limit of one file, in seconds.
const LIMIT: u32 = 600;

#[test]
fn cpython_test_files_pass() {
    let started = Instant::now();
    let only = std::env::var("PITON_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    let wanted: Vec<String> =
        FILES.iter().filter(|file| only.is_empty() || suite::is_wanted(file, &only)).map(|f| f.to_string()).collect();
    let (outcomes, expected) = run(&wanted).unwrap_or_else(|error| panic!("{error}"));
    let mut findings: Vec<String> = outcomes.values().flat_map(|outcome| expected.findings(outcome)).collect();
    findings.extend(wanted.iter().filter(|file| !outcomes.contains_key(*file)).map(|file| format!("{file}: not run")));
    let passed = outcomes.values().filter(|outcome| outcome.verdict() == Verdict::Passed).count();
    let cases: usize = outcomes.values().map(|outcome| outcome.passed.len()).sum();
    let seconds = started.elapsed().as_secs();
    say(&format!("{passed} of {} files passed, with {cases} cases, in {seconds} s", wanted.len()));
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

fn run(files: &[String]) -> Result<(BTreeMap<String, Outcome>, Expected), String> {
    let expected = Expected::read(&suite::folder().join("expected.toml"))?;
    let source = Source::read(&suite::root_image()?)?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let machine = source.machine(System::Piton, folder.path())?;
    let mut outcomes = BTreeMap::new();
    pool::run(&machine, files.to_vec(), LIMIT, GUESTS, |outcome| {
        say(&format!("{:16} {}", outcome.name, outcome.summary()));
        outcomes.insert(outcome.name.clone(), outcome);
        Ok(())
    })?;
    Ok((outcomes, expected))
}

/// Straight to the terminal: the harness holds back what a passing test prints.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
