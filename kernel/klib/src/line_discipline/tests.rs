//! One test per behaviour; unless another page is named, the rule is in termios(3).

use super::iflag::IUTF8;
use super::lflag::{ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHOPRT};
use super::*;
use crate::test_random::Random;
use alloc::string::String;
use alloc::vec;
use oflag::{OCRNL, OLCUC, ONLCR, ONLRET, ONOCR, OPOST, XTABS};

/// Records what goes out.
#[derive(Default)]
struct Recorder {
    out: Vec<u8>,
    chunks: usize,
    signals: Vec<TtySignal>,
    flushes: usize,
}

impl TtySink for Recorder {
    fn output(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.out.extend_from_slice(bytes);
        self.chunks += 1;
    }
    fn signal(&mut self, signal: TtySignal) {
        self.signals.push(signal);
    }
    fn flush_output(&mut self) {
        self.flushes += 1;
    }
}

/// A terminal with its recorder.
struct Terminal {
    tty: LineDiscipline,
    sink: Recorder,
}

impl Terminal {
    /// Initial settings, changed by `change`.
    fn new(change: impl FnOnce(&mut Termios)) -> Self {
        let mut terminal = Self { tty: LineDiscipline::new(), sink: Recorder::default() };
        terminal.set(change);
        terminal
    }

    /// As `cfmakeraw` leaves a terminal.
    fn raw() -> Self {
        Self::new(|t| {
            t.iflag = 0;
            t.oflag = 0;
            t.lflag = 0;
        })
    }

    fn set(&mut self, change: impl FnOnce(&mut Termios)) {
        let mut termios = *self.tty.termios();
        change(&mut termios);
        self.tty.set_termios(termios, false);
    }

    fn type_in(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        bytes.as_ref().iter().for_each(|byte| self.tty.input(*byte, &mut self.sink));
        self
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) -> usize {
        self.tty.write(bytes.as_ref(), &mut self.sink)
    }

    /// What went out since the last call.
    fn shown(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.sink.out)).unwrap()
    }

    /// One read into a buffer of `size` bytes; `None` where it would block.
    fn read(&mut self, size: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; size];
        match self.tty.read(&mut buffer) {
            ReadState::Data(count) => {
                buffer.truncate(count);
                Some(buffer)
            }
            ReadState::Eof => Some(Vec::new()),
            ReadState::WouldBlock => None,
        }
    }

    fn line(&mut self) -> Option<String> {
        self.read(MAX_CANON).map(|bytes| String::from_utf8(bytes).unwrap())
    }
}

fn canonical() -> Terminal {
    Terminal::new(|_| {})
}

// Canonical input.

#[test]
fn a_line_is_readable_once_it_ends() {
    let mut t = canonical();
    t.type_in("print(1)");
    assert_eq!((t.line(), t.tty.readable(), t.tty.available()), (None, false, 0));
    t.type_in("\r");
    assert_eq!((t.tty.readable(), t.tty.available()), (true, 9));
    assert_eq!(t.line().unwrap(), "print(1)\n");
    assert_eq!(t.line(), None);
    assert_eq!(t.shown(), "print(1)\r\n");
}

#[test]
fn a_read_returns_at_most_one_line_and_a_short_buffer_splits_it() {
    let mut t = canonical();
    t.type_in("abc\ndef\n");
    assert_eq!(t.read(2).unwrap(), b"ab");
    assert_eq!(t.tty.available(), 6);
    assert_eq!(t.read(100).unwrap(), b"c\n");
    assert_eq!(t.read(100).unwrap(), b"def\n");
    assert_eq!(t.tty.read(&mut []), ReadState::Data(0));
}

#[test]
fn veof_on_an_empty_line_is_end_of_file_once() {
    let mut t = canonical();
    t.type_in("\x04");
    assert_eq!((t.tty.readable(), t.tty.available()), (true, 0));
    assert_eq!(t.tty.read(&mut [0; 4]), ReadState::Eof);
    assert_eq!(t.tty.read(&mut [0; 4]), ReadState::WouldBlock);
    assert_eq!(t.shown(), "");
}

#[test]
fn veof_after_text_hands_the_text_over_without_an_end_of_file() {
    let mut t = canonical();
    t.type_in("abc\x04");
    assert_eq!(t.tty.available(), 3);
    assert_eq!(t.line().unwrap(), "abc");
    assert_eq!(t.line(), None);
}

