//! ELF: what `execve` needs to know about a program file before it maps anything.
//!
//! [`ElfImage::parse`] reads the file header and the program headers through [`ReadAt`], checks
//! every field the loader will do arithmetic with, and answers with plain numbers: which bytes of
//! the file go where ([`Segment`]), the address span to reserve, the interpreter, and what the
//! auxiliary vector wants. The kernel's loader turns that into mappings; it needs no check of its
//! own, because after `parse` no sum overflows, no two segments share a page and nothing reaches
//! past the user half of the address space.
//!
//! [`identify`] and [`interpreter_line`] look at the first bytes of a file and tell an ELF file
//! from a `#!` script.
//!
//! The raw structures come from the `elf` crate. Its own parser wants the whole file as one slice;
//! here the file is behind a page cache, so only the two tables are read, through the crate's
//! header parsers.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, ELF64_EHDR_TAILSIZE, FileHeader, parse_ident};
use elf::parse::{ParseAt, ParseError};
use elf::segment::ProgramHeader;

/// Bytes per page.
const PAGE: u64 = 4096;

/// First address that is not a user address: 47 bits, as on both architectures with four-level
/// tables.
pub const USER_LIMIT: u64 = 0x0000_8000_0000_0000;

/// Most bytes of program headers that are accepted; Linux has the same limit (`load_elf_phdrs`).
const MAX_PHDR_BYTES: usize = 65536;

/// Size of one ELF64 program header.
const PHENTSIZE: u16 = 56;

/// Longest interpreter path with its NUL: `PATH_MAX`.
const MAX_INTERP: u64 = 4096;

/// Largest `p_align` that is accepted. Anything above is a corrupted header: no page of the kernel
/// is larger.
const MAX_ALIGN: u64 = 1 << 30;

/// Bytes of a script that are looked at for its `#!` line: `BINPRM_BUF_SIZE` of Linux, see
/// execve(2).
pub const SCRIPT_HEAD: usize = 256;

/// Why a file cannot be loaded. All but [`ElfError::Read`] and [`ElfError::OutOfMemory`] mean
/// `ENOEXEC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The file could not be read (`EIO`).
    Read,
    /// There is no memory for the table of program headers (`ENOMEM`).
    OutOfMemory,
    /// A table or a segment reaches past the end of the file.
    Truncated,
    /// The file does not start with `\x7fELF`.
    Magic,
    /// The file is not a 64-bit ELF file.
    Class,
    /// The file is not little-endian.
    ByteOrder,
    /// The ELF version is not 1.
    Version,
    /// The file is for another machine: its `e_machine`.
    Machine(u16),
    /// The file is neither an executable nor a shared object: its `e_type`.
    Type(u16),
    /// The program headers have a wrong size, or there are none or too many.
    ProgramHeaders,
    /// There is no `PT_LOAD` segment with any memory.
    NoSegments,
    /// By index of the program header: the segment has more bytes in the file than in memory.
    FileSize(u16),
    /// By index of the program header: address and file offset differ modulo the page size.
    Misaligned(u16),
    /// By index of the program header: the segment is outside the user address range, or at page 0
    /// of a fixed executable.
    Range(u16),
    /// By index of the program header: the segment starts below, or on a page of, the one before
    /// it.
    Overlap(u16),
    /// By index of the program header: the alignment is larger than any mapping could have.
    Alignment(u16),
    /// The interpreter's path is empty, too long, or not ended by NUL.
    Interpreter,
    /// The entry point is outside the user address range.
    Entry,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => write!(f, "the file cannot be read"),
            Self::OutOfMemory => write!(f, "no memory for the program headers"),
            Self::Truncated => write!(f, "the ELF file is truncated"),
            Self::Magic => write!(f, "not an ELF file"),
            Self::Class => write!(f, "not a 64-bit ELF file"),
            Self::ByteOrder => write!(f, "not a little-endian ELF file"),
            Self::Version => write!(f, "unknown ELF version"),
            Self::Machine(machine) => {
                write!(f, "ELF file for another machine (e_machine {machine})")
            }
            Self::Type(kind) => write!(f, "ELF file is not executable (e_type {kind})"),
            Self::ProgramHeaders => write!(f, "bad size or number of ELF program headers"),
            Self::NoSegments => write!(f, "ELF file has nothing to load"),
            Self::FileSize(index) => write!(f, "ELF segment {index} is larger in the file than in memory"),
            Self::Misaligned(index) => {
                write!(f, "ELF segment {index} has address and offset out of step")
            }
            Self::Range(index) => {
                write!(f, "ELF segment {index} is outside the user address range")
            }
            Self::Overlap(index) => write!(f, "ELF segment {index} overlaps the one before it or is out of order"),
            Self::Alignment(index) => {
                write!(f, "ELF segment {index} asks for an impossible alignment")
            }
            Self::Interpreter => write!(f, "bad interpreter path in the ELF file"),
            Self::Entry => write!(f, "ELF entry point is outside the user address range"),
        }
    }
}

