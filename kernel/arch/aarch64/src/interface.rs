//! [`hal::Arch`] for AArch64: delegates to the modules beside it.

use core::{arch::asm, fmt, ops::Range, sync::atomic::AtomicU32};

use aarch64_cpu::registers::{DAIF, MPIDR_EL1, TPIDR_EL1};
use hal::{
    Arch, CpuStart, CpuStartError, PhysAddr, PowerAction, SignalRestore, SignalSetup, TrapHandler, UserAddr, Vdso,
    VirtAddr,
};
use tock_registers::interfaces::{Readable, Writeable};

use crate::{Context, TrapFrame, boot, context, cpu, mmu, power, signal, smp, trap, user_copy, vdso};

/// The AArch64 architecture.
pub enum Aarch64 {}

unsafe extern "C" {
    fn arch_return_to_user(frame: *mut TrapFrame) -> !;
}

impl Arch for Aarch64 {
    type TrapFrame = TrapFrame;
    type Context = Context;

    const MACHINE: &'static str = "aarch64";
    const ELF_MACHINE: u16 = 183;
    const USER_END: u64 = 1 << 48;
    const LINEAR_BASE: usize = 0xffff_0000_0000_0000;
    const DYNAMIC_RANGE: Range<usize> = 0xffff_8000_0000_0000..0xffff_8100_0000_0000;
    const IMAGE_BASE: usize = mmu::IMAGE_BASE;
    const SIGNAL_FRAME_SIZE: usize = signal::FRAME_SIZE;
    const SIGNAL_FRAME_READ: usize = signal::USED_SIZE;

    fn install_trap_handler(handler: &'static dyn TrapHandler<Self>) {
        trap::install(handler);
    }

    fn mask_interrupts() -> usize {
        let state = DAIF.get();
        // SAFETY: masks IRQ only.
        unsafe { asm!("msr daifset, #2", options(nostack)) };
        state as usize
    }
    fn restore_interrupts(state: usize) {
        // Not by the crate's accessor: that tells the compiler that no memory is concerned, so it could move what is done
        // with interrupts masked behind this.
        // SAFETY: what was read before.
        unsafe { asm!("msr daif, {}", in(reg) state as u64, options(nostack)) };
    }
    fn enable_interrupts() {
        // SAFETY: the kernel calls this only where it can take an interrupt.
        unsafe { asm!("msr daifclr, #2", options(nostack)) };
    }
    fn wait_for_interrupt() {
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
        aarch64_cpu::asm::wfi();
    }

