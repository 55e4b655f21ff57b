//! Building a root image, step by step, doing only what has not been done.
//!
//! Three things are kept between runs below `build/cache/rootfs`: the packages (with their lock), the tree made from
//! them, and beside the image a stamp of everything it was made from. A second run reads the stamp and stops. Each
//! step writes beside its result and renames at the end, so that an interrupted run leaves nothing half done.

use std::fs;
use std::path::{Path, PathBuf};

use crate::access::Access;
use crate::apt::{self, Lock};
use crate::arch::Arch;
use crate::erofs::{self, Compression};
use crate::error::Error;
use crate::manifest::{self, Facts};
use crate::packages::{self, CHOICES, Choice};
use crate::pyc::{self, Compiler};
use crate::{glue, needs, run, stage};

/// Largest image, in bytes.
const LIMIT: u64 = 60_000_000;
/// Size, in bytes, up to which the image leaves the prompt room on a machine with 64 MiB: it stays in memory. With 49 MiB
/// the prompt does not come up.
const ROOMY: u64 = 47 << 20;

/// Everything in this program that shapes an image; part of the stamps.
const RECIPE: &[&str] = &[
    include_str!("busybox.rs"),
    include_str!("cabundle.rs"),
    include_str!("erofs.rs"),
    include_str!("image.rs"),
    include_str!("ldcache.rs"),
    include_str!("manifest.rs"),
    include_str!("packages.rs"),
    include_str!("prune.rs"),
    include_str!("pyc.rs"),
    include_str!("stage.rs"),
    pyc::SCRIPT,
];

/// A kind of image.
#[derive(Debug, PartialEq, Eq)]
pub struct Variant {
    /// Name on the command line and in the manifest.
    pub name: &'static str,
    /// Whether CPython's test suite is in it.
    pub tests: bool,
    /// Whether the size limit applies.
    pub bounded: bool,
    /// What is compressed.
    pub compression: Compression,
    /// One line for the help text.
    pub about: &'static str,
}

/// All kinds of images.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "default",
        tests: false,
        bounded: true,
        compression: Compression::Cold,
        about: "programs, libraries and .pyc mapped in place; sources and rarely used files LZ4",
    },
    Variant {
        name: "plain",
        tests: false,
        bounded: false,
        compression: Compression::None,
        about: "nothing compressed",
    },
    Variant { name: "lz4", tests: false, bounded: true, compression: Compression::All, about: "everything LZ4" },
    Variant {
        name: "testsuite",
        tests: true,
        bounded: false,
        compression: Compression::Cold,
        about: "default plus CPython's own test suite",
    },
];

impl Variant {
    /// The variant of that name.
    pub fn by_name(name: &str) -> Result<&'static Variant, Error> {
        VARIANTS.iter().find(|variant| variant.name == name).ok_or_else(|| {
            let known: Vec<&str> = VARIANTS.iter().map(|variant| variant.name).collect();
            Error::Usage(format!("unknown variant `{name}` (known: {})", known.join(", ")))
        })
    }
}

/// What to build.
pub struct Request {
    /// Root of the checkout.
    pub root: PathBuf,
    /// Target architecture.
    pub arch: &'static Arch,
    /// Kind of image.
    pub variant: &'static Variant,
    /// Where the image goes.
    pub out: PathBuf,
    /// Suite asked for; `None` takes the first usable one.
    pub suite: Option<String>,
    /// Ask the mirror again, and build again.
    pub refresh: bool,
    /// Print what pruning left out as a Markdown table.
    pub report: bool,
}

impl Request {
    /// Directory of what is kept between runs.
    pub fn cache(&self) -> PathBuf {
        self.root.join("build/cache/rootfs")
    }

    /// Part of cache names that separates suites and package sets.
    fn flavour(&self) -> String {
        let tests = if self.variant.tests { "-tests" } else { "" };
        let suite = self.suite.as_ref().map(|suite| format!("-{suite}")).unwrap_or_default();
        format!("{}{tests}{suite}", self.arch.debian)
    }

    /// The finished tree of the last build of this variant.
    pub fn tree(&self) -> PathBuf {
        self.cache().join(format!("tree-{}-{}", self.flavour(), self.variant.name))
    }

