"""Interrupts: how often they came, and how long their handlers took."""

from typing import NamedTuple

from piton.system import read_control
from piton.table import Table

#: The first count of a histogram is of times below this, in nanoseconds; each further one ends at twice the time of the
#: one before it. As in the kernel's ``inspect/histogram.rs``.
_FIRST_NS = 128


class Histogram(tuple):
    """Counts of times, by powers of two of nanoseconds. Shows itself as bars."""

    @property
    def total(self) -> int:
        """How many times were counted."""
        return sum(self)

    def quantile(self, part: float) -> int | None:
        """Return the time in nanoseconds that *part* of all times (0 to 1) are not above; None without any.

        It is rounded up to the end of its count.

        :raises ValueError: *part* is not from 0 to 1.
        """
        if not 0 <= part <= 1:
            raise ValueError(f"{part} is not a part of a whole, from 0 to 1")
        below = 0
        for power, count in enumerate(self):
            below += count
            if count and below >= part * self.total:
                return _FIRST_NS << power
        return None

    def __repr__(self) -> str:
        rows = [(f"< {_time(_FIRST_NS << power)}", count) for power, count in enumerate(self) if count]
        most = max(self, default=0)
        return "\n".join(f"{label:>9} {count:>9} {'#' * -(-count * 40 // most)}" for label, count in rows) or "no times"


def _time(ns: int) -> str:
    for unit in ("ns", "us", "ms"):
        if ns < 1000:
            break
        ns, unit = round(ns / 1000), {"ns": "us", "us": "ms", "ms": "s"}[unit]
    return f"{ns} {unit}"


class Interrupt(NamedTuple):
    """An interrupt. ``counts`` are of each CPU; ``median_ns`` and ``longest_ns`` are times of the handler, rounded up."""

    label: str
    name: str
    counts: tuple[int, ...]
    median_ns: int | None
    longest_ns: int | None

    @property
    def times(self) -> Histogram:
        """How long the handler took, all CPUs together. Empty for what CPUs send each other."""
        return _times().get(self.label, Histogram())


def _times() -> dict[str, Histogram]:
    lines = (line.split() for line in read_control("interrupt_times").splitlines())
    return {label: Histogram(map(int, counts)) for label, *counts in lines}


def interrupts() -> Table:
    """Return a table of the interrupts that somebody handles, and of those that CPUs send each other (``IPI``)."""
    with open("/proc/interrupts") as file:
        cpus = len(file.readline().split())
        lines = file.readlines()
    times = _times()
    table = Table()
    for line in lines:
        label, _, rest = line.strip().partition(":")
        parts = rest.split(None, cpus)
        took = times.get(label, Histogram())
        counts = tuple(map(int, parts[:cpus]))
        table.append(Interrupt(label, " ".join(parts[cpus:]).strip(), counts, took.quantile(0.5), took.quantile(1)))
    return table


def timer_lateness() -> Histogram:
    """Return how much later than asked the kernel's timers went off."""
    return Histogram(map(int, read_control("timer_lateness").split()))
