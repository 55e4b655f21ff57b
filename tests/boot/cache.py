"""Pages unpacked from the root image are given back when programs want the memory, and can be had again."""

import hashlib
import os


def memory(name):
    """A line of /proc/meminfo, in bytes."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def read_all():
    """Reads every file below /usr; answers a digest of them all."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk("/usr"):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


free, available = memory("MemFree"), memory("MemAvailable")
first = read_all()
kept = free - memory("MemFree")
print("kept", kept >> 20, "MiB; no longer available", (available - memory("MemAvailable")) >> 20, "MiB")
if kept < 10 << 20:
    print("FAILED: the image is hardly compressed, so this shows nothing")

# More than is free, less than is available.
wanted = memory("MemFree") + kept // 2
held = bytearray(wanted)
for page in range(0, wanted, 4096):
    held[page] = 1
print("had", wanted >> 20, "MiB, now kept", memory("Cached") >> 20, "MiB")

# Nothing is free now, so that nearly every file is unpacked anew, in place of another.
print("same" if read_all() == first else "FAILED: other bytes")
