"""Address spaces: mmap, mprotect, mremap, madvise, brk, sharing, copy-on-write."""

import ctypes
import mmap
import os
import re
import resource
import signal

from harness import KERNEL, PAGE, UNMAPPED, check, fresh, in_child, outcome, raw

READ, WRITE, EXECUTE = 1, 2, 4
SHARED, PRIVATE, FIXED, ANONYMOUS, NORESERVE, NOREPLACE = 1, 2, 0x10, 0x20, 0x4000, 0x100000
NOHUGEPAGE = 15
BOTH = READ | WRITE


def area(pages, protection=BOTH, flags=PRIVATE | ANONYMOUS, fd=-1, offset=0, address=0):
    return raw.mmap(address, pages * PAGE, protection, flags, fd, offset)


def peek(address, length=1):
    return ctypes.string_at(address, length)


def poke(address, data):
    ctypes.memmove(address, data, len(data))


def dies(action):
    def run():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        action()

    return in_child(run)


def resident(address, pages):
    """Which pages mincore says are there."""
    vector = ctypes.create_string_buffer(pages)
    raw.mincore(address, pages * PAGE, vector)
    return [byte & 1 for byte in vector.raw]


@check
def anonymous_memory_is_zero_and_keeps_what_is_written():
    place = area(4)
    zero = peek(place, 4 * PAGE) == bytes(4 * PAGE)
    poke(place + PAGE - 2, b"abcd")
    return zero, peek(place + PAGE - 2, 4), place % PAGE


@check
def mmap_bad_arguments():
    fd = fresh("file", b"x" * PAGE)
    reading = os.open("file", os.O_RDONLY)
    writing = os.open("file", os.O_WRONLY)
    pipe, _ = os.pipe()
    return {
        "no length": outcome(raw.mmap, 0, 0, READ, PRIVATE | ANONYMOUS, -1, 0),
        "huge": outcome(raw.mmap, 0, 1 << 62, READ, PRIVATE | ANONYMOUS, -1, 0),
        "wraps": outcome(raw.mmap, 0, (1 << 64) - 1, READ, PRIVATE | ANONYMOUS, -1, 0),
        "neither shared nor private": outcome(raw.mmap, 0, PAGE, READ, ANONYMOUS, -1, 0),
        "odd offset": outcome(raw.mmap, 0, PAGE, READ, PRIVATE, fd, 100),
        "closed": outcome(raw.mmap, 0, PAGE, READ, PRIVATE, 999, 0),
        "odd fixed": outcome(raw.mmap, UNMAPPED, PAGE, READ, PRIVATE | ANONYMOUS | FIXED, -1, 0),
        "kernel's": outcome(raw.mmap, KERNEL, PAGE, READ, PRIVATE | ANONYMOUS | FIXED, -1, 0),
        "shared writing, opened for reading": outcome(raw.mmap, 0, PAGE, BOTH, SHARED, reading, 0),
        "private writing, opened for reading": outcome(raw.mmap, 0, PAGE, BOTH, PRIVATE, reading, 0) > 0,
        "opened for writing": outcome(raw.mmap, 0, PAGE, READ, SHARED, writing, 0),
        "pipe": outcome(raw.mmap, 0, PAGE, READ, PRIVATE, pipe, 0),
        "folder": outcome(raw.mmap, 0, PAGE, READ, PRIVATE, os.open(".", 0), 0),
    }


@check
def file_mapping_shows_the_file():
    fd = fresh("shown", b"start" + b"-" * PAGE + b"end")
    place = area(2, READ, PRIVATE, fd)
    second = area(1, READ, PRIVATE, fd, PAGE)
    end = PAGE + 5
    return peek(place, 5), peek(place + end, 5), peek(second + 5, 3)


@check
def shared_writes_reach_the_file_and_private_ones_do_not():
    fd = fresh("written", b"." * PAGE)
    shared, private = area(1, BOTH, SHARED, fd), area(1, BOTH, PRIVATE, fd)
    poke(shared, b"shared")
    poke(private + 10, b"private")
    os.pwrite(fd, b"write", 20)
    return os.pread(fd, 26, 0), peek(shared + 10, 7), peek(private + 10, 7), peek(shared + 20, 5)


