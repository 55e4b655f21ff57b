//! Writing the EROFS image with `mkfs.erofs` (erofs-utils 1.5 or newer).
//!
//! Programs and libraries stay uncompressed, so that the kernel maps their pages where they lie; so do the modules
//! read on the way to the prompt, which saves the time to unpack them. The rest can be LZ4-compressed: a .pyc or a
//! source is read once into Python's own memory and never mapped. Which file is which is told to `mkfs.erofs` in a
//! hints file.
//! The image uses only long-standing features, for the kernel's reader: 4 KiB blocks, flat and inline
//! (tail-packed) data, and LZ4 with 4 KiB physical clusters and zero padding, the last of a file behind its inode
//! where it fits: of 2,000 compressed files each would else leave half a block empty. No big clusters, fragments,
//! deduplication or extended attributes.

use std::path::Path;

use crate::elf;
use crate::error::Error;
use crate::{glob, run};

/// Block and cluster size, in bytes.
const BLOCK: usize = 4096;
/// Fixed, because the same inputs must give the same image.
const UUID: &str = "7069746f-6e00-4000-8000-726f6f746673";

/// Which data is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    None,
    /// All but what [`HOT`] and [`HOT_MODULES`] list; what [`COLD`] lists in any case.
    Cold,
    /// Everything.
    All,
}

/// Files that are compressed although a program or a .pyc, because a session seldom touches them.
const COLD: &[&str] = &[
    // The shell and its commands: the pages that they touch stay unpacked while there is memory.
    "usr/bin/busybox",
    // Only started by ctypes.util.find_library.
    "usr/sbin/ldconfig",
    // dbm.ndbm, and the two OpenSSL parts for ciphers nobody should use.
    "usr/lib/*/libdb-5.*.so",
    "usr/lib/*/ossl-modules/**",
    // Only for C++ extension modules from binary wheels.
    "usr/lib/*/libstdc++.so.*",
    "usr/lib/*/libgcc_s.so.*",
    "usr/lib/*/libnsl.so.*",
    "usr/lib/*/gconv/*.so",
    // Libraries of which a program touches few pages, or which the prompt (Python's own) does not use.
    "usr/lib/*/libsqlite3.so.*",
    "usr/lib/*/libzstd.so.*",
    "usr/lib/*/liblzma.so.*",
    "usr/lib/*/libbz2.so.*",
    "usr/lib/*/libreadline.so.*",
    "usr/lib/*/libncursesw.so.*",
    "usr/lib/*/libtinfo.so.*",
    "usr/lib/python3*/lib-dynload/_curses*.so",
    "usr/lib/python3*/lib-dynload/_hmac.*.so",
    // Mapped by setlocale, which looks at a few pages of it.
    "usr/lib/locale/**",
    // Asian text encodings other than Unicode, and attaching to another Python process.
    "usr/lib/python3*/lib-dynload/_codecs_*.so",
    "usr/lib/python3*/lib-dynload/_remote_debugging.*.so",
    // pip runs once in a while, and then for seconds; the help texts are large.
    "usr/lib/python3/dist-packages/pip/**",
    "usr/lib/python3*/pydoc_data/**",
    // CPython's tests: each file is read once.
    "usr/lib/python3*/test/**",
];

/// Files that are left to be mapped, or read at every start.
const HOT: &[&str] = &[
    "**/*.so",
    "**/*.so.*",
    "usr/bin/**",
    "etc/ld.so.cache",
    "usr/lib/*/gconv/gconv-modules.cache",
    // Piton's own modules (pip is in the list above).
    "usr/lib/python3/dist-packages/**/*.pyc",
    "usr/lib/python3*/_pyrepl/**/*.pyc",
    "usr/lib/python3*/collections/**/*.pyc",
    "usr/lib/python3*/encodings/__pycache__/__init__.*",
    "usr/lib/python3*/encodings/__pycache__/aliases.*",
    "usr/lib/python3*/encodings/__pycache__/ascii.*",
    "usr/lib/python3*/encodings/__pycache__/latin_1.*",
    "usr/lib/python3*/encodings/__pycache__/utf_8.*",
    "usr/lib/python3*/importlib/**/*.pyc",
    "usr/lib/python3*/pathlib/**/*.pyc",
    "usr/lib/python3*/re/**/*.pyc",
    "usr/lib/python3*/string/**/*.pyc",
];

