//! /sys: the machine as files.
//!
//! A tree of [`VirtualDirectory`]s. The boot code adds what it learns: the device tree
//! (/sys/firmware/devicetree/base), the blobs of a virtual-machine monitor (/sys/firmware/qemu_fw_cfg), clocks, CPUs, and
//! whatever else of the kernel is to be seen, below /sys/kernel/piton.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::fmt::Write as _;

use abi::{Errno, Result};
use hal::{ConfigStore, Rtc};
use klib::{calendar, cpu_set::CpuSet};

use super::{
    FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFlags,
    virtual_files::{VirtualDirectory, VirtualFs, next_device, next_inode, open_text},
};
use crate::{
    net, smp,
    sync::{IrqLock, Lazy},
};

/// statfs(2)'s magic number.
const MAGIC: u64 = 0x6265_6572;

static FS: Lazy<VirtualFs> = Lazy::new(|| VirtualFs { device: next_device(), magic: MAGIC });
static DIRECTORY: Lazy<Arc<VirtualDirectory>> = Lazy::new(|| {
    let directory = VirtualDirectory::new(*FS);
    directory.add_directory("kernel").add_directory("piton");
    directory.add_directory("firmware");
    directory.add_directory("fs");
    for class in ["block", "bus", "class", "dev", "devices"] {
        directory.add_directory(class);
    }
    let class = directory.add_directory("class");
    for kind in ["power_supply", "rtc", "thermal"] {
        class.add_directory(kind);
    }
    net::proc::add_to_sysfs(&class);
    directory
});

/// The directory that is mounted at /sys.
pub fn directory() -> Arc<VirtualDirectory> {
    DIRECTORY.clone()
}

/// /sys/kernel/piton.
pub fn piton_directory() -> Arc<VirtualDirectory> {
    DIRECTORY.add_directory("kernel").add_directory("piton")
}

type ReadBlob = dyn Fn() -> Result<Vec<u8>> + Send + Sync;

/// A file of known size whose bytes are read with it.
struct BlobFile {
    inode: u64,
    size: u64,
    permissions: u32,
    read: Arc<ReadBlob>,
}

impl BlobFile {
    fn new(size: usize, permissions: u32, read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inode: next_inode(), size: size as u64, permissions, read: Arc::new(read) })
    }
}

impl Inode for BlobFile {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(FS.device, self.inode, FileKind::Regular, self.permissions);
        metadata.size = self.size;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if flags.writable() {
            return Err(Errno::EACCES);
        }
        let read = self.read.clone();
        Ok(Some(open_text(move || read(), None)))
    }
}

/// Shows the device tree at /sys/firmware/devicetree/base: a directory for each node, a file for each property, and
/// one with the node's name (Linux `Documentation/ABI/testing/sysfs-firmware-ofw`); and its blob at /sys/firmware/fdt.
pub fn add_device_tree(tree: &'static dtb::Tree<'static>) {
    // Seeds are the kernel's secret.
    let is_secret = |name| matches!(name, "rng-seed" | "kaslr-seed");
    let mut secrets = Vec::new();
    let firmware = DIRECTORY.add_directory("firmware");
    let base = firmware.add_directory("devicetree").add_directory("base");
    // Directories of the open nodes.
    let mut open = alloc::vec![(tree.root(), base)];
    while let Some((node, directory)) = open.pop() {
        let name = node.name().split('@').next().unwrap_or_default();
        let add = |property, value: &'static [u8]| {
            directory.add(property, BlobFile::new(value.len(), 0o444, move || Ok(value.to_vec())));
        };
        directory.add("name", BlobFile::new(name.len() + 1, 0o444, move || Ok([name.as_bytes(), b"\0"].concat())));
        for (property, value) in node.properties() {
            if is_secret(property) {
                let start = value.as_ptr().addr() - tree.blob().as_ptr().addr();
                secrets.push(start..start + value.len());
            } else {
                add(property, value);
            }
        }
        for child in node.children() {
            let below = directory.add_directory(child.name());
            open.push((child, below));
        }
    }
    let blob = tree.blob();
    let read = move || {
        let mut copy = blob.to_vec();
        for secret in &secrets {
            if let Some(bytes) = copy.get_mut(secret.clone()) {
                bytes.fill(0);
            }
        }
        Ok(copy)
    };
    firmware.add("fdt", BlobFile::new(blob.len(), 0o400, read));
}

/// The store that is shown. Open files do not keep it.
static STORE: IrqLock<Option<Arc<dyn ConfigStore>>> = IrqLock::new(None);

