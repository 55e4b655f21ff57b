"""Limits that hold: memory, stack, locked pages, processes; and priorities, the kernel log, personality."""

import ctypes
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time

from harness import PAGE, UNMAPPED, check, in_child, outcome, raw

MIB = 1 << 20
PRIVATE, SHARED, ANONYMOUS, FIXED, LOCKED, NORESERVE = 2, 1, 0x20, 0x10, 0x2000, 0x4000
READ, WRITE = 1, 2
USER = 1000


def become(user=USER):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def show(*values):
    print(*values, flush=True)


def status(name):
    with open("/proc/self/status") as text:
        return next(line.split()[1] for line in text if line.startswith(name + ":"))


def given(call):
    """Whether a call that gives an address does, or its errno."""
    answer = outcome(call)
    return "mapped" if isinstance(answer, int) else answer


def mapped(length, protection=READ | WRITE, flags=PRIVATE | ANONYMOUS | NORESERVE, at=0):
    return raw.mmap(at, length, protection, flags, -1, 0)


@check
def address_space_limit():
    def child():
        room = int(status("VmSize")) * 1024 + 16 * MIB
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        show(given(lambda: mapped(64 * MIB)), given(lambda: mapped(64 * MIB, 0)), given(lambda: mapped(64 * MIB, READ, SHARED | ANONYMOUS)))
        place = mapped(8 * MIB)
        show(given(lambda: mapped(8 * MIB, READ | WRITE, PRIVATE | ANONYMOUS | FIXED, place)), given(lambda: raw.mremap(place, 8 * MIB, 64 * MIB, 1)))
        end = raw.brk(0)
        show(raw.brk(end + 64 * MIB) == end, given(lambda: raw.mremap(place, 8 * MIB, 4 * MIB, 0)))
        try:
            bytearray(64 * MIB)
        except MemoryError:
            show("MemoryError")

    return in_child(child)


@check
def data_limit():
    def child():
        room = int(status("VmData")) * 1024 + 16 * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))
        place = mapped(64 * MIB, READ)
        show(given(lambda: mapped(64 * MIB)), given(lambda: mapped(64 * MIB, READ | WRITE, SHARED | ANONYMOUS)))
        show(outcome(raw.mprotect, place, 64 * MIB, READ | WRITE), outcome(raw.mprotect, place, 4 * MIB, READ | WRITE))
        end = raw.brk(0)
        show(raw.brk(end + 64 * MIB) == end)

    return in_child(child)


def deep(code, prepare=lambda: None):
    """Runs Python code in a new process, with its end."""
    process = subprocess.run([sys.executable, "-SE", "-c", code], preexec_fn=prepare, capture_output=True, text=True)
    return process.returncode, process.stdout.strip()


STACK = """
import ctypes, os, resource
def stack():
    for line in open("/proc/self/maps"):
        if "[stack]" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            return end - start, end
size, end = stack()
"""


@check
def stack_grows_to_its_limit():
    grow = STACK + "ctypes.memset(end - {0}, 1, 1); print(size < 1 << 20, stack()[0] >= {0}, stack()[0] < {0} + (1 << 20))"
    small = lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
    large = lambda: resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.RLIM_INFINITY))
    return [
        deep(grow.format(7 << 20)),
        deep(grow.format(9 << 20)),
        deep(grow.format(900 << 10), small),
        deep(grow.format(2 << 20), small),
        deep(grow.format(60 << 20), large),
        deep(STACK + "resource.setrlimit(resource.RLIMIT_STACK, (16 << 20, -1)); ctypes.memset(end - (12 << 20), 1, 1); print(stack()[0] >= 12 << 20)"),
    ]


