"""TLS over a socket that does not block, with as much of a socket's interface as ``connection`` uses."""

import ssl

#: Bytes of TLS read at once, and kept while the client does not take them.
_PIECE = 16384
_MOST_KEPT = 65536


class Secure:
    """The server's side of TLS on *socket*."""

    def __init__(self, context: ssl.SSLContext, socket):
        self._socket = socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        #: Whether both sides have agreed on keys.
        self.secured = False

    @property
    def wants_write(self) -> bool:
        """Whether something waits for the socket to take it."""
        return bool(self._unsent) or self._outgoing.pending > 0

    @property
    def pending(self) -> bool:
        """Whether there is something to be received that the socket does not know of."""
        return self._tls.pending() > 0 or self._incoming.pending > 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        """Answer what the client sent, nothing at its end.

        :raises BlockingIOError: nothing is there yet.
        :raises OSError: the connection or its TLS failed.
        """
        while True:
            try:
                if not self.secured:
                    self._tls.do_handshake()
                    self.secured = True
                    self.flush()
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self.flush()
                data = self._socket.recv(_PIECE)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def send(self, data: bytes) -> int:
        """Send *data*.

        :raises BlockingIOError: the client has not taken enough of what was sent before.
        """
        self.flush()
        if self._outgoing.pending + len(self._unsent) > _MOST_KEPT:
            raise BlockingIOError
        sent = self._tls.write(data)
        self.flush()
        return sent

    def flush(self) -> None:
        """Send what waits, as far as the client takes it."""
        try:
            while self._unsent or self._outgoing.pending:
                self._unsent = self._unsent or self._outgoing.read(_PIECE)
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass  # `wants_write` says so.

    def close(self) -> None:
        self._socket.close()
