"""One session: a thread that runs what its client types, with a namespace and streams of its own.

The session's side of its connection are two file descriptors that block: a pseudo-terminal, or two pipes where the
client has no terminal. The server moves the bytes at the other end. A session ends by itself (``exit()``, Ctrl-D) or is
hung up when its client has gone; what remains of it then, such as threads that its user started, writes to nowhere.

``running`` is true while code of the user runs. Only then does an interrupt come as an exception (``interrupt``); at
the prompt Ctrl-C is a key like any other. Whatever the moment, ``settle`` brings the thread to a state in which none
can come.
"""

import builtins
import contextlib
import io
import os
import sys
import threading
import time
import types

from piton import repl
from piton.repl import children, descriptors, interrupt, routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from piton.repl.interrupt import Interrupter
    from piton.repl.server import Server

#: Bytes of a stream's buffer. Python's own is 128 KiB, too much for 64 sessions on a small machine.
BUFFER = 4096
#: Bytes of a session's stack: CPython raises RecursionError where it ends. 64 with the usual 8 MiB would be too much.
STACK = 1 << 20


class Session:
    """A session. The server makes it, its own thread runs it, and the server is told when it has ended."""

    def __init__(self, number: int, descriptors: tuple[int, int], terminal: str | None, server: "Server"):
        """Prepare a session that reads and writes *descriptors*: a terminal of the name *terminal*, or pipes."""
        self.number = number
        self.terminal = terminal
        self.input_descriptor, self.output_descriptor = descriptors
        self.server = server
        #: Whether code of the user runs: an interrupt may come.
        self.running = False
        #: Whether that code must not be interrupted at the moment.
        self.is_shielded = False
        #: Whether a program that was started at the prompt has the terminal, and with it Ctrl-C.
        self.has_program = False
        #: Whether the client has gone.
        self.hung_up = False
        #: Interrupt keys that were left to the prompt because no code ran, and those that it has seen.
        self.keys_sent = self.keys_seen = 0
        #: Whether the editor of a terminal waits for keys.
        self.editing = False
        #: Whether the window changed its size since it was last looked at.
        self.resized = False
        #: Wakes the editor of a terminal that waits for a key; -1 without one.
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if terminal is not None else -1
        #: What ``input()`` reads with; None where it reads the standard input.
        self.read_line: Callable[[str], str] | None = None
        #: What shows an exception that ended a thread of this session; None where it is simply printed.
        self.report: Callable[[Any], None] | None = None
        #: What of ``sys`` is this session's own.
        self.system: dict = {}
        #: Whether its streams are closed, and the programs it started.
        self.ended = False
        self.children = children.new_set()
        #: What ``multiprocessing`` forks from in this session.
        self.forkserver: Any = None
        self.main = fresh_main()
        self.thread = threading.Thread(target=self._run, name=f"session {number}", daemon=True)

    @property
    def namespace(self) -> dict:
        """The names that the user sees."""
        return self.main.__dict__

    def reset(self) -> None:
        """Begin with an empty namespace."""
        self.main = fresh_main()

    def start(self) -> None:
        """Start the thread.

        :raises RuntimeError: there can be no more threads.
        :raises MemoryError: there is no memory for its stack.
        """
        before = threading.stack_size(STACK)
        try:
            self.thread.start()
        finally:
            threading.stack_size(before)

    def wake(self) -> None:
        """Have the editor look at what is new, besides keys."""
        if self.wakeup >= 0:
            os.eventfd_write(self.wakeup, 1)

    def call(self, function: "Callable", *arguments):
        """Run code of the user; an interrupt comes out of here as KeyboardInterrupt."""
        try:
            try:
                self.running = True
                if self.hung_up:
                    raise SystemExit
                if self.keys_seen != self.keys_sent:
                    raise KeyboardInterrupt
                return function(*arguments)
            finally:
                self.settle()
        finally:
            # Again, for an exception that came on the way into the first.
            self.settle()

    @contextlib.contextmanager
    def shielded(self) -> "Iterator[None]":
        """Let no interrupt come while code of the user does something that cannot be half done.

        One that would have come is counted in ``keys_sent``.
        """
        self.is_shielded = True
        try:
            self._let_interrupt_pass()
            yield
        finally:
            self.is_shielded = False
            self._let_interrupt_pass()

    def _let_interrupt_pass(self) -> None:
        """Wait until the server has done with an interrupt that is on its way."""
        interrupter = self.server.interrupter
        while interrupter is not None and interrupter.busy is self:
            time.sleep(interrupt.STEP)

    def settle(self) -> None:
        """Leave the user's code: when this returns, no exception is set for this thread, and none will be."""
        while True:
            try:
                self.running = False
                interrupter: Interrupter | None = self.server.interrupter
                if interrupter is None:
                    return
                self._let_interrupt_pass()
                interrupter.clear(self)
                return
            except (KeyboardInterrupt, SystemExit):
                continue

    def _run(self) -> None:
        routing.current.set(self)
        try:
            # The directory and the umask are the session's own, and those of the threads that it starts.
            os.unshare(os.CLONE_FS)
            with contextlib.suppress(OSError):
                os.chdir(os.path.expanduser("~"))
            self._open_streams()
            self._serve()
        except (SystemExit, KeyboardInterrupt, EOFError):
            pass
        except Exception as error:
            # An error of ours: the user's are shown at the prompt.
            if not self.hung_up:
                repl.note(f"session {self.number} failed: {error!r}")
        finally:
            self._end()

    def _serve(self) -> None:
        keys = b""
        if self.terminal is None:
            from piton.repl import lines

            if not lines.serve(self):
                return
            keys = self._serve_tool()
            if keys is None:
                return
        from piton.repl import editor

        editor.serve(self, keys)

    def _serve_tool(self) -> bytes | None:
        """Serve a tool that asked for the raw REPL; answer the keys with which it turned into a person, if it did.

        That person has a terminal that wants echo and more, so the session gets one of its own now.
        """
        from piton.repl.raw import WINDOW
        from piton.repl.tool import Tool

        keyboard = self.system["stdin"].keyboard
        self.system["stdout"].flush()
        terminal = self.server.terminal_for(self)
        if terminal is None:
            return None
        slave, modes = terminal
        # The server has closed its end: the rest of what came through the pipe is all.
        typed = keyboard.waiting()
        while piece := keyboard.take(BUFFER):
            typed += piece
        for descriptor in (self.input_descriptor, self.output_descriptor):
            os.dup2(slave, descriptor, inheritable=False)
        os.close(slave)
        self._open_terminal_input()
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.terminal = "xterm-256color"
        return Tool(self, WINDOW, typed, modes).serve(in_raw=True)

    def _open_terminal_input(self) -> None:
        raw = io.BufferedReader(io.FileIO(self.input_descriptor, closefd=False), BUFFER)
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape")
        stream.owners = self.system["stdout"].owners
        self.system["stdin"] = self.system["__stdin__"] = stream

    def _open_streams(self) -> None:
        """Make the three standard streams."""
        # `exit()` closes sys.stdin, and a user may close any; the descriptors stay until nobody has a stream on them.
        owners = [io.FileIO(self.input_descriptor, "r"), io.FileIO(self.output_descriptor, "w")]
        for name, errors in (("stdout", "surrogateescape"), ("stderr", "backslashreplace")):
            raw = io.BufferedWriter(io.FileIO(self.output_descriptor, "w", closefd=False), BUFFER)
            self.system[name] = io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=True)
            self.system[name].owners = owners
        if self.terminal is None:
            from piton.repl.keyboard import Keyboard, TextInput

            self.system["stdin"] = TextInput(Keyboard(self.input_descriptor))
            self.system["stdin"].owners = owners
        else:
            self._open_terminal_input()
        self._keep_first_streams()

    def _keep_first_streams(self) -> None:
        for name in routing.FIRST_STREAMS:
            self.system[name] = self.system[name.strip("_")]

    def _end(self) -> None:
        """Let go of everything. Interrupts may still come on the way in, so each step can be done twice."""
        while True:
            try:
                self.settle()
                self._flush()
                self._let_go()
                break
            except (KeyboardInterrupt, SystemExit):
                continue
        self.server.ended(self)

    def _flush(self) -> None:
        for name in ("stdout", "stderr"):
            try:
                self.system[name].flush()
            except (OSError, ValueError, AttributeError, KeyError):
                pass  # The client has gone, or the user closed or replaced the stream.

    def _let_go(self) -> None:
        # Threads of the session may be using the descriptors, whose numbers must not become another session's.
        null = os.open(os.devnull, os.O_RDWR)
        try:
            for descriptor in {self.input_descriptor, self.output_descriptor}:
                os.dup2(null, descriptor, inheritable=False)
        finally:
            os.close(null)
        self.ended = True
        wakeup, self.wakeup = self.wakeup, -1
        if wakeup >= 0:
            os.close(wakeup)
        descriptors.let_go(self)
        if (remote := sys.modules.get("piton.repl.remote")) is not None:
            remote.forget(self)
        silent = Nowhere()
        self.system.clear()
        self.system.update(stdin=silent, stdout=silent, stderr=silent)
        self._keep_first_streams()
        self.read_line = self.report = None
        self.main = types.ModuleType("__main__")


class Nowhere(io.TextIOBase):
    """The streams of a session that has ended."""

    def readable(self):
        return True

    def writable(self):
        return True

    def read(self, size=-1, /):
        return ""

    def readline(self, size=-1, /):
        return ""

    def write(self, text, /):
        return len(text)


def fresh_main() -> types.ModuleType:
    """Make a new ``__main__`` for a session, with ``piton``, ``sh`` and ``sys`` at hand."""
    import piton
    from piton.shell import sh

    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, piton=piton, sh=sh, sys=sys)
    return main
