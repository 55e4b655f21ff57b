//! Machines with four CPUs: all of them come up, share the work, and are where a program asks to be.

use board::launch::Options;
use tests::{
    Guest, guest,
    script::{Outcome, run_on},
    tree,
};

/// Far more than a script here takes.
const SECONDS: u32 = 180;

fn on_four(name: &str, gic: &str, source: &str) -> Outcome {
    run_on(name, &["--cpus", "4", "--gic", gic], source, &[], "", SECONDS)
}

const COUNTS: &str = "
import os
lines = open('/proc/stat').read().splitlines()
print(os.cpu_count(), os.process_cpu_count(), sorted(os.sched_getaffinity(0)))
print(open('/sys/devices/system/cpu/online').read().strip(), open('/sys/devices/system/cpu/present').read().strip())
print(sum(line.startswith('processor') for line in open('/proc/cpuinfo')))
print([line.split()[0] for line in lines if line.startswith('cpu')])
";

#[test]
fn four_cpus_are_counted() {
    for gic in ["2", "3"] {
        let outcome = on_four(&format!("four_cpus_are_counted_gicv{gic}"), gic, COUNTS);
        outcome.expect_status(0);
        assert_eq!(outcome.output, "4 4 [0, 1, 2, 3]\n0-3 0-3\n4\n['cpu', 'cpu0', 'cpu1', 'cpu2', 'cpu3']\n");
    }
}

/// Whether all CPUs work is seen in their own times: the host may have fewer, so the clock on the wall says nothing.
const SHARED: &str = "
import os, time
def busy():
    rows = [line.split() for line in open('/proc/stat') if line.startswith('cpu') and line[3] != ' ']
    return [int(row[1]) for row in rows]
before, started = busy(), time.monotonic()
for _ in range(4):
    if os.fork() == 0:
        while time.monotonic() < started + 2: pass
        os._exit(0)
for _ in range(4): os.wait()
spent = [after - before for after, before in zip(busy(), before)]
print('all busy' if min(spent) >= 100 else spent)
";

#[test]
fn four_cpus_share_the_work() {
    let outcome = on_four("four_cpus_share_the_work", "2", SHARED);
    outcome.expect_status(0);
    assert_eq!(outcome.output, "all busy\n");
}

/// The largest process waits for a file's position, which another has that needs memory: neither waits for the other's
/// end for ever.
const IN_LINE: &str = "
import mmap, os, time
file = os.open('/tmp', os.O_TMPFILE | os.O_RDWR)
os.ftruncate(file, 1 << 34)
with open('/proc/meminfo') as info:
    free = next(int(line.split()[1]) for line in info if line.startswith('MemFree')) << 10
large = os.fork()
if large == 0:
    kept = b'x' * (free * 2 // 3)
    while True:
        os.read(file, 1)
time.sleep(4)
small = os.fork()
if small == 0:
    os.readv(file, [mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)])
print(sorted([os.wait(), os.wait()]) == sorted([(large, 9), (small, 9)]))
";

#[test]
fn process_that_waits_in_line_is_ended_for_memory() {
    let outcome = on_four("process_that_waits_in_line_is_ended_for_memory", "2", IN_LINE);
    outcome.expect_status(0);
    assert!(outcome.output.ends_with("True\n"), "{}", outcome.output);
}

/// Jobs of the stress test that once found what only several CPUs show.
#[test]
fn waits_and_timers_are_not_lost() {
    let source = include_str!("../stress/cpus.py");
    let arguments = ["10", "requeues", "timer_files"];
    let outcome = run_on("waits_and_timers_are_not_lost", &["--cpus", "4"], source, &arguments, "", SECONDS);
    outcome.expect_status(0);
}

/// Groups that fork as fast as they can are ended by one signal, whatever each fork has come to by then.
const GROUPS: &str = "
import ctypes, os, signal, time
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
left = 0
for number in range(150):
    leader = os.fork()
    if leader == 0:
        os.setpgid(0, 0)
        for _ in range(200):
            if os.fork() == 0: break
        while True: signal.pause()
    try: os.setpgid(leader, leader)
    except ProcessLookupError: pass
    time.sleep(0.002 + number % 30 * 0.001)
    os.killpg(leader, signal.SIGKILL)
    deadline = time.monotonic() + 5
    try:
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    left += 1
                    os.killpg(leader, signal.SIGKILL)
                time.sleep(0.001)
    except ChildProcessError:
        pass
