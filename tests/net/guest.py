"""The guest's side of the network tests: `guest.py TEST ARGUMENTS...` does one and prints what came of it."""

import errno
import fcntl
import hashlib
import os
import select
import socket
import struct
import sys
import threading
import time

HOST = "10.0.2.2"
CHUNK = 1 << 16


def memory_free():
    """Free memory in KiB, after the kernel has had time to let go of what is on its way."""
    with open("/proc/meminfo") as file:
        values = dict(line.split(":") for line in file)
    return int(values["MemFree"].split()[0])


def wait_for_address():
    """Waits until the interface has an address: of QEMU's user network, or of the cable of `bad_wire.rs`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with open("/proc/net/route") as file:
            if any(line.split()[1] in ("0002000A", "0000090A") for line in file):
                return
        time.sleep(0.02)
    raise SystemExit("no address within 20 s")


def pattern(seed, size):
    """Bytes that are another for each seed, and their checksum."""
    block = hashlib.sha256(str(seed).encode()).digest() * 2048
    data = (block * (size // len(block) + 1))[:size]
    return data, hashlib.sha256(data).hexdigest()


def receive_all(connection):
    digest, size = hashlib.sha256(), 0
    while data := connection.recv(CHUNK):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def addresses():
    """What DHCP and the router advertisements of QEMU's user network give, as programs see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:

        def ask(command):
            return fcntl.ioctl(s, command, struct.pack("40s", b"eth0"))

        print("address", socket.inet_ntoa(ask(0x8915)[20:24]))
        print("netmask", socket.inet_ntoa(ask(0x891B)[20:24]))
        print("broadcast", socket.inet_ntoa(ask(0x8919)[20:24]))
        print("hardware", ask(0x8927)[18:24].hex(":"))
        print("mtu", struct.unpack_from("i", ask(0x8921), 16)[0])
    print("interfaces", socket.if_nameindex())
    print("resolver", open("/etc/resolv.conf").read().split())
    print("operstate", open("/sys/class/net/eth0/operstate").read().strip())
    print("sysfs", open("/sys/class/net/eth0/address").read().strip())
    deadline = time.monotonic() + 10
    while "fec0" not in (text := open("/proc/net/if_inet6").read()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for line in text.splitlines():
        print("ipv6", line.split())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))
        print("source", s.getsockname()[0])
    arp = open("/proc/net/arp").read()
    print("arp", "10.0.2.2" in arp or arp.count("\n") == 1)


def bulk(port, size):
    """Receives as much as the host sends, then sends as much; the checksums are compared by the host."""
    with socket.create_connection((HOST, int(port)), 20) as s:
        print("received", *receive_all(s))
    data, digest = pattern("guest", int(size))
    with socket.create_connection((HOST, int(port)), 20) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        print("sent", len(data), digest, s.recv(100).decode())


def six(port):
    """IPv6, through the router that advertised itself: a connection, and an echo of the router."""

    def usable():
        with open("/proc/net/if_inet6") as file:
            lines = [line.split() for line in file]
        # 0x40 (IFA_F_TENTATIVE): it is there for others to object to.
        return any(line[0].startswith("fec0") and not int(line[4], 16) & 0x40 for line in lines)

    deadline = time.monotonic() + 15
    while not usable() and time.monotonic() < deadline:
        time.sleep(0.1)
    with socket.create_connection(("fec0::2", int(port)), 20) as s:
        s.sendall(b"six")
        print("answer", s.recv(100).decode(), s.getsockname()[0])
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as s:
        s.settimeout(10)
        s.sendto(struct.pack("!BBHHH", 128, 0, 0, 7, 1) + b"echo", ("fe80::2%eth0", 0))
        while (message := s.recvfrom(100))[0][0] != 129:
            pass
        print("echo", message[0][8:], message[1][0], message[1][3])


