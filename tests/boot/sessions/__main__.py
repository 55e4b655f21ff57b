"""Sessions over TCP within the machine: what `nc`, `telnet` and MicroPython's tools send, and what they get.

Starts the server of process 1 in a process of its own, with the interpreter's settings of process 1.
"""

import binascii
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time

from client import IAC, PROMPT, RAW_PROMPT, Client, settles

SERVER = "import time; from piton import repl; repl.start(); time.sleep(1e6)"
ADDRESS = "127.0.0.1", 5000


def nc():
    return Client.lines(ADDRESS)


def telnet(terminal=b"xterm"):
    return Client.telnet(ADDRESS, terminal)


def open_descriptors():
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def threads():
    return len(os.listdir(f"/proc/{server.pid}/task"))


def lines_without_echo():
    client = nc()
    assert client.ask(b"6*7\n", b"42\n") == b"42\n"
    client.ask(b"_ + 1\n", b"43")
    client.ask(b"def f():\n", b"", b"... ")
    client.ask(b"    return 'f'\n", b"", b"... ")
    client.ask(b"\n", b"")
    client.ask(b"f()\n", b"'f'")
    client.ask(b"1/0\n", b"ZeroDivisionError")
    client.ask(b"1 +\n", b"SyntaxError")
    client.ask(b"name = input('who? ')\n", b"", b"who? ")
    client.ask(b"me\nname\n", b"", PROMPT)
    client.ask(b"", b"'me'")
    client.ask(b"help(len)\n", b"number of items")
    client.send(b"exit()\n")
    client.closed()


def sessions_share_modules_and_not_names():
    one, two = nc(), nc()
    one.ask(b"import sys, types; sys.modules['shared'] = shared = types.ModuleType('shared'); shared.value = []\n", b"")
    two.ask(b"import shared; shared.value.append(5); here = 1\n", b"")
    one.ask(b"shared.value\n", b"[5]")
    one.ask(b"here\n", b"NameError")
    one.ask(b"'one'\n", b"'one'")
    two.ask(b"'two'\n", b"'two'")
    one.ask(b"_\n", b"'one'")
    two.ask(b"import sys; sys.displayhook = lambda value: print('shown', value)\n", b"")
    two.ask(b"7\n", b"shown 7")
    one.ask(b"7\n", b"7")
    two.ask(b"import io, contextlib; kept = io.StringIO(); caught = contextlib.redirect_stdout(kept)\n", b"")
    two.ask(b"caught.__enter__() and None\n", b"")
    one.ask(b"print('seen')\n", b"seen")
    two.ask(b"caught.__exit__(None, None, None)\n", b"")
    two.ask(b"kept.getvalue().count('seen')\n", b"shown 0")
    one.ask(b"import threading; t = threading.Thread(target=print, args=('child',)); t.start(); t.join()\n", b"child")
    one.ask(b"t = threading.Thread(target=lambda: 1/0); t.start(); t.join()\n", b"ZeroDivisionError")
    one.close()
    two.close()


def ctrl_c_interrupts_whatever_runs():
    client, other = nc(), nc()
    client.ask(b"import time, threading, socket, select, queue, os, subprocess, asyncio\n", b"")
    client.ask(b"a, b = socket.socketpair()\n", b"")
    client.ask(b"lock = threading.Lock(); lock.acquire(); there = []\n", b"True")
    client.ask(b"def try_it(call):\n  print('begun', 1, sep=':')\n  try: call()\n  finally: there.append(1)\n\n", b"")
    endless = (
        "lambda: [None for _ in iter(int, 1)]",
        "lambda: time.sleep(1e6)",
        "lambda: lock.acquire()",
        "lambda: lock.acquire(timeout=1e6)",
        "lambda: a.recv(1)",
        "lambda: select.select([a], [], [])",
        "lambda: queue.Queue().get()",
        "lambda: queue.SimpleQueue().get()",
        "lambda: threading.Event().wait()",
        "lambda: os.read(os.pipe()[0], 1)",
        "lambda: subprocess.run(['sleep', '1000'])",
        "lambda: asyncio.run(asyncio.sleep(1e6))",
        "lambda: input()",
    )
    for number, call in enumerate(endless, 1):
        client.send(f"try_it({call})\n".encode())
        client.until(b"begun:1")
        other.ask(b"3*3\n", b"9")
        time.sleep(0.2)
        client.send(b"\x03")
        assert b"KeyboardInterrupt" in client.until(PROMPT), call
        client.ask(b"len(there)\n", str(number).encode())
    client.send(b"not finished")
    client.ask(b"\x03", b"KeyboardInterrupt")
    client.ask(b"5*5\n", b"25")
    client.close()
    other.close()


