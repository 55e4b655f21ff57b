"""Commands at the prompt: which lines are commands, their words, completion, and what runs them."""

import contextlib
import io
import os
import pathlib
import signal
import sys
import tempfile
import unittest
import unittest.mock

from piton import shell
from piton.shell import completion, overview, sh, start, words

#: Lines that are Python's although their first word is a command, or nothing at all.
PYTHONS = (
    "ls = 3",
    "ls=3",
    "ls: int = 3",
    "ls : int",
    "ls, ps = 1, 2",
    "ls , ps = 1, 2",
    "ls += 1",
    "ls //= 1",
    "ls >>= 1",
    "ls |= 1",
    "ls == 3",
    "ls >= 3",
    "ls != 3",
    "ls(1)",
    "ls.x",
    "ls[0]",
    "ls-l",
    "for ls in x: pass",
    "import os",
    "id",
    "type x",
    "match x:",
    " ls",
    "ls\nls",
    "'ls'",
    "nonexistent-word -x",
    "nonexistent x",
    "/nonexistent/program",
    "/",
    ".",
    "...",
    "_",
    "",
    "\0",
    "ls\0",
    "@",
    "1 + 1",
    "ünbekannt",
)
#: Lines that are commands'.
COMMANDS = (
    "ls",
    "ls ",
    "ls -l /tmp",
    "ls|cat",
    "ls | cat > /dev/null",
    "ls;ls",
    "ls /tmp && ls",
    "ls 'unclosed",
    "ls (",
    "find ! -name x",
    "/bin/ls -l",
    "own",
    "own -x = 3",
    "own.py",
    "other 'a b'",
)


