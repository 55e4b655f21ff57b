"""The session of a client without a terminal: lines come in, answers go out, nothing is echoed.

That is ``nc``. The control keys are those of MicroPython's prompt, so that its tools find what they look for: Ctrl-A
begins the raw REPL (``raw``), Ctrl-C drops what was typed, Ctrl-D begins anew with an empty namespace, Ctrl-E takes a
block up to the next Ctrl-D.
"""

import sys

from piton import repl
from piton.repl import raw
from piton.repl.evaluate import Console
from piton.repl.keyboard import LONGEST_LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.keyboard import Keyboard
    from piton.repl.session import Session

CTRL_A, CTRL_B, CTRL_C, CTRL_D, CTRL_E = 1, 2, 3, 4, 5
_STOPS = bytes((CTRL_A, CTRL_B, CTRL_C, CTRL_D, CTRL_E)) + b"\r\n"
#: The longest block of several lines, in characters.
LONGEST_BLOCK = 4 << 20


def serve(session: "Session") -> bool:
    """Run the session. False when it has ended, True when its client turned out to be a tool that wants the raw REPL.

    The server has written the banner and the first prompt.
    """
    return Lines(session).run()


class Lines:
    """A prompt for lines."""

    def __init__(self, session: "Session"):
        self.session = session
        self.keyboard: Keyboard = session.system["stdin"].keyboard
        self.output = session.system["stdout"]
        self.console = Console(session.namespace, "<stdin>")
        self._after_return = False

    def run(self) -> bool:
        """Read and run until the end of the input, or Ctrl-A."""
        more = False
        while True:
            try:
                line = self._read(more)
                if line is None:
                    return False
                if line == CTRL_A:
                    return True
                if isinstance(line, int):
                    more = False
                    self._key(line)
                else:
                    more = self._push(line)
            except KeyboardInterrupt:
                self.console.resetbuffer()
                more = False
                self._say("\nKeyboardInterrupt\n")
            self._prompt(more)

    def _read(self, more: bool) -> str | int | None:
        """Answer a line, or a control key at the beginning of one; None at the end of the input."""
        typed = b""
        while True:
            piece = self.keyboard.take_until(_STOPS, LONGEST_LINE - len(typed))
            if self._after_return and piece[:1] == b"\n" and not typed:
                self._after_return = False
                continue
            stop = piece[-1] if piece and piece[-1] in _STOPS else None
            self._after_return = stop == 13
            if stop == CTRL_C:
                self.session.keys_seen += 1
                return CTRL_C
            typed += piece if stop is None else piece[:-1]
            if stop in (10, 13):
                return typed.decode("utf-8", "surrogateescape")
            if stop is None:
                if not piece:
                    return typed.decode("utf-8", "surrogateescape") if typed else None
                if len(typed) >= LONGEST_LINE:
                    self._refuse()
                    typed = b""
            elif not typed and not (more and stop == CTRL_E):
                return stop

    def _refuse(self) -> None:
        """Drop the rest of a line that is too long."""
        repl.refuse("lines that are too long")
        while (piece := self.keyboard.take_until(_STOPS, LONGEST_LINE)) and piece[-1] not in _STOPS:
            pass
        self._say(f"a line has at most {LONGEST_LINE} bytes\n")
        self.console.resetbuffer()

    def _push(self, line: str) -> bool:
        """Run a line; True when it is the beginning of a block."""
        if sum(map(len, self.console.buffer)) + len(line) > LONGEST_BLOCK:
            self.console.resetbuffer()
            repl.refuse("blocks that are too long")
            self._say(f"a block has at most {LONGEST_BLOCK} characters\n")
            return False
        return self.session.call(self.console.push, line)

    def _key(self, key: int) -> None:
        self.console.resetbuffer()
        if key == CTRL_C:
            self._say("\nKeyboardInterrupt\n")
        elif key == CTRL_D:
            self._reset()
        elif key == CTRL_E:
            self._paste()
        else:
            self._say(f"\n{raw.banner()}")

    def _reset(self) -> None:
        """Begin anew: MicroPython's soft reset."""
        self.session.reset()
        self.console = Console(self.session.namespace, "<stdin>")
        self._say("MPY: soft reboot\n")

    def _paste(self) -> None:
        """Take a block up to Ctrl-D and run it."""
        self._say("\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\n=== ")
        source = b""
        while True:
            piece = self.keyboard.take_until(bytes((CTRL_C, CTRL_D)) + b"\r\n", LONGEST_LINE)
            stop = piece[-1:]
            if stop == b"\x03":
                self.session.keys_seen += 1
                raise KeyboardInterrupt
            if not piece or stop == b"\x04" or len(source) > LONGEST_BLOCK:
                source += piece.rstrip(b"\x04")
                break
            source += piece
            # MicroPython echoes what is pasted, and its tools wait for it.
            self._say(piece.decode("utf-8", "replace").replace("\r", "") + ("\n=== " if stop == b"\r" else ""))
        self._say("\n")
        text = source.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
        self.session.call(self.console.runsource, text, "<stdin>", "exec")

    def _prompt(self, more: bool) -> None:
        self._say(str(getattr(sys, "ps2", "... ") if more else getattr(sys, "ps1", ">>> ")))

    def _say(self, text: str) -> None:
        """Write to the client, behind all that the session's code wrote."""
        for stream in (self.session.system["stdout"], self.session.system["stderr"]):
            try:
                stream.flush()
            except (AttributeError, ValueError):
                pass  # The user replaced or closed it.
        self.output.write(text)
        self.output.flush()
