//! Threads.

use alloc::{string::String, sync::Arc};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicI8, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use abi::{Errno, Result};
use hal::{Arch as _, UserAddr, VirtAddr};
use klib::{cpu_set::CpuSet, run_queue};

use super::{
    attributes::Attributes,
    identity::Identity,
    namespace::{Kind, Namespace, UtsNamespace},
    pending::Pending,
    process::{FsContext, Process},
    scheduler,
    signal::{AltStack, SignalSet},
    usage::{Counters, Usage},
    wait::Wake,
};
use crate::{
    arch::{Arch, Context, TrapFrame},
    mm::{address_space::AddressSpace, stack::KernelStack},
    sync::IrqLock,
};

/// Whether and why a thread runs. Changed under the lock of its home's run queue only ([`scheduler`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RunState {
    /// Made and not started yet: nothing wakes it.
    New,
    /// On a CPU.
    Running,
    /// In a run queue, or on its way into one.
    Runnable,
    /// Waiting to be woken.
    Blocked,
    /// Finished; its memory goes with the last reference.
    Dead,
}

/// A thread's signal state.
#[derive(Default)]
pub struct ThreadSignals {
    /// Signals sent to this thread.
    pub pending: Pending,
    /// Blocked signals.
    pub mask: SignalSet,
    /// Blocked signals that sigtimedwait(2) waits for: they end the wait, and are not lost for being ignored.
    pub waited_for: SignalSet,
    /// Signals the kernel found in the thread itself: they act whatever the process is.
    pub forced: SignalSet,
    /// The mask to restore when a call with a temporary one ends.
    pub saved_mask: Option<SignalSet>,
    /// sigaltstack(2).
    pub alt_stack: AltStack,
}

/// User addresses that set_tid_address(2) and set_robust_list(2) leave with the kernel.
#[derive(Clone, Copy, Default)]
pub struct ThreadAddresses {
    /// Cleared, and its futex woken, when the thread ends.
    pub clear_child_tid: Option<UserAddr>,
    /// The robust-futex list.
    pub robust_list: Option<UserAddr>,
}

/// A thread, of a program or of the kernel.
pub struct Thread {
    tid: AtomicI32,
    process: Arc<Process>,
    /// Whether it runs a program, in its process's address space, and is not at its end.
    is_user: AtomicBool,
    context: UnsafeCell<Context>,
    /// Given back with the thread.
    _stack: Option<KernelStack>,
    run_state: AtomicU8,
    /// The CPU it runs on, waits for, or ran on last.
    home: AtomicUsize,
    /// From when a CPU chooses it until its registers are saved again.
    being_run: AtomicBool,
    /// CPUs it may run on.
    affinity: AtomicU64,
    name: IrqLock<[u8; 16]>,
    cpu_time_ns: AtomicU64,
    nice: AtomicI8,
    /// The scheduler's virtual run time.
    run_time_ns: AtomicU64,
    started_ns: u64,
    /// What it uses.
    counters: Counters,
    /// What prctl(2) and the scheduling calls set.
    pub attributes: Attributes,
    /// Something is to be done before the program goes on: a signal, its end, a stop, a call to restart.
    attention: AtomicBool,
    /// The first argument of the system call in progress.
    syscall_argument: AtomicU64,
    /// A temporary mask is in force ([`ThreadSignals::saved_mask`]); read without the lock at the end of every call.
    masked_for_call: AtomicBool,
    /// The call was interrupted and is to be restarted or to fail with EINTR.
    restart: AtomicBool,
    /// It has passed on the locks that others wait for, and nobody may wait for it any more (`futex_pi`).
    pub(super) passed_locks_on: AtomicBool,
    /// Signal state.
    pub signals: IrqLock<ThreadSignals>,
    /// User addresses to tidy up at the end.
    pub addresses: IrqLock<ThreadAddresses>,
    /// Who it acts for, and what it may do.
    pub identity: Identity,
    /// Its host and domain name.
    uts: IrqLock<Arc<UtsNamespace>>,
    /// Where it is in the file system, if that is not where its process is (CLONE_FS).
    fs: IrqLock<Option<Arc<IrqLock<FsContext>>>>,
}

