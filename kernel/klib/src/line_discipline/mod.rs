//! The terminal line discipline of termios(3).
//!
//! Purpose: what stands between a serial line and `read`, `write` and `ioctl` on `/dev/console`: line
//! editing, echo, the keys that raise signals, the translation of ends of lines, and flow control.
//!
//! Key types: [`LineDiscipline`], the state machine; [`TtySink`], where its output and signals go;
//! [`Termios`] and [`Winsize`], its settings. Neighbours: the kernel's TTY device feeds received bytes to
//! [`input`](LineDiscipline::input), sleeps and wakes readers, and applies `VMIN` and `VTIME`; the sink
//! writes to the UART and signals the foreground process group.
//!
//! Why a pure state machine: every rule here is a sequence of bytes in and bytes out, so it is tested as
//! such. Where termios(3) leaves a choice, Linux's behaviour is followed, since the programs that run were
//! written against it.

mod echo;
mod termios;
#[cfg(test)]
mod tests;

pub use termios::{NCCS, Termios, Winsize, cc, cflag, iflag, lflag, oflag};

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use cc::{VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VMIN, VQUIT, VREPRINT};
use cc::{VSTART, VSTOP, VSUSP, VTIME, VWERASE};
use iflag::{BRKINT, ICRNL, IGNBRK, IGNCR, IMAXBEL, INLCR, ISTRIP, IUCLC, IXANY, IXOFF, IXON, PARMRK};
use lflag::{ECHO, ECHOCTL, ECHONL, EXTPROC, ICANON, IEXTEN, ISIG, NOFLSH};

/// Bytes of the input queue. A line that is being edited holds one less, and a line end always fits: the
/// 4096 of termios(3), "Canonical and noncanonical mode".
pub const MAX_CANON: usize = 4096;

/// With `IXOFF`, `VSTOP` is sent when fewer places than this are free, and `VSTART` when more are free again.
const THROTTLE_ROOM: usize = 128;
const UNTHROTTLE_ROOM: usize = MAX_CANON - 128;

/// In a queue slot: the byte ends a line.
const LINE_END: u16 = 0x100;
/// In a queue slot: a line end that is not a byte of the line (`VEOF`).
const END_OF_FILE: u16 = 0x200;

/// A signal that a key raises in the foreground process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtySignal {
    /// `VINTR`: SIGINT.
    Interrupt,
    /// `VQUIT`: SIGQUIT.
    Quit,
    /// `VSUSP`: SIGTSTP.
    Suspend,
}

/// Where a line discipline's output and signals go.
pub trait TtySink {
    /// Bytes for the device, in order.
    fn output(&mut self, bytes: &[u8]);

    /// Tells the device to hold its bytes back or to go on, with its `VSTOP` or `VSTART` (`IXOFF`).
    fn pace_input(&mut self, character: u8) {
        self.output(&[character]);
    }

    /// Raises `signal` in the foreground process group.
    fn signal(&mut self, signal: TtySignal);

    /// Drops output that the device has not sent yet: a signal key was pressed without `NOFLSH`.
    fn flush_output(&mut self) {}
}

/// What [`LineDiscipline::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// So many bytes were stored; 0 only for an empty buffer.
    Data(usize),
    /// `VEOF` on an empty line: `read` returns 0.
    Eof,
    /// Nothing to read yet.
    WouldBlock,
}

/// The state of one terminal.
#[derive(Debug)]
pub struct LineDiscipline {
    termios: Termios,
    winsize: Winsize,
    /// Bytes received and not yet read, with marks.
    queue: VecDeque<u16>,
    /// How many slots of `queue` may be read: whole lines in canonical mode, all in the other. What comes
    /// after is the line being edited.
    committed: usize,
    /// The next character is literal (`VLNEXT` was pressed).
    literal_next: bool,
    /// Erased characters are being printed after a `\` (`ECHOPRT`).
    printing_erased: bool,
    /// Column of the cursor, counted from 0, as far as output was processed (`OPOST`).
    column: usize,
    /// Column at which the line being edited starts.
    line_column: usize,
    /// `VSTOP` was received (`IXON`).
    stopped_by_input: bool,
    /// tcflow(3) `TCOOFF` is in force.
    stopped_by_call: bool,
    /// Echo that waits for output to resume.
    held_echo: Vec<u8>,
    /// `VSTOP` was sent (`IXOFF`).
    throttled: bool,
}

