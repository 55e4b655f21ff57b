//! The virtual file system: what files, directories and open files are to the rest of the kernel.
//!
//! [`Inode`] is a file in a file system, [`Dentry`](dentry::Dentry) its place in the tree of names, [`OpenFile`] what
//! a descriptor refers to, and [`FileOps`] what an open file does. Regular files, directories and symlinks get their
//! [`FileOps`] from the VFS; devices, pipes, sockets and the like bring their own.

pub mod async_signal;
pub mod dentry;
pub mod devfs;
pub mod epoll;
pub mod erofs;
pub mod eventfd;
pub mod extended_attributes;
pub mod fd_table;
pub mod init;
pub mod io_buffer;
pub mod kmsg;
pub mod locks;
pub mod mount;
pub mod notify;
pub mod open_file;
pub mod path;
pub mod permission;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod procfs;
pub mod regular;
pub mod signalfd;
pub mod socket;
pub mod sysfs;
pub mod timerfd;
pub mod tmpfs;
pub mod tty;
pub mod unix_socket;
pub mod virtual_files;
pub mod write_access;

use alloc::{string::String, sync::Arc, vec::Vec};

use abi::{Errno, Result};
use hal::UserAddr;

pub use io_buffer::{ReadBuffer, WriteBuffer};
pub use open_file::{OpenFile, OpenFlags};
pub use poll::{PollEvents, PollTable};

use crate::{mm::object::VmObject, task::wait::Turn};

/// The kind of a file, as in the upper bits of `st_mode` (inode(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// S_IFREG.
    Regular,
    /// S_IFDIR.
    Directory,
    /// S_IFLNK.
    Symlink,
    /// S_IFCHR.
    CharDevice,
    /// S_IFBLK.
    BlockDevice,
    /// S_IFIFO.
    Fifo,
    /// S_IFSOCK.
    Socket,
    /// No S_IF at all: what exists only as a descriptor.
    Anonymous,
}

impl FileKind {
    /// The S_IFMT bits.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
            Self::Anonymous => 0,
        }
    }

    /// The kind in a `st_mode`.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::Regular,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// The DT_ value of readdir(3).
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// A point in time of a file's timestamps.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FileTime {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What stat(2) tells of a file.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// Identifies the file system.
    pub device: u64,
    /// Identifies the file in it.
    pub inode: u64,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits, with set-id and sticky bits (07777).
    pub permissions: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub accessed: FileTime,
    /// Last change of content.
    pub modified: FileTime,
    /// Last change of metadata.
    pub changed: FileTime,
    /// When it was made, where the file system knows.
    pub created: Option<FileTime>,
}

impl Metadata {
    /// A file of size 0 owned by root with one link.
    pub const fn new(device: u64, inode: u64, kind: FileKind, permissions: u32) -> Self {
        const ZERO: FileTime = FileTime { seconds: 0, nanoseconds: 0 };
        Self {
            device,
            inode,
            kind,
            permissions,
            links: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            accessed: ZERO,
            modified: ZERO,
            changed: ZERO,
            created: None,
        }
    }
}

/// What fstat(2) tells of files that exist only as descriptors and share one inode: event counters, timers, epoll and
/// inotify instances.
pub const fn anonymous_metadata() -> Metadata {
    const ANONYMOUS_DEVICE: u64 = 13;
    Metadata::new(ANONYMOUS_DEVICE, 1, FileKind::Anonymous, 0o600)
}

/// What a change of attributes asks for (chmod, chown, utimensat); `None` leaves a field alone.
#[derive(Clone, Copy, Default, Debug)]
pub struct AttributeChange {
    /// Permission bits (07777).
    pub permissions: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub accessed: Option<FileTime>,
    /// Last change of content.
    pub modified: Option<FileTime>,
}

/// One entry of a directory listing.
pub struct DirectoryEntry<'a> {
    /// Name, without a slash.
    pub name: &'a [u8],
    /// Inode number.
    pub inode: u64,
    /// Kind.
    pub kind: FileKind,
    /// Where to go on after this entry.
    pub next: u64,
}

