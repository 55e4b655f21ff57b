"""Waiting for descriptors: poll, select, epoll."""

import ctypes
import os
import select
import signal
import socket
import struct

import threading
import time

from harness import UNMAPPED, Timespec, check, fresh, outcome, raw

NAMES = {1: "IN", 2: "PRI", 4: "OUT", 8: "ERR", 16: "HUP", 32: "NVAL", 0x2000: "RDHUP"}


def words(events):
    return "|".join(name for bit, name in NAMES.items() if events & bit) or "none"


def polled(fd, events=select.POLLIN | select.POLLOUT, timeout=0):
    poller = select.poll()
    poller.register(fd, events)
    found = poller.poll(timeout)
    return words(found[0][1]) if found else "nothing"


@check
def poll_of_pipe_ends():
    out, into = os.pipe()
    empty = polled(out), polled(into)
    os.write(into, b"x")
    full = polled(out)
    os.close(into)
    hung = polled(out)
    os.read(out, 1)
    return empty, full, hung, polled(out)


@check
def poll_of_a_pipe_without_reader_is_an_error():
    out, into = os.pipe()
    os.close(out)
    return polled(into)


@check
def poll_of_a_closed_descriptor_is_nval():
    return polled(999)


@check
def poll_skips_negative_descriptors():
    entries = (ctypes.c_uint64 * 2)()
    struct.pack_into("<ihhihh", entries, 0, -1, 1, 7, 999, 1, 0)
    count = raw.ppoll(entries, 2, Timespec(0, 0), None, 8)
    return count, struct.unpack("<ihhihh", entries)


@check
def poll_of_a_file_is_always_ready():
    return polled(fresh("file")), polled(os.open("/dev/null", os.O_RDWR)), polled(os.open(".", 0))


@check
def ppoll_bad_arguments():
    entry = (ctypes.c_uint64 * 1)()
    return (
        outcome(raw.ppoll, UNMAPPED, 1, Timespec(0, 0), None, 8),
        outcome(raw.ppoll, entry, 1, Timespec(-1, 0), None, 8),
        outcome(raw.ppoll, entry, 1, Timespec(0, 2_000_000_000), None, 8),
        outcome(raw.ppoll, entry, 1, UNMAPPED, None, 8),
        outcome(raw.ppoll, entry, 1, Timespec(0, 0), entry, 4),
        outcome(raw.ppoll, entry, 10_000_000, Timespec(0, 0), None, 8),
    )


@check
def poll_waits_its_time():
    out, _into = os.pipe()
    start = time.monotonic()
    result = polled(out, select.POLLIN, 60)
    took = time.monotonic() - start
    return result, 0.055 < took < 5


@check
def poll_wakes_for_a_write():
    out, into = os.pipe()
    threading.Timer(0.05, os.write, (into, b"x")).start()
    return polled(out, select.POLLIN, 20_000)


@check
def select_sorts_by_readiness():
    out, into = os.pipe()
    os.write(into, b"x")
    found = select.select([out], [into], [out, into], 0)
    return found == ([out], [into], [])


@check
def select_bad_arguments():
    pselect = raw.pselect6
    none = (ctypes.c_uint64 * 16)()
    number = os.dup(0)
    os.close(number)
    closed = (ctypes.c_uint64 * 16)()
    closed[0] = 1 << number
    return (
        outcome(pselect, -1, None, None, None, Timespec(0, 0), None),
        outcome(pselect, 10, UNMAPPED, None, None, Timespec(0, 0), None),
        outcome(pselect, number + 1, closed, None, None, Timespec(0, 0), None),
        outcome(pselect, 10, none, None, None, Timespec(-1, 0), None),
        outcome(pselect, 10, none, None, None, Timespec(0, 0), None),
        outcome(select.select, [number], [], [], 0),
    )


@check
def signal_interrupts_poll():
    def handler(*_):
        raise InterruptedError(4, "handled")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    out, _into = os.pipe()
    return outcome(select.select, [out], [], [], 20)


@check
def ppoll_swaps_the_mask_while_waiting():
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    before = list(seen)
    empty = ctypes.c_uint64(0)
    result = outcome(raw.ppoll, None, 0, Timespec(10, 0), ctypes.byref(empty), 8)
    after = list(seen)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    return before, result, after


@check
def epoll_reports_levels():
    epoll = select.epoll()
    out, into = os.pipe()
    epoll.register(out, select.EPOLLIN)
    first = epoll.poll(0)
    os.write(into, b"xy")
    second = [words(e) for _, e in epoll.poll(0)]
    os.read(out, 1)
    third = [words(e) for _, e in epoll.poll(0)]
    os.read(out, 1)
    return first, second, third, epoll.poll(0)


@check
def epoll_edge_reports_once_per_change():
    epoll = select.epoll()
    out, into = os.pipe()
    epoll.register(out, select.EPOLLIN | select.EPOLLET)
    os.write(into, b"x")
    one = len(epoll.poll(0))
    two = len(epoll.poll(0))
    os.write(into, b"y")
    return one, two, len(epoll.poll(0)), len(epoll.poll(0))