@check
def arguments_are_limited_by_the_stack():
    def run(total, limit):
        def child():
            resource.setrlimit(resource.RLIMIT_STACK, (limit, limit))
            text = "x" * 100_000
            os.execve(sys.executable, [sys.executable, "-SE", "-c", "import sys; print(len(sys.argv))"] + [text] * (total // 100_000), {})

        return in_child(child)

    return [run(1_500_000, 8 * MIB), run(2_500_000, 8 * MIB), run(2_500_000, 16 * MIB), run(300_000, 1 * MIB), run(100_000, 512 << 10)]


@check
def locked_memory_is_counted():
    def child():
        place = mapped(8 * MIB)
        show(status("VmLck"), outcome(raw.mlock, place, 100), status("VmLck"), outcome(raw.mlock, place + 10, 2 * PAGE), status("VmLck"))
        show(outcome(raw.munlock, place, PAGE), status("VmLck"), outcome(raw.mlock2, place, MIB, 1), status("VmLck"), outcome(raw.mlock2, place, MIB, 2))
        show(outcome(raw.madvise, place, PAGE, 4), outcome(raw.madvise, place, PAGE, 24), outcome(raw.msync, place, PAGE, 2), outcome(raw.madvise, place + 4 * MIB, PAGE, 4))
        show(in_child(lambda: show(status("VmLck"))))
        raw.munmap(place, MIB // 2)
        show(status("VmLck"), outcome(raw.mlock, place, MIB), status("VmLck"), outcome(raw.mlock, place, 0), outcome(raw.mlock, -PAGE, 2 * PAGE))
        raw.munlock(place + MIB // 2, 7 * MIB)
        show(status("VmLck"), given(lambda: mapped(MIB, READ | WRITE, PRIVATE | ANONYMOUS | LOCKED)), status("VmLck"))

    return in_child(child)


@check
def locked_memory_is_limited():
    def child():
        place = mapped(8 * MIB)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (MIB, MIB))
        show(outcome(raw.mlock, place, 2 * MIB), outcome(raw.munlock, place, 2 * MIB))
        become()
        show(outcome(raw.mlock, place, 2 * MIB), outcome(raw.mlock, place, MIB), outcome(raw.mlock, place, MIB), outcome(raw.mlock, place + MIB, PAGE), status("VmLck"))
        show(given(lambda: mapped(PAGE, READ, PRIVATE | ANONYMOUS | LOCKED)), outcome(raw.mlockall, 1), outcome(raw.mlockall, 2), given(lambda: mapped(2 * MIB)), raw.munlockall())
        show(status("VmLck"), given(lambda: mapped(2 * MIB)), given(lambda: mapped(PAGE, READ, PRIVATE | ANONYMOUS | LOCKED)))
        raw.munlockall()
        raw.mlock(place, MIB)
        show(given(lambda: raw.mremap(place, MIB, 2 * MIB, 1)), status("VmLck"))
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        show(outcome(raw.mlock, place, PAGE), outcome(raw.mlock, place, 0), outcome(raw.mlockall, 2), given(lambda: mapped(PAGE, READ, PRIVATE | ANONYMOUS | LOCKED)), outcome(raw.munlock, place, PAGE))

    return in_child(child)


@check
def locking_everything():
    def child():
        show([outcome(raw.mlockall, flags) for flags in (0, 4, 8, 1)], int(status("VmLck")) > 1000)
        show(outcome(raw.mlockall, 2), given(lambda: mapped(4 * MIB)), raw.munlockall(), status("VmLck"), given(lambda: mapped(MIB)), status("VmLck"))

    return in_child(child)


@check
def users_have_so_many_processes():
    def child():
        become(4321)
        resource.setrlimit(resource.RLIMIT_NPROC, (6, 6))
        children = []
        while isinstance(pid := outcome(os.fork), int):
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            children.append(pid)
        import _thread

        try:
            _thread.start_new_thread(time.sleep, (1,))
            started = "started"
        except RuntimeError as error:
            started = str(error)
        show(len(children), pid, started)
        os.kill(children[0], signal.SIGKILL)
        os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOWAIT)
        show(outcome(os.fork))
        os.waitpid(children[0], 0)
        again = outcome(os.fork)
        if again == 0:
            os._exit(0)
        show(isinstance(again, int))
        for pid in children[1:]:
            os.kill(pid, signal.SIGKILL)

    return in_child(child)


@check
def becoming_a_user_with_too_many_processes_fails_at_execve():
    def child():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        become(4322)
        show(outcome(os.fork))
        os.execv(sys.executable, [sys.executable, "-SE", "-c", "print('ran')"])

    def second():
        become(4322)
        os.write(ready, b"x")
        time.sleep(30)

    alone = in_child(child)
    reader, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        second()
    os.read(reader, 1)
    refused = in_child(child)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return alone, refused


@check
def limits_of_root_do_not_hold_for_processes():
    def child():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        return os.waitstatus_to_exitcode(os.waitpid(os.fork() or os._exit(0), 0)[1])

    return in_child(child)


@check
def file_size_limit():
    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        fd = os.open("limited", os.O_CREAT | os.O_RDWR)
        show(os.write(fd, b"x" * 900), os.write(fd, b"x" * 900), outcome(os.write, fd, b"x"), outcome(os.ftruncate, fd, 1001), outcome(os.posix_fallocate, fd, 0, 2000), outcome(os.truncate, "limited", 1000), outcome(os.pwrite, fd, b"x", 5000))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.write(fd, b"x")

    return in_child(child)


@check
def nice_values():
    def child():
        me = os.getpid()
        show(os.getpriority(os.PRIO_PROCESS, 0), raw.getpriority(0, 0), os.nice(5), os.getpriority(os.PRIO_PROCESS, me), raw.getpriority(0, 0))
        show(outcome(os.setpriority, os.PRIO_PROCESS, 0, -30), os.getpriority(os.PRIO_PROCESS, 0), outcome(os.setpriority, os.PRIO_PROCESS, 0, 99), os.getpriority(os.PRIO_PROCESS, 0))
        show(outcome(os.getpriority, 9, 0), outcome(os.setpriority, 9, 0, 0), outcome(os.getpriority, os.PRIO_PROCESS, 0x3FFFFFFF), outcome(os.setpriority, os.PRIO_PGRP, 0x3FFFFFFF, 0), outcome(os.getpriority, os.PRIO_USER, 77777))
        os.setpriority(os.PRIO_PROCESS, 0, 3)
        show(open("/proc/self/stat").read().split(") ")[1].split()[15:17], in_child(lambda: os.getpriority(os.PRIO_PROCESS, 0)))
        become()
        show(outcome(os.setpriority, os.PRIO_PROCESS, 0, 2), outcome(os.setpriority, os.PRIO_PROCESS, 0, 3), outcome(os.setpriority, os.PRIO_PROCESS, 0, 4), outcome(os.setpriority, os.PRIO_PROCESS, 1, 4), outcome(os.getpriority, os.PRIO_PROCESS, 1))

    return in_child(child)


@check
def kernel_log_actions():
    buffer = ctypes.create_string_buffer(4096)
    answers = [outcome(raw.syslog, 3, buffer, 4096) > 0, buffer.raw[:1], outcome(raw.syslog, 10, None, 0) > 10000]
    answers += [outcome(raw.syslog, action, buffer, length) for action, length in ((0, 0), (1, 0), (3, -1), (2, -1), (2, 0), (8, 0), (8, 9), (11, 0), (99, 0))]
    answers += [outcome(raw.syslog, 3, None, 10), outcome(raw.syslog, 3, UNMAPPED, 4096), outcome(raw.syslog, 2, None, 10)]

    def child():
        become()
        show([outcome(raw.syslog, action, buffer, 100) for action in (2, 3, 4, 5, 6, 8, 9, 10, 99)], outcome(os.open, "/dev/kmsg", os.O_RDONLY), outcome(os.open, "/dev/kmsg", os.O_WRONLY))

    return answers, in_child(child)


@check
def programs_write_to_the_kernel_log():
    fd = os.open("/dev/kmsg", os.O_RDWR | os.O_NONBLOCK)
    written = [os.write(fd, text) for text in (b"<5>test one\n", b"test two\n", b"<30>test three \\ \xc3\xa4\n", b"<x>test four\n")]
    refused = outcome(os.write, fd, b"x" * 1025)
    records = []
    while isinstance(record := outcome(os.read, fd, 8192), bytes):
        head, text = record.split(b";", 1)
        if b"test " in text:
            records.append((head.split(b",")[0], text))
    buffer = ctypes.create_string_buffer(1 << 20)
    length = raw.syslog(3, buffer, len(buffer))
    lines = [line.split(b"] ", 1) for line in buffer.raw[:length].splitlines() if b"test one" in line or b"test four" in line]
    return written, refused, records[-4:], record, [(line[0].split(b">")[0], line[1]) for line in lines[-2:]]


@check
def personality_is_kept():
    def child():
        before = raw.personality(0xFFFFFFFF), raw.personality(0x0040000), raw.personality(0xFFFFFFFF)
        show(before, in_child(lambda: show(hex(raw.personality(0xFFFFFFFF)))))
        places = [subprocess.run([sys.executable, "-SE", "-c", "print(open('/proc/self/maps').read().split('-')[0])"], capture_output=True).stdout for _ in range(2)]
        show(places[0] == places[1], raw.personality(0))

    return in_child(child)


@check
def a_thread_can_have_its_own_place():
    def place():
        return [os.getcwd(), os.readlink("/proc/thread-self/cwd"), os.readlink("/proc/self/cwd"), os.stat(".").st_ino == os.stat(os.getcwd()).st_ino]

    def in_thread(function):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    def apart():
        os.unshare(os.CLONE_FS)
        show("as before", place())
        os.chdir("/usr")
        show(oct(os.umask(0o077)))
        in_thread(together)
        show("moved by its own thread", place(), oct(os.umask(0o070)))
        show(subprocess.run(["/bin/sh", "-c", "pwd -P; umask"], capture_output=True).stdout)
        pid = os.fork()
        if pid == 0:
            os._exit(os.getcwd() == os.readlink("/proc/self/cwd") == "/usr/lib")
        show(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        show([line for line in open("/proc/thread-self/status") if line.startswith("Umask")])
        os.unshare(os.CLONE_FS)
        show(place())

    def together():
        show("with its maker", place(), oct(os.umask(0o007)))
        os.chdir("lib")

    def child():
        os.chdir("/etc")
        os.umask(0o022)
        in_thread(apart)
        show("where it was", place(), oct(os.umask(0o022)))
        lock = threading.Lock()
        lock.acquire()
        left = threading.Thread(target=lambda: (lock.acquire(), show("left", place())))
        left.start()
        os.unshare(os.CLONE_FS)
        os.chdir("/bin")
        lock.release()
        left.join()
        show("gone on", place())

    return in_child(child)


@check
def files_and_place_can_be_unshared():
    def child():
        os.unshare(os.CLONE_FILES | os.CLONE_FS | os.CLONE_SYSVSEM)
        show(outcome(raw.unshare, 1 << 62), outcome(raw.unshare, 0x100), outcome(raw.unshare, 0), outcome(raw.setns, 0, 0), outcome(raw.setns, -1, 0))

    return in_child(child)


@check
def names_of_the_machine():
    def child():
        before = os.uname().nodename
        raw.sethostname(b"one", 3)
        show(open("/proc/sys/kernel/hostname").read(), outcome(raw.setdomainname, b"two", 3), open("/proc/sys/kernel/domainname").read(), outcome(raw.setdomainname, b"x" * 65, 65), outcome(raw.setdomainname, b"", -1), outcome(raw.sethostname, UNMAPPED, 1))
        with open("/proc/sys/kernel/hostname", "w") as file:
            file.write("three\nx")
        show(os.uname().nodename)
        raw.sethostname(before.encode(), len(before))
        raw.setdomainname(b"(none)", 6)

    return in_child(child)


@check
def settings_are_numbers():
    names = ("kernel/pid_max", "kernel/threads-max", "kernel/cap_last_cap", "kernel/ngroups_max", "fs/file-max", "fs/nr_open", "fs/protected_hardlinks", "fs/protected_symlinks", "kernel/dmesg_restrict")
    return [name for name in names if int(open(f"/proc/sys/{name}").read()) <= 0], len(open("/proc/sys/fs/file-nr").read().split()), len(open("/proc/sys/kernel/printk").read().split()), open("/proc/sys/kernel/cap_last_cap").read()