@check
def shared_memory_is_shared_with_a_child():
    shared, private = area(1, BOTH, SHARED | ANONYMOUS), area(1)
    poke(private, b"parent")

    def child():
        poke(shared, b"child")
        poke(private, b"child!")

    result = in_child(child)
    return result, peek(shared, 5), peek(private, 6)


@check
def copy_on_write_after_fork_is_private_both_ways():
    place = area(64)
    poke(place, b"x" * (64 * PAGE))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0 if peek(place, 64 * PAGE) == b"x" * (64 * PAGE) else 1)
    poke(place, b"y" * (64 * PAGE))
    os.write(writer, b"g")
    status = os.waitpid(child, 0)[1]
    return status, peek(place, 3)


@check
def fixed_mapping_replaces_and_noreplace_refuses():
    place = area(3)
    poke(place, b"a" * (3 * PAGE))
    again = area(1, BOTH, PRIVATE | ANONYMOUS | FIXED, address=place + PAGE)
    refused = outcome(raw.mmap, place, PAGE, READ, PRIVATE | ANONYMOUS | NOREPLACE, -1, 0)
    return again == place + PAGE, peek(place + PAGE - 1, 2), peek(place + 2 * PAGE - 1, 2), refused


@check
def hint_is_taken_when_free():
    place = area(1)
    raw.munmap(place, PAGE)
    return area(1, address=place) == place


@check
def munmap_cuts_holes():
    place = area(5)
    poke(place, b"k" * (5 * PAGE))
    raw.munmap(place + 2 * PAGE, PAGE)
    return (
        peek(place + PAGE),
        peek(place + 3 * PAGE),
        dies(lambda: peek(place + 2 * PAGE)),
        outcome(raw.munmap, place + 1, PAGE),
        outcome(raw.munmap, place, 0),
        outcome(raw.munmap, place + 2 * PAGE, PAGE),
        outcome(raw.munmap, KERNEL, PAGE),
    )


@check
def mprotect_takes_and_gives_rights():
    place = area(3)
    poke(place, b"p" * (3 * PAGE))
    raw.mprotect(place + PAGE, PAGE, READ)
    middle = dies(lambda: poke(place + PAGE, b"x"))
    poke(place + 2 * PAGE, b"q")
    raw.mprotect(place + PAGE, PAGE, 0)
    none = dies(lambda: peek(place + PAGE))
    call = outcome(raw.write, 1, place + PAGE, 1)
    raw.mprotect(place + PAGE, PAGE, BOTH)
    return middle, none, call, peek(place + PAGE)


@check
def mprotect_bad_arguments():
    place = area(3)
    raw.munmap(place + PAGE, PAGE)
    reading = area(1, READ, SHARED, os.open("file", os.O_RDONLY))
    return (
        outcome(raw.mprotect, place + 1, PAGE, READ),
        outcome(raw.mprotect, place, 3 * PAGE, READ),
        outcome(raw.mprotect, place, 0, READ),
        outcome(raw.mprotect, place, PAGE, 0x100),
        outcome(raw.mprotect, reading, PAGE, BOTH),
        outcome(raw.mprotect, KERNEL, PAGE, READ),
    )


@check
def mremap_grows_shrinks_and_moves():
    place = area(2)
    poke(place, b"first" + b"." * (PAGE - 5) + b"second")
    area(1, address=place + 2 * PAGE, flags=PRIVATE | ANONYMOUS | FIXED)
    stuck = outcome(raw.mremap, place, 2 * PAGE, 4 * PAGE, 0)
    moved = raw.mremap(place, 2 * PAGE, 4 * PAGE, 1)
    kept = peek(moved, 5), peek(moved + PAGE, 6), peek(moved + 3 * PAGE)
    shrunk = raw.mremap(moved, 4 * PAGE, PAGE, 0)
    target = area(1)
    exact = raw.mremap(shrunk, PAGE, PAGE, 3, target)
    return stuck, moved != place, kept, shrunk == moved, exact == target, peek(exact, 5), dies(lambda: peek(moved + PAGE))