#[test]
fn veof_right_behind_a_full_buffer_is_consumed_with_it() {
    let mut t = canonical();
    t.type_in("abc\x04");
    assert_eq!(t.read(3).unwrap(), b"abc");
    assert_eq!(t.read(3), None);
}

#[test]
fn veol_and_veol2_end_a_line_too() {
    let mut t = Terminal::new(|t| {
        t.cc[VEOL] = b';';
        t.cc[VEOL2] = b'!';
    });
    t.type_in("a;b!");
    assert_eq!(t.line().unwrap(), "a;");
    assert_eq!(t.line().unwrap(), "b!");
    assert_eq!(t.shown(), "a;b!");
    t.set(|t| t.lflag &= !IEXTEN);
    t.type_in("c!");
    assert_eq!(t.line(), None, "VEOL2 needs IEXTEN");
}

#[test]
fn a_disabled_control_character_is_ordinary_input() {
    let mut t = Terminal::new(|t| t.cc[VEOF] = 0);
    t.type_in("a\0b\x04\n");
    assert_eq!(t.line().unwrap(), "a\0b\x04\n");
}

#[test]
fn a_line_beyond_4095_characters_is_cut_but_can_still_be_ended() {
    let mut t = canonical();
    t.type_in([b'x'; 5000]);
    assert_eq!(t.tty.room(), 1);
    t.type_in("\n");
    assert_eq!(t.tty.room(), 0);
    let line = t.line().unwrap();
    assert_eq!(line.len(), MAX_CANON);
    assert!(line.ends_with("x\n"));
    assert_eq!(t.tty.room(), MAX_CANON - 1);
}

#[test]
fn signal_and_erase_keys_work_in_a_line_that_is_full() {
    let mut t = canonical();
    t.type_in([b'x'; 5000]).type_in("\x7f\n");
    assert_eq!(t.line().unwrap().len(), MAX_CANON - 1);
    t.type_in([b'x'; 5000]).type_in("\x03");
    assert_eq!(t.sink.signals, [TtySignal::Interrupt]);
}

#[test]
fn a_queue_full_of_lines_drops_what_comes() {
    let mut t = canonical();
    t.type_in("ab\n".repeat(2000));
    assert_eq!(t.tty.room(), 0);
    let mut total = 0;
    while let Some(line) = t.line() {
        total += line.len();
    }
    assert_eq!(total, MAX_CANON);
    t.type_in("ok\n");
    assert_eq!(t.line().unwrap(), "ok\n");
}

#[test]
fn imaxbel_rings_when_the_queue_is_full() {
    let mut t = Terminal::raw();
    t.type_in([b'x'; MAX_CANON]);
    assert_eq!(t.shown(), "");
    t.set(|t| t.iflag |= IMAXBEL);
    t.type_in("y");
    assert_eq!(t.shown(), "\x07");
    assert_eq!(t.tty.available(), MAX_CANON - 1);
}

// Non-canonical input.

#[test]
fn raw_input_is_readable_byte_by_byte_and_not_echoed() {
    let mut t = Terminal::raw();
    t.type_in(b"\r\n\x03\x04\x7f\xff");
    assert_eq!(t.tty.available(), 6);
    assert_eq!(t.read(2).unwrap(), b"\r\n");
    assert_eq!(t.read(100).unwrap(), b"\x03\x04\x7f\xff");
    assert_eq!(t.read(1), None);
    assert!(t.sink.out.is_empty() && t.sink.signals.is_empty());
}

#[test]
fn readable_waits_for_vmin_bytes_unless_there_is_a_time_limit() {
    let mut t = Terminal::raw();
    t.set(|t| t.cc[VMIN] = 3);
    assert_eq!((t.tty.min(), t.tty.time_tenths()), (3, 0));
    t.type_in("ab");
    assert!(!t.tty.readable());
    t.set(|t| t.cc[VTIME] = 5);
    assert!(t.tty.readable());
    t.set(|t| (t.cc[VTIME], t.cc[VMIN]) = (0, 0));
    assert!(t.tty.readable());
    t.read(2);
    assert!(!t.tty.readable());
}

#[test]
fn cbreak_mode_echoes_and_signals_without_lines() {
    let mut t = Terminal::new(|t| t.lflag &= !ICANON);
    t.type_in("a\x7f\r\n\x03");
    assert_eq!(t.shown(), "a^?\r\n^J^C", "only a translated NL moves the cursor");
    assert_eq!(t.sink.signals, [TtySignal::Interrupt]);
    assert_eq!(t.read(9), None, "the signal flushed the input");
}

