"""Extended attributes."""

import ctypes
import os
import struct

from harness import UNMAPPED, check, fresh, outcome, raw

CREATE, REPLACE = 1, 2
AT_FDCWD, NOFOLLOW, EMPTY_PATH = -100, 0x100, 0x1000
os.close(fresh("file"))
os.mkdir("folder")
os.symlink("file", "link")
os.mkfifo("fifo")


@check
def spaces_of_names():
    def kind(path, **follow):
        return [outcome(os.setxattr, path, f"{space}.name", b"1", **follow) for space in ("user", "trusted", "security")]

    return {
        "file": kind("file"),
        "folder": kind("folder"),
        "link": kind("link", follow_symlinks=False),
        "fifo": kind("fifo"),
        "asked of a fifo": outcome(os.getxattr, "fifo", "user.name"),
        "removed from a fifo": outcome(os.removexattr, "fifo", "user.name"),
        "unknown": outcome(os.setxattr, "file", "other.name", b"1"),
        "without a space": outcome(os.setxattr, "file", "name", b"1"),
        "space alone": outcome(os.setxattr, "file", "user.", b"1"),
        "asked of a space alone": outcome(os.getxattr, "file", "user."),
        "asked of an unknown one": outcome(os.getxattr, "file", "other.name"),
    }


@check
def values_are_kept_as_they_are():
    fd = fresh("values")
    os.setxattr(fd, "user.empty", b"")
    os.setxattr(fd, "user.binary", bytes(range(256)))
    os.setxattr(fd, "user.large", b"l" * 65536)
    return (
        os.getxattr(fd, "user.empty"),
        os.getxattr(fd, "user.binary") == bytes(range(256)),
        os.getxattr(fd, "user.large") == b"l" * 65536,
        sorted(os.listxattr(fd)),
    )


@check
def create_and_replace():
    fd = fresh("modes")
    return (
        outcome(os.setxattr, fd, "user.a", b"1", REPLACE),
        outcome(os.setxattr, fd, "user.a", b"1", CREATE),
        outcome(os.setxattr, fd, "user.a", b"2", CREATE),
        outcome(os.setxattr, fd, "user.a", b"3", REPLACE),
        outcome(os.setxattr, fd, "user.a", b"3", 4),
        outcome(os.setxattr, fd, "user.a", b"4", CREATE | REPLACE),
        os.getxattr(fd, "user.a"),
        os.removexattr(fd, "user.a"),
        outcome(os.removexattr, fd, "user.a"),
        outcome(os.getxattr, fd, "user.a"),
    )


@check
def bad_arguments():
    fd = fresh("bad")
    value = ctypes.create_string_buffer(b"value", 5)
    os.setxattr(fd, "user.a", b"12345")
    room = ctypes.create_string_buffer(100)
    return {
        "long name": outcome(raw.fsetxattr, fd, b"user." + b"n" * 251, value, 5, 0),
        "longest name": outcome(raw.fsetxattr, fd, b"user." + b"n" * 250, value, 5, 0),
        "no name": outcome(raw.fsetxattr, fd, b"", value, 5, 0),
        "bad name": outcome(raw.fsetxattr, fd, UNMAPPED, value, 5, 0),
        "bad value": outcome(raw.fsetxattr, fd, b"user.b", UNMAPPED, 5, 0),
        "large value": outcome(raw.fsetxattr, fd, b"user.b", value, 65537, 0),
        "length asked": outcome(raw.fgetxattr, fd, b"user.a", None, 0),
        "short room": outcome(raw.fgetxattr, fd, b"user.a", room, 4),
        "bad room": outcome(raw.fgetxattr, fd, b"user.a", UNMAPPED, 100),
        "names' length": outcome(raw.flistxattr, fd, None, 0),
        "short room for names": outcome(raw.flistxattr, fd, room, 4),
        "no file": outcome(os.getxattr, "missing", "user.a"),
        "no descriptor": outcome(os.getxattr, 99, "user.a"),
        "bare path": outcome(os.getxattr, os.open("bad", os.O_PATH), "user.a"),
        "pipe": outcome(os.getxattr, os.pipe()[0], "user.a"),
    }


@check
def read_only_file_system_refuses():
    return (
        outcome(os.setxattr, "/usr", "user.a", b"1"),
        outcome(os.removexattr, "/usr", "user.a"),
        outcome(os.getxattr, "/usr/bin/python3", "user.a"),
        os.listxattr("/usr"),
    )


@check
def proc_has_none():
    return outcome(os.getxattr, "/proc/version", "user.a"), outcome(os.setxattr, "/proc/version", "user.a", b""), os.listxattr("/proc/version")


@check
def links_have_their_own():
    os.setxattr("file", "trusted.of", b"file")
    os.setxattr("link", "trusted.of", b"link", follow_symlinks=False)
    return os.getxattr("link", "trusted.of"), os.getxattr("link", "trusted.of", follow_symlinks=False)


@check
def attributes_survive_a_rename_and_are_shared_by_names():
    fd = fresh("before")
    os.setxattr(fd, "user.a", b"1")
    os.link("before", "second")
    os.rename("before", "after")
    return os.getxattr("after", "user.a"), os.getxattr("second", "user.a")


@check
def change_time_moves():
    fd = fresh("times")
    os.utime(fd, (1, 1))
    before = os.fstat(fd)
    import time

    time.sleep(0.02)
    os.setxattr(fd, "user.a", b"1")
    after = os.fstat(fd)
    return before.st_ctime_ns < after.st_ctime_ns, before.st_mtime_ns == after.st_mtime_ns
