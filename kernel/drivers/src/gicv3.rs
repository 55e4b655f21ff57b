//! GICv3 and GICv4: distributor, one redistributor for each CPU, and a CPU interface in system registers.
//!
//! The registers are `arm-gic`'s; here are the discovery through the device tree, the order of the steps, and the
//! translation of interrupt numbers. Written for the non-secure side, or a GIC with one security state: all interrupts
//! are in group 1.
//!
//! A CPU finds its redistributor by the affinity that both have, not by a CPU number, since the order of the frames is
//! the chip maker's (IHI 0069H, 12.10). Frames are mapped one by one until the one marked as last: a tree's region may
//! be far larger (123 CPUs on QEMU's `virt`).
//!
//! Distributor and redistributors are under locks; callers of `enable` and `disable` have interrupts masked.
//! Acknowledging, ending and interrupting another CPU touch the CPU's own system registers only.
//!
//! Reference: Arm Generic Interrupt Controller Architecture Specification v3 and v4, Arm IHI 0069H.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(test))]
use aarch64_cpu::asm::barrier;
use arm_gic::{
    IntId, InterruptGroup, Trigger, UniqueMmioPointer,
    gicv3::{
        GicCpuInterface, GicDistributor, GicRedistributor,
        registers::{Gicd, GicdCtlr, GicrSgi},
    },
};
use arm_sysregs::el1::{
    accessors::{read_icc_sre_el1, read_mpidr_el1, write_icc_bpr1_el1, write_icc_ctlr_el1, write_icc_sgi1r_el1},
    registers::{IccBpr1El1, IccCtlrEl1, IccSgi1rEl1, IccSreEl1},
};
use hal::{
    Acknowledged, DeviceNode, Driver, Irq, IrqChip, IrqError, MAX_CPUS, Mmio, NR_IPIS, PhysAddr, PhysRange, Platform,
    ProbeError,
};
use spin::Mutex;

use crate::{
    gic::{self, Counts, EPPI_START, ESPI_START, SPECIAL_END, SPECIAL_START, SPI_START},
    registers::map_reg,
};

/// The affinity fields of MPIDR_EL1 (Arm ARM DDI 0487, D24.2.118): Aff3 in bits 32 to 39, Aff2 to Aff0 in 0 to 23.
const AFFINITY: u64 = 0xff_00ff_ffff;
/// Lets every priority through.
const PRIORITY_MASK: u8 = 0xff;
/// Of the two 64 KiB frames of a redistributor that are used here (12.10).
const FRAMES_SIZE: u64 = size_of::<GicrSgi>() as u64;
/// The most regions of redistributors in one tree; real ones have one or two.
const MAX_REGIONS: usize = 64;

/// No CPU has this affinity: bits 24 to 31 are always clear.
const NO_AFFINITY: u64 = u64::MAX;

/// Orders system-register effects with the memory accesses and instructions around them. An acknowledged interrupt
/// counts as taken only after a DSB (IHI 0069H, 4.2.6); SRE only after an ISB (12.2.23).
fn synchronise() {
    #[cfg(not(test))]
    {
        barrier::dsb(barrier::SY);
        barrier::isb(barrier::SY);
    }
}

/// The redistributor of one CPU.
struct Redistributor {
    /// As in MPIDR_EL1, other bits clear.
    affinity: u64,
    registers: Mutex<GicRedistributor<'static>>,
    nr_eppis: u32,
    is_last: bool,
    /// Whether four frames belong to it, not two.
    has_virtual_lpis: bool,
}

impl Redistributor {
    /// Reads what the redistributor says of itself.
    ///
    /// # Safety
    ///
    /// `mmio` must map the first two frames of a redistributor that nothing else drives.
    unsafe fn new(mmio: Mmio) -> Result<Self, ProbeError> {
        let base = mmio.base.cast::<GicrSgi>();
        if mmio.len < size_of::<GicrSgi>() || !base.is_aligned() {
            return Err(ProbeError::BadNode("reg: smaller than a redistributor"));
        }
        // SAFETY: Large enough, aligned, mapped for good, and by the caller's promise nobody else's.
        let registers = GicRedistributor::new(unsafe { UniqueMmioPointer::new(base) });
        if !matches!(registers.pidr2().arch_rev(), 3 | 4) {
            return Err(ProbeError::Device("a GICv3 redistributor where the tree has one"));
        }
        let typer = registers.typer();
        Ok(Self {
            affinity: typer.core_mpidr() & AFFINITY,
            nr_eppis: typer.max_eppi_count().min(IntId::MAX_EPPI_COUNT),
            is_last: typer.last_redistributor(),
            has_virtual_lpis: typer.virtual_lpis_supported(),
            registers: Mutex::new(registers),
        })
    }
}

