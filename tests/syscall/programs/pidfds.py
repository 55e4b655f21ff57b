"""Processes as descriptors, prctl, what waiting tells."""

import ctypes
import os
import select
import signal
import struct
import threading
import time

from harness import UNMAPPED, check, ended, in_child, outcome, raw

P_PID, P_PIDFD = 1, 3
NONBLOCK, THREAD = os.O_NONBLOCK, os.O_EXCL
CLONE_PIDFD, CLONE_PARENT_SETTID, CLONE_DETACHED = 0x1000, 0x100000, 0x400000


def sleeper():
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@check
def pidfd_open_bad_arguments():
    return (
        outcome(raw.pidfd_open, 0, 0),
        outcome(raw.pidfd_open, -1, 0),
        outcome(raw.pidfd_open, os.getpid(), 1),
        outcome(raw.pidfd_open, 0x3FFFFFFF, 0),
        outcome(raw.pidfd_open, 0x3FFFFFFF, THREAD),
    )


@check
def pidfd_of_a_thread():
    result = []

    def run():
        own = threading.get_native_id()
        result.append(outcome(raw.pidfd_open, own, 0))
        descriptors.append(raw.pidfd_open(own, THREAD))
        ready.set()
        done.wait()

    descriptors, ready, done = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    fd = descriptors[0]
    before = select.select([fd], [], [], 0)[0]
    done.set()
    thread.join()
    after = select.select([fd], [], [], 20)[0] == [fd]
    os.close(fd)
    return result, before, after


@check
def pidfd_reads_nothing_and_says_whose_it_is():
    child = sleeper()
    fd = os.pidfd_open(child)
    with open(f"/proc/self/fdinfo/{fd}") as file:
        lines = [line.split() for line in file if "id:" in line]
    shown = [(name, int(number) == child) for name, number in lines if name in ("Pid:", "NSpid:")]
    refused = outcome(os.read, fd, 8), outcome(os.write, fd, b"x")
    link = os.readlink(f"/proc/self/fd/{fd}")
    end(child)
    with open(f"/proc/self/fdinfo/{fd}") as file:
        gone = [line.split()[1] for line in file if line.startswith("Pid:")]
    events = select.poll()
    events.register(fd, select.POLLIN)
    hung_up = [bits for _, bits in events.poll(0)]
    os.close(fd)
    return shown, refused, link, gone, hung_up


@check
def pidfd_send_signal_bad_arguments():
    child = sleeper()
    fd = os.pidfd_open(child)
    info = ctypes.create_string_buffer(128)

    def with_info(number, said, code):
        struct.pack_into("<iii", info, 0, said, 0, code)
        return outcome(raw.pidfd_send_signal, fd, number, info, 0)

    result = (
        outcome(raw.pidfd_send_signal, fd, 0, None, 0),
        outcome(raw.pidfd_send_signal, fd, 0, None, 8),
        outcome(raw.pidfd_send_signal, fd, 0, None, 3),
        outcome(raw.pidfd_send_signal, fd, 65, None, 0),
        outcome(raw.pidfd_send_signal, 0, 0, None, 0),
        outcome(raw.pidfd_send_signal, 77, 0, None, 0),
        outcome(raw.pidfd_send_signal, fd, 0, UNMAPPED, 0),
        with_info(10, 12, -1),
        with_info(10, 10, 0),
        with_info(0, 0, -1),
        [outcome(raw.pidfd_send_signal, fd, 0, None, flags) for flags in (1, 2, 4)],
    )
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    zombie = outcome(raw.pidfd_send_signal, fd, 0, None, 0)
    os.waitpid(child, 0)
    result += (zombie, outcome(raw.pidfd_send_signal, fd, 0, None, 0))
    os.close(fd)
    return result


@check
def pidfd_send_signal_reaches_the_process():
    child = sleeper()
    fd = os.pidfd_open(child)
    poll = select.epoll()
    poll.register(fd, select.EPOLLIN)
    before = poll.poll(0)
    signal.pidfd_send_signal(fd, signal.SIGTERM)
    ready = [bits for _, bits in poll.poll(20)]
    info = os.waitid(P_PIDFD, fd, os.WEXITED)
    result = before, ready, info.si_pid == child, info.si_status, info.si_code
    os.close(fd)
    return result


