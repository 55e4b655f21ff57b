"""/proc and /dev: what glibc, CPython and programs read there."""

import ctypes
import fcntl
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

from harness import check, fresh, in_child, outcome


def text(name):
    with open(f"/proc/{name}") as file:
        return file.read()


@check
def self_is_a_link_to_the_process():
    return os.readlink("/proc/self") == str(os.getpid()), os.readlink("/proc/thread-self") == f"{os.getpid()}/task/{os.getpid()}"


@check
def descriptors_are_links():
    fd = fresh("open-file", b"content")
    name = os.readlink(f"/proc/self/fd/{fd}")
    os.rename("open-file", "renamed")
    renamed = os.readlink(f"/proc/self/fd/{fd}")
    os.unlink("renamed")
    gone = os.readlink(f"/proc/self/fd/{fd}")
    reader, _writer = os.pipe()
    return (
        os.path.basename(name),
        os.path.basename(renamed),
        os.path.basename(gone),
        re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{reader}")),
        open(f"/proc/self/fd/{fd}").read(),
        str(fd) in os.listdir("/proc/self/fd"),
        outcome(os.readlink, "/proc/self/fd/999"),
        outcome(os.stat, "/proc/self/fd/x"),
    )


@check
def descriptor_details():
    fd = fresh("details", b"0123456789")
    os.lseek(fd, 4, 0)
    fields = dict(line.split(":\t") for line in text(f"self/fdinfo/{fd}").splitlines()[:2])
    return fields["pos"], int(fields["flags"], 8) & os.O_ACCMODE


@check
def links_of_the_process():
    here = os.getcwd()
    return os.readlink("/proc/self/cwd") == here, os.readlink("/proc/self/root"), os.readlink("/proc/self/exe").startswith("/usr/bin/python3")


@check
def command_line_and_environment():
    program = "import sys; print([open('/proc/self/' + n, 'rb').read() for n in ('cmdline', 'environ')])"
    done = subprocess.run(["/usr/bin/python3", "-c", program, "last"], env={"ONE": "1", "TWO": "2"}, capture_output=True, text=True)
    return done.stdout.replace(program, "PROGRAM"), done.stderr


@check
def comm_can_be_read_and_written():
    with open("/proc/self/comm", "w") as file:
        file.write("new-name-that-is-long")
    return text("self/comm")


@check
def status_has_the_fields_programs_read():
    fields = dict(line.split(":\t", 1) for line in text("self/status").splitlines() if ":\t" in line)
    return (
        fields["Tgid"] == str(os.getpid()),
        fields["Pid"] == str(os.getpid()),
        fields["PPid"] == str(os.getppid()),
        fields["State"],
        fields["Uid"],
        fields["Gid"],
        fields["Threads"],
        bool(re.fullmatch(r" *\d+ kB", fields["VmRSS"])),
        bool(re.fullmatch(r" *\d+ kB", fields["VmSize"])),
        bool(re.fullmatch(r"[0-9a-f]{16}", fields["SigBlk"])),
        fields["FDSize"].isdigit(),
    )


@check
def stat_has_52_fields():
    line = text("self/stat")
    rest = line[line.rindex(")") + 2 :].split()
    return line.split()[0] == str(os.getpid()), len(rest), rest[0], rest[1] == str(os.getppid()), rest[17], int(rest[20]) > 0


@check
def statm_counts_pages():
    numbers = [int(n) for n in text("self/statm").split()]
    return len(numbers), numbers[0] > numbers[1] > 0


@check
def start_time_is_after_the_boot():
    line = text("self/stat")
    ticks = int(line[line.rindex(")") + 2 :].split()[19])
    return 0 < ticks / os.sysconf("SC_CLK_TCK") <= time.clock_gettime(time.CLOCK_BOOTTIME)


@check
def tasks_are_the_threads():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    listed = sorted(int(n) for n in os.listdir("/proc/self/task"))
    expected = sorted([os.getpid(), thread.native_id])
    done.set()
    thread.join()
    return listed == expected


@check
def processes_are_listed():
    names = os.listdir("/proc")
    return str(os.getpid()) in names, "1" in names, "self" in names, outcome(os.stat, "/proc/1073741823"), outcome(os.listdir, "/proc/0")


