"""Programs that a session starts have the session's terminal, or its pipes, and not the console.

A process has one table of descriptors, and 0 to 2 in it are the console's. So what a session starts without saying what
its streams are is told to use the session's: by a subclass in the place of ``subprocess.Popen``, which ``os.popen`` and
asyncio use too, by ``os.system``, and in the child after ``os.fork``. With a terminal the program leads a session of
its own there, so that Ctrl-C, Ctrl-Z and the window's size reach it as in any terminal, and so does the end of the
connection. The other ways to start one are in ``descriptors``.
"""

import fcntl
import os
import signal
import subprocess
import termios
import weakref

from piton.repl import routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

_system = os.system
_console_input: tuple[int, int]


class Popen(subprocess.Popen):
    """``subprocess.Popen`` that fills in what the current session has."""

    def __init__(self, args, bufsize=-1, executable=None, stdin=None, stdout=None, stderr=None, *rest, **settings):
        session: Session | None = routing.current.get(None)
        if session is None or session.ended:
            super().__init__(args, bufsize, executable, stdin, stdout, stderr, *rest, **settings)
            return
        streams = [stdin, stdout, stderr]
        for number, stream in enumerate(streams):
            if stream is None:
                streams[number] = session.output_descriptor if number else session.input_descriptor
        # What comes behind, by place, is seldom used; then the caller knows what he wants.
        if not rest:
            self._join(session, streams, settings)
        session.children.add(self)
        # An interrupt between the start and the note of its number would leave a program that nobody knows.
        with session.shielded():
            super().__init__(args, bufsize, executable, *streams, *rest, **settings)
        if session.keys_seen != session.keys_sent:
            session.keys_seen = session.keys_sent
            signal_all(session, INTERRUPT)
            raise KeyboardInterrupt

    @staticmethod
    def _join(session: "Session", streams: list, settings: dict) -> None:
        """Have the program lead a session at the terminal, if the caller wants nothing else."""
        if settings.get("env") is None and session.terminal is not None:
            settings["env"] = {**os.environ, "TERM": session.terminal}
        chosen = ("preexec_fn", "start_new_session", "process_group")
        if any(settings.get(name) not in (None, False, -1) for name in chosen):
            return
        settings["start_new_session"] = True
        own = (session.input_descriptor, session.output_descriptor)
        places = [number for number, stream in enumerate(streams) if stream in own]
        if session.terminal is not None and places:
            settings["preexec_fn"] = lambda: _take_terminal(places[0])


def _take_terminal(descriptor: int) -> None:
    """Make a terminal the controlling one. In the child, before the program."""
    try:
        fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    except OSError:
        pass  # Another program of the session has it: this one does without.


def system(command) -> int:
    """Do what ``os.system`` does, at the session's terminal."""
    session = routing.current.get(None)
    if session is None or session.ended:
        return _system(command)
    child = subprocess.Popen(command, shell=True)
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:
            # As system(3): it is the program's, which got it too.
            continue
    return -status if status < 0 else status << 8


def signal_all(session: "Session", number: int) -> None:
    """Send a signal to what the session started and that still runs."""
    for child in list(session.children):
        pid = getattr(child, "pid", None)
        if pid is not None and child.returncode is None:
            try:
                os.killpg(pid, number)
            except (ProcessLookupError, PermissionError):
                pass  # It has ended, or leads no group.


def _in_child() -> None:
    """After ``os.fork``: what is executed here finds the session's streams."""
    session = routing.current.get(None)
    if session is None or session.ended:
        return
    try:
        status = os.fstat(0)
        if (status.st_dev, status.st_ino) == _console_input:
            os.dup2(session.input_descriptor, 0)
            os.dup2(session.output_descriptor, 1)
            os.dup2(session.output_descriptor, 2)
        if session.terminal is not None:
            os.environ["TERM"] = session.terminal
    except OSError:
        pass  # Whoever closed them wants none.


def install() -> None:
    """Put the hooks in place, once."""
    global _console_input
    try:
        status = os.fstat(0)
        _console_input = status.st_dev, status.st_ino
    except OSError:
        _console_input = -1, -1
    Popen.__module__, Popen.__qualname__ = "subprocess", "Popen"
    subprocess.Popen = Popen
    os.system = system
    os.register_at_fork(after_in_child=_in_child)


def new_set() -> "weakref.WeakSet[subprocess.Popen]":
    """Make the place where a session keeps what it started."""
    return weakref.WeakSet()


#: Signals for what a session started: Ctrl-C where there is no terminal to send it, and the end of the connection.
INTERRUPT, HANG_UP = signal.SIGINT, signal.SIGHUP
