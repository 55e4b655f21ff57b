"""What MicroPython's tools expect on a device and CPython has not: a few names, offered where they are missing.

Offered when a client first enters the raw REPL. Nothing that CPython has is changed.
"""

import calendar
import importlib.util
import os
import sys
import time
import types


def ilistdir(path: str = "."):
    """Go through a directory: name, kind (0x4000 a directory, 0x8000 a file), inode and size of each entry."""
    with os.scandir(path or ".") as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:
                status = entry.stat(follow_symlinks=False)
            kind = 0x4000 if entry.is_dir() else 0x8000
            yield entry.name, kind, status.st_ino, status.st_size


def mounts() -> list[tuple[str, str]]:
    """Answer the file systems and where they are mounted: ``vfs.mount()`` without arguments."""
    with open("/proc/self/mounts") as file:
        return [(words[0], words[1]) for line in file if len(words := line.split()) > 1]


def mount(filesystem, place: str) -> None:
    """Lend this session a folder of the host: what ``mpremote mount`` asks for."""
    from piton.repl import remote

    remote.mount(filesystem, place)


def umount(place: str) -> None:
    """Take it away again."""
    from piton.repl import remote

    remote.umount(place)


class RTC:
    """The wall clock: year, month, day, day of the week from Monday on, hour, minute, second, microsecond."""

    def datetime(self, new: tuple | None = None) -> tuple | None:
        """Answer the time in UTC, or set it to *new*."""
        if new is not None:
            year, month, day, _, hour, minute, second, micro = new
            seconds = calendar.timegm((year, month, day, hour, minute, second))
            time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 1_000_000_000 + micro * 1000)
            return None
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        now = time.gmtime(seconds)
        return (*now[:3], now.tm_wday, *now[3:6], nanoseconds // 1000)


def _uos() -> types.ModuleType:
    """Make MicroPython's old name for ``os``, with its plain tuples: tools read what ``repr`` makes of them."""
    uos = types.ModuleType("uos", "The module os, but for tuples without names.")
    # Asked for anew each time: while a folder is lent some functions are others.
    uos.__getattr__ = lambda name: getattr(os, name)
    uos.stat = lambda path: tuple(os.stat(path))
    uos.statvfs = lambda path: tuple(os.statvfs(path))
    return uos


def _machine() -> types.ModuleType:
    import piton

    machine = types.ModuleType("machine", "What MicroPython's tools ask of the module of that name.")
    machine.RTC, machine.reset = RTC, piton.reboot
    return machine


def offer() -> None:
    """Make the names known."""
    if not hasattr(time, "sleep_ms"):
        time.sleep_ms = lambda milliseconds: time.sleep(milliseconds / 1000)
    if "machine" not in sys.modules and importlib.util.find_spec("machine") is None:
        sys.modules["machine"] = _machine()
    if not hasattr(os, "ilistdir"):
        os.ilistdir = ilistdir
    for function in mount, umount:
        if not hasattr(os, function.__name__):
            setattr(os, function.__name__, function)
    if "uos" not in sys.modules:
        sys.modules["uos"] = _uos()
    if "micropython" not in sys.modules and importlib.util.find_spec("micropython") is None:
        module = types.ModuleType("micropython", "What MicroPython's tools ask of the module of that name.")
        module.const, module.kbd_intr = lambda value: value, lambda key: None
        sys.modules["micropython"] = module
    if "vfs" not in sys.modules:
        vfs = types.ModuleType("vfs", "The file systems, as MicroPython's module of that name lists them.")
        vfs.mount = mounts
        sys.modules["vfs"] = vfs
