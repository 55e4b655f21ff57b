//! Which Debian packages make up a root image, as data.
//!
//! [`CHOICES`] lists the suites in order of preference with the Python each one brings. The resolver of apt turns
//! the wanted names into a complete set; [`is_skipped`] names what a dependency pulls in but the image has no use
//! for, because nothing of the packages' own set-up runs in it.

/// A Debian suite and the Python it is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Suite, by code name.
    pub suite: &'static str,
    /// Python as `MAJOR.MINOR`.
    pub python: &'static str,
}

/// Suites in order of preference.
pub const CHOICES: &[Choice] = &[Choice { suite: "forky", python: "3.14" }, Choice { suite: "trixie", python: "3.13" }];

/// What goes into an image, by how it is resolved.
#[derive(Debug)]
pub struct Selection {
    /// Installed with all they depend on.
    pub with_dependencies: Vec<String>,
    /// Taken alone.
    pub alone: Vec<String>,
}

impl Selection {
    /// As one line, with what stays out: equal texts ask for the same packages.
    pub fn to_text(&self) -> String {
        format!("{} alone: {} without: {}", self.with_dependencies.join(" "), self.alone.join(" "), SKIPPED.join(" "))
    }
}

/// What a dependency pulls in and the image has no use for.
const SKIPPED: &[&str] = &[
    // Asks questions while packages are configured; nothing is configured.
    "debconf",
    "cdebconf",
    // Converters for some 200 legacy encodings; Python brings its own codecs.
    "libc-gconv-modules-extra",
    // Programs around packages that are in the image for their files only.
    "net-tools",
    "libselinux1",
    "libpcre2-8-0",
    "perl-base",
    "dpkg",
    "tar",
];

/// The packages of an image with that Python; `tests` adds CPython's test suite.
pub fn selection(python: &str, tests: bool) -> Selection {
    let mut with_dependencies = vec![
        format!("python{python}"),
        // dbm.gnu; dbm.ndbm is in the standard library's own package.
        format!("python{python}-gdbm"),
        // The C.UTF-8 locale, and ldconfig for ctypes.util.find_library.
        "libc-bin".to_owned(),
        "ca-certificates".to_owned(),
        "tzdata".to_owned(),
        "ncurses-base".to_owned(),
        // /etc/services and /etc/protocols for socket.getservbyname; /etc/mime.types for mimetypes.
        "netbase".to_owned(),
        "media-types".to_owned(),
        // Binary wheels may link to both (PEP 600 lists them as present on the system).
        "libgcc-s1".to_owned(),
        "libstdc++6".to_owned(),
    ];
    with_dependencies.sort_unstable();
    let mut alone = vec![
        // pip carries its own copies of what it imports; its dependencies are for building packages.
        "python3-pip".to_owned(),
        // `python3 -m venv`: ensurepip, and the wheel of pip that it installs. It asks for one of setuptools too, and
        // does not use it.
        format!("python{python}-venv"),
        "python3-pip-whl".to_owned(),
        // /bin/sh and the small programs that `subprocess`, `os.system` and CPython's tests start.
        "busybox-static".to_owned(),
        // The accounts of a Debian system, as data; the program beside them is left out.
        "base-passwd".to_owned(),
        // What is at the other end of a serial or network session, beyond the common terminals of ncurses-base.
        "ncurses-term".to_owned(),
        "kitty-terminfo".to_owned(),
    ];
    if tests {
        alone.push(format!("libpython{python}-testsuite"));
    }
    Selection { with_dependencies, alone }
}

/// The packages of a Python that only has to compile modules on the build machine.
pub fn compiler_selection(python: &str) -> Selection {
    Selection { with_dependencies: vec![format!("python{python}-minimal")], alone: Vec::new() }
}

/// Whether a package that a dependency pulls in stays out of the image.
pub fn is_skipped(name: &str) -> bool {
    SKIPPED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn testsuite_is_added_only_when_asked_for() {
        let has = |tests| selection("3.14", tests).alone.iter().any(|name| name.ends_with("testsuite"));
        assert!(has(true));
        assert!(!has(false));
    }

    #[test]
    fn python_itself_is_never_skipped() {
        assert!(!is_skipped("python3.14-minimal"));
        assert!(is_skipped("debconf"));
    }
}
