"""The Telnet protocol (RFC 854, 855, 1143) as far as a server of terminals needs it. No sockets, no waiting.

``Telnet`` takes what the client sent apart into text, options and keys, and makes what is to be sent. Options: the
server echoes and suppresses go-ahead (RFC 857, 858: a key at a time), both sides are binary (RFC 856: UTF-8), and the
client tells its window and the name of its terminal (RFC 1073, 1091). All others are refused. The state is bounded
whatever comes: a subnegotiation longer than ``LONGEST`` is dropped, and every answer is at most as long as what it
answers.
"""

from piton import repl

IAC, DONT, DO, WONT, WILL, SB = 255, 254, 253, 252, 251, 250
EL, EC, AYT, AO, IP, BREAK, DATA_MARK, NOP, SE = 248, 247, 246, 245, 244, 243, 242, 241, 240
ABORT, SUSPEND, END_OF_FILE = 238, 237, 236
BINARY, ECHO, SUPPRESS_GO_AHEAD, TERMINAL_TYPE, WINDOW = 0, 1, 3, 24, 31

#: Bytes of a subnegotiation that are kept; those that are understood have at most some forty.
LONGEST = 256
#: Options that the server has on itself, and that it wants of the client.
OURS = frozenset((BINARY, ECHO, SUPPRESS_GO_AHEAD))
THEIRS = frozenset((BINARY, SUPPRESS_GO_AHEAD, TERMINAL_TYPE, WINDOW))
#: What asks a client whether it speaks the protocol at all: the name of its terminal.
PROBE = bytes((IAC, DO, TERMINAL_TYPE))

_ASK_TERMINAL = bytes((IAC, SB, TERMINAL_TYPE, 1, IAC, SE))
#: Commands that stand for a key: Ctrl-C, Ctrl-\, Ctrl-Z, Ctrl-D, Ctrl-O, delete, Ctrl-U.
_KEYS = {IP: 3, BREAK: 3, ABORT: 0x1C, SUSPEND: 0x1A, END_OF_FILE: 4, AO: 0x0F, EC: 0x7F, EL: 0x15}

_DATA, _COMMAND, _OPTION, _SUB, _SUB_COMMAND = range(5)