impl Default for LineDiscipline {
    fn default() -> Self {
        Self::new()
    }
}

impl LineDiscipline {
    /// A terminal with Linux's initial settings and an unknown window size.
    pub fn new() -> Self {
        Self {
            termios: Termios::default(),
            winsize: Winsize::default(),
            queue: VecDeque::with_capacity(MAX_CANON),
            committed: 0,
            literal_next: false,
            printing_erased: false,
            column: 0,
            line_column: 0,
            stopped_by_input: false,
            stopped_by_call: false,
            held_echo: Vec::new(),
            throttled: false,
        }
    }

    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings, after discarding unread input if `flush_input` (tcsetattr(3), `TCSAFLUSH`).
    ///
    /// When `ICANON` changes, what is pending stays and becomes readable: bytes of an unfinished line are
    /// plain input to non-canonical mode, and pending bytes form one line in canonical mode.
    pub fn set_termios(&mut self, new: Termios, flush_input: bool) {
        if flush_input {
            self.flush_input();
        }
        let changed = self.termios.lflag ^ new.lflag;
        self.termios = new;
        if changed & (ICANON | EXTPROC) != 0 {
            // The marks of lines that were pending are gone; the end of input becomes the only one. A
            // pending VEOF thereby turns into the NUL byte that Linux delivers for it.
            self.queue.iter_mut().for_each(|slot| *slot &= 0xff);
            if self.canonical()
                && let Some(last) = self.queue.back_mut()
            {
                *last |= LINE_END;
            }
            self.committed = self.queue.len();
            self.literal_next = false;
            self.printing_erased = false;
        }
        if !new.input(IXON) {
            self.stopped_by_input = false;
        }
    }

    /// The window size.
    pub fn winsize(&self) -> Winsize {
        self.winsize
    }

    /// Sets the window size and says whether it changed (the foreground process group then gets SIGWINCH).
    pub fn set_winsize(&mut self, winsize: Winsize) -> bool {
        let changed = self.winsize != winsize;
        self.winsize = winsize;
        changed
    }

    /// Discards input that was not read, the unfinished line included (tcflush(3), `TCIFLUSH`).
    pub fn flush_input(&mut self) {
        self.queue.clear();
        self.committed = 0;
        self.literal_next = false;
        self.printing_erased = false;
    }

    /// Whether output is suspended, by `VSTOP` or by [`stop_output`](Self::stop_output).
    pub fn output_stopped(&self) -> bool {
        self.stopped_by_input || self.stopped_by_call
    }

    /// Suspends output (tcflow(3), `TCOOFF`) until [`start_output`](Self::start_output); `VSTART` does not
    /// resume it.
    pub fn stop_output(&mut self) {
        self.stopped_by_call = true;
    }

    /// Resumes output after [`stop_output`](Self::stop_output) (tcflow(3), `TCOON`), and writes the echo that was
    /// held. As on Linux it does nothing where only `VSTOP` suspends output.
    pub fn start_output(&mut self, sink: &mut dyn TtySink) {
        if core::mem::take(&mut self.stopped_by_call) {
            self.stopped_by_input = false;
        }
        self.release_held(sink);
    }

    /// Writes the echo that was held, if output is not suspended any more. To be called after a change of settings.
    pub fn release_held(&mut self, sink: &mut dyn TtySink) {
        if !self.output_stopped() {
            self.release_echo(sink);
        }
    }

    /// `VMIN`: how many bytes complete a non-canonical read.
    pub fn min(&self) -> usize {
        usize::from(self.termios.cc[VMIN])
    }

