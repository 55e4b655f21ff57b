//! The output side of the line discipline: output processing, echo, and the erasing of echoed text.

use super::iflag::IUTF8;
use super::lflag::{ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHOPRT};
use super::oflag::{OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, TABDLY, XTABS};
use super::{LineDiscipline, MAX_CANON, TtySink, VERASE, VKILL};

/// What an erasing key takes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

impl LineDiscipline {
    /// Writes what a program wrote, processed as the output modes say, and returns how many of `bytes` were
    /// taken: all, or none while output is [stopped](Self::output_stopped).
    pub fn write(&mut self, bytes: &[u8], sink: &mut dyn TtySink) -> usize {
        if self.output_stopped() {
            return 0;
        }
        self.release_echo(sink);
        self.process_output(bytes, sink);
        bytes.len()
    }

    /// Output processing (termios(3), `OPOST`). Runs of bytes that stay as they are go out as one slice.
    fn process_output(&mut self, bytes: &[u8], sink: &mut dyn TtySink) {
        if !self.termios.output(OPOST) {
            if !bytes.is_empty() {
                sink.output(bytes);
            }
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let plain = self.plain_run(rest);
            let (run, after) = rest.split_at(plain);
            if !run.is_empty() {
                sink.output(run);
            }
            let Some((&special, after)) = after.split_first() else {
                return;
            };
            self.output_special(special, sink);
            rest = after;
        }
    }

