//! Several CPUs: starting them, making them execute a barrier, stopping them.
//!
//! The CPUs are those of the device tree's /cpus, the one that boots first. Each gets a number, an idle thread, whose
//! stack it starts on, and a place in [`scheduler`]. They are started one after the other; one that does not come in
//! time is given up with a warning. The kernel goes on without it, and it finds that out when it comes after all.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use dtb::Tree;
use hal::{Arch as _, CpuStart, MAX_CPUS, PhysAddr};
use klib::cpu_set::CpuSet;

use crate::{
    arch::Arch,
    irq::{self, Ipi},
    mm::kernel_space,
    task::{process::Process, scheduler, thread::Thread},
    time,
};

const _: () = assert!(MAX_CPUS <= CpuSet::MAX);

/// How long a CPU may take to come in, in nanoseconds.
const START_NS: u64 = 1_000_000_000;
/// How long a failing kernel waits for the other CPUs to stop, in nanoseconds. One that has interrupts masked, and waits
/// for a lock that the failing one holds, never does.
const STOP_NS: u64 = 100_000_000;

/// How far a CPU has come.
static STATES: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(ABSENT) }; MAX_CPUS];
const ABSENT: u8 = 0;
/// It has been told to start.
const STARTING: u8 = 1;
const RUNNING: u8 = 2;
/// It did not come in time.
const GIVEN_UP: u8 = 3;

/// CPUs that run threads; the boot CPU from the beginning.
static ONLINE: AtomicU64 = AtomicU64::new(1);
/// CPUs that the machine has, running or not.
static PRESENT: AtomicU64 = AtomicU64::new(1);
/// CPUs that have stopped for good.
static STOPPED: AtomicU64 = AtomicU64::new(0);
/// What kind each CPU is ([`hal::Arch::cpu_identity`]).
static IDENTITIES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The CPUs that run.
pub fn online() -> CpuSet {
    CpuSet::from_bits(ONLINE.load(Ordering::Acquire))
}

/// The CPUs that the machine has.
pub fn present() -> CpuSet {
    CpuSet::from_bits(PRESENT.load(Ordering::Relaxed))
}

/// What kind a CPU is ([`hal::Arch::cpu_identity`]).
pub fn identity(cpu: usize) -> u64 {
    IDENTITIES.get(cpu).map_or(0, |identity| identity.load(Ordering::Relaxed))
}

fn note_identity() {
    IDENTITIES[scheduler::cpu_number()].store(Arch::cpu_identity(), Ordering::Relaxed);
}

/// Starts every CPU of the tree but the calling one.
pub fn start_all(tree: &Tree<'_>, kernel: &Arc<Process>) {
    note_identity();
    let boot = Arch::cpu_hardware_id();
    let others: Vec<_> = tree.cpus().into_iter().filter(|cpu| cpu.reg != boot).collect();
    if others.len() >= MAX_CPUS {
        log::warn!("{} CPUs, of which {MAX_CPUS} are used", others.len() + 1);
    }
    for (number, cpu) in (1..MAX_CPUS).zip(&others) {
        PRESENT.fetch_or(CpuSet::of(number).bits(), Ordering::Relaxed);
        if let Err(why) = start(number, cpu, kernel) {
            log::warn!("CPU {number} ({:#x}): {why}; the kernel goes on without it", cpu.reg);
        }
    }
}

