"""PL061: eight GPIO pins with interrupts (ARM DDI 0190B). The power button of QEMU's ``virt`` is pin 3.

``gpio = piton.load("pl061")``; ``gpio[3].value``; ``gpio[3].on_edge(callback)``; ``await gpio[3].edge()``.
"""

import asyncio
import sys
from collections.abc import Callable

from piton.drivers import Driver
from piton.hardware.errors import DeviceError
from piton.hardware.registers import Register, Registers

#: ``linux,code`` of a key that switches off (linux/input-event-codes.h).
_KEY_POWER = 116


class Pl061(Registers):
    """The registers, each with a bit for each pin. The data register is at 0 to 0x3FC: the address masks the pins."""

    direction = Register(0x400)
    level_sensitive = Register(0x404)
    both_edges = Register(0x408)
    rising = Register(0x40C)
    enabled = Register(0x410)
    pending = Register(0x418, access="r")
    clear = Register(0x41C, access="w")


class Pin:
    """One pin."""

    def __init__(self, gpio: "Gpio", number: int) -> None:
        self.gpio = gpio
        self.number = number
        self.bit = 1 << number
        self.callbacks: list[Callable[[int], object]] = []

    @property
    def value(self) -> int:
        """The level: 0 or 1. Setting it makes the pin an output."""
        return self.gpio.device.regs.read(self.bit << 2) >> self.number & 1

    @value.setter
    def value(self, level: int) -> None:
        regs = self.gpio.device.regs
        regs.direction |= self.bit
        regs.write(self.bit << 2, self.bit if level else 0)

    def on_edge(self, callback: "Callable[[int], object]") -> None:
        """Have *callback* called when the level changes, with what it is then, until :meth:`off` with the same."""
        self.callbacks.append(callback)
        regs = self.gpio.device.regs
        regs.direction &= ~self.bit & 0xFF
        regs.level_sensitive &= ~self.bit & 0xFF
        regs.both_edges |= self.bit
        regs.enabled |= self.bit

    def off(self, callback: "Callable[[int], object]") -> None:
        """Call no more."""
        self.callbacks.remove(callback)
        if not self.callbacks:
            self.gpio.device.regs.enabled &= ~self.bit & 0xFF

    async def edge(self) -> int:
        """Wait until the level changes; return what it is then."""
        loop = asyncio.get_running_loop()
        came = loop.create_future()

        def arrived(level: int) -> None:
            loop.call_soon_threadsafe(lambda: came.done() or came.set_result(level))

        self.on_edge(arrived)
        try:
            return await came
        finally:
            self.off(arrived)

    def __repr__(self) -> str:
        return f"<pin {self.number} of {self.gpio.device.path}: {self.value}>"


class Gpio(Driver):
    """The eight pins: ``gpio[0]`` to ``gpio[7]``."""

    compatible = ("arm,pl061",)
    registers = Pl061

    def start(self) -> None:
        """Take interrupts, none of which is enabled yet."""
        self.pins = [Pin(self, number) for number in range(8)]
        self.device.regs.enabled = 0
        self.device.regs.clear = 0xFF
        self.device.irq.subscribe(self._interrupted)

    def stop(self) -> None:
        """Enable no interrupt."""
        self.device.regs.enabled = 0

    def state(self) -> list[list]:
        """Return who is to be called."""
        return [pin.callbacks for pin in self.pins]

    def restore(self, state: list[list]) -> None:
        """Call them."""
        for pin, callbacks in zip(self.pins, state):
            for callback in callbacks:
                pin.on_edge(callback)

    @property
    def power_button(self) -> Pin:
        """The pin that the device tree says is the power button."""
        for node in self.device.node.tree.find("gpio-keys"):
            for key in node.children:
                controller, number, *_ = key.properties.get("gpios", (0, 0))
                if key.properties.get("linux,code") == _KEY_POWER and controller == self.device.node.phandle:
                    return self[number]
        raise DeviceError(self.device.path, "the device tree has no power button at it")

    def _interrupted(self, count: int) -> None:
        pending = self.device.regs.pending
        self.device.regs.clear = pending
        for pin in self.pins:
            if pending & pin.bit:
                for callback in list(pin.callbacks):
                    try:
                        callback(pin.value)
                    except Exception:
                        # Somebody else's mistake: shown, and this pin is quiet from now on.
                        sys.excepthook(*sys.exc_info())
                        pin.off(callback)

    def __getitem__(self, number: int) -> Pin:
        if not 0 <= number < len(self.pins):
            raise DeviceError(self.device.path, f"its pins are 0 to {len(self.pins) - 1}, none is {number}")
        return self.pins[number]


DRIVER = Gpio
