"""Users, groups and capabilities: who may do what to files and processes."""

import array
import ctypes
import os
import resource
import signal
import socket
import stat
import struct
import sys

from harness import UNMAPPED, check, in_child, outcome, raw

KEEP = -1
USER, GROUP, OTHER = 1000, 1001, 2000
PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_GET_KEEPCAPS, PR_SET_KEEPCAPS = 3, 4, 7, 8
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_GET_SECUREBITS, PR_SET_SECUREBITS = 23, 24, 27, 28
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 39, 47
VERSION_3 = 0x20080522
ALL = (1 << 41) - 1


def become(user=USER, group=GROUP, groups=()):
    os.setgroups(list(groups))
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def show(*values):
    print(*values, flush=True)


def status(*names, pid="self"):
    with open(f"/proc/{pid}/status") as text:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in text)
    return [lines[name] for name in names]


def capabilities(pid=0):
    data = (ctypes.c_uint32 * 6)()
    raw.capget(struct.pack("<Ii", VERSION_3, pid), data)
    return [f"{data[i] | data[i + 3] << 32:x}" for i in range(3)]


def capset(effective, permitted, inheritable):
    words = [bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in (effective, permitted, inheritable)]
    return raw.capset(struct.pack("<Ii", VERSION_3, 0), struct.pack("<6I", *words))


def ids():
    return os.getresuid(), os.getresgid()


@check
def user_ids_of_root():
    def child():
        raw.setreuid(KEEP, 5)
        show(ids(), capabilities(), status("Uid"))
        show(outcome(raw.setreuid, KEEP, 7), outcome(raw.setreuid, 7, KEEP), outcome(raw.setreuid, KEEP, 0), ids(), capabilities()[0])
        raw.setresuid(1, 2, 3)
        show(ids(), capabilities(), status("Uid"))
        show(outcome(raw.setuid, 2), outcome(raw.setuid, 3), ids(), outcome(raw.setuid, 1), outcome(raw.setuid, 0), ids())
        show(outcome(raw.setresuid, 3, 1, 3), ids(), outcome(raw.setresuid, KEEP, KEEP, 1), outcome(raw.setresuid, 4, KEEP, KEEP))

    return in_child(child)


@check
def group_ids_of_root():
    def child():
        show(outcome(raw.setgid, -1), outcome(raw.setuid, -1))
        raw.setregid(5, 6)
        show(ids(), status("Gid"))
        raw.setresuid(9, 9, 9)
        show(outcome(raw.setgid, 5), ids(), outcome(raw.setgid, 7), outcome(raw.setregid, 6, KEEP), outcome(raw.setregid, 6, 5), ids())
        show(outcome(raw.setresgid, 6, 6, 6), outcome(raw.setresgid, 0, KEEP, KEEP), ids())

    return in_child(child)


@check
def setgid_of_root_sets_all():
    def child():
        raw.setgid(33)
        raw.setuid(44)
        show(ids(), status("Uid", "Gid"))

    return in_child(child)


@check
def file_system_ids():
    def child():
        show(raw.setfsuid(5), raw.setfsuid(KEEP), raw.setfsgid(6), raw.setfsgid(KEEP), status("Uid", "Gid", "CapEff"))
        open("made", "w").close()
        made = os.stat("made")
        show(made.st_uid, made.st_gid, raw.setfsuid(0), raw.setfsuid(KEEP), status("CapEff"))
        become()
        show(raw.setfsuid(0), raw.setfsuid(KEEP), raw.setfsgid(0), raw.setfsgid(KEEP))

    os.chmod(".", 0o777)
    return in_child(child)


@check
def supplementary_groups():
    def child():
        show(os.getgroups(), outcome(raw.getgroups, -1, None), outcome(raw.getgroups, 0, None))
        raw.setgroups(4, array.array("I", [9, 3, 7, 3]).tobytes())
        show(os.getgroups(), status("Groups"), outcome(raw.getgroups, 3, ctypes.create_string_buffer(64)))
        show(outcome(raw.getgroups, 4, UNMAPPED), outcome(raw.setgroups, 1, UNMAPPED), outcome(raw.setgroups, 65537, UNMAPPED))
        show(outcome(raw.setgroups, 1, array.array("I", [0xFFFFFFFF]).tobytes()), outcome(raw.setgroups, -1, None))
        become(groups=[3])
        show(os.getgroups(), outcome(raw.setgroups, 0, None), outcome(raw.setgroups, 70000, None))

    return in_child(child)


