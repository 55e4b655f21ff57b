//! Files are either written or run (ETXTBSY of open(2) and execve(2)).
//!
//! Who opens a regular file for writing holds a [`Writing`], who runs it a [`Running`]; the two exclude each other for
//! as long as they live. Counts are kept only of files that have one, by the inode; files that nobody can write need none.

use alloc::{collections::BTreeMap, sync::Arc};

use abi::{Errno, Result};

use super::Inode;
use crate::sync::IrqLock;

/// By the inode's address: how many write (above 0), or how many run it (below).
static USES: IrqLock<BTreeMap<usize, i64>> = IrqLock::new(BTreeMap::new());

fn key(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

/// Counts one more use in the direction of `step`. ETXTBSY where the other is going on.
fn take(inode: &Arc<dyn Inode>, step: i64) -> Result<Option<Arc<dyn Inode>>> {
    if inode.status().read_only {
        return Ok(None);
    }
    let mut uses = USES.lock();
    let count = uses.entry(key(inode)).or_insert(0);
    if count.signum() == -step {
        return Err(Errno::ETXTBSY);
    }
    *count = count.saturating_add(step);
    Ok(Some(inode.clone()))
}

fn give_back(inode: Option<&Arc<dyn Inode>>, step: i64) {
    let Some(inode) = inode else { return };
    let mut uses = USES.lock();
    if let Some(count) = uses.get_mut(&key(inode)) {
        *count -= step;
        if *count == 0 {
            uses.remove(&key(inode));
        }
    }
}

/// A file is open for writing.
pub struct Writing(Option<Arc<dyn Inode>>);

impl Writing {
    /// ETXTBSY while the file is run.
    pub fn start(inode: &Arc<dyn Inode>) -> Result<Self> {
        take(inode, 1).map(Self)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        give_back(self.0.as_ref(), 1);
    }
}

/// A file is run.
pub struct Running(Option<Arc<dyn Inode>>);

impl Running {
    /// ETXTBSY while the file is open for writing.
    pub fn start(inode: &Arc<dyn Inode>) -> Result<Self> {
        take(inode, -1).map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        give_back(self.0.as_ref(), -1);
    }
}
