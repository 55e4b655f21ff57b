"""Mapped files that change size or are sealed, and advice about memory."""

import ctypes
import fcntl
import os

from harness import PAGE, UNMAPPED, check, fresh, in_child, outcome, raw

READ, WRITE, EXECUTE = 1, 2, 4
SHARED, PRIVATE, ANONYMOUS = 1, 2, 0x20
BOTH = READ | WRITE
NORMAL, DONTNEED, FREE, REMOVE, DONTFORK, DOFORK, WIPEONFORK, KEEPONFORK = 0, 4, 8, 9, 10, 11, 18, 19
POPULATE_READ, POPULATE_WRITE = 22, 23
PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE, COLLAPSE, INSERT = 2, 1, 0x10, 8, 0x20


def area(pages, protection=BOTH, flags=PRIVATE | ANONYMOUS, fd=-1, offset=0, address=0):
    return raw.mmap(address, pages * PAGE, protection, flags, fd, offset)


def peek(address, length=1):
    return ctypes.string_at(address, length)


def poke(address, data):
    ctypes.memmove(address, data, len(data))


def dies(action):
    return in_child(lambda: action() and None)


def memory_file(flags=3):
    return os.memfd_create("sealed", flags)


@check
def shorter_file_loses_private_copies_too():
    fd = fresh("private", b"p" * 2 * PAGE)
    place = area(2, BOTH, PRIVATE, fd)
    poke(place + PAGE, b"mine")
    os.ftruncate(fd, PAGE)
    late = dies(lambda: peek(place + PAGE))
    os.ftruncate(fd, 2 * PAGE)
    return late, peek(place + PAGE, 4)


@check
def rest_of_the_last_page_reads_as_zeroes():
    fd = fresh("rest", b"r" * PAGE)
    place = area(1, BOTH, SHARED, fd)
    before = peek(place + 100)
    os.ftruncate(fd, 50)
    after = peek(place + 48, 4)
    poke(place + 60, b"behind")
    os.ftruncate(fd, PAGE)
    return before, after, os.pread(fd, 6, 60)


@check
def child_loses_pages_as_well():
    fd = fresh("child", b"c" * 2 * PAGE)
    place = area(2, BOTH, SHARED, fd)
    peek(place + PAGE)
    out, into = os.pipe()

    def child():
        peek(place + PAGE)
        os.write(into, b"1")
        os.read(out2, 1)
        peek(place + PAGE)

    out2, into2 = os.pipe()
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(0)
    os.read(out, 1)
    os.ftruncate(fd, PAGE)
    os.write(into2, b"1")
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@check
def hole_takes_shared_pages_and_leaves_private_copies():
    fd = fresh("hole", b"h" * 3 * PAGE)
    shared, private = area(3, BOTH, SHARED, fd), area(3, BOTH, PRIVATE, fd)
    poke(private + PAGE, b"mine")
    peek(shared + PAGE), peek(private + 2 * PAGE)
    raw.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, PAGE - 10, 2 * PAGE)
    return peek(shared + PAGE - 12, 4), peek(shared + PAGE), peek(private + PAGE, 4), peek(private + PAGE * 2), peek(shared + 3 * PAGE - 11, 2)


@check
def mapping_and_calls_see_the_same_bytes():
    fd = fresh("same", b"s" * PAGE)
    place = area(1, BOTH, SHARED, fd)
    poke(place, b"mapped")
    os.pwrite(fd, b"written", 100)
    private = area(1, READ, PRIVATE, fd)
    return os.pread(fd, 6, 0), peek(place + 100, 7), peek(private, 6)


