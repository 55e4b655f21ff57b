"""Page tables, walked as the processor does it: in physical memory, from the root on."""

import os
import platform
from typing import NamedTuple

from piton import cpu
from piton.kernel.physical import Memory
from piton.system import read_control
from piton.table import Hex, Table

_ENTRIES = 512
#: The root's level, counted from the leaves; each level takes 9 bits of an address above the 12 of a page.
_ROOT_LEVEL = 3
_ADDRESS = 0x0000_FFFF_FFFF_F000


class Step(NamedTuple):
    """An entry on the way: the level (0 is of pages, 3 the root's), the table it is in, its place there, its value."""

    level: int
    table: Hex
    index: int
    entry: Hex
    kind: str


class Translation(NamedTuple):
    """Where a virtual address leads: ``physical`` is None where nothing is mapped. ``flags`` say what may be done."""

    virtual: Hex
    physical: Hex | None
    size: int
    flags: tuple[str, ...]
    steps: Table


def walk(address: int, pid: int | None = None) -> Translation:
    """Follow *address* through the page tables: of process *pid*, or of the kernel for an address in the upper half.

    Without *pid* a program's address is the calling process's.

    :raises LookupError: there is no such process, or it has no memory.
    :raises ValueError: the address is in neither half of the address space.
    :raises NotImplementedError: the processor's tables are of a kind that is not known here.
    """
    if platform.machine() != "aarch64":
        raise NotImplementedError(f"page tables of {platform.machine()}")
    address %= 1 << 64
    if address >> 48 not in (0, 0xFFFF):
        raise ValueError(f"{address:#x} is in neither half of the address space")
    table = cpu.registers()["ttbr1_el1"] & _ADDRESS if address >> 48 else _root(pid)
    steps = Table()
    with Memory() as memory:
        for level in range(_ROOT_LEVEL, -1, -1):
            shift = 12 + 9 * level
            index = address >> shift & (_ENTRIES - 1)
            entry = int.from_bytes(memory.read(table + 8 * index, 8), "little")
            kind = _kind(entry, level)
            steps.append(Step(level, Hex(table), index, Hex(entry), kind))
            if kind == "table":
                table = entry & _ADDRESS
                continue
            if kind == "empty":
                return Translation(Hex(address), None, 1 << shift, (), steps)
            inside = (1 << shift) - 1
            physical = Hex(entry & _ADDRESS & ~inside | address & inside)
            return Translation(Hex(address), physical, 1 << shift, _flags(entry), steps)
    raise AssertionError("a walk ends at level 0")


def _root(pid: int | None) -> int:
    pid = os.getpid() if pid is None else pid
    for line in read_control("address_spaces").splitlines():
        known, root = line.split()
        if int(known) == pid:
            return int(root, 16)
    raise LookupError(f"process {pid} has no memory, or is not there")


def _kind(entry: int, level: int) -> str:
    """Tell what an entry is (Arm ARM DDI 0487, D8.3.1)."""
    if not entry & 1:
        return "empty"
    if level == 0:
        return "page"
    return "table" if entry & 2 else "block"


def _flags(entry: int) -> tuple[str, ...]:
    """Name what a leaf says (Arm ARM DDI 0487, D8.4: AP, UXN, PXN, nG, AF)."""
    user = bool(entry >> 6 & 1)
    flags = ["user"] if user else []
    flags.append("read-only" if entry >> 7 & 1 else "writable")
    if not entry >> (54 if user else 53) & 1:
        flags.append("executable")
    if not entry >> 11 & 1:
        flags.append("global")
    if entry >> 10 & 1:
        flags.append("accessed")
    return tuple(flags)