impl core::error::Error for ElfError {}

impl From<ParseError> for ElfError {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::BadMagic(_) => Self::Magic,
            ParseError::UnsupportedElfClass(_) => Self::Class,
            ParseError::UnsupportedElfEndianness(_) => Self::ByteOrder,
            ParseError::UnsupportedVersion(_) => Self::Version,
            _ => Self::Truncated,
        }
    }
}

/// A file that can be read at any offset.
pub trait ReadAt {
    /// Fills `out` with the bytes of the file from `offset`.
    ///
    /// # Errors
    ///
    /// [`ElfError::Truncated`] when the file ends before `out` is full, [`ElfError::Read`] when it
    /// cannot be read.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), ElfError>;

    /// Length of the file in bytes.
    fn len(&self) -> u64;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReadAt for &[u8] {
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), ElfError> {
        let start = usize::try_from(offset).map_err(|_| ElfError::Truncated)?;
        let end = start.checked_add(out.len()).ok_or(ElfError::Truncated)?;
        out.copy_from_slice(self.get(start..end).ok_or(ElfError::Truncated)?);
        Ok(())
    }

    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }
}

/// How the addresses in the file are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfKind {
    /// `ET_EXEC`: the addresses are final.
    Exec,
    /// `ET_DYN`: a position-independent program or the dynamic loader; the addresses are relative
    /// to a load base.
    Dyn,
}

/// One `PT_LOAD` segment with at least one byte of memory.
///
/// `vaddr + memsz` and `offset + filesz` do not overflow, `filesz <= memsz`, and where `filesz` is
/// not 0, `vaddr % 4096 == offset % 4096`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, in bytes; relative to the load base for [`ElfKind::Dyn`].
    pub vaddr: u64,
    /// Bytes in memory; those past `filesz` are zero.
    pub memsz: u64,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Bytes taken from the file.
    pub filesz: u64,
    /// `PF_R`.
    pub read: bool,
    /// `PF_W`.
    pub write: bool,
    /// `PF_X`.
    pub execute: bool,
}

/// A checked ELF64 executable or shared object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfImage {
    /// How addresses are meant.
    pub kind: ElfKind,
    /// Entry point (`AT_ENTRY` before adding the load base).
    pub entry: u64,
    /// The segments to load, ascending, never two on one page. There is at least one.
    pub segments: Vec<Segment>,
    /// Offset and length in the file of the interpreter's path; the length counts the final NUL.
    pub interp: Option<(u64, u64)>,
    /// Address of the program headers once loaded (`AT_PHDR` before adding the load base); 0 if no
    /// segment holds them.
    pub phdr_vaddr: u64,
    /// Size of one program header in bytes (`AT_PHENT`): always 56.
    pub phentsize: u16,
    /// Number of program headers (`AT_PHNUM`).
    pub phnum: u16,
    /// Whether `PT_GNU_STACK` asks for an executable stack. Without that header it does not, as on
    /// Linux for 64 bits.
    pub exec_stack: bool,
    /// Page-aligned span from the lowest to the highest address of all segments.
    pub load_span: Range<u64>,
    /// Largest power-of-two `p_align` of the segments, at least 4096: what the load base must be a
    /// multiple of.
    pub max_align: u64,
}

