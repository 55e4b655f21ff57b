"""Namespaces: /proc/PID/ns, unshare, setns, clone with CLONE_NEWUTS."""

import fcntl
import os
import re
import signal
import socket
import stat
import threading

from harness import check, in_child, outcome, raw

NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)
KINDS = {"cgroup": NEWCGROUP, "ipc": NEWIPC, "mnt": NEWNS, "net": NEWNET, "pid": NEWPID, "time": NEWTIME, "user": NEWUSER, "uts": NEWUTS}
GET_USERNS, GET_PARENT, GET_NSTYPE, GET_OWNER_UID = 0xB701, 0xB702, 0xB703, 0xB704
NSFS_MAGIC = 0x6E736673


def link(name, who="self"):
    return os.readlink(f"/proc/{who}/ns/{name}")


def opened(name, who="self", flags=os.O_RDONLY):
    return os.open(f"/proc/{who}/ns/{name}", flags)


@check
def every_kind_has_a_link():
    names = sorted(os.listdir("/proc/self/ns"))
    return {name: re.sub(r"\d+", "N", link(name)) for name in names}


@check
def links_lead_to_files_with_the_number():
    result = []
    for name in sorted(os.listdir("/proc/self/ns")):
        found = os.stat(f"/proc/self/ns/{name}")
        result.append((str(found.st_ino) == re.search(r"\d+", link(name))[0], stat.filemode(found.st_mode), found.st_size, found.st_uid))
    return set(result)


@check
def directory_and_links_have_these_modes():
    directory, entry = os.stat("/proc/self/ns"), os.lstat("/proc/self/ns/uts")
    return (
        stat.filemode(directory.st_mode),
        stat.filemode(entry.st_mode),
        entry.st_size,
        outcome(os.stat, "/proc/self/ns/none"),
        outcome(os.mkdir, "/proc/self/ns/none"),
        outcome(os.unlink, "/proc/self/ns/uts"),
    )


@check
def threads_have_the_directory_too():
    return link("uts", f"self/task/{os.getpid()}") == link("uts"), link("uts", "1") == link("uts"), link("pid_for_children") == link("pid")


@check
def open_namespace_is_nothing_to_read():
    fd = opened("uts")
    return (
        outcome(os.read, fd, 1),
        outcome(os.write, fd, b"x"),
        outcome(os.lseek, fd, 0, os.SEEK_SET),
        os.readlink(f"/proc/self/fd/{fd}") == link("uts"),
        os.fstat(fd).st_ino == os.stat("/proc/self/ns/uts").st_ino,
        stat.filemode(os.fstat(fd).st_mode),
    )


@check
def namespace_tells_its_kind():
    return {name: outcome(fcntl.ioctl, opened(name), GET_NSTYPE) == flag for name, flag in KINDS.items()}


@check
def namespace_tells_whose_it_is():
    def user_of(name):
        fd = fcntl.ioctl(opened(name), GET_USERNS)
        return os.readlink(f"/proc/self/fd/{fd}") == link("user"), fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE

    uid = bytearray(b"\xff" * 4)
    return (
        [user_of(name) for name in KINDS if name != "user"],
        outcome(user_of, "user"),
        {name: outcome(fcntl.ioctl, opened(name), GET_PARENT) for name in KINDS},
        outcome(fcntl.ioctl, opened("user"), GET_OWNER_UID, uid),
        bytes(uid),
        outcome(fcntl.ioctl, opened("uts"), GET_OWNER_UID, uid),
        outcome(fcntl.ioctl, opened("uts"), 0xB7FF),
    )


@check
def new_host_name_is_seen_in_its_namespace_alone():
    def body():
        before, original = os.uname().nodename, link("uts")
        back = opened("uts")
        os.unshare(NEWUTS)
        same = os.uname().nodename == before
        other = link("uts") != original
        socket.sethostname("elsewhere")
        inside = os.uname().nodename, open("/proc/sys/kernel/hostname").read()
        os.setns(back, NEWUTS)
        print(same, other, inside, os.uname().nodename == before, link("uts") == original)

    before = os.uname().nodename
    return in_child(body), os.uname().nodename == before


@check
def domain_name_belongs_to_the_namespace():
    def body():
        def domain():
            return open("/proc/sys/kernel/domainname").read()

        before = domain()
        back = opened("uts")
        os.unshare(NEWUTS)
        with open("/proc/sys/kernel/domainname", "w") as file:
            file.write("inside\n")
        inside = domain()
        os.setns(back)
        print(inside, domain() == before)

    return in_child(body)


