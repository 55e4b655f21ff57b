"""piton.kernel and piton.cpu, against what the program knows of itself."""

import ctypes
import json
import mmap
import os
import platform
import threading
import time

import piton

kernel, cpu = piton.kernel, piton.cpu


def refused(error, call, *arguments, says="", **options):
    """Check that the call raises this, with a message that says so much."""
    try:
        call(*arguments, **options)
    except error as raised:
        assert says in str(raised), raised
    else:
        raise AssertionError(f"{call} took {arguments} {options}")


# Tasks.
reader, writer = os.pipe()
waiting = threading.Thread(target=os.read, args=(reader, 1), name="waiting")
waiting.start()
time.sleep(0.2)
one = kernel.task(1)
assert (one.pid, one.tid, one.parent, one.state, one.threads) == (1, 1, 0, "runs", 2), one
assert one.memory > 1 << 20 and one.cpu_time > 0 and one.waits_in is None and one.stack() == [], one
other = kernel.task(waiting.native_id)
assert other in kernel.tasks(threads=True) and other not in kernel.tasks(), other
assert other.waits_in == "kernel::fs::pipe::Pipe::read" and other.state == "waits", other
assert any("sys_read" in line for line in other.stack()), other.stack()
os.write(writer, b"x")
waiting.join()
refused(ProcessLookupError, other.stack)
refused(ProcessLookupError, kernel.task, other.tid)
refused(ProcessLookupError, kernel.task, 0)
child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
time.sleep(0.2)
assert kernel.task(child).arguments() == ["sleep", "60"] and kernel.task(child).parent == os.getpid()
assert "pid" in repr(kernel.tasks()) and "sleep" in repr(kernel.tasks())
os.kill(child, 9)
os.waitpid(child, 0)

# Symbols.
place = kernel.address("kernel::fs::pipe::Pipe::read")
assert kernel.symbol(place + 4) == "kernel::fs::pipe::Pipe::read+0x4", kernel.symbol(place + 4)
refused(LookupError, kernel.address, "no such function")
refused(LookupError, kernel.address, "kernel::fs::pipe", says="Pipe::read")
refused(LookupError, kernel.symbol, 16)

# Memory, and page tables: a page of this program's is found where it is, and changed there.
page = mmap.mmap(-1, 4096)
page.write(b"seen through physical memory")
where = ctypes.addressof(ctypes.c_char.from_buffer(page))
found = kernel.walk(where)
assert found.size == 4096 and found.flags[:2] == ("user", "writable") and len(found.steps) == 4, found
with kernel.open_memory() as memory:
    assert memory.read(found.physical, 28) == b"seen through physical memory"
    refused(PermissionError, memory.write, found.physical, b"x")
    refused(ValueError, memory.read, 0, 1, says="0x0")
    refused(ValueError, memory.read, found.physical, -1)
    refused(ValueError, memory.read, -1, 1)
with kernel.open_memory(writable=True) as memory:
    memory.write(found.physical, b"SEEN")
    code = kernel.walk(place)
    assert "executable" in code.flags and "read-only" in code.flags, code
    assert memory.read(code.physical, 4) != bytes(4)
    refused(ValueError, memory.write, code.physical, b"x", says=hex(code.physical))
assert page[:5] == b"SEEN ", page[:5]
refused(OSError, memory.read, found.physical, 1)
assert kernel.walk(0).physical is None
assert kernel.walk(where, os.getpid()).physical == found.physical
refused(LookupError, kernel.walk, where, 99999)
refused(ValueError, kernel.walk, 1 << 50)
usage = kernel.memory()
assert usage.total > usage.available >= usage.free > 0 and usage.kernel_heap > 0 and usage.programs > 1 << 20, usage
mapping = next(mapping for mapping in one.mappings() if mapping.start <= where < mapping.end)
assert mapping.permissions.startswith("rw") and mapping.resident >= 4096, mapping

# The log and the interrupts.
assert any("pl011" in message.text for message in kernel.log()), kernel.log()
assert all(message.level in ("warning", "error") for message in kernel.log("warning"))
refused(ValueError, kernel.log, "loud")
time.sleep(0.01)
timers = kernel.timer_lateness()
assert timers.total > 0 and timers.quantile(1) >= timers.quantile(0.5) > 0 and "#" in repr(timers)
refused(ValueError, timers.quantile, 2)
timer = next(interrupt for interrupt in kernel.interrupts() if "timer" in interrupt.name)
# The times are read later than the counts; on each CPU one may be at work.
assert timer.times.total + len(cpu.online()) >= sum(timer.counts) > 0 and timer.longest_ns >= timer.median_ns > 0, timer

# A lock on a file.
with open("/tmp/locked", "w") as file:
    import fcntl

    fcntl.lockf(file, fcntl.LOCK_EX)
    assert [lock.access for lock in kernel.locks() if lock.pid == os.getpid()] == ["write"], kernel.locks()

# A trace.
with kernel.trace() as trace:
    for _ in range(100):
        os.getppid()
    time.sleep(0.01)
calls = [event for event in trace.events if event.what == "getppid" and event.tid == threading.get_native_id()]
assert [event.kind for event in calls] == ["call", "return"] * 100, calls
assert all(event.value == os.getppid() for event in calls[1::2]), calls
kinds = {event.kind for event in trace.events}
assert {"switch", "interrupt", "handled"} <= kinds, kinds
switches = [event for event in trace.events if event.kind == "switch"]
assert all(event.tid != event.value for event in switches) and any(event.tid == 1 for event in switches), switches
assert trace.events == sorted(trace.events)
trace.save("/tmp/trace.json")
with open("/tmp/trace.json") as file:
    saved = json.load(file)["traceEvents"]
assert sum(event["name"] == "getppid" and event["ph"] == "X" for event in saved) == 100
with kernel.trace(50) as short:
    for _ in range(1000):
        os.getppid()
assert len(short.events) <= 50 * len(cpu.online()), short
refused(ValueError, kernel.trace, 0)
refused(ValueError, kernel.trace, 1 << 20)

# The processors.
for number in cpu.online():
    registers = cpu.registers(number)
    assert registers["currentel"] == 4 and registers["cntfrq_el0"] == cpu.frequency() > 0, registers
    assert len({cpu.registers(number)["mpidr_el1"] for _ in range(3)}) == 1
assert len({cpu.registers(number)["mpidr_el1"] for number in cpu.online()}) == len(cpu.online())
before = cpu.counter()
assert cpu.counter() > before and "fp" in cpu.features() and platform.machine() == "aarch64"
refused(ValueError, cpu.registers, 99)
assert "midr_el1" in repr(registers)

# Nobody else may look there.
if not (child := os.fork()):
    os.setgroups([])
    os.setgid(1000)
    os.setuid(1000)
    for path in ("/dev/mem", "/proc/kallsyms", "/sys/kernel/piton/cpu", "/sys/kernel/piton/trace", "/sys/kernel/piton/address_spaces"):
        refused(PermissionError, open, path, "rb")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

# As the help says, it ends.
print("seen", len(kernel.tasks()), "processes")
