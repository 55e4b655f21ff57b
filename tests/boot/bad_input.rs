//! What the kernel must refuse: one clear line that names the cause, and a non-zero exit.

use std::fs;
use std::path::Path;
use std::time::Duration;

use board::launch::Options;
use tests::{Guest, image, raw, tree};

/// How long a refusal may take.
const REFUSAL: Duration = Duration::from_secs(60);

/// Waits for the machine to end and checks that one line names the cause.
#[track_caller]
fn is_refused(guest: Guest, cause: &str) {
    let (status, text) = guest.finish(REFUSAL);
    let lines = text.lines().filter(|line| line.to_lowercase().contains(cause)).count();
    assert_eq!(lines, 1, "one line that names {cause:?} in:\n{text}");
    assert_ne!(status, 0, "exit status after:\n{text}");
}

/// Starts the image with this blob where the device tree should be.
fn with_blob(name: &str, blob: &[u8]) -> Guest {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = raw::options(folder.path(), &image::path(), Some(blob), raw::BLOB);
    Guest::start(name, options).keeping(folder)
}

/// QEMU's own tree.
fn good_tree(folder: &Path) -> Vec<u8> {
    let file = folder.join("good.dtb");
    tree::dump(&file);
    fs::read(file).expect("the tree can be read")
}

/// Starts the image with QEMU's own tree after `damage`.
fn with_damaged_tree(name: &str, damage: impl FnOnce(&mut Vec<u8>)) -> Guest {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut blob = good_tree(folder.path());
    damage(&mut blob);
    with_blob(name, &blob)
}

/// A big-endian field of the tree's header (Devicetree Specification v0.4, 5.2).
fn header_field(blob: &[u8], at: usize) -> usize {
    u32::from_be_bytes(blob[at..at + 4].try_into().expect("four bytes")) as usize
}

const OFF_DT_STRUCT: usize = 8;
const TOTALSIZE: usize = 4;

#[test]
fn missing_tree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = raw::options(folder.path(), &image::path(), None, 0);
    is_refused(Guest::start("missing_tree", options), "device tree");
}

#[test]
fn address_without_a_tree() {
    is_refused(with_blob("address_without_a_tree", b"there is no tree here"), "device tree");
}

#[test]
fn truncated_tree() {
    let guest = with_damaged_tree("truncated_tree", |blob| blob.truncate(blob.len() / 2));
    is_refused(guest, "device tree");
}

#[test]
fn tree_with_nothing_behind_its_header() {
    let guest = with_damaged_tree("tree_with_nothing_behind_its_header", |blob| blob.truncate(40));
    is_refused(guest, "device tree");
}

#[test]
fn corrupted_tree_structure() {
    let guest = with_damaged_tree("corrupted_tree_structure", |blob| {
        let at = header_field(blob, OFF_DT_STRUCT);
        blob[at + 64..at + 1024].fill(0xff);
    });
    is_refused(guest, "device tree");
}

#[test]
fn tree_whose_structure_lies_outside() {
    let guest = with_damaged_tree("tree_whose_structure_lies_outside", |blob| {
        blob[OFF_DT_STRUCT..OFF_DT_STRUCT + 4].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
    });
    is_refused(guest, "device tree");
}

#[test]
fn tree_of_an_impossible_size() {
    let guest = with_damaged_tree("tree_of_an_impossible_size", |blob| blob[TOTALSIZE..TOTALSIZE + 4].fill(0xff));
    is_refused(guest, "device tree");
}

#[test]
fn image_without_a_root_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("no-root.img");
    image::write_without_root(&file);
    let options = Options { image: Some(file), ..Options::default() };
    is_refused(Guest::start("image_without_a_root_image", options), "root image");
}

#[test]
fn root_image_with_a_bad_superblock() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("bad-root.img");
    image::write_with_bad_root(&file);
    let options = Options { image: Some(file), ..Options::default() };
    is_refused(Guest::start("root_image_with_a_bad_superblock", options), "root image");
}

#[test]
fn initrd_that_is_no_root_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("initrd");
    fs::write(&file, vec![0x55; 100_000]).expect("the file can be written");
    let options = Options { initrd: Some(file), ..Options::default() };
    is_refused(Guest::boot("initrd_that_is_no_root_image", options), "root image");
}

#[test]
fn too_little_memory() {
    // The image just fits, with the 2 MiB before it and QEMU's device tree behind it.
    let image = fs::metadata(image::path()).expect("the image is there").len();
    let memory = format!("{}M", image.div_ceil(2 << 20) * 2 + 6);
    is_refused(Guest::boot("too_little_memory", Options { memory: Some(memory), ..Options::default() }), "memory");
}
