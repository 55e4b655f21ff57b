//! The requests of ioctl_tty(2), on a terminal itself; those on a master are in [`pty`](super::pty).

use alloc::sync::Arc;

use abi::{Errno, Result, ioctl as request, linux};
use hal::UserAddr;

use super::{Tty, settings::When};
use crate::{
    fs::OpenFile,
    mm::user,
    task::{identity, scheduler},
};

/// tcflow(3), tcflush(3).
const TCOOFF: u64 = 0;
const TCOON: u64 = 1;
const TCIOFF: u64 = 2;
const TCION: u64 = 3;
const TCIFLUSH: u64 = 0;
const TCOFLUSH: u64 = 1;
const TCIOFLUSH: u64 = 2;

/// An `int` as the answer of a request.
pub(super) fn answer_int(argument: UserAddr, value: i32) -> Result<u64> {
    user::copy_out(argument, &value)?;
    Ok(0)
}

/// A count as the answer of a request.
pub(super) fn answer_count(argument: UserAddr, count: usize) -> Result<u64> {
    answer_int(argument, i32::try_from(count).unwrap_or(i32::MAX))
}

/// Whether the caller may fake input: EIO without CAP_SYS_ADMIN, as where /proc/sys/dev/tty/legacy_tiocsti is 0.
pub(super) fn check_faking() -> Result<()> {
    identity::require(linux::CAP_SYS_ADMIN).map_err(|_| Errno::EIO)
}

