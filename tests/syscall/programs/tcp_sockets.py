"""TCP over the loopback: binding, connecting, both streams, their ends, readiness, options."""

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import threading
import time

from harness import UNMAPPED, check, in_child, outcome, raw

V4, V6, STREAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM
LOOP = "127.0.0.1"


def stream(family=V4, **options):
    made = socket.socket(family, STREAM)
    for name, value in options.items():
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    return made


def listener(family=V4, address=None, backlog=8, **options):
    server = stream(family, **options)
    server.bind((address if address is not None else LOOP if family == V4 else "::1", 0))
    server.listen(backlog)
    return server


def pair(family=V4):
    server = listener(family)
    client = stream(family)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    server.close()
    return client, accepted


def nonblocking(family=V4):
    made = stream(family)
    made.setblocking(False)
    return made


def error_of(made):
    return errno.errorcode.get(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "none")


def ready(*sockets):
    """What poll says of each, by the names of its bits."""
    poller = select.poll()
    for one in sockets:
        poller.register(one, 0x7FFF)
    found = dict(poller.poll(0))
    return [events(found.get(one.fileno(), 0)) for one in sockets]


NAMES = ("IN", "PRI", "OUT", "ERR", "HUP", "NVAL", "RDNORM", "RDBAND", "WRNORM", "WRBAND", "MSG", "RDHUP")


def events(bits):
    return " ".join(name for name in NAMES if bits & getattr(select, "POLL" + name, 0))


def state(made):
    return made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def settle(made, wanted):
    """Waits until poll shows a bit: what Linux's loopback does a moment after the call returned."""
    poller = select.poll()
    poller.register(made, wanted)
    return poller.poll(5000)


def closed_port():
    probe = stream()
    probe.bind((LOOP, 0))
    port = probe.getsockname()[1]
    probe.close()
    return port


@check
def socket_bad_arguments():
    return (
        outcome(raw.socket, 2, 1, 17),
        outcome(raw.socket, 2, 2, 6),
        outcome(raw.socket, 2, 5, 0),
        outcome(raw.socket, 2, 4, 0),
        outcome(raw.socket, 2, 3, 0),
        outcome(raw.socket, 2, 1, 9999),
        outcome(raw.socket, 2, 1, -1),
        outcome(raw.socket, 2, 1, 300),
        outcome(raw.socket, 10, 1, 17),
        outcome(raw.socket, 10, 5, 0),
        outcome(raw.socketpair, 2, 1, 0, (ctypes.c_int * 2)()),
        outcome(raw.socketpair, 10, 2, 0, (ctypes.c_int * 2)()),
        outcome(raw.socket, 29, 3, 1),
        outcome(raw.socket, 40, 1, 0),
        outcome(raw.socket, 3, 1, 0),
    )


@check
def new_socket_knows_itself():
    made = stream()
    level = socket.SOL_SOCKET
    return (
        made.getsockopt(level, socket.SO_TYPE),
        made.getsockopt(level, socket.SO_DOMAIN),
        made.getsockopt(level, socket.SO_PROTOCOL),
        made.getsockopt(level, socket.SO_ACCEPTCONN),
        listener().getsockopt(level, socket.SO_ACCEPTCONN),
        stream(V6).getsockopt(level, socket.SO_DOMAIN),
        made.getsockname(),
        stream(V6).getsockname(),
        outcome(made.getpeername),
        ready(made),
        state(made),
    )


