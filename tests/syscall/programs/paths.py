"""Names: opening, folders, links, renaming, permissions, path resolution."""

import ctypes
import os
import stat
import struct

from harness import UNMAPPED, check, fresh, in_child, outcome, raw

AT_FDCWD = -100
os.close(fresh("file", b"content"))
os.mkdir("folder")
os.symlink("file", "link")
os.symlink("loop2", "loop1")
os.symlink("loop1", "loop2")
os.symlink("nowhere", "dangling")


@check
def open_missing_name_returns_enoent():
    return outcome(os.open, "missing", 0), outcome(os.open, "missing/x", 0), outcome(os.open, "", 0)


@check
def open_through_a_file_returns_enotdir():
    return outcome(os.open, "file/x", 0), outcome(os.open, "file/", 0), outcome(os.open, "file/.", 0)


@check
def open_bad_pointer_returns_efault():
    return raw.openat(AT_FDCWD, UNMAPPED, 0)


@check
def open_too_long_name_returns_enametoolong():
    return outcome(os.open, "x" * 256, 0), outcome(os.open, "x/" * 2048, 0), outcome(os.open, "./" * 2047 + "x", 0)


@check
def name_of_255_bytes_is_allowed():
    os.close(os.open("n" * 255, os.O_CREAT | os.O_WRONLY))
    return os.path.exists("n" * 255)


@check
def open_exclusive_existing_returns_eexist():
    flags = os.O_CREAT | os.O_EXCL
    return outcome(os.open, "file", flags), outcome(os.open, "dangling", flags), outcome(os.open, "folder", flags)


@check
def open_folder_for_writing_returns_eisdir():
    return (
        outcome(os.open, "folder", os.O_WRONLY),
        outcome(os.open, "folder", os.O_RDWR),
        outcome(os.open, "folder", os.O_CREAT),
        outcome(os.open, "new/", os.O_CREAT | os.O_WRONLY),
    )


@check
def open_o_directory_of_a_file_returns_enotdir():
    return os.open("file", os.O_DIRECTORY)


@check
def open_nofollow_of_a_link_returns_eloop():
    return outcome(os.open, "link", os.O_NOFOLLOW), outcome(os.open, "loop1", 0)


@check
def o_path_gives_a_name_only():
    fd = os.open("file", os.O_PATH)
    return (
        outcome(os.read, fd, 1),
        os.fstat(fd).st_size,
        outcome(os.fchmod, fd, 0o600),
        stat.S_ISLNK(os.fstat(os.open("link", os.O_PATH | os.O_NOFOLLOW)).st_mode),
        os.read(os.open(f"/proc/self/fd/{fd}", 0), 20),
    )


@check
def o_tmpfile_has_no_name():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"hidden")
    before = os.fstat(fd).st_nlink
    raw.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, b"appeared", 0x400)
    return before, open("appeared").read(), outcome(os.open, "file", os.O_TMPFILE | os.O_RDWR)


@check
def read_of_a_folder_returns_eisdir():
    fd = os.open("folder", 0)
    return outcome(os.read, fd, 10), outcome(os.pread, fd, 10, 0)


