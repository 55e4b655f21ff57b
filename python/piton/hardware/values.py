"""What the bytes of a property mean (Devicetree Specification 0.4, 2.2.4 and 2.3)."""

import struct

Value = bool | int | str | bytes | tuple[int, ...] | tuple[str, ...]

#: Properties that are a list of texts, whatever is in it, and those that are one text.
_TEXTS = {"compatible", "enable-method"}
_TEXT = {"bootargs", "device_type", "label", "method", "model", "name", "status", "stdout-path"}
#: Properties that are numbers even where their bytes could be text.
_NUMBERS = {
    "clocks",
    "dma-ranges",
    "interrupt-map",
    "interrupt-map-mask",
    "interrupt-parent",
    "interrupts",
    "interrupts-extended",
    "linux,phandle",
    "phandle",
    "ranges",
    "reg",
    "virtual-reg",
}


def cells(raw: bytes) -> tuple[int, ...]:
    """Return big-endian 32-bit numbers. A ValueError where the bytes are no whole number of them."""
    if len(raw) % 4:
        raise ValueError(f"{len(raw)} bytes are not 32-bit cells")
    return struct.unpack(f">{len(raw) // 4}I", raw)


def texts(raw: bytes) -> tuple[str, ...] | None:
    """Return the texts of a list; None where the bytes are none."""
    if not raw.endswith(b"\0"):
        return None
    try:
        found = raw[:-1].decode().split("\0")
    except UnicodeDecodeError:
        return None
    return tuple(found) if all(text.isprintable() for text in found) else None


def typed(name: str, raw: bytes) -> Value:
    """Return the value of a property: by what its name says, else by what its bytes look like.

    An empty property is True; numbers are an int or, several, a tuple; texts are a str or a tuple of them. What is
    none of these is bytes.
    """
    is_number = name in _NUMBERS or name.startswith("#") or name.endswith(("-frequency", "-cells"))
    if not raw and not is_number and name not in _TEXTS:
        return True
    found = None if is_number else texts(raw)
    if name in _TEXTS or name.endswith("-names"):
        return raw if found is None and raw else found or ()
    if found is not None and (name in _TEXT or all(found)):
        return found[0] if len(found) == 1 else found
    if not raw or len(raw) % 4:
        return raw or ()
    numbers = cells(raw)
    return numbers[0] if len(numbers) == 1 else numbers
