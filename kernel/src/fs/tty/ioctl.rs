//! The requests of ioctl_tty(2).

use abi::{Errno, Result, ioctl as request, linux, zeroed};
use hal::UserAddr;
use klib::line_discipline::{Termios, Winsize};

use super::{Tty, job};
use crate::{
    mm::user,
    task::{process, scheduler, signal},
};

/// Mask of the speed in `c_cflag` (asm-generic/termbits.h).
const CBAUD: u32 = 0o10017;
/// The speed is a number in `c_ospeed`.
const BOTHER: u32 = 0o10000;
/// Where the input speed is in `c_cflag`.
const IBSHIFT: u32 = 16;

/// Speeds of the codes 0 to 15, in baud.
const SLOW: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19_200, 38_400];
/// Speeds of the codes `BOTHER + 1` to `BOTHER + 15`, in baud.
const FAST: [u32; 15] = [
    57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000,
    2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// tcflow(3), tcflush(3).
const TCOOFF: u64 = 0;
const TCOON: u64 = 1;
const TCIOFF: u64 = 2;
const TCION: u64 = 3;
const TCIFLUSH: u64 = 0;
const TCOFLUSH: u64 = 1;
const TCIOFLUSH: u64 = 2;

/// When a change of settings takes effect (tcsetattr(3)).
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    AfterOutput,
    AfterOutputDroppingInput,
}

/// The speed a code of `c_cflag` stands for; `given` where it says BOTHER.
fn speed_of(code: u32, given: u32) -> u32 {
    let code = code & CBAUD;
    if code == BOTHER {
        return given;
    }
    let known = if code & BOTHER == 0 { SLOW.get(code as usize) } else { FAST.get((code & 0o17) as usize - 1) };
    known.copied().unwrap_or(given)
}

/// `TIOCGDEV` and the like answer an `int`.
fn answer_int(argument: UserAddr, value: i32) -> Result<u64> {
    user::copy_out(argument, &value)?;
    Ok(0)
}

