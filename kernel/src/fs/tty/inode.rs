//! The device files of terminals: /dev/console, /dev/ttyAMA0 and the like, those of pseudo-terminals, and /dev/tty.

use alloc::sync::Arc;

use abi::{Errno, Result, ioctl as request, linux};
use hal::UserAddr;

use super::{Device, Tty, devpts, job};
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

/// A device file of terminals. It can be given other owners and permissions.
pub struct TtyInode {
    fs: VirtualFs,
    metadata: IrqLock<Metadata>,
    opens: Opens,
}

/// What its opening opens.
pub(super) enum Opens {
    /// A terminal, which becomes the controlling one where it can be.
    Terminal(Arc<Tty>),
    /// The system's console, which gives nobody a controlling terminal.
    Console(Arc<Tty>),
    /// Whatever terminal controls the opener's session.
    Controlling,
    /// The master of a new pseudo-terminal.
    Multiplexer,
}

impl TtyInode {
    /// A device file with the inode number `inode` and the device number `rdev`, owned by root.
    pub(super) fn new(fs: VirtualFs, inode: u64, rdev: u64, permissions: u32, opens: Opens) -> Arc<Self> {
        let mut metadata = Metadata::new(fs.device, inode, FileKind::CharDevice, permissions);
        let now = time::now_file_time();
        metadata.rdev = rdev;
        (metadata.accessed, metadata.modified, metadata.changed) = (now, now, now);
        Arc::new(Self { fs, metadata: IrqLock::new(metadata), opens })
    }

    /// /dev/console, 5:1.
    pub fn console(fs: VirtualFs, tty: &Arc<Tty>) -> Arc<Self> {
        Self::new(fs, next_inode(), device_number(5, 1), 0o600, Opens::Console(tty.clone()))
    }

    /// The device file that a serial port's terminal is known by, such as /dev/ttyAMA0.
    pub fn serial(fs: VirtualFs, tty: &Arc<Tty>) -> Arc<Self> {
        Self::new(fs, next_inode(), tty.number(), 0o660, Opens::Terminal(tty.clone()))
    }

    /// /dev/tty, 5:0.
    pub fn alias(fs: VirtualFs) -> Arc<Self> {
        Self::new(fs, next_inode(), device_number(5, 0), 0o666, Opens::Controlling)
    }

    /// /dev/ptmx, 5:2.
    pub(super) fn multiplexer(fs: VirtualFs, inode: u64) -> Arc<Self> {
        Self::new(fs, inode, device_number(5, 2), 0o666, Opens::Multiplexer)
    }
}

impl Inode for TtyInode {
    fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }
    fn set_attributes(&self, change: AttributeChange) -> Result<()> {
        let now = time::now_file_time();
        let mut metadata = self.metadata.lock();
        metadata.permissions = change.permissions.unwrap_or(metadata.permissions);
        metadata.uid = change.uid.unwrap_or(metadata.uid);
        metadata.gid = change.gid.unwrap_or(metadata.gid);
        metadata.accessed = change.accessed.unwrap_or(metadata.accessed);
        metadata.modified = change.modified.unwrap_or(metadata.modified);
        metadata.changed = now;
        Ok(())
    }
    fn status(&self) -> FileSystemStatus {
        self.fs.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        let file = match &self.opens {
            Opens::Terminal(tty) => OpenTty::open(tty, flags),
            Opens::Console(tty) => OpenTty::without_control(tty),
            Opens::Controlling => {
                let tty = job::controlling_terminal(scheduler::current().process()).ok_or(Errno::ENXIO)?;
                OpenTty::without_control(&tty)
            }
            Opens::Multiplexer => devpts::make(),
        };
        file.map(Some)
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
