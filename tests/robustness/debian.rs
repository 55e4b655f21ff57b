//! Debian's own programs that try a system hard: stress-ng and trinity, with the libraries they need.
//!
//! They are no part of a root image: [`archive`] fetches them once, and packs them with the Python program that runs them
//! in the guest.

use board::workspace;
use tests::{archive, debian};

/// Package, file, and its name in the archive.
const FILES: &[(&str, &str, &str)] =
    &[("stress-ng", "usr/bin/stress-ng", "bin/stress-ng"), ("trinity", "usr/bin/trinity", "bin/trinity")];

/// Package and library, which is beside its real name `LIBRARY.*`.
const LIBRARIES: &[(&str, &str)] = &[
    ("libacl1", "libacl.so.1"),
    ("libapparmor1", "libapparmor.so.1"),
    ("libbsd0", "libbsd.so.0"),
    ("libcrypt1", "libcrypt.so.1"),
    ("libdrm2", "libdrm.so.2"),
    ("libegl1", "libEGL.so.1"),
    ("libexpat1", "libexpat.so.1"),
    ("libgbm1", "libgbm.so.1"),
    ("libgles2", "libGLESv2.so.2"),
    ("libglvnd0", "libGLdispatch.so.0"),
    ("libgmp10", "libgmp.so.10"),
    ("libjpeg62-turbo", "libjpeg.so.62"),
    ("libjudydebian1", "libJudy.so.1"),
    ("libkmod2", "libkmod.so.2"),
    ("libmd0", "libmd.so.0"),
    ("libmpfr6", "libmpfr.so.6"),
    ("libsctp1", "libsctp.so.1"),
    ("libxxhash0", "libxxhash.so.0"),
];

/// The programs, and what runs them, as one file that Python executes.
///
/// # Panics
/// When something cannot be had.
pub fn archive() -> Vec<u8> {
    let programs = FILES.iter().map(|(package, file, name)| debian::file(package, file, name));
    let libraries = LIBRARIES.iter().map(|(package, library)| debian::library(package, library));
    let files: Vec<_> = programs.chain(libraries).collect();
    archive::with_files(&[(&workspace::root().join("tests/robustness/stress_ng"), "")], &files)
}
