//! Moving chunks between pipes, and between pipes and files, for splice(2), tee(2) and vmsplice(2).

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result};
use hal::PAGE_SIZE;

use super::{Chunk, Pipe, PipeEnd, broken_pipe, new_page};
use crate::{fs::ReadBuffer, task::wait::wait_until};

impl Pipe {
    /// Waits until there is something to read; `false` where nothing will come any more. EAGAIN.
    fn wait_readable(&self, nonblocking: bool) -> Result<bool> {
        let look = || {
            let state = self.state.lock();
            (state.len > 0 || state.writers == 0).then_some(state.len > 0)
        };
        match look() {
            Some(ready) => Ok(ready),
            None if nonblocking => Err(Errno::EAGAIN),
            None => Ok(wait_until(&[&self.readable], None, look)?),
        }
    }

    /// Waits until there is room for a chunk; answers for how many. EAGAIN, and EPIPE with SIGPIPE where nobody reads.
    fn wait_writable(&self, nonblocking: bool) -> Result<usize> {
        let look = || {
            let state = self.state.lock();
            let room = state.max_chunks.saturating_sub(state.chunks.len());
            (state.readers == 0 || room > 0).then_some((state.readers, room))
        };
        let (readers, room) = match look() {
            Some(found) => found,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => wait_until(&[&self.writable], None, look)?,
        };
        if readers == 0 { Err(broken_pipe()) } else { Ok(room) }
    }
}

impl PipeEnd {
    /// Hands up to `len` bytes to `sink`, chunk by chunk; what it does not take stays in the pipe. Waits for the first
    /// chunk only. 0 where the pipe is empty and has no writer.
    pub fn take_with(
        &self,
        len: usize,
        nonblocking: bool,
        mut sink: impl FnMut(&[u8]) -> Result<usize>,
    ) -> Result<usize> {
        let pipe = &self.pipe;
        if !pipe.wait_readable(nonblocking)? {
            return Ok(0);
        }
        let mut done = 0;
        let mut outcome = Ok(());
        while done < len {
            let claimed = pipe.state.lock().claim(len - done);
            let Some(mut chunk) = claimed else { break };
            let taken = sink(chunk.bytes.get(chunk.start..chunk.end).unwrap_or_default());
            let taken = taken.unwrap_or_else(|error| {
                outcome = Err(error);
                0
            });
            done += taken;
            chunk.start += taken;
            if chunk.start < chunk.end {
                let mut state = pipe.state.lock();
                state.len += chunk.end - chunk.start;
                state.chunks.push_front(chunk);
                break;
            }
        }
        pipe.writable.wake_all();
        if done > 0 { Ok(done) } else { outcome.map(|()| 0) }
    }

    /// Fills the pipe with up to `len` bytes that `source` gives, as far as there is room; waits for room for the first
    /// chunk only. `source` is asked until it gives less than it is asked for.
    pub fn put_with(
        &self,
        len: usize,
        nonblocking: bool,
        mut source: impl FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        let pipe = &self.pipe;
        let room = pipe.wait_writable(nonblocking)?;
        let mut done = 0;
        for _ in 0..room {
            let wanted = PAGE_SIZE.min(len - done);
            if wanted == 0 {
                break;
            }
            let step = new_page().and_then(|mut page| {
                let got = source(page.get_mut(..wanted).unwrap_or_default())?;
                Ok((page, got))
            });
            let (page, got) = match step {
                Ok(step) => step,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            if got == 0 {
                break;
            }
            // Somebody else may have written meanwhile; then the pipe holds more for a while than it should.
            pipe.state.lock().push(Chunk { bytes: Arc::new(page), start: 0, end: got, packet: false });
            done += got;
            if got < wanted {
                break;
            }
        }
        if done > 0 {
            pipe.readable.wake_all();
        }
        Ok(done)
    }

    /// read(2), for vmsplice(2).
    pub fn read_bytes(&self, nonblocking: bool, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        self.pipe.read(nonblocking, buffer)
    }
}

/// Moves (`consume`) or copies up to `len` bytes of `from` to `to`. EINVAL where both are the same pipe.
pub fn transfer(from: &PipeEnd, to: &PipeEnd, len: usize, nonblocking: bool, consume: bool) -> Result<usize> {
    let (from, to) = (&from.pipe, &to.pipe);
    if Arc::ptr_eq(from, to) {
        return Err(Errno::EINVAL);
    }
    loop {
        if !from.wait_readable(nonblocking)? {
            return Ok(0);
        }
        let room = to.wait_writable(nonblocking)?;
        // The two pipes are not locked at once, so that two transfers in opposite directions cannot meet.
        let chunks = take_chunks(from, len, room, consume);
        let moved = chunks.iter().map(|chunk| chunk.end - chunk.start).sum();
        if moved == 0 {
            // Another reader was faster.
            continue;
        }
        {
            let mut state = to.state.lock();
            chunks.into_iter().for_each(|chunk| state.push(chunk));
        }
        to.readable.wake_all();
        if consume {
            from.writable.wake_all();
        }
        return Ok(moved);
    }
}

/// Up to `len` bytes of the first chunks, at most `room` chunks; removed from the pipe with `consume`.
fn take_chunks(pipe: &Pipe, len: usize, room: usize, consume: bool) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut left = len;
    let mut state = pipe.state.lock();
    while chunks.len() < room && left > 0 {
        let chunk = if consume {
            state.claim(left)
        } else {
            state.chunks.get(chunks.len()).map(|chunk| Chunk {
                bytes: chunk.bytes.clone(),
                start: chunk.start,
                end: chunk.end.min(chunk.start.saturating_add(left)),
                packet: chunk.packet,
            })
        };
        let Some(chunk) = chunk else { break };
        left -= chunk.end - chunk.start;
        chunks.push(chunk);
    }
    chunks
}
