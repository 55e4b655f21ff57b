//! The outcomes of both systems, side by side: a table for the terminal, a page of Markdown, and JUnit XML.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Expected, Outcome, System, Verdict};

/// What is known after a run.
pub struct Report<'a> {
    /// All files of the suite that are to be run.
    pub files: &'a [String],
    /// What came of them.
    pub outcomes: &'a BTreeMap<System, BTreeMap<String, Outcome>>,
    /// Those whose outcome on Piton is that of another kernel.
    pub stale: &'a BTreeSet<String>,
    /// What is expected to fail on Piton.
    pub expected: &'a Expected,
}

/// How many of something came out how.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report<'_> {
    fn get(&self, system: System, file: &str) -> Option<&Outcome> {
        self.outcomes.get(&system)?.get(file)
    }

    /// The files that fail on a system, differ between the two, or were run on Linux alone.
    fn remarkable(&self) -> impl Iterator<Item = (&str, Option<&Outcome>, Option<&Outcome>)> {
        let both = self.files.iter().map(|file| {
            let [linux, piton] = System::ALL.map(|system| self.get(system, file));
            (file.as_str(), linux, piton)
        });
        both.filter(|(_, linux, piton)| {
            let counts = |outcome: &Outcome| (outcome.verdict(), outcome.passed.len(), outcome.skipped.len());
            let fails = |outcome: &Option<&Outcome>| outcome.is_some_and(|o| o.verdict() == Verdict::Failed);
            let differs = linux.zip(*piton).is_some_and(|(linux, piton)| counts(linux) != counts(piton));
            fails(linux) || fails(piton) || differs
        })
    }

    fn file_counts(&self, system: System) -> Counts {
        let mut counts = Counts::default();
        for outcome in self.files.iter().filter_map(|file| self.get(system, file)) {
            match outcome.verdict() {
                Verdict::Passed => counts.passed += 1,
                Verdict::Failed => counts.failed += 1,
                Verdict::Skipped => counts.skipped += 1,
            }
        }
        counts
    }

    fn case_counts(&self, system: System) -> Counts {
        let mut counts = Counts::default();
        for outcome in self.files.iter().filter_map(|file| self.get(system, file)) {
            counts.passed += outcome.passed.len();
            counts.failed += outcome.failed.len();
            counts.skipped += outcome.skipped.len();
        }
        counts
    }

    /// The figure that counts: of the files that pass on Linux, how many pass on Piton.
    #[must_use]
    pub fn summary(&self) -> String {
        let passes = |system, file: &str| self.get(system, file).is_some_and(|o| o.verdict() == Verdict::Passed);
        let on_linux: Vec<&String> = self.files.iter().filter(|file| passes(System::Linux, file)).collect();
        let on_piton = on_linux.iter().filter(|file| passes(System::Piton, file)).count();
        let missing = on_linux.iter().filter(|file| self.get(System::Piton, file).is_none()).count();
        let share = 100.0 * on_piton as f64 / on_linux.len().max(1) as f64;
        let mut line =
            format!("Of {} files that pass on Linux, {on_piton} pass on Piton ({share:.1} %)", on_linux.len());
        if missing > 0 {
            let _ = write!(line, "; {missing} of them have not been run on Piton");
        }
        let not_on_linux = self.files.iter().filter(|file| self.get(System::Linux, file).is_none()).count();
        if not_on_linux > 0 {
            let _ = write!(line, "; {not_on_linux} of {} files have not been run on Linux", self.files.len());
        }
        line + "."
    }

    /// The table for the terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("{:44} {:28} {:28}\n", "", System::Linux, System::Piton);
        let cell = |outcome: Option<&Outcome>| outcome.map_or_else(|| "not run".into(), short);
        for (file, linux, piton) in self.remarkable() {
            let stale = if self.stale.contains(file) { " (older kernel)" } else { "" };
            let line = format!("{file:44} {:28} {}{stale}", cell(linux), cell(piton));
            table += line.trim_end();
            table.push('\n');
        }
        table += "\n";
        for system in System::ALL {
            let (files, cases) = (self.file_counts(system), self.case_counts(system));
            let not_run = self.files.len() - files.passed - files.failed - files.skipped;
            let _ = writeln!(
                table,
                "{system:6} files: {:4} passed {:4} failed {:4} skipped {not_run:4} not run   \
                 cases: {:6} passed {:5} failed {:5} skipped",
                files.passed, files.failed, files.skipped, cases.passed, cases.failed, cases.skipped
            );
        }
        table
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::from(
            "# CPython's test suite on Piton and on Linux\n\n\
             Written by `make test-cpython`; [tests/README.md](../tests/README.md) says how the files are run.\n\n\
             | | files passed | failed | skipped | not run | cases passed | failed | skipped |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for system in System::ALL {
            let (files, cases) = (self.file_counts(system), self.case_counts(system));
            let not_run = self.files.len() - files.passed - files.failed - files.skipped;
            let _ = writeln!(
                page,
                "| {system} | {} | {} | {} | {not_run} | {} | {} | {} |",
                files.passed, files.failed, files.skipped, cases.passed, cases.failed, cases.skipped
            );
        }
        let _ = writeln!(page, "\n**{}**\n", self.summary());
        page += "## Files that fail or differ\n\n\
                 A cell has what the file counts as, and its cases: passed, failed, skipped.\n\n\
                 | file | Linux | Piton |\n|---|---|---|\n";
        let cell = |outcome: Option<&Outcome>| outcome.map_or_else(String::new, short);
        for (file, linux, piton) in self.remarkable() {
            let stale = if self.stale.contains(file) { " (older kernel)" } else { "" };
            let _ = writeln!(page, "| {file} | {} | {}{stale} |", cell(linux), cell(piton));
        }
        page += "\n## What fails on Piton\n\n";
        for outcome in self.files.iter().filter_map(|file| self.get(System::Piton, file)) {
            self.write_failures(&mut page, outcome);
        }
        page += "\n## What is skipped on Piton and passes on Linux\n\n";
        for (file, linux, piton) in self.remarkable() {
            let (Some(linux), Some(piton)) = (linux, piton) else { continue };
            let passed: BTreeSet<&String> = linux.passed.iter().collect();
            for (test, why) in piton.skipped.iter().filter(|(test, _)| passed.contains(test)) {
                let _ = writeln!(page, "- {file}: {test}: {}", first_line(why));
            }
        }
        page
    }

    /// What fails in a file on Piton, with the reason where it is expected.
    fn write_failures(&self, page: &mut String, outcome: &Outcome) {
        let name = &outcome.name;
        let linux = self.get(System::Linux, name);
        let mut line = |test: &str, reason: Option<&str>| {
            let on_linux = linux.is_some_and(|linux| linux.failed.contains_key(test));
            let on_linux = if on_linux { " (fails on Linux too)" } else { "" };
            let _ = writeln!(page, "- {name}: {test}{on_linux}: {}", reason.unwrap_or("not expected"));
        };
        if !outcome.is_complete() {
            line(&outcome.status, self.expected.reason_for_file(name));
        }
        for (test, traceback) in &outcome.failed {
            line(test, self.expected.reason(name, test, traceback));
        }
    }

    /// All outcomes, one `testsuite` per file and system.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
        for system in System::ALL {
            for outcome in self.files.iter().filter_map(|file| self.get(system, file)) {
                write_suite(&mut xml, system, outcome);
            }
        }
        xml + "</testsuites>\n"
    }
}

