"""Programs that once hung, broke or exhausted the kernel. Prints one line a check; the last is "survived"."""

import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
MUNMAP, MREMAP, MMAP, MPROTECT, PPOLL, NANOSLEEP, CLONE = 215, 216, 222, 226, 73, 101, 220


def check(name, passed):
    print("ok" if passed else "FAILED", name, flush=True)


def free_kib():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemFree"))


def child(body):
    """Fork; the child runs *body* and exits with what it returns."""
    pid = os.fork()
    if pid == 0:
        os._exit(body() or 0)
    return pid


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def long_values(*values):
    return [ctypes.c_long(value) for value in values]


def awaited_signal_is_not_lost_for_being_ignored():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    pid = child(lambda: time.sleep(0.2))
    info = signal.sigtimedwait([signal.SIGCHLD], 5)
    os.waitpid(pid, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    return info is not None


def exec_lets_go_of_the_old_memory():
    memory = bytearray(40 << 20)
    pid = child(lambda: os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(60)"]))
    time.sleep(1)
    before = free_kib()
    for index in range(0, len(memory), 4096):
        memory[index] = 1
    lost = before - free_kib()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return lost < 8000


def page_zero_cannot_be_mapped():
    page = libc.syscall(MMAP, *long_values(0, 4096, 3, 0x22, -1, 0))
    return libc.syscall(MREMAP, *long_values(page, 4096, 4096, 3, 0)) == -1


def alarms(first, interval):
    """Count the alarms of half a second of work."""
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, first, interval)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    return len(hits)


def signal_under_a_temporary_mask_comes_afterwards():
    hits = []
    signal.signal(signal.SIGUSR2, lambda *_: hits.append(1))
    mask = ctypes.c_ulong(1 << (signal.SIGUSR2 - 1))
    parent = os.getpid()
    pid = child(lambda: (time.sleep(0.1), os.kill(parent, signal.SIGUSR2))[0])
    timeout = (ctypes.c_long * 2)(0, 400_000_000)
    libc.syscall(PPOLL, None, 0, ctypes.byref(timeout), ctypes.byref(mask), 8)
    os.waitpid(pid, 0)
    return hits == [1]


def sleep_goes_on_after_a_stop():
    request = (ctypes.c_long * 2)(1, 0)
    pid = child(lambda: libc.syscall(NANOSLEEP, ctypes.byref(request), None) != 0)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        time.sleep(0.2)
        os.kill(pid, number)
    return os.waitpid(pid, 0)[1] == 0


def stop_and_continuation_are_reported():
    pid = child(lambda: time.sleep(60))
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)
    stopped = os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    os.kill(pid, signal.SIGCONT)
    continued = os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1])
    os.kill(pid, signal.SIGKILL)
    return stopped and continued and os.waitpid(pid, 0)[1] == signal.SIGKILL


def waiting_for_a_vfork_child_can_be_killed():
    CLONE_VM, CLONE_VFORK = 0x100, 0x4000

    def parent():
        pid = libc.syscall(CLONE, *long_values(CLONE_VM | CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0))
        if pid == 0:
            libc.syscall(PPOLL, None, 0, None, None, 8)
        return 0

    pid = child(parent)
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
        time.sleep(0.05)
    return False


def mappings_have_a_limit():
    code = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
start = call(222, *map(ctypes.c_long, (0, 1 << 36, 0, 0x4022, -1, 0)))
made = 0
while made < 1000000 and call(226, *map(ctypes.c_long, (start + made * 8192, 4096, 1))) == 0:
    made += 1
print(ctypes.get_errno(), call(215, *map(ctypes.c_long, (start, 1 << 36))))
"""
    return run(code).stdout == "12 0\n"


def descriptors_have_a_limit():
    return "Too many open files" in run("import os\nwhile True: os.pipe()").stderr


def full_pipes_end_their_process_alone():
    code = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
while True:
    _, end = os.pipe()
    os.set_blocking(end, False)
    os.write(end, bytes(65536))
"""
    return run(code).returncode in (1, -9)


TOUCH_ALL = """
import mmap
area = mmap.mmap(-1, 1 << 32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
for at in range(0, 1 << 32, 4096):
    area[at] = 1
"""


