//! What the kernel does when the CPU takes an exception: the side of [`hal::TrapHandler`] that knows processes.

use abi::linux;
use hal::{Arch as _, FaultAccess, TrapFrame as _, TrapHandler, UserAddr, UserException};

use super::{
    scheduler,
    signal::{self, SignalInfo},
};
use crate::{
    arch::{Arch, TrapFrame},
    inspect::trace::{self, Event},
    irq,
    mm::{self, address_space::AddressSpace},
    panic, syscall,
};

struct Handler;

/// Connects the architecture's exceptions to the kernel.
pub fn init() {
    Arch::install_trap_handler(&Handler);
}

/// First code of a new user thread.
pub extern "C" fn user_thread_start(frame: usize) -> ! {
    scheduler::finish_switch();
    let frame: *mut TrapFrame = core::ptr::with_exposed_provenance_mut(frame);
    // SAFETY: Thread::user put the frame at the top of this thread's stack.
    unsafe {
        Handler.before_user(&mut *frame);
        Arch::return_to_user(frame)
    }
}

/// Logs a program's fault the way Linux does, so that a crash can be understood without a debugger.
fn log_fault(frame: &TrapFrame, what: &str, address: UserAddr) {
    let thread = scheduler::current();
    log::info!("{}[{}]: {what} at {address}, pc {}", thread.name(), thread.tid(), frame.pc());
}

fn resolve(memory: &AddressSpace, address: UserAddr, access: FaultAccess) -> Result<(), (u32, u32)> {
    use mm::fault::FaultOutcome as Outcome;
    match memory.fault(address, access) {
        Outcome::Resolved => Ok(()),
        Outcome::NotMapped => Err((linux::SIGSEGV, linux::SEGV_MAPERR)),
        Outcome::Forbidden => Err((linux::SIGSEGV, linux::SEGV_ACCERR)),
        Outcome::BeyondEnd => Err((linux::SIGBUS, linux::BUS_ADRERR)),
        Outcome::OutOfMemory => Err((linux::SIGKILL, 0)),
    }
}

impl TrapHandler<Arch> for Handler {
    fn syscall(&self, frame: &mut TrapFrame) {
        scheduler::current().enter_call();
        syscall::dispatch(frame);
    }

    fn user_fault(&self, frame: &mut TrapFrame, address: UserAddr, access: FaultAccess) {
        let thread = scheduler::current();
        thread.measure_kernel_time();
        trace::record(Event::Fault, address.get(), 0);
        // The signal tells the tag, too, where its handler asks for it.
        let meant = Arch::untagged(address);
        let result = match thread.memory() {
            Some(memory) if meant.get() < Arch::USER_END => resolve(&memory, meant, access),
            _ => Err((linux::SIGSEGV, linux::SEGV_MAPERR)),
        };
        let Err((signal, code)) = result else {
            thread.counters().count_fault();
            return;
        };
        if signal == linux::SIGKILL {
            super::oom::relieve();
            return;
        }
        if code == linux::SEGV_MAPERR || code == linux::SEGV_ACCERR {
            log_fault(frame, "segmentation fault", address);
        }
        signal::force(&thread, signal, SignalInfo::fault(signal, code as i32, address.get()));
    }

    fn user_exception(&self, frame: &mut TrapFrame, exception: UserException, address: UserAddr) {
        scheduler::current().measure_kernel_time();
        let (signal, code) = match exception {
            UserException::IllegalInstruction => (linux::SIGILL, linux::ILL_ILLOPC),
            UserException::Breakpoint => (linux::SIGTRAP, linux::TRAP_BRKPT),
            UserException::Misaligned => (linux::SIGBUS, linux::BUS_ADRALN),
            UserException::External => (linux::SIGBUS, linux::BUS_OBJERR),
            UserException::FloatingPoint => (linux::SIGFPE, linux::FPE_FLTINV),
            UserException::Unknown(syndrome) => {
                log::warn!("unknown exception, syndrome {syndrome:#x}");
                (linux::SIGILL, linux::ILL_ILLOPC)
            }
        };
        log_fault(frame, "exception", address);
        signal::force(&scheduler::current(), signal, SignalInfo::fault(signal, code as i32, address.get()));
    }

    fn kernel_access_to_user(&self, address: UserAddr, access: FaultAccess) -> bool {
        if !scheduler::is_running() {
            return false;
        }
        let thread = scheduler::current();
        let Some(memory) = thread.memory() else { return false };
        loop {
            match resolve(&memory, address, access) {
                Ok(()) => {
                    thread.counters().count_fault();
                    return true;
                }
                // Lets others run: where a lock is held, a copy ends before it comes to this.
                Err((linux::SIGKILL, _)) => super::oom::relieve(),
                Err(_) => return false,
            }
            if thread.process().is_exiting() {
                return false;
            }
        }
    }

    fn interrupt(&self) {
        irq::handle();
    }

    fn before_user(&self, frame: &mut TrapFrame) {
        loop {
            if scheduler::should_reschedule() {
                scheduler::schedule();
            }
            let thread = scheduler::current();
            if !thread.take_attention() {
                thread.leave_kernel();
                return;
            }
            Arch::enable_interrupts();
            signal::handle_pending(&thread, frame);
            Arch::mask_interrupts();
        }
    }

    fn kernel_fault(&self, frame: &TrapFrame, what: &str, syndrome: u64, address: u64) -> ! {
        panic::fatal(format_args!("{what}: syndrome {syndrome:#x}, address {address:#x}"), Some(frame))
    }
}
