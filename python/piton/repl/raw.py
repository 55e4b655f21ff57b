"""MicroPython's raw REPL: source comes in as it is, output and errors go out apart, nothing is echoed.

The protocol is in MicroPython's manual ("The raw REPL", "Raw-paste mode"). ``>`` asks for source; Ctrl-D ends it and is
answered by ``OK``, the output, Ctrl-D, the traceback of an error, Ctrl-D. Ctrl-E A Ctrl-A before the source begins
raw-paste mode, in which the sender may be ahead of us by a window of bytes that we extend with Ctrl-A. Ctrl-C drops
what came, Ctrl-B leaves, no source at all begins anew with an empty namespace. ``mpremote`` and Thonny speak it.
"""

import errno
import sys
import traceback

from piton import repl
from piton.repl.evaluate import without_checkpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper

    from piton.repl.keyboard import Keyboard
    from piton.repl.session import Session

FIRST_PROMPT = "raw REPL; CTRL-B to exit\n>"
#: The longest source, in bytes.
LONGEST_SOURCE = 4 << 20
#: Bytes that a sender in raw-paste mode may be ahead, half at once.
WINDOW = 16384
CTRL_A, CTRL_B, CTRL_C, CTRL_D, CTRL_E = (bytes((key,)) for key in (1, 2, 3, 4, 5))
_ENDS = CTRL_A + CTRL_B + CTRL_C + CTRL_D


def banner() -> str:
    """Answer what stands above the first prompt."""
    return (
        f"Python {sys.version} on Piton\n"
        'Type "help", "copyright", "credits" or "license" for more information; "piton" is the machine.\n'
    )


class Raw:
    """The raw REPL of one session."""

    def __init__(
        self,
        session: "Session",
        keyboard: "Keyboard",
        output: "TextIOWrapper",
        reset: "Callable[[], None]",
        window: int = WINDOW,
        call: "Callable | None" = None,
    ):
        """Serve what *keyboard* brings and write to *output*.

        *reset* makes the namespace empty and says so, *call* runs code of the user in place of the session's method.
        """
        self._session = session
        self._keyboard = keyboard
        self._output = output
        self._reset = reset
        self._window = window
        self._call = call or session.call

    def serve(self) -> None:
        """Run until Ctrl-B or the end of the input."""
        from piton.repl import micropython

        micropython.offer()
        self._output.reconfigure(newline="\r\n")
        self._say(FIRST_PROMPT)
        while True:
            try:
                source, end = self._read()
                if end == CTRL_B or not end:
                    return
                if end == CTRL_A:
                    if source == CTRL_E + b"A":
                        self._paste()
                        self._say(">")
                    elif source[:1] == CTRL_E and len(source) == 2:
                        # A mode that we do not know.
                        repl.refuse("modes of the raw REPL")
                        self._say("R\0")
                    else:
                        self._say(FIRST_PROMPT)
                elif end == CTRL_D and not source:
                    self._say("OK\n")
                    self._reset()
                    self._say(FIRST_PROMPT)
                elif end == CTRL_D:
                    self._say("OK")
                    self._run(source)
                    self._say(">")
            except KeyboardInterrupt:
                # Between two sources: as if it had come in one.
                continue

    def _read(self) -> tuple[bytes, bytes]:
        """Answer the source and the key that ended it."""
        source = b""
        while True:
            piece = self._keyboard.take_until(_ENDS, LONGEST_SOURCE)
            end = piece[-1:]
            if not piece or end not in (CTRL_A, CTRL_B, CTRL_C, CTRL_D):
                if not piece:
                    return b"", b""
                source = (source + piece)[: LONGEST_SOURCE + 1]
            elif end == CTRL_C:
                self._saw_interrupt()
                source = b""
            else:
                return source + piece[:-1], end

    def _saw_interrupt(self) -> None:
        """Count a Ctrl-C among the keys, if the server has counted it: what goes through a terminal it does not."""
        session = self._session
        session.keys_seen = min(session.keys_seen + 1, session.keys_sent)

    def _paste(self) -> None:
        """Read source in raw-paste mode and run it."""
        half = self._window // 2
        self._send(b"R\1" + half.to_bytes(2, "little"))
        source, left = bytearray(), half
        interrupted = False
        while True:
            piece = self._keyboard.take(left)
            if not piece:
                return
            data, end, rest = _split(piece, CTRL_C + CTRL_D)
            self._keyboard.put_back(rest)
            if end == CTRL_C:
                self._saw_interrupt()
                interrupted = True
            if len(source) <= LONGEST_SOURCE:
                source += data
            if end == CTRL_D:
                break
            left -= len(data)
            # Half of the window is kept back until the first bytes come: a TCP that sends its last bytes only when
            # those before are acknowledged (Nagle's algorithm) gets that with this byte, and not with every source from
            # a delayed acknowledgement some 40 ms later.
            while left + half <= self._window:
                left += half
                self._send(CTRL_A)
        self._send(CTRL_D)
        self._run(bytes(source), interrupted)

    def _run(self, source: bytes, interrupted: bool = False) -> None:
        """Run source and tell how it ended."""
        failure = ""
        try:
            if interrupted:
                raise KeyboardInterrupt
            if len(source) > LONGEST_SOURCE:
                repl.refuse("sources that are too long")
                raise MemoryError(f"source has at most {LONGEST_SOURCE} bytes")
            code = compile(source, "<stdin>", "exec")
            self._call(exec, code, self._session.namespace)
        except SystemExit as end:
            if self._session.hung_up:
                raise
            if end.code not in (None, 0):
                failure = f"SystemExit: {end.code}\n"
        except BaseException as error:
            failure = describe(error)
        self._flush()
        self._say("\4")
        self._say(failure + "\4")

    def _flush(self) -> None:
        for stream in (self._session.system["stdout"], self._session.system["stderr"]):
            try:
                stream.flush()
            except (AttributeError, ValueError):
                pass  # The user replaced or closed it.

    def _say(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()

    def _send(self, data: bytes) -> None:
        """Write bytes that are no text."""
        self._output.flush()
        self._output.buffer.write(data)
        self._output.buffer.flush()


def _split(data: bytes, stops: bytes) -> tuple[bytes, bytes, bytes]:
    """Answer what is before the first of *stops*, that one, and what is behind it."""
    at = min((at for stop in stops if (at := data.find(stop)) >= 0), default=len(data))
    return data[:at], data[at : at + 1], data[at + 1 :]


def describe(error: BaseException) -> str:
    """Answer the traceback of *error* from the first frame of the user on.

    An error of the operating system is named as MicroPython does, OSError with errno's name: its tools look for that.
    """
    tb = without_checkpoint(error.__traceback__)
    while tb is not None and tb.tb_frame.f_code.co_filename != "<stdin>":
        tb = tb.tb_next
    lines = traceback.format_exception(type(error), error, tb)
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, "")
        where = f": {error.filename!r}" if error.filename is not None else ""
        lines[-1] = f"OSError: [Errno {error.errno}] {name}: {error.strerror}{where}\n"
    return "".join(lines)
