//! Futexes (futex(2)): sleeping on a word of user memory.
//!
//! A waiter is known by where its word is: in one address space, or, for shared mappings, in the mapped object. The
//! word is compared with the bucket's lock held, so a wake between comparison and sleep cannot be missed.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::{Arch as _, FaultAccess, UserAddr};

use super::{
    futex_pi, scheduler,
    thread::Thread,
    wait::{self, WaitError, Wake as _},
};
use crate::{
    arch::Arch,
    mm::{address_space::AddressSpace, user},
    sync::IrqLock,
};

/// Bits of the word of a robust or priority-inheriting futex: somebody waits, the owner died, and who owns it.
pub(super) const WAITERS: u32 = 0x8000_0000;
pub(super) const OWNER_DIED: u32 = 0x4000_0000;
pub(super) const TID_MASK: u32 = 0x3fff_ffff;

/// Matches every waiter (FUTEX_BITSET_MATCH_ANY).
pub const MATCH_ANY: u32 = u32::MAX;

/// Where a futex word is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    /// The address space or the shared object.
    owner: usize,
    offset: u64,
}

struct Waiter {
    thread: Arc<Thread>,
    bitset: u32,
    woken: AtomicBool,
    /// The bucket it is in or was in last. Changed with that one locked and the one it comes from.
    bucket: AtomicUsize,
    /// Waits to be moved to a lock (FUTEX_WAIT_REQUEUE_PI), as whom; nobody wakes it here.
    locker: Option<Arc<futex_pi::Waiter>>,
}

impl Waiter {
    fn new(thread: &Arc<Thread>, bitset: u32, locker: Option<Arc<futex_pi::Waiter>>) -> Arc<Self> {
        let (woken, bucket) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { thread: thread.clone(), bitset, woken, bucket, locker })
    }
}

type Waiters = VecDeque<(Key, Arc<Waiter>)>;
type Bucket = IrqLock<Waiters>;

const BUCKETS: usize = 64;
static TABLE: [Bucket; BUCKETS] = [const { IrqLock::new(VecDeque::new()) }; BUCKETS];

fn bucket_index(key: &Key) -> usize {
    let mixed = (key.offset >> 2) ^ (key.owner as u64 >> 4);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % BUCKETS
}

/// What names the word at an address of the running program. EINVAL, EFAULT.
pub(super) fn key(address: UserAddr, private: bool) -> Result<Key> {
    if !address.get().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if address.get() >= Arch::USER_END {
        return Err(Errno::EFAULT);
    }
    let memory = scheduler::current().memory().ok_or(Errno::EFAULT)?;
    if !private && let Some((owner, offset)) = memory.shared_key(address) {
        return Ok(Key { owner, offset });
    }
    Ok(Key { owner: Arc::as_ptr(&memory).addr(), offset: address.get() })
}

/// Applies `change` to the word atomically and returns its old value.
fn update_word(address: UserAddr, change: impl Fn(u32) -> Option<u32>) -> Result<u32> {
    let memory = scheduler::current().memory().ok_or(Errno::EFAULT)?;
    update_word_in(&memory, address, change)
}

/// As [`update_word`] in the address space of the running program, for who holds locks and so cannot look for it.
pub(super) fn update_word_in(
    memory: &AddressSpace,
    address: UserAddr,
    change: impl Fn(u32) -> Option<u32>,
) -> Result<u32> {
    if !address.get().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    memory.with_frame(address, FaultAccess::Write, |frame, offset| {
        // SAFETY: an aligned word inside a page that `frame` keeps alive; programs access it atomically too.
        let word = unsafe { AtomicU32::from_ptr(frame.bytes().add(offset).cast()) };
        word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &change).unwrap_or_else(|old| old)
    })
}