    /// The suites to take packages from, by preference.
    pub fn choices(&self) -> Result<Vec<Choice>, Error> {
        let chosen: Vec<Choice> = CHOICES
            .iter()
            .filter(|choice| self.suite.as_ref().is_none_or(|suite| suite == choice.suite))
            .copied()
            .collect();
        if chosen.is_empty() {
            let known: Vec<&str> = CHOICES.iter().map(|choice| choice.suite).collect();
            return Err(Error::Usage(format!("unknown suite (known: {})", known.join(", "))));
        }
        Ok(chosen)
    }
}

/// Builds the image unless it is there already; answers its size in bytes.
pub fn build(request: &Request) -> Result<u64, Error> {
    needs::check()?;
    let cache = request.cache();
    run::make_dir(&cache)?;
    // Two builds at once would work in the same tree.
    let lock_path = cache.join("in-use");
    let guard = fs::File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
    if guard.try_lock().is_err() {
        run::progress("waiting for another build to finish");
        guard.lock().map_err(Error::io("lock", &lock_path))?;
    }

    let lock_file = cache.join(format!("packages-{}.lock", request.flavour()));
    let tests = request.variant.tests;
    let lock = apt::obtain(
        &cache,
        &lock_file,
        request.arch.debian,
        &request.choices()?,
        |python| packages::selection(python, tests),
        request.refresh,
    )?;

    let base_key = run::sha256_of_text(&format!("{}\n{}", RECIPE.join("\n"), lock.to_text()))?;
    let access = Access::from_environment()?;
    let image_key = run::sha256_of_text(&format!(
        "{base_key}\n{}\n{}{}{}",
        request.variant.name,
        python_fingerprint(&request.root.join("python"))?,
        glue::fingerprint(&request.root)?,
        access.fingerprint()?
    ))?;
    let stamp = with_suffix(&request.out, ".stamp");
    if !request.refresh && !request.report && is_current(&request.out, &stamp, &image_key) {
        let size = file_size(&request.out)?;
        run::progress(&format!("{} is up to date ({size} bytes)", request.out.display()));
        return Ok(size);
    }

    let compiler = compiler(request, &lock)?;
    let base = cache.join(format!("base-{}", request.flavour()));
    let timestamp = base_tree(request, &lock, &compiler, &base, &base_key)?;
    let tree = finished_tree(request, &lock, &compiler, &base, timestamp, &access)?;

    run::progress(&format!("writing the {} image", request.variant.name));
    if let Some(parent) = request.out.parent() {
        run::make_dir(parent)?;
    }
    let partial = with_suffix(&request.out, ".partial");
    erofs::write(&partial, &tree, &cache, timestamp, request.variant.compression)?;
    let size = file_size(&partial)?;
    if request.variant.bounded && size > LIMIT {
        return Err(Error::TooLarge { bytes: size, limit: LIMIT });
    }
    if request.variant.bounded && size > ROOMY {
        run::progress(&format!(
            "notice: {size} bytes are more than the {ROOMY} that a machine with 64 MiB has room for; \
             see cpython/src/prune.rs and erofs.rs"
        ));
    }
    fs::rename(&partial, &request.out).map_err(Error::io("rename", &partial))?;
    run::write_file(&stamp, format!("{image_key} {size}\n"))?;
    run::progress(&format!(
        "{}: {size} bytes, Python {} of {}",
        request.out.display(),
        lock.python_version(),
        lock.suite
    ));
    Ok(size)
}

/// A Python of the same version that runs on this machine.
fn compiler(request: &Request, lock: &Lock) -> Result<Compiler, Error> {
    let host = run::output(run::command("dpkg").arg("--print-architecture"))?;
    let arch = Arch::by_name(host.trim())?;
    let cache = request.cache();
    let lock_file = cache.join(format!("compiler-{}-{}.lock", lock.suite, arch.debian));
    let choices: Vec<Choice> = request.choices()?.into_iter().filter(|choice| choice.suite == lock.suite).collect();
    let compiler_lock =
        apt::obtain(&cache, &lock_file, arch.debian, &choices, packages::compiler_selection, request.refresh)?;
    let tree = cache.join(format!("compiler-{}-{}", lock.suite, arch.debian));
    let key = run::sha256_of_text(&compiler_lock.to_text())?;
    let stamp = with_suffix(&tree, ".stamp");
    if fs::read_to_string(&stamp).is_ok_and(|known| known == key) && tree.is_dir() {
        return Ok(Compiler { tree, arch, python: lock.python.clone() });
    }
    run::remove_tree(&tree)?;
    stage::extract(&tree, &compiler_lock, &apt::archives(&cache, &compiler_lock, arch.debian))?;
    run::write_file(&stamp, key)?;
    Ok(Compiler { tree, arch, python: lock.python.clone() })
}

