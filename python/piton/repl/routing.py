"""Gives each session its own ``sys.stdout``, ``input()``, ``sys.displayhook`` and the like in one interpreter.

Which session code belongs to says a context variable. Threads inherit it from the thread that started them, because
process 1 runs with ``-X thread_inherit_context=1``; tasks of asyncio and executors do anyway. Code of no session
belongs to the console.

Python code reaches the streams as attributes of the module ``sys``, which becomes a subclass of ``ModuleType`` with a
descriptor for each name: reading and assigning ``sys.stdout`` means the session's own, so ``redirect_stdout`` in one
session catches nothing of another. C code (``print``, ``input``) looks into the module's dictionary, where a ``Router``
passes everything on to the same place.
"""

import builtins
import contextvars
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

#: The session that code belongs to; not set for the console.
current: "contextvars.ContextVar[Session]" = contextvars.ContextVar("piton.session")

#: Names of ``sys`` that each session has for itself and that C code looks up as well.
_STREAMS = ("stdin", "stdout", "stderr")
#: The streams that a session began with, which nobody replaces.
FIRST_STREAMS = ("__stdin__", "__stdout__", "__stderr__")
#: Names of ``sys`` that each session may change for itself, and that begin as they are at the console.
_HOOKS = ("argv", "displayhook", "excepthook", "ps1", "ps2")
#: Names of ``sys`` that each session has for itself, and that are not there at first.
_LAST = ("last_exc", "last_type", "last_value", "last_traceback")


class _Own:
    """An attribute of ``sys`` that each session has for itself; the console's is in the module's dictionary."""

    def __init__(self, name: str, console: dict):
        self._name = name
        self._console = console

    def __get__(self, module, owner=None):
        session = current.get(None)
        try:
            if session is not None and (self._name in session.system or self._name in _LAST):
                return session.system[self._name]
            return self._console[self._name]
        except KeyError:
            raise AttributeError(f"module 'sys' has no attribute {self._name!r}") from None

    def __set__(self, module, value):
        session = current.get(None)
        (self._console if session is None else session.system)[self._name] = value

    def __delete__(self, module):
        session = current.get(None)
        try:
            del (self._console if session is None else session.system)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None


class Router:
    """A stream of ``sys`` as C code finds it: everything goes to that of the current session."""

    def __init__(self, name: str, console: dict):
        self._name = name
        self._console = console

    def _stream(self):
        session = current.get(None)
        return (self._console if session is None else session.system)[self._name]

    def write(self, text):
        return self._stream().write(text)

    def flush(self):
        stream = self._stream()
        if stream is not None:
            stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream(), name)

    def __repr__(self):
        return f"<Router of sys.{self._name} to {self._stream()!r}>"


def _display(value) -> None:
    """Show the value of an expression at a prompt, and keep it as the session's own ``_``."""
    session = current.get(None)
    if session is None:
        _console["displayhook"](value)
    elif (own := session.system.get("displayhook")) is not None:
        own(value)
    else:
        display_in(session.namespace, value)


def display_in(namespace: dict, value) -> None:
    """Do what ``sys.displayhook`` does, with *namespace* in the place of ``builtins`` for ``_``."""
    if value is None:
        return
    namespace["_"] = None
    text = repr(value)
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.write("\n")
    namespace["_"] = value


def _input(prompt="", /):
    """Read a line from the session's own standard input: what ``builtins.input`` does."""
    session = current.get(None)
    if session is None:
        return _console_input(prompt)
    if session.read_line is not None:
        return session.read_line(prompt)
    return _plain_input(prompt)


class _Help(type(builtins.help) if hasattr(builtins, "help") else object):
    """``help()``, with the pager that suits the session: pydoc chooses one once and for all."""

    def __call__(self, *arguments, **keywords):
        import pydoc

        pydoc.pager = _page
        return pydoc.help(*arguments, **keywords)


def _page(text: str, title: str = "") -> None:
    import pydoc

    pydoc.get_pager()(text, title)


def _thread_failed(arguments) -> None:
    """Report an exception that ended a thread where its session sees it."""
    # Called when the thread has left its context already.
    context = getattr(arguments.thread, "_context", None)
    if context is not None and context.get(current) is not None:
        context.run(_report, arguments)
    else:
        _console_thread_failed(arguments)


def _report(arguments) -> None:
    session = current.get()
    if session.report is not None:
        session.report(arguments)
    else:
        import threading

        threading.__excepthook__(arguments)


#: The console's streams and display hook.
_console: dict = {}
_console_thread_failed = None
_plain_input = _console_input = builtins.input


def install() -> None:
    """Put the routing in place, once, with the console's prompt already set up."""
    global _console_thread_failed, _console_input, _plain_input
    import threading

    attributes = sys.__dict__
    for name in _STREAMS:
        _console[name] = attributes[name]
        attributes[name] = Router(name, _console)
    _console["displayhook"] = sys.displayhook
    attributes["displayhook"] = _display
    names = (*_STREAMS, *FIRST_STREAMS, *_HOOKS, *_LAST)
    descriptors = {name: _Own(name, _console if name in _console else attributes) for name in names}
    sys.__class__ = type("System", (types.ModuleType,), descriptors)

    # PyREPL's input() at the console; the one that reads sys.stdin is what it keeps for terminals it cannot use.
    _console_input = builtins.input
    readline = sys.modules.get("_pyrepl.readline")
    _plain_input = getattr(readline, "raw_input", None) or builtins.input
    builtins.input = _input
    if isinstance(getattr(builtins, "help", None), _Help.__mro__[1]):
        builtins.help = _Help()
    _keep_thread_hook()
    _console_thread_failed = threading.excepthook
    threading.excepthook = _thread_failed


def _keep_thread_hook() -> None:
    """Have the console's reader take the reports of threads now, as it does anyway when it sees threads."""
    readline = sys.modules.get("_pyrepl.readline")
    reader = readline._wrapper.reader if readline is not None else None
    if reader is not None and reader.threading_hook is None:
        from _pyrepl._threading_handler import install_threading_hook

        install_threading_hook(reader)
