//! Host files run on the machine: output, arguments, input and exit status.

use tests::script::{Outcome, run};

/// Far more than a script here takes.
const SECONDS: u32 = 120;

fn plain(name: &str, source: &str) -> Outcome {
    run(name, source, &[], "", SECONDS)
}

#[test]
fn script_that_ends_gives_0() {
    let outcome = plain("script_that_ends_gives_0", "print('hello', 'world', sep='-')\n");
    outcome.expect_status(0);
    assert_eq!(outcome.output, "hello-world\n");
}

#[test]
fn system_exit_gives_its_status() {
    plain("system_exit_gives_its_status", "raise SystemExit(7)\n").expect_status(7);
}

#[test]
fn uncaught_exception_gives_1_and_its_traceback() {
    let outcome = plain("uncaught_exception_gives_1", "raise ValueError('the cause')\n");
    outcome.expect_status(1);
    outcome.expect_output("Traceback (most recent call last)");
    outcome.expect_output("ValueError: the cause");
}

#[test]
fn segmentation_fault_gives_139_and_its_traceback() {
    let outcome = plain("segmentation_fault_gives_139", "import ctypes\nctypes.string_at(0)\n");
    outcome.expect_status(139);
    outcome.expect_output("Segmentation fault");
}

#[test]
fn kernel_panic_gives_101_and_a_symbolised_backtrace() {
    let source = "print('before')\nopen('/proc/sysrq-trigger', 'w').write('c')\n";
    let outcome = plain("kernel_panic_gives_101", source);
    outcome.expect_status(101);
    outcome.expect_output("kernel panic: asked for through /proc/sysrq-trigger");
    outcome.expect_output("kernel::syscall::file_io::sys_write");
}

#[test]
fn time_limit_gives_124() {
    let source = "print('begun', flush=True)\nwhile True: pass\n";
    let outcome = run("time_limit_gives_124", source, &[], "", 20);
    outcome.expect_status(124);
    outcome.expect_output("begun");
    assert!(outcome.errors.contains("--timeout"), "{}", outcome.errors);
}

#[test]
fn script_gets_its_name_and_arguments() {
    let source = "import sys, os\nprint(os.path.basename(sys.argv[0]), sys.argv[1:])\n";
    let outcome = run("argument_script", source, &["-x", "a b", "c,d", "ü"], "", SECONDS);
    outcome.expect_status(0);
    outcome.expect_output("argument_script.py ['-x', 'a b', 'c,d', 'ü']");
}

#[test]
fn script_reads_standard_input() {
    let outcome = run("script_reads_standard_input", "print(int(input()) * 2)\n", &[], "21\n", SECONDS);
    outcome.expect_status(0);
    outcome.expect_output("42");
}

#[test]
fn script_sees_the_end_of_standard_input() {
    let source = "import sys\nprint('sum', sum(map(int, sys.stdin)))\n";
    let outcome = run("script_sees_the_end_of_standard_input", source, &[], "11\n31\n", SECONDS);
    outcome.expect_status(0);
    outcome.expect_output("sum 42");
}

#[test]
fn input_beyond_the_terminal_s_room_waits() {
    let source = "import sys, time\ntime.sleep(1)\nlines = sys.stdin.read().split()\n\
                  print('whole', lines == [f'{n:09}' for n in range(2000)], len(lines))\n";
    let input: String = (0..2000).map(|number| format!("{number:09}\n")).collect();
    let outcome = run("input_beyond_the_terminal_s_room_waits", source, &[], &input, SECONDS);
    outcome.expect_output("whole True 2000");
}

#[test]
fn unknown_script_is_named_in_one_line() {
    let output = std::process::Command::new(board::workspace::cargo())
        .args(["board", "run", "qemu-virt", "--script", "/nonexistent/f.py"])
        .current_dir(board::workspace::root())
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("/nonexistent/f.py"), "{errors}");
}

#[test]
fn machine_survives_hostile_programs() {
    /// They fill all memory several times.
    const HOSTILE_SECONDS: u32 = 3 * SECONDS;
    let source = include_str!("hostile.py");
    let outcome = run("machine_survives_hostile_programs", source, &[], "", HOSTILE_SECONDS);
    outcome.expect_status(0);
    outcome.expect_output("survived");
    assert!(!outcome.output.contains("FAILED"), "{}", outcome.output);
}

#[test]
fn unpacked_files_give_way_to_programs() {
    let source = include_str!("cache.py");
    let outcome = run("unpacked_files_give_way_to_programs", source, &[], "", 3 * SECONDS);
    outcome.expect_status(0);
    outcome.expect_output("same");
    assert!(!outcome.output.contains("FAILED"), "{}", outcome.output);
}

#[test]
fn kernel_s_state_is_seen() {
    let outcome = plain("kernel_s_state_is_seen", include_str!("kernel_view.py"));
    outcome.expect_status(0);
    outcome.expect_output("seen 1 processes");
}