def telnet_gets_the_editor():
    client = telnet()
    client.send(b"6*7\r")
    client.until(b"42")
    client.until(PROMPT)
    client.send(b"impor\tos; tuple(os.get_terminal_size(sys.stdout.fileno()))\r")
    client.until(b"(100, 30)")
    client.window(77, 20)
    client.send(b"\x1bOA\r")
    client.until(b"(77, 20)")
    client.until(PROMPT)
    client.send(b"print('begun', 1, sep=':'); import time; time.sleep(1e6)\r")
    client.until(b"begun:1")
    client.send(bytes((IAC, 244)))
    client.until(b"KeyboardInterrupt")
    client.until(PROMPT)
    client.send(b"half a line")
    client.send(b"\x03")
    client.until(b"KeyboardInterrupt")
    client.until(PROMPT)
    client.send(b"len(input('who? '))\r")
    client.until(b"who? ")
    client.send("grüße\r".encode())
    client.until(b"\n\r5\r\n")
    client.send(b"exit\r")
    client.closed()
    dumb = telnet(b"dumb")
    dumb.send(b"'a' + 'b'\r")
    dumb.until(b"'ab'")
    dumb.send(b"\x04")
    dumb.closed()


def commands_at_the_prompt():
    def ask(client, line, answer):
        client.send(line + client.end)
        if answer:
            client.until(answer)
        client.until(PROMPT)

    lines, editor = nc(), telnet()
    for client in (lines, editor):
        ask(client, b"echo $((123457 * 8))", b"987656")
        ask(client, b"ls /etc | grep '^hosts$' | tr a-z A-Z", b"HOSTS")
        ask(client, b"cat 'unclosed", b"unterminated")
        ask(client, b"ls = 123457 * 8; 'assi' + 'gned'", b"assigned")
        ask(client, b"ls -1", b"987655")
        ask(client, b"cd /nonexistent", b"No such file")
        ask(client, b"lsdev", b"arm,pl011")
        client.send(b"echo be''gun; sleep 1000" + client.end)
        client.until(b"begun")
        time.sleep(0.2)
        client.send(b"\x03")
        client.until(PROMPT)
        ask(client, b"sh.status", b"-2")
    # Each has a directory of its own, in which its threads and programs are, too.
    ask(lines, b"cd /usr/lib && echo a'b'c", b"abc")
    ask(editor, b"pwd | tr a-z A-Z", b"/ROOT")
    ask(editor, b"import os, threading; os.chdir('/usr'); os.getcwd().upper()", b"/USR")
    begin = b"t.start(); t.join(); 'e' + 'nd'"
    ask(lines, b"import os, threading; t = threading.Thread(target=lambda: print(os.getcwd().upper()))", b"")
    ask(lines, begin, b"/USR/LIB")
    ask(editor, b"t = threading.Thread(target=os.chdir, args=('share',)); " + begin, b"'end'")
    ask(editor, b"os.popen('pwd -P').read().upper()", b"/USR/SHARE")
    ask(lines, b"pwd | tr a-z A-Z", b"/USR/LIB")
    os.makedirs("/root/bin", exist_ok=True)
    with open("/root/bin/again.py", "w") as file:
        file.write("import sys, time; print('be' + 'gun'); time.sleep(1); print(sys.argv[1] * 3)\n")
    lines.send(b"again ab\n")
    lines.until(b"begun")
    editor.send(b"again cd\r")
    editor.until(b"cdcdcd")
    lines.until(b"ababab")
    lines.until(PROMPT)
    editor.until(PROMPT)
    ask(lines, b"true " + 200_000 * b"x", b"Argument list too long")
    lines.send(b"sh()\n")
    lines.until(b"$ ")
    lines.ask(b"cd /usr; pwd\n", b"/usr", b"$ ")
    lines.ask(b"exit 7\n", b"7")
    lines.ask(b"pwd | tr a-z A-Z\n", b"/USR\n")
    editor.send(b"sh()\r")
    editor.until(b"$ ")
    editor.send(b"cd /usr/lib; pwd | tr a-z A-Z\r")
    editor.until(b"/USR/LIB")
    editor.send(b"exit\r")
    editor.until(PROMPT)
    raw = Client.raw(ADDRESS)
    raw.send(b"ls -l\x04")
    assert b"NameError" in raw.until(b"\x04>")
    for client in (lines, editor, raw):
        client.close()