@check
def ended_process_is_a_zombie_until_waited_for():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    state = text(f"{child}/stat").split(")")[1].split()[0]
    command = text(f"{child}/cmdline")
    os.waitpid(child, 0)
    return state, command, os.path.exists(f"/proc/{child}")


@check
def other_users_see_little():
    os.chmod(".", 0o755)
    parent = os.getpid()

    def other():
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        print(outcome(os.listdir, f"/proc/{parent}/fd"), outcome(os.readlink, f"/proc/{parent}/exe"))
        print(outcome(open, f"/proc/{parent}/environ"), os.stat(f"/proc/{parent}").st_uid, flush=True)

    return in_child(other)


@check
def meminfo_has_the_fields_programs_read():
    fields = dict(line.split(":") for line in text("meminfo").splitlines())
    total, free = (int(fields[n].split()[0]) for n in ("MemTotal", "MemFree"))
    return fields["MemTotal"].split()[1], 0 < free < total, int(fields["MemAvailable"].split()[0]) > 0, "SwapTotal" in fields


@check
def system_files_have_their_form():
    return (
        bool(re.fullmatch(r"\d+\.\d\d \d+\.\d\d\n", text("uptime"))),
        bool(re.fullmatch(r"\d+\.\d\d \d+\.\d\d \d+\.\d\d \d+/\d+ \d+\n", text("loadavg"))),
        text("version").startswith("Linux version "),
        text("stat").startswith("cpu "),
        "btime " in text("stat"),
        "processor\t: 0" in text("cpuinfo"),
        "tmpfs" in text("filesystems"),
        text("sys/kernel/ostype"),
        text("sys/kernel/osrelease").strip() == os.uname().release,
        int(text("sys/kernel/pid_max")) > 1000,
        int(text("sys/fs/file-max")) > 1000,
        text("sys/kernel/random/boot_id").count("-"),
        text("sys/kernel/random/uuid") != text("sys/kernel/random/uuid"),
        text("sys/vm/overcommit_memory").strip() in ("0", "1", "2"),
    )


@check
def mounts_are_listed():
    lines = [line.split() for line in text("self/mounts").splitlines()]
    points = {fields[1]: fields[2] for fields in lines}
    info = [line.split() for line in text("self/mountinfo").splitlines()]
    return points.get("/proc"), points.get("/tmp"), points.get("/sys"), all(len(f) == 6 for f in lines), all("-" in f for f in info)


@check
def proc_cannot_be_changed():
    return (
        outcome(os.mkdir, "/proc/new"),
        outcome(os.open, "/proc/new", os.O_CREAT | os.O_WRONLY),
        outcome(os.unlink, "/proc/version"),
        outcome(os.write, os.open("/proc/self/comm", os.O_WRONLY), b"x"),
        outcome(os.rename, "/proc/version", "/proc/x"),
    )


@check
def reading_in_pieces_gives_the_same():
    whole = text("self/maps") and text("version")
    fd = os.open("/proc/version", 0)
    pieces = b""
    while piece := os.read(fd, 7):
        pieces += piece
    return pieces.decode() == whole, os.lseek(fd, 5, 0), os.read(fd, 3).decode() == whole[5:8], os.pread(fd, 5, 0).decode() == whole[:5]


@check
def auxiliary_vector_ends_with_zero():
    import struct

    data = open("/proc/self/auxv", "rb").read()
    entries = dict(struct.iter_unpack("<QQ", data))
    return entries[6], entries[17], entries[11], entries[23], 25 in entries, 31 in entries, 0 in entries, 3 in entries, 9 in entries


@check
def device_files_are_there():
    return {
        name: stat.filemode(os.stat(f"/dev/{name}").st_mode)[0] + f" {os.major(os.stat(f'/dev/{name}').st_rdev)}"
        for name in ("null", "zero", "full", "random", "urandom", "tty")
    }


@check
def standard_streams_have_names():
    return os.readlink("/dev/fd"), os.readlink("/dev/stdin"), os.readlink("/dev/stdout"), open("/dev/stdin").read()


