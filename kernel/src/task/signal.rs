//! Signals: sending, and what is done about them on the way back to a program (signal(7)).

use alloc::sync::Arc;
use core::{
    ops::{BitAnd, BitOr, Not},
    sync::atomic::Ordering,
};

use abi::{Errno, Result, linux};
use hal::{Arch as _, SignalSetup, TrapFrame as _, UserAddr};

use super::{
    exit,
    pending::{Pending, Quota, Sent, TimerSignal},
    process::{self, Process},
    thread::Thread,
};
use crate::{
    arch::{Arch, TrapFrame},
    mm::user,
    sync::IrqLock,
};

/// One past the highest signal number.
pub const NSIG: u32 = 65;

/// A set of signals; signal n is bit n - 1, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalSet(u64);

impl SignalSet {
    /// From a program's word.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// To a program's word.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// The set of one signal.
    pub const fn of(signal: u32) -> Self {
        Self(1 << (signal - 1))
    }
    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether `signal` is in the set.
    pub const fn contains(self, signal: u32) -> bool {
        self.0 & Self::of(signal).0 != 0
    }
    /// Without SIGKILL and SIGSTOP, which cannot be blocked.
    pub const fn blockable(self) -> Self {
        Self(self.0 & !(Self::of(linux::SIGKILL).0 | Self::of(linux::SIGSTOP).0))
    }
    /// The signal to deliver first: a fault's, else the lowest number.
    pub(super) fn first(self) -> Option<u32> {
        const FAULTS: u64 = SignalSet::of(linux::SIGSEGV).0
            | SignalSet::of(linux::SIGBUS).0
            | SignalSet::of(linux::SIGILL).0
            | SignalSet::of(linux::SIGTRAP).0
            | SignalSet::of(linux::SIGFPE).0
            | SignalSet::of(linux::SIGSYS).0;
        let set = if self.0 & FAULTS != 0 { self.0 & FAULTS } else { self.0 };
        (set != 0).then(|| set.trailing_zeros() + 1)
    }
}

impl BitAnd for SignalSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
impl BitOr for SignalSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
impl Not for SignalSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

/// A `siginfo_t` (sigaction(2)).
#[derive(Clone, Copy)]
pub struct SignalInfo([u8; 128]);

impl SignalInfo {
    fn new(signal: u32, code: i32) -> Self {
        let mut bytes = [0; 128];
        bytes[0..4].copy_from_slice(&signal.to_ne_bytes());
        bytes[8..12].copy_from_slice(&code.to_ne_bytes());
        Self(bytes)
    }
    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
    /// From the kernel (SI_KERNEL).
    pub fn kernel(signal: u32) -> Self {
        Self::new(signal, linux::SI_KERNEL as i32)
    }
    /// From kill(2) (SI_USER).
    pub fn user(signal: u32, pid: i32, uid: u32) -> Self {
        Self::new(signal, linux::SI_USER as i32).with(16, &pid.to_ne_bytes()).with(20, &uid.to_ne_bytes())
    }
    /// From tgkill(2) (SI_TKILL).
    pub fn thread(signal: u32, pid: i32, uid: u32) -> Self {
        Self::new(signal, linux::SI_TKILL).with(16, &pid.to_ne_bytes()).with(20, &uid.to_ne_bytes())
    }
    /// A fault at an address, with the code of the signal (SEGV_MAPERR, ...).
    pub fn fault(signal: u32, code: i32, address: u64) -> Self {
        Self::new(signal, code).with(16, &address.to_ne_bytes())
    }
    /// SIGCHLD: a child ended, stopped or went on.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32) -> Self {
        Self::new(linux::SIGCHLD, code)
            .with(16, &pid.to_ne_bytes())
            .with(20, &uid.to_ne_bytes())
            .with(24, &status.to_ne_bytes())
    }
    /// Readiness of an open file: a POLL_ code, the poll(2) events and the descriptor (fcntl(2), F_SETSIG).
    pub fn input_output(signal: u32, code: i32, band: i64, fd: i32) -> Self {
        Self::new(signal, code).with(16, &band.to_ne_bytes()).with(24, &fd.to_ne_bytes())
    }
    /// With the CPU time of that child, in the ticks of times(2).
    pub fn with_times(self, user_ticks: u64, system_ticks: u64) -> Self {
        self.with(32, &user_ticks.to_ne_bytes()).with(40, &system_ticks.to_ne_bytes())
    }
    /// A POSIX timer expired (SI_TIMER).
    pub fn timer(signal: u32, id: i32, value: u64) -> Self {
        Self::new(signal, linux::SI_TIMER).with(16, &id.to_ne_bytes()).with(24, &value.to_ne_bytes())
    }
    /// As it was given with another number.
    pub fn with_signal(self, signal: u32) -> Self {
        self.with(0, &signal.to_ne_bytes())
    }
    fn with_overrun(self, overrun: i32) -> Self {
        self.with(20, &overrun.to_ne_bytes())
    }
    /// As a program gave it (sigqueue).
    pub const fn from_bytes(bytes: [u8; 128]) -> Self {
        Self(bytes)
    }
    /// As a program sees it.
    pub const fn bytes(&self) -> &[u8; 128] {
        &self.0
    }
    /// `si_code`.
    pub fn code(&self) -> i32 {
        self.half(8) as i32
    }
    /// Eight of its bytes.
    pub fn word(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_ne_bytes(bytes)
    }
    /// Four of its bytes.
    pub fn half(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }
}