@check
def bind_bad_addresses():
    made, six = stream(), stream(V6)
    fd = made.fileno()
    return (
        outcome(raw.bind, fd, b"\x02\0\0\0\x7f\0\0\x01", 8),
        outcome(raw.bind, fd, b"\x02\0\0\0\x7f\0\0\x01" + bytes(8), 15),
        outcome(raw.bind, fd, b"\x01\0\0\0\x7f\0\0\x01" + bytes(8), 16),
        outcome(raw.bind, fd, b"\0\0\0\0\x7f\0\0\x01" + bytes(8), 16),
        outcome(raw.bind, fd, UNMAPPED, 16),
        outcome(raw.bind, fd, b"\x02\0\0\0\x7f\0\0\x01" + bytes(8), 999),
        outcome(raw.bind, fd, b"\x02\0\0\0\x7f\0\0\x01" + bytes(8), -1),
        outcome(made.bind, ("10.1.2.3", 0)),
        outcome(six.bind, ("2001:db8::1", 0)),
        outcome(six.bind, ("ff02::1", 0)),
        outcome(six.bind, ("fe80::1", 0)),
        outcome(raw.bind, six.fileno(), b"\x0a\0" + bytes(21), 23),
        outcome(raw.bind, six.fileno(), b"\x02\0" + bytes(26), 28),
        outcome(raw.bind, fd, bytes(16), 16),
        outcome(made.bind, (LOOP, 0)),
    )


@check
def second_bind_is_refused():
    made = stream()
    made.bind((LOOP, 0))
    client, accepted = pair()
    return outcome(made.bind, (LOOP, 0)), outcome(client.bind, (LOOP, 0)), outcome(accepted.bind, (LOOP, 0))


@check
def chosen_ports_are_in_range_and_differ():
    low, high = map(int, open("/proc/sys/net/ipv4/ip_local_port_range").read().split())
    held = [listener() for _ in range(50)]
    ports = [one.getsockname()[1] for one in held]
    return all(low <= port <= high for port in ports), len(set(ports)), (low, high)


@check
def port_in_use():
    server = listener()
    port = server.getsockname()[1]
    result = []
    for address in (LOOP, "0.0.0.0", "127.0.0.2"):
        result.append(outcome(stream().bind, (address, port)))
        result.append(outcome(stream(SO_REUSEADDR=1).bind, (address, port)))
        result.append(outcome(stream(SO_REUSEPORT=1).bind, (address, port)))
    result.append(outcome(stream(V6).bind, ("::", port)))
    result.append(outcome(stream(V6).bind, ("::1", port)))
    only = stream(V6)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    result.append(outcome(only.bind, ("::", port)))
    result.append(outcome(stream(V6).bind, ("::ffff:127.0.0.1", port)))
    return result


@check
def reuse_address_shares_until_one_listens():
    first, second, third = stream(SO_REUSEADDR=1), stream(SO_REUSEADDR=1), stream()
    first.bind((LOOP, 0))
    address = first.getsockname()
    return (
        outcome(second.bind, address),
        outcome(third.bind, address),
        outcome(first.listen, 1),
        outcome(second.listen, 1),
        outcome(stream(SO_REUSEADDR=1).bind, address),
    )


@check
def reuse_port_shares_a_listener():
    first, second = stream(SO_REUSEPORT=1), stream(SO_REUSEPORT=1)
    first.bind((LOOP, 0))
    result = [outcome(second.bind, first.getsockname()), outcome(first.listen, 4), outcome(second.listen, 4)]
    clients = [stream() for _ in range(4)]
    for client in clients:
        client.connect(first.getsockname())
    first.setblocking(False)
    second.setblocking(False)
    taken = 0
    for server in (first, second):
        while isinstance(outcome(server.accept), tuple):
            taken += 1
    return result + [taken]


@check
def time_wait_keeps_the_port_from_others():
    server = listener()
    address = server.getsockname()
    client = stream()
    client.connect(address)
    accepted, _ = server.accept()
    server.close()
    # The server's end goes first: its address waits.
    accepted.close()
    client.close()
    time.sleep(0.05)
    return outcome(stream().bind, address), outcome(stream(SO_REUSEADDR=1).bind, address)


@check
def client_that_closes_first_leaves_the_server_free():
    server = listener()
    address = server.getsockname()
    client = stream()
    client.connect(address)
    accepted, _ = server.accept()
    server.close()
    client.close()
    settle(accepted, select.POLLIN)
    accepted.close()
    time.sleep(0.05)
    return outcome(stream().bind, address)


