//! Takes one file out of a Debian package, for other crates: `make bench` gets Debian's own Linux kernel this way.
//!
//! The package comes from the same suites and through the same private apt as the root image ([`apt`]). Many packages
//! with a name that does not change hold nothing and depend on the ones that do, in exactly their own version (a
//! kernel's have its release in their name), so a file that is not in the package itself is looked for in those.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{self, Package};
use crate::arch::Arch;
use crate::error::Error;
use crate::glob;
use crate::packages::{Choice, Selection};
use crate::{needs, run};

/// Most packages that are looked into: a wrong pattern must not download half an archive.
const MOST_PACKAGES: usize = 8;

/// What to fetch.
#[derive(Debug)]
pub struct Request {
    /// Directory of the private apt.
    pub cache: PathBuf,
    /// Architecture of the package.
    pub arch: &'static Arch,
    /// Name of the package.
    pub package: String,
    /// Which file, in the notation of [`glob`].
    pub pattern: String,
    /// Where the file goes. The package it came from is noted beside it, in `OUT.origin`.
    pub out: PathBuf,
    /// Suites to look in, by preference.
    pub choices: Vec<Choice>,
    /// Ask the mirror again.
    pub refresh: bool,
}

impl Request {
    /// Where it is noted what [`Request::out`] is.
    fn origin_file(&self) -> PathBuf {
        let mut name = self.out.as_os_str().to_owned();
        name.push(".origin");
        PathBuf::from(name)
    }

    /// The first line of that note: another request must not be answered with this file.
    fn key(&self) -> String {
        let Request { package, pattern, .. } = self;
        format!("{package} {} {pattern}", self.arch.debian)
    }
}

/// Fetches the file unless it is there. Answers the package it came from, as `NAME VERSION SUITE`.
pub fn fetch(request: &Request) -> Result<String, Error> {
    let known = fs::read_to_string(request.origin_file()).unwrap_or_default();
    if let Some((key, origin)) = known.trim_end().split_once('\n')
        && key == request.key()
        && request.out.is_file()
        && !request.refresh
    {
        return Ok(origin.to_owned());
    }
    needs::check()?;
    run::make_dir(&request.cache)?;
    // The state directories of apt are those of the image builds.
    let lock_path = request.cache.join("in-use");
    let guard = fs::File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
    if guard.try_lock().is_err() {
        run::progress("waiting for a build to finish");
        guard.lock().map_err(Error::io("lock", &lock_path))?;
    }

    let mut choices = request.choices.clone();
    let mut pending = VecDeque::from([request.package.clone()]);
    let mut seen = vec![request.package.clone()];
    while let Some(name) = pending.pop_front() {
        let lock_file = request.cache.join(format!("fetch-{name}-{}.lock", request.arch.debian));
        let alone = |_: &str| Selection { with_dependencies: Vec::new(), alone: vec![name.clone()] };
        let lock = apt::obtain(&request.cache, &lock_file, request.arch.debian, &choices, alone, request.refresh)?;
        // What belongs together comes from one suite.
        choices.retain(|choice| choice.suite == lock.suite);
        let archives = apt::archives(&request.cache, &lock, request.arch.debian);
        for package in &lock.packages {
            let archive = archives.join(package.file_name());
            if take(request, &archive)? {
                let origin = format!("{} {} {}", package.name, package.version, lock.suite);
                run::write_file(&request.origin_file(), format!("{}\n{origin}\n", request.key()))?;
                return Ok(origin);
            }
            for next in same_version(package, &archive)? {
                if seen.len() < MOST_PACKAGES && !seen.contains(&next) {
                    seen.push(next.clone());
                    pending.push_back(next);
                }
            }
        }
    }
    Err(Error::Usage(format!("no file matches `{}` in {}", request.pattern, seen.join(", "))))
}

/// Copies the first matching file of a package to where it is wanted; `false` when there is none.
fn take(request: &Request, archive: &Path) -> Result<bool, Error> {
    let tree = request.cache.join("fetch-tree");
    run::remove_tree(&tree)?;
    run::make_dir(&tree)?;
    run::output(run::command("dpkg-deb").arg("--extract").arg(archive).arg(&tree))?;
    let found = run::walk(&tree)?.into_iter().map(|path| (tree.join(&path), path)).find(|(full, path)| {
        glob::matches(&request.pattern, &path.to_string_lossy()) && !full.is_symlink() && full.is_file()
    });
    if let Some((full, _)) = &found {
        if let Some(parent) = request.out.parent() {
            run::make_dir(parent)?;
        }
        let partial = request.out.with_extension("partial");
        fs::copy(full, &partial).map_err(Error::io("write", &partial))?;
        fs::rename(&partial, &request.out).map_err(Error::io("rename", &partial))?;
    }
    run::remove_tree(&tree)?;
    Ok(found.is_some())
}

/// Names of the packages that this one depends on in exactly its own version.
fn same_version(package: &Package, archive: &Path) -> Result<Vec<String>, Error> {
    let depends = run::output(run::command("dpkg-deb").arg("--field").arg(archive).arg("Depends"))?;
    Ok(tied(&depends, &package.version))
}

/// The entries `NAME (= VERSION)` of a dependency field that have no alternative (Debian Policy, 7.1).
fn tied(depends: &str, version: &str) -> Vec<String> {
    depends
        .split(',')
        .filter_map(|entry| {
            let (name, rest) = entry.trim().split_once(' ')?;
            let wanted = rest.trim().strip_prefix("(=")?.strip_suffix(')')?;
            (wanted.trim() == version).then(|| name.split(':').next().unwrap_or(name).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dependencies_in_the_same_version_are_followed() {
        let depends = "dracut | initramfs-tools (>= 0.120), linux-base-x (= 7.2-1), other (= 7.1-1), \
                       a (= 7.2-1) | b, linux-binary-x:arm64 (= 7.2-1)\n";
        assert_eq!(tied(depends, "7.2-1"), ["linux-base-x", "linux-binary-x"]);
        assert!(tied("\n", "7.2-1").is_empty());
    }

    #[test]
    fn file_fetched_by_the_same_request_is_not_fetched_again() {
        let folder = std::env::temp_dir().join(format!("piton-fetch-{}", std::process::id()));
        let mut request = Request {
            // Asking apt would fail: this directory cannot be made.
            cache: PathBuf::from("/dev/null/cache"),
            arch: Arch::by_name("arm64").unwrap(),
            package: "thing".to_owned(),
            pattern: "usr/**".to_owned(),
            out: folder.join("thing"),
            choices: Vec::new(),
            refresh: false,
        };
        run::write_file(&request.out, "x").unwrap();
        run::write_file(&request.origin_file(), "thing arm64 usr/**\nthing 1-1 forky\n").unwrap();
        assert_eq!(fetch(&request).unwrap(), "thing 1-1 forky");
        request.package = "another".to_owned();
        assert!(fetch(&request).is_err());
        run::remove_tree(&folder).unwrap();
    }
}
