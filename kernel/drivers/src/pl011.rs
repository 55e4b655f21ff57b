//! PL011: the serial port of most Arm machines.
//!
//! Whoever started us has set the baud rate, and the device tree does not always say the clock it comes from: the rate
//! is kept, and only the frame (8N1), the FIFOs and the interrupts are set here. The SBSA subset of the block, whose
//! control registers are not there at all, is driven by the same code less that step.
//!
//! Reference: PrimeCell UART (PL011) Technical Reference Manual, ARM DDI 0183G ("TRM"); Server Base System
//! Architecture, ARM DEN0029, appendix B ("SBSA").

use alloc::{collections::VecDeque, sync::Arc};
use core::hint::spin_loop;

use hal::{DeviceNode, Driver, IrqHandler, Mmio, Platform, ProbeError, Uart};
use spin::Mutex;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

use crate::registers::{Registers, map_reg};

register_bitfields! [
    u32,
    /// Data register, TRM 3.3.1.
    DR [
        DATA OFFSET(0) NUMBITS(8) [],
        FE OFFSET(8) NUMBITS(1) [],
        PE OFFSET(9) NUMBITS(1) [],
        BE OFFSET(10) NUMBITS(1) [],
        OE OFFSET(11) NUMBITS(1) [],
    ],
    /// Flag register, TRM 3.3.3.
    FR [
        BUSY OFFSET(3) NUMBITS(1) [],
        RXFE OFFSET(4) NUMBITS(1) [],
        TXFF OFFSET(5) NUMBITS(1) [],
        TXFE OFFSET(7) NUMBITS(1) [],
    ],
    /// Line control register, TRM 3.3.7.
    LCR_H [
        FEN OFFSET(4) NUMBITS(1) [],
        WLEN OFFSET(5) NUMBITS(2) [Bits8 = 0b11],
    ],
    /// Control register, TRM 3.3.8.
    CR [
        UARTEN OFFSET(0) NUMBITS(1) [],
        TXE OFFSET(8) NUMBITS(1) [],
        RXE OFFSET(9) NUMBITS(1) [],
        DTR OFFSET(10) NUMBITS(1) [],
        RTS OFFSET(11) NUMBITS(1) [],
        RTSEN OFFSET(14) NUMBITS(1) [],
        CTSEN OFFSET(15) NUMBITS(1) [],
    ],
    /// Interrupt FIFO level select register, TRM 3.3.9.
    IFLS [
        TXIFLSEL OFFSET(0) NUMBITS(3) [Half = 0b010],
        RXIFLSEL OFFSET(3) NUMBITS(3) [Half = 0b010],
    ],
    /// The interrupt registers IMSC, RIS, MIS and ICR, TRM 3.3.10 to 3.3.13.
    INTERRUPT [
        RX OFFSET(4) NUMBITS(1) [],
        RT OFFSET(6) NUMBITS(1) [],
        ALL OFFSET(0) NUMBITS(11) [],
    ],
];

register_structs! {
    Pl011Registers {
        (0x00 => dr: ReadWrite<u32, DR::Register>),
        (0x04 => rsr: ReadWrite<u32>),
        (0x08 => _reserved0),
        (0x18 => fr: ReadOnly<u32, FR::Register>),
        (0x1c => _reserved1),
        (0x20 => ilpr: ReadWrite<u32>),
        (0x24 => ibrd: ReadWrite<u32>),
        (0x28 => fbrd: ReadWrite<u32>),
        (0x2c => lcr_h: ReadWrite<u32, LCR_H::Register>),
        (0x30 => cr: ReadWrite<u32, CR::Register>),
        (0x34 => ifls: ReadWrite<u32, IFLS::Register>),
        (0x38 => imsc: ReadWrite<u32, INTERRUPT::Register>),
        (0x3c => ris: ReadOnly<u32, INTERRUPT::Register>),
        (0x40 => mis: ReadOnly<u32, INTERRUPT::Register>),
        (0x44 => icr: WriteOnly<u32, INTERRUPT::Register>),
        (0x48 => @END),
    }
}

