//! Addresses of AF_UNIX sockets (unix(7), "Address format"): names of files, abstract names, and who has which.

use alloc::{
    collections::BTreeMap,
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result, net};

use super::endpoint::Endpoint;
use crate::{
    fs::{FileKind, Inode, path, permission},
    sync::IrqLock,
    task::scheduler,
};

/// Bytes of `sun_path`.
const PATH_MAX: usize = 108;
/// Bytes of `sun_family`.
const FAMILY: usize = 2;

/// What a name is known by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// A name in no file system.
    Abstract(Vec<u8>),
    /// The socket file, by device and inode number.
    File(u64, u64),
}

/// The name a socket is bound to. Keeps the socket file's inode, so that its number stays taken.
pub(super) struct Name {
    key: Key,
    /// The `struct sockaddr_un`.
    address: Vec<u8>,
    _inode: Option<Arc<dyn Inode>>,
}

impl Name {
    pub(super) fn address(&self) -> &[u8] {
        &self.address
    }
}

static BOUND: IrqLock<BTreeMap<Key, Weak<Endpoint>>> = IrqLock::new(BTreeMap::new());

/// An address as a program gave it.
enum Asked<'a> {
    Unnamed,
    Abstract(&'a [u8]),
    Path(&'a [u8]),
}

fn with_family(path: &[u8], end: &[u8]) -> Vec<u8> {
    [&(net::AF_UNIX as u16).to_ne_bytes(), path, end].concat()
}

/// The address of a socket without a name.
pub(super) fn unnamed() -> Vec<u8> {
    with_family(&[], &[])
}

/// Whether the address says AF_UNSPEC, which dissolves a datagram socket's connection.
pub(super) fn is_unspecified(address: &[u8]) -> bool {
    address.first_chunk().is_some_and(|family| u32::from(u16::from_ne_bytes(*family)) == net::AF_UNSPEC)
}

fn parse(address: &[u8]) -> Result<Asked<'_>> {
    let (family, path) = address.split_at_checked(FAMILY).ok_or(Errno::EINVAL)?;
    if family != (net::AF_UNIX as u16).to_ne_bytes() || path.len() > PATH_MAX {
        return Err(Errno::EINVAL);
    }
    Ok(match path.split_first() {
        None => Asked::Unnamed,
        Some((0, _)) => Asked::Abstract(path),
        Some(_) => Asked::Path(path.split(|byte| *byte == 0).next().unwrap_or(path)),
    })
}

/// Takes a name for `endpoint`; EADDRINUSE where somebody has it.
fn claim(key: Key, address: Vec<u8>, inode: Option<Arc<dyn Inode>>, endpoint: &Arc<Endpoint>) -> Result<Arc<Name>> {
    let mut bound = BOUND.lock();
    if bound.get(&key).is_some_and(|owner| owner.strong_count() > 0) {
        return Err(Errno::EADDRINUSE);
    }
    bound.insert(key.clone(), Arc::downgrade(endpoint));
    Ok(Arc::new(Name { key, address, _inode: inode }))
}

/// bind(2): gives `endpoint` the name in `address`, making the socket file where it is a path.
pub(super) fn bind(address: &[u8], endpoint: &Arc<Endpoint>) -> Result<Arc<Name>> {
    match parse(address)? {
        Asked::Unnamed => autobind(endpoint),
        Asked::Abstract(name) => claim(Key::Abstract(name.to_vec()), with_family(name, &[]), None, endpoint),
        Asked::Path(path) => bind_path(path, endpoint),
    }
}

fn bind_path(path: &[u8], endpoint: &Arc<Endpoint>) -> Result<Arc<Name>> {
    let context = scheduler::current().fs().lock().clone();
    let (directory, name, trailing_slash) = path::resolve_parent(&context.cwd, &context.root, path)?;
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Errno::EADDRINUSE);
    }
    if trailing_slash {
        return Err(Errno::ENOENT);
    }
    if directory.dentry().lookup(&name).is_ok() {
        return Err(Errno::EADDRINUSE);
    }
    permission::check_create(&**directory.inode())?;
    let created = directory.dentry().create(&name, FileKind::Socket, 0o777 & !context.umask, 0);
    let created = created.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
    let inode = created.inode().clone();
    let metadata = inode.metadata();
    let key = Key::File(metadata.device, metadata.inode);
    claim(key, with_family(path, &[0]), Some(inode), endpoint)
}

/// A fresh abstract name of five hexadecimal digits (unix(7), "Autobind feature").
pub(super) fn autobind(endpoint: &Arc<Endpoint>) -> Result<Arc<Name>> {
    const NAMES: u32 = 1 << 20;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..NAMES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % NAMES;
        let name = format!("\0{number:05x}").into_bytes();
        match claim(Key::Abstract(name.clone()), with_family(&name, &[]), None, endpoint) {
            Err(Errno::EADDRINUSE) => {}
            other => return other,
        }
    }
    Err(Errno::ENOSPC)
}

/// Who is bound to `address`; ECONNREFUSED where nobody is.
pub(super) fn find(address: &[u8]) -> Result<Arc<Endpoint>> {
    let key = match parse(address)? {
        Asked::Unnamed => return Err(Errno::EINVAL),
        Asked::Abstract(name) => Key::Abstract(name.to_vec()),
        Asked::Path(path) => {
            let context = scheduler::current().fs().lock().clone();
            let found = path::resolve(&context.cwd, &context.root, path, true)?;
            permission::check(&**found.inode(), permission::WRITE)?;
            let metadata = found.inode().metadata();
            if metadata.kind != FileKind::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            Key::File(metadata.device, metadata.inode)
        }
    };
    let owner = BOUND.lock().get(&key).and_then(Weak::upgrade);
    owner.ok_or(Errno::ECONNREFUSED)
}

/// Gives the name up if `endpoint` still has it. The socket file stays.
pub(super) fn release(name: &Name, endpoint: &Endpoint) {
    let mut bound = BOUND.lock();
    if bound.get(&name.key).is_some_and(|owner| core::ptr::eq(owner.as_ptr(), endpoint)) {
        bound.remove(&name.key);
    }
}
