"""The clients that people have, run on the host against the sessions of a machine: nc, telnet, curl and mpremote.

    clients.py PORT MPREMOTE [TEST...]

PORT of 127.0.0.1 leads to the machine's port 5000; MPREMOTE is the path of that program. Prints ``well`` at the end.
"""

import contextlib
import fcntl
import functools
import hashlib
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty

PORT, MPREMOTE = sys.argv[1:3]
#: Far more seconds than an answer takes, and all of them.
LONG, ALL = 60, 600
PROMPT = ">>> "
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\xff\xfd\x18")


class Program:
    """A program of the host in a dialogue: at a terminal of its own, or with pipes."""

    def __init__(self, *command, size=None):
        if size is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
            self._out, self._in = self._process.stdin.fileno(), self._process.stdout.fileno()
        else:
            master, slave = pty.openpty()
            self._out = self._in = master
            self.resize(size)
            environment = {**os.environ, "TERM": "xterm-256color"}
            self._process = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
            os.close(slave)
        #: All that came and was not asked for yet, and the answer to the last question as it came.
        self._received = self.last = b""

    def resize(self, size):
        columns, lines = size
        fcntl.ioctl(self._out, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def send(self, text):
        os.write(self._out, text.encode())

    def until(self, text, seconds=LONG):
        """Answer what came up to *text*, without terminal control."""
        deadline = time.monotonic() + seconds
        while (wanted := text.encode()) not in (plain := _ESCAPES.sub(b"", self._received)):
            left = deadline - time.monotonic()
            if not select.select([self._in], [], [], max(0, left))[0]:
                raise AssertionError(f"no {text!r} within {seconds} s in {plain[-3000:]!r}")
            try:
                piece = os.read(self._in, 65536)
            except OSError:
                piece = b""
            if not piece:
                raise AssertionError(f"the end, and no {text!r} in {plain[-3000:]!r}")
            self._received += piece
        before, _, rest = plain.partition(wanted)
        self.last, self._received = self._received, rest
        return before.decode(errors="replace")

    def ask(self, line, answer, end=PROMPT):
        self.send(line)
        got = self.until(end)
        assert answer in got, f"{line!r}: no {answer!r} in {got!r}"
        return got

    def ends(self, status=None):
        """Wait until the program ends by itself, with no more to be read."""
        if self._out != self._in:
            os.close(self._out)
        deadline = time.monotonic() + LONG
        while self._process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            if select.select([self._in], [], [], 0.05)[0]:
                try:
                    os.read(self._in, 65536)
                except OSError:
                    pass
        assert status in (None, self._process.returncode), self._process.returncode

    def stop(self, number=signal.SIGKILL):
        self._process.send_signal(number)
        self._process.wait()


def given(data, *command):
    """Answer what a program writes that gets *data*."""
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, timeout=LONG).stdout


def nc():
    program = Program("nc", "127.0.0.1", PORT)
    program.until(PROMPT)
    return program


def nc_has_lines_without_echo():
    client = nc()
    assert client.ask("6*7\n", "42\n") == "42\n"
    assert client.ask("1/0\n", "ZeroDivisionError").startswith("Traceback")
    # What pip installs is found without a restart.
    client.ask("import os, site, sys; os.path.isdir(place := site.getusersitepackages()) and place in sys.path\n", "True")
    client.ask("for word in 'ab':\n", "", "... ")
    client.ask("    print(word * 3)\n", "", "... ")
    assert client.ask("\n", "") == "aaa\nbbb\n"
    client.send("import time; print('begun', 1, sep=':'); time.sleep(1e6)\n")
    client.until("begun:1")
    time.sleep(0.3)
    client.ask("\x03", "KeyboardInterrupt")
    client.send("while True: pass\n\n")
    time.sleep(0.5)
    client.ask("\x03", "KeyboardInterrupt")
    client.ask("print('gr' + 'üße')\n", "grüße")
    client.send("exit()\n")
    client.ends(0)
    # -N closes the connection's sending side behind the input: all is answered all the same.
    done = given(b"import time; time.sleep(1)\nprint(6*7)\n", "nc", "-N", "127.0.0.1", PORT)
    assert b"42\n" in done, done