@check
def waitid_of_a_pidfd():
    child = sleeper()
    fd = raw.pidfd_open(child, NONBLOCK)
    info = ctypes.create_string_buffer(128)
    waiting = outcome(raw.waitid, P_PIDFD, fd, info, os.WEXITED, None)
    no_hang = outcome(raw.waitid, P_PIDFD, fd, info, os.WEXITED | os.WNOHANG, None)
    os.kill(child, signal.SIGKILL)
    select.select([fd], [], [], 20)
    done = outcome(raw.waitid, P_PIDFD, fd, info, os.WEXITED, None)
    result = (
        waiting,
        no_hang,
        done,
        outcome(raw.waitid, P_PIDFD, fd, info, os.WEXITED, None),
        outcome(raw.waitid, P_PIDFD, 0, info, os.WEXITED, None),
        outcome(raw.waitid, P_PIDFD, 77, info, os.WEXITED, None),
        outcome(raw.waitid, P_PIDFD, -1, info, os.WEXITED, None),
    )
    os.close(fd)
    return result


@check
def pidfd_getfd_takes_a_descriptor():
    reader, writer = os.pipe()
    child = sleeper()
    fd = os.pidfd_open(child)
    os.close(writer)
    taken = raw.pidfd_getfd(fd, writer, 0)
    os.write(taken, b"through")
    result = (
        os.read(reader, 20),
        os.get_inheritable(taken),
        outcome(raw.pidfd_getfd, fd, writer, 1),
        outcome(raw.pidfd_getfd, fd, 900, 0),
        outcome(raw.pidfd_getfd, 0, 0, 0),
        outcome(raw.pidfd_getfd, 77, 0, 0),
    )
    end(child)
    result += (outcome(raw.pidfd_getfd, fd, 0, 0),)
    for open_fd in (taken, reader, fd):
        os.close(open_fd)
    return result


