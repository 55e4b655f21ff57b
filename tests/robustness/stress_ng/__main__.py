"""Runs Debian's stress-ng and trinity, which come in the archive, and tells what came of each part.

Arguments: seconds for each stressor, seconds for trinity, then the stressors to run (without any: all but UNFIT). Prints one
line for each: `name: outcome, seconds`. The end is `survived` when nothing is left behind that cannot be killed, and
memory is back to its level.
"""

import os
import signal
import subprocess
import sys
import time
import zipfile

HOME = "/tmp/stress"
# They fail for lack of what is not there, and find nothing but that.
UNFIT = {
    "cgroup": "no control groups to mount",
    "fpunch": "zeroes a range with fallocate(2), which no tmpfs can, and does not look whether it could",
    "handle": "no file handles",
    "physpage": "no /proc/PID/pagemap",
    "ptrace": "no ptrace(2)",
    "rawpkt": "no packet sockets",
    "swap": "no swap",
}
# What a stressor may take beyond its time until it is killed, in seconds, and the rest of them after that.
GRACE = 60
KILL_GRACE = 20
# Memory that may be gone at the end, in KiB: kernel caches that grew.
TOLERANCE_KIB = 16 * 1024
OUTCOMES = {0: "passed", 1: "not started", 2: "failed", 3: "no resources", 4: "not implemented", 5: "stopped", 6: "error", 7: "not verified"}


def memory_kib():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))


def unpack():
    with zipfile.ZipFile(os.path.abspath(sys.argv[0])) as archive:
        for name in archive.namelist():
            if name.startswith(("bin/", "lib/")):
                archive.extract(name, HOME)
    for name in os.listdir(f"{HOME}/bin"):
        os.chmod(f"{HOME}/bin/{name}", 0o755)
    os.environ["LD_LIBRARY_PATH"] = f"{HOME}/lib"
    os.makedirs(f"{HOME}/work", exist_ok=True)


def others():
    """Processes that are not this one's own, nor the kernel's."""
    mine = {1, os.getpid(), os.getppid()}
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]


def clear_away():
    """Ends whatever a stressor left; gives what does not end."""
    end = time.monotonic() + KILL_GRACE
    while (left := others()) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        time.sleep(0.05)
    return left


def run(command, seconds, **options):
    """The outcome of a command in a folder of its own: its status, what it printed, whether it was killed."""
    with open(f"{HOME}/output", "w+") as output:
        process = subprocess.Popen(command, cwd=f"{HOME}/work", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options)
        try:
            status = process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = None
        output.seek(0)
        return status, output.read()


def main():
    seconds, trinity_seconds, *wanted = sys.argv[1:]
    seconds, trinity_seconds = int(seconds), int(trinity_seconds)
    unpack()
    stress = f"{HOME}/bin/stress-ng"
    if not wanted:
        listed = subprocess.run([stress, "--stressors"], capture_output=True, text=True).stdout.split()
        wanted = [name for name in listed if name not in UNFIT]
    before = memory_kib()
    stuck = []
    for name in wanted:
        start = time.monotonic()
        command = [stress, f"--{name}", "1", "--timeout", f"{seconds}s", "--verify", "--temp-path", f"{HOME}/work", "--no-rand-seed"]
        status, text = run(command, seconds)
        outcome = "killed" if status is None else OUTCOMES.get(status, f"status {status}")
        print(f"{name}: {outcome}, {time.monotonic() - start:.0f} s, {memory_kib() - before:+} KiB", flush=True)
        if outcome not in ("passed", "not implemented", "no resources"):
            lines = [line for line in text.splitlines() if "fail" in line or "error" in line or "warn" in line]
            print("".join(f"    {line}\n" for line in lines[-6:]), end="", flush=True)
        stuck += clear_away()
    if trinity_seconds:
        start = time.monotonic()
        command = [f"{HOME}/bin/trinity", "-q", "-q", "-C", "4", "-N", "1000000", "-l", "off", "-s", "1"]
        # It refuses to run as root.
        os.chmod(f"{HOME}/work", 0o777)
        command = ["/usr/bin/timeout", "-s", "KILL", str(trinity_seconds), *command]
        status, text = run(command, trinity_seconds, user=65534, group=65534, extra_groups=[])
        print(f"trinity: status {status}, {time.monotonic() - start:.0f} s", flush=True)
        print("".join(f"    {line}\n" for line in text.splitlines()[-5:]), end="", flush=True)
        stuck += clear_away()
    subprocess.run(["/bin/sh", "-c", f"rm -rf {HOME}/work"])
    for _ in range(20):
        gone = before - memory_kib()
        if gone < TOLERANCE_KIB:
            break
        time.sleep(0.5)
    print(f"memory: {gone} KiB less than before; left: {stuck}", flush=True)
    if gone < TOLERANCE_KIB and not stuck:
        print("survived", flush=True)
    return 0 if gone < TOLERANCE_KIB and not stuck else 1


sys.exit(main())
