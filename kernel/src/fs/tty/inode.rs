//! The device files of terminals: /dev/console, /dev/ttyAMA0 and the like, those of pseudo-terminals, and /dev/tty.

use alloc::sync::Arc;

use abi::{Errno, Result, ioctl as request, linux};
use hal::UserAddr;

use super::{Device, Tty, job};
use crate::{
    fs::{
        AttributeChange, FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags, PollEvents,
        PollTable, ReadBuffer, WriteBuffer,
        virtual_files::{VirtualFs, device_number, next_inode},
    },
    sync::IrqLock,
    task::{identity, scheduler},
    time,
};

/// A character device that can be given other owners and permissions.
pub(super) struct DeviceNode {
    fs: VirtualFs,
    metadata: IrqLock<Metadata>,
}

impl DeviceNode {
    /// A device file with the inode number `inode` and the device number `rdev`, owned by root.
    pub(super) fn new(fs: VirtualFs, inode: u64, rdev: u64, permissions: u32) -> Self {
        let mut metadata = Metadata::new(fs.device, inode, FileKind::CharDevice, permissions);
        let now = time::now_file_time();
        metadata.rdev = rdev;
        (metadata.accessed, metadata.modified, metadata.changed) = (now, now, now);
        Self { fs, metadata: IrqLock::new(metadata) }
    }

    /// What stat(2) tells.
    pub(super) fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }

    /// The file system's status.
    pub(super) fn status(&self) -> FileSystemStatus {
        self.fs.status()
    }

    /// Changes attributes.
    pub(super) fn change(&self, change: AttributeChange) {
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
    /// Opening it can make the terminal the controlling one.
    controls: bool,
}

impl TtyInode {
    /// The device file of `tty` that `node` describes.
    pub(super) fn on(node: DeviceNode, tty: &Arc<Tty>) -> Arc<Self> {
        Arc::new(Self { node, tty: tty.clone(), controls: true })
    }

    /// /dev/console, 5:1. Opening it gives nobody a controlling terminal.
    pub fn console(fs: VirtualFs, tty: &Arc<Tty>) -> Arc<Self> {
        let node = DeviceNode::new(fs, next_inode(), device_number(5, 1), 0o600);
        Arc::new(Self { node, tty: tty.clone(), controls: false })
    }

    /// The device file that a serial port's terminal is known by, such as /dev/ttyAMA0.
    pub fn serial(fs: VirtualFs, tty: &Arc<Tty>) -> Arc<Self> {
        Self::on(DeviceNode::new(fs, next_inode(), tty.number(), 0o660), tty)
    }
}

impl Inode for TtyInode {
    fn metadata(&self) -> Metadata {
        self.node.metadata()
    }
    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        self.node.change(change);
        Ok(())
    }
    fn status(&self) -> FileSystemStatus {
        self.node.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if self.controls { OpenTty::open(&self.tty, flags) } else { OpenTty::without_control(&self.tty) }.map(Some)
    }
}

/// /dev/tty: whatever terminal controls the opener's session.
pub struct TtyAlias {
    node: DeviceNode,
}

impl TtyAlias {
    /// The device file, 5:0.
    pub fn new(fs: VirtualFs) -> Arc<Self> {
        Arc::new(Self { node: DeviceNode::new(fs, next_inode(), device_number(5, 0), 0o666) })
    }
}

impl Inode for TtyAlias {
    fn metadata(&self) -> Metadata {
        self.node.metadata()
    }
    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        self.node.change(change);
        Ok(())
    }
    fn status(&self) -> FileSystemStatus {
        self.node.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        let tty = job::controlling_terminal(scheduler::current().process()).ok_or(Errno::ENXIO)?;
        OpenTty::without_control(&tty).map(Some)
    }
}

/// A terminal that is open. It dies with the next hang-up.
pub(super) struct OpenTty {
    tty: Arc<Tty>,
    generation: u32,
}

impl OpenTty {
    /// Opens a terminal. Unless `flags` say O_NOCTTY or forbid reading, the leader of a session without a terminal gets
    /// a free one as its controlling terminal. EIO where the master is closed or has not been unlocked; EBUSY with
    /// `TIOCEXCL` (ioctl_tty(2)).
    pub(super) fn open(tty: &Arc<Tty>, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        let file = Self::without_control(tty)?;
        if !flags.contains(linux::O_NOCTTY) && flags.readable() {
            tty.claim_for(scheduler::current().process());
        }
        Ok(file)
    }

    fn without_control(tty: &Arc<Tty>) -> Result<Arc<dyn FileOps>> {
        let privileged = !scheduler::is_running() || identity::require(linux::CAP_SYS_ADMIN).is_ok();
        let generation = {
            let mut state = tty.state.lock();
            if matches!(tty.device, Device::Pseudo(_)) {
                state.open_towards_master()?;
            }
            if state.exclusive && !privileged {
                return Err(Errno::EBUSY);
            }
            state.open_files += 1;
            state.generation
        };
        Ok(Arc::new(Self { tty: tty.clone(), generation }))
    }
}

impl Drop for OpenTty {
    fn drop(&mut self) {
        let mut state = self.tty.state.lock();
        state.open_files -= 1;
        if state.open_files > 0 {
            return;
        }
        state.exclusive = false;
        if let Device::Pseudo(pseudo) = &self.tty.device {
            state.closed_towards_master();
            drop(state);
            pseudo.wake_all();
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
    fn ioctl(&self, file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if self.tty.state.lock().generation != self.generation {
            return Err(if command == request::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        let result = self.tty.ioctl(file, command, argument);
        // It may have dropped input or changed what counts as a line.
        self.tty.input_wanted();
        result
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
