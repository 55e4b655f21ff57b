"""The newer futex calls: futex_waitv, futex_wait, futex_wake, futex_requeue."""

import ctypes
import mmap
import os
import signal
import struct
import threading
import time

from harness import NS, UNMAPPED, Timespec, check, outcome, raw

U8, U16, U32, U64, PRIVATE = 0, 1, 2, 3, 128
LOCAL = U32 | PRIVATE
REALTIME, MONOTONIC, BOOTTIME = 0, 1, 7
ANY = 0xFFFF_FFFF


class Words:
    """Words to wait for, in memory of this process or shared with its children."""

    def __init__(self, *values, shared=False):
        self.memory = mmap.mmap(-1, 4096, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.words = (ctypes.c_uint32 * len(values)).from_buffer(self.memory)
        self.words[:] = values

    def at(self, index=0):
        return ctypes.addressof(self.words) + 4 * index


def entries(*items, flags=LOCAL):
    """`struct futex_waitv` of pairs of address and value."""
    return b"".join(struct.pack("<QQII", value, address, flags, 0) for address, value in items)


def soon(seconds=20.0, clock=MONOTONIC):
    value = Timespec()
    raw.clock_gettime(clock, value)
    end = value.tv_sec * NS + value.tv_nsec + int(seconds * NS)
    return Timespec(end // NS, end % NS)


def in_thread(function, *arguments):
    """Starts a call in a thread; what it gives is in the list when that has ended."""
    result = []
    thread = threading.Thread(target=lambda: result.append(outcome(function, *arguments)))
    thread.start()
    return thread, result


def until(call, wanted):
    """Repeats a call until it gives this: who waits may not have come yet."""
    end = time.monotonic() + 20
    while (got := call()) != wanted and time.monotonic() < end:
        time.sleep(0.005)
    return got


@check
def waiter_is_woken():
    words = Words(7)
    thread, result = in_thread(raw.futex_wait, words.at(), 7, ANY, LOCAL, soon(), MONOTONIC)
    woken = until(lambda: raw.futex_wake(words.at(), ANY, 5, LOCAL), 1)
    thread.join()
    return woken, result, raw.futex_wake(words.at(), ANY, 5, LOCAL)


@check
def old_and_new_calls_meet():
    words = Words(7)
    thread, result = in_thread(raw.futex_wait, words.at(), 7, ANY, LOCAL, None, MONOTONIC)
    woken = until(lambda: raw.futex(words.at(), 1 | 128, 1, None, None, 0), 1)
    thread.join()
    other, later = in_thread(raw.futex, words.at(), 0 | 128, 7, None, None, 0)
    again = until(lambda: raw.futex_wake(words.at(), ANY, 1, LOCAL), 1)
    other.join()
    return woken, result, again, later


@check
def masks_choose_waiters():
    words = Words(1)
    thread, result = in_thread(raw.futex_wait, words.at(), 1, 0b0110, LOCAL, soon(), MONOTONIC)
    time.sleep(0.05)
    missed = raw.futex_wake(words.at(), 0b1001, 1, LOCAL)
    woken = until(lambda: raw.futex_wake(words.at(), 0b0100, 1, LOCAL), 1)
    thread.join()
    return missed, woken, result


@check
def number_of_the_woken():
    words = Words(1)
    threads = [in_thread(raw.futex_wait, words.at(), 1, ANY, LOCAL, soon(), MONOTONIC) for _ in range(4)]
    none = raw.futex_wake(words.at(), ANY, 0, LOCAL)
    total = 0
    while total < 4:
        woken = raw.futex_wake(words.at(), ANY, -1, LOCAL)
        total += woken
        if woken > 1:
            break
        time.sleep(0.002)
    for thread, _ in threads:
        thread.join()
    return none, total, [result for _, result in threads]


@check
def old_wake_of_none_wakes_one():
    words = Words(1)
    thread, result = in_thread(raw.futex_wait, words.at(), 1, ANY, LOCAL, soon(), MONOTONIC)
    woken = until(lambda: raw.futex(words.at(), 1 | 128, 0, None, None, 0), 1)
    thread.join()
    return woken, result


@check
def waits_end_in_time():
    words = Words(1)
    start = time.monotonic()
    results = [
        outcome(raw.futex_wait, words.at(), 1, ANY, LOCAL, soon(0.05, clock), clock) for clock in (MONOTONIC, REALTIME)
    ]
    results.append(outcome(raw.futex_waitv, entries((words.at(), 1)), 1, 0, soon(0.05), MONOTONIC))
    past = outcome(raw.futex_wait, words.at(), 1, ANY, LOCAL, Timespec(0, 0), MONOTONIC)
    return results, past, 0.15 <= time.monotonic() - start < 10


@check
def other_value_is_not_waited_for():
    words = Words(1, 2)
    return (
        outcome(raw.futex_wait, words.at(), 2, ANY, LOCAL, soon(), MONOTONIC),
        outcome(raw.futex_waitv, entries((words.at(0), 1), (words.at(1), 1)), 2, 0, soon(), MONOTONIC),
        raw.futex_wake(words.at(0), ANY, 9, LOCAL),
    )


@check
def first_of_several_ends_the_wait():
    result = []
    for index in (0, 2, 4):
        words = Words(1, 2, 3, 4, 5)
        list_ = entries(*((words.at(i), i + 1) for i in range(5)))
        thread, woken = in_thread(raw.futex_waitv, list_, 5, 0, soon(), MONOTONIC)
        result.append(until(lambda: raw.futex_wake(words.at(index), ANY, 1, LOCAL), 1))
        thread.join()
        result.append((woken, [raw.futex_wake(words.at(i), ANY, 1, LOCAL) for i in range(5)]))
    return result


@check
def same_word_can_be_waited_for_twice():
    words = Words(1)
    thread, woken = in_thread(raw.futex_waitv, entries((words.at(), 1), (words.at(), 1)), 2, 0, soon(), MONOTONIC)
    count = until(lambda: raw.futex_wake(words.at(), ANY, 1, LOCAL), 1)
    thread.join()
    return count, woken[0] in (0, 1)


@check
def shared_words_work_between_processes():
    words = Words(1, 1, shared=True)
    child = os.fork()
    if child == 0:
        got = raw.futex_waitv(entries((words.at(0), 1), (words.at(1), 1), flags=U32), 2, 0, soon(), MONOTONIC)
        os._exit(10 + got)
    woken = until(lambda: raw.futex_wake(words.at(1), ANY, 1, U32), 1)
    return woken, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@check
def waiters_are_moved():
    words = Words(1, 2)
    threads = [in_thread(raw.futex_wait, words.at(0), 1, ANY, LOCAL, soon(), MONOTONIC) for _ in range(3)]
    both = entries((words.at(0), 1), (words.at(1), 2))
    touched = 0
    end = time.monotonic() + 20
    while touched < 3 and time.monotonic() < end:
        touched += raw.futex_requeue(both, 0, 0, 9)
        time.sleep(0.002)
    woken = raw.futex_wake(words.at(0), ANY, 9, LOCAL), raw.futex_wake(words.at(1), ANY, 9, LOCAL)
    for thread, _ in threads:
        thread.join()
    return touched, woken, [result for _, result in threads]


@check
def signal_interrupts():
    words = Words(1)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        for _ in range(100):
            time.sleep(0.05)
            os.kill(parent, signal.SIGUSR1)
        os._exit(0)
    results = (
        outcome(raw.futex_wait, words.at(), 1, ANY, LOCAL, None, MONOTONIC),
        outcome(raw.futex_waitv, entries((words.at(), 1)), 1, 0, None, MONOTONIC),
    )
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return results


@check
def bad_arguments_are_refused():
    words = Words(1, 2)
    at = words.at()
    end = soon()
    return {
        "wake size": [outcome(raw.futex_wake, at, ANY, 1, size) for size in (U8, U16, U64)],
        "wake flags": [outcome(raw.futex_wake, at, ANY, 1, U32 | flag) for flag in (16, 64, 256, 1 << 31)],
        "wake mask": [outcome(raw.futex_wake, at, mask, 1, LOCAL) for mask in (0, 1 << 32)],
        "wake address": [outcome(raw.futex_wake, address, ANY, 1, LOCAL) for address in (at + 1, at + 2)],
        "wait size": outcome(raw.futex_wait, at, 1, ANY, U8, end, MONOTONIC),
        "wait value": outcome(raw.futex_wait, at, 1 << 32, ANY, LOCAL, end, MONOTONIC),
        "wait mask": [outcome(raw.futex_wait, at, 1, mask, LOCAL, end, MONOTONIC) for mask in (0, 1 << 32)],
        "wait clock": [outcome(raw.futex_wait, at, 1, ANY, LOCAL, end, clock) for clock in (BOOTTIME, 99)],
        "clock without time": outcome(raw.futex_wait, at, 5, ANY, LOCAL, None, 99),
        "wait time": [outcome(raw.futex_wait, at, 1, ANY, LOCAL, Timespec(*t), MONOTONIC) for t in ((-1, 0), (0, NS))],
        "wait time address": outcome(raw.futex_wait, at, 1, ANY, LOCAL, UNMAPPED, MONOTONIC),
        "wait address": [outcome(raw.futex_wait, address, 1, ANY, LOCAL, end, MONOTONIC) for address in (at + 1, UNMAPPED)],
        "waitv count": [outcome(raw.futex_waitv, entries((at, 1)), n, 0, end, MONOTONIC) for n in (0, 129, -1)],
        "waitv flags": outcome(raw.futex_waitv, entries((at, 1)), 1, 1, end, MONOTONIC),
        "waitv list": [outcome(raw.futex_waitv, list_, 1, 0, end, MONOTONIC) for list_ in (None, UNMAPPED)],
        "waitv entry flags": outcome(raw.futex_waitv, entries((at, 1), flags=256), 1, 0, end, MONOTONIC),
        "waitv entry size": outcome(raw.futex_waitv, entries((at, 1), flags=U64), 1, 0, end, MONOTONIC),
        "waitv reserved": outcome(raw.futex_waitv, struct.pack("<QQII", 1, at, LOCAL, 1), 1, 0, end, MONOTONIC),
        "waitv value": outcome(raw.futex_waitv, entries((at, 1 << 32)), 1, 0, end, MONOTONIC),
        "waitv word": [outcome(raw.futex_waitv, entries((a, 1)), 1, 0, end, MONOTONIC) for a in (at + 1, UNMAPPED)],
        "waitv clock": outcome(raw.futex_waitv, entries((at, 1)), 1, 0, end, BOOTTIME),
        "requeue flags": outcome(raw.futex_requeue, entries((at, 1), (words.at(1), 2)), 1, 1, 1),
        "requeue list": [outcome(raw.futex_requeue, list_, 0, 1, 1) for list_ in (None, UNMAPPED)],
        "requeue value": outcome(raw.futex_requeue, entries((at, 9), (words.at(1), 2)), 0, 1, 1),
        "requeue numbers": [
            outcome(raw.futex_requeue, entries((at, 1), (words.at(1), 2)), 0, *numbers) for numbers in ((-1, 1), (1, -1))
        ],
        "requeue unlike": outcome(raw.futex_requeue, entries((at, 1)) + entries((words.at(1), 2), flags=U32), 0, 1, 1),
    }
