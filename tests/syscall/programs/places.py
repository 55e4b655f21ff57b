"""Calls that name files relative to descriptors, with every flag."""

import ctypes
import errno
import os
import stat
import struct
import time

from harness import UNMAPPED, Timespec, check, fresh, in_child, iovecs, outcome, raw

CWD, NOFOLLOW, FOLLOW, EMPTY, REMOVEDIR, EACCESS, NO_AUTOMOUNT = -100, 0x100, 0x400, 0x1000, 0x200, 0x200, 0x800
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED = 1, 2, 4, 8, 16, 32
os.close(fresh("file", b"content"))
os.mkdir("folder")
os.close(fresh("folder/inner", b"inner"))
os.symlink("file", "link")
os.symlink("inner", "folder/alias")
os.symlink("../file", "folder/up")
os.symlink("/etc", "folder/absolute")
FOLDER = os.open("folder", os.O_RDONLY)


def statx(path, flags=0, mask=0x7FF, dirfd=CWD):
    room = ctypes.create_string_buffer(256)
    raw.statx(dirfd, path, flags, ctypes.c_uint32(mask), room)
    return room.raw


@check
def statx_masks_and_fields():
    basic, all_of_it = statx(b"file"), statx(b"file", 0, 0xFFF)
    fields = struct.unpack_from("<II", basic)
    birth = struct.unpack_from("<qI", all_of_it, 0x50)
    changed = struct.unpack_from("<qI", all_of_it, 0x60)
    return (
        hex(fields[0] & 0x7FF),
        bool(struct.unpack_from("<I", all_of_it)[0] & 0x800),
        fields[1],
        birth[0] > 0,
        birth <= changed,
        struct.unpack_from("<H", basic, 0x1C)[0] == os.stat("file").st_mode,
        struct.unpack_from("<Q", basic, 0x28)[0],
    )


@check
def statx_knows_mounts_and_alignment():
    top, below = statx(b"/", 0, 0x3FFF), statx(b"/proc", 0, 0x3FFF)
    mask = struct.unpack_from("<I", below)[0]
    attributes = [struct.unpack_from("<Q", found, 8)[0] >> 13 & 1 for found in (top, below, statx(b"file"))]
    return bool(mask & 0x1000) or bool(mask & 0x4000), attributes, struct.unpack_from("<II", statx(b"file", 0, 0x2000), 0x98)


@check
def statx_of_descriptors_and_flags():
    fd = os.open("file", os.O_RDONLY)
    size = lambda data: struct.unpack_from("<Q", data, 0x28)[0]
    return (
        size(statx(b"", EMPTY, dirfd=fd)),
        size(statx(None, EMPTY, dirfd=fd)),
        size(statx(b"link", NOFOLLOW)),
        size(statx(b"link", 0x4000)),
        outcome(statx, b"", 0, dirfd=fd),
        outcome(statx, b"file", 0x6000),
        outcome(statx, b"file", FOLLOW),
        outcome(statx, b"file", 0, 0x80000000),
        outcome(raw.statx, CWD, b"file", 0, 0x7FF, UNMAPPED),
    )


def unlinked():
    fd = fresh("to-be-unlinked")
    os.unlink("to-be-unlinked")
    return outcome(raw.linkat, fd, b"", CWD, b"x", EMPTY), outcome(raw.linkat, CWD, f"/proc/self/fd/{fd}".encode(), CWD, b"x", FOLLOW)


@check
def linkat_flags():
    fd = os.open("file", os.O_RDONLY)
    temporary = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    exclusive = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    os.write(temporary, b"temporary")
    return {
        "empty path": outcome(raw.linkat, fd, b"", CWD, b"by-descriptor", EMPTY),
        "without the flag": outcome(raw.linkat, fd, b"", CWD, b"x", 0),
        "followed": outcome(raw.linkat, CWD, b"link", CWD, b"followed", FOLLOW),
        "followed is": stat.S_ISREG(os.lstat("followed").st_mode),
        "not followed": outcome(raw.linkat, CWD, b"link", CWD, b"not-followed", 0),
        "not followed is": stat.S_ISLNK(os.lstat("not-followed").st_mode),
        "temporary": outcome(raw.linkat, temporary, b"", CWD, b"was-temporary", EMPTY),
        "temporary is": open("was-temporary").read(),
        "temporary through proc": outcome(raw.linkat, CWD, f"/proc/self/fd/{temporary}".encode(), CWD, b"again", FOLLOW),
        "exclusive": outcome(raw.linkat, exclusive, b"", CWD, b"x", EMPTY),
        "unknown": outcome(raw.linkat, CWD, b"file", CWD, b"x", 0x200),
        "folder": outcome(raw.linkat, CWD, b"folder", CWD, b"x", 0),
        "unlinked": unlinked(),
        "other file system": outcome(raw.linkat, CWD, b"/proc/version", CWD, b"x", 0),
    }


