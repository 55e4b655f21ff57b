//! Open files on their way in messages (unix(7), SCM_RIGHTS), and the sockets among them that nobody can reach.
//!
//! Files in a message are [`InFlight`]. A socket that is in flight and open nowhere else is reached only by receiving
//! the message it is in, and that may wait in a socket which is itself in flight: sockets that are passed on over each
//! other and then closed would keep each other for good. [`collect`] finds them, by the algorithm of Linux's
//! net/unix/garbage.c: of the sockets that messages alone refer to, those that all lie in inboxes of one another, and
//! that no message in any other inbox leads to, are garbage, and what waits in them is dropped.
//!
//! The table of sockets in flight is locked before any endpoint. A file leaves it after it left its inbox and enters it
//! before it comes to one: between the two it is in flight and in no inbox, which counts as reachable.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::{Errno, Result, linux};

use super::{
    UnixSocket,
    endpoint::{Endpoint, Message, Phase},
};
use crate::{
    fs::{OpenFile, socket::Socket},
    sync::IrqLock,
    task::scheduler,
};

/// Look for garbage when there are this many sockets in flight, and then when they have doubled.
const FIRST_COLLECTION: usize = 64;

/// A socket in flight.
struct Entry {
    file: Weak<OpenFile>,
    endpoint: Arc<Endpoint>,
    /// In how many messages it is.
    times: usize,
}

struct Table {
    /// By the address of the open file.
    sockets: BTreeMap<usize, Entry>,
    /// How many files of each user are in flight.
    users: BTreeMap<u32, u64>,
    collect_at: usize,
}

static TABLE: IrqLock<Table> =
    IrqLock::new(Table { sockets: BTreeMap::new(), users: BTreeMap::new(), collect_at: FIRST_COLLECTION });
/// How many sockets are in the table: mostly none, so who closes one need not look.
static NR_SOCKETS: AtomicUsize = AtomicUsize::new(0);

/// The files of one message. Dropped without an endpoint locked, unless empty.
#[derive(Default)]
pub(super) struct InFlight {
    files: Vec<Arc<OpenFile>>,
    user: u32,
}

fn endpoint_of(file: &OpenFile) -> Option<Arc<Endpoint>> {
    let socket = file.downcast::<Socket>()?.family_ops::<UnixSocket>()?;
    Some(socket.endpoint.clone())
}

fn address(file: &Arc<OpenFile>) -> usize {
    Arc::as_ptr(file).addr()
}

impl InFlight {
    /// Files that the running thread sends. ETOOMANYREFS where its user has more in flight than the process may have
    /// open.
    pub(super) fn new(files: Vec<Arc<OpenFile>>) -> Result<Self> {
        if files.is_empty() {
            return Ok(Self::default());
        }
        let thread = scheduler::current();
        let who = thread.identity.own();
        let user = who.user.real;
        let unlimited = who.has(linux::CAP_SYS_RESOURCE) || who.has(linux::CAP_SYS_ADMIN);
        let (limit, _) = thread.process().rlimit(linux::RLIMIT_NOFILE);
        let sockets: Vec<_> = files.iter().filter_map(|file| Some((file, endpoint_of(file)?))).collect();
        let is_time = {
            let mut table = TABLE.lock();
            let count = table.users.entry(user).or_insert(0);
            if *count > limit && !unlimited {
                drop(table);
                close(files);
                return Err(Errno::ETOOMANYREFS);
            }
            *count += files.len() as u64;
            for (file, endpoint) in sockets {
                let new = || Entry { file: Arc::downgrade(file), endpoint, times: 0 };
                table.sockets.entry(address(file)).or_insert_with(new).times += 1;
            }
            NR_SOCKETS.store(table.sockets.len(), Ordering::Relaxed);
            table.sockets.len() >= table.collect_at
        };
        if is_time {
            collect();
            let mut table = TABLE.lock();
            table.collect_at = (table.sockets.len() * 2).max(FIRST_COLLECTION);
        }
        Ok(Self { files, user })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, which stay in flight.
    pub(super) fn peek(&self) -> Vec<Arc<OpenFile>> {
        self.files.clone()
    }

    /// The files, which have arrived.
    pub(super) fn into_files(mut self) -> Vec<Arc<OpenFile>> {
        self.leave();
        core::mem::take(&mut self.files)
    }

    fn leave(&self) {
        let mut gone = Vec::new();
        let mut table = TABLE.lock();
        if let Some(count) = table.users.get_mut(&self.user) {
            *count = count.saturating_sub(self.files.len() as u64);
            if *count == 0 {
                table.users.remove(&self.user);
            }
        }
        for key in self.files.iter().map(address) {
            if let Some(entry) = table.sockets.get_mut(&key) {
                entry.times -= 1;
                if entry.times == 0 {
                    gone.extend(table.sockets.remove(&key));
                }
            }
        }
        NR_SOCKETS.store(table.sockets.len(), Ordering::Relaxed);
        drop(table);
        drop(gone);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            self.leave();
            close(core::mem::take(&mut self.files));
        }
    }
}

