//! Writes `docs/system-calls.md`: every Linux system call of arm64, and whether the kernel has it, wholly or in part.
//!
//! The numbers are read from the source of `linux-raw-sys`, which generates them from Linux's headers: compiled into
//! a host program it would have the host's. The handlers are read from the kernel's table, one line for each call.
//! So the page is made of the two lists that the kernel itself is made of, and [`check`] tells when it is out of date.
//! What a handler does not do, its doc comment says behind [`LACKS`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::workspace;

/// The kernel's table.
const TABLE: &str = "kernel/src/syscall/table.rs";
/// Where the handlers are.
const HANDLERS: &str = "kernel/src/syscall";
/// Begins the end of a handler's doc comment that says what of the call is not there.
const LACKS: &str = "Lacks: ";
/// The page.
const PAGE: &str = "docs/system-calls.md";
/// The crate with the numbers, and where in it those of arm64 are.
const NUMBERS: (&str, &str) = ("linux-raw-sys", "src/aarch64/general.rs");

/// The page as it should be.
///
/// # Errors
/// [`Error::Command`] and [`Error::Io`] when cargo or the files cannot be read, [`Error::Calls`] when they are not
/// written as expected.
pub fn page() -> Result<String, Error> {
    let numbers = numbers(&read(&numbers_file()?)?);
    let handlers = handlers(&read(&workspace::root().join(TABLE))?);
    let mut lacks = BTreeMap::new();
    for file in sources(&workspace::root().join(HANDLERS))? {
        lacks.extend(shortcomings(&read(&file)?));
    }
    render(&numbers, &handlers, &lacks)
}

/// What is wrong with the committed page, one line each.
///
/// # Errors
/// As [`page`].
pub fn check() -> Result<Vec<String>, Error> {
    let current = match fs::read_to_string(workspace::root().join(PAGE)) {
        Ok(text) => text == page()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io(format!("reading {PAGE}"))(error)),
    };
    let finding = || format!("{PAGE} is out of date: make it again with `cargo board system-calls > {PAGE}`");
    Ok((!current).then(finding).into_iter().collect())
}

/// A call's handler: file and function.
#[derive(Debug, PartialEq, Eq)]
struct Handler {
    area: String,
    function: String,
}

/// The names by number.
fn numbers(source: &str) -> BTreeMap<u32, String> {
    let constant = |line: &str| {
        let (name, value) = line.strip_prefix("pub const __NR_")?.split_once(": u32 = ")?;
        Some((value.strip_suffix(';')?.parse().ok()?, name.to_string()))
    };
    source.lines().filter_map(constant).collect()
}

/// The handlers by the call's name.
fn handlers(table: &str) -> BTreeMap<String, Handler> {
    let entry = |line: &str| {
        let (name, path) = line.trim().strip_prefix("(linux::__NR_")?.strip_suffix("),")?.split_once(", ")?;
        let (area, function) = path.split_once("::")?;
        Some((name.to_string(), Handler { area: area.into(), function: function.into() }))
    };
    table.lines().filter_map(entry).collect()
}

/// What the handlers in a source file say they lack, by the function.
fn shortcomings(source: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut comment = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            comment.push_str(text);
            continue;
        }
        let function = line.strip_prefix("pub fn ").and_then(|rest| rest.split_once('(')).map(|(name, _)| name);
        if let (Some(function), Some((_, lacks))) = (function, comment.split_once(LACKS)) {
            found.insert(function.to_string(), lacks.trim_end_matches('.').to_string());
        }
        comment.clear();
    }
    found
}

