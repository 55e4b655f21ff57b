//! What came of one file.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What came of one file, as the program in the guest reports it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Outcome {
    /// The file.
    pub name: String,
    /// How its process ended: `exit 0`, `signal 11`, `stopped after 900 s`, `machine died: ...`.
    pub status: String,
    /// The single tests that passed.
    pub passed: Vec<String>,
    /// Those that were skipped, with why.
    pub skipped: BTreeMap<String, String>,
    /// Those that did not pass, with their tracebacks.
    pub failed: BTreeMap<String, String>,
    /// How long it took, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// The end of what it printed, when something went wrong.
    pub output: String,
    /// All processes that it left behind could be killed.
    pub clean: bool,
}

/// What a file as a whole counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Something passed and nothing failed.
    Passed,
    /// Something failed, or the file did not come to its end.
    Failed,
    /// Nothing failed and nothing passed.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

impl Outcome {
    /// A file that the machine did not survive; `output` is the end of what was on the console.
    #[must_use]
    pub fn died(name: &str, why: &str, output: String, seconds: f64) -> Self {
        let status = format!("machine died: {why}");
        Self { name: name.into(), status, output, seconds, ..Self::default() }
    }

    /// What the file counts as.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.status.as_str(), self.passed.is_empty()) {
            ("exit 0", false) if self.failed.is_empty() => Verdict::Passed,
            // 4: no test was chosen to run.
            ("exit 0" | "exit 4", true) if self.failed.is_empty() => Verdict::Skipped,
            _ => Verdict::Failed,
        }
    }

    /// The file came to its end, so that all that failed in it is known test by test.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        // 2: there were failures.
        matches!(self.status.as_str(), "exit 0" | "exit 4") || (self.status == "exit 2" && !self.failed.is_empty())
    }

    /// It was given up at its time limit.
    #[must_use]
    pub fn ran_out_of_time(&self) -> bool {
        self.status.starts_with("stopped")
    }

    /// Verdict, counts and time in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let (passed, failed, skipped) = (self.passed.len(), self.failed.len(), self.skipped.len());
        let mut line =
            format!("{:7} {passed:5} passed {failed:4} failed {skipped:4} skipped", self.verdict().to_string());
        line += &format!(" {:6.1} s", self.seconds);
        if !self.is_complete() {
            line += &format!("  {}", self.status);
        }
        line
    }
}
