//! Job control: which session a terminal belongs to, and what its background processes may do (termios(3),
//! credentials(7)).
//!
//! The terminal knows its session and foreground group; a process has a [`Claim`] on the terminal, which its children
//! inherit. Each change of the terminal's session gives it a new tenure, which voids all claims from before at once:
//! nobody has to go through the processes of a session to take its terminal away.

use alloc::sync::{Arc, Weak};

use abi::{Errno, Result, linux};
use klib::line_discipline::lflag::TOSTOP;

use super::{Device, Tty};
use crate::task::{
    identity,
    job::is_orphaned,
    process::{self, Process},
    scheduler,
    signal::{self, SIG_IGN, SignalInfo},
    thread::Thread,
};

/// What a process knows of its controlling terminal.
#[derive(Clone, Default)]
pub struct Claim {
    tty: Weak<Tty>,
    tenure: u64,
    /// The foreground group at the hang-up of a session leader's terminal, which hears of the leader's end; 0 for
    /// none.
    hung_up_group: i32,
}

impl Claim {
    /// What a child starts with.
    pub fn inherited(&self) -> Self {
        Self { tty: self.tty.clone(), tenure: self.tenure, hung_up_group: 0 }
    }
}

/// The controlling terminal of a process.
pub fn controlling_terminal(process: &Process) -> Option<Arc<Tty>> {
    let claim = process.terminal_claim();
    let tty = claim.tty.upgrade()?;
    let valid = {
        let state = tty.state.lock();
        state.session > 0 && state.tenure == claim.tenure
    };
    valid.then_some(tty)
}

/// To be called when a session leader ends. A serial terminal is hung up, with SIGHUP for the foreground group; a
/// pseudo-terminal only loses its session, with the same signal. Where the terminal was hung up before, the group that
/// was in the foreground then gets SIGHUP and SIGCONT.
pub fn leave_session(leader: &Arc<Process>) {
    match controlling_terminal(leader) {
        Some(tty) if matches!(tty.device, Device::Serial(_)) => tty.hang_up(true),
        Some(tty) => {
            let group = tty.end_session();
            send(group, &[linux::SIGHUP]);
        }
        None => send(leader.terminal_claim().hung_up_group, &[linux::SIGHUP, linux::SIGCONT]),
    }
    leader.set_terminal_claim(Claim::default());
}

/// Sends signals to a group, if there is one.
fn send(group: i32, signals: &[u32]) {
    for signal in signals.iter().filter(|_| group > 0) {
        signal::send_to_group(group, *signal);
    }
}

