"""MicroPython's raw REPL, byte by byte, and the keyboard below it. The expected bytes are those of MicroPython."""

import io
import os
import threading
import unittest

from piton.repl import raw
from piton.repl.keyboard import Keyboard, TextInput

PROMPT = b"raw REPL; CTRL-B to exit\r\n>"


class Session:
    """As much of a session as the raw REPL needs."""

    def __init__(self, output: io.TextIOWrapper):
        self.namespace: dict = {"print": lambda *words: print(*words, file=output)}
        self.system = {"stdout": output, "stderr": output}
        self.keys_seen = self.keys_sent = 0
        self.hung_up = False

    def call(self, function, *arguments):
        return function(*arguments)


class Raw(unittest.TestCase):
    def exchange(self, *sent: bytes, window: int = 64, keys_sent: int = 0) -> bytes:
        """Send bytes, *keys_sent* Ctrl-C among them that were counted, and answer all that came back."""
        reader, writer = os.pipe()
        collected = io.BytesIO()
        output = io.TextIOWrapper(collected, encoding="utf-8")
        self.session = Session(output)
        self.session.keys_sent = keys_sent
        thread = threading.Thread(target=lambda: [os.write(writer, piece) for piece in sent] + [os.close(writer)])
        thread.start()
        raw.Raw(self.session, Keyboard(reader), output, self.reset, window).serve()
        thread.join()
        os.close(reader)
        output.flush()
        return collected.getvalue()

    def reset(self) -> None:
        self.session.namespace.clear()
        self.session.system["stdout"].write("MPY: soft reboot\n")

    def test_output_and_errors_come_apart(self) -> None:
        self.assertEqual(self.exchange(b"print(1)\nprint(2)\x04\x02"), PROMPT + b"OK1\r\n2\r\n\x04\x04>")
        answer = self.exchange(b"print('x'); 1/0\x04\x02")
        self.assertTrue(answer.startswith(PROMPT + b"OKx\r\n\x04Traceback (most recent call last):\r\n  File \"<stdin>\""))
        self.assertTrue(answer.endswith(b"ZeroDivisionError: division by zero\r\n\x04>"))

    def test_syntax_error_is_an_error(self) -> None:
        self.assertIn(b"SyntaxError", self.exchange(b"1 +\x04\x02"))

    def test_operating_system_s_errors_are_named_as_micropython_does(self) -> None:
        answer = self.exchange(b"open('/nonexistent/x')\x04\x02")
        self.assertIn(b"\r\nOSError: [Errno 2] ENOENT: No such file or directory: '/nonexistent/x'\r\n\x04>", answer)

    def test_values_are_not_shown_and_names_stay(self) -> None:
        self.assertEqual(self.exchange(b"a = 5\na\x04print(a)\x04\x02"), PROMPT + b"OK\x04\x04>OK5\r\n\x04\x04>")

    def test_nothing_means_a_soft_reset(self) -> None:
        self.assertEqual(self.exchange(b"\x04\x02"), PROMPT + b"OK\r\nMPY: soft reboot\r\n" + PROMPT)

    def test_ctrl_c_drops_what_came(self) -> None:
        for counted in 0, 1:
            answer = self.exchange(b"print(1)\x03print(2)\x04\x02", keys_sent=counted)
            self.assertEqual(answer, PROMPT + b"OK2\r\n\x04\x04>")
            self.assertEqual(self.session.keys_seen, counted)

    def test_ctrl_a_says_it_again(self) -> None:
        self.assertEqual(self.exchange(b"print(1)\x01\x02"), PROMPT + PROMPT)

    def test_unknown_mode_is_refused(self) -> None:
        self.assertEqual(self.exchange(b"\x05B\x01\x02"), PROMPT + b"R\x00")

    def test_raw_paste_gives_leave_for_every_half_window(self) -> None:
        source = b"x = 1 #" + b"." * 150 + b"\nprint('end')"
        answer = self.exchange(b"\x05A\x01" + source + b"\x04\x02", window=64)
        head, _, tail = answer.removeprefix(PROMPT).partition(b"\x04")
        self.assertRegex(head, rb"^R\x01\x20\x00\x01+$")
        # Enough for all of the source, and never more ahead than the window.
        leave = 32 * (1 + head.count(b"\x01", 4))
        self.assertTrue(len(source) <= leave <= len(source) + 64, leave)
        self.assertEqual(tail, b"end\r\n\x04\x04>")

    def test_raw_paste_acknowledges_the_first_bytes_at_once(self) -> None:
        reader, writer = os.pipe()
        from_session, to_client = os.pipe()
        output = io.TextIOWrapper(io.BufferedWriter(io.FileIO(to_client, "w")), encoding="utf-8")
        self.session = Session(output)
        serving = raw.Raw(self.session, Keyboard(reader), output, self.reset)
        thread = threading.Thread(target=serving.serve)
        thread.start()
        with open(from_session, "rb", buffering=0) as answers:
            os.write(writer, b"\x05A\x01")
            self.assertEqual(self.read(answers, len(PROMPT) + 4), PROMPT + b"R\x01\x00\x20")
            os.write(writer, b"print(1)")
            self.assertEqual(self.read(answers, 1), b"\x01")
            os.write(writer, b"\x04\x02")
            self.assertEqual(self.read(answers, 7), b"\x041\r\n\x04\x04>")
            thread.join()
        os.close(reader)
        os.close(writer)
        output.close()

    def read(self, file, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += file.read(size - len(data))
        return data

    def test_raw_paste_interrupted_runs_nothing(self) -> None:
        answer = self.exchange(b"\x05A\x01print('ran')\x03\x04\x02")
        self.assertNotIn(b"ran", answer)
        self.assertTrue(answer.endswith(b"KeyboardInterrupt\r\n\x04>"))

    def test_end_of_input_ends_it_anywhere(self) -> None:
        for sent in b"", b"print(", b"\x05A\x01", b"\x05A\x01print(":
            self.assertNotIn(b"Traceback", self.exchange(sent))

    def test_source_that_is_too_long_is_not_run(self) -> None:
        long = b"#" * (raw.LONGEST_SOURCE + 2)
        for sent in (long + b"\nprint('ran')\x04\x02",), (b"\x05A\x01", long, b"\nprint('ran')\x04\x02"):
            answer = self.exchange(*sent, window=1 << 16)
            self.assertIn(b"MemoryError", answer)
            self.assertNotIn(b"ran", answer)

    def test_exit_ends_the_script_only(self) -> None:
        answer = self.exchange(b"raise SystemExit(3)\x04print(1)\x04\x02")
        self.assertEqual(answer, PROMPT + b"OK\x04SystemExit: 3\r\n\x04>OK1\r\n\x04\x04>")


class Input(unittest.TestCase):
    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.keyboard = Keyboard(self.reader)
        self.stream = TextInput(self.keyboard)

    def tearDown(self) -> None:
        os.close(self.reader)

    def give(self, data: bytes) -> None:
        os.write(self.writer, data)
        os.close(self.writer)

    def test_lines_of_every_kind(self) -> None:
        self.give("a\nb\rc\r\n\nlast ä".encode())
        self.assertEqual(list(self.stream), ["a\n", "b\n", "c\n", "\n", "last ä"])
        self.assertEqual(self.stream.read(5), "")

    def test_nothing_is_read_ahead(self) -> None:
        self.give(b"one\ntwo\x04three")
        self.assertEqual(self.stream.readline(), "one\n")
        self.assertEqual(self.keyboard.take_until(b"\x04", 100), b"two\x04")
        self.assertEqual(self.stream.buffer.read(2), b"th")
        self.assertEqual(self.stream.read(1), "r")
        self.assertEqual(self.stream.read(), "ee")

    def test_characters_are_read_whole(self) -> None:
        self.give("äß€😀x".encode() + b"\xff\xfe!")
        self.assertEqual(self.stream.read(5), "äß€😀x")
        self.assertEqual(self.stream.read(3), "\udcff\udcfe!")

    def test_limits_hold(self) -> None:
        self.give(b"x" * 100 + b"\ny")
        self.assertEqual(self.keyboard.take_until(b"\n", 60), b"x" * 60)
        self.assertEqual(self.stream.readline(10), "x" * 10)
        buffer = bytearray(31)
        self.assertEqual(self.stream.buffer.readinto(buffer), 31)
        self.assertEqual((bytes(buffer), self.stream.read(-1)), (b"x" * 30 + b"\n", "y"))


if __name__ == "__main__":
    unittest.main()
