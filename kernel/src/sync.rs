//! Locks that mask interrupts.
//!
//! A lock that an interrupt handler wants while its own CPU holds it would hang the CPU. [`IrqLock`] masks interrupts
//! first and restores them afterwards. It is the kernel's lock for all but one purpose ([`PlainLock`]): held for short,
//! never across a switch, a user copy or another subsystem's callback unless the lock order below says so.
//!
//! Lock order, outermost first: process, fd table, dentry, inode, socket or pipe, connection, table of ports, list of
//! who maps a file, futex bucket, table of futex locks, address space, wait queue, timer queue, run queue, address-space
//! numbers, log, heap, kernel page table, frame allocator. So nobody allocates memory or logs while holding one of the
//! last two. Of two run queues the second is only ever tried. A kernel with debug assertions learns the order as it runs
//! and panics where it is broken (`lock_order.rs`). A [`Turn`](crate::task::wait::Turn) is waited for asleep, so it comes
//! before all of them.
//!
//! Both locks are one word that is taken by compare-and-swap, in no order of arrival: a queue of waiters would hand the
//! lock to a virtual CPU that the host may have put aside, and all the others would wait for it. Who waits looks with
//! plain loads and sleeps in [`Arch::spin_wait`] until the word changes. Critical sections are short and there are few
//! CPUs, so nobody starves.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, Ordering},
};

use hal::Arch as _;
pub use spin::{LazyLock as Lazy, Once};

use crate::arch::Arch;
#[cfg(debug_assertions)]
use crate::lock_order::Class;

const FREE: u32 = 0;
const HELD: u32 = 1;

/// The word of a lock.
struct Word {
    state: AtomicU32,
    #[cfg(debug_assertions)]
    class: Class,
}

impl Word {
    #[track_caller]
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            #[cfg(debug_assertions)]
            class: Class::new(),
        }
    }

    fn take(&self) {
        #[cfg(debug_assertions)]
        self.class.before_waiting(self.address());
        while !self.try_state() {
            while self.state.load(Ordering::Relaxed) != FREE {
                Arch::spin_wait(&self.state, HELD);
            }
        }
        #[cfg(debug_assertions)]
        self.class.taken(self.address());
    }

    fn try_take(&self) -> bool {
        let taken = self.try_state();
        #[cfg(debug_assertions)]
        if taken {
            self.class.taken(self.address());
        }
        taken
    }

    fn try_state(&self) -> bool {
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn give(&self) {
        #[cfg(debug_assertions)]
        Class::given(self.address());
        self.state.store(FREE, Ordering::Release);
    }

    #[cfg(debug_assertions)]
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

/// A spin lock that leaves interrupts on: for long work on what no interrupt handler touches.
pub struct PlainLock<T: ?Sized> {
    word: Word,
    value: UnsafeCell<T>,
}

// SAFETY: the word lets one holder at a time reach the value.
unsafe impl<T: ?Sized + Send> Sync for PlainLock<T> {}

/// The held lock.
pub struct PlainGuard<'a, T: ?Sized> {
    lock: &'a PlainLock<T>,
    /// Stays on its CPU, as the thread does while it holds a lock.
    _stays: core::marker::PhantomData<*const ()>,
}

impl<T> PlainLock<T> {
    /// A free lock.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self { word: Word::new(), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> PlainLock<T> {
    /// Takes the lock.
    pub fn lock(&self) -> PlainGuard<'_, T> {
        self.word.take();
        PlainGuard { lock: self, _stays: core::marker::PhantomData }
    }
}

impl<T: ?Sized> Deref for PlainGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for PlainGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for PlainGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.word.give();
    }
}

/// A spin lock that masks interrupts while held.
pub struct IrqLock<T: ?Sized> {
    word: Word,
    value: UnsafeCell<T>,
}

// SAFETY: the word lets one holder at a time reach the value.
unsafe impl<T: ?Sized + Send> Sync for IrqLock<T> {}

/// The held lock. Interrupts are as they were before when it goes.
pub struct IrqGuard<'a, T: ?Sized> {
    lock: &'a IrqLock<T>,
    state: usize,
    /// Stays on its CPU, whose interrupts are masked.
    _stays: core::marker::PhantomData<*const ()>,
}

impl<T> IrqLock<T> {
    /// A free lock.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self { word: Word::new(), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> IrqLock<T> {
    /// Masks interrupts and takes the lock.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let state = Arch::mask_interrupts();
        self.word.take();
        IrqGuard { lock: self, state, _stays: core::marker::PhantomData }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let state = Arch::mask_interrupts();
        if self.word.try_take() {
            return Some(IrqGuard { lock: self, state, _stays: core::marker::PhantomData });
        }
        Arch::restore_interrupts(state);
        None
    }
}

impl<T: ?Sized> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        // Free before interrupts come back.
        self.lock.word.give();
        Arch::restore_interrupts(self.state);
    }
}