@check
def renameat2_flags():
    os.close(fresh("a", b"a"))
    os.close(fresh("b", b"b"))
    return (
        outcome(raw.renameat2, CWD, b"a", CWD, b"b", 1),
        outcome(raw.renameat2, CWD, b"a", CWD, b"c", 2),
        outcome(raw.renameat2, CWD, b"a", CWD, b"b", 3),
        outcome(raw.renameat2, CWD, b"a", CWD, b"b", 8),
        outcome(raw.renameat2, CWD, b"a", CWD, b"b", 2),
        open("a").read(),
        outcome(raw.renameat2, CWD, b"folder", CWD, b"folder/below", 0),
        outcome(raw.renameat2, CWD, b"missing", CWD, b"missing/below", 1),
        outcome(raw.renameat2, CWD, b"folder", CWD, b"folder/inner", 2),
        outcome(raw.renameat2, CWD, b".", CWD, b"b", 0),
        outcome(raw.renameat2, CWD, b"a", CWD, b"..", 1),
        outcome(raw.renameat2, CWD, b"a/", CWD, b"b", 0),
        outcome(raw.renameat2, CWD, b"a", CWD, b"new/", 0),
    )


def openat2(path, resolve=0, flags=0, mode=0, size=24, dirfd=FOLDER):
    fd = raw.openat2(dirfd, path, struct.pack("<QQQ", flags, mode, resolve), size)
    os.close(fd)
    return "opened"


@check
def openat2_restrictions():
    kinds = {"none": 0, "beneath": BENEATH, "in root": IN_ROOT, "no links": NO_SYMLINKS, "no magic": NO_MAGICLINKS, "no crossing": NO_XDEV}
    paths = [b"inner", b"alias", b"up", b"absolute", b"../file", b"/etc", b"../folder/inner", b".", b"..", b"/proc/self/fd/0", b"/inner"]
    return {name: {path.decode(): outcome(openat2, path, resolve) for path in paths} for name, resolve in kinds.items()}


@check
def openat2_bad_arguments():
    how = ctypes.create_string_buffer(4096 + 8)
    longer = struct.pack("<QQQQ", 0, 0, 0, 0)
    unknown = struct.pack("<QQQQ", 0, 0, 0, 1)
    return {
        "short": outcome(openat2, b"inner", size=23),
        "longer": outcome(raw.openat2, FOLDER, b"inner", longer, 32) > 0,
        "unknown field": outcome(raw.openat2, FOLDER, b"inner", unknown, 32),
        "too long": outcome(raw.openat2, FOLDER, b"inner", how, 4097),
        "pointer": outcome(raw.openat2, FOLDER, b"inner", UNMAPPED, 24),
        "flags": outcome(openat2, b"inner", flags=1 << 40),
        "mode without creation": outcome(openat2, b"inner", mode=0o600),
        "large mode": outcome(openat2, b"new", flags=os.O_CREAT, mode=0o10000),
        "unknown restriction": outcome(openat2, b"inner", 64),
        "contradiction": outcome(openat2, b"inner", BENEATH | IN_ROOT),
        "path and write": outcome(openat2, b"inner", flags=os.O_PATH | os.O_RDWR),
        "folder and creation": outcome(openat2, b"inner", flags=os.O_DIRECTORY | os.O_CREAT),
        "cached": outcome(openat2, b"inner", CACHED) in ("opened", "EAGAIN"),
        "cached and creation": outcome(openat2, b"new", CACHED, os.O_CREAT, 0o600),
    }


