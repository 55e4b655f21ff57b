"""Names of the device tree as attributes, for Tab."""

import re
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def identifier(name: str) -> str:
    """Return *name* as Python can have it after a dot: ``pl011@9000000`` is ``pl011_9000000``."""
    name = re.sub(r"\W", "_", name.lstrip("#"))
    return f"_{name}" if name[:1].isdigit() else name


def by_identifier(named: "Iterable[tuple[str, Item]]") -> "dict[str, Item]":
    """Return items by identifier: of the whole name, and of the part before ``@`` where only one has that."""
    found: dict[str, Item] = {}
    short: dict[str, list[Item]] = {}
    for name, item in named:
        found.setdefault(identifier(name), item)
        short.setdefault(identifier(name.partition("@")[0]), []).append(item)
    for name, items in short.items():
        if name and len(items) == 1:
            found.setdefault(name, items[0])
    return found
