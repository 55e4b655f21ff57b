"""Processes: fork, exec, wait, groups, sessions, ids, subprocess."""

import ctypes
import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
import time

from harness import KERNEL, PAGE, UNMAPPED, check, ended, in_child, outcome, raw

PYTHON = "/usr/bin/python3"


@check
def fork_copies_memory_and_offset():
    data = bytearray(b"parent" * 10_000)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        data[:6] = b"child!"
        os.write(writer, bytes(data[:6]) + bytes(data[-6:]))
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reader, 100), bytes(data[:6])


@check
def exit_statuses():
    return in_child(lambda: 0), in_child(lambda: 255), in_child(lambda: 256 + 7)


@check
def wait_without_children_returns_echild():
    return outcome(os.wait), outcome(os.waitpid, os.getpid(), 0), outcome(os.waitpid, -1, os.WNOHANG)


@check
def wait_bad_arguments():
    info = ctypes.create_string_buffer(128)
    return (
        outcome(raw.wait4, -1, None, 0x100, None),
        outcome(raw.waitid, 9, 0, info, 4, None),
        outcome(raw.waitid, 0, 0, info, 0, None),
        outcome(raw.waitid, 1, -5, info, 4, None),
    )


@check
def wnohang_returns_at_once():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(4)
    first = os.waitpid(child, os.WNOHANG)
    os.write(writer, b"x")
    return first, ended(os.waitpid(child, 0)[1])


@check
def waitid_tells_and_leaves_the_child():
    child = os.fork()
    if child == 0:
        os._exit(6)
    seen = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    again = os.waitid(os.P_PID, child, os.WEXITED)
    return seen.si_status, seen.si_code, again.si_status, again.si_pid == child, outcome(os.waitid, os.P_PID, child, os.WEXITED)


@check
def wait4_tells_the_resources():
    child = os.fork()
    if child == 0:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime >= 0.04, usage.ru_maxrss > 0


@check
def ignored_sigchld_reaps_by_itself():
    def parent():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os._exit(0)
        print(outcome(os.waitpid, child, 0), flush=True)

    return in_child(parent)


@check
def orphan_goes_to_process_1():
    reader, writer = os.pipe()

    def parent():
        own = os.getpid()
        if os.fork() == 0:
            while os.getppid() == own:
                time.sleep(0.005)
            os.write(writer, str(os.getppid()).encode())
            os._exit(0)

    result = in_child(parent)
    return result, os.read(reader, 20)


@check
def subreaper_takes_orphans():
    def reaper():
        raw.prctl(36, 1, 0, 0, 0)
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                time.sleep(0.05)
                os._exit(9)
            os._exit(0)
        os.waitpid(middle, 0)
        print("adopted", ended(os.wait()[1]), flush=True)

    return in_child(reaper)


@check
def exec_replaces_the_program():
    def replaced():
        os.execve(PYTHON, ["name", "-c", "import sys, os; print(sys.argv, os.environ['X'])", "a b", ""], {"X": "ü"})

    return in_child(replaced)


@check
def exec_bad_names():
    with open("text", "wb") as file:
        file.write(b"no program\n")
    os.mkdir("folder")
    os.chmod("text", 0o755)
    with open("data", "wb") as file:
        file.write(b"x")
    os.close(os.open("empty", os.O_CREAT | os.O_WRONLY, 0o755))
    os.symlink("loop", "loop")
    return [
        outcome(os.execv, name, ["x"])
        for name in ("missing", "text/x", "folder", "data", "text", "empty", "loop", "x" * 300)
    ]


@check
def exec_bad_pointers():
    empty = (ctypes.c_void_p * 1)(None)
    wild = (ctypes.c_void_p * 2)(UNMAPPED, None)
    return (
        outcome(raw.execve, UNMAPPED, empty, empty),
        outcome(raw.execve, PYTHON.encode(), wild, empty),
        outcome(raw.execve, PYTHON.encode(), UNMAPPED, empty),
        outcome(raw.execve, PYTHON.encode(), KERNEL, empty),
    )


@check
def exec_too_long_arguments_return_e2big():
    return outcome(os.execv, PYTHON, ["x" * (32 * PAGE)]), outcome(os.execv, PYTHON, ["x", *["y" * 100_000] * 30])


@check
def exec_long_arguments_arrive():
    def replaced():
        os.execv(PYTHON, [PYTHON, "-c", "import sys; print(len(sys.argv), len(sys.argv[1]))", "z" * 100_000, *["q"] * 500])

    return in_child(replaced)


def script(name, first_line):
    with open(name, "w") as file:
        file.write(first_line + "\nimport sys\nprint('ran', sys.argv[1:])\n")
    os.chmod(name, 0o755)


