"""Gets a session's thread out of what it does: the Ctrl-C of a session, and the end of one whose client has gone.

CPython lets only the main thread be interrupted. For any other there is ``PyThreadState_SetAsyncExc``: the exception
comes before the thread's next bytecode, which is soon in a loop and never in ``time.sleep(1e6)`` or ``lock.acquire()``.
A signal does end the system call below, but outside the main thread CPython then starts the call again (PEP 475),
because ``PyErr_CheckSignals`` looks for signals in the main thread alone.

So for the moment of the signal the thread is made the main one: ``_PyRuntime.main_thread``, one word, is set to its
identity and back. The call that the signal ended then does what it would do in the main thread: it runs the handlers of
signals, in Python, and the first thing that happens in Python is the exception that is already set. What was
interrupted fails with it as every main thread's call does with KeyboardInterrupt: nothing is left half done that Ctrl-C
at the console would not leave. The word is found by what stands around it, the main interpreter and a thread state,
both from the public C API; where it is not found exactly once, blocking calls stay uninterruptible and all else works.

While the word is changed, the real main thread handles no signals. That lasts for as long as the other thread needs to
get the interpreter's lock, mostly below a millisecond; afterwards the main thread is given a signal too, so that it
looks at what came in between.
"""

import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from piton.repl.session import Session

#: The signal that ends a blocking call; its handler does nothing.
SIGNAL = signal.SIGRTMAX
#: How long the thread may take to come out, in seconds: the first tries, then each one more that `again` makes.
WINDOWS = 0.0005, 0.001, 0.002
LATER_WINDOW = 0.008
#: Seconds between two looks at whether it has come out.
STEP = 0.0005
#: How many words of the runtime's state are searched.
_SEARCHED_WORDS = 1024


def checkpoint(signum, frame) -> None:
    """Handle the signal: an exception that is set for this thread comes as this is entered."""


def prepare() -> None:
    """Install the handler of the signal, which only the main thread may do."""
    signal.signal(SIGNAL, checkpoint)


class Interrupter:
    """Interrupts the threads of sessions, one at a time. Used by the server's thread alone."""

    def __init__(self):
        import ctypes
        from _thread import _get_main_thread_ident

        self._main = _get_main_thread_ident()
        self._set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
        self._set_exception.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
        self._address_of = id  # CPython's id() is the object's address.
        self._main_thread = _find_main_thread(ctypes, self._main)
        #: The session that is being interrupted; its thread waits for this to be over before it goes on.
        self.busy: Session | None = None

    def clear(self, session: "Session") -> None:
        """Take back an exception that has not come yet. Called by the session's own thread, too."""
        self._set_exception(session.thread.ident, None)

    def interrupt(self, session: "Session", exception: type[BaseException]) -> "Attempt | None":
        """Raise *exception* in the thread of *session*, if it runs code of its user.

        Answers None when it has come out of what it did, else what is to be handed to `again` a little later: it is in
        something that no signal ends, or others have the interpreter's lock.
        """
        # Announced first and looked at second, as the thread says that it has left and then looks whether we are at it.
        self.busy = session
        try:
            if not session.running:
                return None
            if session.is_shielded:
                session.keys_sent += 1
                return None
            attempt = Attempt(session)
            self._set_exception(session.thread.ident, self._address_of(exception))
            for window in WINDOWS:
                if attempt.over(self._window(session, window)):
                    return None
            return attempt
        finally:
            self.busy = None

    def again(self, attempt: "Attempt") -> bool:
        """Try once more; True when the thread has come out."""
        self.busy = attempt.session
        try:
            return attempt.over(attempt.session.running and self._window(attempt.session, LATER_WINDOW))
        finally:
            self.busy = None

    def _window(self, session: "Session", seconds: float) -> bool:
        """Let the thread be the main one for a while and send it the signal; False when it has left the user's code."""
        ident = session.thread.ident
        try:
            if self._main_thread is not None:
                self._main_thread.value = ident
            signal.pthread_kill(ident, SIGNAL)
            deadline = time.monotonic() + seconds
            while session.running and time.monotonic() < deadline:
                # Gives up the interpreter's lock, which the thread needs to come out.
                time.sleep(STEP)
        finally:
            if self._main_thread is not None:
                self._main_thread.value = self._main
                signal.pthread_kill(self._main, SIGNAL)
        return session.running


class Attempt:
    """An interrupt under way: where the thread was when it began."""

    def __init__(self, session: "Session"):
        self.session = session
        self._frame = sys._current_frames().get(session.thread.ident)
        self._instruction = self._frame.f_lasti if self._frame is not None else -1

    def over(self, running: bool) -> bool:
        """Whether the thread has come out: it has left the user's code or is somewhere else in it."""
        if running:
            frame = sys._current_frames().get(self.session.thread.ident)
            if frame is not None and frame is self._frame and frame.f_lasti == self._instruction:
                return False
        # Holds all the objects of the frame otherwise.
        self._frame = None
        return True


def _find_main_thread(ctypes, ident: int):
    """Find the word in which the interpreter keeps the identity of its main thread, or answer None.

    ``struct pyruntimestate`` has, one after the other: the main interpreter's address, the next interpreter's number,
    the main thread's identity, and the address of its thread state.
    """
    api = ctypes.pythonapi
    for function in (api.PyInterpreterState_Main, api.PyInterpreterState_ThreadHead, api.PyThreadState_Next):
        function.restype = ctypes.c_void_p
        function.argtypes = (ctypes.c_void_p,) if function is not api.PyInterpreterState_Main else ()
    interpreter = api.PyInterpreterState_Main()
    states = set()
    state = api.PyInterpreterState_ThreadHead(interpreter)
    while state:
        states.add(state)
        state = api.PyThreadState_Next(state)
    try:
        start = ctypes.addressof(ctypes.c_char.in_dll(api, "_PyRuntime"))
    except ValueError:
        return None
    word = ctypes.sizeof(ctypes.c_ulong)
    words = (ctypes.c_ulong * _SEARCHED_WORDS).from_address(start)
    found = [
        index
        for index in range(2, _SEARCHED_WORDS - 1)
        if words[index] == ident and words[index - 2] == interpreter and words[index + 1] in states
    ]
    return ctypes.c_ulong.from_address(start + found[0] * word) if len(found) == 1 else None
