"""PL031: a clock that counts seconds, with an alarm (ARM DDI 0224C)."""

import datetime

from piton.drivers import Driver
from piton.hardware.errors import DeviceError
from piton.hardware.registers import Register, Registers


class Pl031(Registers):
    """The registers."""

    data = Register(0x00, access="r")
    match = Register(0x04)
    load = Register(0x08)
    mask = Register(0x10, enable=0)
    clear = Register(0x1C, access="w")


class Clock(Driver):
    """The clock: ``now()``, ``set()``, and ``alarm()`` to wait for or await."""

    compatible = ("arm,pl031",)
    registers = Pl031

    def stop(self) -> None:
        """Set no alarm."""
        self.device.regs.mask = 0
        self.device.regs.clear = 1

    start = stop

    def now(self) -> datetime.datetime:
        """Return date and time."""
        return datetime.datetime.fromtimestamp(self.device.regs.data, datetime.UTC)

    def set(self, to: datetime.datetime) -> None:
        """Set date and time, as the chip has them: Python's own clocks go on as before."""
        self.device.regs.load = self._seconds(to)

    def set_alarm(self, at: datetime.datetime) -> None:
        """Have the interrupt come at this second."""
        self.device.regs.match = self._seconds(at)
        self.device.regs.mask = 1

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the alarm; tell whether it came."""
        came = self.device.irq.wait(timeout)
        if came:
            self.stop()
        return bool(came)

    async def alarm(self, at: datetime.datetime) -> None:
        """Return at this second."""
        self.set_alarm(at)
        try:
            await self.device.irq
        finally:
            self.stop()

    def _seconds(self, time: datetime.datetime) -> int:
        seconds = int(time.timestamp())
        if not 0 <= seconds < 1 << 32:
            raise DeviceError(self.device.path, f"its 32 bits of seconds do not reach {time}")
        return seconds


DRIVER = Clock