@check
def capabilities_can_be_given_up():
    def child():
        show(capabilities(), status("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        show(outcome(capset, ALL, ALL, ALL), capabilities(), outcome(capset, 0, ALL, 0), capabilities())
        show(outcome(raw.sethostname, b"x", 1), outcome(capset, ALL, ALL, 0), outcome(capset, 1, 1, 0), outcome(capset, 3, 1, 0), outcome(capset, 1, 3, 0))
        show(capabilities(), outcome(os.setuid, 5), outcome(os.chown, "/tmp", 0, 0), outcome(raw.chroot, b"/"))

    return in_child(child)


@check
def capabilities_bad_arguments():
    data = (ctypes.c_uint32 * 6)()
    odd = ctypes.create_string_buffer(struct.pack("<Ii", 1234, 0))
    answers = [outcome(raw.capget, odd, None), hex(struct.unpack_from("<I", odd)[0])]
    old = ctypes.create_string_buffer(struct.pack("<Ii", 0x19980330, 0))
    answers += [outcome(raw.capget, old, data), data[0] == 0xFFFFFFFF, data[3]]
    return answers + [
        outcome(raw.capget, struct.pack("<Ii", VERSION_3, -1), data),
        outcome(raw.capget, struct.pack("<Ii", VERSION_3, 0x3FFFFFFF), data),
        outcome(raw.capget, struct.pack("<Ii", VERSION_3, 0), UNMAPPED),
        outcome(raw.capget, UNMAPPED, None),
        outcome(raw.capset, struct.pack("<Ii", VERSION_3, 1), data),
        outcome(raw.capset, struct.pack("<Ii", VERSION_3, 0), UNMAPPED),
        outcome(raw.capset, struct.pack("<Ii", 1234, 0), data),
    ]


@check
def capabilities_through_execve():
    code = "import sys; print(open('/proc/self/status').read().split('CapInh')[1].split()[1:10:2])"

    def run(prepare):
        def child():
            prepare()
            os.execv(sys.executable, [sys.executable, "-SE", "-c", code])

        return in_child(child)

    def keep():
        raw.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        become()
        show(capabilities(), raw.prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0), outcome(capset, 3, 3, 0), os.access("/root", os.R_OK))

    def ambient():
        capset(ALL, ALL, ALL)
        raw.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        become()
        show(outcome(raw.prctl, PR_CAP_AMBIENT, 2, 1, 0, 0), outcome(raw.prctl, PR_CAP_AMBIENT, 1, 1, 0, 0))

    def without_root():
        raw.prctl(PR_SET_SECUREBITS, 1, 0, 0, 0)

    def bounded():
        raw.prctl(PR_CAPBSET_DROP, 21, 0, 0, 0)

    return [run(prepare) for prepare in (lambda: None, become, keep, ambient, without_root, bounded)]


@check
def prctl_of_capabilities():
    def child():
        prctl = raw.prctl
        show(prctl(PR_CAPBSET_READ, 0, 0, 0, 0), outcome(prctl, PR_CAPBSET_READ, 41, 0, 0, 0), outcome(prctl, PR_CAPBSET_DROP, 41, 0, 0, 0))
        show(prctl(PR_CAPBSET_DROP, 5, 0, 0, 0), prctl(PR_CAPBSET_READ, 5, 0, 0, 0), prctl(PR_GET_SECUREBITS, 0, 0, 0, 0))
        show(outcome(prctl, PR_SET_SECUREBITS, 1 << 20, 0, 0, 0), outcome(prctl, PR_SET_SECUREBITS, 0x30, 0, 0, 0), prctl(PR_GET_SECUREBITS, 0, 0, 0, 0))
        show(outcome(prctl, PR_SET_SECUREBITS, 0, 0, 0, 0), outcome(prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0), outcome(prctl, PR_SET_KEEPCAPS, 2, 0, 0, 0))
        show(outcome(prctl, PR_CAP_AMBIENT, 2, 0, 0, 0), outcome(prctl, PR_CAP_AMBIENT, 9, 0, 0, 0), outcome(prctl, PR_CAP_AMBIENT, 1, 99, 0, 0), outcome(prctl, PR_CAP_AMBIENT, 1, 0, 1, 0), outcome(prctl, PR_CAP_AMBIENT, 4, 1, 0, 0), outcome(prctl, PR_CAP_AMBIENT, 4, 0, 0, 0))
        become()
        show(outcome(prctl, PR_CAPBSET_DROP, 0, 0, 0, 0), outcome(prctl, PR_SET_SECUREBITS, 0x30, 0, 0, 0))

    return in_child(child)


@check
def no_new_privileges():
    def child():
        prctl = raw.prctl
        show(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), outcome(prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), outcome(prctl, PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), outcome(prctl, PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0))
        show(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), outcome(prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), status("NoNewPrivs"))
        show(in_child(lambda: prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)))

    return in_child(child)


