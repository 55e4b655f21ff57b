//! How programs set and steer the clocks: clock_settime(2) and adjtimex(2).
//!
//! [`Discipline`] (klib) decides how fast the clocks run and when a leap second is due; this module feeds it the seconds
//! of the wall clock, and puts into force what it decides. While nothing is left to be decided no timer runs: the
//! seconds are counted when somebody looks.

use alloc::sync::Arc;

use abi::{
    Errno, Result,
    timex::{ADJ_NANO, ADJ_SETOFFSET, Timex},
};
use klib::clock_discipline::{Discipline, NORMAL_SPEED};

use super::{
    SECOND, TimerAction, TimerCallback, TimerHandle,
    clock::{self, Change},
};
use crate::{
    sync::{IrqLock, Lazy},
    task::wait::WaitQueue,
};

/// Where the wall clock's seconds end: what 64-bit nanoseconds reach, less thirty years of running (linux/time64.h,
/// TIME_SETTOD_SEC_MAX).
pub const LATEST_S: u64 = i64::MAX as u64 / SECOND - 30 * 365 * 24 * 3600;
/// After so many seconds that nobody looked at, the rest are not looked at one by one.
const MOST_SECONDS: u32 = 60;

struct Steering {
    discipline: Discipline,
    /// The second of the wall clock up to which the discipline was told.
    second_s: u64,
}

/// What happened under the lock, to be told to others after it.
#[derive(Default)]
struct Happened {
    /// The clocks' speed changed.
    speed: bool,
    /// The wall clock, or atomic time, jumped.
    jump: bool,
    /// Seconds the wall clock jumped by for a leap second.
    leap_s: i32,
}

static STEERING: IrqLock<Steering> = IrqLock::new(Steering { discipline: Discipline::new(), second_s: 0 });
/// Woken when the wall clock was set.
static WALL_CLOCK_SET: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));
/// Runs while the discipline has something to do at the next second.
static NEXT_SECOND: IrqLock<Option<TimerHandle>> = IrqLock::new(None);

impl Steering {
    /// Tells the discipline of the seconds that have begun.
    fn catch_up(&mut self, happened: &mut Happened) {
        for _ in 0..MOST_SECONDS {
            let now_s = clock::realtime_ns() / SECOND;
            if self.discipline.is_steady() || self.second_s >= now_s {
                break;
            }
            self.second_s += 1;
            let leap_s = self.discipline.second(self.second_s as i64);
            self.second_s = self.second_s.saturating_add_signed(i64::from(leap_s));
            let offset = clock::realtime_offset_ns() + i64::from(leap_s) * SECOND as i64;
            self.put_into_force(offset, happened);
            happened.leap_s += leap_s;
        }
        let now_s = clock::realtime_ns() / SECOND;
        self.discipline.skip(now_s.saturating_sub(self.second_s));
        self.second_s = now_s;
    }

    /// Lets the clocks be as the discipline has them, with this wall clock.
    fn put_into_force(&self, realtime_offset: i64, happened: &mut Happened) {
        let ns_per_tick = u128::from(clock::raw_ns_per_tick()) * u128::from(self.discipline.speed());
        let tai_offset = realtime_offset.saturating_add(i64::from(self.discipline.tai_s()) * SECOND as i64);
        happened.jump |=
            realtime_offset != clock::realtime_offset_ns() || tai_offset - realtime_offset != clock::tai_offset_ns();
        happened.speed |= clock::change(&Change {
            ns_per_tick: (ns_per_tick / u128::from(NORMAL_SPEED)) as u64,
            realtime_offset,
            tai_offset,
        });
    }

    /// Sets the wall clock. EINVAL before the machine's start or centuries ahead, as on Linux.
    fn set(&mut self, realtime_ns: u64, happened: &mut Happened) -> Result<()> {
        let offset = realtime_ns.checked_signed_diff(clock::monotonic_ns()).filter(|offset| *offset >= 0);
        let offset = offset.filter(|_| realtime_ns / SECOND < LATEST_S).ok_or(Errno::EINVAL)?;
        self.discipline.clear();
        self.put_into_force(offset, happened);
        self.second_s = realtime_ns / SECOND;
        happened.jump = true;
        Ok(())
    }
}

/// Tells the machine what happened, and has the next second looked at where that is needed.
fn tell(happened: &Happened) {
    match happened.leap_s {
        0 => {}
        leap if leap < 0 => log::info!("inserting the leap second 23:59:60 UTC"),
        _ => log::info!("deleting the leap second 23:59:59 UTC"),
    }
    if happened.speed {
        super::speed_changed();
    }
    if happened.jump {
        WALL_CLOCK_SET.wake_all();
    }
    let next = (!STEERING.lock().discipline.is_steady()).then(|| {
        let next_ns = (clock::realtime_ns() / SECOND + 1).saturating_mul(SECOND);
        super::set_timer(clock::realtime_to_monotonic(next_ns), TimerAction::Call(Arc::new(NextSecond)))
    });
    let old = core::mem::replace(&mut *NEXT_SECOND.lock(), next);
    drop(old);
}

/// The next second of the wall clock begins.
struct NextSecond;

impl TimerCallback for NextSecond {
    fn expired(&self) {
        let mut happened = Happened::default();
        STEERING.lock().catch_up(&mut happened);
        tell(&happened);
    }
}

/// Sets the wall clock. EINVAL before the machine's start or centuries ahead, as on Linux.
pub fn set_realtime_ns(realtime_ns: u64) -> Result<()> {
    let mut happened = Happened::default();
    let result = {
        let mut steering = STEERING.lock();
        steering.catch_up(&mut happened);
        steering.set(realtime_ns, &mut happened)
    };
    tell(&happened);
    result
}

/// adjtimex(2) with what [`klib::clock_discipline::check`] let pass; fills in the answer and gives its `TIME_*`. EINVAL
/// for a step of the wall clock out of its limits.
pub fn adjust(timex: &mut Timex) -> Result<i32> {
    let mut happened = Happened::default();
    let result = {
        let mut steering = STEERING.lock();
        steering.catch_up(&mut happened);
        let stepped = if timex.modes & ADJ_SETOFFSET != 0 { steering.step(timex, &mut happened) } else { Ok(()) };
        stepped.map(|()| {
            let state = steering.discipline.adjust(timex, clock::realtime_ns());
            steering.put_into_force(clock::realtime_offset_ns(), &mut happened);
            state
        })
    };
    tell(&happened);
    result
}

impl Steering {
    /// `ADJ_SETOFFSET`. EINVAL.
    fn step(&mut self, timex: &Timex, happened: &mut Happened) -> Result<()> {
        let fraction_ns = if timex.modes & ADJ_NANO != 0 { timex.fraction } else { timex.fraction * 1000 };
        let step_ns = i128::from(timex.seconds) * i128::from(SECOND) + i128::from(fraction_ns);
        let realtime_ns = u64::try_from(i128::from(clock::realtime_ns()) + step_ns).map_err(|_| Errno::EINVAL)?;
        self.set(realtime_ns, happened)
    }
}

/// Woken when the wall clock was set: whoever waits for a wall-clock time computes its deadline anew.
pub fn wall_clock_queue() -> &'static Arc<WaitQueue> {
    &WALL_CLOCK_SET
}
