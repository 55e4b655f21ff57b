//! /proc/PID/ns: the namespaces of a thread (namespaces(7)), as links to files that setns(2) takes.
//!
//! Such a file is in no tree: a [`NamespaceFile`] is found by its link alone, and keeps its namespace.

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};

use abi::{Errno, Result};
use hal::UserAddr;

use super::{FS, REFUSALS, inode_number, links::check_follow, metadata, owned_metadata};
use crate::{
    fs::{
        DirectoryEntry, FileKind, FileOps, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags,
        path::{self, Path},
        virtual_files::{VirtualFs, next_device},
    },
    mm::user,
    sync::Lazy,
    task::{
        namespace::{Kind, Namespace},
        process::Process,
        scheduler,
        thread::Thread,
    },
};

/// The entries, and the kind each leads to.
const LINKS: [(&str, Kind); 10] = [
    ("cgroup", Kind::Cgroup),
    ("ipc", Kind::Ipc),
    ("mnt", Kind::Mount),
    ("net", Kind::Network),
    ("pid", Kind::Pid),
    ("pid_for_children", Kind::Pid),
    ("time", Kind::Time),
    ("time_for_children", Kind::Time),
    ("user", Kind::User),
    ("uts", Kind::Uts),
];

/// Where the entries' inode numbers begin among those of their process.
const INODES: u64 = 1 << 12;

/// Whose namespaces are meant: a process's first thread, or a certain one.
#[derive(Clone)]
pub struct Owner {
    pub process: Arc<Process>,
    pub thread: Option<Weak<Thread>>,
}

impl Owner {
    /// ENOENT where the thread has ended.
    fn namespace(&self, kind: Kind) -> Result<Namespace> {
        let thread = match &self.thread {
            Some(thread) => thread.upgrade(),
            None => self.process.main_thread(),
        };
        let thread = thread.ok_or(Errno::ENOENT)?;
        Ok(thread.namespace(kind))
    }
}

/// /proc/PID/ns.
pub struct NamespaceDirectory {
    pub inode: u64,
    /// The process's or thread's number.
    pub id: i32,
    pub owner: Owner,
}

impl Inode for NamespaceDirectory {
    fn metadata(&self) -> Metadata {
        owned_metadata(self.inode, FileKind::Directory, 0o511, &self.owner.process)
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let mut links = LINKS.iter().enumerate();
        let (index, (_, kind)) = links.find(|(_, (known, _))| known.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let inode = inode_number(self.id, INODES + index as u64);
        Ok(Arc::new(NamespaceLink { inode, owner: self.owner.clone(), kind: *kind }))
    }
    fn names_are_refused(&self) -> (Errno, Errno) {
        REFUSALS
    }
    fn read_directory(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        for (index, (name, _)) in LINKS.iter().enumerate().skip(position as usize) {
            let (inode, next) = (inode_number(self.id, INODES + index as u64), index as u64 + 1);
            if !visit(DirectoryEntry { name: name.as_bytes(), inode, kind: FileKind::Symlink, next }) {
                break;
            }
        }
        Ok(())
    }
}

/// An entry of /proc/PID/ns.
struct NamespaceLink {
    inode: u64,
    owner: Owner,
    kind: Kind,
}

impl NamespaceLink {
    fn target(&self) -> Result<Namespace> {
        check_follow(&self.owner.process)?;
        self.owner.namespace(self.kind)
    }
}

impl Inode for NamespaceLink {
    fn metadata(&self) -> Metadata {
        owned_metadata(self.inode, FileKind::Symlink, 0o777, &self.owner.process)
    }
    fn status(&self) -> FileSystemStatus {
        FS.status()
    }
    fn read_link(&self) -> Result<Vec<u8>> {
        Ok(description(&self.target()?).into_bytes())
    }
    fn follow_magic_link(&self) -> Option<Result<Path>> {
        Some(self.target().map(|namespace| place(&namespace)))
    }
}

static NSFS: Lazy<VirtualFs> = Lazy::new(|| VirtualFs { device: next_device(), magic: NSFS_MAGIC });
/// statfs(2)'s magic number of files that are namespaces.
const NSFS_MAGIC: u64 = 0x6e73_6673;

fn description(namespace: &Namespace) -> String {
    format!("{}:[{}]", namespace.kind().name(), namespace.number())
}

fn place(namespace: &Namespace) -> Path {
    path::floating(Arc::new(NamespaceInode(namespace.clone())), description(namespace).as_bytes())
}

/// A namespace as a file.
struct NamespaceInode(Namespace);

impl Inode for NamespaceInode {
    fn metadata(&self) -> Metadata {
        Metadata { device: NSFS.device, inode: self.0.number().into(), ..metadata(0, FileKind::Regular, 0o444) }
    }
    fn status(&self) -> FileSystemStatus {
        NSFS.status()
    }
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>> {
        Ok(Some(Arc::new(NamespaceFile(self.0.clone()))))
    }
}

/// An open namespace.
pub struct NamespaceFile(Namespace);

/// ioctl_nsfs(2).
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;

impl NamespaceFile {
    /// The namespace.
    pub const fn namespace(&self) -> &Namespace {
        &self.0
    }
}

impl FileOps for NamespaceFile {
    fn ioctl(&self, _file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        let kind = self.0.kind();
        match command {
            // The only user namespace has none above it.
            NS_GET_USERNS if kind == Kind::User => Err(Errno::EPERM),
            NS_GET_USERNS => {
                let owner = Namespace::Only(Kind::User);
                let file = OpenFile::new(Arc::new(Self(owner.clone())), place(&owner), OpenFlags::from_bits(0));
                Ok(scheduler::current().process().files().install(file, true)? as u64)
            }
            NS_GET_PARENT if matches!(kind, Kind::User | Kind::Pid) => Err(Errno::EPERM),
            NS_GET_PARENT => Err(Errno::EINVAL),
            NS_GET_NSTYPE => Ok(kind.flag().into()),
            NS_GET_OWNER_UID if kind == Kind::User => {
                user::copy_out(argument, &0u32)?;
                Ok(0)
            }
            NS_GET_OWNER_UID => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
