"""Compiles modules of the root image to unchecked-hash .pyc files.

Runs on the build machine in the Python version of the image. Standard input has one line per module: source,
target and the path the module has in the image, separated by NUL. Each module is compiled in a child of this
process, because the bytes of a .pyc also depend on which strings earlier work has interned: this way they depend on
the source alone. Modules that do not compile are named on standard output.
"""

import os
import py_compile
import sys


def compile_one(source, target, guest):
    try:
        py_compile.compile(
            source,
            cfile=target,
            dfile=guest,
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except (py_compile.PyCompileError, UnicodeError, ValueError, OSError) as error:
        os.write(1, f"{guest}\t{type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")


def main():
    jobs = os.cpu_count() or 1
    modules = [line.split("\0") for line in sys.stdin.read().splitlines()]
    directories = {os.path.dirname(target) for _, target, _ in modules}
    for directory in sorted(directories):
        os.makedirs(directory, exist_ok=True)
    running = 0
    for number, module in enumerate(modules, 1):
        if os.fork() == 0:
            compile_one(*module)
            os._exit(0)
        running += 1
        if running >= jobs:
            _, status = os.wait()
            running -= 1
            if status:
                sys.exit("a compiling process died")
        if number % 500 == 0:
            print(f"[root image] compiled {number} of {len(modules)} modules", file=sys.stderr)
    while running:
        _, status = os.wait()
        running -= 1
        if status:
            sys.exit("a compiling process died")


main()
