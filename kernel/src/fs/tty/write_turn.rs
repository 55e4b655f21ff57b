//! One write(2) at a time on each side of a terminal, so that the text of two programs does not mix.

use alloc::sync::Arc;

use abi::{Errno, Result};

use super::{State, Tty};
use crate::{
    fs::OpenFile,
    task::wait::{WaitQueue, wait_until},
};

/// Whose turn it is to write on one side.
#[derive(Default)]
pub(super) struct Turn {
    taken: bool,
    /// How many wait for it.
    waiting: u32,
}

/// The right to write, held from the first byte of a write to its last, while the writer sleeps too.
pub(super) struct WriteTurn<'a> {
    tty: &'a Tty,
    side: fn(&mut State) -> &mut Turn,
    queue: &'a Arc<WaitQueue>,
}

impl<'a> WriteTurn<'a> {
    /// Waits for the turn on `side`; `queue` is woken when it is free again and somebody waits. EAGAIN where `file` does
    /// not block.
    pub fn take(
        tty: &'a Tty,
        file: &OpenFile,
        side: fn(&mut State) -> &mut Turn,
        queue: &'a Arc<WaitQueue>,
    ) -> Result<Self> {
        let take = || {
            let mut state = tty.state.lock();
            (!core::mem::replace(&mut side(&mut state).taken, true)).then_some(())
        };
        if take().is_none() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            side(&mut tty.state.lock()).waiting += 1;
            let taken = wait_until(&[queue], None, take);
            side(&mut tty.state.lock()).waiting -= 1;
            taken?;
        }
        Ok(Self { tty, side, queue })
    }
}

impl Drop for WriteTurn<'_> {
    fn drop(&mut self) {
        let wanted = {
            let mut state = self.tty.state.lock();
            let turn = (self.side)(&mut state);
            turn.taken = false;
            turn.waiting > 0
        };
        if wanted {
            self.queue.wake_all();
        }
    }
}
