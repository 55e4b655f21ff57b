"""The hardware: the device tree, the devices, and access to them.

What a user needs of it is in ``piton`` itself: ``piton.tree``, ``piton.devices``, ``piton.DeviceError``.
"""