@check
def bare_paths_do_little():
    fd = os.open("file", os.O_PATH)
    link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    room = ctypes.create_string_buffer(10)
    return {
        "read": outcome(os.read, fd, 1),
        "chmod": outcome(os.fchmod, fd, 0o600),
        "chown": outcome(os.fchown, fd, 0, 0),
        "stat": os.fstat(fd).st_size,
        "statfs": os.fstatvfs(fd).f_namemax,
        "open again": outcome(os.open, f"/proc/self/fd/{fd}", os.O_RDONLY) > 0,
        "lseek": outcome(os.lseek, fd, 0, 0),
        "ioctl": outcome(raw.ioctl, fd, 0x541B, room),
        "mmap": outcome(raw.mmap, 0, 4096, 1, 1, fd, 0),
        "chdir": (outcome(os.fchdir, os.open("folder", os.O_PATH)), os.chdir("..")),
        "link": os.readlink(b"", dir_fd=link),
        "sync": outcome(os.fsync, fd),
        "truncate": outcome(os.ftruncate, fd, 0),
        "utime": outcome(raw.utimensat, fd, None, None, 0),
        "utime by empty path": outcome(raw.utimensat, fd, b"", None, EMPTY),
    }


@check
def utimensat_now_and_omit():
    NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
    fd = fresh("times")

    def set_times(access, change, flags=0, path=b"times", dirfd=CWD):
        pair = (Timespec * 2)(Timespec(*access), Timespec(*change))
        return raw.utimensat(dirfd, path, pair, flags)

    set_times((1, 2), (3, 4))
    first = os.stat("times").st_atime_ns, os.stat("times").st_mtime_ns
    set_times((0, OMIT), (5, 6))
    second = os.stat("times").st_atime_ns, os.stat("times").st_mtime_ns
    set_times((0, NOW), (0, OMIT))
    third = abs(os.stat("times").st_atime - time.time()) < 10, os.stat("times").st_mtime_ns
    set_times((7, 8), (9, 10), NOFOLLOW, b"link")
    return (
        first,
        second,
        third,
        os.lstat("link").st_mtime_ns,
        os.stat("link").st_mtime_ns == 9_000_000_010,
        outcome(set_times, (0, 1_000_000_000), (0, 0)),
        outcome(set_times, (0, OMIT), (0, OMIT), 0, b"missing"),
        outcome(set_times, (0, 0), (0, 0), 0x4000),
        outcome(set_times, (-1, 5), (0, 0)),
        os.stat("times").st_atime_ns,
        outcome(raw.utimensat, fd, None, None, 0),
        outcome(raw.utimensat, CWD, None, None, 0),
        outcome(raw.utimensat, CWD, b"times", UNMAPPED, 0),
    )


@check
def file_handles_are_refused_or_made():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 0, 0), 200)
    mount = ctypes.c_int()
    return (
        outcome(raw.name_to_handle_at, CWD, b"file", UNMAPPED, ctypes.byref(mount), 0),
        outcome(raw.name_to_handle_at, CWD, b"file", handle, ctypes.byref(mount), 0x40),
        outcome(raw.name_to_handle_at, CWD, b"missing", handle, ctypes.byref(mount), 0),
        outcome(raw.name_to_handle_at, CWD, b"/proc/version", handle, ctypes.byref(mount), 0),
        outcome(raw.open_by_handle_at, CWD, UNMAPPED, 0),
    )


@check
def faccessat2_flags():
    os.close(fresh("program", b""))
    os.chmod("program", 0o755)
    os.symlink("missing", "broken")
    fd = os.open("program", os.O_PATH)
    return (
        outcome(raw.faccessat2, CWD, b"program", 7, 0),
        outcome(raw.faccessat2, CWD, b"file", 1, EACCESS),
        outcome(raw.faccessat2, CWD, b"broken", 0, 0),
        outcome(raw.faccessat2, CWD, b"broken", 0, NOFOLLOW),
        outcome(raw.faccessat2, fd, b"", 1, EMPTY),
        outcome(raw.faccessat2, CWD, b"file", 8, 0),
        outcome(raw.faccessat2, CWD, b"file", 0, 0x400),
        outcome(raw.faccessat2, CWD, b"/usr", 2, 0),
    )


@check
def fchmodat2_flags():
    return (
        outcome(raw.fchmodat2, CWD, b"file", 0o640, 0),
        oct(os.stat("file").st_mode),
        outcome(raw.fchmodat2, CWD, b"link", 0o600, NOFOLLOW),
        outcome(raw.fchmodat2, os.open("file", os.O_PATH), b"", 0o600, EMPTY),
        outcome(raw.fchmodat2, CWD, b"file", 0o600, FOLLOW),
        outcome(raw.fchmodat2, CWD, b"", 0o600, 0),
    )


