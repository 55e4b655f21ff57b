//! Paths: places in the tree of names, and the walk that finds them (path_resolution(7)).
//!
//! A [`Path`] is a dentry together with the mount it was reached through. [`walk`] follows a program's path component
//! by component: `..` and `/` stop at the process's root, mounts are crossed, symbolic links are followed (at most
//! [`MAX_LINKS`]), and openat2(2)'s restrictions apply. [`resolve`] and [`resolve_parent`] are what most callers want.
//! A walk over known names without symbolic links allocates nothing.

use alloc::{string::String, sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};

use super::{
    FileKind, Inode,
    dentry::Dentry,
    mount::{FileSystem, Mount},
    permission::{self, Access},
    virtual_files::{VirtualDirectory, VirtualFs, next_device},
};
use crate::sync::{Lazy, Once};

/// The most symbolic links followed in one walk, as on Linux.
pub const MAX_LINKS: u32 = 40;

/// statfs(2)'s magic number for what is in no file system.
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

/// A place in the tree of names.
#[derive(Clone)]
pub struct Path {
    mount: Arc<Mount>,
    dentry: Arc<Dentry>,
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mount, &other.mount)
    }
}

static ROOT: Once<Path> = Once::new();

impl Path {
    /// The place `dentry` of a mounted file system.
    pub fn new(mount: Arc<Mount>, dentry: Arc<Dentry>) -> Self {
        Self { mount, dentry }
    }

    /// The root of `mount`.
    pub fn root_of(mount: &Arc<Mount>) -> Self {
        Self { mount: mount.clone(), dentry: mount.root().clone() }
    }

    /// The file.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// The name's place in its file system.
    pub fn dentry(&self) -> &Arc<Dentry> {
        &self.dentry
    }

    /// The mounted file system.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The file's kind.
    pub fn kind(&self) -> FileKind {
        self.dentry.kind()
    }

    /// Whether nothing can be changed here, because of the file system or of how it is mounted.
    pub fn is_read_only(&self) -> bool {
        self.mount.is_read_only() || self.inode().status().read_only
    }

    /// EROFS where nothing can be changed here.
    pub fn require_writable(&self) -> Result<()> {
        if self.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Another place in the same mounted file system.
    pub fn with_dentry(&self, dentry: Arc<Dentry>) -> Self {
        Self { mount: self.mount.clone(), dentry }
    }

    /// The whole path from the root of the tree, with ` (deleted)` where the name is gone. For people and /proc;
    /// bytes that are not UTF-8 are replaced.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// As [`display`](Self::display), byte for byte.
    pub fn bytes(&self) -> Vec<u8> {
        let (mut bytes, _) = self.bytes_from(ROOT.get());
        if self.dentry.is_deleted() {
            bytes.extend_from_slice(b" (deleted)");
        }
        bytes
    }

    /// The path as seen from `root`, and whether it is below it at all; if not, the path from the root of the tree.
    pub fn bytes_from(&self, root: Option<&Self>) -> (Vec<u8>, bool) {
        let mut names = Vec::new();
        let mut at = self.clone();
        let reached = loop {
            if root.is_some_and(|root| at == *root) {
                break true;
            }
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                match at.mount.at() {
                    Some(place) => at = place,
                    None => break false,
                }
                continue;
            }
            match at.dentry.place() {
                (name, Some(parent)) => {
                    names.push(name);
                    at.dentry = parent;
                }
                (name, None) => return (name.into_vec(), false),
            }
        };
        let mut bytes = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum::<usize>().max(1));
        for name in names.iter().rev() {
            bytes.push(b'/');
            bytes.extend_from_slice(name);
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        (bytes, reached)
    }

    /// The directory above, never above `root`.
    pub fn parent(&self, root: &Self) -> Self {
        let mut at = self.clone();
        loop {
            if at == *root {
                return at;
            }
            if Arc::ptr_eq(&at.dentry, at.mount.root()) {
                match at.mount.at() {
                    Some(place) => at = place,
                    None => return at,
                }
                continue;
            }
            return match at.dentry.parent() {
                Some(parent) => {
                    at.dentry = parent;
                    at.cross()
                }
                None => at,
            };
        }
    }

    /// What is mounted on top of this place, or the place itself.
    fn cross(mut self) -> Self {
        while let Some(mount) = Mount::on(&self.mount, &self.dentry) {
            self = Self::root_of(&mount);
        }
        self
    }
}