def refused(port):
    """The ways in which a connection does not come to be."""
    for blocking in (True, False):
        with socket.socket() as s:
            s.setblocking(blocking)
            print("connect", errno.errorcode[s.connect_ex((HOST, int(port)))])
            if not blocking:
                poll = select.poll()
                poll.register(s, select.POLLOUT)
                events = poll.poll(10000)[0][1]
                print("events", bool(events & select.POLLERR), bool(events & select.POLLHUP))
                print("error", errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
                print("again", s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    with socket.socket() as s:
        s.settimeout(20)
        # Nobody of this network has it.
        before = time.monotonic()
        try:
            s.connect(("10.0.2.77", 9))
        except OSError as error:
            print("unreachable", errno.errorcode[error.errno], time.monotonic() - before < 10)


def backlog(port, count):
    """Accepts only after all have connected."""
    with socket.create_server(("", int(port)), backlog=int(count)) as server:
        print("listening", flush=True)
        sys.stdin.readline()
        numbers = []
        for _ in range(int(count)):
            connection, _ = server.accept()
            with connection:
                number = connection.recv(100)
                connection.sendall(number)
                numbers.append(int(number))
        print("accepted", sorted(numbers) == list(range(int(count))))


def churn(port, rounds, at_once, seconds):
    """Opens and closes connections to the host, many at a time; memory comes back some seconds later."""

    def turn(count):
        sockets = [socket.create_connection((HOST, int(port)), 30) for _ in range(count)]
        for number, s in enumerate(sockets):
            s.sendall(b"%d\n" % number)
        for number, s in enumerate(sockets):
            assert s.recv(100) == b"%d\n" % number
            s.close()

    turn(int(at_once))
    time.sleep(1)
    before = memory_free()
    for _ in range(int(rounds)):
        turn(int(at_once))
    time.sleep(float(seconds))
    print("lost", max(0, before - memory_free()) // 1024, "MiB")


def many(port, count):
    """So many connections at once, all of them alive."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    sockets = [socket.create_connection((HOST, int(port)), 60) for _ in range(int(count))]
    for turn in range(2):
        for number, s in enumerate(sockets):
            s.sendall(b"%d.%d\n" % (number, turn))
        for number, s in enumerate(sockets):
            assert s.recv(100) == b"%d.%d\n" % (number, turn)
    print("alive", len(sockets))


def datagrams(port):
    """UDP to the host and back, short, long and cut into fragments."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect((HOST, int(port)))
        for size in (0, 1, 1000, 1472, 1473, 4000, 9000):
            data, _ = pattern(size, size)
            s.send(data)
            print(size, s.recv(CHUNK) == data)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((HOST, 9))
        try:
            s.send(bytes(70000))
        except OSError as error:
            print(errno.errorcode[error.errno])


def told():
    """What a DHCP server said, as programs find it."""
    from piton import net, ntp

    [interface] = [one for one in net.interfaces() if one.name == "eth0"]
    print("address", interface.addresses[0])
    print("gateway", next(route.gateway for route in net.routes() if route.destination.prefixlen == 0))
    print("resolver", open("/etc/resolv.conf").read().split())
    print("ntp_servers", repr(open("/proc/net/ipconfig/ntp_servers").read()))
    print("asked", ntp.servers())
    print("dropped", net.stats().dropped["IpExt.InUnknownDhcp"])


def seen(port):
    """What `piton.net` shows of a connection to the host, and of a datagram that comes when nobody is there for it."""
    from piton import net

    print(net.interfaces())
    print(net.routes())
    with socket.create_connection((HOST, int(port)), 20) as s:
        [one] = [one for one in net.connections() if one.remote.port == int(port)]
        print("connection", one.protocol, one.state, one.local.port == s.getsockname()[1], one.remote)
        print("owned", one.processes == (os.getpid(),))
    before = net.stats().dropped.get("Udp.NoPorts", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"to be answered late", (HOST, int(port)))
    deadline = time.monotonic() + 20
    while net.stats().dropped.get("Udp.NoPorts", 0) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    print("dropped", net.stats().dropped["Udp.NoPorts"] - before)
    print(net.stats())


def serve(port):
    """An HTTP server for the host's curl."""
    import http.server

    os.chdir("/tmp")
    with open("data", "wb") as file:
        file.write(pattern("file", 3_000_000)[0])
    server = http.server.ThreadingHTTPServer(("", int(port)), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.readline()


def under_siege(frames, count):
    """Accepts connections while a flood of beginnings comes that nobody goes on with; memory stays."""
    server = socket.create_server(("", 80), backlog=128)
    before = memory_free()
    for _ in range(int(count)):
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(100))
    while received() < int(frames):
        time.sleep(0.1)
    with open("/proc/net/netstat") as file:
        names, values = (line.split() for line in file if line.startswith("TcpExt"))
    print("evicted", dict(zip(names, values))["TCPReqQFullDrop"])
    server.close()
    time.sleep(1)
    print("lost", max(0, before - memory_free()) // 1024)


def sums(port, count):
    """Sends and receives through a bad wire: each connection sends, the peer sends back what it got."""
    for number in range(int(count)):
        data, digest = pattern(number, 60_000)
        with socket.create_connection(("10.9.0.1", int(port)), 120) as s:
            sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            sender.start()
            size, came = receive_all(s)
            sender.join()
        print(number, size, came == digest)


def received():
    """Frames that the card has received."""
    with open("/sys/class/net/eth0/statistics/rx_packets") as file:
        return int(file.read())


def listen_to_noise(frames):
    """Sockets of every kind until so many frames of noise have come; then they still work, and memory is there."""
    tcp = socket.create_server(("", 80), backlog=128)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", 80))
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    six = socket.create_server(("::", 81), family=socket.AF_INET6)
    for s in (tcp, udp, raw, six):
        s.setblocking(False)
    before = memory_free()
    while received() < int(frames):
        for s in select.select((tcp, udp, raw, six), (), (), 0.1)[0]:
            try:
                if s in (tcp, six):
                    s.accept()[0].close()
                else:
                    s.recv(CHUNK)
            except OSError:
                pass
    with socket.socket() as s:
        s.connect(("127.0.0.1", 80))
    with open("/proc/net/snmp") as file:
        lines = [line.split() for line in file]
    counts = {
        f"{names[0]}{name}": int(value)
        for names, values in zip(lines[::2], lines[1::2])
        for name, value in zip(names[1:], values[1:])
    }
    print("frames", received())
    wanted = ("Ip:InHdrErrors", "Ip:InAddrErrors", "Icmp:InErrors", "Tcp:InErrs", "Udp:InErrors")
    print("dropped", sum(counts[name] for name in wanted))
    print("lost", max(0, before - memory_free()) // 1024)
    print("still there")


if __name__ == "__main__":
    wait_for_address()
    globals()[sys.argv[1]](*sys.argv[2:])