/// Files on their way to be closed.
struct Doomed {
    files: Vec<Arc<OpenFile>>,
    busy: bool,
}

static DOOMED: IrqLock<Doomed> = IrqLock::new(Doomed { files: Vec::new(), busy: false });

/// Closes files that were in a message nobody received. A socket among them may hold messages with further sockets:
/// those join the list instead of the kernel stack.
fn close(files: Vec<Arc<OpenFile>>) {
    {
        let mut doomed = DOOMED.lock();
        doomed.files.extend(files);
        if core::mem::replace(&mut doomed.busy, true) {
            return;
        }
    }
    loop {
        let batch = {
            let mut doomed = DOOMED.lock();
            doomed.busy = !doomed.files.is_empty();
            core::mem::take(&mut doomed.files)
        };
        if batch.is_empty() {
            return;
        }
        drop(batch);
    }
}

/// The connections that wait to be accepted.
fn pending(endpoint: &Endpoint) -> Vec<Arc<Endpoint>> {
    match &endpoint.state.lock().phase {
        Phase::Listening { pending, .. } => pending.iter().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Calls `visit` with the address of every file that waits in a socket, or in a connection that waits there.
fn visit_inbox(endpoint: &Endpoint, visit: &mut dyn FnMut(usize)) {
    let mut look = |endpoint: &Endpoint| {
        let state = endpoint.state.lock();
        state.inbox.iter().flat_map(|message| &message.files.files).map(address).for_each(&mut *visit);
    };
    look(endpoint);
    pending(endpoint).iter().for_each(|embryo| look(embryo));
}

/// A socket that messages alone refer to.
struct Candidate {
    endpoint: Arc<Endpoint>,
    /// In how many messages it is, of these in how many that wait in other candidates.
    times: usize,
    inside: usize,
    reachable: bool,
}

impl Table {
    /// The sockets that nobody can reach; open files that were looked at go to `seen`, to be dropped without the lock.
    fn garbage(&self, seen: &mut Vec<Arc<OpenFile>>) -> Vec<Arc<Endpoint>> {
        let mut candidates = BTreeMap::new();
        for (key, entry) in &self.sockets {
            let Some(file) = entry.file.upgrade() else { continue };
            // One reference is this function's.
            if Arc::strong_count(&file) - 1 == entry.times {
                let endpoint = entry.endpoint.clone();
                candidates.insert(*key, Candidate { endpoint, times: entry.times, inside: 0, reachable: false });
            }
            seen.push(file);
        }
        let endpoints: Vec<Arc<Endpoint>> = candidates.values().map(|candidate| candidate.endpoint.clone()).collect();
        for endpoint in &endpoints {
            visit_inbox(endpoint, &mut |key| {
                if let Some(candidate) = candidates.get_mut(&key) {
                    candidate.inside += 1;
                }
            });
        }
        let mut reachable = Vec::new();
        for candidate in candidates.values_mut().filter(|candidate| candidate.inside < candidate.times) {
            candidate.reachable = true;
            reachable.push(candidate.endpoint.clone());
        }
        while let Some(endpoint) = reachable.pop() {
            visit_inbox(&endpoint, &mut |key| {
                if let Some(candidate) = candidates.get_mut(&key).filter(|candidate| !candidate.reachable) {
                    candidate.reachable = true;
                    reachable.push(candidate.endpoint.clone());
                }
            });
        }
        candidates.into_values().filter(|candidate| !candidate.reachable).map(|candidate| candidate.endpoint).collect()
    }
}

/// Drops what waits in sockets that nobody can reach any more, which ends them. Called without locks.
pub(super) fn collect() {
    static COLLECTING: AtomicBool = AtomicBool::new(false);
    if NR_SOCKETS.load(Ordering::Relaxed) == 0 || COLLECTING.swap(true, Ordering::Acquire) {
        return;
    }
    let mut seen = Vec::new();
    let garbage = TABLE.lock().garbage(&mut seen);
    drop(seen);
    COLLECTING.store(false, Ordering::Release);
    // Nobody can have come to reach one since: only who had received it could.
    let messages: Vec<Message> = garbage
        .iter()
        .flat_map(|endpoint| core::iter::once(endpoint.clone()).chain(pending(endpoint)))
        .flat_map(|endpoint| core::mem::take(&mut endpoint.state.lock().inbox))
        .collect();
    drop(messages);
}
