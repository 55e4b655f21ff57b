"""UDP over the loopback, and what programs ask about the network: interfaces, netlink, /proc/net."""

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time

from harness import UNMAPPED, check, in_child, outcome, raw

V4, V6, DATAGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM
LOOP = "127.0.0.1"
# linux/in.h, linux/in6.h: what Python's socket module does not name everywhere.
IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_TTL, IP_TOS, IP_RECVERR, IP_MULTICAST_ALL = 8, 12, 13, 2, 1, 11, 49
UDP_CORK, UDP_SEGMENT = 1, 103


def datagram(family=V4, **options):
    made = socket.socket(family, DATAGRAM)
    for name, value in options.items():
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    return made


def bound(family=V4, address=None, **options):
    made = datagram(family, **options)
    made.bind((address if address is not None else LOOP if family == V4 else "::1", 0))
    made.settimeout(2)
    return made


def error_of(made):
    return errno.errorcode.get(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "none")


NAMES = ("IN", "PRI", "OUT", "ERR", "HUP", "NVAL", "RDNORM", "RDBAND", "WRNORM", "WRBAND", "MSG", "RDHUP")


def ready(made):
    poller = select.poll()
    poller.register(made, 0x7FFF)
    bits = dict(poller.poll(0)).get(made.fileno(), 0)
    return " ".join(name for name in NAMES if bits & getattr(select, "POLL" + name, 0))


def closed_port(family=V4):
    probe = bound(family)
    port = probe.getsockname()[1]
    probe.close()
    return port


@check
def new_socket_knows_itself():
    made = datagram()
    level = socket.SOL_SOCKET
    return (
        made.getsockopt(level, socket.SO_TYPE),
        made.getsockopt(level, socket.SO_PROTOCOL),
        made.getsockname(),
        outcome(made.getpeername),
        ready(made),
        outcome(made.listen),
        outcome(made.accept),
        made.getsockopt(level, socket.SO_SNDBUF),
        made.getsockopt(level, socket.SO_RCVBUF),
    )


@check
def datagrams_arrive_whole_and_in_order():
    result = []
    for family in (V4, V6):
        server, client = bound(family), datagram(family)
        for data in (b"one", b"", b"three"):
            client.sendto(data, server.getsockname())
        received = [server.recvfrom(100) for _ in range(3)]
        result.append([data for data, _ in received])
        result.append({address[0] for _, address in received})
        result.append({address[1] for _, address in received} == {client.getsockname()[1]})
        result.append(client.getsockname()[0])
    return result


@check
def short_receive_cuts():
    server, client = bound(), datagram()
    for _ in range(4):
        client.sendto(b"long datagram", server.getsockname())
    data, _, flags, _ = server.recvmsg(4)
    return (
        data,
        flags & socket.MSG_TRUNC == socket.MSG_TRUNC,
        server.recv_into(bytearray(2), 2, socket.MSG_TRUNC),
        server.recv(3, socket.MSG_PEEK),
        server.recv(0),
        server.recv(100),
        outcome(server.recv, 1, socket.MSG_DONTWAIT),
    )


@check
def send_bad_arguments():
    made, six = datagram(), datagram(V6)
    fd = made.fileno()
    good = b"\x02\0\x12\x34\x7f\0\0\x01" + bytes(8)
    return (
        outcome(made.send, b"x"),
        outcome(raw.sendto, fd, b"x", 1, 0, good, 8),
        outcome(raw.sendto, fd, b"x", 1, 0, b"\x0a" + good[1:], 16),
        outcome(raw.sendto, fd, b"x", 1, 0, b"\0" + good[1:], 16),
        outcome(raw.sendto, fd, b"x", 1, 0, UNMAPPED, 16),
        outcome(raw.sendto, fd, UNMAPPED, 1, 0, good, 16),
        outcome(made.sendto, b"x", (LOOP, 0)),
        outcome(made.sendto, b"x", socket.MSG_OOB, (LOOP, 9)),
        outcome(made.sendto, bytes(65507), (LOOP, closed_port())),
        outcome(made.sendto, bytes(65508), (LOOP, 9)),
        outcome(made.sendto, bytes(70000), (LOOP, 9)),
        outcome(six.sendto, bytes(65527), ("::1", closed_port(V6))),
        outcome(six.sendto, bytes(65528), ("::1", 9)),
        outcome(made.sendto, b"x", ("10.1.2.3", 9)),
        outcome(six.sendto, b"x", ("2001:db8::1", 9)),
        outcome(six.sendto, b"x", ("fe80::1", 9)),
        outcome(six.sendto, b"x", ("ff02::1", 9)),
        outcome(made.sendto, b"x", ("224.0.0.5", 9)),
        outcome(made.sendto, b"x", ("127.255.255.255", 9)),
        outcome(made.sendto, b"x", ("255.255.255.255", 9)),
        outcome(raw.sendto, six.fileno(), b"x", 1, 0, b"\x0a\0\0\x09" + bytes(18), 22),
    )


