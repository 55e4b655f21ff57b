//! Makes the boot image: the kernel's segments as one flat file, its symbol table and the root image.
//!
//! The file is an arm64 Linux Image (Linux `Documentation/arch/arm64/booting.rst`): the 64-byte header is written by
//! the kernel's own first bytes, only `image_size` is filled in here. What follows the kernel is found by the kernel
//! through `__piton_image_info`, a record in its read-only data that is filled in here too:
//!
//! ```text
//! 0                 kernel: every PT_LOAD at its distance from the lowest virtual address, bss as zeros
//! symbols_offset    symbol table (module `symbols`), 4 KiB aligned
//! root_offset       root image, 4 KiB aligned so that its pages can be mapped in place
//! ```
//!
//! Bss is in the file so that everything the kernel needs lies within `image_size` and no boot loader can put
//! the device tree or an initrd into it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, SymbolKind};

use crate::error::Error;
use crate::symbols::{self, Function};
use crate::workspace;

/// The target the kernel is compiled for.
pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
/// The most that kernel and symbol table may take, in bytes.
pub const KERNEL_LIMIT: usize = 2_000_000;
/// The same for a kernel that checks itself: what the first page tables map (`kernel/arch/aarch64/linker.ld`).
const CHECKED_LIMIT: usize = 4 << 20;

/// How the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// To be used.
    Release,
    /// With assertions, overflow checks and the check of the lock order (`kernel/src/lock_order.rs`).
    Checked,
}

impl Flavour {
    /// The profile in Cargo.toml.
    const fn profile(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Checked => "checked",
        }
    }

    /// The most that kernel and symbol table may take, in bytes.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::Release => KERNEL_LIMIT,
            Self::Checked => CHECKED_LIMIT,
        }
    }
}

/// Page size: what the parts of the image are aligned to.
const PAGE: usize = 4096;
/// A kernel whose segments span more than this is a linker-script error, not a kernel.
const SPAN_LIMIT: u64 = 64 << 20;
/// Offset of `image_size` in the Image header.
const IMAGE_SIZE_AT: usize = 16;
/// Offset of the magic number in the Image header.
const MAGIC_AT: usize = 56;
/// The magic number of an arm64 Image.
const MAGIC: &[u8; 4] = b"ARM\x64";
/// The symbol of the record to fill in.
const INFO_SYMBOL: &str = "__piton_image_info";
/// `PTNINFO\0`, the first field of that record.
const INFO_MAGIC: u64 = 0x004f_464e_494e_5450;
/// Size of that record in bytes: eight u64.
const INFO_LEN: usize = 64;

/// What goes into an image.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The kernel ELF.
    pub elf: PathBuf,
    /// The root image, if any.
    pub root: Option<PathBuf>,
    /// The file to write.
    pub out: PathBuf,
    /// The most that kernel and symbol table may take, in bytes.
    pub limit: usize,
}

/// Sizes of a written image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The kernel's segments with bss.
    pub kernel: usize,
    /// The symbol table.
    pub symbols: usize,
    /// Both with the padding between them: what counts against the limit.
    pub without_root: usize,
    /// The root image.
    pub root: usize,
    /// The whole file.
    pub total: usize,
}

/// Compiles the kernel and returns the path of its ELF.
///
/// # Errors
/// [`Error::Command`] when it does not compile; cargo has said why.
pub fn compile_kernel(flavour: Flavour) -> Result<PathBuf, Error> {
    let arguments = [
        "build",
        "--profile",
        flavour.profile(),
        "--package",
        "kernel",
        "--target",
        KERNEL_TARGET,
        "--message-format=json-render-diagnostics",
    ];
    let output = Command::new(workspace::cargo())
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::io("starting cargo"))?;
    let failed = || Error::Command { command: format!("cargo {}", arguments[..7].join(" ")) };
    if !output.status.success() {
        return Err(failed());
    }
    // Cargo names the file itself, which holds for any CARGO_TARGET_DIR.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == "kernel")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or_else(failed)
}