impl ElfImage {
    /// Reads and checks the headers of `file`, which must be for `machine` (`EM_AARCH64` is 183,
    /// `EM_X86_64` 62).
    ///
    /// Source: System V ABI (gABI) chapters 4 and 5, elf(5), and Linux `load_elf_binary` where
    /// those are silent.
    ///
    /// # Errors
    ///
    /// The first [`ElfError`] found, in the order of the file.
    pub fn parse(file: &dyn ReadAt, machine: u16) -> Result<Self, ElfError> {
        let header = read_header(file)?;
        if header.e_machine != machine {
            return Err(ElfError::Machine(header.e_machine));
        }
        let kind = match header.e_type {
            abi::ET_EXEC => ElfKind::Exec,
            abi::ET_DYN => ElfKind::Dyn,
            other => return Err(ElfError::Type(other)),
        };
        let table = read_program_headers(file, &header)?;

        let mut segments: Vec<Segment> = Vec::new();
        segments.try_reserve(table.len() / usize::from(PHENTSIZE)).map_err(|_| ElfError::OutOfMemory)?;
        let mut interp = None;
        let mut exec_stack = false;
        let mut phdr_vaddr = 0;
        let mut span = 0..0;
        let mut max_align = PAGE;
        let mut cursor = 0;
        for index in 0..header.e_phnum {
            let phdr = ProgramHeader::parse_at(LittleEndian, Class::ELF64, &mut cursor, &table)?;
            match phdr.p_type {
                abi::PT_LOAD => {
                    let Some(segment) = check_segment(&phdr, index, kind, file.len())? else {
                        continue;
                    };
                    let pages = page_span(&segment);
                    if segments.is_empty() {
                        span = pages;
                    } else if pages.start < span.end {
                        return Err(ElfError::Overlap(index));
                    } else {
                        span.end = pages.end;
                    }
                    if phdr.p_align > MAX_ALIGN {
                        return Err(ElfError::Alignment(index));
                    }
                    if phdr.p_align.is_power_of_two() {
                        max_align = max_align.max(phdr.p_align);
                    }
                    if let Some(address) = address_of(&segment, header.e_phoff, table.len() as u64) {
                        phdr_vaddr = address;
                    }
                    segments.push(segment);
                }
                // Only the first interpreter counts, as on Linux.
                abi::PT_INTERP if interp.is_none() => interp = Some(check_interpreter(file, &phdr)?),
                abi::PT_GNU_STACK => exec_stack = phdr.p_flags & abi::PF_X != 0,
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        if header.e_entry >= USER_LIMIT {
            return Err(ElfError::Entry);
        }
        Ok(Self {
            kind,
            entry: header.e_entry,
            segments,
            interp,
            phdr_vaddr,
            phentsize: PHENTSIZE,
            phnum: header.e_phnum,
            exec_stack,
            load_span: span,
            max_align,
        })
    }

    /// Reads the interpreter's path, without its final NUL, from the `file` this image was parsed
    /// from.
    ///
    /// # Errors
    ///
    /// [`ElfError::Read`], or [`ElfError::Truncated`] if the file became shorter.
    pub fn read_interp(&self, file: &dyn ReadAt) -> Result<Option<Vec<u8>>, ElfError> {
        let Some((offset, len)) = self.interp else {
            return Ok(None);
        };
        let path_len = usize::try_from(len.min(MAX_INTERP)).map_err(|_| ElfError::Interpreter)?.saturating_sub(1);
        let mut path = vec![0; path_len];
        file.read_exact_at(offset, &mut path)?;
        if let Some(end) = path.iter().position(|byte| *byte == 0) {
            path.truncate(end);
        }
        Ok(Some(path))
    }
}

/// Reads the file header and checks what does not depend on the machine.
fn read_header(file: &dyn ReadAt) -> Result<FileHeader<LittleEndian>, ElfError> {
    let mut ident = [0; abi::EI_NIDENT];
    // A file too short for the identification is something else, not a truncated ELF file.
    file.read_exact_at(0, &mut ident).map_err(|error| match error {
        ElfError::Truncated => ElfError::Magic,
        other => other,
    })?;
    let ident = parse_ident::<LittleEndian>(&ident)?;
    if ident.1 != Class::ELF64 {
        return Err(ElfError::Class);
    }
    let mut tail = [0; ELF64_EHDR_TAILSIZE];
    file.read_exact_at(abi::EI_NIDENT as u64, &mut tail)?;
    let header = FileHeader::parse_tail(ident, &tail)?;
    if header.version != u32::from(abi::EV_CURRENT) {
        return Err(ElfError::Version);
    }
    Ok(header)
}

/// Reads the table of program headers.
fn read_program_headers(file: &dyn ReadAt, header: &FileHeader<LittleEndian>) -> Result<Vec<u8>, ElfError> {
    let bytes = usize::from(header.e_phnum) * usize::from(PHENTSIZE);
    if header.e_phentsize != PHENTSIZE || bytes == 0 || bytes > MAX_PHDR_BYTES {
        return Err(ElfError::ProgramHeaders);
    }
    if header.e_phoff.checked_add(bytes as u64).is_none_or(|end| end > file.len()) {
        return Err(ElfError::Truncated);
    }
    let mut table = Vec::new();
    table.try_reserve_exact(bytes).map_err(|_| ElfError::OutOfMemory)?;
    table.resize(bytes, 0);
    file.read_exact_at(header.e_phoff, &mut table)?;
    Ok(table)
}

/// Checks one `PT_LOAD` header; `None` if it takes no memory.
fn check_segment(phdr: &ProgramHeader, index: u16, kind: ElfKind, file_len: u64) -> Result<Option<Segment>, ElfError> {
    if phdr.p_filesz > phdr.p_memsz {
        return Err(ElfError::FileSize(index));
    }
    if phdr.p_memsz == 0 {
        return Ok(None);
    }
    // USER_LIMIT is page aligned, so an end at or below it can be rounded up without passing it.
    if phdr.p_vaddr.checked_add(phdr.p_memsz).is_none_or(|end| end > USER_LIMIT)
        || (kind == ElfKind::Exec && phdr.p_vaddr < PAGE)
    {
        return Err(ElfError::Range(index));
    }
    if phdr.p_filesz > 0 {
        if phdr.p_vaddr % PAGE != phdr.p_offset % PAGE {
            return Err(ElfError::Misaligned(index));
        }
        if phdr.p_offset.checked_add(phdr.p_filesz).is_none_or(|end| end > file_len) {
            return Err(ElfError::Truncated);
        }
    }
    Ok(Some(Segment {
        vaddr: phdr.p_vaddr,
        memsz: phdr.p_memsz,
        offset: phdr.p_offset,
        filesz: phdr.p_filesz,
        read: phdr.p_flags & abi::PF_R != 0,
        write: phdr.p_flags & abi::PF_W != 0,
        execute: phdr.p_flags & abi::PF_X != 0,
    }))
}

/// Page-aligned addresses a checked segment covers.
fn page_span(segment: &Segment) -> Range<u64> {
    let start = segment.vaddr & !(PAGE - 1);
    let end = (segment.vaddr + segment.memsz).next_multiple_of(PAGE);
    start..end
}

/// Address at which the file bytes `offset..offset + len` appear in a checked segment, if all of
/// them do.
fn address_of(segment: &Segment, offset: u64, len: u64) -> Option<u64> {
    let skip = offset.checked_sub(segment.offset)?;
    let end = skip.checked_add(len)?;
    (end <= segment.filesz).then(|| segment.vaddr + skip)
}

/// Checks where the interpreter's path is and that it ends with NUL.
fn check_interpreter(file: &dyn ReadAt, phdr: &ProgramHeader) -> Result<(u64, u64), ElfError> {
    if !(2..=MAX_INTERP).contains(&phdr.p_filesz) {
        return Err(ElfError::Interpreter);
    }
    let last = phdr.p_offset.checked_add(phdr.p_filesz - 1).ok_or(ElfError::Truncated)?;
    if last >= file.len() {
        return Err(ElfError::Truncated);
    }
    let mut nul = [0xff];
    file.read_exact_at(last, &mut nul)?;
    if nul != [0] {
        return Err(ElfError::Interpreter);
    }
    Ok((phdr.p_offset, phdr.p_filesz))
}

/// What the first bytes of a program file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptOrElf<'h> {
    /// It starts with the ELF magic.
    Elf,
    /// It starts with a usable `#!` line.
    Script {
        /// Path of the interpreter.
        interpreter: &'h [u8],
        /// The rest of the line as one argument, if any.
        argument: Option<&'h [u8]>,
    },
}

/// Tells an ELF file from a script by its first bytes (pass [`SCRIPT_HEAD`] of them, or the whole
/// of a shorter file).
///
/// `None` means neither: `ENOEXEC`.
pub fn identify(head: &[u8]) -> Option<ScriptOrElf<'_>> {
    if head.starts_with(&abi::ELFMAGIC) {
        return Some(ScriptOrElf::Elf);
    }
    interpreter_line(head).map(|(interpreter, argument)| ScriptOrElf::Script { interpreter, argument })
}

