//! What is left out of the root image, and why, as data.
//!
//! [`RULES`] is read top to bottom; the first rule whose pattern matches a path decides. `README.md` shows the
//! same table with sizes, as `cargo run -p cpython -- build --report` prints it. Patterns are relative to the
//! root of the image: `*` stands for any run of characters within one name, `**` also crosses `/`.
//!
//! The measure for a rule is that nothing the standard library, pip or a binary wheel asks for goes away; the
//! `check` command imports every module of the finished tree to hold that.

use crate::glob;

/// Which images a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All of them.
    Always,
    /// All but the `testsuite` variant, which exists to run CPython's own tests.
    WithoutTests,
}

/// What to do with a matching path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep it, whatever later rules say.
    Keep,
    /// Leave it out.
    Drop,
}

/// One row of the table.
#[derive(Debug)]
pub struct Rule {
    /// Keep or drop.
    pub action: Action,
    /// In which images.
    pub when: When,
    /// Paths, relative to the root of the image.
    pub patterns: &'static [&'static str],
    /// Why, for the table in the README.
    pub reason: &'static str,
}

const fn keep(patterns: &'static [&'static str], reason: &'static str) -> Rule {
    Rule { action: Action::Keep, when: When::Always, patterns, reason }
}

const fn leave_out(patterns: &'static [&'static str], reason: &'static str) -> Rule {
    Rule { action: Action::Drop, when: When::Always, patterns, reason }
}

const fn leave_out_without_tests(patterns: &'static [&'static str], reason: &'static str) -> Rule {
    Rule { action: Action::Drop, when: When::WithoutTests, patterns, reason }
}

/// The table.
pub static RULES: &[Rule] = &[
    keep(&["usr/share/doc/*/copyright"], "licence texts travel with the binaries they cover"),
    leave_out(&["usr/share/doc/**"], "manuals and changelogs"),
    leave_out(&["usr/share/man/**", "usr/share/info/**"], "manual pages: there is no reader for them"),
    leave_out(&["usr/share/locale/**"], "message translations: only the C.UTF-8 locale is in the image"),
    leave_out(
        &[
            "usr/share/lintian/**",
            "usr/share/bug/**",
            "usr/share/gdb/**",
            "usr/share/gcc/**",
            "usr/share/debconf/**",
            "usr/share/perl5/**",
            "usr/share/libc-bin/**",
            "usr/share/python3/**",
            "usr/share/apport/**",
            "usr/share/bash-completion/**",
            "usr/share/initramfs-tools/**",
            "etc/ca-certificates/**",
            "etc/default/**",
            "etc/apt/**",
            "etc/bindresvport.blacklist",
            "etc/ethertypes",
            "etc/rpc",
        ],
        "packaging and debugging aids, and settings of programs that are not in the image",
    ),
    leave_out(
        &["usr/share/pixmaps/**", "usr/share/applications/**", "usr/share/icons/**"],
        "desktop entries: there is no desktop",
    ),
    leave_out(
        &["usr/share/binfmts/**", "usr/lib/binfmt.d/**"],
        "registers Python with binfmt_misc, which the kernel does not have",
    ),
    leave_out(&["usr/share/tabset/**", "etc/terminfo/**"], "tab settings of hardware terminals"),
    keep(
        &[
            "usr/share/terminfo/a/ansi",
            "usr/share/terminfo/d/dumb",
            "usr/share/terminfo/a/alacritty",
            "usr/share/terminfo/f/foot",
            "usr/share/terminfo/g/gnome-256color",
            "usr/share/terminfo/i/iterm2",
            "usr/share/terminfo/k/konsole-256color",
            "usr/share/terminfo/l/linux",
            "usr/share/terminfo/m/mintty",
            "usr/share/terminfo/m/ms-terminal",
            "usr/share/terminfo/n/nsterm",
            "usr/share/terminfo/p/putty",
            "usr/share/terminfo/p/putty-256color",
            "usr/share/terminfo/r/rxvt",
            "usr/share/terminfo/r/rxvt-unicode",
            "usr/share/terminfo/r/rxvt-unicode-256color",
            "usr/share/terminfo/s/screen",
            "usr/share/terminfo/s/screen-256color",
            "usr/share/terminfo/s/screen.xterm-256color",
            "usr/share/terminfo/s/st-256color",
            "usr/share/terminfo/t/tmux",
            "usr/share/terminfo/t/tmux-256color",
            "usr/share/terminfo/v/vt52",
            "usr/share/terminfo/v/vt100",
            "usr/share/terminfo/v/vt102",
            "usr/share/terminfo/v/vt220",
            "usr/share/terminfo/v/vte-256color",
            "usr/share/terminfo/w/wezterm",
            "usr/share/terminfo/x/xterm",
            "usr/share/terminfo/x/xterm-16color",
            "usr/share/terminfo/x/xterm-256color",
            "usr/share/terminfo/x/xterm-color",
            "usr/share/terminfo/x/xterm-direct",
            "usr/share/terminfo/x/xterm-kitty",
            "usr/share/terminfo/x/xterm-mono",
        ],
        "terminals a serial console or a network session is opened from",
    ),
    leave_out(&["usr/share/terminfo/**"], "terminals nobody opens a session from"),
    leave_out(
        &["usr/share/ca-certificates/**"],
        "the same certificates are in the one bundle /etc/ssl/certs/ca-certificates.crt",
    ),
    leave_out(
        &[
            "usr/share/zoneinfo/posix/**",
            "usr/share/zoneinfo/right/**",
            "usr/share/zoneinfo/posixrules",
            "usr/share/zoneinfo/localtime",
            "usr/share/zoneinfo/tzdata.zi",
            "usr/share/zoneinfo/leap*",
            "usr/share/zoneinfo/zone1970.tab",
            "usr/share/zoneinfo/zonenow.tab",
        ],
        "the zones a second time, and source forms that the zoneinfo module does not read",
    ),
    keep(&["usr/bin/python*", "usr/bin/pip*", "usr/bin/pydoc*", "usr/bin/pdb*"], "Python's own commands"),
    keep(&["usr/sbin/ldconfig"], "ctypes.util.find_library asks it (`ldconfig -p`)"),
    keep(&["usr/bin/busybox"], "the shell and the small programs"),
    leave_out(
        &["usr/bin/**", "usr/sbin/**"],
        "programs of the library packages (openssl, localedef, ldd, ...): the system's programs are Python's and \
         BusyBox's",
    ),
    leave_out(
        &[
            "usr/lib/*/libBrokenLocale.so.*",
            "usr/lib/*/libc_malloc_debug.so.*",
            "usr/lib/*/libmemusage.so",
            "usr/lib/*/libpcprofile.so",
            "usr/lib/*/libthread_db.so.*",
            "usr/lib/*/libnss_hesiod.so.*",
            "usr/lib/*/libmvec.so.*",
            "usr/lib/*/libtic.so.*",
            "usr/lib/*/libformw.so.*",
            "usr/lib/*/libmenuw.so.*",
            "usr/lib/*/libexpatw.so.*",
            "usr/lib/*/engines-3/**",
        ],
        "libraries for debuggers, profilers and programs that are not in the image; no Python module links to them",
    ),
    leave_out(
        &["usr/lib/**/*.a", "usr/lib/**/*.la", "usr/lib/**/*.o", "usr/lib/*/pkgconfig/**", "usr/include/**"],
        "for linking C programs: there is no compiler in the image",
    ),
    leave_out(
        &["usr/lib/python3*/EXTERNALLY-MANAGED"],
        "refuses pip install in favour of apt, which is not in the image",
    ),
    leave_out(
        &["etc/python3*/sitecustomize.py", "usr/lib/python3*/sitecustomize.py"],
        "looks for Ubuntu's crash reporter at every start",
    ),
    leave_out(
        &[
            "usr/lib/python3*/tkinter/**",
            "usr/lib/python3*/turtledemo/**",
            "usr/lib/python3*/idlelib/**",
            "usr/lib/python3*/turtle.py",
        ],
        "need Tk and an X server (Debian packages Tk apart; of these only turtle.py comes along)",
    ),
    leave_out_without_tests(
        &["usr/lib/python3*/test/**", "usr/lib/python3*/**/tests/**", "usr/lib/python3*/**/idle_test/**"],
        "CPython's tests and their support code (in the `testsuite` variant)",
    ),
    leave_out_without_tests(
        &[
            "usr/lib/python3*/lib-dynload/_test*.so",
            "usr/lib/python3*/lib-dynload/_ctypes_test.*.so",
            "usr/lib/python3*/lib-dynload/_xxtestfuzz.*.so",
            "usr/lib/python3*/lib-dynload/xxlimited*.so",
            "usr/lib/python3*/lib-dynload/xxsubtype.*.so",
        ],
        "extension modules that only CPython's tests import (in the `testsuite` variant)",
    ),
    leave_out(&["usr/lib/python3/dist-packages/**/*.exe"], "launchers for Windows"),
];