/// Writes the image.
///
/// # Errors
/// [`Error::Elf`] when the kernel is not what this module's page describes, [`Error::TooBig`] when it is beyond
/// its limit, [`Error::Input`] and [`Error::Io`] for files.
pub fn write(parts: &Parts) -> Result<Sizes, Error> {
    let read = |what: &'static str, path: &Path| {
        fs::read(path).map_err(|source| Error::Input { what, path: path.into(), source })
    };
    let elf = read("the kernel", &parts.elf)?;
    let root = parts.root.as_deref().map(|path| read("the root image", path)).transpose()?;
    let (image, sizes) = assemble(&elf, root.as_deref(), parts.limit).map_err(|message| match message {
        Problem::Elf(message) => Error::Elf { path: parts.elf.clone(), message },
        Problem::TooBig(size) => Error::TooBig { size, limit: parts.limit },
    })?;
    if let Some(folder) = parts.out.parent() {
        fs::create_dir_all(folder).map_err(Error::io(format!("making {}", folder.display())))?;
    }
    // Renamed into place, so that an interrupted write leaves no half image.
    let partial = parts.out.with_extension("partial");
    fs::write(&partial, image).map_err(Error::io(format!("writing {}", partial.display())))?;
    fs::rename(&partial, &parts.out).map_err(Error::io(format!("writing {}", parts.out.display())))?;
    Ok(sizes)
}

/// Where the root image lies in a boot image; `None` when it has none.
#[must_use]
pub fn find_root(image: &[u8]) -> Option<Range<usize>> {
    let info = find_info(image)?;
    let field = |number: usize| {
        let at = info + 8 * number;
        usize::try_from(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?)).ok()
    };
    let (start, length) = (field(3)?, field(4)?);
    (length > 0 && start.checked_add(length)? <= image.len()).then_some(start..start + length)
}

/// Makes a boot image say that it has no root image.
pub fn forget_root(image: &mut [u8]) {
    if let Some(info) = find_info(image) {
        put_u64(image, info + 24, 0);
        put_u64(image, info + 32, 0);
    }
}

/// Offset of the info record in a finished image, found by its magic number.
fn find_info(image: &[u8]) -> Option<usize> {
    let kernel = &image[..image.len().min(CHECKED_LIMIT)];
    let at = kernel.chunks_exact(8).position(|word| word == INFO_MAGIC.to_le_bytes())? * 8;
    (at + INFO_LEN <= image.len()).then_some(at)
}

/// Why an image cannot be assembled.
#[derive(Debug)]
enum Problem {
    /// The ELF file is not a Piton kernel.
    Elf(String),
    /// Bytes of kernel and symbols, beyond the limit.
    TooBig(usize),
}

impl From<&str> for Problem {
    fn from(message: &str) -> Self {
        Self::Elf(message.into())
    }
}

impl From<object::Error> for Problem {
    fn from(error: object::Error) -> Self {
        Self::Elf(error.to_string())
    }
}

/// Puts kernel, symbols and root image together and fills in header and info record.
fn assemble(elf: &[u8], root: Option<&[u8]>, limit: usize) -> Result<(Vec<u8>, Sizes), Problem> {
    let file = ElfFile64::<Endianness>::parse(elf)?;
    let (mut image, base) = flatten(&file, elf)?;
    if image.get(MAGIC_AT..MAGIC_AT + 4) != Some(MAGIC) {
        return Err("the first bytes are not an arm64 Image header (no ARM\\x64 at 56)".into());
    }
    let info = info_record(&file, &image, base)?;
    let kernel = image.len();

    let table = symbols::encode(functions(&file, base, kernel));
    let symbols_offset = append(&mut image, &table);
    let without_root = image.len();
    if without_root > limit {
        return Err(Problem::TooBig(without_root));
    }
    let root = root.unwrap_or_default();
    let root_offset = if root.is_empty() { 0 } else { append(&mut image, root) };
    image.resize(image.len().next_multiple_of(PAGE), 0);

    for (field, value) in [symbols_offset, table.len(), root_offset, root.len()].into_iter().enumerate() {
        put_u64(&mut image, info + 8 * (field + 1), value);
    }
    let total = image.len();
    put_u64(&mut image, IMAGE_SIZE_AT, total);
    Ok((image, Sizes { kernel, symbols: table.len(), without_root, root: root.len(), total }))
}

