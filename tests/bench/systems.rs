//! The systems that are compared, and how each is started.
//!
//! All get the same QEMU command line from the `qemu-virt` board but for `-kernel`, `-initrd` and `-append`. Piton
//! gets the program as `cargo board run --script` hands it over; in Linux's initramfs it is `/program`. Either way it
//! runs in a fresh `python3 -X faulthandler` that is process 1, with the environment that Piton's kernel gives it.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use board::launch::{Network, Options};

use crate::MEMORY_MIB;
use tests::initramfs::PROGRAM;

/// CPUs of the machine on which the program measures what needs several.
const CPUS: u32 = 4;

/// The ports that `network.py` serves on.
pub const GUEST_PORTS: [u16; 4] = [7000, 7001, 7002, 7003];
/// The port of sessions.
const SESSION_PORT: u16 = 5000;
/// What Linux needs of its modules for the network, in the order in which they are loaded.
pub const NETWORK_MODULES: [&str; 4] = ["virtio_mmio", "failover", "net_failover", "virtio_net"];

/// What the systems boot from.
#[derive(Clone)]
pub struct Files {
    /// Piton's boot image.
    pub image: PathBuf,
    /// Debian's kernel; an empty path when it is not wanted.
    pub vmlinuz: PathBuf,
    /// Piton's root files for Linux, with the program.
    pub initramfs: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// The same two for what is measured over the network.
    pub network_initramfs: PathBuf,
    /// What guest and host run for it.
    pub network: PathBuf,
    /// Package, version and suite of Debian's kernel; `None` when it is not wanted.
    pub origin: Option<String>,
    /// Further words for the Linux command line.
    pub linux_append: String,
    /// QEMU's clock counts instructions.
    pub instructions: bool,
}

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Piton.
    Piton,
    /// Debian's kernel as it comes.
    Linux,
    /// Debian's kernel without protections that Piton does not have.
    Lean,
}

impl System {
    /// In the order they take turns.
    pub const ALL: [Self; 3] = [Self::Piton, Self::Linux, Self::Lean];

    /// Name in file names, options and JSON.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Piton => "piton",
            Self::Linux => "linux",
            Self::Lean => "lean",
        }
    }

    /// Name for the reader.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Piton => "Piton",
            Self::Linux => "Linux",
            Self::Lean => "Linux, lean",
        }
    }

    /// What is special about it on the kernel command line (Linux `admin-guide/kernel-parameters.txt`).
    ///
    /// Without a random address Linux does not separate the page tables on a cortex-a72, which needs it for no other
    /// reason; `mitigations=off` drops what is done about speculation at every entry.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Piton | Self::Linux => "",
            Self::Lean => "nokaslr mitigations=off",
        }
    }

    /// Boots to the prompt.
    pub fn to_the_prompt(self, files: &Files) -> Options {
        match self {
            Self::Piton => piton(files),
            Self::Linux | Self::Lean => self.linux(files, ""),
        }
    }

    /// Boots into the program.
    pub fn to_the_program(self, files: &Files) -> Options {
        self.to_the_program_with(files, &[])
    }

    /// Boots a machine with several CPUs into what the program measures there.
    pub fn to_the_program_on_cpus(self, files: &Files) -> Options {
        Options { cpus: Some(CPUS), ..self.to_the_program_with(files, &["cpus"]) }
    }

    /// Boots into the servers that are measured over the network, where the host reaches the guest's ports
    /// [`GUEST_PORTS`] at these of its own.
    pub fn to_the_network(self, files: &Files, host_ports: &[u16]) -> Options {
        let arguments: &[&str] = if self == Self::Piton { &["serve"] } else { &["serve", "--linux"] };
        let served =
            Files { program: files.network.clone(), initramfs: files.network_initramfs.clone(), ..files.clone() };
        let forward = host_ports.iter().copied().zip(GUEST_PORTS).collect();
        let network = Network::User { forward, restricted: true };
        Options { network, ..self.to_the_program_with(&served, arguments) }
    }

    /// Boots into what serves sessions, which the host reaches at this port of its own.
    pub fn to_a_session(self, files: &Files, host_port: u16) -> Options {
        let options = match self {
            Self::Piton => self.to_the_prompt(files),
            Self::Linux | Self::Lean => {
                let served = Files { initramfs: files.network_initramfs.clone(), ..files.clone() };
                self.to_the_program_with(&served, &["session"])
            }
        };
        Options { network: Network::User { forward: vec![(host_port, SESSION_PORT)], restricted: true }, ..options }
    }

    fn to_the_program_with(self, files: &Files, arguments: &[&str]) -> Options {
        match self {
            Self::Piton => Options {
                script: Some(files.program.clone()),
                arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
                ..piton(files)
            },
            // What follows `--` is given to process 1.
            Self::Linux | Self::Lean => {
                self.linux(files, &format!(" -- -X faulthandler /{PROGRAM} {}", arguments.join(" ")))
            }
        }
    }

    fn linux(self, files: &Files, arguments: &str) -> Options {
        // Words with `=` that the kernel does not know become the environment of process 1.
        let append = format!(
            "quiet console=ttyAMA0 {} {} HOME=/root USER=root LOGNAME=root SHELL=/bin/sh \
             PATH=/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
             LANG=C.UTF-8 TERM={} rdinit=/usr/bin/python3{arguments}",
            self.words(),
            files.linux_append,
            terminal(),
        );
        let append = append.split_whitespace().collect::<Vec<_>>().join(" ");
        Options {
            image: Some(files.vmlinuz.clone()),
            initrd: Some(files.initramfs.clone()),
            append: Some(append),
            ..common(files)
        }
    }
}

fn piton(files: &Files) -> Options {
    Options { image: Some(files.image.clone()), ..common(files) }
}

/// What is the same for all.
fn common(files: &Files) -> Options {
    let clock: &[&str] = match files.instructions {
        true => &["-icount", "shift=0,sleep=off"],
        false => &[],
    };
    Options {
        cpus: Some(1),
        memory: Some(format!("{MEMORY_MIB}M")),
        extra: clock.iter().map(OsString::from).collect(),
        ..Options::default()
    }
}

/// The terminal type that Piton takes over from the host, or has without one.
fn terminal() -> String {
    let default = || "xterm-256color".to_owned();
    if !std::io::stdout().is_terminal() {
        return default();
    }
    std::env::var("TERM").unwrap_or_else(|_| default())
}
