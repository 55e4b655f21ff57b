//! Laying out the tree that becomes the root image.
//!
//! [`base`] makes everything that comes from packages: extraction, the /usr-merge links, pruning, and what the
//! packages' set-up programs would have written (certificates, loader cache, accounts, time zone).
//! [`add_python_packages`] adds Piton's own modules, which change far more often.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::apt::Lock;
use crate::arch::Arch;
use crate::error::Error;
use crate::prune::{self, Rule};
use crate::{busybox, cabundle, ldcache, run};

/// Where Debian's Python looks for packaged modules.
pub const DIST_PACKAGES: &str = "usr/lib/python3/dist-packages";

/// Directories that exist empty in the image: mount points and places that a file system is put over.
const EMPTY_DIRECTORIES: &[(&str, u32)] = &[
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("tmp", 0o1777),
    ("run", 0o755),
    ("data", 0o755),
    ("root", 0o700),
    ("mnt", 0o755),
    ("var/tmp", 0o1777),
];

/// Links of the /usr merge and of programs that expect Debian's set-up to have run: (link, target).
const LINKS: &[(&str, &str)] = &[
    ("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
    ("etc/mtab", "../proc/self/mounts"),
    ("etc/os-release", "../usr/lib/os-release"),
    ("etc/resolv.conf", "../run/resolv.conf"),
    ("var/run", "../run"),
];

/// Small settings files.
const FILES: &[(&str, &str)] = &[
    ("etc/shells", "/bin/sh\n/usr/bin/sh\n/usr/bin/ash\n/usr/bin/python3\n"),
    ("etc/hostname", "piton\n"),
    ("etc/hosts", "127.0.0.1 localhost piton\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/host.conf", "multi on\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nservices: files\nprotocols: files\n",
    ),
    // The owner of the machine is root, and pip is its only package manager: what pip warns of cannot happen.
    ("etc/pip.conf", "[global]\nroot-user-action = ignore\n"),
    ("etc/timezone", "Etc/UTC\n"),
    (
        "usr/lib/os-release",
        concat!(
            "NAME=Piton\nID=piton\nPRETTY_NAME=\"Piton ",
            env!("CARGO_PKG_VERSION"),
            "\"\nVERSION_ID=",
            env!("CARGO_PKG_VERSION"),
            "\n"
        ),
    ),
];

/// What [`base`] found out on the way.
pub struct Summary {
    /// Modification time of the newest packaged file, seconds since 1970.
    pub newest: u64,
    /// Bytes and files each rule left out, in the order of the rules.
    pub pruned: Vec<(&'static Rule, u64, u64)>,
}

/// Makes the tree from the packages of `lock`, which are in `archives`.
pub fn base(tree: &Path, lock: &Lock, archives: &Path, arch: &Arch, tests: bool) -> Result<Summary, Error> {
    extract(tree, lock, archives)?;
    merge_usr(tree)?;
    let newest = newest_file(tree)?;
    let certificates = cabundle::write(tree)?;
    copy_if_there(tree, "usr/share/readline/inputrc", "etc/inputrc")?;
    let pruned = apply_rules(tree, tests)?;
    write_accounts(tree)?;
    let applets = busybox::link(tree)?;
    share_licences(tree)?;
    for (path, _) in EMPTY_DIRECTORIES {
        run::make_dir(&tree.join(path))?;
    }
    for (path, text) in FILES {
        replace(&tree.join(path))?;
        run::write_file(&tree.join(path), text)?;
    }
    for (link, target) in LINKS {
        make_link(&tree.join(link), target)?;
    }
    let python = format!("python{}", lock.python);
    if !tree.join("usr/bin").join(&python).is_file() {
        return Err(Error::Layout {
            path: PathBuf::from(format!("/usr/bin/{python}")),
            why: "Python itself is not there",
        });
    }
    // pip's own copy of the certificates is the same list again.
    let pip_certificates = "usr/lib/python3/dist-packages/pip/_vendor/certifi/cacert.pem";
    if tree.join(pip_certificates).is_file() {
        make_link(&tree.join(pip_certificates), &format!("/{}", cabundle::PATH))?;
    }
    for name in ["python3", "python"] {
        make_link(&tree.join("usr/bin").join(name), &python)?;
    }
    let libraries = ldcache::write(tree, arch)?;
    run::progress(&format!("{certificates} certificates, {libraries} shared libraries, {applets} links to BusyBox"));
    Ok(Summary { newest, pruned })
}

/// Unpacks packages into a tree.
pub fn extract(tree: &Path, lock: &Lock, archives: &Path) -> Result<(), Error> {
    run::make_dir(tree)?;
    run::progress(&format!("unpacking {} packages", lock.packages.len()));
    for package in &lock.packages {
        run::output(run::command("dpkg-deb").arg("--extract").arg(archives.join(package.file_name())).arg(tree))?;
    }
    Ok(())
}

/// Moves what a package still ships outside /usr into it and makes the links of Debian's /usr merge.
fn merge_usr(tree: &Path) -> Result<(), Error> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let outside = tree.join(name);
        let inside = tree.join("usr").join(name);
        if outside.is_dir() && !outside.is_symlink() {
            for relative in run::walk(&outside)? {
                let target = inside.join(&relative);
                if let Some(parent) = target.parent() {
                    run::make_dir(parent)?;
                }
                let source = outside.join(&relative);
                fs::rename(&source, &target).map_err(Error::io("move", &source))?;
            }
            run::remove_tree(&outside)?;
        }
        if name == "lib64" && !inside.is_dir() {
            make_link(&outside, "usr/lib")?;
        } else {
            run::make_dir(&inside)?;
            make_link(&outside, &format!("usr/{name}"))?;
        }
    }
    Ok(())
}

