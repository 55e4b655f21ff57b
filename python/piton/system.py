"""Where the kernel's own files are, and the simplest of them."""

from pathlib import Path

#: The kernel's files, as /sys/kernel/piton offers them.
KERNEL = Path("/sys/kernel/piton")


def log() -> str:
    """Return the kernel's log: lines of ``[seconds since start] text``, oldest first."""
    return (KERNEL / "log").read_text(errors="replace")


def firmware_file(name: str) -> bytes | None:
    """Return the blob *name* that the virtual machine handed over (QEMU's ``-fw_cfg``), or None without one."""
    path = Path("/sys/firmware/qemu_fw_cfg/by_name") / name / "raw"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
