//! What a file descriptor refers to.

use alloc::{string::String, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result, linux};
use hal::UserAddr;
use klib::credentials::Credentials;

use super::{
    FileOps, Inode, Metadata, PollEvents, PollTable, ReadBuffer, WriteBuffer, async_signal::Asynchronous, locks,
    notify, path::Path,
};
use crate::{
    mm::{PAGE_SIZE, frames},
    sync::IrqLock,
    task::{scheduler, wait::Turn},
};

/// The flags of open(2) that live with the open file or matter while opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags(u32);

impl OpenFlags {
    /// From a program's bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
    /// To a program's bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// Whether all of `bits` are set.
    pub const fn contains(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
    /// Whether reading is allowed.
    pub const fn readable(self) -> bool {
        !self.contains(linux::O_PATH) && matches!(self.0 & linux::O_ACCMODE, linux::O_RDONLY | linux::O_RDWR)
    }
    /// Whether writing is allowed.
    pub const fn writable(self) -> bool {
        !self.contains(linux::O_PATH) && matches!(self.0 & linux::O_ACCMODE, linux::O_WRONLY | linux::O_RDWR)
    }
}

/// An open file description, as open(2) calls it: flags, position and what is open. Dropped with its last descriptor.
pub struct OpenFile {
    ops: Arc<dyn FileOps>,
    path: Option<Path>,
    flags: AtomicU32,
    position: IrqLock<u64>,
    /// Taken while a call uses the position, so that others find it moved.
    using_position: Turn,
    asynchronous: Asynchronous,
    /// Whether this very open made the file (fcntl(2), F_CREATED_QUERY).
    created: AtomicBool,
    opener: Option<Opener>,
}

/// Open files in all.
static NR_OPEN: AtomicUsize = AtomicUsize::new(0);
/// Open files that process 1 may have beyond the limit, so that the console stays usable.
const RESERVED: usize = 256;

/// How many open files there are (/proc/sys/fs/file-nr).
pub fn nr_open() -> usize {
    NR_OPEN.load(Ordering::Relaxed)
}

/// About what one takes, in bytes.
const COST: usize = 1024;

/// How many there may be (/proc/sys/fs/file-max): a tenth of memory.
pub fn max_open() -> usize {
    frames::stats().total * PAGE_SIZE / COST / 10
}

/// ENFILE where there are too many for the running process to keep one more. Unlike Linux's, the limit holds for user
/// 0 as well, for kernel memory is what it keeps.
pub fn check_count() -> Result<()> {
    let reserve = if scheduler::current().process().pid() == 1 { RESERVED } else { 0 };
    if nr_open() > max_open() + reserve { Err(Errno::ENFILE) } else { Ok(()) }
}

/// Who opened a file.
struct Opener {
    pid: i32,
    credentials: Arc<Credentials>,
}

impl Opener {
    fn running() -> Self {
        let thread = scheduler::current();
        Self { pid: thread.process().pid(), credentials: thread.identity.own() }
    }
}

/// The flags fcntl(F_SETFL) may change.
const CHANGEABLE: u32 = linux::O_APPEND | linux::O_NONBLOCK | linux::FASYNC | linux::O_DIRECT | linux::O_NOATIME;
/// The flags that fcntl(F_GETFL) does not show.
const CREATION: u32 = linux::O_CREAT | linux::O_EXCL | linux::O_NOCTTY | linux::O_TRUNC | linux::O_CLOEXEC;

impl OpenFile {
    /// A file opened by path.
    pub fn new(ops: Arc<dyn FileOps>, path: Path, flags: OpenFlags) -> Arc<Self> {
        NR_OPEN.fetch_add(1, Ordering::Relaxed);
        if flags.writable() {
            path.mount().writer_came();
        }
        Arc::new(Self {
            ops,
            path: Some(path),
            flags: AtomicU32::new(flags.bits() & !CREATION),
            position: IrqLock::new(0),
            using_position: Turn::new(),
            asynchronous: Asynchronous::new(),
            created: AtomicBool::new(false),
            opener: Some(Opener::running()),
        })
    }

    /// A file without a path: pipe, socket, event counter.
    pub fn anonymous(ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<Self> {
        NR_OPEN.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            ops,
            path: None,
            flags: AtomicU32::new(flags.bits() & !CREATION),
            position: IrqLock::new(0),
            using_position: Turn::new(),
            asynchronous: Asynchronous::new(),
            created: AtomicBool::new(false),
            opener: None,
        })
    }

    /// Whether the running process opened it, by path, with the credentials that it still has.
    pub fn is_opened_by_caller(&self) -> bool {
        let running = Opener::running();
        self.opener
            .as_ref()
            .is_some_and(|opener| opener.pid == running.pid && Arc::ptr_eq(&opener.credentials, &running.credentials))
    }

