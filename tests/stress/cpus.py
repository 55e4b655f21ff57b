"""Loads all CPUs with what needs them to agree: `cargo board run qemu-virt --cpus 4 --script tests/stress/cpus.py -- 120`.

Each job is a process that runs for the given seconds and checks its own results; several jobs have threads or children
of their own. Ends with PASS and status 0, or names what failed or is stuck. Further arguments choose jobs by name.
"""

import collections
import ctypes
import mmap
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 60
END = time.monotonic() + SECONDS
# A machine with fewer real CPUs than virtual ones takes its time to finish.
PATIENCE = 120
PYTHON = [sys.executable, "-S", "-E", "-I", "-c"]

JOBS = {}
done = collections.Counter()


def job(function):
    JOBS[function.__name__] = function
    return function


def running():
    return time.monotonic() < END


def together(*functions):
    """Runs each in a thread, and raises what the first that failed raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def forked(function):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = function() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def expect(pid, code):
    status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == code, status


def spin():
    while True:
        pass


@job
def forks():
    while running():
        reader, writer = os.pipe()
        pid = forked(lambda: os.write(writer, b"x" * 100) - 93)
        os.close(writer)
        assert len(os.read(reader, 200)) == 100
        os.close(reader)
        expect(pid, 7)
        done["forks"] += 1


@job
def pipes():
    there, back = os.pipe(), os.pipe()

    def echo():
        os.close(there[1])
        while data := os.read(there[0], 10):
            os.write(back[1], data)

    pid = forked(echo)
    os.close(there[0])
    while running():
        message = b"%d" % done["round trips"]
        os.write(there[1], message)
        assert os.read(back[0], 20) == message
        done["round trips"] += 1
    os.close(there[1])
    expect(pid, 0)


@job
def mappings():
    def work():
        while running():
            with mmap.mmap(-1, 64 * mmap.PAGESIZE) as memory:
                value = random.randrange(256)
                pages = range(0, len(memory), mmap.PAGESIZE)
                for page in pages:
                    memory[page] = value
                assert all(memory[page] == value for page in pages)
            done["mappings"] += 1

    together(work, work, work, work)


@job
def copies_on_write():
    data = bytearray(1 << 20)

    def touch(first):
        for index in range(first, len(data), 8192):
            data[index] = (data[index] + 1) & 255

    while running():
        pid = forked(lambda: together(lambda: touch(0), lambda: touch(4096)))
        together(lambda: touch(0), lambda: touch(4096))
        expect(pid, 0)
        assert len(set(data[::4096])) == 1
        done["copies"] += 1


@job
def conditions():
    condition, turn = threading.Condition(), [0]

    def work(own):
        while running():
            with condition:
                while turn[0] % 3 != own and running():
                    condition.wait(0.5)
                turn[0] += 1
                condition.notify_all()
            done["turns"] += 1

    together(*(lambda own=own: work(own) for own in range(3)))


@job
def threads():
    while running():
        together(*[lambda: None] * 8)
        done["threads"] += 8


@job
def signals():
    def count(*_):
        done["signals"] += 1

    signal.signal(signal.SIGUSR1, count)
    parent = os.getpid()

    def send():
        while running():
            os.kill(parent, signal.SIGUSR1)
            sum(range(200))

    pid = forked(send)
    while running():
        sum(range(1000))
    expect(pid, 0)
    for _ in range(20):
        pid = forked(spin)
        time.sleep(random.random() / 100)
        os.kill(pid, signal.SIGKILL)
        expect(pid, -signal.SIGKILL)


@job
def stops():
    pid = forked(spin)
    while running():
        os.kill(pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        os.kill(pid, signal.SIGCONT)
        assert os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1])
        done["stops"] += 1
    os.kill(pid, signal.SIGKILL)
    expect(pid, -signal.SIGKILL)


def beside_busy_threads(function):
    for _ in range(3):
        threading.Thread(target=spin, daemon=True).start()
    together(function)


@job
def programs_from_threads():
    def run():
        os.execv(PYTHON[0], [*PYTHON, "import os; os._exit(5)"])

    while running():
        expect(forked(lambda: beside_busy_threads(run)), 5)
        done["programs"] += 1


@job
def ends_of_groups():
    while running():
        expect(forked(lambda: beside_busy_threads(lambda: os._exit(3))), 3)
        done["groups ended"] += 1


@job
def subprocesses():
    while running():
        assert subprocess.run([*PYTHON, "print(1)"], capture_output=True).stdout == b"1\n"
        done["subprocesses"] += 1


@job
def places():
    getcpu = ctypes.CDLL(None).sched_getcpu
    cpus = sorted(os.sched_getaffinity(0))
    while running():
        cpu = random.choice(cpus)
        os.sched_setaffinity(0, {cpu})
        assert getcpu() == cpu
        done["moves"] += 1


@job
def barriers():
    membarrier = ctypes.CDLL(None).syscall
    assert membarrier(283, 16, 0, 0) == 0

    def work():
        while running():
            assert membarrier(283, random.choice([1, 8]), 0, 0) == 0
            done["barriers"] += 1

    together(work, work)


@job
def sockets():
    near, far = socket.socketpair()

    def receive():
        while data := far.recv(65536):
            done["received"] += len(data)

    def send():
        while running():
            near.sendall(b"z" * 10000)
            done["sent"] += 10000
        near.close()

    together(receive, send)
    assert done["received"] == done["sent"]


@job
def sleeps():
    while running():
        start = time.monotonic()
        time.sleep(0.002)
        assert time.monotonic() - start >= 0.002
        done["sleeps"] += 1


@job
def names():
    os.chdir(tempfile.mkdtemp())

    def change():
        while running():
            one, other = random.choices("abcdefgh", k=2)
            operation = random.choice([
                lambda: os.close(os.open(one, os.O_CREAT | os.O_EXCL)),
                lambda: os.unlink(one),
                lambda: os.rename(one, other),
                lambda: os.link(one, other),
                lambda: os.mkdir(one),
                lambda: os.rmdir(one),
                lambda: os.rename(one, f"{other}/{one}"),
                lambda: os.rename(f"{other}/{one}", one),
            ])
            try:
                operation()
            except OSError:
                pass

    for pid in [forked(change) for _ in range(4)]:
        expect(pid, 0)
    listed = set(os.listdir("."))
    assert listed == {name for name in "abcdefgh" if os.path.lexists(name)}


@job
def appends():
    path = os.path.join(tempfile.mkdtemp(), "log")
    reader, writer = os.pipe()

    def append():
        count, file = 0, os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        while running():
            os.write(file, b"%07d\n" % count)
            count += 1
        os.write(writer, b"%d\n" % count)

    for pid in [forked(append) for _ in range(3)]:
        expect(pid, 0)
    os.close(writer)
    assert os.path.getsize(path) == 8 * sum(map(int, os.read(reader, 1000).split()))


@job
def events():
    poller, ends = select.epoll(), [os.pipe() for _ in range(8)]
    once = select.EPOLLIN | select.EPOLLONESHOT
    held, received, sent = collections.Counter(), [0], 0
    lock = threading.Lock()
    for reader, _ in ends:
        poller.register(reader, once)

    def serve():
        while time.monotonic() < END + 1:
            for file, _ in poller.poll(0.2):
                held[file] += 1
                assert held[file] == 1, "one event was given to two threads"
                os.read(file, 1)
                with lock:
                    received[0] += 1
                held[file] -= 1
                poller.modify(file, once)

    def feed():
        nonlocal sent
        while running():
            os.write(random.choice(ends)[1], b"x")
            sent += 1
            while sent - received[0] > 50 and time.monotonic() < END + 1:
                time.sleep(0.001)

    together(feed, serve, serve, serve)
    assert received[0] == sent, (received, sent)


@job
def requeues():
    """Waits that end while their futex's waiters are made another's leave nobody behind in either queue."""
    WAIT, WAKE, REQUEUE, MOST = 128, 129, 131, 1 << 30
    futex = ctypes.CDLL(None).syscall
    words = (ctypes.c_uint * 4096)()
    places = [ctypes.byref(words, 4 * index) for index in range(0, 4096, 37)]

    def wait():
        while running():
            timeout = (ctypes.c_long * 2)(0, random.randrange(1, 300_000))
            futex(98, random.choice(places), WAIT, 0, ctypes.byref(timeout), None, 0)
            done["waits"] += 1

    def move():
        while running():
            futex(98, random.choice(places), REQUEUE, 0, ctypes.c_long(MOST), random.choice(places), 0)

    together(wait, wait, wait, wait, move, move)
    left = [futex(98, place, WAKE, MOST, None, None, 0) for place in places]
    assert not any(left), left


@job
def timer_files():
    """A timer that is set by one thread while another takes what it told expires all the same."""
    timer = os.timerfd_create(time.CLOCK_MONOTONIC)
    expired = threading.Event()

    over = threading.Event()

    def take():
        # To the end of the other: it may be waiting for one more expiration when the time is up.
        while not over.is_set():
            os.read(timer, 8)
            expired.set()

    def again():
        try:
            while running():
                os.timerfd_settime(timer, initial=1e-5)
                for _ in range(random.randrange(40)):
                    pass
                expired.clear()
                os.timerfd_settime(timer, initial=1e-5)
                assert expired.wait(20), "the timer was lost"
                done["expirations"] += 1
        finally:
            over.set()
            os.timerfd_settime(timer, initial=1e-3, interval=1e-3)

    together(take, again)


def main():
    chosen = sys.argv[2:] or JOBS
    waiting = {}
    for name in chosen:
        def run(name=name):
            JOBS[name]()
            print(f"{name}: {dict(done)}", flush=True)
        waiting[forked(run)] = name
    failed = False
    while waiting and time.monotonic() < END + PATIENCE:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            time.sleep(0.05)
        elif name := waiting.pop(pid, None):
            if status != 0:
                print(f"{name}: failed with {status}")
                failed = True
    if waiting:
        print("stuck:", *waiting.values())
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
    print(*[line.strip() for line in open("/proc/stat") if line.startswith("cpu")], sep="\n")
    print("FAIL" if failed or waiting else "PASS")
    return 1 if failed or waiting else 0


sys.exit(main())
