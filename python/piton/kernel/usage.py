"""What the memory is used for, and which locks on files there are."""

from typing import NamedTuple

from piton.table import Table


class Usage(NamedTuple):
    """Memory by what it is used for, in bytes.

    ``available`` is what a program could get: what is free, and what is in caches alone. ``programs`` is the rest of what
    is in use: pages of programs and buffers of pipes and sockets.
    """

    total: int
    free: int
    available: int
    cached: int
    shared: int
    kernel_heap: int
    kernel_stacks: int
    page_tables: int
    programs: int

    def __repr__(self) -> str:
        return "\n".join(f"{name:<13} {value >> 10:>9} KiB" for name, value in zip(self._fields, self))


class Lock(NamedTuple):
    """A lock on a file: of what kind, to read or to write, whose, on which file (device:inode) and bytes of it."""

    kind: str
    access: str
    pid: int
    file: str
    start: int
    end: int | None
    waits: bool


def memory() -> Usage:
    """Return what the memory is used for."""
    with open("/proc/meminfo") as file:
        sizes = {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in file)}
    total, free, cached = sizes["MemTotal"], sizes["MemFree"], sizes["Cached"]
    heap, stacks, tables = sizes["Slab"], sizes["KernelStack"], sizes["PageTables"]
    programs = total - free - cached - heap - stacks - tables
    return Usage(total, free, sizes["MemAvailable"], cached, sizes["Shmem"], heap, stacks, tables, programs)


def locks() -> Table:
    """Return a table of the locks on files, those that somebody waits for among them (/proc/locks)."""
    table = Table()
    with open("/proc/locks") as file:
        for line in file:
            _, *fields = line.split()
            waits = fields[0] == "->"
            kind, _, access, pid, place, start, end = fields[waits:]
            last = None if end == "EOF" else int(end)
            table.append(Lock(kind.lower(), access.lower(), int(pid), place, int(start), last, waits))
    return table
