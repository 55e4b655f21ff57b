"""Timers that send signals: POSIX timers and setitimer, and signals read from a descriptor."""

import ctypes
import os
import select
import signal
import struct
import threading
import time

from harness import NS, UNMAPPED, Timespec, check, in_child, outcome, raw

REALTIME, MONOTONIC, PROCESS, THREAD, RAW, COARSE, BOOT, TAI = 0, 1, 2, 3, 4, 5, 7, 11
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD_ID = 0, 1, 4
ABSOLUTE = 1


def event(how, number=0, value=0, thread=0):
    return struct.pack("<Qiii44x", value, number, how, thread)


def create(clock, how=SIGEV_SIGNAL, number=signal.SIGUSR1, value=0, thread=0):
    identity = ctypes.c_int(-1)
    raw.timer_create(clock, event(how, number, value, thread), ctypes.byref(identity))
    return identity.value


def settime(timer, value, interval=0, flags=0, old=None):
    spec = struct.pack("<4q", interval // NS, interval % NS, value // NS, value % NS)
    return raw.timer_settime(timer, flags, spec, old)


def gettime(timer):
    spec = (ctypes.c_int64 * 4)()
    raw.timer_gettime(timer, spec)
    return spec[2] * NS + spec[3], spec[0] * NS + spec[1]


def wait_info(number, limit=20 * NS):
    """Waits for a blocked signal: number, code, timer, overrun, value."""
    mask = ctypes.c_uint64(1 << number - 1)
    info = ctypes.create_string_buffer(128)
    raw.rt_sigtimedwait(ctypes.byref(mask), info, Timespec(limit // NS, limit % NS), 8)
    return struct.unpack_from("<i4xi4xiiq", info)


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@check
def timer_create_bad_arguments():
    identity = ctypes.byref(ctypes.c_int())
    return (
        outcome(raw.timer_create, 99, None, identity),
        outcome(raw.timer_create, 10, None, identity),
        outcome(raw.timer_create, RAW, None, identity),
        outcome(raw.timer_create, COARSE, None, identity),
        outcome(raw.timer_create, MONOTONIC, event(99), identity),
        outcome(raw.timer_create, MONOTONIC, event(SIGEV_SIGNAL, 0), identity),
        outcome(raw.timer_create, MONOTONIC, event(SIGEV_SIGNAL, 65), identity),
        outcome(raw.timer_create, MONOTONIC, event(SIGEV_THREAD_ID, 10, 0, 1), identity),
        outcome(raw.timer_create, MONOTONIC, event(SIGEV_THREAD_ID, 10, 0, 0x3FFFFFFF), identity),
        outcome(raw.timer_create, MONOTONIC, None, UNMAPPED),
        outcome(raw.timer_create, ~0x3FFFFF << 3 | 2, None, identity),
        outcome(raw.timer_create, -1, None, identity),
    )


@check
def timer_settime_bad_arguments():
    timer = create(MONOTONIC)
    result = (
        outcome(raw.timer_settime, timer, 0, None, None),
        outcome(raw.timer_settime, timer, 0, UNMAPPED, None),
        outcome(settime, timer, -1),
        outcome(raw.timer_settime, timer, 0, struct.pack("<4q", 0, NS, 0, 0), None),
        outcome(raw.timer_settime, 77, 0, UNMAPPED, None),
        outcome(settime, 77, 0),
        outcome(raw.timer_gettime, 77, ctypes.create_string_buffer(32)),
        outcome(raw.timer_gettime, timer, UNMAPPED),
        outcome(raw.timer_getoverrun, 77),
        outcome(raw.timer_delete, 77),
    )
    raw.timer_delete(timer)
    return result


@check
def timer_tells_number_and_value():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGALRM])
    timer = create(MONOTONIC, value=4711)
    settime(timer, 10_000_000)
    number, code, identity, overrun, value = wait_info(signal.SIGUSR1)
    raw.timer_delete(timer)
    default = ctypes.c_int()
    raw.timer_create(MONOTONIC, None, ctypes.byref(default))
    settime(default.value, 1)
    alarm = wait_info(signal.SIGALRM)
    raw.timer_delete(default.value)
    return number, code, identity == timer, overrun, value, alarm[0], alarm[4] & 0xFFFFFFFF == default.value


@check
def timer_counts_what_was_missed():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    timer = create(MONOTONIC)
    settime(timer, 5_000_000, 5_000_000)
    time.sleep(0.1)
    overrun = wait_info(signal.SIGUSR1)[3]
    again = raw.timer_getoverrun(timer)
    left, interval = gettime(timer)
    old = (ctypes.c_int64 * 4)()
    settime(timer, 0, 0, 0, old)
    raw.timer_delete(timer)
    return overrun >= 17, again == overrun, 0 < left <= 5_000_000, interval, old[1], 0 < old[3] <= 5_000_000


@check
def what_a_timer_sent_goes_when_it_is_set_or_deleted():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    result = []
    for change in (lambda timer: settime(timer, 0), raw.timer_delete):
        timer = create(MONOTONIC)
        settime(timer, 1_000_000)
        time.sleep(0.05)
        sent = signal.SIGUSR1 in signal.sigpending()
        change(timer)
        result.append((sent, outcome(wait_info, signal.SIGUSR1, 50_000_000)))
    timer = create(MONOTONIC)
    settime(timer, 1_000_000)
    time.sleep(0.05)
    settime(timer, 2_000_000)
    result.append((wait_info(signal.SIGUSR1)[0], outcome(wait_info, signal.SIGUSR1, 50_000_000)))
    raw.timer_delete(timer)
    return result


@check
def timer_goes_on_when_its_signal_is_not_ignored_any_more():
    def seen(limit=20 * NS):
        code, overrun = wait_info(signal.SIGUSR1, limit)[1::2]
        return code, overrun >= 5

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    timer, once = create(MONOTONIC), create(MONOTONIC)
    settime(timer, 5_000_000, 5_000_000)
    time.sleep(0.05)
    # What waits is discarded.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    discarded = signal.SIGUSR1 not in signal.sigpending()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    result = discarded, signal.SIGUSR1 in signal.sigpending(), seen(), seen()[0]
    # What comes is ignored.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    time.sleep(0.05)
    left, interval = gettime(timer)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    result += 0 < left <= 5_000_000, interval, seen(), seen()[0]
    raw.timer_delete(timer)
    # One that expires once is gone with its signal, and one that was set again begins anew.
    settime(once, 1)
    time.sleep(0.02)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    result += (outcome(seen, 50_000_000),)
    settime(once, 1, NS)
    time.sleep(0.02)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    settime(once, 1_000 * NS, NS)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    result += (outcome(seen, 50_000_000),)
    raw.timer_delete(once)
    return result


@check
def timer_at_an_absolute_time():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    result = []
    for clock in (REALTIME, MONOTONIC, BOOT, TAI):
        timer = create(clock)
        now = Timespec()
        raw.clock_gettime(clock, now)
        settime(timer, now.tv_sec * NS + now.tv_nsec + 200_000_000, 0, ABSOLUTE)
        left = gettime(timer)[0]
        wait_info(signal.SIGUSR1)
        after = Timespec()
        raw.clock_gettime(clock, after)
        took = (after.tv_sec - now.tv_sec) * NS + after.tv_nsec - now.tv_nsec
        settime(timer, 1, 0, ABSOLUTE)
        past = wait_info(signal.SIGUSR1)[0] == signal.SIGUSR1
        result.append((0 < left <= 200_000_000, took >= 200_000_000, past, gettime(timer)))
        raw.timer_delete(timer)
    return result


@check
def timer_that_tells_nobody_can_be_read():
    timer = create(MONOTONIC, SIGEV_NONE)
    settime(timer, 20_000_000)
    before = 0 < gettime(timer)[0] <= 20_000_000
    time.sleep(0.05)
    after = gettime(timer)
    settime(timer, 20_000_000, 20_000_000)
    time.sleep(0.05)
    repeating = 0 < gettime(timer)[0] <= 20_000_000
    raw.timer_delete(timer)
    return before, after, repeating


@check
def timer_for_one_thread():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    seen = []

    def other():
        timer = create(MONOTONIC, SIGEV_THREAD_ID, signal.SIGUSR1, 1, threading.get_native_id())
        settime(timer, 10_000_000)
        time.sleep(0.05)
        seen.append(signal.SIGUSR1 in signal.sigpending())
        ready.set()
        done.wait()
        seen.append(wait_info(signal.SIGUSR1)[4])
        raw.timer_delete(timer)

    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    seen.append(signal.SIGUSR1 in signal.sigpending())
    done.set()
    thread.join()
    return seen


@check
def timer_of_cpu_time():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    result = []
    for clock in (PROCESS, THREAD):
        timer = create(clock)
        settime(timer, 50_000_000)
        time.sleep(0.1)
        slept = signal.SIGUSR1 in signal.sigpending()
        burn(0.1)
        # A host that was busy elsewhere may deliver the interrupt late.
        number, code = wait_info(signal.SIGUSR1)[:2]
        result.append((slept, number == signal.SIGUSR1, code))
        raw.timer_delete(timer)
    return result


@check
def timer_of_another_process_cpu_time():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        burn(0.1)
        time.sleep(20)
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    timer = create(~child << 3 | 2)
    settime(timer, 80_000_000)
    time.sleep(0.05)
    early = signal.SIGUSR1 in signal.sigpending()
    os.write(writer, b"x")
    late = wait_info(signal.SIGUSR1)[0] == signal.SIGUSR1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raw.timer_delete(timer)
    return early, late, outcome(create, ~child << 3 | 2)


@check
def timers_are_not_inherited():
    timer = create(MONOTONIC)
    result = in_child(lambda: print(outcome(gettime, timer), flush=True))
    raw.timer_delete(timer)
    return result


@check
def timers_go_with_exec_and_alarms_stay():
    program = (
        "import ctypes, signal; c = ctypes.CDLL(None, use_errno=True);"
        "print(c.syscall(108, 0, ctypes.create_string_buffer(32)), ctypes.get_errno(),"
        " 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100)"
    )

    def replaced():
        timer = create(MONOTONIC)
        settime(timer, 100 * NS)
        signal.setitimer(signal.ITIMER_REAL, 100)
        print(signal.getitimer(signal.ITIMER_REAL)[0] > 99)
        os.execv("/usr/bin/python3", ["python3", "-c", program])

    return in_child(replaced)


@check
def timers_count_towards_the_limit_of_queued_signals():
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (3, 3))
        made = []
        while isinstance(timer := outcome(create, MONOTONIC), int):
            made.append(timer)
        print(len(made) <= 3, timer, flush=True)

    return in_child(limited)


