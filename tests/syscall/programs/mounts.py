"""Mounting: tmpfs, proc, sysfs, bind mounts, read-only mounts, and taking them away again."""

import ctypes
import os
import struct
import time

from harness import UNMAPPED, check, fresh, in_child, outcome, raw

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 8192, 16384, 1 << 18
FORCE, DETACH, EXPIRE, NOFOLLOW = 1, 2, 4, 8
HERE = os.getcwd()


def mount(source, target, kind=None, flags=0, data=None):
    return raw.mount(source, target, kind, flags, data)


def umount(target, flags=0):
    return raw.umount2(target, flags)


def place(name):
    os.makedirs(name, exist_ok=True)
    return name.encode()


def listed(name):
    """The type and options of what is mounted there, the last one last."""
    found = [line.split() for line in open("/proc/self/mounts")]
    return [(fields[2], fields[3].split(",")[0]) for fields in found if fields[1] == f"{HERE}/{name}"]


@check
def tmpfs_is_mounted_hides_and_goes():
    target = place("memory")
    os.close(fresh("memory/below"))
    results = [outcome(mount, b"none", target, b"tmpfs"), os.listdir("memory"), listed("memory")]
    os.close(fresh("memory/above", b"text"))
    results.append(os.stat("memory").st_dev != os.stat(".").st_dev)
    results.append(oct(os.stat("memory").st_mode))
    results.append(outcome(os.rename, "memory/above", "elsewhere"))
    results.append(outcome(os.rmdir, "memory"))
    results.append(os.path.ismount("memory"))
    results.append(outcome(umount, target))
    results.append((os.listdir("memory"), listed("memory"), outcome(umount, target)))
    return results


@check
def tmpfs_has_options():
    target = place("options")
    mount(b"none", target, b"tmpfs", 0, b"size=64k,mode=0711,nr_inodes=4,uid=5,gid=6")
    information = os.stat("options")
    fd = os.open("options/a", os.O_RDWR | os.O_CREAT)
    written = sum(outcome(os.write, fd, b"x" * 4096) for _ in range(16))
    full = outcome(os.write, fd, b"x")
    os.close(os.open("options/b", os.O_RDWR | os.O_CREAT))
    os.close(os.open("options/c", os.O_RDWR | os.O_CREAT))
    inodes = outcome(os.open, "options/d", os.O_RDWR | os.O_CREAT)
    figures = os.statvfs("options")
    os.close(fd)
    results = oct(information.st_mode), information.st_uid, information.st_gid, written, full, inodes, figures.f_blocks, figures.f_bfree, figures.f_files
    umount(target)
    return results


@check
def busy_file_system_stays_unless_detached():
    target = place("busy")
    mount(b"none", target, b"tmpfs")
    fd = fresh("busy/open", b"content")
    refused = outcome(umount, target)
    detached = outcome(umount, target, DETACH)
    return refused, detached, os.listdir("busy"), os.pread(fd, 10, 0), outcome(umount, target)


@check
def working_folder_makes_busy():
    target = place("inside")
    mount(b"none", target, b"tmpfs")
    os.chdir("inside")
    refused = outcome(umount, f"{HERE}/inside".encode())
    os.chdir(HERE)
    return refused, outcome(umount, target)


@check
def mounts_stack():
    target = place("stack")
    mount(b"none", target, b"tmpfs")
    os.close(fresh("stack/first"))
    mount(b"none", target, b"tmpfs")
    top = os.listdir("stack")
    count = len(listed("stack"))
    umount(target)
    below = os.listdir("stack")
    umount(target)
    return top, count, below, listed("stack")


@check
def mount_below_a_mount_makes_busy():
    target = place("outer")
    mount(b"none", target, b"tmpfs")
    inner = place("outer/inner")
    mount(b"none", inner, b"tmpfs")
    return outcome(umount, target), outcome(umount, inner), outcome(umount, target)


@check
def detaching_takes_what_is_below():
    target = place("whole")
    mount(b"none", target, b"tmpfs")
    mount(b"none", place("whole/inner"), b"tmpfs")
    return outcome(umount, target, DETACH), listed("whole"), listed("whole/inner")


