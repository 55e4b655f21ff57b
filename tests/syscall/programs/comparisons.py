"""What processes have in common, and other processes' memory: kcmp, process_madvise."""

import ctypes
import mmap
import os
import select
import signal
import struct
import threading

from harness import PAGE, UNMAPPED, check, fresh, in_child, iovecs, outcome, raw

FILE, VM, FILES, FS, SIGHAND, IO, SYSVSEM, EPOLL = range(8)
WILLNEED, DONTNEED, COLD, PAGEOUT = 3, 4, 20, 21


def kcmp(other, kind, first=0, second=0):
    return outcome(raw.kcmp, os.getpid(), other, kind, first, second)


class Child:
    """A process that waits until it is ended."""

    def __enter__(self):
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                signal.pause()
        return self.pid

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@check
def process_is_like_itself():
    fd = fresh("file")
    return [kcmp(os.getpid(), kind, fd, fd) for kind in range(7)]


@check
def threads_have_all_in_common():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    result = [kcmp(thread.native_id, kind) for kind in (VM, FILES, FS, SIGHAND)]
    stop.set()
    thread.join()
    return result


@check
def child_has_open_files_in_common():
    fd = fresh("inherited")
    with Child() as pid:
        alone = [kcmp(pid, kind) in (1, 2) for kind in (VM, FILES, FS, SIGHAND)]
        return alone, kcmp(pid, FILE, fd, fd), kcmp(pid, FILE, fd, 0) in (1, 2)


@check
def order_is_total():
    fds = [fresh(f"file-{index}") for index in range(5)]
    fds.append(os.dup(fds[0]))
    table = [[kcmp(os.getpid(), FILE, one, other) for other in fds] for one in fds]
    mirrored = all(sorted((table[i][j], table[j][i])) in ([0, 0], [1, 2]) for i in range(6) for j in range(6))
    ranks = sorted(sum(value == 2 for value in row) for row in table)
    return mirrored, table[0][5], ranks in ([0, 0, 2, 3, 4, 5], [0, 1, 1, 3, 4, 5], [0, 1, 2, 2, 4, 5], [0, 1, 2, 3, 3, 5], [0, 1, 2, 3, 4, 4])


@check
def opened_twice_is_not_the_same():
    fd = fresh("twice")
    return kcmp(os.getpid(), FILE, fd, os.open("twice", os.O_RDONLY)) in (1, 2), kcmp(os.getpid(), FILE, fd, os.dup(fd))


@check
def epoll_knows_what_it_watches():
    reader, writer = os.pipe()
    epoll = select.epoll()
    epoll.register(reader)
    slot = lambda *values: struct.pack("<3I", *values)
    me = os.getpid()
    return (
        outcome(raw.kcmp, me, me, EPOLL, reader, slot(epoll.fileno(), reader, 0)),
        outcome(raw.kcmp, me, me, EPOLL, writer, slot(epoll.fileno(), reader, 0)) in (1, 2),
        outcome(raw.kcmp, me, me, EPOLL, reader, slot(epoll.fileno(), reader, 1)),
        outcome(raw.kcmp, me, me, EPOLL, reader, slot(epoll.fileno(), writer, 0)),
        outcome(raw.kcmp, me, me, EPOLL, reader, slot(writer, reader, 0)),
        outcome(raw.kcmp, me, me, EPOLL, reader, slot(999, reader, 0)),
        outcome(raw.kcmp, me, me, EPOLL, 999, slot(epoll.fileno(), reader, 0)),
        outcome(raw.kcmp, me, me, EPOLL, reader, UNMAPPED),
    )


@check
def kcmp_bad_arguments():
    me = os.getpid()
    return (
        outcome(raw.kcmp, me, 1 << 22, VM, 0, 0),
        outcome(raw.kcmp, 0, me, VM, 0, 0),
        outcome(raw.kcmp, me, me, 8, 0, 0),
        outcome(raw.kcmp, me, me, -1, 0, 0),
        kcmp(me, FILE, 999, 0),
        kcmp(me, FILE, 0, 1 << 40),
    )


@check
def kcmp_needs_the_right_to_look():
    def body():
        os.setuid(1000)
        print(outcome(raw.kcmp, os.getpid(), 1, VM, 0, 0), outcome(raw.kcmp, 1, os.getpid(), 99, 0, 0))

    return in_child(body)


def area(pages):
    memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * (pages * PAGE)
    return memory


def pieces(memory, *ranges):
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    array = iovecs(*[ctypes.create_string_buffer(1) for _ in ranges])
    for entry, (first, count) in zip(array, ranges):
        entry.iov_base, entry.iov_len = start + first * PAGE, count * PAGE
    return array


@check
def advice_about_own_memory():
    memory = area(6)
    me = os.pidfd_open(os.getpid())
    done = outcome(raw.process_madvise, me, pieces(memory, (1, 1), (3, 2)), 2, DONTNEED, 0)
    return done == 3 * PAGE, [memory[page * PAGE] for page in range(6)], [
        outcome(raw.process_madvise, me, pieces(memory, (0, 6)), 1, advice, 0) for advice in (COLD, WILLNEED, 0, 999)
    ]


@check
def advice_about_others_memory():
    memory = area(2)
    with Child() as pid:
        other = os.pidfd_open(pid)
        return [outcome(raw.process_madvise, other, pieces(memory, (0, 2)), 1, advice, 0) for advice in (COLD, WILLNEED, DONTNEED, 0, 8, 999)]


@check
def process_madvise_bad_arguments():
    memory = area(2)
    good = pieces(memory, (0, 2))
    me = os.pidfd_open(os.getpid())
    with Child() as pid:
        gone = os.pidfd_open(pid)
    hole = area(3)
    start = ctypes.addressof(ctypes.c_char.from_buffer(hole))
    raw.munmap(start + PAGE, PAGE)
    result = (
        outcome(raw.process_madvise, -1, good, 1, COLD, 0),
        outcome(raw.process_madvise, fresh("no-process"), good, 1, COLD, 0),
        outcome(raw.process_madvise, gone, good, 1, COLD, 0),
        outcome(raw.process_madvise, me, good, 1, COLD, 1),
        outcome(raw.process_madvise, me, UNMAPPED, 1, COLD, 0),
        outcome(raw.process_madvise, me, good, 1025, COLD, 0),
        outcome(raw.process_madvise, me, good, 0, COLD, 0),
        outcome(raw.process_madvise, me, pieces(hole, (1, 1)), 1, COLD, 0),
        outcome(raw.process_madvise, me, pieces(hole, (0, 1), (1, 1), (2, 1)), 3, COLD, 0),
    )
    # Whole again before it is given back.
    raw.mmap(start + PAGE, PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)
    return result
