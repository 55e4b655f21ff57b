//! Running external programs, and small file helpers that turn I/O errors into [`Error`].
//!
//! One place builds commands with a fixed locale and time zone, so that their output does not depend on the
//! user's environment, and one place keeps the end of a failed program's standard error for the message.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;

/// Longest part of a failed program's standard error that is shown, in lines.
const STDERR_LINES: usize = 20;

/// Prints one progress line.
pub fn progress(text: &str) {
    eprintln!("[root image] {text}");
}

/// A command with the C locale and no user configuration of Python.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Whether a program of that name is in `PATH`, or in the administrator directories, where Debian keeps some.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs to the end and returns standard output; a failure carries the end of standard error.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let shown = describe(command);
    let result = command.output().map_err(Error::io("start", Path::new(command.get_program())))?;
    if !result.status.success() {
        return Err(Error::Command {
            command: shown,
            status: result.status.to_string(),
            stderr: tail(&String::from_utf8_lossy(&result.stderr)),
        });
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Runs to the end with its standard output shown on our standard error, as progress. The end of its own standard
/// error becomes part of the error.
pub fn show(command: &mut Command) -> Result<(), Error> {
    let shown = describe(command);
    let ours = std::io::stderr();
    let sink = ours.as_fd().try_clone_to_owned().map_err(Error::io("share", Path::new("standard error")))?;
    let program = PathBuf::from(command.get_program());
    let mut child =
        command.stdout(Stdio::from(sink)).stderr(Stdio::piped()).spawn().map_err(Error::io("start", &program))?;
    let mut text = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map_err(Error::io("read the errors of", &program))?;
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    let status = child.wait().map_err(Error::io("wait for", &program))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command { command: shown, status: status.to_string(), stderr: tail(&text) })
}

/// SHA-256 of a text, in hexadecimal, by coreutils.
pub fn sha256_of_text(text: &str) -> Result<String, Error> {
    let program = Path::new("sha256sum");
    let mut child =
        command(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(Error::io("start", program))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(text.as_bytes()).map_err(Error::io("write to", program))?;
    }
    let result = child.wait_with_output().map_err(Error::io("wait for", program))?;
    let line = String::from_utf8_lossy(&result.stdout).into_owned();
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

/// SHA-256 of files, in hexadecimal, by path, by coreutils. Paths that hold a backslash or newline are not
/// expected and come back under the name coreutils prints.
pub fn sha256_of_files(files: &[PathBuf]) -> Result<BTreeMap<PathBuf, String>, Error> {
    let mut sums = BTreeMap::new();
    for chunk in files.chunks(500) {
        for line in output(command("sha256sum").arg("--").args(chunk))?.lines() {
            if let Some((sum, path)) = line.split_once("  ") {
                sums.insert(PathBuf::from(path), sum.to_owned());
            }
        }
    }
    Ok(sums)
}

/// Creates a directory and its parents.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// Removes a directory tree; a tree that is not there is fine.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a whole file, creating its directory.
pub fn write_file(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    fs::write(path, contents).map_err(Error::io("write", path))
}

/// Reads a whole file.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("read", path))
}

/// Every path below `root` except directories, relative to it, sorted by bytes so that the order is the same on
/// every file system. Links are listed, not followed.
pub fn walk(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let directory = root.join(&relative);
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
            let entry = entry.map_err(Error::io("list", &directory))?;
            let kind = entry.file_type().map_err(Error::io("inspect", &entry.path()))?;
            let path = relative.join(entry.file_name());
            if kind.is_dir() {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The command line as the user could type it.
fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    const LONGEST: usize = 300;
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).collect::<String>() + " ...";
    }
    text
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(STDERR_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_end_of_a_long_text() {
        let text: String = (0..50).map(|number| format!("line {number}\n")).collect();
        let end = tail(&text);
        assert_eq!(end.lines().count(), STDERR_LINES);
        assert!(end.ends_with("line 49"));
    }

    #[test]
    fn failed_command_reports_its_standard_error() {
        let error = output(command("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("broken") && text.contains('3'), "{text}");
    }

    #[test]
    fn sha256_of_the_empty_text_is_the_published_value() {
        // FIPS 180-4 example: the digest of the empty message.
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_of_text("").unwrap(), expected);
    }
}
