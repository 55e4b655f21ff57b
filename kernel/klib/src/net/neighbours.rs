//! Who is next door: the Ethernet addresses of the neighbours, for both families (RFC 826, RFC 4861).
//!
//! A neighbour is asked for three times, a second apart, while a few packets wait for the answer; after that it is
//! unreachable for a while, and the packets come back to tell their senders. An answer holds for 30 seconds, and for
//! as long as something else shows that it does; after that it is used while it is asked for again, of it alone.
//!
//! A stranger can make no more than [`MAX_NEIGHBOURS`] entries: the one not used for longest gives way.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::net::IpAddr;

use super::{Duration, Instant, Mac};

/// The most entries.
pub const MAX_NEIGHBOURS: usize = 512;
/// The most packets that wait for one neighbour, and for all of them.
const MAX_WAITING: usize = 32;
const MAX_WAITING_ALL: usize = 256;
/// How often a neighbour is asked for, and how long after each.
const TRIES: u8 = 3;
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer holds (RFC 4861, REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);
/// How long a neighbour that did not answer is not asked for again.
const FAILED: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Asked for so often; again at that time.
    Asked(u8, Instant),
    /// Known until then.
    Reachable(Instant),
    /// Known, but not for sure.
    Stale,
    /// Known, and asked so often whether it is still there.
    Probed(u8, Instant),
    /// Did not answer; not asked again before then.
    Failed(Instant),
}

struct Entry {
    state: State,
    mac: Mac,
    /// For who gives way.
    used: Instant,
    waiting: VecDeque<Vec<u8>>,
}

/// What is known of a neighbour, to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its address.
    pub ip: IpAddr,
    /// Its Ethernet address, where it is known.
    pub mac: Option<Mac>,
    /// Whether it is known for sure.
    pub is_reachable: bool,
}

/// What is to be done for neighbours.
#[derive(PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask for it: everybody, or it alone.
    Ask(IpAddr, Option<Mac>),
    /// It did not answer; a packet that waited for it.
    Unreachable(Vec<u8>),
}

/// Where a packet for a neighbour goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// To this address.
    Known(Mac),
    /// It has to wait.
    Waits,
    /// Nowhere.
    Unreachable,
}

/// The neighbours of one interface.
#[derive(Default)]
pub struct Neighbours {
    entries: BTreeMap<IpAddr, Entry>,
    actions: Vec<Action>,
    waiting: usize,
    /// Packets dropped because too many waited.
    pub dropped: u64,
}

impl Neighbours {
    /// Where a packet for `ip` goes. Begins to ask where that is not known.
    pub fn find(&mut self, ip: IpAddr, now: Instant) -> Place {
        if let Some(entry) = self.entries.get_mut(&ip) {
            entry.used = now;
            match entry.state {
                State::Reachable(until) if now < until => return Place::Known(entry.mac),
                State::Reachable(_) | State::Stale => {
                    entry.state = State::Probed(1, now + RETRY);
                    self.actions.push(Action::Ask(ip, Some(entry.mac)));
                    return Place::Known(entry.mac);
                }
                State::Probed(..) => return Place::Known(entry.mac),
                State::Asked(..) => return Place::Waits,
                State::Failed(until) if now < until => return Place::Unreachable,
                State::Failed(_) => {
                    entry.state = State::Asked(1, now + RETRY);
                    self.actions.push(Action::Ask(ip, None));
                    return Place::Waits;
                }
            }
        }
        self.insert(ip, State::Asked(1, now + RETRY), [0; 6], now);
        self.actions.push(Action::Ask(ip, None));
        Place::Waits
    }

