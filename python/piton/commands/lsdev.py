"""List the devices, or those of some names: lsdev [NAME...]. In Python: piton.devices."""

import sys

import piton

if len(sys.argv) == 1:
    print(piton.devices)
missing = False
for name in sys.argv[1:]:
    found = piton.devices.find(name)
    for device in found:
        print(repr(device))
    if not found:
        print(f"lsdev: {name}: there is no such device", file=sys.stderr)
        missing = True
sys.exit(missing)
