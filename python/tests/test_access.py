"""Who may have a session: the decision, and the token."""

import hashlib
import pathlib
import tempfile
import unittest

from piton.repl import access, login

TOKEN = hashlib.sha256(b"the token").digest()


class Settings(unittest.TestCase):
    def decide(self, files: dict[str, str] | None = None, *, virt: bool = False) -> access.Settings:
        """Decide on a machine that has these files, and what QEMU's ``virt`` machine has."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in (files or {}).items():
                path = pathlib.Path(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            if virt:
                pathlib.Path(root, "sys/firmware/qemu_fw_cfg").mkdir(parents=True)
                pathlib.Path(root, "proc/device-tree").mkdir(parents=True, exist_ok=True)
                pathlib.Path(root, "proc/device-tree/compatible").write_text("linux,dummy-virt\0")
            return access.settings(root)

    def test_open_on_qemu_s_virt_machine(self) -> None:
        found = self.decide(virt=True)
        self.assertEqual((found.refused, found.port, found.token), (None, 5000, None))

    def test_closed_elsewhere(self) -> None:
        for compatible in "raspberrypi,4-model-b\0brcm,bcm2711\0", "linux,dummy-virt\0", "":
            with self.subTest(compatible):
                self.assertTrue(self.decide({"proc/device-tree/compatible": compatible}).refused)
        self.assertTrue(self.decide().refused)

    def test_token_opens_every_board_and_is_asked_for_on_virt(self) -> None:
        token = TOKEN.hex() + "\n"
        for found in self.decide({"etc/piton/repl-token": token}), self.decide({"etc/piton/repl-token": token}, virt=True):
            self.assertEqual((found.refused, found.token), (None, TOKEN))

    def test_damaged_token_closes(self) -> None:
        for token in "", "secret", "ab" * 31, "zz" * 32:
            with self.subTest(token):
                self.assertTrue(self.decide({"etc/piton/repl-token": token}, virt=True).refused)

    def test_command_line(self) -> None:
        self.assertEqual(self.decide({"proc/cmdline": "quiet piton.repl=5001"}, virt=True).port, 5001)
        self.assertEqual(self.decide({"proc/cmdline": "piton.repl=off"}, virt=True).refused, "")
        for wrong in "piton.repl=", "piton.repl=0", "piton.repl=65536", "piton.repl=-1", "piton.repl=on":
            self.assertIn(wrong, self.decide({"proc/cmdline": wrong}, virt=True).refused)

    def test_certificate_means_tls(self) -> None:
        self.assertFalse(self.decide(virt=True).tls)
        self.assertTrue(self.decide({"etc/piton/repl-cert.pem": ""}, virt=True).tls)


class Login(unittest.TestCase):
    def setUp(self) -> None:
        self.guard = login.Guard(TOKEN)

    def test_right_token_leaves_what_is_behind_it(self) -> None:
        for end in b"\n", b"\r":
            self.assertEqual(login.Login(self.guard, "a").type(b"the token" + end + b"1+1\n", 0), (True, b"1+1\n"))

    def test_token_may_come_in_pieces(self) -> None:
        client = login.Login(self.guard, "a")
        for piece in b"the", b" ", b"token":
            self.assertEqual(client.type(piece, 0), (None, b""))
        self.assertEqual(client.type(b"\n", 0), (True, b""))

    def test_third_wrong_token_hangs_up(self) -> None:
        client = login.Login(self.guard, "a")
        self.assertIsNone(client.type(b"x\n", 0)[0])
        self.assertIsNone(client.type(b"\r\n", 0)[0])
        self.assertEqual(client.type(b"y\n", 0), (False, b""))

    def test_delay_grows_and_holds_for_new_connections(self) -> None:
        now = 100.0
        for expected in 4, 8, 16:
            for _ in range(3):
                login.Login(self.guard, "a").type(b"wrong\n", now)
            self.assertEqual(self.guard.blocked("a", now), expected)
            self.assertEqual(login.Login(self.guard, "a").type(b"the token\n", now + expected - 1), (False, b""))
            now += expected
        self.assertEqual(login.Login(self.guard, "b").type(b"the token\n", now)[0], True)
        self.assertEqual(login.Login(self.guard, "a").type(b"the token\n", now)[0], True)
        self.assertEqual(self.guard.blocked("a", now), 0)

    def test_endless_token_is_not_kept(self) -> None:
        client = login.Login(self.guard, "a")
        client.type(b"x" * 100_000, 0)
        self.assertLessEqual(len(client._typed), login.LONGEST + 1)
        self.assertIsNone(client.type(b"\n", 0)[0])

    def test_many_addresses_are_not_all_remembered(self) -> None:
        for number in range(10_000):
            self.guard.failed(str(number), 0)
        self.assertLessEqual(len(self.guard._failures), 256)


if __name__ == "__main__":
    unittest.main()
