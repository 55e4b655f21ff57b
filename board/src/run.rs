//! Runs a [`Launch`] to its end: time limit, signals, terminal.
//!
//! QEMU writes the serial port straight to our standard output, so its bytes arrive unchanged. We wait for the first
//! of three things: QEMU ends, the time limit passes, or we are told to stop; then only this one child is stopped,
//! and the terminal is put back. Should this program be killed outright, the kernel of the host stops QEMU
//! (PR_SET_PDEATHSIG, prctl(2)).

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::Error;
use crate::launch::Launch;
use crate::terminal::Saved;

/// The exit status for a guest stopped by the time limit, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// QEMU ended with this status (128 + n for a signal).
    Status(u8),
    /// The time limit passed and QEMU was stopped.
    TimedOut,
    /// This program got a signal and stopped QEMU.
    Signalled(u8),
}

impl End {
    /// The status to exit with.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::TimedOut => TIMED_OUT,
            Self::Signalled(signal) => 128 + signal,
        }
    }
}

/// Whether the console can be the user's terminal: both streams are one.
#[must_use]
pub fn on_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Runs the command on our own standard streams until it ends or `limit` has passed.
///
/// # Errors
/// [`Error::Io`] when QEMU cannot be started or waited for.
pub fn run(mut launch: Launch, limit: Option<Duration>) -> Result<End, Error> {
    let started = Instant::now();
    let signals = Signals::catch()?;
    let _saved = Saved::now();
    let on_terminal = std::io::stdin().is_terminal();
    if launch.script && !self::on_terminal() {
        launch.command.stdin(Stdio::piped());
    } else if on_terminal && !self::on_terminal() {
        // Raw mode on a terminal that we do not write to would only spoil it for the reader of our output.
        launch.command.stdin(Stdio::null());
    }
    die_with_parent(&mut launch.command);
    let mut child = launch.command.spawn().map_err(Error::io("starting QEMU"))?;
    if let Some(guest) = child.stdin.take() {
        thread::spawn(move || match on_terminal {
            true => forward(std::io::empty(), guest),
            false => forward(std::io::stdin().lock(), guest),
        });
    }
    let deadline = limit.and_then(|limit| started.checked_add(limit));
    let status = wait(&mut child, &signals, deadline)?;
    stop(&mut child)?;
    // A Ctrl-C of a terminal that is not the console reaches QEMU too, which then ends with 0: the signal counts.
    Ok(match (signals.last(), status) {
        (Some(signal), _) => End::Signalled(signal),
        (None, Some(status)) => End::Status(status_byte(status)),
        (None, None) => End::TimedOut,
    })
}

/// Sends a stream to the guest's script and says its end as a terminal does, with Ctrl-D: a serial port has no end of file.
fn forward(mut from: impl Read, mut guest: ChildStdin) {
    let mut buffer = [0; 4096];
    let mut last = b'\n';
    // An error on either side is an end too: the guest has gone, or there is nothing more to read.
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        last = buffer[length - 1];
        if guest.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    // In the middle of a line the first one only hands the line over (termios(3), VEOF).
    let end: &[u8] = if last == b'\n' { b"\x04" } else { b"\x04\x04" };
    let _ = guest.write_all(end);
    // The pipe stays open, so that QEMU's side of the port does too.
    std::mem::forget(guest);
}

/// Asks for QEMU's end when the thread that starts it ends, whatever the way.
pub fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let in_child = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the call above.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing, so it is
    // async-signal-safe as `pre_exec` asks.
    unsafe { command.pre_exec(in_child) };
}

/// Stops the child if it has not ended.
///
/// Killed, not asked: QEMU would add a line of its own to the output, and it has nothing to save.
///
/// # Errors
/// [`Error::Io`] when it can be neither killed nor waited for.
pub fn stop(child: &mut Child) -> Result<(), Error> {
    // `Child` knows when the process has been waited for already, so no stranger's number is used.
    child.kill().map_err(Error::io("stopping QEMU"))?;
    child.wait().map(drop).map_err(Error::io("waiting for QEMU"))
}

/// A status as the shell has it: 128 + n for signal n.
#[must_use]
pub fn status_byte(status: ExitStatus) -> u8 {
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(number & 0xff).unwrap_or(u8::MAX)
}

/// Waits for the first of the child's end (its status), the deadline and a signal (none).
fn wait(child: &mut Child, signals: &Signals, deadline: Option<Instant>) -> Result<Option<ExitStatus>, Error> {
    let failed = |e: rustix::io::Errno| Error::io("waiting for QEMU")(e.into());
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(failed)?;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("waiting for QEMU"))? {
            return Ok(Some(status));
        }
        if signals.last().is_some() {
            return Ok(None);
        }
        let timeout = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Ok(None),
            Some(left) => Some(Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })),
            None => None,
        };
        let mut events = [process.as_fd(), signals.wake.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut events, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The signals that ask us to end.
struct Signals {
    /// Number of the last one, 0 before the first.
    number: Arc<AtomicUsize>,
    /// Readable after the first one.
    wake: UnixStream,
}

impl Signals {
    fn catch() -> Result<Self, Error> {
        let failed = || Error::io("catching signals");
        let (wake, writer) = UnixStream::pair().map_err(failed())?;
        let number = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the number is there when the byte arrives.
            let value = usize::try_from(signal).unwrap_or(0);
            signal_hook::flag::register_usize(signal, number.clone(), value).map_err(failed())?;
            let writer = writer.try_clone().map_err(failed())?;
            signal_hook::low_level::pipe::register(signal, writer).map_err(failed())?;
        }
        Ok(Self { number, wake })
    }

    fn last(&self) -> Option<u8> {
        u8::try_from(self.number.load(Ordering::SeqCst)).ok().filter(|&n| n != 0)
    }
}
