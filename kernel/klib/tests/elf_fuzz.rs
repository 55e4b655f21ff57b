//! Mutation fuzzing of the ELF loader's front end: damaged programs and scripts must give an error
//! or an image that keeps every promise the loader relies on.
//!
//! The seed is fixed, so a failure comes again; `PITON_FUZZ_ITERATIONS` sets how many files are
//! tried.

mod mutation;

use std::fs;
use std::time::Instant;

use klib::elf::{ElfImage, ElfKind, SCRIPT_HEAD, identify, interpreter_line};
use mutation::{Random, check_time, damage, iterations};

/// Fails unless the loader can do its sums on `image` without a check.
fn assert_promises(image: &ElfImage, len: u64) {
    let mut end = image.load_span.start;
    assert!(!image.segments.is_empty() && image.load_span.end > image.load_span.start);
    for segment in &image.segments {
        assert!(segment.memsz > 0 && segment.filesz <= segment.memsz);
        let first_page = segment.vaddr / 4096 * 4096;
        assert!(first_page >= end, "no two segments share a page");
        end = segment.vaddr.checked_add(segment.memsz).expect("no overflow").next_multiple_of(4096);
        if segment.filesz > 0 {
            assert_eq!(segment.vaddr % 4096, segment.offset % 4096);
            assert!(segment.offset.checked_add(segment.filesz).expect("no overflow") <= len);
        }
    }
    assert_eq!(end, image.load_span.end);
    assert!(end <= 0x8000_0000_0000 && image.entry < 0x8000_0000_0000);
    assert!(image.kind == ElfKind::Dyn || image.load_span.start >= 4096);
    assert!(image.max_align.is_power_of_two() && (4096..=1 << 30).contains(&image.max_align));
    assert!(image.phdr_vaddr == 0 || image.load_span.contains(&image.phdr_vaddr));
    if let Some((offset, size)) = image.interp {
        assert!((2..=4096).contains(&size) && offset.checked_add(size).expect("no overflow") <= len);
    }
}

#[test]
fn damaged_programs_are_survived() {
    let whole = fs::read("/bin/ls").expect("read /bin/ls");
    let machine = u16::from_le_bytes([whole[18], whole[19]]);
    let mut random = Random::new(11);
    let mut bytes = Vec::new();
    let (mut good, mut bad) = (0u64, 0u64);
    for iteration in 0..iterations(20_000) {
        bytes.clear();
        bytes.extend_from_slice(&whole);
        damage(&mut bytes, &mut random, &mut |random| match random.below(4) {
            0 => random.below(64),
            _ => 64 + random.below(14 * 56),
        });
        let started = Instant::now();
        match ElfImage::parse(&&bytes[..], machine) {
            Ok(image) => {
                good += 1;
                assert_promises(&image, bytes.len() as u64);
                let _ = image.read_interp(&&bytes[..]).expect("the path is in the file");
            }
            Err(error) => {
                bad += 1;
                assert!(!error.to_string().is_empty());
            }
        }
        check_time(started, || format!("iteration {iteration}"));
    }
    println!("{good} damaged programs parsed, {bad} were refused");
    assert!(good > 0 && bad > 0);
}

#[test]
fn damaged_script_heads_are_survived() {
    let line = b"#! /usr/bin/env  python3 -X dev\t \nprint(1)\n";
    let mut random = Random::new(12);
    let mut bytes = Vec::new();
    for _ in 0..iterations(20_000) {
        bytes.clear();
        let copies = 1 + random.below(8);
        bytes.extend_from_slice(&line.repeat(copies));
        damage(&mut bytes, &mut random, &mut |random| random.below(40));
        if let Some((path, argument)) = interpreter_line(&bytes) {
            assert!(!path.is_empty() && path.len() < SCRIPT_HEAD);
            assert!(!path.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\n' | 0)));
            if let Some(argument) = argument {
                assert!(!argument.is_empty() && !argument.contains(&b'\n') && !argument.contains(&0));
                assert!(!matches!(argument[0], b' ' | b'\t'));
            }
            assert!(identify(&bytes).is_some());
        }
    }
}