def process_with_most_in_pipes_is_ended_for_memory():
    hoard = """
import os, resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
for _ in range(int(sys.argv[1]) // 64):
    _, end = os.pipe()
    os.set_blocking(end, False)
    os.write(end, bytes(65536))
print("full", flush=True)
time.sleep(60)
"""
    hoarder = subprocess.Popen([sys.executable, "-c", hoard, str(free_kib() * 5 // 8)], stdout=subprocess.PIPE)
    hoarder.stdout.readline()
    other = subprocess.Popen([sys.executable, "-c", TOUCH_ALL])
    first = os.wait()
    still_there = hoarder if first[0] == other.pid else other
    still_there.kill()
    still_there.wait()
    return first == (hoarder.pid, signal.SIGKILL)


def process_that_asked_for_it_is_ended_for_memory():
    volunteer = child(lambda: time.sleep(60))
    with open(f"/proc/{volunteer}/oom_score_adj", "w") as file:
        file.write("1000")
    large = subprocess.Popen([sys.executable, "-c", TOUCH_ALL])
    order = [os.wait(), os.wait()]
    large.returncode = -9
    return order == [(volunteer, signal.SIGKILL), (large.pid, signal.SIGKILL)]


def long_argument_list_is_refused_or_run():
    try:
        return subprocess.run(["/usr/bin/python3", "-c", "pass", *["a"] * 200_000]).returncode == 0
    except OSError:
        return True


def much_reserved_memory_can_be_listed():
    size = 1 << 45
    place = libc.syscall(MMAP, *long_values(0, size, 0, 0x4022, -1, 0))
    with open("/proc/self/smaps") as file:
        listed = f"{size >> 10:>8} kB" in file.read()
    libc.syscall(MUNMAP, *long_values(place, size))
    return listed


def fill_memory(left_kib):
    """Code for a child: keep so much that about *left_kib* are free."""
    return f"""
def free():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemFree"))
kept = []
while free() > {left_kib}:
    kept.append(b"x" * (1 << 20))
"""


def large_tables_without_memory_are_refused():
    """A copy of a million descriptors, and a poll of them, while less is free than either takes."""
    code = """
import ctypes, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
os.dup2(0, (1 << 20) - 1)
entries = (ctypes.c_long * ((1 << 20) - 1))()
poll = ctypes.CDLL(None, use_errno=True).poll
"""
    attempt = """
try:
    if os.fork() == 0:
        os._exit(0)
except OSError as error:
    print(error.errno)
print(poll(entries, ctypes.c_ulong(len(entries)), 0), ctypes.get_errno())
"""
    return run(code + fill_memory(12_000) + attempt).stdout == "12\n-1 12\n"


def memory_moves_while_none_is_left():
    code = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
longs = lambda *values: map(ctypes.c_long, values)
size = 64 << 20
old = call(222, *longs(0, size, 3, 0x4022, -1, 0))
word = ctypes.c_uint64.from_address
for at in range(0, size, 4096):
    word(old + at).value = at
"""
    attempt = """
new = call(216, *longs(old, size, size // 2, 3, old - (1 << 36)))
print(new == old - (1 << 36), all(word(new + at).value == at for at in range(0, size // 2, 4096)))
"""
    return run(code + fill_memory(12_000) + attempt).stdout == "True True\n"


def polling_one_file_often_takes_no_square_of_time():
    code = """
import ctypes, os, resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
poll = ctypes.CDLL(None).poll
def seconds(count):
    entries = (ctypes.c_int * (2 * count))(*[reading, 1] * count)
    start = time.monotonic()
    poll(entries, ctypes.c_ulong(count), 1)
    return time.monotonic() - start
# The least of three: a host that is busy takes the machine's CPU away for as long as the larger one needs.
least = lambda count: min(seconds(count) for _ in range(3))
reading, _ = os.pipe()
print(least(40_000) < 40 * least(4000))
"""
    return run(code).stdout == "True\n"


def fork_of_many_shared_mappings_takes_no_square_of_time():
    code = """
import mmap, os, time
kept = []
def seconds(count):
    while len(kept) < count:
        kept.append(mmap.mmap(-1, 4096))
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    took = time.monotonic() - start
    os.waitpid(pid, 0)
    return took
few = seconds(1000)
print(seconds(10_000) < 40 * few)
"""
    return run(code).stdout == "True\n"


def page_tables_count_for_who_is_ended():
    """A process that leaves a page table behind wherever it was takes all memory, not the one that has many pages."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; b = b'x' * (20 << 20); time.sleep(600)"])
    # Memory that is no process's own shortens the way.
    while free_kib() > 150_000 and shutil.disk_usage("/tmp").free > 2 << 20:
        with open("/tmp/filler", "ab") as file:
            file.write(bytes(1 << 20))
    code = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
longs = lambda *values: map(ctypes.c_long, values)
MMAP, MADVISE, DONTNEED, LENGTH = 222, 233, 4, 1 << 46
start = call(MMAP, *longs(0, LENGTH, 3, 0x4022, -1, 0))
for at in range(start, start + LENGTH, 2 << 20):
    ctypes.c_byte.from_address(at).value = 1
    call(MADVISE, *longs(at, 4096, DONTNEED))
bytes(64 << 20)
b = bytearray(8 << 20)
"""
    run(code)
    survived = bystander.poll() is None
    bystander.kill()
    bystander.wait()
    os.unlink("/tmp/filler")
    return survived


def record_locks_have_a_limit():
    code = """
import fcntl
file = open("/tmp/locked", "w")
try:
    for at in range(0, 200_000, 2):
        fcntl.lockf(file, fcntl.LOCK_EX, 1, at)
except OSError as error:
    print(error.errno)
"""
    return run(code).stdout == "37\n"


def clients_that_gave_up_leave_a_listener_s_line():
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.create_connection(listener.getsockname())]

    def attempt():
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        return client

    before = free_kib()
    for _ in range(20_000):
        attempt().close()
    lost = before - free_kib()
    fillers.append(attempt())
    # Behind all those comes one that still waits.
    listener.accept()
    connected = select.select([], fillers[1:], [], 5)[1] == fillers[1:]
    return lost < 4000 and connected


def watched_files_have_a_limit():
    code = """
import os, resource, select
resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
reading, writing = os.pipe()
files = [os.dup(reading) for _ in range(20_000)]
instances = []
try:
    while True:
        instances.append(select.epoll())
        for file in files:
            instances[-1].register(file, select.EPOLLIN)
except OSError as error:
    print(error.errno)
os.write(writing, b"x")
print(len(instances[0].poll(0, 100)), len(instances[-2].poll(0, 100)))
"""
    return run(code).stdout == "28\n100 100\n"


def watches_that_end_leave_nothing():
    """Each was found ready and taken away before anybody waited."""
    poller, (_, writing) = select.epoll(), os.pipe()
    before = free_kib()
    for _ in range(30_000):
        poller.register(writing, select.EPOLLOUT)
        poller.unregister(writing)
    return before - free_kib() < 2000 and poller.poll(0) == []


def long_calls_let_others_run():
    """The longest time for which another program did not come to run, beside how long the call took."""
    code = """
import mmap, os, time
def watch(end):
    worst, last = 0.0, time.monotonic()
    while os.getppid() == parent:
        time.sleep(0.002)
        worst, last = max(worst, time.monotonic() - last), time.monotonic()
        os.pwrite(end, b"%9.4f" % worst, 0)
parent, report = os.getpid(), os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
if os.fork() == 0:
    watch(report)
    os._exit(0)
time.sleep(0.5)
memory = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = time.monotonic()
for name in ("/dev/zero", "/dev/urandom"):
    os.readv(os.open(name, os.O_RDONLY), [memory])
mmap.mmap(-1, 128 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000)
took = time.monotonic() - start
time.sleep(0.1)
print(float(os.pread(report, 9, 0)) < took / 2)
"""
    return run(code).stdout == "True\n"


def removed_directories_end_however_deep():
    code = """
import os
os.chdir("/tmp")
for _ in range(3000):
    os.mkdir("a")
    os.chdir("a")
file = os.open(".", os.O_RDONLY)
for _ in range(3000):
    os.chdir("..")
    os.rmdir("a")
os.close(file)
print(os.getcwd())
"""
    return run(code).stdout == "/tmp\n"


def too_much_memory_is_a_memory_error():
    return "MemoryError" in run("bytearray(2 << 30)").stderr


check("awaited signal", awaited_signal_is_not_lost_for_being_ignored())
check("exec and old memory", exec_lets_go_of_the_old_memory())
check("page zero", page_zero_cannot_be_mapped())
check("short interval", alarms(0.05, 1e-6) > 10)
check("short first alarm", alarms(1e-6, 0.01) > 20)
check("temporary mask", signal_under_a_temporary_mask_comes_afterwards())
check("sleep and stop", sleep_goes_on_after_a_stop())
check("stop and continue", stop_and_continuation_are_reported())
check("vfork parent", waiting_for_a_vfork_child_can_be_killed())
check("many mappings", mappings_have_a_limit())
check("many descriptors", descriptors_have_a_limit())
check("full pipes", full_pipes_end_their_process_alone())
check("memory in pipes", process_with_most_in_pipes_is_ended_for_memory())
check("volunteer", process_that_asked_for_it_is_ended_for_memory())
check("long argument list", long_argument_list_is_refused_or_run())
check("much reserved memory", much_reserved_memory_can_be_listed())
check("large tables", large_tables_without_memory_are_refused())
check("memory moves", memory_moves_while_none_is_left())
check("one file often", polling_one_file_often_takes_no_square_of_time())
check("many shared mappings", fork_of_many_shared_mappings_takes_no_square_of_time())
check("page tables", page_tables_count_for_who_is_ended())
check("record locks", record_locks_have_a_limit())
check("listener's line", clients_that_gave_up_leave_a_listener_s_line())
check("watched files", watched_files_have_a_limit())
check("watches that end", watches_that_end_leave_nothing())
check("long calls", long_calls_let_others_run())
check("removed directories", removed_directories_end_however_deep())
check("too much memory", too_much_memory_is_a_memory_error())
print("survived")
