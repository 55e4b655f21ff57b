//! What open regular files, directories and bare paths do, and opening in general.
//!
//! [`open`] turns a place in the tree into an open file: devices, FIFOs and virtual files bring their own operations,
//! the rest is here. Regular files go straight to their inode. A directory's position counts `.` as 0, `..` as 1 and
//! then the file system's own positions moved by 2.

use alloc::sync::Arc;

use abi::{Errno, Result, ioctl, linux};
use hal::UserAddr;

use super::{
    DirectoryEntry, FileKind, FileOps, Inode, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, WriteBuffer,
    mount::NoteAccess,
    notify,
    path::Path,
    permission::{self, READ, WRITE},
    write_access::Writing,
};
use crate::{
    mm::{object::VmObject, user},
    task::{scheduler, signal},
};

/// The largest offset a file can have (`loff_t`).
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// Opens the file at `path`, where the running thread may. O_CREAT, O_EXCL and O_NOFOLLOW have been dealt with by the
/// walk that found it.
///
/// ELOOP for a symbolic link (without O_PATH), EISDIR, ENOTDIR, EROFS, EACCES, EPERM, ENXIO as in open(2).
pub fn open(path: Path, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    open_with(path, flags, true)
}

/// Opens a file that was made for this very open: whatever its permission bits are.
pub fn open_new(path: Path, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    open_with(path, flags, false)
}

fn open_with(path: Path, flags: OpenFlags, check: bool) -> Result<Arc<OpenFile>> {
    let kind = path.kind();
    if flags.contains(linux::O_DIRECTORY) && kind != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    if flags.contains(linux::O_PATH) {
        let kept = linux::O_PATH | linux::O_DIRECTORY | linux::O_NOFOLLOW;
        return Ok(OpenFile::new(Arc::new(BarePath), path, OpenFlags::from_bits(flags.bits() & kept)));
    }
    let truncate = flags.contains(linux::O_TRUNC) && kind == FileKind::Regular;
    match kind {
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Directory if flags.writable() || flags.contains(linux::O_TRUNC) => return Err(Errno::EISDIR),
        _ => {}
    }
    if kind == FileKind::Regular && (flags.writable() || truncate) {
        path.require_writable()?;
    }
    if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) && path.mount().has(linux::MS_NODEV) {
        return Err(Errno::EACCES);
    }
    if check {
        let writes = flags.writable() || flags.contains(linux::O_TRUNC);
        let wanted = if flags.readable() { READ } else { 0 } | if writes { WRITE } else { 0 };
        permission::check(&**path.inode(), wanted)?;
        if flags.contains(linux::O_NOATIME) {
            permission::check_owner(&**path.inode())?;
        }
    }
    if kind == FileKind::Socket {
        return Err(Errno::ENXIO);
    }
    let ops = match path.inode().open(flags)? {
        Some(ops) => ops,
        None => match kind {
            FileKind::Regular => {
                // A file that never had a name (memfd_create(2)) may be run while it is open.
                let counts = flags.writable() && path.dentry().parent().is_some();
                let writing = counts.then(|| Writing::start(path.inode())).transpose()?;
                Arc::new(RegularFile { inode: path.inode().clone(), _writing: writing })
            }
            FileKind::Directory => Arc::new(DirectoryFile { path: path.clone() }) as Arc<dyn FileOps>,
            _ => return Err(Errno::ENXIO),
        },
    };
    if truncate {
        permission::content_changed(&**path.inode());
        path.inode().truncate(0)?;
    }
    notify::path(&path, linux::IN_OPEN);
    if truncate {
        notify::path(&path, linux::IN_MODIFY);
    }
    Ok(OpenFile::new(ops, path, flags))
}

/// Something was read through a mount.
fn note_access(path: &Path, is_directory: bool) {
    match path.mount().notes_access(is_directory) {
        NoteAccess::Never => {}
        wanted => path.inode().note_access(wanted == NoteAccess::Always),
    }
}

/// An open regular file.
struct RegularFile {
    inode: Arc<dyn Inode>,
    _writing: Option<Writing>,
}

