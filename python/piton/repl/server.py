"""Moves all bytes between clients and sessions: one thread, ready for whatever is ready.

A ``Connection`` is a client: its socket, what Telnet makes of the bytes, and, once it has typed something, its session.
Nothing here waits for one client or one session: sockets, pseudo-terminals and pipes do not block on this side, and
what one of them does not take is kept up to a bound and then no longer fetched. A session that has ended and one that
has to be ended are seen to from here as well, because only a third thread can.
"""

import _socket
import _thread
import gc
import os
import select
import time
from collections import deque

from piton import repl
from piton.repl import children, descriptors, interrupt, routing
from piton.repl.connection import Connection
from piton.repl.login import Guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from piton.repl.access import Settings
    from piton.repl.session import Session

#: Connections at once, and sessions among them. The others have not typed anything yet; the oldest makes way for a new
#: one.
MOST_CONNECTIONS = 96
MOST_SESSIONS = 64
#: Seconds without an end of a session after which garbage is collected.
GARBAGE_TIME = 1.0
#: Descriptors that may be ready at once before the others are asked for again.
_EVENTS = 64


class Request:
    """A session's wish for a terminal, and what came of it."""

    def __init__(self, session: "Session"):
        self.session = session
        self.answer: tuple[int, list] | None = None
        self.done = _thread.allocate_lock()
        self.done.acquire()


class Server:
    """The thread that serves all clients."""

    def __init__(self, listener, settings: "Settings"):
        self._listener = listener
        self._listener.setblocking(False)
        self._poll = select.epoll()
        self._handlers: dict = {}
        self._connections: dict[Connection, None] = {}
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ended: deque[Session] = deque()
        self._wanting: deque[Request] = deque()
        self._sessions: dict[int, Connection] = {}
        self._next_number = 1
        #: What is to be done at which time, by who it is for.
        self._timers: dict[tuple, tuple[float, Callable[[], None]]] = {}
        self.guard = Guard(settings.token) if settings.token is not None else None
        self.context = None
        if settings.tls:
            from piton.repl import access

            self.context = access.context()
        #: Made with the first session; until then there is nothing to interrupt.
        self.interrupter: interrupt.Interrupter | None = None
        routing.install()
        children.install()
        descriptors.install()

    def serve(self) -> None:
        """Serve for ever."""
        self.watch(self._wakeup, select.EPOLLIN, self._collect)
        self.watch(self._listener.fileno(), select.EPOLLIN, self._accept)
        while True:
            for descriptor, events in self._poll.poll(self._patience(), _EVENTS):
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    self._do(handler, events)
            self._strike()

    def _do(self, action: "Callable", *arguments) -> None:
        """Call *action*; an error in it ends the connection it is about and no other."""
        try:
            action(*arguments)
        except Exception as error:
            repl.note(f"a connection failed: {error!r}")
            connection = getattr(action, "__self__", None)
            if isinstance(connection, Connection):
                connection.fail()

    def watch(self, descriptor: int, events: int, handler) -> None:
        """Call *handler* with the events when *descriptor* is ready, from now on for these *events*."""
        if descriptor in self._handlers:
            self._poll.modify(descriptor, events)
        else:
            self._poll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def forget(self, descriptor: int) -> None:
        """Watch *descriptor* no longer."""
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def remind(self, key: tuple, seconds: float | None, action: "Callable[[], None] | None" = None) -> None:
        """Call *action* in *seconds*, in place of what was to be called for *key*; None as the time: call nothing."""
        if seconds is None or action is None:
            self._timers.pop(key, None)
        else:
            self._timers[key] = (time.monotonic() + seconds, action)

    def _patience(self) -> float:
        """How long to wait, in seconds; -1 for ever."""
        if not self._timers:
            return -1
        return max(0.0, min(at for at, _ in self._timers.values()) - time.monotonic())

    def _strike(self) -> None:
        """Do what is due."""
        if self._timers:
            now = time.monotonic()
            for key in [key for key, (at, _) in self._timers.items() if at <= now]:
                due = self._timers.pop(key, None)
                if due is not None:
                    self._do(due[1])

    def _accept(self, events: int) -> None:
        try:
            descriptor, address = self._listener._accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            # No descriptors or memory: what ends next makes room. Until then it would be reported again and again.
            time.sleep(0.01)
            return
        if len(self._connections) >= MOST_CONNECTIONS:
            repl.refuse("clients without room")
            next(connection for connection in self._connections if connection.session is None).refuse()
        try:
            connection = Connection(self, _socket.socket(fileno=descriptor), address[0])
        except OSError:
            return
        self._connections[connection] = None
        connection.begin()

    def dropped(self, connection: Connection) -> None:
        """Forget a connection that has closed."""
        self._connections.pop(connection, None)

    def admit(self, connection: Connection) -> int | None:
        """Answer the number of a new session, None when there are too many or memory is short."""
        if len(self._sessions) >= MOST_SESSIONS or repl.memory_left() < repl.SESSION_MEMORY:
            repl.refuse("sessions without room")
            return None
        if self.interrupter is None:
            self.interrupter = interrupt.Interrupter()
        number, self._next_number = self._next_number, self._next_number + 1
        self._sessions[number] = connection
        return number

    def release(self, number: int) -> None:
        """Take back a number."""
        self._sessions.pop(number, None)

    def ended(self, session: "Session") -> None:
        """Note that a session has ended. Called by its thread, as the last thing it does."""
        self._ended.append(session)
        os.eventfd_write(self._wakeup, 1)

    def terminal_for(self, session: "Session") -> "tuple[int, list] | None":
        """Give *session* a pseudo-terminal in the place of its pipes.

        Called by its thread. Answers the descriptor and the modes for ordinary use (it has raw ones), or None when the
        client has gone meanwhile.
        """
        request = Request(session)
        self._wanting.append(request)
        os.eventfd_write(self._wakeup, 1)
        request.done.acquire()
        return request.answer

    def _collect(self, events: int) -> None:
        os.eventfd_read(self._wakeup)
        while self._wanting:
            request = self._wanting.popleft()
            connection = self._sessions.get(request.session.number)
            try:
                request.answer = connection.give_terminal() if connection is not None else None
            finally:
                request.done.release()
        while self._ended:
            session = self._ended.popleft()
            # It is on its way out; until then it must not be forgotten, or its identity could become another thread's.
            session.thread.join()
            connection = self._sessions.pop(session.number, None)
            if connection is not None:
                connection.session_ended()
            self.remind(("garbage",), GARBAGE_TIME, _collect_garbage)


def _collect_garbage() -> None:
    """Free what ended sessions leave: functions and the names they are in hold each other, open files among them."""
    try:
        # Not here: what is freed may run code of a user.
        _thread.start_new_thread(gc.collect, ())
    except RuntimeError:
        pass  # No memory for a thread: Python collects by itself, only later.
