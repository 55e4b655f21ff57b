//! The scheduler: which thread a CPU runs.
//!
//! Each CPU has a queue of runnable threads ([`klib::run_queue`]) and runs the one that has had the least CPU time. A
//! thread keeps the CPU until it blocks, until its time slice is over while another waits, or until one wakes that has
//! had clearly less. Slices are armed only while somebody waits, so a thread alone is never interrupted. The kernel
//! itself is not preempted: a switch happens where a thread blocks or on the way back to a program. So the kernel's code
//! changes CPUs in [`schedule`] only, and what [`cpu_number`] says stays true until then.
//!
//! **Who may change what.** A thread is at home on one CPU at a time ([`Thread::home`]). Its run state, its home and its
//! place in a queue change with the lock of its home's queue held, and which thread a CPU runs changes with that CPU's.
//! Where two queues are concerned the second lock is only tried; who does not get it leaves the thread where it is.
//!
//! **A thread that leaves a CPU** may be woken, or queue up again, before its registers are saved. Until then it is
//! marked ([`Thread::is_being_run`]), and nobody takes it to another CPU. Its own CPU cannot choose it too early: it
//! saves it before it chooses again.
//!
//! **Balance.** A thread that becomes ready goes to an idle CPU where there is one ([`klib::cpu_set::choose`]). A CPU
//! with nothing to do takes waiting threads from others, and one whose slice ends gives one away where another CPU has
//! clearly less to do. A CPU that sleeps is interrupted to look again.

use alloc::{sync::Arc, vec::Vec};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
};

use abi::{Errno, Result};
use hal::{Arch as _, MAX_CPUS};
use klib::{
    cpu_set::{self, CpuSet},
    run_queue::{self, RunQueue},
};

use super::{
    load,
    thread::{RunState, Thread},
};
use crate::{
    arch::Arch,
    inspect::trace::{self, Event},
    irq::{self, Ipi},
    mm::address_space::AddressSpace,
    smp,
    sync::{IrqGuard, IrqLock, Once},
    time,
};

/// How long a thread runs while others wait, in nanoseconds.
const SLICE_NS: u64 = 4_000_000;

type Queue = RunQueue<Arc<Thread>>;
type QueueGuard = IrqGuard<'static, Queue>;

/// What belongs to one CPU. Found through the architecture's per-CPU pointer.
struct Cpu {
    /// The running thread; holds one reference. Changed with the queue locked.
    current: AtomicPtr<Thread>,
    /// Whom we switched from; its reference is dropped by who runs next.
    previous: AtomicPtr<Thread>,
    /// The previous thread may not run here any more and has to be put elsewhere.
    displaced: AtomicBool,
    idle: Once<Arc<Thread>>,
    queue: IrqLock<Queue>,
    /// Threads that wait or run, the idle one left out: for other CPUs, without the lock.
    load: AtomicUsize,
    /// The running thread should give up the CPU; the idle one should look for work.
    reschedule: AtomicBool,
    slice_end_ns: AtomicU64,
    /// Up to when the running thread's time has been counted. Changed with the queue locked.
    switched_ns: AtomicU64,
    switches: AtomicU64,
    /// When it began to run threads.
    started_ns: AtomicU64,
    /// The address space it uses; kept alive by this. Only for the CPU itself, with interrupts masked.
    memory: UnsafeCell<Option<Arc<AddressSpace>>>,
    /// The address of that address space, for others; 0: none.
    memory_address: AtomicUsize,
}

// SAFETY: `memory` is touched by the CPU whose it is only, with interrupts masked; the rest is atomic or locked.
unsafe impl Sync for Cpu {}

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        current: AtomicPtr::new(ptr::null_mut()),
        previous: AtomicPtr::new(ptr::null_mut()),
        displaced: AtomicBool::new(false),
        idle: Once::new(),
        queue: IrqLock::new(RunQueue::new()),
        load: AtomicUsize::new(0),
        reschedule: AtomicBool::new(false),
        slice_end_ns: AtomicU64::new(u64::MAX),
        switched_ns: AtomicU64::new(0),
        switches: AtomicU64::new(0),
        started_ns: AtomicU64::new(0),
        memory: UnsafeCell::new(None),
        memory_address: AtomicUsize::new(0),
    }
}; MAX_CPUS];

