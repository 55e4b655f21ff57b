//! What the running thread may do with files: the checks of path_resolution(7), inode(7) and the calls' own pages.
//!
//! An [`Access`] is taken once for a path walk; for who reaches all files it is a flag. The functions here answer with
//! the errors of Linux and in its order; what changes a file or directory calls them before the file system.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result, linux};
use klib::credentials::{Credentials, FileRights};
pub use klib::credentials::{EXECUTE, READ, WRITE};

use super::{AttributeChange, FileKind, Inode, Metadata};
use crate::task::scheduler;

/// Settings of /proc/sys/fs (proc_sys_fs(5)), as Debian's kernel starts with them. Only who owns a file, or may read
/// and write it, gives it another name.
pub static PROTECTED_HARDLINKS: AtomicU64 = AtomicU64::new(1);
/// In a sticky directory that everybody writes to, only one's own links and the directory owner's are followed.
pub static PROTECTED_SYMLINKS: AtomicU64 = AtomicU64::new(1);
/// O_CREAT does not open others' FIFOs in such a directory; from 2 on, in one that its group writes to either.
pub static PROTECTED_FIFOS: AtomicU64 = AtomicU64::new(0);
/// As [`PROTECTED_FIFOS`] for regular files.
pub static PROTECTED_REGULAR: AtomicU64 = AtomicU64::new(0);

const WORLD_WRITABLE: u32 = linux::S_IWOTH;

/// With whose eyes a path is walked.
pub struct Access(Option<Arc<Credentials>>);

impl Access {
    /// The running thread's.
    #[inline]
    pub fn current() -> Self {
        if !scheduler::is_running() {
            // The kernel itself, during boot.
            return Self(None);
        }
        let thread = scheduler::current();
        if thread.identity.reaches_all_files() { Self(None) } else { Self(Some(thread.identity.acting())) }
    }

    /// Whether a directory may be searched: EACCES.
    #[inline]
    pub fn search(&self, directory: &dyn Inode) -> Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(credentials) => allowed(credentials, directory, EXECUTE),
        }
    }
}

/// What the permission bits of a file are.
fn rights(metadata: &Metadata) -> FileRights {
    FileRights {
        uid: metadata.uid,
        gid: metadata.gid,
        permissions: metadata.permissions,
        is_directory: metadata.kind == FileKind::Directory,
    }
}

