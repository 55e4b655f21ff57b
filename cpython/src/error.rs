//! The one error type of the root image builder.
//!
//! Every way a build can fail is a variant of [`Error`]; its `Display` text names what is missing or wrong and
//! ends with what to do next, because it is the last thing a user reads. All modules of this crate return it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A host program or file the build needs, with the Debian package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Program name as looked up in `PATH`, or a human name for a file.
    pub what: &'static str,
    /// Debian package that provides it.
    pub apt_package: &'static str,
}

/// Why a root image could not be built.
#[derive(Debug)]
pub enum Error {
    /// The command line was not understood; the text says which part.
    Usage(String),
    /// Host programs are missing.
    MissingPrograms(Vec<Need>),
    /// No Debian mirror is configured on this machine and `PITON_MIRROR` is not set.
    NoMirror,
    /// The mirror cannot be reached, or the download broke off.
    NoNetwork {
        /// Base address of the mirror.
        mirror: String,
        /// Debian suite that was asked for.
        suite: &'static str,
        /// What apt said.
        detail: String,
    },
    /// The mirror answers but none of the suites has the Python wanted.
    NoPython {
        /// Base address of the mirror.
        mirror: String,
        /// One line per suite: why it was not usable.
        reasons: Vec<String>,
    },
    /// A package that was promised by the index is not in the download directory, or differs from its hash.
    BadPackage {
        /// Package name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An external program failed.
    Command {
        /// The program and its arguments.
        command: String,
        /// Exit status as text.
        status: String,
        /// The last lines of its standard error.
        stderr: String,
    },
    /// A file or directory operation failed.
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path concerned.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An ELF file in the image is malformed.
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A certificate file does not hold a PEM certificate.
    Certificate(PathBuf),
    /// The packages hold something the layout of the image does not expect.
    Layout {
        /// The path concerned.
        path: PathBuf,
        /// What was expected.
        why: &'static str,
    },
    /// The finished image is larger than the limit.
    TooLarge {
        /// Size of the image, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Python in the finished tree failed the import check; the text is its output.
    Check(String),
}

impl Error {
    /// Wraps an I/O error with what was being done to which path.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { doing, path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) => write!(f, "{text}; `cargo run -p cpython -- help` lists the commands"),
            Error::MissingPrograms(needs) => {
                let names: Vec<&str> = needs.iter().map(|need| need.what).collect();
                let mut packages: Vec<&str> = needs.iter().map(|need| need.apt_package).collect();
                packages.sort_unstable();
                packages.dedup();
                write!(f, "missing on this machine: {}; run: apt-get install {}", names.join(", "), packages.join(" "))
            }
            Error::NoMirror => write!(
                f,
                "no Debian mirror: this machine's apt configuration names none; set PITON_MIRROR= to the base address of one"
            ),
            Error::NoNetwork { mirror, suite, detail } => write!(
                f,
                "no network: cannot reach the Debian mirror {mirror} for suite {suite}; set PITON_MIRROR= or connect \
                 (a download that broke off resumes)\n{detail}"
            ),
            Error::NoPython { mirror, reasons } => write!(
                f,
                "the Debian mirror {mirror} has no suite with a usable Python; set PITON_MIRROR= to a complete mirror\n{}",
                reasons.join("\n")
            ),
            Error::BadPackage { name, why } => {
                write!(f, "package {name}: {why}; run again to fetch it anew")
            }
            Error::Command { command, status, stderr } => write!(f, "`{command}` failed ({status})\n{stderr}"),
            Error::Io { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Error::Elf { path, why } => {
                write!(f, "{} is not a usable ELF file: {why}", path.display())
            }
            Error::Certificate(path) => write!(f, "{} holds no PEM certificate", path.display()),
            Error::Layout { path, why } => write!(f, "unexpected package contents at {}: {why}", path.display()),
            Error::TooLarge { bytes, limit } => {
                write!(f, "the image has {bytes} bytes, over the limit of {limit}; add a rule to cpython/src/prune.rs")
            }
            Error::Check(output) => write!(f, "Python in the image tree failed the import check\n{output}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
