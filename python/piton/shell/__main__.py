"""``python3 -m piton.shell FILE ARGUMENTS``: a command that is a Python file, as a process of its own."""

import os
import sys

from piton.shell import start

_, file, *arguments = sys.argv
sys.exit(start.python_file(file, os.path.basename(file).removesuffix(".py"), arguments))
