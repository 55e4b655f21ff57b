//! What the image builder appended to the kernel: symbols and the root image.
//!
//! The builder writes where they are into [`ImageInfo`], which it finds by its symbol.

use hal::{Arch as _, PhysAddr};
use klib::symbols::{Name, Symbols};

use crate::{
    arch::Arch,
    mm::{frames, kernel_space},
};

/// "PTNINFO\0".
const MAGIC: u64 = 0x004f_464e_494e_5450;

/// Offsets are in bytes from the image's first; a length of 0 means absent.
#[repr(C)]
struct ImageInfo {
    magic: u64,
    symbols_offset: u64,
    symbols_len: u64,
    root_offset: u64,
    root_len: u64,
    reserved: [u64; 3],
}

#[unsafe(no_mangle)]
#[used]
static __piton_image_info: ImageInfo =
    ImageInfo { magic: MAGIC, symbols_offset: 0, symbols_len: 0, root_offset: 0, root_len: 0, reserved: [0; 3] };

fn info() -> ImageInfo {
    // SAFETY: reads a valid static; volatile, since the builder changes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const __piton_image_info) }
}

fn image_start() -> PhysAddr {
    kernel_space::image_to_phys(Arch::IMAGE_BASE)
}

/// Where the root image is in physical memory, with its length in bytes.
pub fn root() -> Option<(PhysAddr, u64)> {
    let info = info();
    (info.root_len > 0).then_some((PhysAddr::new(image_start().get() + info.root_offset), info.root_len))
}

/// All that was appended, as a physical range.
pub fn appended() -> core::ops::Range<u64> {
    let info = info();
    let ends = [(info.symbols_offset, info.symbols_len), (info.root_offset, info.root_len)];
    let present = || ends.iter().filter(|(_, len)| *len > 0);
    let start = present().map(|(offset, _)| *offset).min().unwrap_or(0);
    let end = present().map(|(offset, len)| offset + len).max().unwrap_or(0);
    image_start().get() + start..image_start().get() + end
}

fn symbols() -> Option<Symbols<'static>> {
    let info = info();
    if info.symbols_len == 0 || frames::stats().total == 0 {
        return None;
    }
    let start = frames::linear(PhysAddr::new(image_start().get() + info.symbols_offset));
    // SAFETY: part of the image, mapped read-only with all of memory, never written.
    Some(Symbols::new(unsafe { core::slice::from_raw_parts(start, info.symbols_len as usize) }))
}

/// The function an address of the kernel is in, and the distance from its start.
pub fn symbol(address: usize) -> Option<(Name<'static>, u32)> {
    symbols()?.find(u32::try_from(address.checked_sub(Arch::IMAGE_BASE)?).ok()?)
}

/// Calls `visit` with the address and name of each function of the kernel, ascending.
pub fn visit_symbols(visit: &mut dyn FnMut(usize, Name<'static>) -> core::fmt::Result) -> core::fmt::Result {
    let mut all = symbols().into_iter().flat_map(Symbols::iter);
    all.try_for_each(|(offset, name)| visit(Arch::IMAGE_BASE + offset as usize, name))
}
