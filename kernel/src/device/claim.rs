//! Devices in the hands of programs: /dev/piton/NAME.
//!
//! There is a file for each device with registers or interrupts. To open it is to claim the device, as a process with
//! CAP_SYS_RAWIO may; EBUSY while a driver or somebody else has it, or other registers in its range. All that the
//! descriptor gave goes with it, however it goes: interrupts are masked, mappings taken away, before anybody else can
//! have the device.
//!
//! Registers are mapped from it at offset `INDEX << 36`, as device memory, never executable; DMA memory at the offset
//! that [`DMA_ALLOC`] answers. DMA memory that was not freed when a claim ended may still be written to by the device:
//! it stays the device's, for the next claim, and never becomes memory of something else.

use alloc::{collections::BTreeMap, format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::{Errno, Result, linux};
use hal::{Arch as _, IrqSpecifier, PAGE_SHIFT, PAGE_SIZE, PhysAddr, UserAddr};
use klib::page_table::PageFlags;

use super::{
    interrupt::{Interrupt, InterruptFile},
    table::{self, Device, State},
};
use crate::{
    arch::Arch,
    fs::{
        FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, devfs,
        virtual_files::{device_number, next_inode},
    },
    mm::{
        frames::{self, FrameRef},
        object::{Mappers, VmObject, WriteGrant},
        user,
    },
    sync::IrqLock,
    task::{identity, scheduler},
};

/// `_IO(0xb5, 0)`: a descriptor of the interrupt with this index.
const INTERRUPT: u32 = 0xb500;
/// `_IOWR(0xb5, 1, u64[3])`: of a length in bytes makes that length in whole pages, the offset to map at, and the
/// address that the device must be told.
const DMA_ALLOC: u32 = 0xc018_b501;
/// `_IOW(0xb5, 2, u64)`: frees the memory at this offset. The device does not use it any more.
const DMA_FREE: u32 = 0x4008_b502;

/// Log2 of the pages between the registers of one index and the next.
const REGION_SHIFT: u32 = 36 - PAGE_SHIFT as u32;
/// The first page of DMA memory.
const DMA_START: u64 = 1 << (52 - PAGE_SHIFT);
/// A device has at most this share of memory for DMA.
const DMA_SHARE: usize = 4;
/// The most DMA memory in one piece.
const MAX_DMA: u64 = 4 << 20;
/// The major number, of those for local use (Linux `Documentation/admin-guide/devices.txt`).
const MAJOR: u32 = 240;

/// Contiguous memory for a device.
pub(super) struct DmaBlock {
    frames: Vec<FrameRef>,
    bus: u64,
}

/// Adds the files of all devices.
pub fn add_files() {
    let directory = devfs::directory().add_directory("piton");
    for (index, device) in table::devices().iter().enumerate() {
        if device.registers().next().is_some() || device.node.interrupts().next().is_some() {
            // As Linux names devices with a slash in the name.
            let name = device.node.path().trim_start_matches('/').replace('/', "!");
            directory.add(&name, Arc::new(ClaimInode { inode: next_inode(), index: index as u32, device }));
        }
    }
}

struct ClaimInode {
    inode: u64,
    index: u32,
    device: &'static Device,
}

impl Inode for ClaimInode {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(devfs::file_system().device, self.inode, FileKind::CharDevice, 0o600);
        metadata.rdev = device_number(MAJOR, self.index);
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        devfs::file_system().status()
    }
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        identity::require(linux::CAP_SYS_RAWIO)?;
        let process = scheduler::current().process().clone();
        self.device.claim(format!("{}, process {}", process.name(), process.pid()))?;
        Ok(Some(Arc::new(Claim::new(self.device))))
    }
}

/// A claimed device.
struct Claim {
    device: &'static Device,
    pages: Arc<Pages>,
    interrupts: IrqLock<BTreeMap<usize, Arc<Interrupt>>>,
    /// The page that the next DMA memory is mapped at.
    next_dma: AtomicU64,
}

impl Claim {
    fn new(device: &'static Device) -> Self {
        let pages = Pages {
            registers: device.registers().collect(),
            is_coherent: device.node.dma_coherent(),
            is_revoked: AtomicBool::new(false),
            dma: IrqLock::new(BTreeMap::new()),
            mappers: Mappers::new(),
        };
        Self {
            device,
            pages: Arc::new(pages),
            interrupts: IrqLock::new(BTreeMap::new()),
            next_dma: AtomicU64::new(DMA_START),
        }
    }

    /// A descriptor of an interrupt. EINVAL where the device has no such.
    fn interrupt(&self, index: usize) -> Result<u64> {
        let known = self.interrupts.lock().get(&index).cloned();
        let interrupt = match known {
            Some(interrupt) => interrupt,
            None => {
                let told = self.device.node.interrupt(index).ok_or(Errno::EINVAL)?.map_err(|_| Errno::EINVAL)?;
                let specifier = IrqSpecifier::new(told.controller, told.cells()).ok_or(Errno::EINVAL)?;
                let interrupt = Interrupt::take(&self.device.node.path(), &specifier)?;
                self.interrupts.lock().insert(index, interrupt.clone());
                interrupt
            }
        };
        let file = OpenFile::anonymous(Arc::new(InterruptFile::new(interrupt)), OpenFlags::from_bits(linux::O_RDWR));
        Ok(scheduler::current().process().files().install(file, true)? as u64)
    }

    /// Pages of DMA memory that the claim has.
    fn dma_pages(&self) -> usize {
        self.pages.dma.lock().values().map(|block| block.frames.len()).sum()
    }

