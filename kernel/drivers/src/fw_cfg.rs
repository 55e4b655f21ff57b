//! fw_cfg: the files that QEMU hands its guest (`-fw_cfg name=...,file=...`).
//!
//! Every access to the registers leaves the virtual machine, so bytes are not fetched through the data register: the
//! device copies them itself, a window of 64 KiB at a time, through a bounce buffer that lives as long as the driver.
//!
//! Reference: QEMU, docs/specs/fw_cfg.rst.

use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{
    hint::spin_loop,
    sync::atomic::{Ordering, fence},
};

use hal::{ConfigStore, DeviceNode, Driver, Mmio, PAGE_SIZE, Platform, ProbeError};
use spin::Mutex;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_structs,
    registers::ReadWrite,
};

use crate::{
    dma::DmaBuffer,
    registers::{Registers, map_reg},
};

register_structs! {
    FwCfgRegisters {
        /// Data and selector registers, of use only without DMA.
        (0x00 => _reserved0),
        /// Write: physical address of an access structure. Read: the signature. Big-endian.
        (0x10 => dma: ReadWrite<u64>),
        (0x18 => @END),
    }
}

/// What the DMA register reads as where it is there (QEMU 2.9 or later).
const SIGNATURE: &[u8; 8] = b"QEMU CFG";
/// Item that lists the named files.
const FILE_DIR: u16 = 0x0019;

/// Bits of the access structure's control word; the item to select is in its upper half.
const CONTROL_ERROR: u32 = 1 << 0;
const CONTROL_READ: u32 = 1 << 1;
const CONTROL_SELECT: u32 = 1 << 3;

/// An entry of the directory: size, selector, reserved, name.
const ENTRY_SIZE: usize = 64;
/// The most entries believed; QEMU has a few dozen.
const MAX_ENTRIES: usize = 4096;
/// The largest file read, in bytes; what is larger cannot be meant to be held in memory twice.
const MAX_FILE: usize = 256 << 20;

/// The bounce buffer: the access structure has the first page, the data the rest.
const DATA_OFFSET: usize = PAGE_SIZE;
const BUFFER_PAGES: usize = 1 + 16;
/// How often an access is polled before the device counts as dead. QEMU is done before the register write returns.
const MAX_POLLS: u32 = 1 << 28;

/// A named file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct File {
    name: String,
    selector: u16,
    size: usize,
}

/// The store.
pub struct FwCfg {
    registers: Registers<FwCfgRegisters>,
    files: Vec<File>,
    /// Held for a whole item: the device has one position.
    buffer: Mutex<DmaBuffer>,
}

impl FwCfg {
    /// Checks that the device is there and reads its directory.
    ///
    /// # Safety
    ///
    /// `mmio` must map the registers of a fw_cfg device that nothing else drives.
    unsafe fn new(mmio: Mmio, buffer: DmaBuffer) -> Result<Self, ProbeError> {
        // SAFETY: The caller's promise; accesses are under the buffer's lock once the driver is shared.
        let registers = unsafe { Registers::<FwCfgRegisters>::new(mmio)? };
        if &registers.dma.get().to_ne_bytes() != SIGNATURE {
            return Err(ProbeError::Device("fw_cfg with the DMA interface"));
        }
        let mut store = Self { registers, files: Vec::new(), buffer: Mutex::new(buffer) };
        let corrupt = ProbeError::Device("a readable fw_cfg directory");
        let count = store.read_item(FILE_DIR, 4).and_then(|bytes| bytes.try_into().ok()).ok_or(corrupt)?;
        let count = u32::from_be_bytes(count) as usize;
        if count > MAX_ENTRIES {
            return Err(corrupt);
        }
        let directory = store.read_item(FILE_DIR, 4 + count * ENTRY_SIZE).ok_or(corrupt)?;
        store.files = parse_directory(&directory).ok_or(corrupt)?;
        Ok(store)
    }

