//! Named read-only blobs that firmware or a virtual-machine monitor hands over (QEMU's fw_cfg).

use alloc::{string::String, vec::Vec};

/// A store of named blobs.
pub trait ConfigStore: Send + Sync {
    /// The names and sizes in bytes of all blobs.
    fn list(&self) -> Vec<(String, usize)>;

    /// Reads the blob into memory; `None` when there is no such name.
    fn read(&self, name: &str) -> Option<Vec<u8>>;
}