@check
def ignored_timer_goes_on():
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    timer = create(MONOTONIC, number=signal.SIGUSR2)
    settime(timer, 10_000_000, 10_000_000)
    time.sleep(0.06)
    left, interval = gettime(timer)
    raw.timer_delete(timer)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    return 0 < left <= 10_000_000, interval


@check
def interval_timers_measure_what_they_say():
    result = {}
    for which, number in ((signal.ITIMER_VIRTUAL, signal.SIGVTALRM), (signal.ITIMER_PROF, signal.SIGPROF)):
        seen = []
        signal.signal(number, lambda *_: seen.append(1))
        signal.setitimer(which, 0.04, 0.02)
        time.sleep(0.1)
        slept = len(seen)
        left, interval = signal.getitimer(which)
        end = time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < end:
            pass
        signal.setitimer(which, 0)
        result[int(which)] = slept, len(seen) >= 3, 0 < left <= 0.045, round(interval, 3), signal.getitimer(which)
    return result


@check
def user_and_system_time_are_told_apart():
    first = os.times()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    second = os.times()
    null = os.open("/dev/zero", os.O_RDONLY)
    buffer = bytearray(16 << 20)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        os.readv(null, [buffer])
    third = os.times()
    os.close(null)
    worked = second.user - first.user > 2 * (second.system - first.system)
    return worked, third.system - second.system > third.user - second.user


