"""The time client against a server on the loopback interface that answers as it is told to."""

import socket
import struct
import threading
import time
import unittest

from piton import ntp

WORDS = struct.Struct("!BBbbIIIQQQQ")


def timestamp(nanoseconds: int) -> int:
    """Return nanoseconds since 1970 in the protocol's notation, with the bits that go beyond it cut off."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return (seconds + 2_208_988_800 & 0xFFFF_FFFF) << 32 | (rest << 32) // 1_000_000_000


def reply(question: bytes, *, now: int, first: int = 0x24, stratum: int = 2, reference: int = 0) -> bytes:
    """Return a server's answer to *question* at the time *now*."""
    nonce = WORDS.unpack(question)[-1]
    return WORDS.pack(first, stratum, 6, -20, 0, 0, reference, 0, nonce, timestamp(now), timestamp(now))


class Server:
    """Answers every question with what a function makes of it: any number of packets."""

    def __init__(self, answers) -> None:
        self.questions: list[bytes] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, peer = self._socket.recvfrom(1024)
            if not question:
                return
            self.questions.append(question)
            for packet in self._answers(question):
                self._socket.sendto(packet, peer)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


def ask(server: Server, timeout: float = 5.0) -> ntp.Answer:
    return ntp.query("127.0.0.1", port=server.port, timeout=timeout)


class Query(unittest.TestCase):
    def test_offset_is_the_difference_of_the_clocks(self) -> None:
        ahead = 3_600_000_000_000
        with Server(lambda question: [reply(question, now=time.time_ns() + ahead)]) as server:
            answer = ask(server)
        self.assertLessEqual(abs(answer.offset - ahead), answer.delay)
        self.assertEqual((answer.server, answer.address, answer.stratum), ("127.0.0.1", "127.0.0.1", 2))

    def test_question_is_a_client_s_and_tells_nothing(self) -> None:
        with Server(lambda question: [reply(question, now=time.time_ns())]) as server:
            ask(server)
            ask(server)
        first, second = (WORDS.unpack(question) for question in server.questions)
        self.assertEqual(first[0], 0x23)
        self.assertEqual(first[1:-1], (0,) * 9)
        self.assertNotEqual(first[-1], second[-1])

    def test_time_after_the_seconds_wrapped_around(self) -> None:
        # 2036-02-07 06:28:16, second 0 of the next era, and the last second before the pivot's 136 years are over.
        for seconds in 2_085_978_496, 1_704_067_200, 1_704_067_200 + (1 << 32) - 1:
            with self.subTest(seconds), Server(lambda question: [reply(question, now=seconds * 10**9 + 1)]) as server:
                answer = ask(server)
                self.assertLess(abs(time.time_ns() + answer.offset - seconds * 10**9), 5 * 10**9)

    def test_what_is_no_answer_to_this_question_is_passed_over(self) -> None:
        def answers(question: bytes) -> list[bytes]:
            right = reply(question, now=time.time_ns())
            stranger = right[:24] + bytes(8) + right[32:]
            return [b"", b"x" * 47, stranger, question, bytes(48), right]

        with Server(answers) as server:
            self.assertLess(abs(ask(server).offset), 10**9)

    def test_nothing_but_wrong_answers_is_an_error_that_says_so(self) -> None:
        for what, packet in [
            ("not an answer", lambda question: question),
            ("3 bytes", lambda question: b"abc"),
            ("not set", lambda question: reply(question, now=0, first=0xE4)),
            ("not set", lambda question: reply(question, now=0, stratum=16)),
            ("not set", lambda question: reply(question, now=-2_208_988_800 * 10**9)),
        ]:
            with self.subTest(what), Server(lambda question: [packet(question)]) as server:
                with self.assertRaisesRegex(ntp.BadAnswer, what):
                    ask(server, timeout=0.3)

    def test_refusal_has_its_code(self) -> None:
        code = int.from_bytes(b"DENY")
        with Server(lambda question: [reply(question, now=0, stratum=0, reference=code)]) as server:
            with self.assertRaisesRegex(ntp.Refused, "^DENY$"):
                ask(server, timeout=0.3)

    def test_silence_is_a_timeout(self) -> None:
        with Server(lambda question: []) as server, self.assertRaises(TimeoutError):
            ask(server, timeout=0.2)

    def test_nobody_there_is_an_error_at_once(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with self.assertRaises(ConnectionRefusedError):
            ntp.query("127.0.0.1", port=port, timeout=30)

    def test_name_without_address_is_an_error(self) -> None:
        with self.assertRaises(OSError):
            ntp.query("nobody.invalid", timeout=0.2)


if __name__ == "__main__":
    unittest.main()