fn allowed(credentials: &Credentials, inode: &dyn Inode, wanted: u32) -> Result<()> {
    if inode.allows_regardless() || credentials.allows(rights(&inode.metadata()), wanted) {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// The running thread's credentials; the kernel's during boot.
pub fn acting() -> Arc<Credentials> {
    if scheduler::is_running() { scheduler::current().identity.acting() } else { crate::task::identity::root() }
}

/// Checks [`READ`], [`WRITE`] and [`EXECUTE`] for the running thread. EROFS for writing to what cannot be written to at
/// all, EACCES.
pub fn check(inode: &dyn Inode, wanted: u32) -> Result<()> {
    let access = Access::current();
    if access.0.is_none() && wanted & (WRITE | EXECUTE) == 0 {
        return Ok(());
    }
    if wanted & (WRITE | EXECUTE) != 0 {
        let metadata = inode.metadata();
        let stored = matches!(metadata.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if wanted & WRITE != 0 && stored && inode.status().read_only {
            return Err(Errno::EROFS);
        }
        // Nobody runs what has no permission to be run.
        if wanted & EXECUTE != 0 && metadata.kind != FileKind::Directory && metadata.permissions & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
    }
    match &access.0 {
        None => Ok(()),
        Some(credentials) => allowed(credentials, inode, wanted),
    }
}

/// EPERM unless the running thread owns the file or may do as if.
pub fn check_owner(inode: &dyn Inode) -> Result<()> {
    let credentials = acting();
    if credentials.has(linux::CAP_FOWNER) || credentials.owns(inode.metadata().uid) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Whether a name may be made in a directory. EROFS, EACCES.
pub fn check_create(directory: &dyn Inode) -> Result<()> {
    check(directory, WRITE | EXECUTE)
}

/// Whether the name of `victim` may be taken out of a directory: EROFS, EACCES, and EPERM where the directory is
/// sticky and neither of the two is the thread's.
pub fn check_remove(directory: &dyn Inode, victim: &dyn Inode) -> Result<()> {
    check(directory, WRITE | EXECUTE)?;
    let metadata = directory.metadata();
    if metadata.permissions & linux::S_ISVTX == 0 {
        return Ok(());
    }
    let credentials = acting();
    let user = credentials.user.file;
    if user == victim.metadata().uid || user == metadata.uid || credentials.has(linux::CAP_FOWNER) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Whether a file may be given another name: EPERM where it is neither the thread's own nor one that it may read and
/// write without any special right.
pub fn check_link(inode: &dyn Inode) -> Result<()> {
    if PROTECTED_HARDLINKS.load(Ordering::Relaxed) == 0 || check_owner(inode).is_ok() {
        return Ok(());
    }
    let metadata = inode.metadata();
    let runs_as_group = linux::S_ISGID | linux::S_IXGRP;
    if metadata.kind != FileKind::Regular
        || metadata.permissions & linux::S_ISUID != 0
        || metadata.permissions & runs_as_group == runs_as_group
        || check(inode, READ | WRITE).is_err()
    {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Whether a symbolic link that ends a path may be followed: EACCES in a sticky directory that everybody writes to,
/// for a link that belongs to neither the thread's user nor the directory's.
pub fn check_follow(directory: &dyn Inode, link: &dyn Inode) -> Result<()> {
    const SHARED: u32 = linux::S_ISVTX | WORLD_WRITABLE;
    if PROTECTED_SYMLINKS.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let directory = directory.metadata();
    if directory.permissions & SHARED != SHARED {
        return Ok(());
    }
    let owner = link.metadata().uid;
    if owner == directory.uid || owner == acting().user.file { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether open(2) with O_CREAT may open what is there already: EACCES for others' files in shared directories, as far
/// as the settings say so.
pub fn check_open_to_create(directory: &dyn Inode, inode: &dyn Inode) -> Result<()> {
    let metadata = inode.metadata();
    let level = match metadata.kind {
        FileKind::Fifo => PROTECTED_FIFOS.load(Ordering::Relaxed),
        FileKind::Regular => PROTECTED_REGULAR.load(Ordering::Relaxed),
        _ => 0,
    };
    if level == 0 {
        return Ok(());
    }
    let directory = directory.metadata();
    let shared =
        directory.permissions & WORLD_WRITABLE != 0 || level >= 2 && directory.permissions & linux::S_IWGRP != 0;
    if directory.permissions & linux::S_ISVTX == 0
        || metadata.uid == directory.uid
        || metadata.uid == acting().user.file
        || !shared
    {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// chmod(2). EPERM for who does not own the file; who is not in its group cannot make it set-group-id.
pub fn change_mode(inode: &dyn Inode, mode: u32) -> Result<()> {
    let credentials = acting();
    let metadata = inode.metadata();
    if inode.status().read_only {
        return Err(Errno::EROFS);
    }
    if !credentials.owns(metadata.uid) {
        return Err(Errno::EPERM);
    }
    let mut permissions = mode & 0o7777;
    if !credentials.is_in_group(metadata.gid) && !credentials.has(linux::CAP_FSETID) {
        permissions &= !linux::S_ISGID;
    }
    inode.set_attributes(AttributeChange { permissions: Some(permissions), ..AttributeChange::default() })
}

/// The permission bits that are left when somebody else may have changed what the file does: set-user-id goes, and
/// set-group-id where the group may run it, or the thread is not in the group.
fn without_set_ids(credentials: &Credentials, metadata: &Metadata) -> u32 {
    let mut permissions = metadata.permissions & !linux::S_ISUID;
    let trusted = credentials.is_in_group(metadata.gid) || credentials.has(linux::CAP_FSETID);
    if permissions & linux::S_IXGRP != 0 || !trusted {
        permissions &= !linux::S_ISGID;
    }
    permissions
}

/// chown(2); `None` leaves an id alone. EPERM.
pub fn change_owner(inode: &dyn Inode, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let credentials = acting();
    let metadata = inode.metadata();
    if inode.status().read_only {
        return Err(Errno::EROFS);
    }
    let owner = credentials.user.file == metadata.uid;
    let free = credentials.has(linux::CAP_CHOWN);
    let uid_allowed = |uid| free || owner && uid == metadata.uid;
    let gid_allowed = |gid| free || owner && (gid == metadata.gid || credentials.is_in_group(gid));
    if !uid.is_none_or(uid_allowed) || !gid.is_none_or(gid_allowed) {
        return Err(Errno::EPERM);
    }
    let mut change = AttributeChange { uid, gid, ..AttributeChange::default() };
    if metadata.kind != FileKind::Directory {
        let permissions = without_set_ids(&credentials, &metadata);
        if permissions != metadata.permissions {
            if !credentials.owns(metadata.uid) {
                return Err(Errno::EPERM);
            }
            change.permissions = Some(permissions);
        }
    }
    inode.set_attributes(change)
}

/// utimensat(2): `now` where both times are set to the present. EACCES for that without a right to write, EPERM for
/// other times without owning the file.
pub fn check_times(inode: &dyn Inode, now: bool) -> Result<()> {
    if inode.status().read_only {
        return Err(Errno::EROFS);
    }
    match check_owner(inode) {
        Err(Errno::EPERM) if now => check(inode, WRITE),
        result => result,
    }
}

/// Whether the running thread may ask for an extended attribute, or `change` it (xattr(7)): user attributes go with the
/// content, a sticky directory's with its owner; the others are CAP_SYS_ADMIN's to change, and `trusted.` ones to see.
/// EROFS, EACCES, EPERM; ENODATA for what may not be seen.
pub fn check_attribute(inode: &dyn Inode, name: &[u8], change: bool) -> Result<()> {
    if change && inode.status().read_only {
        return Err(Errno::EROFS);
    }
    let metadata = inode.metadata();
    if !name.starts_with(b"user.") {
        let hidden = name.starts_with(b"trusted.");
        let free = !hidden && !change || acting().has(linux::CAP_SYS_ADMIN);
        return if free { Ok(()) } else { Err(if change { Errno::EPERM } else { Errno::ENODATA }) };
    }
    match metadata.kind {
        FileKind::Regular => {}
        FileKind::Directory => {
            if change && metadata.permissions & linux::S_ISVTX != 0 {
                check_owner(inode)?;
            }
        }
        _ => return Err(if change { Errno::EPERM } else { Errno::ENODATA }),
    }
    check(inode, if change { WRITE } else { READ })
}

/// The content of a file changed: who may not set ids on files leaves none behind (inode(7)).
pub fn content_changed(inode: &dyn Inode) {
    const SET_IDS: u32 = linux::S_ISUID | linux::S_ISGID;
    let thread = scheduler::current();
    if thread.identity.reaches_all_files() {
        return;
    }
    let metadata = inode.metadata();
    if metadata.kind != FileKind::Regular
        || metadata.permissions & SET_IDS == 0
        || thread.identity.has(linux::CAP_FSETID)
    {
        return;
    }
    let permissions = without_set_ids(&thread.identity.own(), &metadata);
    if permissions != metadata.permissions {
        // A file that cannot have other bits has no set-id bits that matter.
        let _ = inode.set_attributes(AttributeChange { permissions: Some(permissions), ..AttributeChange::default() });
    }
}

/// Owner, group and permission bits of a file that the running thread makes in a directory: a set-group-id directory
/// hands its group on, and to directories the bit itself.
pub fn of_new_file(directory: &Metadata, kind: FileKind, permissions: u32) -> (u32, u32, u32) {
    let credentials = acting();
    let (uid, mut gid, mut permissions) = (credentials.user.file, credentials.group.file, permissions);
    if directory.permissions & linux::S_ISGID != 0 {
        gid = directory.gid;
        if kind == FileKind::Directory {
            permissions |= linux::S_ISGID;
        } else if permissions & linux::S_ISGID != 0
            && permissions & linux::S_IXGRP != 0
            && !credentials.is_in_group(gid)
            && !credentials.has(linux::CAP_FSETID)
        {
            permissions &= !linux::S_ISGID;
        }
    }
    (uid, gid, permissions)
}
