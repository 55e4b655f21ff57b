"""Signals: sending, blocking, waiting, handlers, default actions, alternate stacks, frames."""

import ctypes
import mmap
import os
import resource
import select
import signal
import struct
import threading
import time

from harness import KERNEL, PAGE, UNMAPPED, Timespec, check, ended, in_child, libc, outcome, raw

SIG_BLOCK = 0
libc.mmap.restype = ctypes.c_void_p


def caught(number, action):
    """Runs the action with a handler for the signal in place; gives what the handler saw."""
    seen = []
    before = signal.signal(number, lambda s, _: seen.append(s))
    try:
        action()
    finally:
        signal.signal(number, before)
    return [int(s) for s in seen]


@check
def kill_reaches_a_handler():
    return caught(signal.SIGUSR1, lambda: os.kill(os.getpid(), signal.SIGUSR1))


@check
def kill_bad_arguments():
    return (
        outcome(raw.kill, os.getpid(), 0),
        outcome(raw.kill, os.getpid(), 65),
        outcome(raw.kill, os.getpid(), -1),
        outcome(raw.kill, 0x3FFFFFFF, 0),
        outcome(raw.kill, -0x3FFFFFFF, 0),
        outcome(raw.tgkill, os.getpid(), 0x3FFFFFFF, 0),
        outcome(raw.tgkill, 0, 1, 0),
        outcome(raw.tgkill, os.getpid(), -1, 0),
        outcome(raw.tkill, 0, 0),
    )


@check
def sigaction_bad_arguments():
    action = (ctypes.c_uint64 * 4)()
    return (
        outcome(raw.rt_sigaction, 0, action, None, 8),
        outcome(raw.rt_sigaction, 65, action, None, 8),
        outcome(raw.rt_sigaction, signal.SIGKILL, action, None, 8),
        outcome(raw.rt_sigaction, signal.SIGSTOP, action, None, 8),
        outcome(raw.rt_sigaction, signal.SIGKILL, None, action, 8),
        outcome(raw.rt_sigaction, signal.SIGUSR1, action, None, 4),
        outcome(raw.rt_sigaction, signal.SIGUSR1, UNMAPPED, None, 8),
        outcome(raw.rt_sigaction, signal.SIGUSR1, None, UNMAPPED, 8),
    )


@check
def sigprocmask_bad_arguments():
    mask = ctypes.c_uint64(0)
    return (
        outcome(raw.rt_sigprocmask, 9, ctypes.byref(mask), None, 8),
        outcome(raw.rt_sigprocmask, 9, None, None, 8),
        outcome(raw.rt_sigprocmask, SIG_BLOCK, UNMAPPED, None, 8),
        outcome(raw.rt_sigprocmask, SIG_BLOCK, None, UNMAPPED, 8),
        outcome(raw.rt_sigprocmask, SIG_BLOCK, None, None, 16),
        outcome(raw.rt_sigpending, UNMAPPED, 8),
    )


@check
def kill_and_stop_cannot_be_blocked():
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return signal.SIGKILL in blocked, signal.SIGSTOP in blocked, signal.SIGTERM in blocked, 64 in blocked


@check
def blocked_signal_waits_and_is_delivered_once():
    def action():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
        print("pending", signal.SIGUSR1 in signal.sigpending())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])

    return caught(signal.SIGUSR1, action)


@check
def real_time_signals_queue_in_order():
    numbers = [signal.SIGRTMIN + 2, signal.SIGRTMIN + 1, signal.SIGRTMIN + 2]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        os.kill(os.getpid(), number)
    got = []
    while info := signal.sigtimedwait(numbers, 0):
        got.append(info.si_signo - signal.SIGRTMIN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    return got


@check
def sigwaitinfo_tells_the_sender():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    info = signal.sigwaitinfo([signal.SIGUSR2])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    return info.si_signo, info.si_code, info.si_pid == os.getpid(), info.si_uid


@check
def rt_sigqueueinfo_carries_a_value():
    number = signal.SIGRTMIN + 3
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    info = ctypes.create_string_buffer(128)
    struct.pack_into("<iiiiiiq", info, 0, number, 0, -1, 0, os.getpid(), 0, 4711)
    raw.rt_sigqueueinfo(os.getpid(), number, info)
    got = ctypes.create_string_buffer(128)
    mask = ctypes.c_uint64(1 << number - 1)
    result = raw.rt_sigtimedwait(ctypes.byref(mask), got, Timespec(0, 0), 8)
    return result == number, struct.unpack_from("<i", got, 8), struct.unpack_from("<q", got, 24)


@check
def sigtimedwait_times_out_with_eagain():
    mask = ctypes.c_uint64(1 << signal.SIGUSR2 - 1)
    start = time.monotonic()
    result = outcome(raw.rt_sigtimedwait, ctypes.byref(mask), None, Timespec(0, 50_000_000), 8)
    return (
        result,
        0.045 < time.monotonic() - start < 5,
        outcome(raw.rt_sigtimedwait, ctypes.byref(mask), None, Timespec(0, -1), 8),
        outcome(raw.rt_sigtimedwait, UNMAPPED, None, Timespec(0, 0), 8),
    )


@check
def default_actions():
    result = {}
    for name in ("HUP", "INT", "QUIT", "ILL", "ABRT", "USR1", "PIPE", "ALRM", "TERM", "CHLD", "URG", "WINCH", "XCPU", "VTALRM", "IO"):
        number = getattr(signal, f"SIG{name}")

        def action(number=number):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return 7

        result[name] = in_child(action)
    return result


@check
def ignored_signal_does_nothing():
    def action():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        return 3

    return in_child(action)


@check
def sigkill_ends_even_a_sleeper():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGKILL)
    return ended(os.waitpid(child, 0)[1])


