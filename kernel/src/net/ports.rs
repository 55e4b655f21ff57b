//! Ports: which socket is bound where, and who may join.
//!
//! One [`PortTable`] for each protocol, for both families. A socket's place in it is a [`Binding`], which leaves the
//! table when dropped or stays behind in TIME_WAIT. The rules are Linux's, as ip(7) and socket(7) describe them:
//! addresses that overlap conflict unless both sockets have SO_REUSEADDR (and, for TCP, the other does not listen) or
//! both have SO_REUSEPORT and are one user's; a port chosen by the kernel overlaps nobody's.
//!
//! The table's lock comes behind every socket's and takes nothing but the lock of a socket's common options.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result, linux, net};

use super::address::IpAddress;
use crate::{fs::socket::CommonOptions, rng, sync::IrqLock, task::identity, time};

/// Ports the kernel chooses from, unless told otherwise (ip(7), `ip_local_port_range`).
const DEFAULT_RANGE: (u16, u16) = (32768, 60999);
/// How long an address stays taken after its connection (tcp(7), TIME_WAIT).
const TIME_WAIT_NS: u64 = 60 * time::SECOND;
/// How long a connection to the same place must wait (ip(7), `tcp_tw_reuse` for loopback).
const REUSE_AFTER_NS: u64 = time::SECOND;
/// The most addresses in TIME_WAIT of one protocol (`tcp_max_tw_buckets`); the oldest give way.
const MAX_TIME_WAIT: usize = 16384;

/// The first port that anybody may bind to (/proc/sys/net/ipv4/ip_unprivileged_port_start).
pub const UNPRIVILEGED: u16 = 1024;

static RANGE: AtomicU32 = AtomicU32::new((DEFAULT_RANGE.0 as u32) << 16 | DEFAULT_RANGE.1 as u32);

/// The lowest and the highest port the kernel chooses.
pub fn local_range() -> (u16, u16) {
    let range = RANGE.load(Ordering::Relaxed);
    ((range >> 16) as u16, range as u16)
}

/// Sets [`local_range`]. EINVAL where it is empty.
pub fn set_local_range(low: u16, high: u16) -> Result<()> {
    if low == 0 || low > high {
        return Err(Errno::EINVAL);
    }
    RANGE.store(u32::from(low) << 16 | u32::from(high), Ordering::Relaxed);
    Ok(())
}

/// A number below `limit` that nobody outside can guess; 0 for an empty range.
pub fn random_below(limit: usize) -> usize {
    let mut bytes = [0; 8];
    rng::fill_insecure(&mut bytes);
    (u64::from_ne_bytes(bytes) as usize).checked_rem(limit).unwrap_or(0)
}

/// Which protocol's rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// Connections: listeners, TIME_WAIT.
    Stream,
    /// Datagrams.
    Datagram,
}

/// A socket, whatever its protocol calls it: the tables of all protocols are one piece of code.
pub type Owner = dyn Any + Send + Sync;

/// Where a socket is, or wants to be.
pub struct Place {
    /// Its own address.
    pub local: IpAddress,
    /// IPV6_V6ONLY.
    pub only_v6: bool,
    /// SO_BINDTODEVICE; 0 for none.
    pub device: u32,
    /// Its options, for SO_REUSEADDR and SO_REUSEPORT.
    pub options: Arc<CommonOptions>,
    /// Whose it is: only one user's sockets share a port.
    pub uid: u32,
    /// Itself.
    pub owner: Weak<Owner>,
}

struct Entry {
    place: Place,
    remote: Option<(IpAddress, u16)>,
    listening: bool,
    /// The port was asked for by bind(2), not chosen by connect(2).
    bound: bool,
    /// In TIME_WAIT until then.
    until_ns: Option<u64>,
}

struct Ports {
    buckets: BTreeMap<u16, BTreeMap<u64, Entry>>,
    next_id: u64,
    time_wait: VecDeque<(u64, u16, u64)>,
}

/// Who is bound to which port of one protocol.
pub struct PortTable {
    rules: Rules,
    ports: IrqLock<Ports>,
}

fn both(first: &CommonOptions, second: &CommonOptions, option: u32) -> bool {
    first.is_on(option) && second.is_on(option)
}