fn write_suite(xml: &mut String, system: System, outcome: &Outcome) {
    let name = escape(&outcome.name);
    let (passed, failed, skipped) = (outcome.passed.len(), outcome.failed.len(), outcome.skipped.len());
    // A file that did not come to its end is one error more.
    let errors = usize::from(!outcome.is_complete());
    let _ = writeln!(
        xml,
        "<testsuite name=\"{name}\" package=\"{key}\" tests=\"{}\" failures=\"{failed}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" time=\"{}\">\n<properties><property name=\"system\" value=\"{key}\"/></properties>",
        passed + failed + skipped + errors,
        outcome.seconds,
        key = system.key(),
    );
    let mut case = |test: &str, inner: &str| {
        let _ = writeln!(xml, "<testcase classname=\"{name}\" name=\"{}\">{inner}</testcase>", escape(test));
    };
    for test in &outcome.passed {
        case(test, "");
    }
    for (test, why) in &outcome.skipped {
        case(test, &format!("<skipped message=\"{}\"/>", escape(why)));
    }
    for (test, traceback) in &outcome.failed {
        case(test, &format!("<failure>{}</failure>", escape(traceback)));
    }
    if errors > 0 {
        let inner = format!("<error message=\"{}\">{}</error>", escape(&outcome.status), escape(&outcome.output));
        case(&outcome.name, &inner);
    }
    xml.push_str("</testsuite>\n");
}

