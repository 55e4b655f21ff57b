"""TCP over the loopback: both streams, their ends, readiness, options."""

import ctypes
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
from tcp_tools import V4, V6, stream, listener, pair, error_of, ready, events, state, settle


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
def bound_socket_is_not_in_proc():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        ending = f":{bound.getsockname()[1]:04X}"
        return any(line.split()[1].endswith(ending) for line in open("/proc/net/tcp"))


@check
def connections_in_proc():
    server = listener()
    port = server.getsockname()[1]
    rows = [line.split() for line in open("/proc/net/tcp")]
    found = [row for row in rows if row[1] == f"0100007F:{port:04X}"]
    inode = os.fstat(server.fileno()).st_ino
    return len(rows[0]), [(row[2], row[3], row[4], row[9] == str(inode)) for row in found]
