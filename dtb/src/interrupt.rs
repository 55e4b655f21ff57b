//! Interrupts, followed to the controller they end at (DTSpec 2.4).

use crate::{DtbError, Node, address::Cells};

/// The most nexus nodes between a device and its controller; a longer chain is a loop.
const MAX_HOPS: usize = 16;

/// One interrupt of a device, in the terms of its controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// The controller's phandle.
    pub controller: u32,
    cells: [u32; Self::MAX_CELLS],
    len: usize,
}

impl Interrupt {
    /// The most cells a specifier of a known binding has.
    pub const MAX_CELLS: usize = 4;

    /// The controller-specific cells.
    pub fn cells(&self) -> &[u32] {
        self.cells.get(..self.len).unwrap_or_default()
    }
}

/// See [`Node::interrupts`].
#[derive(Clone)]
pub struct Interrupts<'a> {
    node: Node<'a>,
    cells: Cells<'a>,
    extended: bool,
}

impl Iterator for Interrupts<'_> {
    type Item = Result<Interrupt, DtbError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cells.is_empty() {
            return None;
        }
        let found = self.specifier();
        if found.is_none() {
            self.cells = Cells::new(&[]);
        }
        Some(match found {
            Some((parent, specifier)) => resolve(self.node, parent, specifier),
            None if self.extended => Err(DtbError::BadProperty("interrupts-extended")),
            None => Err(DtbError::BadProperty("interrupts")),
        })
    }
}

impl<'a> Interrupts<'a> {
    /// The next specifier and the controller or nexus that it is for.
    fn specifier(&mut self) -> Option<(Node<'a>, Cells<'a>)> {
        let parent = if self.extended {
            self.node.tree().by_phandle(self.cells.cell()?)?
        } else {
            self.node.interrupt_parent()?
        };
        // No cells at all would never end.
        let cells = parent.record().interrupt_cells.filter(|&cells| cells > 0)?;
        Some((parent, Cells::new(self.cells.take(cells as usize)?)))
    }
}

impl<'a> Node<'a> {
    /// The interrupts, from `interrupts-extended` or `interrupts`, each followed through inherited `interrupt-parent`
    /// properties and the `interrupt-map` of every nexus to the controller.
    pub fn interrupts(&self) -> Interrupts<'a> {
        let (value, extended) = match self.property("interrupts-extended") {
            Some(value) => (value, true),
            None => (self.property("interrupts").unwrap_or_default(), false),
        };
        Interrupts { node: *self, cells: Cells::new(value), extended }
    }

    /// The `index`-th interrupt.
    pub fn interrupt(&self, index: usize) -> Option<Result<Interrupt, DtbError>> {
        self.interrupts().nth(index)
    }

    /// The controller or nexus above this node: what the nearest `interrupt-parent` names, or the nearest node above
    /// that takes interrupts itself.
    pub fn interrupt_parent(&self) -> Option<Node<'a>> {
        let mut node = *self;
        // Each step goes up or jumps by a phandle; the latter could go round in circles.
        for _ in 0..MAX_HOPS * 8 {
            node = match node.record().interrupt_parent {
                Some(phandle) => self.tree().by_phandle(phandle)?,
                None => node.parent()?,
            };
            if node.record().interrupt_cells.is_some() {
                return Some(node);
            }
        }
        None
    }
}

/// Follows a specifier from the node it was written for to the controller.
fn resolve<'a>(device: Node<'a>, parent: Node<'a>, specifier: Cells<'a>) -> Result<Interrupt, DtbError> {
    let bad = DtbError::BadInterrupt;
    let mut parent = parent;
    let mut specifier = specifier;
    // What an interrupt-map is asked with besides the specifier: the unit address on the nexus's own bus.
    let (address_cells, _) = device.bus_cells();
    let mut unit = Cells::new(
        device.property("reg").and_then(|reg| Cells::new(reg).take(address_cells as usize)).unwrap_or_default(),
    );
    for _ in 0..MAX_HOPS {
        let map = match parent.property("interrupt-map") {
            Some(map) if parent.property("interrupt-controller").is_none() => map,
            _ => {
                let controller = parent.phandle().ok_or(bad("the controller has no phandle"))?;
                let mut interrupt = Interrupt { controller, cells: [0; Interrupt::MAX_CELLS], len: 0 };
                while let Some(cell) = specifier.cell() {
                    *interrupt.cells.get_mut(interrupt.len).ok_or(bad("specifier of more than 4 cells"))? = cell;
                    interrupt.len += 1;
                }
                return Ok(interrupt);
            }
        };
        (parent, unit, specifier) =
            through_map(parent, map, unit, specifier).ok_or(bad("no interrupt-map entry matches"))?;
    }
    Err(bad("interrupt-map loop"))
}

/// One step through a nexus: finds the entry that matches, and what it says to ask next.
fn through_map<'a>(
    nexus: Node<'a>,
    map: &'a [u8],
    unit: Cells<'a>,
    specifier: Cells<'a>,
) -> Option<(Node<'a>, Cells<'a>, Cells<'a>)> {
    let address_cells = nexus.record().address_cells as usize;
    let specifier_cells = nexus.record().interrupt_cells? as usize;
    let mask = Cells::new(nexus.property("interrupt-map-mask").unwrap_or_default());
    let mut map = Cells::new(map);
    while !map.is_empty() {
        let mut address = Cells::new(map.take(address_cells)?);
        let mut number = Cells::new(map.take(specifier_cells)?);
        let target = nexus.tree().by_phandle(map.cell()?)?;
        // A controller without #address-cells has none here (DTSpec 2.4.3.1), unlike for its children's reg.
        let target_address_cells =
            if target.property("#address-cells").is_some() { target.record().address_cells } else { 0 };
        let target_unit = Cells::new(map.take(target_address_cells as usize)?);
        let target_specifier = Cells::new(map.take(target.record().interrupt_cells? as usize)?);

        let (mut mask, mut unit, mut specifier) = (mask, unit, specifier);
        let mut matches = |entry: &mut Cells<'_>, asked: &mut Cells<'_>, cells| {
            (0..cells).all(|_| {
                let mask = mask.cell().unwrap_or(u32::MAX);
                entry.cell().unwrap_or(0) & mask == asked.cell().unwrap_or(0) & mask
            })
        };
        if matches(&mut address, &mut unit, address_cells) && matches(&mut number, &mut specifier, specifier_cells) {
            return Some((target, target_unit, target_specifier));
        }
    }
    None
}
