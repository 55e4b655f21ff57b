"""How threads share the CPUs: policies, priorities, nice values; what runs cannot be written."""

import ctypes
import os
import struct
import threading
import time

from harness import UNMAPPED, Timespec, check, ended, in_child, outcome, raw

NORMAL, FIFO, RR, BATCH, IDLE, DEADLINE = 0, 1, 2, 3, 5, 6
RESET = 0x40000000
PYTHON = "/usr/bin/python3"


def parameter(priority):
    return ctypes.byref(ctypes.c_int(priority))


def attributes(policy, nice=0, priority=0, flags=0, size=48):
    return struct.pack("<IIQiIQQQII", size, policy, flags, nice, priority, 0, 0, 0, 0, 0)


def read_attributes():
    buffer = ctypes.create_string_buffer(56)
    raw.sched_getattr(0, buffer, 56, 0)
    size, policy, flags, nice, priority = struct.unpack_from("<IIQiI", buffer)
    return size, policy, flags, nice, priority


@check
def policies_can_be_set_and_are_told():
    def child():
        result = []
        for policy, priority in ((FIFO, 1), (RR, 99), (BATCH, 0), (IDLE, 0), (NORMAL, 0), (FIFO | RESET, 5), (NORMAL, 0)):
            raw.sched_setscheduler(0, policy, parameter(priority))
            told = ctypes.c_int(-1)
            raw.sched_getparam(0, ctypes.byref(told))
            result.append((raw.sched_getscheduler(0), told.value))
        print(result, flush=True)

    return in_child(child)


@check
def scheduler_bad_arguments():
    def child():
        print(
            [outcome(raw.sched_setscheduler, 0, policy, parameter(priority)) for policy, priority in
             ((FIFO, 0), (FIFO, 100), (NORMAL, 1), (99, 0), (-1, 0), (4, 0))],
            outcome(raw.sched_setscheduler, -1, NORMAL, parameter(0)),
            outcome(raw.sched_setscheduler, 0x3FFFFFFF, NORMAL, parameter(0)),
            outcome(raw.sched_setscheduler, 0, NORMAL, None),
            outcome(raw.sched_setscheduler, 0, NORMAL, UNMAPPED),
            outcome(raw.sched_getscheduler, -1),
            outcome(raw.sched_getscheduler, 0x3FFFFFFF),
            outcome(raw.sched_getparam, 0, None),
            outcome(raw.sched_getparam, 0, UNMAPPED),
            outcome(raw.sched_setparam, 0, parameter(1)),
            outcome(raw.sched_setparam, 0, None),
            flush=True,
        )

    return in_child(child)


@check
def priority_bounds():
    calls = raw.sched_get_priority_min, raw.sched_get_priority_max
    return [[outcome(call, policy) for call in calls] for policy in (NORMAL, FIFO, RR, BATCH, 4, IDLE, DEADLINE, 99, -1)]


@check
def scheduling_attributes():
    def child():
        result = [read_attributes()]
        for policy, nice, priority, flags in ((NORMAL, 5, 0, 0), (RR, 0, 7, 0), (BATCH, 30, 0, 1), (NORMAL, 0, 0, 16 | 8)):
            result.append((outcome(raw.sched_setattr, 0, attributes(policy, nice, priority, flags), 0), read_attributes()))
        print(result)
        buffer = ctypes.create_string_buffer(64)
        print(
            outcome(raw.sched_setattr, 0, attributes(NORMAL), 1),
            outcome(raw.sched_setattr, 0, None, 0),
            outcome(raw.sched_setattr, 0, UNMAPPED, 0),
            outcome(raw.sched_setattr, 0, attributes(NORMAL, size=40), 0),
            outcome(raw.sched_setattr, 0, attributes(NORMAL, size=64) + b"\1" * 8, 0),
            outcome(raw.sched_setattr, 0, attributes(NORMAL, flags=1 << 40), 0),
            outcome(raw.sched_setattr, 0, attributes(99), 0),
            outcome(raw.sched_setattr, -1, attributes(NORMAL), 0),
            outcome(raw.sched_getattr, 0, buffer, 40, 0),
            outcome(raw.sched_getattr, 0, buffer, 48, 1),
            outcome(raw.sched_getattr, 0, None, 48, 0),
            outcome(raw.sched_getattr, 0, UNMAPPED, 48, 0),
            outcome(raw.sched_getattr, 0, buffer, 64, 0),
            outcome(raw.sched_getattr, 0x3FFFFFFF, buffer, 48, 0),
            flush=True,
        )

    return in_child(child)


@check
def round_robin_interval():
    value = Timespec()
    return (
        outcome(raw.sched_rr_get_interval, 0, value),
        value.tv_sec,
        outcome(raw.sched_rr_get_interval, -1, value),
        outcome(raw.sched_rr_get_interval, 0x3FFFFFFF, value),
        outcome(raw.sched_rr_get_interval, 0, UNMAPPED),
    )


