"""A client of the machine's sessions over TCP that is no program of its own, for tests in the machine and beside it."""

import re
import socket
import time

#: Far more seconds than an answer takes.
LONG = 30
PROMPT = b">>> "
RAW_PROMPT = b"raw REPL; CTRL-B to exit\r\n>"
IAC, SB, SE, WILL, DO = 255, 250, 240, 251, 253
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")


class Client:
    """A connection, and all that came from it that was not asked for yet."""

    #: What ends a line, and what comes when all of it was done.
    end, prompt = b"\n", PROMPT

    def __init__(self, address):
        """Connect; the server may still be about to start."""
        deadline = time.monotonic() + LONG
        while True:
            try:
                self.socket = socket.create_connection(address)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.received = b""

    @classmethod
    def lines(cls, address):
        """Connect as ``nc`` does."""
        client = cls(address)
        client.until(PROMPT)
        return client

    @classmethod
    def telnet(cls, address, terminal=b"xterm", size=(100, 30)):
        """Connect as ``telnet`` does."""
        client = cls.lines(address)
        client.send(
            bytes((IAC, WILL, 24, IAC, DO, 1, IAC, DO, 3, IAC, WILL, 3, IAC, WILL, 0, IAC, DO, 0, IAC, WILL, 31))
        )
        client.window(*size)
        client.send(bytes((IAC, SB, 24, 0)) + terminal + bytes((IAC, SE)))
        client.until(PROMPT)
        client.end = b"\r"
        return client

    @classmethod
    def raw(cls, address):
        """Connect as one of MicroPython's tools does, into the raw REPL."""
        client = cls.lines(address)
        client.send(b"\r\x01")
        client.until(RAW_PROMPT)
        client.end, client.prompt = b"\x04", b"\x04>"
        return client

    def window(self, columns, lines):
        self.send(bytes((IAC, SB, 31)) + columns.to_bytes(2) + lines.to_bytes(2) + bytes((IAC, SE)))

    def send(self, data):
        self.socket.sendall(data)

    def until(self, text, seconds=LONG):
        """Answer what came up to *text*, without terminal control."""
        deadline = time.monotonic() + seconds
        while text not in (plain := _ESCAPES.sub(b"", self.received)):
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = self.socket.recv(65536)
            except TimeoutError:
                piece = None
            if not piece:
                raise AssertionError(f"no {text!r} ({'silence' if piece is None else 'closed'}) in {plain[-1500:]!r}")
            self.received += piece
        before, _, self.received = plain.partition(text)
        return before

    def ask(self, line, answer, end=PROMPT):
        self.send(line)
        got = self.until(end)
        assert answer in got, f"{line!r}: no {answer!r} in {got!r}"
        return got

    def calculate(self, left, right):
        """Ask for a product, which must be in neither number."""
        line = b"%d * %d" % (left, right)
        self.send((line if self.prompt == PROMPT else b"print(%b)" % line) + self.end)
        self.until(b"%d" % (left * right))
        self.until(self.prompt)

    def begin(self, code):
        """Begin what does not end."""
        self.send(b"exec(%b)" % repr(f"print('begun', 1, sep=':', flush=True)\n{code}").encode() + self.end)
        self.until(b"begun:1")

    def is_silent(self):
        """Whether nothing has come."""
        self.socket.settimeout(0)
        try:
            self.received += self.socket.recv(65536)
        except BlockingIOError:
            pass
        return not self.received.strip()

    def closed(self, seconds=LONG):
        """Wait until the server closes the connection."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass

    def close(self):
        self.socket.close()


def settles(measure, expected, seconds=LONG):
    deadline = time.monotonic() + seconds
    while (now := measure()) != expected:
        assert time.monotonic() < deadline, f"{measure.__name__}: {now}, not {expected}"
        time.sleep(0.05)
