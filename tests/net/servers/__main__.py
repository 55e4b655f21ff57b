"""The guest's side of tests with the host's curl and iperf3.

    web CERTIFICATE      files by `python -m http.server`, plain and over TLS, and asyncio over TLS
    iperf PORT           Debian's iperf3: against the host's on PORT, then as a server

CERTIFICATE is a certificate and its key (PEM). The servers are on the ports from 8000 on; a line of input ends it.
"""

import asyncio
import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import zipfile

from guest import HOST, wait_for_address
from piton import net

HOME = "/tmp/served"
#: Bytes of the file that is served.
SIZE = 5_000_000
#: Seconds of each of iperf3's tests.
DURATION = "2"


def wait_for_line():
    print("listening", flush=True)
    sys.stdin.readline()


async def answer(reader, writer):
    """Answer requests over HTTP with what was asked for."""
    try:
        while line := (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line))
            await writer.drain()
    except asyncio.IncompleteReadError:
        pass  # The client has said all.
    writer.close()


def serve_tls(certificate, port):
    async def serve():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server = await asyncio.start_server(answer, "", port, ssl=context)
        await server.serve_forever()

    asyncio.run(serve())


def web(certificate):
    os.makedirs(HOME)
    os.chdir(HOME)
    data = hashlib.sha256(b"served").digest() * (SIZE // 32)
    with open("file", "wb") as file:
        file.write(data)
    print("sum", hashlib.sha256(data).hexdigest())
    with open("/tmp/certificate.pem", "w") as file:
        file.write(certificate)
    command = [sys.executable, "-m", "http.server", "--directory", HOME]
    subprocess.Popen([*command, "8000"])
    subprocess.Popen([*command, "8001", "--tls-cert", "/tmp/certificate.pem", "--tls-key", "/tmp/certificate.pem"])
    threading.Thread(target=serve_tls, args=("/tmp/certificate.pem", 8002), daemon=True).start()
    for port in 8000, 8001, 8002:
        wait_for(port)
    wait_for_line()


def wait_for(port):
    """Wait until somebody listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(one.local.port == port and one.state == "listening" for one in net.connections()):
            return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens on {port}")


def unpack():
    with zipfile.ZipFile(os.path.abspath(sys.argv[0])) as archive:
        for name in archive.namelist():
            if name.startswith(("bin/", "lib/")):
                archive.extract(name, HOME)
    os.chmod(f"{HOME}/bin/iperf3", 0o755)
    os.environ["LD_LIBRARY_PATH"] = f"{HOME}/lib"


def iperf(port):
    unpack()
    command = [f"{HOME}/bin/iperf3", "-c", HOST, "-p", port, "-t", DURATION, "-J"]
    for name, options in ("out", []), ("in", ["-R"]), ("datagrams", ["-u", "-b", "20M"]):
        done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout)
        if done.returncode:
            raise SystemExit(f"{name}: {result}")
        end = result["end"]
        came = end["sum_received"] if "sum_received" in end else end["sum"]
        print(f"{name}: {came['bytes']} bytes, {came['bits_per_second'] / 1e6:.0f} Mbit/s", flush=True)
    subprocess.Popen([f"{HOME}/bin/iperf3", "-s", "-p", "8000"], stdout=subprocess.DEVNULL)
    wait_for(8000)
    wait_for_line()


wait_for_address()
globals()[sys.argv[1]](*sys.argv[2:])
