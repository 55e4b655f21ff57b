//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is a queue of chunks of at most a page, each owned by an `Arc`: a reader takes its bytes by moving the
//! start of a chunk under the lock and copies them to the program afterwards, so that no lock is held over a user
//! copy, bytes keep their order among several readers, and large writes are not copied twice. Small writes join the
//! last chunk where they fit whole, so one-byte traffic allocates nothing once a page is there. As on Linux a pipe's
//! capacity counts pages, however full: that bounds its memory and makes any write of a page atomic.
//!
//! [`PipeEnd`] is what a descriptor refers to; dropping it closes that end. Moving chunks for splice(2) is in `splice`.

mod splice;

use alloc::{collections::VecDeque, format, string::String, sync::Arc, vec::Vec};

use abi::{Errno, Result, ioctl, linux};
use hal::{PAGE_SIZE, UserAddr};

pub use splice::transfer;

use super::{
    FileKind, FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, WriteBuffer,
    virtual_files::next_inode,
};
use crate::{
    mm::{frames, user},
    sync::IrqLock,
    task::{
        scheduler,
        signal::{self, SignalInfo},
        wait::{WaitQueue, wait_until},
    },
    time,
};

/// `st_dev` of pipes, an anonymous device number.
const PIPE_DEVICE: u64 = 12;
/// Pages a pipe holds unless told otherwise.
const DEFAULT_PAGES: usize = 16;
/// The most fcntl(2) `F_SETPIPE_SZ` gives (/proc/sys/fs/pipe-max-size).
const MAX_CAPACITY: usize = 1 << 20;
const _: () = assert!(linux::PIPE_BUF as usize == PAGE_SIZE);
/// Transfers up to this many bytes go through the stack, tiny ones through less of it: it has to be cleared first.
const SMALL: usize = 256;
const TINY: usize = 16;

/// Bytes of one write or of several small ones.
struct Chunk {
    bytes: Arc<Vec<u8>>,
    start: usize,
    end: usize,
    /// One write of a pipe in packet mode (pipe2(2), `O_DIRECT`): never joined, never read in parts.
    packet: bool,
}

/// The queue between the two ends.
pub struct Pipe {
    state: IrqLock<State>,
    readable: Arc<WaitQueue>,
    writable: Arc<WaitQueue>,
    inode: u64,
    created: super::FileTime,
}

