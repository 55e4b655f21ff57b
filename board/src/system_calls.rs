//! Writes `docs/system-calls.md`: every Linux system call of arm64, and whether the kernel has it.
//!
//! The numbers are read from the source of `linux-raw-sys`, which generates them from Linux's headers: compiled into
//! a host program it would have the host's. The handlers are read from the kernel's table, one line for each call.
//! So the page is made of the two lists that the kernel itself is made of, and [`check`] tells when it is out of date.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::workspace;

/// The kernel's table.
const TABLE: &str = "kernel/src/syscall/table.rs";
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
    render(&numbers, &handlers)
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

fn render(numbers: &BTreeMap<u32, String>, handlers: &BTreeMap<String, Handler>) -> Result<String, Error> {
    if handlers.is_empty() {
        return Err(Error::Calls(format!("{TABLE} has no line `(linux::__NR_name, area::function),`")));
    }
    if let Some(name) = handlers.keys().find(|&name| !numbers.values().any(|known| known == name)) {
        return Err(Error::Calls(format!("{TABLE}: arm64 has no call `{name}` in {}", NUMBERS.0)));
    }
    let mut page = format!(
        "# System calls\n\n\
         Made by `cargo board system-calls > {PAGE}` from `{TABLE}` and the\n\
         numbers of the crate `{}`. Do not edit it; `make lint` fails when it is out of date.\n\n\
         Of the {} system calls that Linux has on arm64, {} have a handler. All others answer ENOSYS (\"Function not\n\
         implemented\"), and the log says so where it shows debug lines (`piton.log=debug`).\n\n\
         A handler may still refuse an operation or flag that it does not know. Calls that share a handler differ on\n\
         Linux only in what does not exist here: users other than root, a disk to write to, memory that is swapped out.\n\n\
         ## With a handler\n\n\
         | Number | Call | Handler, in `kernel/src/syscall/` |\n|---:|---|---|\n",
        NUMBERS.0,
        numbers.len(),
        handlers.len(),
    );
    let mut absent = String::from("\n## ENOSYS\n\n| Number | Call |\n|---:|---|\n");
    for (number, name) in numbers {
        // Writing to a String cannot fail.
        let _ = match handlers.get(name) {
            Some(handler) => writeln!(page, "| {number} | `{name}` | `{}::{}` |", handler.area, handler.function),
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
        let page = render(&numbers(SOURCE), &handlers(LINES)).expect("a page");
        assert!(page.contains("Of the 2 system calls that Linux has on arm64, 1 have a handler"));
        let (with, without) = page.split_once("## ENOSYS").expect("two lists");
        assert!(with.contains("| 63 | `read` | `file_io::sys_read` |\n"));
        assert!(without.ends_with("| 76 | `splice` |\n"));
    }

    #[test]
    fn table_in_another_form_is_refused() {
        assert!(matches!(render(&numbers(SOURCE), &handlers("")), Err(Error::Calls(_))));
        assert!(matches!(render(&BTreeMap::new(), &handlers(LINES)), Err(Error::Calls(_))));
    }
}
