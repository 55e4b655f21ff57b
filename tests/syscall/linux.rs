//! Runs the programs on Debian's Linux for arm64, to record what they print there.
//!
//! The root files are those of Piton's own root image, so it is the same Python.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use board::launch::Options;
use tests::{Guest, image, linux};

use crate::lines;

/// How long it may take. Many times what it takes, for a busy host.
const LIMIT: Duration = Duration::from_secs(900);

/// What each program prints.
pub fn run(names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("root.erofs");
    image::write_root(&root);
    let root = fs::read(root).expect("the root image can be read");
    let options = linux::options(&root, &crate::archive(), names, &folder.path().join("initramfs.cpio"))
        .unwrap_or_else(|e| panic!("{e}"));
    let options = Options { memory: Some("1G".into()), ..options };
    let (status, text) = Guest::start("syscall-linux", options).finish(LIMIT);
    assert_eq!(status, 0, "{text}");
    let printed = lines::sort(&text, names);
    for name in names {
        let whole = printed.get(*name).is_some_and(|found| lines::ended(found));
        assert!(whole, "{name} did not end on Linux\n{text}");
    }
    printed
}