@check
def signalfd_bad_arguments():
    mask = ctypes.c_uint64(1 << signal.SIGUSR1 - 1)
    fd = raw.signalfd4(-1, ctypes.byref(mask), 8, 0)
    result = (
        outcome(raw.signalfd4, -1, ctypes.byref(mask), 4, 0),
        outcome(raw.signalfd4, -1, UNMAPPED, 8, 0),
        outcome(raw.signalfd4, -1, ctypes.byref(mask), 8, 1),
        outcome(raw.signalfd4, 77, ctypes.byref(mask), 8, 0),
        outcome(raw.signalfd4, 0, ctypes.byref(mask), 8, 0),
        outcome(raw.signalfd4, fd, ctypes.byref(mask), 8, 0) == fd,
        outcome(os.write, fd, b"x"),
        outcome(os.read, fd, 127),
        os.readlink(f"/proc/self/fd/{fd}"),
    )
    os.close(fd)
    return result


def records(data):
    return [struct.unpack_from("<IiiIIiIIIIii", data, at) for at in range(0, len(data), 128)]


@check
def signalfd_reads_several_with_their_information():
    numbers = [signal.SIGUSR1, signal.SIGRTMIN + 1, signal.SIGCHLD]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    mask = ctypes.c_uint64(sum(1 << number - 1 for number in numbers))
    fd = raw.signalfd4(-1, ctypes.byref(mask), 8, os.O_NONBLOCK | os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os._exit(5)
    while signal.SIGCHLD not in signal.sigpending():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGUSR1)
    info = ctypes.create_string_buffer(128)
    for value in (10, 20):
        struct.pack_into("<iiiiiiq", info, 0, 0, 0, -1, 0, os.getpid(), 0, value)
        raw.rt_sigqueueinfo(os.getpid(), signal.SIGRTMIN + 1, info)
    two = records(os.read(fd, 300))
    rest = records(os.read(fd, 1024))
    os.waitpid(child, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    shown = []
    for number, error, code, pid, uid, _, _, _, _, _, status, integer in two + rest:
        whose = "own" if pid == os.getpid() else "child" if pid == child else pid
        shown.append((number, error, code, whose, uid, status, integer))
    result = len(two), shown, outcome(os.read, fd, 128)
    os.close(fd)
    return result


@check
def signalfd_set_can_be_changed_and_wakes():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    mask = ctypes.c_uint64(1 << signal.SIGUSR1 - 1)
    fd = raw.signalfd4(-1, ctypes.byref(mask), 8, 0)
    poll = select.epoll()
    poll.register(fd, select.EPOLLIN)
    os.kill(os.getpid(), signal.SIGUSR2)
    before = poll.poll(0)
    mask.value = 1 << signal.SIGUSR2 - 1 | 1 << signal.SIGKILL - 1
    raw.signalfd4(fd, ctypes.byref(mask), 8, 0)
    after = [(f == fd, events) for f, events in poll.poll(5)]
    with open(f"/proc/self/fdinfo/{fd}") as file:
        shown = [line.split()[1] for line in file if line.startswith("sigmask")]
    number = records(os.read(fd, 128))[0][0]
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    blocked = records(os.read(fd, 128))[0][0]
    os.close(fd)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    return before, after, shown, number, blocked


@check
def queued_signals_are_limited():
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (2, 2))
        number = signal.SIGRTMIN + 4
        signal.pthread_sigmask(signal.SIG_BLOCK, [number, signal.SIGUSR1])
        info = ctypes.create_string_buffer(128)
        struct.pack_into("<iiiiiiq", info, 0, 0, 0, -1, 0, os.getpid(), 0, 1)
        sent = 0
        while (result := outcome(raw.rt_sigqueueinfo, os.getpid(), number, info)) == 0:
            sent += 1
        # A standard signal gets through, with or without what came with it.
        standard = outcome(raw.rt_sigqueueinfo, os.getpid(), signal.SIGUSR1, info)
        killed = outcome(os.kill, os.getpid(), number)
        received = 0
        while signal.sigtimedwait([number], 0):
            received += 1
        lost = signal.sigtimedwait([signal.SIGUSR1], 0)
        print(sent <= 2, result, standard, killed, received == sent, lost.si_code, lost.si_pid, flush=True)

    return in_child(limited)


