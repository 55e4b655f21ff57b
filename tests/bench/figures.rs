//! What was measured: samples, their statistics, the table and the JSON file.
//!
//! A sample is too high when the host was busy and never too low, so the smallest of them is what a system can do;
//! the median says how steady that is. Goals are held against the smallest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::rows::{Goal, ROWS, Row, Unit};
use crate::systems::{Files, System};

/// All samples.
pub struct Figures {
    samples: BTreeMap<(System, &'static str), Vec<f64>>,
    /// Times are counts of instructions.
    instructions: bool,
    /// Runnable processes of the host when it began.
    load: String,
}

/// Smallest and median of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    min: f64,
    median: f64,
}

impl Summary {
    /// `None` when there are no samples.
    fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let min = *sorted.first()?;
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { min, median })
    }
}

impl Figures {
    /// None yet.
    pub fn new(instructions: bool) -> Self {
        // Not every host has it; it only explains figures that look odd.
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { samples: BTreeMap::new(), instructions, load: load.split(' ').next().unwrap_or_default().to_owned() }
    }

    /// Takes in a sample: nanoseconds or bytes.
    pub fn add(&mut self, system: System, key: &'static str, value: f64) {
        self.samples.entry((system, key)).or_default().push(value);
    }

    fn samples(&self, system: System, row: &Row) -> &[f64] {
        self.samples.get(&(system, row.key)).map_or(&[], Vec::as_slice)
    }

    fn summary(&self, system: System, row: &Row) -> Option<Summary> {
        Summary::of(self.samples(system, row))
    }

    /// Everything, for programs.
    pub fn to_json(&self, systems: &[System], files: &Files) -> Value {
        let rows: Vec<Value> = ROWS.iter().map(|row| self.row_to_json(systems, row)).collect();
        json!({
            "machine": format!("virt, cortex-a72, 1 CPU (scaling: 4), {} MiB", crate::MEMORY_MIB),
            "qemu": first_line("qemu-system-aarch64"),
            "host_load_at_start": self.load,
            "time_unit": if self.instructions { "instructions" } else { "ns" },
            "linux": files.origin,
            "linux_command_line": System::Linux.to_the_prompt(files).append,
            "lean_command_line": System::Lean.to_the_prompt(files).append,
            "rows": rows,
        })
    }

    fn row_to_json(&self, systems: &[System], row: &Row) -> Value {
        let mut value = json!({
            "key": row.key,
            "title": row.title,
            "counts": row.counts,
            "unit": match row.unit { Unit::Time => "time", Unit::Bytes => "bytes", Unit::Number => "number" },
        });
        match row.goal {
            Goal::None => {}
            Goal::Ratio(most) => value["goal_ratio"] = json!(most),
            Goal::Most(most) => value["goal"] = json!(most),
        }
        for &system in systems {
            if let Some(Summary { min, median }) = self.summary(system, row) {
                value[system.key()] = json!({
                    "min": min, "median": median, "samples": self.samples(system, row),
                });
            }
            if let Some((min, median)) = self.ratios(system, row) {
                value[format!("piton_to_{}", system.key())] = json!({ "min": min, "median": median });
            }
        }
        value
    }

    /// Piton's smallest and median sample as shares of another system's.
    fn ratios(&self, other: System, row: &Row) -> Option<(f64, f64)> {
        if other == System::Piton {
            return None;
        }
        let piton = self.summary(System::Piton, row)?;
        let other = self.summary(other, row)?;
        Some((piton.min / other.min, piton.median / other.median))
    }

    /// Everything, for people: one table per system that Piton is compared with.
    pub fn to_table(&self, systems: &[System]) -> String {
        let mut text = String::new();
        let others: Vec<System> = systems.iter().copied().filter(|&system| system != System::Piton).collect();
        match others.as_slice() {
            [] => self.write_table(&mut text, System::Piton),
            others => others.iter().for_each(|&other| self.write_table(&mut text, other)),
        }
        text.push_str("Goals are held against the ratio of the smallest samples.");
        if self.instructions {
            text.push_str(" Times are instructions, one each nanosecond.");
        }
        text.push('\n');
        text
    }