struct State {
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`.
    len: usize,
    /// The most there may be in `chunks`.
    max_chunks: usize,
    /// An empty page, kept for the next small write.
    spare: Option<Arc<Vec<u8>>>,
    readers: u32,
    writers: u32,
    /// How often an end was opened, for FIFOs: an open waits for the other count to move.
    reader_opens: u64,
    writer_opens: u64,
}

impl State {
    /// Whether a write of a page finds room; what poll reports.
    fn writable(&self) -> bool {
        self.chunks.len() < self.max_chunks
    }

    /// Appends at most a page: to the last chunk where it fits there, else as a new one. `false` where there is no room
    /// for one.
    fn append(&mut self, bytes: &[u8], packet: bool) -> Result<bool> {
        if !packet && self.append_to_last(bytes) {
            return Ok(true);
        }
        if !self.writable() {
            return Ok(false);
        }
        let mut page = match self.spare.take() {
            Some(page) => page,
            None => Arc::new(new_page()?),
        };
        match Arc::get_mut(&mut page).and_then(|page| page.get_mut(..bytes.len())) {
            Some(room) => room.copy_from_slice(bytes),
            None => return Err(Errno::ENOMEM),
        }
        self.push(Chunk { bytes: page, start: 0, end: bytes.len(), packet });
        Ok(true)
    }

    fn append_to_last(&mut self, bytes: &[u8]) -> bool {
        let Some(last) = self.chunks.back_mut().filter(|last| !last.packet) else { return false };
        let Some(end) = last.end.checked_add(bytes.len()) else { return false };
        match Arc::get_mut(&mut last.bytes).and_then(|page| page.get_mut(last.end..end)) {
            Some(room) => room.copy_from_slice(bytes),
            None => return false,
        }
        last.end = end;
        self.len += bytes.len();
        true
    }

    fn push(&mut self, chunk: Chunk) {
        self.len += chunk.end - chunk.start;
        self.chunks.push_back(chunk);
    }

    /// Drops the first chunk, keeping its page for later where nobody else looks at it.
    fn drop_first(&mut self) {
        if let Some(mut chunk) = self.chunks.pop_front()
            && self.spare.is_none()
            && Arc::get_mut(&mut chunk.bytes).is_some_and(|page| page.len() == PAGE_SIZE)
        {
            self.spare = Some(chunk.bytes);
        }
    }

    /// Moves bytes into `out`; stops behind a packet.
    fn read_small(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let Some(first) = self.chunks.front_mut() else { break };
            let step = (first.end - first.start).min(out.len() - done);
            if let (Some(room), Some(bytes)) =
                (out.get_mut(done..done + step), first.bytes.get(first.start..first.start + step))
            {
                room.copy_from_slice(bytes);
            }
            done += step;
            if first.packet {
                self.len -= first.end - first.start;
                self.drop_first();
                break;
            }
            first.start += step;
            self.len -= step;
            if first.start == first.end {
                self.drop_first();
            }
        }
        done
    }

    /// Takes up to `limit` bytes of the first chunk, to be copied without the lock.
    fn claim(&mut self, limit: usize) -> Option<Chunk> {
        let first = self.chunks.front_mut()?;
        let len = first.end - first.start;
        let step = len.min(limit);
        let claimed =
            Chunk { bytes: first.bytes.clone(), start: first.start, end: first.start + step, packet: first.packet };
        if step == len || first.packet {
            self.len -= len;
            self.chunks.pop_front();
        } else {
            self.len -= step;
            first.start += step;
        }
        Some(claimed)
    }
}

/// A page of zeroes for a pipe's bytes.
fn new_page() -> Result<Vec<u8>> {
    if frames::is_short() {
        return Err(Errno::ENOMEM);
    }
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    page.resize(PAGE_SIZE, 0);
    Ok(page)
}

/// Raises SIGPIPE in the calling thread, as a write that nobody will read does, and answers EPIPE.
pub fn broken_pipe() -> Errno {
    signal::send_to_thread(&scheduler::current(), linux::SIGPIPE, SignalInfo::kernel(linux::SIGPIPE));
    Errno::EPIPE
}

impl Pipe {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: IrqLock::new(State {
                chunks: VecDeque::new(),
                len: 0,
                max_chunks: DEFAULT_PAGES,
                spare: None,
                readers: 0,
                writers: 0,
                reader_opens: 0,
                writer_opens: 0,
            }),
            readable: Arc::new(WaitQueue::new()),
            writable: Arc::new(WaitQueue::new()),
            inode: next_inode(),
            created: time::now_file_time(),
        })
    }

    /// Moves what is there, up to `buffer`'s room; 0 where the pipe is empty.
    fn try_read(&self, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() <= TINY {
            return self.try_read_small::<TINY>(buffer);
        }
        if buffer.remaining() <= SMALL {
            return self.try_read_small::<SMALL>(buffer);
        }
        let mut done = 0;
        let mut result = Ok(());
        let mut wake = false;
        while buffer.remaining() > 0 {
            let claimed = {
                let mut state = self.state.lock();
                let was_writable = state.writable();
                let claimed = state.claim(buffer.remaining());
                wake |= !was_writable && state.writable();
                claimed
            };
            let Some(mut chunk) = claimed else { break };
            let copied = buffer.put(chunk.bytes.get(chunk.start..chunk.end).unwrap_or_default());
            let copied = match copied {
                Ok(copied) => copied,
                Err(error) => {
                    result = Err(error);
                    0
                }
            };
            done += copied;
            let packet = chunk.packet;
            let mut state = self.state.lock();
            chunk.start += copied;
            if chunk.start < chunk.end && !packet {
                // A fault: what was not copied stays in the pipe.
                state.len += chunk.end - chunk.start;
                state.chunks.push_front(chunk);
                break;
            }
            if state.spare.is_none() && Arc::get_mut(&mut chunk.bytes).is_some_and(|page| page.len() == PAGE_SIZE) {
                state.spare = Some(chunk.bytes);
            }
            if packet {
                break;
            }
        }
        if wake {
            self.writable.wake_all();
        }
        if done > 0 { Ok(done) } else { result.map(|()| 0) }
    }

    /// Of at most `SIZE` bytes.
    fn try_read_small<const SIZE: usize>(&self, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let mut small = [0; SIZE];
        let room = small.get_mut(..buffer.remaining()).unwrap_or_default();
        let taken = {
            let mut state = self.state.lock();
            let was_writable = state.writable();
            let taken = state.read_small(room);
            (taken > 0).then(|| (taken, !was_writable && state.writable()))
        };
        let Some((taken, wake)) = taken else { return Ok(0) };
        if wake {
            self.writable.wake_all();
        }
        let copied = buffer.put(small.get(..taken).unwrap_or_default());
        let rest = small.get(*copied.as_ref().unwrap_or(&0)..taken).unwrap_or_default();
        if !rest.is_empty() {
            self.give_back(rest)?;
        }
        copied
    }

    /// Puts bytes back that a fault kept from being copied to the program.
    fn give_back(&self, bytes: &[u8]) -> Result<()> {
        let mut page = new_page()?;
        if let Some(room) = page.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        let chunk = Chunk { bytes: Arc::new(page), start: 0, end: bytes.len(), packet: false };
        let mut state = self.state.lock();
        state.len += bytes.len();
        state.chunks.push_front(chunk);
        Ok(())
    }

    fn read(&self, nonblocking: bool, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        loop {
            let done = self.try_read(buffer)?;
            if done > 0 {
                return Ok(done);
            }
            let (ready, ended) = {
                let state = self.state.lock();
                (state.len > 0, state.writers == 0)
            };
            if ready {
                continue;
            }
            if ended {
                return Ok(0);
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            wait_until(&[&self.readable], None, || {
                let state = self.state.lock();
                (state.len > 0 || state.writers == 0).then_some(())
            })?;
        }
    }

    /// Does `append` under the lock, once there are readers and whenever it answers `false` again after a reader has
    /// made room.
    fn write_with(&self, nonblocking: bool, mut append: impl FnMut(&mut State) -> Result<bool>) -> Result<()> {
        loop {
            let readers = {
                let mut state = self.state.lock();
                if state.readers > 0 && append(&mut state)? {
                    break;
                }
                state.readers
            };
            if readers == 0 {
                return Err(broken_pipe());
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            wait_until(&[&self.writable], None, || {
                let state = self.state.lock();
                (state.readers == 0 || state.writable()).then_some(())
            })?;
        }
        self.readable.wake_all();
        Ok(())
    }

    fn write(&self, nonblocking: bool, packet: bool, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let wanted = buffer.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        if wanted <= TINY {
            return self.write_small::<TINY>(nonblocking, packet, buffer);
        }
        if wanted <= SMALL {
            return self.write_small::<SMALL>(nonblocking, packet, buffer);
        }
        let mut done = 0;
        while buffer.remaining() > 0 {
            match self.write_page(nonblocking, packet, buffer) {
                Ok(written) => done += written,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Of at most `SIZE` bytes.
    fn write_small<const SIZE: usize>(
        &self,
        nonblocking: bool,
        packet: bool,
        buffer: &mut WriteBuffer<'_>,
    ) -> Result<usize> {
        let mut small = [0; SIZE];
        let taken = buffer.take(&mut small)?;
        let bytes = small.get(..taken).unwrap_or_default();
        self.write_with(nonblocking, |state| state.append(bytes, packet))?;
        Ok(taken)
    }

    /// Moves up to a page from `buffer`. Of what is no multiple of a page, the odd part goes first and joins the last
    /// chunk where it fits, as on Linux.
    fn write_page(&self, nonblocking: bool, packet: bool, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let mut page = new_page()?;
        let odd = buffer.remaining() % PAGE_SIZE;
        let joins = |state: &State| {
            let room = |last: &Chunk| last.bytes.len().saturating_sub(last.end);
            state.chunks.back().is_some_and(|last| !last.packet && room(last) >= odd)
        };
        let wanted =
            if !packet && odd > 0 && joins(&self.state.lock()) { odd } else { buffer.remaining().min(PAGE_SIZE) };
        let taken = buffer.take(page.get_mut(..wanted).unwrap_or_default())?;
        let mut page = Some(page);
        self.write_with(nonblocking, |state| {
            if let Some(bytes) = page.as_ref().and_then(|page| page.get(..taken)).filter(|_| !packet)
                && taken < PAGE_SIZE
                && state.append_to_last(bytes)
            {
                return Ok(true);
            }
            if !state.writable() {
                return Ok(false);
            }
            if let Some(page) = page.take() {
                state.push(Chunk { bytes: Arc::new(page), start: 0, end: taken, packet });
            }
            Ok(true)
        })?;
        Ok(taken)
    }

    /// Takes part as a reader, a writer or both.
    fn attach(self: &Arc<Self>, flags: OpenFlags, fifo: bool) -> Arc<PipeEnd> {
        let (reads, writes) = (flags.readable(), flags.writable());
        let quiet_until = {
            let mut state = self.state.lock();
            let quiet = (fifo && reads && state.writers == 0).then_some(state.writer_opens);
            if reads {
                state.readers += 1;
                state.reader_opens += 1;
            }
            if writes {
                state.writers += 1;
                state.writer_opens += 1;
            }
            quiet
        };
        self.readable.wake_all();
        self.writable.wake_all();
        Arc::new(PipeEnd { pipe: self.clone(), reads, writes, fifo, quiet_until })
    }
}

/// One end of a pipe, or both of a FIFO opened for reading and writing.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    fifo: bool,
    /// A reader that opened a FIFO before any writer sees no hang-up until `writer_opens` moves on from this.
    quiet_until: Option<u64>,
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let left = {
            let mut state = self.pipe.state.lock();
            state.readers -= u32::from(self.reads);
            state.writers -= u32::from(self.writes);
            let closed = state.readers == 0 && state.writers == 0;
            if closed {
                // A FIFO keeps nothing once nobody has it open.
                state.len = 0;
                state.max_chunks = DEFAULT_PAGES;
            }
            closed.then(|| (core::mem::take(&mut state.chunks), state.spare.take()))
        };
        drop(left);
        self.pipe.readable.wake_all();
        self.pipe.writable.wake_all();
    }
}

impl FileOps for PipeEnd {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        self.pipe.read(file.is_nonblocking(), buffer)
    }

    fn write(&self, file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let packet = !self.fifo && file.flags().contains(linux::O_DIRECT);
        self.pipe.write(file.is_nonblocking(), packet, buffer)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        if self.reads {
            table.add(&self.pipe.readable);
        }
        if self.writes {
            table.add(&self.pipe.writable);
        }
        let state = self.pipe.state.lock();
        let mut events = PollEvents::NONE;
        if self.reads {
            let writer_left = state.writers == 0 && self.quiet_until != Some(state.writer_opens);
            events |= PollEvents::IN.when(state.len > 0) | PollEvents::HUP.when(writer_left);
        }
        if self.writes {
            // Linux reports room to write beside the error.
            events |= PollEvents::OUT.when(state.writable()) | PollEvents::ERR.when(state.readers == 0);
        }
        events
    }

    fn ioctl(&self, _file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if command != ioctl::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let len = self.pipe.state.lock().len;
        user::copy_out(argument, &i32::try_from(len).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn metadata(&self) -> Option<Metadata> {
        if self.fifo {
            return None;
        }
        let mut metadata = Metadata::new(PIPE_DEVICE, self.pipe.inode, FileKind::Fifo, 0o600);
        (metadata.accessed, metadata.modified, metadata.changed) =
            (self.pipe.created, self.pipe.created, self.pipe.created);
        Some(metadata)
    }

    fn description(&self) -> String {
        format!("pipe:[{}]", self.pipe.inode)
    }

    fn held_bytes(&self) -> usize {
        self.pipe.state.lock().chunks.len() * PAGE_SIZE
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// A new pipe: its reading and its writing end. `flags` are those of pipe2(2).
pub fn pair(flags: u32) -> (Arc<OpenFile>, Arc<OpenFile>) {
    let kept = flags & (linux::O_NONBLOCK | linux::O_DIRECT);
    let reading = OpenFlags::from_bits(linux::O_RDONLY | kept);
    let writing = OpenFlags::from_bits(linux::O_WRONLY | kept);
    let pipe = Pipe::new();
    let reader = OpenFile::anonymous(pipe.attach(reading, false), reading);
    let writer = OpenFile::anonymous(pipe.attach(writing, false), writing);
    (reader, writer)
}

/// What a FIFO's inode keeps: the pipe behind the name.
pub struct Fifo(Arc<Pipe>);

impl Default for Fifo {
    fn default() -> Self {
        Self::new()
    }
}

impl Fifo {
    /// A FIFO that nobody has open.
    pub fn new() -> Self {
        Self(Pipe::new())
    }

    /// Opens it as fifo(7) says: waits for the other end, or with O_NONBLOCK fails with ENXIO (writing) or goes on
    /// (reading).
    pub fn open(&self, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        let pipe = &self.0;
        let (reads, writes) = (flags.readable(), flags.writable());
        let nonblocking = flags.contains(linux::O_NONBLOCK);
        if writes && !reads && nonblocking && pipe.state.lock().readers == 0 {
            return Err(Errno::ENXIO);
        }
        let (readers_before, writers_before) = {
            let state = pipe.state.lock();
            (state.reader_opens, state.writer_opens)
        };
        let end = pipe.attach(flags, true);
        if reads && writes || nonblocking {
            return Ok(end);
        }
        // The other end counts as met even if it came and went while this thread slept.
        wait_until(&[if reads { &pipe.readable } else { &pipe.writable }], None, || {
            let state = pipe.state.lock();
            let met = if reads {
                state.writers > 0 || state.writer_opens != writers_before
            } else {
                state.readers > 0 || state.reader_opens != readers_before
            };
            met.then_some(())
        })?;
        Ok(end)
    }
}

/// fcntl(2) `F_GETPIPE_SZ`. EBADF where `file` is no pipe.
pub fn capacity(file: &OpenFile) -> Result<usize> {
    let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
    Ok(end.pipe.state.lock().max_chunks * PAGE_SIZE)
}

/// fcntl(2) `F_SETPIPE_SZ`: the capacity becomes at least `wanted` bytes, a power of two of pages. EBUSY where less
/// than the pipe holds, EPERM beyond a mebibyte.
pub fn set_capacity(file: &OpenFile, wanted: usize) -> Result<usize> {
    let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
    if wanted > i32::MAX as usize {
        return Err(Errno::EINVAL);
    }
    let capacity = wanted.max(PAGE_SIZE).next_power_of_two();
    if capacity > MAX_CAPACITY {
        return Err(Errno::EPERM);
    }
    {
        let mut state = end.pipe.state.lock();
        if capacity / PAGE_SIZE < state.chunks.len() {
            return Err(Errno::EBUSY);
        }
        state.max_chunks = capacity / PAGE_SIZE;
    }
    end.pipe.writable.wake_all();
    Ok(capacity)
}