/// FUTEX_WAIT and FUTEX_WAIT_BITSET: sleeps while the word is `expected`. The deadline is on the monotonic clock.
/// EAGAIN when the word is something else, ETIMEDOUT, or interrupted.
pub fn wait(address: UserAddr, private: bool, expected: u32, bitset: u32, deadline_ns: Option<u64>) -> Result<()> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key(address, private)?;
    let thread = scheduler::current();
    let waiter = Waiter::new(&thread, bitset, None);
    enqueue(key, address, expected, &waiter)?;
    let result = wait::block_until(&thread, deadline_ns, || waiter.woken.load(Ordering::Acquire).then_some(()));
    if result.is_err() {
        leave(&waiter);
    }
    match result {
        Ok(()) => Ok(()),
        // A wake that came together with the signal or the deadline counts.
        Err(_) if waiter.woken.load(Ordering::Acquire) => Ok(()),
        Err(WaitError::Interrupted) => Err(if deadline_ns.is_some() { Errno::EINTR } else { Errno::RESTART }),
        Err(WaitError::TimedOut) => Err(Errno::ETIMEDOUT),
    }
}

/// A word that somebody waits for to be something else than it is.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// Where it is.
    pub address: UserAddr,
    /// Whether it is of one process alone.
    pub private: bool,
    /// What it is.
    pub expected: u32,
}

/// futex_waitv(2): sleeps while all words are what is expected; answers the number of one that was woken. The deadline is
/// on the monotonic clock. EAGAIN when a word is something else, ETIMEDOUT, or interrupted.
pub fn wait_for_any(words: &[Word], deadline_ns: Option<u64>) -> Result<usize> {
    let thread = scheduler::current();
    let keys = words.iter().map(|word| key(word.address, word.private)).collect::<Result<Vec<Key>>>()?;
    let waiters: Vec<Arc<Waiter>> = words.iter().map(|_| Waiter::new(&thread, MATCH_ANY, None)).collect();
    let woken = || waiters.iter().rposition(|waiter| waiter.woken.load(Ordering::Acquire));
    let mut all = words.iter().zip(&keys).zip(&waiters);
    let queued = all.try_for_each(|((word, key), waiter)| enqueue(*key, word.address, word.expected, waiter));
    let result = match queued {
        Ok(()) => wait::block_until(&thread, deadline_ns, woken).map_err(|error| match error {
            WaitError::Interrupted => Errno::RESTART,
            WaitError::TimedOut => Errno::ETIMEDOUT,
        }),
        Err(error) => Err(error),
    };
    waiters.iter().filter(|waiter| !waiter.woken.load(Ordering::Acquire)).for_each(leave);
    // A wake that came together with whatever else ended the wait counts.
    woken().map_or(result, Ok)
}

/// Makes a waiter one of the word's. EAGAIN when the word is not `expected`; EFAULT.
fn enqueue(key: Key, address: UserAddr, expected: u32, waiter: &Arc<Waiter>) -> Result<()> {
    let index = bucket_index(&key);
    loop {
        // Brings the page in, so that the look under the lock finds it.
        let _: u32 = user::copy_in(address)?;
        let mut bucket = TABLE[index].lock();
        match look(address) {
            None => {}
            Some(value) if value != expected => return Err(Errno::EAGAIN),
            Some(_) => {
                waiter.bucket.store(index, Ordering::Relaxed);
                bucket.push_back((key, waiter.clone()));
                return Ok(());
            }
        }
    }
}

/// The word, for who holds a lock; `None` where its page has gone since it was brought in.
fn look(address: UserAddr) -> Option<u32> {
    user::copy_in(address).ok()
}

/// Takes a waiter out of the bucket it is in by now (a requeue may have moved it).
fn leave(waiter: &Arc<Waiter>) {
    loop {
        let index = waiter.bucket.load(Ordering::Relaxed);
        let mut bucket = TABLE[index].lock();
        if waiter.bucket.load(Ordering::Relaxed) != index {
            continue;
        }
        if let Some(position) = bucket.iter().position(|(_, other)| Arc::ptr_eq(other, waiter)) {
            bucket.remove(position);
        }
        return;
    }
}

