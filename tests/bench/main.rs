//! `make bench`: Piton against Debian's own Linux kernel, side by side in the same QEMU.
//!
//! Both boot on the same machine (`virt`, one cortex-a72, or four for what needs several, 512 MiB) into the same root
//! files and the same Python as process 1; the runs take turns, so that a host that is busy for a while slows all of
//! them. What a figure counts is said at its row in [`rows`]; how each system is started in [`systems`];
//! [`initramfs`] turns Piton's root image into Linux's; [`figures`] has the statistics, the table and
//! `build/bench.json`.
//!
//! Linux is measured twice: as Debian ships it, and *lean*, without the protections that Piton does not have either.
//! Debian's kernel separates its page tables from the user's when it is placed at a random address, and changing page
//! tables is far dearer under emulation than on silicon: one figure without the other would mislead.
//!
//! Only ratios mean something: the times are those of an emulator on whatever host this is. Nothing is asserted.

#![forbid(unsafe_code)]

mod figures;
mod rows;
mod session;
mod systems;

use std::fmt;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use board::launch::Options;
use board::workspace;
use lexopt::prelude::*;
use tests::guest::{ANSWER, BOOT, PROMPT};
use tests::{Guest, initramfs, linux};

use figures::Figures;
use rows::Source;
use systems::{Files, System};

/// How often each system is booted to the prompt, and once more for the program, unless told otherwise.
const REPETITIONS: u32 = 5;
/// How long the program may take. Many times what it takes, for a busy host.
const PROGRAM_LIMIT: Duration = Duration::from_secs(300);
/// Memory of the machine, in MiB.
const MEMORY_MIB: u64 = 512;
/// Asks for the free memory without importing anything; put together so that the echo of the line does not match.
const ASK_FREE: &str =
    "import os; print('free' + ':', os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'), ':' + 'end')\r";

const HELP: &str = "\
usage: cargo run --release -p tests --bin bench -- [OPTIONS]

--repetitions N     boots of each system to the prompt, and as many for the program (default 5)
--only NAME         measure piton, linux or lean alone (may be given more than once)
--instructions      let QEMU's clock count instructions in place of time (-icount): steadier on a busy host, but
                    blind to what an instruction costs, and without the time to the prompt, which is the host's
--linux-append TEXT further words for the Linux command line
";

/// Why there are no figures.
#[derive(Debug)]
enum Error {
    /// The command line was not understood.
    Usage(String),
    /// The boot image has not been made.
    NoImage(PathBuf),
    /// The boot image has no root image, or one that cannot be read.
    Root(String),
    /// Debian's kernel could not be fetched.
    Fetch(String),
    /// What the host runs to measure over the network does not start.
    Client(io::Error),
    /// A file operation failed.
    Io(PathBuf, io::Error),
    /// A machine printed something else than figures.
    Answer(System, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => write!(f, "{message}; `--help` lists the options"),
            Self::NoImage(path) => {
                write!(f, "no {}; make it with `make image-arm64`", path.display())
            }
            Self::Root(message) => {
                write!(f, "the root image in the boot image: {message}; make it again with `make image-arm64`")
            }
            Self::Fetch(message) => write!(f, "{message}; `--only piton` measures without it"),
            Self::Client(source) => write!(f, "python3 of the host, or its network: {source}"),
            Self::Io(path, source) => write!(f, "{}: {source}", path.display()),
            Self::Answer(system, text) => write!(f, "{}: no figures in {text:?}", system.title()),
        }
    }
}

/// Says which path an I/O error is about.
fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io(path, source)
}

/// What the caller wants.
struct Wishes {
    repetitions: u32,
    systems: Vec<System>,
    instructions: bool,
    linux_append: String,
}

