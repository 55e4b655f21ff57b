"""The kernel's functions by name and by address (/proc/kallsyms)."""

import bisect
import functools


@functools.cache
def _symbols() -> tuple[list[int], list[str]]:
    """Return addresses, ascending, and the names that belong to them."""
    with open("/proc/kallsyms") as file:
        lines = [line.rstrip("\n").split(" ", 2) for line in file]
    return [int(address, 16) for address, _, _ in lines], [name for _, _, name in lines]


def symbol(address: int) -> str:
    """Return the function that *address* is in, as ``name+distance``.

    :raises LookupError: the address is before all functions.
    """
    addresses, names = _symbols()
    place = bisect.bisect(addresses, address) - 1
    if place < 0:
        raise LookupError(f"{address:#x} is in no function of the kernel")
    return f"{names[place]}+{address - addresses[place]:#x}"


def address(name: str) -> int:
    """Return where the function *name* begins.

    :raises LookupError: there is none, or there are several; the message lists some that contain *name*.
    """
    addresses, names = _symbols()
    places = [place for place, known in enumerate(names) if known == name]
    if len({addresses[place] for place in places}) == 1:
        return addresses[places[0]]
    similar = [known for known in names if name in known]
    found = f"{len(places)} functions of the kernel are" if places else "no function of the kernel is"
    raise LookupError(f"{found} called {name!r}" + (f"; there are {', '.join(similar[:5])}" if similar else ""))