/// Takes the `#!` line apart as execve(2) describes: `#!interpreter [optional-arg]`.
///
/// `head` is the first [`SCRIPT_HEAD`] bytes of the file, or all of a shorter one. Everything after
/// the interpreter is one argument, with blanks inside kept and those around it dropped. `None` if
/// this is no `#!` line, if it names nothing, or if it is so long that the interpreter's path may
/// be cut off.
pub fn interpreter_line(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let cut_off = head.len() >= SCRIPT_HEAD;
    let head = head.get(..SCRIPT_HEAD).unwrap_or(head);
    let rest = head.strip_prefix(b"#!")?;
    let line_end = rest.iter().position(|byte| *byte == b'\n');
    let line = match line_end {
        Some(end) => rest.get(..end)?,
        None => rest,
    };
    let start = line.iter().position(|byte| !is_blank(byte))?;
    let line = line.get(start..)?;
    let path_end = line.iter().position(|byte| is_blank(byte) || *byte == 0);
    if path_end.is_none() && line_end.is_none() && cut_off {
        return None;
    }
    let (path, tail) = line.split_at_checked(path_end.unwrap_or(line.len()))?;
    if path.is_empty() {
        return None;
    }
    // The path and the argument are C strings: a NUL ends them and what follows.
    let argument = match tail.first() {
        None | Some(0) => None,
        Some(_) => {
            let text = tail.split(|byte| *byte == 0).next().unwrap_or_default();
            let first = text.iter().position(|byte| !is_blank(byte));
            let last = text.iter().rposition(|byte| !is_blank(byte));
            match (first, last) {
                (Some(first), Some(last)) => text.get(first..=last),
                _ => None,
            }
        }
    };
    Some((path, argument))
}