@check
def bind_shows_the_same_files():
    place("original"), place("copy")
    os.close(fresh("original/file", b"one"))
    results = [outcome(mount, b"original", b"copy", None, BIND), os.listdir("copy")]
    with open("copy/file", "w") as file:
        file.write("two")
    os.mkdir("copy/made")
    results.append((open("original/file").read(), sorted(os.listdir("original"))))
    results.append(os.stat("copy/file").st_ino == os.stat("original/file").st_ino)
    results.append(outcome(os.link, "original/file", "copy/linked"))
    results.append(outcome(os.rename, "original/file", "copy/renamed"))
    results.append(os.path.samefile("original", "copy"))
    os.chdir("copy/made")
    results.append(os.path.basename(os.path.dirname(os.getcwd())))
    os.chdir("../..")
    results.append(os.getcwd() == HERE)
    results.append(outcome(umount, b"copy"))
    results.append(os.listdir("copy"))
    return results


@check
def file_can_be_bound():
    os.close(fresh("real", b"real"))
    os.close(fresh("over", b"over"))
    results = [outcome(mount, b"real", b"over", None, BIND), open("over").read()]
    results.append(outcome(os.unlink, "over"))
    results.append(outcome(os.rename, "over", "moved"))
    results.append(outcome(mount, b"real", place("a-folder"), None, BIND))
    results.append(outcome(mount, b"a-folder", b"real", None, BIND))
    results.append(outcome(umount, b"over"))
    return results, open("over").read()


@check
def bind_can_be_recursive():
    place("tree"), place("shallow"), place("deep")
    mount(b"none", place("tree/below"), b"tmpfs")
    os.close(fresh("tree/below/file"))
    mount(b"tree", b"shallow", None, BIND)
    mount(b"tree", b"deep", None, BIND | REC)
    results = os.listdir("shallow/below"), os.listdir("deep/below"), outcome(umount, b"deep")
    umount(b"deep", DETACH), umount(b"shallow"), umount(b"tree/below")
    return results


@check
def read_only_mounts_refuse_writes():
    target = place("readonly")
    mount(b"none", target, b"tmpfs")
    writing = fresh("readonly/file", b"x")
    busy = outcome(mount, None, target, None, REMOUNT | RDONLY)
    os.close(writing)
    results = [busy, outcome(mount, None, target, None, REMOUNT | RDONLY), listed("readonly")]
    results += [
        outcome(os.open, "readonly/file", os.O_WRONLY),
        outcome(os.open, "readonly/new", os.O_WRONLY | os.O_CREAT),
        outcome(os.open, "readonly/file", os.O_RDONLY) > 0,
        outcome(os.mkdir, "readonly/new"),
        outcome(os.unlink, "readonly/file"),
        outcome(os.chmod, "readonly/file", 0o600),
        outcome(os.utime, "readonly/file"),
        outcome(os.truncate, "readonly/file", 0),
        outcome(os.setxattr, "readonly/file", "user.a", b""),
        os.access("readonly/file", os.W_OK),
        os.statvfs("readonly").f_flag & 1,
    ]
    results.append(outcome(mount, None, target, None, REMOUNT))
    results.append(outcome(os.mkdir, "readonly/new"))
    umount(target, DETACH)
    return results


@check
def read_only_bind_of_a_writable_file_system():
    place("rw"), place("ro")
    mount(b"rw", b"ro", None, BIND)
    remounted = outcome(mount, None, b"ro", None, REMOUNT | BIND | RDONLY)
    results = remounted, outcome(os.mkdir, "ro/new"), outcome(os.mkdir, "rw/new"), os.listdir("ro"), listed("ro")[-1][1]
    umount(b"ro")
    return results


@check
def mounting_read_only_at_once():
    target = place("once")
    mount(b"none", target, b"tmpfs", RDONLY)
    results = outcome(os.mkdir, "once/new"), listed("once")
    umount(target)
    return results


@check
def proc_and_sysfs_can_be_mounted_elsewhere():
    target = place("elsewhere")
    results = []
    for kind, known in ((b"proc", "version"), (b"sysfs", "kernel")):
        results.append((outcome(mount, kind, target, kind), known in os.listdir("elsewhere"), listed("elsewhere")[-1][0]))
        umount(target)
    return results


@check
def move_takes_a_mount_elsewhere():
    place("source"), place("destination")
    mount(b"none", b"source", b"tmpfs", 0, None)
    os.close(fresh("source/file"))
    results = outcome(mount, b"source", b"destination", None, MOVE), os.listdir("source"), os.listdir("destination")
    return results, outcome(umount, b"destination"), outcome(mount, b"source", b"destination", None, MOVE)


