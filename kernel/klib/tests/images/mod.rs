//! Host trees and EROFS images of them, made by `mkfs.erofs`, for the EROFS tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is removed when the value is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new empty folder.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        fs::create_dir_all(&path).expect("create a scratch folder");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that is left behind does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Builds an image of `tree` with `mkfs.erofs` and the further `options`.
pub fn make_image(tree: &Path, options: &[&str]) -> Vec<u8> {
    let scratch = Scratch::new("image");
    let file = scratch.0.join("image.erofs");
    let output = Command::new("mkfs.erofs")
        .arg("--quiet")
        .args(options)
        .arg(&file)
        .arg(tree)
        .stdin(Stdio::null())
        .output()
        .expect("start mkfs.erofs (install erofs-utils)");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mkfs.erofs {options:?} failed: {message}");
    fs::read(&file).expect("read the image")
}

/// Numbered lines of text: compresses well.
pub fn text(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 64);
    let mut line = 0u64;
    while out.len() < len {
        line += 1;
        out.extend_from_slice(format!("{line:>8}: the square is {}\n", line * line).as_bytes());
    }
    out.truncate(len);
    out
}

/// Bytes that do not compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Text and noise in turn: gives a file with compressed and plain extents.
pub fn mixture(len: usize) -> Vec<u8> {
    let lines = text(len);
    let mut out = Vec::with_capacity(len + 20_000);
    let mut piece = 0;
    while out.len() < len {
        let size = 1000 + piece * 3777 % 19_000;
        if piece % 2 == 0 {
            out.extend_from_slice(&lines[out.len()..(out.len() + size).min(len)]);
        } else {
            out.extend_from_slice(&noise(size, piece as u64));
        }
        piece += 1;
    }
    out.truncate(len);
    out
}

/// Fills `root` with a few small files of every kind.
pub fn small_tree(root: &Path) {
    let write = |name: &str, data: &[u8]| fs::write(root.join(name), data).expect("write a test file");
    fs::create_dir_all(root.join("sub/deep/er")).expect("create folders");
    write("empty", b"");
    write("one", b"1");
    for size in [4095, 4096, 4097, 8192, 8193] {
        write(&format!("text{size}"), &text(size));
    }
    write("sub/text", &text(70_000));
    write("sub/noise", &noise(9_000, 7));
    write("sub/deep/mixture", &mixture(90_000));
    write("sub/deep/er/zeros", &[0; 50_000]);
    fs::hard_link(root.join("sub/text"), root.join("linked")).expect("make a hard link");
    symlink("sub/deep/er", root.join("link")).expect("make a symbolic link");
    symlink("x/".repeat(150), root.join("long-link")).expect("make a symbolic link");
    fs::set_permissions(root.join("one"), fs::Permissions::from_mode(0o4711)).expect("set a mode");
    for index in 0..150 {
        write(&format!("sub/deep/entry-{index:03}-with-a-name-of-some-length"), b"x");
    }
}
