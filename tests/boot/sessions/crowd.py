"""Many sessions at once, from the host: all answer while one loops and others block, and nothing stays behind.

    crowd.py PORT SECONDS

Goes round and round for SECONDS, at least ROUNDS times: opens as many sessions as there may be, of every kind, keeps
them busy, drops them in every way. Prints how long the slowest answer took in each round, and ``well`` at the end.
"""

import random
import socket
import struct
import sys
import time

from client import PROMPT, Client, settles

#: Sessions at once, this program's own among them.
MOST = 64
#: Rounds that are enough: the first fills caches.
ROUNDS, WARM = 3, 1
#: Questions for each session in a round.
QUESTIONS = 3
#: KiB that the machine's memory may be down at the end. It falls by some 200 in a round, and by less in each, while the
#: number of Python's memory blocks stays: libc keeps the stacks of threads, and more of each has been used by then.
MOST_LOST = 8192

address = ("127.0.0.1", int(sys.argv[1]))
random.seed(4)


class Watcher:
    """A session that looks at what there is in the machine."""

    def __init__(self):
        self._client = Client.lines(address)
        self._ask("import gc, os, threading")

    def _ask(self, line):
        return self._client.ask(line.encode() + b"\n", b"").decode().strip()

    def descriptors(self):
        return int(self._ask("len(os.listdir('/proc/self/fd'))"))

    def threads(self):
        return int(self._ask("len(os.listdir('/proc/self/task'))"))

    def terminals(self):
        return self._ask("sorted(os.listdir('/dev/pts'))")

    def memory(self):
        """KiB that can be had."""
        self._ask("gc.collect() and None")
        return int(self._ask("next(int(line.split()[1]) for line in open('/proc/meminfo') if 'MemAvailable' in line)"))


def open_sessions():
    kinds = Client.lines, Client.telnet, Client.raw
    return [kinds[number % len(kinds)](address) for number in range(MOST - 1)]


def question(client, number):
    """Ask for a product and answer how long it took to come."""
    begun = time.monotonic()
    client.calculate(random.randrange(1000, 10000), number + 11)
    return time.monotonic() - begun


def go_round(watcher):
    clients = open_sessions()
    looping, sleeping, receiving, *others = clients
    looping.begin("while True: pass")
    sleeping.begin("import time; time.sleep(1e6)")
    receiving.begin("import socket; here, there = socket.socketpair(); here.recv(1)")
    slowest = max(question(client, number) for _ in range(QUESTIONS) for number, client in enumerate(others))
    # One more has no place, and says so.
    late = Client(address)
    late.until(PROMPT)
    late.send(b"1\n")
    late.until(b"no room")
    late.closed()
    for busy in looping, receiving:
        busy.send(b"\x03")
        busy.until(b"KeyboardInterrupt")
        busy.until(busy.prompt)
    assert sleeping.is_silent(), sleeping.received
    # The interrupted ones are as before, and one still sleeps.
    for client in (looping, receiving, *others):
        question(client, 7)
    random.shuffle(clients)
    for number, client in enumerate(clients):
        if number % 3 == 0:
            # The connection is reset.
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif number % 3 == 1 and client is not sleeping:
            client.send(b"raise SystemExit" + client.end)
        client.close()
    return slowest


watcher = Watcher()
before = watcher.descriptors(), watcher.threads(), watcher.terminals()
begun, rounds, level = time.monotonic(), 0, 0
while rounds < ROUNDS or time.monotonic() - begun < float(sys.argv[2]):
    slowest = go_round(watcher)
    for measure, expected in zip((watcher.descriptors, watcher.threads, watcher.terminals), before):
        settles(measure, expected)
    rounds += 1
    memory = watcher.memory()
    if rounds <= WARM:
        level = memory
    print(f"round {rounds}: slowest answer {slowest * 1000:.0f} ms, {memory - level:+} KiB", flush=True)
assert level - memory < MOST_LOST, f"{level - memory} KiB are gone"
print("well")
