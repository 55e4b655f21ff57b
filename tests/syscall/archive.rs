//! The programs and what runs them as one file that Python executes: a ZIP archive with a `__main__.py`.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// The archive. Nothing is compressed: it is small and read once.
pub fn make() -> Vec<u8> {
    let top = crate::folder();
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for folder in ["", "programs/"] {
        add(&mut writer, &top.join(folder), folder);
    }
    writer.finish().expect("the archive is whole").into_inner()
}

/// Adds the Python files of a folder, whose names in the archive begin with `prefix`.
fn add(writer: &mut ZipWriter<Cursor<Vec<u8>>>, folder: &Path, prefix: &str) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_none_or(|e| e != "py") {
            continue;
        }
        let name = path.file_name().expect("a file").to_string_lossy();
        let method = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        writer.start_file(format!("{prefix}{name}"), method).expect("the name is allowed");
        let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        writer.write_all(&text).expect("memory takes it");
    }
}
