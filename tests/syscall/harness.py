"""What the programs use: raw system calls, and checks that print one line each.

A check is a function named by what it shows; `@check` runs it at once and prints `name: result`. What it returns is
printed as Python writes it, an `OSError` that it raises as the name of its errno. Whatever differs from run to run
(process ids, addresses, times) is for the check to turn into something that does not.
"""

import ctypes
import errno
import os
import sys

from call_numbers import NUMBERS

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long

# Nothing is mapped at the first address; the second is not a user's on any 64-bit architecture.
UNMAPPED = 16
KERNEL = 0xFFFF_8000_0000_0000
PAGE = 4096
NS = 1_000_000_000


class _Calls:
    """`raw.lseek(fd, 0, 99)`: the call itself, without what libc or Python would do before it."""

    def __getattr__(self, name):
        number = NUMBERS[name]

        def call(*arguments):
            converted = [_argument(a) for a in arguments]
            ctypes.set_errno(0)
            result = _syscall(ctypes.c_long(number), *converted)
            if result == -1 and ctypes.get_errno():
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            return result

        setattr(self, name, call)
        return call


def _argument(value):
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, int):
        return ctypes.c_long(value)
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    return value


raw = _Calls()


def check(function):
    """Runs the function and prints what came of it."""
    name = function.__name__
    try:
        text = _show(function())
    except OSError as error:
        text = _errno(error)
    except Exception as error:  # whatever it is, it is the result
        text = f"{type(error).__name__}: {error}"
    print(f"{name}: {text}", flush=True)
    return function


def outcome(function, *arguments, **named):
    """What a call gives, or the name of its errno: for checks that make several."""
    try:
        return function(*arguments, **named)
    except OSError as error:
        return Named(_errno(error))


class Named:
    """Prints as a bare word."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def __eq__(self, other):
        return str(other) == self.name


def _errno(error):
    return errno.errorcode.get(error.errno, f"{type(error).__name__} {error}")


def _show(value):
    return value if isinstance(value, str) else repr(value)


def in_child(function):
    """Runs the function in a forked child; gives `exit N` by what it returns, or `signal N`."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = function() or 0
        except OSError as error:
            status = error.errno
        except BaseException as error:
            print(f"in the child, {type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(status)
    return ended(os.waitpid(child, 0)[1])


def ended(status):
    """A wait status in words."""
    if os.WIFEXITED(status):
        return f"exit {os.WEXITSTATUS(status)}"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    if os.WIFSTOPPED(status):
        return f"stopped {os.WSTOPSIG(status)}"
    return "continued" if os.WIFCONTINUED(status) else f"status {status:#x}"


def fresh(name, content=b""):
    """A new file with this content in the current folder; gives a descriptor open for reading and writing."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


class Iovec(ctypes.Structure):
    _fields_ = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


def iovecs(*buffers):
    """An array of iovec over ctypes buffers, whose owners must stay alive."""
    array = (Iovec * len(buffers))()
    for entry, buffer in zip(array, buffers):
        entry.iov_base = ctypes.addressof(buffer)
        entry.iov_len = ctypes.sizeof(buffer)
    return array