@check
def vectors_with_flags():
    HIPRI, DSYNC, SYNC, NOWAIT, APPEND, NOAPPEND = 1, 2, 4, 8, 16, 32
    fd = fresh("vectors", b"0123456789")
    appending = os.open("vectors", os.O_RDWR | os.O_APPEND)
    room, data = ctypes.create_string_buffer(4), ctypes.create_string_buffer(b"XY", 2)
    read = lambda flags, at=0, file=fd: outcome(raw.preadv2, file, iovecs(room), 1, at, 0, flags)
    write = lambda flags, at=0, file=fd: outcome(raw.pwritev2, file, iovecs(data), 1, at, 0, flags)
    return {
        "reads": [read(flags) for flags in (0, HIPRI, DSYNC, SYNC, NOWAIT, APPEND, NOAPPEND, 0x8000)],
        "writes": [write(flags) for flags in (0, HIPRI, DSYNC, SYNC, NOWAIT)],
        "append": (write(APPEND), os.fstat(fd).st_size, os.lseek(fd, 0, 1)),
        "append at the position": (write(APPEND, -1), os.lseek(fd, 0, 1)),
        "no append": (write(NOAPPEND, 0, appending), os.fstat(fd).st_size),
        "both": write(APPEND | NOAPPEND),
        "unknown": write(0x8000),
        "position": (os.lseek(fd, 3, 0), read(0, -1), os.lseek(fd, 0, 1)),
        "negative": read(0, -2),
        "pipe": read(0, 0, os.pipe()[0]),
        "pipe without waiting": read(NOWAIT, -1, os.pipe()[0]),
    }


@check
def data_and_holes():
    fd = fresh("sparse")
    os.pwrite(fd, b"x", 3 * 4096)
    os.ftruncate(fd, 8 * 4096)
    return (
        os.lseek(fd, 0, os.SEEK_DATA),
        os.lseek(fd, 0, os.SEEK_HOLE),
        os.lseek(fd, 3 * 4096 + 5, os.SEEK_DATA),
        os.lseek(fd, 3 * 4096 + 5, os.SEEK_HOLE),
        outcome(os.lseek, fd, 5 * 4096, os.SEEK_DATA),
        os.lseek(fd, 5 * 4096, os.SEEK_HOLE),
        outcome(os.lseek, fd, 8 * 4096, os.SEEK_HOLE),
        outcome(os.lseek, fd, -1, os.SEEK_DATA),
    )


@check
def listing_keeps_its_place_while_names_go():
    os.mkdir("many")
    for number in range(300):
        os.close(fresh(f"many/{number:03}"))
    seen = []
    with os.scandir("many") as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(f"many/{entry.name}")
    return len(seen), len(set(seen)), os.listdir("many")


@check
def chroot_confines():
    os.makedirs("cage/inside", exist_ok=True)
    os.close(fresh("outside"))
    os.symlink("/outside", "cage/absolute")
    os.symlink("../../outside", "cage/inside/relative")
    out, into = os.pipe()

    def caged():
        os.chroot("cage")
        os.chdir("/")
        found = [
            outcome(os.stat, "absolute"),
            outcome(os.stat, "inside/relative"),
            sorted(os.listdir("/")),
            sorted(os.listdir("/..")),
            os.getcwd(),
            outcome(os.listdir, "/proc"),
        ]
        os.write(into, repr(found).encode())

    return in_child(caged), os.read(out, 4096).decode()


@check
def working_folder_outside_the_root_is_unreachable():
    os.makedirs("jail", exist_ok=True)

    def caged():
        os.chroot("jail")
        room = ctypes.create_string_buffer(4096)
        raw.getcwd(room, 4096)
        return int(room.value.startswith(b"(unreachable)"))

    return in_child(caged), outcome(raw.pivot_root, b".", b".")


def statfs(path):
    room = ctypes.create_string_buffer(120)
    raw.statfs(os.fsencode(path), room)
    return struct.unpack_from("<q", room.raw)[0]


@check
def statfs_of_each_file_system():
    return {place: hex(statfs(place)) for place in ("/proc", "/sys", "/dev/shm", ".", "/dev")}
