//! The vDSO in programs' memory: a page of clock data that the kernel keeps up to date, and the code above it.

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use abi::{Errno, Result};
use hal::{Arch as _, ClockData, PAGE_SIZE};

use crate::{
    arch::Arch,
    mm::{
        frames::FrameRef,
        kernel_space,
        mapping::{Mapping, OnFork, Protection, Purpose, Source},
        object::VmObject,
    },
    sync::{IrqLock, Once},
};

/// Where the code is in every program.
pub const ADDRESS: u64 = Arch::USER_END - 2 * PAGE_SIZE as u64;
/// Where the clock data is.
const DATA_ADDRESS: u64 = ADDRESS - PAGE_SIZE as u64;

/// Page 0: clock data; page 1: code.
struct Pages {
    data: FrameRef,
    code: FrameRef,
}

static PAGES: Once<Arc<Pages>> = Once::new();
/// Serialises writers of the clock data.
static WRITER: IrqLock<()> = IrqLock::new(());

impl VmObject for Pages {
    fn page(&self, index: u64) -> Result<FrameRef> {
        match index {
            0 => Ok(self.data.clone()),
            1 => Ok(self.code.clone()),
            _ => Err(Errno::ENXIO),
        }
    }
    fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

fn pages() -> Result<&'static Arc<Pages>> {
    PAGES.try_call_once(|| {
        let code = FrameRef::from_static(kernel_space::image_to_phys(Arch::vdso().image.as_ptr().addr()));
        Ok(Arc::new(Pages { data: FrameRef::zeroed()?, code }))
    })
}

/// Where signal handlers without a restorer of their own return to.
pub fn sigreturn_address() -> u64 {
    ADDRESS + Arch::vdso().sigreturn as u64
}

/// The two mappings and their addresses.
pub fn mappings() -> Result<[(u64, Mapping); 2]> {
    let pages = pages()?;
    let mapping = |offset: u64, execute: bool, purpose: Purpose| Mapping {
        protection: Protection { read: true, write: false, execute },
        shared: true,
        may_write: false,
        purpose,
        on_fork: OnFork::Copy,
        source: Source::Object { object: pages.clone(), offset, path: None, _grant: None },
        locked: false,
    };
    Ok([
        (DATA_ADDRESS, mapping(0, false, Purpose::ClockData)),
        (ADDRESS, mapping(PAGE_SIZE as u64, true, Purpose::Vdso)),
    ])
}

/// Tells programs how to compute the clocks. ENOMEM before the first call has found a page.
pub fn publish(start_ticks: u64, ns_per_tick: u64, realtime_offset: i64) -> Result<()> {
    let pages = pages()?;
    // SAFETY: the page is zeroed, lives for good, is larger than the struct, and the kernel changes it only here.
    let data = unsafe { &*pages.data.bytes().cast::<ClockData>() };
    let _guard = WRITER.lock();
    let sequence = data.sequence.load(Ordering::Relaxed);
    data.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::Release);
    data.start_ticks.store(start_ticks, Ordering::Relaxed);
    data.ns_per_tick.store(ns_per_tick, Ordering::Relaxed);
    data.realtime_offset.store(realtime_offset, Ordering::Relaxed);
    data.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    Ok(())
}
