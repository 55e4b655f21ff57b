"""Terminals: what is none, pseudo-terminals, line discipline, job control."""

import array
import ctypes
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import tty

from harness import UNMAPPED, check, ended, fresh, outcome, raw


pair = os.openpty


def attempt(function, *arguments):
    """As `outcome`, for termios, whose errors are its own class."""
    try:
        return function(*arguments)
    except termios.error as error:
        return outcome(_raise, OSError(*error.args))


def _raise(error):
    raise error


def cooked(slave, **changes):
    """Sets the flags given on or off, by name."""
    mode = termios.tcgetattr(slave)
    for name, on in changes.items():
        flag = getattr(termios, name)
        index = next(i for i, names in enumerate(GROUPS) if name in names)
        mode[index] = mode[index] | flag if on else mode[index] & ~flag
    termios.tcsetattr(slave, termios.TCSANOW, mode)


GROUPS = (
    ("ICRNL", "IGNCR", "INLCR", "IXON", "ISTRIP", "IUCLC", "BRKINT", "IUTF8"),
    ("OPOST", "ONLCR", "OCRNL", "TAB3"),
    (),
    ("ECHO", "ECHOE", "ECHOK", "ECHONL", "ECHOCTL", "ICANON", "ISIG", "IEXTEN", "NOFLSH", "TOSTOP"),
)


def echoed(master, text):
    """What the master reads after the text was typed there."""
    os.write(master, text)
    time.sleep(0.02)
    return arrived(master)


def arrived(fd):
    data = b""
    while select.select([fd], [], [], 0.02)[0]:
        piece = outcome(os.read, fd, 4096)
        if not isinstance(piece, bytes) or not piece:
            break
        data += piece
    return data


@check
def pipe_and_file_are_no_terminals():
    out, _into = os.pipe()
    file = fresh("file")
    size = array.array("H", [0] * 4)
    return (
        os.isatty(out),
        attempt(termios.tcgetattr, out),
        attempt(termios.tcgetattr, file),
        attempt(termios.tcgetattr, 999),
        outcome(fcntl.ioctl, out, termios.TIOCGWINSZ, size),
        outcome(os.tcgetpgrp, out),
        outcome(os.ttyname, file),
        outcome(raw.ioctl, os.open("/dev/null", 0), termios.TCGETS, UNMAPPED),
    )


@check
def no_controlling_terminal_returns_enxio():
    return os.open("/dev/tty", os.O_RDWR)


@check
def pseudo_terminal_has_names_and_a_size():
    master, slave = pair()
    size = array.array("H", [24, 80, 0, 0])
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    got = array.array("H", [0] * 4)
    fcntl.ioctl(master, termios.TIOCGWINSZ, got)
    return os.isatty(master), os.isatty(slave), os.ttyname(slave).startswith("/dev/pts/"), got[0], got[1], os.get_terminal_size(slave)


@check
def default_mode_of_a_pseudo_terminal():
    _master, slave = pair()
    mode = termios.tcgetattr(slave)
    return [hex(m) for m in mode[:4]], [m.hex() if isinstance(m, bytes) else m for m in mode[6][:17]]


@check
def ioctl_bad_arguments():
    master, slave = pair()
    return (
        outcome(raw.ioctl, slave, termios.TCGETS, UNMAPPED),
        outcome(raw.ioctl, slave, termios.TCSETS, UNMAPPED),
        outcome(raw.ioctl, slave, termios.TIOCGWINSZ, UNMAPPED),
        outcome(raw.ioctl, slave, 0x54FF, 0),
        outcome(raw.ioctl, master, termios.TIOCSPGRP, UNMAPPED),
        outcome(os.tcgetpgrp, slave),
        outcome(raw.ioctl, slave, termios.TCFLSH, 9),
    )


@check
def typed_line_is_echoed_and_read_whole():
    master, slave = pair()
    echo = echoed(master, b"hello\r")
    return echo, os.read(slave, 100)


@check
def line_is_edited():
    master, slave = pair()
    echo = echoed(master, b"abd\x7fc\r")
    first = os.read(slave, 100)
    kill = echoed(master, b"wrong\x15right\r")
    second = os.read(slave, 100)
    word = echoed(master, b"one two\x17three\r")
    return echo, first, kill, second, word, os.read(slave, 100)


@check
def unfinished_line_is_not_readable():
    master, slave = pair()
    os.write(master, b"unfinished")
    before = select.select([slave], [], [], 0.02)[0]
    os.write(master, b"\n")
    return before, select.select([slave], [], [], 2)[0] == [slave], os.read(slave, 4), os.read(slave, 100)


@check
def end_of_file_character():
    master, slave = pair()
    os.write(master, b"part\x04")
    first = os.read(slave, 100)
    os.write(master, b"\x04")
    return first, os.read(slave, 100)


@check
def literal_next_takes_a_control_character():
    master, slave = pair()
    echo = echoed(master, b"a\x16\x03b\r")
    return echo, os.read(slave, 100)


@check
def raw_mode_passes_bytes():
    master, slave = pair()
    tty.setraw(slave)
    echo = echoed(master, b"a\x03\r\x04")
    return echo, os.read(slave, 100)


@check
def output_turns_newline_into_two():
    master, slave = pair()
    os.write(slave, b"one\ntwo\tx")
    processed = arrived(master)
    cooked(slave, OPOST=False)
    os.write(slave, b"three\n")
    return processed, arrived(master)


@check
def input_translations():
    result = []
    for changes in ({"ICRNL": False}, {"INLCR": True}, {"IGNCR": True}):
        master, slave = pair()
        cooked(slave, ICANON=False, ECHO=False, **changes)
        os.write(master, b"a\r\nb")
        result.append(arrived(slave))
    return result


