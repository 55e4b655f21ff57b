"""Random system calls with random arguments, from threads of several processes, for a time; then looks for what is left.

Arguments: seconds, seed. Each worker is a process of a few threads that makes calls on descriptors, memory and paths of
its own; one that dies or stands still is killed and replaced. What must hold: the machine stays up, everything can be
killed, and memory comes back. The last line is "survived", or says what did not hold.
"""

import ctypes
import errno
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import threading
import time
import traceback

from call_numbers import NUMBERS
from signatures import SIGNATURES, VALUES

WORKERS = 3
THREADS = 2
# A worker ends by itself after so many calls.
LIFE = 1500
# One that makes no call for so long is killed, and must be gone soon after.
STILL_S = 1.5
GONE_S = 60.0
# There is always some worker that makes a call within this time.
SILENCE_S = 60.0
# How much less memory may be free after the second half than after the first.
LEAK_KIB = 1024
HOME = "/tmp/fuzz"
#: What the machine does when process 1 ends.
AT_END = "/sys/kernel/piton/at_end"
#: umount2(2), mount(2)
MNT_DETACH = 2
MS_REMOUNT, MS_BIND = 32, 4096
ARENA = 64 << 10

libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
syscall.restype = ctypes.c_long

# Would switch the machine off, or end the worker before it gets anywhere.
LEFT_OUT = {"reboot", "exit", "exit_group", "rt_sigreturn"}
CALLS = [name for name in sorted(NUMBERS) if name not in LEFT_OUT]
FORKS = {"clone", "clone3"}

# Shared with the workers: for each thread how many calls it has made and the last one; for each call how often it
# was made and how often it succeeded.
SLOT = 8
slots = memoryview(mmap.mmap(-1, 8 * SLOT * WORKERS * THREADS)).cast("Q")
made = memoryview(mmap.mmap(-1, 8 * len(CALLS))).cast("Q")
# How many workers this program itself kept from working.
mistakes = memoryview(mmap.mmap(-1, 8)).cast("Q")
#: How often each worker could not begin because of what others have done, and the last errno.
refused = memoryview(mmap.mmap(-1, 16 * WORKERS)).cast("Q")
succeeded = memoryview(mmap.mmap(-1, 8 * len(CALLS))).cast("Q")


