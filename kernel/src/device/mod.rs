//! From device tree to drivers: walks the tree, matches, probes, and tries again what was deferred.
//!
//! What became of each device stays in the [`table`], which programs read. They may have devices that no driver has
//! ([`claim`]), with their interrupts ([`interrupt`]).

mod claim;
mod interrupt;
mod table;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use dtb::{Node, Tree};
use hal::{
    Arch as _, ConfigStore, DeviceNode, DmaMemory, IrqChip, IrqHandler, IrqSpecifier, Mmio, Net, PAGE_SIZE, PhysAddr,
    PhysRange, Platform, PlatformError, ProbeError, Rng, Rtc, Timer, Uart,
};

use crate::{
    arch::{self, Arch},
    console, fs, irq,
    mm::{frames, kernel_space},
    net, rng, time,
};

pub use claim::add_files;
pub use table::add_to_sysfs;
use table::{Device, State};

/// A node as drivers see it.
struct TreeNode<'a> {
    node: Node<'a>,
    path: String,
}

impl DeviceNode for TreeNode<'_> {
    fn path(&self) -> &str {
        &self.path
    }
    fn phandle(&self) -> u32 {
        self.node.phandle().unwrap_or(0)
    }
    fn is_compatible(&self, compatible: &str) -> bool {
        self.node.is_compatible(compatible)
    }
    fn reg(&self, index: usize) -> Option<PhysRange> {
        let (start, len) = self.node.reg().nth(index)?.ok()?;
        Some(PhysRange { start: PhysAddr::new(start), len })
    }
    fn interrupt(&self, index: usize) -> Option<IrqSpecifier> {
        let interrupt = self.node.interrupt(index)?.ok()?;
        IrqSpecifier::new(interrupt.controller, interrupt.cells())
    }
    fn property(&self, name: &str) -> Option<&[u8]> {
        self.node.property(name)
    }
}

/// Brings up every device that a driver takes, and remembers what became of each.
pub fn probe_all(tree: &'static Tree<'static>) {
    let drivers = || drivers::DRIVERS.iter().chain(arch::DRIVERS).copied();
    let mut devices = Vec::new();
    for node in tree.nodes().filter(|node| node.property("compatible").is_some()) {
        // The most specific string comes first and decides.
        let driver = node.compatible().find_map(|string| drivers().find(|driver| driver.compatible.contains(&string)));
        let state = match driver {
            _ if !node.status_okay() => State::Disabled,
            None => State::Unclaimed,
            Some(_) => State::Deferred,
        };
        devices.push(Device::new(node, driver, state));
    }
    loop {
        let mut progress = false;
        for device in devices.iter().filter(|device| device.state() == State::Deferred) {
            device.probe();
            progress |= device.state() != State::Deferred;
        }
        if !progress {
            break;
        }
    }
    for device in devices.iter().filter(|device| device.state() == State::Deferred) {
        log::warn!("{}: what it needs never came up", device.node.path());
    }
    table::publish(devices);
}

/// The kernel, as drivers see it.
struct KernelPlatform;

impl Platform for KernelPlatform {
    fn map_mmio(&self, range: PhysRange) -> Result<Mmio, PlatformError> {
        kernel_space::map_mmio(range)
    }

    fn dma_alloc(&self, pages: usize, coherent: bool) -> Result<DmaMemory, PlatformError> {
        let order = pages.checked_next_power_of_two().ok_or(PlatformError::NoMemory)?.trailing_zeros() as u8;
        let phys = frames::alloc_kernel(order).ok_or(PlatformError::NoMemory)?;
        for page in 0..1 << order {
            frames::zero(PhysAddr::new(phys.get() + (page * PAGE_SIZE) as u64));
        }
        let virt = if coherent {
            core::ptr::NonNull::new(frames::linear(phys)).ok_or(PlatformError::NoMemory)?
        } else {
            kernel_space::map_uncached(phys, 1 << order)?
        };
        Ok(DmaMemory { virt, phys, pages })
    }

    fn dma_free(&self, memory: DmaMemory) {
        if memory.virt.as_ptr() != frames::linear(memory.phys) {
            kernel_space::unmap_uncached(memory.virt, memory.pages.next_power_of_two());
        }
        frames::free_kernel(memory.phys, memory.pages.next_power_of_two().trailing_zeros() as u8);
    }

    fn request_irq(&self, node: &dyn DeviceNode, index: usize, handler: Arc<dyn IrqHandler>) -> Result<(), ProbeError> {
        let specifier = node.interrupt(index).ok_or(ProbeError::BadNode("interrupts"))?;
        irq::request(node.path(), &specifier, handler)
    }

    fn secure_write(&self, address: PhysAddr, value: u32) -> bool {
        Arch::secure_write(address, value)
    }

    fn now_ns(&self) -> u64 {
        time::monotonic_ns()
    }

    fn add_irq_chip(&self, node: &dyn DeviceNode, chip: Arc<dyn IrqChip>) {
        irq::add_chip(node.phandle(), chip);
    }

    fn add_uart(&self, node: &dyn DeviceNode, uart: Arc<dyn Uart>) {
        console::add_uart(node.path(), uart);
    }

    fn uart_interrupt(&self, uart: &dyn Uart) {
        console::uart_interrupt(uart);
    }

    fn add_timer(&self, _node: &dyn DeviceNode, timer: Arc<dyn Timer>) {
        time::add_timer(timer);
    }

    fn timer_interrupt(&self) {
        time::interrupt();
    }

    fn add_rtc(&self, node: &dyn DeviceNode, rtc: Arc<dyn Rtc>) {
        /// The first clock gives the machine its time.
        static IS_SET: AtomicBool = AtomicBool::new(false);
        let sets_time = !IS_SET.swap(true, Ordering::Relaxed);
        if sets_time {
            let now_ns = rtc.unix_seconds().saturating_mul(time::SECOND);
            if time::set_realtime_ns(now_ns).is_err() {
                log::warn!("the clock chip's time is out of range");
            }
        }
        fs::sysfs::add_rtc(node.path(), rtc, sets_time);
    }

    fn remove_rtc(&self, node: &dyn DeviceNode) {
        fs::sysfs::remove_rtc(node.path());
    }

    fn add_rng(&self, node: &dyn DeviceNode, source: Arc<dyn Rng>) {
        let mut seed = [0; 64];
        let len = source.fill(&mut seed);
        log::info!("{}: {len} bytes of entropy", node.path());
        rng::add_seed(&seed[..len.min(64)]);
    }

    fn add_net(&self, _node: &dyn DeviceNode, net: Arc<dyn Net>) {
        net::wire::add_device(net);
    }

    fn add_config_store(&self, _node: &dyn DeviceNode, store: Arc<dyn ConfigStore>) {
        fs::sysfs::add_config_store(store);
    }

    fn remove_config_store(&self, _node: &dyn DeviceNode) {
        fs::sysfs::remove_config_store();
    }
}
