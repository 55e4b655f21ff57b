"""Many processes and threads, one after the other and all at once: what they took must come back.

Argument: how many processes to start one after the other; ten times as many threads. Prints a line for each part; the
last line is "survived", or says what did not hold.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading

# How much less memory may be free after the load than after less of it before.
LEAK_KIB = 512
# How many threads run at a time.
BATCH = 50
# Enough for a fork bomb to meet the machine's limit; it stops there by itself if there is none.
BOMB = 100_000

meminfo = os.open("/proc/meminfo", os.O_RDONLY)


def free_kib():
    text = os.pread(meminfo, 4096, 0).decode()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemFree"))


def forks(count):
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def spawns(count):
    for _ in range(count):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        status = os.waitpid(pid, 0)[1]
        if status:
            sys.exit(f"true ended with {status}")


def shells(count):
    for _ in range(count):
        if subprocess.run("echo $0 | cat", shell=True, capture_output=True, check=True).stdout != b"/bin/sh\n":
            sys.exit("the shell did not answer")


def threads(count):
    for _ in range(count // BATCH):
        batch = [threading.Thread(target=int) for _ in range(BATCH)]
        for thread in batch:
            thread.start()
        for thread in batch:
            thread.join()


def repeated(name, body, count):
    """Does *body* a tenth as often, then *count* times, and compares the memory."""
    body(count // 10)
    before = free_kib()
    body(count)
    after = free_kib()
    print(f"{count} {name}: {before} KiB free before, {after} KiB after", flush=True)
    if before - after > LEAK_KIB:
        sys.exit(f"{name} leave memory behind")


def bomb():
    """Forks until the machine refuses, in a child that takes all others with it."""
    os.setsid()
    count = 0
    try:
        while count < BOMB:
            if os.fork() == 0:
                while True:
                    signal.pause()
            count += 1
    except OSError as error:
        return errno.errorcode.get(error.errno, "?"), count
    return "no limit", count


def explode():
    """A fork bomb and its end; says what it met."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, repr(bomb()).encode())
        os.killpg(0, signal.SIGKILL)
    os.close(writer)
    told = os.read(reader, 100).decode()
    os.close(reader)
    # Orphans come to process 1, which this is.
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return told


def fork_bomb():
    # The first fills what the kernel keeps for the next.
    explode()
    before = free_kib()
    told = explode()
    after = free_kib()
    print(f"fork bomb: {told}; {before} KiB free before, {after} KiB after", flush=True)
    if not told.startswith("('EAGAIN'") and not told.startswith("('ENOMEM'"):
        sys.exit("a fork bomb is not refused as on Linux")
    if before - after > LEAK_KIB:
        sys.exit("a fork bomb leaves memory behind")


def descriptors():
    """Opens all that a process may have, of several kinds; then all that many processes may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    opened = []
    try:
        while len(opened) <= limit:
            opened += os.pipe()
    except OSError as error:
        told = errno.errorcode[error.errno]
    for descriptor in opened:
        os.close(descriptor)
    print(f"{len(opened)} descriptors of {limit}, then {told}", flush=True)
    if told != "EMFILE":
        sys.exit("too many descriptors are not refused as on Linux")


def main():
    count = int(sys.argv[1])
    if os.getpid() != 1:
        sys.exit("this fills the machine: it runs as process 1 of a guest only")
    repeated("forks", forks, count)
    repeated("spawns", spawns, count)
    repeated("pipelines of the shell", shells, count // 10)
    repeated("threads", threads, count * 10)
    descriptors()
    fork_bomb()
    print("survived", flush=True)


main()
