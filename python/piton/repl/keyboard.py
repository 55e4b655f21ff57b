"""The input of a session without a terminal: keys one by one, lines, and ``sys.stdin``, all from one buffer."""

import io

#: The longest line, in bytes; what goes beyond is dropped and the line refused.
LONGEST_LINE = 1 << 20
_PIECE = 4096


class Keyboard:
    """Reads a descriptor byte by byte, through a buffer that can be looked into."""

    def __init__(self, descriptor: int):
        """Read *descriptor*, which stays open."""
        self.descriptor = descriptor
        self._file = io.FileIO(descriptor, closefd=False)
        self._waiting = bytearray()
        self._ended = False

    def _fill(self) -> bool:
        """Wait for more; False at the end."""
        if not self._ended:
            piece = self._file.read(_PIECE) or b""
            self._waiting += piece
            self._ended = not piece
        return not self._ended

    def get(self) -> int | None:
        """Answer the next byte, None at the end."""
        if not self._waiting and not self._fill():
            return None
        byte = self._waiting[0]
        del self._waiting[:1]
        return byte

    def take(self, most: int) -> bytes:
        """Answer at least one and at most *most* bytes; none at the end."""
        if most <= 0 or not self._waiting and not self._fill():
            return b""
        piece = bytes(self._waiting[:most])
        del self._waiting[:most]
        return piece

    def take_until(self, stops: bytes, most: int) -> bytes:
        """Answer bytes up to and with the first of *stops*, or *most* or all that there are without one."""
        searched = 0
        while True:
            ends = [at for stop in stops if (at := self._waiting.find(stop, searched, most)) >= 0]
            if ends:
                return self.take(min(ends) + 1)
            searched = len(self._waiting)
            if searched >= most or not self._fill():
                return self.take(most)

    def has_some(self) -> bool:
        """Whether something has been read from the descriptor and was not asked for."""
        return bool(self._waiting)

    def drop_if_next(self, byte: int) -> None:
        """Take *byte* out if it is next and has come already."""
        if self._waiting and self._waiting[0] == byte:
            del self._waiting[:1]

    def put_back(self, data: bytes) -> None:
        """Make *data* the next to be read."""
        self._waiting[:0] = data

    def waiting(self) -> bytes:
        """Take out what has come and was not read."""
        piece = bytes(self._waiting)
        self._waiting.clear()
        return piece


class TextInput(io.TextIOBase):
    """``sys.stdin`` on a keyboard. It never reads ahead, so that the prompt gets what the program leaves."""

    def __init__(self, keyboard: Keyboard):
        self.keyboard = keyboard
        self.buffer = _Bytes(keyboard)
        self._after_return = False

    encoding = "utf-8"
    errors = "surrogateescape"
    newlines = None

    def readable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        if self.keyboard.descriptor == 0:
            # `input()` would read descriptor 0 itself.
            raise io.UnsupportedOperation("fileno")
        return self.keyboard.descriptor

    def readline(self, size=-1, /):
        limit = LONGEST_LINE if size is None or size < 0 else min(size, LONGEST_LINE)
        line = self._line(limit)
        return line.decode(self.encoding, self.errors)

    def _line(self, limit: int) -> bytes:
        line = self.keyboard.take_until(b"\r\n", limit)
        if self._after_return and line[:1] == b"\n":
            line = self.keyboard.take_until(b"\r\n", limit)
        self._after_return = line.endswith(b"\r")
        return line[:-1] + b"\n" if self._after_return else line

    def read(self, size=-1, /):
        if size is None or size < 0:
            return "".join(iter(self.readline, ""))
        text = ""
        piece = b""
        while len(text) < size and (byte := self.keyboard.get()) is not None:
            piece += bytes((byte,))
            try:
                text += piece.decode(self.encoding)
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data" and len(piece) < 4:
                    continue
                text += piece.decode(self.encoding, self.errors)
            piece = b""
        return text + piece.decode(self.encoding, self.errors)


class _Bytes(io.BufferedIOBase):
    """``sys.stdin.buffer`` on a keyboard."""

    def __init__(self, keyboard: Keyboard):
        self._keyboard = keyboard

    def readable(self):
        return True

    def fileno(self):
        return self._keyboard.descriptor

    def read1(self, size=-1, /):
        return self._keyboard.take(_PIECE if size < 0 else size)

    def read(self, size=-1, /):
        pieces = []
        left = size if size is not None and size >= 0 else None
        while left != 0 and (piece := self._keyboard.take(_PIECE if left is None else left)):
            pieces.append(piece)
            left = None if left is None else left - len(piece)
        return b"".join(pieces)

    def readinto(self, buffer, /):
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
