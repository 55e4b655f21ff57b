//! An interrupt controller and what it delivers.

use core::fmt;

/// What makes an interrupt line fire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// On the rising edge.
    EdgeRising,
    /// On the falling edge.
    EdgeFalling,
    /// On either edge.
    EdgeBoth,
    /// While high.
    LevelHigh,
    /// While low.
    LevelLow,
}

/// One interrupt of a controller, decoded from the device tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Irq {
    /// The controller's own number (a GIC's INTID).
    pub number: u32,
    /// How it triggers.
    pub trigger: Trigger,
    /// Whether each CPU has its own (a GIC's PPI).
    pub per_cpu: bool,
}

/// Why an interrupt specifier was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IrqError {
    /// The specifier has the wrong number of cells or an unknown kind or flag.
    BadSpecifier,
    /// The number is beyond what the controller has.
    OutOfRange,
}

impl fmt::Display for IrqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSpecifier => "malformed interrupt specifier",
            Self::OutOfRange => "interrupt number beyond the controller's range",
        })
    }
}

/// What a CPU was interrupted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A device: [`Irq::number`].
    Line(u32),
    /// Another CPU, with the number it gave [`IrqChip::send_ipi`].
    Ipi(u32),
}

/// An interrupt that was taken and has to be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    /// What it is.
    pub cause: Cause,
    /// What the controller needs to end it, for [`IrqChip::end`].
    pub token: u32,
}

/// An interrupt controller that the CPUs take interrupts from. Every method is called with interrupts masked, and may
/// be called on several CPUs at once.
pub trait IrqChip: Send + Sync {
    /// Decodes the cells of an `interrupts` entry that names this controller.
    fn translate(&self, cells: &[u32]) -> Result<Irq, IrqError>;

    /// One more than the highest [`Irq::number`] the controller can deliver.
    fn nr_irqs(&self) -> u32;

    /// Prepares the calling CPU, which the kernel calls number `cpu`, to take interrupts; once on each CPU.
    fn init_cpu(&self, cpu: usize);

    /// Sets the trigger and lets the interrupt through, to the calling CPU where it is per-CPU.
    fn enable(&self, irq: Irq);

    /// Stops the interrupt.
    fn disable(&self, irq: Irq);

    /// Takes the highest-priority pending interrupt for this CPU; `None` when it was spurious.
    fn acknowledge(&self) -> Option<Acknowledged>;

    /// Ends the handling of an acknowledged interrupt, on the CPU that acknowledged it.
    fn end(&self, interrupt: Acknowledged);

    /// Interrupts the CPU that [`IrqChip::init_cpu`] was called on as `cpu`, with the inter-processor interrupt `ipi`,
    /// below [`NR_IPIS`]. All that the calling CPU wrote before is seen by the CPU that takes it. Several sent before
    /// the first is taken may come as one. Nothing happens where that CPU has not been prepared.
    fn send_ipi(&self, cpu: usize, ipi: u32);
}

/// How many inter-processor interrupts a controller tells apart.
pub const NR_IPIS: u32 = 8;

/// What runs when an interrupt fires, with interrupts masked, on the CPU that took it.
pub trait IrqHandler: Send + Sync {
    /// Quietens the device. Must not block.
    fn handle_irq(&self);
}
