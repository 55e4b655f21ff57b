//! The CPU's own state: interrupt masking, per-CPU pointer, features.

use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, ID_AA64PFR0_EL1};
use tock_registers::interfaces::Readable;

/// Linux's HWCAP bits for arm64 (Documentation/arch/arm64/elf_hwcaps.rst), with the ID register field that grants
/// each: register index, lowest bit, least value. HWCAP_CPUID is left out: ID registers trap. SVE, SME and pointer
/// authentication are left out: their state is not switched.
const HWCAPS: &[(u32, usize, u32, u64)] = &[
    (3, 0, 4, 1),   // AES
    (4, 0, 4, 2),   // PMULL
    (5, 0, 8, 1),   // SHA1
    (6, 0, 12, 1),  // SHA2
    (7, 0, 16, 1),  // CRC32
    (8, 0, 20, 2),  // ATOMICS
    (12, 0, 28, 1), // ASIMDRDM
    (13, 1, 12, 1), // JSCVT
    (14, 1, 16, 1), // FCMA
    (15, 1, 20, 1), // LRCPC
    (16, 1, 0, 1),  // DCPOP
    (17, 0, 32, 1), // SHA3
    (18, 0, 36, 1), // SM3
    (19, 0, 40, 1), // SM4
    (20, 0, 44, 1), // ASIMDDP
    (21, 0, 12, 2), // SHA512
    (23, 0, 48, 1), // ASIMDFHM
    (26, 1, 20, 2), // ILRCPC
    (27, 0, 52, 1), // FLAGM
];

/// `AT_HWCAP` and `AT_HWCAP2`.
pub(crate) fn hwcap() -> (u64, u64) {
    let isar = [ID_AA64ISAR0_EL1.get(), ID_AA64ISAR1_EL1.get()];
    let mut caps = 0;
    for &(bit, register, shift, least) in HWCAPS {
        if isar[register] >> shift & 0xf >= least {
            caps |= 1 << bit;
        }
    }
    let pfr0 = ID_AA64PFR0_EL1.get();
    // FP and AdvSIMD fields: 0 = present, 1 = with half precision, 15 = absent (Arm ARM D24.2.81).
    for (shift, bit, half_bit) in [(16, 0, 9), (20, 1, 10)] {
        match pfr0 >> shift & 0xf {
            0 => caps |= 1 << bit,
            1 => caps |= 1 << bit | 1 << half_bit,
            _ => {}
        }
    }
    (caps, 0)
}
