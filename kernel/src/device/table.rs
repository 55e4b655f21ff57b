//! What became of every device of the tree: /sys/kernel/piton/devices.

use alloc::{string::String, vec::Vec};
use core::fmt::{self, Write as _};

use abi::{Errno, Result, linux};
use dtb::Node;
use hal::{Driver, ProbeError, Trigger};
use klib::json::Quoted;

use super::{KernelPlatform, TreeNode, claim::DmaBlock};
use crate::{
    fs::{sysfs, virtual_files::Listing},
    irq,
    sync::{IrqLock, Once},
    task::{identity, wait::Turn},
};

/// What became of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A driver has it.
    Bound,
    /// Nobody has it: no driver is for it, or the one that is found nothing that it knows.
    Unclaimed,
    /// It was taken from its driver.
    Unbound,
    /// The tree says that it is not to be used.
    Disabled,
    /// Its driver waits for another device.
    Deferred,
    /// Its driver could not bring it up.
    Failed(ProbeError),
}

/// A node with a `compatible`, and whose it is.
pub(super) struct Device {
    pub node: Node<'static>,
    driver: Option<&'static Driver>,
    state: IrqLock<State>,
    /// The program that has it.
    pub holder: IrqLock<Option<String>>,
    /// DMA memory that a former holder left: nothing says that the device does not use it any more.
    pub dma: IrqLock<Vec<DmaBlock>>,
}

/// Held while it changes whose a device is.
pub(super) static CHANGING: Turn = Turn::new();

static DEVICES: Once<Vec<Device>> = Once::new();

/// Makes the table known, when all drivers have been tried.
pub(super) fn publish(devices: Vec<Device>) {
    DEVICES.call_once(|| devices);
}

/// All devices.
pub(super) fn devices() -> &'static [Device] {
    DEVICES.get().map_or(&[], Vec::as_slice)
}

/// The device that a program names by its path, to take it from its driver or give it back. ENODEV.
fn named(path: &[u8]) -> Result<&'static Device> {
    identity::require(linux::CAP_SYS_RAWIO)?;
    devices().iter().find(|device| device.node.path().as_bytes() == path.trim_ascii_end()).ok_or(Errno::ENODEV)
}

/// Shows the table as a JSON list, and adds the files to take devices from drivers and give them back.
pub fn add_to_sysfs() {
    let directory = sysfs::piton_directory();
    directory.add_control("unbind", Vec::new, |path| named(path)?.unbind());
    directory.add_control("bind", Vec::new, |path| named(path)?.bind());
    directory.add_listing("devices", |out| {
        let mut separator = "[\n";
        for device in devices() {
            out.write_str(separator)?;
            device.write_json(out)?;
            separator = ",\n";
        }
        out.write_str("\n]\n")
    });
}

impl Device {
    pub(super) fn new(node: Node<'static>, driver: Option<&'static Driver>, state: State) -> Self {
        let (holder, dma) = (IrqLock::new(None), IrqLock::new(Vec::new()));
        Self { node, driver, state: IrqLock::new(state), holder, dma }
    }

    /// Its registers: addresses as the CPU sees them, and lengths in bytes.
    pub(super) fn registers(&self) -> impl Iterator<Item = (u64, u64)> {
        self.node.reg().filter_map(core::result::Result::ok)
    }

    pub(super) fn state(&self) -> State {
        *self.state.lock()
    }

    /// Whether a driver or a program has it.
    pub(super) fn is_taken(&self) -> bool {
        self.state() == State::Bound || self.holder.lock().is_some()
    }

