//! Device trees for the tests: QEMU's own, changed or broken.

use std::fs;
use std::path::Path;
use std::process::Command;

use board::launch::{Launch, Options};
use board::spec::Board;

/// Writes the tree that QEMU makes for the `qemu-virt` board.
///
/// # Panics
/// When QEMU does not write it.
pub fn dump(to: &Path) {
    let board = Board::load("qemu-virt").expect("the board exists");
    let dump = format!("dumpdtb={}", to.display());
    let extra = vec!["-machine".into(), dump.into()];
    let mut launch = Launch::new(&board, &Options { extra, ..Options::default() }).unwrap_or_else(|e| panic!("{e}"));
    let output = launch.command.output().expect("QEMU starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // QEMU makes room for what a boot loader adds; the tests want the tree alone.
    let packed = Command::new("dtc").args(["-q", "-I", "dtb", "-O", "dtb"]).arg(to).output().expect("dtc starts");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    fs::write(to, packed.stdout).expect("the tree can be written");
}

/// Removes a node from a tree.
///
/// # Panics
/// When there is none.
pub fn remove_node(tree: &Path, node: &str) {
    let output = Command::new("fdtput").arg("-r").arg(tree).arg(node).output().expect("fdtput starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
