//! The vDSO in programs' memory: a page of clock data that the kernel keeps up to date, and the code above it.

use abi::{Errno, Result};
use alloc::sync::Arc;
use hal::{Arch as _, PAGE_SIZE};

use crate::{
    arch::Arch,
    mm::{
        frames::FrameRef,
        kernel_space,
        mapping::{Mapping, OnFork, Protection, Purpose, Source},
        object::VmObject,
    },
    sync::Once,
    time,
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

fn pages() -> &'static Arc<Pages> {
    PAGES.call_once(|| {
        let page = |address: usize| FrameRef::from_static(kernel_space::image_to_phys(address));
        Arc::new(Pages { data: page(time::clock_page()), code: page(Arch::vdso().image.as_ptr().addr()) })
    })
}

/// Where signal handlers without a restorer of their own return to.
pub fn sigreturn_address() -> u64 {
    ADDRESS + Arch::vdso().sigreturn as u64
}

/// The two mappings and their addresses.
pub fn mappings() -> Result<[(u64, Mapping); 2]> {
    let pages = pages();
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