/// Top-level modules that the interpreter and its prompt import. Those of others are read once by each process that
/// imports them, and unpacking adds a tenth to the time that an import takes.
const HOT_MODULES: &[&str] = &[
    "__future__",
    "_collections_abc",
    "_colorize",
    "_opcode_metadata",
    "_py_warnings",
    "_sitebuiltins",
    "_weakrefset",
    "abc",
    "annotationlib",
    "ast",
    "code",
    "codecs",
    "codeop",
    "contextlib",
    "copy",
    "copyreg",
    "dataclasses",
    "dis",
    "enum",
    "fnmatch",
    "functools",
    "genericpath",
    "inspect",
    "io",
    "keyword",
    "linecache",
    "opcode",
    "operator",
    "os",
    "pkgutil",
    "posixpath",
    "reprlib",
    "rlcompleter",
    "runpy",
    "signal",
    "site",
    "stat",
    "struct",
    "textwrap",
    "token",
    "tokenize",
    "traceback",
    "types",
    "typing",
    "warnings",
    "weakref",
];

/// Least share of all-zero pages, in percent, for a library to be compressed anyway. The libraries are linked for
/// 64 KiB pages, so that a small one is mostly padding; mapping it in place would keep the padding in memory.
const MOSTLY_PADDING: usize = 15;

/// Writes `image` from `tree`. `timestamp` is given to every file; `work` takes the hints file.
pub fn write(image: &Path, tree: &Path, work: &Path, timestamp: u64, compression: Compression) -> Result<(), Error> {
    let mut command = run::command("mkfs.erofs");
    command.args(["--quiet", "-x-1", "--all-root", "-Eforce-inode-compact,ztailpacking"]);
    command.arg(format!("-T{timestamp}")).arg(format!("-U{UUID}"));
    match compression {
        Compression::None => {}
        Compression::All => {
            command.args(["-zlz4hc,12", "-C4096"]);
        }
        Compression::Cold => {
            let hints = work.join("compress-hints");
            run::write_file(&hints, hint_lines(&padded_libraries(tree)?))?;
            command.args(["-zlz4hc,12", "-C4096"]).arg(format!("--compress-hints={}", hints.display()));
        }
    }
    run::output(command.arg(image).arg(tree)).map(drop)
}

/// The hints file: one line per pattern with the cluster size in bytes (0: not compressed); the first match counts.
fn hint_lines(padded: &[String]) -> String {
    let line = |size: usize, pattern: &str| format!("{size} {}\n", glob::to_regex(pattern));
    let compressed = padded.iter().map(String::as_str).chain(COLD.iter().copied()).map(|pattern| line(BLOCK, pattern));
    let mapped = HOT.iter().map(|pattern| line(0, pattern));
    let modules = HOT_MODULES.iter().map(|name| line(0, &format!("usr/lib/python3*/__pycache__/{name}.cpython-*.pyc")));
    compressed.chain(mapped).chain(modules).collect()
}

/// Libraries that consist of padding to a large part.
fn padded_libraries(tree: &Path) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for relative in run::walk(&tree.join("usr/lib"))? {
        let Some(name) = relative.to_str().filter(|name| name.contains(".so")) else {
            continue;
        };
        let path = tree.join("usr/lib").join(name);
        if path.is_symlink() {
            continue;
        }
        let bytes = run::read_file(&path)?;
        if elf::is_elf(&bytes) && padding_percent(&bytes) >= MOSTLY_PADDING {
            found.push(format!("usr/lib/{name}"));
        }
    }
    Ok(found)
}

/// Share of all-zero blocks, in percent.
fn padding_percent(bytes: &[u8]) -> usize {
    let zero = bytes.chunks(BLOCK).filter(|block| block.iter().all(|byte| *byte == 0)).count();
    zero * 100 / bytes.len().div_ceil(BLOCK).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_counts_whole_zero_blocks() {
        let mut bytes = vec![0; 4 * BLOCK];
        assert_eq!(padding_percent(&bytes), 100);
        bytes[0] = 1;
        assert_eq!(padding_percent(&bytes), 75);
        assert_eq!(padding_percent(&[]), 0);
    }

    #[test]
    fn padded_libraries_and_cold_files_come_before_mapped_ones() {
        let lines = hint_lines(&["usr/lib/x/_a.so".to_owned()]);
        let first = lines.lines().next().unwrap();
        assert_eq!(first, r"4096 ^usr/lib/x/_a\.so$");
        assert!(lines.contains("\n0 ^(.*/)?[^/]*\\.so$\n"), "{lines}");
        assert!(lines.contains("/__pycache__/typing\\.cpython"), "{lines}");
        assert!(lines.find("pip/").unwrap() < lines.find("\n0 ").unwrap());
    }
}
