"""Change the session's directory: cd [DIRECTORY], cd - for the last one."""

import os
import sys

from piton.shell import state

arguments = sys.argv[1:]
if len(arguments) > 1:
    sys.exit("cd: too many arguments")
own = state()
target = arguments[0] if arguments else os.path.expanduser("~")
if target == "-":
    if own.previous is None:
        sys.exit("cd: there is no last directory")
    target = own.previous
    print(target)
try:
    before = os.getcwd()
except FileNotFoundError:
    before = None  # Somebody removed it.
try:
    os.chdir(target)
except OSError as error:
    sys.exit(f"cd: {target}: {error.strerror}")
own.previous = before
