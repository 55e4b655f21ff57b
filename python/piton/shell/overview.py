"""What ``help`` alone shows at the prompt."""

import ast
import sys
import textwrap

from piton.shell import words
from piton.system import COMMANDS

_GROUPS = {
    "files": "ls cd pwd cat less cp mv rm mkdir rmdir ln find grep du df mount tar",
    "editors": "nano vi ed",
    "machine": "ps top free dmesg uptime date kill lsdev sysinfo reboot poweroff",
    "network": "ip ping wget nc",
}


def summary(path: str) -> str:
    """Answer the first line of what a Python file says of itself; nothing where it says nothing."""
    try:
        with open(path, "rb") as file:
            text = ast.get_docstring(ast.parse(file.read())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""
    return text.partition("\n")[0]


def text() -> str:
    """Answer the overview of the commands there are."""
    found = words.names()
    lines = ["Commands at the prompt. A name that Python knows always wins; help() is Python's own help.", ""]
    for group, names in _GROUPS.items():
        lines += textwrap.wrap(
            " ".join(name for name in names.split() if name in found),
            width=100,
            initial_indent=f"  {group:9}",
            subsequent_indent=" " * 11,
        )
    lines.append('  shell    sh() gives a $ prompt, sh("ls | wc -l") runs a line; ls | wc -l does, too')
    own = {name: path for name, path in found.items() if path.endswith(".py") and not path.startswith(COMMANDS)}
    if own:
        lines += ["", "Python files on PATH, run in this interpreter:"]
        lines += [f"  {name:14} {summary(path)}".rstrip() for name, path in sorted(own.items())]
    others = len(found) - len(own)
    lines += ["", f"In all {others} programs are there (COMMAND --help). A file ~/bin/NAME.py is a new command NAME."]
    return "\n".join(lines)


def show() -> None:
    """Print the overview."""
    sys.stdout.write(text() + "\n")