@check
def openat_is_relative_to_a_folder():
    fd = os.open("folder", os.O_DIRECTORY)
    inside = os.open("inside", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(inside)
    return (
        os.listdir("folder"),
        outcome(raw.openat, 999, b"inside", 0),
        outcome(raw.openat, os.open("file", 0), b"inside", 0),
        outcome(raw.openat, 999, os.path.abspath("file").encode(), 0) > 0,
    )


@check
def mkdir_bad_names():
    return (
        outcome(os.mkdir, "folder"),
        outcome(os.mkdir, "file"),
        outcome(os.mkdir, "dangling"),
        outcome(os.mkdir, "missing/x"),
        outcome(os.mkdir, "file/x"),
        outcome(os.mkdir, ""),
        outcome(os.mkdir, "/"),
        outcome(os.mkdir, "slash/"),
        outcome(os.mkdir, "folder/."),
    )


@check
def umask_takes_bits_away():
    old = os.umask(0o027)
    os.mkdir("masked", 0o777)
    os.close(os.open("masked/file", os.O_CREAT | os.O_WRONLY, 0o666))
    modes = [stat.filemode(os.stat(n).st_mode) for n in ("masked", "masked/file")]
    return oct(os.umask(old)), modes


@check
def rmdir_bad_names():
    os.makedirs("full/inner", exist_ok=True)
    return (
        outcome(os.rmdir, "full"),
        outcome(os.rmdir, "file"),
        outcome(os.rmdir, "link"),
        outcome(os.rmdir, "missing"),
        outcome(os.rmdir, "full/."),
        outcome(os.rmdir, "full/inner/.."),
        outcome(os.rmdir, "/tmp/.."),
    )


@check
def unlink_bad_names():
    return (
        outcome(os.unlink, "folder"),
        outcome(os.unlink, "missing"),
        outcome(os.unlink, "file/"),
        outcome(os.unlink, "link/"),
        outcome(raw.unlinkat, AT_FDCWD, b"file", 0x1000),
        outcome(raw.unlinkat, AT_FDCWD, b"file", 0x200),
    )


@check
def link_bad_names():
    return (
        outcome(os.link, "folder", "another"),
        outcome(os.link, "file", "folder"),
        outcome(os.link, "missing", "another"),
        outcome(os.link, "file", "/dev/shm/x"),
    )


@check
def link_counts_names():
    os.link("file", "second")
    first = os.stat("file").st_nlink
    os.unlink("second")
    return first, os.stat("file").st_nlink


@check
def link_does_not_follow_by_default():
    os.link("link", "link-of-link", follow_symlinks=False)
    return os.readlink("link-of-link")


@check
def symlink_and_readlink():
    buffer = ctypes.create_string_buffer(10)
    return (
        os.readlink("link"),
        outcome(os.readlink, "file"),
        outcome(os.symlink, "x", "file"),
        outcome(os.symlink, "", "empty"),
        raw.readlinkat(AT_FDCWD, b"link", buffer, 2),
        buffer.value,
        outcome(raw.readlinkat, AT_FDCWD, b"link", buffer, 0),
        outcome(raw.readlinkat, AT_FDCWD, b"link", UNMAPPED, 9),
        os.lstat("link").st_size,
    )


@check
def rename_replaces_and_refuses():
    os.close(fresh("old", b"old"))
    os.close(fresh("new", b"new"))
    os.rename("old", "new")
    os.mkdir("empty1")
    os.mkdir("empty2")
    return (
        open("new").read(),
        os.path.exists("old"),
        outcome(os.rename, "missing", "x"),
        outcome(os.rename, "new", "folder"),
        outcome(os.rename, "folder", "new"),
        outcome(os.rename, "empty1", "full"),
        outcome(os.rename, "empty1", "empty2"),
        outcome(os.rename, "full", "full/inner/x"),
        outcome(os.rename, "new", "new"),
        outcome(os.rename, "full/.", "x"),
        outcome(os.rename, "new", "x/"),
    )


@check
def renameat2_noreplace_and_exchange():
    os.close(fresh("left", b"left"))
    os.close(fresh("right", b"right"))
    refused = outcome(raw.renameat2, AT_FDCWD, b"left", AT_FDCWD, b"right", 1)
    swapped = outcome(raw.renameat2, AT_FDCWD, b"left", AT_FDCWD, b"right", 2)
    return (
        refused,
        swapped,
        open("left").read(),
        outcome(raw.renameat2, AT_FDCWD, b"left", AT_FDCWD, b"none", 2),
        outcome(raw.renameat2, AT_FDCWD, b"left", AT_FDCWD, b"none", 3),
        outcome(raw.renameat2, AT_FDCWD, b"left", AT_FDCWD, b"none", 64),
    )


@check
def rename_keeps_open_files():
    fd = fresh("before", b"kept")
    os.rename("before", "after")
    return os.pread(fd, 10, 0), os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


@check
def rename_across_file_systems_returns_exdev():
    return os.rename("new", "/dev/shm/x")


@check
def dot_dot_stops_at_the_root():
    return os.stat("/..").st_ino == os.stat("/").st_ino, os.path.realpath("/../../tmp")


@check
def getcwd_and_chdir():
    start = os.getcwd()
    os.chdir("folder")
    inner = os.path.basename(os.getcwd())
    os.chdir("..")
    buffer = ctypes.create_string_buffer(64)
    return (
        inner,
        os.getcwd() == start,
        outcome(os.chdir, "file"),
        outcome(os.chdir, "missing"),
        outcome(raw.getcwd, buffer, 2),
        outcome(raw.getcwd, UNMAPPED, 64),
        raw.getcwd(buffer, 64) == len(start) + 1,
        outcome(raw.fchdir, os.open("file", 0)),
    )


@check
def removed_current_folder_returns_enoent():
    def inside():
        os.mkdir("vanishing")
        os.chdir("vanishing")
        os.rmdir("../vanishing")
        print(outcome(os.getcwd), outcome(os.open, "x", os.O_CREAT), os.listdir("."), flush=True)

    return in_child(inside)


@check
def getdents64_lists_types():
    fd = os.open(".", os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(65536)
    found = {}
    while length := raw.getdents64(fd, buffer, 65536):
        at = 0
        while at < length:
            size, kind = struct.unpack_from("<HB", buffer, at + 16)
            name = buffer.raw[at + 19 : at + size].split(b"\0")[0].decode()
            found[name] = kind
            at += size
    return {n: found.get(n) for n in (".", "..", "file", "folder", "link")}


@check
def getdents64_bad_arguments():
    fd = os.open(".", os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(10)
    return (
        outcome(raw.getdents64, fd, buffer, 10),
        outcome(raw.getdents64, os.open("file", 0), buffer, 10),
        outcome(raw.getdents64, fd, UNMAPPED, 1000),
    )


@check
def listing_survives_removal_while_reading():
    os.mkdir("many")
    for number in range(300):
        os.close(os.open(f"many/{number:03}", os.O_CREAT | os.O_WRONLY))
    with os.scandir("many") as entries:
        for entry in entries:
            os.unlink(entry.path)
    return os.listdir("many")


@check
def chmod_and_access():
    os.chmod("file", 0o400)
    return (
        stat.filemode(os.stat("file").st_mode),
        os.access("file", os.W_OK),
        os.access("file", os.X_OK),
        os.access("missing", os.F_OK),
        outcome(raw.faccessat, AT_FDCWD, b"file", 8),
        outcome(raw.faccessat, AT_FDCWD, b"missing", 0),
        outcome(os.chmod, "missing", 0o600),
        outcome(os.chmod, "link", 0o640),
        oct(os.stat("file").st_mode),
    )


@check
def permissions_hold_for_another_user():
    os.chmod(".", 0o755)
    os.close(os.open("private", os.O_CREAT | os.O_WRONLY, 0o600))
    os.mkdir("closed", 0o700)
    os.mkdir("sticky", 0o777)
    os.chmod("sticky", 0o1777)
    os.close(os.open("sticky/root", os.O_CREAT | os.O_WRONLY, 0o666))

    def other():
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        print("open", outcome(os.open, "private", 0), outcome(os.open, "created", os.O_CREAT))
        print("look", outcome(os.listdir, "closed"), outcome(os.stat, "closed/x"))
        print("sticky", outcome(os.unlink, "sticky/root"))
        print("change", outcome(os.chmod, "file", 0o777), outcome(os.chown, "file", 1000, 1000))
        print("exec", outcome(os.execv, "private", ["x"]), flush=True)

    return in_child(other)


@check
def chown_changes_and_clears_setuid():
    os.close(os.open("owned", os.O_CREAT | os.O_WRONLY))
    os.chmod("owned", 0o6755)
    os.chown("owned", 5, -1)
    info = os.stat("owned")
    return info.st_uid, info.st_gid, oct(info.st_mode)


@check
def setgid_folder_hands_its_group_down():
    os.mkdir("shared")
    os.chown("shared", 0, 77)
    os.chmod("shared", 0o2775)
    os.mkdir("shared/inner")
    os.close(os.open("shared/file", os.O_CREAT | os.O_WRONLY))
    return os.stat("shared/inner").st_gid, oct(os.stat("shared/inner").st_mode), os.stat("shared/file").st_gid


@check
def mknod_makes_a_fifo():
    os.mkfifo("fifo", 0o600)
    return stat.filemode(os.stat("fifo").st_mode), outcome(os.mkfifo, "fifo"), outcome(os.open, "fifo", os.O_WRONLY | os.O_NONBLOCK)


@check
def read_only_file_system_returns_erofs():
    if not os.statvfs("/usr").f_flag & os.ST_RDONLY:
        return "/usr can be written to: nothing was tried"
    return (
        outcome(os.open, "/usr/new", os.O_CREAT | os.O_WRONLY),
        outcome(os.mkdir, "/usr/new"),
        outcome(os.unlink, "/usr/bin/python3"),
        outcome(os.rmdir, "/usr/lib"),
        outcome(os.symlink, "x", "/usr/new"),
        outcome(os.chmod, "/usr/bin", 0o700),
        outcome(os.open, "/usr/lib/os-release", os.O_WRONLY),
        outcome(os.truncate, "/usr/lib/os-release", 0),
        outcome(os.mkdir, "/usr/bin"),
        os.access("/usr/bin", os.W_OK),
    )


@check
def statvfs_tells_block_size_and_name_limit():
    info = os.statvfs(".")
    return info.f_bsize, info.f_namemax, info.f_blocks > 0, info.f_bfree <= info.f_blocks, outcome(os.statvfs, "missing")


@check
def unknown_at_flags_return_einval():
    buffer = ctypes.create_string_buffer(256)
    return (
        outcome(raw.newfstatat, AT_FDCWD, b"file", buffer, 0x40000000),
        outcome(raw.linkat, AT_FDCWD, b"file", AT_FDCWD, b"x", 0x40000000),
        outcome(raw.fchownat, AT_FDCWD, b"file", 0, 0, 0x40000000),
        outcome(raw.newfstatat, AT_FDCWD, b"", buffer, 0),
    )


@check
def extended_attributes():
    os.setxattr("new", "user.colour", b"blue")
    return (
        os.getxattr("new", "user.colour"),
        os.listxattr("new"),
        outcome(os.getxattr, "new", "user.none"),
        outcome(os.setxattr, "new", "user.colour", b"", os.XATTR_CREATE),
        outcome(os.removexattr, "new", "user.colour"),
        os.listxattr("new"),
    )


@check
def openat2_keeps_below_a_folder():
    how = struct.pack("<QQQ", 0, 0, 8)
    fd = os.open("folder", os.O_DIRECTORY)
    os.symlink("/etc", "folder/out")
    return (
        outcome(raw.openat2, fd, b"../file", how, 24),
        outcome(raw.openat2, fd, b"out", how, 24),
        outcome(raw.openat2, fd, b"inside", how, 24) > 0,
        outcome(raw.openat2, fd, b"inside", how, 8),
    )
