"""Runs the programs named as arguments, or all, each in a process of its own.

Every line of a program is printed behind its name and `| `, so that other lines on the console do not matter; `= `
behind the name ends it, with how it ended. Nothing is judged here.

The programs try to remove and change system files as root, to see that a read-only file system refuses: they run only
in a guest whose root is Piton's root image, never on the machine itself.
"""

import faulthandler
import os
import pkgutil
import select
import shutil
import signal
import sys
import time

import programs

# Many times what the slowest program takes under emulation.
LIMIT = 60.0


def child(name, output):
    """Makes a process that is alike everywhere: its own session, folder, masks and descriptors."""
    os.setsid()
    # Programs fault on purpose, and Python's own traceback of that is long and full of addresses.
    faulthandler.disable()
    os.environ.pop("PYTHONFAULTHANDLER", None)
    folder = f"/tmp/syscall-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder, 0o755)
    os.chdir(folder)
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 64)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    status = 1
    try:
        __import__(f"programs.{name}")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        import traceback

        print(f"{type(error).__name__}: {error}", flush=True)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run(name):
    """Starts a program and prints its lines as they come."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        child(name, writer)
    os.close(writer)
    deadline = time.monotonic() + LIMIT
    rest = b""
    status = None
    while True:
        # What the program leaves behind may keep its output open: its own end counts, once all it wrote is read.
        ready = select.select([reader], [], [], 0 if status is not None else 0.05)[0]
        piece = os.read(reader, 65536) if ready else b""
        if piece:
            *lines, rest = (rest + piece).split(b"\n")
            show(name, lines)
        elif status is not None:
            break
        elif (found := os.waitpid(pid, os.WNOHANG))[0]:
            status = found[1]
            ended = f"exit {os.waitstatus_to_exitcode(status)}"
        elif time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            ended = f"stopped after {LIMIT:.0f} s"
        elif ready:
            # Closed by the program, which still runs.
            time.sleep(0.05)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if rest:
        show(name, [rest])
    os.close(reader)
    print(f"{name}= {ended}", flush=True)


def show(name, lines):
    for line in lines:
        sys.stdout.write(f"{name}| {line.decode(errors='backslashreplace')}\n")
    sys.stdout.flush()


def is_a_guest():
    """The root image is here, and what it brings cannot be written to."""
    return os.path.exists("/etc/piton/manifest.json") and bool(os.statvfs("/usr").f_flag & os.ST_RDONLY)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--linux"] and os.getpid() == 1:
        import linux_guest

        linux_guest.run(sys.argv[2:])
    if not is_a_guest():
        sys.exit("these programs change system files: they run in a guest with Piton's root image only")
    every = sorted(module.name for module in pkgutil.iter_modules(programs.__path__))
    for name in sys.argv[1:] or every:
        run(name)