@check
def bind_rules():
    server = bound()
    port = server.getsockname()[1]
    reusing = bound(SO_REUSEADDR=1)
    sharing = bound(SO_REUSEPORT=1)
    unbound = datagram()
    return (
        outcome(datagram().bind, (LOOP, port)),
        outcome(datagram(SO_REUSEADDR=1).bind, (LOOP, port)),
        outcome(datagram().bind, ("127.0.0.2", port)),
        outcome(datagram().bind, ("0.0.0.0", port)),
        outcome(datagram(V6).bind, ("::", port)),
        outcome(datagram(SO_REUSEADDR=1).bind, reusing.getsockname()),
        outcome(datagram().bind, reusing.getsockname()),
        outcome(datagram(SO_REUSEPORT=1).bind, sharing.getsockname()),
        outcome(server.bind, (LOOP, 0)),
        outcome(datagram().bind, ("10.1.2.3", 0)),
        outcome(datagram().bind, ("224.0.0.5", 0)),
        outcome(datagram().bind, ("255.255.255.255", 0)),
        outcome(datagram(V6).bind, ("ff02::1", 0)),
        outcome(raw.bind, unbound.fileno(), b"\x02\0\0\0\x7f\0\0\x01", 8),
    )


@check
def newest_socket_of_an_address_receives():
    first = bound(SO_REUSEADDR=1)
    second = datagram(SO_REUSEADDR=1)
    second.bind(first.getsockname())
    second.settimeout(2)
    datagram().sendto(b"x", first.getsockname())
    return second.recv(1), ready(first)


@check
def exact_address_wins():
    everywhere = bound(address="0.0.0.0", SO_REUSEADDR=1)
    port = everywhere.getsockname()[1]
    exact = datagram(SO_REUSEADDR=1)
    exact.bind((LOOP, port))
    exact.settimeout(2)
    client = datagram()
    client.sendto(b"exact", (LOOP, port))
    client.sendto(b"other", ("127.0.0.5", port))
    return exact.recv(10), everywhere.recv(10), client.sendto(b"x", ("0.0.0.0", port)), exact.recv(10)


@check
def shared_port_takes_from_one_sender_alike():
    sockets = [bound(SO_REUSEPORT=1)]
    for _ in range(3):
        more = datagram(SO_REUSEPORT=1)
        more.bind(sockets[0].getsockname())
        sockets.append(more)
    client = datagram()
    for _ in range(12):
        client.sendto(b"x", sockets[0].getsockname())
    counts = []
    for one in sockets:
        one.setblocking(False)
        count = 0
        while isinstance(outcome(one.recv, 1), bytes):
            count += 1
        counts.append(count)
    return sorted(counts)


@check
def connected_sockets_filter():
    server, stranger = bound(), bound()
    client = datagram()
    client.bind((LOOP, closed_port()))
    client.settimeout(2)
    client.connect(server.getsockname())
    stranger.sendto(b"from a stranger", client.getsockname())
    server.sendto(b"from the peer", client.getsockname())
    result = [client.recv(100), outcome(client.recv, 1, socket.MSG_DONTWAIT), client.getpeername() == server.getsockname()]
    client.send(b"plain send")
    client.sendto(b"elsewhere", stranger.getsockname())
    result += [server.recv(100), stranger.recv(100)]
    raw.connect(client.fileno(), bytes(16), 16)
    stranger.sendto(b"now", client.getsockname())
    return result + [client.recv(100), outcome(client.getpeername), outcome(client.send, b"x")]


