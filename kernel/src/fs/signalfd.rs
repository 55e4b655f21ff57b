//! Signals read from a descriptor (signalfd(2)).
//!
//! A [`SignalFd`] is only a set: what it gives are the signals of that set that wait for the thread that reads or for
//! its process, whoever made the descriptor.

use alloc::{format, string::String, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result, linux};

use super::{FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, anonymous_metadata};
use crate::task::{
    scheduler,
    signal::{self, SignalInfo, SignalSet},
    wait::wait_until,
};

/// Bytes of `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// The descriptor.
pub struct SignalFd {
    set: AtomicU64,
}

impl SignalFd {
    /// For these signals. `flags` are those of signalfd(2).
    pub fn open(set: SignalSet, flags: u32) -> Arc<OpenFile> {
        let file = Arc::new(Self { set: AtomicU64::new(set.blockable().bits()) });
        OpenFile::anonymous(file, OpenFlags::from_bits(linux::O_RDWR | flags & linux::O_NONBLOCK))
    }

    /// Takes other signals from now on.
    pub fn set(&self, set: SignalSet) {
        self.set.store(set.blockable().bits(), Ordering::Relaxed);
        scheduler::current().process().signalled.wake_all();
    }

    fn wanted(&self) -> SignalSet {
        SignalSet::from_bits(self.set.load(Ordering::Relaxed))
    }
}

/// A signal as signalfd(2) tells it: which fields there are follows from the signal and its code.
fn record(signal: u32, info: &SignalInfo) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let code = info.code();
    put(0, &signal.to_ne_bytes());
    put(4, &info.half(4).to_ne_bytes());
    put(8, &code.to_ne_bytes());
    let from_kernel = code > 0 && code < linux::SI_KERNEL as i32;
    match signal {
        linux::SIGILL | linux::SIGFPE | linux::SIGSEGV | linux::SIGBUS | linux::SIGTRAP if from_kernel => {
            put(72, &info.word(16).to_ne_bytes());
        }
        linux::SIGCHLD if from_kernel => {
            put(12, &info.half(16).to_ne_bytes());
            put(16, &info.half(20).to_ne_bytes());
            put(40, &info.half(24).to_ne_bytes());
            put(56, &info.word(32).to_ne_bytes());
            put(64, &info.word(40).to_ne_bytes());
        }
        _ if from_kernel || code == linux::SI_SIGIO => {
            put(28, &info.half(16).to_ne_bytes());
            put(20, &info.half(24).to_ne_bytes());
        }
        _ if code == linux::SI_TIMER => {
            put(24, &info.half(16).to_ne_bytes());
            put(32, &info.half(20).to_ne_bytes());
            put(48, &info.word(24).to_ne_bytes());
            put(44, &info.half(24).to_ne_bytes());
        }
        _ => {
            put(12, &info.half(16).to_ne_bytes());
            put(16, &info.half(20).to_ne_bytes());
            if code < 0 {
                put(48, &info.word(24).to_ne_bytes());
                put(44, &info.half(24).to_ne_bytes());
            }
        }
    }
    out
}

impl FileOps for SignalFd {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let thread = scheduler::current();
        let take = || signal::take_pending(&thread, self.wanted());
        let mut next = match take() {
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => Some(wait_until(&[&thread.process().signalled], None, take)?),
            taken => taken,
        };
        let mut done = 0;
        while let Some((signal, info)) = next.take() {
            done += buffer.put(&record(signal, &info))?;
            if buffer.remaining() >= RECORD {
                next = take();
            }
        }
        Ok(done)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        let thread = scheduler::current();
        table.add(&thread.process().signalled);
        let pending = thread.signals.lock().pending.set() | thread.process().pending_signals();
        PollEvents::IN.when(!(pending & self.wanted()).is_empty())
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(anonymous_metadata())
    }

    fn description(&self) -> String {
        String::from("anon_inode:[signalfd]")
    }

    fn information(&self) -> String {
        format!("sigmask:\t{:016x}\n", self.wanted().bits())
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
