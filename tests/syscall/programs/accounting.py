"""What /proc says that processes use: io, smaps, smaps_rollup, load averages."""

import ctypes
import mmap
import os
import re
import signal
import struct

from harness import PAGE, check, fresh, in_child, outcome, raw

KIB = PAGE // 1024


def io(who="self"):
    """The fields of /proc/PID/io, read by one call of so many bytes."""
    fd = os.open(f"/proc/{who}/io", os.O_RDONLY)
    text = os.read(fd, 4096)
    os.close(fd)
    return {name: int(value) for name, value in (line.split(": ") for line in text.decode().splitlines())}, len(text)


def transferred(action):
    """What the fields grow by while this happens."""
    before, size = io()
    action()
    after, _ = io()
    growth = {name: after[name] - before[name] for name in before}
    # Reading the file itself.
    growth["rchar"] -= size
    growth["syscr"] -= 1
    return [growth[name] for name in ("rchar", "wchar", "syscr", "syscw")]


@check
def io_has_these_fields():
    return list(io()[0]), list(io(f"self/task/{os.getpid()}")[0])


@check
def reads_and_writes_are_counted():
    fd = fresh("counted", b"")
    reader, writer = os.pipe()
    room = [bytearray(5), bytearray(7)]
    return {
        "write": transferred(lambda: os.write(fd, bytes(1000))),
        "writev": transferred(lambda: os.writev(fd, [bytes(10), bytes(20)])),
        "pwrite": transferred(lambda: os.pwrite(fd, bytes(50), 3)),
        "pread": transferred(lambda: os.pread(fd, 100, 0)),
        "read at the end": transferred(lambda: os.read(fd, 100)),
        "preadv": transferred(lambda: os.preadv(fd, room, 0)),
        "pwritev2": transferred(lambda: os.pwritev(fd, [bytes(8)], 0, os.RWF_APPEND)),
        "pipe": transferred(lambda: (os.write(writer, b"123"), os.read(reader, 9))),
        "sendfile": transferred(lambda: os.sendfile(writer, fd, 0, 600)),
        "copy": transferred(lambda: os.copy_file_range(fd, fresh("copy"), 200, 0)),
        "bad descriptor": transferred(lambda: outcome(os.write, 999, b"1")),
        "bad address": transferred(lambda: outcome(raw.write, fd, 16, 10)),
        "lseek": transferred(lambda: os.lseek(fd, 0, os.SEEK_SET)),
    }


@check
def children_that_were_waited_for_count():
    fd = fresh("by-a-child")

    def child():
        os.write(fd, bytes(4321))

    return [transferred(lambda: in_child(child))[index] for index in (1, 3)]


def entries(name="smaps"):
    """The mappings in a file: address, the numbers in KiB, flags."""
    found, result = None, []
    with open(f"/proc/self/{name}") as file:
        for line in file:
            if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                found = {"start": int(head[1], 16), "end": int(head[2], 16)}
                result.append(found)
            elif line.startswith("VmFlags:"):
                found["VmFlags"] = line.split()[1:]
            else:
                key, value = line.split(":")
                found[key] = int(value.split()[0])
    return result


