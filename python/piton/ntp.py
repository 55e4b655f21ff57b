"""The wall clock from the network: a client of the Simple Network Time Protocol.

A machine whose real-time clock gave the date at boot needs none of this. One without, such as a Raspberry Pi, starts in
1970, and no TLS certificate is valid then: process 1 calls :func:`start`, which asks in the background as soon as there
is a network, and sets the clock once. The servers are those of the kernel command line (``piton.ntp=SERVER[,SERVER]``),
else those that DHCP told, else ``pool.ntp.org``; ``piton.ntp=off`` asks nobody.

Source: RFC 5905 (NTP version 4; section 14 is SNTP), RFC 8633 (how to behave), RFC 9109 (the client's port is random).
"""

import secrets
import socket
import struct
import threading
import time
from typing import NamedTuple

__all__ = ["Answer", "BadAnswer", "Refused", "query", "servers", "start", "synchronise"]

#: The port of servers.
PORT = 123
#: Asked where nobody names another.
DEFAULT_SERVER = "pool.ntp.org"

#: Seconds from 1900-01-01, where the timestamps begin, to 1970-01-01.
_EPOCH = 2_208_988_800
#: 2024-01-01: 32 bits of seconds are a time in the 136 years from here (RFC 5905, section 6).
_PIVOT = 1_704_067_200 + _EPOCH
#: Leap indicator, version and mode in one byte; stratum, poll, precision; three words; four timestamps.
_PACKET = struct.Struct("!BBbb III QQQQ")
_VERSION, _CLIENT, _SERVER = 4, 3, 4
#: Leap indicator: the server's own clock is not set.
_UNSYNCHRONISED = 3
#: From a stratum of 16 on a server's time is from nowhere.
_MAX_STRATUM = 15
#: Pauses between rounds that failed, in seconds: doubled each time.
_FIRST_PAUSE, _LAST_PAUSE = 2.0, 1024.0


class BadAnswer(Exception):
    """What came from the server is no time: the text says why."""


class Refused(BadAnswer):
    """The server does not want to be asked: the text has its code (RFC 5905, section 7.4)."""


class Answer(NamedTuple):
    """What a server said."""

    #: Who was asked, and the address that answered.
    server: str
    address: str
    #: What to add to this machine's clock, in nanoseconds.
    offset: int
    #: What the way there and back took, in nanoseconds; the offset is wrong by half of that at most.
    delay: int
    #: Distance to a reference clock: 1 has one.
    stratum: int


def _nanoseconds(timestamp: int) -> int:
    """Return a timestamp of the protocol, 32 bits of seconds and 32 of fraction, as nanoseconds since 1970."""
    seconds, fraction = timestamp >> 32, timestamp & 0xFFFF_FFFF
    seconds += (_PIVOT - seconds + 0xFFFF_FFFF) >> 32 << 32
    return (seconds - _EPOCH) * 1_000_000_000 + (fraction * 1_000_000_000 >> 32)


def _read(packet: bytes, nonce: int) -> tuple[int, int, int]:
    """Return a server's receive time, transmit time (nanoseconds since 1970) and stratum.

    :raises Refused: it says that the server does not want to be asked.
    :raises BadAnswer: it is no answer to the question that had *nonce* for its transmit time, or holds no time.
    """
    if len(packet) < _PACKET.size:
        raise BadAnswer(f"{len(packet)} bytes")
    first, stratum, _, _, _, _, reference, _, origin, received, sent = _PACKET.unpack_from(packet)
    leap, version, mode = first >> 6, first >> 3 & 7, first & 7
    if origin != nonce or mode != _SERVER or not 1 <= version <= _VERSION:
        raise BadAnswer("not an answer to the question")
    if stratum == 0:
        raise Refused(struct.pack("!I", reference).decode("ascii", "backslashreplace").rstrip("\0"))
    if leap == _UNSYNCHRONISED or stratum > _MAX_STRATUM or not received or not sent:
        raise BadAnswer("the server's own clock is not set")
    return _nanoseconds(received), _nanoseconds(sent), stratum


def query(server: str, *, port: int = PORT, timeout: float = 5.0) -> Answer:
    """Ask *server*, a name or an address, for the time.

    Each of its addresses is asked until one answers, for at most *timeout* seconds each.

    :raises OSError: no address for the name, no way there, or no answer (:exc:`TimeoutError`).
    :raises BadAnswer: all that came from the last address was no time.
    """
    failure: Exception = OSError(f"{server} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind, protocol) as client:
                # Connected: only that address's answers come in, and its ICMP errors too.
                client.connect(address)
                return _exchange(client, server, address[0], timeout)
        except (OSError, BadAnswer) as error:
            failure = error
    raise failure


def _exchange(client: socket.socket, server: str, address: str, timeout: float) -> Answer:
    """Put the question and wait for an answer to it."""
    # A random number in place of the time tells a stranger nothing and cannot be guessed for a false answer.
    nonce = secrets.randbits(64)
    asked_at, begin = time.time_ns(), time.monotonic_ns()
    client.send(_PACKET.pack(_VERSION << 3 | _CLIENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, nonce))
    end = begin + int(timeout * 1e9)
    wrong: BadAnswer | None = None
    while (left := end - time.monotonic_ns()) > 0:
        client.settimeout(left / 1e9)
        try:
            packet = client.recv(1024)
            taken = time.monotonic_ns() - begin
            received, sent, stratum = _read(packet, nonce)
        except TimeoutError:
            break
        except BadAnswer as error:
            # It may be a stranger's or an old one; the right one may follow.
            wrong = error
            continue
        offset = (received - asked_at + sent - (asked_at + taken)) // 2
        return Answer(server, address, offset, max(0, taken - (sent - received)), stratum)
    raise wrong or TimeoutError(f"no answer from {server} ({address})")


def servers() -> list[str]:
    """Return whom to ask: nobody when the command line says ``piton.ntp=off``."""
    with open("/proc/cmdline") as file:
        for word in file.read().split():
            if word.startswith("piton.ntp="):
                named = word.removeprefix("piton.ntp=")
                return [] if named == "off" else [name for name in named.split(",") if name]
    try:
        # Linux's file for what DHCP told.
        with open("/proc/net/ipconfig/ntp_servers") as file:
            told = file.read().split()
    except FileNotFoundError:
        told = []
    return told or [DEFAULT_SERVER]


def synchronise(names: list[str], *, port: int = PORT, timeout: float = 5.0) -> Answer:
    """Set the wall clock by the first of these servers that answers, and return its answer.

    :raises OSError, BadAnswer: none did; of the last one. Or this process may not set the clock.
    """
    failure: Exception = OSError("no server is named")
    for name in names:
        try:
            answer = query(name, port=port, timeout=timeout)
        except (OSError, BadAnswer) as error:
            failure = error
            continue
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + answer.offset)
        return answer
    raise failure


def _ask_until_answered() -> None:
    pause = _FIRST_PAUSE
    refused = set[str]()
    while names := [name for name in servers() if name not in refused]:
        for name in names:
            try:
                answer = synchronise([name])
            except Refused as error:
                # Not to be asked again, unless it was asked too often: then after the pause.
                if str(error) != "RATE":
                    refused.add(name)
            except (OSError, BadAnswer):
                # No network yet, or nobody there: it may come.
                pass
            else:
                with open("/dev/kmsg", "w") as log:
                    log.write(f"ntp: clock set by {name} ({answer.address}), {answer.offset / 1e9:+.3f} s\n")
                return
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)


def start() -> None:
    """Set the clock from the network in the background, for which this thread needs not wait."""
    threading.Thread(target=_ask_until_answered, name="ntp", daemon=True).start()
