//! Strings in JSON (RFC 8259), as the kernel's files in /sys/kernel/piton write them.

use core::fmt::{self, Write as _};

/// Displays as a JSON string, with its quotation marks. What is not ASCII stays as it is: the files are UTF-8.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(f, "\\{char}")?,
                '\0'..='\x1f' => write!(f, "\\u{:04x}", char as u32)?,
                _ => f.write_char(char)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;
    use std::string::ToString;

    #[test]
    fn what_would_end_or_break_a_string_is_escaped() {
        assert_eq!(Quoted("a\"b\\c\n\0ü").to_string(), "\"a\\\"b\\\\c\\u000a\\u0000ü\"");
        assert_eq!(Quoted("").to_string(), "\"\"");
    }
}
