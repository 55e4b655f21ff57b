"""Moving data through pipes: splice, tee, vmsplice, sendfile, copy_file_range."""

import ctypes
import os
import socket
import threading

from harness import UNMAPPED, check, fresh, iovecs, outcome, raw

NONBLOCK = 2


def splice(source, source_at, destination, destination_at, length, flags=0):
    """The call itself; offsets are None or a c_int64."""
    at = [None if offset is None else ctypes.byref(offset) for offset in (source_at, destination_at)]
    return raw.splice(source, at[0], destination, at[1], ctypes.c_size_t(length), flags)


def pipe_with(data=b"", flags=0):
    out, into = os.pipe2(flags)
    if data:
        os.write(into, data)
    return out, into


@check
def splice_bad_arguments():
    out, into = pipe_with(b"data")
    other_out, other_into = pipe_with()
    file = fresh("bad", b"content")
    reading, writing = os.open("bad", os.O_RDONLY), os.open("bad", os.O_WRONLY)
    appending = os.open("bad", os.O_WRONLY | os.O_APPEND)
    at, negative = ctypes.c_int64(0), ctypes.c_int64(-1)
    return {
        "nothing": outcome(splice, 99, None, 98, None, 0, 0xFF),
        "flags": outcome(splice, out, None, file, None, 1, 0xFF),
        "no descriptor": outcome(splice, 99, None, file, None, 1),
        "no pipe": outcome(splice, file, None, file, None, 1),
        "offset of source pipe": outcome(splice, out, at, file, None, 1),
        "offset of target pipe": outcome(splice, file, None, into, at, 1),
        "offset between pipes": outcome(splice, out, at, other_into, None, 1),
        "same pipe": outcome(splice, out, None, into, None, 1),
        "from the writing end": outcome(splice, into, None, file, None, 1),
        "to the reading end": outcome(splice, file, None, other_out, None, 1),
        "to a file open for reading": outcome(splice, out, None, reading, None, 1),
        "from a file open for writing": outcome(splice, writing, None, other_into, None, 1),
        "to the end of a file": outcome(splice, out, None, appending, None, 1),
        "folder": outcome(splice, os.open(".", os.O_RDONLY), None, other_into, None, 1),
        "eventfd": outcome(splice, os.eventfd(1), None, other_into, None, 8),
        "negative offset": outcome(splice, file, negative, other_into, None, 1),
        "bad pointer": outcome(raw.splice, file, UNMAPPED, other_into, None, 1, 0),
        "socket offset": outcome(splice, socket.socketpair()[0].detach(), at, other_into, None, 1),
    }


@check
def splice_takes_from_a_file_at_an_offset_or_its_position():
    file = fresh("source", b"0123456789")
    out, into = pipe_with()
    at = ctypes.c_int64(4)
    first = splice(file, at, into, None, 3)
    position = os.lseek(file, 0, os.SEEK_CUR)
    second = splice(file, None, into, None, 2)
    return first, at.value, position, second, os.lseek(file, 0, os.SEEK_CUR), os.read(out, 100), splice(file, ctypes.c_int64(10), into, None, 5)


@check
def splice_gives_to_a_file_at_an_offset_or_its_position():
    file = fresh("target", b"..........")
    out, _ = pipe_with(b"abcdef")
    at = ctypes.c_int64(6)
    first = splice(out, None, file, at, 2)
    position = os.lseek(file, 0, os.SEEK_CUR)
    second = splice(out, None, file, None, 100)
    return first, at.value, position, second, os.lseek(file, 0, os.SEEK_CUR), os.pread(file, 100, 0)


@check
def splice_moves_between_pipes():
    out, into = pipe_with(b"abcdef")
    other_out, other_into = pipe_with(b"xy")
    return splice(out, None, other_into, None, 4), os.read(out, 10), os.read(other_out, 10)


@check
def splice_moves_through_sockets():
    one, other = socket.socketpair()
    one.send(b"through a socket")
    out, into = pipe_with()
    first = splice(other.fileno(), None, into, None, 100)
    second = splice(out, None, other.fileno(), None, 100)
    return first, second, one.recv(100)


@check
def splice_without_waiting():
    out, into = pipe_with()
    file = fresh("nonblock", b"x" * 100)
    empty = outcome(splice, out, None, file, None, 1, NONBLOCK)
    os.set_blocking(into, False)
    try:
        while os.write(into, b"z" * 65536):
            pass
    except BlockingIOError:
        pass
    one, other = socket.socketpair()
    other_out, other_into = pipe_with()
    return (
        empty,
        outcome(splice, file, None, into, None, 1, NONBLOCK),
        outcome(splice, one.fileno(), None, other_into, None, 1, NONBLOCK),
        outcome(splice, other_out, None, into, None, 1, NONBLOCK),
    )


@check
def splice_waits_for_data():
    out, into = pipe_with()
    file = fresh("late")
    threading.Timer(0.2, os.write, (into, b"late data")).start()
    return splice(out, None, file, None, 100), os.pread(file, 100, 0)


@check
def splice_ends_with_the_writers():
    out, into = pipe_with(b"rest")
    os.close(into)
    file = fresh("ended")
    return splice(out, None, file, None, 100), splice(out, None, file, None, 100)


