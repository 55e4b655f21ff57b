//! Compiling every Python module of a tree to an unchecked-hash `.pyc` (PEP 552).
//!
//! The `.pyc` format belongs to a Python version but not to an architecture, so the compiling Python is that of the
//! build machine's architecture, from the same suite, started through its own dynamic loader: nothing is emulated
//! and nothing is installed. `compile.py` says why each module is compiled in a process of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::arch::Arch;
use crate::error::Error;
use crate::run;

/// The program that runs in the compiling Python.
pub const SCRIPT: &str = include_str!("compile.py");

/// A Python that runs on the build machine.
pub struct Compiler {
    /// Tree its packages were extracted to.
    pub tree: PathBuf,
    /// Architecture of the build machine.
    pub arch: &'static Arch,
    /// `MAJOR.MINOR`.
    pub python: String,
}

impl Compiler {
    /// Compiles the given modules, and all modules below the given directories, of `tree` (paths relative to it),
    /// beside their sources in `__pycache__`. CPython's own tests hold files that must not compile; anywhere else
    /// that is an error.
    pub fn compile(&self, tree: &Path, places: &[PathBuf]) -> Result<usize, Error> {
        let mut sources = Vec::new();
        for place in places {
            if tree.join(place).is_dir() {
                sources.extend(run::walk(&tree.join(place))?.into_iter().map(|below| place.join(below)));
            } else {
                sources.push(place.clone());
            }
        }
        let mut list = String::new();
        let mut count = 0;
        for relative in sources {
            let is_module = relative.extension().is_some_and(|extension| extension == "py");
            if !is_module || tree.join(&relative).is_symlink() {
                continue;
            }
            let Some(cached) = cached(&relative, &self.python) else {
                continue;
            };
            let (source, target) = (tree.join(&relative), tree.join(cached));
            list.push_str(&format!("{}\0{}\0/{}\n", source.display(), target.display(), relative.display()));
            count += 1;
        }
        let failed = self.run(&list)?;
        let unexpected: Vec<&str> = failed.lines().filter(|line| !line.contains("/test/")).collect();
        if !unexpected.is_empty() {
            return Err(Error::Command {
                command: "compiling Python modules".to_owned(),
                status: format!("{} modules do not compile", unexpected.len()),
                stderr: unexpected.join("\n"),
            });
        }
        Ok(count - failed.lines().count())
    }

    fn run(&self, list: &str) -> Result<String, Error> {
        let libraries = self.tree.join("usr/lib").join(self.arch.multiarch);
        let loader = libraries.join(self.arch.loader);
        let mut command = run::command(&loader);
        command
            .arg("--library-path")
            .arg(&libraries)
            .arg(self.tree.join(format!("usr/bin/python{}", self.python)))
            .args(["-S", "-s", "-B", "-W", "ignore", "-c", SCRIPT])
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONHOME", self.tree.join("usr"))
            .env("PYTHONHASHSEED", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io("start", &loader))?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(list.as_bytes()).map_err(Error::io("write to", &loader))?;
        }
        let result = child.wait_with_output().map_err(Error::io("wait for", &loader))?;
        if !result.status.success() {
            return Err(Error::Command {
                command: "compiling Python modules".to_owned(),
                status: result.status.to_string(),
                stderr: String::new(),
            });
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }
}

/// Where Python looks for the compiled form of a module (PEP 3147).
fn cached(source: &Path, python: &str) -> Option<PathBuf> {
    let name = format!("{}.cpython-{}.pyc", source.file_stem()?.to_str()?, python.replace('.', ""));
    Some(source.parent()?.join("__pycache__").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiled_module_lies_in_the_cache_directory_of_its_source() {
        let found = cached(Path::new("usr/lib/python3.14/json/__init__.py"), "3.14").unwrap();
        assert_eq!(found, Path::new("usr/lib/python3.14/json/__pycache__/__init__.cpython-314.pyc"));
    }
}
