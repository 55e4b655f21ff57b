//! Runs the programs on Debian's Linux for arm64, to record what they print there.
//!
//! The root files are those of Piton's own root image, so it is the same Python; `linux_guest.py` is process 1.

#[path = "../bench/initramfs.rs"]
mod initramfs;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use board::launch::Options;
use board::workspace;
use tests::{Guest, image};

use crate::{archive, lines};

/// How long it may take. Many times what it takes, for a busy host.
const LIMIT: Duration = Duration::from_secs(900);

/// What each program prints.
pub fn run(names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let kernel = workspace::root().join("build/cache/linux/arm64/vmlinuz");
    let fetched = Command::new(workspace::cargo())
        .args(["run", "--quiet", "--package", "cpython", "--", "fetch"])
        .args(["linux-image-cloud-arm64", "--file", "**/vmlinuz*", "--out"])
        .arg(&kernel)
        .current_dir(workspace::root())
        .status()
        .expect("cargo starts");
    assert!(fetched.success(), "Debian's kernel could not be fetched");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("root.erofs");
    image::write_root(&root);
    let root = fs::read(root).expect("the root image can be read");
    let files = initramfs::from_erofs(&root, &archive::make()).unwrap_or_else(|e| panic!("{e}"));
    let initrd = folder.path().join("initramfs.cpio");
    fs::write(&initrd, files).expect("the archive can be written");
    // What follows `--` is given to process 1.
    let append =
        format!("quiet console=ttyAMA0 rdinit=/usr/bin/python3 -- /{} --linux {}", initramfs::PROGRAM, names.join(" "));
    let options = Options {
        image: Some(kernel),
        initrd: Some(initrd),
        append: Some(append),
        memory: Some("1G".into()),
        ..Options::default()
    };
    let (status, text) = Guest::start("syscall-linux", options).finish(LIMIT);
    assert_eq!(status, 0, "{text}");
    let printed = lines::sort(&text, names);
    for name in names {
        let whole = printed.get(*name).is_some_and(|found| lines::ended(found));
        assert!(whole, "{name} did not end on Linux\n{text}");
    }
    printed
}