@check
def fallocate_modes():
    fd = fresh("modes", b"m" * 100)
    reading = os.open("modes", os.O_RDONLY)
    os.mkfifo("modes-fifo")
    return {
        "grow": outcome(raw.fallocate, fd, 0, 0, 10_000),
        "size": os.fstat(fd).st_size,
        "keep": outcome(raw.fallocate, fd, KEEP_SIZE, 0, 20_000),
        "same size": os.fstat(fd).st_size,
        "punch alone": outcome(raw.fallocate, fd, PUNCH_HOLE, 0, 10),
        "zero": outcome(raw.fallocate, fd, ZERO_RANGE, 0, 10),
        "collapse": outcome(raw.fallocate, fd, COLLAPSE, 0, PAGE),
        "insert": outcome(raw.fallocate, fd, INSERT, 0, PAGE),
        "unknown": outcome(raw.fallocate, fd, 0x8000, 0, PAGE),
        "no length": outcome(raw.fallocate, fd, 0, 0, 0),
        "negative": outcome(raw.fallocate, fd, 0, -1, 1),
        "reader": outcome(raw.fallocate, reading, 0, 0, 1),
        "pipe": outcome(raw.fallocate, os.pipe()[1], 0, 0, 1),
        "too large": outcome(raw.fallocate, fd, 0, 1 << 62, 1 << 62),
    }


