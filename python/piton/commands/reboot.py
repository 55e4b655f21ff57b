"""Reset the machine at once."""

import sys

import piton

if len(sys.argv) > 1:
    sys.exit("usage: reboot")
piton.reboot()
