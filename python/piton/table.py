"""Lists that show themselves as tables."""

from typing import Any


class Table(list):
    """A list of tuples with names, all of one kind, that shows itself as a table."""

    def __repr__(self) -> str:
        if not self:
            return "[]"
        rows = [self[0]._fields, *([_shown(value) for value in row] for row in self)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return ", ".join(map(str, value))
    return str(value)


class Hex(int):
    """A whole number that shows itself in hexadecimal."""

    __repr__ = __str__ = lambda self: hex(self)