    fn insert(&mut self, ip: IpAddr, state: State, mac: Mac, now: Instant) {
        if self.entries.len() >= MAX_NEIGHBOURS
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(ip, _)| *ip)
            && let Some(entry) = self.entries.remove(&oldest)
        {
            self.waiting -= entry.waiting.len();
            self.dropped += entry.waiting.len() as u64;
        }
        self.entries.insert(ip, Entry { state, mac, used: now, waiting: VecDeque::new() });
    }

    /// Keeps a packet until `ip` answers. The oldest gives way where too many wait.
    pub fn wait(&mut self, ip: IpAddr, packet: Vec<u8>) {
        let Some(entry) = self.entries.get_mut(&ip) else { return };
        if entry.waiting.len() >= MAX_WAITING {
            entry.waiting.pop_front();
            self.dropped += 1;
        } else if self.waiting >= MAX_WAITING_ALL {
            self.dropped += 1;
            return;
        } else {
            self.waiting += 1;
        }
        entry.waiting.push_back(packet);
    }

    /// A neighbour told its address. `may_make`: it is to be known even if nobody asked. `overrides`: a known one that is
    /// another gives way at once. Answers the packets that waited.
    pub fn learn(&mut self, ip: IpAddr, mac: Mac, may_make: bool, overrides: bool, now: Instant) -> VecDeque<Vec<u8>> {
        // The address of a group or of nobody is none.
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return VecDeque::new();
        }
        let Some(entry) = self.entries.get_mut(&ip) else {
            if may_make {
                self.insert(ip, State::Stale, mac, now);
            }
            return VecDeque::new();
        };
        let was_known = matches!(entry.state, State::Reachable(_) | State::Stale | State::Probed(..));
        if was_known && entry.mac != mac && !overrides {
            // Somebody else says it is him: the one known is asked.
            if matches!(entry.state, State::Reachable(_)) {
                entry.state = State::Stale;
            }
            return VecDeque::new();
        }
        entry.mac = mac;
        entry.state = State::Reachable(now + REACHABLE);
        let waiting = core::mem::take(&mut entry.waiting);
        self.waiting -= waiting.len();
        waiting
    }

    /// Something else shows that a neighbour is there: a connection moves.
    pub fn confirm(&mut self, ip: IpAddr, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&ip)
            && matches!(entry.state, State::Reachable(_) | State::Stale | State::Probed(..))
        {
            entry.state = State::Reachable(now + REACHABLE);
        }
    }

    /// Moves on what waited long enough.
    pub fn poll(&mut self, now: Instant) {
        for (ip, entry) in &mut self.entries {
            let (tries, known) = match entry.state {
                State::Asked(tries, at) if at <= now => (tries, false),
                State::Probed(tries, at) if at <= now => (tries, true),
                _ => continue,
            };
            if tries < TRIES {
                let next = now + RETRY;
                entry.state = if known { State::Probed(tries + 1, next) } else { State::Asked(tries + 1, next) };
                self.actions.push(Action::Ask(*ip, known.then_some(entry.mac)));
                continue;
            }
            if known {
                // Perhaps it has another address now: the next packet asks everybody.
                entry.state = State::Failed(now);
                continue;
            }
            entry.state = State::Failed(now + FAILED);
            self.waiting -= entry.waiting.len();
            self.actions.extend(entry.waiting.drain(..).map(Action::Unreachable));
        }
    }

    /// When to [`poll`](Self::poll) next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let times = self.entries.values().filter_map(|entry| match entry.state {
            State::Asked(_, at) | State::Probed(_, at) => Some(at),
            _ => None,
        });
        times.min()
    }

    /// What is to be done.
    pub fn take_actions(&mut self) -> Vec<Action> {
        core::mem::take(&mut self.actions)
    }

    /// Forgets everybody: the wire leads elsewhere now.
    pub fn clear(&mut self) {
        self.dropped += self.waiting as u64;
        self.entries.clear();
        self.waiting = 0;
    }

    /// Everybody known or asked for.
    pub fn iter(&self) -> impl Iterator<Item = Neighbour> + '_ {
        self.entries.iter().map(|(ip, entry)| {
            let known = matches!(entry.state, State::Reachable(_) | State::Stale | State::Probed(..));
            let is_reachable = matches!(entry.state, State::Reachable(_));
            Neighbour { ip: *ip, mac: known.then_some(entry.mac), is_reachable }
        })
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::vec;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(last: u16) -> IpAddr {
        Ipv4Addr::new(10, 0, (last >> 8) as u8, last as u8).into()
    }

    #[test]
    fn packets_wait_for_the_answer_and_come_back_in_order() {
        let mut neighbours = Neighbours::default();
        let now = Instant::from_secs(1);
        assert_eq!(neighbours.find(ip(1), now), Place::Waits);
        neighbours.wait(ip(1), vec![1]);
        assert_eq!(neighbours.find(ip(1), now), Place::Waits);
        neighbours.wait(ip(1), vec![2]);
        assert_eq!(neighbours.take_actions(), [Action::Ask(ip(1), None)], "asked once");
        assert_eq!(neighbours.learn(ip(1), MAC, false, true, now), [vec![1], vec![2]]);
        assert_eq!(neighbours.find(ip(1), now), Place::Known(MAC));
    }

    #[test]
    fn who_does_not_answer_three_times_is_unreachable_for_a_while() {
        let mut neighbours = Neighbours::default();
        let mut now = Instant::from_secs(1);
        neighbours.find(ip(1), now);
        neighbours.wait(ip(1), vec![7]);
        let mut asked = 0;
        while let Some(next) = neighbours.deadline() {
            now = next;
            neighbours.poll(now);
            for action in neighbours.take_actions() {
                match action {
                    Action::Ask(..) => asked += 1,
                    Action::Unreachable(packet) => assert_eq!(packet, [7]),
                }
            }
        }
        assert_eq!((asked, now), (3, Instant::from_secs(4)));
        assert_eq!(neighbours.find(ip(1), now), Place::Unreachable);
        assert_eq!(neighbours.find(ip(1), now + FAILED), Place::Waits, "asked again later");
    }

    #[test]
    fn an_old_answer_is_used_while_it_is_asked_for_again() {
        let mut neighbours = Neighbours::default();
        let now = Instant::from_secs(1);
        neighbours.find(ip(1), now);
        neighbours.learn(ip(1), MAC, false, true, now);
        neighbours.take_actions();
        let later = now + REACHABLE;
        assert_eq!(neighbours.find(ip(1), later), Place::Known(MAC));
        assert_eq!(neighbours.take_actions(), [Action::Ask(ip(1), Some(MAC))]);
        neighbours.confirm(ip(1), later);
        assert_eq!(neighbours.deadline(), None, "a moving connection is answer enough");
    }

    #[test]
    fn a_known_neighbour_is_not_taken_over_by_one_that_may_not_override() {
        let mut neighbours = Neighbours::default();
        let now = Instant::from_secs(1);
        neighbours.find(ip(1), now);
        neighbours.learn(ip(1), MAC, false, true, now);
        neighbours.learn(ip(1), OTHER, false, false, now);
        assert_eq!(neighbours.find(ip(1), now), Place::Known(MAC));
        neighbours.learn(ip(1), [1, 0, 0, 0, 0, 0], false, true, now);
        assert_eq!(neighbours.find(ip(1), now), Place::Known(MAC), "a group is nobody");
    }

    #[test]
    fn entries_and_waiting_packets_are_limited() {
        let mut neighbours = Neighbours::default();
        for number in 0..2000 {
            let now = Instant::from_millis(i64::from(number));
            neighbours.find(ip(number), now);
            for _ in 0..40 {
                neighbours.wait(ip(number), vec![0; 100]);
            }
        }
        assert_eq!(neighbours.entries.len(), MAX_NEIGHBOURS);
        let held: usize = neighbours.entries.values().map(|entry| entry.waiting.len()).sum();
        assert!(held <= MAX_WAITING_ALL && held == neighbours.waiting, "{held} {}", neighbours.waiting);
        assert!(neighbours.dropped > 0);
    }
}