/// Runs `action` while nobody comes to wait for the word with FUTEX_WAIT or leaves; says whether somebody does.
pub(super) fn with_waiters<T>(key: &Key, action: impl FnOnce(bool) -> T) -> T {
    let bucket = TABLE[bucket_index(key)].lock();
    action(bucket.iter().any(|(other, _)| other == key))
}

/// Wakes up to `count` waiters of a word; returns how many. EINVAL for a word that threads wait to lock.
fn wake_key(key: &Key, count: u32, bitset: u32) -> Result<u32> {
    if futex_pi::is_waited_for(key) {
        return Err(Errno::EINVAL);
    }
    let mut woken = Vec::new();
    let result = wake_in(&mut TABLE[bucket_index(key)].lock(), key, count, bitset, &mut woken);
    result.map(|()| woken.len() as u32)
}

/// As [`wake_key`] in a locked bucket. Whom it wakes goes to `woken`, to be dropped without the lock: this may be the
/// last reference to a thread that has ended since.
/// EINVAL when it comes to one that waits to be moved to a lock.
fn wake_in(bucket: &mut Waiters, key: &Key, count: u32, bitset: u32, woken: &mut Vec<Arc<Waiter>>) -> Result<()> {
    let mut index = 0;
    while index < bucket.len() && (woken.len() as u32) < count {
        let (other, waiter) = &bucket[index];
        if other == key && waiter.locker.is_some() {
            return Err(Errno::EINVAL);
        }
        if other == key && waiter.bitset & bitset != 0 {
            if let Some((_, waiter)) = bucket.remove(index) {
                waiter.woken.store(true, Ordering::Release);
                waiter.thread.wake();
                woken.push(waiter);
            }
        } else {
            index += 1;
        }
    }
    Ok(())
}

/// FUTEX_WAKE and FUTEX_WAKE_BITSET: wakes up to `count` waiters; returns how many.
pub fn wake(address: UserAddr, private: bool, count: u32, bitset: u32) -> Result<u32> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    wake_key(&key(address, private)?, count, bitset)
}

