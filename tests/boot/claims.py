"""Devices in the hands of Python: QEMU's clock (PL031), GPIO (PL061) and fw_cfg, claimed and given back."""

import asyncio
import ctypes
import gc
import mmap
import os
import signal
import statistics
import threading
import time

import _piton
import piton
import piton.system
from piton import Register, Registers


class Clock(Registers):
    """The PL031."""

    data = Register(0x00, access="r")
    match = Register(0x04)
    mask = Register(0x10, enable=0)
    raw = Register(0x14, access="r", fired=0)
    clear = Register(0x1C, access="w")


def refused(what, kind, rule):
    """Check that *what* raises *kind*, and that the exception names the device and the *rule*."""
    try:
        what()
    except kind as error:
        assert error.rule in str(error) and error.device in str(error), error
        assert rule in error.rule, (rule, error)
    else:
        raise AssertionError(f"not refused: {rule}")


def check_who_may_have_what():
    refused(lambda: piton.claim("pl031"), piton.DeviceBusy, "the kernel's driver pl031 has it")
    refused(lambda: piton.unbind("pl011"), piton.DeviceError, "the kernel's driver pl011 cannot let go")
    refused(lambda: piton.unbind("pl061"), piton.DeviceError, "no driver has it")
    refused(lambda: piton.bind("pl061"), piton.DeviceError, "there is no driver for it")
    refused(lambda: piton.claim("cpu@0"), piton.DeviceError, "neither registers nor interrupts")
    refused(lambda: piton.claim("nothing"), piton.DeviceError, "no such device")
    with piton.claim(piton.tree.pl061) as gpio:
        assert piton.devices["pl061"].state == "claimed" and "process 1" in piton.devices["pl061"].why
        refused(lambda: piton.claim(piton.devices.pl061), piton.DeviceBusy, "process 1 has it")
        assert gpio.regs.read(0xFE0) == 0x61
    assert piton.devices["pl061"].state == "unclaimed"
    # A timer has interrupts of its own for each CPU.
    with piton.claim("pmu") as pmu:
        refused(lambda: pmu.irq, piton.DeviceError, "each CPU has its own")
    pid = os.fork()
    if pid == 0:
        os.setresuid(1000, 1000, 1000)
        for name in (lambda: piton.claim("pl061"), lambda: piton.unbind("pl031")):
            try:
                name()
            except piton.DeviceError:
                continue
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def check_registers(clock):
    regs = clock.regs
    assert abs(regs.data - time.time()) < 5
    assert (regs.mask, regs.mask.enable, repr(regs.mask)) == (0, 0, "<0x00000000 enable=0x0>")
    regs.update("mask", enable=1)
    assert regs.mask.enable == 1
    regs.mask = 0
    for what, rule in (
        (lambda: regs.read(0x1000), "not within 0x1000 bytes"),
        (lambda: regs.read(0xFFF, 16), "not within 0x1000 bytes"),
        (lambda: regs.read(-4), "not within 0x1000 bytes"),
        (lambda: regs.write(1 << 70, 0), "not within 0x1000 bytes"),
        (lambda: regs.read(2), "not aligned for 32 bits"),
        (lambda: regs.write(4, 1, 64), "not aligned for 64 bits"),
        (lambda: regs.read(0, 24), "8, 16, 32 or 64 bits"),
        (lambda: regs.write(4, 1 << 32), "does not fit into 32 bits"),
        (lambda: regs.write(4, -1), "does not fit into 32 bits"),
        (lambda: setattr(regs, "data", 1), "data cannot be written"),
        (lambda: regs.clear, "clear cannot be read"),
        (lambda: regs.update("mask", nothing=1), "mask has no field 'nothing'"),
        (lambda: regs.update("mask", enable=2), "does not fit into field enable"),
        (lambda: regs.update("nothing", enable=2), "there is no register 'nothing'"),
        (lambda: clock.region(1), "it has 1 ranges of registers"),
        (lambda: clock.interrupt(1), "it has no interrupt 1"),
        (lambda: clock.interrupt(-1), "it has no interrupt -1"),
        (lambda: clock.dma(0), "DMA memory is 1 to"),
        (lambda: clock.dma(1 << 30), "DMA memory is 1 to"),
        (lambda: clock.dma("x"), "DMA memory is 1 to"),
    ):
        refused(what, piton.DeviceError, rule)
    assert (regs.match, regs.mask) == (0, 0), "something was written"
    for wrong in (
        lambda: Register(2),
        lambda: Register(0, 24),
        lambda: Register(0, access="x"),
        lambda: Register(0, enable=32),
        lambda: Register(0, mode=(3, 2)),
    ):
        try:
            wrong()
        except ValueError:
            continue
        raise AssertionError("a register that cannot be")
    for wrong, kind in (
        (lambda: _piton.load(bytearray(4), 1, 32), IndexError),
        (lambda: _piton.load(bytearray(8), 1, 32), ValueError),
        (lambda: _piton.load(bytearray(8), 0, 7), ValueError),
        (lambda: _piton.load(bytearray(8), 0), TypeError),
        (lambda: _piton.load(5, 0, 8), TypeError),
        (lambda: _piton.store(bytes(8), 0, 8, 1), BufferError),
        (lambda: _piton.store(bytearray(8), 0, 8, 256), OverflowError),
        (lambda: _piton.store(bytearray(8), 0, 64, -1), OverflowError),
    ):
        try:
            wrong()
        except kind:
            continue
        raise AssertionError(f"no {kind}")


