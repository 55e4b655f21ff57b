//! Locks made of futexes (futex(2), "Priority-inheritance futexes"): the word says who owns the lock.
//!
//! A program takes a free lock and gives back one that nobody waits for without a call. The kernel keeps a [`Lock`] for
//! each word that threads wait for: its owner and the waiters in the order of their turn, which is that of their
//! real-time priorities and then of their coming. As long as an urgent thread waits, the owner is urgent too, and whoever
//! the owner waits for ([`Attributes`](super::attributes::Attributes)). Unlike plain waiters
//! (`futex.rs`) these get the lock with the wake: who unlocks writes the next owner into the word. When an owner ends,
//! the next one writes that itself, in its own memory.
//!
//! All locks are in one table under one lock, which comes after a futex bucket and before an address space: it is taken
//! only where threads compete for a lock, and who waits for whom can be followed through it to find circles.

use alloc::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::Arc,
};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::UserAddr;

use super::{
    futex::{self, Key, OWNER_DIED, TID_MASK, WAITERS},
    process, scheduler,
    thread::Thread,
    wait::{self, WaitError, Wake as _},
};
use crate::{mm::address_space::AddressSpace, sync::IrqLock};

/// A thread that follows more than this many owners in search of a circle takes it for one, as Linux does.
const LONGEST_CHAIN: usize = 1024;

/// A word that threads wait for.
struct Lock {
    /// Who has it. Leaves the table before its number can become another thread's ([`release`]).
    owner: i32,
    /// The owner's count of urgent threads that wait for it.
    owner_waited_for: Arc<AtomicUsize>,
    /// Never empty while in the table.
    waiters: VecDeque<Arc<Waiter>>,
    /// How many of them are urgent, as far as the owner's count knows.
    urgent: usize,
}

struct Table {
    locks: BTreeMap<Key, Lock>,
    /// What each waiting thread waits for.
    waiting: BTreeMap<i32, Key>,
}

static TABLE: IrqLock<Table> = IrqLock::new(Table { locks: BTreeMap::new(), waiting: BTreeMap::new() });
/// How many locks are in the table: mostly none, so who wakes plain waiters need not look.
static NR_LOCKS: AtomicUsize = AtomicUsize::new(0);

/// Waits.
const WAITING: u8 = 0;
/// Owns the lock, and the word says so.
const GRANTED: u8 = 1;
/// The owner ended: it owns the lock once it has written that ([`Waiter::settle`]).
const INHERITS: u8 = 2;

/// A thread that waits for a lock, or waits to be made to (FUTEX_WAIT_REQUEUE_PI).
pub struct Waiter {
    thread: Arc<Thread>,
    key: Key,
    /// Where the word is for this thread.
    address: UserAddr,
    /// Changed with the table locked, but for [`Waiter::grant`] of one that is not in it.
    state: AtomicU8,
    was_queued: AtomicBool,
    /// Counted as urgent. Changed with the table locked, as is the rank by which it has its place.
    urgent: AtomicBool,
    rank: AtomicU32,
}

impl Waiter {
    /// One that does not wait yet.
    pub(super) fn new(thread: &Arc<Thread>, key: Key, address: UserAddr) -> Arc<Self> {
        let (state, was_queued) = (AtomicU8::new(WAITING), AtomicBool::new(false));
        let (urgent, rank) = (AtomicBool::new(false), AtomicU32::new(0));
        Arc::new(Self { thread: thread.clone(), key, address, state, was_queued, urgent, rank })
    }

    /// The lock it waits for.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Whether it ever waited for the lock itself.
    pub(super) fn was_queued(&self) -> bool {
        self.was_queued.load(Ordering::Acquire)
    }

    /// Lets it go on as the owner.
    pub(super) fn grant(&self) {
        self.set_state(GRANTED);
    }

    fn set_state(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.thread.wake();
    }

    /// Blocks the running thread, whose waiter this is, until it is its turn.
    pub(super) fn wait(&self, deadline_ns: Option<u64>) -> core::result::Result<(), WaitError> {
        let turn = || (self.state.load(Ordering::Acquire) != WAITING).then_some(());
        wait::block_until(&self.thread, deadline_ns, turn)
    }

    /// Ends the wait: what came of it, or `None` when it was not its turn. EFAULT when the word is gone.
    pub(super) fn settle(self: &Arc<Self>) -> Option<Result<()>> {
        let memory = self.thread.memory();
        let mut table = TABLE.lock();
        let state = self.state.load(Ordering::Acquire);
        if state == GRANTED {
            return Some(Ok(()));
        }
        table.remove(self);
        if state == WAITING {
            return None;
        }
        let tid = self.thread.tid() as u32;
        let update = |memory: &Arc<AddressSpace>| {
            futex::update_word_in(memory, self.address, |_| Some(tid | WAITERS | OWNER_DIED))
        };
        let result = memory.as_ref().ok_or(Errno::EFAULT).and_then(update);
        if result.is_err()
            && let Some(lock) = table.locks.get_mut(&self.key)
        {
            lock.pass_on();
        }
        Some(result.map(drop))
    }
}

