"""Process 1 of the Linux guest: makes what Piton's kernel brings by itself, runs the program, powers off."""

import ctypes
import fcntl
import os
import socket
import struct
import termios

libc = ctypes.CDLL(None, use_errno=True)

# sys/mount.h
MS_RDONLY, MS_REMOUNT = 1, 32
# linux/sockios.h, linux/if.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
# linux/reboot.h
POWER_OFF = 0x4321FEDC

# The folders that can be written to on Piton, with their permissions (kernel/src/fs/init.rs).
WRITABLE = {"/tmp": 0o1777, "/run": 0o755, "/dev/shm": 0o1777, "/root": 0o700, "/var/tmp": 0o1777}


def mount(kind, folder, source="none", flags=0, data=None):
    os.makedirs(folder, exist_ok=True)
    if libc.mount(source.encode(), folder.encode(), kind.encode(), flags, data):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)


def set_up():
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("devtmpfs", "/dev")
    mount("devpts", "/dev/pts", data=b"gid=5,mode=620,ptmxmode=0666")
    for folder, mode in WRITABLE.items():
        mount("tmpfs", folder, data=b"mode=%o" % mode)
    os.symlink("/proc/self/fd", "/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    libc.sethostname(b"piton", 5)
    with socket.socket() as any_socket:
        # struct ifreq: the name and the flags.
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    # On Piton the root image cannot be written to.
    mount("none", "/", flags=MS_REMOUNT | MS_RDONLY)


def run(arguments):
    """Runs the archive again, as a script on the console is run, and ends the machine."""
    set_up()
    child = os.fork()
    if child == 0:
        os.setsid()
        console = os.open("/dev/ttyAMA0", os.O_RDWR)
        fcntl.ioctl(console, termios.TIOCSCTTY, 1)
        for number in range(3):
            os.dup2(console, number)
        environment = {"HOME": "/root", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "linux"}
        os.execve("/usr/bin/python3", ["python3", os.path.dirname(__file__), *arguments], environment)
    # Orphans of the programs come here too.
    while os.wait()[0] != child:
        pass
    libc.reboot(POWER_OFF)
