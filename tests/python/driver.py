"""Runs files of CPython's own test suite on the machine and prints what came of each as a line of JSON.

Arguments: the time limit of a file in seconds, then the files. Each runs under CPython's `python3 -m test` in a process
of its own, with no resources (network, cpu, largefile, ...) enabled; single results come from its JUnit report.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

# How much of the output of a file that went wrong is shown, and how much of one traceback, in characters.
TAIL = 3000


def main():
    limit = float(sys.argv[1])
    for name in sys.argv[2:]:
        print("begin| " + json.dumps(name), flush=True)
        print("file| " + json.dumps(run(name, limit)), flush=True)
    print("end| null", flush=True)


def run(name, limit):
    """Runs one file and gives its counts and what failed."""
    result = {"name": name, "status": None, "passed": 0, "skipped": 0, "failed": {}}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        report, output = os.path.join(folder, "report.xml"), os.path.join(folder, "output")
        command = [sys.executable, "-m", "test", "--junit-xml", report, "--tempdir", folder, name]
        with open(output, "wb") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, cwd=folder, process_group=0
            )
            try:
                status = process.wait(limit)
                result["status"] = f"exit {status}" if status >= 0 else f"signal {-status}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                result["status"] = f"stopped after {limit:.0f} s"
        if os.path.exists(report):
            count(report, result)
        # 5: the whole file was skipped for want of something.
        if result["status"] not in ("exit 0", "exit 5") or result["failed"]:
            with open(output, errors="backslashreplace") as stream:
                result["output"] = stream.read()[-TAIL:]
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def count(report, result):
    """Takes the single results out of a JUnit report."""
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            result["failed"][case.get("name")] = (wrong[0].text or wrong[0].get("message") or "")[-TAIL:]
        elif case.find("skipped") is not None:
            result["skipped"] += 1
        else:
            result["passed"] += 1


main()