@check
def one_thread_can_be_elsewhere():
    seen = []

    def run():
        os.unshare(NEWUTS)
        socket.sethostname("thread")
        seen.append((os.uname().nodename, link("uts") != link("uts", "thread-self")))

    before = os.uname().nodename
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen, os.uname().nodename == before


@check
def children_and_threads_are_where_they_were_made():
    def body():
        os.unshare(NEWUTS)
        here = link("uts")
        names = []
        thread = threading.Thread(target=lambda: names.append(link("uts", "thread-self") == here))
        thread.start()
        thread.join()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if link("uts") == here else 1)
        print(names, os.waitpid(pid, 0)[1])

    return in_child(body)


@check
def clone_makes_a_namespace():
    here = link("uts")
    pid = raw.clone(NEWUTS | 17, None, None, None, None)
    if pid == 0:
        socket.sethostname("cloned")
        os._exit(0 if link("uts") != here else 1)
    return os.waitpid(pid, 0)[1], os.uname().nodename != "cloned"


@check
def namespace_of_another_process_can_be_entered():
    ready, tell = os.pipe()
    done, finish = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.unshare(NEWUTS)
        socket.sethostname("other")
        os.write(tell, b"x")
        os.close(finish)
        os.read(done, 1)
        os._exit(0)
    os.close(done)
    os.read(ready, 1)
    descriptor = os.pidfd_open(pid)

    def body():
        print(link("uts", str(pid)) != link("uts"))
        os.setns(opened("uts", str(pid)))
        print(os.uname().nodename, link("uts", str(pid)) == link("uts"))

    def by_descriptor():
        os.setns(descriptor, NEWUTS | NEWNET | NEWIPC)
        print(os.uname().nodename)

    result = in_child(body), in_child(by_descriptor)
    os.close(finish)
    os.waitpid(pid, 0)
    return result, outcome(os.setns, descriptor, NEWUTS)


@check
def namespace_lives_as_long_as_a_descriptor_of_it():
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.unshare(NEWUTS)
        socket.sethostname("kept")
        os.write(tell, b"x")
        signal.pause()
    os.read(ready, 1)
    fd = opened("uts", str(pid))
    os.kill(pid, 9)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended = outcome(link, "uts", str(pid)), outcome(opened, "uts", str(pid)), len(outcome(os.listdir, f"/proc/{pid}/ns"))
    os.waitpid(pid, 0)

    def body():
        os.setns(fd, 0)
        print(os.uname().nodename)

    return ended, in_child(body)


@check
def own_namespaces_can_be_entered():
    def body():
        for name in ("cgroup", "ipc", "net", "pid", "uts", "time", "user"):
            print(name, outcome(os.setns, opened(name), KINDS[name]), outcome(os.setns, opened(name), 0))

    return in_child(body)


@check
def entering_the_mounts_goes_to_their_root():
    def body():
        os.chdir("/tmp")
        os.setns(opened("mnt"))
        print(os.getcwd())

    return in_child(body)


@check
def bad_arguments_are_refused():
    pid = os.pidfd_open(os.getpid())
    return (
        outcome(raw.setns, -1, 0),
        outcome(raw.setns, 9999, NEWUTS),
        outcome(raw.setns, os.open("/dev/null", os.O_RDONLY), 0),
        outcome(raw.setns, opened("uts"), NEWNET),
        outcome(raw.setns, opened("uts"), 1),
        outcome(raw.setns, opened("uts"), NEWUTS | NEWNET),
        outcome(raw.setns, pid, 0),
        outcome(raw.setns, pid, 1),
        outcome(raw.setns, pid, NEWUTS | 1),
        outcome(raw.setns, pid, NEWUSER),
        outcome(raw.unshare, 1 << 62),
        outcome(raw.unshare, 0x1000),
    )


@check
def threads_hinder_some():
    def body():
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        print({name: outcome(os.setns, opened(name)) for name in KINDS})
        stop.set()
        thread.join()

    return in_child(body)


@check
def others_than_root_may_not():
    fd = opened("uts")

    def body():
        os.setuid(1000)
        print(
            [outcome(os.unshare, flag) for flag in (NEWUTS, NEWNET, NEWIPC, NEWNS, NEWPID, NEWCGROUP)],
            outcome(os.setns, fd, 0),
            outcome(raw.clone, NEWUTS | 17, None, None, None, None),
            outcome(socket.sethostname, "no"),
            {name: outcome(os.setns, opened(name, "thread-self")) for name in KINDS},
            outcome(os.readlink, "/proc/1/ns/uts"),
            outcome(os.open, "/proc/1/ns/uts", os.O_RDONLY),
            outcome(os.listdir, "/proc/1/ns"),
        )

    return in_child(body)