@check
def accepted_connection_keeps_the_port():
    server = listener()
    address = server.getsockname()
    client = stream()
    client.connect(address)
    accepted, _ = server.accept()
    server.close()
    return outcome(stream().bind, address), outcome(stream(SO_REUSEADDR=1).bind, address), accepted.close()


@check
def dual_stack_listener_takes_both():
    server = stream(V6)
    server.bind(("::", 0))
    server.listen()
    port = server.getsockname()[1]
    result = []
    for family, address in ((V4, LOOP), (V6, "::1"), (V6, "::ffff:127.0.0.1")):
        client = stream(family)
        client.connect((address, port))
        accepted, peer = server.accept()
        result.append((peer[0], accepted.getsockname()[0], client.getpeername()[0], client.getsockname()[0]))
    return result


@check
def v6_only_listener_takes_one():
    server = stream(V6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::", 0))
    server.listen()
    port = server.getsockname()[1]
    four = stream()
    only = stream(V6)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return (
        outcome(four.connect, (LOOP, port)),
        outcome(stream(V6).connect, ("::1", port)),
        outcome(only.connect, ("::ffff:127.0.0.1", port)),
        outcome(server.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0),
        outcome(server.bind, ("::ffff:127.0.0.1", 0)),
        outcome(only.bind, ("::ffff:127.0.0.1", 0)),
    )


@check
def any_address_means_this_machine():
    server = listener(address="0.0.0.0")
    port = server.getsockname()[1]
    client, six = stream(), stream(V6)
    client.connect(("0.0.0.0", port))
    server6 = listener(V6, "::")
    six.connect(("::", server6.getsockname()[1]))
    other = stream()
    other.bind(("127.0.0.3", 0))
    other.connect(("127.0.0.9", port))
    return client.getpeername()[0], client.getsockname()[0], six.getpeername()[0], other.getsockname()[0]


@check
def connect_bad_addresses():
    made, six = stream(), stream(V6)
    fd = made.fileno()
    good = b"\x02\0\x12\x34\x7f\0\0\x01" + bytes(8)
    return (
        outcome(raw.connect, fd, good, 8),
        outcome(raw.connect, fd, good, 15),
        outcome(raw.connect, fd, good, 1),
        outcome(raw.connect, fd, good, 0),
        outcome(raw.connect, fd, UNMAPPED, 16),
        outcome(raw.connect, fd, b"\x0a" + good[1:], 16),
        outcome(raw.connect, six.fileno(), good + bytes(12), 28),
        outcome(raw.connect, six.fileno(), b"\x0a\0" + bytes(20), 22),
        outcome(made.connect, ("10.1.2.3", 1)),
        outcome(made.connect, ("255.255.255.255", 1)),
        outcome(made.connect, ("224.0.0.1", 1)),
        outcome(made.connect, ("127.255.255.255", 1)),
        outcome(six.connect, ("2001:db8::1", 1)),
        outcome(six.connect, ("fe80::1", 1)),
        outcome(six.connect, ("ff02::1", 1)),
        outcome(made.connect, (LOOP, 0)),
    )


@check
def refused_connection():
    made, waiting = stream(), nonblocking()
    port = closed_port()
    result = [outcome(made.connect, (LOOP, port)), error_of(made), ready(made)]
    result += [outcome(waiting.connect, (LOOP, port))]
    settle(waiting, select.POLLOUT)
    result += [ready(waiting), error_of(waiting), error_of(waiting), outcome(waiting.connect, (LOOP, port))]
    again = nonblocking()
    result += [outcome(again.connect, (LOOP, port))]
    settle(again, select.POLLOUT)
    return result + [outcome(again.connect, (LOOP, port)), ready(again)]


@check
def refused_socket_can_try_again():
    made, server = stream(), listener()
    return (
        outcome(made.connect, (LOOP, closed_port())),
        outcome(made.connect, server.getsockname()),
        outcome(made.connect, server.getsockname()),
    )


@check
def nonblocking_connect():
    server, made = listener(), nonblocking()
    address = server.getsockname()
    result = [outcome(made.connect, address)]
    settle(made, select.POLLOUT)
    result += [ready(made), error_of(made), state(made), outcome(made.connect, address), outcome(made.connect, address)]
    return result + [ready(server)]


@check
def disconnect_and_connect_again():
    server, made = listener(), stream()
    address = server.getsockname()
    made.connect(address)
    accepted, _ = server.accept()
    result = [raw.connect(made.fileno(), bytes(16), 16), ready(made), outcome(made.getpeername)]
    settle(accepted, select.POLLIN)
    result += [ready(accepted), outcome(accepted.recv, 1), error_of(made)]
    made.connect(address)
    return result + [made.getpeername() == address]


@check
def connect_to_itself():
    made = stream()
    made.bind((LOOP, 0))
    made.connect(made.getsockname())
    made.send(b"echo")
    result = [made.getpeername() == made.getsockname(), made.recv(10), ready(made)]
    made.shutdown(socket.SHUT_WR)
    settle(made, select.POLLIN)
    return result + [made.recv(10), ready(made)]


@check
def one_connection_between_two_addresses():
    server = listener()
    first, second = stream(SO_REUSEADDR=1), stream(SO_REUSEADDR=1)
    first.bind((LOOP, 0))
    second.bind(first.getsockname())
    return outcome(first.connect, server.getsockname()), outcome(second.connect, server.getsockname())


@check
def listen_and_accept_states():
    made, other = stream(), stream()
    client, accepted = pair()
    unbound = stream()
    unbound.listen()
    listening = listener()
    listening.setblocking(False)
    return (
        outcome(made.accept),
        outcome(accepted.listen),
        outcome(accepted.accept),
        unbound.getsockname()[0],
        unbound.getsockname()[1] != 0,
        outcome(listening.listen, 3),
        outcome(listening.accept),
        outcome(listening.connect, (LOOP, 9)),
        outcome(listening.recv, 1),
        outcome(listening.send, b"x"),
        outcome(listening.getpeername),
        outcome(other.recv, 1),
        outcome(other.send, b"x", socket.MSG_NOSIGNAL),
        outcome(other.shutdown, socket.SHUT_RD),
        outcome(other.shutdown, 7),
        ready(listening),
    )


@check
def shut_listener_stops():
    server = listener()
    address = server.getsockname()
    waiter = []
    thread = threading.Thread(target=lambda: waiter.append(outcome(server.accept)))
    thread.start()
    time.sleep(0.1)
    server.shutdown(socket.SHUT_RD)
    thread.join()
    result = [waiter, ready(server), outcome(stream().connect, address)]
    server.listen()
    return result + [outcome(stream().connect, address)]


@check
def closed_listener_resets_who_waits():
    server, client = listener(), stream()
    client.connect(server.getsockname())
    server.close()
    settle(client, select.POLLIN)
    return ready(client), outcome(client.recv, 1), outcome(client.recv, 1), outcome(client.send, b"x", socket.MSG_NOSIGNAL)


@check
def full_queue_keeps_clients_waiting():
    server = listener(backlog=1)
    clients = [nonblocking() for _ in range(4)]
    first = [outcome(client.connect, server.getsockname()) for client in clients]
    time.sleep(0.1)
    result = [first, ready(*clients[:2]), ready(clients[3])]
    accepted = [server.accept()[0] for _ in range(4)]
    return result + [all(settle(client, select.POLLOUT) for client in clients), len(accepted)]


@check
def accepted_socket_inherits():
    server = listener(SO_KEEPALIVE=1, SO_REUSEADDR=1, SO_OOBINLINE=1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    server.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
    server.setblocking(False)
    stream().connect(server.getsockname())
    settle(server, select.POLLIN)
    accepted, _ = server.accept()
    level = socket.SOL_SOCKET
    return (
        accepted.getsockopt(level, socket.SO_KEEPALIVE),
        accepted.getsockopt(level, socket.SO_REUSEADDR),
        accepted.getsockopt(level, socket.SO_OOBINLINE),
        struct.unpack("ii", accepted.getsockopt(level, socket.SO_LINGER, 8)),
        accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        accepted.getsockopt(socket.IPPROTO_IP, socket.IP_TTL),
        bool(fcntl.fcntl(accepted, fcntl.F_GETFL) & os.O_NONBLOCK),
        bool(fcntl.fcntl(accepted, fcntl.F_GETFD) & fcntl.FD_CLOEXEC),
    )


@check
def streams_carry_both_ways():
    result = []
    for family in (V4, V6):
        client, accepted = pair(family)
        client.sendall(b"to the server")
        accepted.sendall(b"to the client")
        result.append((accepted.recv(6), accepted.recv(100), client.recv(100)))
    return result


@check
def much_arrives_whole():
    client, accepted = pair()
    data = os.urandom(1 << 20) * 8

    def send():
        client.sendall(data)
        client.close()

    thread = threading.Thread(target=send)
    thread.start()
    parts = []
    while part := accepted.recv(100_000):
        parts.append(part)
    thread.join()
    return b"".join(parts) == data


@check
def ways_to_send_and_receive():
    client, accepted = pair()
    client.sendmsg([b"one ", b"two "])
    client.sendto(b"three ", ("1.2.3.4", 5))
    os.writev(client.fileno(), [b"four ", b"five"])
    time.sleep(0.05)
    first, second = bytearray(6), bytearray(100)
    size, _, flags, address = accepted.recvmsg_into([first, second])
    client.send(b"six")
    return bytes(first), bytes(second[: size - 6]), flags, address, accepted.recvfrom(10)


@check
def sendfile_to_a_stream():
    client, accepted = pair()
    fd = os.open("data", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"0123456789" * 1000)
    sent = os.sendfile(client.fileno(), fd, 5, 5000)
    return sent, accepted.recv(5000, socket.MSG_WAITALL) == (b"0123456789" * 1000)[5:5005]


@check
def peek_waitall_and_truncation():
    client, accepted = pair()
    client.sendall(b"peeked at")
    settle(accepted, select.POLLIN)
    result = [accepted.recv(4, socket.MSG_PEEK), accepted.recv(100, socket.MSG_PEEK)]
    threading.Timer(0.1, client.send, (b" more",)).start()
    result += [accepted.recv(14, socket.MSG_WAITALL)]
    client.send(b"thrown away")
    settle(accepted, select.POLLIN)
    result += [accepted.recv_into(bytearray(6), 6, socket.MSG_TRUNC), accepted.recv(100)]
    return result + [outcome(accepted.recv, 1, socket.MSG_DONTWAIT), outcome(accepted.recv, 1, socket.MSG_ERRQUEUE)]


@check
def nothing_yet():
    client, accepted = pair()
    accepted.setblocking(False)
    result = [outcome(accepted.recv, 1), ready(client, accepted)]
    accepted.setblocking(True)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    return result + [outcome(accepted.recv, 1)]


@check
def low_water_mark():
    client, accepted = pair()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5)
    client.send(b"abc")
    time.sleep(0.05)
    result = [ready(accepted)]
    client.send(b"de")
    settle(accepted, select.POLLIN)
    return result + [ready(accepted), accepted.recv(10), accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)]


