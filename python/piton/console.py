"""The console session: CPython's own interactive interpreter, started again when it ends."""

import builtins
import os
import signal
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

BANNER = 'Type "help", "copyright", "credits" or "license" for more information; "piton" is the machine.'


def _fresh_main() -> types.ModuleType:
    """Make a new ``__main__`` for a session, with ``piton`` and ``sys`` at hand."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    import piton

    main.__dict__.update(piton=piton, sys=sys)
    sys.modules["__main__"] = main
    return main


def _interact(main: types.ModuleType) -> None:
    """Run one session with line editing, or the plain prompt where the terminal cannot."""
    from _pyrepl.main import CAN_USE_PYREPL, interactive_console

    if CAN_USE_PYREPL:
        import rlcompleter

        from _pyrepl import readline

        # Sets its completer up once only, for the first session's names; Tab belongs to this one's.
        readline._setup(main.__dict__)
        readline.set_completer(rlcompleter.Completer(main.__dict__).complete)
        interactive_console(main, quiet=True)
    else:
        import code

        code.interact(banner="", local=main.__dict__, exitmsg="")


def serve() -> "NoReturn":
    """Serve sessions on the console for ever.

    ``exit()``, Ctrl-D and SystemExit end a session; the next one starts with an empty namespace. The modules that were
    imported stay, as all sessions share one interpreter.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [""]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, "")
    # Completion and history, which CPython sets up only for a plain interactive start.
    if (hook := getattr(sys, "__interactivehook__", None)) is not None:
        hook()
    while True:
        print(f"Python {sys.version} on Piton\n{BANNER}")
        try:
            _interact(_fresh_main())
        except SystemExit as end:
            if end.code not in (None, 0):
                print(end.code, file=sys.stderr)
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt", file=sys.stderr)
        except EOFError:
            pass
        print("\n-- session ended; a new one starts --")