/// The loadable segments as one run of bytes, and the virtual address of the first.
fn flatten(file: &ElfFile64<Endianness>, data: &[u8]) -> Result<(Vec<u8>, u64), Problem> {
    if file.architecture() != object::Architecture::Aarch64 {
        return Err("not an AArch64 ELF file".into());
    }
    let endian = file.endian();
    let mut base = u64::MAX;
    let mut end = 0;
    let loads = file.elf_program_headers().iter().filter(|h| h.p_type(endian) == PT_LOAD && h.p_memsz(endian) > 0);
    for header in loads.clone() {
        let last = header.p_vaddr(endian).checked_add(header.p_memsz(endian)).ok_or("a segment wraps around")?;
        base = base.min(header.p_vaddr(endian));
        end = end.max(last);
    }
    if base >= end {
        return Err("no loadable segment".into());
    }
    if end - base > SPAN_LIMIT {
        return Err(Problem::Elf(format!("segments span {:#x} bytes from {base:#x}", end - base)));
    }
    let mut image = vec![0; to_usize(end - base)];
    for header in loads {
        let bytes = header.data(endian, data).map_err(|()| "a segment lies outside the file")?;
        let at = to_usize(header.p_vaddr(endian) - base);
        image
            .get_mut(at..at + bytes.len())
            .ok_or("a segment is larger in the file than in memory")?
            .copy_from_slice(bytes);
    }
    Ok((image, base))
}

/// Offset of the info record in the image.
fn info_record(file: &ElfFile64<Endianness>, image: &[u8], base: u64) -> Result<usize, Problem> {
    let symbol =
        file.symbols().find(|s| s.name() == Ok(INFO_SYMBOL)).ok_or("the kernel has no symbol __piton_image_info")?;
    let at = symbol.address().checked_sub(base).map(to_usize).ok_or("__piton_image_info lies before the image")?;
    let record =
        at.checked_add(INFO_LEN).and_then(|end| image.get(at..end)).ok_or("__piton_image_info lies after the image")?;
    if record[..8] != INFO_MAGIC.to_le_bytes() {
        return Err("__piton_image_info does not start with its magic number".into());
    }
    Ok(at)
}

/// The functions that lie within the kernel.
fn functions(file: &ElfFile64<Endianness>, base: u64, kernel: usize) -> Vec<Function> {
    file.symbols()
        .filter(|s| s.kind() == SymbolKind::Text && s.is_definition())
        .filter_map(|s| {
            let offset = s.address().checked_sub(base).filter(|&o| to_usize(o) < kernel)?;
            Some(Function { offset: u32::try_from(offset).ok()?, name: s.name().ok()?.into() })
        })
        .collect()
}

/// Appends `part` at the next page and returns its offset.
fn append(image: &mut Vec<u8>, part: &[u8]) -> usize {
    let offset = image.len().next_multiple_of(PAGE);
    image.resize(offset, 0);
    image.extend_from_slice(part);
    offset
}