class Shell(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(os.path.realpath(folder.name))
        before = os.getcwd(), os.environ["PATH"]
        self.addCleanup(lambda: (os.chdir(before[0]), os.environ.update(PATH=before[1])))
        os.environ["PATH"] = f"{self.folder}:/nonexistent::{before[1]}"
        os.chdir(self.folder)
        self.write("own.py", '"""Says what it got."""\nimport sys\nprint(*sys.argv, sep="|")\n')
        self.write("other", "#!/bin/sh\necho program $#\nexit 3\n", 0o755)
        self.write("data", "no program")

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def say(self, function, *arguments) -> tuple:
        """Answer what *function* answers, and what it writes to ``sys.stdout`` and ``sys.stderr``."""
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            answer = function(*arguments)
        return answer, out.getvalue(), err.getvalue()


class Rule(Shell):
    def test_python_keeps_what_it_could_run(self) -> None:
        for line in PYTHONS:
            self.assertFalse(shell.is_command(line, {}), line)

    def test_commands_are_the_rest(self) -> None:
        for line in COMMANDS:
            self.assertTrue(shell.is_command(line, {}), line)

    def test_names_that_are_python_win(self) -> None:
        for line in ("ls", "ls -l", "ls-l", "ls | cat", "ls ("):
            self.assertFalse(shell.is_command(line, {"ls": 5}), line)
        self.assertFalse(shell.is_command("own.py", {"own": 5}))

    def test_help_and_sh_until_they_are_assigned(self) -> None:
        self.assertTrue(shell.is_command("help", {}))
        self.assertFalse(shell.is_command("help", {"help": 1}))
        self.assertFalse(shell.is_command("help()", {}))
        self.assertFalse(shell.is_command("help(len)", {}))
        self.assertTrue(shell.is_command("sh -c true", {"sh": sh}))
        self.assertFalse(shell.is_command("sh", {"sh": 1}))
        self.assertFalse(shell.is_command("sh()", {"sh": sh}))


class Words(Shell):
    def test_file_of_a_command(self) -> None:
        self.assertEqual(words.find("own"), f"{self.folder}/own.py")
        self.assertEqual(words.find("./own"), "./own.py")
        self.assertEqual(words.find("other"), f"{self.folder}/other")
        for none in ("data", "./data", "nonexistent", "", "./", "/", "a\0b"):
            self.assertIsNone(words.find(none), none)
        self.write("ls", "", 0o755)
        self.assertEqual(words.find("ls"), f"{self.folder}/ls")
        self.write("ls.py", "")
        self.assertEqual(words.find("ls"), f"{self.folder}/ls.py")
        self.assertEqual(words.names()["ls"], f"{self.folder}/ls.py")
        self.assertNotIn("data", words.names())

    def test_words_are_those_of_a_shell(self) -> None:
        for line, expected in (
            ("a b  c", ["a", "b", "c"]),
            ("'a b' \"c 'd'\" e\\ f ''", ["a b", "c 'd'", "e f", ""]),
            ("own* 'own*' own\\* o\"wn\"*", ["own.py", "own*", "own*", "own.py"]),
            ("[!d]* nothing*", ["other", "own.py", "nothing*"]),
            ("~/x '~/x'", [os.path.expanduser("~/x"), "~/x"]),
        ):
            self.assertEqual(words.split(line), expected, line)
        for line in ("'a", '"a', "a\\"):
            with self.assertRaises(ValueError):
                words.split(line)

    def test_what_needs_a_shell(self) -> None:
        for line in ("a | b", "a>b", "a;b", "a &", "a $b", 'a "$b"', "a `b`", "a (", "a # b"):
            self.assertTrue(words.needs_shell(line), line)
        for line in ("a b", "a '|'", 'a "|"', "a \\|", "a '$b'", "a *"):
            self.assertFalse(words.needs_shell(line), line)

    def test_tab(self) -> None:
        self.write("with blank", "")
        (self.folder / "within").mkdir()
        self.write("within/.hidden", "")

        def offers(line: str, stem: str) -> list[str] | None:
            return completion.of_arguments(line, stem, {"x": 1})

        self.assertEqual(offers("ls wi", "wi"), ["with\\ blank", "within/"])
        self.assertEqual(offers("ls with\\ ", ""), ["blank "])
        self.assertEqual(offers("ls ./o", "o"), ["other", "own.py"])
        self.assertEqual(offers(f"ls {self.folder}/da", "da"), ["data "])
        self.assertEqual(offers("ls within/", ""), [])
        self.assertEqual(offers("ls within/.", "."[1:]), ["hidden "])
        self.assertEqual(offers("ls > da", "da"), ["data "])
        self.assertEqual(offers("./ot", "ot"), ["other "])
        self.assertEqual(offers("ls nonexistent/", ""), [])
        self.assertEqual(offers("ls a\0/", ""), [])
        for line in ("o", "x o", "import o", "x = o", "nonexistent o"):
            self.assertIsNone(offers(line, "o"), line)
        self.assertEqual(completion.of_commands("othe", "othe"), ["other"])
        self.assertEqual(completion.of_commands("", ""), [])
        self.assertEqual(completion.of_commands("own x", "x"), [])


class Start(Shell):
    def test_python_files_run_in_the_interpreter(self) -> None:
        argv = sys.argv
        self.assertEqual(self.say(sh, "own -x 'a b'"), (0, "own|-x|a b\n", ""))
        self.assertIs(sys.argv, argv)
        self.write("state.py", "import sys\nsys.modules['piton'].seen = __name__\n")
        sh("state")
        self.assertEqual(sys.modules["piton"].__dict__.pop("seen"), "__main__")

    def test_top_level_await(self) -> None:
        self.write("waits.py", "import asyncio\nprint(await asyncio.sleep(0, 'done'))\n")
        self.assertEqual(self.say(sh, "waits"), (0, "done\n", ""))

    def test_exit_status_and_errors(self) -> None:
        self.write("ends.py", "import sys\nsys.exit(eval(sys.argv[1]))\n")
        self.assertEqual(self.say(sh, "ends 7"), (7, "", ""))
        self.assertEqual(self.say(sh, "ends None"), (0, "", ""))
        self.assertEqual(self.say(sh, "ends '\"why\"'"), (1, "", "why\n"))
        self.assertEqual(sh.status, 1)
        status, _, err = self.say(sh, "ends 1/0")
        self.assertEqual(status, 1)
        self.assertIn("ZeroDivisionError", err)
        self.assertNotIn("start.py", err)
        self.write("wrong.py", "1 +\n")
        self.assertIn("SyntaxError", self.say(sh, "wrong")[2])
        self.assertEqual(self.say(sh, "own 'unclosed")[0], 2)
        for wrong in (1, b"ls", []):
            with self.assertRaises(TypeError):
                sh(wrong)

    def test_programs(self) -> None:
        self.assertEqual(sh("true"), 0)
        self.assertEqual(sh("other > out"), 3)
        self.assertEqual((self.folder / "out").read_text(), "program 0\n")
        self.assertEqual(self.say(sh, "kill -TERM $$"), (-signal.SIGTERM, "", "Terminated\n"))
        self.assertEqual(sh("nonexistent 2> out"), 127)

    def test_python_files_in_a_pipeline(self) -> None:
        above = str(pathlib.Path(shell.__file__).parents[2])
        with unittest.mock.patch.dict(os.environ, PYTHONPATH=above):
            self.assertEqual(sh("own a | tr a-z A-Z > out"), 0)
        self.assertEqual((self.folder / "out").read_text(), "OWN|A\n")

    def test_what_cannot_be_started_is_an_error_at_the_prompt(self) -> None:
        from piton.repl.evaluate import Console

        more, _, err = self.say(Console({}).push, "true " + 300_000 * "x")
        self.assertFalse(more)
        self.assertIn("OSError: [Errno 7]", err)

    def test_directory(self) -> None:
        (self.folder / "in").mkdir()
        self.assertEqual(sh("cd in && true"), 0)
        self.assertEqual(os.getcwd(), f"{self.folder}/in")
        self.assertEqual(sh("(cd ..) ; true"), 0)
        self.assertEqual(os.getcwd(), f"{self.folder}/in")
        self.assertEqual(shell.state().previous, str(self.folder))
        self.assertNotEqual(sh("exec 2> /dev/null; cd .. ; false"), 0)
        self.assertEqual(os.getcwd(), str(self.folder))

    def test_overview_has_the_user_s_own(self) -> None:
        self.write("broken.py", "'")
        text = overview.text()
        self.assertIn("own            Says what it got.\n", text)
        self.assertIn("  broken\n", text)
        self.assertIn("ls", text)


if __name__ == "__main__":
    unittest.main()
