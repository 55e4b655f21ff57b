//! Compiling `_piton`, the extension module that makes single accesses to device registers.
//!
//! It is written against CPython's stable ABI (`glue/stable_abi.h`), so the cross compiler is all that it takes, and
//! one file serves every version of Python.

use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::error::Error;
use crate::run;

/// The module's file. Python looks for this name in every directory of its path.
const MODULE: &str = "_piton.abi3.so";
/// The source, and all that it includes.
const SOURCES: [&str; 2] = ["_piton.c", "stable_abi.h"];

fn folder(root: &Path) -> PathBuf {
    root.join("cpython/glue")
}

/// What the module is made from, for the key of an image.
pub fn fingerprint(root: &Path) -> Result<String, Error> {
    let texts: Result<Vec<Vec<u8>>, Error> =
        SOURCES.iter().map(|name| run::read_file(&folder(root).join(name))).collect();
    Ok(String::from_utf8_lossy(&texts?.concat()).into_owned())
}

/// Compiles the module into `directory`.
pub fn compile(root: &Path, arch: &Arch, directory: &Path) -> Result<(), Error> {
    run::output(
        run::command(arch.compiler)
            .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", "-nostdlib", "-s"])
            // Pages of the target are 4 KiB; larger alignment only makes the file longer.
            .args(["-Wl,-z,max-page-size=4096", "-Wl,--build-id=none", "-o"])
            .arg(directory.join(MODULE))
            .arg(folder(root).join(SOURCES[0])),
    )?;
    Ok(())
}