@check
def full_stream_waits_for_the_reader():
    client, accepted = pair()
    client.setblocking(False)
    sent = 0
    while isinstance(step := outcome(client.send, bytes(65536)), int):
        sent += step
    result = [step, ready(client), sent > 200_000]
    got = 0
    while got < sent:
        got += len(accepted.recv(1 << 20))
    settle(client, select.POLLOUT)
    return result + [ready(client), got == sent]


@check
def end_of_stream():
    client, accepted = pair()
    client.send(b"last")
    client.shutdown(socket.SHUT_WR)
    settle(accepted, select.POLLRDHUP)
    result = [ready(client, accepted), state(accepted), accepted.recv(10), accepted.recv(10)]
    result += [outcome(client.send, b"x", socket.MSG_NOSIGNAL), accepted.send(b"still")]
    result += [client.recv(10), ready(client)]
    accepted.shutdown(socket.SHUT_WR)
    settle(client, select.POLLHUP)
    result += [ready(client, accepted), client.recv(10), outcome(client.getpeername), outcome(accepted.getpeername)]
    return result + [outcome(client.shutdown, socket.SHUT_RDWR), state(client), state(accepted)]


@check
def reading_end_shut():
    client, accepted = pair()
    client.shutdown(socket.SHUT_RD)
    result = [ready(client), client.recv(10)]
    accepted.send(b"anyway")
    time.sleep(0.05)
    return result + [client.recv(10), client.recv(10), ready(client, accepted)]


