//! virtio-mmio: the slots of QEMU's `virt`, each with a paravirtual device or empty.
//!
//! The tree lists all slots, plugged or not; the device in a slot says itself what it is. Legacy (version 1) and modern
//! devices both work. Devices of kinds without a driver are left alone.
//!
//! Reference: Virtual I/O Device (VIRTIO) Version 1.2, 4.2.

use hal::{DeviceNode, Driver, Mmio, Platform, PlatformError, ProbeError};
use virtio_drivers::transport::{
    DeviceType, Transport,
    mmio::{MmioError, MmioTransport, VirtIOHeader},
};

use crate::{registers::map_reg, virtio_hal, virtio_net, virtio_rng};

/// Types the registers of a slot; [`ProbeError::NoMatch`] where it is empty.
///
/// # Safety
///
/// `mmio` must map the registers of a virtio-mmio slot that nothing else drives.
unsafe fn new(mmio: Mmio) -> Result<MmioTransport<'static>, ProbeError> {
    let header = mmio.base.cast::<VirtIOHeader>();
    if mmio.len < size_of::<VirtIOHeader>() || !header.is_aligned() {
        return Err(ProbeError::BadNode("reg: smaller than a virtio-mmio slot"));
    }
    // SAFETY: Large enough, aligned, mapped for good, and by the caller's promise nobody else's.
    unsafe { MmioTransport::new(header, mmio.len) }.map_err(|error| match error {
        MmioError::InvalidDeviceID(_) => ProbeError::NoMatch,
        MmioError::BadMagic(_) => ProbeError::Device("virtio-mmio's magic value"),
        MmioError::UnsupportedVersion(_) => ProbeError::Device("virtio-mmio version 1 or 2"),
        MmioError::MmioRegionTooSmall => ProbeError::BadNode("reg: smaller than a virtio-mmio slot"),
    })
}

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let mmio = map_reg(node, platform, 0)?;
    // SAFETY: The tree says that a slot is here, and one driver is probed for each node.
    let transport = unsafe { new(mmio)? };
    virtio_hal::attach(platform, node.property("dma-coherent").is_some());
    match transport.device_type() {
        DeviceType::EntropySource => virtio_rng::probe(transport, node, platform),
        DeviceType::Network => {
            // SAFETY: As above. The second is for the interrupt handler alone, which reads and clears the cause; the
            // registers for that are nobody else's, so neither waits for the other.
            let interrupt = unsafe { new(mmio)? };
            virtio_net::probe(transport, interrupt, node, platform)
        }
        other => {
            log::debug!("{}: virtio {other:?}, no driver", node.path());
            Err(ProbeError::NoMatch)
        }
    }
}

/// Lets go of an entropy source, which was used only while it was probed. Others stay.
fn remove(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let mmio = map_reg(node, platform, 0)?;
    // SAFETY: As in `probe`; of a device that is in use it only reads what it is.
    let transport = unsafe { new(mmio)? };
    match transport.device_type() {
        // Dropping the transport resets the device.
        DeviceType::EntropySource => Ok(()),
        _ => {
            core::mem::forget(transport);
            Err(PlatformError::Busy.into())
        }
    }
}

/// virtio over MMIO.
pub static DRIVER: Driver = Driver { name: "virtio_mmio", compatible: &["virtio,mmio"], probe, remove: Some(remove) };
