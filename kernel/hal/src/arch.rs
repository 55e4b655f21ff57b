//! What an architecture provides to the portable kernel.
//!
//! The kernel has one alias, `Arch`, to the implementation in `kernel/arch/NAME` and names nothing else of it. Calls
//! in the other direction (a system call came in, a page fault happened) go through [`TrapHandler`], which the kernel
//! installs once during boot.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use crate::{PhysAddr, UserAddr, VirtAddr};

/// What a faulting access tried to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAccess {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// A user-memory access that could not be satisfied; the system call answers EFAULT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserFault;

/// How to leave the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerAction {
    /// Switch off; a debugger or virtual machine that listens is told this exit status.
    Off(u8),
    /// Start again.
    Reset,
}

/// A synchronous exception of a program that is its own fault, as signal(7) classifies them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserException {
    /// An undefined or forbidden instruction.
    IllegalInstruction,
    /// A breakpoint or single step.
    Breakpoint,
    /// A misaligned program counter, stack pointer or access.
    Misaligned,
    /// A trapped floating-point exception.
    FloatingPoint,
    /// Memory or a device answered with an error.
    External,
    /// Anything else; the raw syndrome is logged.
    Unknown(u64),
}

/// The most CPUs the kernel runs on.
pub const MAX_CPUS: usize = 64;

/// How a CPU that does not run yet is told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuStart {
    /// The way the architecture or its firmware has for all CPUs (PSCI, INIT and SIPI).
    Firmware,
    /// The CPU polls this word, mapped as ordinary memory, for the physical address to go on at.
    ReleaseWord(VirtAddr),
}

/// Why a CPU could not be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuStartError {
    /// There is no firmware to ask, or no room to remember one more CPU.
    Unsupported,
    /// The firmware refused, with this status.
    Refused(i64),
}

impl core::fmt::Display for CpuStartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unsupported => f.write_str("no known way to start it"),
            Self::Refused(status) => write!(f, "the firmware refused with status {status}"),
        }
    }
}

/// The user registers as saved on entry to the kernel, in the terms the portable kernel needs.
pub trait TrapFrame: Clone {
    /// A frame that starts a program at `entry` with the given stack pointer and everything else zero.
    fn new_user(entry: UserAddr, stack: UserAddr) -> Self;
    /// The system-call number.
    fn syscall_number(&self) -> usize;
    /// The six arguments of a system call.
    fn syscall_arguments(&self) -> [u64; 6];
    /// Sets what the system call returns.
    fn set_return(&mut self, value: u64);
    /// Makes the system call happen again, with its first argument as it was, when the thread returns.
    fn restart_syscall(&mut self, first_argument: u64);
    /// Where the program will go on.
    fn pc(&self) -> UserAddr;
    /// The program's stack pointer.
    fn sp(&self) -> UserAddr;
    /// The frame pointer, for a backtrace of the kernel.
    fn frame_pointer(&self) -> usize;
    /// Sets the program's stack pointer.
    fn set_sp(&mut self, sp: UserAddr);
    /// Writes the registers for a register dump.
    fn dump(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}

/// What goes into a signal frame besides the interrupted registers.
pub struct SignalSetup {
    /// The signal's number.
    pub signal: u32,
    /// The `siginfo_t`, as sigaction(2) describes it.
    pub info: [u8; 128],
    /// The blocked set to restore afterwards.
    pub mask: u64,
    /// The alternate stack: address, flags, size.
    pub alt_stack: (u64, u32, u64),
    /// The faulting address for the machine context, or 0.
    pub fault_address: u64,
    /// The handler.
    pub handler: UserAddr,
    /// Where the handler returns to.
    pub restorer: UserAddr,
    /// Whether the handler takes `siginfo_t` and the context.
    pub wants_info: bool,
}

/// What a program's signal frame holds besides the registers.
pub struct SignalRestore {
    /// The blocked set.
    pub mask: u64,
    /// The alternate stack: address, flags, size.
    pub alt_stack: (u64, u32, u64),
}

/// The vDSO (vdso(7)): clock reads and the return from signal handlers. It expects the page with [`ClockData`] right
/// below it.
pub struct Vdso {
    /// The ELF image: one page of the kernel's image.
    pub image: &'static [u8; crate::PAGE_SIZE],
    /// Where in it signal handlers return to.
    pub sigreturn: usize,
}

/// What the clocks are computed from, by the kernel and in the vDSO: monotonic nanoseconds = `base_ns` +
/// (counter - `base_ticks`) * `ns_per_tick` / 2^32.
#[repr(C)]
pub struct ClockData {
    /// Odd while the rest changes.
    pub sequence: AtomicU32,
    /// The counter when the clocks' speed last changed.
    pub base_ticks: AtomicU64,
    /// Length of a tick, as a 32.32 fixed-point number.
    pub ns_per_tick: AtomicU64,
    /// Monotonic time when the clocks' speed last changed.
    pub base_ns: AtomicU64,
    /// Wall clock minus monotonic time, in nanoseconds.
    pub realtime_offset: AtomicI64,
    /// International atomic time minus monotonic time, in nanoseconds.
    pub tai_offset: AtomicI64,
    /// The counter when the kernel started. Set once.
    pub start_ticks: AtomicU64,
    /// Length of a tick where nothing changes the clocks' speed, as a 32.32 fixed-point number. Set once.
    pub raw_ns_per_tick: AtomicU64,
}

impl ClockData {
    /// Clocks that stand still.
    pub const fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            base_ticks: AtomicU64::new(0),
            ns_per_tick: AtomicU64::new(0),
            base_ns: AtomicU64::new(0),
            realtime_offset: AtomicI64::new(0),
            tai_offset: AtomicI64::new(0),
            start_ticks: AtomicU64::new(0),
            raw_ns_per_tick: AtomicU64::new(0),
        }
    }
}

