//! Job control: which session a terminal belongs to, and what its background processes may do (termios(3),
//! credentials(7)).
//!
//! The terminal stores its session and foreground process group; a registry of all terminals finds the one of a
//! session. So the process structure carries nothing for terminals.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use abi::{Errno, Result, linux};
use klib::line_discipline::lflag::TOSTOP;

use super::Tty;
use crate::{
    sync::IrqLock,
    task::{
        process::{self, Process},
        scheduler, signal,
        thread::Thread,
    },
};

/// Every terminal there is.
static TERMINALS: IrqLock<Vec<Weak<Tty>>> = IrqLock::new(Vec::new());

/// Makes a terminal known.
pub(super) fn register(tty: &Arc<Tty>) {
    let mut terminals = TERMINALS.lock();
    terminals.retain(|known| known.strong_count() > 0);
    terminals.push(Arc::downgrade(tty));
}

/// The controlling terminal of a session.
pub fn controlling_terminal_of(session: i32) -> Option<Arc<Tty>> {
    let terminals: Vec<Arc<Tty>> = TERMINALS.lock().iter().filter_map(Weak::upgrade).collect();
    terminals.into_iter().find(|tty| session > 0 && tty.session() == session)
}

/// To be called when a session leader ends: its terminal is hung up and free for another session. The foreground
/// group gets SIGHUP and SIGCONT (credentials(7)).
pub fn leave_session(session: i32) {
    if let Some(tty) = controlling_terminal_of(session) {
        tty.hang_up();
    }
}

/// Whether every process of the group has its parent in the group or outside the session, so that nobody could
/// continue it once stopped (credentials(7)).
fn is_orphaned(group: i32, session: i32) -> bool {
    !process::all().iter().any(|member| {
        member.group() == group
            && process::find(member.parent_pid())
                .is_some_and(|parent| parent.session() == session && parent.group() != group)
    })
}

/// Whether a job-control signal would not stop the thread.
fn ignores_or_blocks(thread: &Thread, signal: u32) -> bool {
    /// SIG_IGN of asm-generic/signal-defs.h.
    const IGNORE: u64 = 1;
    let blocked = thread.signal_mask() & (1 << (signal - 1)) != 0;
    blocked || thread.process().actions.lock().get(signal).handler == IGNORE
}

impl Tty {
    /// The session it controls; 0 for none.
    pub fn session(&self) -> i32 {
        self.state.lock().session
    }

    /// The foreground process group; 0 for none.
    pub fn foreground(&self) -> i32 {
        self.state.lock().foreground
    }

    /// Makes it the controlling terminal of `session`, with `group` in the foreground.
    pub fn set_session(&self, session: i32, group: i32) {
        let mut state = self.state.lock();
        state.session = session;
        state.foreground = group;
    }

    /// Makes it the controlling terminal if `process` leads a session that has none and it is free.
    pub(super) fn claim_for(&self, process: &Arc<Process>) {
        let session = process.session();
        if process.pid() != session || controlling_terminal_of(session).is_some() {
            return;
        }
        let mut state = self.state.lock();
        if state.session == 0 {
            state.session = session;
            state.foreground = process.group();
        }
    }

    /// Files open on it become dead, its session loses it, and the foreground group hears of it.
    pub fn hang_up(&self) {
        let group = {
            let mut state = self.state.lock();
            state.generation = state.generation.wrapping_add(1);
            state.session = 0;
            state.exclusive = false;
            state.line.flush_input();
            core::mem::take(&mut state.foreground)
        };
        if group > 0 {
            signal::send_to_group(group, linux::SIGHUP);
            signal::send_to_group(group, linux::SIGCONT);
        }
        self.readers.wake_all();
        self.writers.wake_all();
    }

    /// Gives the terminal up without a hang-up of its files (ioctl_tty(2), `TIOCNOTTY` by the session leader).
    pub(super) fn give_up(&self) {
        let group = {
            let mut state = self.state.lock();
            state.session = 0;
            core::mem::take(&mut state.foreground)
        };
        if group > 0 {
            signal::send_to_group(group, linux::SIGHUP);
            signal::send_to_group(group, linux::SIGCONT);
        }
    }

    /// Whether writes of the background are stopped (`TOSTOP`).
    pub(super) fn stops_background_output(&self) -> bool {
        self.state.lock().line.termios().local(TOSTOP)
    }

    /// Whether the calling process is in the background of this terminal.
    fn caller_in_background(&self) -> bool {
        let thread = scheduler::current();
        let process = thread.process();
        let (session, foreground) = {
            let state = self.state.lock();
            (state.session, state.foreground)
        };
        session != 0 && process.session() == session && foreground != 0 && process.group() != foreground
    }

    /// SIGTTIN for a read from the background; EIO where the signal could not stop the caller.
    pub(super) fn check_background_read(&self) -> Result<()> {
        if !self.caller_in_background() {
            return Ok(());
        }
        let thread = scheduler::current();
        let process = thread.process();
        let deaf = ignores_or_blocks(&thread, linux::SIGTTIN);
        if deaf || is_orphaned(process.group(), process.session()) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(process.group(), linux::SIGTTIN);
        Err(Errno::RESTART)
    }

    /// SIGTTOU for a change, or with TOSTOP a write, from the background; allowed where the signal is ignored or
    /// blocked.
    pub(super) fn check_background_change(&self) -> Result<()> {
        if !self.caller_in_background() {
            return Ok(());
        }
        let thread = scheduler::current();
        let process = thread.process();
        if ignores_or_blocks(&thread, linux::SIGTTOU) {
            return Ok(());
        }
        if is_orphaned(process.group(), process.session()) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(process.group(), linux::SIGTTOU);
        Err(Errno::RESTART)
    }
}
