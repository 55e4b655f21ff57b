"""Piton: the machine from Python.

``piton.poweroff()`` and ``piton.reboot()`` leave the machine; ``piton.log()`` is the kernel's log.
"""

from piton.power import poweroff, reboot
from piton.system import log

__all__ = ["log", "poweroff", "reboot"]
