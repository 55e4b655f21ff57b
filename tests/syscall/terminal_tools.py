"""What the programs about terminals share."""

import array
import ctypes
import fcntl
import os
import select
import struct
import sys
import termios
import time

from harness import ended, outcome, raw


pair = os.openpty

GROUPS = (
    ("ICRNL", "IGNCR", "INLCR", "IXON", "ISTRIP", "IUCLC", "BRKINT", "IUTF8"),
    ("OPOST", "ONLCR", "OCRNL", "TAB3"),
    (),
    ("ECHO", "ECHOE", "ECHOK", "ECHONL", "ECHOCTL", "ICANON", "ISIG", "IEXTEN", "NOFLSH", "TOSTOP"),
)

# ioctl numbers that termios leaves out (asm-generic/ioctls.h).
TIOCGPTN, TIOCSPTLCK, TIOCGPTLCK = 0x80045430, 0x40045431, 0x80045439
TIOCGPTPEER, TIOCGPKT, TIOCSIG, TIOCGDEV, TIOCVHANGUP = 0x5441, 0x80045438, 0x40045436, 0x80045432, 0x5437
TIOCGEXCL = 0x80045440
TCGETS2, TCSETS2, TCGETA, TCSETA = 0x802C542A, 0x402C542B, 0x5405, 0x5406
TIOCGSID, TIOCGSOFTCAR, TIOCSSOFTCAR = 0x5429, 0x5419, 0x541A
EXTPROC = 0o200000


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


def number(fd, request):
    """The int that a request answers."""
    answer = array.array("i", [-1])
    try:
        fcntl.ioctl(fd, request, answer)
    except OSError as error:
        return outcome(_raise, error)
    return answer[0]


def hand(fd, request, value):
    """A request that takes the address of an int."""
    return outcome(raw.ioctl, fd, request, ctypes.create_string_buffer(struct.pack("i", value)))


def events(fd):
    """What poll says at once, by name."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLPRI | select.POLLOUT)
    bits = poller.poll(0)
    names = ("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL")
    return [name for name in names if bits and bits[0][1] & getattr(select, name)]


def settle():
    """Lets Linux move what was written to the other side."""
    time.sleep(0.05)


def inside_session(function):
    """What the function gives in a new session with a terminal of its own, and what the master saw."""
    child, master, reader = session(function)
    return finished(child, reader), arrived(master)
