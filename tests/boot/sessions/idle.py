"""How much of its time an idle machine sleeps, from the host: with as many sessions open as there may be.

    idle.py PORT SECONDS

Looks at /proc/uptime and /proc/stat from one of the sessions, SECONDS apart. Prints the part of the time that the CPU
slept and the interrupts that came, and ``well`` at the end.
"""

import sys
import time

from client import Client

SESSIONS = 64
#: The least part of its time that the CPU sleeps.
LEAST = 0.99

address, seconds = ("127.0.0.1", int(sys.argv[1])), float(sys.argv[2])
kinds = Client.lines, Client.telnet, Client.raw
others = [kinds[number % len(kinds)](address) for number in range(SESSIONS - 1)]
for number, client in enumerate(others):
    client.calculate(1009, number + 2003)
watcher = Client.lines(address)


def look():
    """Answer the uptime, the idle time, and how many interrupts there were."""
    watcher.send(b"*open('/proc/uptime').read().split(), open('/proc/stat').read().split('intr ')[1].split()[0]\n")
    answer = watcher.until(b"\n>>> ").decode()
    return [float(word.strip("'")) for word in answer.strip("()\n").split(", ")]


look()
# What the sessions' first commands left behind, such as garbage to be collected, is over.
time.sleep(5)
before = look()
time.sleep(seconds)
after = look()
took, slept, interrupts = (new - old for new, old in zip(after, before))
part = slept / took
print(f"idle: asleep {part:.2%} of {took:.1f} s with {SESSIONS} sessions, {interrupts:.0f} interrupts")
assert part > LEAST, part
print("well")
