//! Checking a finished tree by running its Python: nothing that was pruned may be missed.
//!
//! The target's Python runs under QEMU's user mode (or directly, where the build machine is of the same
//! architecture) with the tree as its file system prefix, and runs `check.py`: every module of the standard library
//! is imported, every .pyc is looked at, and the data files that libraries open are used.

use std::path::Path;

use crate::arch::Arch;
use crate::error::{Error, Need};
use crate::needs;
use crate::run;

/// The program that runs in the checked Python.
const SCRIPT: &str = include_str!("check.py");

/// Runs the check; `tests` says that CPython's test suite is in the tree.
pub fn check(tree: &Path, arch: &Arch, tests: bool) -> Result<(), Error> {
    let emulator = run::find_program(arch.qemu_user)
        .ok_or(Error::MissingPrograms(vec![Need { what: arch.qemu_user, ..needs::EMULATOR }]))?;
    run::progress("importing every module under the target's Python");
    let mut command = run::command(&emulator);
    command.env_clear().env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("-L").arg(tree).arg(tree.join("usr/bin/python3"));
    command.args(["-s", "-W", "ignore", "-c", SCRIPT]).arg(tree).arg(if tests { "tests" } else { "no-tests" });
    let text = run::output(&mut command).map_err(|error| match error {
        Error::Command { stderr, .. } => Error::Check(stderr),
        other => other,
    })?;
    text.lines().for_each(run::progress);
    // A module that ends the process on import would otherwise look like success.
    if !text.lines().last().is_some_and(|line| line.contains("submodules import")) {
        return Err(Error::Check("the check ended before its last line".to_owned()));
    }

    // find_library runs this program, which the emulator cannot start from Python.
    let mut command = run::command(&emulator);
    command.arg(tree.join("usr/sbin/ldconfig")).args(["-p", "-C"]).arg(tree.join("etc/ld.so.cache"));
    let listing = run::output(&mut command)?;
    match ["libc.so.6", "libm.so.6", "libssl.so.3"].iter().find(|name| !listing.contains(*name)) {
        Some(missing) => Err(Error::Check(format!("ldconfig -p does not list {missing}"))),
        None => Ok(()),
    }
}
