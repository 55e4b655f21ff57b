"""What the kernel does, event by event (/sys/kernel/piton/trace)."""

import json
import os
import struct
from typing import NamedTuple, Self

from piton.system import KERNEL, write_control
from piton.table import Table

#: A record, as the kernel's ``inspect/trace.rs`` writes it.
_RECORD = struct.Struct("=QQQIHBx")
_KINDS = {1: "call", 2: "return", 3: "switch", 4: "interrupt", 5: "handled", 6: "fault"}


class Event(NamedTuple):
    """Something the kernel did. Times are nanoseconds of ``time.monotonic_ns()``.

    ``call`` and ``return``: ``what`` is the system call, ``value`` its first argument or its result (negative: the errno);
    ``switch``: ``value`` is the thread that the CPU goes over to; ``interrupt`` and ``handled``: its number; ``fault``: the
    address of the page that was not there.
    """

    time_ns: int
    cpu: int
    tid: int
    kind: str
    what: str
    value: int


class Trace:
    """A trace: it begins at ``with`` and ends with it, then ``events`` has what was recorded.

    There is one at a time: the newest ends the one before. Each CPU keeps its newest *size* records.
    """

    def __init__(self, size: int = 16384) -> None:
        if not 1 <= size <= 65536:
            raise ValueError(f"{size} records for each CPU; 1 to 65536 can be kept")
        self._size = size
        #: What was recorded, in the order of time.
        self.events = Table()
        self._names: dict[int, str] = {}

    def start(self) -> None:
        """Begin anew.

        :raises MemoryError: there is no room for the records.
        """
        try:
            write_control("trace", str(self._size))
        except OSError as error:
            raise MemoryError(f"no room for {self._size} records on each CPU") from error

    def stop(self) -> None:
        """Stop, and take over what was recorded."""
        with open(f"{KERNEL}/trace", "rb") as file:
            data = file.read()
        write_control("trace", "0")
        # Names are taken now: threads of the past have none any more.
        self._names = _thread_names()
        self.events = Table(sorted(map(_event, _RECORD.iter_unpack(data))))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def save(self, path: str | os.PathLike) -> None:
        """Write the events as a file that Perfetto (ui.perfetto.dev) and Chrome (chrome://tracing) show.

        Threads are rows; system calls and interrupts are bars on them. The format is Chrome's trace event format.
        """
        with open(path, "w") as file:
            json.dump({"traceEvents": list(self._chrome_events()), "displayTimeUnit": "ns"}, file)

    def _chrome_events(self):
        for tid in sorted({event.tid for event in self.events}):
            name = self._names.get(tid, "idle" if tid == 0 else f"thread {tid}")
            yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": tid, "args": {"name": name}}
        begun: dict[tuple, Event] = {}
        for event in self.events:
            match event.kind:
                case "call":
                    begun[event.tid, event.what] = event
                case "interrupt":
                    begun[event.cpu, event.value] = event
                case "return" if start := begun.pop((event.tid, event.what), None):
                    yield self._bar(event.what, start, event, {"first": hex(start.value), "result": event.value})
                case "handled" if start := begun.pop((event.cpu, event.value), None):
                    yield self._bar(f"interrupt {event.value}", start, event, {})
                case "switch" | "fault":
                    yield {**self._place(event), "ph": "i", "s": "t", "name": event.kind, "args": {"to": event.value}}

    def _bar(self, name: str, start: Event, end: Event, arguments: dict) -> dict:
        duration = (end.time_ns - start.time_ns) / 1000
        return {**self._place(start), "ph": "X", "dur": duration, "name": name, "args": {**arguments, "cpu": start.cpu}}

    @staticmethod
    def _place(event: Event) -> dict:
        return {"pid": 0, "tid": event.tid, "ts": event.time_ns / 1000}

    def __repr__(self) -> str:
        if not self.events:
            return "<trace, no events>"
        seconds = (self.events[-1].time_ns - self.events[0].time_ns) / 1e9
        return f"<trace, {len(self.events)} events in {seconds:.6f} s>"


def trace(size: int = 16384) -> Trace:
    """Return a trace, for ``with piton.kernel.trace() as trace:``; each CPU keeps its newest *size* records.

    :raises ValueError: *size* is not from 1 to 65536.
    """
    return Trace(size)


def _event(record: tuple) -> Event:
    time_ns, first, second, tid, cpu, number = record
    kind = _KINDS.get(number, str(number))
    if kind in ("call", "return"):
        value = second if kind == "call" else second - (second >> 63 << 64)
        return Event(time_ns, cpu, tid, kind, _call_name(first), value)
    if kind == "switch":
        # The record is made when the next thread is the running one already.
        tid = second
    return Event(time_ns, cpu, tid, kind, "", first)


def _call_name(number: int) -> str:
    return _calls().get(number, str(number))


def _calls() -> dict[int, str]:
    """Return the names of the system calls, as the kernel tells them."""
    if not _names:
        with open(f"{KERNEL}/system_calls") as file:
            _names.update((int(number), name) for number, name in (line.split() for line in file))
    return _names


_names: dict[int, str] = {}


def _thread_names() -> dict[int, str]:
    names = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for tid in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{tid}/comm") as file:
                    names[int(tid)] = file.read().strip()
        except OSError:
            continue
    return names
