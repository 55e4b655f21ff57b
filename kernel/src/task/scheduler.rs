//! The scheduler: which thread a CPU runs.
//!
//! Each CPU has a queue of runnable threads ([`klib::run_queue`]) and runs the one that has had the least CPU time. A
//! thread keeps the CPU until it blocks, until its time slice is over while another waits, or until one wakes that has
//! had clearly less. Slices are armed only while somebody waits, so a thread alone is never interrupted. The kernel
//! itself is not preempted: a switch happens where a thread blocks or on the way back to a program.

use alloc::sync::Arc;
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

use hal::Arch as _;
use klib::run_queue::{self, RunQueue};

use super::thread::{RunState, Thread};
use crate::{
    arch::Arch,
    sync::{IrqLock, Once},
    time,
};

/// How long a thread runs while others wait, in nanoseconds.
const SLICE_NS: u64 = 4_000_000;

/// What belongs to one CPU. Found through the architecture's per-CPU pointer.
pub struct Cpu {
    /// The running thread; holds one reference.
    current: AtomicPtr<Thread>,
    /// Whom we switched from; its reference is dropped by who runs next.
    previous: AtomicPtr<Thread>,
    idle: Once<Arc<Thread>>,
    queue: IrqLock<RunQueue<Arc<Thread>>>,
    reschedule: AtomicBool,
    slice_end_ns: AtomicU64,
    switched_ns: AtomicU64,
    switches: AtomicU64,
}

static BOOT_CPU: Cpu = Cpu {
    current: AtomicPtr::new(ptr::null_mut()),
    previous: AtomicPtr::new(ptr::null_mut()),
    idle: Once::new(),
    queue: IrqLock::new(RunQueue::new()),
    reschedule: AtomicBool::new(false),
    slice_end_ns: AtomicU64::new(u64::MAX),
    switched_ns: AtomicU64::new(0),
    switches: AtomicU64::new(0),
};

fn this_cpu() -> &'static Cpu {
    let pointer: *const Cpu = ptr::with_exposed_provenance(Arch::cpu_data());
    // SAFETY: `init` set the pointer to a static before anything here runs.
    unsafe { &*pointer }
}

/// The running thread, without counting a reference: it lives at least while it runs.
pub struct Current(ManuallyDrop<Arc<Thread>>, PhantomData<*const ()>);

impl Deref for Current {
    type Target = Arc<Thread>;
    fn deref(&self) -> &Arc<Thread> {
        &self.0
    }
}

/// The running thread.
pub fn current() -> Current {
    let pointer = this_cpu().current.load(Ordering::Relaxed);
    // SAFETY: the CPU holds a reference to its running thread, made by `Arc::into_raw`; this borrows it.
    Current(ManuallyDrop::new(unsafe { Arc::from_raw(pointer) }), PhantomData)
}

/// Whether threads run already.
pub fn is_running() -> bool {
    Arch::cpu_data() != 0 && !this_cpu().current.load(Ordering::Relaxed).is_null()
}

/// Makes the running code the CPU's idle thread.
pub fn init(idle: Arc<Thread>) {
    let cpu = &BOOT_CPU;
    Arch::set_cpu_data(ptr::from_ref(cpu).expose_provenance());
    idle.set_run_state(RunState::Running);
    cpu.current.store(Arc::into_raw(idle.clone()).cast_mut(), Ordering::Relaxed);
    cpu.idle.call_once(|| idle);
}

/// What the idle thread does for ever.
pub fn idle_loop() -> ! {
    loop {
        let state = Arch::mask_interrupts();
        if this_cpu().queue.lock().is_empty() {
            Arch::wait_for_interrupt();
        }
        Arch::restore_interrupts(state);
        Arch::enable_interrupts();
        schedule();
    }
}

/// Puts a new thread on the queue.
pub fn start(thread: Arc<Thread>) {
    this_cpu().enqueue(&mut this_cpu().queue.lock(), &thread);
}

/// Makes a blocked thread runnable; nothing where it is not blocked.
pub fn wake(thread: &Arc<Thread>) {
    let cpu = this_cpu();
    let mut queue = cpu.queue.lock();
    if thread.run_state() != RunState::Blocked {
        return;
    }
    if ptr::eq(cpu.current.load(Ordering::Relaxed), Arc::as_ptr(thread)) {
        // It was about to block and has not switched away.
        thread.set_run_state(RunState::Running);
        return;
    }
    cpu.enqueue(&mut queue, thread);
}

/// Announces that the thread is about to block; a wake from now on makes [`schedule`] return soon.
pub fn prepare_to_block(thread: &Thread) {
    let _queue = this_cpu().queue.lock();
    thread.set_run_state(RunState::Blocked);
}

/// Takes [`prepare_to_block`] back.
pub fn cancel_block(thread: &Thread) {
    let _queue = this_cpu().queue.lock();
    thread.set_run_state(RunState::Running);
}

/// Lets whoever waits run first, however much this thread is due.
pub fn yield_now() {
    switch_away(true);
}

/// Whether the running thread should give up the CPU on its way out of the kernel.
pub fn should_reschedule() -> bool {
    this_cpu().reschedule.load(Ordering::Relaxed)
}

/// The timer fired: ends the slice where somebody waits.
pub fn tick(now_ns: u64) {
    let cpu = this_cpu();
    if cpu.current.load(Ordering::Relaxed).is_null() {
        return;
    }
    let end = cpu.slice_end_ns.load(Ordering::Relaxed);
    if now_ns >= end {
        cpu.reschedule.store(true, Ordering::Relaxed);
    } else if end != u64::MAX {
        time::program(end);
    }
}