@check
def stop_and_continue_are_seen_by_the_parent():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.read(reader, 1)
        os._exit(5)
    stopped = ended(os.waitpid(child, os.WUNTRACED)[1])
    os.kill(child, signal.SIGCONT)
    continued = ended(os.waitpid(child, os.WCONTINUED)[1])
    os.write(writer, b"x")
    return stopped, continued, ended(os.waitpid(child, 0)[1])


@check
def sigchld_comes_with_the_end_of_a_child():
    def action():
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    return caught(signal.SIGCHLD, action)


@check
def pause_returns_after_a_handler():
    def action():
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        signal.pause()

    return caught(signal.SIGALRM, action)


@check
def sleep_is_interrupted_without_restart():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    left = Timespec()
    result = outcome(raw.nanosleep, Timespec(10, 0), left)
    return result, left.tv_sec


@check
def read_restarts_only_with_sa_restart():
    out, into = os.pipe()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    buffer = ctypes.create_string_buffer(8)
    interrupted = outcome(raw.read, out, buffer, 8)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    writer = threading.Timer(0.15, os.write, (into, b"late"))
    writer.start()
    restarted = outcome(raw.read, out, buffer, 8)
    # A thread that is still about could take a signal that the next check has blocked in this one.
    writer.join()
    return interrupted, restarted


@check
def sigsuspend_swaps_the_mask():
    def action():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        empty = ctypes.c_uint64(0)
        print("suspend", outcome(raw.rt_sigsuspend, ctypes.byref(empty), 8))
        print("blocked again", signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]))

    return caught(signal.SIGUSR1, action), outcome(raw.rt_sigsuspend, UNMAPPED, 8)


@check
def signal_to_a_thread_runs_its_handler():
    def action():
        release = threading.Event()
        thread = threading.Thread(target=release.wait)
        thread.start()
        signal.pthread_kill(thread.ident, signal.SIGUSR1)
        time.sleep(0.02)
        release.set()
        thread.join()

    return caught(signal.SIGUSR1, action)


@check
def signalfd_reads_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    mask = ctypes.c_uint64(1 << signal.SIGUSR2 - 1)
    fd = raw.signalfd4(-1, ctypes.byref(mask), 8, os.O_NONBLOCK)
    empty = outcome(os.read, fd, 128)
    os.kill(os.getpid(), signal.SIGUSR2)
    ready = select.select([fd], [], [], 0)[0] == [fd]
    data = os.read(fd, 1024)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    return empty, ready, len(data), struct.unpack_from("<I", data)[0], outcome(os.read, fd, 10)


@check
def itimer_repeats():
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    while len(seen) < 4:
        time.sleep(0.01)
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    return len(seen) >= 4, left[0] <= 0.02, left[1], signal.getitimer(signal.ITIMER_REAL)


@check
def virtual_timer_counts_cpu_time():
    seen = []
    signal.signal(signal.SIGVTALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.03)
    end = time.monotonic() + 20
    while not seen and time.monotonic() < end:
        pass
    return seen


@check
def alarm_gives_the_seconds_left():
    return signal.alarm(100), signal.alarm(0), signal.alarm(0)


def fault(action):
    """How a child ends that does this, without leaving a core file."""

    def run():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        action()
        return 1

    return in_child(run)


@check
def memory_faults_end_with_sigsegv():
    place = libc.mmap(None, ctypes.c_size_t(PAGE), 1, 0x22, -1, ctypes.c_long(0))
    return (
        fault(lambda: ctypes.string_at(0)),
        fault(lambda: ctypes.string_at(KERNEL, 1)),
        fault(lambda: ctypes.memset(place, 1, 1)),
        fault(lambda: ctypes.CFUNCTYPE(None)(place)()),
    )


@check
def reading_a_mapping_past_the_file_gives_sigbus():
    with open("short", "wb+") as file:
        file.write(b"x" * PAGE)
        file.flush()
        area = mmap.mmap(file.fileno(), PAGE)
        file.truncate(0)
        return fault(lambda: area[0])