fn main() -> ExitCode {
    match wishes().and_then(|wishes| wishes.map_or(Ok(()), |wishes| bench(&wishes))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; `None` when only help was asked for.
fn wishes() -> Result<Option<Wishes>, Error> {
    let usage = |error: lexopt::Error| Error::Usage(error.to_string());
    let mut wishes =
        Wishes { repetitions: REPETITIONS, systems: Vec::new(), instructions: false, linux_append: String::new() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("repetitions") => {
                wishes.repetitions = parser.value().and_then(|value| value.parse()).map_err(usage)?;
            }
            Long("only") => {
                let name = parser.value().and_then(|v| v.string()).map_err(usage)?;
                let system = System::ALL.into_iter().find(|s| s.key() == name);
                wishes.systems.push(system.ok_or_else(|| Error::Usage(format!("there is no system `{name}`")))?);
            }
            Long("instructions") => wishes.instructions = true,
            Long("linux-append") => {
                wishes.linux_append = parser.value().and_then(|v| v.string()).map_err(usage)?;
            }
            Long("help") | Short('h') => {
                print!("{HELP}");
                return Ok(None);
            }
            other => return Err(usage(other.unexpected())),
        }
    }
    if wishes.systems.is_empty() {
        wishes.systems = System::ALL.to_vec();
    }
    if wishes.repetitions == 0 {
        return Err(Error::Usage("--repetitions must be at least 1".into()));
    }
    Ok(Some(wishes))
}

fn bench(wishes: &Wishes) -> Result<(), Error> {
    let files = prepare(wishes)?;
    let mut figures = Figures::new(wishes.instructions);
    sizes(&files, &mut figures)?;
    for repetition in 1..=wishes.repetitions {
        for &system in &wishes.systems {
            eprintln!("bench: {} ({repetition} of {}): prompt", system.title(), wishes.repetitions);
            prompt(system, &files, &mut figures)?;
        }
        // The host's time is measured, which has nothing to do with the guest's instructions.
        for &system in wishes.systems.iter().filter(|_| !wishes.instructions) {
            eprintln!("bench: {} ({repetition} of {}): session", system.title(), wishes.repetitions);
            session(system, &files, &mut figures)?;
        }
        for &system in &wishes.systems {
            eprintln!("bench: {} ({repetition} of {}): program", system.title(), wishes.repetitions);
            program(system, system.to_the_program(&files), Source::Program, &mut figures)?;
        }
        // Where QEMU counts instructions it runs the CPUs one after the other.
        for &system in wishes.systems.iter().filter(|_| !wishes.instructions) {
            eprintln!("bench: {} ({repetition} of {}): program on several CPUs", system.title(), wishes.repetitions);
            program(system, system.to_the_program_on_cpus(&files), Source::ProgramOnCpus, &mut figures)?;
        }
        for &system in wishes.systems.iter().filter(|_| !wishes.instructions) {
            eprintln!("bench: {} ({repetition} of {}): network", system.title(), wishes.repetitions);
            network(system, &files, &mut figures)?;
        }
    }
    let path = workspace::root().join("build/bench.json");
    let json = figures.to_json(&wishes.systems, &files);
    fs::write(&path, format!("{json:#}\n")).map_err(at(&path))?;
    print!("{}", figures.to_table(&wishes.systems));
    println!("All samples, and what each row counts: {}", path.display());
    Ok(())
}

/// Makes or fetches what the systems boot from.
fn prepare(wishes: &Wishes) -> Result<Files, Error> {
    let folder = workspace::root().join("build/bench");
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let source = workspace::image("arm64");
    if !source.is_file() {
        return Err(Error::NoImage(source));
    }
    // Copies, because a build that runs meanwhile must not change what is measured.
    let files = Files {
        image: folder.join("kernel8.img"),
        vmlinuz: PathBuf::new(),
        initramfs: folder.join("initramfs.cpio"),
        program: folder.join("program.py"),
        network_initramfs: folder.join("network.cpio"),
        network: folder.join("network.py"),
        origin: None,
        linux_append: wishes.linux_append.clone(),
        instructions: wishes.instructions,
    };
    fs::copy(&source, &files.image).map_err(at(&files.image))?;
    let source = include_str!("program.py");
    fs::write(&files.program, source).map_err(at(&files.program))?;
    let network = include_str!("network.py");
    fs::write(&files.network, network).map_err(at(&files.network))?;
    if wishes.systems.iter().all(|&system| system == System::Piton) {
        return Ok(files);
    }
    let (vmlinuz, origin) = linux::kernel().map_err(Error::Fetch)?;
    let image = fs::read(&files.image).map_err(at(&files.image))?;
    let root = board::image::find_root(&image)
        .and_then(|root| image.get(root))
        .ok_or_else(|| Error::Root("there is none".into()))?;
    let mut modules = Vec::new();
    for name in systems::NETWORK_MODULES {
        let module = linux::module(name).map_err(Error::Fetch)?;
        modules.push((format!("{name}.ko.xz"), fs::read(&module).map_err(at(&module))?));
    }
    for (path, program, more) in
        [(&files.initramfs, source, &[][..]), (&files.network_initramfs, network, &modules[..])]
    {
        let archive =
            initramfs::from_erofs(root, program.as_bytes(), more).map_err(|error| Error::Root(error.to_string()))?;
        fs::write(path, archive).map_err(at(path))?;
    }
    Ok(Files { vmlinuz, origin: Some(origin), ..files })
}

/// What the files tell without booting.
fn sizes(files: &Files, figures: &mut Figures) -> Result<(), Error> {
    let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len() as f64).map_err(at(path));
    let image = fs::read(&files.image).map_err(at(&files.image))?;
    let kernel = board::image::find_root(&image).map_or(image.len(), |root| root.start);
    figures.add(System::Piton, "kernel_size", kernel as f64);
    figures.add(System::Piton, "image_size", image.len() as f64);
    if files.origin.is_some() {
        let kernel = size(&files.vmlinuz)?;
        let whole = kernel + size(&files.initramfs)?;
        for system in [System::Linux, System::Lean] {
            figures.add(system, "kernel_size", kernel);
            figures.add(system, "image_size", whole);
        }
    }
    Ok(())
}