/// What statfs(2) tells of a file system.
#[derive(Clone, Copy, Debug)]
pub struct FileSystemStatus {
    /// The magic number of statfs(2).
    pub magic: u64,
    /// Bytes a block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub free: u64,
    /// Inodes in all; 0 where that has no meaning.
    pub files: u64,
    /// Inodes that can still be made.
    pub free_files: u64,
    /// Whether nothing can be written.
    pub read_only: bool,
}

/// A file in a file system. Defaults are what a file that lacks the ability answers.
pub trait Inode: core::any::Any + Send + Sync {
    /// What stat(2) tells.
    fn metadata(&self) -> Metadata;

    /// Changes attributes.
    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        let _ = change;
        Err(Errno::EPERM)
    }

    /// The file system's status.
    fn status(&self) -> FileSystemStatus;

    /// Whether the running thread may do anything with it, whatever the permission bits say.
    fn allows_regardless(&self) -> bool {
        false
    }

    /// Of the root of a file system: its own options in /proc/mounts, each after a comma.
    fn mount_options(&self) -> String {
        String::new()
    }

    /// Whether names in this directory change only through the dentry tree (or never), so that the tree keeps what it
    /// looked up.
    fn names_are_constant(&self) -> bool {
        false
    }

    /// Looks a name up in this directory. Never `.`, `..` or empty.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let _ = name;
        Err(Errno::ENOTDIR)
    }

    /// Lists this directory from `position` (0 at first), without `.` and `..`, until `visit` returns false.
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let _ = (position, visit);
        Err(Errno::ENOTDIR)
    }

    /// Why no names can be added to this directory, and none removed, where the file system has no such operations.
    fn names_are_refused(&self) -> (Errno, Errno) {
        (Errno::EROFS, Errno::EROFS)
    }

    /// Makes a file of the given kind (never a directory's symlink) with this name; `rdev` for devices.
    fn create(&self, name: &[u8], kind: FileKind, permissions: u32, rdev: u64) -> Result<Arc<dyn Inode>> {
        let _ = (name, kind, permissions, rdev);
        Err(self.names_are_refused().0)
    }

    /// Makes a symbolic link.
    fn symlink(&self, name: &[u8], target: &[u8]) -> Result<Arc<dyn Inode>> {
        let _ = (name, target);
        Err(self.names_are_refused().0)
    }

    /// Gives `target`, of the same file system, another name in this directory.
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, target);
        Err(self.names_are_refused().0)
    }

    /// Removes a name that is not a directory (`directory` false) or an empty directory (true).
    fn unlink(&self, name: &[u8], directory: bool) -> Result<()> {
        let _ = (name, directory);
        Err(self.names_are_refused().1)
    }

    /// Moves `name` of this directory to `new_name` of `new_parent`, of the same file system, replacing what is there
    /// as rename(2) says; with `exchange` the two swap.
    fn rename(&self, name: &[u8], new_parent: &Arc<dyn Inode>, new_name: &[u8], exchange: bool) -> Result<()> {
        let _ = (name, new_parent, new_name, exchange);
        Err(self.names_are_refused().0)
    }

    /// The process whose directory in /proc this is.
    fn process(&self) -> Option<Arc<crate::task::process::Process>> {
        None
    }

    /// The target of a symbolic link.
    fn read_link(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// The file a "magic" link of /proc leads to directly, without a path walk.
    fn follow_magic_link(&self) -> Option<Result<path::Path>> {
        None
    }

    /// Reads from `offset` into `buffer`, up to its room or the end of the file; returns the bytes read.
    fn read_at(&self, offset: u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let _ = (offset, buffer);
        Err(Errno::EINVAL)
    }

    /// The content was read, which is to be noted: where the last access was before the last change, or a day ago, or
    /// `always`.
    fn note_access(&self, always: bool) {
        let _ = always;
    }

    /// Writes all of `buffer` at `offset`; returns the bytes written, fewer only where a fault or lack of space came.
    fn write_at(&self, offset: u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let _ = (offset, buffer);
        Err(Errno::EROFS)
    }

    /// Taken for each write and change of size, where the file's content can change at all: writes at the end do not
    /// overwrite each other.
    fn writing(&self) -> Option<&Turn> {
        None
    }

    /// Makes a file that has no name yet (O_TMPFILE), in this directory's file system; it may get one
    /// later where `linkable`.
    fn create_unlinked(&self, permissions: u32, linkable: bool) -> Result<Arc<dyn Inode>> {
        let _ = (permissions, linkable);
        Err(Errno::EOPNOTSUPP)
    }

    /// Where at or after `offset` the next data begins, or with `hole` the next hole (lseek(2), SEEK_DATA and
    /// SEEK_HOLE). ENXIO at or beyond the end of the file.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.metadata().size;
        match (offset < size, hole) {
            (false, _) => Err(Errno::ENXIO),
            (true, false) => Ok(offset),
            (true, true) => Ok(size),
        }
    }

    /// fallocate(2); `mode` has FALLOC_FL_ bits.
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        let _ = (mode, offset, len);
        Err(Errno::EOPNOTSUPP)
    }

    /// How long what is written is likely to stay (fcntl(2), F_SET_RW_HINT): an RWH_ value.
    fn write_hint(&self) -> u64 {
        0
    }

    /// Sets [`write_hint`](Self::write_hint), where the file system keeps it.
    fn set_write_hint(&self, hint: u64) {
        let _ = hint;
    }

    /// The value of an extended attribute (xattr(7)). ENODATA where there is none, EOPNOTSUPP where the file system
    /// does not store any of the name's kind.
    fn extended_attribute(&self, name: &[u8]) -> Result<Vec<u8>> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of all extended attributes, each with a NUL behind it.
    fn extended_attribute_names(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Sets an extended attribute; `flags` are XATTR_CREATE and XATTR_REPLACE.
    fn set_extended_attribute(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let _ = (name, value, flags);
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes an extended attribute.
    fn remove_extended_attribute(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets the size.
    fn truncate(&self, size: u64) -> Result<()> {
        let _ = size;
        Err(Errno::EROFS)
    }

    /// The file system of which this is the root is used no more: lets go of what is in it.
    fn unmounted(&self) {}

    /// The pages of a regular file, to be mapped.
    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        None
    }

    /// What an open file on a device, FIFO or other special file does. `None`: the VFS's own, for regular files,
    /// directories and symlinks.
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        let _ = flags;
        Ok(None)
    }
}

