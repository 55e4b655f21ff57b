//! Debian's Linux for arm64 as a guest, for comparison: its kernel, and Piton's root files with a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use board::launch::Options;
use board::workspace;

use crate::initramfs;

/// The Debian package whose kernel is compared with.
const PACKAGE: &str = "linux-image-cloud-arm64";
/// Where the kernel is in it: below /boot, or below /usr/lib/modules since Linux 7.
const FILE: &str = "**/vmlinuz*";

/// Fetches Debian's kernel, unless it is there. Answers where it is, and package, version and suite.
///
/// # Errors
/// A line for the user; the program that fetches has said the rest on standard error.
pub fn kernel() -> Result<(PathBuf, String), String> {
    fetch("vmlinuz", FILE)
}

/// Fetches a module of Debian's kernel, unless it is there. Answers where it is; it is compressed with xz.
///
/// # Errors
/// As [`kernel`].
pub fn module(name: &str) -> Result<PathBuf, String> {
    Ok(fetch(&format!("{name}.ko.xz"), &format!("**/{name}.ko.xz"))?.0)
}

/// Fetches a file of the kernel's package or what it depends on, as `name`.
fn fetch(name: &str, file: &str) -> Result<(PathBuf, String), String> {
    let path = workspace::root().join("build/cache/linux/arm64").join(name);
    let output = Command::new(workspace::cargo())
        .args(["run", "--quiet", "--package", "cpython", "--", "fetch", PACKAGE, "--file", file, "--out"])
        .arg(&path)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    match output.status.success() {
        true => Ok((path, String::from_utf8_lossy(&output.stdout).trim().to_owned())),
        false => Err("Debian's kernel could not be fetched".into()),
    }
}

/// Boots Debian's kernel with the files of a root image, into the program: an archive of [`crate::archive`] that calls
/// `linux_guest.run` when it is process 1. It gets `--linux` and the arguments. `initrd` is where the files are written.
///
/// # Errors
/// A line for the user: the kernel cannot be had, the image cannot be read or the files cannot be written.
pub fn options(root: &[u8], program: &[u8], arguments: &[&str], initrd: &Path) -> Result<Options, String> {
    let (image, _) = kernel()?;
    let files = initramfs::from_erofs(root, program, &[]).map_err(|error| format!("the root image: {error}"))?;
    fs::write(initrd, files).map_err(|error| format!("{}: {error}", initrd.display()))?;
    // Without a random address and protections against speculation Linux does the same, several times as fast under
    // emulation. When it panics it resets the machine, which then ends. What follows `--` is given to process 1.
    let append = format!(
        "quiet console=ttyAMA0 panic=-1 nokaslr mitigations=off rdinit=/usr/bin/python3 -- /{} --linux {}",
        initramfs::PROGRAM,
        arguments.join(" ")
    );
    Ok(Options {
        image: Some(image),
        initrd: Some(initrd.into()),
        append: Some(append),
        extra: vec!["-no-reboot".into()],
        ..Options::default()
    })
}
