//! What must not break, hang or exhaust the machine: random system calls, and more of everything than it has.
//!
//! In `make test` each runs for short; `make robustness` runs them long. `PITON_SECONDS`, `PITON_SEED` and
//! `PITON_COUNT` set how long the fuzzer runs, where it starts, and how many processes the load starts.
//!
//! `make stress` runs Debian's stress-ng and trinity: `PITON_STRESS` are the seconds for each of the stressors, and
//! `PITON_ONLY` names some of them.

#![forbid(unsafe_code)]

use std::env;

use board::workspace;
use tests::{archive, script, setting};

mod debian;

#[test]
fn random_system_calls_do_no_harm() {
    let seconds: u32 = setting("PITON_SECONDS", 40);
    let seed: u32 = setting("PITON_SEED", 1);
    let program = archive::of_folders(&[(&workspace::root().join("tests/robustness/fuzz"), "")]);
    for cpus in ["1", "4"] {
        let name = format!("random_system_calls_on_{cpus}");
        let arguments = [(seconds / 2).to_string(), seed.to_string()];
        let arguments = arguments.each_ref().map(String::as_str);
        let outcome = script::run_on(&name, &["--cpus", cpus], &program, &arguments, "", seconds * 4 + 300);
        outcome.expect_status(0);
        outcome.expect_output("survived");
    }
}

#[test]
fn processes_and_threads_leave_nothing_behind() {
    let count: u32 = setting("PITON_COUNT", 300);
    let outcome = script::run_on(
        "processes_and_threads",
        &["--memory", "256M", "--cpus", "4"],
        include_str!("load.py"),
        &[&count.to_string()],
        "",
        count / 2 + 300,
    );
    outcome.expect_status(0);
    outcome.expect_output("survived");
}

/// Every stressor of stress-ng, then trinity.
#[test]
#[ignore = "takes a quarter of an hour: make stress"]
fn stress_ng_and_trinity_do_no_harm() {
    let seconds: u32 = setting("PITON_STRESS", 1);
    let trinity: u32 = setting("PITON_TRINITY", 60);
    let only = env::var("PITON_ONLY").unwrap_or_default();
    let arguments = [seconds.to_string(), trinity.to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(only.split_whitespace()).collect();
    let cpus: u32 = setting("PITON_CPUS", 1);
    let machine = ["--memory", "1G", "--cpus", &cpus.to_string()];
    let limit = setting("PITON_LIMIT", 5400);
    let outcome = script::run_on("stress_ng_and_trinity", &machine, debian::archive(), &arguments, "", limit);
    println!("{}", outcome.output);
    outcome.expect_status(0);
    outcome.expect_output("survived");
}
