//! /dev: the devices of null(4), full(4) and random(4), links into /proc, and what drivers add.
//!
//! The directory is a [`VirtualDirectory`]; [`add_device`] gives a driver's device its name. Device files that a
//! program makes elsewhere with mknod(2), or that the root image brings, lead here by their number ([`open_device`]).

use alloc::sync::Arc;

use abi::{Errno, Result};

use super::{
    FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, ReadBuffer, WriteBuffer,
    tty::devpts,
    virtual_files::{VirtualDirectory, VirtualFs, device_number, next_device, next_inode},
};
use crate::{
    mm::{PAGE_SIZE, mapping::SharedMemory, object::VmObject},
    rng,
    sync::Lazy,
    task::{scheduler, wait::wait_until},
};

/// statfs(2)'s magic number, tmpfs's as on Linux.
const MAGIC: u64 = 0x0102_1994;

static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

static FS: Lazy<VirtualFs> = Lazy::new(|| VirtualFs { device: next_device(), magic: MAGIC });
static DIRECTORY: Lazy<Arc<VirtualDirectory>> = Lazy::new(make_directory);

fn make_directory() -> Arc<VirtualDirectory> {
    let directory = VirtualDirectory::new(*FS);
    for (name, minor, device) in [
        ("null", 3, MemoryDevice::Null),
        ("zero", 5, MemoryDevice::Zero),
        ("full", 7, MemoryDevice::Full),
        ("random", 8, MemoryDevice::Random),
        ("urandom", 9, MemoryDevice::Urandom),
    ] {
        directory.add(name, Arc::new(MemoryInode { inode: next_inode(), rdev: device_number(1, minor), device }));
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        directory.add_link(name, target);
    }
    directory.add("ptmx", devpts::ptmx(*FS));
    directory.add_directory("pts");
    directory.add("kmsg", super::kmsg::KmsgInode::new(*FS));
    directory.add_directory("shm");
    directory
}

/// What all inodes of /dev share.
pub fn file_system() -> VirtualFs {
    *FS
}

/// The directory that is mounted at /dev.
pub fn directory() -> Arc<VirtualDirectory> {
    DIRECTORY.clone()
}

/// Adds a device.
pub fn add_device(name: &str, inode: Arc<dyn Inode>) {
    DIRECTORY.add(name, inode);
}

/// Opens the device with this number, wherever its file is. ENXIO where there is none.
pub fn open_device(kind: FileKind, rdev: u64, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
    let mut found = None;
    DIRECTORY.read_directory(0, &mut |entry| {
        if entry.kind == kind
            && let Ok(inode) = DIRECTORY.lookup(entry.name)
            && inode.metadata().rdev == rdev
        {
            found = Some(inode);
        }
        found.is_none()
    })?;
    found.ok_or(Errno::ENXIO)?.open(flags)?.ok_or(Errno::ENXIO)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MemoryDevice {
    Null,
    Zero,
    Full,
    /// Waits for the seed.
    Random,
    /// The same generator; before the seed it gives what it has, as random(4) says, with a line in the log.
    Urandom,
}

struct MemoryInode {
    inode: u64,
    rdev: u64,
    device: MemoryDevice,
}

impl Inode for MemoryInode {
    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new(FS.device, self.inode, FileKind::CharDevice, 0o666);
        metadata.rdev = self.rdev;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        Ok(Some(Arc::new(MemoryFile(self.device))))
    }
}

struct MemoryFile(MemoryDevice);

/// Fills `buffer` by calling `next` for piece after piece; stops where the program's memory ends, and for a signal.
fn fill(buffer: &mut ReadBuffer<'_>, mut next: impl FnMut(&mut ReadBuffer<'_>) -> Result<usize>) -> Result<usize> {
    let mut done = 0;
    let thread = scheduler::current();
    while buffer.remaining() > 0 {
        if done > 0 && thread.must_stop_waiting() {
            break;
        }
        match next(buffer) {
            Ok(copied) => done += copied,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Random bytes; waits for the seed unless `file` is non-blocking.
fn read_random(file: &OpenFile, buffer: &mut ReadBuffer<'_>, wait: bool) -> Result<usize> {
    let next: fn(&mut [u8]) -> Result<()> = if wait { rng::fill } else { rng::fill_now };
    if wait && !rng::is_ready() {
        if file.is_nonblocking() {
            return Err(Errno::EAGAIN);
        }
        wait_until(&[rng::ready_queue()], None, || rng::is_ready().then_some(()))?;
    }
    let mut bytes = [0; 256];
    next(&mut bytes)?;
    let thread = scheduler::current();
    let mut since_check = 0;
    fill(buffer, |buffer| {
        // As Linux: a long read ends early for a signal, never below 256 bytes.
        if since_check >= PAGE_SIZE && thread.signal_pending() {
            return Err(Errno::RESTART);
        }
        since_check += bytes.len();
        let copied = buffer.put(&bytes)?;
        next(&mut bytes)?;
        Ok(copied)
    })
}

impl FileOps for MemoryFile {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        match self.0 {
            MemoryDevice::Null => Ok(0),
            MemoryDevice::Zero | MemoryDevice::Full => fill(buffer, |buffer| buffer.put(&ZEROES)),
            MemoryDevice::Random => read_random(file, buffer, true),
            MemoryDevice::Urandom => read_random(file, buffer, false),
        }
    }

    fn write(&self, _file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        match self.0 {
            MemoryDevice::Full => Err(Errno::ENOSPC),
            MemoryDevice::Null | MemoryDevice::Zero => Ok(buffer.remaining()),
            MemoryDevice::Random | MemoryDevice::Urandom => {
                let mut done = 0;
                let mut bytes = [0; 256];
                while buffer.remaining() > 0 {
                    match buffer.take(&mut bytes) {
                        Ok(taken) => {
                            done += taken;
                            rng::stir(bytes.get(..taken).unwrap_or_default());
                        }
                        Err(error) if done == 0 => return Err(error),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }
        }
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn vm_object(&self) -> Option<Arc<dyn VmObject>> {
        // Each mapping of /dev/zero is memory of its own; a private one copies what it writes to.
        (self.0 == MemoryDevice::Zero).then(|| SharedMemory::new(super::regular::MAX_OFFSET) as Arc<dyn VmObject>)
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