/// Shows a store's blobs at /sys/firmware/qemu_fw_cfg/by_name, each as a directory with `raw`, `size` and `name`. A
/// blob is read when its `raw` is opened.
pub fn add_config_store(store: Arc<dyn ConfigStore>) {
    let by_name = DIRECTORY.add_directory("firmware").add_directory("qemu_fw_cfg").add_directory("by_name");
    for (name, size) in store.list() {
        let parts = name.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
        let directory = parts.fold(by_name.clone(), |directory, part| directory.add_directory(part));
        directory.add_text("size", move || format!("{size}\n").into_bytes());
        let shown = name.clone();
        directory.add_text("name", move || format!("{shown}\n").into_bytes());
        let store = Arc::downgrade(&store);
        let read = move || store.upgrade().ok_or(Errno::ENODEV)?.read(&name).ok_or(Errno::EIO);
        directory.add("raw", BlobFile::new(size, 0o400, read));
    }
    *STORE.lock() = Some(store);
}

/// Takes the store's blobs away.
pub fn remove_config_store() {
    DIRECTORY.add_directory("firmware").remove("qemu_fw_cfg");
    let store = STORE.lock().take();
    drop(store);
}

/// The nodes of the clocks that are shown, by number.
static CLOCKS: IrqLock<Vec<Option<String>>> = IrqLock::new(Vec::new());

/// Shows a real-time clock at /sys/class/rtc/rtcN (Linux `Documentation/ABI/testing/sysfs-class-rtc`). `sets_time`: it
/// gave the machine its time.
pub fn add_rtc(node: &str, rtc: Arc<dyn Rtc>, sets_time: bool) {
    let number = {
        let mut clocks = CLOCKS.lock();
        let number = clocks.iter().position(Option::is_none).unwrap_or(clocks.len());
        if number == clocks.len() {
            clocks.push(None);
        }
        clocks[number] = Some(node.into());
        number
    };
    let directory = DIRECTORY.add_directory("class").add_directory("rtc").add_directory(&format!("rtc{number}"));
    let name = format!("{node}\n");
    directory.add_text("name", move || name.clone().into_bytes());
    directory.add_text("hctosys", move || format!("{}\n", u8::from(sets_time)).into_bytes());
    let clock = rtc.clone();
    directory.add_text("date", move || format!("{}\n", calendar::at(clock.unix_seconds()).0).into_bytes());
    let clock = rtc.clone();
    directory.add_text("time", move || format!("{}\n", calendar::at(clock.unix_seconds()).1).into_bytes());
    directory.add_text("since_epoch", move || format!("{}\n", rtc.unix_seconds()).into_bytes());
}

/// Takes the clock of this node away.
pub fn remove_rtc(node: &str) {
    let number = CLOCKS.lock().iter_mut().position(|clock| clock.take_if(|clock| clock == node).is_some());
    if let Some(number) = number {
        DIRECTORY.add_directory("class").add_directory("rtc").remove(&format!("rtc{number}"));
    }
}

/// A list of CPUs as Linux writes it: `0,2-3`.
pub fn cpu_list(cpus: CpuSet) -> String {
    let mut list = String::new();
    let mut cpus = cpus.iter().peekable();
    while let Some(first) = cpus.next() {
        let mut last = first;
        while cpus.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = match first == last {
            true => write!(list, "{comma}{first}"),
            false => write!(list, "{comma}{first}-{last}"),
        };
    }
    list
}

/// Shows the CPUs at /sys/devices/system/cpu. To be called when those that come have come.
pub fn add_cpus() {
    let cpu = DIRECTORY.add_directory("devices").add_directory("system").add_directory("cpu");
    let line = |cpus: CpuSet| format!("{}\n", cpu_list(cpus)).into_bytes();
    cpu.add_text("online", move || line(smp::online()));
    cpu.add_text("offline", move || line(smp::present() & !smp::online()));
    cpu.add_text("possible", move || line(smp::present()));
    cpu.add_text("present", move || line(smp::present()));
    cpu.add_text("kernel_max", || format!("{}\n", hal::MAX_CPUS - 1).into_bytes());
    for number in smp::present().iter() {
        let own = cpu.add_directory(&format!("cpu{number}"));
        let topology = own.add_directory("topology");
        let alone = CpuSet::of(number);
        for (name, cpus) in [
            ("core_cpus_list", alone),
            ("thread_siblings_list", alone),
            ("core_siblings_list", smp::present()),
            ("package_cpus_list", smp::present()),
        ] {
            topology.add_text(name, move || line(cpus));
        }
        topology.add_text("core_id", move || format!("{number}\n").into_bytes());
        topology.add_text("physical_package_id", || b"0\n".to_vec());
        own.add_text("online", move || if smp::online().contains(number) { b"1\n".to_vec() } else { b"0\n".to_vec() });
    }
}
