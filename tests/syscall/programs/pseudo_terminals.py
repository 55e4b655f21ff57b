"""Pseudo-terminals: names, locks, both sides, packet mode, closing and opening again, hang-ups."""

import array
import ctypes
import fcntl
import os
import select
import struct
import termios
import time
import tty

from harness import UNMAPPED, check, ended, outcome, raw
from terminal_tools import (
    EXTPROC,
    TCGETS2,
    TCSETS2,
    TIOCGDEV,
    TIOCGPKT,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCSIG,
    TIOCSPTLCK,
    TIOCVHANGUP,
    arrived,
    attempt,
    cooked,
    events,
    hand,
    number,
    pair,
    settle,
)


@check
def pseudo_terminal_has_names_and_a_size():
    master, slave = pair()
    size = array.array("H", [24, 80, 0, 0])
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    got = array.array("H", [0] * 4)
    fcntl.ioctl(master, termios.TIOCGWINSZ, got)
    return os.isatty(master), os.isatty(slave), os.ttyname(slave).startswith("/dev/pts/"), got[0], got[1], os.get_terminal_size(slave)


@check
def closed_master_gives_end_and_eio():
    master, slave = pair()
    os.close(master)
    poller = select.poll()
    poller.register(slave, select.POLLIN | select.POLLOUT)
    events = poller.poll(0)[0][1]
    return outcome(os.read, slave, 10), outcome(os.write, slave, b"x"), bool(events & select.POLLHUP)


@check
def closed_slave_gives_eio():
    master, slave = pair()
    os.write(slave, b"last")
    os.close(slave)
    return os.read(master, 10), outcome(os.read, master, 10)


@check
def locked_terminal_cannot_be_opened():
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    index = number(master, TIOCGPTN)
    name = f"/dev/pts/{index}"
    locked = number(master, TIOCGPTLCK), outcome(os.open, name, os.O_RDWR | os.O_NOCTTY), outcome(raw.ioctl, master, TIOCGPTPEER, os.O_RDWR)
    unlocked = hand(master, TIOCSPTLCK, 0), number(master, TIOCGPTLCK)
    slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
    status = os.fstat(slave)
    again = hand(master, TIOCSPTLCK, 1), outcome(os.open, name, os.O_RDWR | os.O_NOCTTY), os.isatty(slave)
    return locked, unlocked, oct(status.st_mode), status.st_uid, status.st_gid, os.major(status.st_rdev), os.minor(status.st_rdev) == index, again


@check
def peer_is_opened_without_its_name():
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    hand(master, TIOCSPTLCK, 0)
    slave = raw.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    same = os.ttyname(slave) == os.ptsname(master)
    return same, fcntl.fcntl(slave, fcntl.F_GETFD), fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_ACCMODE, outcome(raw.ioctl, slave, TIOCGPTPEER, 0)


@check
def directory_of_terminals_follows_them():
    master, slave = pair()
    name = os.ptsname(master)
    inside = os.path.basename(name) in os.listdir("/dev/pts"), "ptmx" in os.listdir("/dev/pts")
    link = os.readlink(f"/proc/self/fd/{slave}") == name
    device = number(slave, TIOCGDEV) == os.stat(name).st_rdev == number(master, TIOCGDEV)
    os.close(master)
    gone = outcome(os.stat, name), outcome(os.open, name, os.O_RDWR), os.path.basename(name) in os.listdir("/dev/pts")
    # The number is not free before the last file is closed.
    other, peer = pair()
    return inside, link, device, gone, os.ptsname(other) == name


@check
def devpts_says_what_it_is():
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)
    libc.statfs(b"/dev/pts", buffer)
    with open("/proc/mounts") as mounts:
        line = [line.split() for line in mounts if " /dev/pts " in line][0]
    status, ptmx = os.stat("/dev/pts"), os.stat("/dev/ptmx")
    return (
        hex(struct.unpack_from("<Q", buffer)[0]),
        line[1:4],
        oct(status.st_mode),
        status.st_ino,
        oct(ptmx.st_mode),
        ptmx.st_rdev,
        oct(os.stat("/dev/pts/ptmx").st_mode),
        outcome(os.mkdir, "/dev/pts/folder"),
        outcome(os.open, "/dev/pts/name", os.O_CREAT | os.O_RDWR),
        outcome(os.unlink, "/dev/pts/ptmx"),
        outcome(os.stat, "/dev/pts/007"),
        outcome(os.stat, "/dev/pts/99999999999"),
    )


@check
def too_many_terminals_return_enospc():
    master, slave = pair()
    with open("/proc/sys/kernel/pty/nr") as file:
        there = int(file.read())
    with open("/proc/sys/kernel/pty/max") as file:
        usual = file.read()
    with open("/proc/sys/kernel/pty/max", "w") as file:
        file.write(str(there + 2))
    try:
        return there >= 1, outcome(lambda: bool(pair())), outcome(pair)
    finally:
        with open("/proc/sys/kernel/pty/max", "w") as file:
            file.write(usual)


