//! The settings of a terminal, in the layout and numbering of Linux's asm-generic headers.
//!
//! AArch64 and x86-64 share them (`asm-generic/termbits.h`, `asm-generic/termios.h`; meanings in
//! termios(3)). Flags are plain `u32` constants, as bits nobody here knows have to survive a
//! `tcgetattr`, `tcsetattr` pair.

/// Number of control characters in the kernel's `struct termios`.
pub const NCCS: usize = 19;

/// Indices into [`Termios::cc`].
pub mod cc {
    /// Interrupt: SIGINT.
    pub const VINTR: usize = 0;
    /// Quit: SIGQUIT.
    pub const VQUIT: usize = 1;
    /// Erase a character.
    pub const VERASE: usize = 2;
    /// Erase the line.
    pub const VKILL: usize = 3;
    /// End of file.
    pub const VEOF: usize = 4;
    /// Time limit of a non-canonical read, tenths of a second.
    pub const VTIME: usize = 5;
    /// Number of bytes that completes a non-canonical read.
    pub const VMIN: usize = 6;
    /// Resume output.
    pub const VSTART: usize = 8;
    /// Suspend output.
    pub const VSTOP: usize = 9;
    /// Suspend: SIGTSTP.
    pub const VSUSP: usize = 10;
    /// A further end of line.
    pub const VEOL: usize = 11;
    /// Print the unfinished line again.
    pub const VREPRINT: usize = 12;
    /// Erase a word.
    pub const VWERASE: usize = 14;
    /// Take the next character literally.
    pub const VLNEXT: usize = 15;
    /// Yet another end of line.
    pub const VEOL2: usize = 16;
}

/// Bits of [`Termios::iflag`].
pub mod iflag {
    /// Ignore a break condition.
    pub const IGNBRK: u32 = 0o1;
    /// A break condition interrupts.
    pub const BRKINT: u32 = 0o2;
    /// Mark breaks and framing errors with 0xff 0, and double a real 0xff.
    pub const PARMRK: u32 = 0o10;
    /// Strip the eighth bit.
    pub const ISTRIP: u32 = 0o40;
    /// NL becomes CR.
    pub const INLCR: u32 = 0o100;
    /// CR is dropped.
    pub const IGNCR: u32 = 0o200;
    /// CR becomes NL.
    pub const ICRNL: u32 = 0o400;
    /// Upper case becomes lower case (with `IEXTEN`).
    pub const IUCLC: u32 = 0o1000;
    /// `VSTOP` and `VSTART` from the input control output.
    pub const IXON: u32 = 0o2000;
    /// Any character resumes output.
    pub const IXANY: u32 = 0o4000;
    /// Send `VSTOP` and `VSTART` as the input queue fills and drains.
    pub const IXOFF: u32 = 0o10000;
    /// Ring the bell when the input queue is full.
    pub const IMAXBEL: u32 = 0o20000;
    /// Input is UTF-8: erase whole characters.
    pub const IUTF8: u32 = 0o40000;
}

/// Bits of [`Termios::oflag`].
pub mod oflag {
    /// Process output at all.
    pub const OPOST: u32 = 0o1;
    /// Lower case becomes upper case.
    pub const OLCUC: u32 = 0o2;
    /// NL becomes CR NL.
    pub const ONLCR: u32 = 0o4;
    /// CR becomes NL.
    pub const OCRNL: u32 = 0o10;
    /// No CR at column 0.
    pub const ONOCR: u32 = 0o20;
    /// NL also returns the carriage.
    pub const ONLRET: u32 = 0o40;
    /// Mask of the treatment of tabs.
    pub const TABDLY: u32 = 0o14000;
    /// Tabs become spaces.
    pub const XTABS: u32 = 0o14000;
}

/// Bits of [`Termios::cflag`]; the line discipline only keeps them.
pub mod cflag {
    /// 38400 baud.
    pub const B38400: u32 = 0o17;
    /// Eight data bits.
    pub const CS8: u32 = 0o60;
    /// Receive.
    pub const CREAD: u32 = 0o200;
    /// Hang up on last close.
    pub const HUPCL: u32 = 0o2000;
}

/// Bits of [`Termios::lflag`].
pub mod lflag {
    /// `VINTR`, `VQUIT` and `VSUSP` raise signals.
    pub const ISIG: u32 = 0o1;
    /// Input is edited by lines.
    pub const ICANON: u32 = 0o2;
    /// Echo input.
    pub const ECHO: u32 = 0o10;
    /// An erased character disappears from the screen.
    pub const ECHOE: u32 = 0o20;
    /// A killed line is marked by a new line.
    pub const ECHOK: u32 = 0o40;
    /// Echo NL even without `ECHO`.
    pub const ECHONL: u32 = 0o100;
    /// Signals do not flush the queues.
    pub const NOFLSH: u32 = 0o200;
    /// Background output raises SIGTTOU; for the caller.
    pub const TOSTOP: u32 = 0o400;
    /// Control characters echo as `^X`.
    pub const ECHOCTL: u32 = 0o1000;
    /// Erased characters are printed between `\` and `/`.
    pub const ECHOPRT: u32 = 0o2000;
    /// A killed line disappears from the screen.
    pub const ECHOKE: u32 = 0o4000;
    /// The extensions: `VLNEXT`, `VREPRINT`, `VWERASE`, `VEOL2`, `IUCLC`.
    pub const IEXTEN: u32 = 0o100000;
    /// Editing is done elsewhere: input is queued untouched.
    pub const EXTPROC: u32 = 0o200000;
}