fn start(number: usize, cpu: &dtb::Cpu<'_>, kernel: &Arc<Process>) -> Result<(), alloc::string::String> {
    use alloc::{format, string::ToString as _};
    let how = match (cpu.enable_method, cpu.release_addr) {
        (Some("psci"), _) => CpuStart::Firmware,
        (Some("spin-table"), Some(address)) if address.is_multiple_of(size_of::<u64>() as u64) => {
            let word = kernel_space::map_word(PhysAddr::new(address));
            CpuStart::ReleaseWord(word.map_err(|error| format!("cpu-release-addr {address:#x}: {error}"))?)
        }
        (Some("spin-table"), _) => return Err("no proper cpu-release-addr".to_string()),
        (Some(other), _) => return Err(format!("enable-method {other:?} is not known")),
        (None, _) => return Err("the device tree does not say how it is started".to_string()),
    };
    let (idle, stack_top) = Thread::secondary_idle(kernel.clone()).map_err(|error| error.to_string())?;
    scheduler::prepare_cpu(number, idle);
    STATES[number].store(STARTING, Ordering::Release);
    // SAFETY: the stack is the idle thread's, which lives for good; the word is the one the tree names for this CPU.
    unsafe { Arch::start_cpu(cpu.reg, how, stack_top, secondary_main, number) }.map_err(|error| error.to_string())?;
    let deadline = time::monotonic_ns() + START_NS;
    while STATES[number].load(Ordering::Acquire) == STARTING && time::monotonic_ns() < deadline {
        core::hint::spin_loop();
    }
    match STATES[number].compare_exchange(STARTING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Err("it was told to start and did not come".to_string()),
        Err(_) => Ok(()),
    }
}

/// The first function of the kernel on every CPU but the boot CPU; interrupts are masked.
extern "C" fn secondary_main(number: usize) -> ! {
    scheduler::set_cpu(number);
    if STATES[number].compare_exchange(STARTING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        Arch::halt();
    }
    note_identity();
    time::init_cpu();
    irq::init_cpu();
    scheduler::enter_idle();
    ONLINE.fetch_or(CpuSet::of(number).bits(), Ordering::AcqRel);
    scheduler::idle_loop()
}

/// Requests for a barrier on each CPU, and those it has fulfilled.
static BARRIERS_ASKED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static BARRIERS_DONE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Returns when every one of `cpus` has executed a full memory barrier, fetches its instructions anew, and uses no
/// address space that none of its threads runs in, after the call began. To be called with interrupts on and without locks, since the others may be asking for the same.
pub fn barrier_on(cpus: CpuSet) {
    fence(Ordering::SeqCst);
    let own = scheduler::cpu_number();
    let others = cpus & online() & !CpuSet::of(own);
    let mut awaited = [0; MAX_CPUS];
    for cpu in others.iter() {
        awaited[cpu] = BARRIERS_ASKED[cpu].fetch_add(1, Ordering::SeqCst) + 1;
        irq::send(cpu, Ipi::Barrier);
    }
    for cpu in others.iter() {
        while BARRIERS_DONE[cpu].load(Ordering::Acquire) < awaited[cpu] {
            core::hint::spin_loop();
        }
    }
    fence(Ordering::SeqCst);
    Arch::synchronise_instructions();
}

/// Another CPU asked this one for a barrier.
pub fn barrier_requested() {
    let cpu = scheduler::cpu_number();
    scheduler::leave_unused_memory();
    let asked = BARRIERS_ASKED[cpu].load(Ordering::Acquire);
    fence(Ordering::SeqCst);
    Arch::synchronise_instructions();
    BARRIERS_DONE[cpu].fetch_max(asked, Ordering::SeqCst);
}

/// Stops all other CPUs for good, as far as they can be reached.
pub fn stop_others() {
    let others = online() & !CpuSet::of(scheduler::cpu_number());
    for cpu in others.iter() {
        irq::send(cpu, Ipi::Stop);
    }
    let deadline = time::monotonic_ns() + STOP_NS;
    while !(others & !CpuSet::from_bits(STOPPED.load(Ordering::Acquire))).is_empty() && time::monotonic_ns() < deadline
    {
        core::hint::spin_loop();
    }
}

/// Another CPU asked this one to stop.
pub fn stop_requested() -> ! {
    STOPPED.fetch_or(CpuSet::of(scheduler::cpu_number()).bits(), Ordering::AcqRel);
    Arch::halt()
}
