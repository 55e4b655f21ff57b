//! What a terminal is set to: termios(3), its older forms, and the size of its window.

use abi::{Errno, Result, linux, zeroed};
use hal::UserAddr;
use klib::line_discipline::{Termios, Winsize};

use super::{Device, State, Tty, ioctl::answer_int};
use crate::{
    mm::user,
    task::{scheduler, signal},
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

/// When a change of settings takes effect (tcsetattr(3)).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
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

impl State {
    /// Replaces the settings. `speeds` are the given input and output speed; what is there stays otherwise.
    fn change(&mut self, settings: Termios, speeds: Option<(u32, u32)>, flush_input: bool) {
        let settings = settings.keeping(self.line.termios(), &self.locked);
        let (given_input, given_output) = speeds.unwrap_or((self.input_speed, self.output_speed));
        self.output_speed = speed_of(settings.cflag, given_output);
        // An input code of 0 stands for the output speed (termios(3), cfsetispeed).
        self.input_speed = match settings.cflag >> IBSHIFT & CBAUD {
            0 => self.output_speed,
            code => speed_of(code, given_input),
        };
        if flush_input {
            self.flush_input();
        }
        let before = *self.line.termios();
        self.with_line(|line, sink| {
            line.set_termios(settings, false);
            // Leaving IXON frees the echo that was held.
            line.release_held(sink);
        });
        self.master.note_settings(&before, &settings);
    }
}

fn answer_termios(argument: UserAddr, settings: &Termios) -> Result<u64> {
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

impl Tty {
    /// `TCGETS`.
    pub(super) fn get_termios(&self, argument: UserAddr) -> Result<u64> {
        let settings = *self.state.lock().line.termios();
        answer_termios(argument, &settings)
    }

    /// `TIOCGLCKTRMIOS`: what is set in the answer cannot be changed.
    pub(super) fn get_locked(&self, argument: UserAddr) -> Result<u64> {
        let locked = self.state.lock().locked;
        answer_termios(argument, &locked)
    }

    /// `TIOCSLCKTRMIOS`.
    pub(super) fn set_locked(&self, argument: UserAddr) -> Result<u64> {
        let credentials = scheduler::current().identity.own();
        if !credentials.has(linux::CAP_SYS_ADMIN) && !credentials.has(linux::CAP_CHECKPOINT_RESTORE) {
            return Err(Errno::EPERM);
        }
        let new: linux::termios = user::copy_in(argument)?;
        self.state.lock().locked = Termios {
            iflag: new.c_iflag,
            oflag: new.c_oflag,
            cflag: new.c_cflag,
            lflag: new.c_lflag,
            line: new.c_line,
            cc: new.c_cc,
        };
        Ok(0)
    }

    /// `TCGETS2`: with the speeds as numbers.
    pub(super) fn get_termios2(&self, argument: UserAddr) -> Result<u64> {
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

    /// `TCGETA`: the halves and the control characters that System V knew.
    pub(super) fn get_termio(&self, argument: UserAddr) -> Result<u64> {
        let settings = *self.state.lock().line.termios();
        let mut answer: linux::termio = zeroed();
        answer.c_iflag = settings.iflag as u16;
        answer.c_oflag = settings.oflag as u16;
        answer.c_cflag = settings.cflag as u16;
        answer.c_lflag = settings.lflag as u16;
        answer.c_line = settings.line;
        answer.c_cc.iter_mut().zip(settings.cc).for_each(|(place, character)| *place = character);
        user::copy_out(argument, &answer)?;
        Ok(0)
    }

    /// `TCSETS` and its variants.
    pub(super) fn set_termios(&self, argument: UserAddr, when: When) -> Result<u64> {
        self.check_background_change()?;
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

    /// `TCSETS2` and its variants.
    pub(super) fn set_termios2(&self, argument: UserAddr, when: When) -> Result<u64> {
        self.check_background_change()?;
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

    /// `TCSETA` and its variants: what the old form does not tell stays.
    pub(super) fn set_termio(&self, argument: UserAddr, when: When) -> Result<u64> {
        self.check_background_change()?;
        let asked: linux::termio = user::copy_in(argument)?;
        let mut settings = *self.state.lock().line.termios();
        let lower = |old: u32, new: u16| old & 0xffff_0000 | u32::from(new);
        settings.iflag = lower(settings.iflag, asked.c_iflag);
        settings.oflag = lower(settings.oflag, asked.c_oflag);
        settings.cflag = lower(settings.cflag, asked.c_cflag);
        settings.lflag = lower(settings.lflag, asked.c_lflag);
        settings.line = asked.c_line;
        settings.cc.iter_mut().zip(asked.c_cc).for_each(|(place, character)| *place = character);
        self.change_settings(settings, None, when)
    }

    /// `TIOCGSOFTCAR`: whether modem lines are ignored.
    pub(super) fn get_local(&self, argument: UserAddr) -> Result<u64> {
        let local = self.state.lock().line.termios().cflag & linux::CLOCAL != 0;
        answer_int(argument, i32::from(local))
    }

    /// `TIOCSSOFTCAR`.
    pub(super) fn set_local(&self, argument: UserAddr) -> Result<u64> {
        let local = user::copy_in::<u32>(argument)? != 0;
        let mut state = self.state.lock();
        let mut settings = *state.line.termios();
        settings.cflag = settings.cflag & !linux::CLOCAL | if local { linux::CLOCAL } else { 0 };
        state.line.set_termios(settings, false);
        Ok(0)
    }

    fn change_settings(&self, mut settings: Termios, speeds: Option<(u32, u32)>, when: When) -> Result<u64> {
        if when != When::Now {
            self.wait_for_output()?;
        }
        if matches!(self.device, Device::Pseudo(_)) {
            // No line between the two sides could do otherwise.
            settings.cflag = settings.cflag & !(linux::CSIZE | linux::PARENB) | linux::CS8 | linux::CREAD;
        }
        self.state.lock().change(settings, speeds, when == When::AfterOutputDroppingInput);
        self.send_output();
        self.readers.wake_all();
        self.writers.wake_all();
        Ok(0)
    }

    /// `TIOCGWINSZ`.
    pub(super) fn get_winsize(&self, argument: UserAddr) -> Result<u64> {
        let size = self.state.lock().line.winsize();
        let mut answer: linux::winsize = zeroed();
        answer.ws_row = size.rows;
        answer.ws_col = size.cols;
        answer.ws_xpixel = size.xpixel;
        answer.ws_ypixel = size.ypixel;
        user::copy_out(argument, &answer)?;
        Ok(0)
    }

    /// `TIOCSWINSZ`: SIGWINCH for the foreground group where the size changed.
    pub(super) fn set_winsize(&self, argument: UserAddr) -> Result<u64> {
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
}
