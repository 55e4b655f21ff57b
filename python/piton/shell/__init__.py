"""Commands at ``>>>``: a first word that is no name of Python runs the command of that name.

The rule (docs/shell.md) takes nothing from Python that Python could run: a statement that begins with a name that
nobody has assigned is either an assignment to it or an error. ``words`` finds commands and takes lines apart, ``start``
runs them, ``overview`` lists them. All three are imported when they are first needed.
"""

import builtins
import keyword
import re
import sys
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

#: The first word: a name, perhaps with more behind it (``mkfs.ext2``, ``pip-audit``), or the path of a file.
FIRST_WORD = re.compile(r"((?P<name>[^\W\d]\w*)(?:[-.+][-.+\w]*)?|(?:~|\.{1,2})?/[^\s|;&<>]*)(?=[\s|;&<>]|$)")
#: What makes a statement Python's whatever its first word is: an assignment, an annotation, a comparison.
_PYTHON = re.compile(r"\s*(?:[=:,]|(?:\*\*|//|>>|<<|[-+*/%@&|^<>!])=)")


class State:
    """What a session's commands leave for those that come after them."""

    def __init__(self):
        #: The exit status of the last command.
        self.status = 0
        #: Where the session was before the last ``cd``.
        self.previous: str | None = None


_console = State()
_states: "weakref.WeakKeyDictionary[Session, State]" = weakref.WeakKeyDictionary()


def session() -> "Session | None":
    """Answer the session of the running code, None at the console."""
    routing = sys.modules.get("piton.repl.routing")
    return None if routing is None else routing.current.get(None)


def state() -> State:
    """Answer what belongs to the session of the running code."""
    own = session()
    return _console if own is None else _states.setdefault(own, State())


def _is_python(name: str | None, namespace: dict) -> bool:
    """Whether Python knows *name*, so that the statement is Python's. The shell itself may be either."""
    if name is None or namespace.get(name) is sh:
        return False
    return name in namespace or hasattr(builtins, name) or keyword.iskeyword(name) or keyword.issoftkeyword(name)


def first_word(line: str, namespace: dict) -> str | None:
    """Answer the word that *line* begins with, where that may be a command's; None where the line is Python's."""
    found = FIRST_WORD.match(line)
    if found is None or "\n" in line or _PYTHON.match(line, found.end()) or _is_python(found["name"], namespace):
        return None
    return found[0]


def is_command(statement: str, namespace: dict) -> bool:
    """Whether *statement* is a command line, and so complete, whatever Python would make of it."""
    if _asks_for_help(statement, namespace):
        return True
    word = first_word(statement.rstrip(), namespace)
    if word is None:
        return False
    from piton.shell import words

    return words.find(word) is not None


def _asks_for_help(statement: str, namespace: dict) -> bool:
    """Whether *statement* is the word ``help`` alone, and nobody has assigned it."""
    return statement.rstrip() == "help" and "help" not in namespace


def take(statement: str, namespace: dict) -> bool:
    """Run *statement* if it is a command line; False when it is Python's."""
    if not is_command(statement, namespace):
        return False
    if _asks_for_help(statement, namespace):
        from piton.shell import overview

        overview.show()
    else:
        sh(statement)
    return True


class Shell:
    """``sh()`` gives a ``$`` prompt, ``sh("ls -l | head")`` runs a line and answers its exit status."""

    def __call__(self, line: str | None = None) -> int:
        """Run *line* as a command line, or a shell without one; answer the exit status, -N after signal N."""
        from piton.shell import start

        if line is not None and not isinstance(line, str):
            raise TypeError(f"a command line is text, not {type(line).__name__}")
        own = state()
        own.status = start.prompt() if line is None or line.strip() == "sh" else start.line(line.strip())
        return own.status

    @property
    def status(self) -> int:
        """The exit status of the session's last command."""
        return state().status

    def __repr__(self) -> str:
        return "Type sh() for a $ prompt, sh('ls -l') to run a command; sh.status is its exit status."


sh = Shell()
