//! The ELF loader's front end on real programs of this machine and of the board, and on damaged
//! headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use klib::elf::{ElfError, ElfImage, ElfKind, ReadAt, ScriptOrElf, identify, interpreter_line};

const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// `e_machine` of the host's programs.
fn host_machine() -> u16 {
    if std::env::consts::ARCH == "aarch64" { EM_AARCH64 } else { EM_X86_64 }
}

fn parse(bytes: &[u8], machine: u16) -> Result<ElfImage, ElfError> {
    ElfImage::parse(&bytes, machine)
}

/// Compiles a small C program for the board and answers its bytes.
fn cross_compile(name: &str, options: &[&str]) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = folder.join(format!("{name}.c"));
    let program: PathBuf = folder.join(name);
    fs::write(&source, "int table[5000]; int start = 3; int main(void) { return table[start]; }\n").expect("write");
    let status = Command::new("aarch64-linux-gnu-gcc")
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()
        .expect("start aarch64-linux-gnu-gcc (install gcc-aarch64-linux-gnu)");
    assert!(status.success());
    fs::read(&program).expect("read the program")
}

/// What the loader relies on.
fn assert_loadable(image: &ElfImage, len: u64) {
    assert!(!image.segments.is_empty());
    let mut last_page = 0;
    for segment in &image.segments {
        assert!(segment.memsz > 0 && segment.filesz <= segment.memsz);
        assert!(segment.offset + segment.filesz <= len || segment.filesz == 0);
        assert!(segment.filesz == 0 || segment.vaddr % 4096 == segment.offset % 4096);
        assert!(segment.vaddr & !4095 >= last_page);
        last_page = (segment.vaddr + segment.memsz).next_multiple_of(4096);
        assert!(image.load_span.contains(&segment.vaddr) && last_page <= image.load_span.end);
    }
    assert_eq!((image.load_span.start % 4096, image.load_span.end % 4096), (0, 0));
    assert!(image.load_span.end <= 0x8000_0000_0000);
    assert!(image.max_align >= 4096 && image.max_align.is_power_of_two());
}

#[test]
fn host_program_is_position_independent_with_an_interpreter() {
    let bytes = fs::read("/bin/ls").expect("read /bin/ls");
    let image = parse(&bytes, host_machine()).expect("parse /bin/ls");
    assert_loadable(&image, bytes.len() as u64);
    assert_eq!(image.kind, ElfKind::Dyn);
    assert_eq!((image.phentsize, image.exec_stack), (56, false));
    assert_eq!(image.phdr_vaddr, 64);
    let path = image.read_interp(&&bytes[..]).expect("read the interpreter").expect("has an interpreter");
    let path = String::from_utf8(path).expect("a path");
    assert!(path.starts_with("/lib") && path.contains("ld-linux"), "{path}");
    let entry = image.segments.iter().find(|s| (s.vaddr..s.vaddr + s.memsz).contains(&image.entry)).expect("entry");
    assert!(entry.execute && entry.read && !entry.write);

    let loader = fs::read(path).expect("read the interpreter");
    let loader_image = parse(&loader, host_machine()).expect("parse the interpreter");
    assert_loadable(&loader_image, loader.len() as u64);
    assert_eq!(loader_image.interp, None);
}

