"""Programs as files: static ELF files made here, good and bad."""

import os
import struct

from harness import check, in_child, outcome

# mov x0, #1; adr x1, text; mov x2, #12; mov x8, #64 (write); svc #0; mov x0, #5; mov x8, #93 (exit); svc #0; text
CODE = struct.pack(
    "<8I", 0xD2800020, 0x100000E1, 0xD2800182, 0xD2800808, 0xD4000001, 0xD28000A0, 0xD2800BA8, 0xD4000001
)
TEXT = b"static ELF.\n"
BASE = 0x40_0000


def header(kind=2, machine=183, entry=BASE + 176, at=64, size=56, count=1, ident=b"\x7fELF\x02\x01\x01"):
    return ident.ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, entry, at, 0, 0, 64, size, count, 0, 0, 0)


def segment(kind=1, flags=5, offset=0, address=BASE, file_size=0, memory_size=0, align=0x10000):
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, file_size, memory_size, align)


def program(head=None, *segments):
    size = 176 + len(CODE) + len(TEXT)
    segments = segments or (segment(file_size=size, memory_size=size),)
    head = head or header(count=len(segments))
    return (head + b"".join(segments)).ljust(176, b"\0") + CODE + TEXT


SIZE = len(program())


def start(data):
    """How a child ends that executes this file; an errno that execve gives is its exit status by name."""
    with open("program", "wb") as file:
        file.write(data)
    os.chmod("program", 0o755)

    def run():
        print(outcome(os.execv, "./program", ["program"]), flush=True)
        return 127

    return in_child(run)


@check
def static_program_runs():
    return start(program())


@check
def position_independent_program_runs():
    return start(program(header(kind=3, entry=176), segment(address=0, file_size=SIZE, memory_size=SIZE)))


@check
def zeroed_part_of_a_segment_is_zero_and_writable():
    # adr x1, +0x10000 (the part beyond the file); ldr x0, [x1]; str x8, [x1]; mov x8, #93; svc #0
    code = struct.pack("<5I", 0x10080001, 0xF9400020, 0xF9000028, 0xD2800BA8, 0xD4000001)
    head = (header() + segment(flags=7, file_size=176 + len(code), memory_size=0x20000)).ljust(176, b"\0")
    return start(head + code)


@check
def bad_headers_return_enoexec():
    good = segment(file_size=SIZE, memory_size=SIZE)
    return (
        start(program(header(ident=b"\x7fELG\x02\x01\x01"), good)),
        start(program(header(machine=62), good)),
        start(program(header(kind=1), good)),
        start(program(header(size=32), good)),
        start(program(header(count=0), good)),
        start(program(header(at=1 << 40), good)),
        start(program(header(at=(1 << 64) - 8), good)),
        start(program(header(count=0xFFFF), good)),
        start(program()[:40]),
        start(program()[:100]),
    )


def is_refused(data):
    """The file does not run. Whether execve says so or the new process dies of it is a matter of the kernel's order."""
    with open("program", "wb") as file:
        file.write(data)
    os.chmod("program", 0o755)

    def run():
        outcome(os.execv, "./program", ["program"])
        return 127

    return in_child(run) in ("exit 127", "signal 9", "signal 11")


@check
def bad_segments_are_refused():
    return (
        is_refused(program(header(), segment(address=0xFFFF_0000_0000_0000, file_size=SIZE, memory_size=SIZE))),
        is_refused(program(header(), segment(file_size=SIZE, memory_size=(1 << 64) - 4096))),
        is_refused(program(header(), segment(file_size=SIZE, memory_size=8))),
        is_refused(program(header(), segment(offset=1, file_size=SIZE, memory_size=SIZE))),
    )


@check
def entry_outside_the_segments_gives_sigsegv():
    return start(program(header(entry=0x1234_5000), segment(file_size=SIZE, memory_size=SIZE)))


@check
def bad_interpreters_are_refused():
    def with_interpreter(name):
        interpreter = segment(kind=3, flags=4, offset=SIZE, address=BASE + SIZE, file_size=len(name), memory_size=len(name))
        size = SIZE + len(name)
        head = header(count=2, entry=BASE + 176 + 56)
        data = (head + interpreter + segment(file_size=size, memory_size=size)).ljust(176, b"\0") + CODE + TEXT
        return data + name

    return (
        start(with_interpreter(b"/missing/ld.so\0")),
        start(with_interpreter(b"no-terminator")),
        start(with_interpreter(b"\0")),
        start(with_interpreter(b"/etc/passwd\0")),
    )


@check
def not_readable_but_executable_program_runs_for_others():
    with open("hidden", "wb") as file:
        file.write(program())
    os.chmod("hidden", 0o711)
    os.chmod(".", 0o755)

    def other():
        os.setresuid(1000, 1000, 1000)
        print(outcome(os.open, "hidden", 0), flush=True)
        os.execv("./hidden", ["x"])

    return in_child(other)