@check
def shared_memory_folder_works():
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(create=True, size=5000, track=False)
    block.buf[:4] = b"data"
    other = shared_memory.SharedMemory(block.name, track=False)
    result = bytes(other.buf[:4]), other.size
    other.close()
    block.close()
    block.unlink()
    return result


@check
def named_semaphores_work():
    import _multiprocessing

    semaphore = _multiprocessing.SemLock(1, 1, 1, "/test-semaphore", True)
    return semaphore.acquire(), semaphore.acquire(False), semaphore.release()


@check
def system_figures_of_python():
    return os.sysconf("SC_PAGESIZE"), os.sysconf("SC_CLK_TCK"), os.sysconf("SC_NPROCESSORS_ONLN") >= 1, os.sysconf("SC_PHYS_PAGES") > 1000, sys.executable


@check
def memory_weight_is_inherited():
    def parent():
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("123")
        sys.stdout.flush()
        return int(in_child(lambda: int(text("self/oom_score_adj"))) != "exit 123")

    return in_child(parent), text("self/oom_score_adj")


@check
def smaller_files_of_a_process():
    names = "gid_map", "loginuid", "personality", "sessionid", "setgroups", "timerslack_ns", "uid_map"
    modes = [oct(os.stat(f"/proc/self/{name}").st_mode) for name in ("loginuid", "personality", "sessionid")]
    fields = dict(line.split(":\t", 1) for line in text("self/status").splitlines())
    return [text(f"self/{name}") for name in names], modes[1:], [fields[name] for name in ("Kthread", "HugetlbPages", "untag_mask")]


@check
def local_sockets_are_listed():
    kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
    made = [socket.socket(socket.AF_UNIX, kind) for kind in kinds]
    for own, name in zip(made, ("listed", "\0listed\0name", "listed-too")):
        own.bind(name)
    made[0].listen()
    made += socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    lines = [line.split(maxsplit=7) for line in text("net/unix").splitlines()]
    inodes = [str(os.fstat(own.fileno()).st_ino) for own in made]
    found = {line[6]: line[2:6] + line[7:] for line in lines}
    return lines[0], [found.get(inode) for inode in inodes]


@check
def figures_that_psutil_reads():
    cpu = "/sys/devices/system/cpu/cpu0/topology"
    sockets = socket.socket()
    question = ctypes.create_string_buffer(struct.pack("I", 1), 256)
    request = lambda name: struct.pack("16sQ16x", name, ctypes.addressof(question))
    return (
        [line.split()[0] for line in text("stat").splitlines() if line.startswith(("btime", "procs_", "softirq"))],
        [line.split()[0] for line in text("vmstat").splitlines() if line.startswith("pswp")],
        [name for name in ("SReclaimable", "KernelStack", "PageTables") if f"{name}:" in text("meminfo")],
        [open(f"{cpu}/{name}").read() for name in ("core_cpus_list", "core_id", "physical_package_id")],
        os.listdir("/sys/class/power_supply"),
        outcome(fcntl.ioctl, sockets, 0x8946, request(b"lo")),
        outcome(fcntl.ioctl, sockets, 0x8946, request(b"nothing")),
        outcome(fcntl.ioctl, sockets, 0x8946, bytes(40)),
    )


@check
def text_is_made_anew_when_read_from_the_beginning():
    def renamed(name):
        with open("/proc/self/comm", "w") as file:
            file.write(name)

    before = text("self/comm")
    renamed("first")
    fd = os.open("/proc/self/comm", os.O_RDONLY)
    renamed("second")
    result = [os.read(fd, 3), os.read(fd, 100)]
    renamed("third")
    result += [os.pread(fd, 100, 0), os.read(fd, 100), os.lseek(fd, 0, os.SEEK_SET), os.read(fd, 100)]
    os.close(fd)
    child = os.fork()
    if child == 0:
        os._exit(0)
    fd = os.open(f"/proc/{child}/status", os.O_RDONLY)
    os.waitpid(child, 0)
    result.append(outcome(os.read, fd, 100))
    os.close(fd)
    renamed(before.strip())
    return result
