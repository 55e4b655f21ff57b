//! Where things are in the source tree.
//!
//! Paths start at the workspace root, so `cargo board` works from any folder below it. A path that the user types
//! is taken from the current folder as usual.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::Error;

/// The folder with the workspace's `Cargo.toml`.
///
/// Cargo tells a program that it runs where its crate is; a program started by hand falls back to where it was built.
#[must_use]
pub fn root() -> PathBuf {
    let board =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    match board.parent() {
        Some(root) => root.to_path_buf(),
        None => board,
    }
}

/// The cargo to run: the one that runs us, else the one on the path.
#[must_use]
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The boot image of an architecture, as `cargo board image` writes it.
#[must_use]
pub fn image(arch: &str) -> PathBuf {
    root().join("build").join(arch).join("kernel8.img")
}

/// The root image of an architecture, as the `cpython` crate writes it.
#[must_use]
pub fn root_image(arch: &str) -> PathBuf {
    root().join("build").join(arch).join("rootfs.erofs")
}

/// What `cargo metadata` says of the workspace, as far as `T` takes it up.
///
/// # Errors
/// [`Error::Io`] when cargo cannot be started or says something else, [`Error::Command`] when it fails.
pub fn metadata<T: serde::de::DeserializeOwned>(options: &[&str]) -> Result<T, Error> {
    let arguments = [&["metadata", "--format-version=1"], options].concat();
    let output = Command::new(cargo())
        .args(&arguments)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::io("starting cargo"))?;
    let command = || format!("cargo {}", arguments.join(" "));
    if !output.status.success() {
        return Err(Error::Command { command: command() });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Io { what: command(), source: error.into() })
}
