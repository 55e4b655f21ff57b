"""AF_UNIX sockets: streams, datagrams, packets, descriptors, credentials, options."""

import array
import ctypes
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import termios
import threading
import time

from harness import UNMAPPED, check, fresh, in_child, outcome, raw

STREAM, DATAGRAM, PACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def pair(kind=STREAM):
    return socket.socketpair(socket.AF_UNIX, kind)


def bound(name, kind=STREAM):
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(name)
    return server


@check
def socket_bad_arguments():
    two = (ctypes.c_int * 2)()
    return (
        outcome(raw.socket, 99, 1, 0),
        outcome(raw.socket, 1, 99, 0),
        outcome(raw.socket, 1, 1, 77),
        outcome(raw.socket, -1, 1, 0),
        outcome(raw.socketpair, 1, 1, 0, UNMAPPED),
        outcome(raw.socketpair, 1, 99, 0, two),
        outcome(raw.socket, 1, 1 | 0x10000000, 0),
    )


@check
def socket_calls_on_other_descriptors():
    file = fresh("file")
    address = b"\x01\0name\0"
    return (
        outcome(raw.bind, file, address, 7),
        outcome(raw.connect, file, address, 7),
        outcome(raw.listen, file, 1),
        outcome(raw.accept, file, None, None),
        outcome(raw.sendto, file, b"x", 1, 0, None, 0),
        outcome(raw.recvfrom, file, b"x", 1, 0, None, None),
        outcome(raw.shutdown, file, 2),
        outcome(raw.getsockname, file, UNMAPPED, UNMAPPED),
        outcome(raw.listen, 999, 1),
        outcome(raw.shutdown, 999, 2),
    )


@check
def flags_of_a_new_socket():
    plain = raw.socket(1, 1, 0)
    closing = raw.socket(1, 1 | 0o2000000 | 0o4000, 0)
    return (
        fcntl.fcntl(plain, fcntl.F_GETFD),
        fcntl.fcntl(closing, fcntl.F_GETFD),
        fcntl.fcntl(closing, fcntl.F_GETFL) & os.O_NONBLOCK == os.O_NONBLOCK,
    )


@check
def stream_pair_carries_both_ways():
    left, right = pair()
    left.sendall(b"to the right")
    right.sendall(b"to the left")
    return right.recv(6), right.recv(100), left.recv(100)


@check
def stream_does_not_keep_boundaries_and_packets_do():
    result = []
    for kind in (STREAM, DATAGRAM, PACKET):
        left, right = pair(kind)
        left.send(b"one")
        left.send(b"two")
        result.append(right.recv(100))
    return result


@check
def short_receive_cuts_a_datagram():
    left, right = pair(DATAGRAM)
    left.send(b"long datagram")
    left.send(b"next")
    data, _, flags, _ = right.recvmsg(4)
    return data, flags & socket.MSG_TRUNC == socket.MSG_TRUNC, right.recv_into(bytearray(2), 2, socket.MSG_TRUNC), outcome(right.recv, 10, socket.MSG_DONTWAIT)


@check
def empty_datagram_is_received():
    left, right = pair(DATAGRAM)
    left.send(b"")
    return right.recv(10), outcome(right.recv, 10, socket.MSG_DONTWAIT)


@check
def peek_leaves_the_data():
    left, right = pair()
    left.send(b"peeked")
    return right.recv(3, socket.MSG_PEEK), right.recv(100)


@check
def waitall_waits_for_all():
    left, right = pair()
    left.send(b"first")
    threading.Timer(0.05, left.send, (b"second",)).start()
    return right.recv(11, socket.MSG_WAITALL)


@check
def closed_peer_is_the_end_and_epipe():
    left, right = pair()
    left.send(b"kept")
    left.close()
    return right.recv(10), right.recv(10), outcome(right.send, b"x")


@check
def unread_data_at_close_is_a_reset():
    left, right = pair()
    left.send(b"unread")
    right.close()
    return outcome(left.recv, 10), outcome(left.recv, 10)


@check
def nosignal_keeps_alive_and_default_kills():
    import signal

    def writer():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        left, right = pair()
        right.close()
        print(outcome(left.send, b"x", socket.MSG_NOSIGNAL), flush=True)
        left.send(b"x")

    return in_child(writer)


