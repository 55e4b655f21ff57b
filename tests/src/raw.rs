//! Starts the image as a boot loader may: any address in x0, any exception level, nothing checked by QEMU.
//!
//! With `-kernel` QEMU makes or checks the device tree itself, so a missing or broken one is brought in this way: the
//! image and the blob are loaded as they are, and a trampoline of a few instructions sets x0 and branches to the
//! image. The CPU starts at the highest exception level it has.

use std::fs;
use std::path::Path;

use board::launch::Options;

/// Where the image is loaded: 2 MiB into memory, as `-kernel` does.
const IMAGE: u64 = 0x4020_0000;
/// Where a blob for x0 is loaded, behind every image and within the board's 512 MiB.
pub const BLOB: u64 = 0x5e00_0000;
/// Where QEMU leaves its own tree when no kernel is given.
pub const QEMU_TREE: u64 = 0x4000_0000;
/// Where the trampoline is.
const TRAMPOLINE: u64 = 0x5f00_0000;
/// The page where a CPU that waits in a spin table is.
pub const SPINNING: u64 = 0x5f00_1000;
/// The word that it waits for.
pub const RELEASE_WORD: u64 = SPINNING + 0x20;

/// Options that load `image` and enter it with `x0`; `blob`, if any, is loaded at [`BLOB`]. The trampoline's file is
/// written to `folder`.
///
/// # Panics
/// When files cannot be written.
#[must_use]
pub fn options(folder: &Path, image: &Path, blob: Option<&[u8]>, x0: u64) -> Options {
    let trampoline = folder.join("trampoline.bin");
    fs::write(&trampoline, code(x0, IMAGE)).expect("the trampoline can be written");
    let mut extra = load(image, IMAGE);
    extra.extend(load(&trampoline, TRAMPOLINE));
    if let Some(blob) = blob {
        let path = folder.join("blob.bin");
        fs::write(&path, blob).expect("the blob can be written");
        extra.extend(load(&path, BLOB));
    }
    extra.extend(["-device".into(), format!("loader,addr={TRAMPOLINE:#x},cpu-num=0")]);
    Options { extra: extra.into_iter().map(Into::into).collect(), ..Options::default() }
}

/// Has CPU `number`, where nothing else starts it, wait for [`RELEASE_WORD`] to say where to go on.
///
/// # Panics
/// When its code cannot be written to `folder`.
pub fn add_spinning_cpu(folder: &Path, options: &mut Options, number: u32) {
    let instructions: [u32; 6] = [
        0x5800_00c5, // ldr x5, +0x18
        0xd503_205f, // wfe
        0xf940_00a4, // ldr x4, [x5]
        0xb4ff_ffc4, // cbz x4, back to wfe
        0xd61f_0080, // br x4
        0xd503_201f, // nop, so that the literal is aligned
    ];
    let mut code: Vec<u8> = instructions.iter().flat_map(|i| i.to_le_bytes()).collect();
    code.extend(RELEASE_WORD.to_le_bytes());
    let path = folder.join("spinning.bin");
    fs::write(&path, code).expect("the code can be written");
    options.extra.extend(load(&path, SPINNING).into_iter().map(Into::into));
    options.extra.extend(["-device".into(), format!("loader,addr={SPINNING:#x},cpu-num={number}").into()]);
}

fn load(file: &Path, address: u64) -> Vec<String> {
    vec!["-device".into(), format!("loader,file={},addr={address:#x},force-raw=on", file.display())]
}

/// The trampoline (encodings: Arm ARM DDI 0487, C6.2).
fn code(x0: u64, entry: u64) -> Vec<u8> {
    let instructions: [u32; 6] = [
        0x5800_00c0, // ldr x0, +0x18
        0x5800_00f0, // ldr x16, +0x1c
        0xaa1f_03e1, // mov x1, xzr
        0xaa1f_03e2, // mov x2, xzr
        0xd61f_0200, // br x16
        0xd503_201f, // nop, so that the literals are aligned
    ];
    let mut code: Vec<u8> = instructions.iter().flat_map(|i| i.to_le_bytes()).collect();
    code.extend([x0, entry].iter().flat_map(|v| v.to_le_bytes()));
    code
}
