//! Opening files, asking about them, and what file systems tell: open, stat, statfs, getdents and the like.
//!
//! [`origin`], [`resolve_at`] and [`Target`] are the `*at` conventions that all calls with paths share.

use alloc::{format, sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::Call;
use crate::{
    fs::{
        FileKind, FileSystemStatus, Inode, Metadata, OpenFile, OpenFlags,
        dentry::Dentry,
        mount::Mount,
        path::{self, Found, Last, Path},
        permission,
        regular::{self, DirectoryFile},
        tmpfs,
    },
    mm::{PAGE_SIZE, user},
};

/// The most bytes of entries one getdents64 copies out.
const MAX_LISTING: usize = 32 << 10;
/// `struct linux_dirent64` up to the name.
const DIRENT_HEADER: usize = 19;
/// The name of a memory file may have this many bytes (memfd_create(2)).
const MEMFD_NAME_MAX: usize = 249;

/// Where a walk starts.
pub struct Origin {
    /// The process's root.
    pub root: Path,
    /// Where relative paths start; `None` for the root.
    relative: Option<Path>,
}

impl Origin {
    /// Where the walk starts.
    pub fn start(&self) -> &Path {
        self.relative.as_ref().unwrap_or(&self.root)
    }
}

/// Where a walk of `path` starts. `dirfd` counts for relative paths only.
///
/// EBADF where `dirfd` is not open, ENOTDIR where it is in no file system.
pub fn origin(call: &Call<'_>, dirfd: i32, path: &[u8]) -> Result<Origin> {
    let absolute = path.first() == Some(&b'/');
    let (root, cwd) = {
        let context = call.thread.fs();
        let context = context.lock();
        (context.root.clone(), (!absolute && dirfd == linux::AT_FDCWD).then(|| context.cwd.clone()))
    };
    if absolute || cwd.is_some() {
        return Ok(Origin { root, relative: cwd });
    }
    let file = call.process().files().get(dirfd)?;
    Ok(Origin { root, relative: Some(file.path().ok_or(Errno::ENOTDIR)?.clone()) })
}

/// The file that `path` leads to from the descriptor in argument `dirfd`.
pub fn resolve_at(call: &Call<'_>, dirfd: i32, path: &[u8], follow: bool) -> Result<Path> {
    let origin = origin(call, dirfd, path)?;
    path::resolve(origin.start(), &origin.root, path, follow)
}

/// What a call with a descriptor and a path is about.
pub enum Target {
    /// The path's file.
    Path(Path),
    /// With AT_EMPTY_PATH and an empty path: the descriptor's file.
    File(Arc<OpenFile>),
}

impl Target {
    /// Finds it, from the descriptor and path in arguments `first` and `first + 1`. `flags` may have
    /// AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH.
    pub fn find(call: &Call<'_>, first: usize, flags: u32) -> Result<Self> {
        let dirfd = call.int(first);
        let empty_allowed = flags & linux::AT_EMPTY_PATH != 0;
        let path = match call.optional_address(first + 1) {
            None if empty_allowed => Vec::new(),
            _ => call.path(first + 1)?,
        };
        if path.is_empty() && empty_allowed {
            if dirfd == linux::AT_FDCWD {
                return Ok(Self::Path(call.thread.fs().lock().cwd.clone()));
            }
            return Ok(Self::File(call.process().files().get(dirfd)?));
        }
        Ok(Self::Path(resolve_at(call, dirfd, &path, flags & linux::AT_SYMLINK_NOFOLLOW == 0)?))
    }

    /// What stat(2) tells of it.
    pub fn metadata(&self) -> Result<Metadata> {
        match self {
            Self::Path(path) => Ok(path.inode().metadata()),
            Self::File(file) => file.metadata(),
        }
    }

    /// Its inode; EBADF where it is in no file system.
    pub fn inode(&self) -> Result<Arc<dyn Inode>> {
        match self {
            Self::Path(path) => Ok(path.inode().clone()),
            Self::File(file) => file.inode().cloned().ok_or(Errno::EBADF),
        }
    }

    /// EROFS where its file system, or the mount it was reached through, is read-only.
    pub fn require_writable(&self) -> Result<()> {
        self.path().map_or(Ok(()), Path::require_writable)
    }

    /// Its place in the tree.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::File(file) => file.path(),
        }
    }
}

/// The permission bits a new file gets of `mode`.
pub fn without_umask(call: &Call<'_>, mode: u32) -> u32 {
    mode & 0o7777 & !call.thread.fs().lock().umask
}