// Switching ICANON.

#[test]
fn leaving_canonical_mode_makes_the_unfinished_line_readable() {
    let mut t = canonical();
    t.type_in("done\npart");
    t.set(|t| t.lflag &= !ICANON);
    assert_eq!(t.tty.available(), 9);
    assert_eq!(t.read(100).unwrap(), b"done\npart");
}

#[test]
fn entering_canonical_mode_makes_pending_bytes_one_line() {
    let mut t = Terminal::raw();
    t.type_in("ab\ncd");
    t.set(|t| t.lflag |= ICANON);
    assert!(t.tty.readable());
    assert_eq!(t.line().unwrap(), "ab\ncd");
    assert_eq!(t.line(), None);
    t.type_in("e");
    assert_eq!(t.line(), None);
}

#[test]
fn a_pending_end_of_file_reads_as_nul_after_leaving_canonical_mode() {
    let mut t = canonical();
    t.type_in("\x04");
    t.set(|t| t.lflag &= !ICANON);
    assert_eq!(t.read(9).unwrap(), b"\0");
}

#[test]
fn other_changes_keep_lines_and_flushing_discards_input() {
    let mut t = canonical();
    t.type_in("one\ntwo\nthr");
    t.set(|t| t.lflag &= !ECHO);
    assert_eq!(t.line().unwrap(), "one\n");
    let termios = *t.tty.termios();
    t.tty.set_termios(termios, true);
    t.type_in("ee\n");
    assert_eq!(t.line().unwrap(), "ee\n");
    assert_eq!(t.line(), None);
}

// Input modes.

#[test]
fn carriage_returns_and_newlines_are_translated() {
    for (iflag, expected) in [
        (0, &b"a\rb\n"[..]),
        (ICRNL, b"a\nb\n"),
        (IGNCR, b"ab\n"),
        (IGNCR | ICRNL, b"ab\n"),
        (INLCR, b"a\rb\r"),
        (ICRNL | INLCR, b"a\nb\r"),
    ] {
        let mut t = Terminal::raw();
        t.set(|t| t.iflag = iflag);
        t.type_in("a\rb\n");
        assert_eq!(t.read(9).unwrap(), expected, "iflag {iflag:o}");
    }
}

#[test]
fn istrip_clears_the_eighth_bit_and_iuclc_lowers_case() {
    let mut t = Terminal::raw();
    t.set(|t| {
        t.iflag = ISTRIP | IUCLC;
        t.lflag = IEXTEN;
    });
    t.type_in([b'A', b'B' | 0x80]);
    assert_eq!(t.read(9).unwrap(), b"ab");
    t.set(|t| t.lflag = 0);
    t.type_in("A");
    assert_eq!(t.read(9).unwrap(), b"A");
}

#[test]
fn parmrk_doubles_0xff() {
    let mut t = Terminal::raw();
    t.set(|t| t.iflag = PARMRK);
    t.type_in([0xff, b'a']);
    assert_eq!(t.read(9).unwrap(), [0xff, 0xff, b'a']);
}

#[test]
fn a_break_is_ignored_interrupts_or_is_marked() {
    for (iflag, signals, bytes) in [
        (0, 0, Some(vec![0])),
        (PARMRK, 0, Some(vec![0xff, 0, 0])),
        (BRKINT | PARMRK, 1, None),
        (IGNBRK | BRKINT, 0, None),
    ] {
        let mut t = Terminal::raw();
        t.set(|t| t.iflag = iflag);
        t.tty.input_break(&mut t.sink);
        assert_eq!((t.sink.signals.len(), t.read(9)), (signals, bytes));
    }
}

#[test]
fn extproc_queues_input_untouched() {
    let mut t = Terminal::new(|t| t.lflag |= EXTPROC);
    t.type_in("a\x03\x13\r");
    assert_eq!(t.read(9).unwrap(), b"a\x03\x13\r");
    assert_eq!(t.shown(), "");
}

// Signals.