fn newest_file(tree: &Path) -> Result<u64, Error> {
    let mut newest = 0;
    for relative in run::walk(tree)? {
        let path = tree.join(relative);
        let metadata = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?;
        if metadata.is_file() {
            newest = newest.max(u64::try_from(metadata.mtime()).unwrap_or(0));
        }
    }
    Ok(newest)
}

/// Removes what the rules leave out, then directories that are empty because of it.
fn apply_rules(tree: &Path, tests: bool) -> Result<Vec<(&'static Rule, u64, u64)>, Error> {
    let mut pruned: Vec<(&'static Rule, u64, u64)> = prune::RULES.iter().map(|rule| (rule, 0, 0)).collect();
    for relative in run::walk(tree)? {
        let Some(rule) = relative.to_str().and_then(|path| prune::dropped_by(path, tests)) else {
            continue;
        };
        let path = tree.join(&relative);
        let size = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?.len();
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        for entry in pruned.iter_mut().filter(|entry| std::ptr::eq(entry.0, rule)) {
            entry.1 += size;
            entry.2 += 1;
        }
    }
    remove_empty_directories(tree)?;
    Ok(pruned)
}

/// Answers whether the directory itself was removed.
fn remove_empty_directories(directory: &Path) -> Result<bool, Error> {
    let mut empty = true;
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let is_directory = entry.file_type().map_err(Error::io("inspect", &entry.path()))?.is_dir();
        empty &= is_directory && remove_empty_directories(&entry.path())?;
    }
    if empty {
        fs::remove_dir(directory).map_err(Error::io("remove", directory))?;
    }
    Ok(empty)
}

/// Writes /etc/passwd and /etc/group from Debian's own lists, as its set-up does on a new system: nobody has a password,
/// and the shell of root is the one there is.
fn write_accounts(tree: &Path) -> Result<(), Error> {
    for (list, file) in [("passwd.master", "etc/passwd"), ("group.master", "etc/group")] {
        let source = tree.join("usr/share/base-passwd").join(list);
        let text = String::from_utf8_lossy(&run::read_file(&source)?).replace("/bin/bash\n", "/bin/sh\n");
        run::write_file(&tree.join(file), text)?;
    }
    run::remove_tree(&tree.join("usr/share/base-passwd"))
}

/// Makes equal licence texts one file: the packages of one source carry the same.
fn share_licences(tree: &Path) -> Result<(), Error> {
    let directory = tree.join("usr/share/doc");
    let files: Vec<PathBuf> = run::walk(&directory)?.into_iter().map(|relative| directory.join(relative)).collect();
    let mut first_of: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, sum) in run::sha256_of_files(&files)? {
        match first_of.get(&sum) {
            Some(first) => {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                fs::hard_link(first, &path).map_err(Error::io("link", &path))?;
            }
            None => {
                first_of.insert(sum, path);
            }
        }
    }
    Ok(())
}

