//! The memory functions that compiled code calls, in place of the compiler's own.

use core::arch::global_asm;

global_asm!(include_str!("memory.S"));