    fn write_table(&self, text: &mut String, other: System) {
        let words = match other.words() {
            "" => "as Debian ships it".to_owned(),
            words => words.to_owned(),
        };
        let title = match other {
            System::Piton => "Piton".to_owned(),
            _ => format!("Piton and {} ({words})", other.title()),
        };
        let _ = writeln!(text, "\n{title}");
        let _ = writeln!(
            text,
            "{:26}{:^20}{:^20}{:^16}goal",
            "",
            "Piton",
            if other == System::Piton { "" } else { other.title() },
            if other == System::Piton { "" } else { "Piton/Linux" },
        );
        let _ = writeln!(
            text,
            "{:26}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}",
            "", "min", "median", "min", "median", "min", "median"
        );
        for row in ROWS {
            let _ = writeln!(text, "{}", self.line(row, other));
        }
        text.push('\n');
    }

    fn line(&self, row: &Row, other: System) -> String {
        let pair = |system| match self.summary(system, row) {
            Some(Summary { min, median }) => {
                format!("{:>10}{:>10}", show(min, row.unit), show(median, row.unit))
            }
            None => format!("{:>10}{:>10}", "-", "-"),
        };
        let ratios = self.ratios(other, row);
        let mut line = format!("{:26}{}", row.title, pair(System::Piton));
        if other != System::Piton {
            line.push_str(&pair(other));
        }
        if let Some((min, median)) = ratios {
            let _ = write!(line, "{min:>8.3}{median:>8.3}");
        }
        // The goals are about Debian's kernel as it comes.
        let (limit, reached) = match row.goal {
            Goal::Ratio(most) if other == System::Linux => {
                (format!("{most:.2}"), ratios.map(|(smallest, _)| smallest <= most))
            }
            Goal::Most(most) => (show(most, row.unit), self.summary(System::Piton, row).map(|s| s.min <= most)),
            Goal::None | Goal::Ratio(_) => return line,
        };
        let verdict = match reached {
            Some(true) => "  reached",
            Some(false) => "  not reached",
            None => "",
        };
        let _ = write!(line, "  {limit}{verdict}");
        line
    }
}

/// A figure with three digits and its unit.
fn show(value: f64, unit: Unit) -> String {
    let steps: &[(f64, &str)] = match unit {
        Unit::Time => &[(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")],
        Unit::Bytes => &[(1e6, "MB"), (1e3, "kB"), (1.0, "B")],
        Unit::Number => return format!("{value:.2}"),
    };
    let (size, name) = steps.iter().copied().find(|(size, _)| value >= *size).unwrap_or((1.0, ""));
    let scaled = value / size;
    let decimals = match scaled {
        s if s < 10.0 => 2,
        s if s < 100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {name}")
}

/// What a program says about its version.
fn first_line(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_is_between_the_middle_two() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.min, summary.median), (1.0, 2.5));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn figures_are_shown_with_three_digits_and_a_unit() {
        assert_eq!(show(1_612.7, Unit::Time), "1.61 us");
        assert_eq!(show(3_401_000_000.0, Unit::Time), "3.40 s");
        assert_eq!(show(49_160_192.0, Unit::Bytes), "49.2 MB");
        assert_eq!(show(512.0, Unit::Bytes), "512 B");
        assert_eq!(show(1.046, Unit::Number), "1.05");
    }

    #[test]
    fn table_says_whether_a_goal_is_reached() {
        let mut figures = Figures::new(false);
        figures.add(System::Piton, "prompt", 1e9);
        figures.add(System::Linux, "prompt", 4e9);
        figures.add(System::Lean, "prompt", 2e9);
        let line = |other| {
            let table = figures.to_table(&[System::Piton, other]);
            let line = table.lines().find(|line| line.starts_with("QEMU start"));
            line.unwrap().to_owned()
        };
        assert!(line(System::Linux).ends_with("0.250   0.250  0.30  reached"));
        assert!(line(System::Lean).ends_with("0.500   0.500"));
    }
}