@check
def queued_information_has_rules():
    own, number = os.getpid(), signal.SIGRTMIN + 5
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)

    def info(code, tail=0):
        buffer = ctypes.create_string_buffer(128)
        struct.pack_into("<iii", buffer, 0, 0, 0, code)
        buffer[100] = tail
        return buffer

    result = (
        [outcome(raw.rt_sigqueueinfo, own, number, info(code)) for code in (0, 1, 128, -1, -6, -60)],
        [outcome(raw.rt_sigqueueinfo, child, number, info(code)) for code in (0, 1, 128, -6)],
        outcome(raw.rt_sigqueueinfo, own, number, info(-100, 1)),
        outcome(raw.rt_sigqueueinfo, own, 65, info(-1)),
        outcome(raw.rt_sigqueueinfo, own, 0, info(-1)),
        outcome(raw.rt_sigqueueinfo, 0x3FFFFFFF, 65, info(-1)),
        outcome(raw.rt_sigqueueinfo, own, number, UNMAPPED),
        outcome(raw.rt_tgsigqueueinfo, own, own, number, info(-1)),
        outcome(raw.rt_tgsigqueueinfo, own, child, number, info(-1)),
        outcome(raw.rt_tgsigqueueinfo, 0, own, number, info(-1)),
        outcome(raw.rt_tgsigqueueinfo, child, child, number, info(0)),
    )
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while signal.sigtimedwait([number], 0):
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    return result