/// Checks that a write at `position` is allowed and returns how many of `len` bytes are: at least one.
///
/// EFBIG beyond the largest offset or RLIMIT_FSIZE, for which SIGXFSZ is sent as well (setrlimit(2)).
fn writable_len(position: u64, len: usize) -> Result<usize> {
    let thread = scheduler::current();
    let (limit, _) = thread.process().rlimit(linux::RLIMIT_FSIZE);
    if position >= limit {
        signal::send_to_thread(&thread, linux::SIGXFSZ, signal::SignalInfo::kernel(linux::SIGXFSZ));
        return Err(Errno::EFBIG);
    }
    if position >= MAX_OFFSET {
        return Err(Errno::EFBIG);
    }
    let room = limit.min(MAX_OFFSET) - position;
    Ok(len.min(usize::try_from(room).unwrap_or(usize::MAX)))
}

/// Checks a new size against RLIMIT_FSIZE; EFBIG and SIGXFSZ beyond it.
pub fn check_size(size: u64) -> Result<()> {
    if size == 0 { Ok(()) } else { writable_len(size - 1, 1).map(|_| ()) }
}

impl FileOps for RegularFile {
    fn read(&self, file: &OpenFile, position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        let read = self.inode.read_at(*position, buffer)?;
        if !file.flags().contains(linux::O_NOATIME)
            && let Some(path) = file.path()
        {
            note_access(path, false);
        }
        *position += read as u64;
        Ok(read)
    }

    fn write(&self, _file: &OpenFile, position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        buffer.limit(writable_len(*position, buffer.remaining())?);
        permission::content_changed(&*self.inode);
        let written = self.inode.write_at(*position, buffer)?;
        *position += written as u64;
        Ok(written)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn ioctl(&self, file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        match command {
            ioctl::FIONREAD => {
                let left = self.inode.metadata().size.saturating_sub(file.position());
                user::copy_out(argument, &i32::try_from(left).unwrap_or(i32::MAX))?;
                Ok(0)
            }
            // No file system here can share data between files; programs then copy (ioctl_ficlone(2)).
            ioctl::FICLONE | ioctl::FICLONERANGE | ioctl::FIDEDUPERANGE => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        self.inode.vm_object()
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// An open directory.
pub struct DirectoryFile {
    path: Path,
}

impl DirectoryFile {
    /// Lists from `position` on, `.` and `..` first, until `visit` returns false.
    pub fn list(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let kind = FileKind::Directory;
        note_access(&self.path, true);
        if position == 0 {
            let inode = self.path.inode().metadata().inode;
            if !visit(DirectoryEntry { name: b".", inode, kind, next: 1 }) {
                return Ok(());
            }
        }
        if position <= 1 {
            let parent = match super::path::tree_root() {
                Some(root) => self.path.parent(&root),
                None => self.path.clone(),
            };
            if !visit(DirectoryEntry { name: b"..", inode: parent.inode().metadata().inode, kind, next: 2 }) {
                return Ok(());
            }
        }
        if self.path.dentry().is_deleted() {
            return Ok(());
        }
        self.path.inode().read_directory(position.saturating_sub(2), &mut |entry| {
            visit(DirectoryEntry { next: entry.next.saturating_add(2), ..entry })
        })
    }
}

impl FileOps for DirectoryFile {
    fn read(&self, _file: &OpenFile, _position: &mut u64, _buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        Err(Errno::EISDIR)
    }
    fn write(&self, _file: &OpenFile, _position: &mut u64, _buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        Err(Errno::EISDIR)
    }
    fn is_seekable(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// What O_PATH opens: a place, without access to the file.
struct BarePath;

impl FileOps for BarePath {
    fn read(&self, _file: &OpenFile, _position: &mut u64, _buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        Err(Errno::EBADF)
    }
    fn write(&self, _file: &OpenFile, _position: &mut u64, _buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        Err(Errno::EBADF)
    }
    fn poll(&self, _table: &mut PollTable<'_>) -> PollEvents {
        PollEvents::NVAL
    }
    fn ioctl(&self, _file: &OpenFile, _command: u32, _argument: UserAddr) -> Result<u64> {
        Err(Errno::EBADF)
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
