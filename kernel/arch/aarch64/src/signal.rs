//! The signal frame a program finds on its stack, as Linux lays it out for arm64 (asm/sigcontext.h, asm/ucontext.h).

use hal::{SignalRestore, SignalSetup, UserAddr};
use zerocopy::{FromBytes, IntoBytes};

use crate::{Context, TrapFrame, trap::USER_PSTATE_MASK};

/// Offsets in `struct rt_sigframe { siginfo_t info; struct ucontext uc; }`.
mod offset {
    pub const UCONTEXT: usize = 128;
    pub const STACK: usize = UCONTEXT + 16;
    pub const SIGMASK: usize = UCONTEXT + 40;
    pub const MCONTEXT: usize = UCONTEXT + 176;
    pub const FAULT_ADDRESS: usize = MCONTEXT;
    pub const REGISTERS: usize = MCONTEXT + 8;
    pub const SP: usize = REGISTERS + 31 * 8;
    pub const PC: usize = SP + 8;
    pub const PSTATE: usize = PC + 8;
    /// `__reserved`, 16-byte aligned: a list of records.
    pub const RECORDS: usize = MCONTEXT + 288;
    pub const FPSR: usize = RECORDS + 8;
    pub const FPCR: usize = RECORDS + 12;
    pub const VECTORS: usize = RECORDS + 16;
    pub const TERMINATOR: usize = RECORDS + FPSIMD_SIZE;
    pub const FPSIMD_SIZE: usize = 528;
}

const FPSIMD_MAGIC: u32 = 0x4650_8001;

/// `sizeof(struct rt_sigframe)`, `__reserved[4096]` included.
pub(crate) const FRAME_SIZE: usize = offset::RECORDS + 4096;
/// What of it is written and read: up to the terminating record.
pub(crate) const USED_SIZE: usize = offset::TERMINATOR + 16;

const _: () = assert!(FRAME_SIZE == 4688 && FRAME_SIZE.is_multiple_of(16));

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = out.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Words that lie together, copied in one go: one by one they would be put together from bytes, because nothing says
/// that the frame is aligned.
fn get_words<T: FromBytes>(bytes: &[u8], at: usize) -> Option<T> {
    T::read_from_bytes(bytes.get(at..at + size_of::<T>())?).ok()
}

fn get_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(get(bytes, at)?))
}

fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(get(bytes, at)?))
}

pub(crate) fn build(
    frame: &mut TrapFrame,
    context: &mut Context,
    setup: &SignalSetup,
    address: UserAddr,
    out: &mut [u8],
) -> usize {
    context.save_user();
    put(out, 0, &setup.info);
    put(out, offset::UCONTEXT, &[0; 16]);
    let (stack, flags, size) = setup.alt_stack;
    put(out, offset::STACK, &stack.to_le_bytes());
    put(out, offset::STACK + 8, &u64::from(flags).to_le_bytes());
    put(out, offset::STACK + 16, &size.to_le_bytes());
    put(out, offset::SIGMASK, &[0; 136]);
    put(out, offset::SIGMASK, &setup.mask.to_le_bytes());
    put(out, offset::FAULT_ADDRESS, &setup.fault_address.to_le_bytes());
    put(out, offset::REGISTERS, frame.x.as_bytes());
    put(out, offset::SP, &frame.sp.to_le_bytes());
    put(out, offset::PC, &frame.pc.to_le_bytes());
    put(out, offset::PSTATE, &frame.pstate.to_le_bytes());
    put(out, offset::PSTATE + 8, &[0; 8]);
    put(out, offset::RECORDS, &FPSIMD_MAGIC.to_le_bytes());
    put(out, offset::RECORDS + 4, &(offset::FPSIMD_SIZE as u32).to_le_bytes());
    put(out, offset::FPSR, &context.fp.fpsr.to_le_bytes());
    put(out, offset::FPCR, &context.fp.fpcr.to_le_bytes());
    put(out, offset::VECTORS, context.fp.v.as_bytes());
    put(out, offset::TERMINATOR, &[0; 16]);

    frame.x[0] = u64::from(setup.signal);
    if setup.wants_info {
        frame.x[1] = address.get();
        frame.x[2] = address.get() + offset::UCONTEXT as u64;
    }
    frame.x[30] = setup.restorer.get();
    frame.sp = address.get();
    frame.pc = setup.handler.get();
    frame.pstate &= USER_PSTATE_MASK;
    USED_SIZE
}

pub(crate) fn restore(bytes: &[u8], frame: &mut TrapFrame, context: &mut Context) -> Option<SignalRestore> {
    let mask = get_u64(bytes, offset::SIGMASK)?;
    let stack =
        (get_u64(bytes, offset::STACK)?, get_u32(bytes, offset::STACK + 8)?, get_u64(bytes, offset::STACK + 16)?);
    let mut restored = frame.clone();
    restored.x = get_words(bytes, offset::REGISTERS)?;
    restored.sp = get_u64(bytes, offset::SP)?;
    restored.pc = get_u64(bytes, offset::PC)?;
    restored.pstate = get_u64(bytes, offset::PSTATE)? & USER_PSTATE_MASK;
    // Linux insists on the FP/SIMD record too.
    if get_u32(bytes, offset::RECORDS)? != FPSIMD_MAGIC
        || get_u32(bytes, offset::RECORDS + 4)? != offset::FPSIMD_SIZE as u32
    {
        return None;
    }
    context.save_user();
    context.fp.fpsr = get_u32(bytes, offset::FPSR)?;
    context.fp.fpcr = get_u32(bytes, offset::FPCR)?;
    context.fp.v = get_words(bytes, offset::VECTORS)?;
    context.load_user();
    *frame = restored;
    Some(SignalRestore { mask, alt_stack: stack })
}