/// Context switches so far.
pub fn switches() -> u64 {
    BOOT_CPU.switches.load(Ordering::Relaxed)
}

impl Cpu {
    /// Queues a thread that is new or wakes, and sees to it that it gets its turn.
    fn enqueue(&self, queue: &mut RunQueue<Arc<Thread>>, thread: &Arc<Thread>) {
        thread.set_run_state(RunState::Runnable);
        let run_time_ns = queue.push_waking(thread.run_time_ns(), thread.clone());
        thread.set_run_time_ns(run_time_ns);
        let current = self.current.load(Ordering::Relaxed).cast_const();
        if self.idle.get().is_some_and(|idle| ptr::eq(Arc::as_ptr(idle), current)) {
            self.reschedule.store(true, Ordering::Relaxed);
            return;
        }
        let now = time::monotonic_ns();
        // SAFETY: the CPU's reference keeps the running thread alive.
        let running_ns = unsafe { (*current).run_time_ns() } + (now - self.switched_ns.load(Ordering::Relaxed));
        if run_queue::preempts(run_time_ns, running_ns) {
            self.reschedule.store(true, Ordering::Relaxed);
        } else if self.slice_end_ns.load(Ordering::Relaxed) == u64::MAX {
            self.arm_slice(now);
        }
    }

    fn arm_slice(&self, now_ns: u64) {
        let end = now_ns + SLICE_NS;
        self.slice_end_ns.store(end, Ordering::Relaxed);
        time::program(end);
    }

    /// The next thread to run, with a reference where it is not the running one, which queues up again unless it
    /// blocks, is the idle one, or goes on because nobody is more due.
    fn pick(&self, running: *const Thread, yielding: bool, now_ns: u64) -> *const Thread {
        let mut queue = self.queue.lock();
        let idle = self.idle.get().map_or(ptr::null(), Arc::as_ptr);
        // SAFETY: the CPU's reference keeps the running thread alive.
        let stays = !ptr::eq(running, idle) && unsafe { (*running).run_state() } == RunState::Running;
        // SAFETY: as above.
        let goes_on = stays && !yielding && !queue.beats(unsafe { (*running).run_time_ns() });
        let next = if goes_on { None } else { queue.pop() };
        let next = match next {
            Some(next) => {
                if stays {
                    // SAFETY: a reference of the queue's own, beside the CPU's.
                    let thread = unsafe {
                        Arc::increment_strong_count(running);
                        Arc::from_raw(running)
                    };
                    thread.set_run_state(RunState::Runnable);
                    queue.push(thread.run_time_ns(), thread);
                }
                Arc::into_raw(next)
            }
            None if stays => running,
            None => match self.idle.get() {
                Some(idle) if !ptr::eq(running, Arc::as_ptr(idle)) => Arc::into_raw(idle.clone()),
                _ => running,
            },
        };
        if queue.is_empty() {
            self.slice_end_ns.store(u64::MAX, Ordering::Relaxed);
        } else {
            self.arm_slice(now_ns);
        }
        next
    }
}

/// Runs another thread if this one blocks or one that is more due waits; returns when this one runs again.
pub fn schedule() {
    switch_away(false);
}

fn switch_away(yielding: bool) {
    let state = Arch::mask_interrupts();
    let cpu = this_cpu();
    cpu.reschedule.store(false, Ordering::Relaxed);
    let now = time::monotonic_ns();
    cpu.account(now);
    let from = cpu.current.load(Ordering::Relaxed).cast_const();
    let to = cpu.pick(from, yielding, now);
    if ptr::eq(from, to) {
        Arch::restore_interrupts(state);
        return;
    }
    // SAFETY: both are alive: `from` through the CPU's reference, which moves to `previous`; `to` through the
    // reference `pick` gave, which moves to `current`. Interrupts are masked; `to` runs nowhere.
    unsafe {
        (*to).set_run_state(RunState::Running);
        cpu.switches.fetch_add(1, Ordering::Relaxed);
        cpu.previous.store(from.cast_mut(), Ordering::Relaxed);
        cpu.current.store(to.cast_mut(), Ordering::Relaxed);
        (*to).activate_memory(&*from);
        Arch::switch((*from).context(), (*to).context());
    }
    finish_switch();
    Arch::restore_interrupts(state);
}

impl Cpu {
    /// Adds what the running thread has used since it was switched to or last counted.
    fn account(&self, now_ns: u64) {
        let used = now_ns - self.switched_ns.swap(now_ns, Ordering::Relaxed);
        // SAFETY: the CPU's reference keeps the running thread alive.
        unsafe { (*self.current.load(Ordering::Relaxed)).add_cpu_time(used) };
    }
}

/// Brings the running thread's CPU time up to date.
pub fn account() {
    let state = Arch::mask_interrupts();
    this_cpu().account(time::monotonic_ns());
    Arch::restore_interrupts(state);
}

/// First thing on a new stack: lets go of the thread that ran before.
pub fn finish_switch() {
    let previous = this_cpu().previous.swap(ptr::null_mut(), Ordering::Relaxed);
    if !previous.is_null() {
        // SAFETY: `schedule` put the reference there; it is taken once.
        drop(unsafe { Arc::from_raw(previous) });
    }
}