@check
def mremap_bad_arguments():
    place = area(2)
    return (
        outcome(raw.mremap, place + 1, PAGE, PAGE, 0),
        outcome(raw.mremap, place, PAGE, 0, 0),
        outcome(raw.mremap, place, PAGE, PAGE, 8),
        outcome(raw.mremap, place, PAGE, PAGE, 2, place),
        outcome(raw.mremap, place, 2 * PAGE, 2 * PAGE, 3, place + PAGE),
        outcome(raw.mremap, place, 0, PAGE, 1),
        outcome(raw.mremap, UNMAPPED & ~0xFFF, PAGE, 2 * PAGE, 1),
        outcome(raw.mremap, place, PAGE, 1 << 62, 1),
    )


@check
def madvise_dontneed_gives_zeros():
    place = area(2)
    poke(place, b"gone" * 2000)
    raw.madvise(place, PAGE, 4)
    fd = fresh("advised", b"file" * 1024)
    private = area(1, BOTH, PRIVATE, fd)
    poke(private, b"mine")
    raw.madvise(private, PAGE, 4)
    return peek(place, 4), peek(place + PAGE, 4), peek(private, 4)


@check
def madvise_bad_arguments():
    place = area(1)
    return (
        outcome(raw.madvise, place + 1, PAGE, 4),
        outcome(raw.madvise, place, PAGE, 9999),
        outcome(raw.madvise, place, 0, 4),
        outcome(raw.madvise, UNMAPPED & ~0xFFF, PAGE, 4),
        outcome(raw.madvise, place, PAGE, 3),
        outcome(raw.madvise, place, PAGE, 14) in (0, "EINVAL"),
    )


@check
def memory_is_there_when_touched():
    place = area(4)
    before = resident(place, 4)
    poke(place + PAGE, b"x")
    after = resident(place, 4)
    raw.munmap(place + 2 * PAGE, PAGE)
    vector = ctypes.create_string_buffer(8)
    return (
        before,
        after,
        outcome(raw.mincore, place, 4 * PAGE, vector),
        outcome(raw.mincore, place + 1, PAGE, vector),
        outcome(raw.mincore, place, PAGE, UNMAPPED),
    )


@check
def large_sparse_mapping_costs_nothing():
    place = raw.mmap(0, 64 << 30, BOTH, PRIVATE | ANONYMOUS | NORESERVE, -1, 0)
    poke(place + (40 << 30), b"far")
    result = peek(place + (40 << 30), 3), peek(place + (20 << 30), 1)
    raw.munmap(place, 64 << 30)
    return result


@check
def brk_moves_and_refuses():
    now = raw.brk(0)
    grown = raw.brk(now + 3 * PAGE)
    poke(now, b"heap" * 10)
    data = peek(now, 4), peek(now + 2 * PAGE, 2)
    back = raw.brk(now)
    again = raw.brk(now + PAGE)
    zero = peek(again - PAGE, 4)
    raw.brk(now)
    return grown - now, data, back == now, zero if now % PAGE == 0 else bytes(4), raw.brk(UNMAPPED) == now, raw.brk(KERNEL) == now


@check
def msync_and_locks():
    fd = fresh("synced", b"." * PAGE)
    place = area(1, BOTH, SHARED, fd)
    poke(place, b"sync")
    hole = area(2)
    raw.munmap(hole + PAGE, PAGE)
    return (
        outcome(raw.msync, place, PAGE, 4),
        os.pread(fd, 4, 0),
        outcome(raw.msync, place + 1, PAGE, 4),
        outcome(raw.msync, place, PAGE, 5),
        outcome(raw.msync, place, PAGE, 64),
        outcome(raw.msync, hole, 2 * PAGE, 1),
        outcome(raw.mlock, place, PAGE),
        outcome(raw.munlock, place, PAGE),
        outcome(raw.mlock, UNMAPPED, PAGE),
    )


@check
def mapping_past_the_end_of_a_file():
    fd = fresh("partial", b"abc")
    place = area(2, BOTH, SHARED, fd)
    poke(place + 3, b"beyond")
    return peek(place, 6), os.pread(fd, 10, 0), dies(lambda: peek(place + PAGE)), outcome(raw.write, 1, place + PAGE, 1)