@check
def exec_follows_the_interpreter_line():
    script("script", f"#!{PYTHON}")
    script("option", f"#!  {PYTHON}   -E ")
    script("lost", "#!/missing/interpreter")
    script("indirect", "#!" + os.path.abspath("script"))
    return (
        in_child(lambda: os.execv("./script", ["ignored", "one"])),
        in_child(lambda: os.execv("./option", ["ignored", "two"])),
        outcome(os.execv, "./lost", ["x"]),
        in_child(lambda: os.execv("./indirect", ["ignored", "three"])),
    )


@check
def exec_closes_cloexec_and_keeps_the_rest():
    kept, closed = os.open("text", 0), os.open("text", 0)
    os.set_inheritable(kept, True)
    program = "import os,sys\nfor n in sys.argv[1:]:\n try: os.fstat(int(n)); print('open')\n except OSError: print('closed')"
    return in_child(lambda: os.execv(PYTHON, [PYTHON, "-c", program, str(kept), str(closed)]))


@check
def exec_keeps_ignored_signals_and_mask():
    program = (
        "import signal\n"
        "print(signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2),"
        " signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )

    def replaced():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.execv(PYTHON, [PYTHON, "-c", program])

    return in_child(replaced)


@check
def exec_from_a_thread_keeps_the_process_id():
    program = "import os, sys; print(os.getpid() == int(sys.argv[1]), len(os.listdir('/proc/self/task')))"

    def replaced():
        def in_thread():
            os.execv(PYTHON, [PYTHON, "-c", program, str(os.getpid())])

        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        threading.Thread(target=in_thread).start()
        time.sleep(60)

    return in_child(replaced)


@check
def execveat_runs_an_open_file():
    def replaced():
        fd = os.open(PYTHON, os.O_RDONLY)
        os.execve(fd, ["python", "-c", "print('by descriptor')"], {})

    return in_child(replaced)


@check
def memfd_can_be_run():
    def replaced():
        with open("script", "rb") as file:
            fd = os.memfd_create("program", 0)
            os.write(fd, file.read())
        os.execve(fd, ["python", "from memory"], {})

    return in_child(replaced)


@check
def running_program_cannot_be_written():
    import shutil

    shutil.copy(PYTHON, "copy")
    os.chmod("copy", 0o755)
    process = subprocess.Popen(["./copy", "-c", "input()"], stdin=subprocess.PIPE, env={"PYTHONHOME": "/usr"}, stderr=subprocess.DEVNULL)
    time.sleep(0.1)
    busy = outcome(os.open, "copy", os.O_WRONLY)
    process.communicate(b"\n")
    writer = os.open("copy", os.O_WRONLY)

    def run():
        print(outcome(os.execv, "./copy", ["./copy", "-c", ""]), flush=True)

    return busy, in_child(run), writer > 0


@check
def subprocess_pipes_and_statuses():
    upper = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stderr.write('aside'); sys.exit(3)"
    done = subprocess.run([PYTHON, "-c", upper], input="text", capture_output=True, text=True)
    killed = subprocess.run([PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"])
    missing = outcome(subprocess.run, ["/missing/program"])
    return done.stdout, done.stderr, done.returncode, killed.returncode, missing


@check
def subprocess_time_limit_and_folder():
    os.makedirs("elsewhere", exist_ok=True)
    where = subprocess.run(
        [PYTHON, "-c", "import os; print(os.path.basename(os.getcwd()))"], cwd="elsewhere", capture_output=True
    ).stdout
    try:
        subprocess.run([PYTHON, "-c", "import time; time.sleep(60)"], timeout=0.3)
        late = "ended"
    except subprocess.TimeoutExpired:
        late = "TimeoutExpired"
    return where, late


@check
def posix_spawn_with_actions():
    with open("spawned", "wb") as out:
        child = os.posix_spawn(
            PYTHON,
            [PYTHON, "-c", "print('spawned')"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_CLOSE, 0)],
            setpgroup=0,
        )
        status = os.waitpid(child, 0)[1]
    return status, open("spawned").read(), outcome(os.posix_spawn, "/missing", ["x"], {})


@check
def process_groups_and_sessions():
    def leader():
        os.setsid()
        print("session", os.getsid(0) == os.getpid() == os.getpgrp(), outcome(os.setsid))
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            same = os.getpgrp() == os.getpid(), os.getsid(0) == os.getppid()
            print("member", same, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("bad", outcome(os.setpgid, 0, 0x3FFFFFFF), outcome(os.setpgid, 0, -1), outcome(os.setpgid, 1, 0), flush=True)

    return in_child(leader), outcome(os.getpgid, 0x3FFFFFFF), outcome(os.getsid, 0x3FFFFFFF)


@check
def setpgid_of_a_child_is_refused_after_exec():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.execv("/bin/sh", ["sh", "-c", "echo; exec sleep 60"])
    os.read(reader, 1)
    result = outcome(os.setpgid, child, child), outcome(os.setpgid, child, -1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    leader = os.fork()
    if leader == 0:
        os.setsid()
        os.write(writer, b"x")
        time.sleep(60)
    os.read(reader, 1)
    result += (outcome(os.setpgid, leader, leader),)
    os.kill(leader, signal.SIGKILL)
    os.waitpid(leader, 0)
    ended_thread = threading.Event()
    thread = threading.Thread(target=ended_thread.wait)
    thread.start()
    result += (outcome(os.setpgid, thread.native_id, 0),)
    ended_thread.set()
    thread.join()
    return result


@check
def group_signal_reaches_all_members():
    children = []
    reader, writer = os.pipe()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os.setpgid(0, children[0] if children else 0)
            os.write(writer, b"x")
            time.sleep(60)
            os._exit(0)
        outcome(os.setpgid, child, children[0] if children else child)
        children.append(child)
    count = 0
    while count < 3:
        count += len(os.read(reader, 3))
    os.killpg(children[0], signal.SIGTERM)
    return [ended(os.waitpid(c, 0)[1]) for c in children]


@check
def waiting_for_a_group():
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os._exit(8)
    outcome(os.setpgid, child, child)
    pid, status = os.waitpid(-child, 0)
    return pid == child, ended(status)


@check
def ids_change_and_stay_changed():
    def other():
        os.setgroups([7, 8])
        os.setresgid(10, 11, 12)
        os.setresuid(20, 21, 22)
        print(os.getresuid(), os.getresgid(), os.getgroups())
        print(outcome(os.setuid, 0), outcome(os.setresuid, 22, 20, 21), os.getresuid())
        print(outcome(os.setgroups, [1]), outcome(os.kill, 1, 0), outcome(os.setgid, 12), outcome(os.setgid, 99), flush=True)

    return in_child(other)


@check
def prctl_names_and_death_signal():
    name = ctypes.create_string_buffer(16)

    def child():
        raw.prctl(1, signal.SIGUSR1, 0, 0, 0)
        number = ctypes.c_int()
        raw.prctl(2, ctypes.byref(number), 0, 0, 0)
        print("death signal", number.value, flush=True)

    raw.prctl(15, b"a-rather-long-name", 0, 0, 0)
    raw.prctl(16, name, 0, 0, 0)
    return (
        name.value,
        in_child(child),
        outcome(raw.prctl, 15, UNMAPPED, 0, 0, 0),
        outcome(raw.prctl, 99999, 0, 0, 0, 0),
        outcome(raw.prctl, 1, 99, 0, 0, 0),
        raw.prctl(39, 0, 0, 0, 0),
        outcome(raw.prctl, 38, 2, 0, 0, 0),
    )


@check
def pidfd_signals_and_waits():
    import select

    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    fd = os.pidfd_open(child)
    before = select.select([fd], [], [], 0)[0]
    signal.pidfd_send_signal(fd, signal.SIGTERM)
    ready = select.select([fd], [], [], 20)[0] == [fd]
    info = os.waitid(os.P_PIDFD, fd, os.WEXITED)
    return (
        before,
        ready,
        info.si_status,
        fcntl.fcntl(fd, fcntl.F_GETFD),
        outcome(os.pidfd_open, 0x3FFFFFFF),
        outcome(signal.pidfd_send_signal, fd, 0),
    )


def cloned(call, *arguments):
    """What the call gives; should it make a process after all, that one ends here."""
    result = outcome(call, *arguments)
    if result == 0:
        os._exit(0)
    return "made a process" if isinstance(result, int) else result


@check
def clone_bad_flags_return_einval():
    fs, sighand, thread, newns = 0x200, 0x800, 0x10000, 0x20000
    return (
        cloned(raw.clone, thread, 0, 0, 0, 0),
        cloned(raw.clone, sighand, 0, 0, 0, 0),
        cloned(raw.clone, thread | sighand, 0, 0, 0, 0),
        cloned(raw.clone, fs | newns, 0, 0, 0, 0),
    )


@check
def clone3_bad_arguments():
    def arguments(flags, exit_signal=0):
        return struct.pack("<11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, 0)

    return (
        cloned(raw.clone3, arguments(0), 8),
        cloned(raw.clone3, UNMAPPED, 88),
        cloned(raw.clone3, arguments(0, 200), 88),
        cloned(raw.clone3, arguments(0x10000), 88),
        cloned(raw.clone3, arguments(1 << 62), 88),
        cloned(raw.clone3, arguments(0) + b"\xff" * 8, 96),
        cloned(raw.clone3, arguments(0), 1 << 30),
    )


@check
def vfork_like_clone_shares_until_exec():
    return subprocess.run([PYTHON, "-c", "print('ok')"], capture_output=True, close_fds=False).stdout


@check
def limit_on_descriptors_is_inherited():
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        os.execv(PYTHON, [PYTHON, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"])

    return in_child(limited)


@check
def multiprocessing_pool_computes():
    import multiprocessing

    sys.stdout.flush()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-3, 4, -5])


@check
def atexit_order_and_exit_status():
    program = "import atexit; atexit.register(print, 'second'); atexit.register(print, 'first'); raise SystemExit(12)"
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True)
    return done.stdout, done.returncode