impl Ports {
    /// Forgets what has left TIME_WAIT by `now`.
    fn expire(&mut self, now: u64) {
        while let Some((until, port, id)) = self.time_wait.front().copied()
            && (until <= now || self.time_wait.len() > MAX_TIME_WAIT)
        {
            self.time_wait.pop_front();
            self.remove(port, id);
        }
    }

    fn remove(&mut self, port: u16, id: u64) {
        if let Some(bucket) = self.buckets.get_mut(&port) {
            bucket.remove(&id);
            if bucket.is_empty() {
                self.buckets.remove(&port);
            }
        }
    }

    fn entry(&mut self, port: u16, id: u64) -> Option<&mut Entry> {
        self.buckets.get_mut(&port)?.get_mut(&id)
    }

    fn insert(&mut self, port: u16, entry: Entry) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        self.buckets.entry(port).or_default().insert(id, entry);
        id
    }
}

impl PortTable {
    /// An empty table.
    pub const fn new(rules: Rules) -> Self {
        let ports = Ports { buckets: BTreeMap::new(), next_id: 0, time_wait: VecDeque::new() };
        Self { rules, ports: IrqLock::new(ports) }
    }

    /// Whether `entry` keeps a socket from `place`. A port that the kernel is to choose must be nobody's.
    fn conflicts(&self, entry: &Entry, place: &Place, chosen: bool) -> bool {
        let other = &entry.place;
        if place.device != 0 && other.device != 0 && place.device != other.device {
            return false;
        }
        if !place.local.overlaps(place.only_v6, other.local, other.only_v6) {
            return false;
        }
        let share_address = both(&place.options, &other.options, net::SO_REUSEADDR);
        let share_port = both(&place.options, &other.options, net::SO_REUSEPORT)
            && (place.uid == other.uid || entry.until_ns.is_some());
        match self.rules {
            Rules::Stream => chosen || !(share_address && !entry.listening || share_port),
            Rules::Datagram => !share_address && (chosen || !share_port),
        }
    }

    /// bind(2): a place on `port`, or on one the kernel chooses where it is 0. EADDRINUSE, or EACCES for a port that
    /// takes CAP_NET_BIND_SERVICE.
    pub fn bind(&'static self, place: Place, port: u16) -> Result<Binding> {
        if (1..UNPRIVILEGED).contains(&port) {
            identity::require(linux::CAP_NET_BIND_SERVICE).map_err(|_| Errno::EACCES)?;
        }
        let mut ports = self.ports.lock();
        ports.expire(time::monotonic_ns());
        let is_free = |ports: &Ports, port: u16, chosen| match ports.buckets.get(&port) {
            None => true,
            Some(bucket) => !bucket.values().any(|entry| self.conflicts(entry, &place, chosen)),
        };
        let port = match port {
            // Odd ports first: connect(2) begins with the even ones.
            0 => choose(1, |port| is_free(&ports, port, true)).ok_or(Errno::EADDRINUSE)?,
            port if is_free(&ports, port, false) => port,
            _ => return Err(Errno::EADDRINUSE),
        };
        let id = ports.insert(port, Entry { place, remote: None, listening: false, bound: true, until_ns: None });
        Ok(Binding { table: self, port, id })
    }

    /// A place on a port of the kernel's choice for a connection to `remote`. EADDRNOTAVAIL where all are taken.
    pub fn connect(&'static self, place: Place, remote: (IpAddress, u16)) -> Result<Binding> {
        let mut ports = self.ports.lock();
        let now = time::monotonic_ns();
        ports.expire(now);
        let is_free = |port: u16| match ports.buckets.get(&port) {
            None => true,
            Some(bucket) => bucket.values().all(|entry| !entry.bound && is_distinct(entry, place.local, remote, now)),
        };
        let port = choose(0, is_free).ok_or(Errno::EADDRNOTAVAIL)?;
        let entry = Entry { place, remote: Some(remote), listening: false, bound: false, until_ns: None };
        let id = ports.insert(port, entry);
        Ok(Binding { table: self, port, id })
    }