/// Whether a job-control signal would not stop the thread.
fn ignores_or_blocks(thread: &Thread, signal: u32) -> bool {
    let blocked = thread.signal_mask() & (1 << (signal - 1)) != 0;
    blocked || thread.process().actions.lock().get(signal).handler == SIG_IGN
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

    /// Whether it is the controlling terminal of `process`.
    pub(super) fn controls(&self, process: &Process) -> bool {
        let claim = process.terminal_claim();
        let state = self.state.lock();
        core::ptr::eq(claim.tty.as_ptr(), self) && state.session > 0 && state.tenure == claim.tenure
    }

    /// Makes it the controlling terminal of the session that `leader` leads. `false` where it controls another and is
    /// not to be stolen from that.
    pub fn give_to(self: &Arc<Self>, leader: &Process, steal: bool) -> bool {
        let (session, group) = (leader.session(), leader.group());
        let tenure = {
            let mut state = self.state.lock();
            if state.session != 0 && !steal {
                return false;
            }
            state.session = session;
            state.foreground = group;
            state.tenure += 1;
            state.tenure
        };
        leader.set_terminal_claim(Claim { tty: Arc::downgrade(self), tenure, hung_up_group: 0 });
        true
    }

    /// Makes it the controlling terminal if `process` leads a session that has none and it is free (open(2),
    /// `O_NOCTTY`).
    pub(super) fn claim_for(self: &Arc<Self>, process: &Arc<Process>) {
        if process.pid() == process.session() && controlling_terminal(process).is_none() {
            self.give_to(process, false);
        }
    }

    /// Ends its session's hold on it and answers the foreground group; 0 for none.
    fn end_session(&self) -> i32 {
        let mut state = self.state.lock();
        state.session = 0;
        state.tenure += 1;
        core::mem::take(&mut state.foreground)
    }

    /// Files open on it become dead and its session loses it. The leader of the session hears of it with SIGHUP and
    /// SIGCONT, and when the leader ends later, so does the group that was in the foreground. With `leader_ends` that
    /// group gets SIGHUP now.
    pub fn hang_up(&self, leader_ends: bool) {
        let (session, group) = {
            let mut state = self.state.lock();
            state.generation = state.generation.wrapping_add(1);
            state.exclusive = false;
            state.tenure += 1;
            state.flush_input();
            if matches!(self.device, Device::Pseudo(_)) {
                state.flush_output();
                state.reset_pseudo();
            }
            (core::mem::take(&mut state.session), core::mem::take(&mut state.foreground))
        };
        if session > 0
            && let Some(leader) = process::find(session).filter(|leader| leader.session() == session)
        {
            leader.set_terminal_claim(Claim { hung_up_group: group, ..Claim::default() });
            for number in [linux::SIGHUP, linux::SIGCONT] {
                signal::send_to_process(&leader, number, SignalInfo::kernel(number));
            }
        }
        if leader_ends {
            send(group, &[linux::SIGHUP]);
        }
        self.readers.wake_all();
        self.writers.wake_all();
        if let Device::Pseudo(pseudo) = &self.device {
            pseudo.wake_all();
        }
    }

    /// `TIOCSCTTY` of ioctl_tty(2). With `steal` a privileged caller takes it from another session. `readable`: it is
    /// done through a file that can be read, which only a privileged caller may do without.
    pub(super) fn take_as_controlling(self: &Arc<Self>, steal: bool, readable: bool) -> Result<u64> {
        let thread = scheduler::current();
        let process = thread.process();
        let session = process.session();
        let leads = process.pid() == session;
        if leads && self.session() == session {
            return Ok(0);
        }
        if !readable {
            identity::require(linux::CAP_SYS_ADMIN)?;
        }
        let steal = steal && identity::require(linux::CAP_SYS_ADMIN).is_ok();
        if !leads || controlling_terminal(process).is_some() || !self.give_to(process, steal) {
            return Err(Errno::EPERM);
        }
        Ok(0)
    }

    /// `TIOCNOTTY` of ioctl_tty(2): the leader gives the terminal up for the whole session, anybody else for itself.
    pub(super) fn drop_as_controlling(&self) -> Result<u64> {
        let thread = scheduler::current();
        let process = thread.process();
        if !self.controls(process) {
            return Err(Errno::ENOTTY);
        }
        if process.pid() == process.session() {
            let group = self.end_session();
            send(group, &[linux::SIGHUP, linux::SIGCONT]);
        }
        process.set_terminal_claim(Claim::default());
        Ok(0)
    }

    /// `TIOCSPGRP` of ioctl_tty(2).
    pub(super) fn set_foreground(&self, group: impl FnOnce() -> Result<i32>) -> Result<u64> {
        match self.check_background_change() {
            Err(Errno::EIO) => return Err(Errno::ENOTTY),
            other => other?,
        }
        let group = group()?;
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        let thread = scheduler::current();
        let process = thread.process();
        let session = process.session();
        if !self.controls(process) || self.session() != session {
            return Err(Errno::ENOTTY);
        }
        let mut members = process::all().into_iter().filter(|process| process.group() == group).peekable();
        if members.peek().is_none() {
            return Err(Errno::ESRCH);
        }
        if members.any(|process| process.session() != session) {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        if state.session == session {
            state.foreground = group;
        }
        Ok(0)
    }

    /// Whether writes of the background are stopped (`TOSTOP`).
    pub(super) fn stops_background_output(&self) -> bool {
        self.state.lock().line.termios().local(TOSTOP)
    }

    /// Whether the calling process is in the background of this terminal.
    fn caller_in_background(&self) -> bool {
        let thread = scheduler::current();
        let process = thread.process();
        if !self.controls(process) {
            return false;
        }
        let (group, foreground) = (process.group(), self.foreground());
        foreground != 0 && group != foreground
    }

    /// SIGTTIN for a read from the background; EIO where the signal could not stop the caller.
    pub(super) fn check_background_read(&self) -> Result<()> {
        if !self.caller_in_background() {
            return Ok(());
        }
        let thread = scheduler::current();
        let group = thread.process().group();
        if ignores_or_blocks(&thread, linux::SIGTTIN) || is_orphaned(group) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(group, linux::SIGTTIN);
        Err(Errno::RESTART)
    }

    /// SIGTTOU for a change, or with TOSTOP a write, from the background; allowed where the signal is ignored or
    /// blocked.
    pub(super) fn check_background_change(&self) -> Result<()> {
        if !self.caller_in_background() {
            return Ok(());
        }
        let thread = scheduler::current();
        if ignores_or_blocks(&thread, linux::SIGTTOU) {
            return Ok(());
        }
        let group = thread.process().group();
        if is_orphaned(group) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(group, linux::SIGTTOU);
        Err(Errno::RESTART)
    }
}
