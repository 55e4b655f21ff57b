//! Interrupts: which controllers there are, who handles what, and how often it came.

use alloc::{sync::Arc, vec::Vec};

use hal::{IrqChip, IrqHandler, IrqSpecifier, ProbeError};

use crate::sync::IrqLock;

struct Line {
    name: alloc::string::String,
    handler: Arc<dyn IrqHandler>,
    count: u64,
}

struct Controller {
    phandle: u32,
    chip: Arc<dyn IrqChip>,
    lines: Vec<Option<Line>>,
}

static CONTROLLER: IrqLock<Option<Controller>> = IrqLock::new(None);

/// Takes the interrupt controller the CPUs are connected to, and prepares the boot CPU.
pub fn add_chip(phandle: u32, chip: Arc<dyn IrqChip>) {
    let mut controller = CONTROLLER.lock();
    if controller.is_some() {
        log::warn!("a second root interrupt controller is not used");
        return;
    }
    chip.init_cpu();
    let lines = (0..chip.nr_irqs()).map(|_| None).collect();
    *controller = Some(Controller { phandle, chip, lines });
}

/// Connects and enables an interrupt. Deferred while its controller is not there.
pub fn request(name: &str, specifier: &IrqSpecifier, handler: Arc<dyn IrqHandler>) -> Result<(), ProbeError> {
    let mut guard = CONTROLLER.lock();
    let controller = guard.as_mut().filter(|controller| controller.phandle == specifier.controller);
    let controller = controller.ok_or(ProbeError::Deferred)?;
    let irq = controller.chip.translate(specifier.cells())?;
    let line = controller.lines.get_mut(irq.number as usize).ok_or(hal::IrqError::OutOfRange)?;
    if line.is_some() {
        return Err(hal::PlatformError::Busy.into());
    }
    *line = Some(Line { name: name.into(), handler, count: 0 });
    controller.chip.enable(irq);
    Ok(())
}

/// An interrupt came: handles all that are pending.
pub fn handle() {
    loop {
        let (chip, number, handler) = {
            let mut guard = CONTROLLER.lock();
            let Some(controller) = guard.as_mut() else { return };
            let chip = controller.chip.clone();
            let Some(number) = chip.acknowledge() else { return };
            let handler = match controller.lines.get_mut(number as usize) {
                Some(Some(line)) => {
                    line.count += 1;
                    Some(line.handler.clone())
                }
                _ => None,
            };
            (chip, number, handler)
        };
        match handler {
            Some(handler) => handler.handle_irq(),
            None => log::warn!("interrupt {number} has no handler"),
        }
        chip.end(number);
    }
}

/// Number, count and name of every connected interrupt.
pub fn counts() -> Vec<(u32, u64, alloc::string::String)> {
    let guard = CONTROLLER.lock();
    let lines = guard.iter().flat_map(|controller| controller.lines.iter().enumerate());
    lines
        .filter_map(|(number, line)| line.as_ref().map(|line| (number as u32, line.count, line.name.clone())))
        .collect()
}
