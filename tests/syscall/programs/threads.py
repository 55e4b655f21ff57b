"""Threads and futexes."""

import ctypes
import os
import queue
import signal
import struct
import sys
import threading
import time

from harness import KERNEL, UNMAPPED, Timespec, check, in_child, libc, outcome, raw

WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, LOCK_PI, WAIT_BITSET, WAKE_BITSET = 0, 1, 3, 4, 5, 6, 9, 10
UNLOCK_PI, TRYLOCK_PI, WAIT_REQUEUE_PI, CMP_REQUEUE_PI, LOCK_PI2 = 7, 8, 11, 12, 13
WAITERS, OWNER_DIED, TID_MASK = 0x80000000, 0x40000000, 0x3FFFFFFF
PRIVATE, REALTIME = 128, 256


def word(value=0):
    return ctypes.c_uint32(value)


def at(w):
    return ctypes.addressof(w)


def in_thread(function, *arguments):
    """Starts a thread and gives a function that waits for its result."""
    results = queue.Queue()
    thread = threading.Thread(target=lambda: results.put(outcome(function, *arguments)))
    thread.start()

    def result():
        thread.join(20)
        return results.get(timeout=1)

    return result


def waiting(*arguments):
    """Starts a thread that waits on a futex, and gives it the time to get there."""
    result = in_thread(raw.futex, *arguments)
    time.sleep(0.05)
    return result


@check
def futex_wait_with_another_value_returns_eagain():
    return raw.futex(at(word(5)), WAIT, 6, None, None, 0)


@check
def futex_wait_times_out():
    w = word()
    start = time.monotonic()
    result = outcome(raw.futex, at(w), WAIT | PRIVATE, 0, Timespec(0, 50_000_000), None, 0)
    return result, 0.045 < time.monotonic() - start < 5


@check
def futex_absolute_time_has_passed():
    w = word()
    return (
        outcome(raw.futex, at(w), WAIT_BITSET | PRIVATE, 0, Timespec(0, 0), None, 0xFFFFFFFF),
        outcome(raw.futex, at(w), WAIT_BITSET | PRIVATE | REALTIME, 0, Timespec(1, 0), None, 0xFFFFFFFF),
    )


@check
def futex_bad_arguments():
    w = word()
    long = (ctypes.c_uint32 * 2)()
    return (
        outcome(raw.futex, UNMAPPED, WAIT, 0, None, None, 0),
        outcome(raw.futex, KERNEL, WAIT, 0, None, None, 0),
        outcome(raw.futex, at(long) + 1, WAIT, 0, None, None, 0),
        outcome(raw.futex, at(long) + 2, WAKE, 1, None, None, 0),
        outcome(raw.futex, at(w), 99, 0, None, None, 0),
        outcome(raw.futex, at(w), WAIT, 0, Timespec(-1, 0), None, 0),
        outcome(raw.futex, at(w), WAIT, 0, Timespec(0, 1_000_000_000), None, 0),
        outcome(raw.futex, at(w), WAIT, 0, UNMAPPED, None, 0),
        outcome(raw.futex, at(w), WAIT_BITSET, 0, None, None, 0),
        outcome(raw.futex, at(w), WAKE_BITSET, 1, None, None, 0),
    )


@check
def futex_wake_counts_whom_it_woke():
    w = word()
    none = raw.futex(at(w), WAKE | PRIVATE, 10, None, None, 0)
    waiters = [waiting(at(w), WAIT | PRIVATE, 0, Timespec(20, 0), None, 0) for _ in range(3)]
    first = raw.futex(at(w), WAKE | PRIVATE, 1, None, None, 0)
    rest = raw.futex(at(w), WAKE | PRIVATE, 10, None, None, 0)
    return none, first, rest, [r() for r in waiters]


@check
def futex_bitset_wakes_only_matching_waiters():
    w = word()
    one = waiting(at(w), WAIT_BITSET | PRIVATE, 0, None, None, 1)
    two = waiting(at(w), WAIT_BITSET | PRIVATE, 0, None, None, 2)
    counts = [raw.futex(at(w), WAKE_BITSET | PRIVATE, 10, None, None, bits) for bits in (4, 2, 3)]
    return counts, one(), two()


