//! What adjtimex(2) takes and gives (linux/timex.h), which the generated structs lack.

/// `struct timex` of 64-bit architectures.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Timex {
    /// Which of the fields to set: `ADJ_*`.
    pub modes: u32,
    padding_0: u32,
    /// What the wall clock is off by; in nanoseconds with `STA_NANO`, else in microseconds.
    pub offset: i64,
    /// Change of the clock's speed, in 2^-16 millionths.
    pub freq: i64,
    /// Largest error, in microseconds.
    pub maxerror: i64,
    /// Estimated error, in microseconds.
    pub esterror: i64,
    /// `STA_*`.
    pub status: i32,
    padding_1: u32,
    /// The control loop's time constant; with `ADJ_TAI` the seconds between UTC and TAI.
    pub constant: i64,
    /// Precision, in microseconds.
    pub precision: i64,
    /// The largest `freq`.
    pub tolerance: i64,
    /// Wall-clock time, seconds.
    pub seconds: i64,
    /// Wall-clock time, nanoseconds with `STA_NANO` (as input: `ADJ_NANO`), else microseconds.
    pub fraction: i64,
    /// Microseconds of wall-clock time for each 10 000 of the counter's.
    pub tick: i64,
    /// Of a pulse-per-second signal: `ppsfreq` and `jitter`.
    pub pps: [i64; 2],
    /// Of a pulse-per-second signal.
    pub shift: i32,
    padding_2: u32,
    /// Of a pulse-per-second signal: `stabil`, `jitcnt`, `calcnt`, `errcnt` and `stbcnt`.
    pub pps_counts: [i64; 5],
    /// Seconds that international atomic time is ahead.
    pub tai: i32,
    padding_3: [i32; 11],
}

/// `modes`: set `offset`.
pub const ADJ_OFFSET: u32 = 0x0001;
/// `modes`: set `freq`.
pub const ADJ_FREQUENCY: u32 = 0x0002;
/// `modes`: set `maxerror`.
pub const ADJ_MAXERROR: u32 = 0x0004;
/// `modes`: set `esterror`.
pub const ADJ_ESTERROR: u32 = 0x0008;
/// `modes`: set `status`.
pub const ADJ_STATUS: u32 = 0x0010;
/// `modes`: set the time constant from `constant`.
pub const ADJ_TIMECONST: u32 = 0x0020;
/// `modes`: set `tai` from `constant`.
pub const ADJ_TAI: u32 = 0x0080;
/// `modes`: add `seconds` and `fraction` to the wall clock.
pub const ADJ_SETOFFSET: u32 = 0x0100;
/// `modes`: times are in microseconds.
pub const ADJ_MICRO: u32 = 0x1000;
/// `modes`: times are in nanoseconds. With [`ADJ_ADJTIME`]: only read.
pub const ADJ_NANO: u32 = 0x2000;
/// `modes`: set `tick`.
pub const ADJ_TICK: u32 = 0x4000;
/// `modes`, with [`ADJ_OFFSET`] and nothing else but [`ADJ_NANO`]: adjtime(3).
pub const ADJ_ADJTIME: u32 = 0x8000;

/// `status`: `offset` is worked off by a phase-locked loop.
pub const STA_PLL: i32 = 0x0001;
/// `status`: the frequency follows a frequency-locked loop.
pub const STA_FLL: i32 = 0x0008;
/// `status`: the day ends with a second more.
pub const STA_INS: i32 = 0x0010;
/// `status`: the day ends with a second less.
pub const STA_DEL: i32 = 0x0020;
/// `status`: the clock follows nothing.
pub const STA_UNSYNC: i32 = 0x0040;
/// `status`: `offset` does not change the frequency.
pub const STA_FREQHOLD: i32 = 0x0080;
/// `status`: the hardware failed.
pub const STA_CLOCKERR: i32 = 0x1000;
/// `status`: times are in nanoseconds.
pub const STA_NANO: i32 = 0x2000;
/// `status`: the frequency-locked loop is at work.
pub const STA_MODE: i32 = 0x4000;
/// `status`: what a program cannot set.
pub const STA_RONLY: i32 = 0xff00;

/// Answer: the clock follows something.
pub const TIME_OK: i32 = 0;
/// Answer: the day ends with a second more.
pub const TIME_INS: i32 = 1;
/// Answer: the day ends with a second less.
pub const TIME_DEL: i32 = 2;
/// Answer: this is the second more.
pub const TIME_OOP: i32 = 3;
/// Answer: there was a second more or less, and `status` still says that there will be.
pub const TIME_WAIT: i32 = 4;
/// Answer: the clock follows nothing.
pub const TIME_ERROR: i32 = 5;

const _: () = assert!(size_of::<Timex>() == 208);
