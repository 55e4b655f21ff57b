"""Terminals: what is none, settings, the line discipline, flow control."""

import array
import ctypes
import fcntl
import os
import select
import struct
import termios
import time
import tty

from harness import UNMAPPED, check, fresh, in_child, outcome, raw
from terminal_tools import (
    EXTPROC,
    TCGETA,
    TCGETS2,
    TCSETA,
    TCSETS2,
    TIOCGEXCL,
    TIOCGSOFTCAR,
    TIOCSSOFTCAR,
    arrived,
    attempt,
    cooked,
    echoed,
    events,
    hand,
    number,
    pair,
    settle,
)


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
def flush_drops_what_waits():
    master, slave = pair()
    os.write(master, b"waiting\n")
    time.sleep(0.02)
    termios.tcflush(slave, termios.TCIFLUSH)
    count = array.array("i", [0])
    fcntl.ioctl(slave, termios.FIONREAD, count)
    return count[0], select.select([slave], [], [], 0)[0]


@check
def structures_have_the_kernel_layout():
    _master, slave = pair()
    buffer = ctypes.create_string_buffer(b"\xee" * 64, 64)
    raw.ioctl(slave, termios.TCGETS, buffer)
    return struct.unpack_from("<I", buffer, 12)[0] & termios.ICANON, buffer.raw[36:40]


@check
def speeds_are_numbers_in_the_newer_form():
    _master, slave = pair()
    buffer = ctypes.create_string_buffer(b"\xee" * 64, 64)
    raw.ioctl(slave, TCGETS2, buffer)
    first = struct.unpack_from("<II", buffer, 36), buffer.raw[44:48]
    flags = struct.unpack_from("<I", buffer, 8)[0]
    struct.pack_into("<I", buffer, 8, flags & ~0o10017 | 0o10000)
    struct.pack_into("<II", buffer, 36, 1, 123456)
    raw.ioctl(slave, TCSETS2, buffer)
    raw.ioctl(slave, TCGETS2, buffer)
    mode = termios.tcgetattr(slave)
    mode[4] = mode[5] = termios.B9600
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    after = ctypes.create_string_buffer(64)
    raw.ioctl(slave, TCGETS2, after)
    return first, struct.unpack_from("<II", buffer, 36), struct.unpack_from("<II", after, 36), termios.tcgetattr(slave)[4:6]


@check
def old_form_of_settings():
    _master, slave = pair()
    buffer = ctypes.create_string_buffer(b"\xee" * 32, 32)
    raw.ioctl(slave, TCGETA, buffer)
    got = [hex(word) for word in struct.unpack_from("<4H", buffer)], buffer.raw[8:20].hex()
    struct.pack_into("<H", buffer, 6, 0)
    raw.ioctl(slave, TCSETA, buffer)
    return got, hex(termios.tcgetattr(slave)[3]), outcome(raw.ioctl, slave, TCGETA, UNMAPPED)


@check
def settings_that_a_pseudo_terminal_keeps():
    _master, slave = pair()
    mode = termios.tcgetattr(slave)
    mode[2] = mode[2] & ~termios.CSIZE & ~termios.CREAD | termios.CS5 | termios.PARENB | termios.CSTOPB
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    kept = oct(termios.tcgetattr(slave)[2])
    carrier = number(slave, TIOCGSOFTCAR), hand(slave, TIOCSSOFTCAR, 1), number(slave, TIOCGSOFTCAR)
    return kept, carrier, oct(termios.tcgetattr(slave)[2])


@check
def editing_elsewhere_leaves_input_alone():
    master, slave = pair()
    mode = termios.tcgetattr(slave)
    mode[3] |= EXTPROC
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    os.write(master, b"a\x7f\x03\r\x15b")
    settle()
    return os.read(slave, 100), arrived(master)


