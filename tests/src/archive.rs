//! A Python program of several files as one file that Python executes: a ZIP archive with a `__main__.py`.
//!
//! Every archive holds `linux_guest`, with which a program that is process 1 of a Linux guest makes what Piton's kernel
//! brings by itself, and `call_numbers`, the numbers of the system calls.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// The archive of the Python files in folders of the host, each folder with what the names of its files begin with in
/// the archive. Nothing is compressed: it is small and read once.
///
/// # Panics
/// When a folder or a file cannot be read.
#[must_use]
pub fn of_folders(folders: &[(&Path, &str)]) -> Vec<u8> {
    with_files(folders, &[])
}

/// As [`of_folders`], with further files by their names in the archive.
///
/// # Panics
/// As [`of_folders`].
#[must_use]
pub fn with_files(folders: &[(&Path, &str)], files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Archive(ZipWriter::new(Cursor::new(Vec::new())));
    writer.add("linux_guest.py", include_bytes!("linux_guest.py"));
    writer.add("call_numbers.py", include_bytes!("call_numbers.py"));
    for (folder, prefix) in folders {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
        // The same files give the same archive.
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "py")) {
            let name = path.file_name().expect("a file").to_string_lossy();
            let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            writer.add(&format!("{prefix}{name}"), &text);
        }
    }
    for (name, bytes) in files {
        writer.add(name, bytes);
    }
    writer.0.finish().expect("the archive is whole").into_inner()
}

/// An archive that grows.
struct Archive(ZipWriter<Cursor<Vec<u8>>>);

impl Archive {
    fn add(&mut self, name: &str, text: &[u8]) {
        let method = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        self.0.start_file(name, method).expect("the name is allowed");
        self.0.write_all(text).expect("memory takes it");
    }
}
