//! /dev/kmsg: the kernel log as records, one for each read, and a way for programs to add to it.

use alloc::{string::String, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};

use super::{
    FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer,
    WriteBuffer,
    virtual_files::{VirtualFs, device_number, next_inode},
};
use crate::{
    log_buffer::{self, FACILITY_USER, LEVEL_MASK},
    sync::Lazy,
    syscall::kernel_log::check_may_read,
    task::wait::{WaitError, WaitQueue, wait_until},
    time,
};

/// The most bytes of one record that is written.
const MAX_WRITE: usize = 1024;
/// The level of what is written without one.
const DEFAULT_LEVEL: u32 = 4;
/// How often a reader that waits looks, in nanoseconds. Records are added in places where nobody can be woken.
const LOOK_EVERY_NS: u64 = 100_000_000;

/// Woken by what programs write.
static WRITTEN: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));

/// Waits until `ready` answers something; EINTR.
pub fn wait_for_record<T>(mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    loop {
        let deadline = time::monotonic_ns() + LOOK_EVERY_NS;
        match wait_until(&[&WRITTEN], Some(deadline), &mut ready) {
            Ok(value) => return Ok(value),
            Err(WaitError::TimedOut) => {}
            Err(WaitError::Interrupted) => return Err(Errno::RESTART),
        }
    }
}

/// The device file, 1:11.
pub struct KmsgInode {
    fs: VirtualFs,
    inode: u64,
}

impl KmsgInode {
    /// A device file in `fs`.
    pub fn new(fs: VirtualFs) -> Arc<Self> {
        Arc::new(Self { fs, inode: next_inode() })
    }
}

impl Inode for KmsgInode {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(self.fs.device, self.inode, FileKind::CharDevice, 0o644);
        metadata.rdev = device_number(1, 11);
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        self.fs.status()
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if flags.readable() {
            check_may_read()?;
        }
        Ok(Some(Arc::new(OpenKmsg { next: AtomicU64::new(log_buffer::range().0) })))
    }
}

struct OpenKmsg {
    /// The number of the record that the next read gives.
    next: AtomicU64,
}

impl FileOps for OpenKmsg {
    /// One record. EPIPE where it is gone from the log: the next read goes on with the first that is there.
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let next = self.next.load(Ordering::Relaxed);
        let there = || (log_buffer::range().1 > next).then_some(());
        if there().is_none() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            wait_for_record(there)?;
        }
        let Some(record) = log_buffer::get(next) else {
            self.next.store(log_buffer::range().0, Ordering::Relaxed);
            return Err(Errno::EPIPE);
        };
        let text = record.device_record();
        if text.len() > buffer.remaining() {
            return Err(Errno::EINVAL);
        }
        let copied = buffer.put(text.as_bytes())?;
        self.next.store(next + 1, Ordering::Relaxed);
        Ok(copied)
    }

    /// Adds a record; `<N>` in front is its priority.
    fn write(&self, _file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let len = buffer.remaining();
        if len > MAX_WRITE {
            return Err(Errno::EINVAL);
        }
        let mut bytes = alloc::vec![0; len];
        let taken = buffer.take(&mut bytes)?;
        let text = String::from_utf8_lossy(bytes.get(..taken).unwrap_or_default());
        let (priority, text) = match given_priority(&text) {
            Some((priority, rest)) => (priority, rest),
            None => (DEFAULT_LEVEL, &*text),
        };
        // Only the kernel's own records have no facility.
        let priority = if priority > LEVEL_MASK { priority } else { priority | FACILITY_USER };
        log_buffer::add(priority, String::from(text.strip_suffix('\n').unwrap_or(text)));
        WRITTEN.wake_all();
        Ok(len)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&WRITTEN);
        let next = self.next.load(Ordering::Relaxed);
        if log_buffer::range().1 > next { PollEvents::IN | PollEvents::OUT } else { PollEvents::OUT }
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

fn given_priority(text: &str) -> Option<(u32, &str)> {
    /// The highest facility with the highest level.
    const MAX: u32 = 0xff << 3 | LEVEL_MASK;
    let (number, rest) = text.strip_prefix('<')?.split_once('>')?;
    let priority = number.parse().ok().filter(|priority| *priority <= MAX)?;
    Some((priority, rest))
}