#[test]
fn signal_keys_signal_flush_and_echo() {
    let mut t = canonical();
    t.type_in("old\nnew\x03");
    assert_eq!(t.sink.signals, [TtySignal::Interrupt]);
    assert_eq!(t.sink.flushes, 1);
    assert_eq!(t.line(), None);
    assert_eq!(t.shown(), "old\r\nnew^C");
    t.type_in("\x1c\x1a");
    assert_eq!(t.sink.signals[1..], [TtySignal::Quit, TtySignal::Suspend]);
    assert_eq!(t.shown(), "^\\^Z");
}

#[test]
fn noflsh_keeps_the_queues() {
    let mut t = Terminal::new(|t| t.lflag |= NOFLSH);
    t.type_in("ab\x03c\n");
    assert_eq!(t.line().unwrap(), "abc\n");
    assert_eq!((t.sink.signals.len(), t.sink.flushes), (1, 0));
}

#[test]
fn without_isig_the_keys_are_input() {
    let mut t = Terminal::new(|t| t.lflag &= !ISIG);
    t.type_in("\x03\n");
    assert_eq!(t.line().unwrap(), "\x03\n");
    assert!(t.sink.signals.is_empty());
}

// Flow control.

#[test]
fn vstop_holds_output_and_echo_until_vstart() {
    let mut t = canonical();
    t.type_in("\x13");
    assert!(t.tty.output_stopped());
    assert_eq!(t.write("x"), 0);
    t.type_in("ab\n");
    assert_eq!(t.shown(), "");
    assert_eq!(t.line().unwrap(), "ab\n");
    t.type_in("\x11");
    assert!(!t.tty.output_stopped());
    assert_eq!(t.shown(), "ab\r\n");
    assert_eq!(t.write("x"), 1);
    assert_eq!(t.line(), None, "VSTOP and VSTART are not input");
}

#[test]
fn ixany_resumes_on_any_character_and_a_signal_resumes_too() {
    let mut t = Terminal::new(|t| t.iflag |= IXANY);
    t.type_in("\x13a");
    assert!(!t.tty.output_stopped());
    assert_eq!(t.shown(), "a");
    let mut t = canonical();
    t.type_in("\x13a\x03");
    assert!(!t.tty.output_stopped());
    assert_eq!(t.shown(), "^C");
}

#[test]
fn without_ixon_the_keys_are_input_and_turning_it_off_resumes() {
    let mut t = canonical();
    t.type_in("\x13");
    t.set(|t| t.iflag &= !IXON);
    assert!(!t.tty.output_stopped());
    t.type_in("\x13\x11\n");
    assert_eq!(t.line().unwrap(), "\x13\x11\n");
}

#[test]
fn tcflow_stops_output_and_only_tcflow_resumes_it() {
    let mut t = canonical();
    t.tty.stop_output();
    t.type_in("a\x11");
    assert!(t.tty.output_stopped());
    assert_eq!(t.shown(), "");
    t.tty.start_output(&mut t.sink);
    assert_eq!(t.shown(), "a");
}

#[test]
fn tcflow_does_not_resume_what_a_key_stopped() {
    let mut t = canonical();
    t.type_in("\x13");
    t.tty.start_output(&mut t.sink);
    assert!(t.tty.output_stopped());
    t.tty.stop_output();
    t.tty.start_output(&mut t.sink);
    assert!(!t.tty.output_stopped());
}