    /// Reads the front of an item; `None` where memory is short or the device refuses.
    fn read_item(&self, selector: u16, size: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).ok()?;
        bytes.resize(size, 0);
        let buffer = self.buffer.lock();
        let window = buffer.len() - DATA_OFFSET;
        let mut control = u32::from(selector) << 16 | CONTROL_SELECT | CONTROL_READ;
        for chunk in bytes.chunks_mut(window) {
            self.transfer(&buffer, control, chunk.len())?;
            buffer.read(DATA_OFFSET, chunk);
            // What follows goes on from here.
            control = CONTROL_READ;
        }
        Some(bytes)
    }

    /// Has the device copy `len` bytes into the buffer; `None` where it says it failed.
    fn transfer(&self, buffer: &DmaBuffer, control: u32, len: usize) -> Option<()> {
        let mut access = [0; 16];
        access[..4].copy_from_slice(&control.to_be_bytes());
        access[4..8].copy_from_slice(&u32::try_from(len).ok()?.to_be_bytes());
        access[8..].copy_from_slice(&buffer.phys(DATA_OFFSET).to_be_bytes());
        buffer.write(0, &access);
        fence(Ordering::SeqCst);
        self.registers.dma.set(buffer.phys(0).to_be());
        for _ in 0..MAX_POLLS {
            let status = buffer.read_be32(0);
            if status & !CONTROL_ERROR == 0 {
                fence(Ordering::SeqCst);
                return (status == 0).then_some(());
            }
            spin_loop();
        }
        None
    }
}

/// Reads the directory: a big-endian count, then the entries. `None` where it is cut off.
fn parse_directory(bytes: &[u8]) -> Option<Vec<File>> {
    let (count, entries) = bytes.split_first_chunk()?;
    let count = u32::from_be_bytes(*count) as usize;
    let entries = entries.get(..count.checked_mul(ENTRY_SIZE)?)?;
    entries.chunks_exact(ENTRY_SIZE).map(parse_entry).collect()
}

fn parse_entry(entry: &[u8]) -> Option<File> {
    let (size, rest) = entry.split_first_chunk()?;
    let (selector, rest) = rest.split_first_chunk()?;
    let name = rest.get(2..)?.split(|&byte| byte == 0).next()?;
    Some(File {
        name: String::from_utf8_lossy(name).to_string(),
        selector: u16::from_be_bytes(*selector),
        size: u32::from_be_bytes(*size) as usize,
    })
}

impl ConfigStore for FwCfg {
    fn list(&self) -> Vec<(String, usize)> {
        self.files.iter().map(|file| (file.name.clone(), file.size)).collect()
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.files.iter().find(|file| file.name == name)?;
        let content = if file.size <= MAX_FILE { self.read_item(file.selector, file.size) } else { None };
        if content.is_none() {
            log::error!("fw_cfg: cannot read {name} of {} bytes", file.size);
        }
        content
    }
}

fn probe(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    let mmio = map_reg(node, platform, 0)?;
    let buffer = DmaBuffer::new(platform, BUFFER_PAGES, node.property("dma-coherent").is_some())?;
    // SAFETY: The tree says that these are a fw_cfg device's registers, and one driver is probed for each node.
    let store = Arc::new(unsafe { FwCfg::new(mmio, buffer)? });
    log::debug!("{}: {} files", node.path(), store.files.len());
    platform.add_config_store(node, store);
    Ok(())
}

fn remove(node: &dyn DeviceNode, platform: &'static dyn Platform) -> Result<(), ProbeError> {
    platform.remove_config_store(node);
    Ok(())
}