def check_interrupts(clock):
    regs, irq = clock.regs, clock.irq

    def set_alarm():
        regs.match = int(regs.data) + 1

    assert irq.wait(0.1) == 0
    set_alarm()
    regs.mask = 1
    assert irq.wait(10) == 1 and regs.raw.fired == 1
    # As long as the device is not made quiet, it comes again; afterwards it does not.
    assert irq.wait(10) == 1
    regs.clear = 1
    assert irq.wait(0.2) == 0 and irq.count == 2
    # It comes while nobody waits, and masked: it is not lost.
    irq.mask()
    set_alarm()
    time.sleep(2.2)
    assert irq.wait(10) == 1
    regs.clear = 1

    async def alarm():
        set_alarm()
        async with asyncio.timeout(10):
            came = await irq
        regs.clear = 1
        return came

    assert asyncio.run(alarm()) == 1
    came = threading.Event()

    def on_alarm(count):
        regs.clear = 1
        came.set()

    subscription = irq.subscribe(on_alarm)
    set_alarm()
    assert came.wait(10) and subscription.active
    subscription.cancel()
    assert not subscription.active

    def mistaken(count):
        raise ValueError("the callback's mistake")

    subscription = irq.subscribe(mistaken)
    set_alarm()
    time.sleep(3)
    assert not subscription.active
    regs.clear = 1
    assert irq.wait(0.2) == 0


def check_memory(clock):
    memory = clock.dma(5000)
    view = memory.view
    assert memory.address % 4096 == 0 and len(view) == len(memory) == 5000 and not any(view)
    memory.store(8, 32, 0x12345678)
    assert (memory.load(8, 32), bytes(view[8:12])) == (0x12345678, b"\x78\x56\x34\x12")
    refused(memory.close, piton.DeviceError, "still in use")
    refused(clock.close, piton.DeviceError, "still in use")
    view.release()
    memory.close()
    refused(lambda: memory.load(0, 8), piton.DeviceError, "closed")
    refused(lambda: memory.view, piton.DeviceError, "closed")
    assert clock.regs.data


