//! What the kernel offers a driver.

use alloc::sync::Arc;
use core::{fmt, ptr::NonNull};

use crate::{
    ConfigStore, DeviceNode, IrqChip, IrqHandler, Net, PhysAddr, PhysRange, ProbeError, Rng, Rtc, Timer, Uart,
};

/// A mapped register block. Stays mapped for good.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    /// Where the registers start, in kernel space, as device memory.
    pub base: NonNull<u8>,
    /// Length in bytes.
    pub len: usize,
}

/// Memory that a device and the CPU both see without cache maintenance: cacheable where the node is `dma-coherent`,
/// Normal non-cacheable otherwise.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    /// Kernel address; page aligned, zeroed.
    pub virt: NonNull<u8>,
    /// Physical address; contiguous.
    pub phys: PhysAddr,
    /// Length in pages.
    pub pages: usize,
}

/// Why the kernel refused a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlatformError {
    /// Out of physical memory or kernel address space.
    NoMemory,
    /// The range is RAM, wraps, or is beyond what the CPU can address.
    BadRange,
    /// Another driver holds it.
    Busy,
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "out of memory",
            Self::BadRange => "address range not usable for registers",
            Self::Busy => "claimed by another driver",
        })
    }
}

/// The kernel, as a driver sees it.
pub trait Platform: Sync {
    /// Maps a register block as device memory.
    fn map_mmio(&self, range: PhysRange) -> Result<Mmio, PlatformError>;

    /// Allocates zeroed, contiguous memory for the device `node`. `coherent` is the node's (or bus's) `dma-coherent`.
    fn dma_alloc(&self, pages: usize, coherent: bool) -> Result<DmaMemory, PlatformError>;

    /// Gives DMA memory back; the device must have stopped using it.
    fn dma_free(&self, memory: DmaMemory);

    /// Connects and enables the `index`-th interrupt of `node`. [`ProbeError::Deferred`] while its controller is not up.
    fn request_irq(&self, node: &dyn DeviceNode, index: usize, handler: Arc<dyn IrqHandler>) -> Result<(), ProbeError>;

    /// Writes a register of the secure world. `false`, and nothing done, where that belongs to other firmware; `true`
    /// where the kernel was entered at the highest privilege level and nobody else set the secure world up.
    fn secure_write(&self, address: PhysAddr, value: u32) -> bool {
        let _ = (address, value);
        false
    }

    /// Monotonic time since boot, in nanoseconds; 0 before there is a timer.
    fn now_ns(&self) -> u64;

    /// Hands over an interrupt controller that CPUs take interrupts from.
    fn add_irq_chip(&self, node: &dyn DeviceNode, chip: Arc<dyn IrqChip>);

    /// Hands over a serial port. Its receive interrupt is requested by the driver, which calls
    /// [`Platform::uart_interrupt`] from its handler.
    fn add_uart(&self, node: &dyn DeviceNode, uart: Arc<dyn Uart>);

    /// Tells the kernel that a serial port interrupted: the kernel acknowledges it and drains the received bytes.
    fn uart_interrupt(&self, uart: &dyn Uart);

    /// Hands over the system timer; its interrupt is requested by the driver, which calls
    /// [`Platform::timer_interrupt`] from its handler.
    fn add_timer(&self, node: &dyn DeviceNode, timer: Arc<dyn Timer>);

    /// Tells the kernel that this CPU's timer fired.
    fn timer_interrupt(&self);

    /// Hands over a wall clock.
    fn add_rtc(&self, node: &dyn DeviceNode, rtc: Arc<dyn Rtc>);

    /// Takes the wall clock of this node back.
    fn remove_rtc(&self, node: &dyn DeviceNode);

    /// Hands over an entropy source.
    fn add_rng(&self, node: &dyn DeviceNode, rng: Arc<dyn Rng>);

    /// Hands over a network device. Its interrupt is requested by the driver, which tells the
    /// [`NetEvents`](crate::NetEvents) it was started with.
    fn add_net(&self, node: &dyn DeviceNode, net: Arc<dyn Net>);

    /// Hands over a store of named blobs.
    fn add_config_store(&self, node: &dyn DeviceNode, store: Arc<dyn ConfigStore>);

    /// Takes the store of this node back: it is not read any more.
    fn remove_config_store(&self, node: &dyn DeviceNode);
}