print('left', left)
";

#[test]
fn group_signal_reaches_who_is_just_being_made() {
    let outcome = on_four("group_signal_reaches_who_is_just_being_made", "2", GROUPS);
    outcome.expect_status(0);
    assert_eq!(outcome.output, "left 0\n");
}

const PLACED: &str = "
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None)
for cpu in [3, 0, 2, 1] * 20:
    os.sched_setaffinity(0, {cpu})
    assert libc.sched_getcpu() == cpu
pid = os.fork()
if pid == 0:
    assert os.sched_getaffinity(0) == {1} and libc.sched_getcpu() == 1
    while True: pass
time.sleep(0.05)
# A busy program on another CPU is moved, stopped and ended at once.
os.sched_setaffinity(0, {0})
os.sched_setaffinity(pid, {3})
time.sleep(0.05)
print(open(f'/proc/{pid}/stat').read().rsplit(')')[1].split()[36], end=' ')
os.kill(pid, signal.SIGSTOP)
print(os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]), end=' ')
os.kill(pid, signal.SIGKILL)
print(os.waitpid(pid, 0)[1])
# Each thread has its own.
os.sched_setaffinity(0, {0, 1, 2, 3})
seen = {}
def place(cpu):
    os.sched_setaffinity(0, {cpu})
    seen[cpu] = libc.sched_getcpu()
threads = [threading.Thread(target=place, args=(cpu,)) for cpu in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(seen == {cpu: cpu for cpu in range(4)}, len(os.sched_getaffinity(0)))
";

#[test]
fn threads_run_where_they_are_told_to() {
    let outcome = on_four("threads_run_where_they_are_told_to", "3", PLACED);
    outcome.expect_status(0);
    assert_eq!(outcome.output, "3 True 9\nTrue 4\n");
}

/// One CPU that nobody knows how to start, one that is told to by a spin table that nobody looks at, one that is not to
/// be used: the machine runs on the fourth.
#[test]
fn cpus_that_do_not_come_are_a_warning() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("odd-cpus.dtb");
    let machine = || Options { cpus: Some(4), ..Options::default() };
    tree::dump_for(&file, machine());
    tree::set_text(&file, "/cpus/cpu@1", "enable-method", "nonsense");
    tree::set_text(&file, "/cpus/cpu@2", "enable-method", "spin-table");
    tree::set_cells(&file, "/cpus/cpu@2", "cpu-release-addr", &["0", "5f000008"]);
    tree::set_text(&file, "/cpus/cpu@3", "status", "disabled");
    tree::reserve_page(&file, 0x5f00_0000);
    let mut guest = Guest::boot("cpus_that_do_not_come", Options { dtb: Some(file), ..machine() });
    guest.wait_for("CPU 1 (0x1): enable-method \"nonsense\" is not known", guest::BOOT);
    guest.wait_for("CPU 2 (0x2): it was told to start and did not come", guest::BOOT);
    guest.wait_for_prompt();
    guest.ask("import os; print('it has', os.cpu_count())", "it has 1");
    guest.ask("print('offline', open('/sys/devices/system/cpu/offline').read())", "offline 1-2");
}

#[test]
fn panic_stops_the_other_cpus() {
    let source = "
import os, time
for _ in range(3):
    if os.fork() == 0:
        while True: print('busy')
time.sleep(0.5)
open('/proc/sysrq-trigger', 'w').write('c')
";
    let outcome = on_four("panic_stops_the_other_cpus", "2", source);
    outcome.expect_status(101);
    let report = outcome.output.split("piton: kernel panic: ").nth(1).unwrap_or_default();
    assert!(report.contains("backtrace:") && !report.contains("busy"), "{}", outcome.output);
}

#[test]
fn kernel_s_state_is_seen_on_each() {
    let outcome = on_four("kernel_s_state_is_seen_on_each", "3", include_str!("kernel_view.py"));
    outcome.expect_status(0);
    outcome.expect_output("seen 1 processes");
}
