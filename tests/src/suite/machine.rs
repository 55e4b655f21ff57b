//! The systems, and how a guest with the suite is started on each.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use board::launch::Options;
use board::{image, workspace};

use super::MadeWith;
use crate::{archive, initramfs, linux};

/// Memory of a guest.
const MEMORY: &str = "2G";
/// CPUs of a guest.
const CPUS: u32 = 1;

/// A system that the suite runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Debian's kernel.
    Linux,
    /// Piton.
    Piton,
}

impl System {
    /// Both, the one to compare with first.
    pub const ALL: [Self; 2] = [Self::Linux, Self::Piton];

    /// Name in options, folders and reports.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Piton => "piton",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Linux => "Linux",
            Self::Piton => "Piton",
        })
    }
}

/// A machine that waits for files of the suite to run: same QEMU, CPU, memory, root files and program on all systems.
#[derive(Debug)]
pub struct Machine {
    /// The system.
    pub system: System,
    /// How it is started.
    pub options: Options,
}

/// What all systems are given: the files and the program in the guest.
pub struct Source {
    root: Vec<u8>,
    program: Vec<u8>,
    /// Fingerprint of the root files.
    fingerprint: String,
}

impl Source {
    /// Reads a root image that has the suite.
    ///
    /// # Errors
    /// A line for the user: it is not there or cannot be read.
    pub fn read(root_image: &Path) -> Result<Self, String> {
        let root = fs::read(root_image).map_err(at(root_image))?;
        let program = archive::of_folders(&[(&super::folder().join("guest"), "")]);
        let fingerprint = initramfs::fingerprint(&root).map(hexadecimal).map_err(|error| error.to_string())?;
        Ok(Self { root, program, fingerprint })
    }

    /// A number for the root files, without Piton's own.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What outcomes depend on: the kernel that there is now, and the rest.
    ///
    /// # Errors
    /// A line for the user: the kernel is not there.
    pub fn made_with(&self, system: System) -> Result<MadeWith, String> {
        let kernel = match system {
            System::Linux => linux::kernel()?.1,
            System::Piton => {
                let whole = boot_image()?;
                fingerprint(image::find_root(&whole).and_then(|root| whole.get(..root.start)).unwrap_or(&whole))
            }
        };
        Ok(MadeWith {
            kernel,
            root: self.fingerprint.clone(),
            program: fingerprint(&self.program),
            machine: format!("{MEMORY}, {CPUS} CPU"),
        })
    }

    /// Makes what a system boots from, in a folder: copies, because a build that runs meanwhile must not change it.
    ///
    /// # Errors
    /// A line for the user: something is not there or cannot be written.
    pub fn machine(&self, system: System, folder: &Path) -> Result<Machine, String> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let options = match system {
            System::Linux => linux::options(&self.root, &self.program, &[], &folder.join("initramfs.cpio"))?,
            System::Piton => {
                let path = |name: &str| folder.join(name);
                let [boot, initrd, script] = [path("kernel8.img"), path("root.erofs"), path("suite.pyz")];
                for (path, bytes) in [(&boot, &boot_image()?), (&initrd, &self.root), (&script, &self.program)] {
                    fs::write(path, bytes).map_err(at(path))?;
                }
                Options { image: Some(boot), initrd: Some(initrd), script: Some(script), ..Options::default() }
            }
        };
        Ok(Machine { system, options: Options { memory: Some(MEMORY.into()), cpus: Some(CPUS), ..options } })
    }
}

/// Piton's boot image.
fn boot_image() -> Result<Vec<u8>, String> {
    let path = workspace::image("arm64");
    fs::read(&path).map_err(|error| format!("{}: {error}; make it with `make image-arm64`", path.display()))
}

/// Says which path an error is about.
fn at(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// A number for some bytes, the same for the same bytes as long as the compiler's standard library is.
fn fingerprint(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hexadecimal(hasher.finish())
}

fn hexadecimal(number: u64) -> String {
    format!("{number:016x}")
}
