"""What Tab offers beyond Python: file names in a command line, and commands where Python has no name."""

from piton import shell
from piton.shell import words


def _from(stem: str, typed: str, matches: list[str]) -> list[str]:
    """Leave out of *matches* what stands before *stem*, the end of *typed* that the editor completes."""
    return [match[len(typed) - len(stem) :] for match in matches]


def of_arguments(line: str, stem: str, namespace: dict) -> list[str] | None:
    """Answer the file names that the last word of *line* may become; None where it is no command line, or the first."""
    word = shell.first_word(line, namespace)
    if word is None or not ("/" in word if word == line else words.find(word)):
        return None
    typed = words.last(line)
    return _from(stem, typed, words.complete(typed))


def of_commands(line: str, stem: str) -> list[str]:
    """Answer the commands that begin with *line*."""
    if not line or line != line.strip():
        return []
    return _from(stem, line, sorted(name for name in words.names() if name.startswith(line)))
