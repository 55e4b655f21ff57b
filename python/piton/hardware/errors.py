"""What can go wrong with a device."""


class DeviceError(Exception):
    """An operation on a device was refused. ``device`` names it, ``rule`` says what it was refused for."""

    def __init__(self, device: str, rule: str) -> None:
        super().__init__(f"{device}: {rule}")
        self.device = device
        self.rule = rule


class NoSuchDevice(DeviceError, LookupError):
    """No device, or no node of the device tree, is what was asked for; or several are."""


class BadDeviceTree(DeviceError, ValueError):
    """The device tree, or a property in it, is malformed. ``device`` is the node's path."""


class DeviceBusy(DeviceError):
    """Somebody has the device, or registers in the same place. ``holder`` says who."""

    def __init__(self, device: str, holder: str) -> None:
        super().__init__(device, f"{holder} has it")
        self.holder = holder


class DeviceClosed(DeviceError):
    """The device was given back."""

    def __init__(self, device: str) -> None:
        super().__init__(device, "it was closed")