/// The Rust files in a folder and below.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(format!("reading {}", folder.display())))? {
        let path = entry.map_err(Error::io(format!("reading {}", folder.display())))?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn render(
    numbers: &BTreeMap<u32, String>,
    handlers: &BTreeMap<String, Handler>,
    lacks: &BTreeMap<String, String>,
) -> Result<String, Error> {
    if handlers.is_empty() {
        return Err(Error::Calls(format!("{TABLE} has no line `(linux::__NR_name, area::function),`")));
    }
    if let Some(name) = handlers.keys().find(|&name| !numbers.values().any(|known| known == name)) {
        return Err(Error::Calls(format!("{TABLE}: arm64 has no call `{name}` in {}", NUMBERS.0)));
    }
    let partly = handlers.values().filter(|handler| lacks.contains_key(&handler.function)).count();
    let mut page = format!(
        "# System calls\n\n\
         Made by `cargo board system-calls > {PAGE}` from `{TABLE}` and the\n\
         numbers of the crate `{}`. Do not edit it; `make lint` fails when it is out of date.\n\n\
         Of the {} system calls that Linux has on arm64, {} are there, {partly} of them in part. All others answer\n\
         ENOSYS (\"Function not implemented\"), and the log says so where it shows debug lines (`piton.log=debug`).\n\n\
         ## There\n\n\
         | Number | Call | Handler, in `kernel/src/syscall/` | Lacks |\n|---:|---|---|---|\n",
        NUMBERS.0,
        numbers.len(),
        handlers.len(),
    );
    let mut absent = String::from("\n## ENOSYS\n\n| Number | Call |\n|---:|---|\n");
    for (number, name) in numbers {
        // Writing to a String cannot fail.
        let _ = match handlers.get(name) {
            Some(Handler { area, function }) => {
                let lacks = lacks.get(function).map_or("", String::as_str);
                writeln!(page, "| {number} | `{name}` | `{area}::{function}` | {lacks} |")
            }
            None => writeln!(absent, "| {number} | `{name}` |"),
        };
    }
    Ok(page + &absent)
}

/// The part of `cargo metadata` that is needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// The file with the numbers, wherever cargo has put the crate.
fn numbers_file() -> Result<PathBuf, Error> {
    let metadata: Metadata = workspace::metadata(&[])?;
    let package = metadata.packages.iter().find(|package| package.name == NUMBERS.0);
    package
        .and_then(|package| package.manifest_path.parent())
        .map(|folder| folder.join(NUMBERS.1))
        .ok_or_else(|| Error::Calls(format!("the workspace does not use {}", NUMBERS.0)))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io(format!("reading {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "pub const __NR_read: u32 = 63;\npub const __NR_splice: u32 = 76;\npub const O_RDWR: u32 = 2;\n";
    const LINES: &str = "pub static X: Y = build(&[\n    // fd\n    (linux::__NR_read, file_io::sys_read),\n]);\n";

    #[test]
    fn page_lists_calls_with_and_without_a_handler() {
        let page = render(&numbers(SOURCE), &handlers(LINES), &BTreeMap::new()).expect("a page");
        assert!(page.contains("Of the 2 system calls that Linux has on arm64, 1 are there, 0 of them in part"));
        let (with, without) = page.split_once("## ENOSYS").expect("two lists");
        assert!(with.contains("| 63 | `read` | `file_io::sys_read` |  |\n"));
        assert!(without.ends_with("| 76 | `splice` |\n"));
    }

    #[test]
    fn page_says_what_a_handler_lacks() {
        let source = "/// [read(2)](x). Fast. Lacks: reading\n/// backwards.\npub fn sys_read(call: &mut Call<'_>) -> R {\n}\n\
                      /// [write(2)](x).\npub fn sys_write() {}\n";
        let lacks = shortcomings(source);
        assert_eq!(lacks.len(), 1);
        let page = render(&numbers(SOURCE), &handlers(LINES), &lacks).expect("a page");
        assert!(page.contains("| 63 | `read` | `file_io::sys_read` | reading backwards |\n"));
        assert!(page.contains("1 of them in part"));
    }

    #[test]
    fn table_in_another_form_is_refused() {
        assert!(matches!(render(&numbers(SOURCE), &handlers(""), &BTreeMap::new()), Err(Error::Calls(_))));
        assert!(matches!(render(&BTreeMap::new(), &handlers(LINES), &BTreeMap::new()), Err(Error::Calls(_))));
    }
}