/// CPUs that run their idle thread.
static IDLE: AtomicU64 = AtomicU64::new(0);

fn idle_cpus() -> CpuSet {
    CpuSet::from_bits(IDLE.load(Ordering::Relaxed))
}

fn load(cpu: usize) -> usize {
    CPUS.get(cpu).map_or(0, |cpu| cpu.load.load(Ordering::Relaxed))
}

/// How many threads run or wait for a CPU.
pub fn nr_active() -> usize {
    smp::online().iter().map(load).sum()
}

fn this_cpu() -> &'static Cpu {
    let pointer: *const Cpu = ptr::with_exposed_provenance(Arch::cpu_data());
    // SAFETY: `set_cpu` set the pointer to a static before anything here runs.
    unsafe { &*pointer }
}

/// The kernel's number of the CPU this runs on; 0, the boot CPU's, until it has been told.
pub fn cpu_number() -> usize {
    if Arch::cpu_data() == 0 { 0 } else { this_cpu().number() }
}

/// Tells the CPU this runs on its number.
pub fn set_cpu(number: usize) {
    Arch::set_cpu_data(ptr::from_ref(&CPUS[number]).expose_provenance());
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

/// Gives a CPU its idle thread, which is to be the code that it starts with.
pub fn prepare_cpu(number: usize, idle: Arc<Thread>) {
    idle.set_home(number);
    CPUS[number].idle.call_once(|| idle);
}

/// Makes the running code the CPU's idle thread ([`prepare_cpu`]).
pub fn enter_idle() {
    let cpu = this_cpu();
    let Some(idle) = cpu.idle.get() else { return };
    let now = time::monotonic_ns();
    let _queue = cpu.queue.lock();
    idle.set_run_state(RunState::Running);
    idle.set_being_run(true);
    cpu.started_ns.store(now, Ordering::Relaxed);
    cpu.switched_ns.store(now, Ordering::Relaxed);
    cpu.current.store(Arc::into_raw(idle.clone()).cast_mut(), Ordering::Relaxed);
    IDLE.fetch_or(CpuSet::of(cpu.number()).bits(), Ordering::Relaxed);
}

/// What the idle thread does for ever.
pub fn idle_loop() -> ! {
    let cpu = this_cpu();
    loop {
        let state = Arch::mask_interrupts();
        // Whoever gives it work sets the mark before the interrupt, which ends the wait though it is masked.
        if cpu.queue.lock().is_empty() && !cpu.reschedule.load(Ordering::Acquire) {
            Arch::wait_for_interrupt();
        }
        Arch::restore_interrupts(state);
        Arch::enable_interrupts();
        if cpu.load.load(Ordering::Relaxed) > 0 {
            load::cpu_got_work();
        }
        schedule();
    }
}

/// The queue of a thread's home, locked.
fn lock_home(thread: &Thread) -> (&'static Cpu, QueueGuard) {
    loop {
        let home = thread.home();
        let cpu = &CPUS[home];
        let queue = cpu.queue.lock();
        if thread.home() == home {
            return (cpu, queue);
        }
    }
}

/// Lets a new thread run. It begins with the virtual run time of the one that made it: a program that makes one thread
/// or process after the other gets no more of the CPU than one that does not.
pub fn start(thread: Arc<Thread>) {
    let cpu = this_cpu();
    let queue = cpu.queue.lock();
    thread.set_home(cpu.number());
    thread.set_run_time_ns(if cpu.is_idle() { queue.floor() } else { cpu.running_ns(time::monotonic_ns()) });
    place(cpu, queue, &thread);
}

/// Makes a blocked thread runnable; nothing where it is not blocked.
pub fn wake(thread: &Arc<Thread>) {
    let (home, queue) = lock_home(thread);
    wake_locked(home, queue, thread);
}

fn wake_locked(home: &'static Cpu, queue: QueueGuard, thread: &Arc<Thread>) {
    if thread.run_state() != RunState::Blocked {
        return;
    }
    if home.runs(thread) {
        // It was about to block and has not switched away.
        thread.set_run_state(RunState::Running);
        return;
    }
    place(home, queue, thread);
}

/// Makes a thread look at what it has been marked for: wakes it, or interrupts the CPU it runs on.
pub fn alert(thread: &Arc<Thread>) {
    let (home, queue) = lock_home(thread);
    if thread.run_state() == RunState::Running && home.runs(thread) {
        if !ptr::eq(home, this_cpu()) {
            irq::send(home.number(), Ipi::Reschedule);
        }
        return;
    }
    wake_locked(home, queue, thread);
}

/// Queues a thread, which is in no queue and not running, where it should run. `home` is its home, and `queue` that
/// one's.
fn place(home: &'static Cpu, mut queue: QueueGuard, thread: &Arc<Thread>) {
    thread.set_run_state(RunState::Runnable);
    loop {
        let allowed = thread.affinity() & smp::online();
        let own = home.number();
        // While its registers are being saved it stays. Without a CPU that runs and is allowed, too.
        let target = if thread.is_being_run() { None } else { cpu_set::choose(own, allowed, idle_cpus(), load) };
        let target = match target {
            Some(target) if target != own => &CPUS[target],
            _ => return home.enqueue(&mut queue, thread),
        };
        if let Some(mut other) = target.queue.try_lock() {
            let run_time_ns = run_queue::carried_over(thread.run_time_ns(), queue.floor(), other.floor());
            thread.set_run_time_ns(run_time_ns);
            thread.set_home(target.number());
            target.enqueue(&mut other, thread);
            return;
        }
        if allowed.contains(own) {
            return home.enqueue(&mut queue, thread);
        }
        // Who holds the other lock may be after this one.
        drop(queue);
        core::hint::spin_loop();
        queue = home.queue.lock();
    }
}

/// Announces that the running thread is about to block; a wake from now on makes [`schedule`] return soon.
pub fn prepare_to_block(thread: &Thread) {
    let _queue = this_cpu().queue.lock();
    thread.set_run_state(RunState::Blocked);
}

/// Takes [`prepare_to_block`] back.
pub fn cancel_block(thread: &Thread) {
    let _queue = this_cpu().queue.lock();
    thread.set_run_state(RunState::Running);
}

/// Leaves the CPU for good.
pub fn end(thread: &Thread) -> ! {
    {
        let _queue = this_cpu().queue.lock();
        thread.set_run_state(RunState::Dead);
    }
    schedule();
    unreachable!("a dead thread ran again");
}

/// Lets whoever waits run first, however much this thread is due.
pub fn yield_now() {
    switch_away(true);
}

/// Sets which CPUs a thread may run on, and takes it off one that it may not. At least one of them runs.
pub fn set_affinity(thread: &Arc<Thread>, cpus: CpuSet) {
    let (home, mut queue) = lock_home(thread);
    thread.set_affinity(cpus);
    if cpus.contains(home.number()) {
        return;
    }
    if home.runs(thread) {
        home.ask_to_reschedule();
    } else if thread.run_state() == RunState::Runnable && queue.take_last(|other| Arc::ptr_eq(other, thread)).is_some()
    {
        home.note_load(&queue);
        place(home, queue, thread);
    }
    // One that is in no queue is being placed, or will be when it wakes.
}

/// Whether the running thread should give up the CPU on its way out of the kernel.
pub fn should_reschedule() -> bool {
    this_cpu().reschedule.load(Ordering::Relaxed)
}

/// Lets another thread run that is due, in the middle of a call that takes long. No lock is held.
pub fn give_way() {
    #[cfg(debug_assertions)]
    crate::lock_order::before_switch(0);
    if should_reschedule() {
        schedule();
    }
}

/// Another CPU interrupted: it has queued a thread here, or what runs has something to look at. The way out of the
/// interrupt does that; here the queued one gets a time slice to wait for.
pub fn interrupted_by_another() {
    let cpu = this_cpu();
    let queue = cpu.queue.lock();
    if !queue.is_empty() && !cpu.is_idle() && cpu.slice_end_ns.load(Ordering::Relaxed) == u64::MAX {
        cpu.arm_slice(time::monotonic_ns());
    }
}

/// The timer fired: ends the slice where somebody waits.
pub fn tick(now_ns: u64) {
    let cpu = this_cpu();
    if cpu.current.load(Ordering::Relaxed).is_null() {
        return;
    }
    let end = cpu.slice_end_ns.load(Ordering::Relaxed);
    if now_ns >= end {
        cpu.give_away();
        cpu.reschedule.store(true, Ordering::Relaxed);
    } else if end != u64::MAX {
        time::program(end);
    }
}

/// Context switches so far.
pub fn switches() -> u64 {
    CPUS.iter().map(|cpu| cpu.switches.load(Ordering::Relaxed)).sum()
}

/// What a CPU did with its time since it began to run threads, in nanoseconds.
#[derive(Clone, Copy, Default, Debug)]
pub struct CpuTimes {
    /// Ran threads.
    pub busy_ns: u64,
    /// Waited.
    pub idle_ns: u64,
}

/// What a CPU did with its time.
pub fn cpu_times(number: usize) -> CpuTimes {
    let Some((cpu, idle)) = CPUS.get(number).and_then(|cpu| Some((cpu, cpu.idle.get()?))) else {
        return CpuTimes::default();
    };
    let idle_ns = cpu_time_ns(idle);
    let all = time::monotonic_ns().saturating_sub(cpu.started_ns.load(Ordering::Relaxed));
    CpuTimes { busy_ns: all.saturating_sub(idle_ns), idle_ns }
}

/// CPU time that a thread has used until now, in nanoseconds.
pub fn cpu_time_ns(thread: &Thread) -> u64 {
    let (home, _queue) = lock_home(thread);
    let counted = thread.counted_cpu_time_ns();
    if !home.runs(thread) {
        return counted;
    }
    counted + time::monotonic_ns().saturating_sub(home.switched_ns.load(Ordering::Relaxed))
}

/// Where in the kernel a thread waits, from the innermost function on: the addresses that its functions return to.
/// Empty for one that runs or is about to. ENOMEM.
pub fn stack_of(thread: &Thread) -> Result<Vec<usize>> {
    /// Functions that are told of.
    const MOST: usize = 64;
    let mut addresses = Vec::new();
    addresses.try_reserve_exact(MOST).map_err(|_| Errno::ENOMEM)?;
    let (home, _queue) = lock_home(thread);
    if thread.run_state() == RunState::Blocked && !thread.is_being_run() && !home.runs(thread) {
        // SAFETY: its registers are saved, and it does not go on while its home's queue is locked.
        let pointer = Arch::frame_pointer(unsafe { &*thread.context() });
        Arch::backtrace(Some(pointer), &mut |address| {
            addresses.push(address);
            addresses.len() < MOST
        });
    }
    Ok(addresses)
}

/// CPUs that use an address space now. One that takes it up later executes a full barrier after it has.
pub fn users_of(memory: &Arc<AddressSpace>) -> CpuSet {
    let address = Arc::as_ptr(memory).addr();
    let uses = |cpu: &usize| CPUS[*cpu].memory_address.load(Ordering::SeqCst) == address;
    CpuSet::from_bits(smp::online().iter().filter(uses).fold(0, |bits, cpu| bits | CpuSet::of(cpu).bits()))
}

impl Cpu {
    fn number(&self) -> usize {
        (ptr::from_ref(self).addr() - CPUS.as_ptr().addr()) / size_of::<Self>()
    }

    fn runs(&self, thread: &Thread) -> bool {
        ptr::eq(self.current.load(Ordering::Relaxed), thread)
    }

    fn is_idle(&self) -> bool {
        self.idle.get().is_some_and(|idle| self.runs(idle))
    }

    /// The virtual run time of the running thread until now; the queue is locked.
    fn running_ns(&self, now_ns: u64) -> u64 {
        // SAFETY: the CPU's reference keeps the running thread alive, and the queue's lock keeps it the running one.
        let counted_ns = unsafe { (*self.current.load(Ordering::Relaxed)).run_time_ns() };
        counted_ns + now_ns.saturating_sub(self.switched_ns.load(Ordering::Relaxed))
    }

    /// Says how much there is to do; the queue is locked.
    fn note_load(&self, queue: &Queue) {
        self.load.store(queue.len() + usize::from(!self.is_idle()), Ordering::Relaxed);
    }

    /// Has the running thread leave soon; the queue is locked.
    fn ask_to_reschedule(&self) {
        self.reschedule.store(true, Ordering::Release);
        self.interrupt();
    }

    fn interrupt(&self) {
        if !ptr::eq(self, this_cpu()) {
            irq::send(self.number(), Ipi::Reschedule);
        }
    }

    /// Queues a thread that is new, wakes or comes from another CPU, and sees to it that it gets its turn.
    fn enqueue(&self, queue: &mut Queue, thread: &Arc<Thread>) {
        let run_time_ns = queue.push_waking(thread.run_time_ns(), thread.clone());
        thread.set_run_time_ns(run_time_ns);
        self.note_load(queue);
        if self.is_idle() {
            // It is nobody else's any more.
            IDLE.fetch_and(!CpuSet::of(self.number()).bits(), Ordering::Relaxed);
            self.ask_to_reschedule();
            return;
        }
        let now = time::monotonic_ns();
        if run_queue::preempts(run_time_ns, self.running_ns(now)) {
            self.ask_to_reschedule();
        } else if self.slice_end_ns.load(Ordering::Relaxed) == u64::MAX {
            if ptr::eq(self, this_cpu()) {
                self.arm_slice(now);
            } else {
                // Only it can arm its timer.
                self.interrupt();
            }
        }
    }

    fn arm_slice(&self, now_ns: u64) {
        let end = now_ns + SLICE_NS;
        self.slice_end_ns.store(end, Ordering::Relaxed);
        time::program(end);
    }

    /// Adds what the running thread has used since it was switched to or last counted; the queue is locked.
    fn account(&self, now_ns: u64) {
        let used = now_ns.saturating_sub(self.switched_ns.swap(now_ns, Ordering::Relaxed));
        // SAFETY: the CPU's reference keeps the running thread alive.
        unsafe { (*self.current.load(Ordering::Relaxed)).add_cpu_time(used) };
    }

    /// Hands a waiting thread to a CPU with clearly less to do.
    fn give_away(&self) {
        let mut queue = self.queue.lock();
        let own = queue.len() + 1;
        let others = smp::online() & !CpuSet::of(self.number());
        let Some(target) = others.iter().min_by_key(|cpu| load(*cpu)).filter(|cpu| load(*cpu) + 2 <= own) else {
            return;
        };
        let target = &CPUS[target];
        let Some(mut other) = target.queue.try_lock() else { return };
        if let Some(thread) = self.take_for(target, &mut queue, &other) {
            target.enqueue(&mut other, &thread);
        }
    }

    /// Takes a waiting thread that may go to `target`, and makes that its home; both queues are locked.
    fn take_for(&self, target: &Self, queue: &mut Queue, other: &Queue) -> Option<Arc<Thread>> {
        let number = target.number();
        let thread = queue.take_last(|thread| !thread.is_being_run() && thread.affinity().contains(number))?;
        self.note_load(queue);
        thread.set_run_time_ns(run_queue::carried_over(thread.run_time_ns(), queue.floor(), other.floor()));
        thread.set_home(number);
        Some(thread)
    }

    /// Takes a thread that waits for another CPU.
    fn steal(&self, queue: &Queue) -> Option<Arc<Thread>> {
        let mut others = smp::online() & !CpuSet::of(self.number());
        while let Some(victim) = cpu_set::busiest(0, others, load) {
            let victim = &CPUS[victim];
            let stolen = victim.queue.try_lock().and_then(|mut theirs| victim.take_for(self, &mut theirs, queue));
            if stolen.is_some() {
                return stolen;
            }
            others = others & !CpuSet::of(victim.number());
        }
        None
    }

    /// Chooses the thread to run next and makes it the running one. The one that runs queues up again unless it blocks,
    /// is the idle one, or goes on because nobody is more due. `None`: it goes on. `strays` are threads that waited here
    /// and may not run here any more.
    fn pick(&self, yielding: bool, now_ns: u64, strays: &mut Vec<Arc<Thread>>) -> Option<*const Thread> {
        let mut queue = self.queue.lock();
        self.account(now_ns);
        let number = self.number();
        let from = self.current.load(Ordering::Relaxed).cast_const();
        let idle = self.idle.get().map_or(ptr::null(), Arc::as_ptr);
        // SAFETY: the CPU's reference keeps the running thread alive.
        let running = unsafe { &*from };
        let is_displaced = !running.affinity().contains(number);
        let stays = !ptr::eq(from, idle) && running.run_state() == RunState::Running;
        let goes_on = stays && !is_displaced && !yielding && !queue.beats(running.run_time_ns());
        let mut next = None;
        while !goes_on && next.is_none() {
            let Some(thread) = queue.pop() else { break };
            if thread.affinity().contains(number) { next = Some(thread) } else { strays.push(thread) }
        }
        if next.is_none() && (!stays || is_displaced) {
            next = self.steal(&queue);
        }
        let to = match next {
            Some(next) => Some(next),
            None if stays && !is_displaced => None,
            None => self.idle.get().filter(|idle| !ptr::eq(Arc::as_ptr(idle), from)).cloned(),
        };
        let result = to.map(|to| {
            running.counters().count_switch(!stays);
            if stays {
                running.set_run_state(RunState::Runnable);
                if is_displaced {
                    self.displaced.store(true, Ordering::Relaxed);
                } else {
                    // SAFETY: a reference of the queue's own, beside the CPU's.
                    let thread = unsafe {
                        Arc::increment_strong_count(from);
                        Arc::from_raw(from)
                    };
                    queue.push(running.run_time_ns(), thread);
                }
            }
            to.set_run_state(RunState::Running);
            to.set_being_run(true);
            self.previous.store(from.cast_mut(), Ordering::Relaxed);
            let to = Arc::into_raw(to);
            self.current.store(to.cast_mut(), Ordering::Relaxed);
            to
        });
        let bit = CpuSet::of(number).bits();
        if self.is_idle() {
            IDLE.fetch_or(bit, Ordering::Relaxed);
        } else {
            IDLE.fetch_and(!bit, Ordering::Relaxed);
        }
        self.note_load(&queue);
        if queue.is_empty() {
            self.slice_end_ns.store(u64::MAX, Ordering::Relaxed);
        } else {
            self.arm_slice(now_ns);
        }
        result
    }

    /// Makes this CPU use an address space or none; returns the one it used. Interrupts are masked.
    fn use_memory(&self, memory: Option<Arc<AddressSpace>>) -> Option<Arc<AddressSpace>> {
        let address = memory.as_ref().map_or(0, |memory| Arc::as_ptr(memory).addr());
        self.memory_address.store(address, Ordering::SeqCst);
        // Before the program's own accesses, as membarrier(2) asks (`users_of`).
        fence(Ordering::SeqCst);
        match &memory {
            Some(memory) => memory.activate(self.number()),
            None => Arch::activate_user_table(None),
        }
        // SAFETY: the CPU's own, with interrupts masked.
        core::mem::replace(unsafe { &mut *self.memory.get() }, memory)
    }

    /// Makes this CPU use what `to` runs in, coming from `from`. A thread of the kernel's uses none, so the program's
    /// stays: mostly it is the next to run as well. Interrupts are masked.
    fn switch_memory(&self, from: &Thread, to: &Thread) {
        // SAFETY: the CPU's own, with interrupts masked.
        let used = unsafe { (*self.memory.get()).as_ref() };
        // A process changes its address space only when it has no other thread.
        let same = from.is_user() && used.is_some() && Arc::ptr_eq(to.process(), from.process());
        if !to.is_user() || same {
            return;
        }
        let wanted = to.memory();
        if wanted.as_ref().map(Arc::as_ptr) != used.map(Arc::as_ptr) {
            drop(self.use_memory(wanted));
        }
    }
}

/// Runs another thread if this one blocks or one that is more due waits; returns when this one runs again.
pub fn schedule() {
    switch_away(false);
}

fn switch_away(yielding: bool) {
    #[cfg(debug_assertions)]
    crate::lock_order::before_switch(0);
    let state = Arch::mask_interrupts();
    let cpu = this_cpu();
    cpu.reschedule.store(false, Ordering::Relaxed);
    let mut strays = Vec::new();
    let from = cpu.current.load(Ordering::Relaxed).cast_const();
    let to = cpu.pick(yielding, time::monotonic_ns(), &mut strays);
    for thread in strays {
        let (home, queue) = lock_home(&thread);
        place(home, queue, &thread);
    }
    let Some(to) = to else {
        Arch::restore_interrupts(state);
        return;
    };
    // SAFETY: both are alive: `from` through the CPU's reference, which moved to `previous`; `to` through the reference
    // that `pick` put into `current`. Interrupts are masked; `to` is saved and runs nowhere.
    unsafe {
        cpu.switches.fetch_add(1, Ordering::Relaxed);
        trace::record(Event::Switch, (*to).tid() as u64, (*from).tid() as u64);
        cpu.switch_memory(&*from, &*to);
        Arch::switch((*from).context(), (*to).context());
    }
    finish_switch();
    Arch::restore_interrupts(state);
}

/// Makes the running thread use another address space, or none any more.
pub fn use_memory(memory: Option<Arc<AddressSpace>>) {
    let state = Arch::mask_interrupts();
    let old = this_cpu().use_memory(memory);
    Arch::restore_interrupts(state);
    drop(old);
}

/// Has other CPUs that only still use an address space because nothing else came let go of it. To be called as
/// [`smp::barrier_on`].
pub fn release_memory(memory: &Arc<AddressSpace>) {
    let others = users_of(memory) & !CpuSet::of(cpu_number());
    if !others.is_empty() {
        smp::barrier_on(others);
    }
}

/// Lets go of the address space that no thread on the calling CPU runs in. Interrupts are masked.
pub fn leave_unused_memory() {
    let cpu = this_cpu();
    // SAFETY: the CPU's reference keeps the running thread alive, and the memory is the CPU's own.
    let unused = unsafe { !(*cpu.current.load(Ordering::Relaxed)).is_user() && (*cpu.memory.get()).is_some() };
    if unused {
        drop(cpu.use_memory(None));
    }
}

/// First thing on a new stack: lets go of the thread that ran before, whose registers are saved by now. Interrupts are
/// masked.
pub fn finish_switch() {
    let cpu = this_cpu();
    let previous = cpu.previous.swap(ptr::null_mut(), Ordering::Relaxed);
    if previous.is_null() {
        return;
    }
    // SAFETY: `pick` put the reference there; it is taken once.
    let previous = unsafe { Arc::from_raw(previous) };
    // From here on it may run on another CPU.
    previous.set_being_run(false);
    if cpu.displaced.swap(false, Ordering::Relaxed) {
        let (home, queue) = lock_home(&previous);
        place(home, queue, &previous);
    }
}