@check
def closed_peer_is_the_end_then_a_broken_pipe():
    client, accepted = pair()
    accepted.close()
    settle(client, select.POLLRDHUP)
    result = [ready(client), client.recv(1), client.send(b"first")]
    settle(client, select.POLLHUP)
    result += [ready(client), outcome(client.send, b"second", socket.MSG_NOSIGNAL)]
    return result + [client.recv(1), error_of(client), ready(client)]


@check
def unread_data_at_close_is_a_reset():
    client, accepted = pair()
    client.send(b"unread")
    settle(accepted, select.POLLIN)
    accepted.send(b"kept?")
    settle(client, select.POLLIN)
    accepted.close()
    settle(client, select.POLLHUP)
    return (
        ready(client),
        outcome(client.recv, 10),
        outcome(client.recv, 10),
        outcome(client.recv, 10),
        outcome(client.send, b"x", socket.MSG_NOSIGNAL),
        error_of(client),
    )


@check
def linger_of_zero_is_a_reset():
    client, accepted = pair()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()
    settle(client, select.POLLHUP)
    return ready(client), error_of(client), ready(client), client.recv(1)


@check
def reset_wakes_a_reader():
    client, accepted = pair()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    threading.Timer(0.1, accepted.close).start()
    return outcome(client.recv, 1)


