//! Event counters (eventfd(2)).

use alloc::{string::String, sync::Arc};

use abi::{Errno, Result, linux};

use super::{
    FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, WriteBuffer, anonymous_metadata,
};
use crate::{
    sync::IrqLock,
    task::wait::{WaitQueue, wait_until},
};

/// The most a counter holds.
const MAX: u64 = u64::MAX - 1;

/// A counter that reads take from and writes add to.
pub struct EventFd {
    count: IrqLock<u64>,
    semaphore: bool,
    changed: Arc<WaitQueue>,
}

impl EventFd {
    /// A counter at `initial`. `flags` are those of eventfd(2).
    pub fn open(initial: u32, flags: u32) -> Arc<OpenFile> {
        let counter = Self {
            count: IrqLock::new(u64::from(initial)),
            semaphore: flags & linux::EFD_SEMAPHORE != 0,
            changed: Arc::new(WaitQueue::new()),
        };
        OpenFile::anonymous(Arc::new(counter), OpenFlags::from_bits(linux::O_RDWR | flags & linux::EFD_NONBLOCK))
    }

    /// Takes 1 (as a semaphore) or everything; `None` at 0.
    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        let taken = if self.semaphore { (*count).min(1) } else { *count };
        *count -= taken;
        (taken > 0).then_some(taken)
    }

    /// Adds where the sum fits.
    fn add(&self, value: u64) -> Option<()> {
        let mut count = self.count.lock();
        *count = count.checked_add(value).filter(|sum| *sum <= MAX)?;
        Some(())
    }
}

impl FileOps for EventFd {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let value = match self.take() {
            Some(value) => value,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_until(&[&self.changed], None, || self.take())?,
        };
        self.changed.wake_all();
        buffer.put(&value.to_ne_bytes())
    }

    fn write(&self, file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        if buffer.remaining() < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; size_of::<u64>()];
        if buffer.take(&mut bytes)? < bytes.len() {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        match self.add(value) {
            Some(()) => {}
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_until(&[&self.changed], None, || self.add(value))?,
        }
        self.changed.wake_all();
        Ok(bytes.len())
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.changed);
        let count = *self.count.lock();
        PollEvents::IN.when(count > 0) | PollEvents::OUT.when(count < MAX)
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
