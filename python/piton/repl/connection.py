"""One client: from the first byte to the last, and its session's other end.

What the client speaks is found out without waiting: the greeting begins with a question that only Telnet understands
(three bytes, which a carriage return behind them hides from anybody else's eyes), goes on with the prompt, and the
session begins with the first byte that comes back. An answer to the question means ``telnet``: after what it tells of
its terminal it gets a pseudo-terminal. Anything else is ``nc`` or a tool of MicroPython's: lines, through two pipes.
"""

import _socket
import fcntl
import os
import select
import termios
import time

from piton import repl
from piton.repl import children
from piton.repl.login import DELAY, Login
from piton.repl.raw import banner
from piton.repl.session import Session
from piton.repl.telnet import ECHO, IAC, PROBE, WILL, Telnet
from piton.repl.tool import make_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.interrupt import Attempt
    from piton.repl.server import Server

#: Bytes moved at once, and kept for a side that does not take them.
PIECE = 16384
MOST_KEPT = 65536
#: Seconds that a client may take for its token or the start of TLS, and to tell about its terminal.
LOGIN_TIME, NEGOTIATION_TIME = 60.0, 1.0
#: Seconds that a session may go on when its client has said all (or has gone: that looks the same).
HALF_CLOSED_TIME = 10.0
#: Seconds between two interrupts of one session, and between tries to end a session that goes on.
_INTERRUPT_PAUSE = 0.05
_HANG_UP_PAUSE = 0.2, 5.0
#: Seconds between later tries of an interrupt, and how many there are.
_AGAIN_PAUSE, _AGAIN_TRIES = 0.1, 50
_CTRL_C = 3
_LOCAL = 3

_HANDSHAKE, _LOGIN, _REFUSED, _GREETED, _NEGOTIATING, _SESSION, _LEAVING, _CLOSED = range(8)