@check
def unknown_action_flags_read_back_as_zero():
    action = (ctypes.c_uint64 * 4)(1, 0xFFFFFFFF, 0, 0)
    old = (ctypes.c_uint64 * 4)()
    raw.rt_sigaction(signal.SIGUSR2, action, None, 8)
    raw.rt_sigaction(signal.SIGUSR2, None, old, 8)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    return hex(old[1])


@check
def alternate_stack_rules():
    memory = ctypes.create_string_buffer(1 << 16)
    place = ctypes.addressof(memory)

    def stack(flags, size=1 << 16, address=place):
        return struct.pack("<QiiQ", address, flags & 0x7FFFFFFF if flags < 1 << 31 else flags - (1 << 32), 0, size)

    def now():
        old = ctypes.create_string_buffer(24)
        raw.sigaltstack(None, old)
        address, flags, _, size = struct.unpack("<QIIQ", old)
        return address == place, hex(flags), size

    raw.sigaltstack(stack(2, 0), None)
    result = [now()]
    for flags, size in ((0, 5119), (0, 5120), (1, 1 << 16), (1 << 31, 1 << 16), (2, 0), (1 << 31 | 2, 0), (3, 1 << 16), (4, 1 << 16)):
        result.append((hex(flags), size, outcome(raw.sigaltstack, stack(flags, size), None), now()))
    result.append((outcome(raw.sigaltstack, UNMAPPED, None), outcome(raw.sigaltstack, None, UNMAPPED)))
    raw.sigaltstack(stack(2, 0), None)
    return result


@check
def restart_without_anything_to_restart():
    return outcome(raw.restart_syscall)