@check
def seals_hold():
    fd = memory_file()
    os.write(fd, b"x" * PAGE)
    results = {"none": fcntl.fcntl(fd, fcntl.F_GET_SEALS)}
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    results["shrink"] = outcome(os.ftruncate, fd, 10)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    results["grow"] = outcome(os.ftruncate, fd, 2 * PAGE), outcome(os.pwrite, fd, b"y", PAGE), outcome(raw.fallocate, fd, 0, 0, 2 * PAGE)
    results["still"] = os.pwrite(fd, b"y", 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    results["write"] = outcome(os.pwrite, fd, b"y", 0), outcome(raw.fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 0, PAGE)
    results["map"] = outcome(area, 1, BOTH, SHARED, fd), area(1, READ, SHARED, fd) > 0, area(1, BOTH, PRIVATE, fd) > 0
    results["protect"] = outcome(raw.mprotect, area(1, READ, SHARED, fd), PAGE, BOTH)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    results["seal"] = outcome(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW), fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    return results


@check
def seal_against_writes_waits_for_no_mapping():
    fd = memory_file()
    os.ftruncate(fd, PAGE)
    place = area(1, BOTH, SHARED, fd)
    refused = outcome(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    raw.mprotect(place, PAGE, READ)
    still = outcome(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    raw.munmap(place, PAGE)
    return refused, still, outcome(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


@check
def seal_against_future_writes_leaves_mappings():
    fd = memory_file()
    os.ftruncate(fd, PAGE)
    place = area(1, BOTH, SHARED, fd)
    added = fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)
    poke(place, b"still")
    return added, peek(place, 5), outcome(os.pwrite, fd, b"x", 0), outcome(area, 1, BOTH, SHARED, fd)


@check
def seal_against_execution():
    fd = os.memfd_create("noexec", 8 | 2)
    mode = oct(os.fstat(fd).st_mode & 0o777)
    other = memory_file()
    fcntl.fcntl(other, fcntl.F_ADD_SEALS, 0x20)
    return (
        mode,
        fcntl.fcntl(fd, fcntl.F_GET_SEALS),
        outcome(os.fchmod, fd, 0o777),
        outcome(os.fchmod, fd, 0o600),
        fcntl.fcntl(other, fcntl.F_GET_SEALS),
        outcome(os.fchmod, other, 0o666),
    )


@check
def sealing_bad_arguments():
    fd = memory_file()
    plain = os.memfd_create("plain", 1)
    return (
        outcome(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, 0x100),
        outcome(fcntl.fcntl, plain, fcntl.F_ADD_SEALS, 1),
        fcntl.fcntl(plain, fcntl.F_GET_SEALS),
        outcome(fcntl.fcntl, os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), fcntl.F_ADD_SEALS, 1),
        outcome(fcntl.fcntl, os.pipe()[0], fcntl.F_GET_SEALS),
        outcome(fcntl.fcntl, fresh("plain-file"), fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW),
    )


@check
def advice_bad_arguments():
    file = area(1, BOTH, SHARED, fresh("advice", b"x" * PAGE))
    reading = area(1, READ, SHARED, os.open("advice", os.O_RDONLY))
    short = area(2, READ, SHARED, fresh("short", b"x"))
    place = area(4)
    raw.munmap(place + PAGE, PAGE)
    return {
        "unaligned": outcome(raw.madvise, place + 1, PAGE, NORMAL),
        "unknown": outcome(raw.madvise, place, PAGE, 99),
        "unknown, nothing": outcome(raw.madvise, place, 0, 99),
        "nothing": outcome(raw.madvise, place, 0, NORMAL),
        "hole": outcome(raw.madvise, place, 4 * PAGE, NORMAL),
        "hole, drop": outcome(raw.madvise, place, 4 * PAGE, DONTNEED),
        "wraps": outcome(raw.madvise, place, -PAGE, NORMAL),
        "remove private": outcome(raw.madvise, place, PAGE, REMOVE),
        "remove read-only": outcome(raw.madvise, reading, PAGE, REMOVE),
        "free shared": outcome(raw.madvise, file, PAGE, FREE),
        "wipe shared": outcome(raw.madvise, file, PAGE, WIPEONFORK),
        "populate hole": outcome(raw.madvise, place, 4 * PAGE, POPULATE_READ),
        "populate for writing what cannot be": outcome(raw.madvise, reading, PAGE, POPULATE_WRITE),
        "populate behind the end": outcome(raw.madvise, short, 2 * PAGE, POPULATE_READ),
    }


@check
def hole_drops_what_comes_before_and_after():
    place = area(3)
    poke(place, b"a"), poke(place + 2 * PAGE, b"b")
    raw.munmap(place + PAGE, PAGE)
    return outcome(raw.madvise, place, 3 * PAGE, DONTNEED), peek(place), peek(place + 2 * PAGE)


@check
def remove_makes_a_hole_in_the_file():
    fd = fresh("removed", b"r" * 3 * PAGE)
    place = area(3, BOTH, SHARED, fd)
    shared = area(2, BOTH, SHARED | ANONYMOUS)
    poke(shared, b"gone"), poke(shared + PAGE, b"kept")
    return (
        raw.madvise(place + PAGE, PAGE, REMOVE),
        os.pread(fd, 1, PAGE),
        os.pread(fd, 1, 2 * PAGE),
        raw.madvise(shared, PAGE, REMOVE),
        peek(shared, 4),
        peek(shared + PAGE, 4),
    )


@check
def populate_brings_pages_in():
    place = area(3)
    vector = ctypes.create_string_buffer(3)
    raw.madvise(place, 2 * PAGE, POPULATE_WRITE)
    raw.mincore(place, 3 * PAGE, vector)
    return list(vector.raw[:2])


@check
def advice_about_fork():
    left, wiped, kept = area(1), area(1), area(1)
    for place in (left, wiped, kept):
        poke(place, b"parent")
    raw.madvise(left, PAGE, DONTFORK)
    raw.madvise(wiped, PAGE, WIPEONFORK)
    raw.madvise(kept, PAGE, DONTFORK)
    raw.madvise(kept, PAGE, DOFORK)
    seen = in_child(lambda: int(peek(wiped, 6) == bytes(6)) + 2 * int(peek(kept, 6) == b"parent"))
    return dies(lambda: peek(left)), seen, peek(wiped, 6)


@check
def advice_to_free_keeps_or_zeroes():
    place = area(1)
    poke(place, b"x")
    return raw.madvise(place, PAGE, FREE), peek(place) in (b"x", b"\0")


@check
def msync_flags():
    place = area(2, BOTH, SHARED, fresh("sync", b"x" * 2 * PAGE))
    ASYNC, INVALIDATE, SYNC = 1, 2, 4
    results = [outcome(raw.msync, place, PAGE, flags) for flags in (0, ASYNC, SYNC, INVALIDATE, ASYNC | SYNC, 8)]
    results.append(outcome(raw.msync, place + 1, PAGE, SYNC))
    results.append(outcome(raw.msync, UNMAPPED & ~4095, PAGE, SYNC))
    raw.munmap(place + PAGE, PAGE)
    results.append(outcome(raw.msync, place, 2 * PAGE, SYNC))
    return results


MAYMOVE, REMAP_FIXED, DONTUNMAP = 1, 2, 4
VALIDATE = 3


@check
def moved_pages_leave_their_mapping_behind():
    old = area(3)
    for page in range(3):
        poke(old + page * PAGE, bytes([page + 1]))
    new = raw.mremap(old, 3 * PAGE, 3 * PAGE, MAYMOVE | DONTUNMAP, 0)
    moved = [peek(new + page * PAGE) for page in range(3)]
    left = [peek(old + page * PAGE) for page in range(3)]
    poke(old, b"o")
    place = area(3)
    again = raw.mremap(new, 3 * PAGE, 3 * PAGE, MAYMOVE | DONTUNMAP | REMAP_FIXED, place) == place
    return new != old, moved, left, peek(new), again, peek(place + PAGE), peek(old)


@check
def moved_pages_of_a_file_are_there_twice():
    fd = fresh("twice", b"a" * PAGE)
    old = area(1, flags=SHARED, fd=fd)
    new = raw.mremap(old, PAGE, PAGE, MAYMOVE | DONTUNMAP, 0)
    poke(new, b"n")
    return peek(old), peek(new), os.pread(fd, 1, 0)


@check
def old_length_of_nothing_maps_again():
    fd = fresh("again", b"a" * (2 * PAGE))
    old = area(2, flags=SHARED, fd=fd)
    new = raw.mremap(old, 0, 2 * PAGE, MAYMOVE, 0)
    poke(new + PAGE, b"n")
    return new != old, peek(old + PAGE), os.pread(fd, 1, PAGE), outcome(raw.mremap, old, 0, PAGE, 0, 0), outcome(raw.mremap, area(1), 0, PAGE, MAYMOVE, 0)


@check
def mremap_bad_arguments():
    old = area(2)
    return (
        outcome(raw.mremap, old, PAGE, PAGE, DONTUNMAP, 0),
        outcome(raw.mremap, old, PAGE, 2 * PAGE, MAYMOVE | DONTUNMAP, 0),
        outcome(raw.mremap, old, PAGE, PAGE, MAYMOVE | DONTUNMAP, 1),
        outcome(raw.mremap, old, PAGE, PAGE, MAYMOVE | DONTUNMAP | REMAP_FIXED, old),
        outcome(raw.mremap, old, PAGE, PAGE, 8 | MAYMOVE, 0),
        outcome(raw.mremap, old + 1, PAGE, PAGE, MAYMOVE | DONTUNMAP, 0),
        outcome(raw.mremap, UNMAPPED & ~(PAGE - 1), PAGE, PAGE, MAYMOVE | DONTUNMAP, 0),
    )


@check
def validated_flags_must_be_known():
    fd = fresh("validated", bytes(PAGE))
    tried = {"none": 0, "fixed": 0x10, "denywrite": 0x800, "locked": 0x2000, "populate": 0x8000, "stack": 0x20000, "sync": 0x80000, "uninitialized": 0x4000000, "unknown": 0x800000}
    place = area(1)
    result = {}
    for name, flag in tried.items():
        for kind in (VALIDATE, SHARED):
            got = outcome(raw.mmap, place if name == "fixed" else None, PAGE, 1, kind | flag, fd, 0)
            result[name, kind] = got if not isinstance(got, int) else "mapped"
    free = area(1)
    raw.munmap(free, PAGE)
    newer = outcome(raw.mmap, free, PAGE, 1, VALIDATE | 0x100000, fd, 0)
    return result, newer, outcome(raw.mmap, None, PAGE, 3, VALIDATE | ANONYMOUS, -1, 0), outcome(raw.mmap, None, PAGE, 3, 0 | ANONYMOUS, -1, 0)
