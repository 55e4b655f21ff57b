"""The network as the machine sees it: ``interfaces()``, ``routes()``, ``connections()`` and ``stats()``.

The first three answer a list of tuples with names, which shows itself as a table; ``stats()`` says what came, what
went, and what was dropped and why. All is read at the call, from netlink (rtnetlink(7)) and the files of /proc/net
(proc_pid_net(5)), so it works on Linux as well. Nothing is changed here.
"""

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from piton.table import Table

__all__ = ["Connection", "Interface", "Route", "Stats", "Table", "connections", "interfaces", "routes", "stats"]

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/if.h.
_REQUEST, _DUMP, _ERROR, _DONE = 1, 0x300, 2, 3
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_LINK_ADDRESS, _LINK_NAME, _LINK_MTU, _LINK_STATISTICS = 1, 3, 4, 23
_ADDRESS, _ADDRESS_LOCAL = 1, 2
_ROUTE_TO, _ROUTE_INTERFACE, _ROUTE_GATEWAY, _ROUTE_METRIC = 1, 4, 5, 6
_TABLE_MAIN = 254
_UP, _LOWER_UP = 0x1, 0x10000
_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
#: Bytes of the fixed part of an answer: `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`.
_LINK, _ADDR, _RTM = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")

#: States of TCP by their number in /proc/net/tcp (linux/tcp_states.h).
_STATES = {
    1: "established",
    2: "syn-sent",
    3: "syn-received",
    4: "fin-wait-1",
    5: "fin-wait-2",
    6: "time-wait",
    7: "closed",
    8: "close-wait",
    9: "last-ack",
    10: "listening",
    11: "closing",
    12: "syn-received",
}

#: What each count means of those that count something lost or refused.
REASONS = {
    "Ip.InHdrErrors": "came with an IP header that makes no sense",
    "Ip.InAddrErrors": "came for another machine",
    "Ip.InUnknownProtos": "came for a protocol that is not spoken",
    "Ip.InDiscards": "came when there was no room",
    "Ip.OutDiscards": "not sent: no room, or no answer of the neighbour",
    "Ip.OutNoRoutes": "not sent: no route",
    "Ip.ReasmFails": "came in parts that do not make a whole",
    "Ip.FragFails": "not sent: too long, and not to be cut",
    "Icmp.InErrors": "bad ICMP messages",
    "Icmp.OutErrors": "ICMP messages not sent, because there were too many",
    "Tcp.AttemptFails": "connections that did not come about",
    "Tcp.EstabResets": "connections that were reset",
    "Tcp.InErrs": "bad TCP segments, the next among them",
    "Tcp.InCsumErrors": "TCP segments with a wrong checksum",
    "Udp.NoPorts": "datagrams for no socket",
    "Udp.InErrors": "bad datagrams, the next two among them",
    "Udp.RcvbufErrors": "datagrams for a socket whose buffer was full",
    "Udp.InCsumErrors": "datagrams with a wrong checksum",
    "Udp.SndbufErrors": "datagrams not sent: no room",
    "TcpExt.ListenOverflows": "connections refused: the listener's backlog was full",
    "TcpExt.ListenDrops": "connections refused, the former among them: no backlog or no memory",
    "TcpExt.TCPReqQFullDrop": "half-open connections that made way for newer ones",
    "TcpExt.TCPAbortOnTimeout": "connections given up: no answer",
    "TcpExt.TCPAbortOnMemory": "connections given up: no memory",
    "IpExt.InUnknownFrames": "frames of no known type, or too short for theirs",
    "IpExt.InUnknownDhcp": "DHCP messages that nobody asked for or that make no sense",
}


