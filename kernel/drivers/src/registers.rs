//! A mapped register block as a typed, shared reference.
//!
//! `tock-registers` blocks are not `Sync`, since one register access from two CPUs at a time is for the driver to
//! think about; here that thought is the contract of the only unsafe constructor.

use core::ops::Deref;

use hal::{DeviceNode, Mmio, Platform, ProbeError};

/// The register block `T`.
pub(crate) struct Registers<T: 'static>(&'static T);

impl<T> Clone for Registers<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Registers<T> {}

impl<T> Registers<T> {
    /// Types a mapping; [`ProbeError::BadNode`] where it is too short or misaligned for the block.
    ///
    /// # Safety
    ///
    /// `mmio` must be a mapping of the device that `T` describes, and `T` must consist of registers only. The caller
    /// must serialise accesses that the device does not allow from several CPUs at a time.
    pub unsafe fn new(mmio: Mmio) -> Result<Self, ProbeError> {
        let base = mmio.base.cast::<T>();
        if mmio.len < size_of::<T>() || !base.is_aligned() {
            return Err(ProbeError::BadNode("reg: smaller than the device's registers"));
        }
        // SAFETY: The mapping stays for good (`Mmio`), is large enough and aligned, and only registers with interior
        // mutability are behind it.
        Ok(Self(unsafe { base.as_ref() }))
    }
}

impl<T> Deref for Registers<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

// SAFETY: Device registers are the same from every CPU.
unsafe impl<T> Send for Registers<T> {}
// SAFETY: As above; the caller of `new` serialises what must be.
unsafe impl<T> Sync for Registers<T> {}

/// Maps the `index`-th `reg` entry of a node.
pub(crate) fn map_reg(
    node: &dyn DeviceNode,
    platform: &'static dyn Platform,
    index: usize,
) -> Result<Mmio, ProbeError> {
    const MISSING: [&str; 3] = ["reg", "reg: second entry", "reg: third entry"];
    let range = node.reg(index).ok_or(ProbeError::BadNode(MISSING.get(index).copied().unwrap_or("reg")))?;
    Ok(platform.map_mmio(range)?)
}