    /// The listener that a connection to `destination` is for. Among several with SO_REUSEPORT, any.
    pub fn listener(&self, destination: IpAddress, port: u16, device: u32) -> Option<Arc<Owner>> {
        let ports = self.ports.lock();
        let mut best: Vec<&Entry> = Vec::new();
        let mut best_score = 0;
        for entry in ports.buckets.get(&port)?.values().filter(|entry| entry.listening) {
            let place = &entry.place;
            let elsewhere = place.device != 0 && place.device != device;
            if elsewhere || !place.local.accepts(place.only_v6, destination) {
                continue;
            }
            let score = 1
                + 4 * u32::from(place.local == destination)
                + 2 * u32::from(place.device != 0)
                + u32::from(place.local.is_v4());
            if score > best_score {
                best.clear();
                best_score = score;
            }
            if score == best_score {
                best.push(entry);
            }
        }
        best.get(random_below(best.len()))?.place.owner.upgrade()
    }

    /// The sockets that a datagram from `source` to `destination` could be for, best first, newest first among equals:
    /// each with whether it shares its port.
    pub fn receivers(
        &self,
        source: (IpAddress, u16),
        destination: (IpAddress, u16),
        device: u32,
    ) -> Vec<(Arc<Owner>, bool)> {
        let ports = self.ports.lock();
        let Some(bucket) = ports.buckets.get(&destination.1) else { return Vec::new() };
        let mut found: Vec<(u32, Arc<Owner>, bool)> = Vec::new();
        for entry in bucket.values().rev() {
            let place = &entry.place;
            let elsewhere = place.device != 0 && place.device != device;
            let stranger = entry.remote.is_some_and(|remote| remote != source);
            if elsewhere || stranger || !place.local.accepts(place.only_v6, destination.0) {
                continue;
            }
            let score = u32::from(place.local.is_v4())
                + 4 * u32::from(place.local == destination.0)
                + 8 * u32::from(entry.remote.is_some())
                + 4 * u32::from(place.device != 0);
            if let Some(owner) = place.owner.upgrade() {
                found.push((score, owner, place.options.is_on(net::SO_REUSEPORT)));
            }
        }
        // The owners' last references must not go with the lock held.
        drop(ports);
        found.sort_by_key(|(score, ..)| core::cmp::Reverse(*score));
        let best = found.first().map_or(0, |(score, ..)| *score);
        found.into_iter().map(|(score, owner, shares)| (owner, shares && score == best)).collect()
    }

    /// Every socket in the table.
    pub fn owners(&self) -> Vec<Arc<Owner>> {
        let ports = self.ports.lock();
        ports.buckets.values().flat_map(BTreeMap::values).filter_map(|entry| entry.place.owner.upgrade()).collect()
    }

    /// Forgets what has left TIME_WAIT.
    pub fn expire(&self) {
        self.ports.lock().expire(time::monotonic_ns());
    }

    /// What is in TIME_WAIT.
    pub fn waiting(&self) -> Vec<Waiting> {
        let now = time::monotonic_ns();
        let mut ports = self.ports.lock();
        ports.expire(now);
        let all = ports.buckets.iter().flat_map(|(port, bucket)| bucket.values().map(|entry| (*port, entry)));
        all.filter_map(|(port, entry)| {
            let left = entry.until_ns?.saturating_sub(now);
            Some(Waiting { local: (entry.place.local, port), remote: entry.remote?, left_ns: left })
        })
        .collect()
    }
}

/// Whether a connection from `local` to `remote` would not be mistaken for that of `entry`.
fn is_distinct(entry: &Entry, local: IpAddress, remote: (IpAddress, u16), now: u64) -> bool {
    if entry.remote != Some(remote) || entry.place.local != local {
        return true;
    }
    entry.until_ns.is_some_and(|until| now.saturating_add(TIME_WAIT_NS) >= until.saturating_add(REUSE_AFTER_NS))
}

/// A free port of the range, from a random one on; those with `parity` first.
fn choose(parity: usize, is_free: impl Fn(u16) -> bool) -> Option<u16> {
    let (low, high) = local_range();
    let size = usize::from(high - low) + 1;
    let start = random_below(size) & !1;
    for pass in 0..2 {
        for step in 0..size.div_ceil(2) {
            let at = (start + 2 * step) % size.next_multiple_of(2) + (parity + pass) % 2;
            let port = usize::from(low) + at;
            if at < size && is_free(port as u16) {
                return Some(port as u16);
            }
        }
    }
    None
}

