//! How a program such as an NTP daemon steers the clocks: the model behind adjtimex(2) and adjtime(3).
//!
//! A [`Discipline`] keeps what adjtimex(2) sets and says how long a tick of the clock is to be, [`Discipline::speed`].
//! Once in every second of the wall clock the kernel calls [`Discipline::second`], which decides how much of the phase
//! error is worked off in that second, and whether the wall clock jumps for a leap second. The algorithm is that of
//! RFC 5905 (appendix A.5.5.6, `local_clock`), and the fixed-point units are Linux's, so that what a program sets and reads back
//! is rounded as there. There is no pulse-per-second signal.

use abi::{Errno, Result, timex::*};

/// Clock ticks a second, which Linux's fixed-point numbers depend on.
const TICKS_PER_SECOND: i64 = 250;
/// Fraction bits of lengths and frequencies.
const SCALE: u32 = 32;
/// The unit of `Timex::freq`, 2^-16 millionths, in our frequencies (nanoseconds a second, [`SCALE`] bits fraction).
const FREQUENCY_UNIT: i64 = 1000 << (SCALE - 16);
/// 1 / [`FREQUENCY_UNIT`], with so many fraction bits more than [`SCALE`].
const INVERSE_SHIFT: u32 = 19;
const INVERSE_UNIT: i64 = (1 << (INVERSE_SHIFT + SCALE)) / FREQUENCY_UNIT + 1;
/// The largest frequency: 500 millionths, in nanoseconds a second.
const MAX_FREQUENCY_NS: i64 = 500_000;
const MAX_FREQUENCY: i64 = MAX_FREQUENCY_NS << SCALE;
/// The largest phase error, in nanoseconds.
const MAX_PHASE_NS: i64 = 500_000_000;
/// An error at which the clock counts as not synchronised, in microseconds.
const ERROR_LIMIT_US: i64 = (MAX_PHASE_NS / 1000) << 5;
/// What adjtime(3) works off in a second, in microseconds.
const MAX_ADJUST_US: i64 = 500;
const MAX_TAI: i64 = 100_000;
const MAX_TIME_CONSTANT: i64 = 10;
/// Between updates, in seconds: the frequency-locked loop works from the first, and alone from the second.
const MIN_INTERVAL_S: i64 = 256;
const MAX_INTERVAL_S: i64 = 2048;
/// The loops' gains, as shifts.
const PLL_SHIFT: i64 = 2;
const FLL_SHIFT: u32 = 2;
/// Units of `Timex::tick` in a second.
const USER_TICKS: i64 = 100;
/// `Timex::tick` of an unchanged clock, in microseconds.
const TICK_US: i64 = 1_000_000 / USER_TICKS;
const SECONDS_A_DAY: i64 = 24 * 3600;

/// One part of [`Discipline::speed`]: a clock that runs as its counter says has so many.
pub const NORMAL_SPEED: u64 = (1_000_000_000 / TICKS_PER_SECOND as u64) << SCALE;

/// Divides by a power of two, towards zero.
const fn shift_right(value: i64, shift: u32) -> i64 {
    if value < 0 { -(-value >> shift) } else { value >> shift }
}

/// What steers the clocks.
#[derive(Debug)]
pub struct Discipline {
    /// `STA_*`.
    status: i32,
    /// `TIME_*`, but for [`TIME_ERROR`].
    state: i32,
    time_constant: i64,
    max_error_us: i64,
    estimated_error_us: i64,
    tick_us: i64,
    /// Nanoseconds a second that the clock gains, [`SCALE`] bits fraction.
    frequency: i64,
    /// The phase error that is left, as nanoseconds a tick for a second, [`SCALE`] bits fraction.
    offset: i64,
    /// What adjtime(3) has left, in microseconds.
    adjust_us: i64,
    /// When the offset was last set, in seconds of the wall clock.
    updated_s: i64,
    /// The wall-clock second that begins after the leap.
    leap_s: i64,
    /// Nanoseconds a tick, [`SCALE`] bits fraction: without the phase adjustment, and with this second's.
    tick_base: i64,
    tick: i64,
    /// Seconds that international atomic time is ahead.
    tai_s: i32,
}

impl Default for Discipline {
    fn default() -> Self {
        Self::new()
    }
}

