"""``piton.claim``: a device in the hands of Python; ``piton.unbind`` and ``piton.bind`` for the kernel's drivers."""

import contextlib
import errno
import fcntl
import mmap
import os
from typing import TypeVar

from piton.hardware.devices import Device, devices
from piton.hardware.dma import Mapping, Memory
from piton.hardware.errors import DeviceBusy, DeviceClosed, DeviceError
from piton.hardware.interrupt import Interrupt
from piton.hardware.registers import Registers
from piton.hardware.tree import Node
from piton.system import write_control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# kernel/src/device/claim.rs.
_FOLDER = "/dev/piton"
_INTERRUPT = 0xB500
_REGION = 36

AnyRegisters = TypeVar("AnyRegisters", bound=Registers)


def _device(named: "str | Device | Node") -> Device:
    return devices[named if isinstance(named, str) else named.path]


def _holder(device: Device) -> str:
    """Say who has the device, or registers in the same place."""
    for other in devices:
        meets = any(
            own.start < range.start + range.size and range.start < own.start + own.size
            for own in device.registers
            for range in other.registers
        )
        if other.path == device.path or meets:
            which = "" if other.path == device.path else f" as {other.path}"
            if other.state == "bound":
                return f"the kernel's driver {other.driver}{which}"
            if other.state == "claimed":
                return f"{other.why}{which}"
    return "somebody"


class Descriptor:
    """The descriptor of a claimed device: closing it gives the device back."""

    def __init__(self, device: Device) -> None:
        self.fd = -1
        self.path = device.path
        try:
            self.fd = os.open(f"{_FOLDER}/{device.path[1:].replace('/', '!')}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DeviceError(device.path, "it has neither registers nor interrupts") from None
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise DeviceBusy(device.path, _holder(device)) from None
            rules = {
                errno.EPERM: "CAP_SYS_RAWIO is needed to claim it",
                errno.EACCES: "its file may not be opened",
                errno.ENODEV: "the device tree says that it is not to be used",
                errno.EINVAL: "its registers are memory",
            }
            raise DeviceError(device.path, rules.get(error.errno, error.strerror)) from None

    def fileno(self) -> int:
        """Return the descriptor."""
        if self.fd < 0:
            raise DeviceClosed(self.path)
        return self.fd

    def close(self) -> None:
        """Give the device back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close


class Claim:
    """A claimed device: ``regs``, ``irq`` and ``dma``. Ends with :meth:`close`, ``with``, or when nobody has it."""

    def __init__(self, device: Device, kind: type[Registers]) -> None:
        self.path = device.path
        self.node = device.node
        self._ranges = device.registers
        self._kind = kind
        self._descriptor = Descriptor(device)
        self._regions: dict[int, Registers] = {}
        self._interrupts: dict[int, Interrupt] = {}
        self._memory: list[Memory] = []
        # A line has to be set up before its device uses it: an edge that comes earlier is lost.
        for index in range(len(device.interrupts)):
            with contextlib.suppress(DeviceError):
                self.interrupt(index)

    @property
    def regs(self) -> Registers:
        """The registers; the first where there are several."""
        return self.region(0)

    def region(self, index: int, kind: "type[AnyRegisters] | None" = None) -> "AnyRegisters":
        """Return the registers of the device's range number *index*."""
        self._descriptor.fileno()
        if not 0 <= index < len(self._ranges):
            raise DeviceError(self.path, f"it has {len(self._ranges)} ranges of registers, none is number {index}")
        kind = kind or self._kind
        if type(self._regions.get(index)) is not kind:
            start, size = self._ranges[index].start % mmap.PAGESIZE, self._ranges[index].size
            mapping = Mapping(self._descriptor.fileno(), start + size, offset=index << _REGION, trackfd=False)
            mapping.owner = self._descriptor
            self._regions[index] = kind(self.path, mapping, start, size)
        return self._regions[index]

    @property
    def irq(self) -> Interrupt:
        """The interrupt; the first where there are several."""
        return self.interrupt(0)

    def interrupt(self, index: int) -> Interrupt:
        """Return the device's interrupt number *index*."""
        if index not in self._interrupts:
            try:
                fd = fcntl.ioctl(self._descriptor.fileno(), _INTERRUPT, index) if index >= 0 else -1
            except OSError as error:
                rules = {
                    errno.EBUSY: f"somebody has its interrupt {index}",
                    errno.EINVAL: f"it has no interrupt {index}",
                    errno.ENODEV: f"the controller of its interrupt {index} has no driver",
                    errno.EOPNOTSUPP: f"each CPU has its own interrupt {index}",
                }
                raise DeviceError(self.path, rules.get(error.errno, error.strerror)) from None
            if fd < 0:
                raise DeviceError(self.path, f"it has no interrupt {index}")
            self._interrupts[index] = Interrupt(self.path, fd, self._descriptor)
        return self._interrupts[index]

    def dma(self, size: int) -> Memory:
        """Return *size* bytes of memory for the device."""
        memory = Memory(self.path, self._descriptor, size)
        self._memory.append(memory)
        return memory

    @property
    def closed(self) -> bool:
        """Whether the device was given back."""
        return self._descriptor.fd < 0

    def close(self) -> None:
        """Give the device back.

        :raises DeviceError: somebody has a view of its DMA memory; the device is not given back then.
        """
        for memory in self._memory:
            memory._unmap()
        for interrupt in self._interrupts.values():
            interrupt.close()
        for region in self._regions.values():
            region._memory.close()
        self._descriptor.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<claim of {self.path}{', closed' if self.closed else ''}>"


def claim(device: "str | Device | Node", registers: type[Registers] = Registers, *, unbind: bool = False) -> Claim:
    """Take a device that no driver has: by name as in ``piton.devices``, or a device or node itself.

    *registers* names its registers. With *unbind* the kernel's driver is made to let go of it first.

    :raises DeviceBusy: a driver, or somebody, has it or registers in the same place.
    :raises DeviceError: it cannot be claimed, or there is no such device.
    """
    device = _device(device)
    if unbind and device.state == "bound":
        _unbind(device)
    return Claim(device, registers)


def unbind(device: "str | Device | Node") -> None:
    """Have the kernel's driver let go of a device.

    :raises DeviceError: the driver cannot, or there is none.
    """
    device = _device(device)
    rules = {errno.EOPNOTSUPP: f"the kernel's driver {device.driver} cannot let go", errno.EINVAL: "no driver has it"}
    _control("unbind", device, rules)


def bind(device: "str | Device | Node") -> None:
    """Give a device to the kernel's driver for it.

    :raises DeviceBusy: somebody has it.
    :raises DeviceError: there is no driver, or it could not bring the device up.
    """
    device = _device(device)
    rules = {errno.EINVAL: "there is no driver for it", errno.EIO: "the kernel's driver could not bring it up"}
    _control("bind", device, rules)


#: For `claim`, which has a parameter of that name.
_unbind = unbind


def _control(name: str, device: Device, rules: dict[int, str]) -> None:
    try:
        write_control(name, device.path)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceBusy(device.path, _holder(device)) from None
        rules = {errno.EPERM: "CAP_SYS_RAWIO is needed"} | rules
        raise DeviceError(device.path, rules.get(error.errno, error.strerror)) from None
