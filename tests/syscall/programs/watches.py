"""Watching files with inotify."""

import array
import ctypes
import fcntl
import os
import select
import struct
import termios

from harness import UNMAPPED, check, fresh, outcome, raw

ACCESS, MODIFY, ATTRIB, CLOSE_WRITE, CLOSE_NOWRITE, OPEN = 1, 2, 4, 8, 16, 32
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 64, 128, 256, 512, 1024, 2048
UNMOUNT, Q_OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
ONLYDIR, DONT_FOLLOW, EXCL_UNLINK = 0x0100_0000, 0x0200_0000, 0x0400_0000
MASK_CREATE, MASK_ADD, ISDIR, ONESHOT = 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x8000_0000
ALL = 0xFFF
EVENTS = {
    globals()[name]: name
    for name in "ACCESS MODIFY ATTRIB CLOSE_WRITE CLOSE_NOWRITE OPEN MOVED_FROM MOVED_TO CREATE DELETE DELETE_SELF MOVE_SELF "
    "UNMOUNT Q_OVERFLOW IGNORED ISDIR".split()
}


def instance():
    return raw.inotify_init1(os.O_NONBLOCK)


def watch(fd, path, mask=ALL):
    return raw.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask))


def words(mask):
    return "+".join(name for bit, name in EVENTS.items() if mask & bit)


def events(fd, size=65536):
    """What waits: (watch, events, whether there is a cookie, name)."""
    try:
        data = os.read(fd, size)
    except BlockingIOError:
        return []
    found = []
    while data:
        wd, mask, cookie, length = struct.unpack_from("iIII", data)
        found.append((wd, words(mask), bool(cookie), data[16 : 16 + length].rstrip(b"\0").decode()))
        data = data[16 + length :]
    return found


@check
def init_bad_arguments():
    return outcome(raw.inotify_init1, 1), outcome(raw.inotify_init1, os.O_CLOEXEC | os.O_NONBLOCK) > 0


@check
def add_watch_bad_arguments():
    fd = instance()
    os.close(fresh("plain"))
    return {
        "no event": outcome(watch, fd, ".", 0),
        "only flags": outcome(watch, fd, ".", ONLYDIR),
        "unknown bit": outcome(watch, fd, ".", 0x10_0000),
        "no descriptor": outcome(watch, 99, ".", ALL),
        "another file": outcome(watch, 0, ".", ALL),
        "add and create": outcome(watch, fd, ".", ALL | MASK_ADD | MASK_CREATE),
        "no name": outcome(watch, fd, "missing", ALL),
        "no folder": outcome(watch, fd, "plain", ALL | ONLYDIR),
        "bad pointer": outcome(raw.inotify_add_watch, fd, UNMAPPED, ALL),
        "remove unknown": outcome(raw.inotify_rm_watch, fd, 77),
        "remove elsewhere": outcome(raw.inotify_rm_watch, 0, 1),
    }


@check
def write_is_refused_and_fstat_has_no_kind():
    fd = instance()
    information = os.fstat(fd)
    return outcome(os.write, fd, b"x"), oct(information.st_mode), os.readlink(f"/proc/self/fd/{fd}")


@check
def file_tells_open_read_write_close():
    os.close(fresh("watched", b"abc"))
    fd = instance()
    wd = watch(fd, "watched")
    file = os.open("watched", os.O_RDWR)
    os.read(file, 1)
    os.write(file, b"x")
    os.pread(file, 1, 0)
    os.pread(file, 0, 0)
    os.close(file)
    os.close(os.open("watched", os.O_RDONLY))
    os.close(os.open("watched", os.O_PATH))
    return wd, events(fd)


@check
def equal_events_in_a_row_are_one():
    os.close(fresh("same", b"abc"))
    fd = instance()
    file = os.open("same", os.O_RDWR)
    watch(fd, "same")
    for _ in range(5):
        os.pwrite(file, b"x", 0)
    os.pread(file, 1, 0)
    os.pwrite(file, b"x", 0)
    return events(fd)


@check
def folder_tells_names():
    os.mkdir("names")
    fd = instance()
    watch(fd, "names")
    os.close(fresh("names/file"))
    os.mkdir("names/folder")
    os.symlink("x", "names/link")
    os.mkfifo("names/fifo")
    os.link("names/file", "names/second")
    os.unlink("names/second")
    os.rmdir("names/folder")
    os.listdir("names")
    return events(fd)


@check
def attributes_are_told():
    os.mkdir("attributes")
    os.close(fresh("attributes/file", b"abc"))
    fd = instance()
    watch(fd, "attributes")
    watch(fd, "attributes/file")
    os.chmod("attributes/file", 0o600)
    os.utime("attributes/file", (1, 1))
    os.chown("attributes/file", 0, 0)
    os.truncate("attributes/file", 1)
    os.setxattr("attributes/file", "user.a", b"1")
    os.chmod("attributes", 0o700)
    return events(fd)


@check
def open_that_truncates_tells_modify():
    os.close(fresh("cut", b"abc"))
    fd = instance()
    watch(fd, "cut")
    os.close(os.open("cut", os.O_WRONLY | os.O_TRUNC))
    return events(fd)


@check
def move_gives_both_halves_one_cookie():
    os.mkdir("from")
    os.mkdir("to")
    os.close(fresh("from/file"))
    fd = instance()
    watch(fd, "from")
    watch(fd, "to")
    watch(fd, "from/file", MOVE_SELF)
    os.rename("from/file", "to/name")
    data = os.read(fd, 4096)
    cookies = [struct.unpack_from("iIII", data, at)[2] for at in (0, 32)]
    os.rename("to/name", "from/file")
    return cookies[0] == cookies[1] != 0, events(fd)


