//! A serial port, as a console needs it.

/// A serial port. All methods may be called with interrupts masked and from any CPU; the driver locks for itself.
pub trait Uart: Send + Sync {
    /// Sends every byte, waiting for room in the transmitter where needed.
    fn write(&self, bytes: &[u8]);

    /// Turns the receive interrupt on. Before this call the port is polled with [`Uart::read_byte`].
    fn enable_receive_interrupt(&self);

    /// Turns the receive interrupt off: what is sent now stays in the port, as far as it has room.
    fn disable_receive_interrupt(&self);

    /// The next received byte, or `None` when there is none. Bytes with a framing or parity error are dropped; a break
    /// reads as a NUL.
    fn read_byte(&self) -> Option<u8>;

    /// Clears the causes of the interrupt being handled. The caller then drains [`Uart::read_byte`].
    fn acknowledge_interrupt(&self);
}