/// What an open file does. One object for each open of the file, shared by duplicates of the descriptor.
pub trait FileOps: Send + Sync {
    /// Reads at `*position`, moving it where the file has positions. Blocks unless `file` is non-blocking.
    fn read(&self, file: &OpenFile, position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let _ = (file, position, buffer);
        Err(Errno::EINVAL)
    }

    /// Writes at `*position`, moving it where the file has positions. Blocks unless `file` is non-blocking.
    fn write(&self, file: &OpenFile, position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let _ = (file, position, buffer);
        Err(Errno::EINVAL)
    }

    /// Whether the file has positions: lseek and pread work.
    fn is_seekable(&self) -> bool {
        false
    }

    /// What is ready now. Registers with every queue that a change would wake through `table`.
    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        let _ = table;
        PollEvents::IN | PollEvents::OUT
    }

    /// ioctl(2).
    fn ioctl(&self, file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        let _ = (file, command, argument);
        Err(Errno::ENOTTY)
    }

    /// Called when a status flag (O_NONBLOCK, O_APPEND) changed or the last descriptor of `file` went.
    fn released(&self, file: &OpenFile) {
        let _ = file;
    }

    /// What fstat(2) tells where the file is in no file system (pipes, sockets, anonymous files).
    fn metadata(&self) -> Option<Metadata> {
        None
    }

    /// What a link in /proc/PID/fd shows for a file without a path, such as `pipe:[7]`.
    fn description(&self) -> String {
        String::from("anon_inode:[unknown]")
    }

    /// What its file in /proc/PID/fdinfo shows beside position and flags.
    fn information(&self) -> String {
        String::new()
    }

    /// Bytes of memory that what waits in it takes: they come back when it is closed.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Pages to map, where they are not the inode's.
    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        None
    }

    /// For the calls that need the concrete type (epoll_ctl, timerfd_settime, sendmsg).
    fn as_any(&self) -> &dyn core::any::Any;
}