@check
def truncated_file_loses_its_pages():
    fd = fresh("shrinking", b"z" * (2 * PAGE))
    place = area(2, READ, SHARED, fd)
    first = peek(place + PAGE)
    os.ftruncate(fd, PAGE)
    late = dies(lambda: peek(place + PAGE))
    os.ftruncate(fd, 2 * PAGE)
    return first, late, peek(place + PAGE)


@check
def stack_grows_to_its_limit():
    def deep():
        import threading

        threading.stack_size(16 << 20)
        import sys

        sys.setrecursionlimit(100_000)

        def recurse(n):
            return n and recurse(n - 1) + 1

        print(recurse(20_000), flush=True)

    return in_child(deep)


@check
def address_space_limit_holds():
    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        print(outcome(raw.mmap, 0, 2 << 30, BOTH, PRIVATE | ANONYMOUS, -1, 0), flush=True)
        try:
            bytearray(2 << 30)
        except MemoryError:
            return 5

    return in_child(limited)


@check
def maps_names_what_is_mapped():
    fd = fresh("named-file", b"x" * PAGE)
    place = area(1, READ, PRIVATE, fd)
    lines = [line for line in open("/proc/self/maps") if line.startswith(f"{place:x}-")]
    fields = lines[0].split()
    every = open("/proc/self/maps").read()
    ordered = [int(m, 16) for m in re.findall(r"^([0-9a-f]+)-", every, re.M)]
    return (
        fields[1],
        int(fields[0].split("-")[1], 16) - place,
        fields[2],
        os.path.basename(fields[5]),
        "[stack]" in every,
        "[heap]" in every,
        ordered == sorted(ordered),
    )


@check
def python_mmap_object_works():
    with open("object", "wb+") as file:
        file.write(b"0123456789")
        file.flush()
        with mmap.mmap(file.fileno(), 0) as view:
            view[2:4] = b"ab"
            view.flush()
            view.resize(20)
            found = view.find(b"ab"), len(view), view[:10]
        return found, os.path.getsize("object")


@check
def executable_memory_runs_after_protection():
    place = area(1)
    poke(place, bytes.fromhex("400580d2c0035fd6"))  # mov x0, #42; ret
    before = dies(lambda: ctypes.CFUNCTYPE(ctypes.c_long)(place)())
    raw.mprotect(place, PAGE, READ | EXECUTE)
    return before, ctypes.CFUNCTYPE(ctypes.c_long)(place)()


@check
def process_vm_and_kernel_addresses_are_refused():
    return outcome(raw.read, 0, KERNEL, 1), dies(lambda: poke(KERNEL, b"x")), signal.SIGSEGV.value


@check
def out_of_memory_fails_without_hanging():
    def greedy():
        place = outcome(raw.mmap, 0, 1 << 46, BOTH, PRIVATE | ANONYMOUS, -1, 0)
        print(place, flush=True)

    return in_child(greedy)


def page_tables():
    """KiB of page tables."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmPTE"))


@check
def page_tables_go_with_what_they_map():
    gib = 1 << 30
    before = page_tables()
    place = area(256 * gib // PAGE, BOTH, PRIVATE | ANONYMOUS | NORESERVE)
    raw.madvise(place, 256 * gib, NOHUGEPAGE)
    for at in range(place, place + 256 * gib, gib // 2):
        poke(at, b"x")
    all_of_it = page_tables() - before
    raw.munmap(place + 64 * gib, 128 * gib)
    half = page_tables() - before
    kept = peek(place), peek(place + 256 * gib - gib // 2)
    raw.munmap(place, 256 * gib)
    none = page_tables() - before
    for at in range(place, place + 256 * gib, gib):
        area(1, BOTH, PRIVATE | ANONYMOUS | FIXED, address=at)
        poke(at, b"x")
        raw.munmap(at, PAGE)
    return all_of_it >= 3072, half < all_of_it * 5 // 8, kept, none <= 16, page_tables() - before <= 16
