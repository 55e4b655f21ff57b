//! Host programs the build calls, with the Debian package of each.

use crate::apt;
use crate::error::{Error, Need};
use crate::run;

/// The keys that sign Debian's suites.
pub const KEYRING: Need = Need { what: "keyring of the Debian archive", apt_package: "debian-archive-keyring" };

/// Programs looked up in `PATH`.
const PROGRAMS: &[Need] = &[
    Need { what: "apt-get", apt_package: "apt" },
    Need { what: "apt-cache", apt_package: "apt" },
    Need { what: "dpkg", apt_package: "dpkg" },
    Need { what: "dpkg-deb", apt_package: "dpkg" },
    Need { what: "sha256sum", apt_package: "coreutils" },
    Need { what: "aarch64-linux-gnu-gcc", apt_package: "gcc-aarch64-linux-gnu" },
    Need { what: "mkfs.erofs", apt_package: "erofs-utils" },
];

/// Runs the finished tree's Python on another architecture, for the `check` command only.
pub const EMULATOR: Need = Need { what: "qemu-aarch64 (user mode)", apt_package: "qemu-user" };

/// Debian packages the build needs, sorted, each once.
pub fn apt_packages() -> Vec<&'static str> {
    let mut names: Vec<&str> = PROGRAMS.iter().chain([&KEYRING, &EMULATOR]).map(|need| need.apt_package).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Fails with the whole list of what is missing. The emulator is not counted: only `check` needs it.
pub fn check() -> Result<(), Error> {
    let mut missing: Vec<Need> =
        PROGRAMS.iter().filter(|need| run::find_program(need.what).is_none()).copied().collect();
    if std::env::var_os("PITON_KEYRING").is_none() && apt::find_keyring().is_none() {
        missing.push(KEYRING);
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingPrograms(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_listed_once_and_sorted() {
        let names = apt_packages();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        assert!(names.contains(&"erofs-utils"));
    }
}
