"""The folder of the host that ``mpremote mount`` lends a session: files that are read and written over its connection.

MicroPython has file systems in Python, and ``mpremote`` brings one and mounts it with ``os.mount``. Here that is
taken as the wish to reach the host's folder, and the protocol behind it is spoken from this module: 0x18, a command,
its numbers in little-endian, text and data with their length before them; the host answers 0x18 and likewise. In the
session that mounted, ``open``, what of ``os`` takes paths, and imports know of it; other sessions, programs and the
kernel do not. The functions are replaced while something is mounted, and put back when nothing is.
"""

import builtins
import errno
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import select
import stat
import struct
import sys
import termios

from piton.repl import routing
from piton.repl.tool import make_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from piton.repl.session import Session

#: Milliseconds that the host may take for an answer.
PATIENCE = 5000
#: Bytes of a file that are read or written at once.
PIECE = 16384
_SYNC = b"\x18"
_STAT, _LIST, _NEXT, _OPEN, _CLOSE, _READ, _WRITE, _SEEK = 1, 2, 3, 4, 5, 6, 8, 9
_REMOVE, _RENAME, _MKDIR, _RMDIR = 10, 11, 12, 13


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<i", len(data)) + data


class Link:
    """Commands to the host in the midst of a session's output, one at a time."""

    def __init__(self, keyboard, output):
        self._terminal = keyboard.descriptor
        self._keyboard = keyboard
        self._output = output

    def ask(self, command: int, words: bytes, *formats: str) -> list:
        """Send a command and answer what comes back, numbers by their formats.

        Behind a first one below 0 nothing follows. ``"s"`` is data with its length, ``"n"`` a name, and if it is not
        empty a number behind it that is left out.

        :raises OSError: the host does not answer.
        """
        modes = termios.tcgetattr(self._terminal)
        # The answer may have bytes that are keys otherwise.
        quiet = modes.copy()
        make_raw(quiet)
        termios.tcsetattr(self._terminal, termios.TCSANOW, quiet)
        try:
            self._output.flush()
            self._output.buffer.write(_SYNC + bytes((command,)) + words)
            self._output.buffer.flush()
            while self._read(1) != _SYNC:
                pass
            answers: list = []
            for kind in formats:
                if kind in "sn":
                    answers.append(self._read(*struct.unpack("<i", self._read(4))))
                    if kind == "n" and answers[-1]:
                        self._read(4)
                else:
                    answers += struct.unpack(f"<{kind}", self._read(struct.calcsize(f"<{kind}")))
                if len(answers) == 1 and isinstance(answers[0], int) and answers[0] < 0:
                    break
            return answers
        finally:
            termios.tcsetattr(self._terminal, termios.TCSANOW, modes)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not self._keyboard.has_some() and not select.select([self._terminal], [], [], PATIENCE / 1000)[0]:
                raise OSError(errno.EIO, "mpremote does not answer")
            piece = self._keyboard.take(size - len(data))
            if not piece:
                raise OSError(errno.EIO, "mpremote has gone")
            data += piece
        return data


