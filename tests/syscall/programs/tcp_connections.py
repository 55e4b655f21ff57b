"""TCP over the loopback: addresses and ports, connecting, listening, accepting."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import threading
import time

from harness import UNMAPPED, check, outcome, raw
from tcp_tools import V4, V6, LOOP, stream, listener, pair, nonblocking, error_of, ready, state, settle, closed_port


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
def attempt_that_was_given_up_leaves_the_next_alone():
    servers = [listener(backlog=0) for _ in range(2)]
    fillers = [nonblocking() for _ in servers]
    for filler, server in zip(fillers, servers):
        outcome(filler.connect, server.getsockname())
    client = nonblocking()
    outcome(client.connect, servers[0].getsockname())
    raw.connect(client.fileno(), bytes(16), 16)
    result = [outcome(client.connect, servers[1].getsockname())]
    servers[0].close()
    time.sleep(0.1)
    result += [state(client), error_of(client)]
    servers[1].accept()
    settle(client, select.POLLOUT)
    return result + [client.getpeername() == servers[1].getsockname()]


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
