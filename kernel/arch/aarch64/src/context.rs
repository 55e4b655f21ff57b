//! What a context switch saves.

use hal::VirtAddr;

/// Callee-saved kernel registers (AAPCS64), in the layout of `arch_switch` in `vectors.S`.
#[repr(C)]
#[derive(Default)]
struct KernelRegisters {
    /// x19 to x30.
    x19_x30: [u64; 12],
    sp: u64,
}

/// FP/SIMD registers, in the layout of `arch_fp_save` in `vectors.S`.
#[repr(C, align(16))]
pub(crate) struct FpState {
    pub v: [u128; 32],
    pub fpsr: u32,
    pub fpcr: u32,
}

/// A thread's state while it does not run.
#[repr(C)]
pub struct Context {
    kernel: KernelRegisters,
    pub(crate) thread_pointer: u64,
    pub(crate) fp: FpState,
}

unsafe extern "C" {
    fn arch_switch(from: *mut KernelRegisters, to: *const KernelRegisters);
    fn arch_thread_start() -> !;
    fn arch_fp_save(to: *mut FpState);
    fn arch_fp_load(from: *const FpState);
}

impl Context {
    /// x29 as it was when the thread left the CPU.
    pub(crate) const fn frame_pointer(&self) -> usize {
        self.kernel.x19_x30[10] as usize
    }

    /// A context that starts at `entry(argument)`.
    pub(crate) fn new(stack_top: VirtAddr, entry: extern "C" fn(usize) -> !, argument: usize) -> Self {
        let mut x19_x30 = [0; 12];
        x19_x30[0] = entry as *const () as u64;
        x19_x30[1] = argument as u64;
        x19_x30[11] = arch_thread_start as *const () as u64;
        Self {
            kernel: KernelRegisters { x19_x30, sp: stack_top.get() as u64 },
            thread_pointer: 0,
            fp: FpState { v: [0; 32], fpsr: 0, fpcr: 0 },
        }
    }

    /// Copies the live user state here.
    pub(crate) fn save_user(&mut self) {
        self.thread_pointer = read_thread_pointer();
        // SAFETY: writes exactly one FpState.
        unsafe { arch_fp_save(&mut self.fp) };
    }

    /// Makes the user state here live.
    pub(crate) fn load_user(&self) {
        write_thread_pointer(self.thread_pointer);
        // SAFETY: reads exactly one FpState; the kernel itself uses no FP register.
        unsafe { arch_fp_load(&self.fp) };
    }

    /// Zeroes the user state.
    pub(crate) fn reset_user(&mut self) {
        self.thread_pointer = 0;
        self.fp = FpState { v: [0; 32], fpsr: 0, fpcr: 0 };
    }
}

fn read_thread_pointer() -> u64 {
    use tock_registers::interfaces::Readable;
    aarch64_cpu::registers::TPIDR_EL0.get()
}

fn write_thread_pointer(pointer: u64) {
    use tock_registers::interfaces::Writeable;
    aarch64_cpu::registers::TPIDR_EL0.set(pointer);
}

/// Saves the running context and continues another.
///
/// # Safety
/// As [`hal::Arch::switch`].
pub(crate) unsafe fn switch(from: *mut Context, to: *const Context) {
    // SAFETY: the caller gives live contexts; `to` is not running, so nobody changes it.
    unsafe {
        (*from).save_user();
        (*to).load_user();
        arch_switch(&raw mut (*from).kernel, &raw const (*to).kernel);
    }
}
