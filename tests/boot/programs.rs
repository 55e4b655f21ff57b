//! What a Python program starts and uses beside itself: the shell, pip, processes that share work, system data.

use tests::script::{run, run_on};

/// Says what is wrong when the boot image was made with a root image from before there was a shell: unlike `make test`,
/// `cargo test` makes neither.
const CHECK: &str = "import os, sys\nos.path.exists('/bin/sh') or sys.exit('an old root image: make it again with `make image-arm64`')\n";

/// Runs a program that prints `well` at its end.
fn ends_well(name: &str, source: &str, seconds: u32) {
    let outcome = run(name, &format!("{CHECK}{source}"), &[], "", seconds);
    outcome.expect_status(0);
    outcome.expect_output("well\n");
}

#[test]
fn shell_and_small_programs_work() {
    ends_well("shell_and_small_programs_work", include_str!("shell.py"), 120);
}

#[test]
fn pip_works_in_the_image_the_user_s_site_and_a_virtual_environment() {
    // pip compiles itself in a new environment: half a minute under emulation, and much more on a busy host.
    ends_well("pip_works", include_str!("packages.py"), 900);
}

#[test]
fn index_and_certificates_of_the_host_are_used() {
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/boot/test_ca.pem");
    let source = "\
import ssl, subprocess, sys
[authority] = ssl.create_default_context().get_ca_certs()
assert authority['subject'] == ((('commonName', \"A test's CA\"),),), authority
settings = subprocess.check_output([sys.executable, '-m', 'pip', 'config', 'list'], text=True)
assert \":env:.index-url='https://index.example/a,b/'\" in settings, settings
print('well')
";
    let machine = ["--pip-index", "https://index.example/a,b/", "--ca-bundle", bundle];
    let outcome = run_on("host_settings", &machine, source, &[], "", 120);
    outcome.expect_status(0);
    outcome.expect_output("well\n");
}

#[test]
fn pools_share_work_by_every_start_method() {
    ends_well("pools_share_work_by_every_start_method", include_str!("pools.py"), 180);
}

#[test]
fn accounts_zones_terminals_and_services_are_known() {
    let source = "\
import curses, datetime, grp, locale, mimetypes, os, pwd, socket, zoneinfo
root = pwd.getpwnam('root')
assert (root.pw_uid, root.pw_dir, root.pw_shell) == (0, os.environ['HOME'], os.environ['SHELL']), root
assert os.access(root.pw_shell, os.X_OK)
assert pwd.getpwuid(65534).pw_name == 'nobody' and grp.getgrgid(65534).gr_name == 'nogroup'
assert len({entry.pw_uid for entry in pwd.getpwall()}) == len(pwd.getpwall()) > 10
assert grp.getgrnam('tty').gr_gid == 5 and len(grp.getgrall()) > 20
summer = datetime.datetime(2030, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))
assert summer.utcoffset() == datetime.timedelta(hours=2)
for name in 'ansi dumb linux screen tmux-256color vt100 vt220 xterm xterm-256color xterm-kitty alacritty'.split():
    curses.setupterm(name, 1)
assert locale.setlocale(locale.LC_ALL, '') == 'C.UTF-8'
assert socket.getservbyname('https') == 443 and socket.getprotobyname('udp') == 17
assert mimetypes.guess_type('a.png')[0] == 'image/png'
print('well')
";
    ends_well("accounts_zones_terminals_and_services_are_known", source, 60);
}
