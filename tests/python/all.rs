//! `make test-cpython`: all files of CPython's test suite, on Linux and on Piton.
//!
//! Every outcome is written to `build/cpython-suite/SYSTEM/FILE.json` as soon as it is known, with what it was made
//! with; a run takes over what is still valid, so that one that was interrupted goes on, and outcomes of Linux last
//! until the root files change. At the end there are `junit.xml` and `page.md` beside them, and a table here.
//!
//! The exit status is 0 when all that went wrong on Piton stands in `expected.toml`, and nothing else does.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use board::workspace;
use lexopt::prelude::*;
use serde::{Deserialize, Serialize};
use tests::suite::report::Report;
use tests::suite::{self, Expected, Kept, Outcome, Source, Store, System, Verdict, pool};

/// The time limit of a file, in seconds, unless told otherwise.
const LIMIT: u32 = 900;
/// How many guests run side by side, unless told otherwise.
const GUESTS: usize = 2;
/// What a file is thought to take that was never run, in seconds.
const UNKNOWN: f64 = 60.0;

const HELP: &str = "\
usage: cargo run --release -p tests --bin test-cpython -- [OPTIONS]

--only 'NAMES'      these files alone: test_os, or a package of files: test_asyncio
--system NAME       piton, linux or both (default)
--limit SECONDS     time limit of a file (default 900)
--jobs N            guests that run side by side (default 2)
--fresh             run again what has a valid outcome
--failed            run again what has a valid outcome and failed
--keep-stale        outcomes of Piton with another kernel count too, and are marked
";

/// What the caller wants.
struct Wishes {
    only: String,
    systems: Vec<System>,
    limit: u32,
    guests: usize,
    fresh: bool,
    failed: bool,
    keep_stale: bool,
}

