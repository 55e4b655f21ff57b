"""The login of sessions, from the host: who knows the token gets in, over TLS or without, and nobody else does.

    login.py PORT TOKEN [CERTIFICATE]

PORT of 127.0.0.1 leads to a machine that runs ``guard.py`` with the same TOKEN; CERTIFICATE (a file) is what the
machine shows. Prints ``well`` at the end.
"""

import os
import pty
import ssl
import subprocess
import sys
import time

from client import PROMPT, Client

ADDRESS = ("127.0.0.1", int(sys.argv[1]))
TOKEN = sys.argv[2].encode()
CERTIFICATE = sys.argv[3] if sys.argv[3:] else None
#: What asks for the token, and the seconds that three wrong ones cost.
ASKED, DELAY = b"token: ", 4.0


def connect():
    """Connect, and be asked for the token."""
    client = Client(ADDRESS)
    if CERTIFICATE:
        # As a careful client does: the certificate is checked, and the name in it.
        context = ssl.create_default_context(cafile=CERTIFICATE)
        client.socket = context.wrap_socket(client.socket, server_hostname="piton.test")
    client.until(ASKED)
    return client


def enter(token=TOKEN):
    client = connect()
    client.send(token + b"\n")
    return client


def who_knows_the_token_gets_in():
    client = enter()
    client.until(PROMPT)
    client.ask(b"6*7\n", b"42")
    client.ask(b"'x' * 100_000\n", b"x" * 100_000)
    client.close()
    # In one piece with what is to be done, as a program sends it.
    client = connect()
    client.send(TOKEN + b"\r\n6*7\n")
    client.until(b"42\n")
    client.close()


def two_wrong_ones_may_be_followed_by_the_right_one():
    client = enter(b"wrong")
    for token in TOKEN + b"x", TOKEN:
        client.until(b"wrong\n" + ASKED)
        client.send(token + b"\n")
    client.until(PROMPT)
    client.close()


def nothing_is_done_before_the_token():
    for line in b"6*7\n", b"\x01print(6*7)\x04", b"\x03\x03":
        client = enter(line)
        said = client.until(ASKED)
        assert b"42" not in said and PROMPT not in said, said
        client.close()
        enter().until(PROMPT)


def programs_of_the_host_get_in():
    lines = TOKEN + b"\nprint('got', 6*7)\n"
    if CERTIFICATE:
        command = ["openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", CERTIFICATE]
        command += ["-verify_hostname", "piton.test", "-connect", "%s:%d" % ADDRESS]
    else:
        command = ["nc", *map(str, ADDRESS)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
    process.stdin.write(lines)
    process.stdin.flush()
    said = b""
    while b"got 42" not in said:
        piece = os.read(process.stdout.fileno(), 65536)
        assert piece, said
        said += piece
    process.kill()
    process.wait()


def telnet_shows_no_token():
    if CERTIFICATE:
        return
    master, slave = pty.openpty()
    process = subprocess.Popen(["telnet", *map(str, ADDRESS)], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    for expected, line in ((ASKED, TOKEN + b"\r"), (PROMPT, b"print('go' + 't', 6*7)\r"), (b"got 42", b"")):
        while expected not in said:
            said += os.read(master, 65536)
        time.sleep(0.2)
        os.write(master, line)
    assert TOKEN not in said, said
    process.kill()
    process.wait()
    os.close(master)


def who_speaks_no_tls_gets_nothing():
    if not CERTIFICATE:
        return
    for said in TOKEN + b"\n6*7\n", os.urandom(2000), b"\x16\x03\x01\x40\x00" + bytes(0x4000):
        client = Client(ADDRESS)
        client.send(said)
        client.socket.settimeout(10)
        try:
            got = client.socket.recv(1000)
        except ConnectionResetError:
            got = b""
        assert PROMPT not in got and ASKED not in got, (said, got)
        client.close()


def three_wrong_ones_cost_time():
    began = time.monotonic()
    client = enter(b"wrong")
    for _ in range(2):
        client.until(b"wrong\n" + ASKED)
        client.send(b"wrong\n")
    client.until(b"wrong\n")
    began = time.monotonic()
    # Another connection meanwhile is not helped by the right one.
    other = enter()
    other.until(b"wrong\n")
    other.closed()
    client.closed()
    assert time.monotonic() - began > DELAY - 0.5, time.monotonic() - began
    client = enter()
    client.until(PROMPT)
    client.ask(b"piton.net.stats().sessions['tokens'] > 3\n", b"True")
    client.close()


for test in (
    who_knows_the_token_gets_in,
    two_wrong_ones_may_be_followed_by_the_right_one,
    nothing_is_done_before_the_token,
    programs_of_the_host_get_in,
    telnet_shows_no_token,
    who_speaks_no_tls_gets_nothing,
    three_wrong_ones_cost_time,
):
    began = time.monotonic()
    test()
    print(f"{test.__name__}: {time.monotonic() - began:.1f} s", flush=True)
print("well")