@check
def echo_can_be_off_or_only_newline():
    master, slave = pair()
    cooked(slave, ECHO=False)
    off = echoed(master, b"secret\r")
    cooked(slave, ECHONL=True)
    return off, echoed(master, b"secret\r"), os.read(slave, 100), os.read(slave, 100)


@check
def control_characters_are_echoed_with_a_caret():
    master, slave = pair()
    cooked(slave, ISIG=False)
    return echoed(master, b"\x03\x1b\x01"), echoed(master, b"\x7f\x7f")


@check
def minimum_and_time():
    master, slave = pair()
    mode = termios.tcgetattr(slave)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 0, 1
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    start = time.monotonic()
    empty = os.read(slave, 10)
    took = time.monotonic() - start
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 0, 0
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    at_once = os.read(slave, 10)
    mode[6][termios.VMIN] = 3
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    os.write(master, b"abcde")
    time.sleep(0.02)
    return empty, 0.09 < took < 5, at_once, os.read(slave, 10)


@check
def nonblocking_terminal_returns_eagain():
    master, slave = pair()
    os.set_blocking(slave, False)
    os.set_blocking(master, False)
    return outcome(os.read, slave, 10), outcome(os.read, master, 10)


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
def flush_drops_what_waits():
    master, slave = pair()
    os.write(master, b"waiting\n")
    time.sleep(0.02)
    termios.tcflush(slave, termios.TCIFLUSH)
    count = array.array("i", [0])
    fcntl.ioctl(slave, termios.FIONREAD, count)
    return count[0], select.select([slave], [], [], 0)[0]


def session(function):
    """Runs the function in a child whose controlling terminal is a new one; gives what it returned and was written."""
    sys.stdout.flush()
    master, slave = pair()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(master)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        try:
            os.write(writer, repr(function(slave)).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__} {error}".encode())
        os._exit(0)
    os.close(slave)
    os.close(writer)
    return child, master, reader


def finished(child, reader):
    text = b""
    while piece := os.read(reader, 4096):
        text += piece
    return text.decode(), ended(os.waitpid(child, 0)[1])


@check
def controlling_terminal_is_known_as_dev_tty():
    def inside(slave):
        fd = os.open("/dev/tty", os.O_RDWR)
        return os.isatty(fd), os.tcgetpgrp(fd) == os.getpgrp()

    child, _master, reader = session(inside)
    return finished(child, reader)


@check
def interrupt_character_signals_the_foreground():
    def inside(slave):
        seen = []
        signal.signal(signal.SIGINT, lambda s, _: seen.append(int(s)))
        signal.signal(signal.SIGQUIT, lambda s, _: seen.append(int(s)))
        os.write(slave, b"ready")
        while len(seen) < 2:
            time.sleep(0.01)
        return seen

    child, master, reader = session(inside)
    data = b""
    while b"ready" not in data:
        data += os.read(master, 100)
    os.write(master, b"\x03")
    time.sleep(0.05)
    os.write(master, b"\x1c")
    return finished(child, reader), arrived(master)


@check
def hang_up_signals_the_session():
    def inside(slave):
        seen = []
        signal.signal(signal.SIGHUP, lambda s, _: seen.append(int(s)))
        os.write(slave, b"ready")
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            time.sleep(0.01)
        return seen

    child, master, reader = session(inside)
    os.read(master, 100)
    os.close(master)
    return finished(child, reader)


@check
def background_read_stops():
    def inside(slave):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.read(slave, 10)
            os._exit(0)
        outcome(os.setpgid, child, child)
        status = os.waitpid(child, os.WUNTRACED)[1]
        result = ended(status)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return result == f"stopped {signal.SIGTTIN.value}"

    child, _master, reader = session(inside)
    return finished(child, reader)


@check
def foreground_group_can_be_moved():
    def inside(slave):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            time.sleep(60)
            os._exit(0)
        outcome(os.setpgid, child, child)
        os.tcsetpgrp(slave, child)
        moved = os.tcgetpgrp(slave) == child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return moved, outcome(os.tcsetpgrp, slave, 0x3FFFFFFF), outcome(os.tcsetpgrp, slave, 1)

    child, _master, reader = session(inside)
    return finished(child, reader)


@check
def changed_size_signals_the_foreground():
    def inside(slave):
        seen = []
        signal.signal(signal.SIGWINCH, lambda s, _: seen.append(int(s)))
        os.write(slave, b"ready")
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            time.sleep(0.01)
        return seen, os.get_terminal_size(slave).columns

    child, master, reader = session(inside)
    os.read(master, 100)
    fcntl.ioctl(master, termios.TIOCSWINSZ, array.array("H", [50, 132, 0, 0]))
    return finished(child, reader)


@check
def pty_spawn_runs_python():
    child, master = pty.fork()
    if child == 0:
        os.execv("/usr/bin/python3", ["python3", "-c", "import sys; print(sys.stdin.isatty(), input().upper())"])
    os.write(master, b"typed\n")
    data = b""
    while piece := outcome(os.read, master, 100):
        if not isinstance(piece, bytes):
            break
        data += piece
    return data, ended(os.waitpid(child, 0)[1])


@check
def structures_have_the_kernel_layout():
    _master, slave = pair()
    buffer = ctypes.create_string_buffer(b"\xee" * 64, 64)
    raw.ioctl(slave, termios.TCGETS, buffer)
    return struct.unpack_from("<I", buffer, 12)[0] & termios.ICANON, buffer.raw[36:40]

