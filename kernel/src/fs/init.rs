//! Putting the tree of file systems together at boot.
//!
//! The root image is read-only, so whatever must be writable is a tmpfs mounted on a directory of the image. A
//! directory the image lacks costs that mount, with a line in the log, not the boot.

use alloc::{
    format,
    string::{String, ToString as _},
    sync::Arc,
};

use abi::Errno;
use hal::PhysAddr;

use super::{Inode, devfs, erofs, path, path::Path, procfs, sysfs, tmpfs, tty::devpts};

/// Directories that are writable, with the permissions of their roots.
const WRITABLE: [(&str, u32); 5] =
    [("/tmp", 0o1777), ("/run", 0o755), ("/dev/shm", 0o1777), ("/root", 0o700), ("/var/tmp", 0o1777)];

/// What names are resolved by, as DHCP and routers say.
const RESOLVER: &[u8] = b"/proc/net/pnp";

fn mount(root: &Path, place: &str, kind: &'static str, inode: Result<Arc<dyn Inode>, Errno>) {
    let mounted = inode.and_then(|inode| {
        let at = path::resolve(root, root, place.as_bytes(), true)?;
        path::mount(&at, kind, inode)
    });
    if let Err(error) = mounted {
        log::warn!("{place}: {kind} not mounted: {error}");
    }
}

/// Mounts the root image, which is in memory at the page-aligned `image_phys`, and everything that belongs in it.
/// Answers the root of the tree.
///
/// The error says what is wrong with the image.
pub fn init(image: &'static [u8], image_phys: PhysAddr) -> Result<Path, String> {
    if image_phys.page_offset() != 0 {
        return Err(format!("the root image at {image_phys} is not page-aligned"));
    }
    let root = path::mount_root("erofs", erofs::open_image(image, image_phys).map_err(|error| error.to_string())?);
    mount(&root, "/proc", "proc", Ok(procfs::root()));
    mount(&root, "/sys", "sysfs", Ok(sysfs::directory()));
    mount(&root, "/dev", "devtmpfs", Ok(devfs::directory()));
    mount(&root, "/dev/pts", "devpts", Ok(devpts::directory()));
    for (place, permissions) in WRITABLE {
        mount(&root, place, "tmpfs", tmpfs::new(permissions));
    }
    if crate::net::wire::is_there() {
        // /etc/resolv.conf of the image leads here; a program may put a file of its own in the link's place.
        let link =
            path::resolve(&root, &root, b"/run", true).and_then(|at| at.inode().symlink(b"resolv.conf", RESOLVER));
        if let Err(error) = link {
            log::warn!("/run/resolv.conf: {error}");
        }
    }
    Ok(root)
}
