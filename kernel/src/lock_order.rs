//! Checks of the lock order, in kernels with debug assertions (`cargo board image arm64 --debug`).
//!
//! Every place in the source that makes a lock is a *class* of locks. While the kernel runs, each CPU remembers which
//! locks it holds, and the kernel remembers which class was taken while which other was held. The first time that a lock
//! is waited for against an order seen before, on whatever CPU and however long ago, the kernel panics with both places:
//! the deadlock itself, which needs two CPUs at the right moment, need not happen. So does a CPU that waits for a lock it
//! holds itself, and a thread that blocks while it holds one.
//!
//! Two locks of one class are not compared with each other. A lock that is only tried cannot deadlock and orders nothing.
//! The order is learnt and not written down at each lock, since locks of one type (wait queues, above all) stand at
//! different places of the order of `sync.rs`, and what is learnt cannot be out of date.

use core::{
    cell::UnsafeCell,
    panic::Location,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU64, Ordering},
};

use hal::{Arch as _, MAX_CPUS};

use crate::{arch::Arch, task::scheduler};

/// The most classes; locks of further ones are not checked.
const CLASSES: usize = 512;
const WORDS: usize = CLASSES / 64;
/// The most locks one CPU holds at once; further ones are not checked.
const HELD: usize = 32;
/// A class without a number yet.
const UNKNOWN: u16 = u16::MAX;

type Place = Location<'static>;

/// Where the locks of each class are made.
static PLACES: [AtomicPtr<Place>; CLASSES] = [const { AtomicPtr::new(ptr::null_mut()) }; CLASSES];
/// Bit b of row a: a lock of class b was waited for while one of class a was held.
static AFTER: [[AtomicU64; WORDS]; CLASSES] = [const { [const { AtomicU64::new(0) }; WORDS] }; CLASSES];
/// An inversion was found; its report takes locks too.
static OFF: AtomicBool = AtomicBool::new(false);

/// The locks that one CPU holds, by class and address.
struct Held(UnsafeCell<([(u16, usize); HELD], usize)>);

// SAFETY: used by the CPU whose it is only, with interrupts masked.
unsafe impl Sync for Held {}

static HELD_BY: [Held; MAX_CPUS] = [const { Held(UnsafeCell::new(([(UNKNOWN, 0); HELD], 0))) }; MAX_CPUS];

/// What a lock knows of its class.
pub struct Class {
    place: &'static Place,
    number: AtomicU16,
}

impl Class {
    /// The class of the caller's place in the source.
    #[track_caller]
    pub const fn new() -> Self {
        Self { place: Location::caller(), number: AtomicU16::new(UNKNOWN) }
    }

    fn number(&self) -> u16 {
        let known = self.number.load(Ordering::Relaxed);
        if known != UNKNOWN {
            return known;
        }
        let own = ptr::from_ref(self.place).cast_mut();
        for (number, place) in PLACES.iter().enumerate() {
            let found = match place.compare_exchange(ptr::null_mut(), own, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => own,
                Err(other) => other,
            };
            // SAFETY: only references to constants are stored.
            if ptr::eq(found, own) || unsafe { &*found } == self.place {
                self.number.store(number as u16, Ordering::Relaxed);
                return number as u16;
            }
        }
        UNKNOWN
    }

    /// A lock of this class, at `address`, is about to be waited for.
    pub fn before_waiting(&self, address: usize) {
        let class = self.number();
        if class == UNKNOWN || OFF.load(Ordering::Relaxed) {
            return;
        }
        with_held(|locks, len| {
            for &(held, at) in &locks[..*len] {
                if at == address {
                    report(format_args!("{} is waited for by the CPU that holds it", place(class)));
                }
                if held == class {
                    continue;
                }
                let word = &AFTER[held as usize][class as usize / 64];
                let bit = 1 << (class % 64);
                if word.load(Ordering::Relaxed) & bit != 0 {
                    continue;
                }
                if leads_to(class, held) {
                    report(format_args!(
                        "lock order: {} is waited for while {} is held, and elsewhere the other way round",
                        place(class),
                        place(held),
                    ));
                }
                word.fetch_or(bit, Ordering::Relaxed);
            }
        });
    }

    /// The lock at `address` was taken.
    pub fn taken(&self, address: usize) {
        let class = self.number();
        with_held(|locks, len| {
            if class != UNKNOWN && *len < HELD {
                locks[*len] = (class, address);
                *len += 1;
            }
        });
    }

    /// The lock at `address` is about to be given back.
    pub fn given(address: usize) {
        with_held(|locks, len| {
            if let Some(position) = locks[..*len].iter().rposition(|(_, at)| *at == address) {
                locks.copy_within(position + 1..*len, position);
                *len -= 1;
            }
        });
    }
}

/// The running thread is about to leave the CPU with `kept` locks held for good reason.
pub fn before_switch(kept: usize) {
    let held = with_held(|locks, len| (*len > kept).then(|| locks[0].0));
    if let Some(class) = held
        && !OFF.load(Ordering::Relaxed)
    {
        report(format_args!("a thread blocks while it holds {}", place(class)));
    }
}

fn with_held<R>(then: impl FnOnce(&mut [(u16, usize); HELD], &mut usize) -> R) -> R {
    let state = Arch::mask_interrupts();
    // SAFETY: this CPU's own, with interrupts masked; `then` does not come back here but to panic.
    let (locks, len) = unsafe { &mut *HELD_BY[scheduler::cpu_number()].0.get() };
    let result = then(locks, len);
    Arch::restore_interrupts(state);
    result
}

/// Whether, by what has been seen, a lock of class `to` may be waited for while one of class `from` is held, directly
/// or by way of others.
fn leads_to(from: u16, to: u16) -> bool {
    let mut reached = [0u64; WORDS];
    let mut open = [0u64; WORDS];
    open[from as usize / 64] |= 1 << (from % 64);
    while let Some(word) = open.iter().position(|bits| *bits != 0) {
        let class = word * 64 + open[word].trailing_zeros() as usize;
        open[word] &= open[word] - 1;
        reached[word] |= 1 << (class % 64);
        if class == usize::from(to) {
            return true;
        }
        for (index, next) in AFTER[class].iter().enumerate() {
            open[index] |= next.load(Ordering::Relaxed) & !reached[index];
        }
    }
    false
}

fn place(class: u16) -> &'static Place {
    // SAFETY: a class with a number has its place there, a reference to a constant.
    unsafe { &*PLACES[class as usize].load(Ordering::Acquire) }
}

fn report(what: core::fmt::Arguments<'_>) -> ! {
    OFF.store(true, Ordering::Relaxed);
    panic!("{what}")
}
