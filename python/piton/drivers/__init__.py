"""Drivers in Python, each an example: a claim, registers by name, an interrupt.

``piton.load("pl061")`` starts the driver of that name on the device that is meant for it; ``piton.reload``
takes the driver's module anew and starts it where it ran. A driver is a subclass of :class:`Driver` with the name
``DRIVER`` in a module of this package, or of any that is on the path.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import types

from piton.hardware.claim import claim
from piton.hardware.devices import Device, devices
from piton.hardware.errors import DeviceError
from piton.hardware.registers import Registers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

#: The drivers that run, by the path of their device.
running: "dict[str, Driver]" = {}


class Driver:
    """A driver of one device, which it has from its making to :meth:`close`.

    Subclasses say what they drive (``compatible``), name its registers, and may have ``start`` and ``stop``: ``stop``
    leaves the device quiet. What ``state`` answers is given to ``restore`` of the driver that takes over at a reload.
    """

    compatible: tuple[str, ...] = ()
    registers: type[Registers] = Registers

    def __init__(self, device: "str | Device | None" = None) -> None:
        self.device = claim(self._choose() if device is None else device, self.registers, unbind=True)
        self.closed = False
        try:
            self.start()
        except BaseException:
            # What did not start may not be able to stop; the first mistake is the one to tell of.
            with contextlib.suppress(Exception):
                self.stop()
            self.device.close()
            raise
        running[self.device.path] = self

    @classmethod
    def _choose(cls) -> Device:
        for device in devices:
            if not cls.compatible or set(cls.compatible) & set(device.compatible) and device.state != "disabled":
                if device.path not in running and cls.drives(device):
                    return device
        raise DeviceError(" or ".join(cls.compatible), f"there is none for {cls.__name__}")

    @classmethod
    def drives(cls, device: Device) -> bool:
        """Tell whether a compatible device is one for this driver."""
        return True

    def start(self) -> None:
        """Bring the device up."""

    def stop(self) -> None:
        """Make the device quiet."""

    def state(self) -> object:
        """Return what the driver that takes over needs."""
        return None

    def restore(self, state: object) -> None:
        """Go on where another driver left off."""

    def close(self) -> None:
        """Make the device quiet and give it back; it is given back even where that fails."""
        if self.closed:
            return
        self.closed = True
        try:
            self.stop()
        finally:
            running.pop(self.device.path, None)
            self.device.close()

    @property
    def name(self) -> str:
        """The name of its module."""
        return type(self).__module__.rpartition(".")[2]

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<driver {self.name}, {self.device!r}>"


def _module(name: str) -> types.ModuleType:
    own = f"{__name__}.{name}"
    return importlib.import_module(own if importlib.util.find_spec(own) else name)


def load(name: str, device: "str | Device | None" = None) -> Driver:
    """Start the driver *name* on *device*, or on the first that is meant for it, and return it.

    :raises ImportError: there is no such driver.
    :raises DeviceError: there is no such device, or it is somebody's.
    """
    return _module(name).DRIVER(device)


def reload(name: str) -> list[Driver]:
    """Take the module of the driver *name* anew and start it wherever it runs; return those that run now.

    A module that cannot be imported changes nothing: what runs goes on.
    """
    module = sys.modules.get(f"{__name__}.{name}") or _module(name)
    old = [driver for driver in running.values() if type(driver).__module__ == module.__name__]
    # Python would take what it compiled for new where the file was changed within a second.
    with contextlib.suppress(OSError):
        os.unlink(importlib.util.cache_from_source(module.__file__))
    importlib.reload(module)
    new = []
    for driver in old:
        state = driver.state()
        driver.close()
        new.append(module.DRIVER(driver.device.path))
        new[-1].restore(state)
    return new
