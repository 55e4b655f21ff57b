"""Show what this machine is: board, processors, memory, time since it started, versions, addresses."""

import os
import platform
import sys

import piton


def _first(path: str) -> str:
    """Answer the first line of a file of the kernel's; nothing where there is no such file."""
    try:
        with open(path) as file:
            return file.readline().strip("\0\n")
    except OSError:
        return ""


def report() -> dict[str, str]:
    """Answer what there is to say, by subject."""
    with open("/proc/meminfo") as file:
        memory = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file)}
    seconds = int(float(_first("/proc/uptime").split()[0]))
    system = os.uname()
    found = {
        "machine": _first("/proc/device-tree/model") or system.machine,
        "processors": f"{os.cpu_count()}, load {_first('/proc/loadavg').rsplit(maxsplit=2)[0]}",
        "memory": f"{memory['MemTotal'] >> 10} MiB, {memory['MemAvailable'] >> 10} MiB free",
        "running for": f"{seconds // 86400} days {seconds // 3600 % 24}:{seconds // 60 % 60:02}:{seconds % 60:02}",
        "kernel": f"{system.sysname} {system.release} {system.version} {system.machine}",
        "Python": f"{platform.python_version()}, {sys.executable}",
        "processes": str(sum(name.isdecimal() for name in os.listdir("/proc"))),
    }
    for interface in piton.net.interfaces():
        found[interface.name] = ", ".join(("up" if interface.up else "down", *map(str, interface.addresses)))
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: sysinfo")
    for subject, text in report().items():
        print(f"{subject:12} {text}")