@check
def dumpable_goes_with_the_user():
    def child():
        prctl = raw.prctl
        before = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), os.stat("/proc/self/maps").st_uid
        become()
        changed = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), os.stat("/proc/self/maps").st_uid, os.stat("/proc/self").st_uid
        show(before, changed, len(os.listdir("/proc/self/fd")) > 2, outcome(open, "/proc/self/environ").__class__.__name__)
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        show(os.stat("/proc/self/maps").st_uid, outcome(prctl, PR_SET_DUMPABLE, 2, 0, 0, 0), prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
        show(in_child(lambda: prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)))

    return in_child(child)


def run_as(set_mode, owner, group, prepare=lambda: become()):
    """Runs a copy of a program with set-id bits; it tells its ids and whether it must not trust its environment."""
    import shutil

    program = "/tmp/syscall-setid"
    shutil.copy(sys.executable, program)
    os.chown(program, owner, group)
    os.chmod(program, set_mode)
    code = "import os,sys\nsecure=dict(zip(*[iter(memoryview(open('/proc/self/auxv','rb').read()).cast('L'))]*2)).get(23) if os.access('/proc/self/auxv', os.R_OK, effective_ids=True) else 'hidden'\nprint(os.getresuid(), os.getresgid(), secure, sys.flags.isolated)"

    def child():
        prepare()
        os.execv(program, [program, "-ISE", "-c", code])

    try:
        return in_child(child)
    finally:
        os.unlink(program)


@check
def set_user_id_program():
    def bound():
        raw.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        become()

    return [
        run_as(0o4755, OTHER, 0),
        run_as(0o2755, 0, OTHER),
        run_as(0o2745, 0, OTHER),
        run_as(0o6755, 0, 0),
        run_as(0o4755, OTHER, 0, bound),
        run_as(0o4755, OTHER, 0, lambda: None),
        run_as(0o4700, OTHER, 0),
    ]


@check
def script_bits_do_not_count():
    def child():
        become()
        os.execv("./script", ["script"])

    with open("script", "w") as script:
        script.write(f"#!{sys.executable} -SE\nimport os; print(os.getresuid())\n")
    os.chmod("script", 0o4755)
    os.chmod(".", 0o755)
    return in_child(child)


def tree():
    """A folder with files of several owners and permissions."""
    import shutil

    shutil.rmtree("tree", ignore_errors=True)
    os.mkdir("tree")
    for name, mode, owner, group in [
        ("own", 0o600, USER, GROUP),
        ("own-nothing", 0o077, USER, 0),
        ("group", 0o060, 0, GROUP),
        ("group-nothing", 0o706, 0, GROUP),
        ("others", 0o006, 0, 0),
        ("nobody", 0o600, 0, 0),
        ("runnable", 0o711, 0, 0),
    ]:
        with open(f"tree/{name}", "w") as file:
            file.write("x")
        os.chown(f"tree/{name}", owner, group)
        os.chmod(f"tree/{name}", mode)
    for name, mode, owner in [("closed", 0o700, 0), ("list", 0o744, 0), ("search", 0o711, 0), ("open", 0o777, 0), ("sticky", 0o1777, 0), ("mine", 0o755, USER), ("mine-sticky", 0o1777, USER)]:
        os.mkdir(f"tree/{name}")
        with open(f"tree/{name}/file", "w"):
            pass
        os.chown(f"tree/{name}", owner, 0)
        os.chmod(f"tree/{name}", mode)
    os.chmod("tree", 0o755)
    os.chmod(".", 0o755)


