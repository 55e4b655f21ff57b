"""What `make bench` measures over the network: the guest serves, the host asks.

    network.py serve [--linux]      in the guest
    network.py session              in the guest, for Linux: what Piton does by itself
    network.py measure HOST_PORTS   on the host, with the host's ports for those of PORTS in the same order

The way between them is QEMU's own network (`-netdev user`), the same for both systems. Measured is the host's time.
The result is one line of JSON with the nanoseconds per operation of each time.
"""

import json
import os
import socket
import ssl
import struct
import sys
import threading
import time

# The guest's ports: what SERVICES does, echo with asyncio, http.server, echo with asyncio over TLS.
PORTS = (7000, 7001, 7002, 7003)
# How often each measurement is taken.
TIMES = 5
# Bytes of a transfer, and of one call.
TRANSFER = 16 << 20
CHUNK = 1 << 16
# A file of the root image, 12 KB.
FOLDER, FILE = "/etc", "services"
# Key and certificate of the TLS server, for "localhost" and nothing else.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnicONNkKU8ZU3zXg
TRse5T9gqm6tMFpZ7FTGuMJw4LOhRANCAARak1lALfKYdJgLSwp3oaOxaGs2ni9C
Ge/b/9In3eiOsk78hWwlXGwJXGyzC88hhpl3+GMSzme9ow5fyJoYyMwo
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUON+EYIjWKZYJEZM3DSjnH8cDLcYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMDE2MTcwMVoYDzIxMjYxMDI3
MTYxNzAxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARak1lALfKYdJgLSwp3oaOxaGs2ni9CGe/b/9In3eiOsk78hWwlXGwJ
XGyzC88hhpl3+GMSzme9ow5fyJoYyMwoo28wbTAdBgNVHQ4EFgQURixwklJZsSXq
LAoSaz23oI9I9cUwHwYDVR0jBBgwFoAURixwklJZsSXqLAoSaz23oI9I9cUwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAPAqnjOHgC4CsnJCdOHEKXMPWPZiavsxpboH+efKWJ4IAiAO
HEgvexeyr9AEnNwRIDwpqBo/MgqoIV5I7NQrd5l9qQ==
-----END CERTIFICATE-----
"""

# linux/sockios.h
SIOCADDRT, SIOCSIFFLAGS, SIOCGIFADDR, SIOCSIFADDR, SIOCSIFNETMASK = 0x890B, 0x8914, 0x8915, 0x8916, 0x891C
# linux/if.h, linux/route.h
IFF_UP, RTF_UP, RTF_GATEWAY = 1, 1, 2
# What QEMU's DHCP server gives the first guest, and its gateway.
ADDRESS, MASK, GATEWAY = "10.0.2.15", "255.255.255.0", "10.0.2.2"


# The guest's side.


def sockaddr(address):
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def bring_up_linux():
    """Do by hand what Piton's kernel does: load the drivers, bring lo up, give eth0 its address."""
    import ctypes
    import fcntl
    import lzma

    libc = ctypes.CDLL(None, use_errno=True)
    for name in ("virtio_mmio", "failover", "net_failover", "virtio_net"):
        with open(f"/{name}.ko.xz", "rb") as file:
            module = lzma.decompress(file.read())
        if libc.init_module(module, ctypes.c_ulong(len(module)), b""):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for interface, request, value in (
            (b"lo", SIOCSIFFLAGS, struct.pack("h14x", IFF_UP)),
            (b"eth0", SIOCSIFADDR, sockaddr(ADDRESS)),
            (b"eth0", SIOCSIFNETMASK, sockaddr(MASK)),
            (b"eth0", SIOCSIFFLAGS, struct.pack("h14x", IFF_UP)),
        ):
            fcntl.ioctl(control, request, struct.pack("16s24s", interface, value))
        # struct rtentry: destination, gateway, mask, flags.
        route = struct.pack("8x16s16s16sH62x", sockaddr("0.0.0.0"), sockaddr(GATEWAY), sockaddr("0.0.0.0"),
                            RTF_UP | RTF_GATEWAY)
        fcntl.ioctl(control, SIOCADDRT, route)


def wait_for_address():
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        while True:
            try:
                return fcntl.ioctl(control, SIOCGIFADDR, b"eth0".ljust(40, b"\0"))
            except OSError:
                time.sleep(0.05)


def take(connection):
    """Receive all, then say so."""
    buffer = bytearray(CHUNK)
    left = TRANSFER
    while left:
        left -= connection.recv_into(buffer)
    connection.sendall(b".")


