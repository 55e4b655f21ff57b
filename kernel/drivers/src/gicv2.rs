//! GICv2: the interrupt controller of the Raspberry Pi 4 and of QEMU's `virt` by default.
//!
//! Runs in either security state. Seen from the non-secure side group 1 is all there is and bit 0 of both control
//! registers enables it; on the secure side, or without the security extensions, the same bit enables group 0, which
//! is where all interrupts are after reset. So the same writes are right in each case (IHI 0048B, 4.3.1 and 4.4.1).
//!
//! Shared interrupts go to the CPU that probes. Enabling is a read-modify-write under a lock; callers have interrupts
//! masked. Everything else is one access, and needs no lock.
//!
//! Reference: ARM Generic Interrupt Controller Architecture version 2.0, ARM IHI 0048B.b.

use alloc::sync::Arc;

use hal::{DeviceNode, Driver, Irq, IrqChip, IrqError, Mmio, PhysAddr, PhysRange, Platform, ProbeError};
use spin::Mutex;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

use crate::{
    gic::{self, Counts, SPECIAL_START, SPI_START},
    registers::{Registers, map_reg},
};

register_bitfields! [
    u32,
    /// Distributor control register, 4.3.1.
    GICD_CTLR [ENABLE OFFSET(0) NUMBITS(1) []],
    /// Interrupt controller type register, 4.3.2.
    GICD_TYPER [IT_LINES_NUMBER OFFSET(0) NUMBITS(5) []],
    /// CPU interface control register, 4.4.1.
    GICC_CTLR [
        ENABLE OFFSET(0) NUMBITS(1) [],
        /// The bypass disable bits, which firmware has set as the board needs.
        BYPASS_DISABLE OFFSET(5) NUMBITS(4) [],
    ],
    /// Interrupt acknowledge register, 4.4.4.
    GICC_IAR [
        INTERRUPT_ID OFFSET(0) NUMBITS(10) [],
        CPUID OFFSET(10) NUMBITS(3) [],
    ],
];

register_structs! {
    Distributor {
        (0x000 => ctlr: ReadWrite<u32, GICD_CTLR::Register>),
        (0x004 => typer: ReadOnly<u32, GICD_TYPER::Register>),
        (0x008 => iidr: ReadOnly<u32>),
        (0x00c => _reserved0),
        (0x080 => igroupr: [ReadWrite<u32>; 32]),
        (0x100 => isenabler: [ReadWrite<u32>; 32]),
        (0x180 => icenabler: [ReadWrite<u32>; 32]),
        (0x200 => ispendr: [ReadWrite<u32>; 32]),
        (0x280 => icpendr: [ReadWrite<u32>; 32]),
        (0x300 => isactiver: [ReadWrite<u32>; 32]),
        (0x380 => icactiver: [ReadWrite<u32>; 32]),
        (0x400 => ipriorityr: [ReadWrite<u32>; 256]),
        (0x800 => itargetsr: [ReadWrite<u32>; 256]),
        (0xc00 => icfgr: [ReadWrite<u32>; 64]),
        (0xd00 => _reserved1),
        (0xf00 => sgir: WriteOnly<u32>),
        (0xf04 => _reserved2),
        (0x1000 => @END),
    },
    CpuInterface {
        (0x00 => ctlr: ReadWrite<u32, GICC_CTLR::Register>),
        (0x04 => pmr: ReadWrite<u32>),
        (0x08 => bpr: ReadWrite<u32>),
        (0x0c => iar: ReadOnly<u32, GICC_IAR::Register>),
        (0x10 => eoir: WriteOnly<u32>),
        (0x14 => @END),
    }
}

/// All interrupts have the same priority: none preempts another. The value is in the half that the non-secure side may
/// use, and has its low bits clear, which a GIC need not implement.
const PRIORITY: u32 = 0xa0;
/// Lets every priority above the idle one through.
const PRIORITY_MASK: u32 = 0xf0;
const ALL: u32 = u32::MAX;

/// The interrupt controller.
pub struct GicV2 {
    distributor: Registers<Distributor>,
    cpu_interface: Registers<CpuInterface>,
    nr_irqs: u32,
    /// Held while an `icfgr` word is rewritten.
    configuration: Mutex<()>,
}

