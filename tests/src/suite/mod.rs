//! CPython's own test suite on Piton and on Linux.
//!
//! The suite comes with the `testsuite` variant of the root image. [`Source`] has what is given
//! to a [`System`], and makes a [`Machine`] of it, from which guests are started; in the guest the program in `tests/python/guest` runs file after file,
//! each in a process of its own. [`pool`] hands the files to several guests and gets an [`Outcome`] for each. The
//! [`Expected`] failures are a list with reasons; [`Store`] keeps outcomes between runs and [`report`] shows them.
//!
//! `tests/python/main.rs` runs some files in `make test`, `tests/python/all.rs` all of them in `make test-cpython`.

mod expected;
mod machine;
mod outcome;
pub mod pool;
pub mod report;
mod store;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use board::workspace;

pub use expected::Expected;
pub use machine::{Machine, Source, System};
pub use outcome::{Outcome, Verdict};
pub use store::{Kept, MadeWith, Store};

/// The folder with the list of expected failures and the program for the guest.
#[must_use]
pub fn folder() -> PathBuf {
    workspace::root().join("tests/python")
}

/// The root image with the suite, made anew when something in it changed.
///
/// # Errors
/// A line for the user; the program that makes it has said the rest on standard error.
pub fn root_image() -> Result<PathBuf, String> {
    let status = Command::new(workspace::cargo())
        .args(["run", "--quiet", "--package", "cpython", "--", "build", "--variant", "testsuite"])
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    match status.success() {
        true => Ok(workspace::root().join("build/arm64/rootfs-testsuite.erofs")),
        false => Err("the root image with the test suite could not be made".into()),
    }
}

/// Whether a file is meant by one of the words: its name, or that of a package it is in, without `test.` before it.
#[must_use]
pub fn is_wanted(file: &str, words: &[&str]) -> bool {
    let bare = |name: &str| name.strip_prefix("test.").unwrap_or(name).to_owned();
    let file = bare(file);
    words.iter().any(|word| {
        let rest = file.strip_prefix(&bare(word));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_alone_or_by_their_package() {
        assert!(is_wanted("test_os", &["test_io", "test_os"]));
        assert!(is_wanted("test.test_asyncio.test_tasks", &["test_asyncio"]));
        assert!(is_wanted("test.test_asyncio.test_tasks", &["test.test_asyncio.test_tasks"]));
        assert!(!is_wanted("test_osx_env", &["test_os"]));
    }
}
