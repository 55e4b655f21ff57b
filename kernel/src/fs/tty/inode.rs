//! The device files of terminals: /dev/console, /dev/ttyAMA0 and the like, and /dev/tty.

use alloc::sync::Arc;

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{Tty, job};
use crate::{
    fs::{
        AttributeChange, FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, PollEvents,
        PollTable, ReadBuffer, WriteBuffer,
        virtual_files::{VirtualFs, device_number, next_inode},
    },
    sync::IrqLock,
    task::scheduler,
    time,
};

/// A character device that can be given other owners and permissions.
struct DeviceNode {
    fs: VirtualFs,
    metadata: IrqLock<Metadata>,
}

impl DeviceNode {
    fn new(fs: VirtualFs, rdev: u64, permissions: u32) -> Self {
        let mut metadata = Metadata::new(fs.device, next_inode(), FileKind::CharDevice, permissions);
        let now = time::now_file_time();
        metadata.rdev = rdev;
        (metadata.accessed, metadata.modified, metadata.changed) = (now, now, now);
        Self { fs, metadata: IrqLock::new(metadata) }
    }

    fn change(&self, change: AttributeChange) {
        let now = time::now_file_time();
        let mut metadata = self.metadata.lock();
        metadata.permissions = change.permissions.unwrap_or(metadata.permissions);
        metadata.uid = change.uid.unwrap_or(metadata.uid);
        metadata.gid = change.gid.unwrap_or(metadata.gid);
        metadata.accessed = change.accessed.unwrap_or(metadata.accessed);
        metadata.modified = change.modified.unwrap_or(metadata.modified);
        metadata.changed = now;
    }
}

/// A terminal's device file.
pub struct TtyInode {
    node: DeviceNode,
    tty: Arc<Tty>,
}

impl TtyInode {
    /// A device file in `fs` with the device number `rdev`.
    pub fn new(fs: VirtualFs, tty: &Arc<Tty>, rdev: u64, permissions: u32) -> Arc<Self> {
        Arc::new(Self { node: DeviceNode::new(fs, rdev, permissions), tty: tty.clone() })
    }

    /// /dev/console: 5:1.
    pub fn console(fs: VirtualFs, tty: &Arc<Tty>) -> Arc<Self> {
        Self::new(fs, tty, device_number(5, 1), 0o600)
    }

    /// /dev/ttyAMA`index`: 204:64 onwards, as Linux numbers PL011 ports.
    pub fn serial(fs: VirtualFs, tty: &Arc<Tty>, index: u32) -> Arc<Self> {
        Self::new(fs, tty, device_number(204, 64 + index), 0o660)
    }
}

impl Inode for TtyInode {
    fn metadata(&self) -> Metadata {
        *self.node.metadata.lock()
    }
    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        self.node.change(change);
        Ok(())
    }
    fn status(&self) -> FileSystemStatus {
        self.node.fs.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        let file = OpenTty::open(&self.tty);
        if !flags.contains(linux::O_NOCTTY) {
            self.tty.claim_for(scheduler::current().process());
        }
        Ok(Some(file))
    }
}

/// /dev/tty: whatever terminal controls the opener's session.
pub struct TtyAlias {
    node: DeviceNode,
}

impl TtyAlias {
    /// The device file, 5:0.
    pub fn new(fs: VirtualFs) -> Arc<Self> {
        Arc::new(Self { node: DeviceNode::new(fs, device_number(5, 0), 0o666) })
    }
}

impl Inode for TtyAlias {
    fn metadata(&self) -> Metadata {
        *self.node.metadata.lock()
    }
    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        self.node.change(change);
        Ok(())
    }
    fn status(&self) -> FileSystemStatus {
        self.node.fs.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        let session = scheduler::current().process().session();
        let tty = job::controlling_terminal_of(session).ok_or(Errno::ENXIO)?;
        Ok(Some(OpenTty::open(&tty)))
    }
}

/// A terminal that is open. It dies with the next hang-up.
pub(super) struct OpenTty {
    tty: Arc<Tty>,
    generation: u32,
}

impl OpenTty {
    fn open(tty: &Arc<Tty>) -> Arc<dyn FileOps> {
        let generation = {
            let mut state = tty.state.lock();
            // Root may open in spite of TIOCEXCL on Linux (ioctl_tty(2)); every process here is root.
            state.open_files += 1;
            state.generation
        };
        Arc::new(Self { tty: tty.clone(), generation })
    }
}

impl Drop for OpenTty {
    fn drop(&mut self) {
        let mut state = self.tty.state.lock();
        state.open_files -= 1;
        if state.open_files == 0 {
            state.exclusive = false;
        }
    }
}

impl FileOps for OpenTty {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        self.tty.read(self.generation, file, buffer)
    }
    fn write(&self, file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        self.tty.write(self.generation, file, buffer)
    }
    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        self.tty.poll(self.generation, table)
    }
    fn ioctl(&self, _file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if self.tty.state.lock().generation != self.generation {
            return Err(Errno::EIO);
        }
        let result = self.tty.ioctl(command, argument);
        // It may have dropped input or changed what counts as a line.
        self.tty.backend.input_wanted();
        result
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