@check
def shutdown_ends_one_way():
    left, right = pair()
    left.shutdown(socket.SHUT_WR)
    right.send(b"still")
    return right.recv(10), outcome(left.send, b"x"), left.recv(10), outcome(raw.shutdown, left.fileno(), 7)


@check
def shutdown_of_an_unconnected_socket():
    return socket.socket(socket.AF_UNIX).shutdown(socket.SHUT_RD)


@check
def connect_accept_and_names():
    server = bound("server")
    server.listen(5)
    client = socket.socket(socket.AF_UNIX)
    client.connect("server")
    other, address = server.accept()
    client.send(b"hello")
    return (
        other.recv(10),
        address,
        server.getsockname(),
        client.getsockname(),
        client.getpeername(),
        outcome(server.getpeername),
        os.stat("server").st_mode & 0o170000 == 0o140000,
    )


@check
def bind_bad_names():
    server = bound("taken")
    return (
        outcome(bound, "taken"),
        outcome(bound, "missing/x"),
        outcome(server.bind, "again"),
        outcome(raw.bind, raw.socket(1, 1, 0), b"\x02\0name", 6),
        outcome(raw.bind, raw.socket(1, 1, 0), b"\x01\0" + b"n" * 200, 202),
        outcome(raw.bind, raw.socket(1, 1, 0), UNMAPPED, 20),
        outcome(raw.bind, raw.socket(1, 1, 0), b"\x01", 1),
        outcome(raw.bind, raw.socket(1, 1, 0), b"\x01\0", 2),
    )


@check
def connect_errors():
    def connect(name, kind=STREAM):
        client = socket.socket(socket.AF_UNIX, kind)
        return outcome(client.connect, name)

    bound("datagrams", DATAGRAM)
    bound("not-listening")
    server = bound("listening")
    server.listen()
    gone = bound("gone")
    gone.listen()
    gone.close()
    client = socket.socket(socket.AF_UNIX)
    client.connect("listening")
    return (
        connect("missing"),
        connect("file"),
        connect("datagrams"),
        connect("not-listening"),
        connect("gone"),
        outcome(client.connect, "listening"),
        connect("listening", DATAGRAM),
    )


@check
def full_backlog_returns_eagain():
    server = bound("backlog")
    server.listen(0)
    results = []
    clients = []
    for _ in range(3):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        results.append(outcome(client.connect, "backlog"))
        clients.append(client)
    return results


@check
def accept_bad_arguments():
    server = bound("accepting")
    server.setblocking(False)
    before = outcome(server.accept)
    server.listen()
    return before, outcome(server.accept), outcome(raw.accept4, server.fileno(), None, None, 0x40), outcome(pair()[0].accept)


@check
def blocked_accept_wakes():
    server = bound("waiting")
    server.listen()

    def later():
        time.sleep(0.05)
        client = socket.socket(socket.AF_UNIX)
        client.connect("waiting")
        client.send(b"late")
        client.close()

    thread = threading.Thread(target=later)
    thread.start()
    other, _ = server.accept()
    thread.join()
    return other.recv(10), other.recv(10)


@check
def abstract_names_need_no_file():
    server = bound("\0abstract-name")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("\0abstract-name")
    taken = outcome(bound, "\0abstract-name")
    server.close()
    client.close()
    return taken, bound("\0abstract-name").getsockname(), outcome(socket.socket(socket.AF_UNIX).connect, "\0other")


@check
def autobind_gives_an_abstract_name():
    server = socket.socket(socket.AF_UNIX)
    raw.bind(server.fileno(), b"\x01\0", 2)
    name = server.getsockname()
    return len(name), name[:1]


@check
def datagrams_go_by_name():
    server = bound("post", DATAGRAM)
    client = bound("sender", DATAGRAM)
    client.sendto(b"letter", "post")
    nameless = socket.socket(socket.AF_UNIX, DATAGRAM)
    nameless.sendto(b"anonymous", "post")
    return (
        server.recvfrom(100),
        server.recvfrom(100),
        outcome(nameless.send, b"x"),
        outcome(nameless.sendto, b"x", "missing"),
        outcome(nameless.sendto, b"x" * 1_000_000, "post"),
    )