/// sigaltstack(2).
#[derive(Clone, Copy, Debug)]
pub struct AltStack {
    /// Lowest address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// SS_DISABLE, SS_AUTODISARM.
    pub flags: u32,
}

impl Default for AltStack {
    fn default() -> Self {
        Self { address: 0, size: 0, flags: linux::SS_DISABLE }
    }
}

impl AltStack {
    /// Whether a stack pointer is in its bytes.
    const fn holds(&self, sp: u64) -> bool {
        sp > self.address && sp - self.address <= self.size
    }
    /// Whether the program runs on it: never, as far as the kernel knows, where it is taken away for every handler.
    pub const fn is_in_use(&self, sp: u64) -> bool {
        self.flags & linux::SS_AUTODISARM == 0 && self.holds(sp)
    }
    /// The flags as sigaltstack(2) tells them.
    pub const fn reported_flags(&self, sp: u64) -> u32 {
        let state = match self.size {
            0 => linux::SS_DISABLE,
            _ if self.is_in_use(sp) => linux::SS_ONSTACK,
            _ => 0,
        };
        state | self.flags & linux::SS_AUTODISARM
    }
    /// Puts another one in its place for a program whose stack pointer is `sp`. EPERM while it is in use; EINVAL, ENOMEM.
    pub fn replace(&mut self, new: Self, sp: u64) -> Result<()> {
        if self.is_in_use(sp) {
            return Err(Errno::EPERM);
        }
        *self = match new.flags & !linux::SS_AUTODISARM {
            linux::SS_DISABLE => Self { address: 0, size: 0, flags: new.flags },
            0 | linux::SS_ONSTACK if new.size < u64::from(linux::MINSIGSTKSZ) => return Err(Errno::ENOMEM),
            0 | linux::SS_ONSTACK => new,
            _ => return Err(Errno::EINVAL),
        };
        Ok(())
    }
}

/// What sigaction(2) set for one signal.
#[derive(Clone, Copy, Default, Debug)]
pub struct Action {
    /// SIG_DFL (0), SIG_IGN (1) or an address.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    /// Where the handler returns to, with SA_RESTORER.
    pub restorer: u64,
    /// Blocked while it runs.
    pub mask: SignalSet,
}

/// SIG_DFL.
pub const SIG_DFL: u64 = 0;
/// SIG_IGN.
pub const SIG_IGN: u64 = 1;
/// SA_RESTORER, which generic headers leave out.
pub const SA_RESTORER: u64 = 0x0400_0000;

/// The actions of all signals.
#[derive(Clone)]
pub struct ActionTable([Action; NSIG as usize - 1]);

impl Default for ActionTable {
    fn default() -> Self {
        Self([Action::default(); NSIG as usize - 1])
    }
}

