//! When segments are sent again, and how much may be under way.
//!
//! smoltcp has a retransmission timer of its own. It is at least a second long, doubles at each loss, and is only made
//! shorter again by data that was never sent before: once all of a stream has been sent, each further loss waits twice as
//! long as the last. It also leaves the second of two lost segments to that timer. So a [`Recovery`] watches what a
//! connection sends and what is acknowledged, and says when the first segment that is not acknowledged is to be sent
//! again; the connection then makes smoltcp do it.
//!
//! The timer is RFC 6298's with Linux's constants; a doubled one is forgotten as soon as anything new is acknowledged.
//! Before it there is a probe (after RFC 8985, 7): where nothing is heard for two round trips the first segment is sent
//! again without giving up the others. In fast recovery an acknowledgement of a part says that the next segment is lost as
//! well (NewReno, RFC 6582, 3.2).
//!
//! The congestion window is Reno's (RFC 5681) and begins with ten segments (RFC 6928). smoltcp's own begins with 2 KiB and
//! is not asked: the connection gives smoltcp only what the window has room for. After a timeout smoltcp would send all of
//! that again at once, so then its own window holds it back until what was under way has arrived.

use smoltcp::time::{Duration, Instant};

/// The timer before a round trip was measured (RFC 6298, 2.1), the longest, and what is added to the round trip at
/// least: Linux's TCP_RTO_MIN, which is less than the second of RFC 6298, 2.4.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(120);
const MIN_MARGIN: Duration = Duration::from_millis(200);
/// What a probe waits beyond two round trips, for acknowledgements that come in bunches.
const PROBE_MARGIN: Duration = Duration::from_millis(10);
/// Bytes that may be under way before anything is acknowledged: ten of an Ethernet's segments (RFC 6928, 2).
const FIRST_WINDOW: usize = 14_600;
/// No whole segment is shorter (RFC 9293, 3.7.1).
const LEAST_SEGMENT: usize = 536;
/// So many acknowledgements that repeat one say that something is lost (RFC 5681, 3.2).
const SIGN_OF_LOSS: u32 = 3;
/// Doublings after which a timer is longer than the longest anyway.
const MAX_BACKOFF: u32 = 10;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// The timer is over: all that is not acknowledged counts as lost.
    Timeout,
    /// The first segment is to be sent again.
    Probe,
}

/// What is thought of the segments under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// None is lost.
    Open,
    /// Some are, among those before this number.
    Recovery(u32),
    /// All before this number.
    Loss(u32),
}

/// The segments of one direction.
pub(super) struct Recovery {
    /// The first number that is not acknowledged, and that behind the last sent; `None` before the first segment.
    numbers: Option<(u32, u32)>,
    /// The longest segment sent.
    longest: u32,
    /// The round trip and how much it varies.
    smoothed: Option<(Duration, Duration)>,
    /// A round trip that is being measured: what has to be acknowledged, and when it was sent.
    sample: Option<(u32, Instant)>,
    /// How often the timer was doubled.
    backoff: u32,
    timeout: Option<Instant>,
    probe: Option<Instant>,
    /// The next time the first segment is sent again it is for a probe.
    probes: bool,
    phase: Phase,
    /// When the first segment was last sent again.
    repeated: Option<Instant>,
    /// How many bytes may be under way, and where its growth becomes slow.
    window: usize,
    threshold: usize,
    /// Acknowledgements in a row that repeated the last one.
    same: u32,
}

/// Whether `first` comes before `second` (RFC 9293, 3.4).
fn is_before(first: u32, second: u32) -> bool {
    (first.wrapping_sub(second) as i32) < 0
}

impl Recovery {
    pub(super) fn new() -> Self {
        Self {
            numbers: None,
            longest: 0,
            smoothed: None,
            sample: None,
            backoff: 0,
            timeout: None,
            probe: None,
            probes: false,
            phase: Phase::Open,
            repeated: None,
            window: FIRST_WINDOW,
            threshold: usize::MAX,
            same: 0,
        }
    }

    /// The first number that is not acknowledged, where there is any.
    pub(super) fn outstanding(&self) -> Option<u32> {
        self.numbers.filter(|(first, behind)| first != behind).map(|(first, _)| first)
    }

    /// Whether acknowledgements that repeat the last one say nothing: after a timeout what has already arrived is sent
    /// again too (RFC 6582, 4).
    pub(super) fn is_after_timeout(&self) -> bool {
        matches!(self.phase, Phase::Loss(_))
    }

    /// When the first segment was last sent again.
    pub(super) fn repeated(&self) -> Option<Instant> {
        self.repeated
    }

    /// Bytes of a whole segment; an Ethernet's while none was sent.
    fn segment(&self) -> usize {
        let longest = self.longest as usize;
        if longest < LEAST_SEGMENT { FIRST_WINDOW / 10 } else { longest }
    }

    /// How many bytes may be under way, in whole segments.
    pub(super) fn window(&self) -> usize {
        // The first acknowledgements that repeat one let a new segment go each (RFC 3042, 2), so that there is a third.
        let more = if self.phase == Phase::Open && self.same < SIGN_OF_LOSS { self.same as usize } else { 0 };
        (self.window / self.segment() + more) * self.segment()
    }

    /// Something is lost: the window is to be half of what is under way (RFC 5681, 3.1).
    fn reduce(&mut self) {
        let under_way = self.numbers.map_or(0, |(first, behind)| behind.wrapping_sub(first)) as usize;
        self.threshold = (under_way / 2).max(2 * self.segment());
        self.window = self.threshold;
    }

