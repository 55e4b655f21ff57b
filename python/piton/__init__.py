"""Piton: the machine from Python.

``piton.poweroff()`` and ``piton.reboot()`` leave the machine; ``piton.log()`` is the kernel's log; ``piton.net`` shows
the network.
"""

from piton.power import poweroff, reboot
from piton.system import log

__all__ = ["log", "net", "poweroff", "reboot"]


def __getattr__(name: str):
    """Import what is not part of every start when it is first asked for."""
    if name in __all__:
        import importlib

        return importlib.import_module(f"piton.{name}")
    raise AttributeError(f"module 'piton' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