def telnet_has_the_editor():
    client = Program("telnet", "127.0.0.1", PORT, size=(97, 33))
    client.until(PROMPT)
    client.until(PROMPT)
    client.send("6*7\r")
    client.until("42")
    assert b"\x1b[1;35m" in client.last, client.last
    client.until(PROMPT)
    client.send("imp\tos; tuple(os.get_terminal_size(sys.stdout.fileno()))\r")
    client.until("(97, 33)")
    client.until(PROMPT)
    # The window, and the line before last of the history.
    client.resize((71, 20))
    time.sleep(0.3)
    client.send("\x1bOA\r")
    client.until("(71, 20)")
    client.until(PROMPT)
    client.send("\x1bOA\x1bOA\x1bOA\x1bOD\x1bOD1\r")
    client.until("427")
    client.until(PROMPT)
    client.send("sys.getrecurs\t\r")
    client.until("getrecursionlimit")
    client.until(PROMPT)
    client.send("def f(x):\rreturn x * 11\r\rf(12)\r")
    client.until("132")
    client.until(PROMPT)
    for code in "while True: pass\r", "__import__('time').sleep(1e6)", "sys.stdin.read()", "os.system('sleep 1000')":
        client.send(f"{code}\r")
        time.sleep(1)
        client.send("\x03")
        client.until(PROMPT)
        client.send("'alive' * 2\r")
        client.until("'alivealive'")
        client.until(PROMPT)
    client.send("os.environ['TERM'], input('who? ')\r")
    client.until("who? ")
    client.send("me\r")
    client.until("'me')")
    client.until(PROMPT)
    client.send("exit\r")
    client.until("Connection closed by foreign host")
    client.ends()


def telnet_that_is_broken_off():
    client = Program("telnet", "127.0.0.1", PORT, size=(80, 24))
    client.until(PROMPT)
    client.send("import time; time.sleep(1e6)\r")
    client.stop()


def curl_speaks_telnet():
    done = given(b"6*7\nexit()\n", "curl", "-sN", "--max-time", "20", f"telnet://127.0.0.1:{PORT}")
    assert b"42" in done, done


def mpremote(*arguments, status=0):
    done = subprocess.run(
        [MPREMOTE, "connect", f"socket://127.0.0.1:{PORT}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONG,
        text=True,
    )
    assert done.returncode == status, (arguments, done.returncode, done.stdout)
    return done.stdout


def mpremote_runs_scripts():
    assert mpremote("exec", "print(6*7)") == "42\n"
    assert mpremote("eval", "'a' * 3") == "aaa\n"
    with tempfile.TemporaryDirectory() as folder:
        script = f"{folder}/script.py"
        with open(script, "w") as file:
            file.write("import sys\nprint('ran', len(sys.argv))\n1/0\n" + "# much\n" * 5000)
        told = mpremote("run", script, status=1)
        assert told.startswith("ran ") and "line 3" in told and "ZeroDivisionError" in told, told
    # One connection keeps its names, a soft reset forgets them.
    told = mpremote("exec", "a = 5", "exec", "print(a)", "soft-reset", "exec", "print('a' in globals())")
    assert told == "5\nFalse\n", told


def mpremote_copies_files():
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f"{folder}/tree/inner")
        data = os.urandom(30_000)
        for name in "one", "inner/two":
            with open(f"{folder}/tree/{name}", "wb") as file:
                file.write(data)
        mpremote("mkdir", ":/tmp/place", "+", "cp", "-r", f"{folder}/tree", ":/tmp/place/")
        told = mpremote("ls", ":/tmp/place/tree")
        assert "30000 one\n" in told and " inner/\n" in told, told
        assert hashlib.sha256(data).hexdigest() in mpremote("sha256sum", ":/tmp/place/tree/inner/two")
        mpremote("cp", ":/tmp/place/tree/inner/two", f"{folder}/back")
        with open(f"{folder}/back", "rb") as file:
            assert file.read() == data
        assert "No such file" in mpremote("cat", ":/tmp/place/none", status=1)
    mpremote("rm", "-r", ":/tmp/place")
    assert "place" not in mpremote("ls", ":/tmp")


