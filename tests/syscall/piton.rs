//! Runs the programs on Piton, in as few boots as it takes.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use board::{run, workspace};
use tests::guest;

use crate::lines;

/// How long one boot may take, in seconds. Many times what it takes, for a busy host.
const LIMIT: u32 = 900;

/// What each program printed. One in which the machine went down ends with a line that says so.
pub fn run(names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("syscall.pyz");
    fs::write(&script, crate::archive()).expect("the archive can be written");
    let log = guest::log_path("syscall");
    fs::create_dir_all(log.parent().expect("a folder")).expect("the log folder can be made");
    let mut console = Vec::new();
    let mut printed = BTreeMap::new();
    let mut left = names.to_vec();
    while !left.is_empty() {
        let output = Command::new(workspace::cargo())
            // As on Linux there: no network card.
            .args(["board", "run", "qemu-virt", "--net", "none", "--script"])
            .arg(&script)
            .args(["--timeout", &LIMIT.to_string(), "--"])
            .args(&left)
            .current_dir(workspace::root())
            .stdin(Stdio::null())
            .output()
            .expect("cargo starts");
        console.extend([output.stdout.as_slice(), &output.stderr].concat());
        fs::write(&log, &console).expect("the log can be written");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let mut sorted = lines::sort(&text, &left);
        let status = run::status_byte(output.status);
        let whole = left.len();
        // The one it was in, if the machine went down, is not tried again.
        if let Some(cut) = left.iter().copied().find(|name| !sorted.get(*name).is_some_and(|found| lines::ended(found)))
        {
            let down = format!("= machine ended with status {status}; {}", log.display());
            sorted.entry(cut.into()).or_default().push(down);
        }
        left.retain(|name| !sorted.contains_key(*name));
        printed.extend(sorted);
        assert!(left.len() < whole, "no program was run; status {status}");
    }
    printed
}