class File(io.RawIOBase):
    """An open file of the host."""

    def __init__(self, folder: "Folder", path: str, mode: str):
        self._folder, self.name, self.mode = folder, path, mode
        try:
            # Always bytes: text is made of them here.
            answers = folder.link.ask(_OPEN, _text(folder.inner(path)) + _text(mode), "b")
            self._number = folder.check(answers, path)
        except BaseException:
            # There is nothing to be closed.
            super().close()
            raise

    def readable(self) -> bool:
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        return self.mode[0] != "r" or "+" in self.mode

    def seekable(self) -> bool:
        return True

    def _ask(self, command: int, words: bytes, *formats: str) -> list:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self._folder.link.ask(command, struct.pack("<b", self._number) + words, *formats)

    def readinto(self, buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        [data] = self._ask(_READ, struct.pack("<i", min(len(view), PIECE)), "s")
        view[: len(data)] = data
        return len(data)

    def write(self, data, /) -> int:
        piece = bytes(memoryview(data).cast("B")[:PIECE])
        return self._ask(_WRITE, struct.pack("<i", len(piece)) + piece, "i")[0]

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._folder.check(self._ask(_SEEK, struct.pack("<ib", offset, whence), "i"), self.name)

    def tell(self) -> int:
        return self.seek(0, io.SEEK_CUR)

    def close(self) -> None:
        if not self.closed:
            try:
                self._ask(_CLOSE, b"")
            finally:
                super().close()


class Folder:
    """What is mounted at *place*."""

    def __init__(self, link: Link, place: str):
        self.link = link
        self.place = place
        #: The directory in it that paths without a leading ``/`` begin in; None while it is outside.
        self.current: str | None = None

    def find(self, path) -> str | None:
        """Answer the path from the root of all where it leads to this folder, else None."""
        if not isinstance(path, (str, os.PathLike)) or not isinstance(path := os.fspath(path), str):
            return None
        if self.current is not None:
            path = os.path.join(self.current, path)
        path = os.path.normpath(path) if path.startswith("/") else ""
        return path if path == self.place or path.startswith(self.place + "/") else None

    def inner(self, path: str) -> str:
        """Answer a path as the host has it."""
        return path[len(self.place) :].lstrip("/")

    @staticmethod
    def check(answers: list, path: str) -> int:
        """Answer the first number, or raise what it says when it is an error's."""
        if answers[0] < 0:
            raise OSError(-answers[0], os.strerror(-answers[0]), path)
        return answers[0]

    def _do(self, command: int, *paths: str) -> None:
        words = b"".join(_text(self.inner(path)) for path in paths)
        self.check(self.link.ask(command, words, "i"), paths[0])

    def stat(self, path: str, **_how) -> os.stat_result:
        answers = self.link.ask(_STAT, _text(self.inner(path)), "b", "5I")
        self.check(answers, path)
        _, mode, size, accessed, modified, changed = answers
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, accessed, modified, changed))

    def listdir(self, path: str) -> list[str]:
        self.check(self.link.ask(_LIST, _text(self.inner(path)), "b"), path)
        names = []
        while name := self.link.ask(_NEXT, b"", "n")[0]:
            names.append(name.decode("utf-8", "surrogateescape"))
        return names

    def scandir(self, path: str) -> "Entries":
        return Entries(Entry(self, os.path.join(path, name)) for name in self.listdir(path))

    def open(self, path: str, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *_how, **_more):
        kind = mode.replace("b", "").replace("t", "")
        raw = File(self, path, f"{kind}b")
        if "+" in kind:
            file: io.BufferedIOBase = io.BufferedRandom(raw, PIECE)
        else:
            file = io.BufferedReader(raw, PIECE) if kind == "r" else io.BufferedWriter(raw, PIECE)
        if "b" in mode:
            return raw if buffering == 0 else file
        return io.TextIOWrapper(file, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)

    def mkdir(self, path: str, *_mode, **_how) -> None:
        self._do(_MKDIR, path)

    def rmdir(self, path: str, **_how) -> None:
        self._do(_RMDIR, path)

    def remove(self, path: str, **_how) -> None:
        self._do(_REMOVE, path)

    def rename(self, path: str, to: str, **_how) -> None:
        found = self.find(to)
        if found is None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path, None, to)
        self._do(_RENAME, path, found)


class Entry:
    """What ``os.scandir`` answers for each file."""

    def __init__(self, folder: Folder, path: str):
        self._folder, self.path, self.name = folder, path, os.path.basename(path)

    def stat(self, **_how) -> os.stat_result:
        return self._folder.stat(self.path)

    def is_dir(self, **_how) -> bool:
        return stat.S_ISDIR(self.stat().st_mode)

    def is_file(self, **_how) -> bool:
        return stat.S_ISREG(self.stat().st_mode)

    def is_symlink(self) -> bool:
        return False


class Entries:
    """What ``os.scandir`` answers."""

    def __init__(self, entries: "Iterator[Entry]"):
        self._entries = entries

    def __iter__(self) -> "Iterator[Entry]":
        return self._entries

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *_reason) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())


