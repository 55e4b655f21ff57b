"""Regular files: offsets, vectors, truncation, descriptors, locks, copies."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat

from harness import KERNEL, PAGE, UNMAPPED, check, fresh, in_child, iovecs, outcome, raw

fd = fresh("file", b"0123456789")
reading = os.open("file", os.O_RDONLY)
writing = os.open("file", os.O_WRONLY)
pipe_out, pipe_in = os.pipe()


@check
def lseek_moves_from_start_current_and_end():
    return os.lseek(fd, 3, 0), os.lseek(fd, 2, 1), os.lseek(fd, -1, 2), os.lseek(fd, 5, 2)


@check
def lseek_bad_whence_returns_einval():
    return raw.lseek(fd, 0, 99)


@check
def lseek_before_the_start_returns_einval():
    return outcome(os.lseek, fd, -1, 0), outcome(os.lseek, fd, -11, 2)


@check
def lseek_on_a_pipe_returns_espipe():
    return os.lseek(pipe_out, 0, 0)


@check
def lseek_finds_data_and_hole():
    hole = fresh("hole")
    os.pwrite(hole, b"x", 1 << 20)
    size = os.fstat(hole).st_size
    found = os.lseek(hole, 0, os.SEEK_DATA), os.lseek(hole, 0, os.SEEK_HOLE)
    return size, found, outcome(os.lseek, hole, size, os.SEEK_DATA), outcome(os.lseek, hole, size, os.SEEK_HOLE)


@check
def read_at_the_end_returns_nothing():
    os.lseek(fd, 100, 0)
    return os.read(fd, 10)


@check
def read_into_unmapped_memory_returns_efault():
    os.lseek(fd, 0, 0)
    return outcome(raw.read, fd, UNMAPPED, 5), outcome(raw.read, fd, KERNEL, 5), os.lseek(fd, 0, 1)


@check
def read_of_no_bytes_needs_no_memory():
    return raw.read(fd, UNMAPPED, 0)


@check
def read_at_the_end_does_not_touch_the_memory():
    os.lseek(fd, 0, 2)
    return raw.read(fd, UNMAPPED, 5)


@check
def write_from_unmapped_memory_returns_efault():
    return outcome(raw.write, fd, UNMAPPED, 5), outcome(raw.write, fd, KERNEL, 5), os.fstat(fd).st_size


@check
def closed_descriptor_returns_ebadf():
    calls = [
        outcome(raw.read, 999, b"x", 1),
        outcome(raw.write, 999, b"x", 1),
        outcome(raw.lseek, 999, 0, 0),
        outcome(raw.fstat, 999, UNMAPPED),
        outcome(raw.close, 999),
        outcome(raw.dup, 999),
        outcome(raw.dup3, 999, 50, 0),
        outcome(raw.fcntl, 999, 1),
        outcome(raw.ioctl, 999, 0x5401, UNMAPPED),
        outcome(raw.ftruncate, 999, 0),
        outcome(raw.fsync, 999),
        outcome(raw.getdents64, 999, UNMAPPED, 100),
        outcome(raw.flock, 999, 2),
        outcome(raw.fallocate, 999, 0, 0, 1),
        outcome(raw.read, -1, b"x", 1),
    ]
    return calls


@check
def access_mode_is_kept_to():
    return outcome(os.read, writing, 1), outcome(os.write, reading, b"x"), outcome(os.ftruncate, reading, 0)


@check
def pread_leaves_the_offset():
    os.lseek(fd, 1, 0)
    return os.pread(fd, 4, 3), os.lseek(fd, 0, 1)


@check
def pread_bad_arguments():
    buffer = ctypes.create_string_buffer(4)
    return (
        outcome(raw.pread64, fd, buffer, 4, -1),
        outcome(raw.pread64, pipe_out, buffer, 4, 0),
        outcome(raw.pwrite64, fd, buffer, 4, -1),
        outcome(raw.pwrite64, pipe_in, buffer, 4, 0),
    )


@check
def pwrite_beyond_the_end_fills_with_zeros():
    sparse = fresh("sparse", b"ab")
    return os.pwrite(sparse, b"z", 6), os.pread(sparse, 20, 0)


@check
def readv_fills_buffers_in_order():
    one, two = ctypes.create_string_buffer(3), ctypes.create_string_buffer(20)
    os.lseek(fd, 0, 0)
    count = raw.readv(fd, iovecs(one, two), 2)
    return count, one.raw, two.raw[:7]


@check
def writev_writes_buffers_in_order():
    target = fresh("vector")
    return os.writev(target, [b"ab", b"", b"cde"]), os.pread(target, 20, 0)


@check
def vector_bad_arguments():
    entry = iovecs(ctypes.create_string_buffer(4))
    bad = iovecs(ctypes.create_string_buffer(4))
    bad[0].iov_base = UNMAPPED
    huge = iovecs(ctypes.create_string_buffer(4))
    huge[0].iov_len = 1 << 63
    os.lseek(fd, 0, 0)
    return (
        outcome(raw.readv, fd, entry, -1),
        outcome(raw.readv, fd, entry, 1025),
        outcome(raw.readv, fd, UNMAPPED, 1),
        outcome(raw.readv, fd, bad, 1),
        outcome(raw.readv, fd, huge, 1),
        outcome(raw.readv, fd, entry, 0),
    )


@check
def vector_that_faults_later_reports_what_was_done():
    good = ctypes.create_string_buffer(4)
    vector = iovecs(good, good)
    vector[1].iov_base = UNMAPPED
    os.lseek(fd, 0, 0)
    return raw.readv(fd, vector, 2), good.raw, os.lseek(fd, 0, 1)


@check
def preadv_and_pwritev_take_an_offset():
    target = fresh("positioned", b"..........")
    buffer = bytearray(4)
    return os.pwritev(target, [b"ab", b"cd"], 3), os.preadv(target, [buffer], 4), bytes(buffer)


@check
def append_writes_at_the_end():
    other = os.open("append", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(other, b"one")
    os.lseek(other, 0, 0)
    os.write(other, b"two")
    return os.pread(other, 20, 0), os.lseek(other, 0, 1)


@check
def ftruncate_cuts_and_extends():
    target = fresh("cut", b"abcdef")
    os.ftruncate(target, 2)
    os.ftruncate(target, 4)
    return os.pread(target, 10, 0), os.fstat(target).st_size


@check
def truncate_bad_arguments():
    os.makedirs("folder", exist_ok=True)
    return (
        outcome(raw.ftruncate, fd, -1),
        outcome(raw.ftruncate, pipe_in, 0),
        outcome(raw.truncate, b"folder", 0),
        outcome(raw.truncate, b"missing", 0),
        outcome(raw.truncate, UNMAPPED, 0),
        outcome(raw.truncate, b"file", -1),
    )


@check
def dup_shares_the_offset():
    os.lseek(fd, 2, 0)
    other = os.dup(fd)
    os.read(other, 3)
    return os.lseek(fd, 0, 1)


@check
def dup3_bad_arguments():
    return (
        outcome(raw.dup3, fd, fd, 0),
        outcome(raw.dup3, fd, -1, 0),
        outcome(raw.dup3, fd, 60, 1),
        outcome(raw.dup3, fd, 60, os.O_CLOEXEC) == 60 and fcntl.fcntl(60, fcntl.F_GETFD),
    )


@check
def fcntl_dupfd_takes_the_lowest_free():
    low = fcntl.fcntl(fd, fcntl.F_DUPFD, 80)
    second = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 80)
    flags = fcntl.fcntl(low, fcntl.F_GETFD), fcntl.fcntl(second, fcntl.F_GETFD)
    os.close(low)
    os.close(second)
    return low, second, flags, outcome(fcntl.fcntl, fd, fcntl.F_DUPFD, -1)


@check
def fcntl_status_flags_can_be_set():
    before = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    after = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    return before == os.O_RDWR, after == os.O_RDWR | os.O_APPEND | os.O_NONBLOCK


@check
def fcntl_unknown_command_returns_einval():
    return raw.fcntl(fd, 12345, 0)


@check
def record_locks_hold_between_processes():
    fcntl.lockf(fd, fcntl.LOCK_EX, 4, 2)

    def other():
        mine = os.open("file", os.O_RDWR)
        print("overlapping", outcome(fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 4, 4))
        print("beside", outcome(fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 8), flush=True)

    result = in_child(other)
    fcntl.lockf(fd, fcntl.LOCK_UN)
    return result


@check
def flock_excludes_another_open_file():
    one, two = os.open("file", os.O_RDWR), os.open("file", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    busy = outcome(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_SH)
    shared = outcome(fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(one)
    freed = outcome(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return busy, shared, freed, outcome(raw.flock, fd, 77)


@check
def fallocate_extends_or_keeps_the_size():
    target = fresh("allocated", b"ab")
    os.posix_fallocate(target, 0, 100)
    size = os.fstat(target).st_size
    raw.fallocate(target, 1, 0, 5000)
    return (
        size,
        os.fstat(target).st_size,
        outcome(raw.fallocate, target, 0, -1, 5),
        outcome(raw.fallocate, target, 0, 0, 0),
        outcome(raw.fallocate, pipe_in, 0, 0, 5),
    )


@check
def large_hole_leaves_what_is_beside_it():
    size, start, end = 1500 * PAGE, 3 * PAGE + 100, 1400 * PAGE + 50
    fd = fresh("large", b"x" * size)
    os.unlink("large")
    shared, private = mmap.mmap(fd, size), mmap.mmap(fd, size, mmap.MAP_PRIVATE)
    private[700 * PAGE] = ord("p")
    before = shared[start], shared[end - 1], private[start]
    raw.fallocate(fd, 3, start, end - start)
    data = os.pread(fd, size, 0)
    places = (
        os.fstat(fd).st_blocks * 512 // PAGE,
        os.lseek(fd, 0, os.SEEK_HOLE) == 4 * PAGE,
        os.lseek(fd, 5 * PAGE, os.SEEK_DATA) == 1400 * PAGE,
        os.lseek(fd, 1400 * PAGE, os.SEEK_HOLE) == size,
    )
    return (
        before == (ord("x"),) * 3,
        data == b"x" * start + bytes(end - start) + b"x" * (size - end),
        shared[:] == data,
        private[700 * PAGE : 700 * PAGE + 2],
        private[800 * PAGE : 800 * PAGE + 2],
        places,
    )


@check
def fallocate_punches_a_hole():
    target = fresh("punched", b"x" * 12288)
    raw.fallocate(target, 3, 4000, 4300)
    data = os.pread(target, 12288, 0)
    return len(data), data.count(b"\0"), data.index(b"\0")


@check
def sendfile_copies_and_moves_the_offset():
    target = fresh("sent")
    os.lseek(fd, 2, 0)
    buffer = ctypes.c_long(5)
    return (
        raw.sendfile(target, fd, None, 3),
        os.lseek(fd, 0, 1),
        raw.sendfile(target, fd, ctypes.byref(buffer), 100),
        buffer.value,
        os.lseek(fd, 0, 1),
        os.pread(target, 20, 0),
    )


@check
def copy_file_range_copies():
    target = fresh("copied")
    return os.copy_file_range(fd, target, 5, 1), os.pread(target, 20, 0), outcome(os.copy_file_range, fd, pipe_in, 5)


@check
def stat_tells_type_size_and_links():
    os.link("file", "link")
    info = os.stat("link")
    folder = os.stat(".")
    return stat.filemode(info.st_mode), info.st_size, info.st_nlink, stat.filemode(folder.st_mode), info.st_uid


@check
def stat_counts_blocks_of_512_bytes():
    target = fresh("blocks", b"x" * 5000)
    info = os.fstat(target)
    return info.st_blocks, info.st_blksize


@check
def fstat_of_a_pipe_is_a_fifo():
    return stat.filemode(os.fstat(pipe_in).st_mode)


@check
def fstat_into_unmapped_memory_returns_efault():
    return raw.fstat(fd, UNMAPPED)


@check
def statx_fills_what_is_asked():
    buffer = (ctypes.c_uint32 * 64)()
    raw.statx(-100, b"file", 0, 0x7FF, buffer)
    size = buffer[10] | buffer[11] << 32
    return buffer[0] & 0x7FF == 0x7FF, size, oct(buffer[7] & 0xFFFF)


@check
def statx_bad_arguments():
    buffer = (ctypes.c_uint32 * 64)()
    return (
        outcome(raw.statx, -100, b"missing", 0, 0x7FF, buffer),
        outcome(raw.statx, -100, b"file", 0, 0x80000000, buffer),
        outcome(raw.statx, -100, b"file", 0x40000000, 0x7FF, buffer),
        outcome(raw.statx, -100, b"file", 0, 0x7FF, UNMAPPED),
        outcome(raw.statx, -100, b"", 0, 0x7FF, buffer),
        outcome(raw.statx, fd, b"", 0x1000, 0x7FF, buffer),
    )


@check
def fchmod_and_fchown_change_the_file():
    os.fchmod(fd, 0o4751)
    mode = stat.filemode(os.fstat(fd).st_mode)
    os.fchown(fd, 12, 34)
    info = os.fstat(fd)
    return mode, info.st_uid, info.st_gid, stat.filemode(info.st_mode)


@check
def utimens_sets_nanoseconds():
    os.utime(fd, ns=(1_000_000_001, 2_000_000_002))
    info = os.fstat(fd)
    return info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns > 3_000_000_000


@check
def utimensat_bad_arguments():
    times = (ctypes.c_long * 4)(1, 2_000_000_000, 1, 0)
    omit = (ctypes.c_long * 4)(0, (1 << 30) - 2, 77, 0)
    return (
        outcome(raw.utimensat, -100, b"file", times, 0),
        outcome(raw.utimensat, -100, b"missing", None, 0),
        outcome(raw.utimensat, -100, b"file", omit, 0),
        os.stat("file").st_mtime_ns,
        os.stat("file").st_atime_ns,
    )


@check
def cloexec_is_set_only_where_asked():
    plain = raw.openat(-100, b"file", os.O_RDONLY)
    closing = raw.openat(-100, b"file", os.O_RDONLY | os.O_CLOEXEC)
    return fcntl.fcntl(plain, fcntl.F_GETFD), fcntl.fcntl(closing, fcntl.F_GETFD)


@check
def close_range_closes_all_between():
    for number in (90, 91, 92):
        os.dup2(fd, number)
    raw.close_range(90, 91, 0)
    result = [outcome(fcntl.fcntl, n, fcntl.F_GETFD) for n in (90, 91, 92)]
    raw.close_range(92, 92, 4)
    return result, fcntl.fcntl(92, fcntl.F_GETFD), outcome(raw.close_range, 5, 3, 0), outcome(raw.close_range, 500, 600, 64)


@check
def memfd_is_a_file_without_a_name():
    memory = os.memfd_create("name", os.MFD_ALLOW_SEALING)
    os.write(memory, b"content")
    seals = fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    return (
        os.pread(memory, 20, 0),
        os.readlink(f"/proc/self/fd/{memory}"),
        seals,
        fcntl.fcntl(memory, fcntl.F_GET_SEALS),
        outcome(os.write, memory, b"x"),
        outcome(os.ftruncate, memory, 1),
        outcome(raw.memfd_create, b"x", 0x80000),
        outcome(raw.memfd_create, UNMAPPED, 0),
        outcome(raw.memfd_create, b"x" * 300, 0),
    )


@check
def device_files_behave():
    zero, full, null = (os.open(f"/dev/{n}", os.O_RDWR) for n in ("zero", "full", "null"))
    return (
        os.read(zero, 4),
        os.write(zero, b"abc"),
        os.read(full, 2),
        outcome(os.write, full, b"x"),
        os.read(null, 5),
        os.write(null, b"abcd"),
        stat.filemode(os.fstat(null).st_mode),
        os.major(os.fstat(null).st_rdev),
        os.minor(os.fstat(zero).st_rdev),
        os.lseek(null, 5, 0),
    )


@check
def unlinked_file_stays_readable():
    target = fresh("gone", b"still here")
    os.unlink("gone")
    return os.pread(target, 20, 0), os.fstat(target).st_nlink, os.path.exists("gone")


@check
def file_size_limit_sends_a_signal_or_efbig():
    def limited():
        import resource
        import signal

        target = fresh("limited")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        print(os.write(target, b"x" * 20), outcome(os.write, target, b"y"), flush=True)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.write(target, b"y")

    return in_child(limited)


@check
def sync_calls_succeed():
    return raw.fsync(fd), raw.fdatasync(fd), outcome(raw.fsync, pipe_in), outcome(os.sync)


@check
def fadvise_and_readahead():
    return (
        outcome(raw.fadvise64, fd, 0, 0, 3),
        outcome(raw.fadvise64, fd, 0, 0, 99),
        outcome(raw.fadvise64, pipe_in, 0, 0, 0),
        outcome(raw.fadvise64, 999, 0, 0, 0),
    )


@check
def errors_have_names():
    return errno.errorcode[errno.EOPNOTSUPP], errno.errorcode[errno.EWOULDBLOCK]