    /// Its flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags(self.flags.load(Ordering::Relaxed))
    }

    fn set_flags(&self, flags: u32) {
        let kept = self.flags.load(Ordering::Relaxed) & !CHANGEABLE;
        self.flags.store(kept | flags & CHANGEABLE, Ordering::Relaxed);
    }

    /// fcntl(F_SETFL) through descriptor `fd`, which is what signals tell of with O_ASYNC.
    pub fn change_flags(self: &Arc<Self>, flags: u32, fd: i32) {
        let before = self.flags();
        self.set_flags(flags);
        match (before.contains(linux::FASYNC), self.flags().contains(linux::FASYNC)) {
            (false, true) => self.asynchronous.start(self, fd),
            (true, false) => self.asynchronous.stop(),
            _ => {}
        }
    }

    /// Its signals.
    pub fn asynchronous(&self) -> &Asynchronous {
        &self.asynchronous
    }

    /// Whether this open made the file.
    pub fn is_created(&self) -> bool {
        self.created.load(Ordering::Relaxed)
    }

    /// This open made the file.
    pub fn set_created(&self) {
        self.created.store(true, Ordering::Relaxed);
    }

    /// Whether calls must not block.
    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(linux::O_NONBLOCK)
    }

    /// Where it was opened.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref()
    }

    /// The inode, where it has one.
    pub fn inode(&self) -> Option<&Arc<dyn Inode>> {
        self.path.as_ref().map(|path| path.inode())
    }

    /// Bytes of memory that come back when it is closed for good: its own, what waits in it, and the pages of a file that
    /// has no name any more.
    pub fn held_bytes(&self) -> usize {
        let nameless = self.inode().map(|inode| inode.metadata()).filter(|metadata| metadata.links == 0);
        COST + self.ops.held_bytes() + nameless.map_or(0, |metadata| metadata.blocks as usize * 512)
    }

    /// What it does.
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// Its operations as a concrete type.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// Something was done to the file through this description: tells who watches it.
    pub fn notify(&self, event: u32) {
        if let Some(path) = &self.path {
            notify::path(path, event);
        }
    }

    fn transferred(&self, result: Result<usize>, event: u32) -> Result<usize> {
        if result.is_ok_and(|bytes| bytes > 0) {
            self.notify(event);
        }
        result
    }

    /// read(2) and readv(2).
    pub fn read(&self, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if !self.flags().readable() {
            return Err(Errno::EBADF);
        }
        buffer.check()?;
        if !self.ops.is_seekable() {
            return self.transferred(self.ops.read(self, &mut 0, buffer), linux::IN_ACCESS);
        }
        let _using = self.using_position.take();
        let mut position = *self.position.lock();
        let result = self.ops.read(self, &mut position, buffer);
        *self.position.lock() = position;
        self.transferred(result, linux::IN_ACCESS)
    }

    /// write(2) and writev(2).
    pub fn write(&self, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        if !self.flags().writable() {
            return Err(Errno::EBADF);
        }
        buffer.check()?;
        if !self.ops.is_seekable() {
            return self.transferred(self.ops.write(self, &mut 0, buffer), linux::IN_MODIFY);
        }
        let _using = self.using_position.take();
        let _writing = self.inode().and_then(|inode| inode.writing()).map(Turn::take);
        let mut position = *self.position.lock();
        if self.flags().contains(linux::O_APPEND)
            && let Some(inode) = self.inode()
        {
            position = inode.metadata().size;
        }
        let result = self.ops.write(self, &mut position, buffer);
        *self.position.lock() = position;
        self.transferred(result, linux::IN_MODIFY)
    }

    /// pread(2) and preadv(2).
    pub fn read_at(&self, offset: u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if !self.flags().readable() {
            return Err(Errno::EBADF);
        }
        if !self.ops.is_seekable() {
            return Err(Errno::ESPIPE);
        }
        buffer.check()?;
        self.transferred(self.ops.read(self, &mut { offset }, buffer), linux::IN_ACCESS)
    }

    /// pwrite(2) and pwritev(2). As on Linux, O_APPEND wins over the offset.
    pub fn write_at(&self, offset: u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        self.write_placed(&mut { offset }, self.flags().contains(linux::O_APPEND), buffer)
    }

    /// Writes at `*position`, or with `append` at the end, and moves it.
    pub fn write_placed(&self, position: &mut u64, append: bool, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        if !self.flags().writable() {
            return Err(Errno::EBADF);
        }
        if !self.ops.is_seekable() {
            return Err(Errno::ESPIPE);
        }
        buffer.check()?;
        let _writing = self.inode().and_then(|inode| inode.writing()).map(Turn::take);
        if let Some(inode) = self.inode().filter(|_| append) {
            *position = inode.metadata().size;
        }
        self.transferred(self.ops.write(self, position, buffer), linux::IN_MODIFY)
    }

    /// The file position.
    pub fn position(&self) -> u64 {
        *self.position.lock()
    }

    /// Sets the file position.
    pub fn set_position(&self, position: u64) {
        *self.position.lock() = position;
    }

    /// What is ready.
    pub fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        self.ops.poll(table)
    }

    /// ioctl(2).
    pub fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        self.ops.ioctl(self, command, argument)
    }

    /// What fstat(2) tells.
    pub fn metadata(&self) -> Result<Metadata> {
        match (self.ops.metadata(), self.inode()) {
            (Some(metadata), _) => Ok(metadata),
            (None, Some(inode)) => Ok(inode.metadata()),
            (None, None) => Err(Errno::EBADF),
        }
    }

    /// What a link in /proc/PID/fd shows.
    pub fn description(&self) -> String {
        match &self.path {
            Some(path) => path.display(),
            None => self.ops.description(),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        NR_OPEN.fetch_sub(1, Ordering::Relaxed);
        locks::release_description_locks(self);
        self.asynchronous.end();
        let ops = self.ops.clone();
        ops.released(self);
        if let Some(path) = &self.path
            && self.flags().writable()
        {
            path.mount().writer_left();
        }
        if !self.flags().contains(linux::O_PATH) {
            self.notify(if self.flags().writable() { linux::IN_CLOSE_WRITE } else { linux::IN_CLOSE_NOWRITE });
        }
    }
}