@check
def connect_rules():
    made, six = datagram(), datagram(V6)
    made.connect((LOOP, 9))
    six.connect(("::ffff:127.0.0.1", 9))
    other = datagram()
    return (
        made.getsockname()[0],
        six.getsockname()[0],
        six.getpeername()[0],
        outcome(other.connect, ("10.1.2.3", 9)),
        outcome(other.connect, ("127.255.255.255", 9)),
        outcome(other.connect, ("224.0.0.5", 9)),
        outcome(other.connect, (LOOP, 0)),
        outcome(other.getpeername),
        outcome(raw.connect, other.fileno(), b"\x0a\0" + bytes(14), 16),
        outcome(raw.connect, other.fileno(), b"\x02\0" + bytes(4), 6),
        outcome(six.connect, ("2001:db8::1", 9)),
        raw.connect(made.fileno(), bytes(16), 16),
        made.getsockname(),
    )


@check
def refused_datagram_is_told_to_connected_sockets():
    connected, free = datagram(), datagram()
    port = closed_port()
    connected.connect((LOOP, port))
    result = [connected.send(b"x"), ready(connected), outcome(connected.recv, 1), ready(connected)]
    result += [connected.send(b"x"), outcome(connected.send, b"y"), connected.send(b"z"), error_of(connected)]
    return result + [free.sendto(b"x", (LOOP, port)), ready(free), error_of(free)]


@check
def shut_sockets():
    made, server = datagram(), bound()
    result = [outcome(made.shutdown, socket.SHUT_RD)]
    client = datagram()
    client.connect(server.getsockname())
    client.shutdown(socket.SHUT_WR)
    result += [outcome(client.send, b"x"), ready(client)]
    client.shutdown(socket.SHUT_RD)
    return result + [client.recv(1), ready(client)]


@check
def full_queue_drops():
    server, client = bound(), datagram()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
    sent = sum(client.sendto(bytes(1000), server.getsockname()) == 1000 for _ in range(100))
    server.setblocking(False)
    got = 0
    while isinstance(outcome(server.recv, 2000), bytes):
        got += 1
    return sent, 5 < got < 30


@check
def broadcast():
    server = bound(address="0.0.0.0")
    other = datagram(SO_REUSEADDR=1)
    port = server.getsockname()[1]
    client = datagram()
    result = [outcome(client.sendto, b"x", ("127.255.255.255", port))]
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return result + [outcome(client.sendto, b"x", ("127.255.255.255", port)), server.recv(10)]


@check
def multicast():
    group, result = "224.1.2.3", []
    server, stranger = bound(address="0.0.0.0", SO_REUSEADDR=1), None
    port = server.getsockname()[1]
    client = datagram()
    result.append(outcome(client.sendto, b"x", (group, port)))
    client.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton(LOOP))
    result.append(socket.inet_ntoa(client.getsockopt(0, socket.IP_MULTICAST_IF, 4)))
    result.append(outcome(client.sendto, b"nobody is a member", (group, port)))
    request = socket.inet_aton(group) + socket.inet_aton(LOOP)
    result.append(outcome(server.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, request))
    result.append(outcome(server.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, request))
    result.append(client.sendto(b"to members", (group, port)))
    result.append(server.recv(100))
    client.setsockopt(0, socket.IP_MULTICAST_LOOP, 0)
    client.sendto(b"not looped", (group, port))
    result.append(outcome(server.recv, 100, socket.MSG_DONTWAIT))
    client.setsockopt(0, socket.IP_MULTICAST_LOOP, 1)
    guest = datagram(SO_REUSEADDR=1)
    guest.bind(("0.0.0.0", port))
    guest.settimeout(2)
    client.sendto(b"everybody gets those", (group, port))
    result += [server.recv(100), guest.recv(100)]
    guest.setsockopt(0, IP_MULTICAST_ALL, 0)
    client.sendto(b"members do", (group, port))
    result += [server.recv(100), outcome(guest.recv, 100, socket.MSG_DONTWAIT)]
    result.append(outcome(server.setsockopt, 0, socket.IP_DROP_MEMBERSHIP, request))
    result.append(outcome(server.setsockopt, 0, socket.IP_DROP_MEMBERSHIP, request))
    return result