/// The interrupt controller.
pub struct GicV3 {
    distributor: Mutex<GicDistributor<'static>>,
    redistributors: Vec<Redistributor>,
    counts: Counts,
    /// Where shared interrupts go: the affinity of the CPU that probed.
    boot_affinity: u64,
    /// The affinity of each CPU; [`NO_AFFINITY`] until it has been prepared.
    affinities: [AtomicU64; MAX_CPUS],
}

// SAFETY: The register pointers inside are used under their locks only, and device registers are the same from every
// CPU.
unsafe impl Send for GicV3 {}
// SAFETY: As above.
unsafe impl Sync for GicV3 {}

impl GicV3 {
    /// Takes over the distributor: every shared interrupt is off, level-triggered, in group 1.
    ///
    /// # Safety
    ///
    /// `distributor` must map the distributor that the redistributors belong to, and nothing else may drive it.
    unsafe fn new(distributor: Mmio, redistributors: Vec<Redistributor>) -> Result<Self, ProbeError> {
        let base = distributor.base.cast::<Gicd>();
        if distributor.len < size_of::<Gicd>() || !base.is_aligned() {
            return Err(ProbeError::BadNode("reg: smaller than a distributor"));
        }
        // SAFETY: Large enough, aligned, mapped for good, and by the caller's promise nobody else's.
        let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(base) });
        if !matches!(distributor.pidr2().arch_rev(), 3 | 4) {
            return Err(ProbeError::Device("a GICv3 distributor where the tree has one"));
        }
        // Affinity routing may only be turned on while all groups are off (12.9.4).
        let groups = GicdCtlr::EnableGrp0 | GicdCtlr::EnableGrp1NS | GicdCtlr::EnableGrp1S;
        distributor.modify_control(groups, false);
        distributor.enable_all_interrupts(false);
        // Priorities, groups and triggers; then affinity routing and group 1. Seen from the non-secure side, the bits
        // that are set are ARE_NS and EnableGrp1A.
        distributor.configure_default_settings();
        let typer = distributor.typer();
        let counts = Counts {
            spis: typer.num_spis(),
            espis: typer.num_espis(),
            eppis: redistributors.iter().map(|redistributor| redistributor.nr_eppis).min().unwrap_or(0),
        };
        let boot_affinity = own_affinity();
        let affinities = [const { AtomicU64::new(NO_AFFINITY) }; MAX_CPUS];
        Ok(Self { distributor: Mutex::new(distributor), redistributors, counts, boot_affinity, affinities })
    }

    fn own_redistributor(&self) -> Option<&Redistributor> {
        let affinity = own_affinity();
        self.redistributors.iter().find(|redistributor| redistributor.affinity == affinity)
    }

    fn is_private(number: u32) -> bool {
        number < SPI_START || (EPPI_START..ESPI_START).contains(&number)
    }

    /// The number as `arm-gic`'s type; `None` for one that this controller does not have, which it would panic on.
    fn id(&self, number: u32) -> Option<IntId> {
        let counts = self.counts;
        let exists = number < SPI_START
            || (SPI_START..SPI_START + counts.spis).contains(&number)
            || (EPPI_START..EPPI_START + counts.eppis).contains(&number)
            || (ESPI_START..ESPI_START + counts.espis).contains(&number);
        if exists { IntId::try_from(number).ok() } else { None }
    }

    fn set_enabled(&self, irq: Irq, enabled: bool) {
        let Some(id) = self.id(irq.number) else {
            return;
        };
        let trigger = if gic::is_edge(irq.trigger) { Trigger::Edge } else { Trigger::Level };
        // The numbers have been checked, so none of the calls can fail. The trigger may only be changed while the
        // interrupt is off (12.9.9).
        let done = if Self::is_private(irq.number) {
            let Some(own) = self.own_redistributor() else {
                return;
            };
            let mut registers = own.registers.lock();
            registers.enable_interrupt(id, false).and_then(|()| {
                registers.wait_for_pending_write();
                if !enabled {
                    return Ok(());
                }
                registers.set_trigger(id, trigger)?;
                registers.enable_interrupt(id, true)
            })
        } else {
            let mut registers = self.distributor.lock();
            registers.enable_interrupt(id, false).and_then(|()| {
                registers.wait_for_pending_write();
                if !enabled {
                    return Ok(());
                }
                registers.set_trigger(id, trigger)?;
                registers.set_routing(id, Some(self.boot_affinity))?;
                registers.enable_interrupt(id, true)
            })
        };
        debug_assert!(done.is_ok());
    }
}

