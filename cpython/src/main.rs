//! Builds the root image that CPython boots from, out of Debian's binary packages.
//!
//! `cargo run -p cpython -- help` lists the commands; `README.md` says what is in an image and what is not. The
//! steps are in [`image`]; the tables a reader may want to change are [`packages`], [`prune`] and [`erofs`].
//! External programs do what they already do well (apt, dpkg-deb, mkfs.erofs); the rest is plain Rust.

#![forbid(unsafe_code)]

mod access;
mod apt;
mod arch;
mod busybox;
mod cabundle;
mod check;
mod elf;
mod erofs;
mod error;
mod fetch;
mod glob;
mod glue;
mod image;
mod ldcache;
mod manifest;
mod needs;
mod packages;
mod prune;
mod pyc;
mod run;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arch::Arch;
use error::Error;
use image::{Request, VARIANTS, Variant};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &[String]) -> Result<(), Error> {
    let (command, options) = arguments.split_first().map_or(("help", &[][..]), |(first, rest)| (first.as_str(), rest));
    match command {
        "build" => image::build(&parse(options)?).map(drop),
        "check" => {
            let request = parse(options)?;
            image::build(&request)?;
            check::check(&request.tree(), request.arch, request.variant.tests)
        }
        "fetch" => {
            println!("{}", fetch::fetch(&parse_fetch(options)?)?);
            Ok(())
        }
        "needs" => {
            needs::apt_packages().iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        "help" | "--help" | "-h" => {
            print!("{}", help());
            Ok(())
        }
        other => Err(Error::Usage(format!("unknown command `{other}`"))),
    }
}

fn help() -> String {
    let mut text = String::from(
        "usage: cargo run -p cpython -- COMMAND [OPTIONS]\n\n\
         build    build the root image (nothing is done when it is up to date)\n\
         check    build, then import every module of the tree under the target's Python\n\
         fetch    PACKAGE --file PATTERN --out FILE: take one file out of a Debian package (or of one that the\n\
         \x20        package depends on in its own version) and print where it came from\n\
         needs    print the Debian packages the build needs, one per line\n\n\
         --arch NAME       arm64 (default) or amd64\n\
         --variant NAME    one of the variants below\n\
         --out FILE        default build/ARCH/rootfs.erofs, with -VARIANT before the dot unless default\n\
         --suite NAME      only this Debian suite (default: the first of forky, trixie that has Python)\n\
         --refresh         ask the mirror for newer packages\n\
         --report          print what pruning leaves out\n\n\
         environment: PITON_MIRROR (Debian mirror), PITON_KEYRING (file with the archive's keys); PITON_REPL_TOKEN,\n\
         PITON_REPL_CERT, PITON_REPL_KEY: who may have a session over the network (docs/using.md)\n\n\
         variants:\n",
    );
    for variant in VARIANTS {
        text.push_str(&format!("  {:<10} {}\n", variant.name, variant.about));
    }
    text
}

fn parse(options: &[String]) -> Result<Request, Error> {
    let root = project_root();
    let (mut arch, mut variant) = (Arch::by_name("arm64")?, Variant::by_name("default")?);
    let (mut out, mut suite, mut refresh, mut report) = (None, None, false, false);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| Error::Usage(format!("option `{option}` needs a value")));
        match option.as_str() {
            "--arch" => arch = Arch::by_name(&value()?)?,
            "--variant" => variant = Variant::by_name(&value()?)?,
            "--out" => out = Some(PathBuf::from(value()?)),
            "--suite" => suite = Some(value()?),
            "--refresh" => refresh = true,
            "--report" => report = true,
            other => return Err(Error::Usage(format!("unknown option `{other}`"))),
        }
    }
    let out = out.unwrap_or_else(|| default_out(&root, arch, variant));
    Ok(Request { root, arch, variant, out, suite, refresh, report })
}

/// The options of `fetch`, the package first.
fn parse_fetch(options: &[String]) -> Result<fetch::Request, Error> {
    let missing = |what: &str| Error::Usage(format!("`fetch` needs {what}"));
    let (package, options) = options
        .split_first()
        .filter(|(package, _)| !package.starts_with('-'))
        .ok_or_else(|| missing("the name of a package"))?;
    let mut pattern = None;
    let mut others = Vec::new();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        if option == "--file" {
            pattern = rest.next().cloned();
        } else {
            others.push(option.clone());
        }
    }
    if !others.iter().any(|option| option == "--out") {
        return Err(missing("--out FILE"));
    }
    let request = parse(&others)?;
    Ok(fetch::Request {
        cache: request.cache(),
        arch: request.arch,
        package: package.clone(),
        pattern: pattern.ok_or_else(|| missing("--file PATTERN"))?,
        choices: request.choices()?,
        out: request.out,
        refresh: request.refresh,
    })
}

fn default_out(root: &Path, arch: &Arch, variant: &Variant) -> PathBuf {
    let name = match variant.name {
        "default" => "rootfs.erofs".to_owned(),
        other => format!("rootfs-{other}.erofs"),
    };
    root.join("build").join(arch.debian).join(name)
}

/// The checkout: the workspace this crate is a member of.
fn project_root() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory.parent().unwrap_or(crate_directory).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_in_any_order() {
        let request = parse(&words("--variant lz4 --arch arm64 --refresh --out x.erofs")).unwrap();
        assert_eq!((request.variant.name, request.arch.debian, request.refresh), ("lz4", "arm64", true));
        assert_eq!(request.out, Path::new("x.erofs"));
    }

    #[test]
    fn variants_get_their_own_file_name() {
        let name = |variant: &str| {
            let request = parse(&words(&format!("--variant {variant}"))).unwrap();
            request.out.file_name().unwrap().to_string_lossy().into_owned()
        };
        assert_eq!(name("default"), "rootfs.erofs");
        assert_eq!(name("testsuite"), "rootfs-testsuite.erofs");
    }

    #[test]
    fn missing_value_and_unknown_option_are_usage_errors() {
        assert!(matches!(parse(&words("--arch")), Err(Error::Usage(_))));
        assert!(matches!(parse(&words("--fast")), Err(Error::Usage(_))));
        assert!(matches!(execute(&words("bake")), Err(Error::Usage(_))));
    }

    #[test]
    fn fetch_wants_a_package_a_pattern_and_a_place() {
        let request = parse_fetch(&words("thing --file usr/** --out x --arch arm64")).unwrap();
        assert_eq!((request.package.as_str(), request.pattern.as_str()), ("thing", "usr/**"));
        for incomplete in ["", "--out x --file y", "thing --out x", "thing --file y"] {
            assert!(matches!(parse_fetch(&words(incomplete)), Err(Error::Usage(_))), "{incomplete}");
        }
    }

    #[test]
    fn help_lists_every_variant() {
        assert!(VARIANTS.iter().all(|variant| help().contains(variant.name)));
    }
}