/// Room in an empty transmit FIFO, in bytes, of the oldest revisions (TRM 2.4.2: 16 up to r1p4, then 32).
const FIFO_DEPTH: usize = 16;
/// How often a flag is polled before the wait is given up; several seconds on any bus.
const MAX_POLLS: u32 = 1 << 24;
/// How often a held lock is tried; well over the time that one burst takes at 9600 baud.
const MAX_LOCK_TRIES: u32 = 1 << 22;

/// The serial port.
pub struct Pl011 {
    registers: Registers<Pl011Registers>,
    /// The generic UART, which lacks what sets line and baud rate up.
    is_sbsa: bool,
    /// Held while one burst goes into the transmit FIFO, which counts on being its only writer.
    transmit: Mutex<()>,
    /// What was received before the FIFO was turned on, which empties it; first byte first.
    early: Mutex<VecDeque<u8>>,
}

impl Pl011 {
    /// Takes over the port, silent and with the baud rate it has.
    ///
    /// # Safety
    ///
    /// `mmio` must map the registers of a PL011 (or, where `is_sbsa`, of an SBSA generic UART) that nothing else
    /// drives.
    unsafe fn new(mmio: Mmio, is_sbsa: bool) -> Result<Self, ProbeError> {
        // SAFETY: The caller's promise. Reads and writes need no order between CPUs, except for bursts; see `transmit`.
        let registers = unsafe { Registers::<Pl011Registers>::new(mmio)? };
        let uart = Self { registers, is_sbsa, transmit: Mutex::new(()), early: Mutex::new(VecDeque::new()) };
        uart.registers.imsc.set(0);
        Ok(uart)
    }

    /// Sets the port up. Once only, when nothing can defer the probe any more: a second time would find the port on.
    fn start(&self) {
        if !self.is_sbsa {
            self.set_frame();
        }
        self.registers.icr.write(INTERRUPT::ALL.val(0x7ff));
    }

    /// 8 data bits, no parity, one stop bit, FIFOs on. Follows the order of TRM 3.3.8: disable, wait for the end of the
    /// character, flush the transmit FIFO, program, enable.
    fn set_frame(&self) {
        let registers = &self.registers;
        self.wait(|| !registers.fr.is_set(FR::BUSY));
        // A port that firmware left off has no baud rate either, so it is a model (QEMU's), which receives all the same
        // and takes the next byte the moment there is room. Turning the FIFO on empties it and would lose a byte, so it
        // stays off; a model that waits for room loses nothing for lack of a FIFO.
        let keep_fifo_off = !registers.cr.is_set(CR::UARTEN);
        // The modem lines stay as they are.
        let lines = registers.cr.get() & (CR::DTR::SET + CR::RTS::SET + CR::RTSEN::SET + CR::CTSEN::SET).value;
        registers.cr.set(lines);
        registers.lcr_h.set(0);
        registers.ifls.write(IFLS::RXIFLSEL::Half + IFLS::TXIFLSEL::Half);
        if !keep_fifo_off {
            self.early.lock().extend((0..FIFO_DEPTH).map_while(|_| self.receive()));
        }
        // A write to LCR_H also latches the divisor, which stays what it was (TRM 3.3.6).
        let fifo = if keep_fifo_off { LCR_H::FEN::CLEAR } else { LCR_H::FEN::SET };
        registers.lcr_h.write(LCR_H::WLEN::Bits8 + fifo);
        registers.cr.set(lines | (CR::UARTEN::SET + CR::TXE::SET + CR::RXE::SET).value);
    }

    /// The next byte from the FIFO.
    fn receive(&self) -> Option<u8> {
        while !self.registers.fr.is_set(FR::RXFE) {
            let data = self.registers.dr.extract();
            if data.is_set(DR::BE) {
                return Some(0);
            }
            // An overrun (OE) lost a later byte; this one is good.
            if !data.is_set(DR::FE) && !data.is_set(DR::PE) {
                return Some(data.read(DR::DATA) as u8);
            }
        }
        None
    }

    /// Polls until the condition holds; gives up on a port that is stuck rather than hang the machine.
    fn wait(&self, condition: impl Fn() -> bool) {
        for _ in 0..MAX_POLLS {
            if condition() {
                return;
            }
            spin_loop();
        }
    }