/// Verdict and counts of cases.
fn short(outcome: &Outcome) -> String {
    let (passed, failed, skipped) = (outcome.passed.len(), outcome.failed.len(), outcome.skipped.len());
    let mut text = format!("{} {passed}, {failed}, {skipped}", outcome.verdict());
    if !outcome.is_complete() {
        let _ = write!(text, ", {}", outcome.status);
    }
    text
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Text as XML 1.0 may hold it: without control characters, and with its own characters as entities.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push(' '),
            '\u{fffe}' | '\u{ffff}' => {}
            other if other.is_control() => {}
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, passed: &[&str], failed: &[&str]) -> (String, Outcome) {
        let status = if failed.is_empty() { "exit 0" } else { "exit 2" };
        let outcome = Outcome {
            name: name.into(),
            status: status.into(),
            passed: passed.iter().map(|test| test.to_string()).collect(),
            failed: failed.iter().map(|test| (test.to_string(), "a < b\u{1b}".into())).collect(),
            ..Outcome::default()
        };
        (name.into(), outcome)
    }

    fn with(linux: Vec<(String, Outcome)>, piton: Vec<(String, Outcome)>, check: impl Fn(&Report<'_>)) {
        let files = ["test_a", "test_b", "test_c"].map(String::from);
        let outcomes = [(System::Linux, linux), (System::Piton, piton)];
        let outcomes = outcomes.into_iter().map(|(system, list)| (system, list.into_iter().collect())).collect();
        let expected = Expected::default();
        check(&Report { files: &files, outcomes: &outcomes, stale: &BTreeSet::new(), expected: &expected });
    }

    #[test]
    fn figure_counts_files_that_pass_on_both() {
        let linux =
            vec![outcome("test_a", &["x"], &[]), outcome("test_b", &["x"], &[]), outcome("test_c", &[], &["x"])];
        let piton =
            vec![outcome("test_a", &["x"], &[]), outcome("test_b", &[], &["x"]), outcome("test_c", &["x"], &[])];
        with(linux, piton, |report| {
            assert_eq!(report.summary(), "Of 2 files that pass on Linux, 1 pass on Piton (50.0 %).");
            let rows: Vec<&str> = report.remarkable().map(|row| row.0).collect();
            assert_eq!(rows, ["test_b", "test_c"]);
        });
    }

    #[test]
    fn files_that_were_not_run_are_said() {
        with(vec![outcome("test_a", &["x"], &[])], Vec::new(), |report| {
            let summary = report.summary();
            assert!(summary.contains("1 of them have not been run on Piton"), "{summary}");
            assert!(summary.contains("2 of 3 files have not been run on Linux"), "{summary}");
        });
    }

    #[test]
    fn junit_is_escaped() {
        with(Vec::new(), vec![outcome("test_a", &["x"], &["y"])], |report| {
            let xml = report.junit();
            assert!(xml.contains("<failure>a &lt; b</failure>"), "{xml}");
            assert!(xml.contains("tests=\"2\" failures=\"1\" errors=\"0\""), "{xml}");
        });
    }
}