impl Discipline {
    /// A clock that nothing steers.
    pub const fn new() -> Self {
        Self {
            status: STA_UNSYNC,
            state: TIME_OK,
            time_constant: 2,
            max_error_us: ERROR_LIMIT_US,
            estimated_error_us: ERROR_LIMIT_US,
            tick_us: TICK_US,
            frequency: 0,
            offset: 0,
            adjust_us: 0,
            updated_s: 0,
            leap_s: i64::MAX,
            tick_base: NORMAL_SPEED as i64,
            tick: NORMAL_SPEED as i64,
            tai_s: 0,
        }
    }

    /// How fast the clocks are to run now: a multiple of their counter, in parts of which [`NORMAL_SPEED`] are one.
    pub const fn speed(&self) -> u64 {
        self.tick as u64
    }

    /// Seconds that international atomic time is ahead of the wall clock.
    pub const fn tai_s(&self) -> i32 {
        self.tai_s
    }

    /// The wall clock was set: what was known about its error holds no longer.
    pub fn clear(&mut self) {
        self.adjust_us = 0;
        self.status |= STA_UNSYNC;
        self.max_error_us = ERROR_LIMIT_US;
        self.estimated_error_us = ERROR_LIMIT_US;
        self.update_speed();
        self.tick = self.tick_base;
        self.offset = 0;
        self.leap_s = i64::MAX;
    }

    /// Whether seconds may pass with nothing but [`Discipline::skip`].
    pub const fn is_steady(&self) -> bool {
        self.adjust_us == 0
            && self.offset_chunk() == 0
            && self.tick == self.tick_base
            && self.state == TIME_OK
            && self.status & (STA_INS | STA_DEL) == 0
    }

    /// `count` seconds of a steady clock have passed: its error has grown.
    pub fn skip(&mut self, count: u64) {
        let grown = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(MAX_FREQUENCY_NS / 1000);
        self.max_error_us = self.max_error_us.saturating_add(grown);
        if self.max_error_us > ERROR_LIMIT_US {
            self.max_error_us = ERROR_LIMIT_US;
            self.status |= STA_UNSYNC;
        }
    }

    /// The second `now_s` of the wall clock has begun. Answers what is to be added to the wall clock for a leap second,
    /// in seconds; the offset to atomic time has changed accordingly.
    pub fn second(&mut self, now_s: i64) -> i32 {
        let leap = self.leap(now_s);
        self.tai_s -= leap;
        self.skip(1);
        self.tick = self.tick_base;
        let chunk = self.offset_chunk();
        self.offset -= chunk;
        self.tick += chunk;
        let now_us = self.adjust_us.clamp(-MAX_ADJUST_US, MAX_ADJUST_US);
        self.adjust_us -= now_us;
        self.tick += (now_us * 1000 / TICKS_PER_SECOND) << SCALE;
        leap
    }

    fn leap(&mut self, now_s: i64) -> i32 {
        match self.state {
            TIME_OK if self.status & STA_INS != 0 => {
                self.state = TIME_INS;
                self.leap_s = now_s.saturating_add(SECONDS_A_DAY - now_s.rem_euclid(SECONDS_A_DAY));
            }
            TIME_OK if self.status & STA_DEL != 0 => {
                self.state = TIME_DEL;
                let into_day = now_s.saturating_add(1).rem_euclid(SECONDS_A_DAY);
                self.leap_s = now_s.saturating_add(SECONDS_A_DAY - into_day);
            }
            TIME_INS if self.status & STA_INS == 0 => (self.leap_s, self.state) = (i64::MAX, TIME_OK),
            TIME_INS if now_s == self.leap_s => {
                self.state = TIME_OOP;
                return -1;
            }
            TIME_DEL if self.status & STA_DEL == 0 => (self.leap_s, self.state) = (i64::MAX, TIME_OK),
            TIME_DEL if now_s == self.leap_s => {
                (self.leap_s, self.state) = (i64::MAX, TIME_WAIT);
                return 1;
            }
            TIME_OOP => (self.leap_s, self.state) = (i64::MAX, TIME_WAIT),
            TIME_WAIT if self.status & (STA_INS | STA_DEL) == 0 => self.state = TIME_OK,
            _ => {}
        }
        0
    }

    /// What of the offset the next second works off.
    const fn offset_chunk(&self) -> i64 {
        shift_right(self.offset, (PLL_SHIFT + self.time_constant) as u32)
    }

