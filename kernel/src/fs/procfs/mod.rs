//! /proc: processes and the system as files, in the formats of proc(5).
//!
//! The root lists the entries that `system` adds and a directory for each process. Directories and files of processes
//! are made when looked up and hold the process; what a file says is made when it is read. Files of a process that
//! has ended answer ESRCH, its directories are empty.
//!
//! `process` writes the texts, `links` and `namespaces` have the links that lead to open files, places and namespaces.

mod links;
mod maps;
mod namespaces;
mod process;
mod system;

use alloc::{format, string::ToString as _, sync::Arc, vec::Vec};

use abi::{Errno, Result};

use super::{
    DirectoryEntry, FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFlags,
    virtual_files::{VirtualDirectory, VirtualFs, VirtualLink, next_device, open_text},
};
use crate::{
    net,
    sync::Lazy,
    task::{
        process::{self as processes, Process},
        scheduler,
        thread::Thread,
    },
    time,
};
use links::{DescriptorDirectory, Place, PlaceLink};
pub use namespaces::NamespaceFile;
use namespaces::{NamespaceDirectory, Owner};
use process::Text;

/// statfs(2)'s magic number.
const MAGIC: u64 = 0x9fa0;
/// Inode number of the root, as on Linux.
const ROOT_INODE: u64 = 1;

/// How a directory of /proc refuses new names, and fewer.
const REFUSALS: (Errno, Errno) = (Errno::ENOENT, Errno::EPERM);

static FS: Lazy<VirtualFs> = Lazy::new(|| VirtualFs { device: next_device(), magic: MAGIC });
static NETWORK: Lazy<Arc<VirtualDirectory>> = Lazy::new(|| net::proc::directory(*FS));
static ENTRIES: Lazy<Arc<VirtualDirectory>> = Lazy::new(|| system::entries(*FS));

/// The directory that is mounted at /proc.
pub fn root() -> Arc<dyn Inode> {
    Arc::new(Root)
}

/// Metadata of something made at this moment.
fn metadata(inode: u64, kind: FileKind, permissions: u32) -> Metadata {
    let mut metadata = Metadata::new(FS.device, inode, kind, permissions);
    let now = time::now_file_time();
    (metadata.accessed, metadata.modified, metadata.changed) = (now, now, now);
    if kind == FileKind::Directory {
        metadata.links = 2;
    }
    metadata
}

/// Metadata of something that belongs to a process.
fn owned_metadata(inode: u64, kind: FileKind, permissions: u32, process: &Process) -> Metadata {
    let mut metadata = metadata(inode, kind, permissions);
    (metadata.uid, metadata.gid) = process.file_owner();
    metadata
}