/// `TIOCSETD`: there is one line discipline, N_TTY.
pub(super) fn set_discipline(argument: UserAddr) -> Result<u64> {
    match user::copy_in::<i32>(argument)? {
        0 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// Which queues tcflush(3) means: input, output.
pub(super) fn queues(which: u64) -> Result<(bool, bool)> {
    match which {
        TCIFLUSH => Ok((true, false)),
        TCOFLUSH => Ok((false, true)),
        TCIOFLUSH => Ok((true, true)),
        _ => Err(Errno::EINVAL),
    }
}

/// What tcflow(3) asks for.
pub(super) enum Flow {
    /// Hold output back.
    Stop,
    /// Let it go on.
    Start,
    /// Send the control character with this index to the other end.
    Send(usize),
}

impl Flow {
    /// From the argument of `TCXONC`.
    pub(super) fn from_argument(action: u64) -> Result<Self> {
        use klib::line_discipline::cc::{VSTART, VSTOP};
        Ok(match action {
            TCOOFF => Self::Stop,
            TCOON => Self::Start,
            TCIOFF => Self::Send(VSTOP),
            TCION => Self::Send(VSTART),
            _ => return Err(Errno::EINVAL),
        })
    }
}

impl Tty {
    /// ioctl(2) on the terminal.
    pub(super) fn ioctl(self: &Arc<Self>, file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if let Some(result) = self.shared_ioctl(file, command, argument) {
            return result;
        }
        match command {
            request::TIOCGPGRP => {
                self.require_controlling()?;
                answer_int(argument, self.foreground())
            }
            request::TIOCGSID => {
                self.require_controlling()?;
                answer_int(argument, self.session())
            }
            request::TIOCNOTTY => self.drop_as_controlling(),
            request::TCFLSH => self.flush(argument.get()),
            request::TCXONC => self.flow(argument.get()),
            // A break would need the device; waiting for the output is the part programs rely on (tcdrain).
            request::TCSBRK | request::TCSBRKP | request::TIOCSBRK => {
                self.check_background_change()?;
                self.wait_for_output()?;
                Ok(0)
            }
            request::TIOCCBRK => self.check_background_change().map(|()| 0),
            request::TIOCSTI => {
                check_faking()?;
                let byte: u8 = user::copy_in(argument)?;
                self.receive(&[byte]);
                Ok(0)
            }
            request::FIONREAD => answer_count(argument, self.state.lock().line.available()),
            request::TIOCOUTQ => answer_count(argument, self.unsent()),
            request::TIOCEXCL => self.set_exclusive(true),
            request::TIOCNXCL => self.set_exclusive(false),
            request::TIOCGEXCL => {
                let exclusive = self.state.lock().exclusive;
                answer_int(argument, i32::from(exclusive))
            }
            request::TIOCVHANGUP => {
                identity::require(linux::CAP_SYS_ADMIN)?;
                self.hang_up(false);
                Ok(0)
            }
            // Only a master has a peer.
            request::TIOCGPTPEER => Err(Errno::EIO),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// The requests that mean the same on a terminal and on its master.
    pub(super) fn shared_ioctl(
        self: &Arc<Self>,
        file: &OpenFile,
        command: u32,
        argument: UserAddr,
    ) -> Option<Result<u64>> {
        Some(match command {
            request::TCGETS => self.get_termios(argument),
            request::TCSETS => self.set_termios(argument, When::Now),
            request::TCSETSW => self.set_termios(argument, When::AfterOutput),
            request::TCSETSF => self.set_termios(argument, When::AfterOutputDroppingInput),
            request::TCGETS2 => self.get_termios2(argument),
            request::TCSETS2 => self.set_termios2(argument, When::Now),
            request::TCSETSW2 => self.set_termios2(argument, When::AfterOutput),
            request::TCSETSF2 => self.set_termios2(argument, When::AfterOutputDroppingInput),
            request::TCGETA => self.get_termio(argument),
            request::TCSETA => self.set_termio(argument, When::Now),
            request::TCSETAW => self.set_termio(argument, When::AfterOutput),
            request::TCSETAF => self.set_termio(argument, When::AfterOutputDroppingInput),
            request::TIOCGLCKTRMIOS => self.get_locked(argument),
            request::TIOCSLCKTRMIOS => self.set_locked(argument),
            request::TIOCGSOFTCAR => self.get_local(argument),
            request::TIOCSSOFTCAR => self.set_local(argument),
            request::TIOCGWINSZ => self.get_winsize(argument),
            request::TIOCSWINSZ => self.set_winsize(argument),
            request::TIOCSPGRP => self.set_foreground(|| user::copy_in(argument)),
            request::TIOCSCTTY => self.take_as_controlling(argument.get() == 1, file.flags().readable()),
            request::TIOCGETD => answer_int(argument, 0),
            request::TIOCSETD => set_discipline(argument),
            request::TIOCGDEV => answer_int(argument, self.number() as i32),
            _ => return None,
        })
    }

    /// ENOTTY unless this is the caller's controlling terminal.
    fn require_controlling(&self) -> Result<()> {
        let thread = scheduler::current();
        if self.controls(thread.process()) { Ok(()) } else { Err(Errno::ENOTTY) }
    }

    /// tcflush(3).
    fn flush(&self, which: u64) -> Result<u64> {
        self.check_background_change()?;
        let (input, output) = queues(which)?;
        {
            let mut state = self.state.lock();
            if input {
                state.flush_input();
                state.with_line(|line, sink| line.unthrottle(sink));
            }
            if output {
                state.flush_output();
            }
        }
        self.send_output();
        self.writers.wake_all();
        Ok(0)
    }

    /// tcflow(3).
    fn flow(&self, action: u64) -> Result<u64> {
        self.check_background_change()?;
        match Flow::from_argument(action)? {
            Flow::Stop => drop(self.state.lock().with_line(|line, _| line.stop_output())),
            Flow::Start => drop(self.state.lock().with_line(|line, sink| line.start_output(sink))),
            Flow::Send(index) => {
                let mut state = self.state.lock();
                let character = state.line.termios().cc.get(index).copied().filter(|character| *character != 0);
                state.output.extend(character);
            }
        }
        self.send_output();
        self.writers.wake_all();
        Ok(0)
    }

    fn set_exclusive(&self, exclusive: bool) -> Result<u64> {
        self.state.lock().exclusive = exclusive;
        Ok(0)
    }
}
