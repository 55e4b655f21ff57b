//! A network device: what sends and receives Ethernet frames.
//!
//! The same for a paravirtual device, a USB adapter and an Ethernet controller: frames go in and out without their
//! check sequence, several of each are on their way at a time, and an interrupt says that something came or that there
//! is room again. Control (link, addresses) is apart from the data path.

use alloc::sync::Arc;

/// Bytes of an Ethernet address.
pub const MAC_LEN: usize = 6;
/// Bytes before a frame's contents: two addresses and the type (IEEE 802.3, 3.1.1).
pub const ETHERNET_HEADER: usize = 14;

/// A network device. All methods may be called from any CPU with interrupts on; the driver locks for itself. None waits
/// for the device.
pub trait Net: Send + Sync {
    /// Its own Ethernet address.
    fn mac(&self) -> [u8; MAC_LEN];

    /// The most bytes of a frame's contents, without the Ethernet header.
    fn mtu(&self) -> usize;

    /// Whether the other end of the wire is there.
    fn link_is_up(&self) -> bool;

    /// Hands over whom to tell of interrupts, from now on. Frames that came before are kept as far as there is room.
    fn start(&self, events: Arc<dyn NetEvents>);

    /// Gives the next received frame to `use_frame`; `false` when there is none. The frame's memory is the device's
    /// again when `use_frame` returns.
    fn receive(&self, use_frame: &mut dyn FnMut(&[u8])) -> bool;

    /// Queues a frame of `len` bytes, which `fill` writes whole; `false` when there is no room or the frame is too long,
    /// and then `fill` was not called. The device need not send it before [`Net::flush`].
    fn transmit(&self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool;

    /// Whether [`Net::transmit`] has room for a frame now.
    fn has_room(&self) -> bool;

    /// Lets the device send what is queued.
    fn flush(&self);

    /// Turns interrupts for received frames on or off. On: `true` when frames came meanwhile, for which there may be
    /// no interrupt.
    fn set_receive_interrupt(&self, on: bool) -> bool;

    /// Asks for an interrupt when there is room to transmit again: `true` when there is some already, and then there
    /// may be no interrupt.
    fn want_room(&self) -> bool;

    /// What the device itself counted.
    fn counts(&self) -> NetCounts;
}

/// Frames that never reached the kernel or the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetCounts {
    /// Received with an error: too short, or cut off.
    pub receive_errors: u64,
    /// Not sent because of an error.
    pub transmit_errors: u64,
}

/// Told by a driver from its interrupt handler, with interrupts masked; must not block.
pub trait NetEvents: Send + Sync {
    /// Frames came, there is room again, or the link changed: look again.
    fn interrupt(&self);
}