impl ActionTable {
    /// A signal's action.
    pub fn get(&self, signal: u32) -> Action {
        self.0[signal as usize - 1]
    }
    /// Sets a signal's action.
    pub fn set(&mut self, signal: u32, action: Action) {
        self.0[signal as usize - 1] = action;
    }
    /// execve: handlers go back to the default, ignored signals stay ignored.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = Action { handler, ..Action::default() };
        }
    }
}

enum DefaultAction {
    Ignore,
    Terminate,
    Core,
    Stop,
    Continue,
}

/// The default action (signal(7), "Standard signals").
fn default_action(signal: u32) -> DefaultAction {
    match signal {
        linux::SIGCHLD | linux::SIGURG | linux::SIGWINCH => DefaultAction::Ignore,
        linux::SIGCONT => DefaultAction::Continue,
        linux::SIGSTOP | linux::SIGTSTP | linux::SIGTTIN | linux::SIGTTOU => DefaultAction::Stop,
        linux::SIGQUIT
        | linux::SIGILL
        | linux::SIGTRAP
        | linux::SIGABRT
        | linux::SIGBUS
        | linux::SIGFPE
        | linux::SIGSEGV
        | linux::SIGXCPU
        | linux::SIGXFSZ
        | linux::SIGSYS => DefaultAction::Core,
        _ => DefaultAction::Terminate,
    }
}

const STOPS: SignalSet = SignalSet(
    SignalSet::of(linux::SIGSTOP).0
        | SignalSet::of(linux::SIGTSTP).0
        | SignalSet::of(linux::SIGTTIN).0
        | SignalSet::of(linux::SIGTTOU).0,
);

/// Whether the process is the machine, which no signal without a handler may end: process 1, unless the machine is to
/// go off with it anyway.
fn is_protected(process: &Process) -> bool {
    process.pid() == 1 && !super::init::powers_off_at_end()
}

/// Whether the process would do nothing about the signal.
fn is_ignored(process: &Process, signal: u32) -> bool {
    match process.actions.lock().get(signal).handler {
        // Nobody is left to let a stopped process 1 go on.
        SIG_DFL if process.pid() == 1 && STOPS.contains(signal) => true,
        SIG_DFL if is_protected(process) => true,
        handler => ignores(handler, signal),
    }
}

/// Whether a handler of sigaction(2) means that nothing is done about the signal.
pub fn ignores(handler: u64, signal: u32) -> bool {
    match handler {
        SIG_DFL => matches!(default_action(signal), DefaultAction::Ignore | DefaultAction::Continue),
        handler => handler == SIG_IGN,
    }
}

/// Effects that do not wait for delivery: stop signals and SIGCONT cancel each other, SIGCONT and SIGKILL wake.
fn prepare(process: &Arc<Process>, signal: u32) {
    if signal == linux::SIGCONT || signal == linux::SIGKILL {
        process.with_pending(|pending| pending.discard(STOPS));
        for thread in process.threads() {
            thread.signals.lock().pending.discard(STOPS);
        }
        let was_stopped = {
            let mut state = process.state.lock();
            state.continued += 1;
            process.set_stopping(false);
            let was_stopped = state.stopped.take().is_some();
            if was_stopped && signal == linux::SIGCONT {
                state.changed = Some(0xffff);
            }
            was_stopped
        };
        if was_stopped {
            if signal == linux::SIGCONT {
                exit::notify_parent(process, linux::CLD_CONTINUED as i32, linux::SIGCONT as i32);
            }
            process.changed.wake_all();
        }
    } else if STOPS.contains(signal) {
        process.with_pending(|pending| pending.discard(SignalSet::of(linux::SIGCONT)));
    }
}

/// Sends a signal to a process: one of its threads that does not block it will handle it.
pub fn send_to_process(process: &Arc<Process>, signal: u32, info: SignalInfo) -> Sent {
    send(process, None, signal, |pending, quota| pending.add(quota, signal, info))
}

