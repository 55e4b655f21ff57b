"""virtio-rng: bytes from an entropy source (VIRTIO 1.2, 5.4)."""

from piton.drivers.virtio import Queue, Virtio
from piton.hardware.errors import DeviceError

_ROOM = 256
_SECONDS = 10


class Entropy(Virtio):
    """The source: ``entropy.read(32)``."""

    kind = 4

    def set_up(self) -> None:
        """There is one queue, which the device writes into."""
        self.queues = [Queue(self, 0, _ROOM, device_writes=True)]

    def read(self, size: int) -> bytes:
        """Return *size* bytes, none of which was returned before."""
        found = b""
        while len(found) < size:
            self.queues[0].post()
            if not self.device.irq.wait(_SECONDS):
                raise DeviceError(self.device.path, f"nothing came in {_SECONDS} seconds")
            self.acknowledge()
            found += b"".join(self.queues[0].done())
        return found[:size]


DRIVER = Entropy