class Endpoint(NamedTuple):
    """One end of a connection."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        host = "*" if self.address.is_unspecified else str(self.address)
        return f"{f'[{host}]' if ':' in host else host}:{self.port or '*'}"


class Interface(NamedTuple):
    """A network interface. ``link`` says whether a cable, or what stands for it, is there."""

    name: str
    index: int
    up: bool
    link: bool
    mac: str
    mtu: int
    addresses: "tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]"
    received_bytes: int
    sent_bytes: int


class Route(NamedTuple):
    """Where packets for *destination* go: to *gateway* on *interface*, or straight where it is None."""

    destination: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    interface: str
    metric: int


class Connection(NamedTuple):
    """A socket of TCP or UDP. *processes* are those that have it open, as far as this process may know."""

    protocol: str
    state: str
    local: Endpoint
    remote: Endpoint
    received: int
    unsent: int
    user: int
    processes: tuple[int, ...]


def _dump(kind: int, fixed: struct.Struct) -> Iterator[tuple[tuple, dict[int, bytes]]]:
    """Ask the kernel for all of *kind*; each has a fixed part and attributes by number.

    :raises OSError: it refused.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.send(_MESSAGE.pack(_MESSAGE.size + fixed.size, kind, _REQUEST | _DUMP, 1, 0) + bytes(fixed.size))
        while True:
            answer = memoryview(link.recv(1 << 20))
            while len(answer) >= _MESSAGE.size:
                size, answered, _, _, _ = _MESSAGE.unpack_from(answer)
                if answered == _DONE:
                    return
                body, answer = answer[_MESSAGE.size : size], answer[max(size + 3 & ~3, _MESSAGE.size) :]
                if answered == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                yield fixed.unpack_from(body), _attributes(body[fixed.size :])


def _attributes(rest: memoryview) -> dict[int, bytes]:
    found = {}
    while len(rest) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(rest)
        found[kind] = bytes(rest[_ATTRIBUTE.size : size])
        rest = rest[max(size + 3 & ~3, _ATTRIBUTE.size) :]
    return found


def _number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


def interfaces() -> "Table[Interface]":
    """Answer the interfaces with their addresses."""
    addresses: dict[int, list] = {}
    for (_, prefix, _, _, index), attributes in _dump(_GETADDR, _ADDR):
        data = attributes.get(_ADDRESS_LOCAL) or attributes[_ADDRESS]
        addresses.setdefault(index, []).append(ipaddress.ip_interface((data, prefix)))
    found = Table()
    for (_, _, index, flags, _), attributes in _dump(_GETLINK, _LINK):
        counts = struct.unpack_from("=4Q", attributes[_LINK_STATISTICS])
        found.append(
            Interface(
                attributes[_LINK_NAME].rstrip(b"\0").decode(),
                index,
                bool(flags & _UP),
                bool(flags & _LOWER_UP),
                attributes.get(_LINK_ADDRESS, b"").hex(":"),
                _number(attributes[_LINK_MTU]),
                # Those that people type first.
                tuple(sorted(addresses.get(index, ()), key=lambda address: (address.version, address.is_link_local))),
                counts[2],
                counts[3],
            )
        )
    return found


def routes() -> "Table[Route]":
    """Answer the routes, without those to the machine's own addresses."""
    names = dict(socket.if_nameindex())
    found = Table()
    for (family, prefix, _, _, table, *_), attributes in _dump(_GETROUTE, _RTM):
        if table != _TABLE_MAIN or _ROUTE_INTERFACE not in attributes:
            continue
        to = attributes.get(_ROUTE_TO, bytes(4 if family == socket.AF_INET else 16))
        gateway = attributes.get(_ROUTE_GATEWAY)
        found.append(
            Route(
                ipaddress.ip_network((to, prefix)),
                None if gateway is None else ipaddress.ip_address(gateway),
                names.get(_number(attributes[_ROUTE_INTERFACE]), "?"),
                _number(attributes.get(_ROUTE_METRIC, b"")),
            )
        )
    return found