impl GicV2 {
    /// Takes over the distributor: every shared interrupt is off, level-triggered and aimed at the calling CPU.
    ///
    /// # Safety
    ///
    /// The mappings must be of the two register blocks of a GICv2 that nothing else drives.
    unsafe fn new(distributor: Mmio, cpu_interface: Mmio) -> Result<Self, ProbeError> {
        // SAFETY: The caller's promise. Only `icfgr` is read before it is written, and that under a lock; the banked
        // registers are a CPU's own.
        let (distributor, cpu_interface) =
            unsafe { (Registers::<Distributor>::new(distributor)?, Registers::<CpuInterface>::new(cpu_interface)?) };
        let lines = distributor.typer.read(GICD_TYPER::IT_LINES_NUMBER);
        let nr_irqs = (32 * (lines + 1)).min(SPECIAL_START);
        let gic = Self { distributor, cpu_interface, nr_irqs, configuration: Mutex::new(()) };
        gic.init_distributor();
        Ok(gic)
    }

    fn init_distributor(&self) {
        let distributor = &self.distributor;
        distributor.ctlr.set(0);
        let target = self.own_target();
        let words = |bits: u32| (SPI_START * bits / 32) as usize..(self.nr_irqs * bits).div_ceil(32) as usize;
        for word in words(1) {
            distributor.icenabler[word].set(ALL);
            distributor.icpendr[word].set(ALL);
            distributor.icactiver[word].set(ALL);
        }
        for word in words(2) {
            distributor.icfgr[word].set(0);
        }
        for word in words(8) {
            distributor.ipriorityr[word].set(four(PRIORITY));
            distributor.itargetsr[word].set(four(target));
        }
        distributor.ctlr.write(GICD_CTLR::ENABLE::SET);
    }

    /// The bit of the calling CPU in a target field. The first eight target registers are read-only and say just that;
    /// 0 on a machine of one CPU, where nothing is to be targeted (4.3.12).
    fn own_target(&self) -> u32 {
        let word = self.distributor.itargetsr.iter().take(8).map(Readable::get).find(|&word| word != 0);
        let word = word.unwrap_or(0);
        (word | word >> 8 | word >> 16 | word >> 24) & 0xff
    }

    fn set_trigger(&self, irq: Irq) {
        let Some(register) = self.distributor.icfgr.get(irq.number as usize / 16) else {
            return;
        };
        let bit = 0b10 << (irq.number % 16 * 2);
        let _guard = self.configuration.lock();
        let old = register.get();
        let new = if gic::is_edge(irq.trigger) { old | bit } else { old & !bit };
        if old != new {
            register.set(new);
        }
    }
}

/// The same byte in all four places of a word.
const fn four(byte: u32) -> u32 {
    byte * 0x0101_0101
}

impl IrqChip for GicV2 {
    fn translate(&self, cells: &[u32]) -> Result<Irq, IrqError> {
        let &[kind, number, flags] = cells else {
            return Err(IrqError::BadSpecifier);
        };
        let counts = Counts { spis: self.nr_irqs.saturating_sub(SPI_START), espis: 0, eppis: 0 };
        gic::translate(kind, number, flags, counts)
    }

    fn nr_irqs(&self) -> u32 {
        self.nr_irqs
    }

    fn init_cpu(&self) {
        let (distributor, cpu_interface) = (&self.distributor, &self.cpu_interface);
        distributor.icenabler[0].set(ALL);
        distributor.icactiver[0].set(ALL);
        distributor.icpendr[0].set(ALL);
        for word in &distributor.ipriorityr[..8] {
            word.set(four(PRIORITY));
        }
        cpu_interface.pmr.set(PRIORITY_MASK);
        cpu_interface.bpr.set(0);
        let bypass = cpu_interface.ctlr.read(GICC_CTLR::BYPASS_DISABLE);
        cpu_interface.ctlr.write(GICC_CTLR::ENABLE::SET + GICC_CTLR::BYPASS_DISABLE.val(bypass));
    }

