"""Command lines: which file a command is, its words as a shell has them, and what Tab makes of a beginning."""

import glob
import os
import re
import shlex

#: A piece of a word: a character as it is, one behind a backslash, or quoted text.
_PIECE = re.compile(r"""\\(?P<escaped>.)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|[^\s'"\\]""")
_WORD = re.compile(rf"(?:{re.sub(r'[?]P<[a-z]+>', '?:', _PIECE.pattern)})+")
#: Characters that Tab puts a backslash before.
_SPECIAL = re.compile(r"([^\w@%+:,./~-])")


def folders() -> list[str]:
    """Answer the folders of PATH, each once."""
    return list(dict.fromkeys(filter(None, os.environ.get("PATH", "").split(os.pathsep))))


def _file(path: str) -> str | None:
    """Answer the file that runs for *path*: ``PATH.py``, which runs in the interpreter, or the program itself."""
    if os.path.isfile(f"{path}.py"):
        return f"{path}.py"
    if os.path.isfile(path) and (path.endswith(".py") or os.access(path, os.X_OK)):
        return path
    return None


def find(word: str) -> str | None:
    """Answer the file of the command *word*, a name or a path; None when there is none."""
    if "/" in word:
        return _file(os.path.expanduser(word))
    return next(filter(None, (_file(os.path.join(folder, word)) for folder in folders())), None)


def names() -> dict[str, str]:
    """Answer all commands on PATH: the file of each by name."""
    found: dict[str, str] = {}
    for folder in folders():
        try:
            files = sorted(os.listdir(folder), key=lambda name: not name.endswith(".py"))
        except OSError:
            continue
        for file in files:
            name, path = file.removesuffix(".py"), os.path.join(folder, file)
            if name not in found and not name.startswith(("_", ".")) and (name != file or os.access(path, os.X_OK)):
                found[name] = path
    return found


def needs_shell(line: str) -> bool:
    """Whether *line* has more than words: pipes, redirections, variables, comments and the like."""
    plain = re.sub(r"\\.|'[^']*'", "_", line)
    return "$" in plain or "`" in plain or re.search(r"[|&;<>()#]", re.sub(r'"[^"]*"', "_", plain)) is not None


def split(line: str) -> list[str]:
    """Answer the words of *line*: quotes taken off, ``~`` and patterns of file names replaced.

    :raises ValueError: a quotation has no end.
    """
    shlex.split(line)
    found = []
    for word in _WORD.finditer(line):
        text = pattern = ""
        for piece in _PIECE.finditer(word[0]):
            value = "".join(shlex.split(piece[0])) if piece.lastgroup else piece[0]
            text += value
            pattern += glob.escape(value) if piece.lastgroup else value
        if word[0].startswith("~"):
            text, pattern = os.path.expanduser(text), os.path.expanduser(pattern)
        found += (sorted(glob.glob(pattern)) if pattern != glob.escape(text) else []) or [text]
    return found


def last(typed: str) -> str:
    """Answer the last word of *typed*, which may have no characters yet."""
    return re.search(r"(?:\\.|[^\s\\|;&<>=])*$", typed)[0]


def complete(word: str) -> list[str]:
    """Answer the names of files that begin with *word*, each with the folder that stands in it."""
    head, slash, begin = (re.sub(r"\\(.)", r"\1", piece) for piece in word.rpartition("/"))
    try:
        entries = sorted(os.scandir(os.path.expanduser(head + slash) or "."), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []  # Not to be read, or no name of a file.
    matches = [entry for entry in entries if entry.name.startswith(begin) and (begin or entry.name[0] != ".")]
    alone = len(matches) == 1
    written = word[: word.rfind("/") + 1]
    return [
        written + _SPECIAL.sub(r"\\\1", entry.name) + ("/" if os.path.isdir(entry) else " " if alone else "")
        for entry in matches
    ]