class Worker:
    """What a worker's calls work on, and the choice of arguments."""

    def __init__(self, number, seed):
        self.random = random.Random(seed)
        self.folder = f"{HOME}/{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        os.chdir(self.folder)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        self.arena = mmap.mmap(-1, ARENA)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.arena))
        self.pages = self.map_pages()
        self.descriptors = list(range(3, 40))
        self.fill_descriptors()
        self.fill_arena()

    def map_pages(self):
        """Sixteen pages to be mapped, unmapped and protected at will, away from everything else."""
        mapping = libc.mmap
        mapping.restype = ctypes.c_void_p
        mapping.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        return mapping(None, 16 * 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0) or self.base

    def fill_descriptors(self):
        """Opens one of each kind; what the kernel does not have is left out."""
        import socket

        def file():
            descriptor = os.open("file", os.O_RDWR | os.O_CREAT)
            os.write(descriptor, bytes(range(256)) * 40)

        makers = [
            file,
            lambda: os.mkfifo("fifo"),
            lambda: os.symlink("file", "link"),
            lambda: os.mkdir("directory"),
            lambda: os.open(".", os.O_RDONLY),
            lambda: os.open("fifo", os.O_RDWR | os.O_NONBLOCK),
            lambda: os.open("link", os.O_PATH | os.O_NOFOLLOW),
            lambda: os.open("/dev/zero", os.O_RDWR),
            lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
            lambda: os.open("/proc/self/status", os.O_RDONLY),
            lambda: os.open("/usr/bin/python3", os.O_RDONLY),
            lambda: os.memfd_create("memory", os.MFD_ALLOW_SEALING),
            lambda: os.eventfd(0, os.EFD_NONBLOCK),
            lambda: os.pidfd_open(os.getpid()),
            lambda: os.timerfd_create(time.CLOCK_MONOTONIC),
            lambda: syscall(NUMBERS["epoll_create1"], 0),
            lambda: syscall(NUMBERS["inotify_init1"], 0x800),
            lambda: syscall(NUMBERS["signalfd4"], -1, ctypes.c_ulong(self.base), ctypes.c_ulong(8), 0x800),
        ]
        for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                makers.append(lambda family=family, kind=kind: socket.socket(family, kind).detach())
        for maker in makers:
            try:
                maker()
            except (OSError, AttributeError):
                pass
        try:
            os.pipe()
            first, second = socket.socketpair()
            first.detach(), second.detach()
        except OSError:
            pass

    def fill_arena(self):
        """Bytes at random, with short times, vectors and names among them, so that some structures make sense."""
        pick = self.random
        self.arena[:] = pick.randbytes(ARENA)
        for _ in range(200):
            at = pick.randrange(0, ARENA - 256, 8)
            match pick.randrange(7):
                case 0:
                    piece = struct.pack("qq", 0, pick.randrange(3_000_000))
                case 1:
                    piece = struct.pack("QQ", self.address() & (1 << 64) - 1, pick.choice((0, 1, 100, 5000))) * 4
                case 2:
                    piece = self.name() + b"\0"
                case 3:
                    piece = struct.pack("H", pick.choice((1, 2, 10, 16))) + self.name() + b"\0"
                case 4:
                    piece = struct.pack("iHH", pick.choice(self.descriptors), 0xFFFF, 0) * 4
                case 5:
                    piece = struct.pack("QQQQ", 0, 1, 0, pick.choice((0, 1, 8, 64)))
                case _:
                    piece = bytes(128)
            piece = piece[: ARENA - at]
            self.arena[at : at + len(piece)] = piece

    def restore(self):
        """Makes up for what the calls have closed, removed and overwritten."""
        try:
            os.chdir(self.folder)
            self.fill_descriptors()
        except OSError:
            pass
        self.fill_arena()

    def name(self):
        return self.random.choice(
            (b"file", b"fifo", b"link", b"directory", b"new", b"new2", b"directory/x", b".", b"..", b"/", b"/tmp", b"")
            + (b"/dev/null", b"/dev/ptmx", b"/dev/tty", b"/proc/self/maps", b"/proc/self/fd/3", b"/proc/1/status")
            + (b"/usr/bin/env", b"/no/such", b"x" * 255, b"x" * 256, b"y/" * 2050, b"/proc/self/exe", b"@name")
        )

    def address(self):
        pick = self.random
        match pick.randrange(12):
            case 0:
                return 0
            case 1:
                return pick.choice((1, 0xFFF, 0xFFFF_FFFF_FFFF_F000, 0xFFFF_0000_0000_0000, 1 << 47, 1 << 56, -8))
            case 2:
                return self.pages + pick.randrange(16 * 4096)
            case 3:
                return self.base + ARENA - pick.randrange(1, 64)
            case _:
                return self.base + pick.randrange(0, ARENA - 64, 8)

    def number(self):
        pick = self.random
        match pick.randrange(8):
            case 0:
                return pick.choice((-1, -2, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 63, (1 << 63) - 1, (1 << 64) - 1))
            case 1:
                return 1 << pick.randrange(64)
            case 2:
                return pick.getrandbits(64)
            case 3:
                return pick.getrandbits(pick.randrange(1, 32))
            case _:
                return pick.randrange(-1, 20)

    def argument(self, kind, kept):
        pick = self.random
        if pick.random() < 0.04:
            return self.number()
        match kind:
            case "f":
                return pick.choice(self.descriptors)
            case "d":
                return pick.choice((-100, pick.choice(self.descriptors)))
            case "p":
                path = ctypes.create_string_buffer(self.name())
                kept.append(path)
                return ctypes.addressof(path)
            case "b":
                return self.address()
            case "n":
                return pick.choice((0, 1, 2, 4, 8, 16, 24, 56, 64, 100, 128, 4095, 4096, 5000, self.number()))
            case "m":
                return self.pages + 4096 * pick.randrange(16)
            case "l":
                return 4096 * pick.randrange(8)
            case "s":
                return pick.randrange(-1, 66)
            case "P":
                return pick.choice((0, os.getpid(), os.getppid() if os.getppid() != 1 else 0, pick.randrange(2, 400)))
            case "t":
                times = struct.pack("qqqq", 0, pick.randrange(2_000_000), 0, pick.randrange(2_000_000))
                piece = ctypes.create_string_buffer(times)
                kept.append(piece)
                return pick.choice((0, ctypes.addressof(piece), ctypes.addressof(piece)))
            case "o":
                return pick.choice((0, 1, 100, 4096, 1 << 20, self.number()))
            case "z":
                return 0
            case _:
                return self.number()

    def value(self, name, place, kind, kept):
        known = VALUES.get((name, place))
        if known is not None and self.random.random() < 0.9:
            return self.random.choice(known)
        return self.argument(kind, kept)

    def run(self, thread, life):
        slot = thread * SLOT
        weights = [0.1 if name in FORKS or name.startswith(("exec", "close")) else 1.0 for name in CALLS]
        for step, index in enumerate(self.random.choices(range(len(CALLS)), weights, k=life)):
            name = CALLS[index]
            if step % 100 == 99:
                self.restore()
            # What the addresses point to lives as long as the call.
            kept = []
            kinds = SIGNATURES.get(name, "")
            values = [self.value(name, place, kind, kept) for place, kind in enumerate(kinds.ljust(6, "i")[:6])]
            slots[slot] += 1
            slots[slot + 1] = NUMBERS[name]
            slots[slot + 2 : slot + 8] = memoryview(struct.pack("6Q", *(v & (1 << 64) - 1 for v in values))).cast("Q")
            made[index] += 1
            result = syscall(ctypes.c_long(NUMBERS[name]), *(ctypes.c_ulong(v & (1 << 64) - 1) for v in values))
            if name in FORKS and result == 0:
                os._exit(0)
            if result >= 0:
                succeeded[index] += 1


