//! What can go wrong in the host program, one line each.
//!
//! Every message names the thing that failed and, where the user can act, the next step. [`Error::status`] maps an
//! error to the exit status: 2 for what the caller got wrong, 1 for the rest, so that neither can be taken for a
//! status of the guest's own choice above 2.

use std::io;
use std::path::PathBuf;

/// An error of the `board` program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}; see `cargo board help`")]
    Usage(String),
    /// No board of that name.
    #[error("no board named `{name}`; the boards are: {known}")]
    UnknownBoard {
        /// The name asked for.
        name: String,
        /// The names that exist, joined by a comma.
        known: String,
    },
    /// A board.toml does not say what it must.
    #[error("{path}: {message}")]
    BoardFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file given by the caller is not there or cannot be read.
    #[error("cannot read {what} {path}: {source}")]
    Input {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that an earlier step makes is missing.
    #[error("{path} does not exist; make it with `{remedy}`")]
    NotBuilt {
        /// The file.
        path: PathBuf,
        /// The command that makes it.
        remedy: &'static str,
    },
    /// A file or pipe operation of our own failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program that is needed is not installed.
    #[error("{program} is not installed; `make setup` installs it or says how")]
    MissingProgram {
        /// The program.
        program: String,
    },
    /// The QEMU found is too old.
    #[error("{program} is version {found}, 9.0 or newer is needed; `make setup` installs it or says how")]
    OldQemu {
        /// The program.
        program: String,
        /// Its own version line.
        found: String,
    },
    /// A program that was started failed; it has said why itself.
    #[error("`{command}` failed")]
    Command {
        /// The command line.
        command: String,
    },
    /// The kernel ELF cannot be made into an image.
    #[error("{path}: {message}")]
    Elf {
        /// The ELF file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The kernel has outgrown its limit.
    #[error("the kernel without its root image is {size} bytes, the limit is {limit}")]
    TooBig {
        /// Bytes of kernel and symbol table.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The machine refused, or is not what it should be; its own words.
    #[error("the machine: {0}")]
    Machine(String),
    /// The lists of system calls are not written as expected.
    #[error("system calls: {0}")]
    Calls(String),
    /// The check of the source tree found something.
    #[error("{0} finding(s); who may import whom is in docs/architecture.md")]
    Findings(usize),
}

impl Error {
    /// The exit status of the program for this error.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::UnknownBoard { .. } | Self::Input { .. } => 2,
            _ => 1,
        }
    }

    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
