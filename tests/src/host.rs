//! Programs of the host that talk with a booted machine.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use board::workspace;

/// A port of the host that is free now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|s| s.local_addr()).expect("a free port").port()
}

/// `mpremote` of PyPI, where `board/setup.sh` puts it.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn mpremote() -> PathBuf {
    let path = workspace::root().join("build/tools/mpremote/bin/mpremote");
    assert!(path.exists(), "{} does not exist; make it with `sh board/setup.sh tests`", path.display());
    path
}

/// Says that a test was skipped, where it is seen: the test runner shows no output of a test that passes.
pub fn skipped(name: &str, reason: &str) {
    // Written past the runner, which collects what the print macros write. Nobody to tell is no failure.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED {name}: {reason}");
}

/// Runs a Python program of this repository on the host and returns what it wrote.
///
/// # Panics
/// When it fails, with all that it wrote.
pub fn run_python<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> String {
    let output = Command::new("python3")
        .arg("-B")
        .arg(workspace::root().join(program))
        .args(arguments)
        .output()
        .expect("the host has python3");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}: {}\n{text}\n{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