def connections() -> "Table[Connection]":
    """Answer the sockets of TCP and UDP, listening ones and those that linger included."""
    owners = _owners()
    found = Table()
    for protocol in "tcp", "tcp6", "udp", "udp6":
        try:
            with open(f"/proc/net/{protocol}") as file:
                lines = file.read().splitlines()[1:]
        except FileNotFoundError:
            continue  # No IPv6.
        for line in lines:
            words = line.split()
            state, (unsent, received) = int(words[3], 16), words[4].split(":")
            found.append(
                Connection(
                    protocol,
                    _STATES.get(state, str(state)) if protocol.startswith("tcp") else "",
                    _endpoint(words[1]),
                    _endpoint(words[2]),
                    int(received, 16),
                    int(unsent, 16),
                    int(words[7]),
                    tuple(sorted(owners.get(words[9], ()))),
                )
            )
    return found


def _endpoint(word: str) -> Endpoint:
    """Read an address of /proc/net/tcp: words of this machine's byte order in hexadecimal, and the port."""
    address, port = word.split(":")
    data = b"".join(int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
    return Endpoint(ipaddress.ip_address(data), int(port, 16))


def _owners() -> dict[str, set[int]]:
    """Answer which processes have which sockets, by the sockets' inodes."""
    owners: dict[str, set[int]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        try:
            for descriptor in os.listdir(folder):
                target = os.readlink(f"{folder}/{descriptor}")
                if target.startswith("socket:["):
                    owners.setdefault(target[8:-1], set()).add(int(process))
        except OSError:
            continue  # It has ended, or is none of ours.
    return owners


class Stats:
    """What came, what went, and what was dropped, since the start.

    ``counts`` has every count of the kernel by its name (``stats().counts["Tcp.InSegs"]``), ``dropped`` those of things
    lost or refused that are not 0, ``interfaces`` the counts of each interface, and ``sessions`` what the server of the
    sessions did not take.
    """

    def __init__(self, counts: dict[str, int], interfaces: dict[str, dict[str, int]], sessions: dict[str, int]):
        self.counts = counts
        self.interfaces = interfaces
        self.sessions = sessions

    @property
    def dropped(self) -> dict[str, int]:
        """What was lost or refused, by the name of its count; what is 0 is left out."""
        found = {name: self.counts[name] for name in REASONS if self.counts.get(name)}
        for name, counts in self.interfaces.items():
            found |= {f"{name}.{kind}": count for kind, count in counts.items() if count and kind.endswith(_LOST)}
        return found | {f"sessions.{name}": count for name, count in self.sessions.items() if count}

    def __repr__(self) -> str:
        lines = []
        for name, counts in self.interfaces.items():
            came, went = ((counts[f"{way}_packets"], counts[f"{way}_bytes"]) for way in ("rx", "tx"))
            lines.append(f"{name}: {came[0]:,} packets ({came[1]:,} bytes) came, {went[0]:,} ({went[1]:,}) went")
        dropped = self.dropped
        lines.append("dropped:" if dropped else "dropped: nothing")
        width = max((len(f"{count:,}") for count in dropped.values()), default=0)
        for name, count in dropped.items():
            reason = REASONS.get(name)
            lines.append(f"  {count:{width},}  {f'{reason} ({name})' if reason else name}")
        return "\n".join(lines)


#: How the names of an interface's counts of losses end.
_LOST = ("_dropped", "_errors")


def stats() -> Stats:
    """Answer what the network counted."""
    counts: dict[str, int] = {}
    for name in "snmp", "netstat":
        with open(f"/proc/net/{name}") as file:
            lines = file.read().splitlines()
        for names, numbers in zip(lines[::2], lines[1::2]):
            protocol, _, rest = names.partition(":")
            values = map(int, numbers.partition(":")[2].split())
            counts |= {f"{protocol}.{key}": value for key, value in zip(rest.split(), values)}
    from piton import repl

    return Stats(counts, {name: _traffic(name) for _, name in socket.if_nameindex()}, dict(repl.refused))


def _traffic(interface: str) -> dict[str, int]:
    folder = f"/sys/class/net/{interface}/statistics"
    found = {}
    for name in sorted(os.listdir(folder)):
        with open(f"{folder}/{name}") as file:
            found[name] = int(file.read())
    return found
