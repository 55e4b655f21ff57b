//! Extended attributes of files (xattr(7)): the rules for their names, and a store for a file system in memory.
//!
//! A name is `space.rest`. `user.` is for regular files and directories, `trusted.` and `security.` are for all files;
//! `system.` holds what only certain file systems know (access control lists), so nothing here. [`Store`] is what one
//! file has; who may use which is in [`permission`](super::permission::check_attribute).

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};

use abi::{Errno, Result, linux};

/// What an attribute costs beside its name and value.
const OVERHEAD: usize = 64;

/// Checks a name for a file system that stores attributes. EOPNOTSUPP for a space that is not stored, EINVAL for a
/// space alone.
pub fn check_name(name: &[u8]) -> Result<()> {
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let rest = spaces.iter().find_map(|space| name.strip_prefix(*space)).ok_or(Errno::EOPNOTSUPP)?;
    if rest.is_empty() { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The attributes of one file.
#[derive(Default)]
pub struct Store(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl Store {
    /// What an attribute counts against the file system's limit.
    pub const fn cost(name: &[u8], value: &[u8]) -> usize {
        OVERHEAD + name.len() + value.len()
    }

    /// The value of an attribute. ENODATA where there is none.
    pub fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.0.get(name).map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    /// Sets an attribute; `flags` are XATTR_CREATE and XATTR_REPLACE. Answers what the one it replaced had cost.
    ///
    /// EEXIST, ENODATA as in setxattr(2).
    pub fn set(&mut self, name: &[u8], value: &[u8], flags: u32) -> Result<usize> {
        match self.0.get(name) {
            Some(_) if flags & linux::XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            None if flags & linux::XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
            _ => {}
        }
        let old = self.0.insert(name.into(), value.into());
        Ok(old.map_or(0, |old| Self::cost(name, &old)))
    }

    /// Removes an attribute; answers what it had cost. ENODATA where there is none.
    pub fn remove(&mut self, name: &[u8]) -> Result<usize> {
        self.0.remove(name).map(|value| Self::cost(name, &value)).ok_or(Errno::ENODATA)
    }

    /// All names, each with a NUL behind it.
    pub fn names(&self) -> Vec<u8> {
        self.0.keys().flat_map(|name| name.iter().copied().chain([0])).collect()
    }

    /// What all of them cost.
    pub fn total_cost(&self) -> usize {
        self.0.iter().map(|(name, value)| Self::cost(name, value)).sum()
    }
}
