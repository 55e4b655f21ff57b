"""Runs what was typed in a session, and shows what went wrong in it."""

import code

from piton import shell
from piton.repl import interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Commands:
    """Takes the lines that are commands (``piton.shell``) and leaves Python the others: for one of CPython's consoles."""

    def push(self, line, *arguments, **settings):
        try:
            if not self.buffer and shell.take(line, self.locals):
                return False
        except Exception:
            # It could not be started, for want of memory or because it is too long: no reason to end the session.
            self.showtraceback()
            return False
        return super().push(line, *arguments, **settings)


class Console(Commands, code.InteractiveConsole):
    """CPython's interactive console, without the frame of our signal handler in the traceback of a Ctrl-C."""

    def _excepthook(self, typ, value, tb):
        super()._excepthook(typ, value, without_checkpoint(tb))


def without_checkpoint(traceback: "TracebackType | None") -> "TracebackType | None":
    """Answer *traceback* without the frame in which an interrupt begins."""
    last, frame = None, traceback
    while frame is not None and frame.tb_frame.f_code is not interrupt.checkpoint.__code__:
        last, frame = frame, frame.tb_next
    if frame is not None and last is not None:
        last.tb_next = None
    return traceback
