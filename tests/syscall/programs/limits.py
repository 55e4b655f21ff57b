"""Resource limits, identity of the machine, random numbers, capabilities of the process."""

import ctypes
import os
import resource
import struct
import time

from harness import UNMAPPED, check, fresh, in_child, outcome, raw


@check
def limits_bad_arguments():
    pair = (ctypes.c_uint64 * 2)()
    return (
        outcome(raw.prlimit64, 0, 99, None, pair),
        outcome(raw.prlimit64, 0x3FFFFFFF, 7, None, pair),
        outcome(raw.prlimit64, 0, 7, UNMAPPED, None),
        outcome(raw.prlimit64, 0, 7, None, UNMAPPED),
        outcome(raw.prlimit64, 0, 7, struct.pack("<QQ", 20, 10), None),
        outcome(raw.getrlimit, 99, pair),
        outcome(raw.setrlimit, 7, UNMAPPED),
    )


@check
def descriptor_limit_returns_emfile():
    def limited():
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
        opened = []
        while isinstance(fd := outcome(os.open, "/dev/null", 0), int):
            opened.append(fd)
        print(max(opened), fd, outcome(os.pipe), outcome(os.dup, 0), outcome(os.dup2, 0, 30), outcome(raw.socket, 1, 1, 0), flush=True)

    return in_child(limited)


@check
def soft_limit_moves_below_the_hard_one():
    def other():
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))
        os.setresuid(1000, 1000, 1000)
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 100))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (80, 200))
            raised = "raised"
        except ValueError as error:
            raised = str(error)
        print(resource.getrlimit(resource.RLIMIT_NOFILE), raised, flush=True)

    return in_child(other)


@check
def processor_time_limit_kills():
    def busy():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Time that the host takes from the machine counts: it must not reach from one limit to the other.
        resource.setrlimit(resource.RLIMIT_CPU, (1, 30))
        end = time.monotonic() + 40
        while time.monotonic() < end:
            pass
        return 1

    return in_child(busy)


@check
def core_limit_default_and_change():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_STACK)[0], resource.getpagesize()


@check
def random_numbers_differ():
    return len(os.getrandom(100)), os.getrandom(16) != os.getrandom(16), os.urandom(16) != os.urandom(16)


@check
def random_bad_arguments():
    buffer = ctypes.create_string_buffer(16)
    return (
        outcome(raw.getrandom, UNMAPPED, 10, 0),
        outcome(raw.getrandom, buffer, 10, 0x80),
        outcome(raw.getrandom, buffer, 10, 6),
        outcome(raw.getrandom, buffer, 0, 0),
        outcome(raw.getrandom, buffer, 16, os.GRND_NONBLOCK),
    )


@check
def random_devices_give_bytes():
    result = []
    for name in ("random", "urandom"):
        fd = os.open(f"/dev/{name}", os.O_RDWR)
        result.append((len(os.read(fd, 1000)), os.read(fd, 8) != os.read(fd, 8), os.write(fd, b"seed")))
    return result


@check
def random_bytes_are_spread():
    counts = [0] * 256
    for byte in os.getrandom(256 * 64, 0):
        counts[byte] += 1
    return min(counts) > 20, max(counts) < 140


@check
def uname_tells_the_machine():
    info = os.uname()
    return info.sysname, info.machine, outcome(raw.uname, UNMAPPED), int(info.release.split(".")[0]) >= 5


@check
def host_name_can_be_set():
    def child():
        raw.sethostname(b"renamed", 7)
        name = os.uname().nodename
        print(name, outcome(raw.sethostname, b"x" * 70, 70), outcome(raw.sethostname, UNMAPPED, 5), flush=True)
        os.setresuid(1000, 1000, 1000)
        print(outcome(raw.sethostname, b"x", 1), flush=True)

    import socket

    before = socket.gethostname()
    result = in_child(child)
    socket.sethostname(before)
    return result


@check
def sysinfo_and_counts():
    buffer = ctypes.create_string_buffer(128)
    raw.sysinfo(buffer)
    uptime, total, free = struct.unpack_from("<q24xQQ", buffer)
    return uptime > 0, 0 < free < total, outcome(raw.sysinfo, UNMAPPED), os.cpu_count() >= 1, len(os.getloadavg())


@check
def umask_gives_the_old_one():
    return raw.umask(0o77), raw.umask(0o22)


@check
def capabilities_of_root():
    header = struct.pack("<Ii", 0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    return (
        outcome(raw.capget, header, data),
        data[0] & 0xFF == 0xFF,
        outcome(raw.capget, struct.pack("<Ii", 1234, 0), data),
        outcome(raw.capget, UNMAPPED, data),
    )


@check
def ids_of_the_first_user():
    triple = (ctypes.c_uint32 * 3)()
    raw.getresuid(ctypes.addressof(triple), ctypes.addressof(triple) + 4, ctypes.addressof(triple) + 8)
    return os.getuid(), os.geteuid(), os.getgid(), list(triple), outcome(raw.getresuid, UNMAPPED, UNMAPPED, UNMAPPED)


@check
def personality_and_domain():
    return raw.personality(0xFFFFFFFF), outcome(raw.getcpu, UNMAPPED, None, None)


@check
def file_handles_run_out_as_asked():
    fd = fresh("handle")
    return fd >= 3, outcome(raw.close, 1 << 31), outcome(raw.close, -1)


@check
def inotify_and_others_exist_or_say_so():
    return outcome(raw.inotify_init1, 0x40000000), outcome(raw.reboot, 0, 0, 0, None), outcome(raw.syslog, 99, None, 0)
