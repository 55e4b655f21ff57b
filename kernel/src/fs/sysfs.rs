//! /sys: the machine as files.
//!
//! A tree of [`VirtualDirectory`]s. The boot code adds what it learns: the device tree
//! (/sys/firmware/devicetree/base), the blobs of a virtual-machine monitor (/sys/firmware/qemu_fw_cfg), the CPUs, and
//! whatever else of the kernel is to be seen, below /sys/kernel/piton.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::ConfigStore;

use super::{
    FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFlags,
    virtual_files::{VirtualDirectory, VirtualFs, next_device, next_inode, open_bytes},
};
use crate::sync::Lazy;

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

/// A file of known size whose bytes are read when it is opened.
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
        Ok(Some(open_bytes((self.read)()?, None)))
    }
}

/// Shows the device tree at /sys/firmware/devicetree/base: a directory for each node, a file for each property. Its
/// CPUs are those present; one of them runs until [`set_cpus`] says more.
pub fn add_device_tree(tree: &dtb::Tree<'_>) {
    set_cpus(1, tree.cpus().len().max(1));
    let base = DIRECTORY.add_directory("firmware").add_directory("devicetree").add_directory("base");
    // Directories of the open nodes, by depth.
    let mut open = alloc::vec![(tree.root(), base)];
    while let Some((node, directory)) = open.pop() {
        for (name, value) in node.properties() {
            // Seeds are the kernel's secret.
            if matches!(name, "rng-seed" | "kaslr-seed") {
                continue;
            }
            let value: Arc<[u8]> = value.into();
            directory.add(name, BlobFile::new(value.len(), 0o444, move || Ok(value.to_vec())));
        }
        for child in node.children() {
            let below = directory.add_directory(child.name());
            open.push((child, below));
        }
    }
}

/// Shows a store's blobs at /sys/firmware/qemu_fw_cfg/by_name, each as a directory with `raw`, `size` and `name`. A
/// blob is read when its `raw` is opened.
pub fn add_config_store(store: &Arc<dyn ConfigStore>) {
    let by_name = DIRECTORY.add_directory("firmware").add_directory("qemu_fw_cfg").add_directory("by_name");
    for (name, size) in store.list() {
        let parts = name.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
        let directory = parts.fold(by_name.clone(), |directory, part| directory.add_directory(part));
        directory.add_text("size", move || format!("{size}\n").into_bytes());
        let shown = name.clone();
        directory.add_text("name", move || format!("{shown}\n").into_bytes());
        let store = store.clone();
        let read = move || store.read(&name).ok_or(Errno::EIO);
        directory.add("raw", BlobFile::new(size, 0o400, read));
    }
}

/// A list of CPUs from 0 on, as Linux writes it.
fn cpu_list(count: usize) -> Vec<u8> {
    let list = match count {
        0 => String::new(),
        1 => String::from("0"),
        count => format!("0-{}", count - 1),
    };
    format!("{list}\n").into_bytes()
}

static ONLINE_CPUS: AtomicUsize = AtomicUsize::new(1);

/// How many CPUs run, as last told to [`set_cpus`].
pub fn online_cpus() -> usize {
    ONLINE_CPUS.load(Ordering::Relaxed)
}

/// Shows how many CPUs run and how many there are, at /sys/devices/system/cpu. May be called again.
pub fn set_cpus(online: usize, present: usize) {
    ONLINE_CPUS.store(online.max(1), Ordering::Relaxed);
    let cpu = DIRECTORY.add_directory("devices").add_directory("system").add_directory("cpu");
    cpu.add_text("online", move || cpu_list(online));
    cpu.add_text("possible", move || cpu_list(present));
    cpu.add_text("present", move || cpu_list(present));
    cpu.add_text("kernel_max", || b"63\n".to_vec());
    for number in 0..online {
        cpu.add_directory(&format!("cpu{number}"));
    }
}