    fn enable(&self, irq: Irq) {
        let Some(register) = self.distributor.isenabler.get(irq.number as usize / 32) else {
            return;
        };
        // The trigger may only be changed while the interrupt is off (4.3.13).
        self.disable(irq);
        self.set_trigger(irq);
        register.set(1 << (irq.number % 32));
    }

    fn disable(&self, irq: Irq) {
        if let Some(register) = self.distributor.icenabler.get(irq.number as usize / 32) {
            register.set(1 << (irq.number % 32));
        }
    }

    fn acknowledge(&self) -> Option<u32> {
        // No software-generated interrupt is ever sent, so the CPU number beside the interrupt's is always 0, and
        // `end` gets back all that was read.
        let number = self.cpu_interface.iar.read(GICC_IAR::INTERRUPT_ID);
        (number < SPECIAL_START).then_some(number)
    }

    fn end(&self, number: u32) {
        self.cpu_interface.eoir.set(number);
    }
}

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let distributor = map_reg(node, platform, 0)?;
    let cpu_interface = map_reg(node, platform, 1)?;
    if secure_set_up(node, platform) {
        log::info!("{}: interrupts moved to the non-secure group", node.path());
    }
    // SAFETY: The tree says that these are a GICv2's registers, and one driver is probed for each node.
    let gic = Arc::new(unsafe { GicV2::new(distributor, cpu_interface)? });
    log::info!("{}: GICv2, {} interrupts", node.path(), gic.nr_irqs());
    platform.add_irq_chip(node, gic);
    Ok(())
}

/// Hands all interrupts to the non-secure world (ARM IHI 0048B.b, 4.3.4 and 4.4.2), where no firmware has and the
/// kernel can. Says whether it did.
fn secure_set_up(node: &dyn DeviceNode, platform: &'static dyn Platform) -> bool {
    const GICD_CTLR: u64 = 0x000;
    const GICD_IGROUPR: u64 = 0x080;
    const GICC_CTLR: u64 = 0x000;
    const GICC_PMR: u64 = 0x004;
    const BOTH_GROUPS: u32 = 0b11;
    let (Some(distributor), Some(cpu_interface)) = (node.reg(0), node.reg(1)) else { return false };
    let write = |block: PhysRange, offset: u64, value: u32| {
        platform.secure_write(PhysAddr::new(block.start.get() + offset), value)
    };
    (0..32).all(|word| write(distributor, GICD_IGROUPR + 4 * word, ALL))
        && write(distributor, GICD_CTLR, BOTH_GROUPS)
        && write(cpu_interface, GICC_PMR, 0xff)
        && write(cpu_interface, GICC_CTLR, BOTH_GROUPS)
}

/// GICv2 and the compatible controllers before it.
pub static DRIVER: Driver = Driver {
    name: "gicv2",
    compatible: &[
        "arm,gic-400",
        "arm,cortex-a15-gic",
        "arm,cortex-a7-gic",
        "arm,cortex-a9-gic",
        "arm,eb11mp-gic",
        "arm,pl390",
    ],
    probe,
};

#[cfg(test)]
mod tests {
    use hal::Trigger;

    use super::*;
    use crate::fake::{FakeNode, FakePlatform, FakeRegisters};

    fn probed() -> (FakeRegisters, FakeRegisters, Arc<dyn IrqChip>) {
        let platform = FakePlatform::new();
        let distributor = platform.add_registers(0x800_0000, 0x1_0000);
        let cpu_interface = platform.add_registers(0x801_0000, 0x1_0000);
        // 288 interrupts; the fourth CPU boots.
        distributor.write(0x004, 8);
        distributor.write(0x800, 0x0808_0808);
        let node = FakeNode::new("arm,cortex-a15-gic").with_reg(0x800_0000, 0x1_0000).with_reg(0x801_0000, 0x1_0000);
        (DRIVER.probe)(&node, platform).unwrap();
        let chip = platform.irq_chip.lock().unwrap().clone().unwrap();
        (distributor, cpu_interface, chip)
    }