def mpremote_installs_packages():
    with tempfile.TemporaryDirectory() as folder:
        handler = functools.partial(QuietHandler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            with open(f"{folder}/probe.py", "w") as file:
                file.write("answer = 6 * 7\n")
            with open(f"{folder}/package.json", "w") as file:
                json.dump({"urls": [["probe/__init__.py", f"{url}/probe.py"]], "version": "1.0"}, file)
            mpremote("mip", "install", "--target", "/tmp/lib", f"{url}/package.json")
            server.shutdown()
    found = "import sys; sys.path.append('/tmp/lib'); import probe; print(probe.answer)"
    assert mpremote("exec", found, "rm", "-r", ":/tmp/lib").startswith("42\n")


def mpremote_lends_a_folder():
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/package")
        for name, text in (
            ("probe.py", "answer = 42\n"),
            ("package/__init__.py", "from probe import answer as other\n"),
            ("text", "grüße\n" * 1000),
        ):
            with open(f"{folder}/{name}", "w") as file:
                file.write(text)
        with open(f"{folder}/bytes", "wb") as file:
            file.write(bytes(range(256)) * 100)
        with open(f"{folder}/script.py", "w") as file:
            file.write(LENT)
        told = mpremote("mount", folder, "run", f"{folder}/script.py")
        assert told.endswith("42 42 ['bytes', 'package', 'probe.py', 'script.py', 'text']\n1000 True\nno none\n"), told
        with open(f"{folder}/made/out", "rb") as file:
            assert file.read() == bytes(range(256)) * 100
        assert os.listdir(folder + "/made") == ["out"]
        told = mpremote("mount", folder, "ls", "+", "exec", "print(open('text').readline())")
        assert " made/\n" in told and "grüße\n" in told, told
    # When the tool has gone, all is as before.
    told = mpremote("exec", "import os; print(os.getcwd(), os.stat)")
    assert told == "/root <built-in function stat>\n", told


#: What uses a mounted folder in every way.
LENT = """\
import os, probe, package
print(probe.answer, package.other, sorted(os.listdir()))
with open("text") as file:
    print(len(file.readlines()), os.path.isdir("/remote/package"))
os.mkdir("made")
with open("bytes", "rb") as source, open("made/part", "wb") as file:
    file.write(source.read())
os.rename("made/part", "/remote/made/out")
with open("made/other", "x") as file:
    pass
os.remove("made/other")
try:
    open("none")
except FileNotFoundError as error:
    print("no", error.filename.rpartition("/")[2])
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *words):
        pass


@contextlib.contextmanager
def serial_port():
    """Give the path of a terminal that leads to the machine, as socat makes one."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    with socket.create_connection(("127.0.0.1", int(PORT))) as connection:

        def move(read, write):
            try:
                while data := read(65536):
                    write(data)
            except OSError:
                pass  # The other end has gone.

        for read, write in (
            (connection.recv, lambda data: os.write(master, data)),
            (lambda size: os.read(master, size), connection.sendall),
        ):
            threading.Thread(target=move, args=(read, write), daemon=True).start()
        yield os.ttyname(slave)


def mpremote_has_a_prompt():
    # Not over socket://, where mpremote's own loop asks for a descriptor that there is none of.
    with serial_port() as port:
        client = Program(MPREMOTE, "connect", port, "repl", size=(80, 24))
        client.until("Use Ctrl-] or Ctrl-x to exit this shell")
        client.send("6*7\r")
        client.until("42")
        client.until(PROMPT)
        client.send("import time; time.sleep(1e6)\r")
        time.sleep(1)
        client.send("\x03")
        client.until("KeyboardInterrupt")
        client.until(PROMPT)
        client.send("\x1d")
        client.ends(0)


TESTS = (
    nc_has_lines_without_echo,
    telnet_has_the_editor,
    telnet_that_is_broken_off,
    curl_speaks_telnet,
    mpremote_runs_scripts,
    mpremote_copies_files,
    mpremote_installs_packages,
    mpremote_lends_a_folder,
    mpremote_has_a_prompt,
)
signal.alarm(ALL)
for test in TESTS:
    if not sys.argv[3:] or test.__name__ in sys.argv[3:]:
        begun = time.monotonic()
        test()
        print(f"{test.__name__}: {time.monotonic() - begun:.1f} s", flush=True)
print("well")
