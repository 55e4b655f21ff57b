//! What GICv2 and GICv3 share: how the device tree names their interrupts.
//!
//! Reference: the devicetree bindings `arm,gic` and `arm,gic-v3`; Arm IHI 0048B (GICv2) and IHI 0069 (GICv3) for the
//! numbers.

use hal::{Cause, Irq, IrqError, NR_IPIS, Trigger};

/// One more than the highest number of a software-generated interrupt (SGI), by which CPUs interrupt each other.
pub(crate) const SGI_END: u32 = 16;
/// The first interrupt that is private to a CPU and a peripheral's (PPI).
pub(crate) const PPI_START: u32 = 16;
/// The first shared interrupt (SPI).
pub(crate) const SPI_START: u32 = 32;
/// The first number that is not an interrupt: 1020 to 1023 are answers such as "spurious".
pub(crate) const SPECIAL_START: u32 = 1020;
/// One past the last special number.
pub(crate) const SPECIAL_END: u32 = 1024;
/// The first extended PPI of GICv3.1.
pub(crate) const EPPI_START: u32 = 1056;
/// The first extended SPI of GICv3.1.
pub(crate) const ESPI_START: u32 = 4096;

/// How many of each kind a controller has. Kinds are the first cell of a specifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    /// Kind 0.
    pub spis: u32,
    /// Kind 1 is always 16. Kind 2.
    pub espis: u32,
    /// Kind 3.
    pub eppis: u32,
}

const _: () = assert!(NR_IPIS <= SGI_END);
/// The enable bits of the software-generated interrupts in use.
pub(crate) const SGI_ENABLES: u32 = (1 << NR_IPIS) - 1;

/// What an interrupt number stands for.
pub(crate) fn cause(number: u32) -> Cause {
    if number < SGI_END { Cause::Ipi(number) } else { Cause::Line(number) }
}

/// Decodes kind, number and flags. Whoever calls has checked that the count of cells is the controller's.
pub(crate) fn translate(kind: u32, number: u32, flags: u32, counts: Counts) -> Result<Irq, IrqError> {
    let (start, count, per_cpu) = match kind {
        0 => (SPI_START, counts.spis, false),
        1 => (PPI_START, SPI_START - PPI_START, true),
        2 => (ESPI_START, counts.espis, false),
        3 => (EPPI_START, counts.eppis, true),
        _ => return Err(IrqError::BadSpecifier),
    };
    if number >= count {
        return Err(IrqError::OutOfRange);
    }
    // Bits 8 to 15 select CPUs of a GICv2 PPI; every CPU enables its own here.
    let trigger = match flags & 0xf {
        1 => Trigger::EdgeRising,
        2 => Trigger::EdgeFalling,
        3 => Trigger::EdgeBoth,
        // Not stated: what every interrupt is after reset.
        0 | 4 => Trigger::LevelHigh,
        8 => Trigger::LevelLow,
        _ => return Err(IrqError::BadSpecifier),
    };
    Ok(Irq { number: start + number, trigger, per_cpu })
}

/// Whether to set the edge bit of the configuration register. The polarity is the wiring's; a GIC has no say in it.
pub(crate) fn is_edge(trigger: Trigger) -> bool {
    matches!(trigger, Trigger::EdgeRising | Trigger::EdgeFalling | Trigger::EdgeBoth)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts { spis: 256, espis: 32, eppis: 64 };

    #[test]
    fn every_kind_translates_to_its_numbers() {
        let cases = [
            ((0, 1, 4), 33, Trigger::LevelHigh, false),
            ((0, 255, 1), 287, Trigger::EdgeRising, false),
            ((1, 14, 0xf08), 30, Trigger::LevelLow, true),
            ((1, 0, 2), 16, Trigger::EdgeFalling, true),
            ((2, 31, 3), 4127, Trigger::EdgeBoth, false),
            ((3, 63, 0), 1119, Trigger::LevelHigh, true),
        ];
        for ((kind, number, flags), expected, trigger, per_cpu) in cases {
            let irq = Irq { number: expected, trigger, per_cpu };
            assert_eq!(translate(kind, number, flags, COUNTS), Ok(irq), "{kind} {number} {flags}");
        }
    }

    #[test]
    fn numbers_beyond_the_controller_are_out_of_range() {
        for (kind, number) in [(0, 256), (0, u32::MAX), (1, 16), (2, 32), (3, 64)] {
            assert_eq!(translate(kind, number, 4, COUNTS), Err(IrqError::OutOfRange), "{kind} {number}");
        }
    }

    #[test]
    fn unknown_kinds_and_flags_are_bad_specifiers() {
        for (kind, flags) in [(4, 4), (u32::MAX, 4), (0, 5), (0, 15), (1, 12)] {
            assert_eq!(translate(kind, 0, flags, COUNTS), Err(IrqError::BadSpecifier), "{kind} {flags}");
        }
    }
}
