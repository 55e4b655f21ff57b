//! Exceptions: decodes the syndrome and calls the kernel's [`TrapHandler`].

use core::{arch::global_asm, fmt::Write};

use aarch64_cpu::registers::{ESR_EL1, FAR_EL1};
use hal::{Arch, FaultAccess, TrapHandler, UserAddr, UserException};
use spin::Once;
use tock_registers::interfaces::Readable;

use crate::{Aarch64, power, user_copy};

global_asm!(include_str!("vectors.S"));

static HANDLER: Once<&'static dyn TrapHandler<Aarch64>> = Once::new();

/// The registers saved on entry, in the layout of `save_frame` in `vectors.S`.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL0.
    pub sp: u64,
    /// ELR_EL1.
    pub pc: u64,
    /// SPSR_EL1.
    pub pstate: u64,
    /// Pads to the 16-byte stack alignment.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<TrapFrame>() == 288);

/// PSTATE bits a program may set: NZCV. Everything else is EL0t, AArch64, nothing masked (Arm ARM C5.2.19).
pub(crate) const USER_PSTATE_MASK: u64 = 0xf000_0000;

impl hal::TrapFrame for TrapFrame {
    fn new_user(entry: UserAddr, stack: UserAddr) -> Self {
        Self { x: [0; 31], sp: stack.get(), pc: entry.get(), pstate: 0, reserved: [0; 2] }
    }
    fn syscall_number(&self) -> usize {
        self.x[8] as usize
    }
    fn syscall_arguments(&self) -> [u64; 6] {
        [self.x[0], self.x[1], self.x[2], self.x[3], self.x[4], self.x[5]]
    }
    fn set_return(&mut self, value: u64) {
        self.x[0] = value;
    }
    fn restart_syscall(&mut self, first_argument: u64) {
        self.x[0] = first_argument;
        self.pc = self.pc.wrapping_sub(4);
    }
    fn pc(&self) -> UserAddr {
        UserAddr::new(self.pc)
    }
    fn sp(&self) -> UserAddr {
        UserAddr::new(self.sp)
    }
    fn frame_pointer(&self) -> usize {
        self.x[29] as usize
    }
    fn set_sp(&mut self, sp: UserAddr) {
        self.sp = sp.get();
    }
    fn dump(&self, out: &mut dyn Write) -> core::fmt::Result {
        writeln!(out, "pc  {:016x}  pstate {:08x}  sp_el0 {:016x}", self.pc, self.pstate, self.sp)?;
        for (number, value) in self.x.iter().enumerate() {
            let end = if number % 4 == 3 || number == 30 { "\n" } else { "  " };
            write!(out, "x{number:<2} {value:016x}{end}")?;
        }
        Ok(())
    }
}

pub(crate) fn install(handler: &'static dyn TrapHandler<Aarch64>) {
    HANDLER.call_once(|| handler);
}

fn handler() -> &'static dyn TrapHandler<Aarch64> {
    match HANDLER.get() {
        Some(handler) => *handler,
        None => {
            power::debug_write("piton: exception before the kernel was ready\n");
            power::power(hal::PowerAction::Off(101));
            loop {
                aarch64_cpu::asm::wfe();
            }
        }
    }
}

/// Exception classes of ESR_EL1 (Arm ARM D24.2.40).
mod class {
    pub const UNKNOWN: u64 = 0x00;
    pub const ILLEGAL_STATE: u64 = 0x0e;
    pub const SVC: u64 = 0x15;
    pub const TRAPPED_SYSTEM: u64 = 0x18;
    pub const SVE: u64 = 0x19;
    pub const INSTRUCTION_ABORT_USER: u64 = 0x20;
    pub const PC_ALIGNMENT: u64 = 0x22;
    pub const DATA_ABORT_USER: u64 = 0x24;
    pub const DATA_ABORT_KERNEL: u64 = 0x25;
    pub const SP_ALIGNMENT: u64 = 0x26;
    pub const FLOATING_POINT: u64 = 0x2c;
    pub const BREAKPOINT_USER: u64 = 0x30;
    pub const STEP_USER: u64 = 0x32;
    pub const WATCHPOINT_USER: u64 = 0x34;
    pub const BRK: u64 = 0x3c;
}

/// Data fault status code 0b100001 (Arm ARM D24.2.40, ISS for a Data Abort): alignment fault.
const ALIGNMENT_FAULT: u64 = 0b10_0001;
/// Whether the fault status code (as above) is one that the kernel's page tables cause: address size, translation,
/// access flag or permission. Anything else (an external abort, an ECC error) would come again for ever.
const fn is_page_fault(syndrome: u64) -> bool {
    syndrome & 0x3f < 0b01_0000
}