    /// Sends the front of `bytes` and returns the rest: all that an empty FIFO takes at once, or one byte.
    fn send_burst<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        // A CPU that was stopped in here must not silence another's panic message, so the wait has an end.
        let guard = (0..MAX_LOCK_TRIES).find_map(|_| {
            spin_loop();
            self.transmit.try_lock()
        });
        let room = if guard.is_some() && self.registers.fr.is_set(FR::TXFE) {
            FIFO_DEPTH
        } else {
            self.wait(|| !self.registers.fr.is_set(FR::TXFF));
            1
        };
        let (burst, rest) = bytes.split_at(room.min(bytes.len()));
        for &byte in burst {
            self.registers.dr.set(byte.into());
        }
        rest
    }
}

impl Uart for Pl011 {
    fn write(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.send_burst(rest);
        }
    }

    fn enable_receive_interrupt(&self) {
        self.registers.imsc.write(INTERRUPT::RX::SET + INTERRUPT::RT::SET);
    }

    fn disable_receive_interrupt(&self) {
        self.registers.imsc.set(0);
    }

    fn read_byte(&self) -> Option<u8> {
        self.early.lock().pop_front().or_else(|| self.receive())
    }
    fn acknowledge_interrupt(&self) {
        self.registers.icr.write(INTERRUPT::ALL.val(0x7ff));
    }
}

struct Handler {
    uart: Arc<Pl011>,
    platform: &'static dyn Platform,
}

impl IrqHandler for Handler {
    fn handle_irq(&self) {
        self.platform.uart_interrupt(&*self.uart);
    }
}

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let mmio = map_reg(node, platform, 0)?;
    let is_sbsa = !node.is_compatible("arm,pl011");
    // SAFETY: The tree says that these registers are such a port's, and one driver is probed for each node.
    let uart = Arc::new(unsafe { Pl011::new(mmio, is_sbsa)? });
    if node.interrupt(0).is_some() {
        platform.request_irq(node, 0, Arc::new(Handler { uart: uart.clone(), platform }))?;
    } else {
        log::warn!("{}: no usable interrupt, input must be polled", node.path());
    }
    uart.start();
    platform.add_uart(node, uart);
    Ok(())
}

/// PL011 and SBSA generic UART.
pub static DRIVER: Driver = Driver { name: "pl011", compatible: &["arm,pl011", "arm,sbsa-uart"], probe, remove: None };

#[cfg(test)]
mod tests {
    use core::{sync::atomic::Ordering, time::Duration};
    use std::thread;

    use super::*;
    use crate::fake::{FakeNode, FakePlatform, FakeRegisters};

    const BASE: u64 = 0x900_0000;
    const RXFE: u32 = 1 << 4;
    const TXFF: u32 = 1 << 5;
    const TXFE: u32 = 1 << 7;

    fn node() -> FakeNode {
        FakeNode::new("arm,pl011").with_reg(BASE, 0x1000).with_interrupt(&[0, 1, 4])
    }

    fn probed() -> (&'static FakePlatform, FakeRegisters, Arc<dyn Uart>) {
        let platform = FakePlatform::new();
        let registers = platform.add_registers(BASE, 0x1000);
        registers.write(0x18, RXFE | TXFE);
        (DRIVER.probe)(&node(), platform).unwrap();
        let uart = platform.uart.lock().unwrap().clone().unwrap();
        (platform, registers, uart)
    }

    #[test]
    fn probe_keeps_baud_rate_and_modem_lines() {
        let platform = FakePlatform::new();
        let registers = platform.add_registers(BASE, 0x1000);
        registers.write(0x24, 26);
        registers.write(0x28, 3);
        registers.write(0x2c, 0x02);
        registers.write(0x30, 0xcc01);
        registers.write(0x38, 0x7ff);
        (DRIVER.probe)(&node(), platform).unwrap();
        assert_eq!((registers.read(0x24), registers.read(0x28)), (26, 3));
        assert_eq!(registers.read(0x2c), 0x70, "8N1 with FIFOs");
        assert_eq!(registers.read(0x30), 0xcf01, "enabled, lines as they were");
        assert_eq!(registers.read(0x38), 0, "no interrupt yet");
        assert_eq!(registers.read(0x44), 0x7ff);
    }

