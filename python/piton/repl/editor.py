"""The session of a client with a terminal: CPython's own line editor, PyREPL, on a pseudo-terminal.

What of ``_pyrepl`` stands in the way of a second one in the same process, and what is done about it:

- ``readline._wrapper`` and ``simple_interact`` are one global reader and its loop: a session has its own of both.
- ``UnixConsole`` installs signal handlers, which only the main thread may. It does that as its last step, or prepared
  for the refusal. A new window size and Ctrl-C come from the server instead of SIGWINCH and SIGINT.
- It asks the environment for the terminal's name and size, which are the console's: a session passes its own.
- It wakes ten times a second to look at things; this one sleeps until something happens.
- A reader takes ``threading.excepthook`` for itself: ``routing`` does, and hands reports to the session's.
"""

import os
import re
import select
import site
import sys
import termios
import time

from _pyrepl import commands, readline
from _pyrepl._module_completer import ModuleCompleter
from _pyrepl._threading_handler import install_threading_hook
from _pyrepl.console import Event, InteractiveColoredConsole
from _pyrepl.simple_interact import _more_lines, _strip_final_indent
from _pyrepl.unix_console import UnixConsole
from rlcompleter import Completer

from piton import shell
from piton.repl.evaluate import Commands, Console, without_checkpoint
from piton.repl.raw import banner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

#: Seconds within which a second Ctrl-C on an empty line is a tool's.
TWICE = 0.5
#: Bytes that the file of the history may have when a session begins.
LONGEST_HISTORY = 32 << 10
#: Terminals that can do no more than a line after the other.
_DUMB = frozenset(("", "dumb", "unknown", "network"))


class SessionConsole(UnixConsole):
    """A terminal of a session."""

    def __init__(self, session: "Session"):
        self._session = session
        try:
            super().__init__(session.input_descriptor, session.output_descriptor, session.terminal, "utf-8")
        except ValueError:
            # "signal only works in main thread", from its very last step.
            if not hasattr(self, "cursor_visible"):
                raise
        self._poll = select.poll()
        self._poll.register(self.input_fd, select.POLLIN)
        self._poll.register(session.wakeup, select.POLLIN)

    def getheightwidth(self) -> tuple[int, int]:
        lines, columns = termios.tcgetwinsize(self.input_fd)
        return lines or 24, columns or 80

    def prepare(self) -> None:
        super().prepare()
        self._session.editing = True

    def restore(self) -> None:
        self._session.editing = False
        super().restore()

    def wait(self, timeout: float | None = None) -> bool:
        session = self._session
        if session.hung_up:
            raise SystemExit
        if session.keys_seen != session.keys_sent:
            # Ctrl-C: the server keeps it out of the input.
            session.keys_seen = session.keys_sent
            self.finish()
            raise KeyboardInterrupt
        if not self.event_queue.empty():
            return True
        # A short wait is one between two looks at what the session is woken for.
        ready = dict(self._poll.poll(0 if timeout == 0 else None))
        if session.wakeup in ready:
            os.eventfd_read(session.wakeup)
            if session.resized:
                session.resized = False
                self.event_queue.insert(Event("resize", None))
        return not self.event_queue.empty() or self.input_fd in ready

    def push_char(self, char: int | bytes) -> None:
        if char == b"":
            raise SystemExit
        super().push_char(char)


class _Suspend(commands.Command):
    """Ctrl-Z: there is nothing to go back to."""

    def do(self) -> None:
        self.reader.console.beep()


class _Wrapper(readline._ReadlineWrapper):
    """The reader of one session behind the interface of the module ``readline``."""

    __slots__ = ("session",)

    def get_reader(self):
        if self.reader is None:
            reader = readline.ReadlineAlikeReader(console=SessionConsole(self.session), config=self.config)
            reader.can_colorize = not os.environ.get("NO_COLOR")
            reader.commands["suspend"] = _Suspend
            self.reader = reader
        return self.reader


