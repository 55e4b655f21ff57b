"""Runs command lines: Python files in the interpreter, everything else by ``/bin/sh`` as a process.

At the console the processes of a line are a group in the terminal's foreground, so that Ctrl-C is theirs alone. In a
session of the network ``piton.repl.children`` has them lead a session of their own at its terminal; without a terminal
they have its pipes. Nothing is stopped by Ctrl-Z in either: as on Linux, a key does not stop a group whose parent is
process 1. The shell that ``sh()`` starts has job control.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import traceback
import types

from piton import shell
from piton.shell import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

_SHELL = "/bin/sh"
#: What an interactive shell reads before its first prompt.
_PROFILE = "/run/piton-commands.sh"
#: ``ast.PyCF_ALLOW_TOP_LEVEL_AWAIT`` and ``inspect.CO_COROUTINE``, whose modules are large.
_TOP_LEVEL_AWAIT, _COROUTINE = 0x2000, 0x80


def line(text: str) -> int:
    """Run the command line *text* and answer its exit status."""
    found = shell.FIRST_WORD.match(text)
    file = words.find(word := found[0]) if found is not None else None
    if file is None or not file.endswith(".py") or words.needs_shell(text):
        return _shell_line(text)
    try:
        _, *arguments = words.split(text)
    except ValueError as error:
        print(f"{word}: {error}", file=sys.stderr)
        return 2
    return python_file(file, word, arguments)


def python_file(path: str, name: str, arguments: list[str]) -> int:
    """Run the Python file *path* with *name* and *arguments* in ``sys.argv``; answer its exit status."""
    main = types.ModuleType("__main__")
    main.__file__ = path
    before, sys.argv = sys.argv, [name, *arguments]
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", _TOP_LEVEL_AWAIT, dont_inherit=True)
        unfinished = eval(code, main.__dict__)
        if code.co_flags & _COROUTINE:
            import asyncio

            asyncio.run(unfinished)
        return 0
    except SystemExit as end:
        if getattr(shell.session(), "hung_up", False):
            raise
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Exception as error:
        # Its first frame is this function.
        traceback.print_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        return 1
    finally:
        sys.argv = before


def prompt() -> int:
    """Give a ``$`` prompt until ``exit`` or the end of the input; answer the shell's exit status."""
    own = shell.session()
    if own is not None and own.terminal is None:
        return _prompt_for_lines()
    with open(_PROFILE, "w") as file:
        file.write(f"PS1='$ '\n{_functions(None)}")
    return _run([_SHELL], {"ENV": _PROFILE})


def _prompt_for_lines() -> int:
    """Do the same where there is no terminal: each line has a shell of its own, in the session's directory."""
    status = 0
    while True:
        print("$ ", end="", flush=True)
        typed = sys.stdin.readline()
        ended = re.fullmatch(r"\s*exit(?:\s+(\d+))?\s*", typed)
        if ended is not None or not typed:
            return int(ended[1]) & 255 if ended and ended[1] else status
        if typed.strip():
            status = line(typed.strip())


def _functions(text: str | None) -> str:
    """Define for the shell, which has its own ``cd``, the commands that are Python files; with *text* only those whose names are in it."""
    wanted = None if text is None else set(re.findall(r"\w+", text))
    if wanted is not None and not any(f"{name}.py" for name in wanted):
        return ""
    return "".join(
        f'{name}() {{ {shlex.quote(sys.executable)} -m piton.shell {shlex.quote(path)} "$@"; }}\n'
        for name, path in words.names().items()
        if path.endswith(".py") and name.isidentifier() and name != "cd"
        if wanted is None or name in wanted
    )


def _shell_line(text: str) -> int:
    """Have ``/bin/sh`` run *text*. Where it changes the directory, the session goes there, too."""
    script = _functions(text) + text
    if re.search(r"\bcd\b", text) is None:
        return _run([_SHELL, "-c", script])
    own = shell.state()
    last = {"OLDPWD": own.previous} if own.previous is not None else {}
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        status = _run([_SHELL, "-c", f"trap 'pwd -P >/proc/self/fd/{writer}' EXIT\n{script}"], last, (writer,))
        where = os.read(reader, 4096).removesuffix(b"\n")
        if where and where != os.getcwdb():
            own.previous = os.getcwd()
            os.chdir(where)
    except BlockingIOError:
        pass  # A syntax error: it went nowhere.
    finally:
        os.close(reader)
        os.close(writer)
    return status


def _run(arguments: list[str], extra: dict[str, str] | None = None, keep: tuple = ()) -> int:
    """Run a program to its end with *extra* in its environment and the descriptors *keep*; answer its exit status."""
    own = shell.session()
    settings: dict = {"pass_fds": keep}
    if extra is not None:
        terminal = getattr(own, "terminal", None)
        settings["env"] = {**os.environ, **({"TERM": terminal} if terminal else {}), **extra}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if own is not None:
        return _ended(_in_session(own, subprocess.Popen(arguments, **settings)))
    if not _has_foreground():
        return _ended(subprocess.Popen(arguments, **settings).wait())
    return _ended(_in_foreground(arguments, settings))


def _in_session(own: "Session", child: subprocess.Popen) -> int:
    """Wait for a program that has the session's terminal."""
    own.has_program = True
    try:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # It is the program's, which got it too.
    finally:
        own.has_program = False


def _has_foreground() -> bool:
    """Whether the terminal is ours to give: at the console, in the thread that its keys interrupt."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _give_terminal(group: int) -> None:
    """Make *group* that of the terminal's foreground, which a group of its background may not do without care."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(0, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_foreground(arguments: list[str], settings: dict) -> int:
    """Run a program to its end as the foreground of the console, and take the terminal back as it was."""
    modes = termios.tcgetattr(0)
    child = subprocess.Popen(arguments, process_group=0, preexec_fn=lambda: _give_terminal(os.getpid()), **settings)
    try:
        return child.wait()
    finally:
        _give_terminal(os.getpgrp())
        termios.tcsetattr(0, termios.TCSADRAIN, modes)


def _ended(status: int) -> int:
    """Say what ended a program, if that was a signal which nobody has shown yet."""
    if status == -signal.SIGINT:
        print()
    elif status < 0 and status != -signal.SIGPIPE:
        print(signal.strsignal(-status), file=sys.stderr)
    return status