/// The rule that leaves `path` out, or `None` when it stays. `tests` is true for the `testsuite` variant.
pub fn dropped_by(path: &str, tests: bool) -> Option<&'static Rule> {
    RULES
        .iter()
        .filter(|rule| rule.when == When::Always || !tests)
        .find(|rule| rule.patterns.iter().any(|pattern| glob::matches(pattern, path)))
        .filter(|rule| rule.action == Action::Drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_texts_stay_and_manuals_go() {
        assert!(dropped_by("usr/share/doc/libc6/copyright", false).is_none());
        assert!(dropped_by("usr/share/doc/libc6/changelog.gz", false).is_some());
    }

    #[test]
    fn standard_library_modules_stay() {
        for path in [
            "usr/lib/python3.14/ssl.py",
            "usr/lib/python3.14/unittest/case.py",
            "usr/lib/python3.14/lib-dynload/_sqlite3.cpython-314-aarch64-linux-gnu.so",
            "usr/lib/python3.14/_sysconfigdata__linux_aarch64-linux-gnu.py",
            "usr/lib/python3.14/config-3.14-aarch64-linux-gnu/Makefile",
            "usr/lib/aarch64-linux-gnu/libcrypto.so.3",
            "usr/lib/locale/C.utf8/LC_CTYPE",
            "etc/ssl/openssl.cnf",
        ] {
            assert!(dropped_by(path, false).is_none(), "{path}");
        }
    }

    #[test]
    fn tests_go_unless_the_testsuite_variant_is_built() {
        for path in
            ["usr/lib/python3.14/test/test_dict.py", "usr/lib/python3.14/lib-dynload/_testcapi.cpython-314-x.so"]
        {
            assert!(dropped_by(path, false).is_some(), "{path}");
            assert!(dropped_by(path, true).is_none(), "{path}");
        }
    }

    #[test]
    fn useful_terminals_stay_and_others_go() {
        assert!(dropped_by("usr/share/terminfo/x/xterm-256color", false).is_none());
        assert!(dropped_by("usr/share/terminfo/m/mach-color", false).is_some());
    }

    #[test]
    fn every_rule_gives_a_reason() {
        assert!(RULES.iter().all(|rule| !rule.reason.is_empty() && !rule.patterns.is_empty()));
    }
}
