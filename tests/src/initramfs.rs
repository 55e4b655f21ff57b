//! Piton's root image as an initramfs for Linux: the same files, with the program and the devices it needs.
//!
//! [`fingerprint`] tells whether two root images are the same to a program that runs on Linux.
//!
//! The archive is in the `newc` form (Linux `driver-api/early-userspace/buffer-format.rst`) and not compressed, which
//! is the fastest for Linux to unpack. The device nodes spare mounting devtmpfs: nothing runs before Python.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};

use cpio::newc::{Builder, trailer};
use klib::erofs::{Erofs, ErofsError, FileKind, Inode};

/// Where the program is, from the root.
pub const PROGRAM: &str = "program";
/// What of a root image belongs to Piton, so that nothing else looks at it.
const OWN: &[&str] = &["usr/lib/python3/dist-packages/piton", "etc/piton"];

/// `S_IFCHR | 0666`, inode(7).
const CHARACTER_DEVICE: u32 = 0o020_666;
/// `S_IFREG | 0644`, inode(7).
const REGULAR_FILE: u32 = 0o100_644;

/// Devices with their major and minor number (Linux `admin-guide/devices.txt`).
const DEVICES: &[(&str, u32, u32)] = &[
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
    ("dev/console", 5, 1),
];

/// Why a root image cannot be turned into an archive.
#[derive(Debug)]
pub enum Error {
    /// It is damaged.
    Image(ErofsError),
    /// A name or a file in it does not fit the format.
    Format(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Format(error) => error.fmt(f),
        }
    }
}

impl From<ErofsError> for Error {
    fn from(error: ErofsError) -> Self {
        Self::Image(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Format(error)
    }
}

/// The archive of all files of an EROFS image, the program, and more files with their paths from the root.
///
/// # Errors
/// The image cannot be read, or has a file that does not fit the format.
pub fn from_erofs(image: &[u8], program: &[u8], more: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::default();
    walk(image, &mut |erofs, path, inode| {
        let about = Builder::new(path)
            .mode(u32::from(inode.mode))
            .uid(inode.uid)
            .gid(inode.gid)
            .mtime(u32::try_from(inode.mtime).unwrap_or(u32::MAX));
        match inode.kind() {
            FileKind::Directory => archive.add(about.nlink(2), &[])?,
            FileKind::Regular | FileKind::Symlink => archive.add(about, &contents(erofs, inode)?)?,
            // The root image has none; those that are wanted follow.
            _ => {}
        }
        Ok(())
    })?;
    for &(path, major, minor) in DEVICES {
        let about = Builder::new(path).mode(CHARACTER_DEVICE);
        archive.add(about.rdev_major(major).rdev_minor(minor), &[])?;
    }
    archive.add(Builder::new(PROGRAM).mode(REGULAR_FILE), program)?;
    for (path, contents) in more {
        archive.add(Builder::new(path).mode(REGULAR_FILE), contents)?;
    }
    Ok(trailer(archive.bytes)?)
}

/// A number for all files of an EROFS image but Piton's own Python modules. It is the same for the same files as long
/// as the compiler's standard library is.
///
/// # Errors
/// The image cannot be read.
pub fn fingerprint(image: &[u8]) -> Result<u64, Error> {
    let mut hasher = DefaultHasher::new();
    walk(image, &mut |erofs, path, inode| {
        if !OWN.iter().any(|own| path.starts_with(own)) {
            (path, inode.mode, inode.uid, inode.gid).hash(&mut hasher);
            if matches!(inode.kind(), FileKind::Regular | FileKind::Symlink) {
                contents(erofs, inode)?.hash(&mut hasher);
            }
        }
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// What is done with each file of an image: gets the image, the path from the root and the inode.
type Visit<'a> = dyn FnMut(&Erofs<'_>, &str, &Inode) -> Result<(), Error> + 'a;

/// Visits all files of an image, each directory before what is in it: Linux makes no parents.
fn walk(image: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    let erofs = Erofs::new(image)?;
    let mut pending = vec![(String::new(), erofs.root()?)];
    while let Some((folder, inode)) = pending.pop() {
        for (name, nid) in entries(&erofs, &inode)? {
            let path = match folder.as_str() {
                "" => name,
                folder => format!("{folder}/{name}"),
            };
            let child = erofs.inode(nid)?;
            visit(&erofs, &path, &child)?;
            if child.kind() == FileKind::Directory {
                pending.push((path, child));
            }
        }
    }
    Ok(())
}

/// Names and inode numbers in a directory, without `.` and `..`.
fn entries(erofs: &Erofs<'_>, folder: &Inode) -> Result<Vec<(String, u64)>, Error> {
    let mut found = Vec::new();
    erofs.read_dir(folder, 0, &mut |entry| {
        found.push((entry.name.to_vec(), entry.nid));
        true
    })?;
    found
        .into_iter()
        .filter(|(name, _)| name != b"." && name != b"..")
        .map(|(name, nid)| match String::from_utf8(name) {
            Ok(name) => Ok((name, nid)),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error).into()),
        })
        .collect()
}

/// All bytes of a file, or the target of a link.
fn contents(erofs: &Erofs<'_>, inode: &Inode) -> Result<Vec<u8>, Error> {
    let len = usize::try_from(inode.size).map_err(|error| io::Error::new(io::ErrorKind::FileTooLarge, error))?;
    let mut bytes = vec![0; len];
    erofs.read_at(inode, 0, &mut bytes)?;
    Ok(bytes)
}

/// An archive that grows.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    /// Number of the last entry: without one of its own each would be a hard link to the first.
    number: u32,
}

impl Archive {
    fn add(&mut self, about: Builder, data: &[u8]) -> Result<(), io::Error> {
        self.number += 1;
        let len = u32::try_from(data.len()).map_err(|error| io::Error::new(io::ErrorKind::FileTooLarge, error))?;
        let mut writer = about.ino(self.number).write(&mut self.bytes, len);
        writer.write_all(data)?;
        writer.finish().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_of_no_image_is_an_error() {
        assert!(matches!(from_erofs(&[0; 8192], b"", &[]), Err(Error::Image(ErofsError::Magic(0)))));
        assert!(matches!(fingerprint(&[0; 8192]), Err(Error::Image(ErofsError::Magic(0)))));
    }

    #[test]
    fn entries_are_read_back_with_their_data_and_devices() {
        let mut archive = Archive::default();
        archive.add(Builder::new("a/b").mode(REGULAR_FILE), b"data").unwrap();
        let device = Builder::new("dev/console").mode(CHARACTER_DEVICE);
        archive.add(device.rdev_major(5).rdev_minor(1), &[]).unwrap();
        let bytes = trailer(archive.bytes).unwrap();
        let mut reader = cpio::NewcReader::new(bytes.as_slice()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("a/b", REGULAR_FILE));
        let mut data = Vec::new();
        io::copy(&mut reader, &mut data).unwrap();
        assert_eq!(data, b"data");
        let reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
        let entry = reader.entry();
        assert_eq!((entry.ino(), entry.rdev_major(), entry.rdev_minor()), (2, 5, 1));
    }
}