/// A socket's place in a table.
pub struct Binding {
    table: &'static PortTable,
    port: u16,
    id: u64,
}

impl Binding {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Says what address the socket has now, and to whom it is connected.
    pub fn set_addresses(&self, local: IpAddress, remote: Option<(IpAddress, u16)>) {
        if let Some(entry) = self.table.ports.lock().entry(self.port, self.id) {
            entry.place.local = local;
            entry.remote = remote;
        }
    }

    /// As [`set_addresses`](Self::set_addresses) for a connection, of which there can be only one between two
    /// addresses: else EADDRNOTAVAIL.
    pub fn connect(&self, local: IpAddress, remote: (IpAddress, u16)) -> Result<()> {
        let now = time::monotonic_ns();
        let mut ports = self.table.ports.lock();
        ports.expire(now);
        let Some(bucket) = ports.buckets.get_mut(&self.port) else { return Ok(()) };
        let mut others = bucket.iter().filter(|(id, _)| **id != self.id);
        if !others.all(|(_, entry)| is_distinct(entry, local, remote, now)) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if let Some(entry) = bucket.get_mut(&self.id) {
            entry.place.local = local;
            entry.remote = Some(remote);
        }
        Ok(())
    }

    /// Says which interface the socket is bound to, and whether it takes IPv6 only.
    pub fn set_limits(&self, device: u32, only_v6: bool) {
        if let Some(entry) = self.table.ports.lock().entry(self.port, self.id) {
            entry.place.device = device;
            entry.place.only_v6 = only_v6;
        }
    }

    /// listen(2): EADDRINUSE where another listens here and does not share.
    pub fn listen(&self) -> Result<()> {
        let mut ports = self.table.ports.lock();
        ports.expire(time::monotonic_ns());
        let Some(bucket) = ports.buckets.get_mut(&self.port) else { return Ok(()) };
        let Some(own) = bucket.get(&self.id) else { return Ok(()) };
        let mut others = bucket.iter().filter(|(id, _)| **id != self.id);
        if others.any(|(_, entry)| self.table.conflicts(entry, &own.place, false)) {
            return Err(Errno::EADDRINUSE);
        }
        if let Some(entry) = bucket.get_mut(&self.id) {
            entry.listening = true;
        }
        Ok(())
    }

    /// Stops listening.
    pub fn unlisten(&self) {
        if let Some(entry) = self.table.ports.lock().entry(self.port, self.id) {
            entry.listening = false;
        }
    }

    /// A place on the same port for a connection that a listener took.
    pub fn child(&self, place: Place, remote: (IpAddress, u16)) -> Self {
        let entry = Entry { place, remote: Some(remote), listening: false, bound: true, until_ns: None };
        let id = self.table.ports.lock().insert(self.port, entry);
        Self { table: self.table, port: self.port, id }
    }

    /// Leaves the place behind in TIME_WAIT.
    pub fn into_time_wait(self) -> TimeWait {
        let now = time::monotonic_ns();
        let until = now.saturating_add(TIME_WAIT_NS);
        let (table, port, id) = (self.table, self.port, self.id);
        core::mem::forget(self);
        let mut ports = table.ports.lock();
        if let Some(entry) = ports.entry(port, id) {
            entry.until_ns = Some(until);
            entry.listening = false;
            entry.place.owner = Weak::<()>::new();
            entry.place.options = entry.place.options.copied();
        }
        ports.time_wait.push_back((until, port, id));
        ports.expire(now);
        TimeWait { table, port, id }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.table.ports.lock().remove(self.port, self.id);
    }
}

/// What is told of a place in TIME_WAIT.
pub struct Waiting {
    /// Its own address and port.
    pub local: (IpAddress, u16),
    /// The peer's.
    pub remote: (IpAddress, u16),
    /// How long it stays, in nanoseconds.
    pub left_ns: u64,
}

/// A place in TIME_WAIT. It goes by itself with time.
pub struct TimeWait {
    table: &'static PortTable,
    port: u16,
    id: u64,
}

impl TimeWait {
    /// Ends it at once, as a reset does.
    pub fn end(self) {
        let mut ports = self.table.ports.lock();
        if ports.entry(self.port, self.id).is_some_and(|entry| entry.until_ns.is_some()) {
            ports.remove(self.port, self.id);
        }
    }
}
