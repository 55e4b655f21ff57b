"""What `make bench` runs on both kernels: the same file, the same Python.

Each measurement is taken several times; the result is one line of JSON with the nanoseconds per operation of each
time. The times are those of the guest's monotonic clock. With the argument ``cpus`` only what needs several CPUs is
measured, else all the rest.
"""

import ctypes
import gc
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import repeat

# How often each measurement is taken.
TIMES = 5
# Pages of the fresh mapping: 16 MiB.
PAGES = 4096
# A program that ends at once, and a small file beside it in the root image.
TRUE = "/usr/bin/true"
FILE = "/etc/hostname"
# How many interpreters share the CPUs, and what each of them works through.
INTERPRETERS = 4
WORK = "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(27)"


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


def lock_round_trips(count):
    """Time for a turn to go to another thread and back, each way through a lock that the other waits for.

    A lock that is waited for is a futex, and so is the interpreter's own, which the two threads take turns with.
    """
    there, back = threading.Lock(), threading.Lock()
    there.acquire()
    back.acquire()

    def echo():
        for _ in repeat(None, count):
            there.acquire()
            back.release()

    def trip():
        there.release()
        back.acquire()

    worker = threading.Thread(target=echo)
    worker.start()
    result = each(count, trip)
    worker.join()
    return result


def process_round_trips(count):
    """Time for one byte to go to another process and back, each way through a pipe."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        for _ in repeat(None, count):
            os.write(back[1], os.read(there[0], 1))
        os._exit(0)

    def trip():
        os.write(there[1], b"x")
        os.read(back[0], 1)

    result = each(count, trip)
    os.waitpid(child, 0)
    for descriptor in *there, *back:
        os.close(descriptor)
    return result


def switch(count):
    """Time to switch to another process: half a round trip less what its calls take without a switch.

    Each of the two is the smallest of several, for what disturbs one of them would be in the difference whole.
    """
    reader, writer = os.pipe()

    def alone():
        os.write(writer, b"x")
        os.read(reader, 1)

    calls = min(each(count, alone) for _ in range(TIMES))
    os.close(reader)
    os.close(writer)
    return min(process_round_trips(count) for _ in range(TIMES)) / 2 - calls


def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def spawn():
    os.waitpid(os.posix_spawn(TRUE, [TRUE], {}), 0)


def signals(count):
    """Time for a signal to this process itself, with a handler in C that does nothing."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    before = libc.signal(signal.SIGUSR1, ctypes.cast(libc.abs, ctypes.c_void_p))
    result = each(count, os.kill, os.getpid(), signal.SIGUSR1)
    libc.signal(signal.SIGUSR1, before)
    return result


def map_and_unmap():
    mmap.mmap(-1, 16 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def interpreters(count):
    """Time for as many interpreters to work at the same time, each in a thread of its own."""
    from concurrent import interpreters

    workers = [interpreters.create() for _ in range(count)]
    threads = [threading.Thread(target=worker.exec, args=(WORK,)) for worker in workers]
    begin = time.perf_counter_ns()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = time.perf_counter_ns() - begin
    for worker in workers:
        worker.close()
    return result


def measure_all(measurements):
    results = {}
    for name, measure in measurements.items():
        gc.collect()
        # The first time warms up caches and Python's specialised instructions.
        measure()
        results[name] = [round(measure(), 4) for _ in range(TIMES)]
    print("results:", json.dumps(results), ":end", flush=True)


def main():
    if sys.argv[1:] == ["cpus"]:
        measure_all({"scaling": lambda: interpreters(INTERPRETERS) / interpreters(1)})
        return
    zero = os.open("/dev/zero", os.O_RDONLY)
    measure_all({
        "getppid": lambda: each(2000, os.getppid),
        "read": lambda: each(2000, os.read, zero, 1),
        "time": lambda: each(20_000, time.time),
        "page_fault": lambda: touch(one_by_one=True),
        "fresh_memory": lambda: touch(one_by_one=False),
        "fib": lambda: each(1, fib, 24),
        "dict": lambda: each(1, dictionary),
        "thread": lambda: each(50, thread),
        "futex": lambda: lock_round_trips(500),
        "pipe": lambda: round_trips(200),
        "pipe_processes": lambda: process_round_trips(200),
        "switch": lambda: switch(500),
        "fork": lambda: each(20, fork),
        "spawn": lambda: each(20, spawn),
        "subprocess": lambda: each(10, subprocess.run, [TRUE]),
        "signal": lambda: signals(1000),
        "open": lambda: each(1000, lambda: os.close(os.open(FILE, os.O_RDONLY))),
        "stat": lambda: each(1000, os.stat, FILE),
        "mmap": lambda: each(500, map_and_unmap),
    })


main()