@check
def pseudo_terminal_bad_arguments():
    master, slave = pair()
    words = (TIOCGPTN, TIOCSPTLCK, TIOCGPTLCK, termios.TIOCPKT, TIOCGPKT)
    return (
        [outcome(raw.ioctl, master, word, UNMAPPED) for word in words],
        [outcome(raw.ioctl, slave, word, UNMAPPED) for word in words],
        outcome(raw.ioctl, master, TIOCSIG, 9),
        outcome(raw.ioctl, master, TIOCSIG, 2),
        outcome(raw.ioctl, slave, TIOCSIG, 2),
        outcome(raw.ioctl, slave, termios.TIOCSTI, UNMAPPED),
        outcome(raw.ioctl, slave, termios.TIOCSWINSZ, UNMAPPED),
        outcome(raw.ioctl, slave, termios.TIOCSETD, UNMAPPED),
        hand(slave, termios.TIOCSETD, 99),
        hand(slave, termios.TIOCSETD, 0),
        number(slave, termios.TIOCGETD),
        outcome(raw.ioctl, slave, termios.TCXONC, 7),
        outcome(raw.ioctl, master, termios.TCXONC, 7),
        outcome(raw.ioctl, master, termios.TCFLSH, 7),
        outcome(raw.ioctl, slave, termios.FIONREAD, UNMAPPED),
        outcome(raw.ioctl, slave, termios.TIOCOUTQ, UNMAPPED),
        outcome(raw.ioctl, slave, TCGETS2, UNMAPPED),
        outcome(raw.ioctl, slave, TCSETS2, UNMAPPED),
        outcome(raw.ioctl, slave, termios.TIOCMGET, UNMAPPED),
        outcome(os.lseek, slave, 0, os.SEEK_CUR),
        outcome(os.lseek, master, 0, os.SEEK_CUR),
        outcome(os.pread, slave, 1, 0),
    )


@check
def packet_mode_tells_of_data():
    master, slave = pair()
    os.set_blocking(master, False)
    before = number(master, TIOCGPKT), hand(master, termios.TIOCPKT, 1), number(master, TIOCGPKT)
    os.write(slave, b"text\n")
    settle()
    data = os.read(master, 3), os.read(master, 100), outcome(os.read, master, 100)
    os.write(slave, b"x")
    settle()
    one = os.read(master, 1), os.read(master, 10), events(master)
    hand(master, termios.TIOCPKT, 0)
    os.write(slave, b"y")
    settle()
    return before, data, one, os.read(master, 10)


@check
def packet_mode_tells_of_flow_and_flushes():
    master, slave = pair()
    os.set_blocking(master, False)
    hand(master, termios.TIOCPKT, 1)
    seen = []

    def look():
        settle()
        seen.append((events(master), outcome(os.read, master, 100)))

    termios.tcflow(slave, termios.TCOOFF)
    look()
    termios.tcflow(slave, termios.TCOON)
    look()
    os.write(master, b"\x13")
    look()
    os.write(master, b"\x11")
    look()
    termios.tcflush(slave, termios.TCIFLUSH)
    look()
    termios.tcflush(slave, termios.TCOFLUSH)
    look()
    termios.tcflush(slave, termios.TCIOFLUSH)
    look()
    os.write(master, b"\x03")
    look()
    look()
    cooked(slave, IXON=False)
    look()
    cooked(slave, IXON=True)
    look()
    cooked(slave, ECHO=False)
    look()
    mode = termios.tcgetattr(slave)
    mode[3] |= EXTPROC
    termios.tcsetattr(slave, termios.TCSAFLUSH, mode)
    look()
    return seen


@check
def full_queue_makes_the_writer_wait_and_loses_nothing():
    master, slave = pair()
    tty.setraw(slave)
    total = 100_000
    data = bytes(index % 251 for index in range(total))
    child = os.fork()
    if child == 0:
        written = os.write(master, data)
        os._exit(written != total)
    settle()
    got = b""
    while len(got) < total:
        got += os.read(slave, 777)
    first = got == data, ended(os.waitpid(child, 0)[1])
    child = os.fork()
    if child == 0:
        written = os.write(slave, data)
        os._exit(written != total)
    settle()
    got = b""
    while len(got) < total:
        got += os.read(master, 777)
    return first, got == data, ended(os.waitpid(child, 0)[1])


@check
def full_queue_returns_eagain():
    master, slave = pair()
    tty.setraw(slave)
    os.set_blocking(master, False)
    os.set_blocking(slave, False)

    def fill(fd):
        total = 0
        while isinstance(count := outcome(os.write, fd, b"x" * 100), int):
            total += count
            time.sleep(0.002)
        return total > 8000, count, events(fd)

    results = fill(master), fill(slave)
    arrived(slave)
    arrived(master)
    return results, events(master), events(slave)