class Finder(importlib.abc.SourceLoader):
    """Finds and loads modules in a directory of the mounted folder, for the session that mounted it."""

    def __init__(self, directory: str):
        # For other sessions, too, which find nothing: finders are kept for all.
        if not any(f"{directory}/".startswith(f"{folder.place}/") for folder in _mounted.values()):
            raise ImportError(f"{directory} is not mounted")
        self._directory = directory

    def find_spec(self, name: str, target=None) -> importlib.machinery.ModuleSpec | None:
        found = _here(self._directory)
        if found is None:
            return None
        base = os.path.join(self._directory, name.rpartition(".")[2])
        for path, within in (f"{base}/__init__.py", [base]), (f"{base}.py", None):
            try:
                found[0].stat(path)
            except OSError:
                continue
            return importlib.util.spec_from_file_location(name, path, loader=self, submodule_search_locations=within)
        return None

    def get_filename(self, name: str) -> str:
        return self.find_spec(name).origin

    def get_data(self, path: str) -> bytes:
        found = _here(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with found[0].open(path, "rb") as file:
            return file.read()


#: What is mounted, by session; None is the console's.
_mounted: "dict[Session | None, Folder]" = {}


def _here(path) -> tuple[Folder, str] | None:
    """Answer the folder that *path* leads to in the current session, and the path from the root of all."""
    folder = _mounted.get(routing.current.get(None))
    found = folder.find(path) if folder is not None else None
    return None if found is None else (folder, found)


def _replacement(original, method: str):
    def call(path=".", /, *arguments, **named):
        path = named.pop("path", path)
        found = _here(path)
        if found is None:
            return original(path, *arguments, **named)
        return getattr(found[0], method)(found[1], *arguments, **named)

    call.__name__ = call.__qualname__ = original.__name__
    return call


def _chdir(path, /) -> None:
    folder = _mounted.get(routing.current.get(None))
    found = _here(path)
    if found is not None:
        # Of the folder itself that is known, and `mpremote` begins with it, before it listens.
        if found[1] != folder.place and not stat.S_ISDIR(folder.stat(found[1]).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        folder.current = found[1]
    else:
        _originals[os, "chdir"](path)
        if folder is not None:
            folder.current = None


def _getcwd() -> str:
    folder = _mounted.get(routing.current.get(None))
    return _originals[os, "getcwd"]() if folder is None or folder.current is None else folder.current


#: What is replaced, and by which method of a folder.
_METHODS = (
    (builtins, "open", "open"),
    (io, "open", "open"),
    (os, "stat", "stat"),
    (os, "lstat", "stat"),
    (os, "listdir", "listdir"),
    (os, "scandir", "scandir"),
    (os, "mkdir", "mkdir"),
    (os, "rmdir", "rmdir"),
    (os, "remove", "remove"),
    (os, "unlink", "remove"),
    (os, "rename", "rename"),
    (os, "replace", "rename"),
)
#: What was there before, by module and name; empty while nothing is mounted.
_originals: "dict[tuple, Any]" = {}


def mount(filesystem, place: str) -> None:
    """Lend the session the folder of the host that ``mpremote`` serves, at *place*.

    :raises OSError: *filesystem* is not that of ``mpremote``; there are no others.
    """
    if type(filesystem).__name__ != "RemoteFS" or not hasattr(sys.stdin, "keyboard"):
        raise OSError(errno.ENODEV, "only what mpremote serves can be mounted")
    session = routing.current.get(None)
    if not _originals:
        for module, name, method in _METHODS:
            _originals[module, name] = getattr(module, name)
            setattr(module, name, _replacement(_originals[module, name], method))
        for name, function in ("chdir", _chdir), ("getcwd", _getcwd):
            _originals[os, name] = getattr(os, name)
            setattr(os, name, function)
        sys.path_hooks.insert(0, Finder)
    _mounted[session] = Folder(Link(sys.stdin.keyboard, sys.stdout), place)
    if place not in sys.path:
        sys.path.insert(0, place)
    sys.path_importer_cache.pop(place, None)


def umount(place: str) -> None:
    """Take the folder away again.

    :raises OSError: nothing is mounted there in this session.
    """
    session = routing.current.get(None)
    if session not in _mounted or _mounted[session].place != place:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), place)
    forget(session)


def forget(session: "Session | None") -> None:
    """Take away what *session* has mounted, if anything."""
    if _mounted.pop(session, None) is None or _mounted:
        return
    for (module, name), original in _originals.items():
        setattr(module, name, original)
    _originals.clear()
    sys.path_hooks.remove(Finder)
    for place in [place for place, finder in sys.path_importer_cache.items() if isinstance(finder, Finder)]:
        del sys.path_importer_cache[place]
        if place in sys.path:
            sys.path.remove(place)
