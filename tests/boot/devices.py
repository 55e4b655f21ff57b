"""What the kernel tells of the device tree, in its own ways, and what piton makes of it."""

import json
import os
import sys

import piton

BASE = "/sys/firmware/devicetree/base"
SECRET = {"rng-seed", "kaslr-seed"}

tree = piton.tree
assert os.path.realpath("/proc/device-tree") == BASE
# Linux's view is the same, and has the names of the nodes beside.
for node in tree.walk():
    folder = BASE + node.path.rstrip("/")
    files = {entry.name for entry in os.scandir(folder) if entry.is_file()}
    folders = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    assert files == {*node.raw, "name"} - SECRET, (folder, files)
    assert folders == {child.name for child in node.children}, (folder, folders)
    for name in files - {"name"}:
        with open(f"{folder}/{name}", "rb") as file:
            assert file.read() == node.raw[name], (folder, name)
    with open(f"{folder}/name", "rb") as file:
        assert file.read() == node.raw.get("name", node.name.partition("@")[0].encode() + b"\0")
    for name in SECRET & node.raw.keys():
        assert not any(node.raw[name]), "a seed is told"
assert oct(os.stat("/sys/firmware/fdt").st_mode) == "0o100400"
for path, mode in (("model", os.O_WRONLY), ("new", os.O_WRONLY | os.O_CREAT)):
    try:
        os.open(f"{BASE}/{path}", mode)
    except OSError as error:
        print("refused", error.strerror)

# The kernel's own decoding against that in Python.
devices = {device.path: device for device in piton.devices}
assert devices.keys() == {node.path for node in tree.walk() if node.compatible}
for device in devices.values():
    assert device.node.path == device.path and device.node.compatible == device.compatible
    assert device.registers == tuple(range for range in device.node.reg if range.mapped), device
    told = [(line.controller, line.cells) for line in device.interrupts]
    assert told == [(one.controller.path, one.cells) for one in device.node.interrupts], device
    assert (device.state == "bound") == (device.why is None), device
print(piton.devices)
for name in ("pl011@9000000", "pl031@9010000", "fw-cfg-mmio", "armv8-timer", "cortex-a15-gic"):
    assert piton.devices[name].state == "bound", name
clock = piton.devices["pl031@9010000"]
assert [(line.number, line.trigger) for line in clock.interrupts] == [(34, "level high")], clock
assert piton.devices["disabled-device"].state == "disabled" and piton.devices["disabled-device"].why == "disabled"
assert piton.devices["pl031@badbad"].state == "failed" and "reg" in piton.devices["pl031@badbad"].why
waiting = piton.devices["pl011@feed"]
assert (waiting.state, waiting.why) == ("deferred", "what it needs never came up"), waiting
assert piton.devices["gpio-keys"].why == "no driver"
print("TREE", json.dumps({node.path: {name: raw.hex() for name, raw in node.raw.items()} for node in tree.walk()}))
print("well")
sys.stdout.flush()
