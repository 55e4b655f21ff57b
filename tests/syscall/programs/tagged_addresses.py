"""Pointers with a tag in their top byte, as arm64 programs may use them: loads and stores, calls, faults."""

import ctypes
import os
import resource
import signal
import struct
import sys
import threading

from harness import PAGE, Iovec, check, in_child, libc, outcome, raw

TAG = 0x5A << 56
READ, BOTH = 1, 3
PRIVATE, FIXED, ANONYMOUS = 2, 0x10, 0x20
SET_TAGGED_ADDR_CTRL, GET_TAGGED_ADDR_CTRL, ENABLE = 55, 56, 1
SA_SIGINFO, SA_EXPOSE_TAGBITS = 4, 0x800

buffer = ctypes.create_string_buffer(b"0123456789abcdef", PAGE)
plain = ctypes.addressof(buffer)
tagged = plain | TAG


def set_control(value, *rest):
    return outcome(raw.prctl, SET_TAGGED_ADDR_CTRL, value, *(rest or (0, 0, 0)))


def control(*rest):
    return outcome(raw.prctl, GET_TAGGED_ADDR_CTRL, *(rest or (0, 0, 0, 0)))


def area(pages, protection=BOTH, flags=PRIVATE | ANONYMOUS, address=0):
    return raw.mmap(address, pages * PAGE, protection, flags, -1, 0)


def with_tagged_calls(function):
    """Prints what it gives in a process whose calls may be given tagged addresses."""

    def run():
        set_control(ENABLE)
        print(function())
        sys.stdout.flush()

    return in_child(run)


@check
def loads_and_stores_ignore_the_tag():
    before = ctypes.string_at(tagged, 4)
    ctypes.memset(tagged + 1, ord("x"), 2)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.cast(libc.getpid, ctypes.c_void_p).value | TAG)
    return before, buffer.raw[:4], function() == os.getpid()


@check
def control_is_off_and_takes_one_flag():
    return (
        control(),
        control(1, 0, 0, 0),
        control(0, 0, 0, 1),
        set_control(ENABLE, 1, 0, 0),
        set_control(ENABLE, 0, 0, 1),
        set_control(1 << 32 | ENABLE),
        set_control(1 << 1),
        set_control(0),
        control(),
    )


def various_calls():
    reader, writer = os.pipe()
    vector = (Iovec * 1)()
    vector[0].iov_base, vector[0].iov_len = tagged, 4
    place, folder = (ctypes.c_uint32 * 1)(7), ctypes.create_string_buffer(b".")
    return [
        outcome(raw.write, writer, tagged, 4),
        outcome(raw.writev, writer, vector, 1),
        outcome(raw.writev, writer, ctypes.addressof(vector) | TAG, 1),
        outcome(raw.read, reader, tagged, 2),
        outcome(raw.faccessat, -100, ctypes.addressof(folder) | TAG, 0),
        outcome(raw.clock_gettime, 0, tagged),
        outcome(raw.futex, ctypes.addressof(place) | TAG, 0, 8, None, None, 0),
        outcome(raw.futex, ctypes.addressof(place) | TAG, 1, 8, None, None, 0),
        outcome(raw.rt_sigprocmask, 0, None, tagged, 8),
        outcome(raw.getrandom, tagged, 8, 0),
        outcome(raw.set_robust_list, tagged, 24),
    ]


@check
def calls_refuse_tagged_addresses():
    return various_calls()


@check
def calls_take_tagged_addresses_where_asked_to():
    return with_tagged_calls(various_calls)


def mapping_calls():
    pages = area(8)
    ctypes.memset(pages, 1, 8 * PAGE)
    vector = ctypes.create_string_buffer(8)
    fixed = pages + 4 * PAGE
    moved = outcome(raw.mremap, pages + 6 * PAGE | TAG, PAGE, 2 * PAGE, 1, 0)
    return [
        outcome(raw.mprotect, pages | TAG, PAGE, READ),
        outcome(raw.madvise, pages + PAGE | TAG, PAGE, 4),
        outcome(raw.mincore, pages | TAG, PAGE, vector),
        outcome(raw.mlock, pages | TAG, PAGE),
        outcome(raw.munlock, pages | TAG, PAGE),
        outcome(raw.msync, pages | TAG, PAGE, 1),
        outcome(raw.mmap, fixed | TAG, PAGE, BOTH, PRIVATE | ANONYMOUS | FIXED, -1, 0),
        outcome(raw.mmap, fixed | TAG, PAGE, BOTH, PRIVATE | ANONYMOUS, -1, 0) >> 56,
        outcome(raw.munmap, pages + 2 * PAGE | TAG, PAGE),
        outcome(raw.mincore, pages + 2 * PAGE, PAGE, vector),
        outcome(raw.mremap, pages + 3 * PAGE, PAGE, PAGE, 3, fixed | TAG),
        outcome(raw.brk, raw.brk(0) | TAG) == raw.brk(0),
        moved >> 56 if isinstance(moved, int) else moved,
    ]


@check
def mapping_calls_and_tagged_addresses():
    return mapping_calls(), with_tagged_calls(mapping_calls)


@check
def control_is_inherited_and_ends_with_exec():
    def asks():
        seen = []
        thread = threading.Thread(target=lambda: seen.append(control()))
        thread.start()
        thread.join()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            print("child", control(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("thread", seen, flush=True)
        code = "import ctypes; print('program', ctypes.CDLL(None).prctl(56, 0, 0, 0, 0))"
        os.execv("/usr/bin/python3", ["python3", "-c", code])

    return with_tagged_calls(asks)


def fault_address(flags, action):
    """What the handler of a fault gets as the address, and what the registers that were saved have."""
    handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def handler(number, info, context):
        _, _, code = struct.unpack("<iii", ctypes.string_at(info, 12))
        address = struct.unpack("<Q", ctypes.string_at(info + 16, 8))[0]
        # struct ucontext: flags, link, stack, mask of 128 bytes, then the registers from a 16-byte boundary.
        saved = struct.unpack("<Q", ctypes.string_at(context + 176, 8))[0]
        print(number, code, hex(address >> 48), hex(address & 0xFFF), hex(saved >> 48), hex(saved & 0xFFF), flush=True)
        os._exit(0)

    def run():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        call = handler_type(handler)
        action_words = struct.pack("<4Q", ctypes.cast(call, ctypes.c_void_p).value, flags | SA_SIGINFO, 0, 0)
        raw.rt_sigaction(signal.SIGSEGV, action_words, None, 8)
        raw.rt_sigaction(signal.SIGBUS, action_words, None, 8)
        action()

    return in_child(run)


@check
def fault_addresses_are_told_without_tag():
    place = area(1, 0) | TAG | 0x10
    return fault_address(0, lambda: ctypes.string_at(place, 1)), fault_address(0, lambda: ctypes.memset(place, 1, 1))


@check
def fault_addresses_are_told_with_tag_where_asked_to():
    place = area(1, 0) | TAG | 0x10
    return fault_address(SA_EXPOSE_TAGBITS, lambda: ctypes.string_at(place, 1))


@check
def fault_outside_a_programs_addresses():
    return (
        fault_address(SA_EXPOSE_TAGBITS, lambda: ctypes.string_at(0xFF80_0000_0000_0010, 1)),
        fault_address(0, lambda: ctypes.string_at(0xFF80_0000_0000_0010, 1)),
        fault_address(0, lambda: ctypes.string_at(0x5A01_0000_0000_0010, 1)),
        fault_address(SA_EXPOSE_TAGBITS, lambda: ctypes.string_at(0x5A01_0000_0000_0010, 1)),
    )
