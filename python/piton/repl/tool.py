"""A terminal that one of MicroPython's tools is at: raw REPL, and a prompt without colours that it can recognise.

The serial console and the sessions of tools have the editor, and a tool takes it over: with Ctrl-A on an empty line,
which begins the raw REPL, or with Ctrl-C twice in a row, as Thonny does to find a prompt. What follows then is ``>>> ``
and nothing more, as MicroPython writes it; the first key that no tool begins with brings the editor back.
"""

import termios

from piton.repl import raw
from piton.repl.keyboard import Keyboard, TextInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

#: Bytes that a sender may be ahead: a serial port has no more room than its terminal.
WINDOW = 512
PROMPT = ">>> "
_CTRL_A, _CTRL_B, _CTRL_C, _CTRL_D, _NEWLINE, _RETURN = 1, 2, 3, 4, 10, 13
_INPUT, _OUTPUT, _LOCAL = 0, 1, 3


def make_raw(modes: list) -> None:
    """Change the modes of a terminal so that every byte comes and goes as it is."""
    modes[_INPUT] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.ISTRIP | termios.BRKINT)
    modes[_OUTPUT] &= ~termios.OPOST
    modes[_LOCAL] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN | termios.ISIG)


class Tool:
    """Holds the terminal of *session* for a tool."""

    def __init__(self, session: "Session", window: int = WINDOW, typed: bytes = b"", modes: list | None = None):
        """Take the terminal of *session*, in whose input *typed* comes first.

        *modes* are those that the terminal gets in the end; None are those that it has now.
        """
        self._session = session
        self._window = window
        self._descriptor = session.input_descriptor
        self._keyboard = Keyboard(self._descriptor)
        self._keyboard.put_back(typed)
        self._modes = modes or termios.tcgetattr(self._descriptor)
        self._output = session.system["stdout"]

    def serve(self, in_raw: bool) -> bytes | None:
        """Serve until a key comes for the editor and answer what was typed then; None at the end of the input.

        *in_raw* says whether the tool asked for the raw REPL.
        """
        session = self._session
        stdin, read_line = session.system["stdin"], session.read_line
        session.system["stdin"], session.read_line = TextInput(self._keyboard), None
        try:
            self._take_over()
            return self._serve(in_raw)
        finally:
            session.system["stdin"], session.read_line = stdin, read_line
            self._output.reconfigure(newline="\n")
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._modes)

    def _take_over(self) -> None:
        """Have every byte come and go as it is."""
        modes = termios.tcgetattr(self._descriptor)
        make_raw(modes)
        self._quiet = modes
        self._signals = modes.copy()
        self._signals[_LOCAL] |= termios.ISIG
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, modes)
        self._output.reconfigure(newline="\r\n")

    def _call(self, function, *arguments):
        """Run code of the user, which Ctrl-C interrupts; otherwise it is a key of the protocol."""
        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._signals)
            return self._session.call(function, *arguments)
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._quiet)

    def _serve(self, in_raw: bool) -> bytes | None:
        if in_raw:
            self._raw()
        else:
            self._say(f"\n{PROMPT}")
        while True:
            try:
                key = self._keyboard.get()
                if key is None:
                    return None
                if key == _CTRL_A:
                    self._raw()
                elif key == _CTRL_B:
                    self._say(f"\n{raw.banner()}{PROMPT}")
                elif key == _CTRL_D:
                    self._reset()
                    self._say(f"{raw.banner()}{PROMPT}")
                elif key in (_CTRL_C, _NEWLINE, _RETURN):
                    self._session.keys_seen = self._session.keys_sent
                    self._say(f"\n{PROMPT}")
                else:
                    # The editor writes its own prompt over this one.
                    self._say("\r")
                    return bytes((key,)) + self._keyboard.waiting()
            except KeyboardInterrupt:
                self._say(f"\n{PROMPT}")

    def _raw(self) -> None:
        raw.Raw(self._session, self._keyboard, self._output, self._reset, self._window, self._call).serve()
        self._say(f"\n{raw.banner()}{PROMPT}")

    def _reset(self) -> None:
        self._session.reset()
        self._say("MPY: soft reboot\n")

    def _say(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