/// FUTEX_REQUEUE and FUTEX_CMP_REQUEUE: wakes up to `count` waiters and moves up to `limit` others to `target`;
/// returns how many were woken or moved. EAGAIN when the word is not `expected`, EINVAL for negative numbers.
pub fn requeue(
    address: UserAddr,
    target: UserAddr,
    private: bool,
    count: u32,
    limit: u32,
    expected: Option<u32>,
) -> Result<u32> {
    if (count as i32 | limit as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (key(address, private)?, key(target, private)?);
    let mut woken = Vec::new();
    // Both at once, so that a waiter is always in one of them: one that leaves would else be moved, and woken, when it is
    // gone. The one with the lower number is locked first.
    let (from_index, to_index) = (bucket_index(&from), bucket_index(&to));
    let moved = loop {
        // Brings the page in, so that the look under the lock finds it.
        let _: u32 = user::copy_in(address)?;
        let low = &mut *TABLE[from_index.min(to_index)].lock();
        let mut high = (from_index != to_index).then(|| TABLE[from_index.max(to_index)].lock());
        if let Some(expected) = expected {
            match look(address) {
                None => continue,
                Some(value) if value != expected => return Err(Errno::EAGAIN),
                Some(_) => {}
            }
        }
        let (source, sink) = match &mut high {
            None => (low, None),
            Some(high) if from_index < to_index => (low, Some(&mut **high)),
            Some(high) => (&mut **high, Some(low)),
        };
        wake_in(source, &from, count, MATCH_ANY, &mut woken)?;
        break move_waiters(source, sink, &from, &to, limit)?;
    };
    Ok(woken.len() as u32 + moved)
}

/// Makes up to `limit` waiters of a word those of another, in the bucket `sink` where that is not the same; returns how
/// many. EINVAL when it comes to one that waits to be moved to a lock.
fn move_waiters(source: &mut Waiters, mut sink: Option<&mut Waiters>, from: &Key, to: &Key, limit: u32) -> Result<u32> {
    let (mut moved, mut index) = (0, 0);
    while index < source.len() && moved < limit {
        let (key, waiter) = &mut source[index];
        if key != from {
            index += 1;
            continue;
        }
        if waiter.locker.is_some() {
            return Err(Errno::EINVAL);
        }
        moved += 1;
        *key = *to;
        match &mut sink {
            None => index += 1,
            Some(sink) => {
                waiter.bucket.store(bucket_index(to), Ordering::Relaxed);
                sink.extend(source.remove(index));
            }
        }
    }
    Ok(moved)
}

/// FUTEX_WAIT_REQUEUE_PI: sleeps while the word is `expected`, until FUTEX_CMP_REQUEUE_PI moves it to the lock `target`
/// and that is its own. EAGAIN, also after a signal once it was moved; EINVAL, ETIMEDOUT.
pub fn wait_requeue_pi(
    address: UserAddr,
    target: UserAddr,
    private: bool,
    expected: u32,
    deadline_ns: Option<u64>,
) -> Result<()> {
    if address == target {
        return Err(Errno::EINVAL);
    }
    let (to, from) = (key(target, private)?, key(address, private)?);
    if from == to {
        return Err(Errno::EINVAL);
    }
    let thread = scheduler::current();
    let locker = futex_pi::Waiter::new(&thread, to, target);
    let waiter = Waiter::new(&thread, MATCH_ANY, Some(locker.clone()));
    enqueue(from, address, expected, &waiter)?;
    let result = locker.wait(deadline_ns);
    // Nobody moves it to the lock after this.
    leave(&waiter);
    let was_moved = locker.was_queued();
    match (locker.settle(), result) {
        (Some(outcome), _) => outcome,
        (None, Err(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
        // It cannot be begun anew: the word it waited for is no longer what keeps it.
        (None, _) if was_moved => Err(Errno::EAGAIN),
        (None, _) => Err(Errno::RESTART_ALWAYS),
    }
}

/// FUTEX_CMP_REQUEUE_PI: gives the lock `target` to the first waiter of a word if it is free, and has it and up to `limit`
/// others wait for the lock; returns how many in all. EAGAIN when the word is not `expected`; EINVAL when `count` is not 1
/// or a waiter does not wait for this; EDEADLK, ESRCH.
pub fn requeue_pi(
    address: UserAddr,
    target: UserAddr,
    private: bool,
    count: u32,
    limit: u32,
    expected: u32,
) -> Result<u32> {
    if address == target || count != 1 || (limit as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (key(address, private)?, key(target, private)?);
    if from == to {
        return Err(Errno::EINVAL);
    }
    let memory = scheduler::current().memory().ok_or(Errno::EFAULT)?;
    let mut moved = Vec::new();
    loop {
        let mut sight = futex_pi::Sight::new(&memory, target)?;
        // Brings the page in, so that the look under the lock finds it.
        let _: u32 = user::copy_in(address)?;
        let mut bucket = TABLE[bucket_index(&from)].lock();
        match look(address) {
            None => continue,
            Some(value) if value != expected => return Err(Errno::EAGAIN),
            Some(_) => {}
        }
        let outcome = loop {
            let next = bucket.iter().position(|(key, _)| *key == from).filter(|_| moved.len() <= limit as usize);
            let Some(position) = next else { break Ok(true) };
            let Some(locker) = bucket[position].1.locker.clone().filter(|locker| locker.key() == to) else {
                break Err(Errno::EINVAL);
            };
            match futex_pi::attempt(&memory, target, &mut sight, &locker, limit > 0) {
                Ok(futex_pi::Attempt::Changed) => break Ok(false),
                Ok(futex_pi::Attempt::Acquired) => locker.grant(),
                Ok(futex_pi::Attempt::Queued) => {}
                Err(error) => break Err(error),
            }
            // Kept to be dropped without the lock, as in `wake_in`.
            moved.extend(bucket.remove(position).map(|(_, waiter)| (waiter, locker)));
        };
        drop(bucket);
        if outcome? {
            return Ok(moved.len() as u32);
        }
    }
}

/// FUTEX_WAKE_OP: changes the second word, wakes waiters of the first, and those of the second where its old value
/// passes the test, as futex(2) encodes both in `operation`.
pub fn wake_op(
    address: UserAddr,
    second: UserAddr,
    private: bool,
    count: u32,
    second_count: u32,
    operation: u32,
) -> Result<u32> {
    let sign_extend = |value: u32| ((value << 20) as i32 >> 20) as u32;
    let (op, cmp) = (operation >> 28 & 0xf, operation >> 24 & 0xf);
    let (mut oparg, cmparg) = (sign_extend(operation >> 12 & 0xfff), sign_extend(operation & 0xfff));
    if op & 8 != 0 {
        oparg = 1u32.checked_shl(oparg).unwrap_or(0);
    }
    let (from, to) = (key(address, private)?, key(second, private)?);
    if op & 7 > 4 || cmp > 5 {
        return Err(Errno::ENOSYS);
    }
    let old = update_word(second, |old| {
        Some(match op & 7 {
            0 => oparg,
            1 => old.wrapping_add(oparg),
            2 => old | oparg,
            3 => old & !oparg,
            _ => old ^ oparg,
        })
    })?;
    let (left, right) = (old as i32, cmparg as i32);
    let passes = match cmp {
        0 => left == right,
        1 => left != right,
        2 => left < right,
        3 => left <= right,
        4 => left > right,
        _ => left >= right,
    };
    let mut woken = wake_key(&from, count, MATCH_ANY)?;
    if passes {
        woken += wake_key(&to, second_count, MATCH_ANY)?;
    }
    Ok(woken)
}

/// The end of a thread (set_tid_address(2)): zeroes the word and wakes who waits for it.
pub fn clear_and_wake(address: UserAddr) {
    if user::copy_out(address, &0u32).is_ok() {
        for private in [true, false] {
            // A word that cannot be named any more has no waiters.
            let _ = wake(address, private, 1, MATCH_ANY);
        }
    }
}

/// The end of a thread, or of its program, that holds robust futexes (get_robust_list(2)): marks them and wakes one waiter
/// each. Locks that waiters inherit (bit 0 of an entry) are passed on by [`futex_pi::release`].
pub fn release_robust_list(head: UserAddr, tid: i32) {
    /// A list longer than this is taken for a loop (ROBUST_LIST_LIMIT).
    const LIMIT: usize = 2048;

    let word = |at: u64| user::copy_in::<u64>(UserAddr::new(at));
    let (Ok(mut entry), Ok(offset), Ok(pending)) = (word(head.get()), word(head.get() + 8), word(head.get() + 16))
    else {
        return;
    };
    let wake_one = |at: UserAddr| {
        for private in [true, false] {
            // A word that cannot be named any more has no waiters.
            let _ = wake(at, private, 1, MATCH_ANY);
        }
    };
    let release = |entry: u64, is_pending: bool| -> Result<()> {
        let inherited = entry & 1 != 0;
        let at = UserAddr::new((entry & !1).wrapping_add(offset));
        let own = |value: u32| value & TID_MASK == tid as u32;
        let old = update_word(at, |old| own(old).then_some(old & WAITERS | OWNER_DIED))?;
        // One that was just given back may have been so without waking anybody yet.
        let given_back = is_pending && old & TID_MASK == 0;
        if !inherited && (own(old) && old & WAITERS != 0 || given_back) {
            wake_one(at);
        }
        Ok(())
    };
    for _ in 0..LIMIT {
        if entry & !1 == head.get() {
            break;
        }
        let next = word(entry & !1);
        if entry & !1 != pending & !1 && release(entry, false).is_err() {
            return;
        }
        let Ok(next) = next else { break };
        entry = next;
    }
    if pending & !1 != 0 {
        // There is nothing to mark where no word is.
        let _ = release(pending, true);
    }
}
