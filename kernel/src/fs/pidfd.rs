//! Processes and threads as descriptors (pidfd_open(2)).
//!
//! A [`PidFd`] names a process for good, also when its number goes to another one. It is readable when the process has
//! ended, and hung up when that was waited for.

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
};

use abi::{Errno, Result, linux};

use super::{FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, anonymous_metadata};
use crate::task::{
    process::{self, Process},
    thread::Thread,
};

/// PIDFD_THREAD: O_EXCL's bit.
pub const THREAD: u32 = linux::O_EXCL;
/// PIDFD_NONBLOCK.
pub const NONBLOCK: u32 = linux::O_NONBLOCK;

/// The descriptor.
pub struct PidFd {
    process: Arc<Process>,
    /// Of one thread (PIDFD_THREAD).
    thread: Option<Weak<Thread>>,
}

impl PidFd {
    /// For a process, or one of its threads. `flags` are those of pidfd_open(2).
    pub fn open(process: Arc<Process>, thread: Option<&Arc<Thread>>, flags: u32) -> Arc<OpenFile> {
        let file = Arc::new(Self { process, thread: thread.map(Arc::downgrade) });
        OpenFile::anonymous(file, OpenFlags::from_bits(linux::O_RDWR | flags & NONBLOCK))
    }

    /// The process that it, or its thread, belongs to. ESRCH where that was waited for.
    pub fn process(&self) -> Result<&Arc<Process>> {
        if self.is_gone() { Err(Errno::ESRCH) } else { Ok(&self.process) }
    }

    /// Whether it stands for one thread.
    pub const fn is_thread(&self) -> bool {
        self.thread.is_some()
    }

    /// Its thread, or the first one of its process. ESRCH.
    pub fn thread(&self) -> Result<Arc<Thread>> {
        let thread = match &self.thread {
            Some(thread) => thread.upgrade().filter(|_| !self.has_ended()),
            None => self.process.main_thread(),
        };
        thread.ok_or(Errno::ESRCH)
    }

    /// Whether the number stands for it no more.
    fn is_gone(&self) -> bool {
        process::find(self.process.pid()).is_none_or(|process| !Arc::ptr_eq(&process, &self.process))
    }

    fn has_ended(&self) -> bool {
        let Some(thread) = &self.thread else { return self.process.exit_status().is_some() };
        !self.process.threads().iter().any(|other| core::ptr::eq(Arc::as_ptr(other), thread.as_ptr()))
    }
}

impl FileOps for PidFd {
    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.process.changed);
        PollEvents::IN.when(self.has_ended()) | PollEvents::HUP.when(self.is_gone())
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn information(&self) -> String {
        let number = match self.thread.as_ref().map(Weak::upgrade) {
            _ if self.is_gone() => -1,
            Some(Some(thread)) if !self.has_ended() => thread.tid(),
            Some(_) => -1,
            None => self.process.pid(),
        };
        format!("Pid:\t{number}\nNSpid:\t{number}\n")
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