@check
def counts_of_what_waits():
    master, slave = pair()
    cooked(slave, ECHO=False)
    os.write(master, b"unfinished")
    settle()
    unfinished = number(slave, termios.FIONREAD)
    os.write(master, b" line\n")
    os.write(slave, b"output")
    settle()
    return unfinished, number(slave, termios.FIONREAD), number(slave, termios.TIOCOUTQ), number(master, termios.FIONREAD), number(master, termios.TIOCOUTQ)


@check
def flushes_of_the_master():
    master, slave = pair()
    cooked(slave, ECHO=False)
    os.write(slave, b"output")
    settle()
    termios.tcflush(slave, termios.TCOFLUSH)
    kept = number(master, termios.FIONREAD)
    termios.tcflush(master, termios.TCIFLUSH)
    dropped = number(master, termios.FIONREAD)
    os.write(master, b"line\n")
    settle()
    termios.tcflush(master, termios.TCOFLUSH)
    read = number(slave, termios.FIONREAD)
    termios.tcdrain(slave)
    termios.tcdrain(master)
    termios.tcsendbreak(slave, 0)
    return kept, dropped, read


@check
def terminal_can_be_opened_again():
    master, slave = pair()
    name = os.ptsname(master)
    os.set_blocking(master, False)
    cooked(slave, ECHO=False)
    os.write(slave, b"last")
    settle()
    os.close(slave)
    closed = events(master), os.read(master, 10), events(master), outcome(os.read, master, 10)
    typed = outcome(os.write, master, b"typed meanwhile\n")
    settle()
    slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
    opened = events(master), outcome(os.read, master, 10)
    line = os.read(slave, 100)
    os.write(slave, b"again")
    settle()
    return closed, typed, opened, line, os.read(master, 10), bool(termios.tcgetattr(slave)[3] & termios.ECHO)


@check
def new_master_waits_for_its_terminal():
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    before = events(master), outcome(os.read, master, 10)
    written = outcome(os.write, master, b"early\n")
    hand(master, TIOCSPTLCK, 0)
    slave = os.open(os.ptsname(master), os.O_RDWR | os.O_NOCTTY)
    settle()
    return before, written, os.read(slave, 10), arrived(master)


@check
def closed_master_makes_the_terminal_dead():
    master, slave = pair()
    os.write(master, b"unread\n")
    settle()
    os.close(master)
    size = array.array("H", [0] * 4)
    return (
        outcome(os.read, slave, 10),
        outcome(os.write, slave, b"x"),
        events(slave),
        attempt(termios.tcgetattr, slave),
        outcome(fcntl.ioctl, slave, termios.TIOCGWINSZ, size),
        hand(slave, termios.TIOCSPGRP, 1),
        os.isatty(slave),
    )


@check
def closing_wakes_who_waits():
    results = []
    for reader, other in ((0, 1), (1, 0)):
        ends = list(pair())
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ends[other])
            os.write(write_end, b"ready")
            os.write(write_end, repr(outcome(os.read, ends[reader], 10)).encode())
            os._exit(0)
        os.read(read_end, 5)
        time.sleep(0.05)
        os.close(ends[other])
        results.append((os.read(read_end, 100), ended(os.waitpid(child, 0)[1])))
    return results


@check
def epoll_sees_both_sides():
    master, slave = pair()
    tty.setraw(slave)
    epoll = select.epoll()
    epoll.register(master, select.EPOLLIN | select.EPOLLET)
    epoll.register(slave, select.EPOLLIN | select.EPOLLET)
    name = {master: "master", slave: "slave"}
    seen = [epoll.poll(0)]
    os.write(master, b"down")
    seen.append([(name[fd], bits) for fd, bits in epoll.poll(2)])
    os.write(slave, b"up")
    seen.append([(name[fd], bits) for fd, bits in epoll.poll(2)])
    seen.append(epoll.poll(0))
    os.close(slave)
    seen.append([(name[fd], bits) for fd, bits in epoll.poll(2)])
    return seen


@check
def hung_up_files_are_dead_and_new_ones_are_not():
    master, slave = pair()
    name = os.ptsname(master)
    os.set_blocking(master, False)
    cooked(slave, ECHO=False)
    array_size = array.array("H", [10, 20, 0, 0])
    fcntl.ioctl(slave, termios.TIOCSWINSZ, array_size)
    os.write(master, b"unread\n")
    settle()
    raw.ioctl(slave, TIOCVHANGUP, 0)
    dead = outcome(os.read, slave, 10), outcome(os.write, slave, b"x"), events(slave), events(master)
    new = os.open(name, os.O_RDWR | os.O_NOCTTY)
    fresh_mode = bool(termios.tcgetattr(new)[3] & termios.ECHO), tuple(os.get_terminal_size(new))
    os.write(new, b"alive")
    settle()
    return dead, fresh_mode, os.read(master, 10), outcome(os.read, slave, 10)


@check
def hung_up_master_is_dead():
    master, slave = pair()
    raw.ioctl(master, TIOCVHANGUP, 0)
    return outcome(os.read, master, 10), outcome(os.write, master, b"x"), events(master), number(master, TIOCGPTN), outcome(os.write, slave, b"x")