    fn update_speed(&mut self) {
        let second = ((self.tick_us * 1000 * USER_TICKS) << SCALE) + self.frequency;
        let base = second / TICKS_PER_SECOND;
        self.tick += base - self.tick_base;
        self.tick_base = base;
    }

    /// adjtimex(2) but for `ADJ_SETOFFSET`, at the wall-clock time `now_ns`: takes what [`check`] has passed and fills
    /// in the answer. Answers `TIME_*`.
    pub fn adjust(&mut self, timex: &mut Timex, now_ns: u64) -> i32 {
        let (now_s, fraction_ns) = ((now_ns / 1_000_000_000) as i64, (now_ns % 1_000_000_000) as i64);
        if timex.modes & ADJ_ADJTIME != 0 {
            let before = self.adjust_us;
            if timex.modes & ADJ_NANO == 0 {
                self.adjust_us = timex.offset;
                self.update_speed();
            }
            timex.offset = before;
        } else {
            self.set(timex, now_s);
            timex.offset = shift_right(self.offset * TICKS_PER_SECOND, SCALE);
            if self.status & STA_NANO == 0 {
                timex.offset /= 1000;
            }
        }
        timex.freq = shift_right((self.frequency >> INVERSE_SHIFT) * INVERSE_UNIT, SCALE);
        timex.maxerror = self.max_error_us;
        timex.esterror = self.estimated_error_us;
        timex.status = self.status;
        timex.constant = self.time_constant;
        timex.precision = 1;
        timex.tolerance = MAX_FREQUENCY / FREQUENCY_UNIT;
        timex.tick = self.tick_us;
        timex.tai = self.tai_s;
        (timex.pps, timex.shift, timex.pps_counts) = ([0; 2], 0, [0; 5]);
        timex.seconds = now_s;
        timex.fraction = if self.status & STA_NANO != 0 { fraction_ns } else { fraction_ns / 1000 };
        if self.status & (STA_UNSYNC | STA_CLOCKERR) != 0 { TIME_ERROR } else { self.state }
    }

    fn set(&mut self, timex: &Timex, now_s: i64) {
        let wants = |mode: u32| timex.modes & mode != 0;
        if wants(ADJ_STATUS) {
            let (was, is) = (self.status & STA_PLL != 0, timex.status & STA_PLL != 0);
            if was && !is {
                (self.state, self.status, self.leap_s) = (TIME_OK, STA_UNSYNC, i64::MAX);
            }
            if is && !was {
                self.updated_s = now_s;
            }
            self.status = self.status & STA_RONLY | timex.status & !STA_RONLY;
        }
        if wants(ADJ_NANO) {
            self.status |= STA_NANO;
        }
        if wants(ADJ_MICRO) {
            self.status &= !STA_NANO;
        }
        if wants(ADJ_FREQUENCY) {
            self.frequency = timex.freq.saturating_mul(FREQUENCY_UNIT).clamp(-MAX_FREQUENCY, MAX_FREQUENCY);
        }
        if wants(ADJ_MAXERROR) {
            self.max_error_us = timex.maxerror.clamp(0, ERROR_LIMIT_US);
        }
        if wants(ADJ_ESTERROR) {
            self.estimated_error_us = timex.esterror.clamp(0, ERROR_LIMIT_US);
        }
        if wants(ADJ_TIMECONST) {
            let constant = timex.constant.clamp(0, MAX_TIME_CONSTANT);
            let constant = if self.status & STA_NANO == 0 { constant + 4 } else { constant };
            self.time_constant = constant.min(MAX_TIME_CONSTANT);
        }
        if wants(ADJ_TAI) && (0..=MAX_TAI).contains(&timex.constant) {
            self.tai_s = timex.constant as i32;
        }
        if wants(ADJ_OFFSET) && self.status & STA_PLL != 0 {
            self.set_offset(timex.offset, now_s);
        }
        if wants(ADJ_TICK) {
            self.tick_us = timex.tick;
        }
        if wants(ADJ_TICK | ADJ_FREQUENCY | ADJ_OFFSET) {
            self.update_speed();
        }
    }

    /// A new phase error: it is worked off from the next second on, and says that the frequency was wrong.
    fn set_offset(&mut self, offset: i64, now_s: i64) {
        let offset_ns = match self.status & STA_NANO {
            0 => offset.clamp(-1_000_000, 1_000_000) * 1000,
            _ => offset,
        };
        let offset_ns = offset_ns.clamp(-MAX_PHASE_NS, MAX_PHASE_NS);
        let since_s = i64::from(now_s.wrapping_sub(self.updated_s) as u32);
        let since_s = if self.status & STA_FREQHOLD != 0 { 0 } else { since_s };
        self.updated_s = now_s;

        self.status &= !STA_MODE;
        let mut change = 0;
        if since_s >= MIN_INTERVAL_S && (self.status & STA_FLL != 0 || since_s > MAX_INTERVAL_S) {
            self.status |= STA_MODE;
            change = (offset_ns << (SCALE - FLL_SHIFT)) / since_s;
        }
        // Seldom updates would make the loop unstable.
        let since_s = since_s.min(1 << (PLL_SHIFT + 1 + self.time_constant));
        let gain = i64::from(SCALE) - 2 * (PLL_SHIFT + 2 + self.time_constant);
        change += (offset_ns * since_s) << gain;
        self.frequency = (change + self.frequency).clamp(-MAX_FREQUENCY, MAX_FREQUENCY);
        self.offset = (offset_ns << SCALE) / TICKS_PER_SECOND;
    }
}