def history_is_kept_and_stays_short():
    path = os.path.expanduser("~/.python_history")
    with open(path, "w") as file:
        for number in range(5000):
            file.write(f"old = {number}\r\n    # more\n")
    first, second = telnet(), telnet()
    assert 10_000 < os.path.getsize(path) < 17_000, os.path.getsize(path)
    with open(path) as file:
        assert file.readline().startswith("old = ")
    first.send(b"6*111\r")
    first.until(b"666")
    first.until(PROMPT)
    third = telnet()
    third.send(b"\x1bOA\x7f\r")
    third.until(b"66")
    third.until(PROMPT)
    for client in first, second, third:
        client.close()
    os.unlink(path)


def programs_have_the_session_s_terminal():
    client = telnet(b"vt100")
    client.send(b"import os, subprocess\r")
    client.until(PROMPT)
    client.send(b"os.system('tty; echo TERM=$TERM; stty size; exit 3')\r")
    got = client.until(b"768\r\n")
    assert b"/dev/pts/" in got and b"TERM=vt100" in got and b"30 100" in got, got
    client.send(b"subprocess.run(['sh', '-c', 'echo begun:$((2-1)); read x </dev/tty; echo got:$x'])\r")
    client.until(b"begun:1")
    client.send(b"abc\r")
    client.until(b"got:abc")
    client.until(PROMPT)
    for call in b"os.system(%s)", b"subprocess.run(%s, shell=True)":
        client.send(call % b"'echo begun:$((2-1)); sleep 1234'" + b"\r")
        client.until(b"begun:1")
        time.sleep(0.2)
        client.send(b"\x03")
        client.until(PROMPT)
    client.send(b"6*7\r")
    client.until(b"42")
    client.send(b"subprocess.run(['python3', '-q'])\r")
    client.until(b"\r\n>>> ")
    client.send(b"os.getpid() if 'os' in globals() else 'in' + 'ner'\r")
    client.until(b"'inner'")
    client.send(b"exit()\r")
    client.until(b"returncode=0")
    client.send(b"left = subprocess.Popen(['sleep', '1234'])\r")
    client.until(PROMPT)
    client.close()
    lines = nc()
    lines.ask(b"import os, subprocess; os.system('echo out; exit 2')\n", b"out\n512")
    lines.ask(b"os.popen('echo popen').read()\n", b"'popen\\n'")
    lines.send(b"subprocess.run('echo begun:$((2-1)); sleep 2345', shell=True)\n")
    lines.until(b"begun:1")
    # A shell that is just starting a program may lose a signal.
    time.sleep(0.3)
    lines.ask(b"\x03", b"KeyboardInterrupt")
    lines.send(b"left = subprocess.Popen(['sleep', '3456'])\n")
    lines.until(PROMPT)
    lines.close()
    settles(sleepers, [])


