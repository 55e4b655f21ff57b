//! `reg`, `ranges` and `dma-ranges`: where a device is, as the CPU and as the device see it (DTSpec 2.3.6 to 2.3.9).

use alloc::vec::Vec;

use crate::{DtbError, Node, parse::word_at};

/// More cells than any binding uses; PCI has 3 (`IEEE 1275 PCI bus binding`).
const MAX_CELLS: usize = 4;

/// A reader of big-endian cells. An address or size is read as 128 bits, so that the three cells of a PCI address fit
/// and translate by the same arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct Cells<'a> {
    bytes: &'a [u8],
}

impl<'a> Cells<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next cell.
    pub fn cell(&mut self) -> Option<u32> {
        let (cell, rest) = (word_at(self.bytes, 0)?, self.bytes.get(4..)?);
        self.bytes = rest;
        Some(cell)
    }

    /// The next `cells` cells as one number; `None` when there are fewer, or more than fit.
    pub fn number(&mut self, cells: u32) -> Option<u128> {
        if cells as usize > MAX_CELLS {
            return None;
        }
        let mut number = 0;
        for _ in 0..cells {
            number = number << 32 | u128::from(self.cell()?);
        }
        Some(number)
    }

    /// The next `cells` cells as they are.
    pub fn take(&mut self, cells: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(cells.checked_mul(4)?)?;
        self.bytes = rest;
        Some(head)
    }
}

/// The low 64 bits: of a PCI address, what is left once the first cell has selected the address space.
fn low(address: u128) -> u64 {
    address as u64
}

/// One window of a bus: `ranges` or `dma-ranges`.
struct Window {
    child: u128,
    parent: u128,
    size: u128,
}

/// What a bus says about one of its address maps.
enum Map<'a> {
    /// No such property.
    Missing,
    /// Addresses are the same on both sides.
    Identity,
    Windows {
        cells: Cells<'a>,
        child_cells: u32,
        parent_cells: u32,
        size_cells: u32,
    },
}

impl Iterator for Map<'_> {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let Self::Windows { cells, child_cells, parent_cells, size_cells } = self else {
            return None;
        };
        if cells.is_empty() {
            return None;
        }
        // Zero cells altogether would never end.
        if *child_cells == 0 && *parent_cells == 0 && *size_cells == 0 {
            return None;
        }
        Some(Window {
            child: cells.number(*child_cells)?,
            parent: cells.number(*parent_cells)?,
            size: cells.number(*size_cells)?,
        })
    }
}

impl Map<'_> {
    /// A child-side address on the parent's side.
    fn up(self, address: u128) -> Option<u128> {
        match self {
            Self::Missing => None,
            Self::Identity => Some(address),
            mut windows => windows.find_map(|window| {
                let offset = address.checked_sub(window.child)?;
                (offset < window.size).then(|| window.parent.checked_add(offset))?
            }),
        }
    }
}

/// A stretch of device-visible memory as the CPU sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaRange {
    /// First address, as the device must be told it.
    pub bus: u64,
    /// First address, on the CPU's physical bus.
    pub cpu: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The entries of a node's `reg`; see [`Node::reg`].
#[derive(Clone)]
pub struct Reg<'a> {
    node: Node<'a>,
    cells: Cells<'a>,
    translate: bool,
}

impl Iterator for Reg<'_> {
    /// CPU physical address and length in bytes.
    type Item = Result<(u64, u64), DtbError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cells.is_empty() {
            return None;
        }
        let (address_cells, size_cells) = self.node.bus_cells();
        let (Some(address), Some(size), true) =
            (self.cells.number(address_cells), self.cells.number(size_cells), address_cells > 0)
        else {
            self.cells = Cells::new(&[]);
            return Some(Err(DtbError::BadProperty("reg")));
        };
        let address = if self.translate { self.node.translate(address) } else { Ok(low(address)) };
        Some(address.and_then(|address| match u64::try_from(size) {
            // The last byte must be addressable.
            Ok(size) if address.checked_add(size.saturating_sub(1)).is_some() => Ok((address, size)),
            _ => Err(DtbError::BadProperty("reg")),
        }))
    }
}

