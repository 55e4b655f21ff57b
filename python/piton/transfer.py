"""Files to and from the machine, through the raw REPL of a session: the machine's side of ``make put`` and ``make get``.

The data goes as lines of base64, because a session's bytes have meanings (Ctrl-C, Telnet), with the SHA-256 of the whole.
A file takes its name only when it is all there and right.
"""

import binascii
import hashlib
import os
import sys

#: Bytes of a line, before base64.
LINE = 12288


def receive(path: str, name: str, size: int, digest: str) -> None:
    """Take *size* bytes from the standard input into the file *path*, or *name* in it where it is a directory.

    Says ``ready`` when it can begin and ``done`` with the file's name at the end.

    :raises OSError: the file cannot be written.
    :raises ValueError: what came has not the SHA-256 *digest*.
    :raises EOFError: the input ended before.
    """
    target = os.path.join(path, name) if os.path.isdir(path) or path.endswith("/") else path
    part = f"{target}.part"
    with open(part, "wb") as file:
        try:
            print("ready")
            found = _copy(file, size)
            if found != digest:
                raise ValueError(f"what came has the SHA-256 {found}, not {digest}")
            os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            os.unlink(part)
            raise
    print("done", target)


def _copy(file, size: int) -> str:
    """Write *size* bytes of the standard input to *file* and answer their SHA-256."""
    found = hashlib.sha256()
    while size > 0:
        data = binascii.a2b_base64(sys.stdin.readline())
        if not data:
            raise EOFError("the sender has gone")
        found.update(data)
        file.write(data)
        size -= len(data)
    return found.hexdigest()


def send(path: str) -> None:
    """Write the file *path* to the standard output: ``size`` and its bytes, the lines, ``done`` and the SHA-256.

    :raises OSError: it cannot be read.
    """
    found = hashlib.sha256()
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        print("size", left)
        while left > 0 and (data := file.read(min(LINE, left))):
            found.update(data)
            left -= len(data)
            sys.stdout.write(binascii.b2a_base64(data).decode())
    print("done", found.hexdigest())
