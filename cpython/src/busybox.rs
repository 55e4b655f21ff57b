//! The shell and the small programs of the image: one link for each of BusyBox's applets.
//!
//! The package brings the program alone, because Debian leaves its links to whoever wants them. Which applets there
//! are is read from the program itself, so that the links are those of the version at hand. Each link lies where
//! Debian's own package of that program has it.

use std::path::Path;

use crate::error::Error;
use crate::{run, stage};

/// The program.
pub const PATH: &str = "usr/bin/busybox";

/// How the table of applets begins in the program: the names in order, each with a NUL, an empty one behind the last
/// (`applet_names` of BusyBox's `include/applet_tables.h`).
const TABLE: &[u8] = b"[\0[[\0";

/// Longest name of an applet that is believed, in bytes; beyond it the table is something else.
const LONGEST_NAME: usize = 32;

/// Applets that stay without a link, with the reason in the comment.
const WITHOUT_LINK: &[&str] = &[
    // Process 1 is Python. The second group asks BusyBox's own process 1 for the end, which would be no one.
    "init",
    "linuxrc",
    "run-init",
    "switch_root", //
    "halt",
    "poweroff",
    "reboot", //
    // Packages and their data base: there is none in the image.
    "dpkg",
    "dpkg-deb",
    "rpm",
    "rpm2cpio", //
    // The kernel has no modules.
    "depmod",
    "insmod",
    "lsmod",
    "modinfo",
    "modprobe",
    "rmmod",
];

/// Applets that Debian's packages have in /usr/sbin.
#[rustfmt::skip]
const ADMINISTRATION: &[&str] = &[
    "acpid", "adjtimex", "arp", "arping", "blockdev", "brctl", "chroot", "crond", "devmem", "fdisk", "findfs",
    "freeramdisk", "fsfreeze", "fstrim", "getty", "httpd", "hwclock", "i2cdetect", "i2cdump", "i2cget", "i2cset",
    "i2ctransfer", "ifconfig", "ifdown", "ifup", "ip", "klogd", "loadfont", "loadkmap", "logread", "losetup", "mdev",
    "mim", "mkdosfs", "mke2fs", "mkswap", "nameif", "nbd-client", "nologin", "partprobe", "pivot_root", "rdate",
    "route", "start-stop-daemon", "sulogin", "swapoff", "swapon", "sysctl", "syslogd", "tc", "telnetd", "tunctl",
    "ubirename", "udhcpc", "udhcpc6", "udhcpd", "uevent", "vconfig", "watchdog",
];

/// Makes the links in `tree`; answers how many.
pub fn link(tree: &Path) -> Result<usize, Error> {
    let program = tree.join(PATH);
    let bytes = run::read_file(&program)?;
    let names = applets(&bytes)
        .ok_or_else(|| Error::Layout { path: Path::new("/").join(PATH), why: "its table of applets is not found" })?;
    let mut count = 0;
    for name in names.into_iter().filter(|name| *name != "busybox" && !WITHOUT_LINK.contains(name)) {
        let (directory, target) = match ADMINISTRATION.contains(&name) {
            true => ("usr/sbin", "../bin/busybox"),
            false => ("usr/bin", "busybox"),
        };
        let link = tree.join(directory).join(name);
        // A program of the same name that another package brings is the better one.
        if link.symlink_metadata().is_err() {
            stage::make_link(&link, target)?;
            count += 1;
        }
    }
    Ok(count)
}

/// The names in the table of a program; `None` without a table, or with two.
fn applets(program: &[u8]) -> Option<Vec<&str>> {
    let mut found = program.windows(TABLE.len()).enumerate().filter(|(_, window)| *window == TABLE);
    let (start, _) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let mut names = Vec::new();
    for name in program.get(start..)?.split(|byte| *byte == 0) {
        if name.is_empty() {
            return Some(names);
        }
        let name = std::str::from_utf8(name).ok()?;
        if name.len() > LONGEST_NAME || name.contains(|letter: char| letter == '/' || !letter.is_ascii_graphic()) {
            return None;
        }
        names.push(name);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_are_read_up_to_the_empty_name() {
        assert_eq!(applets(b"\x01x[\0[[\0ash\0zcat\0\0later\0"), Some(vec!["[", "[[", "ash", "zcat"]));
    }

    #[test]
    fn program_without_a_whole_table_is_refused() {
        for program in [&b"nothing"[..], b"[\0[[\0ash", b"[\0[[\0a/b\0\0", b"[\0[[\0\0[\0[[\0\0", b""] {
            assert_eq!(applets(program), None, "{program:?}");
        }
    }

    #[test]
    fn links_lie_at_debian_s_places_and_replace_nothing() {
        let tree = std::env::temp_dir().join(format!("piton-busybox-{}", std::process::id()));
        run::write_file(&tree.join(PATH), b"[\0[[\0busybox\0ip\0ls\0reboot\0uname\0\0").unwrap();
        run::write_file(&tree.join("usr/bin/uname"), "of another package").unwrap();
        assert_eq!(link(&tree).unwrap(), 4);
        let target = |path: &str| std::fs::read_link(tree.join(path)).ok();
        assert_eq!(target("usr/bin/ls").as_deref(), Some(Path::new("busybox")));
        assert_eq!(target("usr/sbin/ip").as_deref(), Some(Path::new("../bin/busybox")));
        assert_eq!(target("usr/bin/uname"), None);
        assert!(!tree.join("usr/sbin/reboot").exists() && !tree.join("usr/bin/reboot").exists());
        run::remove_tree(&tree).unwrap();
    }
}
