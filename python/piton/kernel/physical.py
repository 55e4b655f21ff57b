"""Physical memory (/dev/mem)."""

import errno
import os
from typing import Self


class Memory:
    """Physical memory, to be read and, if opened so, written. Close it, or use it in ``with``."""

    def __init__(self, *, writable: bool = False) -> None:
        self._file = os.open("/dev/mem", (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        self.writable = writable

    def read(self, address: int, length: int) -> bytes:
        """Return *length* bytes from *address* on.

        :raises ValueError: not all of that is memory, or *length* is negative.
        """
        _check(address, length)
        parts = []
        while length:
            part = self._move(lambda: os.pread(self._file, length, address), address)
            parts.append(part)
            address, length = address + len(part), length - len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Put *data* at *address*. The kernel and all programs live there: what this does to them is up to the caller.

        :raises PermissionError: the memory was not opened to be written.
        :raises ValueError: not all of that is memory, or it holds the kernel's code or the root image. What comes
            before that has been written.
        """
        if not self.writable:
            raise PermissionError(errno.EPERM, "opened to be read only: open_memory(writable=True)")
        view = memoryview(data).cast("B")
        _check(address, len(view))
        while view:
            done = self._move(lambda: os.pwrite(self._file, view, address), address)
            address, view = address + done, view[done:]

    def _move(self, move, address: int):
        try:
            return move()
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise ValueError(f"{address:#x} is no memory that can be had") from None
            raise

    def close(self) -> None:
        """Close it; more than once does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._file < 0 else "to be written" if self.writable else "to be read"
        return f"<physical memory, {state}>"


def _check(address: int, length: int) -> None:
    if address < 0 or length < 0 or address + length >= 1 << 63:
        raise ValueError(f"{length} bytes at {address:#x} are no range of addresses")


def open_memory(*, writable: bool = False) -> Memory:
    """Return physical memory, to be read and, if *writable*, written.

    :raises PermissionError: the caller is not root.
    """
    return Memory(writable=writable)