/// What to write to ICC_SGI1R_EL1 for one CPU (IHI 0069H, 12.2.20): Aff3 in bits 48 to 55, the range of Aff0 in 44 to
/// 47, Aff2 in 32 to 39, the interrupt in 24 to 27, Aff1 in 16 to 23, and a bit for Aff0 within its range.
const fn sgi_request(affinity: u64, sgi: u32) -> u64 {
    let (aff0, aff1, aff2, aff3) =
        (affinity & 0xff, affinity >> 8 & 0xff, affinity >> 16 & 0xff, affinity >> 32 & 0xff);
    aff3 << 48 | (aff0 / 16) << 44 | aff2 << 32 | (sgi as u64 & 0xf) << 24 | aff1 << 16 | 1 << (aff0 % 16)
}

fn own_affinity() -> u64 {
    read_mpidr_el1().bits() & AFFINITY
}

impl IrqChip for GicV3 {
    fn translate(&self, cells: &[u32]) -> Result<Irq, IrqError> {
        match *cells {
            // The fourth cell names a set of CPUs that a PPI is limited to; only those CPUs' devices ask for it.
            [kind, number, flags] | [kind, number, flags, _] => gic::translate(kind, number, flags, self.counts),
            _ => Err(IrqError::BadSpecifier),
        }
    }

    fn nr_irqs(&self) -> u32 {
        match self.counts {
            Counts { espis: 1.., .. } => ESPI_START + self.counts.espis,
            Counts { eppis: 1.., .. } => EPPI_START + self.counts.eppis,
            Counts { spis, .. } => SPI_START + spis,
        }
    }

    fn init_cpu(&self, cpu: usize) {
        // Set for good where there is no older interface to fall back to; otherwise the boot code at EL2 or EL3 has
        // allowed it.
        if !read_icc_sre_el1().contains(IccSreEl1::SRE) {
            GicCpuInterface::enable_system_register_el1();
            synchronise();
        }
        match self.own_redistributor() {
            Some(own) => {
                let mut registers = own.registers.lock();
                // Fails where the CPU is awake already, which is as well.
                let _ = registers.mark_core_awake();
                registers.configure_default_settings();
                for ipi in 0..NR_IPIS {
                    // Every redistributor has all software-generated interrupts.
                    let _ = registers.enable_interrupt(IntId::sgi(ipi), true);
                }
                registers.wait_for_pending_write();
            }
            None => log::error!("GICv3: no redistributor for the CPU with affinity {:#x}", own_affinity()),
        }
        GicCpuInterface::set_priority_mask(PRIORITY_MASK);
        // EOImode 0: one write both drops the priority and deactivates. All priorities are one, so none preempts
        // another, whatever the binary point.
        write_icc_ctlr_el1(IccCtlrEl1::empty());
        write_icc_bpr1_el1(IccBpr1El1::empty());
        GicCpuInterface::enable_group1(true);
        synchronise();
        if let Some(affinity) = self.affinities.get(cpu) {
            affinity.store(own_affinity(), Ordering::Release);
        }
    }

    fn enable(&self, irq: Irq) {
        self.set_enabled(irq, true);
    }

    fn disable(&self, irq: Irq) {
        self.set_enabled(irq, false);
    }

    fn acknowledge(&self) -> Option<Acknowledged> {
        let number = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1)?.raw_value();
        synchronise();
        let is_special = (SPECIAL_START..SPECIAL_END).contains(&number);
        (!is_special).then(|| Acknowledged { cause: gic::cause(number), token: number })
    }

    fn end(&self, interrupt: Acknowledged) {
        if let Ok(id) = IntId::try_from(interrupt.token) {
            GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
            synchronise();
        }
    }

    fn send_ipi(&self, cpu: usize, ipi: u32) {
        let affinity = self.affinities.get(cpu).map_or(NO_AFFINITY, |affinity| affinity.load(Ordering::Acquire));
        if affinity != NO_AFFINITY {
            // Memory written before is seen before the interrupt comes: writes to system registers are not ordered
            // with memory accesses without a DSB, nor sent before an ISB (IHI 0069H, 4.2.6 and 12.1.7).
            synchronise();
            write_icc_sgi1r_el1(IccSgi1rEl1::from_bits_retain(sgi_request(affinity, ipi)));
            synchronise();
        }
    }
}

