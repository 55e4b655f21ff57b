"""Piton: the machine from Python.

``piton.poweroff()`` and ``piton.reboot()`` leave the machine; ``piton.log()`` is the kernel's log; ``piton.net`` shows
the network; ``piton.kernel`` shows what the kernel does, ``piton.cpu`` the processors; ``piton.devices`` shows the
devices, ``piton.tree`` the device tree that they come from, and ``piton.claim()`` takes one; ``piton.load()`` and
``piton.reload()`` start drivers in Python.
"""

from piton.power import poweroff, reboot
from piton.system import log

__all__ = [
    "DeviceBusy",
    "DeviceError",
    "Register",
    "Registers",
    "bind",
    "claim",
    "cpu",
    "devices",
    "drivers",
    "kernel",
    "load",
    "log",
    "net",
    "poweroff",
    "reboot",
    "reload",
    "tree",
    "unbind",
]

#: Where objects are that are imported when they are first asked for.
_OBJECTS = {
    "DeviceBusy": "hardware.errors",
    "DeviceError": "hardware.errors",
    "Register": "hardware.registers",
    "Registers": "hardware.registers",
    "bind": "hardware.claim",
    "claim": "hardware.claim",
    "devices": "hardware.devices",
    "load": "drivers",
    "reload": "drivers",
    "tree": "hardware.tree",
    "unbind": "hardware.claim",
}


def __getattr__(name: str):
    """Import what is not part of every start when it is first asked for."""
    import importlib

    if name in _OBJECTS:
        found = getattr(importlib.import_module(f"piton.{_OBJECTS[name]}"), name)
        globals()[name] = found
        return found
    if name in __all__:
        return importlib.import_module(f"piton.{name}")
    raise AttributeError(f"module 'piton' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