@check
def nice_values():
    def child():
        first = raw.getpriority(0, 0)
        print(first, os.nice(5), raw.getpriority(0, os.getpid()), os.nice(-10), raw.getpriority(0, 0))
        print(os.nice(100), os.nice(-100), raw.getpriority(0, 0))
        os.setpriority(os.PRIO_PROCESS, 0, 3)
        if os.fork() == 0:
            os._exit(raw.getpriority(0, 0))
        print(ended(os.wait()[1]))
        own = []
        thread = threading.Thread(target=lambda: (raw.setpriority(0, 0, 9), own.append(raw.getpriority(0, 0))))
        thread.start()
        thread.join()
        print(own, raw.getpriority(0, 0), raw.getpriority(1, os.getpgrp()) >= 17, flush=True)

    return in_child(child)


@check
def nice_bad_arguments():
    def other():
        os.setresuid(1000, 1000, 1000)
        print(
            outcome(os.nice, -1),
            outcome(raw.setpriority, 0, 1, 5),
            outcome(raw.setpriority, 0, 0, -5),
            outcome(raw.sched_setscheduler, 0, FIFO, parameter(1)),
            outcome(raw.sched_setscheduler, 1, NORMAL, parameter(0)),
            outcome(raw.sched_setscheduler, 0, BATCH, parameter(0)),
            flush=True,
        )

    return (
        in_child(other),
        outcome(raw.getpriority, 3, 0),
        outcome(raw.getpriority, -1, 0),
        outcome(raw.getpriority, 0, 0x3FFFFFFF),
        outcome(raw.getpriority, 1, 0x3FFFFFFF),
        outcome(raw.setpriority, 3, 0, 0),
        outcome(raw.setpriority, 0, 0x3FFFFFFF, 0),
    )


@check
def nice_process_gets_less():
    reader, writer = os.pipe()
    children = []
    for nice in (0, 10):
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, {0})
            os.nice(nice)
            start, end = time.process_time(), time.monotonic() + 2
            while time.monotonic() < end:
                pass
            os.write(writer, struct.pack("<dd", nice, time.process_time() - start))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    used = dict(struct.iter_unpack("<dd", os.read(reader, 100)))
    return used[0] > 4 * used[10], used[10] > 0


@check
def input_output_priority():
    def child():
        result = [outcome(raw.ioprio_set, 1, 0, value) for value in (2 << 13 | 4, 1 << 13, 3 << 13, 0, 1, 4 << 13)]
        raw.ioprio_set(1, 0, 2 << 13 | 6)
        print(result, raw.ioprio_get(1, 0), flush=True)

    return (
        in_child(child),
        outcome(raw.ioprio_get, 0, 0),
        outcome(raw.ioprio_get, 4, 0),
        outcome(raw.ioprio_get, 1, 0x3FFFFFFF),
        outcome(raw.ioprio_set, 1, 0x3FFFFFFF, 2 << 13),
    )


def program(name):
    with open(name, "w") as file:
        file.write(f"#!{PYTHON}\nimport sys\nprint(sys.argv[0], sys.argv[1:])\n")
    os.chmod(name, 0o755)


@check
def script_open_for_writing_is_busy():
    program("written")
    writer = os.open("written", os.O_WRONLY)
    busy = outcome(os.execv, "./written", ["x"])
    os.close(writer)
    return busy, in_child(lambda: os.execv("./written", ["x", "free"]))


@check
def running_program_cannot_be_truncated():
    import shutil
    import subprocess

    shutil.copy(PYTHON, "running")
    os.chmod("running", 0o755)
    process = subprocess.Popen(
        ["./running", "-c", "print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONHOME": "/usr"},
    )
    process.stdout.readline()
    result = outcome(os.truncate, "running", 0), outcome(os.open, "running", os.O_RDWR), outcome(os.open, "running", os.O_RDONLY) > 0
    process.communicate(b"\n")
    return result, outcome(os.truncate, "running", 0)


@check
def execveat_names():
    program("named")
    folder = os.open(".", os.O_RDONLY)
    file = os.open("named", os.O_RDONLY)
    arguments = (ctypes.c_char_p * 3)(b"zero", b"one", None)
    environment = (ctypes.c_char_p * 1)(None)
    os.symlink("named", "link")

    def run(fd, name, flags, inheritable):
        os.set_inheritable(fd, inheritable)
        # A descriptor's number, which the name has, is the same in every run only where it is chosen.
        os.dup2(fd, 70, inheritable=inheritable)
        return raw.execveat(70, name, arguments, environment, flags)

    empty, nofollow = 0x1000, 0x100
    return (
        in_child(lambda: outcome(run, file, b"", empty, True) and 0),
        in_child(lambda: run(file, b"", empty, False)),
        in_child(lambda: outcome(run, folder, b"named", 0, True) and 0),
        in_child(lambda: run(folder, b"link", nofollow, True)),
        in_child(lambda: run(folder, b"", 0, True)),
        in_child(lambda: run(folder, b"", empty, True)),
        in_child(lambda: run(folder, b"named", 1, True)),
    )
