//! Path patterns: matching, and translation to the POSIX regular expressions that `mkfs.erofs` reads.
//!
//! `*` stands for any run of characters except `/`, `**` for any run at all (`a/**/b` also matches `a/b`);
//! everything else stands for itself. That is all the two tables ([`crate::prune`], [`crate::erofs`]) need,
//! which is why there is no glob library here.

/// Whether `pattern` matches the whole of `path`.
pub fn matches(pattern: &str, path: &str) -> bool {
    matches_bytes(pattern.as_bytes(), path.as_bytes())
}

fn matches_bytes(pattern: &[u8], path: &[u8]) -> bool {
    if let Some(rest) = pattern.strip_prefix(b"**/") {
        // No directory at all, or any number of leading characters up to a slash.
        return matches_bytes(rest, path)
            || path.iter().enumerate().any(|(at, byte)| *byte == b'/' && matches_bytes(rest, &path[at + 1..]));
    }
    if let Some(rest) = pattern.strip_prefix(b"**") {
        return (0..=path.len()).any(|at| matches_bytes(rest, &path[at..]));
    }
    match pattern.split_first() {
        None => path.is_empty(),
        Some((b'*', rest)) => {
            let limit = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
            (0..=limit).any(|at| matches_bytes(rest, &path[at..]))
        }
        Some((literal, rest)) => {
            path.split_first().is_some_and(|(byte, tail)| byte == literal && matches_bytes(rest, tail))
        }
    }
}

/// The POSIX extended regular expression that matches the same paths.
pub fn to_regex(pattern: &str) -> String {
    let mut regex = String::from("^");
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix("**/") {
            regex.push_str("(.*/)?");
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("**") {
            regex.push_str(".*");
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('*') {
            regex.push_str("[^/]*");
            rest = tail;
        } else {
            if r"\.[]{}()+?^$|".contains(first) {
                regex.push('\\');
            }
            regex.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    regex.push('$');
    regex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_stays_within_one_name() {
        assert!(matches("usr/bin/python*", "usr/bin/python3.14"));
        assert!(!matches("usr/bin/*", "usr/bin/a/b"));
        assert!(!matches("usr/bin/python*", "usr/bin/pip"));
    }

    #[test]
    fn double_star_crosses_directories() {
        assert!(matches("usr/share/doc/**", "usr/share/doc/a/b/c"));
        assert!(matches("usr/lib/**/*.a", "usr/lib/x/y/libz.a"));
        assert!(matches("usr/lib/**/*.a", "usr/lib/libz.a"));
        assert!(!matches("usr/lib/**/*.a", "usr/lib/x/libz.so"));
    }

    #[test]
    fn pattern_matches_the_whole_path_only() {
        assert!(!matches("usr/lib", "usr/lib/x"));
        assert!(!matches("lib", "usr/lib"));
        assert!(matches("", ""));
    }

    #[test]
    fn regex_escapes_dots_and_anchors() {
        assert_eq!(to_regex("usr/lib/*/lib.so.*"), r"^usr/lib/[^/]*/lib\.so\.[^/]*$");
        assert_eq!(to_regex("a/**/c"), "^a/(.*/)?c$");
        assert_eq!(to_regex("a/**"), "^a/.*$");
    }
}