#[test]
fn queued_bytes_are_taken_as_far_as_there_is_room() {
    for mut t in [Terminal::raw(), Terminal::new(|t| t.lflag = 0)] {
        let mut bytes: VecDeque<u8> = (0..10_000u32).map(|number| (number % 200) as u8 + 32).collect();
        let all: Vec<u8> = bytes.iter().copied().collect();
        let mut got = Vec::new();
        while got.len() < all.len() {
            t.tty.input_all(&mut bytes, &mut t.sink);
            assert_eq!(bytes.len(), all.len().saturating_sub(got.len() + MAX_CANON - 1));
            let mut buffer = [0; MAX_CANON];
            let ReadState::Data(count) = t.tty.read(&mut buffer) else { panic!("nothing to read") };
            got.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(got, all);
    }
}

#[test]
fn a_key_among_queued_bytes_signals_and_drops_what_was_before_it() {
    let mut t = Terminal::raw();
    t.set(|t| t.lflag = ISIG);
    let mut bytes = VecDeque::from(*b"dropped\x03kept\x1ctoo");
    t.tty.input_all(&mut bytes, &mut t.sink);
    assert!(bytes.is_empty());
    assert_eq!(t.sink.signals, [TtySignal::Interrupt, TtySignal::Quit]);
    assert_eq!(t.read(100).as_deref(), Some(b"too".as_slice()));
}

#[test]
fn queued_bytes_wait_behind_one_that_stops_or_resumes_output() {
    let mut t = canonical();
    let mut bytes = VecDeque::from(*b"a\x13b\x11c");
    t.tty.input_all(&mut bytes, &mut t.sink);
    assert_eq!((t.tty.output_stopped(), bytes.len()), (true, 3));
    t.tty.input_all(&mut bytes, &mut t.sink);
    assert_eq!((t.tty.output_stopped(), bytes.len()), (false, 1));
}

#[test]
fn held_echo_is_bounded() {
    let mut t = canonical();
    t.type_in("\x13");
    (0..100).for_each(|_| drop(t.type_in("x".repeat(99)).type_in("\n").read(100)));
    t.type_in("\x11");
    assert!(t.shown().len() <= MAX_CANON + MAX_CANON / 50);
}

#[test]
fn ixoff_sends_vstop_when_filling_and_vstart_when_drained() {
    let mut t = Terminal::raw();
    t.set(|t| t.iflag = IXOFF);
    t.type_in([b'x'; MAX_CANON]);
    assert_eq!(t.shown(), "\x13");
    t.read(1000);
    t.tty.unthrottle(&mut t.sink);
    assert_eq!(t.shown(), "");
    t.read(MAX_CANON);
    t.tty.unthrottle(&mut t.sink);
    t.tty.unthrottle(&mut t.sink);
    assert_eq!(t.shown(), "\x11");
}

// Echo.

#[test]
fn control_characters_echo_with_a_caret_under_echoctl_but_for_tab() {
    let mut t = canonical();
    t.type_in("\x01\t\x1b\x7fA");
    assert_eq!(t.shown(), "^A\t^[\x08 \x08\x08 \x08A");
    let mut t = Terminal::new(|t| t.lflag &= !ECHOCTL);
    t.type_in("\x01");
    assert_eq!(t.shown(), "\x01");
}

#[test]
fn echonl_echoes_the_newline_of_a_password() {
    let mut t = Terminal::new(|t| t.lflag &= !ECHO);
    t.type_in("secret\n");
    assert_eq!(t.shown(), "");
    t.set(|t| t.lflag |= ECHONL);
    t.type_in("sec\x7fret\n");
    assert_eq!(t.shown(), "\r\n");
    assert_eq!(t.line().unwrap(), "secret\n");
    assert_eq!(t.line().unwrap(), "seret\n");
}

// Editing.

#[test]
fn verase_takes_a_character_off_line_and_screen() {
    let mut t = canonical();
    t.type_in("ab\x7fc\x7f\x7f\x7f\x7fd\n");
    assert_eq!(t.shown(), "ab\x08 \x08c\x08 \x08\x08 \x08d\r\n");
    assert_eq!(t.line().unwrap(), "d\n");
}

#[test]
fn verase_does_not_reach_into_a_finished_line() {
    let mut t = canonical();
    t.type_in("ab\n\x7f\x15\x17");
    assert_eq!(t.shown(), "ab\r\n");
    assert_eq!(t.line().unwrap(), "ab\n");
}

#[test]
fn without_echoe_the_erase_key_itself_is_echoed() {
    let mut t = Terminal::new(|t| t.lflag &= !ECHOE);
    t.type_in("ab\x7f\n");
    assert_eq!(t.shown(), "ab^?\r\n");
    assert_eq!(t.line().unwrap(), "a\n");
}

#[test]
fn iutf8_erases_whole_characters() {
    let mut t = Terminal::new(|t| t.iflag |= IUTF8);
    t.type_in("a\u{e9}\u{20ac}\u{1f40d}\x7f\x7f\x7fz\n");
    let erased = "\x08 \x08".repeat(3);
    assert_eq!(t.shown(), alloc::format!("a\u{e9}\u{20ac}\u{1f40d}{erased}z\r\n"));
    assert_eq!(t.line().unwrap(), "az\n");
    let mut t = canonical();
    t.type_in("\u{e9}\x7f\n");
    assert_eq!(t.read(9).unwrap(), b"\xc3\n", "without IUTF8 a byte is a character");
}

#[test]
fn a_lone_continuation_byte_is_not_erased() {
    let mut t = Terminal::new(|t| t.iflag |= IUTF8);
    t.type_in(b"\x80\x80\x7f\x17\n");
    assert_eq!(t.read(9).unwrap(), b"\x80\x80\n");
}

#[test]
fn an_erased_tab_moves_the_cursor_back_to_the_text_before_it() {
    let mut t = canonical();
    t.write("12345>");
    t.type_in("ab\t\x7f");
    // The tab led from column 8 to 16.
    assert_eq!(t.shown(), alloc::format!("12345>ab\t{}", "\x08".repeat(8)));
    t.type_in("c\t\t\x7f\x7f");
    // From column 9 to 16 and 24.
    assert_eq!(t.shown(), alloc::format!("c\t\t{}{}", "\x08".repeat(8), "\x08".repeat(7)));
    t.type_in("\x15\x01\t\x7f");
    // A caret sequence at column 6 ends at 8.
    assert!(t.shown().ends_with(&alloc::format!("^A\t{}", "\x08".repeat(8))));
}

#[test]
fn vkill_erases_the_line_in_the_way_the_echo_flags_say() {
    let mut t = canonical();
    t.type_in("ab\x15c\n");
    assert_eq!(t.shown(), "ab\x08 \x08\x08 \x08c\r\n");
    assert_eq!(t.line().unwrap(), "c\n");
    for (lflag, shown) in [
        (ECHO | ECHOCTL | ECHOK, "ab^U\r\nc\r\n"),
        (ECHO | ECHOCTL, "ab^Uc\r\n"),
        (ECHO | ECHOK | ECHOKE, "ab\x15\r\nc\r\n"),
        (0, ""),
    ] {
        let mut t = Terminal::new(|t| t.lflag = ICANON | lflag);
        t.type_in("ab\x15c\n");
        assert_eq!(t.shown(), shown);
        assert_eq!(t.line().unwrap(), "c\n");
    }
}

#[test]
fn vwerase_takes_the_last_word_and_what_follows_it() {
    for (typed, left) in [("one two", "one "), ("one two  ", "one "), ("a.b_1;;", "a."), ("word", "")] {
        let mut t = Terminal::new(|t| t.iflag |= IUTF8);
        t.type_in(typed).type_in("\x17\n");
        assert_eq!(t.line().unwrap(), alloc::format!("{left}\n"));
        let erased = "\x08 \x08".repeat(typed.len() - left.len());
        assert_eq!(t.shown(), alloc::format!("{typed}{erased}\r\n"));
    }
    let mut t = Terminal::new(|t| t.iflag |= IUTF8);
    t.type_in("x \u{3b1}\u{3b2}\x17\n");
    assert_eq!(t.line().unwrap(), "x \n");
}

#[test]
fn vwerase_and_vlnext_and_vreprint_need_iexten() {
    let mut t = Terminal::new(|t| t.lflag &= !(IEXTEN | ECHO));
    t.type_in("a\x17\x16\x12\n");
    assert_eq!(t.line().unwrap(), "a\x17\x16\x12\n");
}

#[test]
fn vlnext_takes_the_next_character_literally() {
    let mut t = canonical();
    t.type_in("a\x16\x03\x16\n\x16\x7f\x16\x16b\n");
    assert!(t.sink.signals.is_empty());
    assert_eq!(t.shown(), "a^\x08^C^\x08^J^\x08^?^\x08^Vb\r\n");
    assert_eq!(t.line().unwrap(), "a\x03\n\x7f\x16b\n");
}

#[test]
fn a_literal_carriage_return_is_not_translated() {
    let mut t = canonical();
    t.type_in("\x16\r\r");
    assert_eq!(t.line().unwrap(), "\r\n");
}

#[test]
fn vreprint_shows_the_unfinished_line_again() {
    let mut t = canonical();
    t.type_in("old\nne\x01w\x12");
    assert_eq!(t.shown(), "old\r\nne^Aw^R\r\nne^Aw");
    t.type_in("\n").line();
    assert_eq!(t.line().unwrap(), "ne\x01w\n");
}

#[test]
fn echoprt_prints_what_is_erased() {
    let mut t = Terminal::new(|t| {
        t.lflag |= ECHOPRT;
        t.iflag |= IUTF8;
    });
    t.type_in("ab\u{e9}\x7f\x7fc\n");
    assert_eq!(t.shown(), "ab\u{e9}\\\u{e9}b/c\r\n");
    t.type_in("x\x7f");
    assert_eq!(t.shown(), "x\\x/", "ends at once when the line is empty");
    assert_eq!(t.line().unwrap(), "ac\n");
}

// Output.

#[test]
fn onlcr_returns_the_carriage_before_a_newline() {
    let mut t = canonical();
    assert_eq!(t.write("a\nb\n\n"), 5);
    assert_eq!(t.shown(), "a\r\nb\r\n\r\n");
}

#[test]
fn without_opost_output_is_untouched() {
    let mut t = Terminal::new(|t| t.oflag = ONLCR | XTABS);
    t.write("a\n\tb\r");
    assert_eq!(t.shown(), "a\n\tb\r");
    t.write("");
}

#[test]
fn output_modes_translate_returns_tabs_and_case() {
    for (oflag, written, shown) in [
        (OCRNL, "a\rb", "a\nb"),
        (ONOCR, "\ra\r\rb", "a\rb"),
        (ONOCR | ONLRET, "a\n\rb", "a\nb"),
        (ONOCR, "a\n\rb", "a\n\rb"),
        (XTABS, "\tab\tc\x08\tx", "        ab      c\x08        x"),
        (OLCUC, "aBc\u{1b}[0m", "ABC\u{1b}[0M"),
        (0, "a\tb\rc\n", "a\tb\rc\n"),
    ] {
        let mut t = Terminal::new(|t| t.oflag = OPOST | oflag);
        t.write(written);
        assert_eq!(t.shown(), shown, "oflag {oflag:o}");
    }
}

#[test]
fn columns_count_utf8_characters() {
    let mut t = Terminal::new(|t| {
        t.oflag |= XTABS;
        t.iflag |= IUTF8;
    });
    t.write("\u{e9}\u{e9}\tx");
    assert_eq!(t.shown(), "\u{e9}\u{e9}      x");
}

#[test]
fn long_runs_go_out_as_one_slice() {
    let mut t = canonical();
    t.write([b'x'; 100_000]);
    assert_eq!(t.sink.chunks, 1);
    t.write("one line\nanother line\n");
    assert_eq!(t.sink.chunks, 1 + 4);
}

// Settings.

#[test]
fn initial_settings_are_those_of_linux() {
    // `stty -a` on a fresh virtual console: the numbers are TCGETS's.
    let termios = Termios::default();
    assert_eq!((termios.iflag, termios.oflag, termios.cflag, termios.lflag), (0x500, 0x5, 0x4bf, 0x8a3b));
    assert_eq!(termios.cc, *b"\x03\x1c\x7f\x15\x04\0\x01\0\x11\x13\x1a\0\x12\x0f\x17\x16\0\0\0");
}

#[test]
fn a_window_size_reports_only_real_changes() {
    let mut tty = LineDiscipline::new();
    let size = Winsize { rows: 24, cols: 80, xpixel: 0, ypixel: 0 };
    assert!(tty.set_winsize(size));
    assert!(!tty.set_winsize(size));
    assert_eq!(tty.winsize(), size);
}

#[test]
fn no_sequence_of_input_and_settings_breaks_the_state() {
    let mut random = Random::new(0x77);
    let keys = b"\x03\x04\x08\t\n\r\x0f\x11\x12\x13\x15\x16\x17\x1a\x1c\x7f\0 ab\x80\xc3\xa9\xf0\xff";
    for round in 0..300 {
        let mut t = canonical();
        for _ in 0..600 {
            match random.below(40) {
                0 => t.set(|t| {
                    t.lflag = random.next() as u32;
                    t.iflag = random.next() as u32;
                    t.oflag = random.next() as u32;
                    t.cc[random.below(NCCS as u64) as usize] = random.below(256) as u8;
                }),
                1 => drop(t.read(random.below(50) as usize)),
                2 => t.tty.flush_input(),
                3 => drop(t.write(&keys[random.below(20) as usize..])),
                4 => t.tty.start_output(&mut t.sink),
                5 if round % 10 == 0 => drop(t.type_in(vec![b'q'; MAX_CANON])),
                _ => drop(t.type_in([keys[random.below(keys.len() as u64) as usize]])),
            }
            let tty = &t.tty;
            assert!(tty.committed <= tty.queue.len() && tty.queue.len() <= MAX_CANON);
            assert!(tty.canonical() || tty.committed == tty.queue.len());
            assert!(tty.held_echo.len() <= MAX_CANON);
        }
    }
}
