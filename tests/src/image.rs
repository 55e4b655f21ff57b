//! The boot image, and broken copies of it.
//!
//! The parts after the kernel are found as the kernel finds them: through the record that `cargo board image` fills in.

use std::fs;
use std::path::{Path, PathBuf};

use board::{image, workspace};

/// The ordinary boot image.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn path() -> PathBuf {
    let path = workspace::image("arm64");
    assert!(path.exists(), "{} does not exist; make it with `make image-arm64`", path.display());
    path
}

/// Writes a copy of the image without its root image.
///
/// # Panics
/// When files cannot be read or written, or the image is not one.
pub fn write_without_root(to: &Path) {
    let mut image = read();
    let root = image::find_root(&image).expect("the image has a root image");
    image::forget_root(&mut image);
    image.truncate(root.start);
    fs::write(to, image).expect("the copy can be written");
}

/// Writes the root image alone.
///
/// # Panics
/// As [`write_without_root`].
pub fn write_root(to: &Path) {
    let image = read();
    let root = image::find_root(&image).expect("the image has a root image");
    fs::write(to, &image[root]).expect("the root image can be written");
}

/// Writes a copy of the image whose root image has a superblock of zeros.
///
/// # Panics
/// As [`write_without_root`].
pub fn write_with_bad_root(to: &Path) {
    let mut image = read();
    let root = image::find_root(&image).expect("the image has a root image");
    image[root][..4096].fill(0);
    fs::write(to, image).expect("the copy can be written");
}

fn read() -> Vec<u8> {
    fs::read(path()).expect("the image can be read")
}
