//! Moving data through pipes without the program seeing it: splice, tee, vmsplice.

use alloc::sync::Arc;

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{
    Call,
    file_io::{Cursor, MAX_TRANSFER, pieces},
};
use crate::fs::{
    FileKind, OpenFile, PollEvents, PollTable, ReadBuffer, WriteBuffer,
    pipe::{self, PipeEnd},
};

/// The flags all three know. Data is always copied, so only SPLICE_F_NONBLOCK means something.
const FLAGS: u32 = linux::SPLICE_F_MOVE | linux::SPLICE_F_NONBLOCK | linux::SPLICE_F_MORE | linux::SPLICE_F_GIFT;

/// Whether the file can be at the other end of a splice: what has bytes to read or takes them, but no directory and
/// nothing that exists only as a descriptor.
fn can_splice(file: &OpenFile) -> bool {
    file.metadata().is_ok_and(|metadata| !matches!(metadata.kind, FileKind::Directory | FileKind::Anonymous))
}

/// Where the file at one end is read or written: at a position of the program's, or the file's own.
fn cursor(file: Arc<OpenFile>, pointer: Option<UserAddr>) -> Result<Cursor> {
    if pointer.is_some() && !file.ops().is_seekable() {
        return Err(Errno::EINVAL);
    }
    Cursor::new(file, pointer)
}

/// [splice(2)](https://man7.org/linux/man-pages/man2/splice.2.html).
pub fn sys_splice(call: &mut Call<'_>) -> Result<u64> {
    let (len, flags) = (call.size(4).min(MAX_TRANSFER), call.uint(5));
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, destination) = (call.file(0)?, call.file(2)?);
    let (from, to) = (source.downcast::<PipeEnd>(), destination.downcast::<PipeEnd>());
    let (from_at, to_at) = (call.optional_address(1), call.optional_address(3));
    if from.is_some() && from_at.is_some() || to.is_some() && to_at.is_some() {
        return Err(Errno::ESPIPE);
    }
    if !source.flags().readable() || !destination.flags().writable() {
        return Err(Errno::EBADF);
    }
    let asked = flags & linux::SPLICE_F_NONBLOCK != 0;
    let moved = match (from, to) {
        (Some(from), Some(to)) => {
            let nonblocking = asked || source.is_nonblocking() || destination.is_nonblocking();
            pipe::transfer(from, to, len, nonblocking, true)?
        }
        (Some(from), None) => {
            if !can_splice(&destination) || destination.flags().contains(linux::O_APPEND) {
                return Err(Errno::EINVAL);
            }
            let mut cursor = cursor(destination, to_at)?;
            let moved = drain(from, &mut cursor, len, asked || source.is_nonblocking())?;
            cursor.store()?;
            moved
        }
        (None, Some(to)) => {
            if !can_splice(&source) {
                return Err(Errno::EINVAL);
            }
            let mut cursor = cursor(source, from_at)?;
            let moved = fill(to, &mut cursor, len, asked, asked || destination.is_nonblocking())?;
            cursor.store()?;
            moved
        }
        (None, None) => return Err(Errno::EINVAL),
    };
    Ok(moved as u64)
}

/// Moves up to `len` bytes from a pipe to a file.
fn drain(from: &PipeEnd, to: &mut Cursor, len: usize, nonblocking: bool) -> Result<usize> {
    let seekable = to.file.ops().is_seekable();
    from.take_with(len, nonblocking, |bytes| {
        let mut buffer = WriteBuffer::kernel(bytes);
        if !seekable {
            return to.file.write(&mut buffer);
        }
        let written = to.file.write_at(to.position, &mut buffer)?;
        to.position = to.position.saturating_add(written as u64);
        Ok(written)
    })
}

/// Moves up to `len` bytes from a file into a pipe; `look_first` where the file must not be waited for.
fn fill(to: &PipeEnd, from: &mut Cursor, len: usize, look_first: bool, nonblocking: bool) -> Result<usize> {
    let seekable = from.file.ops().is_seekable();
    // Only the first bytes of what has no positions may be waited for.
    let mut look_first = look_first;
    to.put_with(len, nonblocking, |room| {
        let mut buffer = ReadBuffer::kernel(room);
        if seekable {
            let read = from.file.read_at(from.position, &mut buffer)?;
            from.position = from.position.saturating_add(read as u64);
            return Ok(read);
        }
        if look_first && !from.file.poll(&mut PollTable::look()).intersects(PollEvents::IN | PollEvents::HUP) {
            return Err(Errno::EAGAIN);
        }
        look_first = true;
        from.file.read(&mut buffer)
    })
}

/// [tee(2)](https://man7.org/linux/man-pages/man2/tee.2.html).
pub fn sys_tee(call: &mut Call<'_>) -> Result<u64> {
    let (len, flags) = (call.size(2).min(MAX_TRANSFER), call.uint(3));
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let (source, destination) = (call.file(0)?, call.file(1)?);
    if !source.flags().readable() || !destination.flags().writable() {
        return Err(Errno::EBADF);
    }
    match (source.downcast::<PipeEnd>(), destination.downcast::<PipeEnd>()) {
        (Some(from), Some(to)) => {
            let asked = flags & linux::SPLICE_F_NONBLOCK != 0;
            let nonblocking = asked || source.is_nonblocking() || destination.is_nonblocking();
            Ok(pipe::transfer(from, to, len, nonblocking, false)? as u64)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// [vmsplice(2)](https://man7.org/linux/man-pages/man2/vmsplice.2.html). The program's pages are copied, which a program
/// that leaves them alone as it must cannot tell from a gift.
pub fn sys_vmsplice(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(3);
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = call.file(0)?;
    let (readable, writable) = (file.flags().readable(), file.flags().writable());
    if !readable && !writable {
        return Err(Errno::EBADF);
    }
    let mut pieces = pieces(call.address(1), call.size(2))?;
    if pieces.iter().all(|piece| piece.len == 0) {
        return Ok(0);
    }
    let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
    let nonblocking = flags & linux::SPLICE_F_NONBLOCK != 0;
    if !writable {
        return Ok(end.read_bytes(nonblocking, &mut ReadBuffer::user_vector(&mut pieces))? as u64);
    }
    let mut buffer = WriteBuffer::user_vector(&mut pieces);
    let len = buffer.remaining();
    Ok(end.put_with(len, nonblocking, |room| buffer.take(room))? as u64)
}
