//! What the programs print: which line is whose, and what differs.
//!
//! A line of a program comes as `NAME| LINE`; `NAME= HOW` tells how it ended and is kept as `= HOW`. All else on the
//! console is none of ours. Within a program, a line `check_name: RESULT` ends a check; lines before it, printed by its
//! child processes, belong to it.

use std::collections::BTreeMap;

/// Sorts the console's lines by program.
pub fn sort(text: &str, names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut printed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let Some(end) = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_') else {
            continue;
        };
        let (name, rest) = line.split_at(end);
        if !names.contains(&name) {
            continue;
        }
        let lines = printed.entry(name.into()).or_default();
        if let Some(rest) = rest.strip_prefix("| ") {
            lines.push(rest.into());
        } else if rest.starts_with("= ") {
            lines.push(rest.into());
        }
    }
    printed
}

/// Whether the program came to its end.
pub fn ended(lines: &[String]) -> bool {
    lines.last().is_some_and(|line| line.starts_with("= "))
}

/// The lines of each check, in order; what follows the last check is under the empty name.
fn checks(lines: &[String]) -> Vec<(String, Vec<&str>)> {
    let mut found = Vec::new();
    let mut pending = Vec::new();
    for line in lines {
        pending.push(line.as_str());
        let name = line.split_once(": ").map(|(name, _)| name);
        let is_name = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if let Some(name) = name.filter(is_name) {
            found.push((name.to_owned(), std::mem::take(&mut pending)));
        }
    }
    if !pending.is_empty() {
        found.push((String::new(), pending));
    }
    found
}

/// What is wrong with what a program printed: differences that are not known, and known ones that are gone.
pub fn compare(expected: &[String], printed: &[String], known: &BTreeMap<String, String>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut printed: BTreeMap<String, Vec<&str>> = checks(printed).into_iter().collect();
    for (name, expected) in checks(expected) {
        let got = printed.remove(&name).unwrap_or_default();
        match (got == expected, known.get(&name)) {
            (true, Some(_)) => findings.push(format!("{name}: no longer differs; take it out of known.toml")),
            (false, None) => {
                findings.extend(expected.iter().map(|line| format!("-{line}")));
                findings.extend(got.iter().map(|line| format!("+{line}")));
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
    for (_, lines) in printed {
        findings.extend(lines.iter().map(|line| format!("+{line}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(Into::into).collect()
    }

    fn known(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.into(), "a reason".into())])
    }

    #[test]
    fn lines_are_sorted_by_program_and_others_left_out() {
        let text = "boot\none| a: 1\n[kernel] word\ntwo| b: 2\none= exit 0\nthree| c: 3\n";
        let sorted = sort(text, &["one", "two"]);
        assert_eq!(sorted.len(), 2);
        assert_eq!(sorted["one"], ["a: 1", "= exit 0"]);
        assert!(ended(&sorted["one"]) && !ended(&sorted["two"]));
    }

    #[test]
    fn equal_lines_give_nothing() {
        let text = lines("child\na: 1\nb: 2\n= exit 0");
        assert!(compare(&text, &text, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn difference_shows_the_whole_check() {
        let findings = compare(&lines("child\na: 1\n= exit 0"), &lines("a: 1\n= exit 0"), &BTreeMap::new());
        assert_eq!(findings, ["-child", "-a: 1", "+a: 1"]);
    }

    #[test]
    fn known_difference_is_let_pass_until_it_is_gone() {
        let (expected, other) = (lines("a: 1\n= exit 0"), lines("a: 2\n= exit 0"));
        assert!(compare(&expected, &other, &known("a")).is_empty());
        assert_eq!(compare(&expected, &expected, &known("a")).len(), 1);
    }

    #[test]
    fn missing_and_additional_checks_are_found() {
        let findings = compare(&lines("a: 1\n= exit 0"), &lines("b: 1\n= exit 0"), &BTreeMap::new());
        assert_eq!(findings, ["-a: 1", "+b: 1"]);
    }
}
