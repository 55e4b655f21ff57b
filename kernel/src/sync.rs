//! Locks that mask interrupts.
//!
//! `spin`'s mutex does not mask interrupts, so an interrupt handler that wants a lock its own CPU holds would hang.
//! [`IrqLock`] masks first and restores afterwards. It is the kernel's lock for all but one purpose ([`PlainLock`]):
//! held for short, never across a switch, a user copy or another subsystem's callback unless the lock order below says
//! so.
//!
//! Lock order, outermost first: process, fd table, dentry, inode, socket or pipe, list of who maps a file, address
//! space, wait queue, timer queue, run queue, log, heap, kernel page table, frame allocator. So nobody allocates memory
//! or logs while holding one of the last two.

use core::ops::{Deref, DerefMut};

use hal::Arch as _;

use crate::arch::Arch;

/// A spin lock that leaves interrupts on: for long work on what no interrupt handler touches.
pub type PlainLock<T> = spin::Mutex<T>;
/// A held [`PlainLock`].
pub type PlainGuard<'a, T> = spin::MutexGuard<'a, T>;

pub use spin::{LazyLock as Lazy, Once};

/// A spin lock that masks interrupts while held.
pub struct IrqLock<T: ?Sized>(spin::Mutex<T>);

/// The held lock. Interrupts are as they were before when it goes.
pub struct IrqGuard<'a, T: ?Sized> {
    // Dropped first, so that the lock is free before interrupts come back.
    guard: core::mem::ManuallyDrop<spin::MutexGuard<'a, T>>,
    state: usize,
}

impl<T> IrqLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }
}

impl<T: ?Sized> IrqLock<T> {
    /// Masks interrupts and takes the lock.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let state = Arch::mask_interrupts();
        IrqGuard { guard: core::mem::ManuallyDrop::new(self.0.lock()), state }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let state = Arch::mask_interrupts();
        match self.0.try_lock() {
            Some(guard) => Some(IrqGuard { guard: core::mem::ManuallyDrop::new(guard), state }),
            None => {
                Arch::restore_interrupts(state);
                None
            }
        }
    }
}

impl<T: ?Sized> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: dropped once, here.
        unsafe { core::mem::ManuallyDrop::drop(&mut self.guard) };
        Arch::restore_interrupts(self.state);
    }
}