fn put_u64(image: &mut [u8], at: usize, value: usize) {
    image[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
}

/// The host has 64-bit addresses.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal kernel ELF: one PT_LOAD and a symbol table, so that the test needs no compiler for the target.
    struct Elf {
        machine: u16,
        memory: u64,
        segment: Vec<u8>,
        symbol: &'static str,
    }

    const BASE: u64 = 0xffff_ff80_0020_0000;
    const INFO_AT: usize = 0x80;

    impl Elf {
        fn kernel() -> Self {
            let mut segment = vec![0; 0x1000];
            segment[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
            segment[INFO_AT..INFO_AT + 8].copy_from_slice(&INFO_MAGIC.to_le_bytes());
            Self { machine: 183, memory: 0x1800, segment, symbol: INFO_SYMBOL }
        }

        fn bytes(&self) -> Vec<u8> {
            let strings = format!("\0{}\0start\0", self.symbol).into_bytes();
            let start_name = self.symbol.len() as u32 + 2;
            let symbols = [
                (0, 0, 0, 0),
                (1, 0x01_u8, 1_u16, BASE + INFO_AT as u64), // STT_OBJECT
                (start_name, 0x12, 1, BASE + 0x40),         // STT_FUNC, global
            ];
            let segment_at = 0x1000_u64;
            let symbols_at = segment_at + self.segment.len() as u64;
            let strings_at = symbols_at + 24 * symbols.len() as u64;
            let sections_at = (strings_at + strings.len() as u64).next_multiple_of(8);

            let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let half = |out: &mut Vec<u8>, v: u16| out.extend_from_slice(&v.to_le_bytes());
            let word = |out: &mut Vec<u8>, v: u32| out.extend_from_slice(&v.to_le_bytes());
            let longs =
                |out: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
            half(&mut out, 2);
            half(&mut out, self.machine);
            word(&mut out, 1);
            longs(&mut out, &[BASE, 64, sections_at]);
            word(&mut out, 0);
            for v in [64, 56, 1, 64, 4, 2] {
                half(&mut out, v);
            }
            word(&mut out, PT_LOAD.0);
            word(&mut out, 5);
            longs(&mut out, &[segment_at, BASE, 0x4020_0000, self.segment.len() as u64, self.memory, 0x1000]);
            out.resize(segment_at as usize, 0);
            out.extend_from_slice(&self.segment);
            for (name, info, section, value) in symbols {
                word(&mut out, name);
                out.extend_from_slice(&[info, 0]);
                half(&mut out, section);
                longs(&mut out, &[value, 0]);
            }
            out.extend_from_slice(&strings);
            out.resize(sections_at as usize, 0);
            // Null, .text, the strings, the symbols (linked to the strings).
            for (kind, address, at, size, link, entry) in [
                (0_u32, 0, 0, 0, 0_u32, 0),
                (1, BASE, segment_at, self.segment.len() as u64, 0, 0),
                (3, 0, strings_at, strings.len() as u64, 0, 0),
                (2, 0, symbols_at, 24 * symbols.len() as u64, 2, 24),
            ] {
                word(&mut out, 0);
                word(&mut out, kind);
                longs(&mut out, &[0, address, at, size]);
                word(&mut out, link);
                word(&mut out, 1);
                longs(&mut out, &[1, entry]);
            }
            out
        }
    }

    fn u64_at(image: &[u8], at: usize) -> usize {
        to_usize(u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes")))
    }

    fn refused(elf: &Elf) -> String {
        match assemble(&elf.bytes(), None, KERNEL_LIMIT) {
            Err(Problem::Elf(message)) => message,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn image_holds_kernel_with_bss_then_symbols_then_root() {
        let root = vec![0xab; 5000];
        let (image, sizes) = assemble(&Elf::kernel().bytes(), Some(&root), KERNEL_LIMIT).expect("a good kernel");
        assert_eq!(sizes.kernel, 0x1800);
        assert!(image[0x1000..0x1800].iter().all(|&b| b == 0), "bss is zero");
        let info = |field: usize| u64_at(&image, INFO_AT + 8 * field);
        assert_eq!([info(1), info(3), info(4)], [0x2000, 0x3000, 5000]);
        let start = vec![Function { offset: 0x40, name: "start".into() }];
        assert_eq!(&image[info(1)..info(1) + info(2)], symbols::encode(start));
        assert_eq!(&image[0x3000..0x3000 + 5000], root);
        assert_eq!(u64_at(&image, IMAGE_SIZE_AT), image.len());
        assert_eq!(image.len() % PAGE, 0);
    }

    #[test]
    fn no_root_image_is_a_length_of_zero() {
        let (image, sizes) = assemble(&Elf::kernel().bytes(), None, KERNEL_LIMIT).expect("a good kernel");
        assert_eq!(sizes.root, 0);
        assert_eq!([u64_at(&image, INFO_AT + 24), u64_at(&image, INFO_AT + 32)], [0, 0]);
    }

    #[test]
    fn root_image_is_found_in_a_finished_image_and_forgotten() {
        let (mut image, _) = assemble(&Elf::kernel().bytes(), Some(&[1; 10]), KERNEL_LIMIT).expect("a good kernel");
        assert_eq!(find_root(&image), Some(0x3000..0x300a));
        forget_root(&mut image);
        assert_eq!(find_root(&image), None);
    }

    #[test]
    fn kernel_beyond_the_limit_is_refused() {
        let mut elf = Elf::kernel();
        elf.memory = KERNEL_LIMIT as u64 + 1;
        assert!(matches!(assemble(&elf.bytes(), None, KERNEL_LIMIT), Err(Problem::TooBig(_))));
    }

    #[test]
    fn files_that_are_no_piton_kernel_are_refused_with_the_reason() {
        let mut elf = Elf::kernel();
        elf.machine = 62;
        assert!(refused(&elf).contains("AArch64"));
        let mut elf = Elf::kernel();
        elf.segment[MAGIC_AT] = 0;
        assert!(refused(&elf).contains("Image header"));
        let mut elf = Elf::kernel();
        elf.segment[INFO_AT] = 0;
        assert!(refused(&elf).contains("magic"));
        let mut elf = Elf::kernel();
        elf.symbol = "__piton_image_inf_";
        assert!(refused(&elf).contains("__piton_image_info"));
        let mut elf = Elf::kernel();
        elf.memory = u64::MAX / 2;
        assert!(refused(&elf).contains("segment"));
    }

    #[test]
    fn truncated_files_are_refused() {
        let whole = Elf::kernel().bytes();
        for length in (0..whole.len()).step_by(7) {
            assert!(matches!(assemble(&whole[..length], None, KERNEL_LIMIT), Err(Problem::Elf(_))), "{length} bytes");
        }
    }
}