    /// `VTIME`: the time limit of a non-canonical read, tenths of a second.
    pub fn time_tenths(&self) -> u8 {
        self.termios.cc[VTIME]
    }

    /// Whether input is read by lines (`ICANON`).
    pub fn canonical(&self) -> bool {
        self.termios.local(ICANON) && !self.termios.local(EXTPROC)
    }

    /// Number of bytes that can be read now (ioctl_tty(2), `FIONREAD`): in canonical mode those of whole
    /// lines, without the mark of `VEOF`.
    pub fn available(&self) -> usize {
        if !self.canonical() {
            return self.committed;
        }
        self.queue.iter().take(self.committed).filter(|slot| **slot & END_OF_FILE == 0).count()
    }

    /// Whether poll(2) reports input: a whole line or an end of file in canonical mode, else one byte, or
    /// `VMIN` bytes if there is no `VTIME`.
    pub fn readable(&self) -> bool {
        let wanted = if self.canonical() || self.time_tenths() != 0 { 1 } else { self.min().max(1) };
        self.committed >= wanted
    }

    /// How many bytes [`input`](Self::input) takes before it has to drop some.
    ///
    /// A device that can wait (one with flow control, or with a queue of its own) keeps bytes back while
    /// this is 0. In canonical mode an over-long unfinished line is no reason to wait: its excess is
    /// dropped, but the end of the line is still taken.
    pub fn room(&self) -> usize {
        let room = (MAX_CANON - 1).saturating_sub(self.queue.len());
        if room == 0 && self.canonical() && self.committed == 0 { 1 } else { room }
    }