@check
def mount_bad_arguments():
    os.close(fresh("plain"))
    target = place("target")
    return {
        "unknown type": outcome(mount, b"none", target, b"nothing"),
        "no type": outcome(mount, b"none", target, None),
        "no target": outcome(mount, b"none", b"missing", b"tmpfs"),
        "file": outcome(mount, b"none", b"plain", b"tmpfs"),
        "bad pointer": outcome(mount, b"none", UNMAPPED, b"tmpfs"),
        "bad type": outcome(mount, b"none", target, UNMAPPED),
        "bind of nothing": outcome(mount, b"missing", target, None, BIND),
        "bind without a source": outcome(mount, None, target, None, BIND),
        "remount of no mount": outcome(mount, None, target, None, REMOUNT),
        "private": outcome(mount, None, b"/", None, PRIVATE),
        "unmount of no mount": outcome(umount, target),
        "unmount of nothing": outcome(umount, b"missing"),
        "unmount flags": outcome(umount, target, 0x80),
    }


@check
def watchers_are_told():
    target = place("watched")
    mount(b"none", target, b"tmpfs")
    os.close(fresh("watched/file"))
    fd = raw.inotify_init1(os.O_NONBLOCK)
    raw.inotify_add_watch(fd, b"watched/file", 0xFFF)
    umount(target)
    data = os.read(fd, 4096)
    return [hex(struct.unpack_from("<I", data, at + 4)[0]) for at in range(0, len(data), 16)]


@check
def shared_memory_has_a_limit():
    figures = os.statvfs("/dev/shm")
    pages = os.sysconf("SC_PHYS_PAGES")
    return figures.f_bsize, abs(figures.f_blocks * 2 - pages) < pages // 4, os.path.ismount("/dev/shm")


NOATIME, NODIRATIME, RELATIME, STRICTATIME = 1024, 2048, 1 << 21, 1 << 24


def access_times(name):
    """What statfs and /proc/mounts say of a mount's access times."""
    told = os.statvfs(name).f_flag
    flags = [word for word, bit in (("noatime", 1024), ("nodiratime", 2048), ("relatime", 4096)) if told & bit]
    line = [line.split() for line in open("/proc/self/mounts") if f"{HERE}/{name} " in line][-1]
    return flags, [word for word in line[3].split(",") if "atime" in word]


def notes(name):
    """Whether reading a file and listing a folder there note the time: just made, then read again."""
    os.makedirs(f"{name}/folder", exist_ok=True)
    file = fresh(f"{name}/file", b"text")
    result = []
    for path, use in ((f"{name}/file", lambda: os.pread(file, 4, 0)), (f"{name}/folder", lambda: os.listdir(f"{name}/folder"))):
        for _ in range(2):
            before = os.stat(path).st_atime_ns
            time.sleep(0.02)
            use()
            result.append(os.stat(path).st_atime_ns != before)
    os.close(file)
    return result


@check
def access_times_are_as_the_mount_says():
    result = {}
    for name, flags in {
        "default": 0,
        "relatime": RELATIME,
        "noatime": NOATIME,
        "nodiratime": NODIRATIME,
        "strictatime": STRICTATIME,
        "strict-no": STRICTATIME | NOATIME,
        "no-nodir": NOATIME | NODIRATIME,
    }.items():
        target = place(f"times-{name}")
        mount(b"none", target, b"tmpfs", flags)
        result[name] = access_times(f"times-{name}"), notes(f"times-{name}")
        umount(target)
    return result


@check
def access_times_survive_a_remount():
    target = place("times-again")
    mount(b"none", target, b"tmpfs", NOATIME)
    mount(None, target, None, REMOUNT | BIND | NOSUID)
    kept = access_times("times-again")
    mount(None, target, None, REMOUNT | BIND | STRICTATIME)
    changed = access_times("times-again")
    umount(target)
    return kept, changed


@check
def descriptor_opened_without_access_times_notes_none():
    target = place("times-flag")
    mount(b"none", target, b"tmpfs", STRICTATIME)
    os.close(fresh("times-flag/file", b"text"))
    fd = os.open("times-flag/file", os.O_RDONLY | os.O_NOATIME)
    before = os.stat(fd).st_atime_ns
    time.sleep(0.02)
    os.read(fd, 4)
    same = os.stat(fd).st_atime_ns == before
    os.close(fd)
    umount(target)
    return same


@check
def descriptors_outside_of_mounts_have_no_access_times():
    reader, _ = os.pipe()
    return os.fstatvfs(reader).f_flag & (NOATIME | NODIRATIME | 4096), os.fstatvfs(os.memfd_create("m")).f_flag & (NOATIME | NODIRATIME | 4096)