/// QEMU's fw_cfg.
pub static DRIVER: Driver = Driver { name: "fw_cfg", compatible: &["qemu,fw-cfg-mmio"], probe, remove: Some(remove) };

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::thread;

    use super::*;
    use crate::fake::{DeviceView, FakeNode, FakePlatform, FakeRegisters};

    const BASE: u64 = 0x902_0000;

    /// An entry as QEMU writes it.
    fn entry(size: u32, selector: u16, name: &[u8]) -> Vec<u8> {
        let mut entry = [size.to_be_bytes().as_slice(), &selector.to_be_bytes(), &[0; 2], name].concat();
        entry.resize(ENTRY_SIZE, 0);
        entry
    }

    fn directory(count: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        [count.to_be_bytes().as_slice(), &entries.concat()].concat()
    }

    /// Plays the device with these items until the test ends.
    fn serve(registers: FakeRegisters, items: Vec<(u16, Vec<u8>)>) {
        registers.write64(0x10, u64::from_ne_bytes(*SIGNATURE));
        thread::spawn(move || {
            let idle = u64::from_ne_bytes(*SIGNATURE);
            let (mut selected, mut position) = (0, 0);
            loop {
                let register = registers.read64(0x10);
                if register == idle {
                    thread::sleep(Duration::from_micros(50));
                    continue;
                }
                registers.write64(0x10, idle);
                let access = u64::from_be(register);
                let control = u32::from_be_bytes(DeviceView::read(access));
                let len = u32::from_be_bytes(DeviceView::read(access + 4)) as usize;
                let target = u64::from_be_bytes(DeviceView::read(access + 8));
                if control & CONTROL_SELECT != 0 {
                    (selected, position) = ((control >> 16) as u16, 0);
                }
                let status = match items.iter().find(|(selector, _)| *selector == selected) {
                    Some((_, item)) if control & CONTROL_READ != 0 => {
                        let mut bytes = item.get(position..).unwrap_or_default().to_vec();
                        bytes.resize(len, 0);
                        DeviceView::write(target, &bytes);
                        position += len;
                        0
                    }
                    _ => CONTROL_ERROR,
                };
                DeviceView::write(access, &status.to_be_bytes());
            }
        });
    }

    fn node() -> FakeNode {
        FakeNode::new("qemu,fw-cfg-mmio").with_reg(BASE, 0x18).with_property("dma-coherent", &[])
    }

    #[test]
    fn files_are_listed_and_read_across_windows() {
        let platform = FakePlatform::new();
        let large: Vec<u8> = (0..200_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
        let entries =
            [entry(5, 0x20, b"opt/piton/script"), entry(200_000, 0x21, b"opt/large"), entry(9, 0x22, b"gone")];
        let items = vec![(FILE_DIR, directory(3, &entries)), (0x20, b"hello".to_vec()), (0x21, large.clone())];
        serve(platform.add_registers(BASE, 0x18), items);
        (DRIVER.probe)(&node(), platform).unwrap();
        let store = platform.config_store.lock().unwrap().clone().unwrap();
        let names: Vec<_> = store.list();
        assert_eq!(names[0], (String::from("opt/piton/script"), 5));
        assert_eq!(names.len(), 3);
        assert_eq!(store.read("opt/piton/script").as_deref(), Some(b"hello".as_slice()));
        assert_eq!(store.read("opt/large"), Some(large));
        assert_eq!(store.read("gone"), None, "the device reports an error");
        assert_eq!(store.read("missing"), None);
        assert_eq!(*platform.coherent_allocations.lock().unwrap(), [true]);
    }

    #[test]
    fn probe_without_the_dma_interface_is_a_device_error() {
        let platform = FakePlatform::new();
        platform.add_registers(BASE, 0x18);
        assert!(matches!((DRIVER.probe)(&node(), platform), Err(ProbeError::Device(_))));
    }

    #[test]
    fn probe_of_bad_node_says_what_is_wrong() {
        let platform = FakePlatform::new();
        platform.add_registers(BASE, 0x18);
        let probe = |node: FakeNode| (DRIVER.probe)(&node, platform);
        assert_eq!(probe(FakeNode::new("qemu,fw-cfg-mmio")), Err(ProbeError::BadNode("reg")));
        let short = probe(FakeNode::new("qemu,fw-cfg-mmio").with_reg(BASE, 0x0a));
        assert_eq!(short, Err(ProbeError::BadNode("reg: smaller than the device's registers")));
    }

    #[test]
    fn directory_that_is_cut_off_is_none() {
        let whole = directory(2, &[entry(1, 2, b"a"), entry(3, 4, b"b")]);
        let file = |name: &str, selector, size| File { name: name.into(), selector, size };
        assert_eq!(parse_directory(&whole), Some(vec![file("a", 2, 1), file("b", 4, 3)]));
        assert_eq!(parse_directory(&whole[..whole.len() - 1]), None);
        assert_eq!(parse_directory(&[0; 3]), None);
        assert_eq!(parse_directory(&u32::MAX.to_be_bytes()), None);
        assert_eq!(parse_directory(&[0; 4]), Some(vec![]));
    }

    #[test]
    fn directory_names_need_not_be_terminated_or_utf8() {
        let files = parse_directory(&directory(2, &[entry(0, 0, &[b'n'; 56]), entry(0, 0, b"\xff")])).unwrap();
        assert_eq!(files[0].name.len(), 56);
        assert_eq!(files[1].name, "\u{fffd}");
    }
}
