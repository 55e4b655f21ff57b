//! What the driver on the machine reports, and what of it is wrong.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// What came of one file.
#[derive(Debug, Default, Deserialize)]
pub struct Outcome {
    /// The file.
    pub name: String,
    /// How its process ended.
    pub status: String,
    /// How many single tests passed.
    pub passed: u32,
    /// How many were skipped.
    pub skipped: u32,
    /// Those that did not pass, with their tracebacks.
    pub failed: BTreeMap<String, String>,
    /// How long it took.
    pub seconds: f64,
    /// The end of what it printed, when something went wrong.
    #[serde(default)]
    pub output: String,
}

impl Outcome {
    /// A file that the machine did not survive.
    pub fn cut(name: String, status: String) -> Self {
        Self { name, status, ..Self::default() }
    }

    /// The test runner itself saw nothing but passes and skips.
    fn ended_well(&self) -> bool {
        // 2: there were failures, which are judged one by one. 5: all was skipped.
        matches!(self.status.as_str(), "exit 0" | "exit 5") || (self.status == "exit 2" && !self.failed.is_empty())
    }
}

/// The results that are known to go wrong: `[test_file]`, then `"full name of the test" = "the reason"`, where the
/// name `*` stands for the file as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Expected(BTreeMap<String, BTreeMap<String, String>>);

impl Expected {
    /// Reads the list.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn reason(&self, file: &str, test: &str) -> Option<&str> {
        self.0.get(file)?.get(test).map(String::as_str)
    }
}

/// The results in what the machine printed, and the file that was begun and did not end.
pub fn read(text: &str) -> (BTreeMap<String, Outcome>, Option<String>) {
    let mut outcomes = BTreeMap::new();
    let mut begun = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("begin| ") {
            begun = serde_json::from_str(name).ok();
        } else if let Some(outcome) = line.strip_prefix("file| ")
            && let Ok(outcome) = serde_json::from_str::<Outcome>(outcome)
        {
            begun = None;
            outcomes.insert(outcome.name.clone(), outcome);
        }
    }
    (outcomes, begun)
}

/// What is wrong with a file's outcome: failures that are not expected, and expected ones that are gone.
pub fn findings(name: &str, outcome: Option<&Outcome>, expected: &Expected) -> Vec<String> {
    let Some(outcome) = outcome else {
        return vec![format!("{name}: not run")];
    };
    let mut findings = Vec::new();
    let as_a_whole = expected.reason(name, "*").is_some();
    match (outcome.ended_well(), as_a_whole) {
        (true, true) => findings.push(format!("{name}: no longer fails as a whole; take `*` out of expected.toml")),
        (false, false) => findings.push(format!("{name}: {}\n{}", outcome.status, outcome.output)),
        _ => {}
    }
    for (test, traceback) in &outcome.failed {
        if expected.reason(name, test).is_none() {
            findings.push(format!("{name}: {test}\n{traceback}"));
        }
    }
    if !as_a_whole && outcome.ended_well() {
        let listed = expected.0.get(name).into_iter().flat_map(BTreeMap::keys);
        for test in listed.filter(|test| !outcome.failed.contains_key(*test)) {
            findings.push(format!("{name}: {test} no longer fails; take it out of expected.toml"));
        }
    }
    findings
}

/// A line of the table.
pub fn row(name: &str, outcome: Option<&Outcome>) -> String {
    let mut row = format!("{name:14}");
    match outcome {
        None => row.push_str(" not run"),
        Some(outcome) => {
            let _ = write!(
                row,
                " {:5} passed {:4} failed {:4} skipped {:6.1} s",
                outcome.passed,
                outcome.failed.len(),
                outcome.skipped,
                outcome.seconds
            );
            if !outcome.ended_well() {
                let _ = write!(row, "  {}", outcome.status);
            }
        }
    }
    row + "\n"
}

/// The last line of the table.
pub fn total<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let mut sum = Outcome { name: "all".into(), status: "exit 0".into(), ..Outcome::default() };
    let mut failed = 0;
    for outcome in outcomes {
        sum.passed += outcome.passed;
        sum.skipped += outcome.skipped;
        sum.seconds += outcome.seconds;
        failed += outcome.failed.len();
    }
    format!(
        "{:14} {:5} passed {failed:4} failed {:4} skipped {:6.1} s of machine time\n",
        sum.name, sum.passed, sum.skipped, sum.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str =
        r#"file| {"name":"test_a","status":"exit 0","passed":3,"skipped":1,"failed":{},"seconds":1.5}"#;
    const FAILED: &str =
        r#"file| {"name":"test_b","status":"exit 2","passed":3,"skipped":1,"failed":{"x":"why"},"seconds":1.5}"#;

    fn expected(text: &str) -> Expected {
        toml::from_str(text).expect("the list is well-formed")
    }

    fn of(text: &str, list: &str) -> Vec<String> {
        let (outcomes, _) = read(text);
        let (name, outcome) = outcomes.first_key_value().expect("there is a result");
        findings(name, Some(outcome), &expected(list))
    }

    #[test]
    fn results_and_the_file_that_was_cut_are_read() {
        let text = format!("noise\nbegin| \"test_a\"\n{PASSED}\nbegin| \"test_c\"\npanic");
        let (outcomes, begun) = read(&text);
        assert_eq!(outcomes["test_a"].passed, 3);
        assert_eq!(begun.as_deref(), Some("test_c"));
    }

    #[test]
    fn passes_give_nothing() {
        assert!(of(PASSED, "").is_empty());
    }

    #[test]
    fn failure_is_a_finding_unless_expected() {
        assert_eq!(of(FAILED, "").len(), 1);
        assert!(of(FAILED, "[test_b]\nx = \"a reason\"").is_empty());
    }

    #[test]
    fn expected_failure_that_is_gone_is_a_finding() {
        assert_eq!(of(PASSED, "[test_a]\nx = \"a reason\"").len(), 1);
        assert_eq!(of(PASSED, "[test_a]\n\"*\" = \"a reason\"").len(), 1);
    }

    #[test]
    fn file_that_ends_badly_is_a_finding() {
        let text = PASSED.replace("exit 0", "signal 11");
        assert_eq!(of(&text, "").len(), 1);
        assert!(of(&text, "[test_a]\n\"*\" = \"a reason\"").is_empty());
        assert_eq!(findings("test_z", None, &expected("")).len(), 1);
    }
}
