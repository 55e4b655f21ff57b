//! `cargo board`: the command line of the host side.
//!
//! Parses the arguments, calls the library and turns its result into one line and an exit status. A guest's exit
//! status is passed on as it is.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use board::image::Flavour;
use board::launch::{Launch, Network, Options};
use board::run::{self, End};
use board::spec::Board;
use board::{Error, image, layers, system_calls, transfer, workspace};
use lexopt::prelude::*;

const HELP: &str = "\
cargo board image arm64 [OPTIONS]     compile the kernel and write the boot image
    --root FILE          root image to append (default build/arm64/rootfs.erofs)
    --no-root            append none
    --out FILE           file to write (default build/arm64/kernel8.img)
    --debug              a kernel that checks itself (lock order, overflow, assertions); slower and larger
    --elf FILE           take this kernel ELF in place of compiling one

cargo board run NAME [OPTIONS] [-- ARGS...]     boot the image on a board
    --script FILE.py     run this file in place of the REPL, with ARGS; exits with its status
    --timeout SECONDS    stop after that time and exit with 124
    --cpus N  --memory M  --cpu MODEL  --gic 2|3     in place of the board's own (--mem is --memory)
    --image FILE         boot image (default build/arm64/kernel8.img)
    --initrd FILE        root image in place of the one in the boot image
    --dtb FILE           device tree in place of QEMU's own
    --append TEXT        kernel command line
    --pip-index URL      the package index that pip in the guest uses
    --ca-bundle FILE     certificates that the guest trusts in place of its own
    --net user|none|SPEC what the network card is connected to: QEMU's user network (the default), nothing, or
                         a -netdev of QEMU's without its id
    --forward HOST:GUEST a port of the host's 127.0.0.1 leads to this one of the guest (default 5556:5000)
    --qemu-arg ARG       a further argument for QEMU (write --qemu-arg=-x when it starts with a dash)
    On a terminal Ctrl-C goes to the guest; Ctrl-A x ends QEMU.

cargo board put FILE PATH [--address HOST:PORT]     copy a file to the running machine; PATH may be a directory
cargo board get PATH FILE [--address HOST:PORT]     copy one from it; FILE may be a directory
    The machine is at 127.0.0.1:5556, where QEMU forwards it, or at --address; PITON_TOKEN is its token if it has one.

cargo board list             the boards
cargo board system-calls     print docs/system-calls.md
cargo board check-layers     check who imports whom, and that docs/system-calls.md is current
cargo board help             this text
";

fn main() -> ExitCode {
    match command() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("board: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn command() -> Result<u8, Error> {
    let mut parser = lexopt::Parser::from_env();
    match parser.next().map_err(usage)? {
        Some(Value(name)) => match name.to_str() {
            Some("image") => make_image(parser),
            Some("run") => run_board(parser),
            Some("put") => copy(parser, true),
            Some("get") => copy(parser, false),
            Some("list") => list(parser),
            Some("system-calls") => print_system_calls(parser),
            Some("check-layers") => check_layers(parser),
            Some("help") => help(),
            _ => Err(Error::Usage(format!("unknown command `{}`", name.display()))),
        },
        Some(Long("help") | Short('h')) | None => help(),
        Some(other) => Err(usage(other.unexpected())),
    }
}

fn make_image(mut parser: lexopt::Parser) -> Result<u8, Error> {
    let (mut arch, mut root, mut no_root, mut out, mut elf) = (None, None, false, None, None);
    let mut flavour = Flavour::Release;
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("root") => root = Some(path(&mut parser)?),
            Long("no-root") => no_root = true,
            Long("debug") => flavour = Flavour::Checked,
            Long("out") => out = Some(path(&mut parser)?),
            Long("elf") => elf = Some(path(&mut parser)?),
            Long("help") | Short('h') => return help(),
            Value(name) if arch.is_none() => arch = Some(name),
            other => return Err(usage(other.unexpected())),
        }
    }
    match arch.as_deref().and_then(|name| name.to_str()) {
        Some("arm64") => {}
        Some(name) => {
            return Err(Error::Usage(format!("no image for `{name}`; there is one for arm64")));
        }
        None => return Err(Error::Usage("which image? there is one for arm64".into())),
    }
    if no_root && root.is_some() {
        return Err(Error::Usage("--root and --no-root exclude each other".into()));
    }
    let root = match (no_root, root) {
        (true, _) => None,
        (false, Some(path)) => Some(path),
        (false, None) => Some(built(workspace::root_image("arm64"), "make image-arm64")?),
    };
    let out = out.unwrap_or_else(|| workspace::image("arm64"));
    let elf = elf.map_or_else(|| image::compile_kernel(flavour), Ok)?;
    let limit = flavour.limit();
    let sizes = image::write(&image::Parts { elf, root, out: out.clone(), limit })?;
    println!(
        "{}: {} bytes; kernel {} + symbols {} = {} of at most {}; root image {}",
        out.strip_prefix(workspace::root()).unwrap_or(&out).display(),
        sizes.total,
        sizes.kernel,
        sizes.symbols,
        sizes.without_root,
        limit,
        sizes.root,
    );
    Ok(0)
}