/// Finds the redistributors of all CPUs in the regions that follow the distributor in `reg`.
fn redistributors(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<Vec<Redistributor>, ProbeError> {
    let regions = node.property_u32("#redistributor-regions").unwrap_or(1) as usize;
    // One cell or two, in bytes.
    let stride = node.property("redistributor-stride").map(|value| {
        value.iter().try_fold(0_u64, |number, &byte| (number >> 56 == 0).then_some(number << 8 | u64::from(byte)))
    });
    let mut found = Vec::new();
    for index in 1..=regions.min(MAX_REGIONS) {
        let region = node.reg(index).ok_or(ProbeError::BadNode("reg: redistributor region"))?;
        let mut offset = 0;
        while offset + FRAMES_SIZE <= region.len {
            let start = PhysAddr::new(region.start.get().saturating_add(offset));
            let mmio = platform.map_mmio(PhysRange { start, len: FRAMES_SIZE })?;
            // SAFETY: The tree says that redistributors are here, one driver is probed for each node, and the offsets
            // are apart by at least the size of the mapping.
            let redistributor = unsafe { Redistributor::new(mmio)? };
            let (is_last, has_virtual_lpis) = (redistributor.is_last, redistributor.has_virtual_lpis);
            found.push(redistributor);
            if is_last {
                break;
            }
            let own_size = if has_virtual_lpis { 2 * FRAMES_SIZE } else { FRAMES_SIZE };
            offset += match stride {
                Some(Some(stride)) if (FRAMES_SIZE..=region.len).contains(&stride) => stride,
                Some(_) => return Err(ProbeError::BadNode("redistributor-stride")),
                None => own_size,
            };
        }
    }
    if found.is_empty() {
        return Err(ProbeError::BadNode("reg: smaller than a redistributor"));
    }
    Ok(found)
}

/// Bit 6 of GICD_CTLR: disable security.
const GICD_CTLR_DS: u32 = 1 << 6;

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let distributor = map_reg(node, platform, 0)?;
    let redistributors = redistributors(node, platform)?;
    if let Some(registers) = node.reg(0) {
        // GICD_CTLR.DS (ARM IHI 0069H, 12.9.4): one security state for all, where the secure world is the kernel's own.
        platform.secure_write(registers.start, GICD_CTLR_DS);
    }
    // SAFETY: The tree says that this is the distributor of those redistributors, and one driver is probed for each
    // node.
    let gic = Arc::new(unsafe { GicV3::new(distributor, redistributors)? });
    log::info!("{}: GICv3, {} interrupts, {} CPUs", node.path(), gic.nr_irqs(), gic.redistributors.len());
    platform.add_irq_chip(node, gic);
    Ok(())
}

/// GICv3 and GICv4.
pub static DRIVER: Driver = Driver { name: "gicv3", compatible: &["arm,gic-v3"], probe, remove: None };

#[cfg(test)]
mod tests {
    use std::sync::{MutexGuard, PoisonError};

    use arm_sysregs::el1::{
        fake::{SYSREGS, SystemRegisters},
        registers::{IccIar1El1, IccIgrpen1El1, MpidrEl1},
    };
    use hal::{Cause, Trigger};

    use super::*;
    use crate::fake::{FakeNode, FakePlatform, FakeRegisters};

    const GICD: u64 = 0x800_0000;
    const GICR: u64 = 0x80a_0000;
    const PIDR2: usize = 0xffe8;
    /// The SGI frame of the second redistributor.
    const SECOND: usize = 0x2_0000 + 0x1_0000;

    /// The fake system registers are one set for all tests: whoever holds this lock has them.
    static CPU: std::sync::Mutex<()> = std::sync::Mutex::new(());

    struct Machine {
        platform: &'static FakePlatform,
        distributor: FakeRegisters,
        redistributors: FakeRegisters,
        _cpu: MutexGuard<'static, ()>,
    }

