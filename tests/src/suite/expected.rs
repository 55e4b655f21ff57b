//! The failures that are expected on Piton, and what is wrong with an outcome in their light.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::Outcome;

/// Stands for the file as a whole.
const WHOLE: &str = "*";
/// A reason that begins so is one for a test that fails now and then.
const SOMETIMES: &str = "sometimes: ";

/// The list of expected failures: `[test_file]`, then `"full name of the test" = "the reason"`. The name `*` stands for
/// a file that does not come to its end. `[excluded]` has files that are not run at all, and `[tracebacks]` pieces of
/// tracebacks that explain the failure of any test, each with the reason.
#[derive(Debug, Default, Deserialize)]
pub struct Expected {
    #[serde(default)]
    excluded: BTreeMap<String, String>,
    #[serde(default)]
    tracebacks: BTreeMap<String, String>,
    #[serde(flatten)]
    files: BTreeMap<String, BTreeMap<String, String>>,
}

impl Expected {
    /// Reads the list.
    ///
    /// # Errors
    /// A line for the user: it is not there or not well-formed.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Why a file is not run, if it is not.
    #[must_use]
    pub fn exclusion(&self, file: &str) -> Option<&str> {
        self.excluded.get(file).map(String::as_str)
    }

    /// The names in the list, of files and of what is excluded.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().chain(self.excluded.keys()).map(String::as_str)
    }

    /// Why a test of a file fails with this traceback, if it is meant to.
    #[must_use]
    pub fn reason(&self, file: &str, test: &str, traceback: &str) -> Option<&str> {
        let listed = self.files.get(file).and_then(|tests| tests.get(test));
        let known = || self.tracebacks.iter().find(|(piece, _)| traceback.contains(*piece));
        listed.or_else(|| known().map(|(_, reason)| reason)).map(String::as_str)
    }

    /// Why a file does not come to its end, if it is not meant to.
    #[must_use]
    pub fn reason_for_file(&self, file: &str) -> Option<&str> {
        self.files.get(file)?.get(WHOLE).map(String::as_str)
    }

    /// The pieces of tracebacks that are in none of these outcomes.
    pub fn unused_tracebacks<'a>(&'a self, outcomes: &'a [&Outcome]) -> impl Iterator<Item = &'a str> {
        let is_used =
            |piece: &str| outcomes.iter().any(|o| o.failed.values().any(|traceback| traceback.contains(piece)));
        self.tracebacks.keys().map(String::as_str).filter(move |piece| !is_used(piece))
    }

    /// What is wrong with an outcome: failures that are not expected, and expected ones that are gone. Each entry is a
    /// line, and behind it the traceback or the end of the output.
    #[must_use]
    pub fn findings(&self, outcome: &Outcome) -> Vec<String> {
        let name = outcome.name.as_str();
        let mut findings = Vec::new();
        match (outcome.is_complete(), self.reason_for_file(name)) {
            (true, Some(reason)) if !reason.starts_with(SOMETIMES) => {
                findings.push(format!("{name}: comes to its end; take `{WHOLE}` out of expected.toml"));
            }
            (false, None) => findings.push(format!("{name}: {}\n{}", outcome.status, outcome.output)),
            _ => {}
        }
        for (test, traceback) in &outcome.failed {
            if self.reason(name, test, traceback).is_none() {
                findings.push(format!("{name}: {test}\n{traceback}"));
            }
        }
        if outcome.is_complete() {
            for (test, reason) in self.files.get(name).into_iter().flatten() {
                if test != WHOLE && !outcome.failed.contains_key(test) && !reason.starts_with(SOMETIMES) {
                    findings.push(format!("{name}: {test} no longer fails; take it out of expected.toml"));
                }
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: &str, failed: &[&str]) -> Outcome {
        Outcome {
            name: "test_a".into(),
            status: status.into(),
            passed: vec!["p".into()],
            failed: failed.iter().map(|test| (test.to_string(), "why".into())).collect(),
            ..Outcome::default()
        }
    }

    fn count(outcome: &Outcome, list: &str) -> usize {
        toml::from_str::<Expected>(list).expect("the list is well-formed").findings(outcome).len()
    }

    #[test]
    fn passes_give_nothing() {
        assert_eq!(count(&outcome("exit 0", &[]), ""), 0);
    }

    #[test]
    fn failure_is_a_finding_unless_expected() {
        assert_eq!(count(&outcome("exit 2", &["x"]), ""), 1);
        assert_eq!(count(&outcome("exit 2", &["x"]), "[test_a]\nx = 'a reason'"), 0);
    }

    #[test]
    fn expected_failure_that_is_gone_is_a_finding() {
        assert_eq!(count(&outcome("exit 0", &[]), "[test_a]\nx = 'a reason'"), 1);
        assert_eq!(count(&outcome("exit 0", &[]), "[test_a]\n'*' = 'a reason'"), 1);
        assert_eq!(count(&outcome("exit 0", &[]), "[test_a]\nx = 'sometimes: a reason'"), 0);
    }

    #[test]
    fn file_that_ends_badly_is_a_finding() {
        for status in ["signal 11", "stopped after 900 s", "machine died: no sign of life", "exit 1"] {
            assert_eq!(count(&outcome(status, &[]), ""), 1);
            assert_eq!(count(&outcome(status, &[]), "[test_a]\n'*' = 'a reason'"), 0);
        }
    }

    #[test]
    fn piece_of_a_traceback_explains_failures_and_must_be_used() {
        let list = "[tracebacks]\n'wh' = 'a reason'\nabsent = 'another'";
        let outcome = outcome("exit 2", &["x", "y"]);
        assert_eq!(count(&outcome, list), 0);
        let list: Expected = toml::from_str(list).unwrap();
        assert_eq!(list.unused_tracebacks(&[&outcome]).collect::<Vec<_>>(), ["absent"]);
    }

    #[test]
    fn exclusions_stand_beside_the_files() {
        let list: Expected = toml::from_str("[excluded]\ntest_b = 'why'\n[test_a]\nx = 'y'").unwrap();
        assert_eq!(list.exclusion("test_b"), Some("why"));
        assert_eq!(list.exclusion("test_a"), None);
        assert_eq!(list.names().collect::<Vec<_>>(), ["test_a", "test_b"]);
    }
}