impl Lock {
    /// Makes the first waiter the one to write itself into the word, after the owner ended.
    fn pass_on(&mut self) {
        if let Some(next) = self.waiters.front().cloned() {
            self.belongs_to(&next.thread);
            next.set_state(INHERITS);
        }
    }

    /// Another thread owns it: who waits for it, waits for that one.
    fn belongs_to(&mut self, owner: &Thread) {
        self.owner = owner.tid();
        let new = &owner.attributes.waited_for;
        new.fetch_add(self.urgent, Ordering::Relaxed);
        self.owner_waited_for.fetch_sub(self.urgent, Ordering::Relaxed);
        self.owner_waited_for = new.clone();
    }

    /// Puts a waiter behind those whose turn comes before.
    fn queue(&mut self, waiter: Arc<Waiter>) {
        let rank = waiter.thread.attributes.lock_rank();
        waiter.rank.store(rank, Ordering::Relaxed);
        // Who is about to write itself into the word stays the first.
        let first = usize::from(self.is_being_inherited());
        let behind = self.waiters.iter().skip(first).position(|other| other.rank.load(Ordering::Relaxed) < rank);
        self.waiters.insert(behind.map_or(self.waiters.len(), |position| first + position), waiter);
    }

    /// One more or less of those that wait is urgent.
    fn count_urgent(&mut self, more: bool) {
        if more {
            self.urgent += 1;
            self.owner_waited_for.fetch_add(1, Ordering::Relaxed);
        } else {
            self.urgent -= 1;
            self.owner_waited_for.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn is_being_inherited(&self) -> bool {
        self.waiters.front().is_some_and(|waiter| waiter.state.load(Ordering::Relaxed) == INHERITS)
    }
}

impl Table {
    /// `owner` is needed where nobody waits for the lock yet.
    fn add(&mut self, owner: Option<&Arc<Thread>>, waiter: &Arc<Waiter>) -> Result<()> {
        let lock = match (self.locks.entry(waiter.key), owner) {
            (Entry::Occupied(lock), _) => lock.into_mut(),
            (Entry::Vacant(place), Some(owner)) => place.insert(Lock {
                owner: owner.tid(),
                owner_waited_for: owner.attributes.waited_for.clone(),
                waiters: VecDeque::new(),
                urgent: 0,
            }),
            (Entry::Vacant(_), None) => return Err(Errno::ESRCH),
        };
        lock.queue(waiter.clone());
        waiter.was_queued.store(true, Ordering::Release);
        self.waiting.insert(waiter.thread.tid(), waiter.key);
        NR_LOCKS.store(self.locks.len(), Ordering::Release);
        self.look_at_urgency(waiter.thread.tid());
        Ok(())
    }

    /// A waiting thread has become urgent, or has ceased to be, or another turn is its: its place in the queue, and what
    /// that means for the owner, and so on for who the owner waits for.
    fn look_at_urgency(&mut self, tid: i32) {
        let mut tid = tid;
        for _ in 0..LONGEST_CHAIN {
            let Some(lock) = self.waiting.get(&tid).and_then(|key| self.locks.get_mut(key)) else { return };
            let Some(position) = lock.waiters.iter().position(|waiter| waiter.thread.tid() == tid) else { return };
            let is_next_owner = position == 0 && lock.is_being_inherited();
            let keeps_rank =
                |waiter: &Arc<Waiter>| waiter.thread.attributes.lock_rank() == waiter.rank.load(Ordering::Relaxed);
            // Those of one rank stay in the order in which they came to it.
            if !is_next_owner
                && !lock.waiters.get(position).is_some_and(keeps_rank)
                && let Some(waiter) = lock.waiters.remove(position)
            {
                lock.queue(waiter);
            }
            let Some(waiter) = lock.waiters.iter().find(|waiter| waiter.thread.tid() == tid) else { return };
            // One that owns it already waits for nobody.
            let urgent = !is_next_owner && waiter.thread.attributes.is_urgent();
            if waiter.urgent.swap(urgent, Ordering::Relaxed) == urgent {
                return;
            }
            lock.count_urgent(urgent);
            tid = lock.owner;
        }
    }

    /// Takes out a waiter whose thread keeps it alive.
    fn remove(&mut self, waiter: &Arc<Waiter>) {
        let Some(lock) = self.locks.get_mut(&waiter.key) else { return };
        let Some(position) = lock.waiters.iter().position(|other| Arc::ptr_eq(other, waiter)) else { return };
        lock.waiters.remove(position);
        self.waiting.remove(&waiter.thread.tid());
        let owner = lock.owner;
        if waiter.urgent.swap(false, Ordering::Relaxed) {
            lock.count_urgent(false);
        }
        self.forget_unused(&waiter.key);
        self.look_at_urgency(owner);
    }

    fn forget_unused(&mut self, key: &Key) {
        if self.locks.get(key).is_some_and(|lock| lock.waiters.is_empty()) {
            self.locks.remove(key);
        }
        NR_LOCKS.store(self.locks.len(), Ordering::Release);
    }

    /// EDEADLK when `owner` waits, over however many others, for `tid`.
    fn check_circle(&self, owner: i32, tid: i32) -> Result<()> {
        let mut next = owner;
        for _ in 0..LONGEST_CHAIN {
            if next == tid {
                return Err(Errno::EDEADLK);
            }
            match self.waiting.get(&next).and_then(|key| self.locks.get(key)) {
                Some(lock) if lock.owner != next => next = lock.owner,
                _ => return Ok(()),
            }
        }
        Err(Errno::EDEADLK)
    }
}

/// The word of a lock as it was seen, and the thread it names: looked for before the table is locked, for the table of
/// threads comes first.
pub(super) struct Sight {
    word: u32,
    owner: Option<Arc<Thread>>,
}

impl Sight {
    /// Looks at the word, which becomes writable. EFAULT, EINVAL.
    pub(super) fn new(memory: &AddressSpace, address: UserAddr) -> Result<Self> {
        let word = futex::update_word_in(memory, address, |_| None)?;
        let owner = match word & TID_MASK {
            0 => None,
            tid => process::find_thread(tid as i32),
        };
        Ok(Self { word, owner })
    }
}

/// What came of an attempt to lock.
pub(super) enum Attempt {
    /// The word names the thread now.
    Acquired,
    /// It waits for its turn.
    Queued,
    /// The word is not what was seen: look again.
    Changed,
}

/// Takes the lock for a waiter's thread if it is free, else makes that wait; with `contended` a lock that is taken is to
/// be given back through the kernel. EDEADLK, ESRCH for an owner that is not there, EINVAL for a word that does not fit
/// what is known of the lock.
pub(super) fn attempt(
    memory: &AddressSpace,
    address: UserAddr,
    sight: &mut Sight,
    waiter: &Arc<Waiter>,
    contended: bool,
) -> Result<Attempt> {
    attempt_in(&mut TABLE.lock(), memory, address, sight, waiter, contended, true)
}

/// As [`attempt`]; EAGAIN when it would have to wait and is not to.
fn attempt_in(
    table: &mut Table,
    memory: &AddressSpace,
    address: UserAddr,
    sight: &mut Sight,
    waiter: &Arc<Waiter>,
    contended: bool,
    may_wait: bool,
) -> Result<Attempt> {
    let tid = waiter.thread.tid();
    let seen = sight.word;
    let named = (seen & TID_MASK) as i32;
    let replace = |new: u32| futex::update_word_in(memory, address, |word| (word == seen).then_some(new));
    if named == tid {
        return Err(Errno::EDEADLK);
    }
    let owner = if let Some(lock) = table.locks.get(&waiter.key) {
        if replace(seen)? != seen {
            return Ok(Attempt::Changed);
        }
        let is_marked = named == 0 && seen & OWNER_DIED != 0;
        if named != lock.owner && !is_marked && !lock.is_being_inherited() {
            return Err(Errno::EINVAL);
        }
        lock.owner
    } else if named == 0 {
        let new = seen & OWNER_DIED | tid as u32 | if contended { WAITERS } else { 0 };
        if replace(new)? != seen {
            return Ok(Attempt::Changed);
        }
        *sight = Sight { word: new, owner: Some(waiter.thread.clone()) };
        return Ok(Attempt::Acquired);
    } else {
        let new = seen | WAITERS;
        if replace(new)? != seen {
            return Ok(Attempt::Changed);
        }
        sight.word = new;
        let lives = |owner: &Arc<Thread>| !owner.passed_locks_on.load(Ordering::Relaxed);
        if !sight.owner.as_ref().is_some_and(lives) {
            // It may have marked the word at its end since that was seen.
            let word = futex::update_word_in(memory, address, |_| None)?;
            return if word == new { Err(Errno::ESRCH) } else { Ok(Attempt::Changed) };
        }
        named
    };
    if !may_wait {
        return Err(Errno::EAGAIN);
    }
    table.check_circle(owner, tid)?;
    table.add(sight.owner.as_ref(), waiter)?;
    Ok(Attempt::Queued)
}

/// Locks or queues the running thread.
fn lock_or_queue(address: UserAddr, private: bool, may_wait: bool) -> Result<Option<Arc<Waiter>>> {
    let thread = scheduler::current();
    let key = futex::key(address, private)?;
    let memory = thread.memory().ok_or(Errno::EFAULT)?;
    let waiter = Waiter::new(&thread, key, address);
    loop {
        let mut sight = Sight::new(&memory, address)?;
        let outcome = futex::with_waiters(&key, |has_plain_waiters| {
            if has_plain_waiters && (sight.word & TID_MASK) as i32 != thread.tid() {
                return Err(Errno::EINVAL);
            }
            attempt_in(&mut TABLE.lock(), &memory, address, &mut sight, &waiter, false, may_wait)
        });
        match outcome? {
            Attempt::Acquired => return Ok(None),
            Attempt::Queued => return Ok(Some(waiter)),
            Attempt::Changed => {}
        }
    }
}

/// FUTEX_LOCK_PI and FUTEX_LOCK_PI2. The deadline is on the monotonic clock. EDEADLK for the owner itself or where threads
/// would wait in a circle, ESRCH for a word that names no thread, EINVAL for one that is not used as a lock; ETIMEDOUT.
pub fn lock(address: UserAddr, private: bool, deadline_ns: Option<u64>) -> Result<()> {
    let Some(waiter) = lock_or_queue(address, private, true)? else { return Ok(()) };
    let result = waiter.wait(deadline_ns);
    match (waiter.settle(), result) {
        (Some(outcome), _) => outcome,
        (None, Err(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
        (None, _) => Err(Errno::RESTART_ALWAYS),
    }
}

/// FUTEX_TRYLOCK_PI. As [`lock`], but EAGAIN where that waits.
pub fn try_lock(address: UserAddr, private: bool) -> Result<()> {
    lock_or_queue(address, private, false).map(drop)
}

/// FUTEX_UNLOCK_PI: hands the lock to the next waiter. EPERM when the word does not name the caller, EINVAL when it does
/// and the lock is another's or the word is not used as one.
pub fn unlock(address: UserAddr, private: bool) -> Result<()> {
    let thread = scheduler::current();
    let own = thread.tid();
    let memory = thread.memory().ok_or(Errno::EFAULT)?;
    loop {
        let seen = futex::update_word_in(&memory, address, |_| None)?;
        if (seen & TID_MASK) as i32 != own {
            return Err(Errno::EPERM);
        }
        let key = futex::key(address, private)?;
        let outcome = futex::with_waiters(&key, |has_plain_waiters| {
            let mut table = TABLE.lock();
            let next = match table.locks.get(&key) {
                Some(lock) if lock.owner != own => return Err(Errno::EINVAL),
                Some(lock) => lock.waiters.front().cloned(),
                None if has_plain_waiters => return Err(Errno::EINVAL),
                None => None,
            };
            let new = next.as_ref().map_or(0, |next| next.thread.tid() as u32 | WAITERS);
            let replaced = futex::update_word_in(&memory, address, |word| (word == seen).then_some(new))? == seen;
            if replaced && let Some(next) = &next {
                table.remove(next);
                if let Some(lock) = table.locks.get_mut(&key) {
                    lock.belongs_to(&next.thread);
                }
                next.grant();
            }
            // Dropped without the locks: this may be the last reference to a thread that has ended since.
            Ok((replaced, next))
        });
        let (replaced, next) = outcome?;
        drop(next);
        if replaced {
            return Ok(());
        }
    }
}

/// A thread has another policy or priority.
pub fn priority_changed(thread: &Thread) {
    if NR_LOCKS.load(Ordering::Acquire) != 0 {
        TABLE.lock().look_at_urgency(thread.tid());
    }
}

/// Whether threads wait to lock this word.
pub(super) fn is_waited_for(key: &Key) -> bool {
    NR_LOCKS.load(Ordering::Acquire) != 0 && TABLE.lock().locks.contains_key(key)
}

/// The end of a thread or of its program: its locks go to the next waiters, which find the word marked so. A thread that
/// ends is not waited for any more.
pub fn release(thread: &Thread, ends: bool) {
    let mut table = TABLE.lock();
    if ends {
        thread.passed_locks_on.store(true, Ordering::Relaxed);
    }
    let tid = thread.tid();
    for lock in table.locks.values_mut().filter(|lock| lock.owner == tid) {
        lock.pass_on();
    }
}