/// Copies Piton's packages and modules into the directory Debian's Python searches; answers the top-level names.
pub fn add_python_packages(tree: &Path, python: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut names = Vec::new();
    for relative in python_sources(python)? {
        let target = Path::new(DIST_PACKAGES).join(&relative);
        replace(&tree.join(&target))?;
        run::write_file(&tree.join(&target), run::read_file(&python.join(&relative))?)?;
        if let Some(Component::Normal(first)) = relative.components().next() {
            names.push(PathBuf::from(first));
        }
    }
    names.dedup();
    Ok(names)
}

/// Files below `python/` that belong into the image: no tests, caches, notes or build settings.
pub fn python_sources(python: &Path) -> Result<Vec<PathBuf>, Error> {
    if !python.is_dir() {
        return Ok(Vec::new());
    }
    let all = run::walk(python)?;
    Ok(all.into_iter().filter(|path| is_packaged_source(path)).collect())
}

fn is_packaged_source(path: &Path) -> bool {
    let unwanted_directory = path.parent().into_iter().flat_map(Path::components).any(|component| {
        let name = component.as_os_str().to_string_lossy();
        matches!(&*name, "test" | "tests" | "__pycache__") || name.starts_with('.') || name.ends_with(".egg-info")
    });
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unwanted_file =
        name.starts_with('.') || [".pyc", ".md", ".toml", ".cfg", ".swp", "~"].iter().any(|end| name.ends_with(end));
    // At the top only modules; a package brings whatever data it has.
    let at_top = path.components().count() == 1;
    !unwanted_directory && !unwanted_file && (!at_top || (name.ends_with(".py") && !name.starts_with("test_")))
}

/// Gives every file and directory the mode it has in the image, whatever the builder's umask was.
pub fn set_modes(tree: &Path) -> Result<(), Error> {
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let directory = tree.join(&relative);
        set_mode(&directory, directory_mode(&relative))?;
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
            let entry = entry.map_err(Error::io("list", &directory))?;
            let metadata = entry.metadata().map_err(Error::io("inspect", &entry.path()))?;
            if metadata.is_dir() {
                pending.push(relative.join(entry.file_name()));
            } else if metadata.is_file() {
                let mode = if metadata.mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                set_mode(&entry.path(), mode)?;
            }
        }
    }
    Ok(())
}

fn directory_mode(relative: &Path) -> u32 {
    EMPTY_DIRECTORIES.iter().find(|(path, _)| Path::new(path) == relative).map_or(0o755, |(_, mode)| *mode)
}

/// Gives one file or directory a mode.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
}

fn copy_if_there(tree: &Path, from: &str, to: &str) -> Result<(), Error> {
    let source = tree.join(from);
    if source.is_file() {
        run::write_file(&tree.join(to), run::read_file(&source)?)?;
    }
    Ok(())
}

/// Removes a file or link that is about to be written, so that nothing it is linked to changes.
fn replace(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("replace", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a link, in place of a file or link that is there.
pub fn make_link(path: &Path, target: &str) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        run::make_dir(parent)?;
    }
    replace(path)?;
    symlink(target, path).map_err(Error::io("link", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_caches_and_notes_are_not_packaged() {
        for path in [
            "tests/test_tree.py",
            "piton/tests/x.py",
            "piton/__pycache__/a.cpython-314.pyc",
            "README.md",
            "pyproject.toml",
            "test_piton.py",
            "piton/.hidden",
        ] {
            assert!(!is_packaged_source(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn modules_and_package_data_are_packaged() {
        for path in ["machine.py", "piton/__init__.py", "piton/data/font.bin", "piton/net/shell.py"] {
            assert!(is_packaged_source(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn temporary_directories_are_open_to_all_and_others_are_not() {
        assert_eq!(directory_mode(Path::new("var/tmp")), 0o1777);
        assert_eq!(directory_mode(Path::new("usr/lib")), 0o755);
    }

    #[test]
    fn missing_python_directory_is_an_empty_one() {
        assert!(python_sources(Path::new("/nonexistent/python")).unwrap().is_empty());
    }

    #[test]
    fn usr_merge_moves_files_and_leaves_links() {
        let tree = std::env::temp_dir().join(format!("piton-merge-{}", std::process::id()));
        run::write_file(&tree.join("lib/x/a.so"), "a").unwrap();
        run::write_file(&tree.join("usr/lib/x/b.so"), "b").unwrap();
        merge_usr(&tree).unwrap();
        assert_eq!(fs::read_link(tree.join("lib")).unwrap(), Path::new("usr/lib"));
        assert!(tree.join("usr/lib/x/a.so").is_file() && tree.join("lib/x/b.so").is_file());
        run::remove_tree(&tree).unwrap();
    }
}