    #[test]
    fn probe_turns_shared_interrupts_off_and_aims_them_here() {
        let (distributor, _, chip) = probed();
        assert_eq!(chip.nr_irqs(), 288);
        assert_eq!(distributor.read(0x000), 1);
        for word in 1..9 {
            assert_eq!(distributor.read(0x180 + 4 * word), u32::MAX, "ICENABLER{word}");
        }
        assert_eq!(distributor.read(0x180 + 4 * 9), 0, "beyond the last interrupt");
        assert_eq!(distributor.read(0x400 + 32), 0xa0a0_a0a0);
        assert_eq!(distributor.read(0x800 + 32), 0x0808_0808);
        assert_eq!(distributor.read(0x800 + 284), 0x0808_0808);
        assert_eq!(distributor.read(0x800 + 288), 0);
        assert_eq!(distributor.read(0x180), 0, "private interrupts are init_cpu's");
    }

    #[test]
    fn init_cpu_opens_the_cpu_interface_and_keeps_bypass_bits() {
        let (distributor, cpu_interface, chip) = probed();
        cpu_interface.write(0x00, 0x1e0);
        chip.init_cpu();
        assert_eq!(cpu_interface.read(0x00), 0x1e1);
        assert_eq!(cpu_interface.read(0x04), 0xf0);
        assert_eq!(distributor.read(0x180), u32::MAX);
        assert_eq!(distributor.read(0x41c), 0xa0a0_a0a0);
    }

    #[test]
    fn enable_sets_trigger_and_one_bit() {
        let (distributor, _, chip) = probed();
        distributor.write(0xc00 + 4 * 3, 0x5000_0001);
        let irq = Irq { number: 49, trigger: Trigger::EdgeRising, per_cpu: false };
        chip.enable(irq);
        assert_eq!(distributor.read(0xc00 + 4 * 3), 0x5000_0009);
        assert_eq!(distributor.read(0x100 + 4), 1 << 17);
        chip.enable(Irq { trigger: Trigger::LevelHigh, ..irq });
        assert_eq!(distributor.read(0xc00 + 4 * 3), 0x5000_0001);
        chip.disable(irq);
        assert_eq!(distributor.read(0x180 + 4), 1 << 17);
    }

    #[test]
    fn numbers_beyond_the_registers_are_ignored() {
        let (_, _, chip) = probed();
        let irq = Irq { number: 5000, trigger: Trigger::LevelHigh, per_cpu: false };
        chip.enable(irq);
        chip.disable(irq);
    }

    #[test]
    fn acknowledge_of_special_numbers_is_none() {
        let (_, cpu_interface, chip) = probed();
        for number in 1020..1024 {
            cpu_interface.write(0x0c, number);
            assert_eq!(chip.acknowledge(), None, "{number}");
        }
        cpu_interface.write(0x0c, 33);
        assert_eq!(chip.acknowledge(), Some(33));
        chip.end(33);
        assert_eq!(cpu_interface.read(0x10), 33);
    }

    #[test]
    fn translate_takes_three_cells() {
        let (_, _, chip) = probed();
        let irq = Irq { number: 33, trigger: Trigger::LevelHigh, per_cpu: false };
        assert_eq!(chip.translate(&[0, 1, 4]), Ok(irq));
        assert_eq!(chip.translate(&[0, 256, 4]), Err(IrqError::OutOfRange));
        assert_eq!(chip.translate(&[2, 0, 4]), Err(IrqError::OutOfRange), "extended kinds are GICv3's");
        for cells in [&[][..], &[0, 1], &[0, 1, 4, 0]] {
            assert_eq!(chip.translate(cells), Err(IrqError::BadSpecifier), "{cells:?}");
        }
    }

    #[test]
    fn probe_of_bad_node_says_what_is_wrong() {
        let platform = FakePlatform::new();
        platform.add_registers(0, 0x2000);
        let probe = |node: FakeNode| (DRIVER.probe)(&node, platform);
        let node = || FakeNode::new("arm,gic-400");
        assert_eq!(probe(node()), Err(ProbeError::BadNode("reg")));
        assert_eq!(probe(node().with_reg(0, 0x1000)), Err(ProbeError::BadNode("reg: second entry")));
        let short = probe(node().with_reg(0, 0x100).with_reg(0x1000, 0x100));
        assert_eq!(short, Err(ProbeError::BadNode("reg: smaller than the device's registers")));
    }
}
