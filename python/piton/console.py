"""The console session: CPython's own line editor, PyREPL, started again when it ends."""

import builtins
import os
import signal
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_BANNER = 'Type "help", "copyright", "credits" or "license" for more information; "piton" is the machine.'


class _Streams:
    """The streams of ``sys`` by name, as a session has them."""

    def __getitem__(self, name: str):
        return getattr(sys, name)

    def __setitem__(self, name: str, stream) -> None:
        setattr(sys, name, stream)


class _Console:
    """The console as a session: that of the main thread, which signals interrupt."""

    input_descriptor, output_descriptor = 0, 1
    hung_up = False

    def __init__(self):
        self.system = _Streams()
        #: What is counted in the sessions of the network.
        self.keys_seen = self.keys_sent = 0
        #: What ``input()`` reads with; None where it reads ``sys.stdin``.
        self.read_line = None
        self.reset()

    def reset(self) -> None:
        """Begin with an empty namespace, in which ``piton``, ``sh`` and ``sys`` are at hand."""
        import piton
        from piton.shell import sh

        main = types.ModuleType("__main__")
        main.__dict__.update(__builtins__=builtins, piton=piton, sh=sh, sys=sys)
        self.namespace = main.__dict__
        sys.modules["__main__"] = main

    def call(self, function, *arguments):
        """Run code of the user."""
        return function(*arguments)


def _take_input(console: _Console) -> None:
    """Have ``input()`` edit its line, but not while a tool is at the terminal."""
    from _pyrepl import readline

    readline._setup(console.namespace)
    console.read_line = readline._wrapper.input

    def read_line(prompt="", /):
        return (console.read_line or readline.raw_input)(prompt)

    builtins.input = read_line


def _interact(console: _Console, can_edit: bool) -> None:
    """Run one session with line editing, or the plain prompt where the terminal cannot."""
    if can_edit:
        from _pyrepl import readline

        from piton.repl.editor import Editor

        Editor(console, readline._wrapper, tools=True).run()
    else:
        from piton.repl.evaluate import Console

        Console(console.namespace).interact(banner="", exitmsg="")


def serve() -> "NoReturn":
    """Serve sessions on the console for ever.

    ``exit()``, Ctrl-D and SystemExit end a session; the next one starts with an empty namespace. The modules that were
    imported stay, as all sessions share one interpreter.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [""]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, "")
    from _pyrepl.main import CAN_USE_PYREPL

    # Completion and history, which CPython sets up only for a plain interactive start. It would load GNU's line editor
    # beside Python's own, which is 0.6 MB.
    if (hook := getattr(sys, "__interactivehook__", None)) is not None:
        if CAN_USE_PYREPL:
            sys.modules["readline"] = None
        hook()
        if CAN_USE_PYREPL:
            del sys.modules["readline"]
    # Set, they say that somebody sits at a prompt.
    sys.ps1, sys.ps2 = ">>> ", "... "

    console = _Console()
    if CAN_USE_PYREPL:
        _take_input(console)
    from piton import repl

    repl.start()
    while True:
        print(f"Python {sys.version} on Piton\n{_BANNER}")
        try:
            _interact(console, CAN_USE_PYREPL)
        except SystemExit as end:
            if end.code not in (None, 0):
                print(end.code, file=sys.stderr)
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt", file=sys.stderr)
        except EOFError:
            pass
        if sys.stdin.closed:
            # `exit()` closes it.
            sys.stdin = open(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)
        print("\n-- session ended; a new one starts --")
        console.reset()