class _Console(Commands, InteractiveColoredConsole):
    """PyREPL's console for what was typed."""

    def _excepthook(self, typ, value, tb):
        super()._excepthook(typ, value, without_checkpoint(tb))


def _shorten_history() -> None:
    """Keep the end of the file that every statement makes longer, and that every session reads.

    CPython shortens it when it ends, which process 1 does not.
    """
    with open(site.gethistoryfile(), "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= LONGEST_HISTORY:
            return
        file.seek(size - LONGEST_HISTORY // 2)
        # The first whole statement: a line end within one has a carriage return before it.
        kept = re.split(rb"(?<!\r)\n", file.read(), maxsplit=1)[-1]
        file.seek(0)
        file.write(kept)
        file.truncate()


def serve(session: "Session", typed: bytes = b"") -> None:
    """Run the session until it ends. *typed* is what the person at a tool typed first."""
    if session.terminal in _DUMB:
        _plain(session)
        return
    try:
        editor = Editor(session, tools=bool(typed))
    except (RuntimeError, OSError, termios.error):
        # A terminal that it does not know, or that cannot do what it needs.
        _plain(session)
        return
    editor.type(typed)
    editor.run()


def _plain(session: "Session") -> None:
    """Serve a terminal that cannot move its cursor: its own line discipline edits the line."""
    console = Console(session.namespace, "<stdin>")
    output = session.system["stdout"]
    output.write(f"{banner()}")
    more = False
    while True:
        output.write(str(getattr(sys, "ps2", "... ") if more else getattr(sys, "ps1", ">>> ")))
        output.flush()
        try:
            line = session.call(session.system["stdin"].readline)
            if not line:
                return
            more = session.call(console.push, line.rstrip("\n"))
        except KeyboardInterrupt:
            output.write("\nKeyboardInterrupt\n")
            console.resetbuffer()
            more = False


class _ToTool(Exception):
    """A tool begins the raw REPL."""


class _BeginRaw(commands.Command):
    """Ctrl-A: the raw REPL on an empty line, else what it is otherwise."""

    def do(self) -> None:
        if self.reader.buffer:
            commands.beginning_of_line(self.reader, self.event_name, self.event).do()
        else:
            self.reader.console.finish()
            raise _ToTool


class Editor:
    """PyREPL in a session, or at the console."""

    def __init__(self, session: "Session", wrapper: "readline._ReadlineWrapper | None" = None, tools: bool = False):
        """Take over the session's terminal.

        *wrapper* is that of the console; a session gets its own. With *tools*, MicroPython's find what they look for.

        :raises RuntimeError: the terminal cannot do what is needed.
        """
        self._session = session
        self._tools = tools
        self._last_interrupt = 0.0
        self._wrapper = wrapper or self._own_wrapper()
        self._reader = self._wrapper.get_reader()
        if tools:
            self._reader.commands["begin-raw"] = _BeginRaw
            self._reader.bind(r"\C-a", "begin-raw")
        self._begin()

    def _own_wrapper(self) -> "_Wrapper":
        session = self._session
        wrapper = _Wrapper(f_in=session.input_descriptor, f_out=session.output_descriptor)
        wrapper.session = session
        self._reader = wrapper.get_reader()
        self._take_reports()
        session.read_line = wrapper.input
        try:
            _shorten_history()
            wrapper.read_history_file()
        except OSError:
            wrapper.set_history_length(0)
        return wrapper

    def _begin(self) -> None:
        """Work with the session's names."""
        namespace = self._session.namespace
        config = self._wrapper.config
        config.readline_completer = Completer(namespace).complete
        config.module_completer = ModuleCompleter(namespace)
        self._reader.get_completions = self._completions
        self._console = _Console(namespace, filename="<stdin>")
        self._console.can_colorize = self._reader.can_colorize

    def _completions(self, stem: str) -> list[str]:
        """Answer what Tab offers: file names in a command line, and commands where Python has nothing."""
        reader = self._reader
        if reader.more_lines is None:
            # A line for input().
            return type(reader).get_completions(reader, stem)
        from piton.shell import completion

        line = reader.get_line()
        files = completion.of_arguments(line, stem, self._console.locals)
        if files is not None:
            return files
        return type(reader).get_completions(reader, stem) or completion.of_commands(line, stem)

    def _take_reports(self) -> None:
        """Show exceptions of threads between two keys, not in the middle of a line."""
        import threading

        before = threading.excepthook
        install_threading_hook(self._reader)
        own, threading.excepthook = threading.excepthook, before

        def report(arguments):
            own(arguments)
            self._session.wake()

        self._session.report = report

    def run(self) -> None:
        """Read and run until the session ends."""
        number = 0
        while True:
            try:
                self._flush()
                statement = self._read()
                if statement is None:
                    return
                if self._command(statement.strip()):
                    continue
                self._session.call(self._push, _strip_final_indent(statement), f"<python-input-{number}>")
                number += 1
                self._remember()
            except _ToTool:
                if not self._serve_tool(in_raw=True):
                    return
            except KeyboardInterrupt:
                if self._interrupted() and not self._serve_tool(in_raw=False):
                    return
            except MemoryError:
                self._console.write("\nMemoryError\n")
                self._console.resetbuffer()

    def _read(self) -> str | None:
        """Answer the next statement, None at the end."""
        try:
            return self._wrapper.multiline_input(
                lambda text: not shell.is_command(text, self._console.locals) and _more_lines(self._console, text),
                str(getattr(sys, "ps1", ">>> ")),
                str(getattr(sys, "ps2", "... ")),
            )
        except EOFError:
            return None

    def _push(self, statement: str, name: str) -> None:
        self._console.push(statement, filename=name, _symbol="single")

    def _command(self, word: str) -> bool:
        """Do what a word alone stands for, such as ``exit``; False when it stands for nothing."""
        import builtins

        if word in self._console.locals or word not in ("exit", "quit", "copyright", "clear"):
            return False
        self._reader.history.pop()
        if word == "clear":
            self._reader.scheduled_commands.append("clear_screen")
            return True
        with self._reader.suspend_history(), self._reader.suspend_colorization():
            self._session.call(getattr(builtins, word))
        return True

    def _remember(self) -> None:
        """Keep the statement for later sessions."""
        try:
            self._wrapper.append_history_file()
        except OSError:
            pass  # The history is a convenience: a read-only or full place for it is no reason to complain.

    def _interrupted(self) -> bool:
        """Show that Ctrl-C was pressed; True when that was a tool."""
        reader = self._reader
        reader.cmpltn_reset()
        if reader.input_trans is reader.isearch_trans:
            reader.do_cmd(("isearch-end", [""]))
        empty = not reader.buffer
        reader.pos = len(reader.get_unicode())
        reader.dirty = True
        reader.refresh()
        self._console.write("\nKeyboardInterrupt\n")
        self._console.resetbuffer()
        before, self._last_interrupt = self._last_interrupt, time.monotonic()
        return self._tools and empty and self._last_interrupt - before < TWICE

    def _serve_tool(self, in_raw: bool) -> bool:
        """Let a tool have the terminal; False at the end of the input."""
        from piton.repl.tool import Tool

        keys = Tool(self._session).serve(in_raw)
        if keys is None:
            return False
        if self._console.locals is not self._session.namespace:
            self._begin()
        self.type(keys)
        return True

    def type(self, keys: bytes) -> None:
        """Have the editor take *keys* as if they had been typed."""
        for key in keys:
            self._reader.console.push_char(bytes((key,)))

    def _flush(self) -> None:
        for name in ("stdout", "stderr"):
            try:
                self._session.system[name].flush()
            except (AttributeError, ValueError):
                pass  # The user replaced or closed it.