/// `struct termios` as the `TCGETS` and `TCSETS` requests carry it (ioctl_tty(2)): 36 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Termios {
    /// Input modes, [`iflag`].
    pub iflag: u32,
    /// Output modes, [`oflag`].
    pub oflag: u32,
    /// Control modes, [`cflag`].
    pub cflag: u32,
    /// Local modes, [`lflag`].
    pub lflag: u32,
    /// Line discipline number, 0 for this one.
    pub line: u8,
    /// Control characters, indexed by [`cc`]. 0 disables one (`_POSIX_VDISABLE`).
    pub cc: [u8; NCCS],
}

const _: () = assert!(size_of::<Termios>() == 36);

impl Termios {
    /// With every bit 0.
    pub const NOTHING: Self = Self { iflag: 0, oflag: 0, cflag: 0, lflag: 0, line: 0, cc: [0; NCCS] };

    /// These settings, but for those that are set in `locked`, which are as they were before (ioctl_tty(2),
    /// TIOCSLCKTRMIOS).
    pub fn keeping(self, before: &Self, locked: &Self) -> Self {
        let bits = |new: u32, old: u32, locked: u32| new & !locked | old & locked;
        let mut cc = self.cc;
        for ((new, old), locked) in cc.iter_mut().zip(before.cc).zip(locked.cc) {
            if locked != 0 {
                *new = old;
            }
        }
        Self {
            iflag: bits(self.iflag, before.iflag, locked.iflag),
            oflag: bits(self.oflag, before.oflag, locked.oflag),
            cflag: bits(self.cflag, before.cflag, locked.cflag),
            lflag: bits(self.lflag, before.lflag, locked.lflag),
            line: if locked.line != 0 { before.line } else { self.line },
            cc,
        }
    }
}

impl Default for Termios {
    /// The settings of a terminal nobody has set yet (`tty_std_termios`, `INIT_C_CC` of Linux).
    fn default() -> Self {
        let mut characters = [0; NCCS];
        for (index, value) in [
            (cc::VINTR, 0x03),
            (cc::VQUIT, 0x1c),
            (cc::VERASE, 0x7f),
            (cc::VKILL, 0x15),
            (cc::VEOF, 0x04),
            (cc::VMIN, 1),
            (cc::VSTART, 0x11),
            (cc::VSTOP, 0x13),
            (cc::VSUSP, 0x1a),
            (cc::VREPRINT, 0x12),
            // VDISCARD, which Linux keeps but does not act on.
            (13, 0x0f),
            (cc::VWERASE, 0x17),
            (cc::VLNEXT, 0x16),
        ] {
            characters[index] = value;
        }
        Self {
            iflag: iflag::ICRNL | iflag::IXON,
            oflag: oflag::OPOST | oflag::ONLCR,
            cflag: cflag::B38400 | cflag::CS8 | cflag::CREAD | cflag::HUPCL,
            lflag: lflag::ISIG
                | lflag::ICANON
                | lflag::ECHO
                | lflag::ECHOE
                | lflag::ECHOK
                | lflag::ECHOCTL
                | lflag::ECHOKE
                | lflag::IEXTEN,
            line: 0,
            cc: characters,
        }
    }
}

impl Termios {
    /// Whether the input mode `bit` is on.
    pub const fn input(&self, bit: u32) -> bool {
        self.iflag & bit != 0
    }

    /// Whether the output mode `bit` is on.
    pub const fn output(&self, bit: u32) -> bool {
        self.oflag & bit != 0
    }

    /// Whether the local mode `bit` is on.
    pub const fn local(&self, bit: u32) -> bool {
        self.lflag & bit != 0
    }

    /// Whether `byte` is the control character `index` (from [`cc`]), which a 0 there never is.
    pub const fn is(&self, index: usize, byte: u8) -> bool {
        byte != 0 && self.cc[index] == byte
    }
}

/// `struct winsize` (ioctl_tty(2), `TIOCGWINSZ`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Winsize {
    /// Rows, in characters.
    pub rows: u16,
    /// Columns, in characters.
    pub cols: u16,
    /// Width in pixels, or 0.
    pub xpixel: u16,
    /// Height in pixels, or 0.
    pub ypixel: u16,
}
