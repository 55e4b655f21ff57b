"""fcntl, close_range, locks, and signals about descriptors."""

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import threading
import time

from harness import UNMAPPED, check, fresh, in_child, outcome, raw

F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX = 10, 11, 15, 16
F_SETLEASE, F_GETLEASE, F_NOTIFY, F_DUPFD_QUERY, F_CREATED_QUERY = 1024, 1025, 1026, 1027, 1028
F_GET_RW_HINT, F_SET_RW_HINT, F_GET_FILE_RW_HINT, F_SET_FILE_RW_HINT = 1035, 1036, 1037, 1038
DN_ACCESS, DN_MODIFY, DN_CREATE, DN_DELETE, DN_RENAME, DN_ATTRIB, DN_MULTISHOT = 1, 2, 4, 8, 16, 32, 0x8000_0000
UNSHARE, CLOEXEC = 2, 4


def waited(number, seconds=2):
    """The signal that comes within the time, as what matters of its siginfo."""
    info = signal.sigtimedwait([number], seconds)
    return None if info is None else (info.si_signo - number, info.si_code, info.si_band)


@check
def owner_of_signals():
    out, _ = os.pipe()
    own = os.getpid()
    results = [fcntl.fcntl(out, fcntl.F_GETOWN)]
    fcntl.fcntl(out, fcntl.F_SETOWN, own)
    results.append(fcntl.fcntl(out, fcntl.F_GETOWN) == own)
    fcntl.fcntl(out, fcntl.F_SETOWN, -os.getpgrp())
    kind = struct.unpack("ii", fcntl.fcntl(out, F_GETOWN_EX, bytes(8)))
    results.append((kind[0], kind[1] == os.getpgrp()))
    fcntl.fcntl(out, F_SETOWN_EX, struct.pack("ii", 0, threading.get_native_id()))
    kind = struct.unpack("ii", fcntl.fcntl(out, F_GETOWN_EX, bytes(8)))
    results.append((kind[0], kind[1] == threading.get_native_id()))
    results.append(outcome(fcntl.fcntl, out, fcntl.F_SETOWN, 0x3FFFFFFF))
    results.append(outcome(fcntl.fcntl, out, fcntl.F_SETOWN, -0x3FFFFFFF))
    results.append(outcome(raw.fcntl, out, fcntl.F_SETOWN, -0x80000000))
    results.append(outcome(fcntl.fcntl, out, F_SETOWN_EX, struct.pack("ii", 3, 1)))
    results.append(outcome(fcntl.fcntl, out, F_SETOWN_EX, struct.pack("ii", 1, 0x3FFFFFFF)))
    results.append(outcome(raw.fcntl, out, F_SETOWN_EX, UNMAPPED))
    fcntl.fcntl(out, fcntl.F_SETOWN, 0)
    results.append(fcntl.fcntl(out, fcntl.F_GETOWN))
    return results


@check
def signal_of_a_descriptor():
    out, _ = os.pipe()
    results = [fcntl.fcntl(out, F_GETSIG)]
    fcntl.fcntl(out, F_SETSIG, signal.SIGUSR1)
    results.append(fcntl.fcntl(out, F_GETSIG) == signal.SIGUSR1)
    return results, outcome(fcntl.fcntl, out, F_SETSIG, 65), outcome(fcntl.fcntl, out, F_SETSIG, 64), outcome(raw.fcntl, out, F_SETSIG, -1)


def asynchronous(fd, number=0):
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, F_SETSIG, number)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


@check
def pipe_sends_sigio():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    out, into = os.pipe()
    asynchronous(out)
    nothing = waited(signal.SIGIO, 0.05)
    os.write(into, b"x")
    first = waited(signal.SIGIO)
    os.read(out, 1)
    after = waited(signal.SIGIO, 0.05)
    fcntl.fcntl(out, fcntl.F_SETFL, 0)
    os.write(into, b"x")
    return nothing, first is not None, after, waited(signal.SIGIO, 0.05)


@check
def socket_sends_the_chosen_signal_with_details():
    number = signal.SIGRTMIN + 1
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    one, other = socket.socketpair()
    asynchronous(one.fileno(), number)
    other.send(b"x")
    info = signal.sigtimedwait([number], 2)
    return info.si_signo - number, info.si_code, info.si_band & select.POLLIN