    /// EINVAL for a length of 0 or beyond [`MAX_DMA`], ENOMEM, EADDRNOTAVAIL where the device cannot reach the memory.
    fn dma_alloc(&self, argument: UserAddr) -> Result<u64> {
        let [len, ..]: [u64; 3] = user::copy_in(argument)?;
        if len == 0 || len > MAX_DMA {
            return Err(Errno::EINVAL);
        }
        let order = (len as usize).div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros() as u8;
        let kept = {
            let mut kept = self.device.dma.lock();
            kept.iter().position(|block| block.frames.len() == 1 << order).map(|at| kept.swap_remove(at))
        };
        let block = match kept {
            Some(block) => block,
            None => {
                let held =
                    self.dma_pages() + self.device.dma.lock().iter().map(|block| block.frames.len()).sum::<usize>();
                if held + (1 << order) > frames::stats().total / DMA_SHARE {
                    return Err(Errno::ENOMEM);
                }
                let frames = frames::alloc_block(order).ok_or(Errno::ENOMEM)?;
                let start = frames.first().map_or(0, |frame| frame.phys().get());
                let bus = self.device.node.cpu_to_bus(start, (PAGE_SIZE << order) as u64);
                DmaBlock { frames, bus: bus.ok_or(Errno::EADDRNOTAVAIL)? }
            }
        };
        for frame in &block.frames {
            frames::zero(frame.phys());
            if !self.pages.is_coherent {
                // The program's mapping is uncached: what the cache has of the page must not come over it later.
                let start = frame.bytes().addr();
                Arch::clean_and_invalidate(start..start + PAGE_SIZE);
            }
        }
        let (pages, bus) = (block.frames.len() as u64, block.bus);
        let first = {
            let mut dma = self.pages.dma.lock();
            // Never one that was there before: who still maps that has nothing there any more.
            let first = self.next_dma.fetch_add(pages + 1, Ordering::Relaxed);
            dma.insert(first, block);
            first
        };
        user::copy_out(argument, &[pages << PAGE_SHIFT, first << PAGE_SHIFT, bus])?;
        Ok(0)
    }

    fn dma_free(&self, offset: u64) -> Result<u64> {
        let first = offset >> PAGE_SHIFT;
        let block = self.pages.dma.lock().remove(&first).ok_or(Errno::EINVAL)?;
        self.pages.mappers.unmap(first..first + block.frames.len() as u64, &|_, _| true);
        Ok(0)
    }
}

impl FileOps for Claim {
    fn ioctl(&self, _file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        match command {
            INTERRUPT => self.interrupt(argument.get() as usize),
            DMA_ALLOC => self.dma_alloc(argument),
            DMA_FREE => self.dma_free(user::copy_in(argument)?),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn held_bytes(&self) -> usize {
        self.dma_pages() * PAGE_SIZE
    }

    fn released(&self, _file: &OpenFile) {
        let interrupts = core::mem::take(&mut *self.interrupts.lock());
        interrupts.values().for_each(|interrupt| interrupt.give_back());
        // From here on no page can be had; those that were go from every address space.
        self.pages.is_revoked.store(true, Ordering::SeqCst);
        self.pages.mappers.unmap(0..u64::MAX, &|_, _| true);
        let kept = core::mem::take(&mut *self.pages.dma.lock());
        self.device.dma.lock().extend(kept.into_values());
        self.device.give_back();
    }

    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        Some(self.pages.clone())
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// What a program may map of a device.
struct Pages {
    registers: Vec<(u64, u64)>,
    is_coherent: bool,
    is_revoked: AtomicBool,
    /// By first page.
    dma: IrqLock<BTreeMap<u64, DmaBlock>>,
    mappers: Mappers,
}

impl VmObject for Pages {
    fn page(&self, index: u64) -> Result<FrameRef> {
        if self.is_revoked.load(Ordering::SeqCst) {
            return Err(Errno::ENXIO);
        }
        if index >= DMA_START {
            let dma = self.dma.lock();
            let (first, block) = dma.range(..=index).next_back().ok_or(Errno::ENXIO)?;
            return block.frames.get((index - first) as usize).cloned().ok_or(Errno::ENXIO);
        }
        let (start, len) = *self.registers.get((index >> REGION_SHIFT) as usize).ok_or(Errno::ENXIO)?;
        let page = PhysAddr::new(start).page_down().get() + ((index & ((1 << REGION_SHIFT) - 1)) << PAGE_SHIFT);
        if len == 0 || page > start + (len - 1) {
            return Err(Errno::ENXIO);
        }
        Ok(FrameRef::from_static(PhysAddr::new(page)))
    }

    fn attributes(&self, index: u64) -> PageFlags {
        match index >= DMA_START {
            false => PageFlags::DEVICE,
            true if self.is_coherent => PageFlags::empty(),
            true => PageFlags::UNCACHED,
        }
    }

    fn is_hardware(&self) -> bool {
        true
    }

    fn grant_writes(self: Arc<Self>) -> Result<WriteGrant> {
        Ok(WriteGrant::new(self))
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }

    fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

impl Device {
    /// Makes the device `holder`'s. ENODEV where it is disabled; EBUSY where it, or what shares registers with it, is
    /// somebody's; EINVAL where its registers are memory.
    fn claim(&self, holder: String) -> Result<()> {
        let _changing = table::CHANGING.take();
        if self.state() == State::Disabled {
            return Err(Errno::ENODEV);
        }
        if self.node.tree().memory().iter().any(|ram| self.meets((ram.start, ram.end - ram.start))) {
            return Err(Errno::EINVAL);
        }
        if self.is_taken_or_shared() {
            return Err(Errno::EBUSY);
        }
        *self.holder.lock() = Some(holder);
        Ok(())
    }

    fn give_back(&self) {
        let holder = self.holder.lock().take();
        drop(holder);
    }
}