fn run_board(mut parser: lexopt::Parser) -> Result<u8, Error> {
    let mut options = Options { interactive: run::on_terminal(), ..Options::default() };
    let (mut name, mut limit, mut net) = (None::<String>, None, None::<String>);
    let mut forward = Vec::new();
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("script") => options.script = Some(path(&mut parser)?),
            Long("timeout") => limit = Some(seconds(&mut parser)?),
            Long("cpus") => options.cpus = Some(number(&mut parser)?),
            Long("memory" | "mem") => options.memory = Some(text(&mut parser)?),
            Long("cpu") => options.cpu = Some(text(&mut parser)?),
            Long("gic") => options.gic = Some(number(&mut parser)?),
            Long("image") => options.image = Some(path(&mut parser)?),
            Long("initrd") => options.initrd = Some(path(&mut parser)?),
            Long("dtb") => options.dtb = Some(path(&mut parser)?),
            Long("append") => options.append = Some(text(&mut parser)?),
            Long("pip-index") => options.pip_index = Some(text(&mut parser)?),
            Long("ca-bundle") => options.ca_bundle = Some(path(&mut parser)?),
            Long("net") => net = Some(text(&mut parser)?),
            Long("forward") => forward.push(ports(&text(&mut parser)?)?),
            Long("qemu-arg") => options.extra.push(value(&mut parser)?),
            Long("help") | Short('h') => return help(),
            Value(first) if name.is_none() => {
                name = Some(first.string().map_err(usage)?);
            }
            // What stands after `--`, and any second plain word.
            Value(argument) => options.arguments.push(argument.string().map_err(usage)?),
            other => return Err(usage(other.unexpected())),
        }
    }
    let Some(name) = name else {
        return Err(Error::Usage("which board? `cargo board list` shows them".into()));
    };
    let board = Board::load(&name)?;
    options.check_script()?;
    if options.image.is_none() {
        options.image = Some(built(workspace::image(&board.arch), "make image-arm64")?);
    }
    options.network = match net.as_deref() {
        None | Some("user") => Network::User { forward: forwards(forward), restricted: false },
        Some("none") => Network::None,
        Some(other) => Network::Other(other.into()),
    };
    let end = run::run(Launch::new(&board, &options)?, limit)?;
    match end {
        End::Status(_) => {}
        End::TimedOut => {
            eprintln!(
                "board: {name}: still running after {} s (--timeout), stopped",
                limit.unwrap_or_default().as_secs_f64()
            );
        }
        End::Signalled(signal) => eprintln!("board: {name}: stopped by signal {signal}"),
    }
    Ok(end.status())
}

