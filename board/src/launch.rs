//! Turns a board and the caller's wishes into a QEMU command line.
//!
//! [`Options`] are the wishes, [`Launch`] is the command ready to start together with the temporary files it needs.
//! The guest gets its data through QEMU's `fw_cfg` device under `opt/piton/`: `script`, `script-name`, `args` (a JSON
//! array of strings), `terminal`, `pip-index` and `ca-bundle`. It tells its exit status through semihosting (SYS_EXIT_EXTENDED), which QEMU
//! takes as its own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::error::Error;
use crate::spec::Board;
use crate::terminal;

/// The oldest QEMU release that is fast enough and has all machines.
const QEMU_MAJOR: u32 = 9;

/// What the caller wants different from the board's own description.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The boot image; `None` starts QEMU without `-kernel`, for callers that load one their own way.
    pub image: Option<PathBuf>,
    /// Takes the place of the root image inside the boot image.
    pub initrd: Option<PathBuf>,
    /// Takes the place of QEMU's own device tree.
    pub dtb: Option<PathBuf>,
    /// The kernel command line.
    pub append: Option<String>,
    /// A Python file of the host to run in place of the REPL.
    pub script: Option<PathBuf>,
    /// The script's arguments.
    pub arguments: Vec<String>,
    /// The package index that pip in the guest uses, as a URL.
    pub pip_index: Option<String>,
    /// A file of certificates (PEM) that the guest trusts in place of its own.
    pub ca_bundle: Option<PathBuf>,
    /// Number of CPUs.
    pub cpus: Option<u32>,
    /// Memory, in QEMU's notation.
    pub memory: Option<String>,
    /// CPU model.
    pub cpu: Option<String>,
    /// Version of the interrupt controller.
    pub gic: Option<u32>,
    /// What the network card is connected to.
    pub network: Network,
    /// Further arguments for QEMU, as they are.
    pub extra: Vec<OsString>,
    /// The console is the terminal: Ctrl-C goes to the guest, Ctrl-A x ends QEMU.
    pub interactive: bool,
}

/// What a guest's network card is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// There is no card.
    #[default]
    None,
    /// QEMU's user network: the guest reaches what the host reaches. Each pair forwards a port of the host's 127.0.0.1
    /// to one of the guest.
    User {
        /// Host port and guest port.
        forward: Vec<(u16, u16)>,
        /// The guest reaches QEMU's own services and forwarded ports only.
        restricted: bool,
    },
    /// Any other: the value of `-netdev` without its `id`.
    Other(String),
}

impl Network {
    /// The value of `-netdev`.
    fn netdev(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::User { forward, restricted } => {
                let mut value = String::from("user,id=net0");
                if *restricted {
                    value.push_str(",restrict=on");
                }
                for (host, guest) in forward {
                    value.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
                }
                Some(value)
            }
            Self::Other(value) => Some(format!("{value},id=net0")),
        }
    }
}

impl Options {
    /// That the script, if any, can be read. The first thing to find out: it is what the caller typed.
    ///
    /// # Errors
    /// [`Error::Input`] names it.
    pub fn check_script(&self) -> Result<(), Error> {
        self.script.as_deref().map_or(Ok(()), |path| check_readable("the script", path))
    }
}

/// A QEMU command and the files it reads.
pub struct Launch {
    /// The command; the caller decides about its standard streams.
    pub command: Command,
    /// A script runs in place of the REPL, and our standard input is its own.
    pub script: bool,
    /// Removed on drop, so it lives as long as the guest.
    files: TempDir,
}

impl Launch {
    /// Prepares the command.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that cannot be read, [`Error::Usage`] for a value the board does not have,
    /// [`Error::MissingProgram`] and [`Error::OldQemu`] about QEMU.
    pub fn new(board: &Board, options: &Options) -> Result<Self, Error> {
        options.check_script()?;
        check_qemu(&board.qemu.program)?;
        let files =
            tempfile::Builder::new().prefix("piton-").tempdir().map_err(Error::io("making a temporary folder"))?;
        let mut command = Command::new(&board.qemu.program);
        command.args(machine(board, options)?);
        command.args(console(board, options));
        command.args(network(board, options));
        command.args(["-semihosting-config", "enable=on,target=native"]);
        for (flag, what, path) in [
            ("-kernel", "the boot image", &options.image),
            ("-initrd", "the initrd", &options.initrd),
            ("-dtb", "the device tree", &options.dtb),
        ] {
            if let Some(path) = path {
                check_readable(what, path)?;
                command.arg(flag).arg(path);
            }
        }
        if let Some(append) = &options.append {
            command.arg("-append").arg(append);
        }
        for item in data(options, files.path())? {
            command.arg("-fw_cfg").arg(item);
        }
        command.args(&options.extra);
        Ok(Self { command, script: options.script.is_some(), files })
    }