@check
def epoll_oneshot_waits_for_a_modify():
    epoll = select.epoll()
    out, into = os.pipe()
    epoll.register(out, select.EPOLLIN | select.EPOLLONESHOT)
    os.write(into, b"x")
    one, two = len(epoll.poll(0)), len(epoll.poll(0))
    epoll.modify(out, select.EPOLLIN | select.EPOLLONESHOT)
    return one, two, len(epoll.poll(0))


@check
def epoll_forgets_a_closed_file():
    epoll = select.epoll()
    out, into = os.pipe()
    epoll.register(out, select.EPOLLIN)
    os.write(into, b"x")
    os.close(out)
    return epoll.poll(0)


@check
def epoll_keeps_a_file_open_elsewhere():
    epoll = select.epoll()
    out, into = os.pipe()
    copy = os.dup(out)
    epoll.register(out, select.EPOLLIN)
    os.write(into, b"x")
    os.close(out)
    return len(epoll.poll(0)), copy > 0


@check
def epoll_ctl_bad_arguments():
    epoll = select.epoll()
    fd = epoll.fileno()
    out, _into = os.pipe()
    event = (ctypes.c_uint64 * 2)()
    raw.epoll_ctl(fd, 1, out, event)
    file = fresh("regular")
    return (
        outcome(raw.epoll_ctl, fd, 1, out, event),
        outcome(raw.epoll_ctl, fd, 3, file, event),
        outcome(raw.epoll_ctl, fd, 1, file, event),
        outcome(raw.epoll_ctl, fd, 2, file, event),
        outcome(raw.epoll_ctl, fd, 1, fd, event),
        outcome(raw.epoll_ctl, fd, 1, 999, event),
        outcome(raw.epoll_ctl, out, 1, fd, event),
        outcome(raw.epoll_ctl, 999, 1, out, event),
        outcome(raw.epoll_ctl, fd, 9, out, event),
        outcome(raw.epoll_ctl, fd, 3, out, UNMAPPED),
        outcome(raw.epoll_ctl, fd, 2, out, None),
    )


@check
def epoll_wait_bad_arguments():
    epoll = select.epoll()
    out, into = os.pipe()
    epoll.register(into, select.EPOLLOUT)
    event = (ctypes.c_uint64 * 2)()
    fd = epoll.fileno()
    return (
        outcome(raw.epoll_pwait, fd, event, 0, 0, None, 8),
        outcome(raw.epoll_pwait, fd, event, -1, 0, None, 8),
        outcome(raw.epoll_pwait, fd, UNMAPPED, 1, 0, None, 8),
        outcome(raw.epoll_pwait, out, event, 1, 0, None, 8),
        outcome(raw.epoll_pwait, fd, event, 1, 0, None, 8),
        outcome(raw.epoll_create1, 7),
    )


@check
def epoll_in_an_epoll():
    outer, inner = select.epoll(), select.epoll()
    out, into = os.pipe()
    inner.register(out, select.EPOLLIN)
    outer.register(inner, select.EPOLLIN)
    before = outer.poll(0)
    os.write(into, b"x")
    loop = outcome(inner.register, outer.fileno(), select.EPOLLIN)
    return before, [words(e) for _, e in outer.poll(0)], loop


@check
def epoll_wakes_from_another_thread():
    epoll = select.epoll()
    out, into = os.pipe()
    epoll.register(out, select.EPOLLIN)
    threading.Timer(0.05, os.write, (into, b"x")).start()
    return [words(e) for _, e in epoll.poll(20)]


@check
def epoll_takes_descriptors_added_while_waiting():
    epoll = select.epoll()
    out, into = os.pipe()
    os.write(into, b"x")
    threading.Timer(0.05, epoll.register, (out, select.EPOLLIN)).start()
    return [words(e) for _, e in epoll.poll(20)]


@check
def socket_pair_hang_up():
    left, right = socket.socketpair()
    fresh_pair = polled(left.fileno())
    right.shutdown(socket.SHUT_WR)
    half = polled(left.fileno(), 0x2005)
    right.close()
    return fresh_pair, half, polled(left.fileno(), 0x2005)


@check
def poll_of_a_listening_socket():
    server = socket.socket(socket.AF_UNIX)
    server.bind("poll-socket")
    server.listen()
    before = polled(server.fileno())
    client = socket.socket(socket.AF_UNIX)
    unconnected = polled(client.fileno())
    client.connect("poll-socket")
    return before, unconnected, polled(server.fileno())


@check
def asyncio_runs_on_it():
    import asyncio

    async def main():
        reader_end, writer_end = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=reader_end)
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, writer_end.send, b"line\n")
        line = await reader.readline()
        writer.close()
        writer_end.close()
        result = await loop.run_in_executor(None, lambda: 6 * 7)
        return line, result

    return asyncio.run(main())



