//! Keeps the user's terminal as it was.
//!
//! QEMU puts the terminal into raw mode and makes its descriptors non-blocking; it undoes both when it ends by
//! itself, not when it is killed. [`Saved`] remembers the state before QEMU starts and puts it back when dropped.

use std::io::{IsTerminal, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What the guest's line editor may have switched on in the terminal, switched off again: bracketed paste,
/// application cursor keys and keypad, attributes; and the cursor shown (xterm control sequences, DECSET/DECRST).
const RESET: &[u8] = b"\x1b[?2004l\x1b[?1l\x1b>\x1b[0m\x1b[?25h";

/// The state of the standard descriptors; restored on drop.
pub struct Saved {
    attributes: Option<Termios>,
    input_flags: Option<OFlags>,
    output_flags: Option<OFlags>,
}

impl Saved {
    /// Remembers the present state.
    pub fn now() -> Self {
        Self {
            attributes: tcgetattr(std::io::stdin()).ok(),
            input_flags: fcntl_getfl(std::io::stdin()).ok(),
            output_flags: fcntl_getfl(std::io::stdout()).ok(),
        }
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // Nothing can be done about a descriptor that has gone away meanwhile, so failures are ignored.
        if let Some(flags) = self.input_flags {
            let _ = fcntl_setfl(std::io::stdin(), flags);
        }
        if let Some(flags) = self.output_flags {
            let _ = fcntl_setfl(std::io::stdout(), flags);
        }
        if let Some(attributes) = &self.attributes {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, attributes);
            let mut out = std::io::stdout();
            if out.is_terminal() {
                let _ = out.write_all(RESET).and_then(|()| out.flush());
            }
        }
    }
}

/// The terminal on standard output as `TERM=... COLUMNS=... LINES=...`; `None` when it is none.
pub fn describe() -> Option<String> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let term = std::env::var("TERM").ok().filter(|t| !t.is_empty() && t.is_ascii() && !t.contains(' '));
    let mut text = format!("TERM={}", term.as_deref().unwrap_or("dumb"));
    if let Ok(size) = tcgetwinsize(&out)
        && size.ws_col > 0
        && size.ws_row > 0
    {
        text.push_str(&format!(" COLUMNS={} LINES={}", size.ws_col, size.ws_row));
    }
    Some(text)
}