@check
def futex_requeue_moves_waiters():
    w, other = word(7), word(0)
    waiters = [waiting(at(w), WAIT | PRIVATE, 7, Timespec(20, 0), None, 0) for _ in range(3)]
    wrong = outcome(raw.futex, at(w), CMP_REQUEUE | PRIVATE, 1, 5, at(other), 8)
    moved = raw.futex(at(w), CMP_REQUEUE | PRIVATE, 1, 5, at(other), 7)
    left = raw.futex(at(w), WAKE | PRIVATE, 10, None, None, 0)
    woken = raw.futex(at(other), WAKE | PRIVATE, 10, None, None, 0)
    return wrong, moved, left, woken, [r() for r in waiters]


@check
def futex_wake_op_changes_the_second_word():
    w, other = word(0), word(5)
    # add 3; wake there when the old value equals 5
    operation = 1 << 28 | 0 << 24 | 3 << 12 | 5
    result = raw.futex(at(w), WAKE_OP | PRIVATE, 1, 1, at(other), operation)
    return result, other.value, outcome(raw.futex, at(w), WAKE_OP | PRIVATE, 1, 1, UNMAPPED, operation)


@check
def shared_futex_wakes_another_process():
    import mmap

    memory = mmap.mmap(-1, 4096)
    w = ctypes.c_uint32.from_buffer(memory)

    def child():
        result = outcome(raw.futex, at(w), WAIT, 0, Timespec(20, 0), None, 0)
        return 0 if result == 0 or result == "EAGAIN" else 1

    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(child())
    while not raw.futex(at(w), WAKE, 1, None, None, 0):
        time.sleep(0.01)
    return os.waitpid(pid, 0)[1]


@check
def private_futex_does_not_wake_another_process():
    import mmap

    memory = mmap.mmap(-1, 4096)
    w = ctypes.c_uint32.from_buffer(memory)
    pid = os.fork()
    if pid == 0:
        result = outcome(raw.futex, at(w), WAIT | PRIVATE, 0, Timespec(0, 200_000_000), None, 0)
        os._exit(3 if result == "ETIMEDOUT" else 1)
    time.sleep(0.1)
    woken = raw.futex(at(w), WAKE | PRIVATE, 1, None, None, 0)
    return woken, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@check
def futex_wait_is_interrupted_by_a_handler():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return outcome(raw.futex, at(word()), WAIT | PRIVATE, 0, Timespec(10, 0), None, 0)


@check
def robust_list_arguments():
    head, size = ctypes.c_uint64(), ctypes.c_uint64()
    return (
        outcome(raw.set_robust_list, UNMAPPED, 10),
        outcome(raw.get_robust_list, 0, ctypes.byref(head), ctypes.byref(size)),
        size.value,
        outcome(raw.get_robust_list, 0x3FFFFFFF, ctypes.byref(head), ctypes.byref(size)),
    )


@check
def robust_mutex_tells_of_a_dead_owner():
    import mmap

    memory = mmap.mmap(-1, 4096)
    mutex = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    attribute = ctypes.create_string_buffer(64)
    libc.pthread_mutexattr_init(attribute)
    libc.pthread_mutexattr_setrobust(attribute, 1)
    libc.pthread_mutexattr_setpshared(attribute, 1)
    libc.pthread_mutex_init(ctypes.c_void_p(mutex), attribute)
    child = os.fork()
    if child == 0:
        libc.pthread_mutex_lock(ctypes.c_void_p(mutex))
        os._exit(0)
    os.waitpid(child, 0)
    got = libc.pthread_mutex_lock(ctypes.c_void_p(mutex))
    return os.strerror(got), libc.pthread_mutex_consistent(ctypes.c_void_p(mutex)), libc.pthread_mutex_unlock(ctypes.c_void_p(mutex))


@check
def priority_inheriting_mutex_locks_and_unlocks():
    attribute, mutex = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    libc.pthread_mutexattr_init(attribute)
    libc.pthread_mutexattr_setprotocol(attribute, 1)
    libc.pthread_mutex_init(mutex, attribute)
    first = libc.pthread_mutex_lock(mutex)
    busy = in_thread(libc.pthread_mutex_trylock, mutex)()
    late = in_thread(libc.pthread_mutex_lock, mutex)
    time.sleep(0.05)
    return first, busy, libc.pthread_mutex_unlock(mutex), late()


def own_tid():
    return threading.get_native_id()


