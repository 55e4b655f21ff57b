//! The blobs that the tests read. Each test program uses some of them.
#![allow(dead_code)]

use std::{path::PathBuf, process::Command};

/// The test board, from `blobs/board.dts`.
pub const BOARD: &[u8] = include_bytes!("../blobs/board.dtb");

/// What QEMU gives its `virt` machine, cut to the bytes in use. Fails where QEMU cannot be run.
pub fn qemu_virt(gic_version: u32) -> Vec<u8> {
    let name = format!("virt-gic{gic_version}-{}.dtb", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let machine = format!("virt,gic-version={gic_version},dumpdtb={}", path.display());
    let output = Command::new("qemu-system-aarch64")
        .args(["-M", &machine, "-cpu", "cortex-a72", "-smp", "4", "-m", "512M", "-nic", "none", "-nographic"])
        .output()
        .expect("cannot run qemu-system-aarch64: install QEMU, then run the tests again");
    assert!(output.status.success(), "QEMU failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut blob = std::fs::read(&path).expect("QEMU has written the blob");
    let _ = std::fs::remove_file(path);
    compact(&mut blob);
    blob
}

/// QEMU pads its blobs to a megabyte; cuts one behind the strings block, which is its last.
fn compact(blob: &mut Vec<u8>) {
    let word = |index: usize| u32::from_be_bytes(blob[index * 4..][..4].try_into().expect("4 bytes"));
    let used = word(3) + word(8);
    assert!(used >= word(2) + word(9));
    blob.truncate(used as usize);
    blob[4..8].copy_from_slice(&used.to_be_bytes());
}