def give(connection):
    """Send as much as a transfer is."""
    chunk = bytes(CHUNK)
    for _ in range(TRANSFER // CHUNK):
        connection.sendall(chunk)


def echo(connection):
    """Send back what comes until the other end closes."""
    while data := connection.recv(CHUNK):
        connection.sendall(data)


SERVICES = {b"t": take, b"g": give, b"e": echo}


def serve_plain():
    listener = socket.create_server(("", PORTS[0]), backlog=128)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if service := SERVICES.get(connection.recv(1)):
                service(connection)


def serve_asyncio():
    import asyncio
    import tempfile

    async def echo(reader, writer):
        try:
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w", dir="/run") as file:
            file.write(CERTIFICATE)
            file.flush()
            context.load_cert_chain(file.name)
        plain = await asyncio.start_server(echo, "", PORTS[1])
        secure = await asyncio.start_server(echo, "", PORTS[3], ssl=context)
        await asyncio.gather(plain.serve_forever(), secure.serve_forever())

    asyncio.run(main())


def serve_http():
    import functools
    import http.server

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    http.server.HTTPServer(("", PORTS[2]), functools.partial(Handler, directory=FOLDER)).serve_forever()


def serve(arguments):
    if "--linux" in arguments:
        bring_up_linux()
    wait_for_address()
    for server in serve_asyncio, serve_http, serve_plain:
        threading.Thread(target=server).start()
    for port in PORTS:
        while True:
            try:
                # The plain server reads one byte; the others take an end as it comes.
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    print("serving", flush=True)


def serve_sessions():
    """Serve sessions on the port of Piton's."""
    import code

    bring_up_linux()
    listener = socket.create_server(("", 5000), backlog=128)

    def session(connection):
        stream = connection.makefile("rw")

        class Console(code.InteractiveConsole):
            def raw_input(self, prompt=""):
                self.write(prompt)
                if line := stream.readline():
                    return line.rstrip("\n")
                raise EOFError

            def write(self, data):
                stream.write(data)
                stream.flush()

        Console().interact()

    while True:
        threading.Thread(target=session, args=listener.accept()[:1], daemon=True).start()


# The host's side.


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def each(count, function, *arguments):
    """Time per call of a function."""
    begin = time.perf_counter_ns()
    for _ in range(count):
        function(*arguments)
    return (time.perf_counter_ns() - begin) / count


def put(port):
    """Time for a MiB to the guest."""
    chunk = bytes(CHUNK)
    with connect(port) as connection:
        connection.sendall(b"t")
        begin = time.perf_counter_ns()
        for _ in range(TRANSFER // CHUNK):
            connection.sendall(chunk)
        assert connection.recv(1) == b"."
        return (time.perf_counter_ns() - begin) / (TRANSFER >> 20)


def get(port):
    """Time for a MiB from the guest."""
    buffer = bytearray(CHUNK)
    with connect(port) as connection:
        begin = time.perf_counter_ns()
        connection.sendall(b"g")
        left = TRANSFER
        while left:
            received = connection.recv_into(buffer)
            assert received, f"{left} bytes are missing"
            left -= received
        return (time.perf_counter_ns() - begin) / (TRANSFER >> 20)


def round_trips(port, first, data, count):
    """Time for data to go to the guest and come back over a connection that is there."""

    def trip():
        connection.sendall(data)
        left = len(data)
        while left:
            received = len(connection.recv(left))
            assert received, "the connection ended"
            left -= received

    with connect(port) as connection:
        connection.sendall(first)
        return each(count, trip)


def connection(port):
    """Connect, have one byte sent back, close."""
    with connect(port) as fresh:
        fresh.sendall(b"ex")
        assert fresh.recv(1) == b"x"


def request(port):
    import http.client

    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", f"/{FILE}")
    response = client.getresponse()
    assert response.status == 200 and len(response.read()) > 10_000
    client.close()


def handshake(port, context):
    """Connect over TLS, have one byte sent back, close."""
    with context.wrap_socket(connect(port), server_hostname="localhost") as fresh:
        fresh.sendall(b"x")
        assert fresh.recv(1) == b"x"


def measure(ports):
    plain, asynchronous, web, secure = ports
    context = ssl.create_default_context(cadata=CERTIFICATE)
    measurements = {
        "tcp_in": lambda: put(plain),
        "tcp_out": lambda: get(plain),
        "tcp_round_trip": lambda: round_trips(plain, b"e", b"x", 200),
        "tcp_connect": lambda: each(50, connection, plain),
        "asyncio_echo": lambda: round_trips(asynchronous, b"", b"x" * 100, 200),
        "http": lambda: each(20, request, web),
        "tls": lambda: each(20, handshake, secure, context),
    }
    results = {}
    for name, measurement in measurements.items():
        measurement()
        results[name] = [round(measurement(), 1) for _ in range(TIMES)]
    print(json.dumps(results))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", *arguments]:
            serve(arguments)
        case ["session"]:
            serve_sessions()
        case ["measure", *ports]:
            measure([int(port) for port in ports])
        case _:
            sys.exit(__doc__)
