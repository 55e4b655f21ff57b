//! Runs a Python program on the machine the way a user does: `cargo board run qemu-virt --script`.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use board::{run, workspace};

use crate::guest;

/// How a script ended.
#[derive(Debug)]
pub struct Outcome {
    name: String,
    /// The status of the `board` program.
    pub status: u8,
    /// Standard output without carriage returns.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Outcome {
    /// Fails the test unless the status is this one.
    ///
    /// # Panics
    /// With all output when it is not.
    #[track_caller]
    pub fn expect_status(&self, status: u8) {
        assert_eq!(self.status, status, "\n--- output\n{}\n--- errors\n{}", self.output, self.errors);
    }

    /// Fails the test unless the output contains this.
    ///
    /// # Panics
    /// With all output when it does not.
    #[track_caller]
    pub fn expect_output(&self, text: &str) {
        assert!(self.output.contains(text), "no {text:?} in\n{}\n--- errors\n{}", self.output, self.errors);
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_file(guest::log_path(&self.name));
        }
    }
}

/// Runs `source` with arguments and standard input, stopped after `seconds`. `name` is the script's and the log's.
///
/// # Panics
/// When the `board` program cannot be started.
#[must_use]
pub fn run(name: &str, source: &str, arguments: &[&str], input: &str, seconds: u32) -> Outcome {
    run_on(name, &[], source, arguments, input, seconds)
}

/// As [`run`], for any file that Python executes, on a machine that is changed by options of `cargo board run`. It has no
/// network card unless they name one.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_on(
    name: &str,
    machine: &[&str],
    source: impl AsRef<[u8]>,
    arguments: &[&str],
    input: &str,
    seconds: u32,
) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join(format!("{name}.py"));
    fs::write(&script, source).expect("the script can be written");
    let mut child = Command::new(workspace::cargo())
        .args(["board", "run", "qemu-virt", "--timeout", &seconds.to_string()])
        .args(if machine.contains(&"--net") { &[][..] } else { &["--net", "none"] })
        .args(machine)
        .arg("--script")
        .arg(&script)
        .arg("--")
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo starts");
    // The pipe holds it until the guest reads. A guest that ends without reading is no failure here.
    let _ = child.stdin.take().expect("the stream is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the end can be waited for");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
    let outcome = Outcome {
        name: name.into(),
        status: run::status_byte(output.status),
        output: text(&output.stdout),
        errors: text(&output.stderr),
    };
    let log = guest::log_path(name);
    fs::create_dir_all(log.parent().expect("a folder")).expect("the log folder can be made");
    fs::write(log, [output.stdout, output.stderr].concat()).expect("the log can be written");
    outcome
}