fn main() -> ExitCode {
    match wishes().and_then(|wishes| wishes.map_or(Ok(true), |wishes| run(&wishes))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test-cpython: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; `None` when only help was asked for.
fn wishes() -> Result<Option<Wishes>, String> {
    let usage = |error: lexopt::Error| format!("{error}; `--help` lists the options");
    let mut wishes = Wishes {
        only: String::new(),
        systems: System::ALL.into(),
        limit: LIMIT,
        guests: GUESTS,
        fresh: false,
        failed: false,
        keep_stale: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("only") => wishes.only = parser.value().and_then(ValueExt::string).map_err(usage)?,
            Long("system") => {
                let name = parser.value().and_then(ValueExt::string).map_err(usage)?;
                wishes.systems = System::ALL.into_iter().filter(|s| name == "both" || s.key() == name).collect();
                if wishes.systems.is_empty() {
                    return Err(format!("there is no system `{name}`; there are piton, linux and both"));
                }
            }
            Long("limit") => wishes.limit = parser.value().and_then(|v| v.parse()).map_err(usage)?,
            Long("jobs") => wishes.guests = parser.value().and_then(|v| v.parse()).map_err(usage)?,
            Long("fresh") => wishes.fresh = true,
            Long("failed") => wishes.failed = true,
            Long("keep-stale") => wishes.keep_stale = true,
            Long("help") | Short('h') => {
                print!("{HELP}");
                return Ok(None);
            }
            other => return Err(usage(other.unexpected())),
        }
    }
    if wishes.guests == 0 || wishes.limit == 0 {
        return Err("--jobs and --limit must be at least 1".into());
    }
    Ok(Some(wishes))
}

/// Runs what is wanted and shows all that is known. Answers whether all is as expected.
fn run(wishes: &Wishes) -> Result<bool, String> {
    let folder = workspace::root().join("build/cpython-suite");
    let source = Source::read(&suite::root_image()?)?;
    let expected = Expected::read(&suite::folder().join("expected.toml"))?;
    let all = list(&source, wishes.systems[0], &folder)?;
    let files: Vec<String> = all.iter().filter(|file| expected.exclusion(file).is_none()).cloned().collect();
    let only: Vec<&str> = wishes.only.split_whitespace().collect();
    let wanted: Vec<String> =
        files.iter().filter(|file| only.is_empty() || suite::is_wanted(file, &only)).cloned().collect();
    if wanted.is_empty() {
        return Err(format!("no file of the suite is named `{}`", wishes.only));
    }
    let mut outcomes = BTreeMap::new();
    let mut stale = BTreeSet::new();
    for system in System::ALL {
        let made_with = match source.made_with(system) {
            Err(_) if !wishes.systems.contains(&system) => continue,
            made_with => made_with?,
        };
        let store = Store::new(folder.join(system.key()), made_with, wishes.keep_stale)?;
        if wishes.systems.contains(&system) {
            let machine_folder = folder.join(format!("boot-{}", system.key()));
            run_missing(wishes, &source, system, &store, &machine_folder, &wanted)?;
        }
        let mut known = BTreeMap::new();
        for file in &files {
            if let Some(kept) = store.get(file, 0).filter(|kept| kept.valid) {
                if kept.stale {
                    stale.insert(file.clone());
                }
                known.insert(file.clone(), kept.outcome);
            }
        }
        outcomes.insert(system, known);
    }
    let report = Report { files: &files, outcomes: &outcomes, stale: &stale, expected: &expected };
    write(&folder.join("junit.xml"), report.junit().as_bytes())?;
    write(&folder.join("page.md"), report.page().as_bytes())?;
    print!("{}", report.table());
    let findings = match wishes.systems.contains(&System::Piton) {
        true => findings(&expected, &all, &wanted, outcomes.get(&System::Piton)),
        false => Vec::new(),
    };
    for finding in &findings {
        println!("- {}", finding.lines().next().unwrap_or_default());
    }
    println!("{}: {} not as expected. {}", folder.display(), findings.len(), report.summary());
    Ok(findings.is_empty())
}

/// What is not as expected on Piton among the wanted files, and in the list of what is expected.
fn findings(
    expected: &Expected,
    all: &[String],
    wanted: &[String],
    outcomes: Option<&BTreeMap<String, Outcome>>,
) -> Vec<String> {
    let strange = expected.names().filter(|name| !all.iter().any(|file| file == name));
    let mut findings: Vec<String> = strange
        .map(|name| format!("{name}: no file of the suite has this name; take it out of expected.toml"))
        .collect();
    let outcomes: Vec<&Outcome> = wanted.iter().filter_map(|file| outcomes?.get(file)).collect();
    findings.extend(outcomes.iter().flat_map(|outcome| expected.findings(outcome)));
    let whole = all.iter().all(|file| expected.exclusion(file).is_some() || wanted.contains(file));
    if whole && outcomes.len() == wanted.len() {
        let unused = expected.unused_tracebacks(&outcomes);
        findings.extend(unused.map(|piece| format!("no traceback has {piece:?}; take it out of expected.toml")));
    }
    findings
}

/// The names of all files, which only a guest can tell; asked for once for the same root files.
fn list(source: &Source, system: System, folder: &Path) -> Result<Vec<String>, String> {
    #[derive(Deserialize, Serialize)]
    struct List {
        root: String,
        files: Vec<String>,
    }
    let path = folder.join("files.json");
    let root = source.fingerprint().to_owned();
    if let Some(list) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<List>(&bytes).ok())
        && list.root == root
    {
        return Ok(list.files);
    }
    let machine = source.machine(system, &folder.join(format!("boot-{}", system.key())))?;
    let list = List { root, files: pool::list(&machine)? };
    write(&path, &serde_json::to_vec(&list).map_err(|error| error.to_string())?)?;
    Ok(list.files)
}

/// Runs the files that have no valid outcome on a system, the longest first.
fn run_missing(
    wishes: &Wishes,
    source: &Source,
    system: System,
    store: &Store,
    machine_folder: &Path,
    wanted: &[String],
) -> Result<(), String> {
    let mut missing: Vec<(f64, String)> = Vec::new();
    for file in wanted {
        let kept = store.get(file, wishes.limit);
        let again =
            |kept: &Kept| wishes.fresh || !kept.valid || (wishes.failed && kept.outcome.verdict() == Verdict::Failed);
        if kept.as_ref().is_none_or(again) {
            missing.push((kept.map_or(UNKNOWN, |kept| kept.outcome.seconds), file.clone()));
        }
    }
    eprintln!("{system}: {} of {} files to run", missing.len(), wanted.len());
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_by(|a, b| b.0.total_cmp(&a.0));
    let machine = source.machine(system, machine_folder)?;
    let (started, count) = (Instant::now(), missing.len());
    let mut done = 0;
    let files = missing.into_iter().map(|(_, file)| file).collect();
    pool::run(&machine, files, wishes.limit, wishes.guests, |outcome: Outcome| {
        done += 1;
        let elapsed = started.elapsed().as_secs();
        eprintln!("{done:3}/{count} {elapsed:5} s {system} {:44} {}", outcome.name, outcome.summary());
        store.put(&outcome, wishes.limit)
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
