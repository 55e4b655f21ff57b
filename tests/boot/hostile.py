"""Programs that once hung, broke or exhausted the kernel. Prints one line a check; the last is "survived"."""

import ctypes
import os
import signal
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
MREMAP, MMAP, MPROTECT, PPOLL, NANOSLEEP, CLONE = 216, 222, 226, 73, 101, 220


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


def long_argument_list_is_refused_or_run():
    try:
        return subprocess.run(["/usr/bin/python3", "-c", "pass", *["a"] * 200_000]).returncode == 0
    except OSError:
        return True


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
check("long argument list", long_argument_list_is_refused_or_run())
check("too much memory", too_much_memory_is_a_memory_error())
print("survived")
