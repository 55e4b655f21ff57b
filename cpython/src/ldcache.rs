//! `/etc/ld.so.cache`, written without running the target's `ldconfig`.
//!
//! The dynamic loader finds every library without it (all are in the first directory it tries), but
//! `ctypes.util.find_library` asks `ldconfig -p`, which prints this file. The host's own `ldconfig` ignores files
//! of another architecture. Format: glibc, sysdeps/generic/dl-cache.h, `struct cache_file_new` ("1.1").

use std::cmp::Ordering;
use std::path::Path;

use crate::arch::Arch;
use crate::elf;
use crate::error::Error;
use crate::run;

const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER_SIZE: usize = 48;
const ENTRY_SIZE: usize = 24;
/// `cache_file_new_flags_endian_little`.
const LITTLE_ENDIAN: u8 = 2;

/// Writes the cache of an image tree; answers the number of libraries in it.
pub fn write(tree: &Path, arch: &Arch) -> Result<usize, Error> {
    let relative = format!("usr/lib/{}", arch.multiarch);
    let directory = tree.join(&relative);
    let mut names = Vec::new();
    for name in run::walk(&directory)? {
        // A library's own name only: `ldconfig` does not look below the directory, nor at plug-ins.
        let Some(name) = name.to_str().filter(|name| is_library_name(name)) else {
            continue;
        };
        let path = directory.join(name);
        let bytes = run::read_file(&path)?;
        if !elf::is_elf(&bytes) {
            continue;
        }
        let library = elf::library(&bytes).map_err(|why| Error::Elf { path: path.clone(), why })?;
        // Debian ships a link of the library's soname beside it; that link is the entry.
        if library.machine == arch.elf_machine && library.soname.as_deref().is_none_or(|soname| soname == name) {
            names.push(name.to_owned());
        }
    }
    let entries: Vec<(String, String)> =
        names.into_iter().map(|name| (name.clone(), format!("/{relative}/{name}"))).collect();
    let count = entries.len();
    run::write_file(&tree.join("etc/ld.so.cache"), render(entries, arch.cache_flags))?;
    Ok(count)
}

fn is_library_name(name: &str) -> bool {
    !name.contains('/') && (name.starts_with("lib") || name.starts_with("ld-")) && name.contains(".so")
}

/// The file's bytes for (name, path) entries.
fn render(mut entries: Vec<(String, String)>, flags: u32) -> Vec<u8> {
    // The loader's binary search expects descending order.
    entries.sort_by(|a, b| compare(&b.0, &a.0));
    let mut strings = Vec::new();
    let strings_at = HEADER_SIZE + entries.len() * ENTRY_SIZE;
    let mut add = |text: &str| {
        let at = strings_at + strings.len();
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at as u32
    };
    let mut table = Vec::new();
    for (name, path) in &entries {
        table.extend(flags.to_le_bytes());
        table.extend(add(name).to_le_bytes());
        table.extend(add(path).to_le_bytes());
        // osversion (unused) and hwcap.
        table.extend([0; 12]);
    }
    let mut file = MAGIC.to_vec();
    file.extend((entries.len() as u32).to_le_bytes());
    file.extend((strings.len() as u32).to_le_bytes());
    file.push(LITTLE_ENDIAN);
    file.resize(HEADER_SIZE, 0);
    file.extend(table);
    file.extend(strings);
    file
}

/// glibc's `_dl_cache_libcmp`: runs of digits compare as numbers and come after other characters.
fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (None, None) => return Ordering::Equal,
            (Some(a), Some(b)) if a.is_ascii_digit() && b.is_ascii_digit() => {
                let (a_value, a_rest) = number(left);
                let (b_value, b_rest) = number(right);
                if a_value != b_value {
                    return a_value.cmp(&b_value);
                }
                (left, right) = (a_rest, b_rest);
            }
            (Some(a), _) if a.is_ascii_digit() => return Ordering::Greater,
            (_, Some(b)) if b.is_ascii_digit() => return Ordering::Less,
            (a, b) if a != b => return a.cmp(&b),
            _ => (left, right) = (&left[1..], &right[1..]),
        }
    }
}

/// A leading run of digits as a number, and the rest.
fn number(text: &[u8]) -> (u64, &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (digits.iter().fold(0, |sum: u64, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(compare("libc.so.6", "libc.so.10"), Ordering::Less);
        assert_eq!(compare("libdb-5.3.so", "libdb-5.3.so"), Ordering::Equal);
        assert_eq!(compare("liba.so.1", "liba.so"), Ordering::Greater);
        assert_eq!(compare("lib1", "liba"), Ordering::Greater);
    }

    #[test]
    fn cache_has_header_descending_entries_and_strings() {
        let entries = ["liba.so.1", "libz.so.1"].map(|name| (name.to_owned(), format!("/l/{name}"))).to_vec();
        let file = render(entries, 0x0a03);
        assert_eq!(&file[..20], MAGIC);
        assert_eq!(file[20], 2);
        let key = u32::from_le_bytes(file[HEADER_SIZE + 4..][..4].try_into().unwrap()) as usize;
        assert_eq!(&file[key..key + 10], b"libz.so.1\0");
        assert!(file.ends_with(b"/l/liba.so.1\0"));
    }

    #[test]
    fn plugins_and_other_files_are_not_libraries() {
        assert!(is_library_name("libc.so.6") && is_library_name("ld-linux-aarch64.so.1"));
        assert!(!is_library_name("gconv/libJIS.so") && !is_library_name("legacy.so"));
    }
}
