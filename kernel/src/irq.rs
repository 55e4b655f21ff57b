//! Interrupts: which controller there is, who handles what, and how often it came to which CPU.
//!
//! What an interrupt needs on its way to the handler is set once, while drivers are probed, and read without a lock
//! afterwards: CPUs do not wait for each other here.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use hal::{Arch as _, Cause, Irq, IrqChip, IrqHandler, IrqSpecifier, MAX_CPUS, ProbeError};

use crate::{
    arch::Arch,
    inspect::{
        histogram::Histogram,
        trace::{self, Event},
    },
    smp,
    sync::{IrqLock, Once},
    task::scheduler,
    time,
};

/// How often something came to each CPU.
type Counts = [AtomicU64; MAX_CPUS];

struct Line {
    name: String,
    handler: Arc<dyn IrqHandler>,
    counts: Counts,
    /// How long its handler took.
    times: Histogram,
}

struct Controller {
    phandle: u32,
    chip: Arc<dyn IrqChip>,
    /// By interrupt number.
    lines: Vec<Once<Box<Line>>>,
}

static CONTROLLER: Once<Controller> = Once::new();
/// Connected interrupts that each CPU has for itself.
static PER_CPU: IrqLock<Vec<Irq>> = IrqLock::new(Vec::new());

/// What one CPU interrupts another for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Ipi {
    /// Something changed for what it runs: another thread is due, or its own needs attention.
    Reschedule,
    /// It is to execute a memory barrier ([`smp::barrier_on`]).
    Barrier,
    /// It is to stop for good.
    Stop,
    /// It is to look at its timers: the clocks' speed has changed.
    Timer,
}

/// All of them, with what Linux calls them in /proc/interrupts.
const IPIS: [(Ipi, &str); 4] = [
    (Ipi::Reschedule, "Rescheduling interrupts"),
    (Ipi::Barrier, "Function call interrupts"),
    (Ipi::Stop, "CPU stop interrupts"),
    (Ipi::Timer, "Timer broadcast interrupts"),
];

static IPI_COUNTS: [Counts; IPIS.len()] = [const { [const { AtomicU64::new(0) }; MAX_CPUS] }; IPIS.len()];

/// Takes the interrupt controller the CPUs are connected to, and prepares the boot CPU.
pub fn add_chip(phandle: u32, chip: Arc<dyn IrqChip>) {
    if CONTROLLER.is_completed() {
        log::warn!("a second root interrupt controller is not used");
        return;
    }
    let state = Arch::mask_interrupts();
    chip.init_cpu(scheduler::cpu_number());
    Arch::restore_interrupts(state);
    CONTROLLER.call_once(|| {
        let lines = (0..chip.nr_irqs()).map(|_| Once::new()).collect();
        Controller { phandle, chip, lines }
    });
}

/// Prepares the calling CPU, which is not the boot CPU; interrupts are masked.
pub fn init_cpu() {
    let Some(controller) = CONTROLLER.get() else { return };
    controller.chip.init_cpu(scheduler::cpu_number());
    let lines = PER_CPU.lock();
    for irq in lines.iter() {
        controller.chip.enable(*irq);
    }
}

/// What the controller makes of a specifier; Deferred while it is not there.
pub fn translate(specifier: &IrqSpecifier) -> Result<Irq, ProbeError> {
    let controller = CONTROLLER.get().filter(|controller| controller.phandle == specifier.controller);
    Ok(controller.ok_or(ProbeError::Deferred)?.chip.translate(specifier.cells())?)
}

/// Connects and enables an interrupt. Deferred while its controller is not there.
pub fn request(name: &str, specifier: &IrqSpecifier, handler: Arc<dyn IrqHandler>) -> Result<(), ProbeError> {
    let irq = translate(specifier)?;
    let controller = CONTROLLER.get().ok_or(ProbeError::Deferred)?;
    let line = controller.lines.get(irq.number as usize).ok_or(hal::IrqError::OutOfRange)?;
    let mut is_new = false;
    line.call_once(|| {
        is_new = true;
        Box::new(Line {
            name: name.into(),
            handler,
            counts: [const { AtomicU64::new(0) }; MAX_CPUS],
            times: Histogram::new(),
        })
    });
    if !is_new {
        return Err(hal::PlatformError::Busy.into());
    }
    if irq.per_cpu {
        PER_CPU.lock().push(irq);
    }
    unmask(irq);
    Ok(())
}