impl Default for ClockData {
    fn default() -> Self {
        Self::new()
    }
}

/// What the architecture calls when an exception was taken. Interrupts are masked on entry unless said otherwise.
pub trait TrapHandler<A: Arch + ?Sized>: Sync {
    /// A system call; interrupts are on.
    fn syscall(&self, frame: &mut A::TrapFrame);
    /// A program touched an address it may not, or not yet; interrupts are on.
    fn user_fault(&self, frame: &mut A::TrapFrame, address: UserAddr, access: FaultAccess);
    /// Another exception of a program; interrupts are on.
    fn user_exception(&self, frame: &mut A::TrapFrame, exception: UserException, address: UserAddr);
    /// The kernel touched a user address on a program's behalf; interrupts are on. `true`: mapped now, try again. With
    /// interrupts masked this is not asked: the copy ends there.
    fn kernel_access_to_user(&self, address: UserAddr, access: FaultAccess) -> bool;
    /// An interrupt.
    fn interrupt(&self);
    /// About to return to a program; interrupts are masked and must be masked again at the end.
    fn before_user(&self, frame: &mut A::TrapFrame);
    /// The kernel itself did something wrong.
    fn kernel_fault(&self, frame: &A::TrapFrame, what: &str, syndrome: u64, address: u64) -> !;
}