@check
def descriptors_travel():
    left, right = pair()
    fd = fresh("travelling", b"content of the file")
    socket.send_fds(left, [b"x"], [fd, 1])
    os.close(fd)
    data, fds, flags, _ = socket.recv_fds(right, 10, 5)
    return data, len(fds), os.pread(fds[0], 7, 0), flags & ~0x40000000, fcntl.fcntl(fds[0], fcntl.F_GETFD)


@check
def descriptors_without_room_are_dropped():
    left, right = pair()
    socket.send_fds(left, [b"x"], [0, 1, 2])
    size = socket.CMSG_SPACE(4)
    data, ancillary, flags, _ = right.recvmsg(10, size)
    first = len(ancillary[0][2]) // 4 if ancillary else 0
    socket.send_fds(left, [b"y"], [0])
    data2, ancillary2, flags2, _ = right.recvmsg(10)
    return data, 1 <= first <= 2, flags & socket.MSG_CTRUNC == socket.MSG_CTRUNC, data2, ancillary2, flags2 & socket.MSG_CTRUNC == socket.MSG_CTRUNC


@check
def closed_descriptor_cannot_travel():
    left, _right = pair()
    return outcome(socket.send_fds, left, [b"x"], [999])


@check
def descriptors_travel_between_processes():
    left, right = pair()

    def child():
        _, fds, _, _ = socket.recv_fds(right, 10, 1)
        os.write(fds[0], b"from the child")

    reader, writer = os.pipe()
    socket.send_fds(left, [b"x"], [writer])
    return in_child(child), os.read(reader, 100)


@check
def credentials_tell_the_peer():
    left, right = pair()
    pid, uid, gid = struct.unpack("<3i", left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    left.send(b"x")
    _, ancillary, _, _ = right.recvmsg(10, socket.CMSG_SPACE(12))
    level, kind, data = ancillary[0]
    sender = struct.unpack("<3i", data)
    return pid == os.getpid(), uid, gid, level, kind, sender[0] == os.getpid(), sender[1:]


@check
def options_have_their_values():
    left, _right = pair()
    server = bound("options")
    server.listen()

    def option(sock, name):
        return outcome(sock.getsockopt, socket.SOL_SOCKET, name)

    return (
        option(left, socket.SO_TYPE),
        option(left, socket.SO_DOMAIN),
        option(left, socket.SO_PROTOCOL),
        option(left, socket.SO_ACCEPTCONN),
        option(server, socket.SO_ACCEPTCONN),
        option(left, socket.SO_ERROR),
        outcome(left.getsockopt, socket.SOL_SOCKET, 9999),
        outcome(left.getsockopt, 9999, 1),
        outcome(left.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 20000),
        option(left, socket.SO_SNDBUF),
        outcome(left.setsockopt, socket.IPPROTO_TCP, 1, 1),
        outcome(raw.getsockopt, left.fileno(), 1, 3, UNMAPPED, UNMAPPED),
    )


@check
def receive_time_limit_passes():
    left, _right = pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 0, 60_000))
    start = time.monotonic()
    return outcome(left.recv, 10), 0.055 < time.monotonic() - start < 5, left.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16).hex()


@check
def nonblocking_stream_fills_up():
    left, right = pair()
    left.setblocking(False)
    total = 0
    while isinstance(count := outcome(left.send, b"x" * 4096), int):
        total += count
    writable = select.select([], [left], [], 0)[1]
    drained = 0
    while drained < total:
        drained += len(right.recv(65536))
    return total > 50_000, count, writable, drained == total, select.select([], [left], [], 0)[1] == [left]


@check
def datagram_socket_hears_of_room_in_a_peer_it_got_later():
    server, first, later = bound("room", DATAGRAM), *(socket.socket(socket.AF_UNIX, DATAGRAM) for _ in range(2))
    first.connect("room")
    first.setblocking(False)
    later.setblocking(False)
    sent = 0
    while outcome(first.send, b"x") == 1:
        sent += 1
    result = []
    for mode in (0, select.EPOLLET):
        poll = select.epoll()
        poll.register(later, select.EPOLLOUT | mode)
        result.append(len(poll.poll(0)))
        later.connect("room")
        poll.poll(0)
        result += [outcome(later.send, b"y"), len(poll.poll(0))]
        reader = threading.Timer(0.05, server.recv, [10])
        reader.start()
        result += [len(poll.poll(20)), outcome(later.send, b"y")]
        reader.join()
        poll.close()
        raw.connect(later.fileno(), bytes(16), 16)
    return sent, result


