//! Device-tree nodes as drivers see them, and what a driver is.

use core::fmt;

use crate::{IrqError, PhysRange, Platform, PlatformError};

/// An interrupt as the tree states it, with its controller found through `interrupt-parent` and `interrupt-map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqSpecifier {
    /// The controller's phandle.
    pub controller: u32,
    cells: [u32; Self::MAX_CELLS],
    len: usize,
}

impl IrqSpecifier {
    /// The most cells a specifier of a known binding has.
    pub const MAX_CELLS: usize = 4;

    /// Builds a specifier; `None` when there are more than [`Self::MAX_CELLS`] cells.
    pub fn new(controller: u32, cells: &[u32]) -> Option<Self> {
        let mut own = [0; Self::MAX_CELLS];
        own.get_mut(..cells.len())?.copy_from_slice(cells);
        Some(Self { controller, cells: own, len: cells.len() })
    }

    /// The controller-specific cells.
    pub fn cells(&self) -> &[u32] {
        &self.cells[..self.len]
    }
}

/// One node of the device tree. Implemented by the kernel over the real tree and by tests over a fake.
pub trait DeviceNode {
    /// Full path, such as `/pl011@9000000`.
    fn path(&self) -> &str;

    /// The node's own phandle, or 0.
    fn phandle(&self) -> u32;

    /// Whether `compatible` lists this string.
    fn is_compatible(&self, compatible: &str) -> bool;

    /// The `index`-th `reg` entry as CPU physical addresses, translated through every `ranges` above it.
    fn reg(&self, index: usize) -> Option<PhysRange>;

    /// The `index`-th interrupt.
    fn interrupt(&self, index: usize) -> Option<IrqSpecifier>;

    /// The raw bytes of a property; empty for one without a value.
    fn property(&self, name: &str) -> Option<&[u8]>;

    /// A property of one big-endian 32-bit cell.
    fn property_u32(&self, name: &str) -> Option<u32> {
        Some(u32::from_be_bytes(self.property(name)?.try_into().ok()?))
    }
}

/// Why a driver did not take a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeError {
    /// The registers say it is another device than the tree does, or nothing is plugged in; not a fault.
    NoMatch,
    /// Something it needs (its interrupt controller, say) is not there yet; probe again after other devices.
    Deferred,
    /// The node lacks this property or `reg`/`interrupts` entry, or it is malformed.
    BadNode(&'static str),
    /// The kernel refused a resource.
    Platform(PlatformError),
    /// The interrupt controller refused the interrupt.
    Irq(IrqError),
    /// The device answered wrongly: what was expected.
    Device(&'static str),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMatch => f.write_str("not this device"),
            Self::Deferred => f.write_str("waiting for another device"),
            Self::BadNode(what) => write!(f, "bad device-tree node: {what}"),
            Self::Platform(error) => error.fmt(f),
            Self::Irq(error) => error.fmt(f),
            Self::Device(what) => write!(f, "device error: {what}"),
        }
    }
}

impl From<PlatformError> for ProbeError {
    fn from(error: PlatformError) -> Self {
        Self::Platform(error)
    }
}

impl From<IrqError> for ProbeError {
    fn from(error: IrqError) -> Self {
        Self::Irq(error)
    }
}

/// What a driver does with a device, and the platform it is on.
pub type DriverCall = fn(&dyn DeviceNode, &'static dyn Platform) -> Result<(), ProbeError>;

/// A driver: one static of this type ends every driver file and is listed in its crate's table.
pub struct Driver {
    /// The hardware block, as its file is named.
    pub name: &'static str,
    /// The `compatible` strings it takes.
    pub compatible: &'static [&'static str],
    /// Brings the device up and hands what it provides to the platform (`add_uart`, `add_irq_chip`, ...).
    pub probe: DriverCall,
    /// Lets go of a device that was probed: nothing of it is used afterwards, and it can be probed again.
    pub remove: Option<DriverCall>,
}