@check
def files_open_as_their_bits_say():
    tree()

    def child():
        become()
        for name in sorted(os.listdir("tree")):
            if os.path.isdir(f"tree/{name}"):
                continue
            can = [isinstance(fd := outcome(os.open, f"tree/{name}", flags), int) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_PATH)]
            asked = [os.access(f"tree/{name}", mode) for mode in (os.R_OK, os.W_OK, os.X_OK, os.F_OK)]
            show(name, can, asked, outcome(os.truncate, f"tree/{name}", 1), outcome(os.open, f"tree/{name}", os.O_RDONLY | os.O_NOATIME).__class__.__name__)

    return in_child(child)


@check
def directories_are_searched_and_changed_as_their_bits_say():
    tree()

    def child():
        become()
        for name in ("closed", "list", "search", "open", "sticky", "mine", "mine-sticky"):
            at = f"tree/{name}"
            show(
                name,
                outcome(os.listdir, at),
                outcome(lambda: os.stat(f"{at}/file").st_size),
                outcome(os.chdir, at),
                outcome(lambda: os.chdir(os.path.dirname(os.path.dirname(os.getcwd())))) if os.getcwd().endswith(name) else None,
                outcome(os.mkdir, f"{at}/new"),
                outcome(os.mkdir, f"{at}/file"),
                outcome(os.unlink, f"{at}/none"),
                outcome(os.symlink, "x", f"{at}/link"),
                outcome(os.rename, f"{at}/file", f"{at}/other"),
                outcome(os.unlink, f"{at}/file"),
                outcome(os.rmdir, f"{at}/new"),
                outcome(lambda: os.close(os.open(at, os.O_TMPFILE | os.O_RDWR))),
                outcome(lambda: os.close(os.open(f"{at}/made", os.O_CREAT | os.O_WRONLY, 0o600))),
            )

    return in_child(child)


@check
def moves_between_directories_need_both():
    tree()

    def child():
        become()
        os.mkdir("tree/open/folder")
        show(
            outcome(os.rename, "tree/open/folder", "tree/mine/folder"),
            outcome(os.rename, "tree/open/file", "tree/search/file"),
            outcome(os.rename, "tree/search/file", "tree/open/file2"),
            outcome(os.rename, "tree/sticky/file", "tree/open/file3"),
            outcome(os.rename, "tree/open/file", "tree/sticky/file"),
            outcome(os.link, "tree/nobody", "tree/open/linked"),
            outcome(os.link, "tree/own", "tree/search/linked"),
            outcome(os.link, "tree/own", "tree/open/own"),
        )
        os.mkdir("tree/mine/locked", 0o555)
        show(outcome(os.rename, "tree/mine/locked", "tree/open/locked"), outcome(os.rename, "tree/mine/locked", "tree/mine/renamed"))

    return in_child(child)


@check
def owners_alone_change_modes():
    tree()

    def child():
        become(groups=[7])
        show(outcome(os.chmod, "tree/others", 0o777), outcome(os.chmod, "tree/own", 0o4755), oct(os.stat("tree/own").st_mode))
        show(outcome(os.chmod, "tree/own-nothing", 0o2755), oct(os.stat("tree/own-nothing").st_mode), outcome(os.chmod, "tree/own", 0o2755), oct(os.stat("tree/own").st_mode))
        show(outcome(os.chown, "tree/own", USER, 7), os.stat("tree/own").st_gid, oct(os.stat("tree/own").st_mode), outcome(os.chown, "tree/own", USER, 8), outcome(os.chown, "tree/own", OTHER, KEEP))
        show(outcome(os.chown, "tree/nobody", KEEP, KEEP), outcome(os.chown, "tree/nobody", USER, KEEP), outcome(os.chown, "tree/others", KEEP, 7))
        fd = os.open("tree/others", os.O_RDWR)
        show(outcome(os.fchmod, fd, 0o777), outcome(os.fchown, fd, USER, KEEP))

    return in_child(child)


@check
def times_need_owner_or_write():
    tree()

    def child():
        become()
        for name in ("own", "others", "nobody", "own-nothing"):
            at = f"tree/{name}"
            show(
                name,
                outcome(os.utime, at),
                outcome(os.utime, at, (1, 2)),
                outcome(raw.utimensat, -100, at.encode(), struct.pack("<4q", 0, 0x3FFFFFFF, 0, 0x3FFFFFFF), 0),
                outcome(raw.utimensat, -100, at.encode(), struct.pack("<4q", 0, 0x3FFFFFFF, 0, 0x3FFFFFFE), 0),
                outcome(raw.utimensat, -100, at.encode(), struct.pack("<4q", 0, 0x3FFFFFFE, 0, 0x3FFFFFFE), 0),
            )

    return in_child(child)


