"""Telnet: what a client may send, and what is made of it."""

import random
import unittest

from piton.repl import telnet
from piton.repl.telnet import BINARY, DO, DONT, ECHO, IAC, SB, SE, TERMINAL_TYPE, WILL, WINDOW, WONT, Telnet


def command(*numbers: int) -> bytes:
    return bytes((IAC, *numbers))


def sub(option: int, data: bytes) -> bytes:
    return command(SB, option) + data.replace(b"\xff", b"\xff\xff") + command(SE)


class Receive(unittest.TestCase):
    def test_text_of_a_client_that_speaks_no_telnet_is_left_alone(self) -> None:
        parser = Telnet()
        self.assertEqual(parser.receive(b"a\r\n\r\0b\x03"), b"a\r\n\r\0b\x03")
        self.assertFalse(parser.spoken)
        self.assertEqual(parser.send(b"\xff\r"), b"\xff\r")

    def test_every_byte_counts_once_it_is_off(self) -> None:
        parser = Telnet()
        parser.off = True
        data = bytes(range(256)) + command(WILL, TERMINAL_TYPE)
        self.assertEqual(parser.receive(data), data)
        self.assertEqual((parser.spoken, parser.reply), (False, b""))

    def test_answer_to_the_question_shows_a_telnet_client(self) -> None:
        for answer in WILL, WONT:
            parser = Telnet()
            self.assertEqual(parser.receive(command(answer, TERMINAL_TYPE)), b"")
            self.assertTrue(parser.spoken)

    def test_commands_split_at_every_byte_mean_the_same(self) -> None:
        sent = b"a" + command(WILL, TERMINAL_TYPE) + sub(WINDOW, b"\0\x50\xff\xff") + b"b\r\n" + command(IAC) + b"c"
        whole = Telnet()
        expected = whole.receive(sent)
        self.assertEqual(expected, b"ab\r\xffc")
        split = Telnet()
        self.assertEqual(b"".join(split.receive(bytes((byte,))) for byte in sent), expected)
        self.assertEqual((split.window, split.reply), (whole.window, whole.reply))
        self.assertEqual(split.window, (80, 65535))

    def test_end_of_line_is_a_return(self) -> None:
        parser = Telnet()
        parser.receive(command(WONT, TERMINAL_TYPE))
        self.assertEqual(parser.receive(b"a\r\nb\r\0c\nd\r"), b"a\rb\rc\nd\r")
        self.assertEqual(parser.receive(b"\n"), b"")
        parser.receive(command(WILL, BINARY))
        self.assertEqual(parser.receive(b"\r\n"), b"\r\n")

    def test_commands_that_stand_for_keys(self) -> None:
        parser = Telnet()
        commands = telnet.IP, telnet.BREAK, telnet.EC, telnet.EL, telnet.END_OF_FILE
        self.assertEqual(parser.receive(b"".join(map(command, commands))), b"\x03\x03\x7f\x15\x04")
        parser.receive(command(telnet.AYT))
        self.assertIn(b"yes", parser.reply)

    def test_window_and_terminal(self) -> None:
        parser = Telnet()
        parser.receive(command(WILL, TERMINAL_TYPE))
        self.assertIn(command(SB, TERMINAL_TYPE, 1), parser.reply)
        self.assertFalse(parser.settled)
        parser.receive(sub(TERMINAL_TYPE, b"\0XTERM-256COLOR") + sub(WINDOW, b"\0\0\0\x18"))
        self.assertTrue(parser.settled)
        self.assertEqual((parser.terminal, parser.window), ("xterm-256color", (80, 24)))

    def test_name_of_the_terminal_is_no_path(self) -> None:
        parser = Telnet()
        parser.receive(sub(TERMINAL_TYPE, b"\0../../etc/x\x00\xc3\xa4" + b"y" * 100))
        self.assertEqual(parser.terminal[:11], "....etcxyyy")
        self.assertLessEqual(len(parser.terminal), 40)

    def test_long_subnegotiation_is_cut(self) -> None:
        parser = Telnet()
        parser.receive(command(SB, TERMINAL_TYPE) + b"\0" + b"x" * 100_000)
        self.assertLessEqual(len(parser._sub), telnet.LONGEST)
        self.assertEqual(parser.receive(command(SE) + b"a"), b"a")


class Negotiate(unittest.TestCase):
    def test_options_of_a_terminal_are_offered_once(self) -> None:
        parser = Telnet()
        parser.receive(command(WILL, TERMINAL_TYPE))
        parser.negotiate()
        for expected in (command(WILL, ECHO), command(DO, WINDOW), command(WILL, BINARY), command(DO, BINARY)):
            self.assertEqual(parser.reply.count(expected), 1)
        parser.reply.clear()
        parser.receive(command(DO, ECHO) + command(WILL, WINDOW) + command(DO, ECHO))
        self.assertEqual(parser.reply, b"")

    def test_unknown_options_are_refused(self) -> None:
        parser = Telnet()
        parser.receive(command(DO, 99) + command(WILL, 98))
        self.assertEqual(parser.reply, command(WONT, 99) + command(DONT, 98))

    def test_refusals_of_what_is_off_are_not_answered(self) -> None:
        parser = Telnet()
        parser.receive((command(DONT, ECHO) + command(WONT, 77)) * 3)
        self.assertEqual(parser.reply, b"")

    def test_client_that_refuses_all_is_settled(self) -> None:
        parser = Telnet()
        parser.receive(command(WONT, TERMINAL_TYPE) + command(WONT, WINDOW))
        self.assertTrue(parser.settled)


class Send(unittest.TestCase):
    def setUp(self) -> None:
        self.parser = Telnet()
        self.parser.receive(command(WONT, TERMINAL_TYPE))

    def test_escape_is_doubled(self) -> None:
        self.assertEqual(self.parser.send(b"a\xffb"), b"a\xff\xffb")

    def test_lone_return_is_marked_wherever_output_is_split(self) -> None:
        output = b"a\rb\r\nc\r\r\nd\r\xffe\r"
        expected = b"a\r\0b\r\nc\r\0\r\nd\r\0\xff\xffe\r\0f"
        for at in range(len(output) + 1):
            parser = Telnet()
            parser.receive(command(WONT, TERMINAL_TYPE))
            self.assertEqual(parser.send(output[:at]) + parser.send(output[at:]) + parser.send(b"f"), expected, at)

    def test_binary_client_gets_returns_as_they_are(self) -> None:
        self.parser.receive(command(DO, BINARY))
        self.assertEqual(self.parser.send(b"a\rb\r\n\xff"), b"a\rb\r\n\xff\xff")


class Hostile(unittest.TestCase):
    def test_random_bytes_leave_the_state_bounded(self) -> None:
        generator = random.Random(7)
        for _ in range(200):
            parser = Telnet()
            for _ in range(50):
                length = generator.randrange(200)
                data = bytes(generator.choices((255, 255, 250, 240, 251, 253, 0, 1, 24, 31, 13, 65), k=length))
                parser.receive(data)
                self.assertLessEqual(len(parser.reply), 3 * len(data) + 16)
                self.assertLessEqual(len(parser._sub), telnet.LONGEST)
                self.assertTrue(parser.window is None or all(0 < n < 65536 for n in parser.window))
                parser.reply.clear()


if __name__ == "__main__":
    unittest.main()
