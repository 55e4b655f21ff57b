//! What became of every device of the tree: /sys/kernel/piton/devices.

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use dtb::Node;
use hal::{Driver, ProbeError, Trigger};
use klib::json::Quoted;

use super::{KernelPlatform, TreeNode};
use crate::{
    fs::{sysfs, virtual_files::Listing},
    irq,
    sync::Once,
};

/// What became of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A driver has it.
    Bound,
    /// Nobody has it: no driver is for it, or the one that is found nothing that it knows.
    Unclaimed,
    /// The tree says that it is not to be used.
    Disabled,
    /// Its driver waits for another device.
    Deferred,
    /// Its driver could not bring it up.
    Failed(ProbeError),
}

/// A node with a `compatible`, and its driver.
pub(super) struct Device {
    pub node: Node<'static>,
    pub driver: Option<&'static Driver>,
    pub state: State,
}

static DEVICES: Once<Vec<Device>> = Once::new();

/// Makes the table known, when all drivers have been tried.
pub(super) fn publish(devices: Vec<Device>) {
    DEVICES.call_once(|| devices);
}

/// Shows the table as a JSON list.
pub fn add_to_sysfs() {
    sysfs::piton_directory().add_listing("devices", |out| {
        let mut separator = "[\n";
        for device in DEVICES.get().into_iter().flatten() {
            out.write_str(separator)?;
            device.write_json(out)?;
            separator = ",\n";
        }
        out.write_str("\n]\n")
    });
}

impl Device {
    /// Lets the driver look at the device.
    pub(super) fn probe(&mut self) {
        let Some(driver) = self.driver else { return };
        let node = TreeNode { node: self.node, path: self.node.path() };
        self.state = match (driver.probe)(&node, &KernelPlatform) {
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
        let state = match self.state {
            State::Bound => "bound",
            State::Unclaimed => "unclaimed",
            State::Disabled => "disabled",
            State::Deferred => "deferred",
            State::Failed(_) => "failed",
        };
        write!(out, ", \"state\": \"{state}\", \"reason\": ")?;
        match self.state {
            State::Bound => out.write_str("null")?,
            State::Unclaimed if self.driver.is_none() => out.write_str("\"no driver\"")?,
            State::Unclaimed => out.write_str("\"nothing there that it knows\"")?,
            State::Disabled => write!(out, "{}", Quoted(self.node.property_str("status").unwrap_or("bad status")))?,
            State::Deferred => out.write_str("\"what it needs never came up\"")?,
            State::Failed(error) => write!(out, "\"{error}\"")?,
        }
        out.write_str(", \"registers\": [")?;
        for (index, (start, len)) in self.node.reg().filter_map(Result::ok).enumerate() {
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