@check
def broken_pipe_kills_by_default():
    def writer():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        client, _ = pair()
        client.shutdown(socket.SHUT_WR)
        client.send(b"x")

    return in_child(writer)


@check
def urgent_byte():
    client, accepted = pair()
    client.send(b"abc")
    client.send(b"de!", socket.MSG_OOB)
    client.send(b"fgh")
    settle(accepted, select.POLLPRI)
    time.sleep(0.05)
    mark = lambda: struct.unpack("i", fcntl.ioctl(accepted, 0x8905, bytes(4)))[0]
    available = lambda: struct.unpack("i", fcntl.ioctl(accepted, termios.FIONREAD, bytes(4)))[0]
    result = [ready(accepted), mark(), available(), accepted.recv(100), mark(), ready(accepted)]
    result += [accepted.recv(1, socket.MSG_OOB | socket.MSG_PEEK), accepted.recv(1, socket.MSG_OOB)]
    result += [outcome(accepted.recv, 1, socket.MSG_OOB), ready(accepted), accepted.recv(100), mark(), ready(accepted)]
    return result


@check
def urgent_byte_inline():
    client, accepted = pair()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    client.send(b"ab!", socket.MSG_OOB)
    client.send(b"c")
    settle(accepted, select.POLLPRI)
    time.sleep(0.05)
    return (
        outcome(accepted.recv, 1, socket.MSG_OOB),
        accepted.recv(100),
        ready(accepted),
        accepted.recv(100),
        ready(accepted),
        outcome(client.recv, 1, socket.MSG_OOB),
    )