class Connection:
    """A client of the server."""

    def __init__(self, server: "Server", socket, address: str):
        self._server = server
        self._socket = socket
        self._address = address
        self._telnet = Telnet()
        self._state = _GREETED
        self._login: Login | None = None
        self.session: Session | None = None
        #: Our ends of the session's descriptors; one and the same for a pseudo-terminal. -1 when closed.
        self._to_session = self._from_session = -1
        self._to_client, self._for_session = bytearray(), bytearray()
        #: Whether the client sends no more; whether its socket is closed; whether the session writes no more.
        self._half_closed = self._gone = self._silent = False
        self._last_interrupt = 0.0
        self._attempt: tuple[Attempt, int]
        self._pause = _HANG_UP_PAUSE[0]
        socket.setblocking(False)
        socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
        for option, value in ((_socket.TCP_KEEPIDLE, 60), (_socket.TCP_KEEPINTVL, 15), (_socket.TCP_KEEPCNT, 4)):
            socket.setsockopt(_socket.IPPROTO_TCP, option, value)

    def begin(self) -> None:
        """Greet the client, or start TLS with it."""
        if self._server.context is not None:
            from piton.repl.tls import Secure

            self._socket = Secure(self._server.context, self._socket)
            self._state = _HANDSHAKE
            self._remind(LOGIN_TIME)
            self._watch()
        else:
            self._secured()

    def _secured(self) -> None:
        if self._server.guard is not None:
            self._login = Login(self._server.guard, self._address)
            self._state = _LOGIN
            self._remind(LOGIN_TIME)
            self._to_client += PROBE + b"\rtoken: "
        else:
            self._greet(PROBE + b"\r")
        self._write_client()
        self._watch()

    def _greet(self, before: bytes) -> None:
        self._state = _GREETED
        self._remind(None)
        self._to_client += before + f"{banner()}>>> ".encode()

    # --- Events -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Tell the server what there is to wait for."""
        if self._gone:
            return
        events = 0
        if not self._half_closed and len(self._for_session) < MOST_KEPT and len(self._to_client) < 2 * MOST_KEPT:
            events |= select.EPOLLIN
        if self._to_client or getattr(self._socket, "wants_write", False):
            events |= select.EPOLLOUT
        self._server.watch(self._socket.fileno(), events, self._client_ready)
        if self._from_session < 0 or self._silent:
            return
        fetch = select.EPOLLIN if len(self._to_client) < MOST_KEPT else 0
        put = select.EPOLLOUT if self._for_session else 0
        if self._from_session == self._to_session:
            self._server.watch(self._from_session, fetch | put, self._session_ready)
        else:
            self._server.watch(self._from_session, fetch, self._session_ready)
            if self._to_session >= 0:
                self._server.watch(self._to_session, put, self._session_ready)

    def _client_ready(self, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self._hang_up()
            return
        if events & select.EPOLLIN:
            self._read_client()
        if self._state != _CLOSED:
            self._write_client()
        self._watch()

    def _session_ready(self, events: int) -> None:
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read_session()
        if self._state != _CLOSED:
            self._write_session()
            self._write_client()
        self._watch()

    def _remind(self, seconds: float | None) -> None:
        """Have `_due` called in *seconds*, or not at all."""
        self._server.remind((self, "state"), seconds, self._due)

    def _due(self) -> None:
        """Do what was to be done at this time."""
        if self._state == _NEGOTIATING:
            self._start_terminal()
            self._watch()
        elif self._state == _LEAVING:
            self._end_session()
        elif self._state == _SESSION:
            self._hang_up()
        else:
            self._close()

    # --- The client's side ------------------------------------------------------------------------------------------

    def _read_client(self) -> None:
        while self._read_piece() and getattr(self._socket, "pending", False):
            pass

    def _read_piece(self) -> bool:
        """Read once; False when there was nothing, or nothing more is wanted."""
        try:
            data = self._socket.recv(PIECE)
        except (BlockingIOError, InterruptedError):
            data = None
        except OSError:
            self._hang_up()
            return False
        if self._state == _HANDSHAKE and self._socket.secured:
            self._secured()
        if data is None:
            return False
        if not data:
            self._client_said_all()
            return False
        keys = self._telnet.receive(data)
        self._to_client += self._telnet.reply
        self._telnet.reply.clear()
        self._typed(keys)
        return self._state != _CLOSED

    def _typed(self, keys: bytes) -> None:
        if self._state == _LOGIN:
            keys = self._check_token(keys)
        if self._state == _GREETED:
            if self._telnet.spoken:
                self._state = _NEGOTIATING
                self._telnet.negotiate()
                self._to_client += self._telnet.reply
                self._telnet.reply.clear()
                self._remind(NEGOTIATION_TIME)
            elif keys:
                self._start_lines()
        if self._state == _NEGOTIATING:
            self._for_session += keys
            if self._telnet.settled:
                self._start_terminal()
        elif self._state == _SESSION:
            self._window()
            self._keys(keys)

    def _check_token(self, keys: bytes) -> bytes:
        """Answer the keys behind the token, once it was right."""
        if self._telnet.spoken and ECHO not in self._telnet.offered and ECHO not in self._telnet.ours:
            # What the client does not echo itself nobody reads over a shoulder.
            self._telnet.offered.add(ECHO)
            self._to_client += bytes((IAC, WILL, ECHO))
        passed, rest = self._login.type(keys, time.monotonic())
        if passed is None:
            if rest:
                repl.refuse("tokens")
            self._to_client += rest
            return b""
        self._login = None
        if not passed:
            self._state = _REFUSED
            repl.refuse("tokens")
            self._to_client += b"wrong\n"
            self._remind(DELAY)
            return b""
        self._greet(b"\r\n")
        return rest

    def _keys(self, keys: bytes) -> None:
        """Hand keys to the session, and look for Ctrl-C among them."""
        if _CTRL_C not in keys:
            self._for_session += keys
        elif self.session.terminal is not None:
            self._interrupt_terminal(keys)
        else:
            self._interrupt_lines(keys)
        self._write_session()

    def _interrupt_terminal(self, keys: bytes) -> None:
        before, after = keys.rsplit(b"\x03", 1)
        try:
            modes = termios.tcgetattr(self._from_session)[_LOCAL]
            foreground = os.tcgetpgrp(self._from_session)
        except (OSError, termios.error):
            return
        editing = self.session.editing
        in_program = self.session.has_program and foreground > 0
        if not editing and (in_program or not modes & termios.ISIG):
            # A program that reads the key itself, or that the terminal signals.
            self._for_session += keys
            return
        # What was typed ahead goes.
        self._for_session.clear()
        if not editing and foreground > 0:
            # The terminal signals the programs that run in it. Without any it must not get the key: the editor that the
            # session comes back to might take it for its own.
            self._for_session += b"\x03"
            self._write_session()
        else:
            self._discard_typed(modes)
        if editing or not self.session.running:
            self.session.keys_sent += 1
            self.session.wake()
        else:
            self._interrupt(KeyboardInterrupt)
        self._for_session += after

    def _discard_typed(self, modes: int) -> None:
        """Do what a terminal does with Ctrl-C besides signalling."""
        try:
            termios.tcflush(self.session.input_descriptor, termios.TCIFLUSH)
        except termios.error:
            return  # The session has just ended.
        if modes & termios.ECHO:
            self._to_client += self._telnet.send(b"^C\r\n")

    def _interrupt_lines(self, keys: bytes) -> None:
        """Interrupt what runs, or let the prompt see the key."""
        before, after = keys.rsplit(b"\x03", 1)
        if self.session.running:
            # What was typed ahead goes, as in a terminal.
            self._for_session.clear()
            self._interrupt(KeyboardInterrupt)
            # Afterwards: by then what was just being started is known, or the session sees to it itself.
            children.signal_all(self.session, children.INTERRUPT)
        else:
            self.session.keys_sent += 1
            self._for_session += before.replace(b"\x03", b"") + b"\x03"
        self._for_session += after

    def _interrupt(self, exception: type[BaseException]) -> None:
        now = time.monotonic()
        if now - self._last_interrupt >= _INTERRUPT_PAUSE:
            attempt = self._server.interrupter.interrupt(self.session, exception)
            self._last_interrupt = time.monotonic()
            if attempt is not None:
                self._interrupt_again(attempt, _AGAIN_TRIES)

    def _interrupt_again(self, attempt: "Attempt", tries: int) -> None:
        self._attempt = attempt, tries
        self._server.remind((self, "interrupt"), _AGAIN_PAUSE if tries else None, self._try_again)

    def _try_again(self) -> None:
        attempt, tries = self._attempt
        if self.session is attempt.session and not self._server.interrupter.again(attempt):
            self._interrupt_again(attempt, tries - 1)

    def _client_said_all(self) -> None:
        self._half_closed = True
        if self._state != _SESSION or self.session.terminal is not None:
            self._hang_up()
            return
        self._remind(HALF_CLOSED_TIME)
        self._write_session()

    def _write_client(self) -> None:
        if self._gone:
            return
        try:
            if getattr(self._socket, "wants_write", False):
                self._socket.flush()
            while self._to_client:
                del self._to_client[: self._socket.send(self._to_client[:PIECE])]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._hang_up()
            return
        if self._state == _LEAVING and self.session is None:
            self._close()

    # --- The session's side -----------------------------------------------------------------------------------------

    def _start_lines(self) -> None:
        from_client, to_session = os.pipe2(os.O_CLOEXEC)
        from_session, to_client = os.pipe2(os.O_CLOEXEC)
        self._start((from_client, to_client), (to_session, from_session), None)

    def _start_terminal(self) -> None:
        self._remind(None)
        self._telnet.refused.clear()
        master, slave = os.openpty()
        os.set_inheritable(slave, False)
        columns, lines = self._telnet.window or (80, 24)
        termios.tcsetwinsize(master, (lines, columns))
        second = fcntl.fcntl(slave, fcntl.F_DUPFD_CLOEXEC, 0)
        # The prompt of the greeting makes way for the editor's.
        self._to_client += self._telnet.send(b"\r")
        self._start((slave, second), (master, master), self._telnet.terminal or "dumb")

    def _start(self, theirs: tuple[int, int], ours: tuple[int, int], terminal: str | None) -> None:
        """Start the session on *theirs*, with *ours* at this end."""
        number = self._server.admit(self)
        if number is None:
            for descriptor in {*theirs, *ours}:
                os.close(descriptor)
            self._leave(b"\r\nno room for another session\r\n")
            return
        for descriptor in set(ours):
            os.set_blocking(descriptor, False)
        self._to_session, self._from_session = ours
        try:
            session = Session(number, theirs, terminal, self._server)
            session.start()
        except (RuntimeError, MemoryError, OSError):
            self._server.release(number)
            self._let_session_go()
            for descriptor in set(theirs):
                os.close(descriptor)
            self._leave(b"\r\nno memory for a session\r\n")
            return
        self.session = session
        self._state = _SESSION

    def give_terminal(self) -> tuple[int, list] | None:
        """Make a terminal of the session's pipes, for a tool."""
        if self._state != _SESSION:
            return None
        self._telnet.off = True
        self._fetch_rest()
        try:
            master, slave = os.openpty()
        except OSError:
            return None
        os.set_inheritable(slave, False)
        os.set_blocking(master, False)
        modes = termios.tcgetattr(slave)
        quiet = modes.copy()
        make_raw(quiet)
        termios.tcsetattr(slave, termios.TCSANOW, quiet)
        self._let_session_go()
        self._to_session = self._from_session = master
        self._silent = False
        self._write_session()
        self._write_client()
        self._watch()
        return slave, modes

    def _window(self) -> None:
        """Pass on a new size of the client's window."""
        if self._telnet.window is None or self.session.terminal is None:
            return
        columns, lines = self._telnet.window
        self._telnet.window = None
        try:
            if termios.tcgetwinsize(self._from_session) != (lines, columns):
                termios.tcsetwinsize(self._from_session, (lines, columns))
                self.session.resized = True
                self.session.wake()
        except (OSError, termios.error):
            pass  # The session is ending.

    def _read_session(self) -> None:
        """Fetch what the session wrote."""
        if self._from_session < 0 or len(self._to_client) >= MOST_KEPT:
            return
        try:
            data = os.read(self._from_session, PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._to_client += self._telnet.send(data)
        else:
            # Its end is closed; the session itself will be collected.
            self._silent = True
            self._server.forget(self._from_session)

    def _write_session(self) -> None:
        if self._to_session < 0:
            return
        try:
            while self._for_session:
                del self._for_session[: os.write(self._to_session, self._for_session[:PIECE])]
        except BlockingIOError:
            return
        except OSError:
            self._for_session.clear()
            if self._to_session == self._from_session:
                return
        else:
            if not self._half_closed or self._to_session == self._from_session:
                return
        # All was said and the session is to read the end, or it reads no more.
        if self._to_session >= 0:
            self._server.forget(self._to_session)
            os.close(self._to_session)
            self._to_session = -1

    # --- The end ----------------------------------------------------------------------------------------------------

    def session_ended(self) -> None:
        """Close, now that the session has ended by itself or was ended."""
        if self._state == _SESSION:
            self._fetch_rest()
            children.signal_all(self.session, children.HANG_UP)
        self._let_session_go()
        self.session = None
        if self._state in (_SESSION, _LEAVING):
            self._leave(b"")

    def _fetch_rest(self) -> None:
        """Fetch all that the session wrote before it ended: no more than fits into a pipe or a terminal."""
        try:
            while not self._silent and len(self._to_client) < 4 * MOST_KEPT:
                if not (data := os.read(self._from_session, PIECE)):
                    break
                self._to_client += self._telnet.send(data)
        except OSError:
            pass  # That was all.

    def refuse(self) -> None:
        """Make way for another client."""
        self._close()

    def fail(self) -> None:
        """End, after an error that nobody thought of."""
        self._close_socket()
        self._hang_up()

    def _leave(self, words: bytes) -> None:
        """Say the last words, and close when they are out or the client does not take them."""
        self._state = _LEAVING
        self._half_closed = True
        self._to_client += words
        self._remind(HALF_CLOSED_TIME)
        self._write_client()

    def _hang_up(self) -> None:
        """The client has gone: end its session."""
        self._to_client.clear()
        self._half_closed = True
        if self.session is None:
            self._close()
            return
        self._state = _LEAVING
        self._close_socket()
        self.session.hung_up = True
        self._let_session_go()
        children.signal_all(self.session, children.HANG_UP)
        self.session.wake()
        self._end_session()

    def _end_session(self) -> None:
        if self.session is None:
            self._close()
            return
        if self.session.running:
            self._server.interrupter.interrupt(self.session, SystemExit)
        self._remind(self._pause)
        self._pause = min(2 * self._pause, _HANG_UP_PAUSE[1])

    def _let_session_go(self) -> None:
        for descriptor in {self._to_session, self._from_session} - {-1}:
            self._server.forget(descriptor)
            os.close(descriptor)
        self._to_session = self._from_session = -1

    def _close(self) -> None:
        self._state = _CLOSED
        self._remind(None)
        self._server.remind((self, "interrupt"), None)
        self._close_socket()
        self._server.dropped(self)

    def _close_socket(self) -> None:
        if not self._gone:
            self._gone = True
            self._server.forget(self._socket.fileno())
            self._socket.close()
