//! Checks who imports whom (DESIGN.md section 2).
//!
//! Two checks: the dependencies between the workspace's own crates, as `cargo metadata` tells them, and the places
//! where `cfg(target_arch)` is written. Development dependencies do not count: a test may use what it likes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::workspace;

/// Each crate with the crates of ours it may import. A crate that is missing here is itself a finding.
///
/// `kernel` reaches its architecture through `src/arch.rs` only, which the search for `cfg(target_arch)` checks.
const RULES: &[(&str, &[&str])] = &[
    ("kernel", &["klib", "abi", "hal", "dtb", "drivers", "arch-aarch64"]),
    ("drivers", &["hal"]),
    ("arch-aarch64", &["klib", "hal"]),
    ("klib", &["hal", "abi"]),
    ("hal", &[]),
    ("abi", &[]),
    ("dtb", &[]),
    ("cpython", &["abi"]),
    ("board", &[]),
    ("tests", &["board", "klib", "abi", "hal", "dtb", "drivers"]),
];

/// Where `cfg(target_arch)` may be written.
const ARCH_PLACES: &[&str] = &["kernel/src/arch.rs", "kernel/arch/"];
/// Where else it has to be spoken of.
const CHECKER: &str = "board/src/layers.rs";

/// Checks the source tree and returns what is wrong, one line each.
///
/// # Errors
/// [`Error::Command`] and [`Error::Io`] when cargo or the files cannot be read.
pub fn check() -> Result<Vec<String>, Error> {
    let root = workspace::root();
    let mut findings = imports(&workspace::metadata(&["--no-deps"])?);
    let mut files = Vec::new();
    rust_files(&root, &mut files)?;
    for path in files {
        let text = fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))?;
        let place = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        findings.extend(arch_conditions(&place, &text));
        findings.extend(arch_imports(&place, &text));
    }
    Ok(findings)
}

/// The part of `cargo metadata` that is needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null` for a plain dependency, else `dev` or `build`.
    kind: Option<String>,
    /// Set for a crate of the workspace.
    path: Option<PathBuf>,
}

/// Imports that the rules do not allow.
fn imports(metadata: &Metadata) -> Vec<String> {
    let rules: BTreeMap<_, _> = RULES.iter().copied().collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let Some(allowed) = rules.get(package.name.as_str()) else {
            findings.push(format!("{}: no rule says what it may import", package.name));
            continue;
        };
        let ours = package.dependencies.iter().filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev"));
        for dependency in ours.filter(|d| !allowed.contains(&d.name.as_str())) {
            findings.push(format!("{} imports {}, which it may not", package.name, dependency.name));
        }
    }
    findings
}

/// Lines with a condition on the architecture outside the places for it.
fn arch_conditions(place: &str, text: &str) -> Vec<String> {
    if place == CHECKER || ARCH_PLACES.iter().any(|p| place.starts_with(p)) {
        return Vec::new();
    }
    lines(place, text, |line| line.contains("target_arch")).map(|l| format!("{l}: cfg(target_arch)")).collect()
}

/// Lines of the kernel that name an architecture crate elsewhere than in `src/arch.rs`.
fn arch_imports(place: &str, text: &str) -> Vec<String> {
    if !place.starts_with("kernel/src/") || place == "kernel/src/arch.rs" {
        return Vec::new();
    }
    lines(place, text, |line| line.contains("arch_aarch64")).map(|l| format!("{l}: names an arch crate")).collect()
}

/// `place:line` of the lines of code, not comment, that match.
fn lines<'a>(place: &'a str, text: &'a str, matches: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = String> + 'a {
    text.lines()
        .enumerate()
        .filter(move |(_, line)| !line.trim_start().starts_with("//") && matches(line))
        .map(move |(number, _)| format!("{place}:{}", number + 1))
}

/// Collects the `.rs` files under `folder`, leaving out what is built and hidden.
fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let what = || format!("listing {}", folder.display());
    let mut entries =
        fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(Error::io(what()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().map_err(Error::io(what()))?;
        if kind.is_dir() && !name.starts_with('.') && !["build", "target"].contains(&&*name) {
            rust_files(&entry.path(), files)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Metadata {
        let dependency = Dependency { name: dependency.into(), kind: kind.map(Into::into), path: Some("x".into()) };
        Metadata { packages: vec![Package { name: name.into(), dependencies: vec![dependency] }] }
    }

    #[test]
    fn driver_that_imports_the_kernel_is_found() {
        assert_eq!(imports(&package("drivers", "klib", None)), ["drivers imports klib, which it may not"]);
        assert!(imports(&package("drivers", "hal", None)).is_empty());
    }

    #[test]
    fn development_dependencies_are_free() {
        assert!(imports(&package("hal", "klib", Some("dev"))).is_empty());
        assert_eq!(imports(&package("hal", "klib", Some("build"))).len(), 1);
    }

    #[test]
    fn crate_without_a_rule_is_found() {
        assert_eq!(imports(&package("newcomer", "hal", None)), ["newcomer: no rule says what it may import"]);
    }

    #[test]
    fn architecture_conditions_have_their_place() {
        let line = "#[cfg(target_arch = \"aarch64\")]\n";
        assert_eq!(arch_conditions("kernel/src/boot.rs", line), ["kernel/src/boot.rs:1: cfg(target_arch)"]);
        assert!(arch_conditions("kernel/src/arch.rs", line).is_empty());
        assert!(arch_conditions("kernel/arch/aarch64/src/mmu.rs", line).is_empty());
        assert!(arch_conditions("kernel/src/boot.rs", "// no target_arch here\n").is_empty());
    }

    #[test]
    fn kernel_names_its_architecture_in_one_file() {
        let line = "use arch_aarch64::mmu;\n";
        assert_eq!(arch_imports("kernel/src/boot.rs", line), ["kernel/src/boot.rs:1: names an arch crate"]);
        assert!(arch_imports("kernel/src/arch.rs", line).is_empty());
    }
}