/// WnR, bit 6 of the data abort syndrome; CM, bit 8: cache maintenance counts as a read.
const fn data_access(syndrome: u64) -> FaultAccess {
    if syndrome & (1 << 6) != 0 && syndrome & (1 << 8) == 0 { FaultAccess::Write } else { FaultAccess::Read }
}

#[unsafe(no_mangle)]
extern "C" fn arch_user_sync(frame: &mut TrapFrame) {
    let syndrome = ESR_EL1.get();
    let address = UserAddr::new(FAR_EL1.get());
    let handler = handler();
    Aarch64::enable_interrupts();
    match syndrome >> 26 & 0x3f {
        class::SVC => handler.syscall(frame),
        class::DATA_ABORT_USER if syndrome & 0x3f == ALIGNMENT_FAULT => {
            handler.user_exception(frame, UserException::Misaligned, address);
        }
        class::DATA_ABORT_USER | class::INSTRUCTION_ABORT_USER if !is_page_fault(syndrome) => {
            handler.user_exception(frame, UserException::External, address);
        }
        class::DATA_ABORT_USER => handler.user_fault(frame, address, data_access(syndrome)),
        class::INSTRUCTION_ABORT_USER => handler.user_fault(frame, address, FaultAccess::Execute),
        other => {
            let pc = UserAddr::new(frame.pc);
            let exception = match other {
                class::UNKNOWN | class::ILLEGAL_STATE | class::TRAPPED_SYSTEM | class::SVE => {
                    UserException::IllegalInstruction
                }
                class::PC_ALIGNMENT | class::SP_ALIGNMENT => UserException::Misaligned,
                class::FLOATING_POINT => UserException::FloatingPoint,
                class::BRK | class::BREAKPOINT_USER | class::STEP_USER | class::WATCHPOINT_USER => {
                    UserException::Breakpoint
                }
                _ => UserException::Unknown(syndrome),
            };
            handler.user_exception(frame, exception, pc);
        }
    }
    Aarch64::mask_interrupts();
    handler.before_user(frame);
}

#[unsafe(no_mangle)]
extern "C" fn arch_user_irq(frame: &mut TrapFrame) {
    let handler = handler();
    handler.interrupt();
    handler.before_user(frame);
}

#[unsafe(no_mangle)]
extern "C" fn arch_user_serror(frame: &mut TrapFrame) {
    handler().kernel_fault(frame, "system error (SError or FIQ) in user mode", ESR_EL1.get(), 0);
}

#[unsafe(no_mangle)]
extern "C" fn arch_user_aarch32(frame: &mut TrapFrame) {
    let handler = handler();
    Aarch64::enable_interrupts();
    handler.user_exception(frame, UserException::IllegalInstruction, UserAddr::new(frame.pc));
    Aarch64::mask_interrupts();
    handler.before_user(frame);
}

#[unsafe(no_mangle)]
extern "C" fn arch_kernel_irq(_frame: &mut TrapFrame) {
    handler().interrupt();
}

#[unsafe(no_mangle)]
extern "C" fn arch_kernel_sync(frame: &mut TrapFrame) {
    let syndrome = ESR_EL1.get();
    let address = FAR_EL1.get();
    match syndrome >> 26 & 0x3f {
        class::DATA_ABORT_KERNEL
            if address < Aarch64::USER_END && user_copy::contains(frame.pc) && is_page_fault(syndrome) =>
        {
            // PSTATE.I. Who holds a lock may not wait for memory, which to have may take another process's end.
            let holds_lock = frame.pstate & (1 << 7) != 0;
            let mut resolved = false;
            if !holds_lock {
                Aarch64::enable_interrupts();
                resolved = handler().kernel_access_to_user(UserAddr::new(address), data_access(syndrome));
                Aarch64::mask_interrupts();
            }
            if !resolved {
                frame.pc = user_copy::continuation(frame.pc);
            }
        }
        class::DATA_ABORT_KERNEL if user_copy::contains(frame.pc) => {
            // A kernel address where a user address was due: LDTR and STTR refused it.
            frame.pc = user_copy::continuation(frame.pc);
        }
        class::UNKNOWN if power::is_semihosting_call(frame.pc) => {
            // No debugger takes the call: report failure.
            frame.x[0] = u64::MAX;
            frame.pc += 4;
        }
        _ => handler().kernel_fault(frame, "unexpected exception in the kernel", syndrome, address),
    }
}

#[unsafe(no_mangle)]
extern "C" fn arch_kernel_bad(frame: &mut TrapFrame) -> ! {
    handler().kernel_fault(frame, "system error (SError) in the kernel", ESR_EL1.get(), FAR_EL1.get())
}

#[unsafe(no_mangle)]
extern "C" fn arch_stack_overflow(frame: &mut TrapFrame, stack_pointer: u64) -> ! {
    handler().kernel_fault(frame, "kernel stack overflow", ESR_EL1.get(), stack_pointer)
}
