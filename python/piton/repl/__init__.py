"""The interactive sessions that come over the network: ``nc``, ``telnet`` and MicroPython's tools on one TCP port.

``start()`` listens; everything else is imported when the first client connects, so that the console's prompt waits for
none of it. One thread (``server``) moves all bytes; each session (``session``) runs its code in a thread of its own, in
the interpreter of process 1, so that all sessions see the same modules and objects. ``routing`` gives each its own
``sys.stdout`` and the like, ``interrupt`` gets a session's thread out of whatever it does.
"""

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.access import Settings

#: The TCP port unless the kernel command line says another.
PORT = 5000
#: Connections that the kernel keeps until they are accepted.
BACKLOG = 128
#: Bytes of the server's stack. A machine with 64 MiB has not the 8 MiB that are usual.
STACK = 256 << 10
#: Bytes that must be free for the server to start, and for each session.
SERVER_MEMORY, SESSION_MEMORY = 6 << 20, 2 << 20


def start() -> None:
    """Listen for sessions, if this machine offers any (``access``), and serve them in a thread.

    Called once by the main thread. What prevents it is a line in the kernel's log, not an exception.
    """
    from piton.repl import access, interrupt

    settings = access.settings()
    if settings.refused is None:
        interrupt.prepare()
        before = _thread.stack_size(STACK)
        try:
            _thread.start_new_thread(_listen, (settings,))
        except RuntimeError as error:
            note(f"no sessions over the network: {error}")
        finally:
            _thread.stack_size(before)
    elif settings.refused:
        note(f"no sessions over the network: {settings.refused}")


def note(text: str) -> None:
    """Write a line into the kernel's log."""
    try:
        with open("/dev/kmsg", "w") as log:
            log.write(f"piton.repl: {text}\n")
    except OSError:
        pass  # No log to write to: not on Piton, or not allowed.


#: What was not taken of clients, and how often.
refused: dict[str, int] = {}
_counting = _thread.allocate_lock()


def refuse(what: str) -> None:
    """Count something of a client's that was not taken."""
    with _counting:
        refused[what] = refused.get(what, 0) + 1


def memory_left() -> int:
    """Answer how many bytes can still be had."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return SERVER_MEMORY


def _listen(settings: "Settings") -> None:
    """Wait for the first client with as little as possible, then become the server."""
    # The modules that Python is linked with; `socket` itself is ten times as much.
    import _socket
    import select

    try:
        listener = _open(_socket, settings.port)
    except OSError as error:
        note(f"cannot listen on port {settings.port}: {error}")
        return
    while True:
        select.select([listener.fileno()], [], [])
        if memory_left() >= SERVER_MEMORY:
            break
        # Rather than have process 1 ended for lack of memory.
        descriptor, _ = listener._accept()
        client = _socket.socket(fileno=descriptor)
        try:
            client.send(b"not enough memory for sessions\r\n")
        except OSError:
            pass  # It has gone.
        client.close()
    from piton.repl.server import Server

    try:
        Server(listener, settings).serve()
    except BaseException as error:
        note(f"the server ended: {error!r}")
        raise


def _open(_socket, port: int):
    """Open the listening socket: for IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
    try:
        listener = _socket.socket(_socket.AF_INET6, _socket.SOCK_STREAM)
        listener.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
        address = ("::", port)
    except OSError:
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        address = ("", port)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener
