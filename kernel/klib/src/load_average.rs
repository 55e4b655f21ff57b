//! The load averages of proc(5): how many threads wanted to run, over the last 1, 5 and 15 minutes.
//!
//! Every [`PERIOD_NS`] the number of those that run or wait for a CPU is blended into three exponential averages. The
//! periods in which nobody did need not be looked at one by one: [`LoadAverage::idle`] makes up for any number of them.
//! The figures are Linux's, so that the same work gives the same load.

/// Between two samples, in nanoseconds: five seconds and a tick of 4 ms, so that what runs every five seconds is not
/// always met, or always missed.
pub const PERIOD_NS: u64 = 5_004_000_000;
/// Fraction bits of an average.
pub const FRACTION_BITS: u32 = 11;
const ONE: u64 = 1 << FRACTION_BITS;
/// What is left of an average after a period: e to the minus 5/60, 5/300 and 5/900.
const DECAY: [u64; 3] = [1884, 2014, 2037];

/// The three averages.
#[derive(Clone, Copy, Default, Debug)]
pub struct LoadAverage {
    averages: [u64; 3],
}

impl LoadAverage {
    /// Nothing has run yet.
    pub const fn new() -> Self {
        Self { averages: [0; 3] }
    }

    /// The averages over 1, 5 and 15 minutes, as fixed-point numbers with [`FRACTION_BITS`].
    pub const fn averages(&self) -> [u64; 3] {
        self.averages
    }

    /// Another period ended, at a moment when `active` threads wanted to run.
    pub fn sample(&mut self, active: u64) {
        for (average, decay) in self.averages.iter_mut().zip(DECAY) {
            *average = blend(*average, decay, active.saturating_mul(ONE));
        }
    }

    /// `periods` ended in which nobody wanted to run.
    pub fn idle(&mut self, periods: u64) {
        for (average, decay) in self.averages.iter_mut().zip(DECAY) {
            *average = blend(*average, power(decay, periods), 0);
        }
    }
}

fn blend(average: u64, decay: u64, active: u64) -> u64 {
    let sum = average.saturating_mul(decay).saturating_add(active.saturating_mul(ONE - decay));
    // Rounded up while it rises, so that it reaches the load and not a little less.
    (if active >= average { sum.saturating_add(ONE - 1) } else { sum }) / ONE
}

/// A fixed-point number of at most one to an integer power, by squaring.
fn power(mut base: u64, mut exponent: u64) -> u64 {
    let mut result = ONE;
    while exponent > 0 {
        if exponent & 1 != 0 {
            result = (result * base + ONE / 2) >> FRACTION_BITS;
        }
        base = (base * base + ONE / 2) >> FRACTION_BITS;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundredths(load: &LoadAverage) -> [u64; 3] {
        load.averages().map(|average| average * 100 / ONE)
    }

    #[test]
    fn steady_load_is_reached() {
        let mut load = LoadAverage::new();
        (0..1000).for_each(|_| load.sample(3));
        assert_eq!(hundredths(&load), [300; 3]);
    }

    #[test]
    fn minute_of_one_thread_gives_these_averages() {
        let mut load = LoadAverage::new();
        (0..12).for_each(|_| load.sample(1));
        assert_eq!(hundredths(&load), [63, 18, 6]);
    }

    #[test]
    fn idle_periods_count_at_once_as_one_by_one() {
        let mut busy = LoadAverage::new();
        (0..500).for_each(|_| busy.sample(8));
        for periods in [1, 2, 7, 60, 1000] {
            let (mut at_once, mut singly) = (busy, busy);
            at_once.idle(periods);
            (0..periods).for_each(|_| singly.sample(0));
            for (one, other) in at_once.averages().into_iter().zip(singly.averages()) {
                assert!(one.abs_diff(other) <= 8 * ONE / 20, "{periods}: {one} {other}");
            }
        }
        busy.idle(u64::MAX);
        assert_eq!(busy.averages(), [0; 3]);
    }

    #[test]
    fn absurd_load_overflows_nothing() {
        let mut load = LoadAverage::new();
        load.sample(u64::MAX);
        load.sample(u64::MAX);
        load.idle(3);
    }
}