@check
def splice_to_a_pipe_without_readers_breaks():
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    out, into = pipe_with()
    os.close(out)
    return splice(fresh("broken", b"x"), None, into, None, 1)


@check
def splice_fills_no_more_than_the_pipe_holds():
    file = fresh("large", b"l" * 300_000)
    out, into = pipe_with()
    moved = splice(file, None, into, None, 300_000)
    total = 0
    while total < moved:
        total += len(os.read(out, 65536))
    return moved, total, os.lseek(file, 0, os.SEEK_CUR)


@check
def tee_copies_and_leaves():
    out, into = pipe_with(b"twice")
    other_out, other_into = pipe_with()
    first = raw.tee(out, other_into, 3, 0)
    second = raw.tee(out, other_into, 100, 0)
    return first, second, os.read(other_out, 100), os.read(out, 100)


@check
def tee_bad_arguments():
    out, into = pipe_with(b"data")
    other_out, other_into = pipe_with()
    file = fresh("tee", b"x")
    return {
        "flags": outcome(raw.tee, out, other_into, 1, 0xFF),
        "nothing": outcome(raw.tee, out, other_into, 0, 0),
        "same pipe": outcome(raw.tee, out, into, 1, 0),
        "file": outcome(raw.tee, file, other_into, 1, 0),
        "to a file": outcome(raw.tee, out, file, 1, 0),
        "wrong ends": outcome(raw.tee, into, other_into, 1, 0),
        "other wrong end": outcome(raw.tee, out, other_out, 1, 0),
        "no descriptor": outcome(raw.tee, 99, other_into, 1, 0),
        "empty": outcome(raw.tee, other_out, into, 1, NONBLOCK),
    }


@check
def vmsplice_writes_and_reads():
    out, into = pipe_with()
    one, two = ctypes.create_string_buffer(b"abc", 3), ctypes.create_string_buffer(b"defg", 4)
    written = raw.vmsplice(into, iovecs(one, two), 2, 0)
    room = ctypes.create_string_buffer(10)
    return written, raw.vmsplice(out, iovecs(room), 1, 0), room.raw


@check
def vmsplice_bad_arguments():
    out, into = pipe_with()
    buffer = ctypes.create_string_buffer(8)
    file = fresh("vm", b"x")
    return {
        "flags": outcome(raw.vmsplice, into, iovecs(buffer), 1, 0xFF),
        "file": outcome(raw.vmsplice, file, iovecs(buffer), 1, 0),
        "no descriptor": outcome(raw.vmsplice, 99, iovecs(buffer), 1, 0),
        "bad pointer": outcome(raw.vmsplice, into, UNMAPPED, 1, 0),
        "too many": outcome(raw.vmsplice, into, iovecs(buffer), 1025, 0),
        "none": outcome(raw.vmsplice, into, iovecs(buffer), 0, 0),
        "empty": outcome(raw.vmsplice, out, iovecs(buffer), 1, NONBLOCK),
    }


@check
def sendfile_goes_to_files_pipes_and_sockets():
    source = fresh("send", b"0123456789")
    target = fresh("sent")
    out, into = pipe_with()
    one, other = socket.socketpair()
    return (
        os.sendfile(target, source, 2, 4),
        os.sendfile(into, source, 0, 3),
        os.sendfile(one.fileno(), source, 8, 100),
        os.sendfile(target, source, 10, 100),
        os.pread(target, 100, 0),
        os.read(out, 100),
        other.recv(100),
    )


@check
def sendfile_bad_arguments():
    source = fresh("sf", b"0123456789")
    out, into = pipe_with(b"abc")
    appending = os.open("sf", os.O_WRONLY | os.O_APPEND)
    reading = os.open("sf", os.O_RDONLY)
    return {
        "from a pipe": outcome(raw.sendfile, source, out, None, 1),
        "to the end": outcome(raw.sendfile, appending, source, None, 1),
        "to a reader": outcome(raw.sendfile, reading, source, None, 1),
        "from a writer": outcome(raw.sendfile, into, appending, None, 1),
        "folder": outcome(raw.sendfile, into, os.open(".", os.O_RDONLY), None, 1),
        "bad pointer": outcome(raw.sendfile, into, source, UNMAPPED, 1),
        "negative": outcome(raw.sendfile, into, source, ctypes.byref(ctypes.c_int64(-1)), 1),
        "nothing": outcome(raw.sendfile, into, source, None, 0),
    }


@check
def copy_file_range_copies_and_refuses_overlap():
    file = fresh("range", b"0123456789")
    other = fresh("copy")
    pipe = os.pipe()
    appending = os.open("range", os.O_WRONLY | os.O_APPEND)
    return (
        os.copy_file_range(file, other, 4, 2, 1),
        os.pread(other, 100, 0),
        os.copy_file_range(file, file, 2, 0, 8),
        os.pread(file, 100, 0),
        outcome(os.copy_file_range, file, file, 4, 0, 2),
        outcome(os.copy_file_range, file, other, 4, 100),
        outcome(os.copy_file_range, file, appending, 1),
        outcome(os.copy_file_range, file, pipe[1], 1),
        outcome(os.copy_file_range, os.open(".", 0), other, 1),
        outcome(raw.copy_file_range, file, None, other, None, 1, 1),
    )
