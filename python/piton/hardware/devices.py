"""``piton.devices``: what became of every device of the device tree."""

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

from piton.hardware.errors import NoSuchDevice
from piton.hardware.names import by_identifier
from piton.hardware.tree import Node, Range
from piton.system import read_control
from piton.table import Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Line(NamedTuple):
    """An interrupt as the kernel understands it.

    *number* and *trigger* are None where its controller has no driver. *per_cpu*: each CPU has its own.
    """

    controller: str
    cells: tuple[int, ...]
    number: int | None = None
    trigger: str | None = None
    per_cpu: bool = False
    error: str | None = None

    def __str__(self) -> str:
        if self.error:
            return self.error
        if self.number is None:
            return f"{self.controller} {' '.join(map(str, self.cells))}"
        return f"{self.number} {self.trigger}"

    def __repr__(self) -> str:
        return f"<{self}>"


class Device(NamedTuple):
    """A device.

    *state* is ``bound`` (a driver has it), ``unclaimed``, ``disabled``, ``deferred`` or ``failed``; *why* says more.
    """

    path: str
    compatible: tuple[str, ...]
    driver: str | None
    registers: tuple[Range, ...]
    interrupts: tuple[Line, ...]
    state: str
    why: str | None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2] or "/"

    @property
    def node(self) -> Node:
        """The device's node in ``piton.tree``."""
        from piton.hardware.tree import tree

        return tree[self.path]

    def is_called(self, name: str) -> bool:
        """Tell whether *name* is its path, name, driver or one of its compatible strings, of which parts are enough.

        Those parts are the name before ``@`` and the string after the maker's name.
        """
        known = {self.path, self.name, self.name.partition("@")[0], self.driver, *self.compatible}
        return name in known or name in (text.partition(",")[2] for text in self.compatible if "," in text)

    def __repr__(self) -> str:
        parts = (next(iter(self.compatible), "?"), self.driver, *self.registers, *self.interrupts, self.state, self.why)
        return f"<{self.path}: {', '.join(str(part) for part in parts if part is not None)}>"

    @classmethod
    def from_json(cls, item: dict) -> "Self":
        """Make one of what the kernel tells."""
        lines = (Line(line.pop("controller", ""), tuple(line.pop("cells", ())), **line) for line in item["interrupts"])
        return cls(
            item["path"],
            tuple(item["compatible"]),
            item["driver"],
            tuple(Range(*pair) for pair in item["registers"]),
            tuple(lines),
            item["state"],
            item["reason"],
        )


class _Row(NamedTuple):
    """What the table shows of a device."""

    name: str
    compatible: str | None
    driver: str | None
    registers: tuple[Range, ...]
    interrupts: tuple[Line, ...]
    state: str
    why: str | None


class Devices:
    """The devices as they are now. ``devices["pl031"]`` is the one of that name, path, driver or kind.

    Iterating gives all; shown, it is a table. Every device is an attribute, too.
    """

    def _read(self) -> list[Device]:
        found = [Device.from_json(item) for item in json.loads(read_control("devices"))]
        # Drivers in Python, where any was loaded, are this interpreter's: the kernel knows who has the device.
        running = getattr(sys.modules.get("piton.drivers"), "running", {})
        return [
            device._replace(driver=f"{running[device.path].name}.py") if device.path in running else device
            for device in found
        ]

    def find(self, name: str) -> list[Device]:
        """Return all devices that are called *name*."""
        return [device for device in self if device.is_called(name)]

    def __iter__(self) -> Iterator[Device]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, name: object) -> bool:
        return any(device.is_called(name) or device == name for device in self)

    def __getitem__(self, name: str) -> Device:
        found = self.find(name)
        # A path is one device, whatever else has its name.
        found = [device for device in found if name in (device.path, device.name)] or found
        if not found:
            raise NoSuchDevice(name, "there is no such device; `piton.devices` lists all")
        if len(found) > 1:
            paths = [device.path for device in found]
            shown = ", ".join(paths[:4]) + (", ..." if len(paths) > 4 else "")
            raise NoSuchDevice(name, f"{len(paths)} devices are called that: {shown}")
        return found[0]

    def _attributes(self) -> dict[str, Device]:
        return by_identifier((device.name, device) for device in self)

    def __getattr__(self, name: str) -> Device:
        if not name.startswith("__") and name in (known := self._attributes()):
            return known[name]
        raise AttributeError(f"there is no device {name!r}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._attributes()})

    def _ipython_key_completions_(self) -> list[str]:
        return [device.path for device in self]

    def __repr__(self) -> str:
        return repr(Table(_Row(device.name, next(iter(device.compatible), None), *device[2:]) for device in self))


devices = Devices()