@check
def queue_sizes():
    client, accepted = pair()
    client.send(b"12345")
    settle(accepted, select.POLLIN)
    size = lambda made, call: struct.unpack("i", fcntl.ioctl(made, call, bytes(4)))[0]
    return (
        size(accepted, termios.FIONREAD),
        size(client, termios.TIOCOUTQ),
        outcome(size, listener(), termios.FIONREAD),
        size(stream(), termios.FIONREAD),
        outcome(fcntl.ioctl, client, 0x5401, bytes(60)),
    )


@check
def buffer_sizes():
    made = stream()
    level, result = socket.SOL_SOCKET, []
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        result.append(made.getsockopt(level, option))
        for size in (0, 1, 5000, 1 << 20, 1 << 30, -1):
            made.setsockopt(level, option, size)
            result.append(made.getsockopt(level, option))
    made.setsockopt(level, 33, 1 << 20)
    return result + [made.getsockopt(level, socket.SO_RCVBUF)]


@check
def options_of_tcp():
    made, result = stream(), []
    level = socket.IPPROTO_TCP
    for name in (
        "TCP_NODELAY",
        "TCP_CORK",
        "TCP_MAXSEG",
        "TCP_KEEPIDLE",
        "TCP_KEEPINTVL",
        "TCP_KEEPCNT",
        "TCP_SYNCNT",
        "TCP_LINGER2",
        "TCP_DEFER_ACCEPT",
        "TCP_QUICKACK",
        "TCP_USER_TIMEOUT",
        "TCP_FASTOPEN",
        "TCP_NOTSENT_LOWAT",
        "TCP_INQ",
        "TCP_FASTOPEN_CONNECT",
        "TCP_REPAIR",
        "TCP_SAVE_SYN",
    ):
        option = getattr(socket, name, None) or {"TCP_INQ": 36, "TCP_REPAIR": 19, "TCP_SAVE_SYN": 27}[name]
        found = [outcome(made.getsockopt, level, option)]
        for value in (0, 1, 5, 100, 200, 40000, -1):
            if name == "TCP_REPAIR":
                break
            found.append(outcome(made.setsockopt, level, option, value))
            found.append(outcome(made.getsockopt, level, option))
        result.append((name, found))
    return result


@check
def congestion_control():
    made, level = stream(), socket.IPPROTO_TCP
    name = lambda: made.getsockopt(level, socket.TCP_CONGESTION, 16).rstrip(b"\0")
    result = [name(), outcome(made.setsockopt, level, socket.TCP_CONGESTION, b"reno"), name()]
    result += [outcome(made.setsockopt, level, socket.TCP_CONGESTION, b"nonsense")]
    return result + [outcome(made.setsockopt, level, socket.TCP_CONGESTION, b"cubic\0"), name()]


@check
def options_of_ip():
    result = []
    for family, level, names in (
        (V4, 0, ("IP_TOS", "IP_TTL", "IP_RECVTOS", "IP_RECVTTL", "IP_PKTINFO", "IP_MTU", "IP_MTU_DISCOVER", "IP_RECVERR", "IP_FREEBIND", "IP_TRANSPARENT", "IP_BIND_ADDRESS_NO_PORT", "IP_MULTICAST_TTL", "IP_MULTICAST_LOOP", "IP_MINTTL", "IP_HDRINCL")),
        (V6, 41, ("IPV6_V6ONLY", "IPV6_UNICAST_HOPS", "IPV6_TCLASS", "IPV6_RECVPKTINFO", "IPV6_RECVHOPLIMIT", "IPV6_RECVTCLASS", "IPV6_MTU", "IPV6_MTU_DISCOVER", "IPV6_DONTFRAG", "IPV6_RECVERR", "IPV6_AUTOFLOWLABEL", "IPV6_ADDR_PREFERENCES")),
    ):
        for name in names:
            made = stream(family)
            option = getattr(socket, name, None) or {
                "IP_MTU": 14, "IP_MTU_DISCOVER": 10, "IP_RECVTTL": 12, "IP_PKTINFO": 8, "IP_FREEBIND": 15, "IP_MINTTL": 21,
                "IPV6_MTU": 24, "IPV6_MTU_DISCOVER": 23, "IPV6_AUTOFLOWLABEL": 70, "IPV6_ADDR_PREFERENCES": 72,
                "IP_RECVERR": 11, "IPV6_RECVERR": 25, "IP_HDRINCL": 3,
            }[name]
            found = [outcome(made.getsockopt, level, option)]
            for value in (0, 1, 7, 255, 256, -1):
                found.append(outcome(made.setsockopt, level, option, value))
                found.append(outcome(made.getsockopt, level, option))
            result.append((name, found))
    return result