    /// The folder of the temporary files.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.files.path()
    }
}

/// Machine, CPUs, memory.
fn machine(board: &Board, options: &Options) -> Result<Vec<String>, Error> {
    let qemu = &board.qemu;
    let mut machine = qemu.machine.clone();
    if let Some(version) = options.gic {
        if !qemu.gic_versions.contains(&version) {
            return Err(Error::Usage(format!("board {} has no GIC version {version}", board.name)));
        }
        machine.push_str(&format!(",gic-version={version}"));
    }
    let cpu = options.cpu.as_ref().unwrap_or(&qemu.cpu);
    let memory = options.memory.as_ref().unwrap_or(&qemu.memory);
    let cpus = options.cpus.unwrap_or(qemu.cpus).to_string();
    Ok(["-machine", &machine, "-cpu", cpu, "-m", memory, "-smp", &cpus].map(Into::into).into())
}

/// The serial port on the standard streams, and nothing that the board does not ask for.
fn console(board: &Board, options: &Options) -> Vec<String> {
    let mut arguments = vec!["-nodefaults".into(), "-display".into(), "none".into()];
    for _ in 0..board.qemu.console_serial {
        arguments.extend(["-serial".into(), "null".into()]);
    }
    if options.interactive {
        // signal=off: Ctrl-C is a byte for the guest. mux: Ctrl-A leads to the monitor and to the way out.
        arguments.extend(
            [
                "-chardev",
                "stdio,id=console,mux=on,signal=off",
                "-serial",
                "chardev:console",
                "-mon",
                "chardev=console,mode=readline",
            ]
            .map(Into::into),
        );
    } else {
        arguments.extend(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"].map(Into::into));
    }
    arguments
}

/// The network card, where the board has one and it is connected to something.
fn network(board: &Board, options: &Options) -> Vec<String> {
    match options.network.netdev() {
        Some(netdev) if !board.qemu.network.is_empty() => {
            let device = format!("{},netdev=net0", board.qemu.network);
            ["-netdev", &netdev, "-device", &device].map(Into::into).into()
        }
        _ => Vec::new(),
    }
}

/// The values of the `-fw_cfg` options.
fn data(options: &Options, folder: &Path) -> Result<Vec<OsString>, Error> {
    let mut items = Vec::new();
    if let Some(script) = &options.script {
        let file = regular_file("the script", script, &folder.join("script.py"))?;
        items.push(item("script", "file", file.as_os_str()));
        let name = script.file_name().unwrap_or(script.as_os_str());
        items.push(item("script-name", "string", name));
    }
    if options.script.is_some() || !options.arguments.is_empty() {
        let path = folder.join("args.json");
        let json = serde_json::Value::from(options.arguments.clone()).to_string();
        std::fs::write(&path, json).map_err(Error::io(format!("writing {}", path.display())))?;
        items.push(item("args", "file", path.as_os_str()));
    }
    if let Some(index) = &options.pip_index {
        items.push(item("pip-index", "string", OsStr::new(index)));
    }
    if let Some(bundle) = &options.ca_bundle {
        let file = regular_file("the CA bundle", bundle, &folder.join("ca-bundle.pem"))?;
        check_readable("the CA bundle", &file)?;
        items.push(item("ca-bundle", "file", file.as_os_str()));
    }
    if let Some(terminal) = terminal::describe() {
        items.push(item("terminal", "string", OsStr::new(&terminal)));
    }
    Ok(items)
}

/// An input as a file that QEMU can read more than once: a pipe (`--script <(...)`) is copied.
fn regular_file(what: &'static str, input: &Path, copy: &Path) -> Result<PathBuf, Error> {
    if input.is_file() {
        return Ok(input.into());
    }
    let bytes = std::fs::read(input).map_err(|source| Error::Input { what, path: input.into(), source })?;
    std::fs::write(copy, bytes).map_err(Error::io(format!("writing {}", copy.display())))?;
    Ok(copy.into())
}

/// One `-fw_cfg` value. A comma ends a value in QEMU's notation unless it is doubled.
fn item(name: &str, kind: &str, value: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut text = format!("name=opt/piton/{name},{kind}=").into_bytes();
    for &byte in value.as_bytes() {
        text.push(byte);
        if byte == b',' {
            text.push(byte);
        }
    }
    OsString::from_vec(text)
}

/// That a file is there and can be read, said in one line before QEMU says it in three.
fn check_readable(what: &'static str, path: &Path) -> Result<(), Error> {
    let error = |source| Error::Input { what, path: path.into(), source };
    let kind = path.metadata().map_err(error)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        // Looking into a pipe would take from it.
        return Ok(());
    }
    // Reading one byte also finds out folders, which open without error.
    let mut byte = [0];
    File::open(path).and_then(|mut file| file.read(&mut byte)).map(drop).map_err(error)
}