@check
def blocked_fault_still_kills():
    def action():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])
        signal.signal(signal.SIGSEGV, signal.SIG_IGN)
        ctypes.string_at(0)

    return fault(action)


@check
def sigaltstack_bad_arguments():
    def stack(address, flags, size):
        return struct.pack("<QiiQ", address, flags, 0, size)

    old = ctypes.create_string_buffer(24)
    buffer = ctypes.create_string_buffer(65536)
    address = ctypes.addressof(buffer)
    return (
        outcome(raw.sigaltstack, stack(address, 0, 100), None),
        outcome(raw.sigaltstack, stack(address, 77, 65536), None),
        outcome(raw.sigaltstack, UNMAPPED, None),
        outcome(raw.sigaltstack, None, UNMAPPED),
        outcome(raw.sigaltstack, stack(address, 0, 65536), None),
        outcome(raw.sigaltstack, stack(0, 2, 0), old),
        struct.unpack("<QiiQ", old.raw)[3],
        outcome(raw.sigaltstack, None, old),
        struct.unpack("<QiiQ", old.raw)[1],
    )


@check
def handler_on_an_unusable_stack_kills():
    def action():
        place = libc.mmap(None, ctypes.c_size_t(16 * PAGE), 0, 0x22, -1, ctypes.c_long(0))
        # CPython's handlers ask for the alternate stack.
        signal.signal(signal.SIGUSR1, lambda *_: None)
        raw.sigaltstack(struct.pack("<QiiQ", place, 0, 0, 16 * PAGE), None)
        os.kill(os.getpid(), signal.SIGUSR1)

    return fault(action)


def code(*words):
    """A function of these machine instructions."""
    place = libc.mmap(None, ctypes.c_size_t(PAGE), 3, 0x22, -1, ctypes.c_long(0))
    data = struct.pack(f"<{len(words)}I", *words)
    ctypes.memmove(place, data, len(data))
    libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(PAGE), 5)
    # The kernel makes new code visible when it first maps the page as executable: nothing ran at this address before.
    return ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_uint64)(place)


@check
def sigreturn_without_a_frame_kills():
    # mov sp, x0; mov x8, #139 (rt_sigreturn); svc #0 (Arm ARM DDI 0487, C6.2)
    sigreturn = code(0x9100001F, 0xD2801168, 0xD4000001)
    zeros = mmap.mmap(-1, 16 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(zeros))
    return (
        fault(lambda: sigreturn(UNMAPPED)),
        fault(lambda: sigreturn(KERNEL)),
        fault(lambda: sigreturn(address)),
        fault(lambda: sigreturn(address + 4)),
    )


@check
def instruction_faults():
    # udf #0; brk #0; msr daifset, #2; ldr x0, [x0] with an address that is not one
    return (
        fault(lambda: code(0x00000000)(0)),
        fault(lambda: code(0xD4200000)(0)),
        fault(lambda: code(0xD50342DF)(0)),
        fault(lambda: code(0xF9400000)(0x0123_4567_89AB_CDE8)),
        fault(lambda: code(0xD61F0000)(2)),
    )


@check
def unknown_system_call_returns_enosys():
    # mov x8, x0; svc #0; ret
    call = code(0xAA0003E8, 0xD4000001, 0xD65F03C0)
    return call(5000), call(0xFFFF_FFFF_FFFF_FFFF), call(244)


@check
def registers_survive_a_signal():
    # Counts in a loop with x9-x15 and d8 set while a timer interrupts; the sum shows whether any changed.
    loop = code(
        0xD2800029,  # mov x9, #1
        0xD280004A,  # mov x10, #2
        0xD280006B,  # mov x11, #3
        0x9E670120,  # fmov d0, x9
        0x9E670141,  # fmov d1, x10
        0x8B0A012C,  # add x12, x9, x10
        0xF1000400,  # subs x0, x0, #1
        0x54FFFFC1,  # b.ne back to the add
        0x9E66000D,  # fmov x13, d0
        0x9E66002E,  # fmov x14, d1
        0x8B0B0180,  # add x0, x12, x11
        0x8B0D0000,  # add x0, x0, x13
        0x8B0E0000,  # add x0, x0, x14
        0xD65F03C0,  # ret
    )
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    result = loop(30_000_000)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return result


@check
def keyboard_interrupt_ends_a_loop():
    def action():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0)
        parent = os.getpid()
        helper = os.fork()
        if helper == 0:
            time.sleep(0.1)
            os.kill(parent, signal.SIGINT)
            os._exit(0)
        try:
            while True:
                pass
        except KeyboardInterrupt:
            return 42

    return in_child(action)


@check
def faulthandler_prints_a_traceback():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import faulthandler

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable(writer)
        ctypes.string_at(0)
        os._exit(0)
    os.close(writer)
    text = b""
    while piece := os.read(reader, 4096):
        text += piece
    status = ended(os.waitpid(child, 0)[1])
    return text.splitlines()[0], b"most recent call first" in text, status