@check
def large_transfer_arrives_whole():
    left, right = pair()
    data = bytes(range(256)) * 8000
    thread = threading.Thread(target=lambda: (left.sendall(data), left.close()))
    thread.start()
    got = bytearray()
    while piece := right.recv(70_000):
        got += piece
    thread.join()
    return len(got), bytes(got) == data


@check
def message_bad_arguments():
    left, right = pair()
    right.send(b"data")
    return (
        outcome(raw.sendmsg, left.fileno(), UNMAPPED, 0),
        outcome(raw.recvmsg, left.fileno(), UNMAPPED, 0),
        outcome(raw.sendto, left.fileno(), UNMAPPED, 5, 0, None, 0),
        outcome(raw.recvfrom, left.fileno(), UNMAPPED, 4, 0, None, None),
        outcome(raw.sendto, left.fileno(), b"x", 1, 0, b"\x01\0name\0", 7),
        outcome(left.sendmsg, [b"a", b"b"]),
        right.recv(10),
    )


@check
def several_messages_at_once():
    left, right = pair(DATAGRAM)
    buffers = [ctypes.create_string_buffer(t, 8) for t in (b"first", b"second")]
    vectors = (ctypes.c_uint64 * 4)()
    headers = ctypes.create_string_buffer(128)
    for i, buffer in enumerate(buffers):
        vectors[2 * i] = ctypes.addressof(buffer)
        vectors[2 * i + 1] = 5
        struct.pack_into("<QI4xQQQQIII4x", headers, 64 * i, 0, 0, ctypes.addressof(vectors) + 16 * i, 1, 0, 0, 0, 0, 0)
    sent = raw.sendmmsg(left.fileno(), headers, 2, 0)
    lengths = [struct.unpack_from("<I", headers, 64 * i + 56)[0] for i in range(2)]
    received = raw.recvmmsg(right.fileno(), headers, 2, socket.MSG_DONTWAIT, None)
    return sent, lengths, received, [b.raw[:5] for b in buffers]


@check
def waiting_bytes_are_counted():
    left, right = pair()
    left.send(b"12345")
    count = array.array("i", [0])
    fcntl.ioctl(right, termios.FIONREAD, count)
    return count[0]


@check
def sockets_work_as_files():
    left, right = pair()
    os.write(left.fileno(), b"by write")
    return (
        os.read(right.fileno(), 100),
        outcome(os.lseek, left.fileno(), 0, 0),
        outcome(os.open, "server", os.O_RDWR),
        os.readlink(f"/proc/self/fd/{left.fileno()}").startswith("socket:["),
    )


@check
def sent_socket_survives_its_sender():
    left, right = pair()
    inner, outer = pair()
    socket.send_fds(left, [b"x"], [inner.fileno()])
    inner.close()
    left.close()
    _, fds, _, _ = socket.recv_fds(right, 10, 1)
    os.write(fds[0], b"alive")
    return outer.recv(10)


@check
def cycle_of_sent_sockets_is_freed():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        left, right = pair()
        socket.send_fds(left, [b"x"], [right.fileno(), left.fileno()])
        left.close()
        right.close()
    return len(os.listdir("/proc/self/fd")) - before


