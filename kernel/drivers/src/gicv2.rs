//! GICv2: the interrupt controller of the Raspberry Pi 4 and of QEMU's `virt` by default.
//!
//! Runs in either security state. Seen from the non-secure side group 1 is all there is and bit 0 of both control
//! registers enables it; on the secure side, or without the security extensions, the same bit enables group 0, which
//! is where all interrupts are after reset. So the same writes are right in each case (IHI 0048B, 4.3.1 and 4.4.1).
//!
//! Shared interrupts go to the CPU that probes. Enabling is a read-modify-write under a lock; callers have interrupts
//! masked. Everything else is one access, and needs no lock. The registers of the first 32 interrupts are banked: each
//! CPU sees its own.
//!
//! Reference: ARM Generic Interrupt Controller Architecture version 2.0, ARM IHI 0048B.b.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, Ordering, fence};

use hal::{
    Acknowledged, DeviceNode, Driver, Irq, IrqChip, IrqError, MAX_CPUS, Mmio, PhysAddr, PhysRange, Platform, ProbeError,
};
use spin::Mutex;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

use crate::{
    gic::{self, Counts, SGI_ENABLES, SPECIAL_START, SPI_START},
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
    /// Software generated interrupt register, 4.3.15.
    GICD_SGIR [
        INTERRUPT_ID OFFSET(0) NUMBITS(4) [],
        CPU_TARGET_LIST OFFSET(16) NUMBITS(8) [],
        TARGET_LIST_FILTER OFFSET(24) NUMBITS(2) [TargetList = 0],
    ],
    /// Interrupt acknowledge register, 4.4.4. The end of interrupt register takes the same value, 4.4.5.
    GICC_IAR [
        INTERRUPT_ID OFFSET(0) NUMBITS(10) [],
        /// The CPU that sent a software-generated interrupt.
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
        (0xf00 => sgir: WriteOnly<u32, GICD_SGIR::Register>),
        (0xf04 => _reserved2),
        (0xf10 => cpendsgir: [ReadWrite<u32>; 4]),
        (0xf20 => _reserved3),
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
    /// The bit of each CPU in a target field; 0 until it has been prepared.
    targets: [AtomicU8; MAX_CPUS],
    /// Where the banked registers of the secure side are.
    secure: Option<Secure>,
}

/// The way to the registers of the secure side, where no firmware has set them up and the kernel can.
struct Secure {
    distributor: PhysRange,
    cpu_interface: PhysRange,
    platform: &'static dyn Platform,
}

impl GicV2 {
    /// Takes over the distributor: every shared interrupt is off, level-triggered and aimed at the calling CPU.
    ///
    /// # Safety
    ///
    /// The mappings must be of the two register blocks of a GICv2 that nothing else drives.
    unsafe fn new(distributor: Mmio, cpu_interface: Mmio, secure: Option<Secure>) -> Result<Self, ProbeError> {
        // SAFETY: The caller's promise. Only `icfgr` is read before it is written, and that under a lock; the banked
        // registers are a CPU's own.
        let (distributor, cpu_interface) =
            unsafe { (Registers::<Distributor>::new(distributor)?, Registers::<CpuInterface>::new(cpu_interface)?) };
        let lines = distributor.typer.read(GICD_TYPER::IT_LINES_NUMBER);
        let nr_irqs = (32 * (lines + 1)).min(SPECIAL_START);
        let targets = [const { AtomicU8::new(0) }; MAX_CPUS];
        let gic = Self { distributor, cpu_interface, nr_irqs, configuration: Mutex::new(()), targets, secure };
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

    fn init_cpu(&self, cpu: usize) {
        if let Some(secure) = &self.secure {
            secure.set_up_cpu();
        }
        let (distributor, cpu_interface) = (&self.distributor, &self.cpu_interface);
        distributor.icenabler[0].set(ALL);
        distributor.icactiver[0].set(ALL);
        distributor.icpendr[0].set(ALL);
        for word in &distributor.cpendsgir {
            word.set(ALL);
        }
        for word in &distributor.ipriorityr[..8] {
            word.set(four(PRIORITY));
        }
        cpu_interface.pmr.set(PRIORITY_MASK);
        cpu_interface.bpr.set(0);
        let bypass = cpu_interface.ctlr.read(GICC_CTLR::BYPASS_DISABLE);
        cpu_interface.ctlr.write(GICC_CTLR::ENABLE::SET + GICC_CTLR::BYPASS_DISABLE.val(bypass));
        distributor.isenabler[0].set(SGI_ENABLES);
        if let Some(target) = self.targets.get(cpu) {
            target.store(self.own_target() as u8, Ordering::Release);
        }
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

    fn acknowledge(&self) -> Option<Acknowledged> {
        let taken = self.cpu_interface.iar.extract();
        // What the sender of a software-generated interrupt wrote before is read only after the acknowledgement.
        fence(Ordering::Acquire);
        let number = taken.read(GICC_IAR::INTERRUPT_ID);
        (number < SPECIAL_START).then(|| Acknowledged { cause: gic::cause(number), token: taken.get() })
    }

    fn end(&self, interrupt: Acknowledged) {
        // With the number of the sending CPU beside the interrupt's, as 4.4.5 asks.
        self.cpu_interface.eoir.set(interrupt.token);
    }

    fn send_ipi(&self, cpu: usize, ipi: u32) {
        let target = self.targets.get(cpu).map_or(0, |target| target.load(Ordering::Acquire));
        if target != 0 {
            // A DMB: memory written before is seen before the interrupt comes (Arm ARM DDI 0487, B2.3).
            fence(Ordering::SeqCst);
            self.distributor.sgir.write(
                GICD_SGIR::TARGET_LIST_FILTER::TargetList
                    + GICD_SGIR::CPU_TARGET_LIST.val(target.into())
                    + GICD_SGIR::INTERRUPT_ID.val(ipi),
            );
        }
    }
}

impl Secure {
    fn write(&self, block: PhysRange, offset: u64, value: u32) -> bool {
        self.platform.secure_write(PhysAddr::new(block.start.get() + offset), value)
    }

    /// Hands all interrupts to the non-secure world (ARM IHI 0048B.b, 4.3.4 and 4.4.2). Says whether it could.
    fn set_up(&self) -> bool {
        const GICD_CTLR: u64 = 0x000;
        (0..32).all(|word| self.write(self.distributor, GICD_IGROUPR + 4 * word, ALL))
            && self.write(self.distributor, GICD_CTLR, BOTH_GROUPS)
    }

    /// The part of it that each CPU has for itself.
    fn set_up_cpu(&self) -> bool {
        const GICC_CTLR: u64 = 0x000;
        const GICC_PMR: u64 = 0x004;
        self.write(self.distributor, GICD_IGROUPR, ALL)
            && self.write(self.cpu_interface, GICC_PMR, 0xff)
            && self.write(self.cpu_interface, GICC_CTLR, BOTH_GROUPS)
    }
}

const GICD_IGROUPR: u64 = 0x080;
/// Of both control registers: groups 0 and 1 are on.
const BOTH_GROUPS: u32 = 0b11;

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let distributor = map_reg(node, platform, 0)?;
    let cpu_interface = map_reg(node, platform, 1)?;
    let secure = match (node.reg(0), node.reg(1)) {
        (Some(distributor), Some(cpu_interface)) => Some(Secure { distributor, cpu_interface, platform }),
        _ => None,
    };
    let secure = secure.filter(Secure::set_up);
    if secure.is_some() {
        log::info!("{}: interrupts moved to the non-secure group", node.path());
    }
    // SAFETY: The tree says that these are a GICv2's registers, and one driver is probed for each node.
    let gic = Arc::new(unsafe { GicV2::new(distributor, cpu_interface, secure)? });
    log::info!("{}: GICv2, {} interrupts", node.path(), gic.nr_irqs());
    platform.add_irq_chip(node, gic);
    Ok(())
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
    remove: None,
};

#[cfg(test)]
mod tests {
    use hal::{Cause, Trigger};

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
        chip.init_cpu(3);
        assert_eq!(cpu_interface.read(0x00), 0x1e1);
        assert_eq!(cpu_interface.read(0x04), 0xf0);
        assert_eq!(distributor.read(0x180), u32::MAX);
        assert_eq!(distributor.read(0x41c), 0xa0a0_a0a0);
        assert_eq!(distributor.read(0x100), 0xff, "software-generated interrupts are on");
        assert_eq!(distributor.read(0xf10), u32::MAX, "and none of before is pending");
    }

    #[test]
    fn ipi_goes_to_the_target_bit_of_a_prepared_cpu() {
        let (distributor, _, chip) = probed();
        chip.send_ipi(3, 2);
        assert_eq!(distributor.read(0xf00), 0, "not prepared yet");
        chip.init_cpu(3);
        chip.send_ipi(3, 2);
        assert_eq!(distributor.read(0xf00), 0x0008_0002);
        chip.send_ipi(MAX_CPUS, 1);
        assert_eq!(distributor.read(0xf00), 0x0008_0002, "there is no such CPU");
    }

    #[test]
    fn end_of_an_ipi_names_the_sender() {
        let (_, cpu_interface, chip) = probed();
        cpu_interface.write(0x0c, 5 << 10 | 1);
        let taken = chip.acknowledge().unwrap();
        assert_eq!(taken.cause, Cause::Ipi(1));
        chip.end(taken);
        assert_eq!(cpu_interface.read(0x10), 5 << 10 | 1);
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
        let taken = chip.acknowledge().unwrap();
        assert_eq!(taken.cause, Cause::Line(33));
        chip.end(taken);
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
