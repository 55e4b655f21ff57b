"""Switch the machine off at once: poweroff [STATUS]."""

import sys

import piton

status = sys.argv[1] if len(sys.argv) == 2 else "0"
if len(sys.argv) > 2 or not status.isdecimal() or int(status) > 255:
    sys.exit("usage: poweroff [STATUS]")
piton.poweroff(int(status))