/// Sends a signal to one thread.
pub fn send_to_thread(thread: &Arc<Thread>, signal: u32, info: SignalInfo) -> Sent {
    send(thread.process(), Some(thread), signal, |pending, quota| pending.add(quota, signal, info))
}

/// Sends a POSIX timer's signal to a process, or one of its threads.
pub(super) fn send_timer(
    process: &Arc<Process>,
    thread: Option<&Arc<Thread>>,
    signal: u32,
    info: SignalInfo,
    timer: TimerSignal,
) -> Sent {
    send(process, thread, signal, |pending, _| {
        pending.add_timer(signal, info, timer);
        Sent::Waits
    })
}

fn send(
    process: &Arc<Process>,
    thread: Option<&Arc<Thread>>,
    signal: u32,
    add: impl FnOnce(&mut Pending, Quota) -> Sent,
) -> Sent {
    if signal == 0 || signal >= NSIG || process.exit_status().is_some() {
        return Sent::Ignored;
    }
    prepare(process, signal);
    let ignored = is_ignored(process, signal);
    let quota = Quota::of(process);
    let sent = match thread {
        Some(thread) => {
            let mut signals = thread.signals.lock();
            if ignored && !(signals.mask | signals.waited_for).contains(signal) {
                return Sent::Ignored;
            }
            add(&mut signals.pending, quota)
        }
        None => {
            let threads = process.threads();
            let blocked_by_all = threads.iter().all(|thread| thread.signals.lock().mask.contains(signal));
            let waited_for = threads.iter().any(|thread| thread.signals.lock().waited_for.contains(signal));
            if ignored && !blocked_by_all && !waited_for {
                return Sent::Ignored;
            }
            process.with_pending(|pending| add(pending, quota))
        }
    };
    if sent != Sent::Waits {
        return sent;
    }
    match thread {
        Some(thread) => thread.notify(),
        None => notify_taker(process, signal),
    }
    process.signalled.wake_all();
    sent
}

/// A signal waits for a process: tells a thread that may take it, the first one by preference.
fn notify_taker(process: &Arc<Process>, signal: u32) {
    // Anew: a thread that has left meanwhile did not see the signal, one that leaves from now on tells the others.
    let threads = process.threads();
    let main_first = threads.iter().filter(|thread| thread.tid() == process.pid());
    let others = threads.iter().filter(|thread| thread.tid() != process.pid());
    let takes = |thread: &&Arc<Thread>| {
        let signals = thread.signals.lock();
        !signals.mask.contains(signal) || signals.waited_for.contains(signal)
    };
    let taker = main_first.chain(others).find(takes);
    match taker {
        Some(thread) if signal != linux::SIGKILL => thread.notify(),
        _ => threads.iter().for_each(Thread::notify),
    }
}

/// Taken by who sends to several processes and by who makes one known: what is sent to a group reaches every member, or
/// comes before one is made.
pub(super) static GROUPS: IrqLock<()> = IrqLock::new(());

/// Has `send` send a signal to every process that `chosen` names. A fork in one of them that is not done yet begins
/// again once the signal has been dealt with.
pub fn send_to_many(chosen: impl Fn(&Process) -> bool, mut send: impl FnMut(&Arc<Process>)) {
    // Dropped without the lock.
    let all;
    let _guard = GROUPS.lock();
    all = process::all();
    for process in all.iter().filter(|process| chosen(process)) {
        send(process);
        // Afterwards: who knows of this count finds the signal.
        process.group_signals.fetch_add(1, Ordering::Release);
    }
}

/// Sends a signal to every process of a group; returns how many there were.
pub fn send_to_group(group: i32, signal: u32) -> usize {
    let mut count = 0;
    send_to_many(
        |process| process.group() == group && process.exit_status().is_none(),
        |process| {
            send_to_process(process, signal, SignalInfo::kernel(signal));
            count += 1;
        },
    );
    count
}

