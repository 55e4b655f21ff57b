"""Piton: the machine from Python.

``piton.poweroff()`` and ``piton.reboot()`` leave the machine; ``piton.log()`` is the kernel's log; ``piton.net`` shows
the network; ``piton.devices`` shows the devices, ``piton.tree`` the device tree that they come from, and
``piton.claim()`` takes one.
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
    "devices",
    "log",
    "net",
    "poweroff",
    "reboot",
    "tree",
    "unbind",
]

#: Where objects are that are imported when they are first asked for.
_OBJECTS = {
    "DeviceBusy": "errors",
    "DeviceError": "errors",
    "Register": "registers",
    "Registers": "registers",
    "bind": "claim",
    "claim": "claim",
    "devices": "devices",
    "tree": "tree",
    "unbind": "claim",
}


def __getattr__(name: str):
    """Import what is not part of every start when it is first asked for."""
    import importlib

    if name in _OBJECTS:
        found = getattr(importlib.import_module(f"piton.hardware.{_OBJECTS[name]}"), name)
        globals()[name] = found
        return found
    if name in __all__:
        return importlib.import_module(f"piton.{name}")
    raise AttributeError(f"module 'piton' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
