//! Takes terminal control sequences out of a byte stream.
//!
//! Python's line editor colours the prompt and moves the cursor between characters; a test looks for the text alone.
//! The sequences are those of ECMA-48: CSI (`ESC [`), OSC (`ESC ]`) and the short ones. They may be split between
//! two reads, so [`Plain`] keeps its state.

/// Filters a stream piece by piece.
#[derive(Debug, Default)]
pub struct Plain {
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After `ESC (` or another byte that one more follows.
    Intermediate,
    /// In `ESC [`, up to its final byte.
    Control,
    /// In `ESC ]`, up to BEL or `ESC \`.
    Command,
}

impl Plain {
    /// Appends the text of `bytes` to `text`. Carriage returns and bells are left out too.
    pub fn push(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Text | State::Command, 0x1b) => State::Escape,
                (State::Text, b'\r' | 0x07) => State::Text,
                (State::Text, _) => {
                    text.push(byte);
                    State::Text
                }
                (State::Escape, b'[') => State::Control,
                (State::Escape, b']') => State::Command,
                (State::Escape, 0x20..=0x2f) => State::Intermediate,
                (State::Control, 0x20..=0x3f) => State::Control,
                (State::Command, byte) if byte != 0x07 => State::Command,
                _ => State::Text,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(pieces: &[&str]) -> String {
        let (mut filter, mut text) = (Plain::default(), Vec::new());
        for piece in pieces {
            filter.push(piece.as_bytes(), &mut text);
        }
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn coloured_prompt_is_its_text() {
        assert_eq!(plain(&["\x1b[?2004h\x1b[1;35m>>> \x1b[0m"]), ">>> ");
    }

    #[test]
    fn sequences_split_between_reads_are_removed() {
        assert_eq!(plain(&["a\x1b", "[3", "1mb\x1b]0;title", "\x07c\x1b(", "Bd\r\n"]), "abcd\n");
    }

    #[test]
    fn text_without_sequences_is_kept() {
        assert_eq!(plain(&["über\n"]), "über\n");
    }
}
