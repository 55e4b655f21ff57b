//! The scheduler: which thread a CPU runs.
//!
//! Each CPU has a queue of runnable threads and runs them in turn. A thread keeps the CPU until it blocks, or its time
//! slice is over while another waits; slices are armed only then, so a thread alone is never interrupted. The kernel
//! itself is not preempted: a switch happens where a thread blocks or on the way back to a program.

use alloc::{collections::VecDeque, sync::Arc};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

use hal::Arch as _;

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
    queue: IrqLock<VecDeque<Arc<Thread>>>,
    reschedule: AtomicBool,
    slice_end_ns: AtomicU64,
    switched_ns: AtomicU64,
    switches: AtomicU64,
}

static BOOT_CPU: Cpu = Cpu {
    current: AtomicPtr::new(ptr::null_mut()),
    previous: AtomicPtr::new(ptr::null_mut()),
    idle: Once::new(),
    queue: IrqLock::new(VecDeque::new()),
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
    let cpu = this_cpu();
    let mut queue = cpu.queue.lock();
    thread.set_run_state(RunState::Runnable);
    queue.push_back(thread);
    cpu.wanted(&queue);
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
    thread.set_run_state(RunState::Runnable);
    queue.push_back(thread.clone());
    cpu.wanted(&queue);
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

/// Lets others run first.
pub fn yield_now() {
    schedule();
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
    /// Somebody waits in the queue: at once instead of the idle thread, else when the slice is over.
    fn wanted(&self, _queue: &VecDeque<Arc<Thread>>) {
        let current = self.current.load(Ordering::Relaxed);
        if self.idle.get().is_some_and(|idle| ptr::eq(Arc::as_ptr(idle), current)) {
            self.reschedule.store(true, Ordering::Relaxed);
        } else if self.slice_end_ns.load(Ordering::Relaxed) == u64::MAX {
            self.arm_slice(time::monotonic_ns());
        }
    }

    fn arm_slice(&self, now_ns: u64) {
        let end = now_ns + SLICE_NS;
        self.slice_end_ns.store(end, Ordering::Relaxed);
        time::program(end);
    }

    /// The next thread to run. The running one queues up again unless it blocks or is the idle one.
    fn pick(&self, running: *const Thread) -> *const Thread {
        let mut queue = self.queue.lock();
        let idle = self.idle.get().map_or(ptr::null(), Arc::as_ptr);
        // SAFETY: the CPU's reference keeps the running thread alive.
        let stays = !ptr::eq(running, idle) && unsafe { (*running).run_state() } == RunState::Running;
        let next = match queue.pop_front() {
            Some(next) => {
                if stays {
                    // SAFETY: the reference that `current` held goes to the queue; `next` brings its own.
                    let thread = unsafe {
                        Arc::increment_strong_count(running);
                        Arc::from_raw(running)
                    };
                    thread.set_run_state(RunState::Runnable);
                    queue.push_back(thread);
                }
                Arc::into_raw(next)
            }
            None if stays => return running,
            None => match self.idle.get() {
                Some(idle) => Arc::into_raw(idle.clone()),
                None => return running,
            },
        };
        if queue.is_empty() {
            self.slice_end_ns.store(u64::MAX, Ordering::Relaxed);
        } else {
            self.slice_end_ns.store(0, Ordering::Relaxed);
        }
        next
    }
}

/// Runs another thread if one is waiting or this one blocks; returns when this one runs again.
pub fn schedule() {
    let state = Arch::mask_interrupts();
    let cpu = this_cpu();
    cpu.reschedule.store(false, Ordering::Relaxed);
    let from = cpu.current.load(Ordering::Relaxed).cast_const();
    let to = cpu.pick(from);
    if ptr::eq(from, to) {
        cpu.slice_end_ns.store(u64::MAX, Ordering::Relaxed);
        Arch::restore_interrupts(state);
        return;
    }
    // SAFETY: both are alive: `from` through the CPU's reference, which moves to `previous`; `to` through the
    // reference `pick` gave, which moves to `current`. Interrupts are masked; `to` runs nowhere.
    unsafe {
        let now = time::monotonic_ns();
        (*from).add_cpu_time(now - cpu.switched_ns.swap(now, Ordering::Relaxed));
        (*to).set_run_state(RunState::Running);
        if cpu.slice_end_ns.load(Ordering::Relaxed) == 0 {
            cpu.arm_slice(now);
        }
        cpu.switches.fetch_add(1, Ordering::Relaxed);
        cpu.previous.store(from.cast_mut(), Ordering::Relaxed);
        cpu.current.store(to.cast_mut(), Ordering::Relaxed);
        (*to).activate_memory(&*from);
        Arch::switch((*from).context(), (*to).context());
    }
    finish_switch();
    Arch::restore_interrupts(state);
}

/// Adds what the running thread has used since it was switched to, so that its CPU time is up to date.
pub fn account() {
    let state = Arch::mask_interrupts();
    let cpu = this_cpu();
    let now = time::monotonic_ns();
    current().add_cpu_time(now - cpu.switched_ns.swap(now, Ordering::Relaxed));
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
