"""Pipes, FIFOs, eventfd."""

import array
import ctypes
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time

from harness import UNMAPPED, check, in_child, outcome, raw


@check
def pipe_carries_bytes_in_order():
    out, into = os.pipe()
    os.write(into, b"abc")
    os.write(into, b"def")
    return os.read(out, 4), os.read(out, 10)


@check
def pipe2_bad_arguments():
    pair = (ctypes.c_int * 2)()
    return outcome(raw.pipe2, UNMAPPED, 0), outcome(raw.pipe2, pair, 0x40000000)


@check
def pipe2_sets_flags():
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    return (
        fcntl.fcntl(out, fcntl.F_GETFL) & os.O_NONBLOCK == os.O_NONBLOCK,
        fcntl.fcntl(into, fcntl.F_GETFD),
        fcntl.fcntl(out, fcntl.F_GETFL) & os.O_ACCMODE,
        fcntl.fcntl(into, fcntl.F_GETFL) & os.O_ACCMODE,
    )


@check
def empty_nonblocking_pipe_returns_eagain():
    out, _into = os.pipe2(os.O_NONBLOCK)
    return os.read(out, 1)


@check
def full_nonblocking_pipe_returns_eagain():
    out, into = os.pipe2(os.O_NONBLOCK)
    total = 0
    while (count := outcome(os.write, into, b"x" * 4096)) == 4096:
        total += 4096
    os.read(out, 4096)
    return total, count, os.write(into, b"y" * 4096)


@check
def atomic_write_does_not_split():
    out, into = os.pipe2(os.O_NONBLOCK)
    while outcome(os.write, into, b"x" * 4096) == 4096:
        pass
    os.read(out, 100)
    return outcome(os.write, into, b"y" * 200)


@check
def read_after_the_writer_closed_is_the_end():
    out, into = os.pipe()
    os.write(into, b"last")
    os.close(into)
    return os.read(out, 10), os.read(out, 10)


@check
def write_without_reader_returns_epipe():
    out, into = os.pipe()
    os.close(out)
    return os.write(into, b"x")


@check
def write_without_reader_kills_by_default():
    def writer():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        out, into = os.pipe()
        os.close(out)
        os.write(into, b"x")

    return in_child(writer)


@check
def wrong_end_returns_ebadf():
    out, into = os.pipe()
    return outcome(os.write, out, b"x"), outcome(os.read, into, 1)


@check
def faulting_pipe_buffers_return_efault():
    out, into = os.pipe()
    os.write(into, b"abc")
    return outcome(raw.read, out, UNMAPPED, 3), outcome(raw.write, into, UNMAPPED, 3), os.read(out, 10)


@check
def capacity_can_be_asked_and_set():
    out, into = os.pipe()
    before = fcntl.fcntl(out, fcntl.F_GETPIPE_SZ)
    after = fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 5000)
    return before, after, fcntl.fcntl(out, fcntl.F_GETPIPE_SZ)


@check
def fionread_counts_waiting_bytes():
    out, into = os.pipe()
    os.write(into, b"seven b")
    count = array.array("i", [0])
    fcntl.ioctl(out, termios.FIONREAD, count)
    return count[0], outcome(raw.ioctl, out, termios.FIONREAD, UNMAPPED)


@check
def blocked_reader_wakes():
    out, into = os.pipe()

    def later():
        time.sleep(0.05)
        os.write(into, b"woken")

    thread = threading.Thread(target=later)
    thread.start()
    data = os.read(out, 10)
    thread.join()
    return data


@check
def blocked_writer_wakes():
    out, into = os.pipe()
    big = b"z" * 200_000
    read = []

    def drain():
        time.sleep(0.05)
        left = len(big)
        while left:
            piece = os.read(out, 65536)
            left -= len(piece)
            read.append(len(piece))

    thread = threading.Thread(target=drain)
    thread.start()
    written = os.write(into, big)
    thread.join()
    return written, sum(read)


@check
def fifo_joins_two_processes():
    os.mkfifo("fifo")

    def writer():
        fd = os.open("fifo", os.O_WRONLY)
        os.write(fd, b"through the fifo")

    import sys

    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        writer()
        os._exit(0)
    fd = os.open("fifo", os.O_RDONLY)
    data = b""
    while piece := os.read(fd, 100):
        data += piece
    os.waitpid(child, 0)
    return data


@check
def fifo_nonblocking_ends():
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    first = outcome(os.read, reader, 5)
    writer = os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
    return first, outcome(os.read, reader, 5), os.write(writer, b"x"), os.read(reader, 5)


@check
def splice_moves_between_pipe_and_file():
    out, into = os.pipe()
    os.write(into, b"spliced data")
    target = os.open("target", os.O_RDWR | os.O_CREAT)
    return os.splice(out, target, 7), os.pread(target, 20, 0), os.read(out, 20), outcome(os.splice, target, target, 5)


@check
def eventfd_adds_and_clears():
    fd = os.eventfd(3, os.EFD_NONBLOCK)
    os.eventfd_write(fd, 4)
    return os.eventfd_read(fd), outcome(os.eventfd_read, fd)


@check
def eventfd_semaphore_takes_one():
    fd = os.eventfd(2, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
    return os.eventfd_read(fd), os.eventfd_read(fd), outcome(os.eventfd_read, fd)


@check
def eventfd_bad_arguments():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    most = struct.pack("<Q", 0xFFFF_FFFF_FFFF_FFFF)
    return (
        outcome(raw.read, fd, ctypes.create_string_buffer(4), 4),
        outcome(raw.write, fd, b"1234", 4),
        outcome(os.write, fd, most),
        os.write(fd, struct.pack("<Q", 0xFFFF_FFFF_FFFF_FFFE)),
        outcome(os.eventfd_write, fd, 1),
        select.select([fd], [fd], [], 0) == ([fd], [], []),
        outcome(raw.eventfd2, 0, 0x40000000),
    )