@check
def clone_gives_a_pidfd():
    fd = ctypes.c_int(-1)
    child = raw.clone(CLONE_PIDFD | signal.SIGCHLD, 0, ctypes.byref(fd), 0, 0)
    if child == 0:
        os._exit(3)
    ready = select.select([fd.value], [], [], 20)[0] == [fd.value]
    first = ended(os.waitpid(child, 0)[1])
    os.close(fd.value)
    arguments = struct.pack("<11Q", CLONE_PIDFD, ctypes.addressof(fd), 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    child = raw.clone3(arguments, 88)
    if child == 0:
        os._exit(4)
    info = os.waitid(P_PIDFD, fd.value, os.WEXITED)
    inheritable = os.get_inheritable(fd.value)
    os.close(fd.value)
    result = ready, first, info.si_status, inheritable
    for flags in (CLONE_PIDFD | CLONE_PARENT_SETTID, CLONE_PIDFD | CLONE_DETACHED):
        made = outcome(raw.clone, flags | signal.SIGCHLD, 0, ctypes.byref(fd), 0, 0)
        if made == 0:
            os._exit(0)
        result += (made,)
    made = outcome(raw.clone, CLONE_PIDFD | signal.SIGCHLD, 0, UNMAPPED, 0, 0)
    if made == 0:
        os._exit(0)
    return result + (made,)


@check
def death_signal_comes_with_the_end_of_the_parent():
    reader, writer = os.pipe()

    def parent():
        go, went = os.pipe()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            raw.prctl(1, signal.SIGUSR1, 0, 0, 0)
            os.write(went, b"x")
            info = signal.sigtimedwait([signal.SIGUSR1], 20)
            os.write(writer, f"{info and info.si_signo}".encode())
            os._exit(0)
        os.read(go, 1)

    return in_child(parent), os.read(reader, 20)


@check
def death_signal_is_not_inherited():
    def child():
        raw.prctl(1, signal.SIGUSR1, 0, 0, 0)
        if os.fork() == 0:
            number = ctypes.c_int(9)
            raw.prctl(2, ctypes.byref(number), 0, 0, 0)
            os._exit(number.value)
        return ended(os.wait()[1]) != "exit 0"

    return in_child(child)


@check
def subreaper_is_told_and_not_inherited():
    def reaper():
        flag = ctypes.c_int(7)
        raw.prctl(37, ctypes.byref(flag), 0, 0, 0)
        first = flag.value
        raw.prctl(36, 1, 0, 0, 0)
        raw.prctl(37, ctypes.byref(flag), 0, 0, 0)
        second = flag.value
        if os.fork() == 0:
            raw.prctl(37, ctypes.byref(flag), 0, 0, 0)
            os._exit(flag.value)
        print(first, second, ended(os.wait()[1]), outcome(raw.prctl, 37, UNMAPPED, 0, 0, 0), flush=True)

    return in_child(reaper)


@check
def prctl_values():
    def child():
        print(
            raw.prctl(3, 0, 0, 0, 0),
            outcome(raw.prctl, 4, 2, 0, 0, 0),
            outcome(raw.prctl, 4, 3, 0, 0, 0),
            raw.prctl(4, 0, 0, 0, 0),
            raw.prctl(3, 0, 0, 0, 0),
        )
        print(
            raw.prctl(30, 0, 0, 0, 0),
            raw.prctl(29, 12345, 0, 0, 0),
            raw.prctl(30, 0, 0, 0, 0),
            raw.prctl(29, 0, 0, 0, 0),
            raw.prctl(30, 0, 0, 0, 0),
        )
        print(
            outcome(raw.prctl, 38, 0, 0, 0, 0),
            outcome(raw.prctl, 38, 1, 1, 0, 0),
            outcome(raw.prctl, 39, 1, 0, 0, 0),
            raw.prctl(39, 0, 0, 0, 0),
            raw.prctl(38, 1, 0, 0, 0),
            raw.prctl(39, 0, 0, 0, 0),
        )
        print(
            outcome(raw.prctl, 13, 0, 0, 0, 0),
            outcome(raw.prctl, 14, 1, 0, 0, 0),
            outcome(raw.prctl, 2, UNMAPPED, 0, 0, 0),
            outcome(raw.prctl, 16, UNMAPPED, 0, 0, 0),
            outcome(raw.prctl, 23, 99, 0, 0, 0),
            outcome(raw.prctl, -1, 0, 0, 0, 0),
            flush=True,
        )

    return in_child(child)


@check
def waiting_for_clones_needs_saying_so():
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    child = raw.clone(signal.SIGUSR2, 0, 0, 0, 0)
    if child == 0:
        os._exit(2)
    wall, clone = 0x40000000, 0x80000000 - (1 << 32)
    return (
        outcome(os.waitpid, child, 0),
        ended(os.waitpid(child, wall)[1]),
        outcome(os.waitpid, -1, clone),
    )


@check
def waiting_for_a_thread_s_own_children():
    child = sleeper()
    result = []

    def other():
        result.append(outcome(os.waitpid, child, 0x20000000))
        os.kill(child, signal.SIGKILL)
        result.append(ended(os.waitpid(child, 0)[1]))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    return result


@check
def status_of_the_last_thread_is_the_process_s():
    def leader():
        thread = threading.Thread(target=lambda: (time.sleep(0.05), raw.exit(9)), daemon=True)
        thread.start()
        raw.exit(3)

    return in_child(leader)


@check
def usage_counts_what_happened():
    import mmap
    import resource

    def child():
        memory = mmap.mmap(-1, 8 << 20)
        for at in range(0, 8 << 20, 4096):
            memory[at] = 1
        memory.close()
        for _ in range(20):
            time.sleep(0.003)
        own = resource.getrusage(resource.RUSAGE_SELF)
        print(own.ru_maxrss > 8 << 10, own.ru_minflt > 100, own.ru_nvcsw >= 3, flush=True)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(0)
    _, _, usage = os.wait4(pid, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        usage.ru_maxrss > 8 << 10,
        usage.ru_minflt > 100,
        usage.ru_nvcsw >= 3,
        after.ru_minflt - before.ru_minflt == usage.ru_minflt,
        after.ru_maxrss >= usage.ru_maxrss,
    )


@check
def sigchld_tells_how_a_child_changed():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    child = sleeper()
    result = []
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL):
        os.kill(child, number)
        info = signal.sigtimedwait([signal.SIGCHLD], 20)
        result.append((info.si_code, info.si_status, info.si_pid == child, info.si_uid))
    os.waitpid(child, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    return result


@check
def thread_name_is_bytes():
    name = ctypes.create_string_buffer(16)
    raw.prctl(15, b"cut \xf0\x9f\x90\x8d in two \xf0\x9f", 0, 0, 0)
    raw.prctl(16, name, 0, 0, 0)
    with open("/proc/self/comm", "rb") as file:
        shown = file.read()
    with open("/proc/thread-self/comm", "wb") as file:
        file.write(b"\xff\xfe\n")
    raw.prctl(16, name, 0, 0, 0)
    return shown, name.value
