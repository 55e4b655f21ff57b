"""The kernel's log as objects (dev-kmsg)."""

import errno
import os
import re
from typing import NamedTuple

from piton.table import Table

#: By number, most urgent first (syslog(3)).
LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")


class Message(NamedTuple):
    """A line of the log: seconds since the start, how urgent it is, and the text."""

    time: float
    level: str
    text: str


def log(level: str = "debug") -> Table:
    """Return a table of the messages at least as urgent as *level*, oldest first.

    :raises ValueError: there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r} is none of {', '.join(LEVELS)}")
    least = LEVELS.index(level)
    device = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        messages = [_message(record) for record in _records(device)]
    finally:
        os.close(device)
    return Table(message for message in messages if LEVELS.index(message.level) <= least)


def _records(device):
    while True:
        try:
            yield os.read(device, 8192)
        except BlockingIOError:
            return
        except OSError as error:
            # A record fell out of the log before it was read: the next read goes on with the oldest.
            if error.errno != errno.EPIPE:
                raise


def _message(record: bytes) -> Message:
    head, _, text = record.partition(b";")
    priority, _, microseconds, *_ = head.split(b",")
    text = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.split(b"\n")[0])
    return Message(int(microseconds) / 1e6, LEVELS[int(priority) & 7], text.decode(errors="replace"))