/// What Linux refuses of the input of adjtimex(2): EINVAL; EPERM where it changes something and the caller
/// `may_set` nothing.
pub fn check(timex: &Timex, may_set: bool) -> Result<()> {
    let wants = |mode: u32| timex.modes & mode != 0;
    let permission = |needed: bool| if needed && !may_set { Err(Errno::EPERM) } else { Ok(()) };
    if wants(ADJ_ADJTIME) {
        if !wants(ADJ_OFFSET) {
            return Err(Errno::EINVAL);
        }
        permission(!wants(ADJ_NANO))?;
    } else {
        permission(timex.modes != 0)?;
        // A tenth more or less.
        if wants(ADJ_TICK) && !(TICK_US * 9 / 10..=TICK_US * 11 / 10).contains(&timex.tick) {
            return Err(Errno::EINVAL);
        }
    }
    if wants(ADJ_SETOFFSET) {
        permission(true)?;
        let end = if wants(ADJ_NANO) { 1_000_000_000 } else { 1_000_000 };
        if !(0..end).contains(&timex.fraction) {
            return Err(Errno::EINVAL);
        }
    }
    let most = i64::MAX / FREQUENCY_UNIT;
    if wants(ADJ_FREQUENCY) && !(-most..=most).contains(&timex.freq) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: u64 = 1_000_000_000;

    fn timex(modes: u32) -> Timex {
        let mut timex: Timex = abi::zeroed();
        timex.modes = modes;
        timex
    }

    /// Nanoseconds that a second gains.
    fn gain_ns(discipline: &Discipline) -> i64 {
        ((discipline.speed() as i64 - NORMAL_SPEED as i64) * TICKS_PER_SECOND) >> SCALE
    }

    #[test]
    fn fresh_clock_runs_as_its_counter_and_is_not_synchronised() {
        let mut discipline = Discipline::new();
        assert!(discipline.is_steady());
        assert_eq!(gain_ns(&discipline), 0);
        let mut answer = timex(0);
        assert_eq!(discipline.adjust(&mut answer, 7 * NS + 5_999), TIME_ERROR);
        assert_eq!((answer.seconds, answer.fraction, answer.tick), (7, 5, 10_000));
        assert_eq!((answer.status, answer.maxerror, answer.tolerance), (STA_UNSYNC, 16_000_000, 32_768_000));
    }

    #[test]
    fn frequency_and_tick_change_the_speed_at_once() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_FREQUENCY);
        request.freq = 100 << 16;
        discipline.adjust(&mut request, NS);
        assert_eq!(request.freq, 100 << 16);
        assert_eq!(gain_ns(&discipline), 100_000);
        let mut request = timex(ADJ_TICK);
        request.tick = 11_000;
        discipline.adjust(&mut request, NS);
        assert_eq!(gain_ns(&discipline), 100_100_000);
        assert!(discipline.is_steady());
    }

    #[test]
    fn frequency_is_limited_to_500_millionths() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_FREQUENCY);
        request.freq = -(1 << 40);
        discipline.adjust(&mut request, NS);
        assert_eq!(request.freq, -(500 << 16));
    }

    #[test]
    fn adjtime_works_off_half_a_millisecond_a_second() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_ADJTIME | ADJ_OFFSET);
        request.offset = -1_200;
        discipline.adjust(&mut request, NS);
        assert_eq!(request.offset, 0);
        let gains = [2, 3, 4, 5].map(|second| {
            assert_eq!(discipline.second(second), 0);
            gain_ns(&discipline)
        });
        assert_eq!(gains, [-500_000, -500_000, -200_000, 0]);
        assert!(discipline.is_steady());
    }

    #[test]
    fn offset_is_worked_off_by_a_part_of_what_is_left() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_OFFSET | ADJ_STATUS | ADJ_NANO | ADJ_TIMECONST);
        (request.offset, request.status, request.constant) = (1_000_000, STA_PLL | STA_FREQHOLD, 0);
        discipline.adjust(&mut request, NS);
        assert_eq!(request.offset, 1_000_000);
        let mut gained = 0;
        for second in 2..60 {
            discipline.second(second);
            gained += gain_ns(&discipline);
        }
        assert!((990_000..=1_000_000).contains(&gained), "{gained}");
        assert_eq!(request.freq, 0);
    }

    #[test]
    fn leap_second_is_inserted_at_midnight() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_STATUS);
        request.status = STA_INS;
        discipline.adjust(&mut request, 86_397 * NS);
        assert_eq!([86_398, 86_399, 86_400].map(|second| discipline.second(second)), [0, 0, -1]);
        assert_eq!((discipline.tai_s(), discipline.state), (1, TIME_OOP));
        assert_eq!(discipline.second(86_400), 0);
        assert_eq!(discipline.state, TIME_WAIT);
    }

    #[test]
    fn leap_second_is_deleted_before_midnight() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_STATUS);
        request.status = STA_DEL;
        discipline.adjust(&mut request, 86_396 * NS);
        assert_eq!([86_397, 86_398, 86_399].map(|second| discipline.second(second)), [0, 0, 1]);
        assert_eq!((discipline.tai_s(), discipline.state), (-1, TIME_WAIT));
    }

    #[test]
    fn error_grows_until_the_clock_counts_as_unsynchronised() {
        let mut discipline = Discipline::new();
        let mut request = timex(ADJ_STATUS | ADJ_MAXERROR);
        request.maxerror = 1000;
        assert_eq!(discipline.adjust(&mut request, NS), TIME_OK);
        discipline.skip(2);
        assert_eq!((discipline.max_error_us, discipline.status & STA_UNSYNC), (2000, 0));
        discipline.skip(u64::MAX);
        assert_eq!((discipline.max_error_us, discipline.status & STA_UNSYNC), (16_000_000, STA_UNSYNC));
    }

    #[test]
    fn input_beyond_the_limits_is_refused() {
        let mut request = timex(ADJ_TICK);
        request.tick = 8_999;
        assert_eq!(check(&request, true), Err(Errno::EINVAL));
        assert_eq!(check(&request, false), Err(Errno::EPERM));
        assert_eq!(check(&timex(ADJ_ADJTIME), true), Err(Errno::EINVAL));
        assert_eq!(check(&timex(ADJ_ADJTIME | ADJ_OFFSET | ADJ_NANO), false), Ok(()));
        let mut request = timex(ADJ_SETOFFSET);
        request.fraction = 1_000_000;
        assert_eq!(check(&request, true), Err(Errno::EINVAL));
        request.modes |= ADJ_NANO;
        assert_eq!(check(&request, true), Ok(()));
    }

    #[test]
    fn extreme_input_overflows_nothing() {
        for value in [i64::MIN, i64::MAX, -1, 0, 1] {
            let mut discipline = Discipline::new();
            let mut request = timex(0xffff & !ADJ_ADJTIME);
            (request.offset, request.maxerror, request.esterror) = (value, value, value);
            (request.constant, request.tick, request.status) = (value, 11_000, STA_PLL);
            discipline.adjust(&mut request, u64::MAX);
            let mut request = timex(ADJ_ADJTIME | ADJ_OFFSET);
            request.offset = value;
            discipline.adjust(&mut request, 0);
            discipline.second(value);
            discipline.second(0);
            assert!(gain_ns(&discipline) < 200_000_000);
        }
    }
}
