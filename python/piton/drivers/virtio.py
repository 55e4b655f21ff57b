"""virtio over MMIO, what all its devices share (VIRTIO 1.2, 4.2; legacy devices 4.2.4): registers and queues.

A queue here has a buffer for each descriptor, and a chain is one descriptor: enough for all that moves bytes one way.
"""

import struct
from collections.abc import Iterator

from piton.drivers import Driver
from piton.hardware.devices import Device
from piton.hardware.errors import DeviceError
from piton.hardware.registers import Register, Registers

_MAGIC = 0x74726976
_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK, _FAILED = 1, 2, 4, 8, 128
_VERSION_1 = 1 << 32
_DESCRIPTOR = struct.Struct("<QIHH")
_DEVICE_WRITES = 2
_PAGE = 4096


class VirtioMmio(Registers):
    """The registers of both versions."""

    magic = Register(0x00, access="r")
    version = Register(0x04, access="r")
    kind = Register(0x08, access="r")
    device_features = Register(0x10, access="r")
    device_features_sel = Register(0x14, access="w")
    driver_features = Register(0x20, access="w")
    driver_features_sel = Register(0x24, access="w")
    page_size = Register(0x28, access="w")
    queue_sel = Register(0x30, access="w")
    queue_num_max = Register(0x34, access="r")
    queue_num = Register(0x38, access="w")
    queue_align = Register(0x3C, access="w")
    queue_pfn = Register(0x40)
    queue_ready = Register(0x44)
    queue_notify = Register(0x50, access="w")
    interrupt_status = Register(0x60, access="r")
    interrupt_ack = Register(0x64, access="w")
    status = Register(0x70)
    queue_desc = Register(0x80, access="w")
    queue_desc_high = Register(0x84, access="w")
    queue_driver = Register(0x90, access="w")
    queue_driver_high = Register(0x94, access="w")
    queue_device = Register(0xA0, access="w")
    queue_device_high = Register(0xA4, access="w")


class Queue:
    """A queue of *size* descriptors with *room* bytes each; the device writes into all of them or reads all."""

    def __init__(self, driver: "Virtio", index: int, room: int, device_writes: bool, size: int = 8) -> None:
        self._driver = driver
        self._index = index
        self._room = room
        self._flags = _DEVICE_WRITES if device_writes else 0
        self._size = size
        # Descriptors, then the ring of those that the device may have; on a page of its own the ring of those it had.
        self._available = size * _DESCRIPTOR.size
        self._rings = driver.device.dma(2 * _PAGE)
        self._buffers = driver.device.dma(size * room)
        self._posted = self._taken = 0
        self.free = list(range(size))
        self._tell_device()

    def _tell_device(self) -> None:
        regs, address = self._driver.device.regs, self._rings.address
        regs.queue_sel = self._index
        if not self._size <= regs.queue_num_max:
            raise DeviceError(self._driver.device.path, f"its queue {self._index} has no {self._size} descriptors")
        regs.queue_num = self._size
        if self._driver.is_legacy:
            regs.queue_align = _PAGE
            regs.queue_pfn = address // _PAGE
            return
        for name, at in (("desc", address), ("driver", address + self._available), ("device", address + _PAGE)):
            setattr(regs, f"queue_{name}", at & 0xFFFFFFFF)
            setattr(regs, f"queue_{name}_high", at >> 32)
        regs.queue_ready = 1

    def post(self, data: bytes = b"") -> None:
        """Give the device a free descriptor: with these bytes, or to write into.

        :raises IndexError: none is free.
        """
        descriptor = self.free.pop()
        start, length = descriptor * self._room, len(data) or self._room
        with self._buffers.view as view, self._rings.view as rings:
            view[start : start + len(data)] = data
            _DESCRIPTOR.pack_into(
                rings, descriptor * _DESCRIPTOR.size, self._buffers.address + start, length, self._flags, 0
            )
        self._rings.store(self._available + 4 + self._posted % self._size * 2, 16, descriptor)
        self._posted = (self._posted + 1) & 0xFFFF
        self._rings.store(self._available + 2, 16, self._posted)
        self._driver.device.regs.queue_notify = self._index

    def done(self) -> Iterator[bytes]:
        """Take back the descriptors that the device is done with; yield what it wrote into each."""
        while self._rings.load(_PAGE + 2, 16) != self._taken:
            entry = _PAGE + 4 + self._taken % self._size * 8
            descriptor, length = self._rings.load(entry, 32), self._rings.load(entry + 4, 32)
            # What a device says is checked as anything that comes from outside.
            if descriptor >= self._size or descriptor in self.free or length > self._room:
                raise DeviceError(self._driver.device.path, f"it answered with descriptor {descriptor}, {length} bytes")
            self._taken = (self._taken + 1) & 0xFFFF
            with self._buffers.view as view:
                data = bytes(view[descriptor * self._room : descriptor * self._room + length])
            self.free.append(descriptor)
            yield data

    def close(self) -> None:
        """Give the memory back; the device was reset."""
        self._rings.close()
        self._buffers.close()


class Virtio(Driver):
    """A driver of the kind of device that *kind* is (VIRTIO 1.2, 5); ``set_up`` makes its queues."""

    compatible = ("virtio,mmio",)
    registers = VirtioMmio
    kind = 0

    @classmethod
    def drives(cls, device: Device) -> bool:
        """Look what is in the slot, where nobody has it."""
        from piton.hardware.claim import claim

        if device.state == "claimed":
            return False
        try:
            with claim(device, VirtioMmio, unbind=True) as slot:
                return slot.regs.magic == _MAGIC and slot.regs.kind == cls.kind
        except DeviceError:
            return False

    def start(self) -> None:
        """Bring the device up (3.1.1): no feature is asked for but to be no legacy device."""
        regs = self.device.regs
        if regs.magic != _MAGIC or regs.version not in (1, 2) or regs.kind != self.kind:
            raise DeviceError(self.device.path, f"it is no virtio device of kind {self.kind}")
        self.is_legacy = regs.version == 1
        self.queues: list[Queue] = []
        regs.status = 0
        regs.status = _ACKNOWLEDGE
        regs.status = _ACKNOWLEDGE | _DRIVER
        ready = _ACKNOWLEDGE | _DRIVER
        if self.is_legacy:
            regs.driver_features_sel = 0
            regs.driver_features = 0
            regs.page_size = _PAGE
        else:
            for half in (0, 1):
                regs.driver_features_sel = half
                regs.driver_features = _VERSION_1 >> 32 * half & 0xFFFFFFFF
            ready |= _FEATURES_OK
            regs.status = ready
            if not regs.status & _FEATURES_OK:
                regs.status = _FAILED
                raise DeviceError(self.device.path, "it wants a feature that is not there")
        self.set_up()
        regs.status = ready | _DRIVER_OK
        self.go()

    def set_up(self) -> None:
        """Make the queues."""

    def go(self) -> None:
        """Begin, now that the device is up."""

    def stop(self) -> None:
        """Reset the device, which then has done with all memory."""
        self.device.regs.status = 0
        for queue in self.queues:
            queue.close()

    def acknowledge(self) -> None:
        """Make the interrupt quiet."""
        self.device.regs.interrupt_ack = self.device.regs.interrupt_status
