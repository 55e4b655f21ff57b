"""Asks for the token: three tries for each connection, then a delay that grows, for each address and for all.

No sockets and no waiting: the server says what was typed and when.
"""

import hashlib
import hmac

TRIES = 3
#: The longest token, in bytes.
LONGEST = 256
#: Seconds of the first delay and the longest.
DELAY, LONGEST_DELAY = 4.0, 256.0
#: Addresses that are remembered for their failures.
_REMEMBERED = 256


class Guard:
    """Counts failures over all connections."""

    def __init__(self, token: bytes):
        """*token* is the SHA-256 of the token."""
        self._token = token
        #: Failures in a row and the time until which nothing is accepted, by address; the latest last.
        self._failures: dict[str, tuple[int, float]] = {}

    def right(self, typed: bytes) -> bool:
        """Whether *typed* is the token. Takes the same time whatever it is."""
        return hmac.compare_digest(hashlib.sha256(typed).digest(), self._token)

    def blocked(self, address: str, now: float) -> float:
        """Answer for how many seconds more *address* is refused; 0 when it is not."""
        _, until = self._failures.get(address, (0, 0.0))
        return max(0.0, until - now)

    def failed(self, address: str, now: float) -> None:
        """Note a wrong token."""
        count, until = self._failures.pop(address, (0, 0.0))
        count += 1
        if count % TRIES == 0:
            until = now + min(DELAY * 2 ** (count // TRIES - 1), LONGEST_DELAY)
        self._failures[address] = (count, until)
        while len(self._failures) > _REMEMBERED:
            del self._failures[next(iter(self._failures))]

    def passed(self, address: str) -> None:
        """Note the right token."""
        self._failures.pop(address, None)


class Login:
    """One connection before its token came."""

    def __init__(self, guard: Guard, address: str):
        self._guard = guard
        self._address = address
        self._typed = bytearray()
        self._tries = 0
        self._after_return = False

    def type(self, keys: bytes, now: float) -> tuple[bool | None, bytes]:
        """Take in *keys*.

        Answers True with the keys behind the token, False to hang up, or None with what is to be said.
        """
        said = b""
        for index, key in enumerate(keys):
            if key in (10, 13):
                if key == 10 and self._after_return:
                    self._after_return = False
                    continue
                self._after_return = key == 13
                typed = bytes(self._typed)
                self._typed.clear()
                if self._guard.blocked(self._address, now):
                    return False, b""
                if len(typed) <= LONGEST and self._guard.right(typed):
                    self._guard.passed(self._address)
                    return True, keys[index + 1 :]
                self._guard.failed(self._address, now)
                self._tries += 1
                if self._tries == TRIES:
                    return False, b""
                said += b"wrong\ntoken: "
            elif len(self._typed) <= LONGEST:
                self._typed.append(key)
        return None, said
