"""Sessions and their terminals: who has which, signals of keys and hang-ups, the background, orphans."""

import array
import ctypes
import fcntl
import os
import pty
import select
import signal
import sys
import termios
import time

from harness import check, ended, outcome, raw
from terminal_tools import (
    TIOCGSID,
    TIOCVHANGUP,
    arrived,
    attempt,
    cooked,
    finished,
    hand,
    inside_session,
    number,
    pair,
    session,
)


@check
def no_controlling_terminal_returns_enxio():
    return os.open("/dev/tty", os.O_RDWR)


@check
def controlling_terminal_is_known_as_dev_tty():
    def inside(slave):
        fd = os.open("/dev/tty", os.O_RDWR)
        return os.isatty(fd), os.tcgetpgrp(fd) == os.getpgrp()

    child, _master, reader = session(inside)
    return finished(child, reader)


@check
def interrupt_character_signals_the_foreground():
    def inside(slave):
        seen = []
        signal.signal(signal.SIGINT, lambda s, _: seen.append(int(s)))
        signal.signal(signal.SIGQUIT, lambda s, _: seen.append(int(s)))
        os.write(slave, b"ready")
        while len(seen) < 2:
            time.sleep(0.01)
        return seen

    child, master, reader = session(inside)
    data = b""
    while b"ready" not in data:
        data += os.read(master, 100)
    os.write(master, b"\x03")
    time.sleep(0.05)
    os.write(master, b"\x1c")
    return finished(child, reader), arrived(master)


@check
def hang_up_signals_the_session():
    def inside(slave):
        seen = []
        signal.signal(signal.SIGHUP, lambda s, _: seen.append(int(s)))
        os.write(slave, b"ready")
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            time.sleep(0.01)
        return seen

    child, master, reader = session(inside)
    os.read(master, 100)
    os.close(master)
    return finished(child, reader)


@check
def background_read_stops():
    def inside(slave):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.read(slave, 10)
            os._exit(0)
        outcome(os.setpgid, child, child)
        status = os.waitpid(child, os.WUNTRACED)[1]
        result = ended(status)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return result == f"stopped {signal.SIGTTIN.value}"

    child, _master, reader = session(inside)
    return finished(child, reader)


@check
def foreground_group_can_be_moved():
    def inside(slave):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            time.sleep(60)
            os._exit(0)
        outcome(os.setpgid, child, child)
        os.tcsetpgrp(slave, child)
        moved = os.tcgetpgrp(slave) == child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return moved, outcome(os.tcsetpgrp, slave, 0x3FFFFFFF), outcome(os.tcsetpgrp, slave, 1)

    child, _master, reader = session(inside)
    return finished(child, reader)


@check
def changed_size_signals_the_foreground():
    def inside(slave):
        seen = []
        signal.signal(signal.SIGWINCH, lambda s, _: seen.append(int(s)))
        os.write(slave, b"ready")
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            time.sleep(0.01)
        return seen, os.get_terminal_size(slave).columns

    child, master, reader = session(inside)
    os.read(master, 100)
    fcntl.ioctl(master, termios.TIOCSWINSZ, array.array("H", [50, 132, 0, 0]))
    return finished(child, reader)


@check
def pty_spawn_runs_python():
    child, master = pty.fork()
    if child == 0:
        os.execv("/usr/bin/python3", ["python3", "-c", "import sys; print(sys.stdin.isatty(), input().upper())"])
    os.write(master, b"typed\n")
    data = b""
    while piece := outcome(os.read, master, 100):
        if not isinstance(piece, bytes):
            break
        data += piece
    return data, ended(os.waitpid(child, 0)[1])


@check
def job_control_requests_without_control():
    master, slave = pair()
    return (
        number(slave, termios.TIOCGPGRP),
        number(master, termios.TIOCGPGRP),
        number(slave, TIOCGSID),
        number(master, TIOCGSID),
        hand(slave, termios.TIOCSPGRP, os.getpgrp()),
        hand(master, termios.TIOCSPGRP, os.getpgrp()),
        outcome(raw.ioctl, slave, termios.TIOCNOTTY, 0),
        outcome(raw.ioctl, master, termios.TIOCNOTTY, 0),
        outcome(raw.ioctl, slave, termios.TIOCSCTTY, 0) if os.getsid(0) != os.getpid() else "EPERM",
    )


