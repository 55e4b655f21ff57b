"""virtio-console: one port that bytes go through both ways (VIRTIO 1.2, 5.3)."""

import queue

from piton.drivers.virtio import Queue, Virtio
from piton.hardware.errors import DeviceError

_ROOM = 1024
_SECONDS = 10


class Console(Virtio):
    """The port: ``console.write(b"text")``, ``console.read(timeout)``."""

    kind = 3

    def set_up(self) -> None:
        """There is a queue that the device writes into, and one that it reads."""
        self.queues = [Queue(self, 0, _ROOM, device_writes=True), Queue(self, 1, _ROOM, device_writes=False)]
        self._input: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()

    def go(self) -> None:
        """Let the device write, and hear of it."""
        incoming, outgoing = self.queues
        for _ in list(incoming.free):
            incoming.post()
        for _ in outgoing.free:
            self._room.put(None)
        self.device.irq.subscribe(self._interrupted)

    def _interrupted(self, count: int) -> None:
        self.acknowledge()
        incoming, outgoing = self.queues
        for data in incoming.done():
            self._input.put(data)
            incoming.post()
        for _ in outgoing.done():
            self._room.put(None)

    def write(self, data: bytes) -> None:
        """Send bytes; wait while the device is behind."""
        for start in range(0, len(data), _ROOM):
            try:
                self._room.get(timeout=_SECONDS)
            except queue.Empty:
                raise DeviceError(self.device.path, f"nothing was taken in {_SECONDS} seconds") from None
            self.queues[1].post(data[start : start + _ROOM])

    def read(self, timeout: float | None = None) -> bytes:
        """Return what came, as it came; ``b""`` when nothing did in *timeout* seconds."""
        try:
            return self._input.get(timeout=timeout)
        except queue.Empty:
            return b""


DRIVER = Console
