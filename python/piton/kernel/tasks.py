"""Processes and threads (/proc, proc(5))."""

import os
from typing import NamedTuple

from piton.table import Hex, Table

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATES = {
    "R": "runs",
    "S": "waits",
    "D": "waits",
    "T": "stopped",
    "t": "traced",
    "Z": "ended",
    "X": "ended",
    "I": "idle",
}


class Mapping(NamedTuple):
    """A range of a process's addresses: what is there, and how much of it is in memory, in bytes."""

    start: Hex
    end: Hex
    permissions: str
    resident: int
    name: str


class Task(NamedTuple):
    """A process, or a thread of one. Times are in seconds, ``memory`` is what is resident, in bytes.

    ``waits_in`` is the function of the kernel that it waits in, None for one that does not wait.
    """

    pid: int
    tid: int
    name: str
    state: str
    parent: int
    threads: int
    cpu: int
    cpu_time: float
    nice: int
    memory: int
    waits_in: str | None

    @property
    def _folder(self) -> str:
        return f"/proc/{self.pid}/task/{self.tid}"

    def stack(self) -> list[str]:
        """Return the functions of the kernel that it waits in, the innermost first; none where it does not wait.

        :raises ProcessLookupError: it has ended.
        """
        return [line.partition("] ")[2] for line in _read(f"{self._folder}/stack").splitlines()]

    def mappings(self) -> Table:
        """Return a table of its address space.

        :raises ProcessLookupError: it has ended.
        """
        table = Table()
        for line in _read(f"/proc/{self.pid}/smaps").splitlines():
            fields = line.split(None, 5)
            if fields[0].endswith(":"):
                if fields[0] == "Rss:":
                    table[-1] = table[-1]._replace(resident=int(fields[1]) * 1024)
                continue
            start, end = (Hex(part, 16) for part in fields[0].split("-"))
            table.append(Mapping(start, end, fields[1], 0, fields[5].strip() if len(fields) > 5 else ""))
        return table

    def arguments(self) -> list[str]:
        """Return the command line it was started with.

        :raises ProcessLookupError: it has ended.
        """
        text = _read(f"/proc/{self.pid}/cmdline")
        return text.rstrip("\0").split("\0") if text else []


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        raise ProcessLookupError(f"{path.split('/')[2]} has ended") from None


def _make(pid: int, tid: int) -> Task:
    folder = f"/proc/{pid}/task/{tid}"
    # A name may have any characters, the closing parenthesis among them.
    name, _, rest = _read(f"{folder}/stat").partition("(")[2].rpartition(")")
    fields = rest.split()
    state, parent, user, system, nice, threads, resident, cpu = (fields[n] for n in (0, 1, 11, 12, 16, 17, 21, 36))
    waits_in = _read(f"{folder}/wchan")
    return Task(
        pid,
        tid,
        name,
        _STATES.get(state, state),
        int(parent),
        int(threads),
        int(cpu),
        (int(user) + int(system)) / _TICKS,
        int(nice),
        int(resident) * _PAGE,
        None if waits_in in ("0", "") else waits_in,
    )


def task(pid: int) -> Task:
    """Return the process, or the thread, with this number.

    :raises ProcessLookupError: there is none.
    """
    # A thread's folder is there, too, though not listed; Tgid is its process.
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("Tgid:"):
            return _make(int(line.split()[1]), pid)
    raise ProcessLookupError(f"{pid} has ended")


def tasks(*, threads: bool = False) -> Table:
    """Return a table of all processes, or of all threads."""
    table = Table()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            tids = sorted(map(int, os.listdir(f"/proc/{pid}/task"))) if threads else [pid]
        except FileNotFoundError:
            continue
        for tid in tids:
            try:
                table.append(_make(pid, tid))
            except ProcessLookupError:
                # It ended meanwhile.
                continue
    return table
