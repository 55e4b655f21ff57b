//! Files of Debian's packages that are no part of a root image, fetched once by the crate `cpython`.

use std::fs;
use std::process::Command;

use board::workspace;

/// A file of a package, and its name in the archive that is made of such.
///
/// # Panics
/// When it cannot be had.
#[must_use]
pub fn file(package: &str, file: &str, name: &str) -> (String, Vec<u8>) {
    let out = workspace::root().join("build/cache/debian/arm64").join(name);
    fs::create_dir_all(out.parent().expect("a folder")).expect("the folder can be made");
    let status = Command::new(workspace::cargo())
        .args(["run", "--quiet", "--package", "cpython", "--", "fetch", package, "--file", file, "--out"])
        .arg(&out)
        .current_dir(workspace::root())
        .status()
        .expect("cargo starts");
    assert!(status.success(), "{file} of Debian's package {package} could not be fetched");
    (name.to_owned(), fs::read(&out).unwrap_or_else(|e| panic!("{}: {e}", out.display())))
}

/// A library of a package, which is there beside its real name `LIBRARY.*`; in the archive it is in `lib`.
///
/// # Panics
/// As [`file`].
#[must_use]
pub fn library(package: &str, library: &str) -> (String, Vec<u8>) {
    file(package, &format!("usr/lib/aarch64-linux-gnu/{library}.*"), &format!("lib/{library}"))
}