@check
def opening_gives_a_controlling_terminal():
    def inside(_slave):
        results = []
        for flags in (os.O_RDWR | os.O_NOCTTY, os.O_WRONLY, os.O_RDONLY):
            if os.fork() == 0:
                os.setsid()
                master, other = pair()
                os.close(os.open(os.ptsname(master), flags))
                os.write(results_end, repr((flags & os.O_ACCMODE, outcome(lambda: os.isatty(os.open("/dev/tty", os.O_RDWR))))).encode())
                os._exit(0)
            os.wait()
            results.append(os.read(results_start, 100))
        return results

    results_start, results_end = os.pipe()
    return inside_session(inside)


@check
def terminal_is_taken_and_given_up():
    def inside(slave):
        results = [os.tcgetpgrp(slave) == os.getpgrp(), termios.tcgetwinsize(slave)]
        seen = []
        signal.signal(signal.SIGHUP, lambda s, _: seen.append(int(s)))
        signal.signal(signal.SIGCONT, lambda s, _: seen.append(int(s)))
        results.append(outcome(raw.ioctl, slave, termios.TIOCSCTTY, 0))
        # A child that lets go does so for itself alone.
        child = os.fork()
        if child == 0:
            first = outcome(raw.ioctl, slave, termios.TIOCNOTTY, 0)
            second = outcome(raw.ioctl, slave, termios.TIOCNOTTY, 0)
            gone = outcome(os.open, "/dev/tty", os.O_RDWR)
            os._exit(0 if (first, second, gone) == (0, "ENOTTY", "ENXIO") else 1)
        results.append(ended(os.waitpid(child, 0)[1]))
        results.append((outcome(lambda: os.isatty(os.open("/dev/tty", os.O_RDWR))), sorted(seen)))
        # The leader does so for all.
        start, end = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(start, 1)
            os._exit(0 if outcome(os.open, "/dev/tty", os.O_RDWR) == "ENXIO" else 1)
        results.append(outcome(raw.ioctl, slave, termios.TIOCNOTTY, 0))
        time.sleep(0.01)
        results.append(sorted(seen))
        results.append(outcome(os.open, "/dev/tty", os.O_RDWR))
        results.append(outcome(raw.ioctl, slave, termios.TIOCSCTTY, 0))
        results.append(outcome(lambda: os.isatty(os.open("/dev/tty", os.O_RDWR))))
        os.write(end, b"x")
        results.append(ended(os.waitpid(child, 0)[1]))
        return results

    return inside_session(inside)


@check
def terminal_of_another_session_is_not_taken():
    def inside(slave):
        results = []
        for argument in (0, 1):
            child = os.fork()
            if child == 0:
                os.setsid()
                taken = str(outcome(raw.ioctl, slave, termios.TIOCSCTTY, argument))
                owner = outcome(os.tcgetpgrp, slave) == os.getpgrp()
                os._exit({("EPERM", False): 10, ("0", True): 20}.get((taken, owner), 30))
            results.append(ended(os.waitpid(child, 0)[1]))
        # It was stolen, and its thief is gone.
        results.append(outcome(os.tcgetpgrp, slave))
        results.append(outcome(os.open, "/dev/tty", os.O_RDWR))
        return results

    return inside_session(inside)