#[test]
fn every_program_of_the_host_parses() {
    let mut count = 0;
    for entry in fs::read_dir("/usr/bin").expect("list /usr/bin") {
        let path = entry.expect("entry").path();
        let Ok(bytes) = fs::read(&path) else { continue };
        // Class, byte order and machine as the host's.
        if !bytes.starts_with(b"\x7fELF\x02\x01") || bytes.get(18..20) != Some(&host_machine().to_le_bytes()[..]) {
            continue;
        }
        let image = parse(&bytes, host_machine()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_loadable(&image, bytes.len() as u64);
        count += 1;
    }
    assert!(count > 20, "only {count} programs");
}

#[test]
fn cross_compiled_program_parses_for_its_machine_only() {
    let bytes = cross_compile("elf-dynamic", &[]);
    let image = parse(&bytes, EM_AARCH64).expect("parse");
    assert_loadable(&image, bytes.len() as u64);
    assert_eq!(image.kind, ElfKind::Dyn);
    let path = image.read_interp(&&bytes[..]).expect("read");
    assert_eq!(path.as_deref(), Some(&b"/lib/ld-linux-aarch64.so.1"[..]));
    assert_eq!(image.max_align, 0x10000);
    assert!(image.segments.iter().any(|segment| segment.write && segment.memsz > segment.filesz + 19_000));
    assert_eq!(parse(&bytes, EM_X86_64), Err(ElfError::Machine(EM_AARCH64)));
}

#[test]
fn static_program_has_final_addresses_and_no_interpreter() {
    let bytes = cross_compile("elf-static", &["-static", "-no-pie"]);
    let image = parse(&bytes, EM_AARCH64).expect("parse");
    assert_loadable(&image, bytes.len() as u64);
    assert_eq!((image.kind, image.interp), (ElfKind::Exec, None));
    assert_eq!(image.load_span.start, 0x40_0000);
    assert_eq!(image.phdr_vaddr, 0x40_0040);
    assert!(image.load_span.contains(&image.entry));
}

#[test]
fn executable_stack_is_seen() {
    let bytes = cross_compile("elf-execstack", &["-Wl,-z,execstack"]);
    assert!(parse(&bytes, EM_AARCH64).expect("parse").exec_stack);
}

/// One program header of a hand-made file.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

const LOAD: Header =
    Header { kind: 1, flags: 5, offset: 0, vaddr: 0x10000, filesz: 0x1000, memsz: 0x1000, align: 0x1000 };

/// An 8 KiB file with these program headers after the file header.
fn file(headers: &[Header]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&2u16.to_le_bytes());
    out.extend_from_slice(&EM_AARCH64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    for field in [0x10100u64, 64, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    for field in [64, 56, headers.len() as u16, 64, 0, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for header in headers {
        out.extend_from_slice(&header.kind.to_le_bytes());
        out.extend_from_slice(&header.flags.to_le_bytes());
        for field in [header.offset, header.vaddr, header.vaddr, header.filesz, header.memsz, header.align] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    out.resize(out.len().max(8192), 0);
    out
}

fn parse_headers(headers: &[Header]) -> Result<ElfImage, ElfError> {
    parse(&file(headers), EM_AARCH64)
}

/// Parses a good file with some bytes changed.
fn parse_with(offset: usize, bytes: &[u8]) -> Result<ElfImage, ElfError> {
    let mut file = file(&[LOAD]);
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    parse(&file, EM_AARCH64)
}

#[test]
fn damaged_file_headers_are_named() {
    assert!(parse_with(0, b"\x7f").is_ok());
    assert_eq!(parse_with(1, b"e"), Err(ElfError::Magic));
    assert_eq!(parse_with(4, &[1]), Err(ElfError::Class));
    assert_eq!(parse_with(4, &[7]), Err(ElfError::Class));
    assert_eq!(parse_with(5, &[2]), Err(ElfError::ByteOrder));
    assert_eq!(parse_with(6, &[0]), Err(ElfError::Version));
    assert_eq!(parse_with(20, &[2]), Err(ElfError::Version));
    assert_eq!(parse_with(18, &[3, 0]), Err(ElfError::Machine(3)));
    assert_eq!(parse_with(16, &[1, 0]), Err(ElfError::Type(1)));
    assert_eq!(parse_with(16, &[4, 0]), Err(ElfError::Type(4)));
    assert_eq!(parse_with(54, &[32, 0]), Err(ElfError::ProgramHeaders));
    assert_eq!(parse_with(56, &[0, 0]), Err(ElfError::ProgramHeaders));
    assert_eq!(parse_with(56, &[0xff, 0xff]), Err(ElfError::ProgramHeaders));
    assert_eq!(parse_with(32, &[0xff; 8]), Err(ElfError::Truncated));
    assert_eq!(parse_with(32, &8137u64.to_le_bytes()), Err(ElfError::Truncated));
    assert_eq!(parse_with(24, &0x8000_0000_0000u64.to_le_bytes()), Err(ElfError::Entry));
}

#[test]
fn short_files_are_named() {
    let bytes = file(&[LOAD]);
    for len in 0..16 {
        assert_eq!(parse(&bytes[..len], EM_AARCH64), Err(ElfError::Magic));
    }
    for len in 16..4096 {
        assert_eq!(parse(&bytes[..len], EM_AARCH64), Err(ElfError::Truncated));
    }
    assert!(parse(&bytes[..4096], EM_AARCH64).is_ok());
}

#[test]
fn damaged_segments_are_named() {
    let second = Header { vaddr: 0x20000, ..LOAD };
    assert!(parse_headers(&[LOAD, second]).is_ok());
    assert_eq!(parse_headers(&[second, LOAD]), Err(ElfError::Overlap(1)));
    assert_eq!(parse_headers(&[LOAD, LOAD]), Err(ElfError::Overlap(1)));
    // On one page, if not on one byte.
    let same_page = Header { vaddr: 0x11fff, offset: 0xfff, filesz: 1, memsz: 1, ..LOAD };
    assert_eq!(parse_headers(&[Header { memsz: 0x1001, ..LOAD }, same_page]), Err(ElfError::Overlap(1)));
    assert!(parse_headers(&[LOAD, same_page]).is_ok());
    assert_eq!(parse_headers(&[Header { filesz: 0x1001, ..LOAD }]), Err(ElfError::FileSize(0)));
    assert_eq!(parse_headers(&[LOAD, Header { offset: 8, ..second }]), Err(ElfError::Misaligned(1)));
    assert_eq!(parse_headers(&[Header { vaddr: 0x7fff_ffff_f000, memsz: 0x1001, ..LOAD }]), Err(ElfError::Range(0)));
    assert!(parse_headers(&[Header { vaddr: 0x7fff_ffff_f000, ..LOAD }]).is_ok());
    assert_eq!(parse_headers(&[Header { memsz: u64::MAX, ..LOAD }]), Err(ElfError::Range(0)));
    assert_eq!(parse_headers(&[Header { vaddr: 0, ..LOAD }]), Err(ElfError::Range(0)), "page 0 of a fixed program");
    assert_eq!(parse_headers(&[Header { offset: 0x1_0000, ..LOAD }]), Err(ElfError::Truncated));
    assert_eq!(parse_headers(&[Header { offset: !0xfff, ..LOAD }]), Err(ElfError::Truncated));
    assert_eq!(parse_headers(&[Header { align: 1 << 40, ..LOAD }]), Err(ElfError::Alignment(0)));
    assert_eq!(
        parse_headers(&[Header { align: 1 << 40, kind: 4, ..LOAD }, LOAD]).map(|image| image.max_align),
        Ok(4096)
    );
    assert_eq!(parse_headers(&[Header { kind: 2, ..LOAD }]), Err(ElfError::NoSegments));
}

#[test]
fn empty_segments_are_left_out() {
    let empty = Header { filesz: 0, memsz: 0, vaddr: 0, offset: 3, ..LOAD };
    let image = parse_headers(&[empty, LOAD, empty]).expect("parse");
    assert_eq!(image.segments.len(), 1);
    assert_eq!(parse_headers(&[empty]), Err(ElfError::NoSegments));
    // Nothing comes from the file, so its offset does not matter.
    let zeros = Header { filesz: 0, memsz: 0x3001, vaddr: 0x20010, offset: u64::MAX, flags: 6, ..LOAD };
    let image = parse_headers(&[LOAD, zeros]).expect("parse");
    assert_eq!(image.load_span, 0x10000..0x24000);
    assert!(!image.segments[1].execute && image.segments[1].write);
}

#[test]
fn program_header_address_is_zero_when_not_loaded() {
    assert_eq!(parse_headers(&[LOAD]).expect("parse").phdr_vaddr, 0x10040);
    let image = parse_headers(&[Header { offset: 0x1000, ..LOAD }]).expect("parse");
    assert_eq!(image.phdr_vaddr, 0);
    // The segment ends within the table.
    let image = parse_headers(&[Header { filesz: 100, ..LOAD }]).expect("parse");
    assert_eq!(image.phdr_vaddr, 0);
}

#[test]
fn interpreter_path_is_checked() {
    let interp = Header { kind: 3, offset: 0x1800, filesz: 6, ..LOAD };
    let with_path = |header: Header, path: &[u8]| {
        let mut bytes = file(&[header, LOAD]);
        bytes[0x1800..0x1800 + path.len()].copy_from_slice(path);
        let image = parse(&bytes, EM_AARCH64)?;
        image.read_interp(&&bytes[..])
    };
    assert_eq!(with_path(interp, b"/ld.so\0"), Err(ElfError::Interpreter), "no NUL at its end");
    assert_eq!(with_path(Header { filesz: 7, ..interp }, b"/ld.so\0"), Ok(Some(b"/ld.so".to_vec())));
    assert_eq!(with_path(Header { filesz: 7, ..interp }, b"/l\0.so\0"), Ok(Some(b"/l".to_vec())));
    for filesz in [0, 1, 4097, u64::MAX] {
        assert_eq!(with_path(Header { filesz, ..interp }, b"/ld.so\0"), Err(ElfError::Interpreter));
    }
    assert_eq!(with_path(Header { offset: 8190, ..interp }, b""), Err(ElfError::Truncated));
    assert_eq!(with_path(Header { offset: u64::MAX, ..interp }, b""), Err(ElfError::Truncated));
}

#[test]
fn read_errors_are_passed_on() {
    struct Broken(u64);
    impl ReadAt for Broken {
        fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), ElfError> {
            if offset >= self.0 {
                return Err(ElfError::Read);
            }
            (&file(&[LOAD])[..]).read_exact_at(offset, out)
        }
        fn len(&self) -> u64 {
            8192
        }
    }
    for good in [0, 16, 64] {
        assert_eq!(ElfImage::parse(&Broken(good), EM_AARCH64), Err(ElfError::Read));
    }
    assert!(ElfImage::parse(&Broken(65), EM_AARCH64).is_ok());
}

#[test]
fn interpreter_line_is_split_as_execve_describes() {
    let line = |text: &'static [u8]| interpreter_line(text);
    assert_eq!(line(b"#!/bin/sh\necho"), Some((&b"/bin/sh"[..], None)));
    assert_eq!(line(b"#! \t/bin/sh \t\n"), Some((&b"/bin/sh"[..], None)));
    assert_eq!(line(b"#!/usr/bin/env python3 -u\t \nx"), Some((&b"/usr/bin/env"[..], Some(&b"python3 -u"[..]))));
    assert_eq!(line(b"#!/bin/sh"), Some((&b"/bin/sh"[..], None)), "a file without a newline");
    assert_eq!(line(b"#!/bin/sh -e"), Some((&b"/bin/sh"[..], Some(&b"-e"[..]))));
    assert_eq!(line(b"#!/bin/sh\0-e\n"), Some((&b"/bin/sh"[..], None)));
    assert_eq!(line(b"#!/bin/sh -e\0x\n"), Some((&b"/bin/sh"[..], Some(&b"-e"[..]))));
    for bad in [&b""[..], b"#", b"#!", b"#!\n/bin/sh", b"#!  \t\nx", b"#!   ", b"x#!/bin/sh\n", b"#!\0/bin/sh\n"] {
        assert_eq!(interpreter_line(bad), None, "{bad:?}");
    }
}

#[test]
fn interpreter_line_longer_than_the_head_is_cut_or_refused() {
    let path_only = [b"#!/".to_vec(), vec![b'p'; 300]].concat();
    assert_eq!(interpreter_line(&path_only), None, "the path may be cut off");
    assert_eq!(interpreter_line(&path_only[..256]), None);
    assert!(interpreter_line(&path_only[..255]).is_some(), "this is the whole file");
    let long_argument = [b"#!/bin/sh ".to_vec(), vec![b'a'; 300]].concat();
    assert_eq!(interpreter_line(&long_argument), Some((&b"/bin/sh"[..], Some(&[b'a'; 246][..]))));
    let blank = [b"#!".to_vec(), vec![b' '; 300]].concat();
    assert_eq!(interpreter_line(&blank), None);
}

#[test]
fn programs_and_scripts_are_told_apart() {
    assert_eq!(identify(b"\x7fELF\x02\x01"), Some(ScriptOrElf::Elf));
    assert_eq!(identify(b"#!/x y\n"), Some(ScriptOrElf::Script { interpreter: b"/x", argument: Some(b"y") }));
    assert_eq!(identify(b"MZ"), None);
    assert_eq!(identify(b""), None);
}

#[test]
fn every_error_has_a_line() {
    for error in [ElfError::Magic, ElfError::Machine(3), ElfError::Overlap(2), ElfError::Truncated] {
        let line = error.to_string();
        assert!(line.contains("ELF") && !line.contains('\n'), "{line}");
    }
}