/// Boots to the prompt and asks for the free memory there.
fn prompt(system: System, files: &Files, figures: &mut Figures) -> Result<(), Error> {
    let mut guest = Guest::start(&format!("bench-prompt-{}", system.key()), system.to_the_prompt(files));
    // `start` returns when QEMU has been started; what it does before (a look at QEMU's version) is not counted.
    let started = Instant::now();
    guest.wait_for(PROMPT, BOOT);
    let elapsed = started.elapsed();
    if !files.instructions {
        figures.add(system, "prompt", elapsed.as_nanos() as f64);
    }
    guest.send(ASK_FREE);
    guest.wait_for("free: ", ANSWER);
    let answer = guest.wait_for(" :end", ANSWER);
    let free: u64 = answer.trim().parse().map_err(|_| Error::Answer(system, answer))?;
    figures.add(system, "memory", ((MEMORY_MIB << 20) - free) as f64);
    Ok(())
}

/// Boots until a client on the host has a session.
fn session(system: System, files: &Files, figures: &mut Figures) -> Result<(), Error> {
    let [port] = free_ports().map_err(Error::Client)?;
    let guest = Guest::start(&format!("bench-session-{}", system.key()), system.to_a_session(files, port));
    let elapsed = session::wait(port, BOOT).ok_or_else(|| Error::Answer(system, "no session".into()))?;
    figures.add(system, "session", elapsed.as_nanos() as f64);
    drop(guest);
    Ok(())
}

/// Boots into the program and takes in its results for the rows of that source.
fn program(system: System, machine: Options, source: Source, figures: &mut Figures) -> Result<(), Error> {
    let mut guest = Guest::start(&format!("bench-program-{}", system.key()), machine);
    guest.wait_for("results: ", PROGRAM_LIMIT);
    take_in(system, source, &guest.wait_for(" :end", ANSWER), figures)
}

/// Boots into the servers and has the host measure them.
fn network(system: System, files: &Files, figures: &mut Figures) -> Result<(), Error> {
    let ports = free_ports::<{ systems::GUEST_PORTS.len() }>().map_err(Error::Client)?;
    let mut guest = Guest::start(&format!("bench-network-{}", system.key()), system.to_the_network(files, &ports));
    guest.wait_for("serving\n", BOOT);
    let output = Command::new("python3")
        .arg(&files.network)
        .arg("measure")
        .args(ports.map(|port| port.to_string()))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::Client)?;
    take_in(system, Source::Network, &String::from_utf8_lossy(&output.stdout), figures)
}

/// Ports of the host's loopback interface that nobody has at the moment.
fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    // All at once, so that they are different ones.
    let listeners: Vec<_> = (0..COUNT).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Takes in results for the rows of a source: a JSON object with the samples of each row.
fn take_in(system: System, source: Source, text: &str, figures: &mut Figures) -> Result<(), Error> {
    let wrong = || Error::Answer(system, text.to_owned());
    let results: serde_json::Value = serde_json::from_str(text).map_err(|_| wrong())?;
    for row in rows::ROWS.iter().filter(|row| row.source == source) {
        for sample in results[row.key].as_array().ok_or_else(wrong)? {
            figures.add(system, row.key, sample.as_f64().ok_or_else(wrong)?);
        }
    }
    Ok(())
}
