"""Leaving the machine."""

import os
import sys

from piton.system import write_control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def _drain() -> None:
    """Let everything written so far reach the console before the machine goes."""
    import termios

    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            termios.tcdrain(stream.fileno())
        except (OSError, ValueError, termios.error):
            pass  # Not a terminal, or closed: nothing to wait for.
    os.sync()


def poweroff(status: int = 0) -> "NoReturn":
    """Switch the machine off.

    *status* (0 to 255) becomes the exit status of the virtual machine where there is one.

    :raises ValueError: *status* is out of range.
    """
    if not 0 <= status <= 255:
        raise ValueError(f"status must be 0 to 255, not {status}")
    _drain()
    write_control("power", f"off {status}\n")
    raise OSError("the machine did not switch off")


def reboot() -> "NoReturn":
    """Reset the machine; it starts again from power-on."""
    _drain()
    write_control("power", "reset\n")
    raise OSError("the machine did not reset")