    #[test]
    fn probe_leaves_registers_that_sbsa_lacks() {
        let platform = FakePlatform::new();
        let registers = platform.add_registers(BASE, 0x1000);
        let node = FakeNode::new("arm,sbsa-uart").with_reg(BASE, 0x1000).with_interrupt(&[0, 1, 4]);
        (DRIVER.probe)(&node, platform).unwrap();
        for offset in [0x24, 0x28, 0x2c, 0x30, 0x34] {
            assert_eq!(registers.read(offset), 0, "offset {offset:#x}");
        }
    }

    #[test]
    fn receive_interrupt_includes_timeout() {
        let (_, registers, uart) = probed();
        uart.enable_receive_interrupt();
        assert_eq!(registers.read(0x38), 0x50);
    }

    #[test]
    fn read_of_empty_fifo_is_none() {
        let (_, _, uart) = probed();
        assert_eq!(uart.read_byte(), None);
    }

    #[test]
    fn read_gives_data_and_break_as_nul() {
        let (_, registers, uart) = probed();
        registers.write(0x18, TXFE);
        registers.write(0x00, 0x841);
        assert_eq!(uart.read_byte(), Some(b'A'), "an overrun does not spoil the byte");
        registers.write(0x00, 0x5ff);
        assert_eq!(uart.read_byte(), Some(0));
    }

    #[test]
    fn read_drops_bytes_with_errors() {
        let (_, registers, uart) = probed();
        registers.write(0x18, TXFE);
        registers.write(0x00, 0x141);
        let reader = thread::spawn(move || uart.read_byte());
        thread::sleep(Duration::from_millis(5));
        registers.write(0x18, RXFE | TXFE);
        assert_eq!(reader.join().unwrap(), None);
    }

    #[test]
    fn write_sends_all_bytes() {
        let (_, registers, uart) = probed();
        uart.write(b"a text longer than one burst of the FIFO!");
        assert_eq!(registers.read(0x00), u32::from(b'!'));
    }

    #[test]
    fn write_waits_for_room() {
        let (_, registers, uart) = probed();
        registers.write(0x18, RXFE | TXFF);
        let writer = thread::spawn(move || uart.write(b"x"));
        thread::sleep(Duration::from_millis(5));
        assert_eq!(registers.read(0x00), 0);
        registers.write(0x18, RXFE);
        writer.join().unwrap();
        assert_eq!(registers.read(0x00), u32::from(b'x'));
    }

    #[test]
    fn interrupt_reaches_the_kernel() {
        let (platform, ..) = probed();
        platform.handlers.lock().unwrap()[0].handle_irq();
        assert_eq!(platform.uart_interrupts.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn probe_is_deferred_with_the_interrupt() {
        let platform = FakePlatform::new();
        platform.add_registers(BASE, 0x1000);
        *platform.irq_error.lock().unwrap() = Some(ProbeError::Deferred);
        assert_eq!((DRIVER.probe)(&node(), platform), Err(ProbeError::Deferred));
        assert!(platform.uart.lock().unwrap().is_none());
    }

    #[test]
    fn probe_without_interrupt_gives_a_polled_port() {
        let platform = FakePlatform::new();
        platform.add_registers(BASE, 0x1000);
        let node = FakeNode::new("arm,pl011").with_reg(BASE, 0x1000);
        assert_eq!((DRIVER.probe)(&node, platform), Ok(()));
        assert!(platform.uart.lock().unwrap().is_some());
    }

    #[test]
    fn probe_of_bad_node_says_what_is_wrong() {
        let platform = FakePlatform::new();
        platform.add_registers(BASE, 0x1000);
        let probe = |node: FakeNode| (DRIVER.probe)(&node, platform);
        assert_eq!(probe(FakeNode::new("arm,pl011")), Err(ProbeError::BadNode("reg")));
        let short = probe(FakeNode::new("arm,pl011").with_reg(BASE, 0x40));
        assert_eq!(short, Err(ProbeError::BadNode("reg: smaller than the device's registers")));
        let elsewhere = probe(FakeNode::new("arm,pl011").with_reg(0, 0x1000));
        assert_eq!(elsewhere, Err(ProbeError::Platform(hal::PlatformError::BadRange)));
    }
}
