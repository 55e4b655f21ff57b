//! Kernel stacks: 32 KiB with an unmapped 32 KiB below, so that an overflow faults.
//!
//! The deepest path (a system call that copies, faults, decompresses a page and is interrupted) takes about 13 KiB.
//!
//! A slot is 64 KiB and aligned to it: the stack is its upper half. The exception entry (`vectors.S`) relies on that
//! to notice an overflow. A few freed stacks are kept mapped, since mapping and flushing cost more than the memory.

use alloc::vec::Vec;

use hal::VirtAddr;

use super::{PAGE_SIZE, kernel_space};
use crate::sync::IrqLock;

/// Bytes of a kernel stack.
pub const STACK_SIZE: usize = 32 << 10;
const SLOT_SIZE: usize = 2 * STACK_SIZE;
/// How many freed stacks stay mapped.
const KEPT: usize = 16;

struct Slots {
    next: usize,
    unmapped: Vec<usize>,
    mapped: Vec<usize>,
}

static SLOTS: IrqLock<Slots> =
    IrqLock::new(Slots { next: kernel_space::STACK_WINDOW.start, unmapped: Vec::new(), mapped: Vec::new() });

/// A kernel stack.
pub struct KernelStack {
    slot: usize,
}

impl KernelStack {
    /// A stack; `None` when memory is short.
    pub fn new() -> Option<Self> {
        let slot = {
            let mut slots = SLOTS.lock();
            if let Some(slot) = slots.mapped.pop() {
                return Some(Self { slot });
            }
            match slots.unmapped.pop() {
                Some(slot) => slot,
                None if slots.next < kernel_space::STACK_WINDOW.end => {
                    slots.next += SLOT_SIZE;
                    slots.next - SLOT_SIZE
                }
                None => return None,
            }
        };
        if kernel_space::map_owned(slot + STACK_SIZE, STACK_SIZE / PAGE_SIZE) {
            Some(Self { slot })
        } else {
            SLOTS.lock().unmapped.push(slot);
            None
        }
    }

    /// One past the highest byte.
    pub fn top(&self) -> VirtAddr {
        VirtAddr::new(self.slot + SLOT_SIZE)
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        {
            let mut slots = SLOTS.lock();
            if slots.mapped.len() < KEPT {
                slots.mapped.push(self.slot);
                return;
            }
        }
        kernel_space::unmap_owned(self.slot + STACK_SIZE..self.slot + SLOT_SIZE);
        SLOTS.lock().unmapped.push(self.slot);
    }
}