/// Makes a file system the root of the tree. The first call counts.
pub fn mount_root(kind: &'static str, inode: Arc<dyn Inode>) -> Path {
    ROOT.call_once(|| Path::root_of(&Mount::root_of_all(FileSystem::new(kind, String::from("/dev/root"), inode))))
        .clone()
}

/// The root of the tree, once there is one.
pub fn tree_root() -> Option<Path> {
    ROOT.get().cloned()
}

/// A place for a file that is in no tree; `name` is what /proc shows.
pub fn floating(inode: Arc<dyn Inode>, name: &[u8]) -> Path {
    static NOWHERE: Lazy<Arc<Mount>> = Lazy::new(|| {
        let fs = VirtualFs { device: next_device(), magic: ANON_INODE_FS_MAGIC };
        Mount::detached(FileSystem::new("anon_inodefs", String::from("none"), VirtualDirectory::new(fs)))
    });
    Path::new(NOWHERE.clone(), Dentry::floating(inode, name))
}

/// Mounts a file system on a directory and answers its root. EBUSY and ENOTDIR as in mount(2).
pub fn mount(at: &Path, kind: &'static str, inode: Arc<dyn Inode>) -> Result<Path> {
    Ok(Path::root_of(&Mount::hang_at(FileSystem::new(kind, String::from(kind), inode), at, 0)?))
}

/// What a walk does with the last component.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// It must exist; a symbolic link is followed.
    Follow,
    /// It must exist; a symbolic link is the answer.
    Keep,
    /// It is not looked up: the answer is its directory and its name.
    Parent,
    /// As `Follow` where it exists, as `Parent` where not, in the directory the links lead to.
    CreateFollow,
    /// As `Keep` where it exists, as `Parent` where not.
    CreateKeep,
}

/// What a walk found.
pub enum Found {
    /// The file.
    Existing(Path),
    /// The directory a name is, or would be, in.
    Parent {
        /// The directory.
        directory: Path,
        /// The name: may be `.` or `..`, and is empty for `/`.
        name: Vec<u8>,
        /// Whether a slash follows it.
        trailing_slash: bool,
    },
}

/// The target of a symbolic link with what is still to be walked of it.
struct Rest {
    bytes: Vec<u8>,
    position: usize,
}

/// Start and end of the component at or after `position`; empty at the end.
fn component_at(bytes: &[u8], position: usize) -> (usize, usize) {
    let rest = bytes.get(position..).unwrap_or_default();
    let start = position + rest.iter().take_while(|byte| **byte == b'/').count();
    let rest = bytes.get(start..).unwrap_or_default();
    (start, start + rest.iter().take_while(|byte| **byte != b'/').count())
}