@check
def sigio_comes_before_the_write_returns():
    seen = []
    signal.signal(signal.SIGIO, lambda *_: seen.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
    out, into = os.pipe()
    asynchronous(out)
    os.write(into, b"x")
    result = len(seen)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    return result


@check
def folder_notifies():
    number = signal.SIGRTMIN + 2
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    os.mkdir("notified")
    fd = os.open("notified", os.O_RDONLY)
    fcntl.fcntl(fd, F_SETSIG, number)
    results = [fcntl.fcntl(fd, F_NOTIFY, DN_CREATE | DN_DELETE)]
    os.close(fresh("notified/a"))
    info = signal.sigtimedwait([number], 2)
    results.append(info is not None and info.si_code)
    os.unlink("notified/a")
    results.append(waited(number, 0.05))
    fcntl.fcntl(fd, F_NOTIFY, ctypes.c_int32(DN_CREATE | DN_RENAME | DN_MULTISHOT).value)
    os.close(fresh("notified/b"))
    results.append(waited(number) is not None)
    os.rename("notified/b", "notified/c")
    results.append(waited(number) is not None)
    fcntl.fcntl(fd, F_NOTIFY, 0)
    os.close(fresh("notified/d"))
    results.append(waited(number, 0.05))
    fcntl.fcntl(fd, F_NOTIFY, ctypes.c_int32(DN_CREATE | DN_MULTISHOT).value)
    os.close(fd)
    os.close(fresh("notified/e"))
    results.append(waited(number, 0.05))
    return results, outcome(fcntl.fcntl, fresh("plain"), F_NOTIFY, DN_CREATE)


@check
def leases():
    fd = fresh("leased")
    reading = os.open("leased", os.O_RDONLY)
    results = [fcntl.fcntl(fd, F_GETLEASE), outcome(fcntl.fcntl, fd, F_SETLEASE, 9)]
    results.append(outcome(fcntl.fcntl, os.pipe()[0], F_SETLEASE, fcntl.F_RDLCK))
    results.append(outcome(fcntl.fcntl, reading, F_SETLEASE, fcntl.F_RDLCK))
    results.append(outcome(fcntl.fcntl, reading, F_SETLEASE, fcntl.F_UNLCK))
    return results


@check
def write_hints():
    fd = fresh("hints")
    value = ctypes.c_uint64(99)
    results = [outcome(raw.fcntl, fd, F_GET_RW_HINT, ctypes.byref(value)), value.value]
    value.value = 3
    results.append(outcome(raw.fcntl, fd, F_SET_RW_HINT, ctypes.byref(value)))
    value.value = 99
    results.append((outcome(raw.fcntl, fd, F_GET_RW_HINT, ctypes.byref(value)), value.value))
    results.append(outcome(raw.fcntl, fd, F_SET_RW_HINT, ctypes.byref(value)))
    results.append(outcome(raw.fcntl, fd, F_SET_RW_HINT, UNMAPPED))
    results.append(outcome(raw.fcntl, fd, F_GET_FILE_RW_HINT, ctypes.byref(value)))
    results.append(outcome(raw.fcntl, os.pipe()[0], F_GET_RW_HINT, ctypes.byref(value)))
    return results


@check
def same_description_or_not():
    fd = fresh("query")
    return (
        fcntl.fcntl(fd, F_DUPFD_QUERY, os.dup(fd)),
        fcntl.fcntl(fd, F_DUPFD_QUERY, os.open("query", os.O_RDONLY)),
        outcome(fcntl.fcntl, fd, F_DUPFD_QUERY, 99),
        fcntl.fcntl(fd, F_CREATED_QUERY),
        fcntl.fcntl(os.open("query", os.O_RDWR | os.O_CREAT), F_CREATED_QUERY),
        fcntl.fcntl(os.open("brand-new", os.O_RDWR | os.O_CREAT), F_CREATED_QUERY),
    )


@check
def append_and_others_can_be_switched():
    fd = fresh("flags", b"abc")
    results = []
    for flags in (os.O_APPEND, os.O_NONBLOCK, os.O_NOATIME, os.O_APPEND | os.O_SYNC, os.O_DIRECT):
        results.append((outcome(fcntl.fcntl, fd, fcntl.F_SETFL, flags), oct(fcntl.fcntl(fd, fcntl.F_GETFL))))
    return results


@check
def close_range_of_a_shared_table_can_be_its_own():
    def child():
        fds = [os.dup(0) for _ in range(3)]
        raw.close_range(fds[0], fds[1], UNSHARE)
        return int(outcome(os.fstat, fds[0]) == "EBADF") + 2 * (os.fstat(fds[2]).st_ino > 0)

    return in_child(child), outcome(raw.close_range, 50, 60, UNSHARE | CLOEXEC), outcome(raw.close_range, 50, 60, 1), outcome(raw.close_range, 60, 50, 0)


def lock(fd, kind, start=0, length=0, command=fcntl.F_SETLK, whence=0, pid=0):
    data = fcntl.fcntl(fd, command, struct.pack("hhxxxxqqixxxx", kind, whence, start, length, pid))
    return struct.unpack("hhxxxxqqixxxx", data)


R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38


@check
def ranges_join_and_split():
    fd = fresh("ranges", b"x" * 100)
    lock(fd, W, 0, 10)
    lock(fd, W, 10, 10)
    lock(fd, U, 5, 5)
    lock(fd, R, 12, 3)

    def seen(start, length):
        kind, whence, first, count, pid = lock(other, W, start, length, fcntl.F_GETLK)
        return kind, whence, first, count, pid == owner

    owner = os.getpid()
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        other = os.open("ranges", os.O_RDWR)
        os.write(into, repr([seen(at, 1) for at in (0, 4, 5, 10, 12, 15, 19, 20)]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(out, 4096).decode()


@check
def lock_bad_arguments():
    fd = fresh("bad", b"x" * 10)
    reading, writing = os.open("bad", os.O_RDONLY), os.open("bad", os.O_WRONLY)
    return {
        "kind": outcome(lock, fd, 7),
        "whence": outcome(lock, fd, R, whence=5),
        "before the start": outcome(lock, fd, R, -1, 1),
        "negative length": outcome(lock, fd, R, 5, -5),
        "too negative": outcome(lock, fd, R, 5, -6),
        "overflow": outcome(lock, fd, R, 1 << 62, (1 << 63) - 1),
        "write lock of a reader": outcome(lock, reading, W),
        "read lock of a writer": outcome(lock, writing, R),
        "pointer": outcome(raw.fcntl, fd, fcntl.F_SETLK, UNMAPPED),
        "asked for an unlock": outcome(lock, fd, U, command=fcntl.F_GETLK),
        "owned with a pid": outcome(lock, fd, R, command=OFD_SETLK, pid=1),
        "pipe": outcome(lock, os.pipe()[1], W),
    }


@check
def deadlock_is_found():
    fd = fresh("deadlock", b"xy")
    lock(fd, W, 0, 1)
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = os.open("deadlock", os.O_RDWR)
        lock(mine, W, 1, 1)
        os.write(into, b"1")
        lock(mine, W, 0, 1, fcntl.F_SETLKW)
        os._exit(0)
    os.read(out, 1)
    time.sleep(0.2)
    result = outcome(lock, fd, W, 1, 1, fcntl.F_SETLKW)
    lock(fd, U, 0, 1)
    return result, os.waitpid(pid, 0)[1]


@check
def open_file_locks_belong_to_the_description():
    one, two = fresh("ofd", b"x"), os.open("ofd", os.O_RDWR)
    copy = os.dup(one)
    lock(one, W, command=OFD_SETLK)
    results = [outcome(lock, copy, W, command=OFD_SETLK)[0], outcome(lock, two, W, command=OFD_SETLK), lock(two, W, command=OFD_GETLK)[4]]
    os.close(one)
    results.append(outcome(lock, two, W, command=OFD_SETLK))
    os.close(copy)
    results.append(outcome(lock, two, W, command=OFD_SETLK)[0])
    return results


@check
def closing_any_descriptor_drops_the_process_locks():
    fd = fresh("drop", b"x")
    lock(fd, W)
    os.close(os.open("drop", os.O_RDONLY))

    def free():
        other = os.open("drop", os.O_RDWR)
        lock(other, W)

    return in_child(free)


@check
def whole_file_locks_convert():
    one, two = fresh("whole"), os.open("whole", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_SH)
    fcntl.flock(two, fcntl.LOCK_SH)
    results = [outcome(fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB), outcome(fcntl.flock, one, 16), outcome(fcntl.flock, one, fcntl.LOCK_SH | fcntl.LOCK_EX)]
    fcntl.flock(two, fcntl.LOCK_UN)
    results.append(outcome(fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB))
    return results, outcome(fcntl.flock, os.open("whole", os.O_PATH), fcntl.LOCK_SH)


@check
def locks_are_listed():
    fd = fresh("listed", b"x" * 100)
    lock(fd, W, 10, 5)
    lock(fd, R, 50, 0)
    fcntl.flock(fd, fcntl.LOCK_EX)
    inode = os.fstat(fd).st_ino
    lines = [line.split() for line in open("/proc/locks") if line.split()[5].endswith(f":{inode}")]
    mine = str(os.getpid())
    return sorted((line[1:4], line[4] == mine, line[6:]) for line in lines)


@check
def waiting_for_a_lock_is_interrupted():
    fd = fresh("interrupted", b"x")
    lock(fd, W)

    def child():
        signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        other = os.open("interrupted", os.O_RDWR)
        try:
            lock(other, W, command=fcntl.F_SETLKW)
        except ZeroDivisionError:
            return 5

    return in_child(child)