/// The number a name states: decimal, without sign or leading zero.
fn number(name: &[u8]) -> Option<i32> {
    if name.first() == Some(&b'0') && name.len() > 1 {
        return None;
    }
    core::str::from_utf8(name).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

struct Root;

/// The links of /proc whose target depends on who asks.
const SELF_LINKS: [&str; 2] = ["self", "thread-self"];

impl Inode for Root {
    fn metadata(&self) -> Metadata {
        metadata(ROOT_INODE, FileKind::Directory, 0o555)
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if let Some(pid) = number(name) {
            // Number 0 is the kernel itself.
            if pid == 0 {
                return Err(Errno::ENOENT);
            }
            // Threads can be looked up as well, though they are not listed (proc(5)).
            let process = match processes::find(pid) {
                Some(process) => process,
                None => processes::find_thread(pid).ok_or(Errno::ENOENT)?.process().clone(),
            };
            return Ok(Arc::new(ProcessDirectory { process, thread: None }));
        }
        let thread = scheduler::current();
        let pid = thread.process().pid();
        match name {
            b"self" => Ok(VirtualLink::new(*FS, pid.to_string().into_bytes())),
            b"thread-self" => Ok(VirtualLink::new(*FS, format!("{pid}/task/{}", thread.tid()).into_bytes())),
            _ => ENTRIES.lookup(name),
        }
    }
    fn names_are_refused(&self) -> (Errno, Errno) {
        REFUSALS
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        /// Positions from here on are the process numbers.
        const PROCESSES: u64 = 1 << 16;
        let mut going = true;
        if position < PROCESSES {
            let links = SELF_LINKS.len() as u64;
            for (index, name) in SELF_LINKS.iter().enumerate().skip(position as usize) {
                let next = index as u64 + 1;
                let entry = DirectoryEntry { name: name.as_bytes(), inode: next + 1, kind: FileKind::Symlink, next };
                if !visit(entry) {
                    return Ok(());
                }
            }
            ENTRIES.read_directory(position.saturating_sub(links), &mut |entry| {
                going = visit(DirectoryEntry { next: entry.next + links, ..entry });
                going
            })?;
        }
        if !going {
            return Ok(());
        }
        for process in processes::all() {
            let next = PROCESSES + process.pid() as u64;
            if next <= position || process.pid() == 0 {
                continue;
            }
            let name = process.pid().to_string();
            let inode = inode_number(process.pid(), 0);
            if !visit(DirectoryEntry { name: name.as_bytes(), inode, kind: FileKind::Directory, next }) {
                break;
            }
        }
        Ok(())
    }
}

/// The inode number of entry `index` of the directory of process or thread `id`.
const fn inode_number(id: i32, index: u64) -> u64 {
    ((id as u64) << 20) + (1 << 16) + index
}

/// /proc/PID, or with a thread /proc/PID/task/TID.
struct ProcessDirectory {
    process: Arc<Process>,
    thread: Option<Arc<Thread>>,
}

/// What an entry of such a directory is.
enum Entry {
    Text(Text),
    Link(Place),
    Descriptors {
        information: bool,
    },
    Namespaces,
    Threads,
    /// The same for every process.
    Network,
}

/// The entries. Directories of threads lack the last one.
static ENTRIES_OF_PROCESS: [(&str, Entry); 34] = [
    ("auxv", Entry::Text(Text::AuxiliaryVector)),
    ("cgroup", Entry::Text(Text::ControlGroup)),
    ("cmdline", Entry::Text(Text::CommandLine)),
    ("comm", Entry::Text(Text::Name)),
    ("cwd", Entry::Link(Place::WorkingDirectory)),
    ("environ", Entry::Text(Text::Environment)),
    ("exe", Entry::Link(Place::Executable)),
    ("fd", Entry::Descriptors { information: false }),
    ("fdinfo", Entry::Descriptors { information: true }),
    ("gid_map", Entry::Text(Text::IdMap)),
    ("io", Entry::Text(Text::Transfers)),
    ("limits", Entry::Text(Text::Limits)),
    ("loginuid", Entry::Text(Text::AuditId)),
    ("maps", Entry::Text(Text::Maps)),
    ("mountinfo", Entry::Text(Text::MountInformation)),
    ("mounts", Entry::Text(Text::Mounts)),
    ("net", Entry::Network),
    ("ns", Entry::Namespaces),
    ("oom_score", Entry::Text(Text::OomScore)),
    ("oom_score_adj", Entry::Text(Text::OomScoreAdjustment)),
    ("personality", Entry::Text(Text::Personality)),
    ("root", Entry::Link(Place::Root)),
    ("sessionid", Entry::Text(Text::AuditId)),
    ("setgroups", Entry::Text(Text::GroupsRule)),
    ("smaps", Entry::Text(Text::DetailedMaps)),
    ("smaps_rollup", Entry::Text(Text::MapsSummary)),
    ("stack", Entry::Text(Text::KernelStack)),
    ("stat", Entry::Text(Text::Stat)),
    ("statm", Entry::Text(Text::MemoryStat)),
    ("status", Entry::Text(Text::Status)),
    ("timerslack_ns", Entry::Text(Text::TimerSlack)),
    ("uid_map", Entry::Text(Text::IdMap)),
    ("wchan", Entry::Text(Text::WaitChannel)),
    ("task", Entry::Threads),
];

impl Entry {
    fn kind(&self) -> FileKind {
        match self {
            Self::Text(_) => FileKind::Regular,
            Self::Link(_) => FileKind::Symlink,
            Self::Descriptors { .. } | Self::Namespaces | Self::Threads | Self::Network => FileKind::Directory,
        }
    }
}

impl ProcessDirectory {
    fn id(&self) -> i32 {
        self.thread.as_ref().map_or(self.process.pid(), |thread| thread.tid())
    }

    fn entries(&self) -> impl Iterator<Item = (usize, &'static str, &'static Entry)> {
        let of_thread = self.thread.is_some();
        let all = ENTRIES_OF_PROCESS.iter().enumerate().map(|(index, (name, entry))| (index, *name, entry));
        all.filter(move |(_, _, entry)| !of_thread || !matches!(entry, Entry::Threads))
    }
}

impl Inode for ProcessDirectory {
    fn process(&self) -> Option<Arc<Process>> {
        self.thread.is_none().then(|| self.process.clone())
    }
    fn metadata(&self) -> Metadata {
        // These directories show their user even where the process hides (proc(5)).
        let mut metadata = metadata(inode_number(self.id(), 0), FileKind::Directory, 0o555);
        let who = self.process.credentials();
        (metadata.uid, metadata.gid) = (who.user.effective, who.group.effective);
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let mut entries = self.entries();
        let (index, _, entry) = entries.find(|(_, known, _)| known.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let inode = inode_number(self.id(), index as u64 + 1);
        let process = self.process.clone();
        Ok(match entry {
            Entry::Text(text) => Arc::new(TextInode { inode, process, thread: self.thread.clone(), text: *text }),
            Entry::Link(place) => Arc::new(PlaceLink { inode, process, thread: self.thread.clone(), place: *place }),
            Entry::Descriptors { information } => {
                Arc::new(DescriptorDirectory { inode, id: self.id(), process, information: *information })
            }
            Entry::Namespaces => {
                let owner = Owner { process, thread: self.thread.as_ref().map(Arc::downgrade) };
                Arc::new(NamespaceDirectory { inode, id: self.id(), owner })
            }
            Entry::Threads => Arc::new(ThreadsDirectory { inode, process }),
            Entry::Network => NETWORK.clone(),
        })
    }
    fn names_are_refused(&self) -> (Errno, Errno) {
        REFUSALS
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        for (index, name, entry) in self.entries() {
            let next = index as u64 + 1;
            if next <= position {
                continue;
            }
            let inode = inode_number(self.id(), next);
            if !visit(DirectoryEntry { name: name.as_bytes(), inode, kind: entry.kind(), next }) {
                break;
            }
        }
        Ok(())
    }
}

/// /proc/PID/task.
struct ThreadsDirectory {
    inode: u64,
    process: Arc<Process>,
}

impl Inode for ThreadsDirectory {
    fn metadata(&self) -> Metadata {
        let mut metadata = owned_metadata(self.inode, FileKind::Directory, 0o555, &self.process);
        metadata.links = 2 + self.process.threads().len() as u32;
        metadata
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let tid = number(name).ok_or(Errno::ENOENT)?;
        let thread = self.process.threads().into_iter().find(|thread| thread.tid() == tid).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(ProcessDirectory { process: self.process.clone(), thread: Some(thread) }))
    }
    fn names_are_refused(&self) -> (Errno, Errno) {
        REFUSALS
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let mut ids: Vec<i32> = self.process.threads().iter().map(|thread| thread.tid()).collect();
        ids.sort_unstable();
        for tid in ids.into_iter().filter(|tid| *tid as u64 > position) {
            let name = tid.to_string();
            let (inode, next) = (inode_number(tid, 0), tid as u64);
            if !visit(DirectoryEntry { name: name.as_bytes(), inode, kind: FileKind::Directory, next }) {
                break;
            }
        }
        Ok(())
    }
}

/// A file of a process or thread.
struct TextInode {
    inode: u64,
    process: Arc<Process>,
    thread: Option<Arc<Thread>>,
    text: Text,
}

impl Inode for TextInode {
    fn metadata(&self) -> Metadata {
        owned_metadata(self.inode, FileKind::Regular, self.text.permissions(), &self.process)
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        if self.text.is_writable() { Ok(()) } else { Err(Errno::EACCES) }
    }
    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        if flags.writable() && !self.text.is_writable() {
            return Err(Errno::EACCES);
        }
        self.text.check_open(&self.process)?;
        let taker = self.text.taker(&self.process, self.thread.as_ref());
        let (text, process, thread) = (self.text, self.process.clone(), self.thread.clone());
        let make = move || {
            let is_there = processes::find(process.pid()).is_some_and(|found| Arc::ptr_eq(&found, &process));
            if is_there { text.make(&process, thread.as_ref()) } else { Err(Errno::ESRCH) }
        };
        Ok(Some(open_text(make, taker)))
    }
}
