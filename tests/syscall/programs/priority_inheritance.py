"""Locks that pass priorities on: who gets them next, and how fast who has them comes on."""

import ctypes
import mmap
import os
import signal
import time

from harness import NS, Timespec, check, in_child, outcome, raw

LOCK_PI, UNLOCK_PI = 6, 7
WAITERS = 0x80000000
OTHER, FIFO, RR, IDLE = 0, 1, 2, 5


class Memory:
    """Words that children share."""

    def __init__(self, count):
        self.memory = mmap.mmap(-1, 4096)
        self.words = (ctypes.c_uint32 * count).from_buffer(self.memory)

    def at(self, index):
        return ctypes.addressof(self.words) + 4 * index

    def lock(self, index, seconds=60):
        end = time.clock_gettime_ns(time.CLOCK_REALTIME) + seconds * NS
        return outcome(raw.futex, self.at(index), LOCK_PI, 0, Timespec(end // NS, end % NS), None, 0)

    def unlock(self, index):
        return outcome(raw.futex, self.at(index), UNLOCK_PI, 0, None, None, 0)


def policy(kind, priority=0):
    os.sched_setscheduler(0, kind, os.sched_param(priority))


def child(function):
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return pid


def sleeping(pid):
    """Waits until a process sleeps in the kernel."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "S":
            break
        time.sleep(0.01)
    time.sleep(0.05)


def take_turns(waiters, between=lambda pids: None):
    """The order in which waiters that came in this order get a lock."""
    memory = Memory(1)
    reader, writer = os.pipe()
    memory.lock(0)

    def wait(name, kind, priority):
        policy(kind, priority)
        got = memory.lock(0)
        os.write(writer, name.encode() if got == 0 else b"?")
        memory.unlock(0)

    pids = []
    for name, kind, priority in waiters:
        pids.append(child(lambda: wait(name, kind, priority)))
        sleeping(pids[-1])
    between(pids)
    memory.unlock(0)
    for pid in pids:
        os.waitpid(pid, 0)
    return os.read(reader, 100).decode()


@check
def equals_come_in_turn():
    return take_turns([(name, OTHER, 0) for name in "abcd"])


@check
def higher_priorities_come_first():
    return take_turns([("a", OTHER, 0), ("b", FIFO, 10), ("c", RR, 50), ("d", FIFO, 30), ("e", OTHER, 0), ("f", RR, 50)])


@check
def nice_values_do_not_count():
    return take_turns([("a", OTHER, 0), ("b", IDLE, 0), ("c", OTHER, 0)])


@check
def priority_can_change_while_waiting():
    def between(pids):
        os.sched_setscheduler(pids[2], FIFO, os.sched_param(90))
        os.sched_setscheduler(pids[1], OTHER, os.sched_param(0))

    return take_turns([("a", OTHER, 0), ("b", FIFO, 10), ("c", OTHER, 0), ("d", FIFO, 20)], between)


def time_to_get_the_lock(steps):
    """How long a waiter with a real-time priority waits for an owner that would hardly run beside others, if each of the
    steps between them is a lock."""
    os.sched_setaffinity(0, {0})
    memory = Memory(steps)
    reader, writer = os.pipe()
    pids = []

    def owner():
        memory.lock(0)
        policy(IDLE)
        os.write(writer, b"1")
        while not memory.words[steps - 1] & WAITERS or memory.words[0] & WAITERS == 0:
            time.sleep(0.01)
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        memory.unlock(0)

    def between(step):
        memory.lock(step)
        os.write(writer, b"1")
        memory.lock(step - 1)
        memory.unlock(step - 1)
        memory.unlock(step)

    pids.append(child(owner))
    os.read(reader, 1)
    for step in range(1, steps):
        pids.append(child(lambda: between(step)))
        os.read(reader, 1)
        sleeping(pids[-1])

    def hog():
        while True:
            pass

    hogs = [child(hog) for _ in range(3)]

    def waiter():
        policy(FIFO, 50)
        start = time.monotonic()
        got = memory.lock(steps - 1)
        memory.unlock(steps - 1)
        return 1 if got == 0 and time.monotonic() - start < 8 else 2

    result = os.waitstatus_to_exitcode(os.waitpid(child(waiter), 0)[1])
    for pid in hogs:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for pid in pids:
        os.waitpid(pid, 0)
    return result


@check
def owner_runs_for_who_waits():
    return in_child(lambda: time_to_get_the_lock(1))


@check
def who_the_owner_waits_for_runs_too():
    return in_child(lambda: time_to_get_the_lock(3))
