"""What uses the descriptors 0 to 2 or ``/dev/tty`` itself: in a session it means the session's terminal or pipes.

A process has one descriptor 0 and one controlling terminal, and they are the console's. What of the standard library
goes there by number gets a replacement that goes to the session's descriptors, and at the console is as it was:
``os.posix_spawn``, what ``multiprocessing`` starts, ``pty.spawn``, ``getpass.getpass`` and ``os.get_terminal_size``.
Modules that are not imported yet are seen to when they are. ``curses`` draws with a C library that has one screen, the
console's; a session is told so.
"""

import contextlib
import importlib.machinery
import importlib.util
import os
import signal
import sys
import termios

from piton.repl import routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

    from piton.repl.session import Session

_LOCAL = 3
_NO_CURSES = "curses has one screen, the console's: run it as a program, subprocess.run([sys.executable, FILE])"
#: Where `_posixsubprocess.fork_exec` takes what become the descriptors 0 to 2; -1 means those of the parent.
_STREAMS_OF_FORK_EXEC = 6, 9, 11
#: Serves all sessions, and only ever writes warnings.
_SHARED = "multiprocessing.resource_tracker"


def session_of_caller() -> "Session | None":
    """Answer the session that the running code belongs to, None at the console."""
    session = routing.current.get(None)
    return None if session is None or session.ended else session


def _in_posix_spawn(spawn: "Callable") -> "Callable":
    def posix_spawn(path, argv, env, /, *, file_actions=(), **settings):
        session = session_of_caller()
        if session is not None:
            source = session.input_descriptor
            first = (os.POSIX_SPAWN_DUP2, source, 0)
            if session.terminal is not None and not {"setpgroup", "setsid"} & settings.keys():
                # It leads a session at the terminal: the first that it opens is its own.
                settings["setsid"] = True
                first = (os.POSIX_SPAWN_OPEN, 0, os.ttyname(source), os.O_RDWR, 0)
            others = [(os.POSIX_SPAWN_DUP2, session.output_descriptor, number) for number in (1, 2)]
            file_actions = [first, *others, *(file_actions or ())]
        return spawn(path, argv, env, file_actions=file_actions, **settings)

    posix_spawn.__name__ = posix_spawn.__qualname__ = spawn.__name__
    return posix_spawn


def _in_fork_exec(fork_exec: "Callable") -> "Callable":
    """Replace what ``multiprocessing`` starts with: ``subprocess`` keeps the real one."""

    def fork_exec_in_session(arguments, *settings):
        session = session_of_caller()
        if session is not None and not any(_SHARED in str(word) for word in arguments):
            changed = list(settings)
            own = session.input_descriptor, session.output_descriptor, session.output_descriptor
            for index, descriptor in zip(_STREAMS_OF_FORK_EXEC, own):
                if changed[index - 1] == -1:
                    changed[index - 1] = descriptor
            settings = tuple(changed)
        return fork_exec(arguments, *settings)

    return fork_exec_in_session


def _in_forkserver(module: "types.ModuleType") -> None:
    """Give each session a server that forks of its own, because what it forks has its streams."""

    def dispatched(name: str) -> "Callable":
        def call(*arguments):
            session = session_of_caller()
            if session is None:
                server = module._forkserver
            else:
                server = session.forkserver = session.forkserver or module.ForkServer()
            return getattr(server, name)(*arguments)

        return call

    for name in "ensure_running", "connect_to_new_process", "set_forkserver_preload":
        setattr(module, name, dispatched(name))


def _in_pty(module: "types.ModuleType") -> None:
    spawn_at_console = module.spawn

    def spawn(argv, *readers, **named_readers):
        session = session_of_caller()
        if session is None:
            return spawn_at_console(argv, *readers, **named_readers)
        # The same code with other numbers for its globals.
        own = importlib.util.module_from_spec(module.__spec__)
        module.__spec__.loader.exec_module(own)
        own.STDIN_FILENO, own.STDOUT_FILENO = session.input_descriptor, session.output_descriptor
        return own.spawn(argv, *readers, **named_readers)

    module.spawn = spawn


@contextlib.contextmanager
def _without_echo(session: "Session") -> "Iterator[None]":
    """Have the session's terminal, if it has one, repeat nothing that is typed."""
    if session.terminal is None:
        yield
        return
    modes = termios.tcgetattr(session.input_descriptor)
    silent = modes.copy()
    silent[_LOCAL] &= ~termios.ECHO
    termios.tcsetattr(session.input_descriptor, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(session.input_descriptor, termios.TCSAFLUSH, modes)


def _in_getpass(module: "types.ModuleType") -> None:
    getpass_at_console = module.getpass

    def getpass(prompt="Password: ", stream=None, *, echo_char=None):
        session = session_of_caller()
        if session is None:
            return getpass_at_console(prompt, stream, echo_char=echo_char)
        stream = stream or sys.stderr
        with _without_echo(session):
            stream.write(prompt)
            stream.flush()
            line = sys.stdin.readline()
        if session.terminal is not None:
            stream.write("\n")
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    module.getpass = getpass


def _in_curses(module: "types.ModuleType") -> None:
    def console_only(function: "Callable") -> "Callable":
        def call(*arguments, **named):
            if session_of_caller() is not None:
                raise module.error(_NO_CURSES)
            return function(*arguments, **named)

        return call

    module.initscr = console_only(module.initscr)


#: What is done to a module as soon as it is there.
_CHANGES = {"curses": _in_curses, "getpass": _in_getpass, "multiprocessing.forkserver": _in_forkserver, "pty": _in_pty}


class _Finder:
    """Finds the modules that are changed, and has the change made behind their own code."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        change = _CHANGES.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if change is not None else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                # A copy of a module is not the module.
                if sys.modules.get(name) is module:
                    change(module)

            spec.loader.exec_module = exec_module
        return spec


def _get_terminal_size(get_size: "Callable") -> "Callable":
    def get_terminal_size(fd=None, /):
        session = session_of_caller()
        if fd is None:
            fd = 1 if session is None else session.output_descriptor
        return get_size(fd)

    return get_terminal_size


def let_go(session: "Session") -> None:
    """End what serves *session* alone."""
    server, session.forkserver = session.forkserver, None
    if server is not None and server._forkserver_pid is not None:
        try:
            os.kill(server._forkserver_pid, signal.SIGKILL)
            server._stop()
        except OSError:
            pass  # It has ended, and its user has waited for it.


def install() -> None:
    """Put the replacements in place, once."""
    import _posixsubprocess

    # `subprocess` is there already and has taken the function: its sessions are seen to by `children`.
    _posixsubprocess.fork_exec = _in_fork_exec(_posixsubprocess.fork_exec)
    os.posix_spawn, os.posix_spawnp = _in_posix_spawn(os.posix_spawn), _in_posix_spawn(os.posix_spawnp)
    os.get_terminal_size = _get_terminal_size(os.get_terminal_size)
    sys.meta_path.insert(0, _Finder)
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])