@check
def writing_clears_set_ids():
    with open("set", "w"):
        pass
    os.chown("set", USER, GROUP)

    def bits(act):
        os.chmod("set", 0o6777)
        fd = os.open("set", os.O_RDWR)

        def child():
            become(OTHER, OTHER)
            act(fd)

        in_child(child)
        os.close(fd)
        return oct(stat.S_IMODE(os.stat("set").st_mode))

    root = os.open("set", os.O_WRONLY)
    os.chmod("set", 0o6777)
    os.write(root, b"root")
    mode = oct(stat.S_IMODE(os.stat("set").st_mode))
    return [mode] + [bits(act) for act in (lambda fd: os.write(fd, b"x"), lambda fd: os.ftruncate(fd, 0), lambda fd: os.truncate("set", 0), lambda fd: os.read(fd, 1), lambda fd: os.open("set", os.O_RDWR | os.O_TRUNC))]


@check
def new_files_belong_to_who_makes_them():
    def child():
        os.umask(0)
        become()
        os.makedirs("new/inner")
        open("new/file", "w").close()
        os.symlink("x", "new/link")
        os.mkfifo("new/fifo")
        socket.socket(socket.AF_UNIX).bind("new/socket")
        show([(os.lstat(f"new/{name}").st_uid, os.lstat(f"new/{name}").st_gid) for name in sorted(os.listdir("made"))])
        os.chown("new/inner", KEEP, GROUP)
        memory = os.memfd_create("x")
        show(os.fstat(memory).st_uid, outcome(os.mknod, "new/device", 0o20600, os.makedev(1, 3)), outcome(os.mknod, "new/plain", 0o100644))

    os.chmod(".", 0o777)
    return in_child(child)


@check
def set_group_id_directories():
    os.mkdir("shared")
    os.chown("shared", 0, 77)
    os.chmod("shared", 0o2777)

    def child():
        os.umask(0)
        become()
        os.mkdir("shared/inner", 0o755)
        fd = os.open("shared/file", os.O_CREAT | os.O_RDWR, 0o2755)
        os.open("shared/plain", os.O_CREAT | os.O_RDWR, 0o2745)
        show([(os.stat(f"shared/{name}").st_gid, oct(os.stat(f"shared/{name}").st_mode)) for name in sorted(os.listdir("shared"))], os.fstat(fd).st_uid)

    os.chmod(".", 0o755)
    return in_child(child)


@check
def access_asks_with_the_real_ids():
    tree()

    def child():
        os.setresgid(GROUP, GROUP, 0)
        os.setresuid(USER, OTHER, 0)
        show([(name, os.access(f"tree/{name}", os.R_OK), os.access(f"tree/{name}", os.R_OK, effective_ids=True)) for name in ("own", "group", "others", "nobody")])
        os.setresuid(0, OTHER, 0)
        show([(name, os.access(f"tree/{name}", os.R_OK), os.access(f"tree/{name}", os.R_OK, effective_ids=True)) for name in ("own", "group", "others", "nobody", "closed/file")])
        show(outcome(raw.faccessat2, -100, b"tree/closed/file", 0, 0), outcome(raw.faccessat2, -100, b"tree/closed/file", 0, 0x200))

    return in_child(child)


def with_victim(act, user=OTHER):
    """Runs `act(pid)` as USER towards a process of another user."""
    reader, writer = os.pipe()
    ready, tell = os.pipe()
    victim = os.fork()
    if victim == 0:
        os.close(writer)
        os.setsid()
        if user:
            become(user, user)
            raw.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.write(tell, b"x")
        os.read(reader, 1)
        os._exit(0)
    os.read(ready, 1)
    result = in_child(lambda: act(victim))
    for fd in (reader, writer, ready, tell):
        os.close(fd)
    os.waitpid(victim, 0)
    return result


