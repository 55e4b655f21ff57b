"""Where the kernel's own files are, and the simplest of them.

Part of every start, so it imports next to nothing.
"""

import os

#: The folder of the kernel's files.
KERNEL = "/sys/kernel/piton"
#: The folder of Piton's own commands.
COMMANDS = os.path.join(os.path.dirname(__file__), "commands")


def read_control(name: str) -> str:
    """Return the text of the kernel's file *name*."""
    with open(f"{KERNEL}/{name}", errors="replace") as file:
        return file.read()


def write_control(name: str, text: str) -> None:
    """Hand *text* to the kernel's file *name*.

    :raises OSError: the kernel refused it.
    """
    with open(f"{KERNEL}/{name}", "w") as file:
        file.write(text)


def log() -> str:
    """Return the kernel's log: lines of ``[seconds since start] text``, oldest first."""
    return read_control("log")


def firmware_file(name: str) -> bytes | None:
    """Return the blob *name* that the virtual machine handed over (QEMU's ``-fw_cfg``), or None without one."""
    try:
        with open(f"/sys/firmware/qemu_fw_cfg/by_name/{name}/raw", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def clock_is_set() -> bool:
    """Tell whether a real-time clock gave the date at boot (``hctosys``, as Linux has it)."""
    folder = "/sys/class/rtc"
    for clock in os.listdir(folder):
        with open(f"{folder}/{clock}/hctosys") as file:
            if file.read().strip() == "1":
                return True
    return False
