//! The load averages (getloadavg(3)): samples how many threads want to run.
//!
//! The arithmetic is [`klib::load_average`]. A timer takes the samples, but only while there is something to see: it
//! stops at a sample that finds nobody, and the next CPU that gets work starts it again. An idle machine is not woken.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use klib::load_average::{LoadAverage, PERIOD_NS};

use super::scheduler;
use crate::{
    sync::IrqLock,
    time::{self, TimerAction, TimerCallback, TimerHandle},
};

struct Load {
    average: LoadAverage,
    /// Periods since the machine started that are in `average`.
    periods: u64,
}

static LOAD: IrqLock<Load> = IrqLock::new(Load { average: LoadAverage::new(), periods: 0 });
/// The timer for the end of this period runs.
static SAMPLING: AtomicBool = AtomicBool::new(false);
static TIMER: IrqLock<Option<TimerHandle>> = IrqLock::new(None);

/// The end of a period.
struct Sample;

impl TimerCallback for Sample {
    fn expired(&self) {
        let active = scheduler::nr_active() as u64;
        {
            let mut load = LOAD.lock();
            let periods = time::monotonic_ns() / PERIOD_NS;
            let passed = periods.saturating_sub(load.periods);
            if passed > 0 {
                load.average.idle(passed - 1);
                load.average.sample(active);
            }
            load.periods = periods;
        }
        if active == 0 {
            SAMPLING.store(false, Ordering::Relaxed);
        } else {
            start();
        }
    }
}

fn start() {
    let end = (time::monotonic_ns() / PERIOD_NS + 1).saturating_mul(PERIOD_NS);
    let timer = time::set_timer(end, TimerAction::Call(Arc::new(Sample)));
    let old = TIMER.lock().replace(timer);
    drop(old);
}

/// The calling CPU got work: has the load sampled. Called without locks.
pub fn cpu_got_work() {
    if !SAMPLING.load(Ordering::Relaxed) && !SAMPLING.swap(true, Ordering::Relaxed) {
        start();
    }
}

/// The averages over 1, 5 and 15 minutes, as fixed-point numbers with [`klib::load_average::FRACTION_BITS`].
pub fn averages() -> [u64; 3] {
    let mut average = {
        let load = LOAD.lock();
        (load.average, load.periods)
    };
    let passed = (time::monotonic_ns() / PERIOD_NS).saturating_sub(average.1);
    average.0.idle(passed);
    average.0.averages()
}
