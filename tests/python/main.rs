//! Files of CPython's own test suite, run by Debian's unmodified Python on Piton: those that cover most system calls
//! and modules in a time that `make test` has. `make test-cpython` runs all.
//!
//! Every result that went wrong must stand in `expected.toml` with a reason, and what stands there must go wrong. A file
//! that is not as expected is run once more, alone: some tests measure time, and the host may have been busy.
//! `PITON_ONLY="test_io test_re"` runs these alone.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use tests::suite::{self, Expected, Outcome, Source, System, Verdict, pool};

/// The files, those first that take longest.
const FILES: &[&str] = &[
    "test_json",
    "test_decimal",
    "test_io",
    "test_pathlib",
    "test_str",
    "test_subprocess",
    "test_sqlite3",
    "test_ctypes",
    "test_queue",
    "test_math",
    "test_faulthandler",
    "test.test_asyncio.test_subprocess",
    "test_signal",
    "test_re",
    "test_struct",
    "test_list",
    "test_dict",
    "test_os",
    "test_zlib",
    "test_selectors",
    "test_builtin",
    "test_hashlib",
    "test_float",
    "test_eintr",
    "test_glob",
    "test_posixpath",
    "test_curses",
    "test_mailbox",
    "test_wait3",
    "test_wait4",
    "test_posix",
    "test_resource",
    "test_threadsignals",
    "test_thread",
    "test_time",
    "test_fork1",
    "test_dbm",
    "test_fcntl",
    "test_mmap",
    "test_poll",
    "test_epoll",
    "test_select",
    "test_pwd",
    "test_openpty",
    "test_getpass",
    "test_pty",
    "test_popen",
    "test_readline",
    "test_ioctl",
    "test_file",
    "test_fileio",
    "test_largefile",
    "test_termios",
    "test_sched",
    "test_grammar",
    "test_tty",
    "test_grp",
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
    let findings: Vec<String> = outcomes.values().flat_map(|outcome| expected.findings(outcome)).collect();
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
    let mut outcomes: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut left = files.to_vec();
    for guests in [GUESTS, 1] {
        pool::run(&machine, left, LIMIT, guests, |outcome| {
            say(&format!("{:32} {}", outcome.name, outcome.summary()));
            outcomes.insert(outcome.name.clone(), outcome);
            Ok(())
        })?;
        let strange = outcomes.values().filter(|outcome| !expected.findings(outcome).is_empty());
        left = strange.map(|outcome| outcome.name.clone()).collect();
    }
    Ok((outcomes, expected))
}

/// Straight to the terminal: the harness holds back what a passing test prints.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
