//! The CPU's own state: interrupt masking, per-CPU pointer, features.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use aarch64_cpu::registers::{CNTFRQ_EL0, ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, ID_AA64PFR0_EL1};
use tock_registers::interfaces::Readable;

/// The affinity fields of MPIDR_EL1 (Arm ARM D24.2.118): a CPU's number.
pub(crate) const AFFINITY: u64 = 0xff_00ff_ffff;

/// Linux's HWCAP bits for arm64 (Documentation/arch/arm64/elf_hwcaps.rst), with the ID register field that grants
/// each: register index, lowest bit, least value; and its name in /proc/cpuinfo. HWCAP_CPUID is left out: ID registers
/// trap. SVE, SME and pointer authentication are left out: their state is not switched.
const HWCAPS: &[(u32, usize, u32, u64, &str)] = &[
    (3, 0, 4, 1, "aes"),
    (4, 0, 4, 2, "pmull"),
    (5, 0, 8, 1, "sha1"),
    (6, 0, 12, 1, "sha2"),
    (7, 0, 16, 1, "crc32"),
    (8, 0, 20, 2, "atomics"),
    (12, 0, 28, 1, "asimdrdm"),
    (13, 1, 12, 1, "jscvt"),
    (14, 1, 16, 1, "fcma"),
    (15, 1, 20, 1, "lrcpc"),
    (16, 1, 0, 1, "dcpop"),
    (17, 0, 32, 1, "sha3"),
    (18, 0, 36, 1, "sm3"),
    (19, 0, 40, 1, "sm4"),
    (20, 0, 44, 1, "asimddp"),
    (21, 0, 12, 2, "sha512"),
    (23, 0, 48, 1, "asimdfhm"),
    (26, 1, 20, 2, "ilrcpc"),
    (27, 0, 52, 1, "flagm"),
];

/// FP and AdvSIMD fields of ID_AA64PFR0_EL1: 0 = present, 1 = with half precision, 15 = absent (Arm ARM D24.2.81).
const FP_HWCAPS: &[(u32, u32, &str, u32, &str)] = &[(16, 0, "fp", 9, "fphp"), (20, 1, "asimd", 10, "asimdhp")];

/// What all CPUs that have started have.
static COMMON_FEATURES: AtomicU64 = AtomicU64::new(u64::MAX);

/// Takes away from the common features what this CPU lacks.
pub(crate) fn note_features() {
    COMMON_FEATURES.fetch_and(own_features(), Ordering::Relaxed);
}

fn own_features() -> u64 {
    let isar = [ID_AA64ISAR0_EL1.get(), ID_AA64ISAR1_EL1.get()];
    let mut caps = 0;
    for &(bit, register, shift, least, _) in HWCAPS {
        if isar[register] >> shift & 0xf >= least {
            caps |= 1 << bit;
        }
    }
    let pfr0 = ID_AA64PFR0_EL1.get();
    for &(shift, bit, _, half_bit, _) in FP_HWCAPS {
        match pfr0 >> shift & 0xf {
            0 => caps |= 1 << bit,
            1 => caps |= 1 << bit | 1 << half_bit,
            _ => {}
        }
    }
    caps
}

/// `AT_HWCAP` and `AT_HWCAP2`.
pub(crate) fn hwcap() -> (u64, u64) {
    (COMMON_FEATURES.load(Ordering::Relaxed), 0)
}

/// MIDR_EL1 (Arm ARM D24.2.120): implementer, variant, part, revision.
pub(crate) fn identity() -> u64 {
    use aarch64_cpu::registers::MIDR_EL1;
    MIDR_EL1.get()
}

/// The lines of /proc/cpuinfo, as Linux writes them for arm64.
pub(crate) fn describe(identity: u64, out: &mut dyn Write) -> fmt::Result {
    // Linux's figure without a calibrated delay loop: two counts of the timer are one million instructions.
    let counts = CNTFRQ_EL0.get() / 5000;
    write!(out, "BogoMIPS\t: {}.{:02}\nFeatures\t:", counts / 100, counts % 100)?;
    let mut names: [Option<&str>; 64] = [None; 64];
    let fp = FP_HWCAPS.iter().flat_map(|&(_, bit, name, half_bit, half_name)| [(bit, name), (half_bit, half_name)]);
    for (bit, name) in HWCAPS.iter().map(|&(bit, _, _, _, name)| (bit, name)).chain(fp) {
        names[bit as usize % 64] = Some(name);
    }
    let features = hwcap().0;
    for (_, name) in names.iter().enumerate().filter(|(bit, _)| features >> bit & 1 != 0) {
        write!(out, " {}", name.unwrap_or_default())?;
    }
    let field = |shift: u32, bits: u32| identity >> shift & ((1 << bits) - 1);
    writeln!(out, "\nCPU implementer\t: {:#04x}\nCPU architecture: 8", field(24, 8))?;
    writeln!(out, "CPU variant\t: {:#x}\nCPU part\t: {:#05x}", field(20, 4), field(4, 12))?;
    writeln!(out, "CPU revision\t: {}", field(0, 4))
}

/// Calls `visit` with the name and value of each system register that EL1 may read on every CPU, and of the performance
/// counters' where there are any (Arm ARM D24.2). CCSIDR_EL1 is left out: it may be undefined for what CSSELR_EL1 has after
/// a reset.
pub(crate) fn visit_registers(visit: &mut dyn FnMut(&'static str, u64)) {
    macro_rules! registers {
        ($($name:literal)*) => {$({
            let value: u64;
            // SAFETY: reads a register without side effects.
            unsafe {
                core::arch::asm!(
                    concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)
                );
            }
            visit($name, value);
        })*};
    }
    registers!(
        "midr_el1" "mpidr_el1" "revidr_el1" "currentel" "daif" "sctlr_el1" "cpacr_el1" "tcr_el1"
        "ttbr0_el1" "ttbr1_el1" "mair_el1" "amair_el1" "vbar_el1" "contextidr_el1" "tpidr_el1" "tpidr_el0"
        "tpidrro_el0" "sp_el0" "elr_el1" "spsr_el1" "esr_el1" "far_el1" "par_el1" "isr_el1" "cntfrq_el0" "cntkctl_el1"
        "cntvct_el0" "cntv_ctl_el0" "cntv_cval_el0" "ctr_el0" "dczid_el0" "clidr_el1"
        "mdscr_el1" "id_aa64pfr0_el1" "id_aa64pfr1_el1" "id_aa64dfr0_el1" "id_aa64dfr1_el1"
        "id_aa64isar0_el1" "id_aa64isar1_el1" "id_aa64mmfr0_el1" "id_aa64mmfr1_el1" "id_aa64mmfr2_el1"
    );
    // PMUVer: 0 and 15 mean that there are no counters of the architecture's.
    let debug = ID_AA64DFR0_EL1.get();
    if !matches!(debug >> 8 & 0xf, 0 | 0xf) {
        registers!("pmcr_el0" "pmcntenset_el0" "pmccntr_el0" "pmceid0_el0" "pmceid1_el0" "pmuserenr_el0");
    }
}
