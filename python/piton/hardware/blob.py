"""Reading flattened device trees (Devicetree Specification 0.4, chapter 5)."""

import struct
from collections.abc import Iterator

from piton.hardware.errors import BadDeviceTree

_MAGIC = 0xD00DFEED
_HEADER = struct.Struct(">10I")
_WORD = struct.Struct(">I")
_BEGIN_NODE, _END_NODE, _PROPERTY, _NOP, _END = 1, 2, 3, 4, 9
#: The version whose layout this is, and the oldest that a blob may be readable as.
_VERSION = 17, 16
#: Deeper trees than this are damaged.
_DEEPEST = 64


def events(blob: bytes) -> "Iterator[tuple[str, str, bytes]]":
    """Walk through a blob: ``("begin", name, b"")``, ``("property", name, value)`` and ``("end", "", b"")``.

    :raises BadDeviceTree: the blob is not a flattened device tree.
    """

    def bad(why: str) -> BadDeviceTree:
        return BadDeviceTree("device tree", why)

    def word(at: int) -> int:
        try:
            return _WORD.unpack_from(blob, at)[0]
        except struct.error:
            raise bad("it ends too early") from None

    def string(start: int, end: int) -> tuple[str, int]:
        stop = blob.find(b"\0", start, end)
        if not 0 <= start < end or stop < 0:
            raise bad("a name does not end")
        try:
            return blob[start:stop].decode(), stop + 1
        except UnicodeDecodeError:
            raise bad("a name is not text") from None

    if len(blob) < _HEADER.size:
        raise bad("it is shorter than its header")
    magic, size, structure, strings, _, version, compatible, _, strings_size, structure_size = _HEADER.unpack_from(blob)
    if magic != _MAGIC:
        raise bad(f"it does not begin with {_MAGIC:#x}")
    if version < _VERSION[1] or compatible > _VERSION[0]:
        raise bad(f"version {version} is unknown")
    if version < _VERSION[0]:
        structure_size = size - structure
    end, strings_end = structure + structure_size, strings + strings_size
    if size > len(blob) or end > size or strings_end > size or structure % 4:
        raise bad("its parts are not within it")
    at, depth, began = structure, 0, False
    while True:
        if at + 4 > end:
            raise bad("it does not end")
        token, at = word(at), at + 4
        if token == _BEGIN_NODE:
            if (depth == 0 and began) or depth == _DEEPEST:
                raise bad("it has two roots" if depth == 0 else "its nodes are too deep")
            name, at = string(at, end)
            at, depth, began = (at + 3) & ~3, depth + 1, True
            yield "begin", name, b""
        elif token == _END_NODE:
            if depth == 0:
                raise bad("a node ends that has not begun")
            depth -= 1
            yield "end", "", b""
        elif token == _PROPERTY:
            length, name_at, value_at = word(at), word(at + 4), at + 8
            if depth == 0 or value_at + length > end:
                raise bad("a property is not within a node")
            at = (value_at + length + 3) & ~3
            yield "property", string(strings + name_at, strings_end)[0], blob[value_at : value_at + length]
        elif token == _END:
            if depth or not began:
                raise bad("it ends within a node")
            return
        elif token != _NOP:
            raise bad(f"token {token} is unknown")