impl<'a> Node<'a> {
    /// `#address-cells` and `#size-cells` that hold for this node's own `reg`.
    pub(crate) fn bus_cells(&self) -> (u32, u32) {
        match self.parent() {
            Some(parent) => (parent.record().address_cells, parent.record().size_cells),
            None => (2, 1),
        }
    }

    /// The `reg` entries as CPU physical addresses: translated through the `ranges` of every bus above. A bus with an
    /// empty `ranges` has its parent's addresses; one without `ranges` cannot be seen by the CPU, and its devices'
    /// `reg` gives [`DtbError::NotTranslatable`].
    pub fn reg(&self) -> Reg<'a> {
        Reg { node: *self, cells: Cells::new(self.property("reg").unwrap_or_default()), translate: true }
    }

    /// The `reg` entries as they stand, for buses whose addresses are not memory: CPU numbers, chip selects, I2C
    /// addresses.
    pub fn reg_untranslated(&self) -> Reg<'a> {
        Reg { translate: false, ..self.reg() }
    }

    fn map(&self, property: &str) -> Map<'a> {
        match self.property(property) {
            None => Map::Missing,
            Some([]) => Map::Identity,
            Some(value) => Map::Windows {
                cells: Cells::new(value),
                child_cells: self.record().address_cells,
                parent_cells: self.bus_cells().0,
                size_cells: self.record().size_cells,
            },
        }
    }

    /// An address of this node's bus as a CPU physical address.
    fn translate(&self, address: u128) -> Result<u64, DtbError> {
        let mut address = address;
        let mut bus = self.parent();
        // The root's own bus is the CPU's.
        while let Some(this) = bus.filter(|bus| bus.parent().is_some()) {
            address = this.map("ranges").up(address).ok_or(DtbError::NotTranslatable)?;
            bus = this.parent();
        }
        u64::try_from(address).map_err(|_| DtbError::NotTranslatable)
    }

    /// What memory the device can reach by DMA: the windows of the nearest bus above that has a `dma-ranges`, carried
    /// up to the CPU's bus. `None` when no bus restricts or shifts it: the device sees CPU physical addresses.
    ///
    /// Windows that cannot be carried up are left out, so an empty list means that no memory can be reached.
    pub fn dma_ranges(&self) -> Option<Vec<DmaRange>> {
        let mut bus = self.parent()?;
        while !matches!(bus.map("dma-ranges"), Map::Windows { .. }) {
            bus = bus.parent()?;
        }
        let windows = bus.map("dma-ranges").filter_map(|window| {
            let mut cpu = window.parent;
            let mut above = bus.parent();
            while let Some(this) = above {
                cpu = match this.map("dma-ranges") {
                    Map::Missing => cpu,
                    map => map.up(cpu)?,
                };
                above = this.parent();
            }
            let size = u64::try_from(window.size).unwrap_or(u64::MAX);
            (size > 0).then_some(DmaRange { bus: low(window.child), cpu: u64::try_from(cpu).ok()?, size })
        });
        Some(windows.collect())
    }

    /// The address that the device must be told for this CPU physical address; `None` when it cannot reach all
    /// `len` bytes.
    pub fn cpu_to_bus(&self, cpu: u64, len: u64) -> Option<u64> {
        shift(self.dma_ranges(), cpu, len, |range| (range.cpu, range.bus))
    }

    /// The CPU physical address behind an address that the device uses; `None` when there is none for all `len`
    /// bytes.
    pub fn bus_to_cpu(&self, bus: u64, len: u64) -> Option<u64> {
        shift(self.dma_ranges(), bus, len, |range| (range.bus, range.cpu))
    }
}

/// Carries `len` bytes at `address` from one side of the windows to the other.
fn shift(ranges: Option<Vec<DmaRange>>, address: u64, len: u64, sides: fn(&DmaRange) -> (u64, u64)) -> Option<u64> {
    let Some(ranges) = ranges else {
        return Some(address);
    };
    ranges.iter().find_map(|range| {
        let (from, to) = sides(range);
        let offset = address.checked_sub(from)?;
        (offset < range.size && len <= range.size - offset).then(|| to.checked_add(offset))?
    })
}