class Vector(ctypes.Structure):
    """An iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


def check_mappings(clock):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for protection, flags in ((5, mmap.MAP_SHARED), (3, mmap.MAP_PRIVATE), (1, mmap.MAP_PRIVATE)):
        try:
            mmap.mmap(clock._descriptor.fd, 4096, flags=flags, prot=protection, trackfd=False)
        except PermissionError:
            continue
        raise AssertionError("hardware as code, or copied")
    window = clock.regs._memory
    address = ctypes.addressof(ctypes.c_char.from_buffer(window))
    gc.collect()
    assert libc.mprotect(address, 4096, 5) == -1
    assert libc.mprotect(address, 4096, 0) == 0 and libc.mprotect(address, 4096, 3) == 0 and clock.regs.data
    # Others look at memory through the kernel's own mapping, which hardware has none of.
    out = ctypes.create_string_buffer(4)
    own, other = Vector(ctypes.addressof(out), 4), Vector(address, 4)
    assert libc.process_vm_readv(os.getpid(), ctypes.byref(own), 1, ctypes.byref(other), 1, 0) == -1
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(address, 1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGSEGV, "a child has its parent's registers"
    # A mapping of the claim that outlives it: the page is gone.
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        gpio = piton.claim("pl061")
        stray = mmap.mmap(gpio._descriptor.fd, 4096, trackfd=False)
        assert stray[0xFE0] == 0x61
        os.close(gpio._descriptor.fd)
        stray[0xFE0]
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGBUS, "registers of a device that was given back"


def check_release():
    gpio = piton.claim("pl061")
    regs = gpio.regs
    del gpio
    gc.collect()
    refused(lambda: piton.claim("pl061"), piton.DeviceBusy, "process 1 has it")
    del regs
    piton.claim("pl061").close()
    pid = os.fork()
    if pid == 0:
        crashing = piton.claim("pl061")
        crashing.irq.unmask()
        crashing.dma(4096).view[:] = b"x" * 4096
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with piton.claim("pl061") as gpio:
        assert not any(gpio.dma(4096).view) and gpio.irq.count == 0


def check_drivers_come_back():
    assert piton.devices["pl031"].why == "taken from its driver" and os.listdir("/sys/class/rtc") == []
    piton.bind("pl031")
    assert piton.devices["pl031"].state == "bound" and os.listdir("/sys/class/rtc") == ["rtc0"]
    for slot in (device for device in piton.devices if device.driver == "virtio_mmio" and device.state == "bound"):
        with piton.claim(slot, unbind=True) as source:
            kind, status = source.regs.read(0x08), source.regs.read(0x70)
            assert (kind, status) == (4, 0), "an entropy source, reset"
            assert len({piton.devices[other].state for other in ("virtio_mmio@a003c00", slot.path)}) == 2
        piton.bind(slot)
        assert piton.devices[slot.path].state == "bound"
        print("entropy")
    name = "opt/piton/script-name"
    before = piton.system.firmware_file(name)
    with piton.claim("fw_cfg", unbind=True) as store:
        assert piton.system.firmware_file(name) is None and before is not None
        store.regs.write(8, 0, 16)
        assert bytes(store.regs.read(0, 8) for _ in range(4)) == b"QEMU"
        refused(lambda: piton.bind("fw_cfg"), piton.DeviceBusy, "process 1 has it")
    piton.bind("fw_cfg")
    assert piton.system.firmware_file(name) == before


def measure():
    with piton.claim("pl061") as gpio:
        regs, irq = gpio.regs, gpio.irq

        def each(what, count=5000):
            begin = time.perf_counter_ns()
            for _ in range(count):
                what()
            return (time.perf_counter_ns() - begin) / count / 1000

        print(f"read {each(lambda: regs.read(0xFE0)):.2f} us", end=", ")
        print(f"load {each(lambda: _piton.load(regs._memory, 0xFE0, 32)):.2f} us")
        # A line that is low interrupts when that becomes its active level: GPIOIS, GPIOIEV, GPIOIE, GPIOIC.
        regs.write(0x404, 8)
        regs.write(0x40C, 8)
        regs.write(0x41C, 8)
        regs.write(0x410, 8)
        taken, called = [], threading.Event()
        begin = 0

        def callback(count):
            taken.append(time.perf_counter_ns() - begin)
            regs.write(0x40C, 8)
            regs.write(0x41C, 8)
            called.set()

        subscription = irq.subscribe(callback)
        for _ in range(500):
            called.clear()
            time.sleep(0.002)
            begin = time.perf_counter_ns()
            regs.write(0x40C, 0)
            assert called.wait(10)
        subscription.cancel()
        regs.write(0x410, 0)
        assert len(taken) == irq.count == 500, (len(taken), irq.count)
        cuts = statistics.quantiles(taken, n=100)
        print(f"interrupt to callback: median {cuts[49] / 1000:.0f} us, 99th percentile {cuts[98] / 1000:.0f} us")


check_who_may_have_what()
with piton.claim("pl031", Clock, unbind=True) as clock:
    check_registers(clock)
    check_interrupts(clock)
    check_memory(clock)
    check_mappings(clock)
    kept = clock.regs
refused(lambda: kept.data, piton.DeviceError, "closed")
refused(lambda: clock.irq.wait(0), piton.DeviceError, "closed")
del kept
check_release()
check_drivers_come_back()
measure()
print("well")