@check
def socketserver_answers_in_threads():
    import socketserver

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline().upper())

    with socketserver.ThreadingUnixStreamServer("service", Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        answers = []
        for word in (b"one\n", b"two\n"):
            client = socket.socket(socket.AF_UNIX)
            client.connect("service")
            client.sendall(word)
            answers.append(client.makefile("rb").read())
        server.shutdown()
    return answers


def ends(reader):
    """Whether a pipe comes to its end: whoever could write has let it go."""
    return select.select([reader], [], [], 20)[0] == [reader] and os.read(reader, 1) == b""


def someone_closes_a_socket():
    """What makes Linux look for sockets that nobody can reach."""
    left, right = pair()
    left.close()
    right.close()


@check
def sockets_that_only_carry_each_other_are_freed():
    result = []
    for kind in (STREAM, DATAGRAM, PACKET):
        reader, writer = os.pipe()
        left, right = pair(kind)
        socket.send_fds(left, [b"x"], [right.fileno(), writer])
        socket.send_fds(right, [b"x"], [left.fileno()])
        for one in left, right:
            one.close()
        os.close(writer)
        someone_closes_a_socket()
        result.append(ends(reader))
    return result


@check
def longer_circles_are_freed():
    reader, writer = os.pipe()
    pairs = [pair() for _ in range(5)]
    for index, (left, _) in enumerate(pairs):
        following = pairs[(index + 1) % 5]
        socket.send_fds(left, [b"x"], [following[0].fileno(), following[1].fileno()])
    socket.send_fds(pairs[0][0], [b"x"], [writer])
    for left, right in pairs:
        left.close()
        right.close()
    os.close(writer)
    someone_closes_a_socket()
    return ends(reader)


@check
def connection_not_yet_accepted_is_freed():
    reader, writer = os.pipe()
    server = socket.socket(socket.AF_UNIX)
    server.bind("circle")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("circle")
    socket.send_fds(client, [b"x"], [server.fileno(), writer])
    os.unlink("circle")
    client.close()
    server.close()
    os.close(writer)
    someone_closes_a_socket()
    return ends(reader)


@check
def socket_that_somebody_can_still_receive_stays():
    outside, carrier = pair()
    left, right = pair()
    reader, writer = os.pipe()
    socket.send_fds(left, [b"x"], [right.fileno(), writer])
    socket.send_fds(outside, [b"inner"], [right.fileno()])
    left.close()
    right.close()
    os.close(writer)
    for _ in range(3):
        someone_closes_a_socket()
    early = select.select([reader], [], [], 0.3)[0]
    _, fds, _, _ = socket.recv_fds(carrier, 10, 1)
    received = socket.socket(fileno=fds[0])
    inner = socket.recv_fds(received, 10, 2)
    for fd in inner[1]:
        os.close(fd)
    received.close()
    someone_closes_a_socket()
    return early, inner[0], len(inner[1]), ends(reader)


@check
def too_many_files_on_their_way_are_refused():
    def body():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        os.setuid(1234)
        left, right = pair(DATAGRAM)
        sent = 0
        try:
            for _ in range(20):
                left.setblocking(False)
                socket.send_fds(left, [b"x"], [0] * 10)
                sent += 10
        except OSError as error:
            print(sent, errno.errorcode[error.errno])
        for _ in range(sent // 10):
            for fd in socket.recv_fds(right, 1, 20)[1]:
                os.close(fd)
        socket.send_fds(left, [b"x"], [0])
        print("again")

    return in_child(body)


PEERPIDFD = 77


def process_of(fd):
    fields = dict(line.split(":\t") for line in open(f"/proc/self/fdinfo/{fd}").read().splitlines() if line.startswith("Pid"))
    return int(fields["Pid"])


@check
def peer_can_be_had_as_a_descriptor():
    server = socket.socket(socket.AF_UNIX)
    server.bind("peer-process")
    server.listen()
    child = os.fork()
    if child == 0:
        client = socket.socket(socket.AF_UNIX)
        client.connect("peer-process")
        client.recv(1)
        os._exit(0)
    accepted, _ = server.accept()
    fd = accepted.getsockopt(socket.SOL_SOCKET, PEERPIDFD)
    same = process_of(fd) == child, fcntl.fcntl(fd, fcntl.F_GETFD)
    listening = process_of(server.getsockopt(socket.SOL_SOCKET, PEERPIDFD)) == os.getpid()
    left, _right = pair()
    own = process_of(left.getsockopt(socket.SOL_SOCKET, PEERPIDFD)) == os.getpid()
    accepted.send(b"x")
    os.waitpid(child, 0)
    return (
        same,
        listening,
        own,
        outcome(socket.socket(socket.AF_UNIX).getsockopt, socket.SOL_SOCKET, PEERPIDFD),
        outcome(socket.socket(socket.AF_INET).getsockopt, socket.SOL_SOCKET, PEERPIDFD),
        outcome(left.setsockopt, socket.SOL_SOCKET, PEERPIDFD, 1),
    )