@check
def signals_need_the_same_user():
    def act(pid):
        become()
        info = struct.pack("<3i", 0, 0, -1) + bytes(116)
        show(
            outcome(os.kill, pid, 0),
            outcome(os.kill, pid, signal.SIGTERM),
            outcome(os.kill, pid, signal.SIGCONT),
            outcome(raw.tgkill, pid, pid, 0),
            outcome(raw.tkill, pid, 15),
            outcome(raw.rt_sigqueueinfo, pid, 10, info),
            outcome(raw.rt_tgsigqueueinfo, pid, pid, 10, info),
            outcome(os.kill, 1, 0),
            outcome(os.killpg, pid, 0),
            outcome(os.kill, 0x3FFFFFFF, 0),
        )

    return with_victim(act), with_victim(lambda pid: (become(), show(outcome(os.kill, pid, 0)))[0], USER)


@check
def signal_tells_the_sender():
    def child():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])
        become()
        os.kill(os.getpid(), signal.SIGUSR1)
        first = signal.sigwaitinfo([signal.SIGUSR1])
        child = os.fork()
        if child == 0:
            os._exit(3)
        second = signal.sigwaitinfo([signal.SIGCHLD])
        third = os.waitid(os.P_PID, child, os.WEXITED)
        show(first.si_uid, second.si_uid, third.si_uid)

    return in_child(child)


@check
def limits_of_other_processes():
    def act(pid):
        become()
        show(outcome(resource.prlimit, pid, resource.RLIMIT_NOFILE), outcome(resource.prlimit, 1, resource.RLIMIT_NOFILE))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        pair = struct.pack("<2Q", soft, hard + 1)
        show(outcome(raw.prlimit64, 0, 7, pair, None), outcome(raw.prlimit64, 0, 7, struct.pack("<2Q", soft, hard), None))

    return with_victim(act)


@check
def processes_of_others_are_closed():
    def act(pid):
        become()
        at = f"/proc/{pid}"
        for name in ("environ", "maps", "auxv", "io", "smaps", "cmdline", "status", "stat", "comm", "limits"):
            show(name, outcome(lambda: len(open(f"{at}/{name}").read()) > 0), os.stat(f"{at}/{name}").st_uid)
        for name in ("cwd", "exe", "root", "fd/0"):
            show(name, outcome(os.readlink, f"{at}/{name}"), outcome(os.stat, f"{at}/{name}").__class__.__name__)
        show(outcome(os.listdir, f"{at}/fd"), outcome(os.listdir, f"{at}/fdinfo"), outcome(lambda: open(f"{at}/comm", "w")), status("Uid", "Gid", pid=pid))

    return with_victim(act)


@check
def privileged_calls_are_refused():
    def child():
        become()
        show(
            outcome(raw.sethostname, b"x", 1),
            outcome(raw.setdomainname, b"x", 1),
            outcome(raw.chroot, b"/"),
            outcome(raw.reboot, 0, 0, 0, None),
            outcome(raw.reboot, 0xFEE1DEAD, 672274793, 0x4321FEDC, None),
            outcome(raw.clock_settime, 0, struct.pack("<2q", 1000000000, 0)),
            outcome(os.nice, 0),
        )

    return in_child(child)


@check
def socket_credentials():
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    second.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def child():
        os.setresgid(GROUP, 5, GROUP)
        os.setresuid(USER, 6, USER)

        def send(pid, uid, gid):
            return outcome(first.sendmsg, [b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("<3i", pid, uid, gid))])

        me = os.getpid()
        first.send(b"x")
        show(send(me, USER, GROUP), send(me, 6, 5), send(me, 0, 0), send(1, USER, GROUP), send(me, USER, 9), send(me, -1, GROUP))
        pair = socket.socketpair()
        show(struct.unpack("<3i", pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:])

    result = in_child(child)
    received = []
    second.setblocking(False)
    while True:
        message = outcome(second.recvmsg, 10, 100)
        if not isinstance(message, tuple):
            break
        received.append(struct.unpack("<3i", message[1][0][2])[1:])
    return result, received


@check
def connecting_needs_the_right_to_write():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("listener")
    listener.listen()
    os.chmod(".", 0o755)
    os.chmod("listener", 0o755)

    def child():
        become()
        show(outcome(socket.socket(socket.AF_UNIX).connect, "listener"), outcome(socket.socket(socket.AF_UNIX).bind, "mine"), outcome(socket.socket(socket.AF_UNIX).bind, "listener"))

    result = in_child(child)
    os.chmod("listener", 0o722)
    return result, in_child(lambda: (become(), show(outcome(socket.socket(socket.AF_UNIX).connect, "listener")))[0])


