//! Reading, writing, positions, sizes and copies between files.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{Call, file::resolve_at};
use crate::{
    fs::{
        FileKind, OpenFile, PollEvents, PollTable, ReadBuffer, WriteBuffer, io_buffer::UserSlice, notify, path::Path,
        permission, regular, regular::MAX_OFFSET, write_access::Writing,
    },
    mm::{PAGE_SIZE, user},
    task::{scheduler, wait::Turn},
};

/// The most bytes one call transfers, as on Linux.
pub const MAX_TRANSFER: usize = 0x7fff_f000;
/// The most pieces readv and writev take (IOV_MAX).
const MAX_PIECES: usize = linux::UIO_MAXIOV as usize;
/// Bytes that copies between files move at a time.
const COPY_STEP: usize = 4 * PAGE_SIZE;

/// An offset from a program; EINVAL where it is negative.
fn offset(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

/// Counts a call that reads, for /proc/PID/io; what it answers is the call's answer.
fn count_read(call: &Call<'_>, result: Result<usize>) -> Result<u64> {
    if result != Err(Errno::EBADF) {
        call.thread.counters().count_read(result.unwrap_or(0));
    }
    result.map(|bytes| bytes as u64)
}

/// Counts a call that writes.
fn count_written(call: &Call<'_>, result: Result<usize>) -> Result<u64> {
    if result != Err(Errno::EBADF) {
        call.thread.counters().count_written(result.unwrap_or(0));
    }
    result.map(|bytes| bytes as u64)
}

/// [read(2)](https://man7.org/linux/man-pages/man2/read.2.html).
pub fn sys_read(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let len = call.size(2).min(MAX_TRANSFER);
    count_read(call, file.read(&mut ReadBuffer::user(call.address(1), len)))
}

/// [write(2)](https://man7.org/linux/man-pages/man2/write.2.html).
pub fn sys_write(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let len = call.size(2).min(MAX_TRANSFER);
    count_written(call, file.write(&mut WriteBuffer::user(call.address(1), len)))
}

/// [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html).
pub fn sys_pread64(call: &mut Call<'_>) -> Result<u64> {
    let at = offset(call.long(3))?;
    let file = call.file(0)?;
    let len = call.size(2).min(MAX_TRANSFER);
    count_read(call, file.read_at(at, &mut ReadBuffer::user(call.address(1), len)))
}

/// [pwrite(2)](https://man7.org/linux/man-pages/man2/pwrite.2.html).
pub fn sys_pwrite64(call: &mut Call<'_>) -> Result<u64> {
    let at = offset(call.long(3))?;
    let file = call.file(0)?;
    let len = call.size(2).min(MAX_TRANSFER);
    count_written(call, file.write_at(at, &mut WriteBuffer::user(call.address(1), len)))
}

/// Reads `count` iovecs. EINVAL for too many or too long ones; what exceeds the most one call transfers is cut off.
pub fn pieces(address: UserAddr, count: usize) -> Result<Vec<UserSlice>> {
    if count > MAX_PIECES {
        return Err(Errno::EINVAL);
    }
    let mut pieces = Vec::with_capacity(count);
    let mut total = 0usize;
    for index in 0..count {
        let at = address.checked_add((index * size_of::<linux::iovec>()) as u64).ok_or(Errno::EFAULT)?;
        let piece: linux::iovec = user::copy_in(at)?;
        let len = usize::try_from(piece.iov_len).map_err(|_| Errno::EINVAL)?;
        if isize::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = len.min(MAX_TRANSFER - total);
        total += len;
        pieces.push(UserSlice { address: user::given(piece.iov_base.addr() as u64), len });
    }
    Ok(pieces)
}

/// [readv(2)](https://man7.org/linux/man-pages/man2/readv.2.html).
pub fn sys_readv(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let mut pieces = pieces(call.address(1), call.size(2))?;
    count_read(call, file.read(&mut ReadBuffer::user_vector(&mut pieces)))
}

/// [writev(2)](https://man7.org/linux/man-pages/man2/writev.2.html).
pub fn sys_writev(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let mut pieces = pieces(call.address(1), call.size(2))?;
    count_written(call, file.write(&mut WriteBuffer::user_vector(&mut pieces)))
}

/// [preadv(2)](https://man7.org/linux/man-pages/man2/preadv.2.html).
pub fn sys_preadv(call: &mut Call<'_>) -> Result<u64> {
    let at = offset(call.long(3))?;
    let file = call.file(0)?;
    let mut pieces = pieces(call.address(1), call.size(2))?;
    count_read(call, file.read_at(at, &mut ReadBuffer::user_vector(&mut pieces)))
}

/// [pwritev(2)](https://man7.org/linux/man-pages/man2/pwritev.2.html).
pub fn sys_pwritev(call: &mut Call<'_>) -> Result<u64> {
    let at = offset(call.long(3))?;
    let file = call.file(0)?;
    let mut pieces = pieces(call.address(1), call.size(2))?;
    count_written(call, file.write_at(at, &mut WriteBuffer::user_vector(&mut pieces)))
}

/// Flags of preadv2 and pwritev2 that change nothing here: all writes are as durable as they will ever be.
const HARMLESS: u32 = linux::RWF_HIPRI | linux::RWF_DSYNC | linux::RWF_SYNC;
/// Writes at the given place in spite of O_APPEND (linux/fs.h, since 6.9).
const RWF_NOAPPEND: u32 = 0x20;

/// Checks the flags of preadv2 and pwritev2. EOPNOTSUPP for unknown ones, and for RWF_NOWAIT where only the file system
/// could keep to it (as on Linux's tmpfs); EAGAIN where that flag forbids to wait for `readiness`.
fn check_flags(file: &OpenFile, flags: u32, readiness: PollEvents) -> Result<()> {
    const APPENDS: u32 = linux::RWF_APPEND | RWF_NOAPPEND;
    if flags & !(HARMLESS | linux::RWF_NOWAIT | APPENDS) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & APPENDS == APPENDS {
        return Err(Errno::EINVAL);
    }
    if flags & linux::RWF_NOWAIT != 0 {
        if file.ops().is_seekable() {
            return Err(Errno::EOPNOTSUPP);
        }
        if !file.poll(&mut PollTable::look()).intersects(readiness | PollEvents::HUP | PollEvents::ERR) {
            return Err(Errno::EAGAIN);
        }
    }
    Ok(())
}

/// [preadv2(2)](https://man7.org/linux/man-pages/man2/preadv2.2.html).
pub fn sys_preadv2(call: &mut Call<'_>) -> Result<u64> {
    let at_current = call.long(3) == -1;
    if !at_current {
        offset(call.long(3))?;
    }
    let file = call.file(0)?;
    if !at_current && !file.ops().is_seekable() {
        return Err(Errno::ESPIPE);
    }
    check_flags(&file, call.uint(5), PollEvents::IN)?;
    if at_current { sys_readv(call) } else { sys_preadv(call) }
}

/// [pwritev2(2)](https://man7.org/linux/man-pages/man2/pwritev2.2.html).
pub fn sys_pwritev2(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(5);
    let at_current = call.long(3) == -1;
    let at = if at_current { None } else { Some(offset(call.long(3))?) };
    let file = call.file(0)?;
    if at.is_some() && !file.ops().is_seekable() {
        return Err(Errno::ESPIPE);
    }
    check_flags(&file, flags, PollEvents::OUT)?;
    if flags & (linux::RWF_APPEND | RWF_NOAPPEND) == 0 || !file.ops().is_seekable() {
        return if at_current { sys_writev(call) } else { sys_pwritev(call) };
    }
    let mut pieces = pieces(call.address(1), call.size(2))?;
    let mut buffer = WriteBuffer::user_vector(&mut pieces);
    let append = flags & linux::RWF_APPEND != 0;
    let mut position = at.unwrap_or_else(|| file.position());
    let written = count_written(call, file.write_placed(&mut position, append, &mut buffer))?;
    if at_current {
        file.set_position(position);
    }
    Ok(written)
}

/// [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html).
pub fn sys_lseek(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    let whence = call.uint(2);
    if whence > linux::SEEK_MAX {
        return Err(Errno::EINVAL);
    }
    if !file.ops().is_seekable() {
        return Err(Errno::ESPIPE);
    }
    let distance = call.long(1);
    let metadata = file.metadata()?;
    if metadata.kind == FileKind::CharDevice {
        // null(4), zero(4) and their like have one position only.
        file.set_position(0);
        return Ok(0);
    }
    let relative_to = |base: u64| base.checked_add_signed(distance).ok_or(Errno::EINVAL);
    let target = match whence {
        linux::SEEK_SET => offset(distance)?,
        linux::SEEK_CUR => relative_to(file.position())?,
        _ if metadata.kind == FileKind::Directory => return Err(Errno::EINVAL),
        linux::SEEK_END => relative_to(metadata.size)?,
        _ => {
            let from = u64::try_from(distance).map_err(|_| Errno::ENXIO)?;
            file.inode().ok_or(Errno::EINVAL)?.seek_data(from, whence == linux::SEEK_HOLE)?
        }
    };
    if target > MAX_OFFSET {
        return Err(Errno::EINVAL);
    }
    file.set_position(target);
    Ok(target)
}

/// Copies up to `len` bytes from `source` at `*from` to `destination`, at `*to` or at its own position. Moves `*from`
/// and `*to` by what was copied. An error counts only where nothing was copied.
fn copy(
    source: &OpenFile,
    from: &mut u64,
    destination: &OpenFile,
    mut to: Option<&mut u64>,
    len: usize,
) -> Result<usize> {
    let mut bytes = alloc::vec![0; COPY_STEP.min(len)];
    let mut done = 0;
    while done < len {
        scheduler::give_way();
        let wanted = bytes.len().min(len - done);
        let room = bytes.get_mut(..wanted).unwrap_or_default();
        let step = source.read_at(*from, &mut ReadBuffer::kernel(room)).and_then(|read| {
            let mut buffer = WriteBuffer::kernel(room.get(..read).unwrap_or_default());
            let written = match (read, &mut to) {
                (0, _) => 0,
                (_, Some(to)) => {
                    let written = destination.write_at(**to, &mut buffer)?;
                    **to += written as u64;
                    written
                }
                (_, None) => destination.write(&mut buffer)?,
            };
            Ok((read, written))
        });
        match step {
            Ok((read, written)) => {
                *from += written as u64;
                done += written;
                if read == 0 || written < read {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// A file offset that a call reads and updates through a pointer, or the file's own position.
pub struct Cursor {
    /// The file.
    pub file: Arc<OpenFile>,
    pointer: Option<UserAddr>,
    /// The offset now, in bytes.
    pub position: u64,
}

impl Cursor {
    /// Reads the offset. EFAULT, EINVAL where it is negative.
    pub fn new(file: Arc<OpenFile>, pointer: Option<UserAddr>) -> Result<Self> {
        let position = match pointer {
            Some(pointer) => offset(user::copy_in::<i64>(pointer)?)?,
            None => file.position(),
        };
        Ok(Self { file, pointer, position })
    }

    /// Writes the offset back.
    pub fn store(&self) -> Result<()> {
        match self.pointer {
            Some(pointer) => user::copy_out(pointer, &self.position),
            None => {
                self.file.set_position(self.position);
                Ok(())
            }
        }
    }
}

/// [sendfile(2)](https://man7.org/linux/man-pages/man2/sendfile.2.html).
pub fn sys_sendfile(call: &mut Call<'_>) -> Result<u64> {
    let source = call.file(1)?;
    let destination = call.file(0)?;
    if !source.flags().readable() || !destination.flags().writable() {
        return Err(Errno::EBADF);
    }
    let kind = source.metadata()?.kind;
    if !source.ops().is_seekable() || !matches!(kind, FileKind::Regular | FileKind::BlockDevice | FileKind::CharDevice)
    {
        return Err(if call.optional_address(2).is_some() { Errno::ESPIPE } else { Errno::EINVAL });
    }
    if destination.flags().contains(linux::O_APPEND) && destination.ops().is_seekable() {
        return Err(Errno::EINVAL);
    }
    let mut from = Cursor::new(source, call.optional_address(2))?;
    let len = call.size(3).min(MAX_TRANSFER);
    let copied = copy(&from.file, &mut from.position, &destination, None, len)?;
    from.store()?;
    count_read(call, Ok(copied))?;
    count_written(call, Ok(copied))
}

/// [copy_file_range(2)](https://man7.org/linux/man-pages/man2/copy_file_range.2.html).
pub fn sys_copy_file_range(call: &mut Call<'_>) -> Result<u64> {
    let source = call.file(0)?;
    let destination = call.file(2)?;
    if call.uint(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let kinds = [source.metadata()?.kind, destination.metadata()?.kind];
    if kinds.contains(&FileKind::Directory) {
        return Err(Errno::EISDIR);
    }
    if kinds != [FileKind::Regular; 2] {
        return Err(Errno::EINVAL);
    }
    let appends = destination.flags().contains(linux::O_APPEND);
    if !source.flags().readable() || !destination.flags().writable() || appends {
        return Err(Errno::EBADF);
    }
    let mut from = Cursor::new(source, call.optional_address(1))?;
    let mut to = Cursor::new(destination, call.optional_address(3))?;
    let len = call.size(4).min(MAX_TRANSFER);
    let same = match (from.file.inode(), to.file.inode()) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    };
    let end = |start: u64| start.checked_add(len as u64).ok_or(Errno::EOVERFLOW);
    if same && from.position < end(to.position)? && to.position < end(from.position)? {
        return Err(Errno::EINVAL);
    }
    let copied = copy(&from.file, &mut from.position, &to.file, Some(&mut to.position), len)?;
    from.store()?;
    to.store()?;
    count_read(call, Ok(copied))?;
    count_written(call, Ok(copied))
}

/// Sets a file's size. EFBIG and SIGXFSZ where it grows beyond RLIMIT_FSIZE.
fn set_size(path: &Path, size: u64) -> Result<u64> {
    let inode = path.inode();
    if size > inode.metadata().size {
        regular::check_size(size)?;
    }
    let _writing = inode.writing().map(Turn::take);
    permission::content_changed(&**inode);
    inode.truncate(size)?;
    notify::path(path, linux::IN_MODIFY);
    Ok(0)
}

/// [ftruncate(2)](https://man7.org/linux/man-pages/man2/ftruncate.2.html).
pub fn sys_ftruncate(call: &mut Call<'_>) -> Result<u64> {
    let size = offset(call.long(1))?;
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    let path = file.path().ok_or(Errno::EINVAL)?;
    if path.kind() != FileKind::Regular || !file.flags().writable() {
        return Err(Errno::EINVAL);
    }
    set_size(path, size)
}

/// [truncate(2)](https://man7.org/linux/man-pages/man2/truncate.2.html).
pub fn sys_truncate(call: &mut Call<'_>) -> Result<u64> {
    let size = offset(call.long(1))?;
    let path = call.path(0)?;
    let found = resolve_at(call, linux::AT_FDCWD, &path, true)?;
    match found.kind() {
        FileKind::Regular => {}
        FileKind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    found.require_writable()?;
    permission::check(&**found.inode(), permission::WRITE)?;
    let _writing = Writing::start(found.inode())?;
    set_size(&found, size)
}

/// [fallocate(2)](https://man7.org/linux/man-pages/man2/fallocate.2.html).
pub fn sys_fallocate(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let mode = call.uint(1);
    let (start, len) = (offset(call.long(2))?, offset(call.long(3))?);
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let end = start.checked_add(len).filter(|end| *end <= MAX_OFFSET).ok_or(Errno::EFBIG)?;
    match file.metadata()?.kind {
        FileKind::Regular => {}
        FileKind::Fifo => return Err(Errno::ESPIPE),
        FileKind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    if mode & linux::FALLOC_FL_KEEP_SIZE == 0 {
        regular::check_size(end)?;
    }
    file.inode().ok_or(Errno::ENODEV)?.allocate(mode, start, len)?;
    file.notify(linux::IN_MODIFY);
    Ok(0)
}

/// [fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html), and fdatasync: nothing here waits to be written.
pub fn sys_fsync(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    match file.metadata()?.kind {
        FileKind::Regular | FileKind::Directory | FileKind::BlockDevice => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// [sync(2)](https://man7.org/linux/man-pages/man2/sync.2.html).
pub fn sys_sync(_call: &mut Call<'_>) -> Result<u64> {
    Ok(0)
}

/// [syncfs(2)](https://man7.org/linux/man-pages/man2/syncfs.2.html).
pub fn sys_syncfs(call: &mut Call<'_>) -> Result<u64> {
    if call.file(0)?.flags().contains(linux::O_PATH) { Err(Errno::EBADF) } else { Ok(0) }
}

/// [sync_file_range(2)](https://man7.org/linux/man-pages/man2/sync_file_range.2.html).
pub fn sys_sync_file_range(call: &mut Call<'_>) -> Result<u64> {
    /// SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER.
    const FLAGS: u32 = 7;
    let file = call.file(0)?;
    if call.uint(3) & !FLAGS != 0 || call.long(1) < 0 || call.long(2) < 0 {
        return Err(Errno::EINVAL);
    }
    match file.metadata()?.kind {
        FileKind::Regular | FileKind::Directory | FileKind::BlockDevice | FileKind::Symlink => Ok(0),
        _ => Err(Errno::ESPIPE),
    }
}

/// [posix_fadvise(2)](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html). All file data is in memory already.
pub fn sys_fadvise64(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    if file.metadata()?.kind == FileKind::Fifo {
        return Err(Errno::ESPIPE);
    }
    if call.long(2) < 0 || call.uint(3) > linux::POSIX_FADV_NOREUSE {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// [readahead(2)](https://man7.org/linux/man-pages/man2/readahead.2.html).
pub fn sys_readahead(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    match file.metadata()?.kind {
        FileKind::Regular | FileKind::BlockDevice => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