def modules_use_the_session_s_terminal():
    before = open_descriptors()
    client = telnet()
    client.send(b"import os, multiprocessing, pty, getpass, shutil, curses, sys\r")
    client.until(PROMPT)
    client.send(b"command = 'tty; echo there:$((2-1)) >/dev/tty; stty size'\r")
    client.until(PROMPT)
    client.send(b"os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', command], os.environ), 0)[1]\r")
    got = client.until(b"\r\n0\r\n")
    assert b"/dev/pts/0\r\n" in got and b"there:1" in got and b"30 100" in got, got
    client.send(b"os.spawnlp(os.P_WAIT, 'tty', 'tty')\r")
    client.until(b"/dev/pts/0\r\n0\r\n")
    for method in b"spawn", b"forkserver", b"fork":
        client.send(b"p = multiprocessing.get_context('%b').Process(target=print, args=('child', 7))\r" % method)
        client.until(PROMPT)
        client.send(b"p.start(); p.join(); p.exitcode\r")
        client.until(b"child 7\r\n0\r\n")
    client.send(b"pty.spawn(['sh', '-c', 'tty; read x; echo got:$x'])\r")
    client.until(b"/dev/pts/1\r\n")
    client.send(b"it\r")
    client.until(b"got:it\r\n0\r\n")
    client.send(b"getpass.getpass('sec' + 'ret? ')\r")
    client.until(b"secret? ")
    client.send(b"hidden\r")
    assert b"hidden" not in client.until(b"\n'hidden'")
    client.send(b"tuple(os.get_terminal_size()), tuple(shutil.get_terminal_size())\r")
    client.until(b"((100, 30), (100, 30))")
    client.send(b"curses.initscr()\r")
    client.until(b"run it as a program")
    client.until(PROMPT)
    program = b"import curses; curses.wrapper(lambda w: (w.addstr(0, 0, f'{curses.LINES}x{curses.COLS}'), w.getkey()))"
    client.send(b"import subprocess; subprocess.run([sys.executable, '-c', \"%b\"]).returncode\r" % program)
    client.until(b"30x100")
    client.send(b"q")
    client.until(b"0\r\n")
    client.close()
    lines = nc()
    lines.ask(b"import os, multiprocessing\n", b"")
    lines.ask(b"os.waitpid(os.posix_spawnp('echo', ['echo', 'spawned'], os.environ), 0)[1]\n", b"spawned\n0\n")
    lines.ask(b"with multiprocessing.Pool(2) as pool: pool.map(print, 'ab')\n\n", b"[None, None]", b"\n" + PROMPT)
    lines.close()
    settles(forkservers, 0)
    # One leads to the process that watches what is shared, for good.
    settles(open_descriptors, before + 1)


def forkservers():
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as file:
                found += "multiprocessing.forkserver" in file.read()
        except OSError:
            continue
    return found