@check
def other_users_may_less():
    def inside(slave):
        master, other = pair()
        fcntl.ioctl(other, termios.TIOCEXCL)
        results_start, results_end = os.pipe()
        os.chmod(os.ptsname(master), 0o666)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.setgroups([])
            os.setresgid(70, 70, 70)
            os.setresuid(70, 70, 70)
            results = (
                outcome(raw.ioctl, slave, termios.TIOCSCTTY, 1),
                outcome(os.open, os.ptsname(master), os.O_RDWR | os.O_NOCTTY),
                outcome(fcntl.ioctl, slave, termios.TIOCSTI, b"x"),
                outcome(raw.ioctl, other, TIOCVHANGUP, 0),
                outcome(raw.ioctl, master, TIOCVHANGUP, 0),
                outcome(raw.vhangup),
                owner_of_a_new_one(),
            )
            os.write(results_end, repr(results).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return os.read(results_start, 400)

    def owner_of_a_new_one():
        master, _slave = pair()
        status = os.stat(os.ptsname(master))
        return status.st_uid, status.st_gid, oct(status.st_mode), outcome(os.chown, os.ptsname(master), 0, 0), outcome(os.chmod, os.ptsname(master), 0o600)

    return inside_session(inside)


@check
def only_a_leader_takes_a_terminal():
    def inside(_slave):
        child = os.fork()
        if child == 0:
            master, other = pair()
            os._exit(0 if outcome(raw.ioctl, other, termios.TIOCSCTTY, 0) == "EPERM" else 1)
        master, other = pair()
        return ended(os.waitpid(child, 0)[1]), outcome(raw.ioctl, other, termios.TIOCSCTTY, 0)

    return inside_session(inside)


@check
def master_may_ask_for_the_session():
    def inside(slave):
        os.write(slave, f"{os.getpid()}\n".encode())
        os.read(slave, 10)
        return os.tcgetpgrp(slave) == os.getpid(), number(slave, TIOCGSID) == os.getpid()

    child, master, reader = session(inside)
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(master, 100)
    answers = number(master, termios.TIOCGPGRP) == number(master, TIOCGSID) == int(text)
    refused = outcome(os.tcsetpgrp, master, child)
    os.write(master, b"go\n")
    return answers, refused, finished(child, reader)


@check
def stat_shows_the_terminal():
    def inside(slave):
        with open("/proc/self/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return int(fields[4]) == os.fstat(slave).st_rdev, int(fields[5]) == os.getpgrp()

    with open("/proc/self/stat") as file:
        none = file.read().rsplit(")", 1)[1].split()[4:6]
    return none, inside_session(inside)


@check
def hang_up_reaches_leader_and_later_the_foreground():
    sys.stdout.flush()
    start, end = os.pipe()

    def inside(slave):
        seen = []
        for number in (signal.SIGHUP, signal.SIGCONT):
            signal.signal(number, lambda s, _: seen.append(int(s)))
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.tcsetpgrp(slave, os.getpid())
            os.write(slave, b"ready")
            while len(seen) < 2:
                time.sleep(0.01)
            os.write(end, repr(("foreground", sorted(seen))).encode())
            os._exit(0)
        limit = time.monotonic() + 10
        while len(seen) < 2 and time.monotonic() < limit:
            time.sleep(0.01)
        # The foreground hears of it when the leader ends.
        time.sleep(0.1)
        early = select.select([start], [], [], 0)[0]
        return sorted(seen), early, outcome(os.open, "/dev/tty", os.O_RDWR)

    child, master, reader = session(inside)
    os.read(master, 100)
    os.close(master)
    text = b""
    while not text.endswith(b")"):
        text += os.read(reader, 4096)
    leader = text, ended(os.waitpid(child, 0)[1])
    return leader, os.read(start, 100)


@check
def end_of_the_leader_signals_the_foreground():
    start, end = os.pipe()

    def inside(slave):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        ready_start, ready_end = os.pipe()
        child = os.fork()
        if child == 0:
            seen = []
            for number in (signal.SIGHUP, signal.SIGCONT):
                signal.signal(number, lambda s, _: seen.append(int(s)))
            os.setpgid(0, 0)
            os.tcsetpgrp(slave, os.getpid())
            os.write(ready_end, b"x")
            while not seen:
                time.sleep(0.01)
            time.sleep(0.05)
            os.write(end, repr((seen, outcome(os.write, slave, b"alive"), outcome(os.open, "/dev/tty", 0))).encode())
            os._exit(0)
        os.read(ready_start, 1)
        os._exit(0)

    child, master, reader = session(inside)
    status = ended(os.waitpid(child, 0)[1])
    told = os.read(start, 200)
    return status, told, os.read(master, 10)


@check
def stopped_orphans_are_woken_for_their_end():
    start, end = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        child = os.fork()
        if child == 0:
            seen = []
            for number in (signal.SIGHUP, signal.SIGCONT):
                signal.signal(number, lambda s, _: seen.append(int(s)))
            os.setpgid(0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            while len(seen) < 2:
                time.sleep(0.01)
            os.write(end, repr(sorted(seen)).encode())
            os._exit(0)
        os.waitpid(child, os.WUNTRACED)
        os._exit(0)
    status = ended(os.waitpid(middle, 0)[1])
    return status, os.read(start, 100)


@check
def orphaned_group_is_not_stopped_by_keys():
    def inside(slave):
        # The leader's own group has its parent outside of the session.
        before = time.monotonic()
        os.kill(os.getpid(), signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTTIN)
        return time.monotonic() - before < 5

    return inside_session(inside)


@check
def orphaned_background_gets_eio():
    start, end = os.pipe()

    def inside(slave):
        middle = os.fork()
        if middle == 0:
            os.setpgid(0, 0)
            child = os.fork()
            if child == 0:
                while os.getppid() != 1:
                    time.sleep(0.01)
                cooked_up = attempt(termios.tcsetattr, slave, termios.TCSANOW, termios.tcgetattr(slave))
                moved = outcome(os.tcsetpgrp, slave, os.getpgrp())
                os.write(end, repr((outcome(os.read, slave, 10), outcome(os.write, slave, b"x"), cooked_up, moved)).encode())
                os._exit(0)
            os._exit(0)
        os.waitpid(middle, 0)
        return os.read(start, 200)

    return inside_session(inside)


@check
def background_write_and_change_stop():
    def inside(slave):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        cooked(slave, TOSTOP=True)

        def try_in_background(action, handler):
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                signal.signal(signal.SIGTTOU, handler)
                signal.signal(signal.SIGTTIN, handler)
                result = action()
                os._exit(7 if result == "EIO" else 0)
            outcome(os.setpgid, child, child)
            result = ended(os.waitpid(child, os.WUNTRACED)[1])
            outcome(os.kill, child, signal.SIGKILL)
            outcome(os.waitpid, child, 0)
            return result

        actions = (
            lambda: outcome(os.write, slave, b"w"),
            lambda: termios.tcflush(slave, termios.TCIFLUSH),
            lambda: os.tcsetpgrp(slave, os.getpgrp()),
            lambda: outcome(os.read, slave, 1),
        )
        return [[try_in_background(action, handler) for action in actions] for handler in (signal.SIG_DFL, signal.SIG_IGN)]

    return inside_session(inside)


@check
def vhangup_takes_the_terminal_away():
    def inside(slave):
        seen = []
        for number in (signal.SIGHUP, signal.SIGCONT):
            signal.signal(number, lambda s, _: seen.append(int(s)))
        ctypes.CDLL(None).vhangup()
        time.sleep(0.01)
        return sorted(seen), outcome(os.write, slave, b"x"), outcome(os.open, "/dev/tty", os.O_RDWR)

    return inside_session(inside)


@check
def keys_reach_the_foreground_group_alone():
    def inside(slave):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: os.write(slave, b"wrong"))
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.setpgid(0, 0)
            os.tcsetpgrp(slave, os.getpid())
            os.write(slave, b"ready")
            time.sleep(60)
            os._exit(0)
        first = ended(os.waitpid(child, os.WUNTRACED)[1])
        os.kill(child, signal.SIGCONT)
        os.write(slave, b"again")
        second = ended(os.waitpid(child, 0)[1])
        return first, second

    child, master, reader = session(inside)
    data = b""
    while b"ready" not in data:
        data += os.read(master, 100)
    os.write(master, b"\x1a")
    while b"again" not in data:
        data += os.read(master, 100)
    os.write(master, b"\x03")
    return finished(child, reader), data, arrived(master)


@check
def login_and_fork_give_a_terminal():
    child, master = pty.fork()
    if child == 0:
        name = os.ctermid(), os.ttyname(0) == os.ttyname(1), os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpid()
        os.write(1, repr(name).encode())
        os._exit(0)
    first = os.read(master, 100), ended(os.waitpid(child, 0)[1])
    master, slave = pair()
    child = os.fork()
    if child == 0:
        os.login_tty(slave)
        os.write(1, repr((os.isatty(0), os.isatty(2), os.tcgetpgrp(0) == os.getpid())).encode())
        os._exit(0)
    os.close(slave)
    return first, os.read(master, 100), ended(os.waitpid(child, 0)[1])
