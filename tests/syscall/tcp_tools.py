"""What the programs about TCP share."""

import errno
import select
import socket

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
