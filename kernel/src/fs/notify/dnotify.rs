//! Signals about what happens in a directory: fcntl(2) with F_NOTIFY.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result, linux};

use super::{Event, Key, Mark};
use crate::fs::{FileKind, OpenFile, async_signal::Owner};

/// Which events each DN_ bit stands for. A rename is told when the old name goes.
const MEANINGS: [(u32, u32); 6] = [
    (linux::DN_ACCESS, linux::IN_ACCESS),
    (linux::DN_MODIFY, linux::IN_MODIFY),
    (linux::DN_CREATE, linux::IN_CREATE | linux::IN_MOVED_TO),
    (linux::DN_DELETE, linux::IN_DELETE | linux::IN_MOVED_FROM),
    (linux::DN_RENAME, linux::IN_MOVED_FROM),
    (linux::DN_ATTRIB, linux::IN_ATTRIB),
];

/// A wish to hear of a directory by signals.
pub struct DirectoryMark {
    key: Key,
    file: Weak<OpenFile>,
    fd: i32,
    /// DN_ bits; 0 once it has ended.
    wanted: AtomicU32,
}

impl DirectoryMark {
    /// Ends it.
    pub fn end(&self) {
        self.wanted.store(0, Ordering::Relaxed);
        super::remove(self.key, core::ptr::from_ref(self).cast());
    }
}

impl Mark for DirectoryMark {
    fn wants(&self) -> u32 {
        let wanted = self.wanted.load(Ordering::Relaxed);
        MEANINGS.iter().filter(|(bit, _)| wanted & bit != 0).fold(0, |events, (_, meaning)| events | meaning)
    }

    fn deliver(&self, event: &Event<'_>) {
        /// linux/eventpoll's POLLIN, POLLRDNORM and POLLMSG, as Linux reports a message.
        const BAND: u32 = linux::POLLIN | linux::POLLRDNORM | linux::POLLMSG;
        // Only what happens to files in the directory counts, not what happens to the directory.
        if event.name.is_none() {
            return;
        }
        let wanted = self.wanted.load(Ordering::Relaxed);
        for (bit, meaning) in MEANINGS {
            if wanted & bit != 0
                && event.mask & meaning != 0
                && let Some(file) = self.file.upgrade()
            {
                file.asynchronous().send(self.fd, linux::POLL_MSG, BAND);
                if wanted & linux::DN_MULTISHOT == 0 {
                    self.end();
                    return;
                }
            }
        }
    }

    fn file_gone(&self, _unmounted: bool) {
        self.wanted.store(0, Ordering::Relaxed);
    }
}

/// fcntl(2) with F_NOTIFY, through the descriptor table `table` by process `pid`. ENOTDIR.
pub fn ask(file: &Arc<OpenFile>, fd: i32, wanted: u32, table: u64, pid: i32) -> Result<()> {
    if wanted & !linux::DN_MULTISHOT == 0 {
        file.asynchronous().remove_marks(table);
        return Ok(());
    }
    let path = file.path().filter(|path| path.kind() == FileKind::Directory).ok_or(Errno::ENOTDIR)?;
    if let Some(mark) = file.asynchronous().mark_of(table)
        && mark.wanted.load(Ordering::Relaxed) != 0
    {
        mark.wanted.fetch_or(wanted, Ordering::Relaxed);
        return Ok(());
    }
    file.asynchronous().remove_marks(table);
    file.asynchronous().set_owner(Owner::Process(pid));
    let key = super::key_of(path.inode());
    let mark = Arc::new(DirectoryMark { key, file: Arc::downgrade(file), fd, wanted: AtomicU32::new(wanted) });
    super::add(key, path.inode(), mark.clone());
    file.asynchronous().add_mark(table, mark);
    Ok(())
}
