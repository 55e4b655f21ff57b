//! Work that cannot be done where it is found out: a wake comes with locks held, and what it leads to may need others.
//!
//! [`add`] puts work on a list. The next system call to end does it, so that what a call caused has happened when the
//! call returns; for what interrupts cause, a kernel thread does.

use alloc::{collections::VecDeque, sync::Arc};
use core::sync::atomic::{AtomicBool, Ordering};

use hal::Arch as _;

use super::{
    scheduler,
    wait::{WaitQueue, wait_until},
};
use crate::sync::{IrqLock, Lazy};

/// Something to be done without a lock held.
pub trait Deferred: Send + Sync {
    /// Does it.
    fn run(&self);
}

static QUEUE: IrqLock<VecDeque<Arc<dyn Deferred>>> = IrqLock::new(VecDeque::new());
/// Whether anything may be on the list; spares every call the lock.
static PENDING: AtomicBool = AtomicBool::new(false);
static READY: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));

/// Puts work on the list. May be called with any lock held that comes before a wait queue's, or one of those.
pub fn add(work: Arc<dyn Deferred>) {
    QUEUE.lock().push_back(work);
    PENDING.store(true, Ordering::Release);
    READY.wake_all();
}

/// Does what is on the list.
#[inline]
pub fn run_pending() {
    if PENDING.load(Ordering::Acquire) {
        run_all();
    }
}

fn run_all() {
    PENDING.store(false, Ordering::Release);
    loop {
        let work = QUEUE.lock().pop_front();
        match work {
            Some(work) => work.run(),
            None => return,
        }
    }
}

/// The entry of the kernel thread.
pub extern "C" fn serve(_argument: usize) -> ! {
    scheduler::finish_switch();
    crate::arch::Arch::enable_interrupts();
    loop {
        // Nothing interrupts a kernel thread's wait.
        let _ = wait_until(&[&READY], None, || PENDING.load(Ordering::Acquire).then_some(()));
        run_all();
    }
}
