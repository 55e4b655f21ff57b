//! `/etc/piton/manifest.json`: what went into an image.
//!
//! Every package with version, architecture and hash, the suite, the Python version and the variant. No clock and
//! no path of the build machine is read, so that the same inputs give the same text.

use std::fmt::Write as _;

use crate::apt::Lock;

/// Path of the manifest in the image.
pub const PATH: &str = "etc/piton/manifest.json";

/// What the manifest says beside the packages.
pub struct Facts<'a> {
    /// Debian architecture.
    pub arch: &'a str,
    /// Image variant.
    pub variant: &'a str,
    /// Time stamp of every file in the image, seconds since 1970: that of the newest packaged file.
    pub timestamp: u64,
}

/// The manifest as JSON text.
pub fn render(lock: &Lock, facts: &Facts) -> String {
    let mut text = String::from("{\n");
    let _ = writeln!(text, "  \"format\": 1,");
    let _ = writeln!(text, "  \"architecture\": {},", quote(facts.arch));
    let _ = writeln!(text, "  \"variant\": {},", quote(facts.variant));
    let _ = writeln!(text, "  \"timestamp\": {},", facts.timestamp);
    let _ = writeln!(text, "  \"suite\": {},", quote(&lock.suite));
    let _ = writeln!(text, "  \"python\": {},", quote(&lock.python_version()));
    let _ = writeln!(text, "  \"packages\": [");
    for (index, package) in lock.packages.iter().enumerate() {
        let comma = if index + 1 < lock.packages.len() { "," } else { "" };
        let _ = writeln!(
            text,
            "    {{\"name\": {}, \"version\": {}, \"architecture\": {}, \"sha256\": {}}}{comma}",
            quote(&package.name),
            quote(&package.version),
            quote(&package.architecture),
            quote(&package.sha256)
        );
    }
    text.push_str("  ]\n}\n");
    text
}

/// A JSON string (RFC 8259, section 7).
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if (control as u32) < 0x20 => {
                let _ = write!(quoted, "\\u{:04x}", control as u32);
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apt::Package;

    #[test]
    fn manifest_lists_packages_without_a_trailing_comma() {
        let package = |name: &str| Package {
            name: name.into(),
            version: "3.14.8-1".into(),
            architecture: "arm64".into(),
            sha256: "ab".into(),
        };
        let lock = Lock {
            suite: "forky".into(),
            python: "3.14".into(),
            selection: String::new(),
            packages: vec![package("libc6"), package("python3.14-minimal")],
        };
        let text = render(&lock, &Facts { arch: "arm64", variant: "default", timestamp: 7 });
        assert!(text.contains("\"python\": \"3.14.8\""), "{text}");
        assert!(text.contains("\"name\": \"libc6\""));
        assert!(text.contains("\"ab\"},\n"));
        assert!(text.ends_with("\"sha256\": \"ab\"}\n  ]\n}\n"));
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quote("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