/// A signal that the running thread caused itself and cannot put off: blocked or ignored, it ends the process.
pub fn force(thread: &Arc<Thread>, signal: u32, info: SignalInfo) {
    let action = thread.process().actions.lock().get(signal);
    let quota = Quota::of(thread.process());
    let mut signals = thread.signals.lock();
    if signals.mask.contains(signal) || action.handler == SIG_IGN {
        signals.mask = signals.mask & !SignalSet::of(signal);
        thread.process().actions.lock().set(signal, Action::default());
    }
    signals.pending.add(quota, signal, info);
    signals.forced = signals.forced | SignalSet::of(signal);
    drop(signals);
    thread.notify();
}

/// Forgets a pending signal that the process now ignores.
pub fn discard(process: &Process, signal: u32) {
    process.with_pending(|pending| pending.discard(SignalSet::of(signal)));
    for thread in process.threads() {
        thread.signals.lock().pending.discard(SignalSet::of(signal));
    }
}

/// Takes one of `wanted` that is pending for the thread or its process.
pub fn take_pending(thread: &Thread, wanted: SignalSet) -> Option<(u32, SignalInfo)> {
    loop {
        let own = thread.signals.lock().pending.take(wanted);
        let (signal, info, timer) = own.or_else(|| thread.process().with_pending(|pending| pending.take(wanted)))?;
        let Some(timer) = timer else { return Some((signal, info)) };
        if let Some(overrun) = timer.deliver() {
            return Some((signal, info.with_overrun(overrun)));
        }
    }
}

/// Where all that ends a wait is a stop by default, stops in the middle of it and says so: the wait goes on afterwards.
pub fn stop_without_interrupting(thread: &Arc<Thread>) -> bool {
    let due = {
        let signals = thread.signals.lock();
        (signals.pending.set() | thread.process().pending_signals()) & !signals.mask
    };
    let stops = (1..NSIG).filter(|signal| due.contains(*signal)).all(|signal| {
        let action = thread.process().actions.lock().get(signal);
        STOPS.contains(signal) && action.handler == SIG_DFL
    });
    if thread.process().is_exiting() || due.is_empty() || !stops {
        return false;
    }
    super::scheduler::cancel_block(thread);
    let continued = exit::times_continued(thread);
    if let Some((signal, _)) = take_pending(thread, due) {
        exit::stop(thread, signal, continued);
    }
    true
}

/// Deals with the running thread's signals before it goes on.
pub fn handle_pending(thread: &Arc<Thread>, frame: &mut TrapFrame) {
    let mut restart = thread.take_restart();
    thread.process().unpark_timers();
    loop {
        if thread.process().is_exiting() {
            exit::exit_thread(thread);
        }
        exit::wait_while_stopped(thread);
        if thread.process().is_exiting() {
            continue;
        }
        let mask = thread.signals.lock().mask;
        let continued = exit::times_continued(thread);
        let Some((signal, info)) = take_pending(thread, !mask) else { break };
        let forced = {
            let mut signals = thread.signals.lock();
            let forced = signals.forced.contains(signal);
            signals.forced = signals.forced & !SignalSet::of(signal);
            forced
        };
        let action = thread.process().actions.lock().get(signal);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL if is_protected(thread.process()) && !forced => {}
            SIG_DFL => match default_action(signal) {
                DefaultAction::Ignore | DefaultAction::Continue => {}
                DefaultAction::Stop => exit::stop(thread, signal, continued),
                DefaultAction::Terminate => exit::exit_process(thread, process::ExitStatus::Signaled(signal, false)),
                DefaultAction::Core => exit::exit_process(thread, process::ExitStatus::Signaled(signal, true)),
            },
            _ => {
                if core::mem::take(&mut restart) {
                    if action.flags & u64::from(linux::SA_RESTART) != 0 {
                        frame.restart_syscall(thread.syscall_argument());
                    } else {
                        frame.set_return(Errno::EINTR.as_return());
                    }
                }
                if enter_handler(thread, frame, signal, &info, &action).is_err() {
                    force(thread, linux::SIGSEGV, SignalInfo::kernel(linux::SIGSEGV));
                    if signal == linux::SIGSEGV {
                        // The frame of a SIGSEGV handler itself could not be written.
                        exit::exit_process(thread, process::ExitStatus::Signaled(signal, true));
                    }
                }
            }
        }
    }
    if restart {
        frame.restart_syscall(thread.syscall_argument());
    }
    let restored = thread.change_mask(|signals| {
        let saved = signals.saved_mask.take();
        saved.map(|mask| signals.mask = mask).is_some()
    });
    // What only the temporary mask blocked is due now.
    if restored && thread.signal_pending() {
        thread.notify();
    }
}