/// That QEMU is there and new enough.
fn check_qemu(program: &str) -> Result<(), Error> {
    let output = match Command::new(program).arg("--version").output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::MissingProgram { program: program.into() });
        }
        Err(source) => {
            return Err(Error::Io { what: format!("starting {program}"), source });
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    if major_version(line).is_some_and(|major| major >= QEMU_MAJOR) {
        return Ok(());
    }
    let found = line.strip_prefix("QEMU emulator version ").filter(|v| !v.is_empty()).unwrap_or("unknown");
    Err(Error::OldQemu { program: program.into(), found: found.into() })
}

/// The major number in `QEMU emulator version 10.0.2 (...)`.
fn major_version(line: &str) -> Option<u32> {
    line.strip_prefix("QEMU emulator version ")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(options: &Options) -> Vec<String> {
        let board = Board::load("qemu-virt").expect("the board exists");
        let launch = Launch::new(&board, options).expect("the command can be made");
        launch.command.get_args().map(|a| a.to_string_lossy().into_owned()).collect()
    }

    fn value_of<'a>(arguments: &'a [String], flag: &str) -> &'a str {
        let at = arguments.iter().position(|a| a == flag).expect("the flag is given");
        &arguments[at + 1]
    }

    #[test]
    fn board_values_hold_until_overridden() {
        let plain = arguments(&Options::default());
        assert_eq!(value_of(&plain, "-machine"), "virt");
        assert_eq!(value_of(&plain, "-m"), "512M");
        let changed =
            arguments(&Options { gic: Some(3), memory: Some("64M".into()), cpus: Some(4), ..Options::default() });
        assert_eq!(value_of(&changed, "-machine"), "virt,gic-version=3");
        assert_eq!(value_of(&changed, "-m"), "64M");
        assert_eq!(value_of(&changed, "-smp"), "4");
    }

    #[test]
    fn interrupt_controller_the_board_lacks_is_refused() {
        let board = Board::load("qemu-virt").expect("the board exists");
        let error = Launch::new(&board, &Options { gic: Some(7), ..Options::default() }).err().expect("refused");
        assert!(error.to_string().contains("GIC version 7"), "{error}");
    }

    #[test]
    fn network_is_connected_as_told_and_forwards_bind_to_the_host_alone() {
        assert!(!arguments(&Options::default()).iter().any(|a| a == "-netdev"));
        let network = Network::User { forward: vec![(5556, 5000)], restricted: true };
        let user = arguments(&Options { network, ..Options::default() });
        assert_eq!(value_of(&user, "-netdev"), "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:5556-:5000");
        let network = Network::Other("socket,connect=:1234".into());
        let other = arguments(&Options { network, ..Options::default() });
        assert_eq!(value_of(&other, "-netdev"), "socket,connect=:1234,id=net0");
    }

    #[test]
    fn missing_script_is_named_and_gives_status_2() {
        let board = Board::load("qemu-virt").expect("the board exists");
        for path in ["/nonexistent/f.py", "/"] {
            let options = Options { script: Some(path.into()), ..Options::default() };
            let error = Launch::new(&board, &options).err().expect("refused");
            assert!(error.to_string().contains(path), "{error}");
            assert_eq!(error.status(), 2);
        }
    }

    #[test]
    fn index_and_ca_bundle_are_handed_over() {
        let bundle = tempfile::NamedTempFile::new().expect("a temporary file");
        let options = Options {
            pip_index: Some("https://index.example/a,b/".into()),
            ca_bundle: Some(bundle.path().into()),
            ..Options::default()
        };
        let arguments = arguments(&options);
        assert!(arguments.contains(&"name=opt/piton/pip-index,string=https://index.example/a,,b/".into()));
        assert!(arguments.contains(&format!("name=opt/piton/ca-bundle,file={}", bundle.path().display())));
    }

    #[test]
    fn missing_ca_bundle_is_named() {
        let board = Board::load("qemu-virt").expect("the board exists");
        let options = Options { ca_bundle: Some("/nonexistent/ca.pem".into()), ..Options::default() };
        let error = Launch::new(&board, &options).err().expect("refused");
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    }

    #[test]
    fn commas_in_a_script_name_are_doubled() {
        assert_eq!(item("script-name", "string", OsStr::new("a,b.py")), "name=opt/piton/script-name,string=a,,b.py");
    }

    #[test]
    fn versions_of_qemu_are_read() {
        assert_eq!(major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(major_version("something else"), None);
    }
}
