//! The vDSO's bytes, in the kernel's constants.

use core::arch::global_asm;

use hal::{PAGE_SIZE, Vdso};

global_asm!(include_str!("vdso.S"));

unsafe extern "C" {
    static vdso_start: [u8; PAGE_SIZE];
    static vdso_sigreturn: u8;
}

pub(crate) fn vdso() -> Vdso {
    // SAFETY: `vdso.S` lays out one whole page, which nobody writes.
    let image = unsafe { &vdso_start };
    Vdso { image, sigreturn: (&raw const vdso_sigreturn).addr() - image.as_ptr().addr() }
}