impl Tty {
    /// ioctl(2).
    pub(super) fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        match command {
            request::TCGETS => self.get_termios(argument),
            request::TCSETS => self.set_termios(argument, When::Now),
            request::TCSETSW => self.set_termios(argument, When::AfterOutput),
            request::TCSETSF => self.set_termios(argument, When::AfterOutputDroppingInput),
            request::TCGETS2 => self.get_termios2(argument),
            request::TCSETS2 => self.set_termios2(argument, When::Now),
            request::TCSETSW2 => self.set_termios2(argument, When::AfterOutput),
            request::TCSETSF2 => self.set_termios2(argument, When::AfterOutputDroppingInput),
            request::TIOCGWINSZ => self.get_winsize(argument),
            request::TIOCSWINSZ => self.set_winsize(argument),
            request::TIOCGPGRP => self.get_foreground(argument),
            request::TIOCSPGRP => self.set_foreground(argument),
            request::TIOCGSID => self.get_session(argument),
            request::TIOCSCTTY => self.take_as_controlling(argument.get() == 1),
            request::TIOCNOTTY => self.drop_as_controlling(),
            request::TCFLSH => self.flush(argument.get()),
            request::TCXONC => self.flow(argument.get()),
            // A break would need the device; waiting for the output is the part programs rely on (tcdrain).
            request::TCSBRK | request::TCSBRKP => {
                self.check_background_change()?;
                self.wait_for_output()?;
                Ok(0)
            }
            request::TIOCSTI => Err(Errno::EPERM),
            request::FIONREAD => {
                let available = self.state.lock().line.available();
                answer_int(argument, i32::try_from(available).unwrap_or(i32::MAX))
            }
            request::TIOCOUTQ => {
                let unsent = self.state.lock().output.len();
                answer_int(argument, i32::try_from(unsent).unwrap_or(i32::MAX))
            }
            request::TIOCGETD => answer_int(argument, 0),
            request::TIOCSETD => match user::copy_in::<i32>(argument)? {
                0 => Ok(0),
                _ => Err(Errno::EINVAL),
            },
            request::TIOCEXCL => self.set_exclusive(true),
            request::TIOCNXCL => self.set_exclusive(false),
            request::TIOCGEXCL => {
                let exclusive = self.state.lock().exclusive;
                answer_int(argument, i32::from(exclusive))
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn get_termios(&self, argument: UserAddr) -> Result<u64> {
        let settings = *self.state.lock().line.termios();
        let mut answer: linux::termios = zeroed();
        answer.c_iflag = settings.iflag;
        answer.c_oflag = settings.oflag;
        answer.c_cflag = settings.cflag;
        answer.c_lflag = settings.lflag;
        answer.c_line = settings.line;
        answer.c_cc = settings.cc;
        user::copy_out(argument, &answer)?;
        Ok(0)
    }

    fn get_termios2(&self, argument: UserAddr) -> Result<u64> {
        let (settings, input_speed, output_speed) = {
            let state = self.state.lock();
            (*state.line.termios(), state.input_speed, state.output_speed)
        };
        let mut answer: linux::termios2 = zeroed();
        answer.c_iflag = settings.iflag;
        answer.c_oflag = settings.oflag;
        answer.c_cflag = settings.cflag;
        answer.c_lflag = settings.lflag;
        answer.c_line = settings.line;
        answer.c_cc = settings.cc;
        answer.c_ispeed = input_speed;
        answer.c_ospeed = output_speed;
        user::copy_out(argument, &answer)?;
        Ok(0)
    }

    fn set_termios(&self, argument: UserAddr, when: When) -> Result<u64> {
        let asked: linux::termios = user::copy_in(argument)?;
        let settings = Termios {
            iflag: asked.c_iflag,
            oflag: asked.c_oflag,
            cflag: asked.c_cflag,
            lflag: asked.c_lflag,
            line: asked.c_line,
            cc: asked.c_cc,
        };
        self.change_settings(settings, None, when)
    }

    fn set_termios2(&self, argument: UserAddr, when: When) -> Result<u64> {
        let asked: linux::termios2 = user::copy_in(argument)?;
        let settings = Termios {
            iflag: asked.c_iflag,
            oflag: asked.c_oflag,
            cflag: asked.c_cflag,
            lflag: asked.c_lflag,
            line: asked.c_line,
            cc: asked.c_cc,
        };
        self.change_settings(settings, Some((asked.c_ispeed, asked.c_ospeed)), when)
    }

    fn change_settings(&self, settings: Termios, speeds: Option<(u32, u32)>, when: When) -> Result<u64> {
        self.check_background_change()?;
        if when != When::Now {
            self.wait_for_output()?;
        }
        {
            let mut state = self.state.lock();
            let (given_input, given_output) = speeds.unwrap_or((state.input_speed, state.output_speed));
            state.output_speed = speed_of(settings.cflag, given_output);
            // An input code of 0 stands for the output speed (termios(3), cfsetispeed).
            state.input_speed = match settings.cflag >> IBSHIFT & CBAUD {
                0 => state.output_speed,
                code => speed_of(code, given_input),
            };
            let was_stopped = state.line.output_stopped();
            state.line.set_termios(settings, when == When::AfterOutputDroppingInput);
            if was_stopped && !state.line.output_stopped() {
                // Leaving IXON frees the echo that was held.
                state.with_line(|line, sink| line.start_output(sink));
            }
        }
        self.drain_output();
        self.readers.wake_all();
        self.writers.wake_all();
        Ok(0)
    }

    fn get_winsize(&self, argument: UserAddr) -> Result<u64> {
        let size = self.state.lock().line.winsize();
        let mut answer: linux::winsize = zeroed();
        answer.ws_row = size.rows;
        answer.ws_col = size.cols;
        answer.ws_xpixel = size.xpixel;
        answer.ws_ypixel = size.ypixel;
        user::copy_out(argument, &answer)?;
        Ok(0)
    }

    fn set_winsize(&self, argument: UserAddr) -> Result<u64> {
        let asked: linux::winsize = user::copy_in(argument)?;
        let size = Winsize { rows: asked.ws_row, cols: asked.ws_col, xpixel: asked.ws_xpixel, ypixel: asked.ws_ypixel };
        let group = {
            let mut state = self.state.lock();
            if state.line.set_winsize(size) { state.foreground } else { 0 }
        };
        if group > 0 {
            signal::send_to_group(group, linux::SIGWINCH);
        }
        Ok(0)
    }

    /// ENOTTY unless this is the caller's controlling terminal.
    fn require_controlling(&self) -> Result<()> {
        let session = self.session();
        if session != 0 && scheduler::current().process().session() == session { Ok(()) } else { Err(Errno::ENOTTY) }
    }

    fn get_foreground(&self, argument: UserAddr) -> Result<u64> {
        self.require_controlling()?;
        answer_int(argument, self.foreground())
    }

    fn set_foreground(&self, argument: UserAddr) -> Result<u64> {
        self.check_background_change()?;
        self.require_controlling()?;
        let group: i32 = user::copy_in(argument)?;
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        let session = self.session();
        let mut members = process::all().into_iter().filter(|process| process.group() == group).peekable();
        if members.peek().is_none() {
            return Err(Errno::ESRCH);
        }
        if members.any(|process| process.session() != session) {
            return Err(Errno::EPERM);
        }
        self.state.lock().foreground = group;
        Ok(0)
    }

    fn get_session(&self, argument: UserAddr) -> Result<u64> {
        self.require_controlling()?;
        answer_int(argument, self.session())
    }

    fn take_as_controlling(&self, steal: bool) -> Result<u64> {
        let thread = scheduler::current();
        let process = thread.process();
        let session = process.session();
        let leads = process.pid() == session;
        if leads && self.session() == session {
            return Ok(0);
        }
        if !leads || job::controlling_terminal_of(session).is_some() {
            return Err(Errno::EPERM);
        }
        if self.session() != 0 && !steal {
            return Err(Errno::EPERM);
        }
        self.set_session(session, process.group());
        Ok(0)
    }

    /// `TIOCNOTTY`. Only the session leader can let the terminal go: the session as a whole has it or has not.
    fn drop_as_controlling(&self) -> Result<u64> {
        self.require_controlling()?;
        let thread = scheduler::current();
        if thread.process().pid() != self.session() {
            return Err(Errno::EPERM);
        }
        self.give_up();
        Ok(0)
    }

    fn flush(&self, queues: u64) -> Result<u64> {
        self.check_background_change()?;
        let (input, output) = match queues {
            TCIFLUSH => (true, false),
            TCOFLUSH => (false, true),
            TCIOFLUSH => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        {
            let mut state = self.state.lock();
            if input {
                state.line.flush_input();
                state.with_line(|line, sink| line.unthrottle(sink));
            }
            if output {
                state.output.clear();
            }
        }
        self.drain_output();
        self.writers.wake_all();
        Ok(0)
    }

    fn flow(&self, action: u64) -> Result<u64> {
        use klib::line_discipline::cc::{VSTART, VSTOP};
        self.check_background_change()?;
        {
            let mut state = self.state.lock();
            let index = match action {
                TCOOFF => {
                    state.line.stop_output();
                    None
                }
                TCOON => {
                    state.with_line(|line, sink| line.start_output(sink));
                    None
                }
                TCIOFF => Some(VSTOP),
                TCION => Some(VSTART),
                _ => return Err(Errno::EINVAL),
            };
            let character = index.and_then(|index| state.line.termios().cc.get(index).copied());
            if let Some(character) = character.filter(|character| *character != 0) {
                state.output.push_back(character);
            }
        }
        self.drain_output();
        self.writers.wake_all();
        Ok(0)
    }

    fn set_exclusive(&self, exclusive: bool) -> Result<u64> {
        self.state.lock().exclusive = exclusive;
        Ok(0)
    }
}
