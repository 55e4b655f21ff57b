//! The console session: interrupts, end of input, crashes, power.

use std::time::Duration;

use tests::Guest;
use tests::guest::{ANSWER, PROMPT};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// Starts something endless, interrupts it and shows that the session goes on.
///
/// The lines print `begun:1`, put together so that their echo is not taken for it.
fn is_interrupted(name: &str, lines: &str) {
    let mut guest = Guest::at_the_prompt(name);
    guest.send(lines);
    guest.wait_for("begun:1", ANSWER);
    // Well into it.
    std::thread::sleep(Duration::from_secs(1));
    guest.send(CTRL_C);
    guest.wait_for("KeyboardInterrupt", ANSWER);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("print(123457 * 8)", "987656");
}

#[test]
fn ctrl_c_ends_an_endless_loop() {
    // The second Enter ends the compound statement.
    is_interrupted("ctrl_c_ends_an_endless_loop", "print('begun', 1, sep=':')\rwhile True: pass\r\r");
}

#[test]
fn ctrl_c_ends_a_sleep() {
    is_interrupted("ctrl_c_ends_a_sleep", "import time; print('begun', 1, sep=':'); time.sleep(100)\r");
}

#[test]
fn ctrl_c_at_the_prompt_keeps_the_session() {
    let mut guest = Guest::at_the_prompt("ctrl_c_at_the_prompt_keeps_the_session");
    guest.run("kept = 40");
    guest.send("not to be run");
    guest.send(CTRL_C);
    guest.wait_for("KeyboardInterrupt", ANSWER);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("print('kept', kept + 2)", "kept 42");
}

/// Ends the session in one way and shows that a fresh one follows.
fn restarts_the_session(name: &str, end: &str) {
    let mut guest = Guest::at_the_prompt(name);
    guest.run("kept = 1");
    guest.send(end);
    guest.wait_for(PROMPT, ANSWER);
    guest.ask("print('known', 'kept' in globals())", "known False");
}

#[test]
fn ctrl_d_restarts_the_session() {
    restarts_the_session("ctrl_d_restarts_the_session", CTRL_D);
}

#[test]
fn exit_restarts_the_session() {
    restarts_the_session("exit_restarts_the_session", "exit()\r");
}

#[test]
fn segmentation_fault_restarts_process_1() {
    let mut guest = Guest::at_the_prompt("segmentation_fault_restarts_process_1");
    guest.send("import ctypes; ctypes.string_at(0)\r");
    guest.wait_for("Fatal Python error: Segmentation fault", ANSWER);
    guest.wait_for("most recent call first", ANSWER);
    guest.wait_for(PROMPT, tests::guest::BOOT);
    guest.ask("print(123457 * 8)", "987656");
}

#[test]
fn poweroff_ends_with_status_0() {
    let mut guest = Guest::at_the_prompt("poweroff_ends_with_status_0");
    guest.send("import piton; piton.poweroff()\r");
    let (status, text) = guest.finish(ANSWER);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn reboot_comes_back_to_the_prompt() {
    let mut guest = Guest::at_the_prompt("reboot_comes_back_to_the_prompt");
    guest.run("kept = 1");
    guest.send("import piton; piton.reboot()\r");
    guest.wait_for_prompt();
    guest.ask("print('known', 'kept' in globals())", "known False");
}

#[test]
fn process_1_cannot_be_stopped_or_ended() {
    let mut guest = Guest::at_the_prompt("process_1_cannot_be_stopped_or_ended");
    guest.run("import os; [os.kill(1, n) for n in (19, 20, 15, 9, 3)] and None");
    guest.ask("print('alive', 20 + 1)", "alive 21");
}

#[test]
fn standard_library_and_threads_work() {
    let mut guest = Guest::at_the_prompt("standard_library_and_threads_work");
    guest.ask("import ssl, sqlite3, ctypes, asyncio, decimal, threading, sys; print('ok', 1 + 1)", "ok 2");
    guest.ask("print(sys.version.split('.')[0], 'version')", "3 version");
    guest.run("found = []; worker = threading.Thread(target=lambda: found.append(6 * 7))");
    guest.ask("worker.start(); worker.join(); print('found', *found)", "found 42");
}