def sleepers():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as file:
                words = file.read().split("\0")
            with open(f"/proc/{name}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and not {"1234", "2345", "3456"}.isdisjoint(words):
            found.append(words)
    return found


def raw_repl_runs_source():
    client = nc()
    client.send(b"\r\x03\x03")
    client.until(b"KeyboardInterrupt")
    client.send(b"\r\x01")
    client.until(RAW_PROMPT)
    client.send(b"\x04")
    client.until(b"soft reboot\r\n")
    client.until(RAW_PROMPT)
    client.send(b"print(6*7)\x04")
    assert client.until(b"\x04>") == b"OK42\r\n\x04"
    source = b"data = bytes(1000)\n" + b"# padding\n" * 5000 + b"print(len(data))"
    client.send(b"\x05A\x01" + source + b"\x04")
    client.until(b"1000\r\n\x04\x04>")
    client.send(b"import os; print([n for n, kind, *_ in os.ilistdir('/') if n == 'usr' and kind == 0x4000])\x04")
    client.until(b"['usr']")
    client.until(b"\x04>")
    # Thonny reads what repr makes of it.
    client.send(b"import uos, ast; print(len(ast.literal_eval(repr(uos.stat('/')))), uos.path.basename('/a/b'))\x04")
    client.until(b"10 b\r\n")
    client.until(b"\x04>")
    client.send(b"import time; time.sleep(1e6)\x04")
    client.until(b"OK")
    time.sleep(0.2)
    client.send(b"\x03")
    client.until(b"KeyboardInterrupt\r\n\x04>")
    client.send(b"answer = input('who? '); print(answer)\x04")
    client.until(b"who? ")
    client.send(b"me\r")
    client.until(b"me\r\n\x04\x04>")
    client.send(b"\r\x02")
    client.until(b"\r\n" + PROMPT)
    client.send(b"\r")
    assert client.until(PROMPT) == b"\r\n"
    client.send(b"answer + '!'\r")
    client.until(b"'me!'")
    client.until(PROMPT)
    client.send(b"\x01")
    client.until(RAW_PROMPT)
    client.close()


def files_are_copied():
    data = os.urandom(300_000)
    for digest, right in ((hashlib.sha256(data).hexdigest(), True), ("0" * 64, False)):
        client = nc()
        client.send(b"\x01")
        client.until(RAW_PROMPT)
        call = f"transfer.receive('/tmp', 'copy', {len(data)}, '{digest}')"
        client.send(f"from piton import transfer; {call}\x04".encode())
        client.until(b"OKready\r\n")
        for at in range(0, len(data), 12288):
            client.send(binascii.b2a_base64(data[at : at + 12288]))
        assert (b"done /tmp/copy" if right else b"ValueError") in client.until(b"\x04>")
        client.close()
    client = nc()
    client.send(b"\x01")
    client.until(RAW_PROMPT)
    client.send(b"from piton import transfer; transfer.send('/tmp/copy')\x04")
    client.until(b"OKsize 300000\r\n")
    lines = client.until(b"done ").split()
    assert b"".join(map(binascii.a2b_base64, lines)) == data
    client.until(hashlib.sha256(data).hexdigest().encode())
    client.close()
    assert "copy.part" not in os.listdir("/tmp")
    os.unlink("/tmp/copy")


def dropped_connections_leave_nothing():
    before = open_descriptors(), threads()
    lines = (
        b"while True: pass\n\n",
        b"import time; time.sleep(1e6)\n",
        b"import threading; threading.Event().wait()\n",
        b"while True:\n    try: __import__('time').sleep(9)\n    except KeyboardInterrupt: pass\n\n",
        b"1+",
    )
    for line in lines:
        client = nc()
        client.send(line)
        time.sleep(0.3)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        client = telnet()
        client.send(line.replace(b"\n", b"\r"))
        time.sleep(0.5)
        client.close()
    settles(open_descriptors, before[0])
    settles(threads, before[1])
    assert os.listdir("/dev/pts") == ["ptmx"], os.listdir("/dev/pts")


def half_closed_client_gets_its_answers():
    client = Client(ADDRESS)
    client.send(b"import time; time.sleep(0.5)\nprint(6*7)\n")
    client.socket.shutdown(socket.SHUT_WR)
    client.until(b"42\n")
    client.closed()
    client = Client(ADDRESS)
    client.socket.shutdown(socket.SHUT_WR)
    client.closed()


def many_at_once():
    before = open_descriptors(), threads()
    clients = [nc() for _ in range(64)]
    for number, client in enumerate(clients):
        client.send(b"number = %d\n" % number)
    for client in clients:
        client.until(PROMPT)
    for number, client in enumerate(clients):
        client.ask(b"number * 1000\n", b"%d\n" % (1000 * number))
    late = nc()
    late.send(b"1\n")
    late.until(b"no room")
    late.closed()
    for client in clients:
        client.close()
    settles(open_descriptors, before[0])
    settles(threads, before[1])


def bad_input_is_survived():
    generator = __import__("random").Random(5)
    idle = [Client(ADDRESS) for _ in range(150)]
    for _ in range(60):
        client = Client(ADDRESS)
        kind = generator.randrange(3)
        telnet_s, micropython_s = bytes((255, 250, 240, 253, 251, 24, 31, 0, 3)), b"\x01\x02\x03\x04\x05A\r\n'(1"
        alphabet = (bytes(range(256)), telnet_s, micropython_s)[kind]
        try:
            client.send(bytes(generator.choices(alphabet, k=generator.randrange(1, 3000))))
            time.sleep(0.01)
        except OSError:
            pass
        client.close()
    client = nc()
    client.send(b"x" * (2 << 20) + b"\n")
    client.until(b"a line has at most")
    client.ask(b"2*21\n", b"42")
    client.close()
    for client in idle:
        client.close()
    client = nc()
    client.ask(b"2*21\n", b"42")
    client.ask(b"sorted(piton.net.stats().sessions)\n", b"clients without room', 'lines that are too long")
    client.close()


server = subprocess.Popen(
    [sys.executable, "-X", "thread_inherit_context=1", "-X", "context_aware_warnings=1", "-c", SERVER]
)
names = sys.argv[1:] or [
    "lines_without_echo",
    "sessions_share_modules_and_not_names",
    "ctrl_c_interrupts_whatever_runs",
    "telnet_gets_the_editor",
    "commands_at_the_prompt",
    "history_is_kept_and_stays_short",
    "programs_have_the_session_s_terminal",
    "modules_use_the_session_s_terminal",
    "raw_repl_runs_source",
    "files_are_copied",
    "half_closed_client_gets_its_answers",
    "dropped_connections_leave_nothing",
    "many_at_once",
    "bad_input_is_survived",
]
for name in names:
    begun = time.monotonic()
    globals()[name]()
    print(f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
assert server.poll() is None, server.poll()
server.send_signal(signal.SIGKILL)
server.wait()
print("well")
