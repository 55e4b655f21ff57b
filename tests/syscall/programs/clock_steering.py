"""Setting and steering the clocks: adjtimex, clock_adjtime, clock_settime; atomic time."""

import ctypes
import os
import select
import struct
import time

from harness import KERNEL, NS, UNMAPPED, Timespec, check, in_child, outcome, raw

OFFSET, FREQUENCY, MAXERROR, ESTERROR, STATUS, TIMECONST = 1, 2, 4, 8, 0x10, 0x20
TAI, SETOFFSET, MICRO, NANO, TICK, SINGLESHOT, SS_READ = 0x80, 0x100, 0x1000, 0x2000, 0x4000, 0x8001, 0xA001
PLL, FLL, INS, DEL, UNSYNC, FREQHOLD = 1, 8, 0x10, 0x20, 0x40, 0x80
REALTIME, MONOTONIC, RAW, CLOCK_TAI = 0, 1, 4, 11
SETTABLE = PLL | FLL | INS | DEL | UNSYNC | FREQHOLD


class Timex(ctypes.Structure):
    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("fraction", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("pps", ctypes.c_long * 2),
        ("shift", ctypes.c_int),
        ("pps_counts", ctypes.c_long * 5),
        ("tai", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    ]


def adjust(modes=0, **fields):
    """The answer and what it filled in."""
    timex = Timex(modes=modes, **fields)
    return raw.adjtimex(timex), timex


def answer(modes=0, **fields):
    """The answer, or the errno."""
    return outcome(lambda: adjust(modes, **fields)[0])


def reset():
    adjust(STATUS, status=0)
    adjust(STATUS | FREQUENCY | TICK | TAI | MICRO, status=UNSYNC, tick=10000)
    adjust(SINGLESHOT)
    # The least offset and time constant leave nothing to be worked off.
    adjust(STATUS | OFFSET | FREQUENCY, status=PLL | FREQHOLD)
    adjust(STATUS, status=UNSYNC)
    adjust(TIMECONST, constant=0)


def by_system_call(clock):
    value = Timespec()
    raw.clock_gettime(clock, value)
    return value.tv_sec * NS + value.tv_nsec


def sample(read, clock):
    """The unsteered clock and this one at the same time, as far as a busy host lets read them so."""
    tries = []
    for _ in range(9):
        before, now, after = read(RAW), read(clock), read(RAW)
        tries.append((after - before, before, now))
    return min(tries)[1:]


def speeds(read, clocks=(REALTIME, MONOTONIC, CLOCK_TAI)):
    """How fast clocks run, in hundredths of the unsteered one's speed, to the next ten."""
    first = [sample(read, clock) for clock in clocks]
    time.sleep(0.2)
    last = [sample(read, clock) for clock in clocks]
    return [round((after - before) * 10 / (raw_after - raw_before)) * 10 for (raw_before, before), (raw_after, after) in zip(first, last)]


@check
def reading_changes_nothing():
    reset()
    state, timex = adjust()
    now = time.time()
    return (
        state,
        timex.status,
        timex.tick,
        timex.freq,
        timex.tolerance,
        timex.precision,
        timex.tai,
        timex.offset,
        list(timex.pps),
        timex.shift,
        list(timex.pps_counts),
        abs(timex.seconds + timex.fraction / 1e6 - now) < 1,
        timex.fraction < 1_000_000,
    )


@check
def tick_makes_all_steered_clocks_run_faster():
    reset()
    result = []
    for tick in 11000, 9000, 10000:
        result.append(adjust(TICK, tick=tick)[1].tick)
        result += [speeds(read) for read in (time.clock_gettime_ns, by_system_call)]
    reset()
    return result


@check
def clocks_never_go_back_while_their_speed_changes():
    reset()
    end = time.monotonic() + 0.5
    last = time.monotonic_ns()
    back = 0
    while time.monotonic() < end:
        for tick in 9000, 11000:
            adjust(TICK, tick=tick)
            for read in time.clock_gettime_ns, by_system_call, time.clock_gettime_ns:
                now = read(MONOTONIC)
                back += now < last
                last = now
    reset()
    return back


@check
def sleeping_follows_the_steered_clock():
    reset()
    adjust(TICK, tick=11000)
    start, start_raw = time.monotonic_ns(), time.clock_gettime_ns(RAW)
    time.sleep(0.5)
    slept, slept_raw = time.monotonic_ns() - start, time.clock_gettime_ns(RAW) - start_raw
    reset()
    return slept >= NS // 2, slept_raw < slept, slept_raw >= NS * 45 // 100


@check
def timer_that_runs_already_follows_a_change_of_speed():
    took = []
    # A busy host may be late once.
    for _ in range(4):
        reset()
        adjust(TICK, tick=9000)
        fd = os.timerfd_create(MONOTONIC)
        os.timerfd_settime(fd, initial=0.5)
        start_raw = time.clock_gettime_ns(RAW)
        adjust(TICK, tick=11000)
        ready = select.select([fd], [], [], 20)[0] == [fd]
        took.append(time.clock_gettime_ns(RAW) - start_raw)
        os.close(fd)
        if took[-1] < NS * 52 // 100:
            break
    reset()
    return ready, NS * 44 // 100 < min(took) < NS * 52 // 100


@check
def frequency_is_kept_and_limited():
    reset()
    result = [adjust(FREQUENCY, freq=freq)[1].freq for freq in (1, -1, 12345, 100 << 16, 500 << 16, 501 << 16, -(600 << 16))]
    reset()
    return result, adjust()[1].freq


@check
def status_keeps_what_a_program_may_set():
    reset()
    result = [adjust(STATUS, status=status)[1].status for status in (0, PLL, PLL | UNSYNC, SETTABLE, 0xFF00, -1 & ~0xFF, 0)]
    reset()
    return [status & 0xFF for status in result]


@check
def answer_tells_whether_the_clock_follows_something():
    reset()
    result = answer(), answer(STATUS, status=0), answer(), answer(STATUS, status=UNSYNC)
    reset()
    return result


@check
def errors_are_limited():
    reset()
    result = []
    for value in (0, 7, 16_000_000, 16_000_001, -5):
        timex = adjust(MAXERROR | ESTERROR, maxerror=value, esterror=value)[1]
        result.append((timex.maxerror, timex.esterror))
    return result


@check
def maximum_error_grows_by_half_a_millisecond_a_second():
    reset()
    adjust(MAXERROR | STATUS, maxerror=0, status=0)
    time.sleep(1.1)
    return adjust()[1].maxerror in (500, 1000)


@check
def time_constant_depends_on_the_unit():
    reset()
    result = [adjust(TIMECONST, constant=value)[1].constant for value in (0, 3, 6, 7, 11, -1)]
    result += [adjust(TIMECONST | NANO, constant=value)[1].constant for value in (0, 3, 10, 11, -1)]
    reset()
    return result


@check
def units_are_remembered():
    reset()
    nano = adjust(NANO)[1]
    later = adjust()[1]
    micro = adjust(MICRO)[1]
    both = adjust(NANO | MICRO)[1]
    return [timex.status & 0x2000 for timex in (nano, later, micro, both)]


@check
def offset_needs_the_loop():
    reset()
    without = adjust(OFFSET, offset=1000)[1].offset
    with_loop = adjust(OFFSET | STATUS | TIMECONST, offset=1000, status=PLL | FREQHOLD, constant=6)[1].offset
    limits = [adjust(OFFSET, offset=value)[1].offset for value in (400_000, 600_000, -600_000, 1 << 40, 0)]
    nano = [adjust(OFFSET | NANO, offset=value)[1].offset for value in (400_000, 1, -1, 600_000_000, 1 << 62, 0)]
    reset()
    return without, with_loop, limits, nano


@check
def offset_is_worked_off():
    reset()
    adjust(OFFSET | STATUS | NANO | TIMECONST, offset=400_000_000, status=PLL | FREQHOLD, constant=0)
    start_raw, start = sample(by_system_call, REALTIME)
    time.sleep(2.1)
    end_raw, end = sample(by_system_call, REALTIME)
    gained = end - start - (end_raw - start_raw)
    left = adjust()[1].offset
    reset()
    # What this second works off stays.
    time.sleep(1)
    # A quarter of what is left goes in each second.
    return 80_000_000 < gained < 240_000_000, left in (225_000_000, 168_750_000, 126_562_500)


@check
def adjtime_answers_what_was_left():
    reset()
    first = adjust(SINGLESHOT, offset=5_000_000)
    read = adjust(SS_READ)
    again = adjust(SINGLESHOT, offset=-100)
    none = adjust(SINGLESHOT, offset=0)
    return [0 <= 5_000_000 - timex.offset <= 2000 if timex.offset > 1000 else timex.offset for _, timex in (first, read, again, none)]


@check
def adjtime_works_off_half_a_millisecond_a_second():
    reset()
    adjust(SINGLESHOT, offset=-100_000)
    start_raw, start = sample(by_system_call, MONOTONIC)
    time.sleep(2.1)
    end_raw, end = sample(by_system_call, MONOTONIC)
    gained = end - start - (end_raw - start_raw)
    left = adjust(SS_READ)[1].offset
    reset()
    return -2_500_000 < gained < -300_000, left in (-99_000, -98_500, -98_000)


@check
def step_moves_the_wall_clock_alone():
    reset()
    real, monotonic = time.time(), time.monotonic()
    state, timex = adjust(SETOFFSET, seconds=1000, fraction=500_000)
    ahead = time.time() - real
    back = adjust(SETOFFSET | NANO, seconds=-1001, fraction=500_000_000)[1]
    reset()
    return (
        state,
        round(ahead - (time.monotonic() - monotonic)),
        round(time.time() - real - (time.monotonic() - monotonic)),
        timex.status & UNSYNC,
        back.status & 0x2000,
    )


@check
def setting_the_clock_forgets_what_was_known():
    reset()
    adjust(STATUS | MAXERROR | ESTERROR | FREQUENCY, status=PLL, maxerror=9, esterror=9, freq=65536)
    now = time.clock_gettime(REALTIME)
    time.clock_settime(REALTIME, now + 0.001)
    state, timex = adjust()
    result = state, timex.status & 0xFF, timex.maxerror, timex.esterror, timex.freq
    reset()
    return result


@check
def atomic_time_is_ahead_by_what_was_set():
    reset()
    result = []
    for value in (37, 0, 100_000, 100_001, -1, 10):
        tai = adjust(TAI, constant=value)[1].tai
        ahead = [round((read(CLOCK_TAI) - read(REALTIME)) / NS) for read in (time.clock_gettime_ns, by_system_call)]
        result.append((tai, ahead))
    reset()
    adjust(TAI, constant=0)
    return result, outcome(raw.clock_settime, CLOCK_TAI, Timespec(1_800_000_000, 0))


def follow(status):
    """Makes it a clock that follows something."""
    adjust(STATUS | MAXERROR, status=status)


@check
def leap_second_is_announced_and_taken_back():
    reset()
    follow(INS)
    time.sleep(1.1)
    announced = answer(), adjust()[1].status & 0xFF
    follow(0)
    time.sleep(1.1)
    result = announced, answer()
    reset()
    return result


def at_midnight(status, seconds_before, seconds):
    """What adjtimex says, step by step: its answer, the second counted from midnight, the offset to atomic time."""
    reset()
    adjust(TAI, constant=30)
    real, monotonic = time.time(), time.monotonic()
    midnight = (int(real) // 86400 + 1) * 86400
    time.clock_settime(REALTIME, midnight - seconds_before)
    follow(status)
    seen = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state, timex = adjust()
        step = state, timex.seconds - midnight, timex.tai
        # Linux may say it a tick before or after the second begins.
        if not seen or seen[-1] != step and 10_000 < timex.fraction < 990_000:
            seen.append(step)
        time.sleep(0.01)
    adjust(STATUS, status=0)
    time.clock_settime(REALTIME, real + time.monotonic() - monotonic)
    reset()
    adjust(TAI, constant=0)
    return seen


@check
def leap_second_is_inserted_at_midnight():
    return at_midnight(INS, 2.5, 4.2)


@check
def leap_second_is_deleted_before_midnight():
    return at_midnight(DEL, 3.5, 3.2)


@check
def setting_wakes_who_waits_for_wall_clock_time():
    reset()
    fd = os.timerfd_create(REALTIME)
    os.timerfd_settime(fd, flags=os.TFD_TIMER_ABSTIME, initial=time.time() + 500)
    adjust(SETOFFSET, seconds=501, fraction=0)
    ready = select.select([fd], [], [], 10)[0] == [fd]
    adjust(SETOFFSET, seconds=-501, fraction=0)
    os.timerfd_settime(fd, flags=os.TFD_TIMER_ABSTIME | os.TFD_TIMER_CANCEL_ON_SET, initial=time.time() + 500)
    adjust(SETOFFSET, seconds=0, fraction=1)
    cancelled = outcome(os.read, fd, 8)
    os.close(fd)
    return ready, cancelled


@check
def sleep_in_atomic_time_ends_when_that_is_set_ahead():
    reset()
    adjust(TAI, constant=0)
    until = int(time.time()) + 400
    pid = os.fork()
    if pid == 0:
        raw.clock_nanosleep(CLOCK_TAI, 1, Timespec(until, 0), None)
        os._exit(7)
    time.sleep(0.1)
    adjust(TAI, constant=500)
    status = os.waitpid(pid, 0)[1]
    adjust(TAI, constant=0)
    return os.waitstatus_to_exitcode(status)


@check
def bad_values_are_refused():
    reset()
    return (
        [answer(TICK, tick=tick) for tick in (8999, 9000, 11000, 11001, -1, 10000)],
        [answer(FREQUENCY, freq=freq) for freq in (-(1 << 63), (1 << 63) - 1, 1 << 50, 0)],
        [answer(modes) for modes in (0x8000, 0x8002, 0xA000, 0x0400, 0xF0000)],
        [answer(SETOFFSET, seconds=0, fraction=fraction) for fraction in (-1, 1_000_000, 0)],
        [answer(SETOFFSET | NANO, seconds=0, fraction=fraction) for fraction in (-1, NS, 0)],
        [answer(SETOFFSET, seconds=seconds) for seconds in (-(1 << 40), 1 << 40, (1 << 63) - 1)],
        outcome(raw.adjtimex, UNMAPPED),
        outcome(raw.adjtimex, KERNEL),
    )


@check
def other_clocks_cannot_be_adjusted():
    reset()
    fd = os.open("/dev/null", os.O_RDONLY)
    timex = Timex()
    clocks = [REALTIME, MONOTONIC, 2, 3, RAW, 5, 6, 7, 8, 9, 10, CLOCK_TAI, 12, 99, 1 << 30]
    return (
        [outcome(raw.clock_adjtime, clock, timex) for clock in clocks],
        # The CPU time of this process, of one that is not there; descriptors.
        [outcome(raw.clock_adjtime, clock, timex) for clock in (-6, ~(30000 << 3) | 2, (~fd << 3) | 3, (~99 << 3) | 3)],
        outcome(raw.clock_adjtime, 99, UNMAPPED),
        outcome(raw.clock_adjtime, 0, UNMAPPED),
        outcome(raw.clock_adjtime, 0, Timex(modes=TICK, tick=1)),
    )


@check
def setting_a_clock_needs_a_time_it_can_have():
    reset()
    now = int(time.time())
    return (
        [outcome(raw.clock_settime, clock, Timespec(now, 0)) for clock in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99)],
        [outcome(raw.clock_settime, -6, Timespec(now, 0)), outcome(raw.clock_settime, ~(30000 << 3) | 2, Timespec(now, 0))],
        [outcome(raw.clock_settime, 0, Timespec(*time_)) for time_ in ((now, NS), (now, -1), (-1, 0), (0, 0), (1 << 40, 0), ((1 << 63) - 1, 0))],
        outcome(raw.clock_settime, 1, UNMAPPED),
        outcome(raw.clock_settime, 0, UNMAPPED),
        outcome(raw.settimeofday, struct.pack("<qq", now, 1_000_000), None),
        outcome(raw.settimeofday, UNMAPPED, None),
    )


@check
def others_than_root_only_read():
    def body():
        os.setuid(1000)
        now = int(time.time())
        print(
            answer(),
            answer(SS_READ),
            answer(SINGLESHOT),
            answer(TICK, tick=1),
            answer(TICK, tick=10000),
            answer(SETOFFSET, seconds=-(1 << 40)),
            answer(SETOFFSET | SS_READ),
            answer(NANO),
            answer(0x8000),
            outcome(raw.clock_adjtime, 0, Timex(modes=STATUS)),
            outcome(raw.clock_settime, 0, Timespec(now, 0)),
            outcome(raw.clock_settime, 0, Timespec(now, NS)),
            outcome(raw.clock_settime, 0, Timespec(0, 0)),
            outcome(raw.settimeofday, struct.pack("<qq", now, 0), None),
        )

    return in_child(body)


reset()
adjust(TAI, constant=0)