@check
def threads_have_their_own_ids():
    import threading

    def child():
        seen = []

        def other():
            raw.setresuid(USER, USER, USER)
            seen.append((raw.getuid(), open("/proc/thread-self/status").read().split("Uid:\t")[1].split("\n")[0]))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        show(seen, raw.getuid(), os.getresuid())

    return in_child(child)


@check
def glibc_changes_all_threads():
    import threading

    def child():
        go, done = threading.Event(), threading.Event()
        seen = []

        def other():
            go.wait()
            seen.append((raw.getuid(), raw.getegid()))
            done.set()

        threading.Thread(target=other).start()
        become()
        go.set()
        done.wait()
        show(seen, ids())

    return in_child(child)


@check
def memory_of_other_processes():
    place = ctypes.create_string_buffer(b"victim of a read", 64)
    here = ctypes.create_string_buffer(64)
    there = ctypes.addressof(place)

    def call(which, pid, own, own_count, other, other_count, flags=0):
        return outcome(getattr(raw, which), pid, own, own_count, other, other_count, flags)

    def vector(*pieces):
        return array.array("Q", [word for piece in pieces for word in piece]).tobytes()

    own = vector((ctypes.addressof(here), 6), (ctypes.addressof(here) + 6, 10))

    def act(pid):
        answers = [
            call("process_vm_readv", pid, own, 2, vector((there, 16)), 1),
            here.value,
            call("process_vm_readv", pid, own, 2, vector((there, 4), (UNMAPPED, 4)), 2),
            call("process_vm_readv", pid, own, 2, vector((UNMAPPED, 4), (there, 4)), 2),
            call("process_vm_readv", pid, own, 2, vector((there, 4)), 1, 1),
            call("process_vm_readv", pid, vector((1 << 63, 4)), 1, vector((there, 4)), 1),
            call("process_vm_readv", pid, own, 2, vector((1 << 63, 4)), 1),
            call("process_vm_readv", pid, own, 1025, vector((there, 4)), 1),
            call("process_vm_readv", pid, UNMAPPED, 2, vector((there, 4)), 1),
            call("process_vm_readv", pid, own, 0, vector((there, 4)), 1),
            call("process_vm_readv", 0x3FFFFFFF, own, 0, vector((there, 4)), 1),
            call("process_vm_readv", 0x3FFFFFFF, own, 2, vector((there, 4)), 1),
            call("process_vm_writev", pid, own, 2, vector((there + 3, 5)), 1),
            call("process_vm_readv", pid, own, 2, vector((there, 64)), 1),
            here.value,
        ]
        print(answers, flush=True)
        become()
        print(call("process_vm_readv", pid, own, 2, vector((there, 4)), 1), call("process_vm_readv", os.getpid(), own, 2, vector((there, 4)), 1))

    return with_victim(act)


@check
def own_descriptor_can_be_linked_without_a_right():
    os.makedirs("links", exist_ok=True)
    os.chmod("links", 0o777)
    os.close(os.open("links/of-root", os.O_CREAT | os.O_WRONLY))
    inherited = os.open("links/of-root", os.O_RDONLY)
    os.chmod("links/of-root", 0o666)

    def link(fd, name, path=b"", flags=0x1000):
        return outcome(raw.linkat, fd, path, -100, name, flags)

    def body():
        os.setuid(1234)
        fd = os.open("links", os.O_RDWR | os.O_TMPFILE, 0o600)
        own = link(fd, b"links/own")
        path = os.open("links/own", os.O_PATH)
        child = os.fork()
        if child == 0:
            mine = os.open("links/own", os.O_RDONLY)
            print("child", link(fd, b"links/no-1"), link(mine, b"links/by-child"))
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        folder = os.open("links", os.O_RDONLY)
        print(
            own,
            link(path, b"links/by-path"),
            link(inherited, b"links/no-2"),
            link(folder, b"links/no-3", b"own"),
            link(-100, b"links/no-4"),
            link(-100, b"links/by-name", b"links/own"),
            link(999, b"links/no-5"),
            link(inherited, b"links/absolute", os.path.abspath("links/own").encode()),
            sorted(os.listdir("links")),
        )
        os.setresuid(1234, 1234, 1234)
        print(link(fd, b"links/later"))

    return in_child(body)