    /// Takes a byte from the device.
    pub fn input(&mut self, byte: u8, sink: &mut dyn TtySink) {
        if !self.output_stopped() {
            self.release_echo(sink);
        }
        let mut byte = byte;
        if self.termios.input(ISTRIP) {
            byte &= 0x7f;
        }
        if self.termios.input(IUCLC) && self.termios.local(IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if self.termios.local(EXTPROC) {
            self.queue_byte(byte, sink);
        } else if core::mem::take(&mut self.literal_next) {
            self.input_text(byte, sink);
        } else if !self.input_control(byte, sink) {
            self.input_character(byte, sink);
        }
        if self.termios.input(IXOFF) && !self.throttled && MAX_CANON - self.queue.len() <= THROTTLE_ROOM {
            self.throttled = true;
            self.send_flow_control(VSTOP, sink);
        }
    }

    /// Takes bytes off the front of `bytes`, from a device that can wait: as many as there is [`room`](Self::room) for,
    /// and none after one that stops or resumes output.
    pub fn input_all(&mut self, bytes: &mut VecDeque<u8>, sink: &mut dyn TtySink) {
        let stopped = self.output_stopped();
        while self.room() > 0 && self.output_stopped() == stopped && !bytes.is_empty() {
            let count = self.raw_len(bytes).min(self.room());
            self.queue.extend(bytes.drain(..count).map(u16::from));
            if count > 0 {
                self.committed = self.queue.len();
            } else if let Some(byte) = bytes.pop_front() {
                self.input(byte, sink);
            }
        }
    }

    /// How many of the first `bytes` go into the queue just as they are, with nothing else to come of them.
    fn raw_len(&self, bytes: &VecDeque<u8>) -> usize {
        let acted_on = ISTRIP | IUCLC | PARMRK | INLCR | IGNCR | ICRNL | IXON | IXOFF;
        let plain = self.termios.iflag & acted_on == 0
            && self.termios.lflag & (ICANON | ECHO | EXTPROC) == 0
            && !self.literal_next
            && self.held_echo.is_empty();
        if !plain {
            return 0;
        }
        let is_key = |byte: &u8| [VINTR, VQUIT, VSUSP].iter().any(|key| self.termios.is(*key, *byte));
        let key = if self.termios.local(ISIG) { bytes.iter().position(is_key) } else { None };
        key.unwrap_or(bytes.len())
    }

    /// Takes a break condition from the device (termios(3), `IGNBRK` and `BRKINT`).
    pub fn input_break(&mut self, sink: &mut dyn TtySink) {
        if self.termios.input(IGNBRK) {
            return;
        }
        if self.termios.input(BRKINT) {
            self.raise(TtySignal::Interrupt, sink);
            return;
        }
        if self.termios.input(PARMRK) {
            self.queue_byte(0xff, sink);
            self.queue_byte(0, sink);
        }
        self.queue_byte(0, sink);
    }

    /// Flow control and signal keys. Says whether `byte` was one.
    fn input_control(&mut self, byte: u8, sink: &mut dyn TtySink) -> bool {
        if self.termios.input(IXON) {
            if self.termios.is(VSTART, byte) {
                self.resume(sink);
                return true;
            }
            if self.termios.is(VSTOP, byte) {
                self.stopped_by_input = true;
                return true;
            }
        }
        if self.termios.local(ISIG) {
            let signal = if self.termios.is(VINTR, byte) {
                TtySignal::Interrupt
            } else if self.termios.is(VQUIT, byte) {
                TtySignal::Quit
            } else if self.termios.is(VSUSP, byte) {
                TtySignal::Suspend
            } else {
                return false;
            };
            self.raise(signal, sink);
            if self.termios.input(IXON) {
                self.resume(sink);
            }
            if self.termios.local(ECHO) {
                self.echo(byte, sink);
            }
            return true;
        }
        false
    }

    /// Whatever is neither flow control nor a signal.
    fn input_character(&mut self, byte: u8, sink: &mut dyn TtySink) {
        if self.termios.input(IXON) && self.termios.input(IXANY) {
            self.resume(sink);
        }
        let received = byte;
        let byte = match byte {
            b'\r' if self.termios.input(IGNCR) => return,
            b'\r' if self.termios.input(ICRNL) => b'\n',
            b'\n' if self.termios.input(INLCR) => b'\r',
            other => other,
        };
        if self.canonical() && self.edit(byte, sink) {
            return;
        }
        // A CR that became NL echoes as a new line; a NL that was typed is a control character like others.
        if byte == b'\n' && received == b'\r' && self.termios.local(ECHO) {
            self.finish_printing_erased(sink);
            self.echo_raw(b"\n", sink);
            self.queue_text(byte, sink);
        } else {
            self.input_text(byte, sink);
        }
    }

    /// The keys of canonical mode: line ends and editing. Says whether `byte` was one.
    fn edit(&mut self, byte: u8, sink: &mut dyn TtySink) -> bool {
        let extended = self.termios.local(IEXTEN);
        let echo = self.termios.local(ECHO);
        if self.termios.is(VERASE, byte) {
            self.erase_character(sink);
        } else if self.termios.is(VKILL, byte) {
            self.kill_line(sink);
        } else if extended && self.termios.is(VWERASE, byte) {
            self.erase_word(sink);
        } else if extended && self.termios.is(VLNEXT, byte) {
            self.literal_next = true;
            if echo {
                self.finish_printing_erased(sink);
                if self.termios.local(ECHOCTL) {
                    // The caret stands until the literal character takes its place.
                    self.echo_raw(b"^\x08", sink);
                }
            }
        } else if extended && echo && self.termios.is(VREPRINT, byte) {
            self.reprint(byte, sink);
        } else if byte == b'\n' {
            if echo || self.termios.local(ECHONL) {
                self.echo_raw(b"\n", sink);
            }
            self.end_line(u16::from(b'\n') | LINE_END);
        } else if self.termios.is(VEOF, byte) {
            self.end_line(LINE_END | END_OF_FILE);
        } else if self.termios.is(VEOL, byte) || (extended && self.termios.is(VEOL2, byte)) {
            if echo {
                self.note_line_column();
                self.echo(byte, sink);
            }
            self.end_line(u16::from(byte) | LINE_END);
        } else {
            return false;
        }
        true
    }

    /// A byte of text: echoed and queued.
    fn input_text(&mut self, byte: u8, sink: &mut dyn TtySink) {
        if self.termios.local(ECHO) {
            self.finish_printing_erased(sink);
            self.note_line_column();
            self.echo(byte, sink);
        }
        self.queue_text(byte, sink);
    }

    /// Queues a byte of text, doubled if it could be taken for the mark of an error (`PARMRK`).
    fn queue_text(&mut self, byte: u8, sink: &mut dyn TtySink) {
        if byte == 0xff && self.termios.input(PARMRK) {
            self.queue_byte(byte, sink);
        }
        self.queue_byte(byte, sink);
    }

    /// Queues a byte, unless only the place kept for a line end is left.
    fn queue_byte(&mut self, byte: u8, sink: &mut dyn TtySink) {
        if self.queue.len() >= MAX_CANON - 1 {
            if self.termios.input(IMAXBEL) {
                self.echo_raw(b"\x07", sink);
            }
            return;
        }
        self.queue.push_back(u16::from(byte));
        if !self.canonical() {
            self.committed = self.queue.len();
        }
    }

    /// Completes the line being edited with the slot `end`.
    fn end_line(&mut self, end: u16) {
        if self.queue.len() >= MAX_CANON {
            // Only whole lines are in the queue and they fill it: the line end is lost like the text of its
            // line was.
            return;
        }
        self.queue.push_back(end);
        self.committed = self.queue.len();
    }

    /// Raises a signal, and drops both queues unless `NOFLSH`.
    fn raise(&mut self, signal: TtySignal, sink: &mut dyn TtySink) {
        sink.signal(signal);
        if !self.termios.local(NOFLSH) {
            self.flush_input();
            self.held_echo.clear();
            sink.flush_output();
        }
    }

    /// `VSTART`: ends a `VSTOP`.
    fn resume(&mut self, sink: &mut dyn TtySink) {
        self.stopped_by_input = false;
        if !self.output_stopped() {
            self.release_echo(sink);
        }
    }

    /// Moves input to `out`: in canonical mode at most a line, else whatever is there.
    pub fn read(&mut self, out: &mut [u8]) -> ReadState {
        if out.is_empty() {
            return ReadState::Data(0);
        }
        if self.committed == 0 {
            return ReadState::WouldBlock;
        }
        let canonical = self.canonical();
        if !canonical {
            let count = self.committed.min(out.len());
            for (place, slot) in out.iter_mut().zip(self.queue.drain(..count)) {
                *place = slot as u8;
            }
            self.committed -= count;
            return ReadState::Data(count);
        }
        let mut count = 0;
        while self.committed > 0 {
            let Some(&slot) = self.queue.front() else {
                break;
            };
            // The mark of VEOF is consumed even right behind a full buffer, or the next read would see an
            // end of file that the user did not mean.
            if slot & END_OF_FILE != 0 {
                self.consume();
                return if count == 0 { ReadState::Eof } else { ReadState::Data(count) };
            }
            let Some(place) = out.get_mut(count) else {
                break;
            };
            *place = slot as u8;
            count += 1;
            self.consume();
            if slot & LINE_END != 0 {
                break;
            }
        }
        ReadState::Data(count)
    }

    /// Drops the first slot of the queue, which is a committed one.
    fn consume(&mut self) {
        self.queue.pop_front();
        self.committed -= 1;
    }

    /// With `IXOFF`, tells the device to send again once reading has made room. To be called after reads.
    pub fn unthrottle(&mut self, sink: &mut dyn TtySink) {
        if self.throttled && MAX_CANON - self.queue.len() >= UNTHROTTLE_ROOM {
            self.throttled = false;
            self.send_flow_control(VSTART, sink);
        }
    }

    /// Sends the control character `index` to the device, if it is not disabled.
    fn send_flow_control(&self, index: usize, sink: &mut dyn TtySink) {
        let character = self.termios.cc[index];
        if character != 0 {
            sink.pace_input(character);
        }
    }
}
