//! Signals about open files (fcntl(2): O_ASYNC, F_SETOWN, F_SETSIG): whom they go to, and when they are sent.
//!
//! An [`Asynchronous`] belongs to every open file description. With O_ASYNC its [`Listener`] is registered with the
//! file's wait queues as a poller is; a wake puts it on the list of deferred work, for sending a signal takes locks that
//! come before those held at a wake.

use alloc::{
    boxed::Box,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use abi::{Errno, Result, linux};

use super::{OpenFile, PollEvents, PollTable, notify::dnotify::DirectoryMark};
use crate::{
    sync::IrqLock,
    task::{
        deferred::{self, Deferred},
        process,
        signal::{self, SignalInfo},
        wait::{Registration, Wake},
    },
};

/// Whom signals about a file go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// One thread.
    Thread(i32),
    /// A process.
    Process(i32),
    /// A process group.
    Group(i32),
}

impl Owner {
    /// Whether there is such a one. ESRCH.
    pub fn check(self) -> Result<()> {
        let exists = match self {
            Self::Nobody => true,
            Self::Thread(id) => process::find_thread(id).is_some(),
            Self::Process(id) => process::find(id).is_some(),
            Self::Group(id) => process::all().iter().any(|process| process.group() == id),
        };
        if exists { Ok(()) } else { Err(Errno::ESRCH) }
    }
}

/// What an open file description needs for its signals; made when first asked for.
pub struct Asynchronous(IrqLock<Option<Box<State>>>);

struct State {
    owner: Owner,
    /// Sent in place of SIGIO; 0 for SIGIO.
    signal: u32,
    /// With O_ASYNC.
    listening: Vec<Registration>,
    /// fcntl(2) with F_NOTIFY, by the descriptor table it was asked through.
    marks: Vec<(u64, Arc<DirectoryMark>)>,
}

impl Default for Asynchronous {
    fn default() -> Self {
        Self::new()
    }
}

impl Asynchronous {
    /// None of it yet.
    pub const fn new() -> Self {
        Self(IrqLock::new(None))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock();
        let state = state.get_or_insert_with(|| {
            Box::new(State { owner: Owner::Nobody, signal: 0, listening: Vec::new(), marks: Vec::new() })
        });
        change(state)
    }

    /// Whom signals go to.
    pub fn owner(&self) -> Owner {
        self.0.lock().as_ref().map_or(Owner::Nobody, |state| state.owner)
    }

    /// Sets [`owner`](Self::owner).
    pub fn set_owner(&self, owner: Owner) {
        self.with(|state| state.owner = owner);
    }

    /// The signal sent in place of SIGIO; 0 for SIGIO.
    pub fn signal(&self) -> u32 {
        self.0.lock().as_ref().map_or(0, |state| state.signal)
    }

    /// Sets [`signal`](Self::signal).
    pub fn set_signal(&self, signal: u32) {
        self.with(|state| state.signal = signal);
    }

    /// O_ASYNC was set: signals go out from now on, and tell of `fd`.
    pub fn start(&self, file: &Arc<OpenFile>, fd: i32) {
        let listener = Arc::new_cyclic(|this| Listener {
            file: Arc::downgrade(file),
            fd: AtomicI32::new(fd),
            queued: AtomicBool::new(false),
            this: this.clone(),
        });
        let mut registrations = Vec::new();
        file.poll(&mut PollTable::register(&mut registrations, listener));
        let old = self.with(|state| core::mem::replace(&mut state.listening, registrations));
        drop(old);
    }

    /// O_ASYNC was cleared.
    pub fn stop(&self) {
        let old = self.0.lock().as_mut().map(|state| core::mem::take(&mut state.listening));
        drop(old);
    }

    /// The marks of F_NOTIFY that were set through descriptor table `table`.
    pub fn mark_of(&self, table: u64) -> Option<Arc<DirectoryMark>> {
        let state = self.0.lock();
        state.as_ref()?.marks.iter().find(|(id, _)| *id == table).map(|(_, mark)| mark.clone())
    }

    /// Keeps a mark.
    pub fn add_mark(&self, table: u64, mark: Arc<DirectoryMark>) {
        self.with(|state| state.marks.push((table, mark)));
    }

    /// Descriptor table `table` closed a descriptor, or asked for no more notices.
    pub fn remove_marks(&self, table: u64) {
        let gone: Vec<Arc<DirectoryMark>> = {
            let mut state = self.0.lock();
            let Some(state) = state.as_mut() else { return };
            let (gone, kept) = core::mem::take(&mut state.marks).into_iter().partition(|(id, _)| *id == table);
            state.marks = kept;
            Vec::into_iter(gone).map(|(_, mark)| mark).collect()
        };
        gone.iter().for_each(|mark| mark.end());
    }

    /// The file is closed for good.
    pub fn end(&self) {
        let state = self.0.lock().take();
        if let Some(state) = state {
            state.marks.iter().for_each(|(_, mark)| mark.end());
        }
    }

    /// Sends the signal; `code` is one of siginfo's POLL_ codes.
    pub fn send(&self, fd: i32, code: u32, band: u32) {
        let (owner, chosen) = match self.0.lock().as_ref() {
            Some(state) => (state.owner, state.signal),
            None => return,
        };
        let (number, info) = match chosen {
            0 => (linux::SIGIO, SignalInfo::kernel(linux::SIGIO)),
            number => (number, SignalInfo::input_output(number, code as i32, i64::from(band), fd)),
        };
        match owner {
            Owner::Nobody => {}
            Owner::Thread(id) => {
                if let Some(thread) = process::find_thread(id) {
                    signal::send_to_thread(&thread, number, info);
                }
            }
            Owner::Process(id) => {
                if let Some(process) = process::find(id) {
                    signal::send_to_process(&process, number, info);
                }
            }
            Owner::Group(id) => {
                for process in process::all().iter().filter(|process| process.group() == id) {
                    signal::send_to_process(process, number, info);
                }
            }
        }
    }
}

/// Registered with the wait queues of a file with O_ASYNC.
struct Listener {
    file: Weak<OpenFile>,
    fd: AtomicI32,
    queued: AtomicBool,
    this: Weak<Self>,
}

impl Wake for Listener {
    fn wake(&self) {
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(this) = self.this.upgrade()
        {
            deferred::add(this);
        }
    }
}

impl Deferred for Listener {
    fn run(&self) {
        self.queued.store(false, Ordering::Release);
        let Some(file) = self.file.upgrade() else { return };
        let events = file.poll(&mut PollTable::look());
        let code = if events.intersects(PollEvents::IN) {
            linux::POLL_IN
        } else if events.intersects(PollEvents::HUP) {
            linux::POLL_HUP
        } else if events.intersects(PollEvents::ERR) {
            linux::POLL_ERR
        } else if events.intersects(PollEvents::OUT) {
            linux::POLL_OUT
        } else {
            return;
        };
        file.asynchronous().send(self.fd.load(Ordering::Relaxed), code, events.bits());
    }
}