    /// An acknowledgement repeats the last one: something has arrived, though not the first segment (RFC 5681, 3.2).
    pub(super) fn repeats(&mut self) {
        self.same = self.same.saturating_add(1);
        match self.phase {
            Phase::Open if self.same == SIGN_OF_LOSS => {
                self.reduce();
                self.window += SIGN_OF_LOSS as usize * self.segment();
            }
            Phase::Open if self.same < SIGN_OF_LOSS => {}
            Phase::Open | Phase::Recovery(_) => self.window = self.window.saturating_add(self.segment()),
            Phase::Loss(_) => {}
        }
    }

    /// The window when so many bytes more have arrived, of which `all` says whether they end the recovery from a loss.
    fn widened(&self, arrived: usize, all: bool) -> usize {
        let segment = self.segment();
        match self.phase {
            // RFC 6582, 3.2.
            Phase::Recovery(_) if !all => self.window.saturating_sub(arrived).max(segment) + segment,
            Phase::Recovery(_) => self.threshold,
            Phase::Open if self.same >= SIGN_OF_LOSS => self.threshold,
            Phase::Loss(_) | Phase::Open if self.window < self.threshold => self.window.saturating_add(arrived),
            Phase::Loss(_) | Phase::Open => self.window.saturating_add((segment * arrived / self.window).max(1)),
        }
    }

    /// When [`due`](Self::due) is to be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.timeout, self.probe].into_iter().flatten().min()
    }

    /// How long to wait for an acknowledgement (RFC 6298, 2 and 5.5).
    fn timeout(&self) -> Duration {
        let base = self.smoothed.map_or(FIRST_TIMEOUT, |(trip, varies)| trip + MIN_MARGIN.max(varies * 4));
        (base * (1 << self.backoff.min(MAX_BACKOFF))).min(MAX_TIMEOUT)
    }

    /// Starts both timers anew, or stops them where all is acknowledged.
    fn rearm(&mut self, now: Instant) {
        let under_way = self.outstanding().is_some();
        self.timeout = under_way.then(|| now + self.timeout());
        // A single segment may be acknowledged late, so the probe would not come before the timer (RFC 8985, 7.2).
        let several = self.numbers.is_some_and(|(first, behind)| behind.wrapping_sub(first) > self.longest);
        self.probe = match (self.smoothed, self.phase, self.timeout) {
            (Some((trip, varies)), Phase::Open, Some(timeout)) if several && self.backoff == 0 => {
                let probe = now + (trip * 2).max(trip + varies * 4) + PROBE_MARGIN;
                (probe < timeout).then_some(probe)
            }
            _ => None,
        };
    }

    /// A segment is sent that takes `len` numbers from `first` on.
    pub(super) fn sent(&mut self, first: u32, len: u32, now: Instant) {
        if len == 0 {
            return;
        }
        let (acknowledged, behind) = *self.numbers.get_or_insert((first, first));
        let end = first.wrapping_add(len);
        self.longest = self.longest.max(len);
        if is_before(behind, end) {
            self.numbers = Some((acknowledged, end));
            if first == behind && self.sample.is_none() && self.phase == Phase::Open {
                self.sample = Some((end, now));
            }
            if self.timeout.is_none() || self.phase == Phase::Open {
                let running = self.timeout;
                self.rearm(now);
                // What is sent later does not put off the timer of what was sent before (RFC 6298, 5.1).
                self.timeout = running.or(self.timeout);
            }
        } else if first == acknowledged && acknowledged != behind {
            // Nobody knows which of the two an acknowledgement is for (Karn's algorithm).
            self.sample = None;
            self.repeated = Some(now);
            if !core::mem::take(&mut self.probes) && self.phase == Phase::Open {
                self.phase = Phase::Recovery(behind);
            }
            self.timeout = Some(now + self.timeout());
        }
    }

    /// All before `number` is acknowledged. Whether the next segment is lost as well.
    pub(super) fn acknowledged(&mut self, number: u32, now: Instant) -> bool {
        let Some((first, behind)) = self.numbers else { return false };
        if !is_before(first, number) || is_before(behind, number) {
            return false;
        }
        self.numbers = Some((number, behind));
        self.backoff = 0;
        self.probes = false;
        if let Some((end, sent)) = self.sample
            && !is_before(number, end)
        {
            self.sample = None;
            self.measure(now - sent);
        }
        let ends = !matches!(self.phase, Phase::Recovery(end) | Phase::Loss(end) if is_before(number, end));
        self.window = self.widened(number.wrapping_sub(first) as usize, ends);
        self.same = 0;
        let partial = !ends && matches!(self.phase, Phase::Recovery(_));
        if ends {
            self.phase = Phase::Open;
        }
        self.rearm(now);
        partial
    }

    /// RFC 6298, 2.2 and 2.3.
    fn measure(&mut self, trip: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (trip, trip / 2),
            Some((smoothed, varies)) => {
                let away = smoothed.max(trip) - smoothed.min(trip);
                ((smoothed * 7 + trip) / 8, (varies * 3 + away) / 4)
            }
        });
    }

    /// What is to be done now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.timeout.is_some_and(|at| at <= now) {
            let behind = self.numbers.map_or(0, |(_, behind)| behind);
            if self.backoff == 0 {
                self.reduce();
            }
            self.window = self.segment();
            self.phase = Phase::Loss(behind);
            self.backoff += 1;
            self.sample = None;
            self.rearm(now);
            return Some(Due::Timeout);
        }
        if self.probe.is_some_and(|at| at <= now) {
            self.probe = None;
            self.probes = true;
            self.reduce();
            return Some(Due::Probe);
        }
        None
    }
}
