"""Drivers in Python on QEMU's own devices, loaded, reloaded, mistaken and closed."""

import asyncio
import datetime
import os
import sys
import threading
import time

import piton
from piton import drivers


def refused(what, kind, rule):
    """Check that *what* raises *kind* with this *rule*."""
    try:
        what()
    except kind as error:
        assert rule in str(error), error
    else:
        raise AssertionError(f"not refused: {rule}")


def check_clock():
    with piton.load("pl031") as clock:
        assert abs(clock.now().timestamp() - time.time()) < 5
        assert piton.devices["pl031"].driver == "pl031.py" and "process 1" in piton.devices["pl031"].why
        before = clock.now()
        clock.set(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
        assert 2030 == clock.now().year
        clock.set(before)
        clock.set_alarm(clock.now() + datetime.timedelta(seconds=1))
        assert clock.wait(10)
        second = datetime.timedelta(seconds=1)
        asyncio.run(asyncio.wait_for(clock.alarm(clock.now() + second), 10))
        assert not clock.wait(0.1)
        refused(lambda: clock.set(datetime.datetime(2200, 1, 1)), piton.DeviceError, "do not reach")
    piton.bind("pl031")


def check_store():
    with open("/sys/firmware/qemu_fw_cfg/by_name/opt/piton/script/raw", "rb") as file:
        expected = file.read()
    with piton.load("fw_cfg") as store:
        assert store["opt/piton/script"] == expected and "opt/piton/script" in store.names()
        refused(lambda: store["none"], piton.DeviceError, "there is no blob 'none'")
    piton.bind("fw_cfg")


def check_entropy():
    with piton.load("virtio_rng") as source:
        found = source.read(3000)
        assert len(found) == 3000 and len(set(found)) > 200
        assert len({source.read(16) for _ in range(50)}) == 50
        refused(lambda: piton.load("virtio_rng"), piton.DeviceError, "there is none for Entropy")
        [again] = piton.reload("virtio_rng")
        assert again is not source and len(again.read(16)) == 16
        refused(lambda: source.read(1), piton.DeviceError, "closed")
        again.close()
    assert not drivers.running


def check_console():
    console = piton.load("virtio_console")
    console.write(b"from the machine\n")
    got = b""
    while not got.endswith(b"\n"):
        part = console.read(60)
        assert part, "nothing came"
        got += part
    assert got == b"from the host\n", got
    text = bytes(range(256)) * 200
    console.write(text)
    console.close()


def check_mistakes():
    os.makedirs("/run/own")
    sys.path.insert(0, "/run/own")
    source = """from piton import Register, Registers
from piton.drivers import Driver


class Own(Registers):
    ident = Register(0xFE0, 8, access="r")


class Number(Driver):
    compatible = ("arm,pl061",)
    registers = Own

    def number(self):
        return %s


DRIVER = Number
"""

    def write(number):
        with open("/run/own/own.py", "w") as file:
            file.write(source % number)

    write("self.device.regs.ident")
    own = piton.load("own")
    assert own.number() == 0x61
    write("self.device.regs.ident + 1")
    [own] = piton.reload("own")
    assert own.number() == 0x62
    write("this is no Python")
    refused(lambda: piton.reload("own"), SyntaxError, "invalid syntax")
    assert own.number() == 0x62 and own.device.path in drivers.running
    write("1\n\n    def start(self):\n        raise RuntimeError('it does not start')")
    refused(lambda: piton.reload("own"), RuntimeError, "it does not start")
    assert not drivers.running and piton.devices["pl061"].state == "unclaimed"
    refused(lambda: piton.load("no_driver"), ImportError, "no_driver")


def check_buttons():
    gpio = piton.load("pl061")
    button = gpio.power_button
    assert (button.number, button.value) == (3, 0)
    refused(lambda: gpio[8], piton.DeviceError, "its pins are 0 to 7")
    pressed = threading.Event()

    def on_button(level):
        pressed.set()

    def mistaken(level):
        raise ValueError("the button's mistake")

    def settle():
        # QEMU lets the button go after a tenth of a second.
        while button.value or mistaken in button.callbacks:
            time.sleep(0.1)
        time.sleep(0.5)
        pressed.clear()

    button.on_edge(on_button)
    button.on_edge(mistaken)
    print("press 1", flush=True)
    assert pressed.wait(60)
    settle()
    assert button.callbacks == [on_button]
    # Who is called stays with a driver that is taken anew.
    [gpio] = piton.reload("pl061")
    button = gpio.power_button

    async def task():
        async with asyncio.timeout(60):
            edge = asyncio.create_task(button.edge())
            # It waits from here on.
            await asyncio.sleep(0)
            print("press 2", flush=True)
            await edge

    asyncio.run(task())
    assert pressed.is_set()
    settle()
    gpio.close()
    assert not drivers.running and gpio.device.closed


check_clock()
check_store()
check_entropy()
check_mistakes()
check_console()
check_buttons()
print("well")
