"""The processors: ``piton.cpu.registers()``, ``features()``, ``counter()``, ``online()``."""

import os
import threading
from collections.abc import Iterator

from piton.system import read_control

__all__ = ["counter", "features", "frequency", "online", "registers"]


class Registers(dict):
    """System registers by name, in lower case. Shows itself as a list, in hexadecimal."""

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {value:#018x}" for name, value in self.items())


def online() -> tuple[int, ...]:
    """Return the numbers of the CPUs that run."""
    return tuple(_numbers("/sys/devices/system/cpu/online"))


def _numbers(path: str) -> Iterator[int]:
    with open(path) as file:
        for part in file.read().strip().split(","):
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)


def registers(cpu: int | None = None) -> Registers:
    """Return the system registers of CPU number *cpu*, as the kernel reads them there; by default of one that is free.

    :raises ValueError: there is no such CPU.
    """
    if cpu is not None and cpu not in online():
        raise ValueError(f"there is no CPU {cpu!r}; there are {', '.join(map(str, online()))}")
    text = read_control("cpu") if cpu is None else _read_on(cpu)
    return Registers((name, int(value, 16)) for name, value in (line.split() for line in text.splitlines()))


def _read_on(cpu: int) -> str:
    """Read the file on this CPU, in a thread of its own: the caller stays where it may run."""
    text: list[str] = []

    def read() -> None:
        os.sched_setaffinity(0, {cpu})
        text.append(read_control("cpu"))

    reader = threading.Thread(target=read)
    reader.start()
    reader.join()
    return text[0]


def features() -> tuple[str, ...]:
    """Return what the processor can do beyond the least, by Linux's names (/proc/cpuinfo)."""
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("Features", "flags"):
                return tuple(value.split())
    return ()


def counter() -> int:
    """Return what the counter of time stands at, in ticks of which ``frequency()`` make a second."""
    return registers()["cntvct_el0"]


def frequency() -> int:
    """Return how often the counter of time ticks in a second."""
    return registers()["cntfrq_el0"]