    fn sysregs<T>(access: impl FnOnce(&mut SystemRegisters) -> T) -> T {
        access(&mut SYSREGS.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn node() -> FakeNode {
        FakeNode::new("arm,gic-v3").with_reg(GICD, 0x1_0000).with_reg(GICR, 0xf6_0000)
    }

    impl Machine {
        /// Two CPUs, of which the second, with affinity 1.2.3.4, runs; 288 interrupts.
        fn new() -> Self {
            let cpu = CPU.lock().unwrap_or_else(PoisonError::into_inner);
            sysregs(|sysregs| {
                sysregs.reset();
                sysregs.mpidr_el1 = MpidrEl1::from_bits_retain(0x1_8002_0304);
                sysregs.icc_sre_el1 = IccSreEl1::SRE;
                sysregs.icc_bpr1_el1 = IccBpr1El1::from_bits_retain(3);
            });
            let platform = FakePlatform::new();
            let distributor = platform.add_registers(GICD, 0x1_0000);
            // No memory where the region goes on: a step beyond the last one would fail to map.
            let redistributors = platform.add_registers(GICR, 0x4_0000);
            distributor.write(0x0004, 8);
            distributor.write(PIDR2, 0x3b);
            redistributors.write(PIDR2, 0x3b);
            redistributors.write64(0x0008, 0x0102_0303 << 32);
            redistributors.write(0x2_0000 + PIDR2, 0x3b);
            redistributors.write64(0x2_0008, 0x0102_0304 << 32 | 1 << 4);
            Self { platform, distributor, redistributors, _cpu: cpu }
        }

        fn probe(&self) -> Arc<dyn IrqChip> {
            (DRIVER.probe)(&node(), self.platform).unwrap();
            self.platform.irq_chip.lock().unwrap().clone().unwrap()
        }
    }

    #[test]
    fn probe_turns_shared_interrupts_off_and_routing_on() {
        let machine = Machine::new();
        machine.distributor.write(0x0000, 0x37);
        let chip = machine.probe();
        assert_eq!(chip.nr_irqs(), 288);
        assert_eq!(machine.distributor.read(0x0000) & 0x17, 0x12, "ARE and group 1 only");
        for word in 1..9 {
            assert_eq!(machine.distributor.read(0x180 + 4 * word), u32::MAX, "ICENABLER{word}");
            assert_eq!(machine.distributor.read(0x080 + 4 * word), u32::MAX, "IGROUPR{word}");
        }
        assert_eq!(machine.distributor.read(0x180 + 4 * 9), 0, "beyond the last interrupt");
        assert_eq!(machine.distributor.read(0x400 + 32), 0x8080_8080);
    }

    #[test]
    fn init_cpu_finds_its_redistributor_by_affinity() {
        let machine = Machine::new();
        let chip = machine.probe();
        chip.init_cpu(1);
        assert_eq!(machine.redistributors.read(SECOND + 0x180), u32::MAX);
        assert_eq!(machine.redistributors.read(SECOND + 0x080), u32::MAX);
        assert_eq!(machine.redistributors.read(0x1_0180), 0, "the other CPU's is left alone");
        sysregs(|sysregs| {
            assert_eq!(sysregs.icc_igrpen1_el1, IccIgrpen1El1::ENABLE);
            assert_eq!(sysregs.icc_pmr_el1.priority(), 0xff);
            assert_eq!(sysregs.icc_ctlr_el1, IccCtlrEl1::empty());
            assert_eq!(sysregs.icc_bpr1_el1, IccBpr1El1::empty());
        });
    }

    #[test]
    fn ipi_names_the_affinity_of_a_prepared_cpu() {
        assert_eq!(sgi_request(0xab_00cd_ef25, 3), 0x00ab_20cd_03ef_0020);
        let machine = Machine::new();
        let chip = machine.probe();
        chip.send_ipi(1, 2);
        sysregs(|sysregs| assert_eq!(sysregs.icc_sgi1r_el1.bits(), 0, "not prepared yet"));
        chip.init_cpu(1);
        assert_eq!(machine.redistributors.read(SECOND + 0x100), 1 << (NR_IPIS - 1), "enabled one by one");
        chip.send_ipi(1, 2);
        sysregs(|sysregs| assert_eq!(sysregs.icc_sgi1r_el1.bits(), 0x0001_0002_0203_0010));
    }

    #[test]
    fn init_cpu_turns_system_registers_on() {
        let machine = Machine::new();
        sysregs(|sysregs| sysregs.icc_sre_el1 = IccSreEl1::empty());
        machine.probe().init_cpu(1);
        sysregs(|sysregs| assert_eq!(sysregs.icc_sre_el1, IccSreEl1::SRE));
    }

    #[test]
    fn enable_of_shared_interrupt_sets_trigger_and_route() {
        let machine = Machine::new();
        let chip = machine.probe();
        let irq = Irq { number: 49, trigger: Trigger::EdgeRising, per_cpu: false };
        chip.enable(irq);
        assert_eq!(machine.distributor.read(0xc00 + 4 * 3), 0b10 << 2);
        assert_eq!(machine.distributor.read(0x100 + 4), 1 << 17);
        assert_eq!(machine.distributor.read64(0x6000 + 8 * 49), 0x1_0002_0304);
        chip.disable(irq);
        assert_eq!(machine.distributor.read(0x180 + 4), 1 << 17);
    }

    #[test]
    fn enable_of_private_interrupt_uses_the_own_redistributor() {
        let machine = Machine::new();
        let chip = machine.probe();
        chip.init_cpu(1);
        let irq = Irq { number: 27, trigger: Trigger::LevelLow, per_cpu: true };
        chip.enable(irq);
        assert_eq!(machine.redistributors.read(SECOND + 0x100), 1 << 27);
        assert_eq!(machine.redistributors.read(0x1_0100), 0);
        assert_eq!(machine.distributor.read(0x100), 0);
        chip.disable(irq);
        assert_eq!(machine.redistributors.read(SECOND + 0x180), 1 << 27);
    }

    #[test]
    fn numbers_that_do_not_exist_are_ignored() {
        let machine = Machine::new();
        let chip = machine.probe();
        for number in [288, 1020, 1023, 1056, 4096, 8192, u32::MAX] {
            chip.enable(Irq { number, trigger: Trigger::LevelHigh, per_cpu: false });
            chip.disable(Irq { number, trigger: Trigger::LevelHigh, per_cpu: false });
        }
    }

    #[test]
    fn acknowledge_of_special_numbers_is_none() {
        let machine = Machine::new();
        let chip = machine.probe();
        let causes = [(1020, None), (1023, None), (33, Some(Cause::Line(33))), (2, Some(Cause::Ipi(2)))];
        for (number, expected) in causes {
            sysregs(|sysregs| sysregs.icc_iar1_el1 = IccIar1El1::from_bits_retain(number));
            assert_eq!(chip.acknowledge().map(|taken| taken.cause), expected, "{number}");
        }
    }

    #[test]
    fn translate_takes_three_or_four_cells() {
        let machine = Machine::new();
        let chip = machine.probe();
        let irq = Irq { number: 33, trigger: Trigger::LevelHigh, per_cpu: false };
        assert_eq!(chip.translate(&[0, 1, 4]), Ok(irq));
        assert_eq!(chip.translate(&[0, 1, 4, 0]), Ok(irq));
        assert_eq!(chip.translate(&[2, 0, 4]), Err(IrqError::OutOfRange), "this one has no extended range");
        for cells in [&[][..], &[0, 1]] {
            assert_eq!(chip.translate(cells), Err(IrqError::BadSpecifier), "{cells:?}");
        }
    }

    #[test]
    fn probe_of_bad_node_says_what_is_wrong() {
        let machine = Machine::new();
        let probe = |node: FakeNode| (DRIVER.probe)(&node, machine.platform);
        let bare = || FakeNode::new("arm,gic-v3").with_reg(GICD, 0x1_0000);
        assert_eq!(probe(FakeNode::new("arm,gic-v3")), Err(ProbeError::BadNode("reg")));
        assert_eq!(probe(bare()), Err(ProbeError::BadNode("reg: redistributor region")));
        let short = probe(bare().with_reg(GICR, 0x1_0000));
        assert_eq!(short, Err(ProbeError::BadNode("reg: smaller than a redistributor")));
        let stride = probe(node().with_property("redistributor-stride", &[0, 0, 0, 4]));
        assert_eq!(stride, Err(ProbeError::BadNode("redistributor-stride")));
        machine.redistributors.write(PIDR2, 0);
        assert!(matches!(probe(node()), Err(ProbeError::Device(_))));
    }
}
