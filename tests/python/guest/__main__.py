"""Runs files of CPython's own test suite in a guest, one after the other as the host asks for them.

The host writes a line with a command; every answer is a line: a word, `| ` and JSON. After each answer comes `ready`.

    list              `list`: the names of all files
    run NAME LIMIT    `begin`: the name; `file`: what came of it
    again             the last answer once more, when the console has spoilt it
    end               the machine goes off

Each file runs under CPython's `python3 -m test` in a session of its own with no terminal. After LIMIT seconds regrtest
prints where every thread is and gives up; should it not, everything is killed a little later. What a file leaves behind
is killed and removed before the next one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from xml.etree import ElementTree

# How much of the output of a file that went wrong is shown, and how much of one traceback, in characters.
TAIL = 3000
# How long after its limit a file is killed, and how long what is killed may take to end, in seconds.
MARGIN = 20
DEATH = 20
# The same on all systems, whatever process 1 was given.
ENVIRONMENT = {
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "linux",
}
# What the kernel is asked for but not by default: terminals, and calls that wait. Not network, cpu, largefile, gui, ...
RESOURCES = "curses,walltime"
# Emptied after each file.
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/root")
# One entry of unittest's list of what went wrong. A test with subtests that fail is not named in the JUnit report.
WRONG = re.compile(r"^={70}\n(?:FAIL|ERROR): (.+)\n(?:.*\n)??-{70}\n((?:(?!={70}$|-{70}$).*\n)*)", re.MULTILINE)


def main():
    attributes = termios.tcgetattr(0)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, attributes)
    answer = "null", None
    say("ready", None)
    for line in sys.stdin:
        match line.split():
            case ["list"]:
                answer = "list", list_files()
            case ["run", name, limit]:
                say("begin", name)
                answer = "file", run(name, float(limit))
            case ["again"]:
                pass
            case ["end"]:
                break
            case _:
                answer = "unknown", line
        say(*answer)
        say("ready", None)


def say(word, value):
    sys.stdout.write(f"{word}| {json.dumps(value)}\n")
    sys.stdout.flush()


def list_files():
    command = [sys.executable, "-m", "test", "--list-tests"]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout.split()


def run(name, limit):
    """Runs one file and gives its single results."""
    result = {"name": name, "status": "", "passed": [], "skipped": {}, "failed": {}, "output": "", "clean": True}
    folder = tempfile.mkdtemp(dir="/tmp")
    report, output = os.path.join(folder, "report.xml"), os.path.join(folder, "output")
    # -W: a file that fails shows its output, so that what goes wrong outside of a test and in subtests is seen.
    options = ["-W", "-u", RESOURCES, "--timeout", str(limit), "--junit-xml", report, "--tempdir", folder]
    command = [sys.executable, "-m", "test", *options, name]
    start = time.monotonic()
    with open(output, "wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit + MARGIN)
            result["status"] = f"exit {status}" if status >= 0 else f"signal {-status}"
        except subprocess.TimeoutExpired:
            process.kill()
        result["seconds"] = round(time.monotonic() - start, 1)
        # The file's whole output counts, so what still writes to it must end first.
        result["clean"] = kill_all()
    with open(output, errors="backslashreplace") as stream:
        text = stream.read()
    # regrtest ends with 1 after it has printed where the threads are.
    timeout = re.search(r"^Timeout \(\d", text, re.MULTILINE) if result["status"] == "exit 1" else None
    if not result["status"] or timeout:
        result["status"] = f"stopped after {limit:.0f} s"
    if os.path.exists(report):
        read_report(report, result)
    for test, traceback in WRONG.findall(text):
        # `test_name (test.test_file.Class.test_name) (i=1)`
        full = re.match(r"\S+ \((test\.[\w.]+\.\w+)\)", test) if not test.startswith("setUp") else None
        result["failed"].setdefault(full[1] if full else test, traceback[-TAIL:])
    if result["status"] != "exit 0":
        result["output"] = text[timeout.start() :][:TAIL] if timeout else text[-TAIL:]
    for folder in FOLDERS:
        empty(folder)
    return result


def read_report(report, result):
    """Takes the single results out of a JUnit report."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name")
        wrong = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if name is None:
            continue
        if wrong:
            result["failed"][name] = (wrong[0].text or wrong[0].get("message") or "")[-TAIL:]
        elif skipped is not None:
            result["skipped"][name] = skipped.text or ""
        else:
            result["passed"].append(name)


def kill_all():
    """Kills all processes but process 1 and this one. Answers whether they have ended."""
    deadline = time.monotonic() + DEATH
    while time.monotonic() < deadline:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return True
        try:
            # Children of our own, and as process 1 also orphans.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        if not any(map(is_alive, filter(str.isdigit, os.listdir("/proc")))):
            return True
        time.sleep(0.05)
    return False


def is_alive(pid):
    """Whether this is a process that should have been killed."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            # proc_pid_stat(5): behind the name, which may hold anything, state and parent. Kernel threads are 2's.
            state, parent = stream.read().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" and int(pid) not in (1, 2, os.getpid()) and parent != "2"


def empty(folder):
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--linux"] and os.getpid() == 1:
        import linux_guest

        linux_guest.run(sys.argv[2:])
    main()