class Telnet:
    """One connection's side of the protocol.

    ``spoken`` says that the client sent a command: it is a telnet client. ``reply`` collects what is to be sent to it.
    """

    def __init__(self):
        self.spoken = False
        #: Set when the client is known to speak something else: every byte is then what it is.
        self.off = False
        #: Columns and lines of the client's window, once it told them.
        self.window: tuple[int, int] | None = None
        #: The client's terminal, once it told it, in lower case.
        self.terminal: str | None = None
        self.reply = bytearray()
        #: Options that are on here and there; asked for and not answered yet; refused.
        self.ours: set[int] = set()
        self.theirs: set[int] = set()
        self.offered: set[int] = set()
        self.asked: set[int] = {TERMINAL_TYPE}
        self.refused: set[int] = set()
        self._state = _DATA
        self._verb = 0
        self._sub = bytearray()
        self._after_return = False
        self._sent_return = False

    def negotiate(self) -> None:
        """Offer and ask for everything that a terminal needs."""
        for option in sorted(OURS - self.ours):
            self.offered.add(option)
            self.reply += bytes((IAC, WILL, option))
        for option in sorted(THEIRS - self.theirs - self.asked):
            self.asked.add(option)
            self.reply += bytes((IAC, DO, option))

    @property
    def settled(self) -> bool:
        """Whether the client told all about its terminal or said that it will not."""
        known = self.terminal is not None or TERMINAL_TYPE in self.refused
        return known and (self.window is not None or WINDOW in self.refused)

    def receive(self, data: bytes) -> bytes:
        """Take in what came from the client and answer the keys in it."""
        if self.off:
            return data
        if self._state == _DATA and IAC not in data and (BINARY in self.theirs or not self.spoken):
            self._after_return = False
            return data
        keys = bytearray()
        for byte in data:
            if self._state == _DATA:
                if byte == IAC:
                    self._state = _COMMAND
                else:
                    self._key(byte, keys)
            elif self._state == _COMMAND:
                self._command(byte, keys)
            elif self._state == _OPTION:
                self._state = _DATA
                self._negotiated(self._verb, byte)
            elif self._state == _SUB:
                if byte == IAC:
                    self._state = _SUB_COMMAND
                elif len(self._sub) < LONGEST:
                    self._sub.append(byte)
            elif byte == IAC:
                self._state = _SUB
                if len(self._sub) < LONGEST:
                    self._sub.append(byte)
            else:
                # The end, or a command that does not belong here and ends it too.
                self._state = _DATA
                if len(self._sub) == LONGEST:
                    repl.refuse("telnet subnegotiations that are too long")
                elif byte == SE:
                    self._subnegotiated(bytes(self._sub))
                else:
                    self._command(byte, keys)
        return bytes(keys)

    def send(self, data: bytes) -> bytes:
        """Make of output what is sent to the client."""
        if not self.spoken:
            return data
        data = data.replace(b"\xff", b"\xff\xff")
        if BINARY in self.ours:
            self._sent_return = False
            return data
        # RFC 854: a carriage return that is no end of line is followed by NUL; for the last byte that is not known yet.
        if not data:
            return data
        if self._sent_return and data[:1] != b"\n":
            data = b"\0" + data
        self._sent_return = data.endswith(b"\r")
        data = data.replace(b"\r", b"\r\0").replace(b"\r\0\n", b"\r\n")
        return data[:-1] if self._sent_return else data

    def _key(self, byte: int, keys: bytearray) -> None:
        # An end of line is CR LF or CR NUL unless the client is binary.
        if self._after_return and byte in (0, 10) and BINARY not in self.theirs:
            self._after_return = False
            return
        self._after_return = byte == 13
        keys.append(byte)

    def _command(self, byte: int, keys: bytearray) -> None:
        self._state = _DATA
        if byte == IAC:
            # A doubled one is the byte itself.
            self._key(byte, keys)
            return
        self.spoken = True
        if byte in (DO, DONT, WILL, WONT):
            self._verb = byte
            self._state = _OPTION
        elif byte == SB:
            self._sub.clear()
            self._state = _SUB
        elif byte == AYT:
            self.reply += b"\r\n[yes]\r\n"
        elif (key := _KEYS.get(byte)) is not None:
            keys.append(key)

    def _negotiated(self, verb: int, option: int) -> None:
        if verb in (DO, DONT):
            state, pending, wanted, yes, no = self.ours, self.offered, OURS, WILL, WONT
        else:
            state, pending, wanted, yes, no = self.theirs, self.asked, THEIRS, DO, DONT
        answered = option in pending
        pending.discard(option)
        if verb in (DONT, WONT):
            if verb == WONT:
                self.refused.add(option)
            if option in state:
                state.discard(option)
                self.reply += bytes((IAC, no, option))
        elif option not in wanted:
            repl.refuse("telnet options")
            self.reply += bytes((IAC, no, option))
        elif option not in state:
            state.add(option)
            self.refused.discard(option)
            if not answered:
                self.reply += bytes((IAC, yes, option))
            if verb == WILL and option == TERMINAL_TYPE:
                self.reply += _ASK_TERMINAL

    def _subnegotiated(self, data: bytes) -> None:
        if len(data) == 5 and data[0] == WINDOW:
            # 0 means that the client does not know.
            columns, lines = int.from_bytes(data[1:3]), int.from_bytes(data[3:5])
            self.window = (columns or 80, lines or 24)
        elif data[:2] == bytes((TERMINAL_TYPE, 0)):
            name = data[2:].decode("ascii", "replace").lower()
            self.terminal = "".join(c for c in name if c.isascii() and (c.isalnum() or c in "-+._"))[:40]
