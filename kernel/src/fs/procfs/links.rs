//! The links of /proc/PID that lead to files directly: cwd, exe, root, and the descriptors in fd; with fdinfo.

use alloc::{format, string::ToString as _, sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};

use super::{FS, inode_number, metadata, number, owned_metadata};
use crate::{
    fs::{
        DirectoryEntry, FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags,
        path::{self, Path},
        virtual_files::open_text,
    },
    sync::IrqLock,
    task::{
        process::{FsContext, Process},
        scheduler,
        thread::Thread,
    },
};

/// EACCES unless the running thread may look into the process.
pub fn check_follow(process: &Process) -> Result<()> {
    process.check_inspection(&scheduler::current()).map_err(|_| Errno::EACCES)
}

/// Where one of a process's own links leads.
#[derive(Clone, Copy)]
pub enum Place {
    /// cwd.
    WorkingDirectory,
    /// exe.
    Executable,
    /// root.
    Root,
}

/// /proc/PID/{cwd,exe,root}.
pub struct PlaceLink {
    pub inode: u64,
    pub process: Arc<Process>,
    pub thread: Option<Arc<Thread>>,
    pub place: Place,
}

/// Where a thread is in the file system, or the first of a process.
pub fn fs_of(process: &Process, thread: Option<&Arc<Thread>>) -> Arc<IrqLock<FsContext>> {
    thread.cloned().or_else(|| process.main_thread()).map_or_else(|| process.fs(), |thread| thread.fs())
}

impl PlaceLink {
    fn target(&self) -> Result<Path> {
        if self.process.exit_status().is_some() {
            return Err(Errno::ENOENT);
        }
        check_follow(&self.process)?;
        match self.place {
            Place::WorkingDirectory => Ok(fs_of(&self.process, self.thread.as_ref()).lock().cwd.clone()),
            Place::Root => Ok(fs_of(&self.process, self.thread.as_ref()).lock().root.clone()),
            Place::Executable => self.process.executable().ok_or(Errno::ENOENT),
        }
    }
}

impl Inode for PlaceLink {
    fn metadata(&self) -> Metadata {
        owned_metadata(self.inode, FileKind::Symlink, 0o777, &self.process)
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn read_link(&self) -> Result<Vec<u8>> {
        Ok(self.target()?.bytes())
    }
    fn follow_magic_link(&self) -> Option<Result<Path>> {
        Some(self.target())
    }
}

/// /proc/PID/fd, or /proc/PID/fdinfo.
pub struct DescriptorDirectory {
    pub inode: u64,
    /// The process's or thread's number.
    pub id: i32,
    pub process: Arc<Process>,
    pub information: bool,
}

impl DescriptorDirectory {
    fn entry_inode(&self, fd: i32) -> u64 {
        let base = if self.information { 1 << 18 } else { 1 << 17 };
        inode_number(self.id, base + fd as u64)
    }
}

impl Inode for DescriptorDirectory {
    fn metadata(&self) -> Metadata {
        let permissions = if self.information { 0o555 } else { 0o500 };
        let mut metadata = owned_metadata(self.inode, FileKind::Directory, permissions, &self.process);
        // As Linux since 6.2: how many descriptors are open.
        metadata.size = self.process.files().count() as u64;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn allows_regardless(&self) -> bool {
        Arc::ptr_eq(scheduler::current().process(), &self.process)
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.information {
            check_follow(&self.process)?;
        }
        let fd = number(name).ok_or(Errno::ENOENT)?;
        let file = self.process.files().get(fd).map_err(|_| Errno::ENOENT)?;
        let inode = self.entry_inode(fd);
        Ok(if self.information {
            let close_on_exec = self.process.files().is_close_on_exec(fd).unwrap_or(false);
            Arc::new(DescriptorInformation { inode, process: self.process.clone(), file, close_on_exec })
        } else {
            Arc::new(DescriptorLink { inode, process: self.process.clone(), file })
        })
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        if self.information {
            check_follow(&self.process)?;
        }
        let kind = if self.information { FileKind::Regular } else { FileKind::Symlink };
        let files = self.process.files();
        let mut position = usize::try_from(position).unwrap_or(usize::MAX);
        while let Some(fd) = files.next(position) {
            let name = fd.to_string();
            position = fd as usize + 1;
            let (inode, next) = (self.entry_inode(fd), position as u64);
            if !visit(DirectoryEntry { name: name.as_bytes(), inode, kind, next }) {
                break;
            }
        }
        Ok(())
    }
}

/// An entry of /proc/PID/fd.
struct DescriptorLink {
    inode: u64,
    process: Arc<Process>,
    file: Arc<OpenFile>,
}

impl Inode for DescriptorLink {
    fn metadata(&self) -> Metadata {
        let flags = self.file.flags();
        let allowed = |condition, bits| if condition { bits } else { 0 };
        let permissions = allowed(flags.readable(), 0o500) | allowed(flags.writable(), 0o300);
        let mut metadata = owned_metadata(self.inode, FileKind::Symlink, permissions, &self.process);
        metadata.size = 64;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn read_link(&self) -> Result<Vec<u8>> {
        check_follow(&self.process)?;
        Ok(match self.file.path() {
            Some(path) => path.bytes(),
            None => self.file.description().into_bytes(),
        })
    }
    fn follow_magic_link(&self) -> Option<Result<Path>> {
        if let Err(error) = check_follow(&self.process) {
            return Some(Err(error));
        }
        Some(Ok(match self.file.path() {
            Some(path) => path.clone(),
            None => {
                let inode = Arc::new(AnonymousInode { file: self.file.clone() });
                path::floating(inode, self.file.description().as_bytes())
            }
        }))
    }
}

/// The file behind a descriptor that is in no file system, as far as a path can lead to it.
struct AnonymousInode {
    file: Arc<OpenFile>,
}

impl Inode for AnonymousInode {
    fn metadata(&self) -> Metadata {
        match self.file.metadata() {
            Ok(metadata) => metadata,
            Err(_) => metadata(0, FileKind::Regular, 0o600),
        }
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    /// Pipes can be opened again, in the direction of the descriptor; nothing else can.
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if self.metadata().kind != FileKind::Fifo {
            return Err(Errno::ENXIO);
        }
        let have = self.file.flags();
        if flags.readable() && !have.readable() || flags.writable() && !have.writable() {
            return Err(Errno::EACCES);
        }
        Ok(Some(self.file.ops().clone()))
    }
}

/// An entry of /proc/PID/fdinfo.
struct DescriptorInformation {
    inode: u64,
    process: Arc<Process>,
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

impl Inode for DescriptorInformation {
    fn metadata(&self) -> Metadata {
        owned_metadata(self.inode, FileKind::Regular, 0o444, &self.process)
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if flags.writable() {
            return Err(Errno::EACCES);
        }
        let mut bits = self.file.flags().bits();
        if self.close_on_exec {
            bits |= linux::O_CLOEXEC;
        }
        let mount = self.file.path().map_or(0, |path| path.mount().id());
        let inode = self.file.metadata().map_or(0, |metadata| metadata.inode);
        let text = format!(
            "pos:\t{}\nflags:\t0{bits:o}\nmnt_id:\t{mount}\nino:\t{inode}\n{}",
            self.file.position(),
            self.file.ops().information()
        );
        Ok(Some(open_text(move || Ok(text.clone().into_bytes()), None)))
    }
}