    fn set_cpu_data(pointer: usize) {
        TPIDR_EL1.set(pointer as u64);
    }
    fn cpu_data() -> usize {
        let pointer: usize;
        // SAFETY: reads a register; not marked pure, since a thread may move to another CPU.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
        pointer
    }
    fn cpu_hardware_id() -> u64 {
        MPIDR_EL1.get() & cpu::AFFINITY
    }
    fn cpu_identity() -> u64 {
        cpu::identity()
    }
    fn describe_cpu(identity: u64, out: &mut dyn fmt::Write) -> fmt::Result {
        cpu::describe(identity, out)
    }
    unsafe fn start_cpu(
        hardware_id: u64,
        how: CpuStart,
        stack_top: VirtAddr,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> Result<(), CpuStartError> {
        // SAFETY: the same contract.
        unsafe { smp::start_cpu(hardware_id, how, stack_top, entry, argument) }
    }
    fn spin_wait(word: &AtomicU32, value: u32) {
        // The exclusive load watches the word: a store to it by another CPU is an event that ends WFE (Arm ARM D1.6.1,
        // B2.12). Where it has changed already there is nothing to wait for.
        // SAFETY: reads a word that is borrowed.
        unsafe {
            asm!(
                "ldaxr {seen:w}, [{word}]",
                "cmp {seen:w}, {value:w}",
                "b.ne 2f",
                "wfe",
                "2:",
                seen = out(reg) _,
                word = in(reg) word.as_ptr(),
                value = in(reg) value,
                options(nostack),
            );
        }
    }
    fn synchronise_instructions() {
        aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    }

    fn new_context(stack_top: VirtAddr, entry: extern "C" fn(usize) -> !, argument: usize) -> Context {
        Context::new(stack_top, entry, argument)
    }
    unsafe fn switch(from: *mut Context, to: *const Context) {
        // SAFETY: the same contract.
        unsafe { context::switch(from, to) }
    }
    fn save_user_state(context: &mut Context) {
        context.save_user();
    }
    fn load_user_state(context: &Context) {
        context.load_user();
    }
    fn reset_user_state(context: &mut Context) {
        context.reset_user();
    }
    fn set_thread_pointer(context: &mut Context, pointer: u64) {
        context.thread_pointer = pointer;
    }
    unsafe fn return_to_user(frame: *mut TrapFrame) -> ! {
        // SAFETY: the caller gives a frame at the top of this stack.
        unsafe { arch_return_to_user(frame) }
    }

    fn build_signal_frame(
        frame: &mut TrapFrame,
        context: &mut Context,
        setup: &SignalSetup,
        address: UserAddr,
        out: &mut [u8],
    ) -> usize {
        signal::build(frame, context, setup, address, out)
    }
    fn restore_signal_frame(bytes: &[u8], frame: &mut TrapFrame, context: &mut Context) -> Option<SignalRestore> {
        signal::restore(bytes, frame, context)
    }

    fn vdso() -> Vdso {
        vdso::vdso()
    }
    fn hwcap() -> (u64, u64) {
        cpu::hwcap()
    }

    fn untagged(address: UserAddr) -> UserAddr {
        // TCR_EL1.TBI0 (Arm ARM D8.2.1, address tagging): bits 63:56 do not count where bit 55 is 0.
        let address = address.get();
        UserAddr::new(address & ((address << 8).cast_signed() >> 8).cast_unsigned())
    }
    unsafe fn copy_from_user(to: *mut u8, from: UserAddr, len: usize) -> usize {
        // SAFETY: the same contract.
        unsafe { user_copy::copy_from_user(to, from, len) }
    }
    unsafe fn copy_to_user(to: UserAddr, from: *const u8, len: usize) -> usize {
        // SAFETY: the same contract.
        unsafe { user_copy::copy_to_user(to, from, len) }
    }
    unsafe fn zero_page(page: *mut u8) {
        // SAFETY: the same contract.
        unsafe { mmu::zero_page(page) }
    }

    fn activate_user_table(root: Option<(PhysAddr, u16)>) {
        mmu::activate_user_table(root);
    }
    fn nr_address_space_ids() -> u32 {
        mmu::nr_address_space_ids()
    }
    fn kernel_table() -> PhysAddr {
        mmu::kernel_table()
    }
    fn page_table_written() {
        mmu::page_table_written();
    }
    fn flush_user_page(address_space_id: u16, address: UserAddr) {
        mmu::flush_user_page(address_space_id, address);
    }
    fn flush_user_space(address_space_id: u16) {
        mmu::flush_user_space(address_space_id);
    }
    fn flush_kernel_range(range: Range<usize>) {
        mmu::flush_kernel_range(range);
    }
    fn flush_all_local() {
        mmu::flush_all_local();
    }
    fn sync_instructions(range: Range<usize>) {
        mmu::sync_instructions(range);
    }
    fn clean_and_invalidate(range: Range<usize>) {
        mmu::clean_and_invalidate(range);
    }

    fn secure_write(address: PhysAddr, value: u32) -> bool {
        boot::secure_write(address, value)
    }

    fn power(action: PowerAction) {
        power::power(action);
    }
    fn debug_write(text: &str) {
        power::debug_write(text);
    }
    fn halt() -> ! {
        power::halt()
    }

    fn visit_registers(visit: &mut dyn FnMut(&'static str, u64)) {
        cpu::visit_registers(visit);
    }
    fn frame_pointer(context: &Context) -> usize {
        context.frame_pointer()
    }
    fn backtrace(frame_pointer: Option<usize>, visit: &mut dyn FnMut(usize) -> bool) {
        /// A kernel stack's size; records outside the first one's stack are not followed.
        const STACK_SIZE: usize = 32 << 10;
        let mut record = match frame_pointer {
            Some(pointer) => pointer,
            None => {
                let pointer: usize;
                // SAFETY: reads the frame pointer.
                unsafe { asm!("mov {}, x29", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
                pointer
            }
        };
        let stack = record & !(STACK_SIZE - 1);
        while record & !(STACK_SIZE - 1) == stack && record >= Self::LINEAR_BASE && record % 8 == 0 {
            // SAFETY: an aligned record inside the stack the first record is in (AAPCS64 6.4.6).
            let (next, return_address) = unsafe { (*(record as *const usize), *(record as *const usize).add(1)) };
            if return_address == 0 || !visit(return_address) || next <= record {
                return;
            }
            record = next;
        }
    }
}