fn copy(mut parser: lexopt::Parser, to_machine: bool) -> Result<u8, Error> {
    let (mut address, mut paths) = (transfer::ADDRESS.to_owned(), Vec::new());
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("address") => address = text(&mut parser)?,
            Long("help") | Short('h') => return help(),
            Value(path) if paths.len() < 2 => paths.push(path),
            other => return Err(usage(other.unexpected())),
        }
    }
    let [from, to] = <[OsString; 2]>::try_from(paths)
        .map_err(|_| Error::Usage("what is copied, and where to? Both are needed".into()))?;
    let token = std::env::var("PITON_TOKEN").ok();
    let there = |path: OsString| path.string().map_err(usage);
    if to_machine {
        let path = transfer::put(&address, token.as_deref(), &PathBuf::from(from), &there(to)?)?;
        println!("{path}");
    } else {
        let path = transfer::get(&address, token.as_deref(), &there(from)?, &PathBuf::from(to))?;
        println!("{}", path.display());
    }
    Ok(0)
}

/// The forwards asked for; without any the REPL's, as far as its port is free: another guest may have it.
fn forwards(asked: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    const REPL: (u16, u16) = (5556, 5000);
    if !asked.is_empty() {
        return asked;
    }
    match TcpListener::bind(("127.0.0.1", REPL.0)) {
        Ok(_) => vec![REPL],
        Err(_) => Vec::new(),
    }
}

/// `HOST:GUEST`.
fn ports(text: &str) -> Result<(u16, u16), Error> {
    let wrong = || Error::Usage(format!("--forward takes HOST:GUEST, two port numbers, not `{text}`"));
    let (host, guest) = text.split_once(':').ok_or_else(wrong)?;
    Ok((host.parse().map_err(|_| wrong())?, guest.parse().map_err(|_| wrong())?))
}

fn list(mut parser: lexopt::Parser) -> Result<u8, Error> {
    no_more(&mut parser)?;
    for board in Board::all()? {
        println!("{:12} {:20} tier {}  tested on {}", board.name, board.soc, board.tier, board.tested_on);
    }
    Ok(0)
}

fn print_system_calls(mut parser: lexopt::Parser) -> Result<u8, Error> {
    no_more(&mut parser)?;
    print!("{}", system_calls::page()?);
    Ok(0)
}

fn check_layers(mut parser: lexopt::Parser) -> Result<u8, Error> {
    no_more(&mut parser)?;
    let mut findings = layers::check()?;
    findings.extend(system_calls::check()?);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("layers: every crate imports only what it may; docs/system-calls.md is current");
        Ok(0)
    } else {
        Err(Error::Findings(findings.len()))
    }
}

fn help() -> Result<u8, Error> {
    print!("{HELP}");
    Ok(0)
}

/// The path when it exists, else how to make it.
fn built(path: PathBuf, remedy: &'static str) -> Result<PathBuf, Error> {
    if path.exists() { Ok(path) } else { Err(Error::NotBuilt { path, remedy }) }
}

fn usage(error: lexopt::Error) -> Error {
    Error::Usage(error.to_string())
}

fn no_more(parser: &mut lexopt::Parser) -> Result<(), Error> {
    parser.next().map_err(usage)?.map_or(Ok(()), |other| Err(usage(other.unexpected())))
}

fn value(parser: &mut lexopt::Parser) -> Result<OsString, Error> {
    parser.value().map_err(usage)
}

fn path(parser: &mut lexopt::Parser) -> Result<PathBuf, Error> {
    value(parser).map(Into::into)
}

fn text(parser: &mut lexopt::Parser) -> Result<String, Error> {
    value(parser)?.string().map_err(usage)
}

fn number(parser: &mut lexopt::Parser) -> Result<u32, Error> {
    value(parser)?.parse().map_err(usage)
}

fn seconds(parser: &mut lexopt::Parser) -> Result<Duration, Error> {
    let value = value(parser)?;
    let number: f64 = value.parse().map_err(usage)?;
    Duration::try_from_secs_f64(number)
        .map_err(|_| Error::Usage(format!("--timeout takes a number of seconds, not `{}`", value.display())))
}
