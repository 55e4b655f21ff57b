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
    dump_for(to, Options::default());
}

/// As [`dump`] for a machine with changes.
///
/// # Panics
/// When QEMU does not write it.
pub fn dump_for(to: &Path, mut options: Options) {
    let board = Board::load("qemu-virt").expect("the board exists");
    let dump = format!("dumpdtb={}", to.display());
    options.extra.extend(["-machine".into(), dump.into()]);
    let mut launch = Launch::new(&board, &options).unwrap_or_else(|e| panic!("{e}"));
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
    put(tree, "-r", &[node]);
}

/// Adds a node to a tree, with those above it.
///
/// # Panics
/// When it is there already.
pub fn add_node(tree: &Path, node: &str) {
    put(tree, "-cp", &[node]);
}

/// Sets a property to a string.
///
/// # Panics
/// When there is no such node.
pub fn set_text(tree: &Path, node: &str, property: &str, value: &str) {
    put(tree, "-ts", &[node, property, value]);
}

/// Sets a property to cells, each a hexadecimal number.
///
/// # Panics
/// When there is no such node.
pub fn set_cells(tree: &Path, node: &str, property: &str, cells: &[&str]) {
    put(tree, "-tx", &[&[node, property], cells].concat());
}

/// Keeps the 4 KiB at an address below 4 GiB from the kernel.
///
/// # Panics
/// When the tree has no room for that.
pub fn reserve_page(tree: &Path, address: u64) {
    let (page, node) = (format!("{address:x}"), format!("/reserved-memory/page@{address:x}"));
    add_node(tree, &node);
    for cells in ["#address-cells", "#size-cells"] {
        set_cells(tree, "/reserved-memory", cells, &["2"]);
    }
    set_cells(tree, &node, "reg", &["0", &page, "0", "1000"]);
}

fn put(tree: &Path, option: &str, arguments: &[&str]) {
    let output = Command::new("fdtput").arg(option).arg(tree).args(arguments).output().expect("fdtput starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