@check
def multicast_bad_arguments():
    made, stream = datagram(), socket.socket(V4, socket.SOCK_STREAM)
    six = datagram(V6)
    request = lambda group, own: socket.inet_aton(group) + socket.inet_aton(own)
    six_request = lambda group, index: socket.inet_pton(V6, group) + struct.pack("i", index)
    return (
        outcome(made.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, request("10.0.0.1", LOOP)),
        outcome(made.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, request("224.1.2.3", "10.0.0.1")),
        outcome(made.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, request("224.1.2.3", "0.0.0.0")),
        outcome(made.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, b"1234"),
        outcome(made.setsockopt, 0, socket.IP_DROP_MEMBERSHIP, request("224.1.2.3", LOOP)),
        outcome(stream.setsockopt, 0, socket.IP_ADD_MEMBERSHIP, request("224.1.2.3", LOOP)),
        outcome(made.setsockopt, 0, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.0.1")),
        outcome(six.setsockopt, 41, socket.IPV6_JOIN_GROUP, six_request("ff02::123", 1)),
        outcome(six.setsockopt, 41, socket.IPV6_JOIN_GROUP, six_request("ff02::123", 1)),
        outcome(six.setsockopt, 41, socket.IPV6_JOIN_GROUP, six_request("ff02::123", 99)),
        outcome(six.setsockopt, 41, socket.IPV6_JOIN_GROUP, six_request("2001:db8::1", 1)),
        outcome(six.setsockopt, 41, socket.IPV6_LEAVE_GROUP, six_request("ff02::123", 1)),
        outcome(six.setsockopt, 41, socket.IPV6_LEAVE_GROUP, six_request("ff02::123", 1)),
        outcome(six.setsockopt, 41, socket.IPV6_MULTICAST_IF, 99),
    )


@check
def multicast_of_ipv6():
    server, client = bound(V6, "::"), datagram(V6)
    server.setblocking(False)
    port = server.getsockname()[1]
    server.setsockopt(41, socket.IPV6_JOIN_GROUP, socket.inet_pton(V6, "ff02::123") + struct.pack("i", 1))
    result = [outcome(client.sendto, b"x", ("ff02::123", port, 0, 1))]
    client.setsockopt(41, socket.IPV6_MULTICAST_IF, 1)
    result.append(outcome(client.sendto, b"x", ("ff02::123", port)))
    time.sleep(0.05)
    return result + [outcome(server.recvfrom, 10, socket.MSG_DONTWAIT)]


@check
def sources_of_a_group():
    made = datagram()
    group, own = socket.inet_aton("232.1.2.3"), socket.inet_aton(LOOP)
    source = lambda address: group + own + socket.inet_aton(address)
    add, drop, block, unblock = 39, 40, 38, 37
    return (
        outcome(made.setsockopt, 0, add, source("127.0.0.5")),
        outcome(made.setsockopt, 0, add, source("127.0.0.5")),
        outcome(made.setsockopt, 0, add, source("127.0.0.6")),
        outcome(made.setsockopt, 0, block, source("127.0.0.7")),
        outcome(made.setsockopt, 0, drop, source("127.0.0.9")),
        outcome(made.setsockopt, 0, drop, source("127.0.0.5")),
        outcome(made.setsockopt, 0, unblock, source("127.0.0.5")),
    )


def ancillary(made):
    data, parts, flags, _ = made.recvmsg(100, 1000)
    return data, [(level, kind, content) for level, kind, content in parts], flags


@check
def told_with_a_datagram_of_ipv4():
    server, client = bound(), datagram()
    for option in (IP_PKTINFO, IP_RECVTTL, IP_RECVTOS):
        server.setsockopt(0, option, 1)
    client.setsockopt(0, IP_TOS, 0x20)
    client.setsockopt(0, IP_TTL, 9)
    client.sendto(b"x", server.getsockname())
    result = [ancillary(server)]
    client.sendmsg([b"y"], [(0, IP_TTL, struct.pack("i", 33)), (0, IP_TOS, b"\x10")], 0, server.getsockname())
    return result + [ancillary(server)]


@check
def told_with_a_datagram_of_ipv6():
    server, client = bound(V6), datagram(V6)
    for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
        server.setsockopt(41, option, 1)
    client.setsockopt(41, socket.IPV6_TCLASS, 17)
    client.setsockopt(41, socket.IPV6_UNICAST_HOPS, 7)
    client.sendto(b"x", server.getsockname())
    result = [ancillary(server)]
    parts = [(41, socket.IPV6_HOPLIMIT, struct.pack("i", 31)), (41, socket.IPV6_TCLASS, struct.pack("i", 5))]
    client.sendmsg([b"y"], parts, 0, server.getsockname())
    return result + [ancillary(server)]


@check
def mapped_datagram_at_a_dual_stack_socket():
    server, client = bound(V6, "::"), datagram()
    server.setsockopt(41, socket.IPV6_RECVPKTINFO, 1)
    server.setsockopt(41, socket.IPV6_RECVHOPLIMIT, 1)
    client.sendto(b"x", (LOOP, server.getsockname()[1]))
    data, parts, _, address = server.recvmsg(10, 1000)
    return data, parts, address[0], server.sendto(b"back", address), client.recv(10)


@check
def source_of_one_datagram():
    server, client = bound(), datagram()
    info = lambda index, source: struct.pack("i4s4s", index, socket.inet_aton(source), bytes(4))
    send = lambda info: outcome(client.sendmsg, [b"x"], [(0, IP_PKTINFO, info)], 0, server.getsockname())
    return (
        send(info(0, "127.0.0.77")),
        server.recvfrom(1)[1][0],
        send(info(1, "0.0.0.0")),
        send(info(99, "0.0.0.0")),
        send(b"short"),
        outcome(client.sendmsg, [b"x"], [(0, 99, b"what")], 0, server.getsockname()),
        outcome(client.sendmsg, [b"x"], [(0, IP_TTL, struct.pack("i", 0))], 0, server.getsockname()),
    )


@check
def time_stamps():
    server, client, result = bound(), datagram(), []
    for option, size in ((29, 16), (35, 16)):
        server.setsockopt(socket.SOL_SOCKET, option, 1)
        client.sendto(b"x", server.getsockname())
        _, parts, _ = ancillary(server)
        level, kind, stamp = parts[0]
        seconds = struct.unpack("l", stamp[:8])[0]
        result.append((len(parts), level, kind, len(stamp), abs(time.time() - seconds) < 3))
        result.append([server.getsockopt(socket.SOL_SOCKET, other) for other in (29, 35)])
    return result


@check
def control_data_without_room():
    server, client = bound(), datagram()
    server.setsockopt(0, IP_PKTINFO, 1)
    result = []
    for room in (0, 8, 16, 20, 28, 32):
        client.sendto(b"x", server.getsockname())
        data, parts, flags, _ = server.recvmsg(10, room)
        result.append((room, parts, flags & socket.MSG_CTRUNC == socket.MSG_CTRUNC))
    return result


@check
def many_messages_in_one_call():
    server, client = bound(), datagram()
    client.connect(server.getsockname())
    for data in (b"first", b"second"):
        client.send(data)
    client.send(b"held", socket.MSG_MORE)
    result = [server.recv(10), server.recv(10), outcome(server.recv, 10, socket.MSG_DONTWAIT)]
    client.send(b" back")
    result.append(server.recv(20))
    client.setsockopt(17, UDP_CORK, 1)
    client.send(b"corked ")
    client.send(b"datagram")
    result.append(outcome(server.recv, 10, socket.MSG_DONTWAIT))
    client.setsockopt(17, UDP_CORK, 0)
    return result + [server.recv(100)]


@check
def segments():
    server, client = bound(), datagram()
    client.setsockopt(17, UDP_SEGMENT, 4)
    client.sendto(b"0123456789", server.getsockname())
    return [server.recv(100) for _ in range(3)], client.getsockopt(17, UDP_SEGMENT)


@check
def queue_sizes():
    server, client = bound(), datagram()
    client.sendto(b"12345", server.getsockname())
    client.sendto(b"123", server.getsockname())
    size = lambda call: struct.unpack("i", fcntl.ioctl(server, call, bytes(4)))[0]
    return size(termios.FIONREAD), size(termios.TIOCOUTQ), outcome(fcntl.ioctl, server, 0x5401, bytes(60))


@check
def interface_calls():
    made = datagram()
    ask = lambda call, name=b"lo": fcntl.ioctl(made, call, struct.pack("16s24x", name))[16:]
    names = (0x8913, 0x8915, 0x8917, 0x8919, 0x891B, 0x891D, 0x8921, 0x8927, 0x8933, 0x8942, 0x8970)
    result = [outcome(ask, call) for call in names]
    result.append([outcome(ask, call, b"nope") for call in (0x8913, 0x8933, 0x8921)])
    result.append(fcntl.ioctl(made, 0x8910, struct.pack("16si20x", b"", 1))[:16])
    result.append(outcome(fcntl.ioctl, made, 0x8910, struct.pack("16si20x", b"", 99)))
    room = ctypes.create_string_buffer(200)
    listing = fcntl.ioctl(made, 0x8912, struct.pack("iP", 200, ctypes.addressof(room)))
    length = struct.unpack("i", listing[:4])[0]
    result.append((length, room.raw[:length]))
    result.append(struct.unpack("i", fcntl.ioctl(made, 0x8912, struct.pack("iP", 200, 0))[:4]))
    local = socket.socket(socket.AF_UNIX)
    result.append(fcntl.ioctl(local, 0x8933, struct.pack("16s24x", b"lo"))[16:20])
    return result


def carried_by_loopback():
    with open("/proc/net/dev") as file:
        [line] = [line for line in file if line.strip().startswith("lo:")]
    words = line.partition(":")[2].split()
    found = []
    for name in "rx_bytes", "rx_packets", "tx_bytes", "tx_packets":
        with open(f"/sys/class/net/lo/statistics/{name}") as file:
            found.append(int(file.read()))
    return found, [int(words[at]) for at in (0, 1, 8, 9)]


@check
def loopback_counts_what_it_carries():
    result = []
    for family in V4, V6:
        receiver, sender = bound(family), datagram(family)
        before, _ = carried_by_loopback()
        sender.sendto(bytes(100), receiver.getsockname())
        after, shown = carried_by_loopback()
        result += [[new - old for new, old in zip(after, before)], shown == after]
    with socket.create_server((LOOP, 0)) as server, socket.socket() as client:
        before, _ = carried_by_loopback()
        client.connect(server.getsockname())
        after, _ = carried_by_loopback()
        result.append([new - old for new, old in zip(after, before)])
    return result


@check
def interfaces_by_name():
    return (
        socket.if_nameindex(),
        socket.if_nametoindex("lo"),
        socket.if_indextoname(1),
        outcome(socket.if_nametoindex, "nope"),
        outcome(socket.if_indextoname, 99),
    )


def attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack("HH", data[:4])
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def netlink(kind, flags=0x300, body=b"\0" * 16):
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    made.bind((0, 0))
    made.settimeout(2)
    made.send(struct.pack("IHHII", 16 + len(body), kind, 1 | flags, 77, 0) + body)
    messages = []
    while True:
        data = made.recv(65536)
        while data:
            length, kind, flags, sequence, _ = struct.unpack("IHHII", data[:16])
            messages.append((kind, flags, sequence, data[16:length]))
            data = data[(length + 3) & ~3 :]
        if messages[-1][0] in (2, 3) or not messages[-1][1] & 2:
            return messages


@check
def netlink_lists_interfaces():
    result = []
    for kind, flags, sequence, body in netlink(18):
        if kind == 16:
            family, hardware, index, up, _ = struct.unpack("BxHiII", body[:16])
            found = attributes(body[16:])
            result.append((kind, sequence, family, hardware, index, up & 1, [found.get(one) for one in (1, 2, 3, 4, 6, 13)]))
        else:
            result.append((kind, sequence, body))
    return result


@check
def netlink_lists_addresses():
    result = []
    for family in (0, V4, V6):
        for kind, flags, sequence, body in netlink(22, body=struct.pack("B7x", family)):
            if kind == 20:
                found = attributes(body[8:])
                result.append((struct.unpack("BBBBI", body[:8]), [found.get(one) for one in (1, 2, 3, 8)]))
            else:
                result.append((kind, flags, body))
    return result


@check
def netlink_names():
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    result = [made.getsockname(), outcome(made.bind, (0, 0)), made.getsockname() == (os.getpid(), 0)]
    second = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    second.bind((0, 0))
    result += [second.getsockname()[0] not in (0, os.getpid()), made.getpeername()]
    third = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    result += [outcome(third.bind, (os.getpid(), 0)), outcome(third.bind, (12345, 1)), third.getsockname()]
    result += [outcome(third.bind, (12346, 1)), outcome(third.sendto, b"x" * 16, (99999, 0))]
    result += [outcome(third.listen), outcome(third.shutdown, 2), outcome(third.recv, 1, socket.MSG_DONTWAIT), ready(third)]
    return result + [outcome(raw.socket, 16, 1, 0), outcome(raw.bind, third.fileno(), b"\x10\0", 2)]


@check
def netlink_refuses():
    one = netlink(18, 0, struct.pack("BxHiII", 0, 0, 99, 0, 0))
    unknown = netlink(9999, 4, b"")
    found = netlink(18, 0, struct.pack("BxHiII", 0, 0, 1, 0, 0))
    errors = [(kind, struct.unpack("i", body[:4])[0]) for kind, _, _, body in one + unknown]
    return errors, [(kind, flags, sequence) for kind, flags, sequence, _ in found]


def echo(kind, data=b"ping", checksum=0):
    """An echo message of ICMP."""
    message = struct.pack("!BBHHH", kind, 0, checksum, 77, 5) + data
    if not checksum:
        total = sum(struct.unpack(f"!{len(message) // 2}H", message))
        total = (total & 0xFFFF) + (total >> 16)
        return echo(kind, data, ~total & 0xFFFF)
    return message


@check
def echo_requests_are_answered():
    made = socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    made.settimeout(2)
    made.setsockopt(255, 1, struct.pack("I", ~1 & 0xFFFFFFFF))
    made.sendto(echo(8), (LOOP, 0))
    data, address = made.recvfrom(200)
    six = socket.socket(V6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    six.settimeout(2)
    six.setsockopt(socket.IPPROTO_ICMPV6, 1, b"\xff" * 16 + b"\xfd" + b"\xff" * 15)
    six.sendto(echo(128), ("::1", 0))
    data6, address6 = six.recvfrom(200)
    return (data[0], data[8:10], data[12:], address, made.getsockname(), ready(made)), (data6, address6, six.getsockname())


@check
def raw_sockets_see_their_protocol():
    sender, receiver, other = (socket.socket(V4, socket.SOCK_RAW, number) for number in (253, 253, 254))
    receiver.bind((LOOP, 0))
    receiver.settimeout(2)
    sender.sendto(b"payload", (LOOP, 0))
    data, address = receiver.recvfrom(100)
    other.connect((LOOP, 0))
    return (
        data[20:],
        address,
        len(sender.recv(100)),
        outcome(other.recv, 1, socket.MSG_DONTWAIT),
        outcome(sender.send, b"x"),
        outcome(sender.sendto, b"x", ("10.1.2.3", 0)),
        outcome(sender.sendto, bytes(65516), (LOOP, 0)),
        outcome(other.getpeername),
        outcome(receiver.listen),
        receiver.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL),
        outcome(raw.socket, 2, 3, 0),
        outcome(raw.socket, 2, 2, 1),
        outcome(raw.socket, 10, 2, 58),
    )


@check
def raw_sockets_take_rights():
    def without():
        os.setresuid(1000, 1000, 1000)
        print(outcome(raw.socket, 2, 3, 1), outcome(datagram().bind, (LOOP, 80)), outcome(datagram().bind, (LOOP, 1024)), flush=True)
        print(outcome(datagram().setsockopt, 1, 33, 1), outcome(datagram().setsockopt, 1, 36, 1), flush=True)

    return in_child(without)


@check
def names_of_this_machine():
    found = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    return sorted({entry[4][0] for entry in found}), socket.gethostbyname("localhost")


@check
def network_in_proc():
    heads = []
    for name in ("tcp", "tcp6", "udp", "udp6", "dev", "route", "arp"):
        with open(f"/proc/net/{name}") as file:
            heads.append((name, file.readline()))
    heads.append(open("/proc/net/if_inet6").read())
    heads.append(os.readlink("/proc/net"))
    heads.append(sorted(os.listdir("/sys/class/net")))
    for name in ("mtu", "type", "flags", "operstate", "address", "ifindex"):
        heads.append(open(f"/sys/class/net/lo/{name}").read())
    for name in ("core/rmem_max", "core/wmem_default", "core/somaxconn", "ipv4/tcp_fin_timeout", "ipv4/ip_default_ttl", "ipv4/tcp_keepalive_time", "ipv4/ip_unprivileged_port_start", "ipv6/bindv6only"):
        heads.append(open(f"/proc/sys/net/{name}").read())
    return heads


@check
def port_range_can_be_set():
    path = "/proc/sys/net/ipv4/ip_local_port_range"
    fd = os.open(path, os.O_RDWR)
    before = os.pread(fd, 100, 0)
    result = [before]
    for text in (b"40000 40003", b"9 4", b"x y", b"0 5"):
        result.append(outcome(os.pwrite, fd, text, 0))
        result.append(open(path).read())
    held = [outcome(bound) for _ in range(5)]
    result.append(sorted(one.getsockname()[1] if isinstance(one, socket.socket) else 0 for one in held[:4]))
    result.append(held[4])
    os.pwrite(fd, before, 0)
    return result