/// An architecture. Everything is an associated function and acts on the CPU that calls it, unless it says otherwise.
///
/// The `flush_` functions return when no CPU uses the old translations any more. Where the hardware does not tell the
/// other CPUs (x86-64), they interrupt them and wait; so nobody calls them with interrupts masked for long on purpose,
/// and a CPU that waits for a lock with interrupts masked must answer such a request from [`Arch::spin_wait`].
pub trait Arch: 'static {
    /// Saved user registers.
    type TrapFrame: TrapFrame;
    /// What a context switch saves: callee-saved kernel registers, user thread pointer, FP/SIMD state.
    type Context: Send;

    /// Linux's name of the machine (`uname -m`, `AT_PLATFORM`).
    const MACHINE: &'static str;
    /// `e_machine` of programs for it.
    const ELF_MACHINE: u16;
    /// One past the highest user address.
    const USER_END: u64;
    /// Where all of physical memory is mapped.
    const LINEAR_BASE: usize;
    /// The kernel's dynamic mappings: stacks, heap, registers.
    const DYNAMIC_RANGE: core::ops::Range<usize>;
    /// Where the kernel's image is mapped.
    const IMAGE_BASE: usize;
    /// Bytes a signal frame takes on the user stack, a multiple of 16.
    const SIGNAL_FRAME_SIZE: usize;

    /// Installs the kernel's side of exceptions. Called once, before interrupts are enabled.
    fn install_trap_handler(handler: &'static dyn TrapHandler<Self>);

    /// Masks interrupts and returns the previous state for [`Arch::restore_interrupts`].
    fn mask_interrupts() -> usize;
    /// Restores what [`Arch::mask_interrupts`] returned.
    fn restore_interrupts(state: usize);
    /// Lets interrupts through.
    fn enable_interrupts();
    /// Waits for an interrupt; returns also when one is pending but masked.
    fn wait_for_interrupt();

    /// Sets this CPU's data pointer.
    fn set_cpu_data(pointer: usize);
    /// This CPU's data pointer; 0 until it is set.
    fn cpu_data() -> usize;
    /// The hardware's number of this CPU (`MPIDR_EL1` affinity, APIC id).
    fn cpu_hardware_id() -> u64;
    /// What kind of CPU this is, for [`Arch::describe_cpu`].
    fn cpu_identity() -> u64;
    /// Writes the lines of /proc/cpuinfo for a CPU with this identity.
    fn describe_cpu(identity: u64, out: &mut dyn core::fmt::Write) -> core::fmt::Result;

    /// Starts the CPU with this hardware number at `entry(argument)` on the given kernel stack, with the kernel's page
    /// table, no user table, interrupts masked and its data pointer 0. Returns as soon as it has been told to. A CPU
    /// that was told keeps the right to the stack for good, since it may come late.
    ///
    /// # Safety
    /// The stack is mapped and used by nobody else; a release word is that CPU's.
    unsafe fn start_cpu(
        hardware_id: u64,
        how: CpuStart,
        stack_top: VirtAddr,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> Result<(), CpuStartError>;

    /// Waits, cheaply and not for long, for `word` to be no longer `value`; may return at any time.
    fn spin_wait(word: &AtomicU32, value: u32);
    /// Makes instructions that follow be fetched anew (membarrier(2), `SYNC_CORE`).
    fn synchronise_instructions();

    /// A context that starts at `entry(argument)` on the given kernel stack with interrupts masked.
    fn new_context(stack_top: VirtAddr, entry: extern "C" fn(usize) -> !, argument: usize) -> Self::Context;
    /// Saves the running context in `from` and continues `to`. Returns when somebody switches back.
    ///
    /// # Safety
    /// Both point to live contexts, `from` is the running one's, `to` is not running anywhere, and interrupts are
    /// masked.
    unsafe fn switch(from: *mut Self::Context, to: *const Self::Context);
    /// Copies the live user thread pointer and FP/SIMD state into `context` (for clone, fork, signal frames).
    fn save_user_state(context: &mut Self::Context);
    /// Loads user thread pointer and FP/SIMD state from `context`.
    fn load_user_state(context: &Self::Context);
    /// A program's start-up state: no thread pointer, zero FP/SIMD registers.
    fn reset_user_state(context: &mut Self::Context);
    /// Sets the user thread pointer in a context that is not running.
    fn set_thread_pointer(context: &mut Self::Context, pointer: u64);
    /// Leaves the kernel to the frame at the top of this stack.
    ///
    /// # Safety
    /// `frame` is at the very top of the current kernel stack and holds a user state.
    unsafe fn return_to_user(frame: *mut Self::TrapFrame) -> !;

    /// Puts the signal frame for `setup` into `out` ([`Arch::SIGNAL_FRAME_SIZE`] bytes, some of which may stay
    /// unwritten) and returns how many bytes from the front must reach the user stack at `address`; then points
    /// `frame` at the handler.
    fn build_signal_frame(
        frame: &mut Self::TrapFrame,
        context: &mut Self::Context,
        setup: &SignalSetup,
        address: UserAddr,
        out: &mut [u8],
    ) -> usize;
    /// How many bytes [`Arch::restore_signal_frame`] reads.
    const SIGNAL_FRAME_READ: usize;
    /// Takes the registers back from a frame that a program may have changed; returns the rest. `None` when the frame
    /// is malformed.
    fn restore_signal_frame(
        bytes: &[u8],
        frame: &mut Self::TrapFrame,
        context: &mut Self::Context,
    ) -> Option<SignalRestore>;

    /// The shared object mapped into every program.
    fn vdso() -> Vdso;
    /// `AT_HWCAP` and `AT_HWCAP2`.
    fn hwcap() -> (u64, u64);

    /// The address that a program means by this one: without the tag that the CPU ignores.
    fn untagged(address: UserAddr) -> UserAddr;
    /// Copies from user memory; on a fault returns how many bytes are missing.
    ///
    /// # Safety
    /// `to` is valid for `len` bytes of writing.
    unsafe fn copy_from_user(to: *mut u8, from: UserAddr, len: usize) -> usize;
    /// Copies to user memory; on a fault returns how many bytes are missing.
    ///
    /// # Safety
    /// `from` is valid for `len` bytes of reading.
    unsafe fn copy_to_user(to: UserAddr, from: *const u8, len: usize) -> usize;
    /// Zeroes a page of kernel memory.
    ///
    /// # Safety
    /// `page` is page aligned and valid for writing.
    unsafe fn zero_page(page: *mut u8);

    /// Makes this CPU use the user page table at `root` with this address-space number; `None`: no user mappings. What
    /// was written before is ordered before the first walk of the table.
    fn activate_user_table(root: Option<(PhysAddr, u16)>);
    /// How many address-space numbers there are.
    fn nr_address_space_ids() -> u32;
    /// The root of the kernel's page table.
    fn kernel_table() -> PhysAddr;
    /// Orders page-table writes that made entries valid before later accesses.
    fn page_table_written();
    /// Drops cached translations of one user page on all CPUs.
    fn flush_user_page(address_space_id: u16, address: UserAddr);
    /// Drops all cached translations of an address space on all CPUs.
    fn flush_user_space(address_space_id: u16);
    /// Drops cached translations of a kernel range on all CPUs.
    fn flush_kernel_range(range: core::ops::Range<usize>);
    /// Drops every cached translation of this CPU.
    fn flush_all_local();
    /// Makes instruction fetches see what was written to `range` of kernel addresses (an alias of user code).
    fn sync_instructions(range: core::ops::Range<usize>);
    /// Writes dirty lines of `range` back to memory and drops them, for memory about to be used uncached.
    fn clean_and_invalidate(range: core::ops::Range<usize>);

    /// Writes a register of the secure world; see `Platform::secure_write`.
    fn secure_write(address: PhysAddr, value: u32) -> bool;

    /// Leaves the machine if any way is known; returns when none worked.
    fn power(action: PowerAction);
    /// Writes to a debugger's console if one listens (semihosting); for failures before any console is known.
    fn debug_write(text: &str);

    /// Stops this CPU for good.
    fn halt() -> !;

    /// Calls `visit` with the name and value of each of the calling CPU's system registers that can be read without
    /// side effects.
    fn visit_registers(visit: &mut dyn FnMut(&'static str, u64));
    /// The frame pointer that [`switch`](Self::switch) saved, of a thread that does not run.
    fn frame_pointer(context: &Self::Context) -> usize;
    /// Return addresses from `frame_pointer` outwards, innermost first, until `visit` returns false.
    fn backtrace(frame_pointer: Option<usize>, visit: &mut dyn FnMut(usize) -> bool);
}