/// The tree made from packages alone, with compiled modules; answers the time stamp for its files.
fn base_tree(request: &Request, lock: &Lock, compiler: &Compiler, base: &Path, key: &str) -> Result<u64, Error> {
    let stamp = with_suffix(base, ".stamp");
    let known = fs::read_to_string(&stamp).unwrap_or_default();
    if let Some((stamped, timestamp)) = known.trim().split_once(' ') {
        let reusable = stamped == key && base.is_dir() && !request.report && !request.refresh;
        if let (true, Ok(timestamp)) = (reusable, timestamp.parse()) {
            return Ok(timestamp);
        }
    }
    run::write_file(&stamp, "")?;
    run::remove_tree(base)?;
    let archives = apt::archives(&request.cache(), lock, request.arch.debian);
    let summary = stage::base(base, lock, &archives, request.arch, request.variant.tests)?;
    if request.report {
        println!("| left out | files | KiB | why |\n|---|---:|---:|---|");
        for (rule, bytes, files) in summary.pruned.iter().filter(|(_, _, files)| *files > 0) {
            let patterns: Vec<String> = rule.patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
            println!("| {} | {files} | {} | {} |", patterns.join(" "), bytes.div_ceil(1024), rule.reason);
        }
    }
    run::progress("compiling Python modules");
    let library = PathBuf::from(format!("usr/lib/python{}", lock.python));
    let count = compiler.compile(base, &[library, PathBuf::from(stage::DIST_PACKAGES)])?;
    run::progress(&format!("compiled {count} modules"));
    run::write_file(&stamp, format!("{key} {}\n", summary.newest))?;
    Ok(summary.newest)
}

/// A copy of the base tree (by hard links) with Piton's own modules and the manifest.
fn finished_tree(
    request: &Request,
    lock: &Lock,
    compiler: &Compiler,
    base: &Path,
    timestamp: u64,
    access: &Access,
) -> Result<PathBuf, Error> {
    let tree = request.tree();
    run::remove_tree(&tree)?;
    run::output(run::command("cp").args(["--archive", "--link", "--no-target-directory"]).arg(base).arg(&tree))?;
    let names = stage::add_python_packages(&tree, &request.root.join("python"))?;
    glue::compile(&request.root, request.arch, &tree.join(stage::DIST_PACKAGES))?;
    let places: Vec<PathBuf> = names.iter().map(|name| Path::new(stage::DIST_PACKAGES).join(name)).collect();
    compiler.compile(&tree, &places)?;
    let facts = Facts { arch: request.arch.debian, variant: request.variant.name, timestamp };
    run::write_file(&tree.join(manifest::PATH), manifest::render(lock, &facts))?;
    access.write(&tree)?;
    stage::set_modes(&tree)?;
    for path in access.paths() {
        stage::set_mode(&tree.join(path), 0o600)?;
    }
    Ok(tree)
}

/// Path and hash of every file of Piton's own that goes into the image.
fn python_fingerprint(python: &Path) -> Result<String, Error> {
    let files: Vec<PathBuf> = stage::python_sources(python)?.iter().map(|path| python.join(path)).collect();
    let sums = run::sha256_of_files(&files)?;
    Ok(sums
        .iter()
        .map(|(path, sum)| format!("{sum} {}\n", path.strip_prefix(python).unwrap_or(path).display()))
        .collect())
}

fn is_current(image: &Path, stamp: &Path, key: &str) -> bool {
    let expected = |size: u64| format!("{key} {size}\n");
    match (fs::metadata(image), fs::read_to_string(stamp)) {
        (Ok(metadata), Ok(known)) => known == expected(metadata.len()),
        _ => false,
    }
}

fn file_size(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).map(|metadata| metadata.len()).map_err(Error::io("inspect", path))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_is_added_to_the_whole_name() {
        assert_eq!(with_suffix(Path::new("a/rootfs.erofs"), ".stamp"), Path::new("a/rootfs.erofs.stamp"));
    }

    #[test]
    fn unknown_variant_names_the_known_ones() {
        let text = Variant::by_name("huge").unwrap_err().to_string();
        assert!(text.contains("testsuite"), "{text}");
    }

    #[test]
    fn image_without_a_stamp_is_not_current() {
        assert!(!is_current(Path::new("/nonexistent"), Path::new("/nonexistent.stamp"), "key"));
    }
}
