"""The kernel's state as Python objects, read at the moment of the call.

``tasks()``, ``task(pid)``: processes and threads, what they use and where in the kernel they wait; ``memory()``: what the
memory is used for; ``interrupts()``, ``timer_lateness()``: what came, and how long it took; ``locks()``: locks on files;
``log()``: the kernel's log; ``trace()``: system calls, switches, interrupts and faults as they happen; ``symbol()``,
``address()``: the kernel's functions; ``walk()``: an address through the page tables; ``open_memory()``: the bytes of
physical memory.
"""

from piton.kernel.interrupts import Histogram, Interrupt, interrupts, timer_lateness
from piton.kernel.messages import Message, log
from piton.kernel.paging import Step, Translation, walk
from piton.kernel.physical import Memory, open_memory
from piton.kernel.symbols import address, symbol
from piton.kernel.tasks import Mapping, Task, task, tasks
from piton.kernel.tracing import Event, Trace, trace
from piton.kernel.usage import Lock, Usage, locks, memory

__all__ = [
    "Event",
    "Histogram",
    "Interrupt",
    "Lock",
    "Mapping",
    "Memory",
    "Message",
    "Step",
    "Task",
    "Trace",
    "Translation",
    "Usage",
    "address",
    "interrupts",
    "locks",
    "log",
    "memory",
    "open_memory",
    "symbol",
    "task",
    "tasks",
    "timer_lateness",
    "trace",
    "walk",
]