/// Opens as open(2) does. `mode` is for a file that is made; `restrict` are openat2(2)'s RESOLVE_ bits.
pub fn open_at(
    call: &Call<'_>,
    dirfd: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    restrict: u32,
) -> Result<Arc<OpenFile>> {
    // Under RESOLVE_IN_ROOT an absolute path starts at the descriptor, too.
    let in_root = restrict & linux::RESOLVE_IN_ROOT != 0;
    let origin = origin(call, dirfd, if in_root { b"" } else { path })?;
    let (start, root) = (origin.start(), &origin.root);
    if flags.contains(linux::O_PATH) {
        let last = if flags.contains(linux::O_NOFOLLOW) { Last::Keep } else { Last::Follow };
        return open_found(path::walk(start, root, path, last, restrict)?, flags);
    }
    if flags.contains(linux::O_TMPFILE) {
        if !flags.writable() || flags.contains(linux::O_CREAT) {
            return Err(Errno::EINVAL);
        }
        let Found::Existing(directory) = path::walk(start, root, path, Last::Follow, restrict)? else {
            return Err(Errno::ENOENT);
        };
        if directory.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        directory.require_writable()?;
        permission::check_create(&**directory.inode())?;
        let inode = directory.inode().create_unlinked(without_umask(call, mode), !flags.contains(linux::O_EXCL))?;
        let name = format!("#{}", inode.metadata().inode);
        let place = directory.with_dentry(Dentry::unlinked(inode, name.as_bytes(), directory.dentry().clone()));
        return regular::open_new(place, OpenFlags::from_bits(flags.bits() & !(linux::O_DIRECTORY | linux::O_TRUNC)));
    }
    let exclusive = flags.contains(linux::O_EXCL);
    if !flags.contains(linux::O_CREAT) {
        let last = if flags.contains(linux::O_NOFOLLOW) { Last::Keep } else { Last::Follow };
        return open_found(path::walk(start, root, path, last, restrict)?, flags);
    }
    if flags.contains(linux::O_DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    let keep = exclusive || flags.contains(linux::O_NOFOLLOW);
    let last = if keep { Last::CreateKeep } else { Last::CreateFollow };
    loop {
        match path::walk(start, root, path, last, restrict)? {
            Found::Existing(_) if exclusive => return Err(Errno::EEXIST),
            Found::Existing(found) if found.kind() == FileKind::Directory => return Err(Errno::EISDIR),
            Found::Existing(found) => {
                if let Some(directory) = found.dentry().parent() {
                    permission::check_open_to_create(&**directory.inode(), &**found.inode())?;
                }
                return regular::open(found, flags);
            }
            Found::Parent { trailing_slash: true, .. } => return Err(Errno::EISDIR),
            Found::Parent { directory, name, .. } => {
                directory.require_writable()?;
                permission::check_create(&**directory.inode())?;
                let permissions = without_umask(call, mode);
                match directory.dentry().create(&name, FileKind::Regular, permissions, 0) {
                    Ok(dentry) => {
                        let flags = OpenFlags::from_bits(flags.bits() & !linux::O_TRUNC);
                        let file = regular::open_new(directory.with_dentry(dentry), flags)?;
                        file.set_created();
                        return Ok(file);
                    }
                    // Somebody else was faster.
                    Err(Errno::EEXIST) if !exclusive => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

fn open_found(found: Found, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    match found {
        Found::Existing(path) => regular::open(path, flags),
        Found::Parent { .. } => Err(Errno::ENOENT),
    }
}

fn install(call: &Call<'_>, file: Arc<OpenFile>, flags: u32) -> Result<u64> {
    Ok(call.process().files().install(file, flags & linux::O_CLOEXEC != 0)? as u64)
}

/// [openat(2)](https://man7.org/linux/man-pages/man2/openat.2.html).
pub fn sys_openat(call: &mut Call<'_>) -> Result<u64> {
    let path = call.path(1)?;
    let flags = call.uint(2) | linux::O_LARGEFILE;
    let file = open_at(call, call.int(0), &path, OpenFlags::from_bits(flags), call.uint(3), 0)?;
    install(call, file, flags)
}

/// [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html).
pub fn sys_openat2(call: &mut Call<'_>) -> Result<u64> {
    const FLAGS: u32 = linux::O_ACCMODE
        | linux::O_CREAT
        | linux::O_EXCL
        | linux::O_NOCTTY
        | linux::O_TRUNC
        | linux::O_APPEND
        | linux::O_NONBLOCK
        | linux::O_SYNC
        | linux::FASYNC
        | linux::O_DIRECT
        | linux::O_LARGEFILE
        | linux::O_DIRECTORY
        | linux::O_NOFOLLOW
        | linux::O_NOATIME
        | linux::O_CLOEXEC
        | linux::O_PATH
        | linux::O_TMPFILE;
    const RESTRICTIONS: u32 = linux::RESOLVE_NO_XDEV
        | linux::RESOLVE_NO_MAGICLINKS
        | linux::RESOLVE_NO_SYMLINKS
        | linux::RESOLVE_BENEATH
        | linux::RESOLVE_IN_ROOT
        | linux::RESOLVE_CACHED;
    let size = call.size(3);
    if size < size_of::<linux::open_how>() {
        return Err(Errno::EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let how: linux::open_how = user::copy_in(call.address(2))?;
    let mut rest = alloc::vec![0; size - size_of::<linux::open_how>()];
    let after = call.address(2).checked_add(size_of::<linux::open_how>() as u64).ok_or(Errno::EFAULT)?;
    user::copy_in_bytes(after, &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let path = call.path(1)?;
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let mode = u32::try_from(how.mode).map_err(|_| Errno::EINVAL)?;
    let restrict = u32::try_from(how.resolve).map_err(|_| Errno::EINVAL)?;
    let makes = flags & linux::O_CREAT != 0 || flags & linux::O_TMPFILE == linux::O_TMPFILE;
    let both = linux::RESOLVE_BENEATH | linux::RESOLVE_IN_ROOT;
    if flags & !FLAGS != 0 || mode & !0o7777 != 0 || (mode != 0 && !makes) {
        return Err(Errno::EINVAL);
    }
    if restrict & !RESTRICTIONS != 0 || restrict & both == both {
        return Err(Errno::EINVAL);
    }
    let with_path = linux::O_PATH | linux::O_DIRECTORY | linux::O_NOFOLLOW | linux::O_CLOEXEC;
    if flags & linux::O_PATH != 0 && flags & !with_path != 0 {
        return Err(Errno::EINVAL);
    }
    // What changes something could not be done from memory alone.
    let changes = linux::O_CREAT | linux::O_TRUNC | (linux::O_TMPFILE & !linux::O_DIRECTORY);
    if restrict & linux::RESOLVE_CACHED != 0 && flags & changes != 0 {
        return Err(Errno::EAGAIN);
    }
    let open_flags = OpenFlags::from_bits(flags | linux::O_LARGEFILE);
    let file = open_at(call, call.int(0), &path, open_flags, mode, restrict)?;
    install(call, file, flags)
}

/// [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html). Lacks: huge pages (MFD_HUGETLB
/// is EINVAL).
pub fn sys_memfd_create(call: &mut Call<'_>) -> Result<u64> {
    const FLAGS: u32 = linux::MFD_CLOEXEC | linux::MFD_ALLOW_SEALING | linux::MFD_NOEXEC_SEAL | linux::MFD_EXEC;
    let flags = call.uint(1);
    let both = linux::MFD_EXEC | linux::MFD_NOEXEC_SEAL;
    if flags & !FLAGS != 0 || flags & both == both {
        return Err(Errno::EINVAL);
    }
    let name = user::copy_in_string(call.address(0), MEMFD_NAME_MAX + 1, Errno::EINVAL)?;
    let (permissions, seals) = match (flags & linux::MFD_NOEXEC_SEAL != 0, flags & linux::MFD_ALLOW_SEALING != 0) {
        (true, _) => (0o666, linux::F_SEAL_EXEC),
        (false, true) => (0o777, 0),
        (false, false) => (0o777, linux::F_SEAL_SEAL),
    };
    let inode = tmpfs::unlinked_file(permissions, seals)?;
    let shown = [b"/memfd:", name.as_slice(), b" (deleted)"].concat();
    let file =
        regular::open_new(path::floating(inode, &shown), OpenFlags::from_bits(linux::O_RDWR | linux::O_LARGEFILE))?;
    Ok(call.process().files().install(file, flags & linux::MFD_CLOEXEC != 0)? as u64)
}

const fn mode_of(metadata: &Metadata) -> u32 {
    metadata.kind.mode_bits() | metadata.permissions
}

fn put_stat(to: UserAddr, metadata: &Metadata) -> Result<u64> {
    let mut stat: linux::stat = abi::zeroed();
    stat.st_dev = metadata.device;
    stat.st_ino = metadata.inode;
    stat.st_mode = mode_of(metadata);
    stat.st_nlink = metadata.links;
    stat.st_uid = metadata.uid;
    stat.st_gid = metadata.gid;
    stat.st_rdev = metadata.rdev;
    stat.st_size = metadata.size as i64;
    stat.st_blksize = PAGE_SIZE as i32;
    stat.st_blocks = metadata.blocks as i64;
    stat.st_atime = metadata.accessed.seconds;
    stat.st_atime_nsec = u64::from(metadata.accessed.nanoseconds);
    stat.st_mtime = metadata.modified.seconds;
    stat.st_mtime_nsec = u64::from(metadata.modified.nanoseconds);
    stat.st_ctime = metadata.changed.seconds;
    stat.st_ctime_nsec = u64::from(metadata.changed.nanoseconds);
    user::copy_out(to, &stat)?;
    Ok(0)
}

/// [fstat(2)](https://man7.org/linux/man-pages/man2/fstat.2.html).
pub fn sys_fstat(call: &mut Call<'_>) -> Result<u64> {
    put_stat(call.address(1), &call.file(0)?.metadata()?)
}

/// [newfstatat(2)](https://man7.org/linux/man-pages/man2/newfstatat.2.html).
pub fn sys_newfstatat(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(3);
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_NO_AUTOMOUNT | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    put_stat(call.address(2), &Target::find(call, 0, flags)?.metadata()?)
}

const fn major(device: u64) -> u32 {
    (device >> 8 & 0xfff) as u32
}

const fn minor(device: u64) -> u32 {
    (device & 0xff | device >> 12 & 0xfff00) as u32
}

/// [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html). Lacks: STATX_MNT_ID_UNIQUE and the attributes of
/// chattr(1).
pub fn sys_statx(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(2);
    let known = linux::AT_SYMLINK_NOFOLLOW | linux::AT_NO_AUTOMOUNT | linux::AT_EMPTY_PATH | linux::AT_STATX_SYNC_TYPE;
    let sync = linux::AT_STATX_SYNC_TYPE;
    if flags & !known != 0 || flags & sync == sync || call.uint(3) & linux::STATX__RESERVED != 0 {
        return Err(Errno::EINVAL);
    }
    let target = Target::find(call, 0, flags)?;
    let metadata = target.metadata()?;
    let mut statx: linux::statx = abi::zeroed();
    statx.stx_mask = linux::STATX_BASIC_STATS;
    statx.stx_blksize = PAGE_SIZE as u32;
    statx.stx_nlink = metadata.links;
    statx.stx_uid = metadata.uid;
    statx.stx_gid = metadata.gid;
    statx.stx_mode = mode_of(&metadata) as u16;
    statx.stx_ino = metadata.inode;
    statx.stx_size = metadata.size;
    statx.stx_blocks = metadata.blocks;
    for (to, time) in [
        (&mut statx.stx_atime, metadata.accessed),
        (&mut statx.stx_mtime, metadata.modified),
        (&mut statx.stx_ctime, metadata.changed),
    ] {
        to.tv_sec = time.seconds;
        to.tv_nsec = time.nanoseconds;
    }
    (statx.stx_rdev_major, statx.stx_rdev_minor) = (major(metadata.rdev), minor(metadata.rdev));
    (statx.stx_dev_major, statx.stx_dev_minor) = (major(metadata.device), minor(metadata.device));
    if let Some(created) = metadata.created
        && call.uint(3) & linux::STATX_BTIME != 0
    {
        statx.stx_mask |= linux::STATX_BTIME;
        statx.stx_btime.tv_sec = created.seconds;
        statx.stx_btime.tv_nsec = created.nanoseconds;
    }
    if let Some(path) = target.path() {
        statx.stx_mask |= linux::STATX_MNT_ID;
        statx.stx_mnt_id = u64::from(path.mount().id());
        statx.stx_attributes_mask = u64::from(linux::STATX_ATTR_MOUNT_ROOT);
        if Arc::ptr_eq(path.dentry(), path.mount().root()) {
            statx.stx_attributes = u64::from(linux::STATX_ATTR_MOUNT_ROOT);
        }
    }
    user::copy_out(call.address(4), &statx)?;
    Ok(0)
}

fn put_status(to: UserAddr, status: &FileSystemStatus, device: u64, mount: Option<&Arc<Mount>>) -> Result<u64> {
    /// `f_flags` has meaning at all, and mounted read-only (statfs(2)).
    const ST_VALID: i64 = 0x20;
    const ST_RDONLY: i64 = 1;
    const FLAGS: [(u32, i64); 7] = [
        (linux::MS_NOSUID, 2),
        (linux::MS_NODEV, 4),
        (linux::MS_NOEXEC, 8),
        (linux::MS_NOATIME, 0x400),
        (linux::MS_NODIRATIME, 0x800),
        (linux::MS_RELATIME, 0x1000),
        (linux::MS_NOSYMFOLLOW, 0x2000),
    ];
    let read_only = status.read_only || mount.is_some_and(|mount| mount.is_read_only());
    let set = |flag: u32| mount.is_some_and(|mount| mount.has(flag));
    let flags = FLAGS.iter().filter(|(flag, _)| set(*flag)).fold(0, |flags, (_, shown)| flags | shown);
    let mut statfs: linux::statfs64 = abi::zeroed();
    statfs.f_type = status.magic as i64;
    statfs.f_bsize = status.block_size as i64;
    statfs.f_blocks = status.blocks;
    statfs.f_bfree = status.free;
    statfs.f_bavail = status.free;
    statfs.f_files = status.files;
    statfs.f_ffree = status.free_files;
    statfs.f_fsid.val = [device as i32, 0];
    statfs.f_namelen = i64::from(linux::NAME_MAX);
    statfs.f_frsize = status.block_size as i64;
    statfs.f_flags = ST_VALID | flags | if read_only { ST_RDONLY } else { 0 };
    user::copy_out(to, &statfs)?;
    Ok(0)
}

/// [statfs(2)](https://man7.org/linux/man-pages/man2/statfs.2.html).
pub fn sys_statfs(call: &mut Call<'_>) -> Result<u64> {
    let path = call.path(0)?;
    let found = resolve_at(call, linux::AT_FDCWD, &path, true)?;
    put_status(call.address(1), &found.inode().status(), found.inode().metadata().device, Some(found.mount()))
}

/// [fstatfs(2)](https://man7.org/linux/man-pages/man2/fstatfs.2.html).
pub fn sys_fstatfs(call: &mut Call<'_>) -> Result<u64> {
    /// statfs(2)'s magic numbers of what is in no file system.
    const PIPEFS_MAGIC: u64 = 0x5049_5045;
    const SOCKFS_MAGIC: u64 = 0x534f_434b;
    const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
    let file = call.file(0)?;
    let metadata = file.metadata()?;
    let status = match file.inode() {
        Some(inode) => inode.status(),
        None => FileSystemStatus {
            magic: match metadata.kind {
                FileKind::Fifo => PIPEFS_MAGIC,
                FileKind::Socket => SOCKFS_MAGIC,
                _ => ANON_INODE_FS_MAGIC,
            },
            block_size: PAGE_SIZE as u64,
            blocks: 0,
            free: 0,
            files: 0,
            free_files: 0,
            read_only: false,
        },
    };
    put_status(call.address(1), &status, metadata.device, file.path().map(Path::mount))
}

/// [getdents64(2)](https://man7.org/linux/man-pages/man2/getdents64.2.html).
pub fn sys_getdents64(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    if file.flags().contains(linux::O_PATH) {
        return Err(Errno::EBADF);
    }
    let directory = file.downcast::<DirectoryFile>().ok_or(Errno::ENOTDIR)?;
    let room = call.uint(2).min(MAX_LISTING as u32) as usize;
    let mut records: Vec<u8> = Vec::new();
    let mut position = file.position();
    let mut too_small = false;
    directory.list(position, &mut |entry| {
        let len = (DIRENT_HEADER + entry.name.len() + 1).next_multiple_of(8);
        if records.len() + len > room {
            too_small = records.is_empty();
            return false;
        }
        let end = records.len() + len;
        records.extend_from_slice(&entry.inode.to_ne_bytes());
        records.extend_from_slice(&entry.next.to_ne_bytes());
        records.extend_from_slice(&(len as u16).to_ne_bytes());
        records.push(entry.kind.dirent_type());
        records.extend_from_slice(entry.name);
        records.resize(end, 0);
        position = entry.next;
        true
    })?;
    if too_small {
        return Err(Errno::EINVAL);
    }
    user::copy_out_bytes(call.address(1), &records)?;
    file.set_position(position);
    file.notify(linux::IN_ACCESS);
    Ok(records.len() as u64)
}
