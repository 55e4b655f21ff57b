"""A device's interrupt: to wait for, to be called by, to await.

It is masked from when it fires until somebody waits again, so a device has time to be made quiet; what comes meanwhile
is not lost. Underneath is a descriptor as Linux's UIO has it: it reads as the number of interrupts so far.
"""

import contextlib
import errno
import os
import select
import struct
import sys
import threading
from collections.abc import Callable, Generator

from piton.hardware.errors import DeviceClosed

_COUNT = struct.Struct("=I")
_UNMASK, _MASK = _COUNT.pack(1), _COUNT.pack(0)


class Interrupt:
    """One interrupt of a claimed device. ``count`` says how often it has come."""

    def __init__(self, device: str, fd: int, owner: object) -> None:
        self.device = device
        #: Keeps the device claimed.
        self._owner = owner
        self.count = 0
        self._fd = fd
        self._armed = False
        self._subscription: Subscription | None = None
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """Return the descriptor."""
        if self._fd < 0:
            raise DeviceClosed(self.device)
        return self._fd

    def unmask(self) -> None:
        """Let the interrupt come; whoever waits does that first."""
        if not self._armed:
            os.write(self.fileno(), _UNMASK)
            self._armed = True

    def mask(self) -> None:
        """Keep the interrupt from coming."""
        os.write(self.fileno(), _MASK)
        self._armed = False

    def _take(self) -> int:
        """Return how many have come since the last time; 0 for none."""
        try:
            total = _COUNT.unpack(os.read(self.fileno(), _COUNT.size))[0]
        except BlockingIOError:
            return 0
        self._armed = False
        new = (total - self.count) % (1 << 32)
        self.count = total
        return new

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the interrupt; return how many came since the last time, 0 when *timeout* seconds have passed."""
        self.unmask()
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.poll(None if timeout is None else max(0, timeout * 1000))
        return self._take()

    def __await__(self) -> "Generator[object, None, int]":
        return self._next().__await__()

    async def _next(self) -> int:
        import asyncio

        loop, fd = asyncio.get_running_loop(), self.fileno()
        while True:
            self.unmask()
            came = loop.create_future()
            loop.add_reader(fd, lambda: came.done() or came.set_result(None))
            try:
                await came
            finally:
                loop.remove_reader(fd)
            if new := self._take():
                return new

    def subscribe(self, callback: "Callable[[int], object]") -> "Subscription":
        """Have *callback* called with the number of new interrupts, in a thread of its own, until it is cancelled.

        Where it raises an exception, that is shown, the interrupt stays masked, and the calls end.
        """
        self.fileno()
        if self._subscription is not None:
            self._subscription.cancel()
        self._subscription = Subscription(self, callback)
        return self._subscription

    def close(self) -> None:
        """Give the descriptor back."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._owner = -1, None

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"<interrupt of {self.device}, {self.count} so far{', closed' if self._fd < 0 else ''}>"


class Subscription:
    """A thread that calls back for each interrupt."""

    def __init__(self, interrupt: Interrupt, callback: "Callable[[int], object]") -> None:
        self._interrupt = interrupt
        self._callback = callback
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name=f"irq {interrupt.device}", daemon=True)
        self._thread.start()

    @property
    def active(self) -> bool:
        """Whether there will be more calls."""
        return self._thread.is_alive()

    def cancel(self) -> None:
        """End the calls. One that runs is waited for, unless this is it."""
        os.eventfd_write(self._stop, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._interrupt.fileno(), select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        try:
            while True:
                self._interrupt.unmask()
                if any(fd == self._stop for fd, _ in poll.poll()):
                    break
                if new := self._interrupt._take():
                    self._callback(new)
        except (DeviceClosed, OSError) as error:
            if getattr(error, "errno", errno.ENODEV) != errno.ENODEV:
                raise
        except Exception:
            print(f"{self._interrupt.device}: its interrupt's callback failed, and will not be called:", file=sys.stderr)
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(DeviceClosed, OSError):
                self._interrupt.mask()

    def __del__(self) -> None:
        os.close(self._stop)