@check
def stopped_output_waits():
    master, slave = pair()
    os.write(master, b"\x13")
    settle()
    os.set_blocking(slave, False)
    stopped = outcome(os.write, slave, b"held"), events(slave), arrived(master)
    # Only what tcflow stopped goes on by it.
    termios.tcflow(slave, termios.TCOON)
    still = outcome(os.write, slave, b"held")
    os.write(master, b"\x11")
    settle()
    going = outcome(os.write, slave, b"sent"), arrived(master)
    termios.tcflow(slave, termios.TCOOFF)
    os.write(master, b"\x11")
    settle()
    again = outcome(os.write, slave, b"held")
    termios.tcflow(slave, termios.TCOON)
    return stopped, still, going, again, outcome(os.write, slave, b"end"), arrived(master)


@check
def flow_characters_are_sent_on_request():
    master, slave = pair()
    termios.tcflow(slave, termios.TCIOFF)
    termios.tcflow(slave, termios.TCION)
    sent = arrived(master)
    termios.tcflow(master, termios.TCIOFF)
    settle()
    os.set_blocking(slave, False)
    stopped = outcome(os.write, slave, b"held")
    termios.tcflow(master, termios.TCION)
    settle()
    going = outcome(os.write, slave, b"sent"), arrived(master)
    os.set_blocking(master, False)
    termios.tcflow(master, termios.TCOOFF)
    held = outcome(os.write, master, b"held"), events(master)
    termios.tcflow(master, termios.TCOON)
    return sent, stopped, going, held, outcome(os.write, master, b"sent")


@check
def input_pace_is_not_told_to_the_master():
    master, slave = pair()
    tty.setraw(slave)
    mode = termios.tcgetattr(slave)
    mode[0] |= termios.IXOFF
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    os.set_blocking(master, False)
    os.write(master, b"x" * 5000)
    settle()
    return arrived(master)


@check
def long_line_is_cut_but_ends():
    master, slave = pair()
    cooked(slave, ECHO=False)
    os.set_blocking(master, False)
    for _ in range(50):
        os.write(master, b"x" * 100)
        time.sleep(0.002)
    os.write(master, b"\n")
    settle()
    line = os.read(slave, 10000)
    return len(line), line[-1:]


@check
def faked_input():
    master, slave = pair()
    for byte in b"ls\n":
        fcntl.ioctl(slave, termios.TIOCSTI, bytes([byte]))
    settle()
    typed = os.read(slave, 100), arrived(master)
    fcntl.ioctl(master, termios.TIOCSTI, b"m")
    settle()
    return typed, arrived(master)


@check
def exclusive_terminal():
    master, slave = pair()
    before = number(slave, TIOCGEXCL)
    fcntl.ioctl(slave, termios.TIOCEXCL)
    during = number(slave, TIOCGEXCL), number(master, TIOCGEXCL)
    fcntl.ioctl(slave, termios.TIOCNXCL)
    return before, during, number(slave, TIOCGEXCL)


@check
def locked_settings_stay():
    master, slave = os.openpty()
    LOCK, LOCKED = 0x5457, 0x5456

    def locked(fd):
        return fcntl.ioctl(fd, LOCKED, bytes(36))

    before = locked(slave)
    lock = bytearray(36)
    struct.pack_into("<I", lock, 12, termios.ECHO)
    lock[17 + termios.VINTR] = 1
    done = outcome(fcntl.ioctl, slave, LOCK, bytes(lock))
    settings = termios.tcgetattr(slave)
    settings[3] &= ~(termios.ECHO | termios.ICANON)
    settings[6][termios.VINTR] = b"x"
    settings[6][termios.VQUIT] = b"y"
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    after = termios.tcgetattr(slave)
    shown = locked(master) == bytes(lock)

    def others():
        os.setuid(1000)
        print(outcome(fcntl.ioctl, slave, LOCK, bytes(36)), outcome(locked, slave) == bytes(lock))

    by_others = in_child(others)
    fcntl.ioctl(master, LOCK, bytes(36))
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    free = termios.tcgetattr(slave)
    return (
        before == bytes(36),
        done,
        shown,
        by_others,
        [bool(after[3] & flag) for flag in (termios.ECHO, termios.ICANON)],
        [after[6][index] for index in (termios.VINTR, termios.VQUIT)],
        bool(free[3] & termios.ECHO),
        free[6][termios.VINTR],
        outcome(raw.ioctl, slave, LOCK, UNMAPPED),
        outcome(raw.ioctl, slave, LOCKED, UNMAPPED),
    )
