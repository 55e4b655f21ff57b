"""Clocks, sleeping, timers."""

import ctypes
import os
import select
import signal
import struct
import threading
import time

from harness import NS, UNMAPPED, Timespec, check, outcome, raw

CLOCKS = {"realtime": 0, "monotonic": 1, "process": 2, "thread": 3, "raw": 4, "realtime coarse": 5, "monotonic coarse": 6, "boot": 7}


def now(clock):
    value = Timespec()
    raw.clock_gettime(clock, value)
    return value.tv_sec * NS + value.tv_nsec


@check
def clocks_go_forward():
    result = {}
    for name, clock in CLOCKS.items():
        first = now(clock)
        result[name] = first >= 0 and now(clock) >= first
    return result


@check
def clock_bad_arguments():
    value = Timespec()
    return (
        outcome(raw.clock_gettime, 99, value),
        outcome(raw.clock_gettime, 1, UNMAPPED),
        outcome(raw.clock_getres, 99, value),
        outcome(raw.clock_getres, 1, None),
        outcome(raw.clock_settime, 1, value),
        outcome(raw.clock_settime, 0, Timespec(0, -1)),
        outcome(raw.clock_settime, 0, UNMAPPED),
        outcome(raw.gettimeofday, UNMAPPED, None),
    )


@check
def clock_resolution_is_a_nanosecond():
    value = Timespec()
    raw.clock_getres(1, value)
    return value.tv_sec, value.tv_nsec


@check
def wall_clock_is_after_2024():
    return time.time() > 1_704_067_200


@check
def library_and_system_call_agree():
    first = time.monotonic_ns()
    middle = now(1)
    return first <= middle <= time.monotonic_ns(), abs(time.time_ns() - now(0)) < NS


@check
def cpu_clock_counts_work_and_not_sleep():
    start = time.process_time()
    time.sleep(0.1)
    slept = time.process_time() - start
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    worked = time.process_time() - start - slept
    return slept < 0.05, 0.03 < worked < 0.5


@check
def thread_clock_counts_its_own_work():
    results = []

    def run():
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass
        results.append(time.thread_time() < 1)

    thread = threading.Thread(target=run)
    before = time.thread_time()
    thread.start()
    thread.join()
    return results, time.thread_time() - before < 0.02


@check
def nanosleep_sleeps_at_least_as_long():
    start = time.monotonic_ns()
    raw.nanosleep(Timespec(0, 30_000_000), None)
    took = time.monotonic_ns() - start
    return took >= 30_000_000, took < 5 * NS


@check
def nanosleep_bad_arguments():
    return (
        outcome(raw.nanosleep, Timespec(0, NS), None),
        outcome(raw.nanosleep, Timespec(-1, 0), None),
        outcome(raw.nanosleep, UNMAPPED, None),
        outcome(raw.nanosleep, Timespec(0, 0), UNMAPPED),
        outcome(raw.clock_nanosleep, 99, 0, Timespec(0, 0), None),
        outcome(raw.clock_nanosleep, 3, 0, Timespec(0, 0), None),
        outcome(raw.clock_nanosleep, 1, 1, Timespec(0, 0), None),
    )


@check
def absolute_sleep_ends_at_its_time():
    target = now(1) + 40_000_000
    raw.clock_nanosleep(1, 1, Timespec(target // NS, target % NS), None)
    return now(1) >= target


@check
def timerfd_counts_expirations():
    fd = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK)
    empty = outcome(os.read, fd, 8)
    os.timerfd_settime(fd, initial=0.02, interval=0.02)
    time.sleep(0.11)
    count = struct.unpack("<Q", os.read(fd, 8))[0]
    interval = os.timerfd_gettime_ns(fd)[1]
    os.timerfd_settime(fd, initial=0)
    return empty, count >= 5, interval, outcome(os.read, fd, 8), os.timerfd_gettime_ns(fd)


@check
def timerfd_wakes_poll():
    fd = os.timerfd_create(time.CLOCK_MONOTONIC)
    os.timerfd_settime_ns(fd, initial=30_000_000)
    before = select.select([fd], [], [], 0)[0]
    after = select.select([fd], [], [], 20)[0] == [fd]
    return before, after, struct.unpack("<Q", os.read(fd, 8))[0]


@check
def timerfd_bad_arguments():
    fd = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK)
    return (
        outcome(raw.timerfd_create, 99, 0),
        outcome(raw.timerfd_create, 1, 77),
        outcome(raw.timerfd_settime, fd, 0, UNMAPPED, None),
        outcome(raw.timerfd_settime, fd, 0, struct.pack("<4q", 0, 0, 0, NS), None),
        outcome(raw.timerfd_settime, 0, 0, struct.pack("<4q", 0, 0, 0, 0), None),
        outcome(raw.timerfd_gettime, fd, UNMAPPED),
        outcome(raw.read, fd, ctypes.create_string_buffer(4), 4),
    )


@check
def posix_timer_sends_its_signal():
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    identity = ctypes.c_int()
    event = struct.pack("<QiiQ40x", 0, signal.SIGUSR1, 0, 0)
    raw.timer_create(1, event, ctypes.byref(identity))
    raw.timer_settime(identity.value, 0, struct.pack("<4q", 0, 0, 0, 20_000_000), None)
    end = time.monotonic() + 10
    while not seen and time.monotonic() < end:
        time.sleep(0.005)
    left = (ctypes.c_int64 * 4)()
    raw.timer_gettime(identity.value, left)
    return (
        seen,
        list(left),
        raw.timer_getoverrun(identity.value),
        raw.timer_delete(identity.value),
        outcome(raw.timer_delete, identity.value),
        outcome(raw.timer_create, 99, None, ctypes.byref(identity)),
        outcome(raw.timer_create, 1, UNMAPPED, ctypes.byref(identity)),
        outcome(raw.timer_settime, 12345, 0, event, None),
    )


@check
def itimer_bad_arguments():
    return (
        outcome(raw.setitimer, 9, None, None),
        outcome(raw.getitimer, 9, ctypes.create_string_buffer(32)),
        outcome(raw.getitimer, 0, UNMAPPED),
        outcome(raw.setitimer, 0, struct.pack("<4q", 0, 0, 0, 1_000_000), None),
        outcome(raw.setitimer, 0, UNMAPPED, None),
    )


@check
def local_time_follows_the_zone():
    os.environ["TZ"] = "Europe/Vienna"
    time.tzset()
    summer = time.localtime(1_720_000_000)
    os.environ["TZ"] = "UTC"
    time.tzset()
    import zoneinfo
    import datetime

    zone = zoneinfo.ZoneInfo("America/New_York")
    return summer.tm_hour, summer.tm_zone, datetime.datetime(2024, 1, 1, tzinfo=zone).isoformat()


@check
def times_and_usage():
    usage = ctypes.create_string_buffer(144)
    return (
        os.times().elapsed > 0,
        outcome(raw.times, UNMAPPED),
        outcome(raw.getrusage, 0, usage),
        outcome(raw.getrusage, 9, usage),
        outcome(raw.getrusage, 0, UNMAPPED),
    )
