"""Registers: declared as a class, accessed as attributes, each by one access of its width."""

import _piton

from piton.hardware.errors import DeviceClosed, DeviceError


class Value(int):
    """What was read from a register; its fields are attributes."""

    register: "Register"

    def __new__(cls, value: int, register: "Register") -> "Value":
        self = super().__new__(cls, value)
        self.register = register
        return self

    def __getattr__(self, name: str) -> int:
        fields = self.__dict__["register"].fields if "register" in self.__dict__ else {}
        if name not in fields:
            raise AttributeError(f"the register has no field {name!r}", name=name, obj=self)
        low, high = fields[name]
        return self >> low & (1 << high - low + 1) - 1

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.register.fields})

    def __repr__(self) -> str:
        fields = "".join(f" {name}={getattr(self, name):#x}" for name in self.register.fields)
        return f"<{int(self):#0{self.register.width // 4 + 2}x}{fields}>"


class Register:
    """A register at *offset*, *width* bits wide (8, 16, 32 or 64), in a subclass of :class:`Registers`.

    *access* is ``"rw"``, ``"r"`` or ``"w"``. *fields* are bits: ``enable=0`` is bit 0, ``mode=(4, 6)`` bits 4 to 6.

    :raises ValueError: the register, or a field, cannot be.
    """

    def __init__(self, offset: int, width: int = 32, access: str = "rw", **fields: "int | tuple[int, int]") -> None:
        if width not in (8, 16, 32, 64):
            raise ValueError(f"a register is 8, 16, 32 or 64 bits wide, not {width}")
        if offset < 0 or offset % (width // 8):
            raise ValueError(f"offset {offset:#x} is not aligned for {width} bits")
        if access not in ("rw", "r", "w"):
            raise ValueError(f"access is 'rw', 'r' or 'w', not {access!r}")
        self.offset = offset
        self.width = width
        self.access = access
        self.fields = {name: (bits, bits) if isinstance(bits, int) else bits for name, bits in fields.items()}
        self.name = f"register {offset:#x}"
        for name, (low, high) in self.fields.items():
            if not 0 <= low <= high < width:
                raise ValueError(f"field {name}: bits {low} to {high} are not within {width} bits")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, registers: "Registers | None", owner: type) -> "Register | Value":
        if registers is None:
            return self
        if "r" not in self.access:
            raise DeviceError(registers.device, f"register {self.name} cannot be read")
        return Value(registers.read(self.offset, self.width), self)

    def __set__(self, registers: "Registers", value: int) -> None:
        if "w" not in self.access:
            raise DeviceError(registers.device, f"register {self.name} cannot be written")
        registers.write(self.offset, value, self.width)


class Registers:
    """A device's registers. Subclasses name them::

    class Clock(Registers):
        data = Register(0x00, access="r")
        control = Register(0x0C, enable=0)

    ``regs.data`` reads, ``regs.control = 1`` writes, ``regs.control.enable`` is a field of what was read, and
    ``regs.update("control", enable=1)`` reads, changes fields and writes.

    What is outside the registers, misaligned, of no width there is, or too large is a DeviceError; nothing reaches the
    device then.
    """

    def __init__(self, device: str, memory, start: int, size: int) -> None:
        self.device = device
        self._memory = memory
        self._start = start
        self.size = size

    def _check(self, offset: int, width: int) -> int:
        if self._memory.closed:
            raise DeviceClosed(self.device)
        if width not in (8, 16, 32, 64):
            raise DeviceError(self.device, f"an access is 8, 16, 32 or 64 bits wide, not {width}")
        if not 0 <= offset <= self.size - width // 8:
            raise DeviceError(self.device, f"{width} bits at offset {offset:#x} are not within {self.size:#x} bytes")
        if offset % (width // 8):
            raise DeviceError(self.device, f"offset {offset:#x} is not aligned for {width} bits")
        return self._start + offset

    def read(self, offset: int, width: int = 32) -> int:
        """Read *width* bits at *offset*, in one access."""
        return _piton.load(self._memory, self._check(offset, width), width)

    def write(self, offset: int, value: int, width: int = 32) -> None:
        """Write *width* bits at *offset*, in one access."""
        at = self._check(offset, width)
        if not 0 <= value < 1 << width:
            raise DeviceError(self.device, f"{value:#x} does not fit into {width} bits")
        _piton.store(self._memory, at, width, value)

    def update(self, name: str, **fields: int) -> None:
        """Read the register *name*, change these fields, and write it."""
        register = type(self).__dict__.get(name)
        if not isinstance(register, Register):
            raise DeviceError(self.device, f"there is no register {name!r}")
        value = int(getattr(self, name))
        for field, bits in fields.items():
            if field not in register.fields:
                raise DeviceError(self.device, f"register {name} has no field {field!r}")
            low, high = register.fields[field]
            mask = (1 << high - low + 1) - 1
            if not 0 <= bits <= mask:
                raise DeviceError(self.device, f"{bits:#x} does not fit into field {field} of register {name}")
            value = value & ~(mask << low) | bits << low
        setattr(self, name, value)

    def __repr__(self) -> str:
        named = [name for name, register in vars(type(self)).items() if isinstance(register, Register)]
        return f"<{self.size:#x} bytes of registers of {self.device}{': ' if named else ''}{', '.join(named)}>"
