"""Memory that a device reads and writes by itself."""

import fcntl
import mmap
import struct

import _piton

from piton.hardware.errors import DeviceClosed, DeviceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.hardware.claim import Descriptor

# kernel/src/device/claim.rs.
_ALLOC, _FREE = 0xC018B501, 0x4008B502
_REQUEST, _OFFSET = struct.Struct("=QQQ"), struct.Struct("=Q")
_MOST = 4 << 20


class Mapping(mmap.mmap):
    """A mapping of a device. It keeps the device claimed as long as somebody has a view of it."""

    #: What closes the device's descriptor when it goes.
    owner: object = None


class Memory:
    """Contiguous, zeroed memory. ``address`` is what the device must be told; ``view`` is the bytes.

    After :meth:`close` the memory is the system's again: the device must have stopped using it. Memory that goes with
    its device, without that, stays the device's until somebody claims it again.
    """

    def __init__(self, device: str, descriptor: "Descriptor", size: int) -> None:
        if not isinstance(size, int) or not 0 < size <= _MOST:
            raise DeviceError(device, f"DMA memory is 1 to {_MOST} bytes, not {size!r}")
        request = bytearray(_REQUEST.pack(size, 0, 0))
        try:
            fcntl.ioctl(descriptor.fileno(), _ALLOC, request)
        except OSError as error:
            raise DeviceError(device, f"no DMA memory of {size} bytes: {error.strerror}") from None
        _, self._offset, self.address = _REQUEST.unpack(request)
        self.device = device
        self.size = size
        self._descriptor = descriptor
        self._mapping = Mapping(descriptor.fileno(), size, offset=self._offset, trackfd=False)
        self._mapping.owner = descriptor

    @property
    def view(self) -> memoryview:
        """The bytes. While a view is alive the memory cannot be closed."""
        if self._mapping.closed:
            raise DeviceClosed(self.device)
        return memoryview(self._mapping)

    def load(self, offset: int, width: int) -> int:
        """Read *width* bits at *offset* in one access, ordered before what is accessed after it."""
        self._check()
        return _piton.load(self._mapping, offset, width)

    def store(self, offset: int, width: int, value: int) -> None:
        """Write *width* bits at *offset* in one access, ordered after what was accessed before it."""
        self._check()
        _piton.store(self._mapping, offset, width, value)

    def _check(self) -> None:
        if self._mapping.closed:
            raise DeviceClosed(self.device)

    def _unmap(self) -> None:
        try:
            self._mapping.close()
        except BufferError:
            raise DeviceError(self.device, "a view of its DMA memory is still in use: release it first") from None

    def close(self) -> None:
        """Give the memory back to the system. The device does not use it any more.

        :raises DeviceError: somebody has a view of it.
        """
        if not self._mapping.closed:
            self._unmap()
            fcntl.ioctl(self._descriptor.fileno(), _FREE, _OFFSET.pack(self._offset))

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<{self.size} bytes at {self.address:#x} for {self.device}>"