def work(number, seed):
    """A worker's life."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.setsid()
        worker = begin(number, seed)
        threads = [number * THREADS + thread for thread in range(THREADS)]
        for thread in threads[1:]:
            threading.Thread(target=worker.run, args=(thread, LIFE), daemon=True).start()
        worker.run(threads[0], LIFE)
    finally:
        os._exit(0)


def begin(number, seed):
    """What a worker works on. That it cannot be made is a mistake of this program, but for what others have done."""
    console = os.dup(2)
    try:
        return Worker(number, seed)
    except OSError as error:
        refused[number * 2], refused[number * 2 + 1] = refused[number * 2] + 1, error.errno
        raise
    except Exception:
        mistakes[0] += 1
        os.write(console, traceback.format_exc().encode())
        raise
    finally:
        os.close(console)


def start(number, seed):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        work(number, seed)
    return pid


def last_call(number):
    """What each of a worker's threads did last."""
    names = {value: name for name, value in NUMBERS.items()}
    lines = []
    for thread in range(number * THREADS, (number + 1) * THREADS):
        call, *values = slots[thread * SLOT + 1 : thread * SLOT + 8]
        lines.append(f"{names.get(call)}({', '.join(map(hex, values))})")
    return "; ".join(lines)


def states(workers):
    """What each worker is about, for who has to find out why nothing happens."""
    lines = []
    for number, (pid, *_) in workers.items():
        lines.append(f"worker {number}: began in vain {refused[number * 2]} times, errno {refused[number * 2 + 1]}")
        try:
            for tid in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{tid}/stack") as file:
                    lines.append(f"thread {tid}:\n{file.read()}")
        except OSError as error:
            lines.append(f"process {pid}: {error}")
        lines.append(last_call(number))
    return "\n".join(lines)


def progress(number):
    return sum(slots[thread * SLOT] for thread in range(number * THREADS, (number + 1) * THREADS))