/// Stops a connected interrupt; what fires meanwhile stays pending.
pub fn mask(irq: Irq) {
    if let Some(controller) = CONTROLLER.get() {
        let state = Arch::mask_interrupts();
        controller.chip.disable(irq);
        Arch::restore_interrupts(state);
    }
}

/// Lets a connected interrupt through.
pub fn unmask(irq: Irq) {
    if let Some(controller) = CONTROLLER.get() {
        let state = Arch::mask_interrupts();
        controller.chip.enable(irq);
        Arch::restore_interrupts(state);
    }
}

/// Interrupts another CPU.
pub fn send(cpu: usize, ipi: Ipi) {
    if let Some(controller) = CONTROLLER.get() {
        let state = Arch::mask_interrupts();
        controller.chip.send_ipi(cpu, ipi as u32);
        Arch::restore_interrupts(state);
    }
}

/// An interrupt came: handles all that are pending for this CPU.
pub fn handle() {
    let Some(controller) = CONTROLLER.get() else { return };
    let cpu = scheduler::cpu_number();
    let count = |counts: &Counts| {
        if let Some(count) = counts.get(cpu) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    while let Some(taken) = controller.chip.acknowledge() {
        match taken.cause {
            Cause::Ipi(number) => {
                // Ended first: the one that stops the CPU does not come back.
                controller.chip.end(taken);
                if let Some((ipi, _)) = IPIS.get(number as usize) {
                    count(&IPI_COUNTS[number as usize]);
                    match ipi {
                        Ipi::Reschedule => scheduler::interrupted_by_another(),
                        Ipi::Barrier => smp::barrier_requested(),
                        Ipi::Stop => smp::stop_requested(),
                        Ipi::Timer => time::interrupt(),
                    }
                }
            }
            Cause::Line(number) => {
                match controller.lines.get(number as usize).and_then(Once::get) {
                    Some(line) => {
                        count(&line.counts);
                        trace::record(Event::InterruptBegins, number.into(), 0);
                        let begun = time::monotonic_ns();
                        line.handler.handle_irq();
                        line.times.add(time::monotonic_ns().saturating_sub(begun));
                        trace::record(Event::InterruptEnds, number.into(), 0);
                    }
                    None => log::warn!("interrupt {number} has no handler"),
                }
                controller.chip.end(taken);
            }
        }
    }
}

/// One connected interrupt, for /proc/interrupts.
pub struct Statistics {
    /// Its number, or `IPI` and its number.
    pub label: String,
    /// How often it came to each CPU.
    pub counts: Vec<u64>,
    /// Whose it is.
    pub name: String,
}

/// Every connected interrupt with what came to the running CPUs.
pub fn statistics() -> Vec<Statistics> {
    let cpus = smp::online();
    let read = |counts: &Counts| cpus.iter().map(|cpu| counts[cpu].load(Ordering::Relaxed)).collect::<Vec<u64>>();
    let lines = CONTROLLER.get().into_iter().flat_map(|controller| controller.lines.iter().enumerate());
    let lines = lines.filter_map(|(number, line)| {
        let line = line.get()?;
        Some(Statistics { label: alloc::format!("{number}"), counts: read(&line.counts), name: line.name.clone() })
    });
    let ipis = IPIS.iter().zip(&IPI_COUNTS).map(|((ipi, name), counts)| Statistics {
        label: alloc::format!("IPI{}", *ipi as u32),
        counts: read(counts),
        name: (*name).into(),
    });
    lines.chain(ipis).collect()
}

/// Calls `visit` with the number of each connected interrupt and how long its handler took, while that succeeds.
pub fn visit_times(visit: &mut dyn FnMut(usize, &Histogram) -> core::fmt::Result) -> core::fmt::Result {
    let mut lines = CONTROLLER.get().into_iter().flat_map(|controller| controller.lines.iter().enumerate());
    lines.try_for_each(|(number, line)| line.get().map_or(Ok(()), |line| visit(number, &line.times)))
}
