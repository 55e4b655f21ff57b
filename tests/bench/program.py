"""What `make bench` runs on both kernels: the same file, the same Python.

Each measurement is taken several times; the result is one line of JSON with the nanoseconds per operation of each
time. The times are those of the guest's monotonic clock.
"""

import gc
import json
import mmap
import os
import threading
import time
from itertools import repeat

# How often each measurement is taken.
TIMES = 5
# Pages of the fresh mapping: 16 MiB.
PAGES = 4096


def each(count, function, *arguments):
    """Time per call of a function."""
    begin = time.perf_counter_ns()
    for _ in repeat(None, count):
        function(*arguments)
    return (time.perf_counter_ns() - begin) / count


def touch(one_by_one):
    """Time per page of the first write to each page of a fresh private mapping.

    The strided assignment is a loop in C that writes one byte per page. Kernels make several pages at once where they
    can: Linux large ones, Piton the next ones of memory that is touched in order. ``one_by_one`` prevents both.
    """
    data = bytes(PAGES)
    with mmap.mmap(-1, PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if one_by_one:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        pages = slice(None, None, -mmap.PAGESIZE if one_by_one else mmap.PAGESIZE)
        begin = time.perf_counter_ns()
        memory[pages] = data
        return (time.perf_counter_ns() - begin) / PAGES


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def dictionary():
    return {number: str(number) for number in range(100_000)}


def thread():
    worker = threading.Thread(target=int)
    worker.start()
    worker.join()


def round_trips(count):
    """Time for one byte to go to another thread and back, each way through a pipe."""
    there, back = os.pipe(), os.pipe()

    def echo():
        for _ in repeat(None, count):
            os.write(back[1], os.read(there[0], 1))

    def trip():
        os.write(there[1], b"x")
        os.read(back[0], 1)

    worker = threading.Thread(target=echo)
    worker.start()
    result = each(count, trip)
    worker.join()
    for descriptor in *there, *back:
        os.close(descriptor)
    return result


def main():
    zero = os.open("/dev/zero", os.O_RDONLY)
    measurements = {
        "getppid": lambda: each(2000, os.getppid),
        "read": lambda: each(2000, os.read, zero, 1),
        "time": lambda: each(20_000, time.time),
        "page_fault": lambda: touch(one_by_one=True),
        "fresh_memory": lambda: touch(one_by_one=False),
        "fib": lambda: each(1, fib, 24),
        "dict": lambda: each(1, dictionary),
        "thread": lambda: each(50, thread),
        "pipe": lambda: round_trips(200),
    }
    results = {}
    for name, measure in measurements.items():
        gc.collect()
        # The first time warms up caches and Python's specialised instructions.
        measure()
        results[name] = [round(measure(), 1) for _ in range(TIMES)]
    print("results:", json.dumps(results), ":end", flush=True)


main()