def word_of(w):
    """A lock's word without its owner: free or owned, and the two marks."""
    return w.value & WAITERS != 0, w.value & OWNER_DIED != 0, w.value & TID_MASK != 0


def until(condition):
    """Waits for another thread to have come somewhere."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.05)


@check
def pi_lock_is_taken_and_given_back():
    w = word()
    first = raw.futex(at(w), LOCK_PI | PRIVATE, 0, None, None, 0), w.value == own_tid()
    again = outcome(raw.futex, at(w), LOCK_PI | PRIVATE, 0, None, None, 0)
    tried = outcome(raw.futex, at(w), TRYLOCK_PI | PRIVATE, 0, None, None, 0)
    given = raw.futex(at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0), w.value
    twice = outcome(raw.futex, at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0)
    tried_free = raw.futex(at(w), TRYLOCK_PI | PRIVATE, 0, None, None, 0), w.value == own_tid()
    w.value = OWNER_DIED
    died = raw.futex(at(w), LOCK_PI2 | PRIVATE, 0, None, None, 0), w.value == own_tid() | OWNER_DIED
    return first, again, tried, given, twice, tried_free, died


@check
def pi_lock_bad_words():
    long = (ctypes.c_uint32 * 2)()
    nobody, odd = word(0x3FFFFFF0), word(WAITERS)
    return (
        [outcome(raw.futex, UNMAPPED, op, 0, None, None, 0) for op in (LOCK_PI, UNLOCK_PI, TRYLOCK_PI, LOCK_PI2)],
        [outcome(raw.futex, at(long) + 2, op, 0, None, None, 0) for op in (LOCK_PI, TRYLOCK_PI, LOCK_PI2)],
        outcome(raw.futex, at(nobody), LOCK_PI | PRIVATE, 0, None, None, 0),
        outcome(raw.futex, at(nobody), TRYLOCK_PI | PRIVATE, 0, None, None, 0),
        word_of(nobody),
        outcome(raw.futex, at(nobody), UNLOCK_PI | PRIVATE, 0, None, None, 0),
        outcome(raw.futex, at(odd), LOCK_PI | PRIVATE, 0, None, None, 0),
        outcome(raw.futex, at(word()), LOCK_PI, 0, Timespec(0, 1_000_000_000), None, 0),
        outcome(raw.futex, at(word()), LOCK_PI, 0, UNMAPPED, None, 0),
    )


@check
def futex_clock_choice():
    operations = WAIT, WAKE, REQUEUE, LOCK_PI, UNLOCK_PI, WAIT_BITSET, LOCK_PI2, 12
    w = word(own_tid())
    return [outcome(raw.futex, at(w), op | REALTIME | PRIVATE, 0, Timespec(0, 0), None, 1) for op in operations]


@check
def pi_lock_passes_to_the_waiter():
    w = word()
    raw.futex(at(w), LOCK_PI | PRIVATE, 0, None, None, 0)

    def wait_and_unlock():
        got = raw.futex(at(w), LOCK_PI | PRIVATE, 0, None, None, 0)
        return got, w.value & TID_MASK == own_tid(), raw.futex(at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0)

    results = [in_thread(wait_and_unlock) for _ in range(3)]
    until(lambda: w.value & WAITERS)
    mixed = outcome(raw.futex, at(w), WAKE | PRIVATE, 1, None, None, 0)
    marks = word_of(w)
    return mixed, marks, raw.futex(at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0), [r() for r in results], w.value


@check
def pi_lock_of_another_thread():
    w = word()
    raw.futex(at(w), LOCK_PI | PRIVATE, 0, None, None, 0)
    now = time.clock_gettime_ns(time.CLOCK_REALTIME) + 50_000_000
    soon = Timespec(now // 1_000_000_000, now % 1_000_000_000)
    then = time.monotonic_ns() + 50_000_000
    later = Timespec(then // 1_000_000_000, then % 1_000_000_000)
    calls = (
        (UNLOCK_PI, None),
        (TRYLOCK_PI, None),
        (LOCK_PI, Timespec(1, 0)),
        (LOCK_PI, soon),
        (LOCK_PI2, later),
        (LOCK_PI2 | REALTIME, soon),
    )
    results = [in_thread(raw.futex, at(w), op | PRIVATE, 0, limit, None, 0)() for op, limit in calls]
    return results, word_of(w), raw.futex(at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0), w.value


@check
def pi_lock_in_a_circle_returns_edeadlk():
    one, two = word(), word()
    raw.futex(at(one), LOCK_PI | PRIVATE, 0, None, None, 0)

    def other():
        raw.futex(at(two), LOCK_PI | PRIVATE, 0, None, None, 0)
        got = raw.futex(at(one), LOCK_PI | PRIVATE, 0, None, None, 0)
        return got, [raw.futex(at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0) for w in (one, two)]

    result = in_thread(other)
    until(lambda: one.value & WAITERS)
    circle = outcome(raw.futex, at(two), LOCK_PI | PRIVATE, 0, None, None, 0)
    return circle, raw.futex(at(one), UNLOCK_PI | PRIVATE, 0, None, None, 0), result()


@check
def pi_lock_passes_on_when_its_owner_ends():
    import mmap

    w = ctypes.c_uint32.from_buffer(mmap.mmap(-1, 4096))
    pid = os.fork()
    if pid == 0:
        raw.futex(at(w), LOCK_PI, 0, None, None, 0)
        until(lambda: w.value & WAITERS)
        os._exit(0)
    until(lambda: w.value)
    got = raw.futex(at(w), LOCK_PI, 0, None, None, 0)
    os.waitpid(pid, 0)
    own = w.value & TID_MASK == own_tid()
    return got, own, word_of(w), raw.futex(at(w), UNLOCK_PI, 0, None, None, 0), w.value


@check
def pi_lock_begins_anew_after_a_signal():
    w = word()
    raw.futex(at(w), LOCK_PI | PRIVATE, 0, None, None, 0)
    pid, seen = os.getpid(), []
    signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))
    signal.siginterrupt(signal.SIGUSR2, True)
    other = in_thread(lambda: (raw.futex(at(w), LOCK_PI | PRIVATE, 0, None, None, 0), w.value & TID_MASK == own_tid()))
    until(lambda: w.value & WAITERS)
    for tid in os.listdir("/proc/self/task"):
        if int(tid) != own_tid():
            raw.tgkill(pid, int(tid), signal.SIGUSR2)
    time.sleep(0.05)
    return raw.futex(at(w), UNLOCK_PI | PRIVATE, 0, None, None, 0), other(), seen


@check
def pi_requeue_gives_the_lock():
    w, lock = word(7), word()

    def wait():
        got = raw.futex(at(w), WAIT_REQUEUE_PI | PRIVATE, 7, None, at(lock), 0)
        return got, lock.value & TID_MASK == own_tid(), raw.futex(at(lock), UNLOCK_PI | PRIVATE, 0, None, None, 0)

    results = [in_thread(wait) for _ in range(3)]
    time.sleep(0.1)
    refused = (
        outcome(raw.futex, at(w), WAKE | PRIVATE, 1, None, None, 0),
        outcome(raw.futex, at(w), REQUEUE | PRIVATE, 0, 1, at(lock), 0),
        outcome(raw.futex, at(w), CMP_REQUEUE_PI | PRIVATE, 1, 1, at(lock), 8),
        outcome(raw.futex, at(w), CMP_REQUEUE_PI | PRIVATE, 2, 1, at(lock), 7),
        outcome(raw.futex, at(w), CMP_REQUEUE_PI | PRIVATE, 1, -1, at(lock), 7),
        outcome(raw.futex, at(w), CMP_REQUEUE_PI | PRIVATE, 1, 1, at(w), 7),
        outcome(raw.futex, at(w), CMP_REQUEUE_PI | PRIVATE, 1, 1, at(word()), 7),
    )
    raw.futex(at(lock), LOCK_PI | PRIVATE, 0, None, None, 0)
    moved = raw.futex(at(w), CMP_REQUEUE_PI | PRIVATE, 1, 1, at(lock), 7)
    marks = word_of(lock)
    raw.futex(at(lock), UNLOCK_PI | PRIVATE, 0, None, None, 0)
    until(lambda: lock.value == 0)
    rest = raw.futex(at(w), CMP_REQUEUE_PI | PRIVATE, 1, 10, at(lock), 7)
    return refused, moved, marks, rest, [r() for r in results], lock.value


@check
def pi_requeue_wait_ends():
    w, lock = word(7), word()
    then = time.monotonic_ns() + 50_000_000
    later = Timespec(then // 1_000_000_000, then % 1_000_000_000)
    return (
        outcome(raw.futex, at(w), WAIT_REQUEUE_PI | PRIVATE, 8, None, at(lock), 0),
        outcome(raw.futex, at(w), WAIT_REQUEUE_PI | PRIVATE, 7, None, at(w), 0),
        outcome(raw.futex, at(w), WAIT_REQUEUE_PI | PRIVATE, 7, None, UNMAPPED + 1, 0),
        outcome(raw.futex, at(w), WAIT_REQUEUE_PI | PRIVATE, 7, later, at(lock), 0),
        outcome(raw.futex, at(w), CMP_REQUEUE_PI | PRIVATE, 1, 1, at(lock), 7),
    )


@check
def negative_thread_numbers():
    mask = ctypes.create_string_buffer(b"\1" + bytes(127))
    return (
        outcome(os.sched_getaffinity, -1),
        outcome(os.sched_setaffinity, -1, [0]),
        outcome(raw.sched_getaffinity, -1, 128, mask),
        outcome(raw.sched_getaffinity, -(2**31), 128, mask),
    )


@check
def robust_pi_mutex_tells_of_a_dead_owner():
    import mmap

    memory = mmap.mmap(-1, 4096)
    mutex = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    attribute = ctypes.create_string_buffer(64)
    libc.pthread_mutexattr_init(attribute)
    libc.pthread_mutexattr_setrobust(attribute, 1)
    libc.pthread_mutexattr_setprotocol(attribute, 1)
    libc.pthread_mutexattr_setpshared(attribute, 1)
    libc.pthread_mutex_init(mutex, attribute)
    results = []
    for waits in (False, True):
        child = os.fork()
        if child == 0:
            libc.pthread_mutex_lock(mutex)
            memory[100] = 1
            time.sleep(0.1 if waits else 0)
            os._exit(0)
        until(lambda: memory[100])
        memory[100] = 0
        if not waits:
            os.waitpid(child, 0)
        got = os.strerror(libc.pthread_mutex_lock(mutex))
        results.append((got, libc.pthread_mutex_consistent(mutex), libc.pthread_mutex_unlock(mutex)))
        if waits:
            os.waitpid(child, 0)
    return results


@check
def threads_share_everything_but_their_id():
    own = threading.get_native_id()
    fd, _ = os.pipe()
    got = []

    def run():
        got.append((threading.get_native_id() != own, os.getpid()))
        os.close(fd)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return got[0][0], got[0][1] == os.getpid(), own == os.getpid(), outcome(os.fstat, fd)


@check
def many_threads_start_and_end():
    total = []
    lock = threading.Lock()

    def run(n):
        with lock:
            total.append(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The last may still be on its way out.
    end = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    return sorted(total) == list(range(100)), len(os.listdir("/proc/self/task"))


@check
def many_threads_wait_together():
    barrier = threading.Barrier(50)
    order = []

    def run():
        barrier.wait()
        order.append(1)
        barrier.wait()

    threads = [threading.Thread(target=run) for _ in range(49)]
    for thread in threads:
        thread.start()
    barrier.wait()
    barrier.wait()
    for thread in threads:
        thread.join()
    return len(order)


@check
def conditions_and_queues_pass_values():
    jobs, results = queue.Queue(2), queue.Queue()

    def worker():
        while (job := jobs.get()) is not None:
            results.put(job * job)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(50):
        jobs.put(n)
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        thread.join()
    return sum(results.get() for _ in range(50))


@check
def lock_time_limit_passes():
    lock = threading.Lock()
    lock.acquire()
    start = time.monotonic()
    return lock.acquire(timeout=0.05), 0.045 < time.monotonic() - start < 5


@check
def thread_local_storage_is_separate():
    local = threading.local()
    local.value = "main"
    seen = []
    thread = threading.Thread(target=lambda: seen.append(hasattr(local, "value")))
    thread.start()
    thread.join()
    return seen, local.value


@check
def thread_names_are_visible():
    ready, done = threading.Event(), threading.Event()
    names = []

    def run():
        raw.prctl(15, b"worker-name", 0, 0, 0)
        names.append(threading.get_native_id())
        ready.set()
        done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    name = open(f"/proc/self/task/{names[0]}/comm").read()
    done.set()
    thread.join()
    return name


@check
def busy_thread_does_not_stop_others():
    stop = []

    def spin():
        while not stop:
            pass

    threads = [threading.Thread(target=spin) for _ in range(3)]
    for thread in threads:
        thread.start()
    ticks = 0
    for _ in range(5):
        time.sleep(0.005)
        ticks += 1
    stop.append(1)
    for thread in threads:
        thread.join()
    return ticks


@check
def exit_group_ends_all_threads():
    def child():
        for _ in range(5):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        os._exit(21)

    return in_child(child)


@check
def fatal_signal_to_one_thread_ends_all():
    def child():
        def run():
            signal.pthread_kill(threading.get_ident(), signal.SIGKILL)

        threading.Thread(target=run).start()
        time.sleep(60)

    return in_child(child)


@check
def fork_from_a_thread_takes_only_that_thread():
    def child():
        results = []

        def run():
            pid = os.fork()
            if pid == 0:
                os._exit(len(os.listdir("/proc/self/task")))
            results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return results[0]

    import warnings

    warnings.simplefilter("ignore")
    return in_child(child)


@check
def scheduling_calls():
    affinity = os.sched_getaffinity(0)
    parameter = struct.pack("<i", 5)
    mask = ctypes.create_string_buffer(128)
    return (
        0 in affinity,
        outcome(os.sched_setaffinity, 0, affinity),
        outcome(os.sched_setaffinity, 0, [900]),
        outcome(raw.sched_getaffinity, 0, 1, mask),
        outcome(raw.sched_getaffinity, 0x3FFFFFFF, 128, mask),
        os.sched_getscheduler(0),
        os.sched_get_priority_max(os.SCHED_FIFO),
        os.sched_get_priority_min(os.SCHED_FIFO),
        outcome(raw.sched_setscheduler, 0, 99, parameter),
        outcome(raw.sched_setscheduler, 0, 0, parameter),
        os.sched_yield(),
        os.getpriority(os.PRIO_PROCESS, 0),
        outcome(os.getpriority, 9, 0),
    )


@check
def membarrier_commands():
    return outcome(raw.membarrier, 0, 0, 0) >= 1, outcome(raw.membarrier, 1 << 30, 0, 0), outcome(raw.membarrier, 0, 7, 0)


@check
def membarrier_wants_registration():
    def call(command):
        return outcome(raw.membarrier, command, 0, 0)

    first = call(8), call(32)
    registered = call(16), call(64), call(4)
    return first, registered, [call(command) for command in (1, 2, 8, 32)], in_child(lambda: call(512) & 0x7F)


@check
def affinity_is_kept_and_inherited():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [0])
    cpu, node = word(9), word(9)
    found = outcome(raw.getcpu, at(cpu), at(node), None), cpu.value, node.value
    inherited = in_thread(os.sched_getaffinity, 0)(), in_child(lambda: sum(os.sched_getaffinity(0)))
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    return found, inherited, kept


@check
def affinity_bad_arguments():
    one, none = ctypes.create_string_buffer(b"\1" + bytes(127)), ctypes.create_string_buffer(128)
    return (
        outcome(raw.sched_setaffinity, 0, 0, one),
        outcome(raw.sched_setaffinity, 0, 1, one),
        outcome(raw.sched_setaffinity, 0, 128, one),
        outcome(raw.sched_setaffinity, 0, 128, none),
        outcome(raw.sched_setaffinity, 0, 8, UNMAPPED),
        outcome(raw.sched_setaffinity, 0, 8, KERNEL),
        outcome(raw.sched_setaffinity, -1, 8, one),
        outcome(raw.sched_setaffinity, 0x3FFFFFFF, 8, one),
        outcome(raw.sched_getaffinity, -1, 8, none),
        outcome(raw.sched_getaffinity, 0, 0, none),
        outcome(raw.sched_getaffinity, 0, 12, none),
        outcome(raw.sched_getaffinity, 0, 128, UNMAPPED),
    )


@check
def affinity_of_another_user_is_refused():
    parent = os.getpid()

    def child():
        os.setuid(1000)
        mask = ctypes.create_string_buffer(b"\1" + bytes(7))
        own, other = (outcome(raw.sched_setaffinity, pid, 8, mask) for pid in (0, parent))
        return (own == 0) + 2 * (str(other) == "EPERM") + 4 * (len(os.sched_getaffinity(parent)) > 0)

    return in_child(child)