/// Builds the signal frame and points the registers at the handler.
fn enter_handler(
    thread: &Arc<Thread>,
    frame: &mut TrapFrame,
    signal: u32,
    info: &SignalInfo,
    action: &Action,
) -> Result<()> {
    let (old_mask, alt_stack) = {
        let mut signals = thread.signals.lock();
        (signals.saved_mask.take().unwrap_or(signals.mask), signals.alt_stack)
    };
    let sp = frame.sp().get();
    let on_alt_stack =
        action.flags & u64::from(linux::SA_ONSTACK) != 0 && alt_stack.size > 0 && !alt_stack.is_in_use(sp);
    let top = if on_alt_stack { alt_stack.address.wrapping_add(alt_stack.size) } else { sp };
    let address = top.wrapping_sub(Arch::SIGNAL_FRAME_SIZE as u64) & !15;
    let is_fault = matches!(signal, linux::SIGSEGV | linux::SIGBUS | linux::SIGILL | linux::SIGFPE | linux::SIGTRAP)
        && info.code() > 0;
    let fault_address = if is_fault { Arch::untagged(UserAddr::new(info.word(16))).get() } else { 0 };
    let mut info = *info;
    if is_fault && action.flags & u64::from(linux::SA_EXPOSE_TAGBITS) == 0 {
        info = info.with(16, &fault_address.to_ne_bytes());
    }
    let setup = SignalSetup {
        signal,
        info: *info.bytes(),
        mask: old_mask.bits(),
        alt_stack: (alt_stack.address, alt_stack.flags, alt_stack.size),
        fault_address,
        handler: UserAddr::new(action.handler),
        restorer: UserAddr::new(if action.flags & SA_RESTORER != 0 {
            action.restorer
        } else {
            super::vdso::sigreturn_address()
        }),
        wants_info: action.flags & u64::from(linux::SA_SIGINFO) != 0,
    };
    let mut bytes = [0; 1280];
    let mut entered = frame.clone();
    // SAFETY: this is the running thread, and nobody else refers to its context.
    let context = unsafe { thread.own_context() };
    let len = Arch::build_signal_frame(&mut entered, context, &setup, UserAddr::new(address), &mut bytes);
    user::copy_out_bytes(UserAddr::new(address), &bytes[..len])?;
    *frame = entered;

    thread.change_mask(|signals| {
        signals.mask = (old_mask | action.mask).blockable();
        if action.flags & u64::from(linux::SA_NODEFER) == 0 {
            signals.mask = (signals.mask | SignalSet::of(signal)).blockable();
        }
        if alt_stack.flags & linux::SS_AUTODISARM != 0 {
            signals.alt_stack = AltStack::default();
        }
    });
    if action.flags & u64::from(linux::SA_RESETHAND) != 0 {
        thread.process().actions.lock().set(signal, Action::default());
    }
    Ok(())
}

/// rt_sigreturn(2): takes the registers and the blocked set back from the frame at the stack pointer.
pub fn return_from_handler(thread: &Arc<Thread>, frame: &mut TrapFrame) -> Result<()> {
    let mut bytes = [0; 1280];
    let bytes = &mut bytes[..Arch::SIGNAL_FRAME_READ];
    user::copy_in_bytes(frame.sp(), bytes)?;
    // SAFETY: this is the running thread, and nobody else refers to its context.
    let context = unsafe { thread.own_context() };
    let restored = Arch::restore_signal_frame(bytes, frame, context).ok_or(Errno::EFAULT)?;
    thread.swap_signal_mask(restored.mask);
    let (address, flags, size) = restored.alt_stack;
    // As on Linux, a stack that cannot be set is left out.
    let _ = thread.signals.lock().alt_stack.replace(AltStack { address, size, flags }, frame.sp().get());
    Ok(())
}