@check
def replaced_file_is_told():
    os.mkdir("replace")
    os.close(fresh("replace/a"))
    os.close(fresh("replace/b"))
    fd = instance()
    watch(fd, "replace")
    watch(fd, "replace/a")
    watch(fd, "replace/b")
    os.rename("replace/a", "replace/b")
    return events(fd)


@check
def exchange_is_two_moves():
    os.mkdir("swap")
    os.close(fresh("swap/a"))
    os.mkdir("swap/b")
    fd = instance()
    watch(fd, "swap")
    watch(fd, "swap/a")
    watch(fd, "swap/b")
    raw.renameat2(-100, b"swap/a", -100, b"swap/b", 2)
    return events(fd)


@check
def removed_file_ends_its_watch():
    os.close(fresh("mortal"))
    fd = instance()
    wd = watch(fd, "mortal")
    os.unlink("mortal")
    return events(fd), outcome(raw.inotify_rm_watch, fd, wd)


@check
def removed_folder_ends_its_watch():
    os.mkdir("parent")
    os.mkdir("parent/child")
    fd = instance()
    watch(fd, "parent")
    watch(fd, "parent/child")
    os.rmdir("parent/child")
    return events(fd)


@check
def open_file_lives_on_after_its_name():
    file = fresh("lingering", b"abc")
    fd = instance()
    watch(fd, "lingering")
    os.unlink("lingering")
    first = events(fd)
    os.read(file, 1)
    os.close(file)
    return first, events(fd)


@check
def second_name_keeps_the_watch():
    os.close(fresh("one"))
    os.link("one", "two")
    fd = instance()
    watch(fd, "one")
    os.unlink("one")
    first = events(fd)
    os.unlink("two")
    return first, events(fd)


@check
def unlinked_child_is_left_out_if_wanted():
    results = []
    for flag in (0, EXCL_UNLINK):
        os.mkdir(f"excl{flag}")
        file = fresh(f"excl{flag}/child", b"abc")
        fd = instance()
        watch(fd, f"excl{flag}", ALL | flag)
        os.unlink(f"excl{flag}/child")
        os.write(file, b"x")
        os.close(file)
        results.append(events(fd))
    return results


@check
def one_shot_ends_after_one_event():
    os.close(fresh("once"))
    fd = instance()
    wd = watch(fd, "once", OPEN | ONESHOT)
    os.close(os.open("once", os.O_RDONLY))
    os.close(os.open("once", os.O_RDONLY))
    return events(fd), outcome(raw.inotify_rm_watch, fd, wd)


@check
def mask_is_replaced_added_to_or_refused():
    os.close(fresh("mask"))
    fd = instance()
    first = watch(fd, "mask", OPEN)
    again = watch(fd, "mask", CLOSE_NOWRITE)
    os.close(os.open("mask", os.O_RDONLY))
    replaced = events(fd)
    watch(fd, "mask", OPEN | MASK_ADD)
    os.close(os.open("mask", os.O_RDONLY))
    return first == again, replaced, events(fd), outcome(watch, fd, "mask", OPEN | MASK_CREATE)


@check
def removed_watch_says_ignored_and_numbers_go_on():
    fd = instance()
    first = watch(fd, ".")
    raw.inotify_rm_watch(fd, first)
    return first, events(fd), watch(fd, "."), outcome(raw.inotify_rm_watch, fd, first)


@check
def symbolic_link_itself_can_be_watched():
    os.close(fresh("target"))
    os.symlink("target", "alias")
    fd = instance()
    one, other, third = watch(fd, "alias"), watch(fd, "alias", ALL | DONT_FOLLOW), watch(fd, "target")
    os.lchown("alias", 0, 0)
    return one == third, one == other, events(fd)


@check
def waiting_bytes_are_counted_and_short_reads_refused():
    os.mkdir("count")
    fd = instance()
    watch(fd, "count", CREATE)
    os.close(fresh("count/a"))
    os.close(fresh("count/a-name-of-more-than-sixteen-bytes"))
    waiting = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    return waiting[0], outcome(os.read, fd, 16), len(os.read(fd, 40)), len(os.read(fd, 100)), outcome(os.read, fd, 100)


@check
def readiness_follows_the_queue():
    fd = instance()
    poll = select.epoll()
    poll.register(fd, select.EPOLLIN)
    before = poll.poll(0), select.select([fd], [], [], 0)[0]
    watch(fd, ".", CREATE)
    os.close(fresh("ready"))
    after = [event for _, event in poll.poll(0)], bool(select.select([fd], [], [], 0)[0])
    events(fd)
    return before, after, poll.poll(0)


@check
def full_queue_says_so():
    path = "/proc/sys/fs/inotify/max_queued_events"
    with open(path) as file:
        limit = file.read()
    try:
        with open(path, "w") as file:
            file.write("4")
        fd = instance()
        watch(fd, ".", CREATE | DELETE)
        for _ in range(4):
            os.close(fresh("flood"))
            os.unlink("flood")
        return limit, events(fd), events(fd)
    finally:
        with open(path, "w") as file:
            file.write(limit)


@check
def limits_are_there():
    values = [int(open(f"/proc/sys/fs/inotify/{name}").read()) for name in ("max_user_instances", "max_queued_events")]
    return values, int(open("/proc/sys/fs/inotify/max_user_watches").read()) >= 8192


@check
def too_many_instances_are_refused():
    held = []
    try:
        while len(held) < 1000:
            held.append(instance())
    except OSError as error:
        return error.errno, len(held) > 100
    finally:
        for fd in held:
            os.close(fd)

