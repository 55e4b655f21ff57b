"""fw_cfg: named blobs that QEMU hands over (docs/specs/fw_cfg.rst of QEMU), read by DMA."""

import struct

from piton.drivers import Driver
from piton.hardware.errors import DeviceError
from piton.hardware.registers import Register, Registers

_SIGNATURE, _DIRECTORY = 0x00, 0x19
_ERROR, _READ, _SELECT = 1, 2, 8
_REQUEST, _ENTRY = struct.Struct(">IIQ"), struct.Struct(">IHxx56s")
_ROOM = 64 << 10


class FwCfg(Registers):
    """The registers; all but the first are big-endian."""

    data = Register(0x00, 8, access="r")
    selector = Register(0x08, 16, access="w")
    dma = Register(0x10, 64, access="w")


class Store(Driver):
    """The blobs: ``store.names()`` and ``store["opt/piton/script"]``."""

    compatible = ("qemu,fw-cfg-mmio",)
    registers = FwCfg

    def start(self) -> None:
        """See that it is there, and read what there is."""
        self.memory = self.device.dma(_REQUEST.size + _ROOM)
        if self._read(_SIGNATURE, 4) != b"QEMU":
            raise DeviceError(self.device.path, "it is no fw_cfg")
        (count,) = struct.unpack(">I", self._read(_DIRECTORY, 4))
        listing = self._read(_DIRECTORY, 4 + count * _ENTRY.size)[4:]
        self._files = {
            name.rstrip(b"\0").decode(errors="replace"): (selector, size)
            for size, selector, name in _ENTRY.iter_unpack(listing)
        }

    def stop(self) -> None:
        """Nothing goes on between two reads, so the memory is free."""
        self.memory.close()

    def names(self) -> list[str]:
        """Return the names of all blobs."""
        return sorted(self._files)

    def __getitem__(self, name: str) -> bytes:
        if name not in self._files:
            raise DeviceError(self.device.path, f"there is no blob {name!r}")
        return self._read(*self._files[name])

    def _read(self, selector: int, size: int) -> bytes:
        parts, control = [], selector << 16 | _SELECT | _READ
        while size > 0:
            part = min(size, _ROOM)
            with self.memory.view as view:
                _REQUEST.pack_into(view, 0, control, part, self.memory.address + _REQUEST.size)
            address = self.memory.address
            self.device.regs.dma = int.from_bytes(address.to_bytes(8, "big"), "little")
            # The device writes 0 when it is done; QEMU does before the write has ended.
            while status := self.memory.load(0, 32):
                if status & int.from_bytes(_ERROR.to_bytes(4, "big"), "little"):
                    raise DeviceError(self.device.path, f"item {selector:#x} cannot be read")
            with self.memory.view as view:
                parts.append(bytes(view[_REQUEST.size : _REQUEST.size + part]))
            size, control = size - part, _READ
        return b"".join(parts)


DRIVER = Store
