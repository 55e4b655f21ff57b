//! /dev/mem: physical memory, to be read and, where it was opened for it, written.
//! [mem(4)](https://man7.org/linux/man-pages/man4/mem.4.html).
//!
//! It has memory alone, as on Linux's arm64: reading a device's registers changes some devices, so those are claimed and
//! accessed one by one.

use alloc::sync::Arc;

use abi::{Errno, Result, linux};
use hal::{PAGE_SIZE, PhysAddr};

use crate::{
    fs::{
        FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, ReadBuffer, WriteBuffer, devfs,
        virtual_files::{device_number, next_inode},
    },
    mm::{frames, kernel_space},
    task::scheduler,
};

struct MemoryInode {
    inode: u64,
}

struct OpenMemory;

/// Adds the device, 1:1.
pub fn add() {
    devfs::add_device("mem", Arc::new(MemoryInode { inode: next_inode() }));
}

impl Inode for MemoryInode {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(devfs::file_system().device, self.inode, FileKind::CharDevice, 0o600);
        metadata.rdev = device_number(1, 1);
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        devfs::file_system().status()
    }
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        scheduler::current().require(linux::CAP_SYS_RAWIO)?;
        Ok(Some(Arc::new(OpenMemory)))
    }
}

/// Goes on by pages from `position` while `piece` moves something, which is given the address and how much of the page is
/// left. EFAULT where there is no memory, or none that may be written to.
fn each_page(
    position: &mut u64,
    writing: bool,
    mut piece: impl FnMut(PhysAddr, usize) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    loop {
        let address = PhysAddr::new(*position);
        if !kernel_space::is_memory(address, writing) {
            return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
        }
        match piece(address, PAGE_SIZE - *position as usize % PAGE_SIZE) {
            Ok(0) => return Ok(done),
            Ok(moved) => {
                done += moved;
                *position += moved as u64;
            }
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

impl FileOps for OpenMemory {
    fn read(&self, _file: &OpenFile, position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        let mut page = alloc::vec![0; PAGE_SIZE];
        each_page(position, false, |address, rest| {
            let wanted = rest.min(buffer.remaining());
            // SAFETY: memory that is mapped, inside a page; whoever else uses it may change it meanwhile.
            unsafe { core::ptr::copy_nonoverlapping(frames::linear(address), page.as_mut_ptr(), wanted) };
            if wanted == 0 { Ok(0) } else { buffer.put(&page[..wanted]) }
        })
    }

    fn write(&self, _file: &OpenFile, position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let mut page = alloc::vec![0; PAGE_SIZE];
        each_page(position, true, |address, rest| {
            let wanted = rest.min(buffer.remaining());
            let taken = if wanted == 0 { 0 } else { buffer.take(&mut page[..wanted])? };
            // SAFETY: writable memory inside a page. What this does to the kernel or a program is for root to answer for
            // (CAP_SYS_RAWIO), as the man page says.
            unsafe { core::ptr::copy_nonoverlapping(page.as_ptr(), frames::linear(address), taken) };
            frames::content_changed(address);
            Ok(taken)
        })
    }

    fn is_seekable(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