    /// Whether its registers have addresses in this range, given by start and length.
    pub(super) fn meets(&self, range: (u64, u64)) -> bool {
        let overlap = |a: (u64, u64), b: (u64, u64)| a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1);
        self.registers().any(|own| overlap(own, range))
    }

    /// Whether it is taken, or another is that shares registers with it.
    pub(super) fn is_taken_or_shared(&self) -> bool {
        let meets = |other: &Self| other.registers().any(|range| self.meets(range));
        devices().iter().filter(|other| other.is_taken()).any(|other| core::ptr::eq(other, self) || meets(other))
    }

    fn tree_node(&self) -> TreeNode<'static> {
        TreeNode { node: self.node, path: self.node.path() }
    }

    /// Lets the driver look at the device.
    pub(super) fn probe(&self) {
        let Some(driver) = self.driver else { return };
        let node = self.tree_node();
        let state = match (driver.probe)(&node, &KernelPlatform) {
            Ok(()) => {
                log::info!("{}: {}", node.path, driver.name);
                State::Bound
            }
            Err(ProbeError::NoMatch) => State::Unclaimed,
            Err(ProbeError::Deferred) => State::Deferred,
            Err(error) => {
                log::warn!("{}: {}: {error}", node.path, driver.name);
                State::Failed(error)
            }
        };
        *self.state.lock() = state;
    }

    /// Takes the device from its driver. EINVAL where it has none, EOPNOTSUPP where that cannot let go.
    fn unbind(&self) -> Result<()> {
        let _changing = CHANGING.take();
        if self.state() != State::Bound {
            return Err(Errno::EINVAL);
        }
        let remove = self.driver.and_then(|driver| driver.remove).ok_or(Errno::EOPNOTSUPP)?;
        remove(&self.tree_node(), &KernelPlatform).map_err(|_| Errno::EOPNOTSUPP)?;
        *self.state.lock() = State::Unbound;
        Ok(())
    }

    /// Gives the device to its driver. EBUSY where somebody has it, EINVAL where there is no driver or the tree says
    /// no, EIO where the driver could not bring it up.
    fn bind(&self) -> Result<()> {
        let _changing = CHANGING.take();
        if self.is_taken_or_shared() {
            return Err(Errno::EBUSY);
        }
        if self.driver.is_none() || self.state() == State::Disabled {
            return Err(Errno::EINVAL);
        }
        self.probe();
        if self.state() == State::Bound { Ok(()) } else { Err(Errno::EIO) }
    }

    fn write_json(&self, out: &mut Listing) -> fmt::Result {
        write!(out, "{{\"path\": {}, \"compatible\": [", Quoted(&self.node.path()))?;
        for (index, string) in self.node.compatible().enumerate() {
            write!(out, "{}{}", comma(index), Quoted(string))?;
        }
        out.write_str("], \"driver\": ")?;
        match self.driver {
            Some(driver) => write!(out, "{}", Quoted(driver.name))?,
            None => out.write_str("null")?,
        }
        let (now, holder) = (self.state(), self.holder.lock().clone());
        let state = match now {
            _ if holder.is_some() => "claimed",
            State::Bound => "bound",
            State::Unclaimed | State::Unbound => "unclaimed",
            State::Disabled => "disabled",
            State::Deferred => "deferred",
            State::Failed(_) => "failed",
        };
        write!(out, ", \"state\": \"{state}\", \"reason\": ")?;
        match now {
            _ if let Some(holder) = &holder => write!(out, "{}", Quoted(holder))?,
            State::Bound => out.write_str("null")?,
            State::Unclaimed if self.driver.is_none() => out.write_str("\"no driver\"")?,
            State::Unclaimed => out.write_str("\"nothing there that it knows\"")?,
            State::Unbound => out.write_str("\"taken from its driver\"")?,
            State::Disabled => write!(out, "{}", Quoted(self.node.property_str("status").unwrap_or("bad status")))?,
            State::Deferred => out.write_str("\"what it needs never came up\"")?,
            State::Failed(error) => write!(out, "\"{error}\"")?,
        }
        out.write_str(", \"registers\": [")?;
        for (index, (start, len)) in self.registers().enumerate() {
            write!(out, "{}[{start}, {len}]", comma(index))?;
        }
        out.write_str("], \"interrupts\": [")?;
        for (index, interrupt) in self.node.interrupts().enumerate() {
            out.write_str(comma(index))?;
            match interrupt {
                Ok(interrupt) => write_interrupt(out, &self.node, &interrupt)?,
                Err(error) => write!(out, "{{\"error\": \"{error}\"}}")?,
            }
        }
        out.write_str("]}")
    }
}

fn write_interrupt(out: &mut Listing, node: &Node<'_>, interrupt: &dtb::Interrupt) -> fmt::Result {
    let controller = node.tree().by_phandle(interrupt.controller).map(|controller| controller.path());
    write!(
        out,
        "{{\"controller\": {}, \"cells\": {:?}",
        Quoted(controller.as_deref().unwrap_or_default()),
        interrupt.cells()
    )?;
    let specifier = hal::IrqSpecifier::new(interrupt.controller, interrupt.cells());
    if let Some(Ok(irq)) = specifier.map(|specifier| irq::translate(&specifier)) {
        let trigger = match irq.trigger {
            Trigger::EdgeRising => "rising edge",
            Trigger::EdgeFalling => "falling edge",
            Trigger::EdgeBoth => "both edges",
            Trigger::LevelHigh => "level high",
            Trigger::LevelLow => "level low",
        };
        write!(out, ", \"number\": {}, \"trigger\": \"{trigger}\", \"per_cpu\": {}", irq.number, irq.per_cpu)?;
    }
    out.write_str("}")
}

const fn comma(index: usize) -> &'static str {
    if index == 0 { "" } else { ", " }
}