// SAFETY: `context` is only touched by the scheduler while the thread does not run, or by the thread itself.
unsafe impl Sync for Thread {}

impl Thread {
    /// The thread of the code that runs during boot, on the boot stack.
    pub fn idle(process: Arc<Process>) -> Arc<Self> {
        Self::idle_on(process, None)
    }

    fn idle_on(process: Arc<Process>, stack: Option<KernelStack>) -> Arc<Self> {
        extern "C" fn never(_: usize) -> ! {
            unreachable!("the idle thread is not started")
        }
        let context = Arch::new_context(VirtAddr::new(0), never, 0);
        Arc::new(Self::build(0, process, false, context, stack, b"idle"))
    }

    /// The idle thread of another CPU, and the top of the stack that the CPU is to start on. ENOMEM.
    pub fn secondary_idle(process: Arc<Process>) -> Result<(Arc<Self>, VirtAddr)> {
        let stack = KernelStack::new().ok_or(Errno::ENOMEM)?;
        let top = stack.top();
        let thread = Self::idle_on(process, Some(stack));
        Ok((thread, top))
    }

    /// A thread of the kernel that starts at `entry(argument)`. ENOMEM.
    pub fn kernel(
        process: Arc<Process>,
        name: &str,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> Result<Arc<Self>> {
        let stack = KernelStack::new().ok_or(Errno::ENOMEM)?;
        let context = Arch::new_context(stack.top(), entry, argument);
        Ok(Arc::new(Self::build(0, process, false, context, Some(stack), name.as_bytes())))
    }

    /// A thread of a program that starts with the registers in `frame`; its user thread pointer and FP state are those
    /// of `prepare`. ENOMEM.
    pub fn user(
        tid: i32,
        process: Arc<Process>,
        frame: &TrapFrame,
        name: &[u8],
        prepare: impl FnOnce(&mut Context),
    ) -> Result<Arc<Self>> {
        let stack = KernelStack::new().ok_or(Errno::ENOMEM)?;
        let frame_at = Self::frame_pointer(stack.top());
        // SAFETY: the top of a fresh stack, mapped and ours.
        unsafe { frame_at.write(frame.clone()) };
        let mut context = Arch::new_context(
            VirtAddr::new(frame_at.addr()),
            super::trap::user_thread_start,
            frame_at.expose_provenance(),
        );
        prepare(&mut context);
        Ok(Arc::new(Self::build(tid, process, true, context, Some(stack), name)))
    }

    fn build(
        tid: i32,
        process: Arc<Process>,
        is_user: bool,
        context: Context,
        stack: Option<KernelStack>,
        name: &[u8],
    ) -> Self {
        let thread = Self {
            tid: AtomicI32::new(tid),
            process,
            is_user: AtomicBool::new(is_user),
            context: UnsafeCell::new(context),
            _stack: stack,
            run_state: AtomicU8::new(RunState::New as u8),
            home: AtomicUsize::new(0),
            being_run: AtomicBool::new(false),
            affinity: AtomicU64::new(CpuSet::ALL.bits()),
            name: IrqLock::new([0; 16]),
            cpu_time_ns: AtomicU64::new(0),
            nice: AtomicI8::new(0),
            run_time_ns: AtomicU64::new(0),
            started_ns: crate::time::monotonic_ns(),
            counters: Counters::default(),
            attributes: Attributes::default(),
            attention: AtomicBool::new(false),
            syscall_argument: AtomicU64::new(0),
            masked_for_call: AtomicBool::new(false),
            restart: AtomicBool::new(false),
            passed_locks_on: AtomicBool::new(false),
            signals: IrqLock::new(ThreadSignals::default()),
            addresses: IrqLock::new(ThreadAddresses::default()),
            identity: Identity::default(),
            uts: IrqLock::new(UtsNamespace::first()),
            fs: IrqLock::new(None),
        };
        thread.set_name(name);
        thread
    }

    fn frame_pointer(top: VirtAddr) -> *mut TrapFrame {
        core::ptr::with_exposed_provenance_mut(top.get() - size_of::<TrapFrame>())
    }

    /// Its number, unique among all threads; a process's first thread has the process's.
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Takes over the process's number (execve from another thread).
    pub fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// Its process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The address space it runs in; `None` for a kernel thread.
    pub fn memory(&self) -> Option<Arc<AddressSpace>> {
        if self.is_user() { self.process.memory() } else { None }
    }

    /// Its name, at most 15 bytes.
    pub fn name(&self) -> String {
        let name = *self.name.lock();
        let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..len]).into_owned()
    }

    /// Its name as it was set, with zeroes behind it.
    pub fn name_bytes(&self) -> [u8; 16] {
        *self.name.lock()
    }

    /// Sets its name; what is beyond 15 bytes is cut off.
    pub fn set_name(&self, name: &[u8]) {
        let mut own = [0; 16];
        let len = name.len().min(15);
        own[..len].copy_from_slice(&name[..len]);
        *self.name.lock() = own;
    }

    /// The UTS namespace it is in.
    pub fn uts(&self) -> Arc<UtsNamespace> {
        self.uts.lock().clone()
    }

    /// Puts it into a UTS namespace.
    pub fn set_uts(&self, uts: Arc<UtsNamespace>) {
        let old = core::mem::replace(&mut *self.uts.lock(), uts);
        drop(old);
    }

    /// Where it is in the file system.
    pub fn fs(&self) -> Arc<IrqLock<FsContext>> {
        let own = self.fs.lock().clone();
        own.unwrap_or_else(|| self.process.fs())
    }

    /// Whether it is where its process is, and moves with the others that are.
    pub fn moves_with_process(&self) -> bool {
        self.fs.lock().is_none()
    }

    /// Has it be where `other`, a thread of the same process, is, and move with it.
    pub(super) fn move_with(&self, other: &Self) {
        let fs = other.fs.lock().clone();
        *self.fs.lock() = fs;
    }

    /// Has it move on its own from now on.
    pub fn unshare_fs(&self) {
        let copy = self.fs().lock().clone();
        let own = Arc::new(IrqLock::new(copy));
        if self.moves_with_process() && self.process.threads().len() == 1 {
            // Nobody is left where the process was.
            self.process.set_fs(own);
        } else {
            let old = self.fs.lock().replace(own);
            drop(old);
        }
    }

    /// The namespace of a kind it is in.
    pub fn namespace(&self, kind: Kind) -> Namespace {
        match kind {
            Kind::Uts => Namespace::Uts(self.uts()),
            _ => Namespace::Only(kind),
        }
    }

    /// CPU time used until now, in nanoseconds.
    pub fn cpu_time_ns(&self) -> u64 {
        scheduler::cpu_time_ns(self)
    }

    /// CPU time used, in nanoseconds, up to the last switch.
    pub(super) fn counted_cpu_time_ns(&self) -> u64 {
        self.cpu_time_ns.load(Ordering::Relaxed)
    }

    /// How far it stands back for others: -20 to 19 (sched(7), "The nice value").
    pub fn nice(&self) -> i32 {
        i32::from(self.nice.load(Ordering::Relaxed))
    }

    /// Sets [`nice`](Self::nice); what is beyond the range becomes its end.
    pub fn set_nice(&self, nice: i32) {
        self.nice.store(nice.clamp(-20, 19) as i8, Ordering::Relaxed);
    }

    /// What it used, up to now.
    pub fn usage(&self) -> Usage {
        self.counters.usage(self.cpu_time_ns())
    }

    /// It made a system call; told by the thread itself.
    pub(super) fn enter_call(&self) {
        self.counters.enter_call(|| self.cpu_time_ns());
    }

    /// What it does in the kernel takes long: its time is measured.
    pub fn measure_kernel_time(&self) {
        self.counters.measure(|| self.cpu_time_ns());
    }

    /// It goes back to its program, or ends.
    pub(super) fn leave_kernel(&self) {
        self.counters.leave_kernel(|| self.cpu_time_ns());
    }

    /// Where faults, switches and transfers are counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When it started, in nanoseconds of monotonic time.
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    pub(super) fn add_cpu_time(&self, ns: u64) {
        self.cpu_time_ns.fetch_add(ns, Ordering::Relaxed);
        let nice = self.attributes.weighing_as(self.nice.load(Ordering::Relaxed));
        self.run_time_ns.fetch_add(run_queue::weighted(ns, nice), Ordering::Relaxed);
    }

    pub(super) fn run_time_ns(&self) -> u64 {
        self.run_time_ns.load(Ordering::Relaxed)
    }

    pub(super) fn set_run_time_ns(&self, ns: u64) {
        self.run_time_ns.store(ns, Ordering::Relaxed);
    }

    /// Whether it runs.
    pub fn run_state(&self) -> RunState {
        match self.run_state.load(Ordering::Relaxed) {
            0 => RunState::New,
            1 => RunState::Running,
            2 => RunState::Runnable,
            3 => RunState::Blocked,
            _ => RunState::Dead,
        }
    }

    pub(super) fn set_run_state(&self, state: RunState) {
        self.run_state.store(state as u8, Ordering::Relaxed);
    }

    /// The CPU it runs on, waits for, or ran on last. Stays the same while that one's queue is locked.
    pub fn home(&self) -> usize {
        self.home.load(Ordering::Relaxed)
    }

    pub(super) fn set_home(&self, cpu: usize) {
        self.home.store(cpu, Ordering::Relaxed);
    }

    /// Whether a CPU has chosen it and not yet saved its registers again.
    pub(super) fn is_being_run(&self) -> bool {
        self.being_run.load(Ordering::Acquire)
    }

    pub(super) fn set_being_run(&self, being_run: bool) {
        self.being_run.store(being_run, Ordering::Release);
    }

    /// The CPUs it may run on, of all there may ever be.
    pub fn affinity(&self) -> CpuSet {
        CpuSet::from_bits(self.affinity.load(Ordering::Relaxed))
    }

    /// Sets it for a thread that has not started; else [`scheduler::set_affinity`] does.
    pub(super) fn set_affinity(&self, cpus: CpuSet) {
        self.affinity.store(cpus.bits(), Ordering::Relaxed);
    }

    /// Whether it runs a program, in its process's address space.
    pub(super) fn is_user(&self) -> bool {
        self.is_user.load(Ordering::Relaxed)
    }

    /// It ends: no memory of its program's is touched from here on, so it may run in any address space.
    pub(super) fn leave_memory(&self) {
        self.is_user.store(false, Ordering::Relaxed);
    }

    pub(super) fn context(&self) -> *mut Context {
        self.context.get()
    }

    /// The user state of the running thread, for signal frames and exec.
    ///
    /// # Safety
    /// `self` is the running thread, and no other reference to its context is alive.
    #[allow(clippy::mut_from_ref, reason = "the context belongs to the running thread alone")]
    pub(super) unsafe fn own_context(&self) -> &mut Context {
        // SAFETY: the caller is the thread itself; the scheduler touches the context only in a switch.
        unsafe { &mut *self.context.get() }
    }

    /// Makes it look at its signals, its process's state and its pending restart before the program goes on, at once
    /// where it runs on another CPU, and ends an interruptible wait.
    ///
    /// The mark is set before the lock of its run queue is taken. A thread that is about to block takes that lock before
    /// it looks at the mark; one about to go on to its program looks with interrupts masked, and the interrupt comes
    /// right afterwards. So neither misses it.
    pub fn notify(self: &Arc<Self>) {
        self.attention.store(true, Ordering::Release);
        scheduler::alert(self);
    }

    /// As [`Thread::notify`] for a thread that has not started yet, or that need not hurry.
    pub(super) fn mark_for_attention(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Takes the mark set by [`Thread::notify`].
    pub(super) fn take_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed) && self.attention.swap(false, Ordering::Acquire)
    }

    pub(super) fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Whether a signal it does not block is pending.
    pub fn signal_pending(&self) -> bool {
        let signals = self.signals.lock();
        let pending = signals.pending.set() | self.process.pending_signals();
        !(pending & (!signals.mask | signals.waited_for)).is_empty()
    }

    /// Whether a wait must end: a signal, or the process's end.
    pub fn must_stop_waiting(&self) -> bool {
        self.needs_attention() && (self.process.is_exiting() || self.signal_pending())
    }

    /// Remembers what a restart of the system call needs.
    pub fn enter_syscall(&self, first_argument: u64) {
        self.syscall_argument.store(first_argument, Ordering::Relaxed);
    }

    pub(super) fn syscall_argument(&self) -> u64 {
        self.syscall_argument.load(Ordering::Relaxed)
    }

    /// Asks for the interrupted call to be restarted, or to fail with EINTR, once it is known which signal came.
    pub fn request_restart(&self) {
        self.restart.store(true, Ordering::Relaxed);
        self.attention.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_restart(&self) -> bool {
        self.restart.swap(false, Ordering::Relaxed)
    }

    /// Blocks `mask` instead of the current set until the call ends (ppoll, pselect, epoll_pwait, sigsuspend): a signal
    /// that comes meanwhile is handled with `mask` in force, then the old set returns.
    pub fn set_temporary_mask(&self, mask: u64) {
        self.change_mask(|signals| {
            signals.saved_mask.get_or_insert(signals.mask);
            signals.mask = SignalSet::from_bits(mask).blockable();
        });
        self.masked_for_call.store(true, Ordering::Relaxed);
        // Whatever is pending and was blocked is looked at.
        self.attention.store(true, Ordering::Relaxed);
    }

    /// A call with a temporary mask ended without having been interrupted: the old set returns at once.
    pub fn end_temporary_mask(&self) {
        if !self.masked_for_call.load(Ordering::Relaxed) {
            return;
        }
        self.masked_for_call.store(false, Ordering::Relaxed);
        self.change_mask(|signals| {
            if let Some(mask) = signals.saved_mask.take() {
                signals.mask = mask;
            }
        });
    }

    /// The blocked set.
    pub fn signal_mask(&self) -> u64 {
        self.signals.lock().mask.bits()
    }

    /// Replaces the blocked set and returns the old one.
    pub fn swap_signal_mask(&self, mask: u64) -> u64 {
        let new = SignalSet::from_bits(mask).blockable();
        let old = self.change_mask(|signals| core::mem::replace(&mut signals.mask, new));
        self.attention.store(true, Ordering::Relaxed);
        old.bits()
    }

    /// Does what may block more signals. Those that wait for the process, and that this thread was to take, are for
    /// another then (`signal::send` has told one thread alone).
    pub(super) fn change_mask<T>(&self, change: impl FnOnce(&mut ThreadSignals) -> T) -> T {
        let (result, newly_blocked) = {
            let mut signals = self.signals.lock();
            let old = signals.mask;
            (change(&mut signals), signals.mask & !old)
        };
        if !(self.process.pending_signals() & newly_blocked).is_empty() {
            let is_other = |thread: &&Arc<Self>| !core::ptr::eq(Arc::as_ptr(thread), self);
            self.process.threads().iter().filter(is_other).for_each(Self::notify);
        }
        result
    }
}

impl Wake for Thread {
    fn wake(&self) {
        // SAFETY: every Thread lives in an Arc (its constructors return nothing else), and the caller's reference
        // keeps it alive for this borrow.
        let thread = unsafe {
            Arc::increment_strong_count(core::ptr::from_ref(self));
            Arc::from_raw(core::ptr::from_ref(self))
        };
        scheduler::wake(&thread);
    }
}