NUMBERS = ("Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Anonymous", "Swap", "Locked")
FLAGS = ("rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "lo", "gd", "dc", "ac", "wf")


def apart(pages, kind=mmap.MAP_PRIVATE):
    """The address of fresh memory that is joined with no other mapping: around it lie pages without access."""
    start = raw.mmap(None, (pages + 2) * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, kind | mmap.MAP_ANONYMOUS, -1, 0)
    raw.mprotect(start, PAGE, 0)
    raw.mprotect(start + (pages + 1) * PAGE, PAGE, 0)
    return start + PAGE


def touch(start, *pages):
    for page in pages:
        ctypes.memset(start + page * PAGE, 1, 1)


def entry(start):
    return next(one for one in entries() if one["start"] <= start < one["end"])


def numbers(start):
    found = entry(start)
    return [found[name] for name in NUMBERS]


@check
def smaps_has_these_fields():
    first = entries()[0]
    needed = ("Size", "KernelPageSize", "MMUPageSize", *NUMBERS, "Pss_Dirty", "Referenced", "LazyFree", "SwapPss", "THPeligible", "VmFlags")
    rollup = entries("smaps_rollup")
    return [name in first for name in needed], len(rollup), [name in rollup[0] for name in (*NUMBERS, "Pss_Anon", "Pss_File", "Pss_Shmem")]


@check
def touched_pages_are_resident():
    start = apart(64)
    touch(start, 1, 20, 40)
    first = entry(start)["Size"], numbers(start)
    raw.madvise(start + 20 * PAGE, PAGE, mmap.MADV_DONTNEED)
    return first, numbers(start)


@check
def pages_shared_with_a_child_count_half():
    start = apart(64)
    touch(start, 1, 20, 40, 60)
    alone = numbers(start)
    ready, tell = os.pipe()
    done, finish = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(finish)
        os.write(tell, b"1")
        os.read(done, 1)
        touch(start, 20)
        os.write(tell, b"2")
        os.read(done, 1)
        os._exit(0)
    os.close(done)
    os.read(ready, 1)
    shared = numbers(start)
    os.write(finish, b"x")
    os.read(ready, 1)
    written = numbers(start)
    os.close(finish)
    os.waitpid(child, 0)
    return alone, shared, written, numbers(start)


@check
def shared_memory_is_not_anonymous():
    start = apart(64, mmap.MAP_SHARED)
    touch(start, 1, 20)
    return numbers(start)


@check
def copy_of_a_page_of_a_file_is_anonymous():
    fd = fresh("mapped", b"x" * (4 * PAGE))
    start = raw.mmap(None, 4 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, 0)
    touch(start, 1)
    return entry(start)["Anonymous"]


@check
def locked_memory_is_shown():
    start = apart(4)
    raw.mlock(start, 4 * PAGE)
    found = entry(start)
    return found["Locked"], [flag for flag in found["VmFlags"] if flag in FLAGS]


@check
def flags_tell_what_may_be_done():
    fd = fresh("flags", bytes(PAGE))
    starts = [raw.mmap(None, PAGE, protection, mmap.MAP_SHARED, fd, 0) for protection in (0, 1, 3)]
    for advice in 10, 18:
        starts.append(apart(4))
        raw.madvise(starts[-1], 4 * PAGE, advice)
    stack = next(one for one in entries() if "gd" in one["VmFlags"])
    return [[flag for flag in one["VmFlags"] if flag in FLAGS] for one in (*map(entry, starts), stack)]


@check
def rollup_is_the_sum():
    total = {name: 0 for name in ("Rss", "Anonymous", "Private_Dirty")}
    for one in entries():
        for name in total:
            total[name] += one[name]
    rollup = entries("smaps_rollup")[0]
    # Reading them needs memory itself.
    return [abs(rollup[name] - total[name]) < 1024 for name in total]


@check
def program_and_libraries_are_shared_with_other_processes():
    found = entries("smaps_rollup")[0]
    return found["Pss_File"] < found["Rss"] - found["Anonymous"], found["Shared_Clean"] > 0, found["Pss"] < found["Rss"]


@check
def status_tells_memory_by_owner():
    fields = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    rss, *parts = [int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")]
    return rss == sum(parts), parts[0] > 0, parts[1] > 0


@check
def load_averages_are_told_twice():
    line = open("/proc/loadavg").read()
    told = ctypes.create_string_buffer(112)
    raw.sysinfo(told)
    loads = [value / 65536 for value in struct.unpack_from("3Q", told, 8)]
    return bool(re.fullmatch(r"(\d+\.\d\d ){3}\d+/\d+ \d+\n", line)), all(abs(one - float(other)) < 0.5 for one, other in zip(loads, line.split()))


@check
def work_raises_the_load():
    child = os.fork()
    if child == 0:
        while True:
            pass
    before = os.getloadavg()[0]
    highest = before
    for _ in range(60):
        signal.sigtimedwait([], 0.2)
        highest = max(highest, os.getloadavg()[0])
        if highest > before:
            break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return highest > before or highest >= 0.95