/// Walks `path` from `start`, or from `root` where it begins with a slash. `restrict` are openat2(2)'s RESOLVE_ bits.
///
/// ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG as in path_resolution(7); EXDEV and ELOOP as in openat2(2).
pub fn walk(start: &Path, root: &Path, path: &[u8], last: Last, restrict: u32) -> Result<Found> {
    // With RESOLVE_BENEATH and RESOLVE_IN_ROOT the directory is the top of the tree for this walk.
    let top = if restrict & (linux::RESOLVE_BENEATH | linux::RESOLVE_IN_ROOT) != 0 { start } else { root };
    let to_top = || if restrict & linux::RESOLVE_BENEATH != 0 { Err(Errno::EXDEV) } else { Ok(top.clone()) };
    let mut at = match path.first() {
        None => return Err(Errno::ENOENT),
        Some(b'/') => to_top()?,
        Some(_) => start.clone(),
    };
    let crossing =
        |from: &Path, to: &Path| restrict & linux::RESOLVE_NO_XDEV != 0 && !Arc::ptr_eq(&from.mount, &to.mount);
    let access = Access::current();
    let mut links = 0;
    let mut base = 0;
    let mut pending: Vec<Rest> = Vec::new();
    loop {
        let (begin, end) = match pending.last_mut() {
            Some(rest) => {
                let (begin, end) = component_at(&rest.bytes, rest.position);
                rest.position = end;
                (begin, end)
            }
            None => {
                let (begin, end) = component_at(path, base);
                base = end;
                (begin, end)
            }
        };
        if begin == end {
            if pending.pop().is_some() {
                continue;
            }
            return match last {
                Last::Parent => Ok(Found::Parent { directory: at, name: Vec::new(), trailing_slash: true }),
                _ => Ok(Found::Existing(at)),
            };
        }
        let bytes = pending.last().map_or(path, |rest| &rest.bytes);
        let name = bytes.get(begin..end).unwrap_or_default();
        let rests = || {
            let outer = path.get(base..).unwrap_or_default();
            pending.iter().map(|rest| rest.bytes.get(rest.position..).unwrap_or_default()).chain([outer])
        };
        let is_last = rests().all(|rest| rest.iter().all(|byte| *byte == b'/'));
        let trailing_slash = is_last && rests().any(|rest| !rest.is_empty());
        if at.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        access.search(&**at.inode())?;
        if name.len() > linux::NAME_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let parent = |directory: Path| Found::Parent { directory, name: name.to_vec(), trailing_slash };
        if is_last && last == Last::Parent {
            return Ok(parent(at));
        }
        let next = match name {
            b"." => at,
            b".." => {
                if at == *top && restrict & linux::RESOLVE_BENEATH != 0 {
                    return Err(Errno::EXDEV);
                }
                let above = at.parent(top);
                if crossing(&at, &above) {
                    return Err(Errno::EXDEV);
                }
                above
            }
            _ => {
                let dentry = match at.dentry.lookup(name) {
                    Err(Errno::ENOENT) if is_last && matches!(last, Last::CreateFollow | Last::CreateKeep) => {
                        return Ok(parent(at));
                    }
                    found => found?,
                };
                let follow = !is_last || trailing_slash || matches!(last, Last::Follow | Last::CreateFollow);
                if dentry.kind() == FileKind::Symlink && follow {
                    links += 1;
                    if links > MAX_LINKS || restrict & linux::RESOLVE_NO_SYMLINKS != 0 {
                        return Err(Errno::ELOOP);
                    }
                    if is_last {
                        permission::check_follow(&**at.inode(), &**dentry.inode())?;
                    }
                    match dentry.inode().follow_magic_link() {
                        Some(target) => {
                            if restrict & linux::RESOLVE_NO_MAGICLINKS != 0 {
                                return Err(Errno::ELOOP);
                            }
                            if restrict & (linux::RESOLVE_BENEATH | linux::RESOLVE_IN_ROOT) != 0 {
                                return Err(Errno::EXDEV);
                            }
                            let target = target?;
                            if crossing(&at, &target) {
                                return Err(Errno::EXDEV);
                            }
                            target
                        }
                        None => {
                            let bytes = dentry.inode().read_link()?;
                            match bytes.first() {
                                None => return Err(Errno::ENOENT),
                                Some(b'/') => {
                                    let from = at;
                                    at = to_top()?;
                                    if crossing(&from, &at) {
                                        return Err(Errno::EXDEV);
                                    }
                                }
                                Some(_) => {}
                            }
                            pending.push(Rest { bytes, position: 0 });
                            continue;
                        }
                    }
                } else if let Some(mount) = Mount::on(&at.mount, &dentry) {
                    let top = Path::root_of(&mount).cross();
                    if crossing(&at, &top) {
                        return Err(Errno::EXDEV);
                    }
                    top
                } else {
                    at.dentry = dentry;
                    at
                }
            }
        };
        at = next;
        if is_last {
            if trailing_slash && at.kind() != FileKind::Directory {
                return Err(Errno::ENOTDIR);
            }
            return Ok(Found::Existing(at));
        }
    }
}

/// The file a path leads to.
pub fn resolve(start: &Path, root: &Path, path: &[u8], follow_last: bool) -> Result<Path> {
    match walk(start, root, path, if follow_last { Last::Follow } else { Last::Keep }, 0)? {
        Found::Existing(path) => Ok(path),
        // These modes of the walk never answer a parent.
        Found::Parent { .. } => Err(Errno::ENOENT),
    }
}

/// The directory and the name of the last component, and whether a slash follows it. The name may be `.` or `..`, and
/// is empty for `/`.
pub fn resolve_parent(start: &Path, root: &Path, path: &[u8]) -> Result<(Path, Vec<u8>, bool)> {
    match walk(start, root, path, Last::Parent, 0)? {
        Found::Parent { directory, name, trailing_slash } => Ok((directory, name, trailing_slash)),
        // This mode of the walk always answers a parent.
        Found::Existing(_) => Err(Errno::ENOENT),
    }
}