    /// How many of the first bytes go out unchanged, with the column moved along.
    fn plain_run(&mut self, bytes: &[u8]) -> usize {
        let termios = &self.termios;
        let newline_plain = !termios.output(ONLCR);
        let return_plain = !termios.output(ONOCR | OCRNL);
        let tab_plain = termios.oflag & TABDLY != XTABS;
        let upper = termios.output(OLCUC);
        let utf8 = termios.input(IUTF8);
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if newline_plain => {
                    if self.termios.output(ONLRET) {
                        self.column = 0;
                    }
                    self.line_column = self.column;
                }
                b'\r' if return_plain => (self.column, self.line_column) = (0, 0),
                b'\t' if tab_plain => self.column += 8 - self.column % 8,
                b'\n' | b'\r' | b'\t' => return index,
                b'a'..=b'z' if upper => return index,
                0x08 => self.column = self.column.saturating_sub(1),
                _ if byte.is_ascii_control() || (utf8 && is_continuation(byte)) => {}
                _ => self.column += 1,
            }
        }
        bytes.len()
    }

    /// A byte that output processing replaces.
    fn output_special(&mut self, byte: u8, sink: &mut dyn TtySink) {
        match byte {
            b'\n' => {
                (self.column, self.line_column) = (0, 0);
                sink.output(b"\r\n");
            }
            b'\r' => {
                if self.termios.output(ONOCR) && self.column == 0 {
                    return;
                }
                if !self.termios.output(OCRNL) {
                    (self.column, self.line_column) = (0, 0);
                    sink.output(b"\r");
                    return;
                }
                if self.termios.output(ONLRET) {
                    (self.column, self.line_column) = (0, 0);
                }
                sink.output(b"\n");
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                sink.output(b"        ".get(..spaces).unwrap_or_default());
            }
            _ => {
                self.column += 1;
                sink.output(&[byte.to_ascii_uppercase()]);
            }
        }
    }

    /// Echoes bytes as they are (but for output processing), now or when output resumes.
    pub(super) fn echo_raw(&mut self, bytes: &[u8], sink: &mut dyn TtySink) {
        if !self.output_stopped() {
            self.process_output(bytes, sink);
        } else if self.held_echo.len() + bytes.len() <= MAX_CANON {
            // What exceeds the queue's own size is not worth keeping: the text it echoes was dropped too.
            self.held_echo.extend_from_slice(bytes);
        }
    }

    /// Echoes a character, a control character but TAB as `^X` with `ECHOCTL`.
    pub(super) fn echo(&mut self, byte: u8, sink: &mut dyn TtySink) {
        if self.shows_caret(byte) {
            self.echo_raw(&[b'^', byte ^ 0x40], sink);
        } else {
            self.echo_raw(&[byte], sink);
        }
    }

    /// Whether `byte` echoes as `^X`.
    fn shows_caret(&self, byte: u8) -> bool {
        self.termios.local(ECHOCTL) && byte.is_ascii_control() && byte != b'\t'
    }

    /// Writes echo that was held while output was stopped.
    pub(super) fn release_echo(&mut self, sink: &mut dyn TtySink) {
        if !self.held_echo.is_empty() {
            let held = core::mem::take(&mut self.held_echo);
            self.process_output(&held, sink);
        }
    }

    /// Remembers where on the screen a line begins, when its first character is about to be echoed.
    pub(super) fn note_line_column(&mut self) {
        if self.committed == self.queue.len() {
            self.line_column = self.column;
        }
    }

    /// Ends the `\...` in which `ECHOPRT` prints erased characters.
    pub(super) fn finish_printing_erased(&mut self, sink: &mut dyn TtySink) {
        if core::mem::take(&mut self.printing_erased) {
            self.echo_raw(b"/", sink);
        }
    }

    /// `VERASE`.
    pub(super) fn erase_character(&mut self, sink: &mut dyn TtySink) {
        self.erase(Erase::Character, sink);
    }

    /// `VWERASE`.
    pub(super) fn erase_word(&mut self, sink: &mut dyn TtySink) {
        self.erase(Erase::Word, sink);
    }

    /// `VKILL`.
    pub(super) fn kill_line(&mut self, sink: &mut dyn TtySink) {
        if self.committed == self.queue.len() {
            return;
        }
        let echo = self.termios.local(ECHO);
        let visibly = self.termios.local(ECHOK) && self.termios.local(ECHOKE) && self.termios.local(ECHOE);
        if echo && visibly {
            self.erase(Erase::Line, sink);
            return;
        }
        self.queue.truncate(self.committed);
        if echo {
            self.finish_printing_erased(sink);
            self.echo(self.termios.cc[VKILL], sink);
            if self.termios.local(ECHOK) {
                self.echo_raw(b"\n", sink);
            }
        }
    }

    /// Takes characters off the end of the line being edited, and off the screen.
    fn erase(&mut self, what: Erase, sink: &mut dyn TtySink) {
        let utf8 = self.termios.input(IUTF8);
        let mut in_word = false;
        while let Some((start, first)) = self.last_character(utf8) {
            if what == Erase::Word {
                // A word is a run of letters, digits and underscores, with whatever follows it.
                if is_word(first) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let mut erased = [0; 4];
            let mut len = 0;
            for (place, slot) in erased.iter_mut().zip(self.queue.range(start..)) {
                *place = *slot as u8;
                len += 1;
            }
            self.queue.truncate(start);
            if self.termios.local(ECHO) {
                self.echo_erasure(what, erased.get(..len).unwrap_or_default(), sink);
            }
            if what == Erase::Character {
                break;
            }
        }
        if self.committed == self.queue.len() && self.termios.local(ECHO) {
            self.finish_printing_erased(sink);
        }
    }

    /// Where the last character of the line being edited starts in the queue, and its first byte. `None` if
    /// there is none, or only the tail of one.
    fn last_character(&self, utf8: bool) -> Option<(usize, u8)> {
        for start in (self.committed..self.queue.len()).rev() {
            let byte = *self.queue.get(start)? as u8;
            if !(utf8 && is_continuation(byte)) {
                return Some((start, byte));
            }
        }
        None
    }

    /// Shows that a character was erased.
    fn echo_erasure(&mut self, what: Erase, erased: &[u8], sink: &mut dyn TtySink) {
        let Some((&first, rest)) = erased.split_first() else {
            return;
        };
        if self.termios.local(ECHOPRT) {
            if !core::mem::replace(&mut self.printing_erased, true) {
                self.echo_raw(b"\\", sink);
            }
            self.echo(first, sink);
            self.echo_raw(rest, sink);
        } else if what == Erase::Character && !self.termios.local(ECHOE) {
            self.echo(self.termios.cc[VERASE], sink);
        } else if first == b'\t' {
            // The cursor goes back to where the text before the tab ends.
            let width = 8 - self.line_width() % 8;
            self.echo_raw(b"\x08\x08\x08\x08\x08\x08\x08\x08".get(..width).unwrap_or_default(), sink);
        } else if self.shows_caret(first) {
            self.echo_raw(b"\x08 \x08\x08 \x08", sink);
        } else if !first.is_ascii_control() {
            self.echo_raw(b"\x08 \x08", sink);
        }
    }

    /// Column, modulo 8, behind the line being edited: counted from its last tab, or from where it began.
    fn line_width(&self) -> usize {
        let utf8 = self.termios.input(IUTF8);
        let mut width = 0;
        for slot in self.queue.range(self.committed..).rev() {
            match *slot as u8 {
                b'\t' => return width,
                byte if byte.is_ascii_control() => {
                    width += if self.termios.local(ECHOCTL) { 2 } else { 0 };
                }
                byte if utf8 && is_continuation(byte) => {}
                _ => width += 1,
            }
        }
        width + self.line_column
    }

    /// `VREPRINT`: the line being edited once more, on a new line.
    pub(super) fn reprint(&mut self, key: u8, sink: &mut dyn TtySink) {
        self.finish_printing_erased(sink);
        self.echo(key, sink);
        self.echo_raw(b"\n", sink);
        for index in self.committed..self.queue.len() {
            if let Some(&slot) = self.queue.get(index) {
                self.echo(slot as u8, sink);
            }
        }
    }
}

/// Whether `byte` continues a UTF-8 character (RFC 3629).
fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Whether the character that starts with `byte` is part of a word. Every character beyond ASCII is, by the first byte
/// of its UTF-8 encoding.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0xc0
}