def mend_mounts():
    """Undoes what workers have mounted, unmounted or made read-only, where later ones could not begin for it.

    Whatever lies over a place is taken away, and the file system that belongs there mounted anew.
    """
    for place, kind, there in (("/tmp", "tmpfs", HOME), ("/proc", "proc", "/proc/self"), ("/sys", "sysfs", AT_END)):
        if os.access(there, os.W_OK if kind == "tmpfs" else os.R_OK):
            continue
        while libc.umount2(place.encode(), MNT_DETACH) == 0:
            pass
        libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None)
        os.makedirs(HOME, exist_ok=True)
    with open("/proc/self/mounts") as mounts:
        places = [line.split()[1] for line in mounts]
    for place in places:
        # A folder in which something is mounted cannot be removed.
        if place.startswith(HOME):
            libc.umount2(place.encode(), MNT_DETACH)
    try:
        os.close(os.open("/dev/null", os.O_RDWR))
    except OSError:
        # Read-only, or without devices.
        for place in places:
            libc.mount(None, place.encode(), None, MS_REMOUNT, None)
            libc.mount(None, place.encode(), None, MS_REMOUNT | MS_BIND, None)


def fuzz(seconds, seed, free):
    """Keeps the workers going for a time, then ends everything. Says what went wrong, or nothing."""
    end = time.monotonic() + seconds
    started = shown = called = time.monotonic()
    calls = 0
    workers = {}
    os.makedirs(HOME, exist_ok=True)
    while time.monotonic() < end:
        mend_mounts()
        for number in range(WORKERS):
            if number not in workers:
                seed += 1
                workers[number] = [start(number, seed), progress(number), time.monotonic(), None]
        time.sleep(0.1)
        now = time.monotonic()
        if mistakes[0]:
            return "a worker could not begin"
        if sum(made) != calls:
            calls, called = sum(made), now
        elif now - called > SILENCE_S:
            return f"no call for {SILENCE_S:.0f} s\n{states(workers)}"
        try:
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                workers = {number: worker for number, worker in workers.items() if worker[0] != pid}
        except ChildProcessError:
            workers = {}
        for number, worker in workers.items():
            pid, count, since, killed = worker
            if progress(number) != count:
                worker[1:3] = progress(number), now
            elif now - since > STILL_S and killed is None:
                os.kill(pid, signal.SIGKILL)
                worker[3] = now
            elif killed is None:
                # Whatever waits is to look up.
                os.kill(pid, signal.SIGUSR1)
            elif killed is not None and now - killed > GONE_S:
                return f"worker {pid} cannot be killed; its last calls: {last_call(number)}"
        if now - shown > 30:
            shown = now
            print(f"{now - started:.0f} s: {sum(made)} calls, {free()} KiB free", flush=True)
    return end_all()


def end_all():
    """Kills every other process and waits for it to be gone."""
    limit = time.monotonic() + GONE_S
    while time.monotonic() < limit:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            shutil.rmtree(HOME, ignore_errors=True)
            return None
        time.sleep(0.1)
    left = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    return f"processes that cannot be killed: {left}"


def at_end(what):
    """What the machine does when process 1 ends. While it would go off, signals end process 1 as any other."""
    with open(AT_END, "w") as file:
        file.write(what)


def main():
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    if os.getpid() != 1:
        sys.exit("this kills every other process: it runs as process 1 of a guest only")
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN if number != signal.SIGCHLD else signal.SIG_DFL)
        except (OSError, ValueError):
            pass
    # The workers send what cannot be ignored, too.
    at_end("restart")
    try:
        judge(seconds, seed)
    finally:
        at_end("off")


def judge(seconds, seed):
    """Fuzzes and ends with what did not hold."""
    meminfo = os.open("/proc/meminfo", os.O_RDONLY)

    def free():
        text = os.pread(meminfo, 4096, 0).decode()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemFree"))

    left = []
    for half in range(2):
        wrong = fuzz(seconds / 2, seed + half * 1_000_000, free)
        if wrong:
            sys.exit(wrong)
        left.append(free())
    never = [name for index, name in enumerate(CALLS) if made[index] and not succeeded[index]]
    print(f"seed {seed}: {sum(made)} calls; {len(CALLS) - len(never)} of {len(CALLS)} succeeded at least once")
    print("never succeeded:", *never)
    print(f"free after each half: {left[0]} KiB, {left[1]} KiB")
    if left[0] - left[1] > LEAK_KIB:
        sys.exit("memory did not come back")
    print("survived", flush=True)


if __name__ == "__main__":
    main()