@check
def options_nobody_knows():
    made = stream()
    client, _ = pair()
    return (
        outcome(made.getsockopt, socket.IPPROTO_TCP, 9999),
        outcome(made.setsockopt, socket.IPPROTO_TCP, 9999, 1),
        outcome(made.getsockopt, socket.SOL_SOCKET, 9999),
        outcome(made.setsockopt, socket.SOL_SOCKET, 9999, 1),
        outcome(made.getsockopt, 0, 9999),
        outcome(made.setsockopt, 0, 9999, 1),
        outcome(made.getsockopt, 41, 26),
        outcome(made.setsockopt, 41, 26, 1),
        outcome(made.getsockopt, 17, 1),
        outcome(made.setsockopt, 999, 1, 1),
        outcome(made.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, b"x"),
        outcome(raw.setsockopt, made.fileno(), 6, 1, UNMAPPED, 4),
        outcome(raw.getsockopt, made.fileno(), 6, 1, UNMAPPED, (ctypes.c_int * 1)(4)),
        outcome(raw.setsockopt, made.fileno(), 6, 1, b"\1\0\0\0", -1),
        client.getsockopt(0, 14),
        client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
    )


@check
def bound_to_an_interface():
    made = stream()
    level, option = socket.SOL_SOCKET, 25
    return (
        outcome(made.setsockopt, level, option, b"lo\0"),
        made.getsockopt(level, option, 16),
        outcome(made.setsockopt, level, option, b"nope\0"),
        outcome(made.setsockopt, level, option, b""),
        made.getsockopt(level, option, 16),
        outcome(made.setsockopt, level, 62, 1),
        made.getsockopt(level, 62),
    )


@check
def passed_through_a_local_socket():
    left, right = socket.socketpair()
    client, accepted = pair()
    socket.send_fds(left, [b"x"], [accepted.fileno()])
    accepted.close()
    _, fds, _, _ = socket.recv_fds(right, 1, 1)
    with socket.socket(fileno=fds[0]) as moved:
        client.send(b"to the moved one")
        result = moved.recv(100)
    return result, client.recv(1)


@check
def shared_with_a_child():
    client, accepted = pair()

    def child():
        accepted.send(b"from the child")

    status = in_child(child)
    accepted.close()
    return status, client.recv(100), client.recv(1)


@check
def epoll_on_an_edge():
    client, accepted = pair()
    with select.epoll() as poller:
        poller.register(accepted, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
        result = [poller.poll(0)]
        client.send(b"one")
        result += [len(poller.poll(1)), len(poller.poll(0))]
        client.send(b"two")
        result += [len(poller.poll(1)), accepted.recv(100), len(poller.poll(0))]
        client.close()
        return result + [events(poller.poll(1)[0][1])]


@check
def connections_in_proc():
    server = listener()
    port = server.getsockname()[1]
    rows = [line.split() for line in open("/proc/net/tcp")]
    found = [row for row in rows if row[1] == f"0100007F:{port:04X}"]
    inode = os.fstat(server.fileno()).st_ino
    return len(rows[0]), [(row[2], row[3], row[4], row[9] == str(inode)) for row in found]
