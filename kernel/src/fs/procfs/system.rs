//! What /proc says of the system as a whole.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use abi::{Errno, Result};
use hal::{Arch as _, PowerAction};
use klib::load_average::FRACTION_BITS;

use crate::{
    arch::Arch,
    fs::{
        epoll, fd_table, locks,
        mount::Mount,
        notify::inotify,
        open_file,
        path::Path,
        permission,
        tty::devpts,
        virtual_files::{Listing, VirtualDirectory, VirtualFs, VirtualLink},
    },
    image, irq, log_buffer,
    mm::{PAGE_SIZE, frames, reclaim, stack::STACK_SIZE},
    net, panic, power, rng, smp,
    sync::Once,
    syscall::{kernel_log, misc},
    task::{
        identity, load,
        namespace::{MachineName, UtsNamespace},
        process::{self, PID_MAX},
        scheduler::{self, CpuTimes},
        thread::RunState,
        usage::Usage,
    },
    time,
};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// Nanoseconds of a clock tick as /proc counts them.
const TICK_NS: u64 = 10_000_000;

/// /proc/sysrq-trigger, as Linux's admin-guide/sysrq.rst: `b` resets, `c` crashes the kernel, `o` switches off.
fn sysrq(command: &[u8]) -> Result<()> {
    match command.first() {
        Some(b'b') => power::leave(PowerAction::Reset),
        Some(b'c') => panic::fatal(format_args!("asked for through /proc/sysrq-trigger"), None),
        Some(b'o') => power::leave(PowerAction::Off(0)),
        _ => Err(Errno::EINVAL),
    }
}

/// As uname(2) has it.
const VERSION: &str = concat!("#1 Piton ", env!("CARGO_PKG_VERSION"));

/// The fixed entries of /proc.
pub fn entries(fs: VirtualFs) -> Arc<VirtualDirectory> {
    let root = VirtualDirectory::new(fs);
    root.add_text("cmdline", || alloc::format!("{}\n", crate::command_line::get()).into_bytes());
    root.add_text("cpuinfo", cpuinfo);
    root.add_text("devices", devices);
    root.add_text("filesystems", filesystems);
    root.add_text("interrupts", interrupts);
    root.add_private_listing("kallsyms", symbols);
    root.add_text("loadavg", loadavg);
    root.add_listing("locks", locks::list);
    root.add_text("meminfo", meminfo);
    root.add_text("modules", Vec::new);
    root.add_text("partitions", || b"major minor  #blocks  name\n\n".to_vec());
    root.add_control("sysrq-trigger", Vec::new, sysrq);
    root.add_text("stat", stat);
    root.add_text("swaps", || b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec());
    root.add_text("uptime", uptime);
    root.add_text("version", version);
    root.add_text("vmstat", vmstat);
    root.add("net", VirtualLink::new(fs, b"self/net".to_vec()));
    root.add("mounts", VirtualLink::new(fs, b"self/mounts".to_vec()));
    root.add("device-tree", VirtualLink::new(fs, b"/sys/firmware/devicetree/base".to_vec()));
    add_settings(&root.add_directory("sys"));
    let terminals = root.add_directory("tty");
    terminals.add_text("drivers", || TERMINAL_DRIVERS.to_vec());
    terminals.add_text("ldiscs", || b"n_tty       0\n".to_vec());
    root
}

/// A file with one unchanging line.
fn add_line(directory: &VirtualDirectory, name: &str, line: impl core::fmt::Display) {
    let text = format!("{line}\n").into_bytes();
    directory.add_text(name, move || text.clone());
}

/// The decimal number that was written; EINVAL for anything else.
fn parse_number<T: core::str::FromStr>(bytes: &[u8]) -> Result<T> {
    let text = core::str::from_utf8(bytes.trim_ascii()).map_err(|_| Errno::EINVAL)?;
    text.parse().map_err(|_| Errno::EINVAL)
}

/// A number that can be set, within a range.
fn add_number(
    directory: &VirtualDirectory,
    name: &str,
    value: &'static AtomicU64,
    range: core::ops::RangeInclusive<u64>,
) {
    let take = move |bytes: &[u8]| {
        let number = parse_number(bytes)?;
        if !range.contains(&number) {
            return Err(Errno::EINVAL);
        }
        value.store(number, Ordering::Relaxed);
        Ok(())
    };
    directory.add_control(name, || format!("{}\n", value.load(Ordering::Relaxed)).into_bytes(), take);
}

/// A name of the machine, of the namespace that the caller is in. What is too long is cut off, as Linux does here.
fn add_name(directory: &VirtualDirectory, name: &str, value: fn(&UtsNamespace) -> &MachineName) {
    const LONGEST: usize = 64;
    let take = move |bytes: &[u8]| {
        let line = bytes.split(|byte| matches!(byte, b'\n' | 0)).next().unwrap_or_default();
        value(&scheduler::current().uts()).set(line.get(..LONGEST).unwrap_or(line))
    };
    directory.add_control(name, move || [value(&scheduler::current().uts()).get().as_slice(), b"\n"].concat(), take);
}

/// /proc/tty/drivers: what device numbers of terminals stand for, for ps(1).
const TERMINAL_DRIVERS: &[u8] = b"\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
ttyAMA               /dev/ttyAMA   204 64-77 serial
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";

/// /proc/sys.
fn add_settings(root: &Arc<VirtualDirectory>) {
    static OVERCOMMIT: AtomicU64 = AtomicU64::new(1);
    static MAX_MAP_COUNT: AtomicU64 = AtomicU64::new(1_048_576);
    // Kept for the first mount of devpts, and there is no other.
    static PTY_RESERVE: AtomicU64 = AtomicU64::new(1024);
    let kernel = root.add_directory("kernel");
    add_line(&kernel, "ostype", "Linux");
    add_line(&kernel, "osrelease", misc::LINUX_RELEASE);
    add_line(&kernel, "version", VERSION);
    add_name(&kernel, "hostname", |uts| &uts.host);
    add_name(&kernel, "domainname", |uts| &uts.domain);
    add_line(&kernel, "pid_max", PID_MAX);
    kernel.add_control(
        "threads-max",
        || format!("{}\n", identity::max_tasks()).into_bytes(),
        |bytes| identity::set_max_tasks(parse_number(bytes)?),
    );
    add_line(&kernel, "cap_last_cap", 40);
    add_line(&kernel, "overflowuid", 65534);
    add_line(&kernel, "overflowgid", 65534);
    add_line(&kernel, "ngroups_max", 65536);
    add_line(&kernel, "randomize_va_space", 2);
    add_number(&kernel, "dmesg_restrict", &kernel_log::RESTRICTED, 0..=1);
    kernel.add_text("printk", || {
        let (now, default) = (log_buffer::console_level(), log_buffer::DEFAULT_CONSOLE_LEVEL);
        // The level now, that of messages without one, the least and the default.
        format!("{now}\t4\t1\t{default}\n").into_bytes()
    });
    add_line(&kernel, "core_pattern", "core");
    let random = kernel.add_directory("random");
    random.add_text("boot_id", || boot_id().unwrap_or_default());
    random.add_text("uuid", || uuid().unwrap_or_default());
    random.add_text("entropy_avail", || if rng::is_ready() { b"256\n".to_vec() } else { b"0\n".to_vec() });
    add_line(&random, "poolsize", 256);
    let terminals = kernel.add_directory("pty");
    add_number(&terminals, "max", &devpts::LIMIT, 0..=devpts::MOST);
    terminals.add_text("nr", || format!("{}\n", devpts::count()).into_bytes());
    add_number(&terminals, "reserve", &PTY_RESERVE, 0..=devpts::MOST);
    let vm = root.add_directory("vm");
    add_number(&vm, "overcommit_memory", &OVERCOMMIT, 0..=2);
    add_number(&vm, "max_map_count", &MAX_MAP_COUNT, 0..=u64::from(u32::MAX >> 1));
    add_line(&vm, "mmap_min_addr", crate::mm::address_space::LOWEST_ADDRESS);
    let fs = root.add_directory("fs");
    add_line(&fs, "pipe-max-size", 1 << 20);
    fs.add_text("file-max", || format!("{}\n", open_file::max_open()).into_bytes());
    fs.add_text("file-nr", || format!("{}\t0\t{}\n", open_file::nr_open(), open_file::max_open()).into_bytes());
    add_line(&fs, "nr_open", fd_table::MAX_LIMIT);
    add_number(&fs, "protected_hardlinks", &permission::PROTECTED_HARDLINKS, 0..=1);
    add_number(&fs, "protected_symlinks", &permission::PROTECTED_SYMLINKS, 0..=1);
    add_number(&fs, "protected_fifos", &permission::PROTECTED_FIFOS, 0..=2);
    add_number(&fs, "protected_regular", &permission::PROTECTED_REGULAR, 0..=2);
    let directory = fs.add_directory("inotify");
    add_number(&directory, "max_queued_events", &inotify::MAX_QUEUED_EVENTS, 0..=u64::from(u32::MAX >> 1));
    add_number(&directory, "max_user_instances", &inotify::MAX_INSTANCES, 0..=u64::from(u32::MAX >> 1));
    add_number(&directory, "max_user_watches", &inotify::MAX_WATCHES, 0..=u64::from(u32::MAX >> 1));
    let directory = fs.add_directory("epoll");
    directory.add_text("max_user_watches", || format!("{}\n", epoll::max_watches()).into_bytes());
    net::proc::add_settings(&root.add_directory("net"));
}

/// A random UUID (RFC 9562, version 4) with a newline.
fn uuid() -> Result<Vec<u8>> {
    let mut bytes = [0; 16];
    rng::fill(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    Ok(text.into_bytes())
}

/// The UUID of this start of the machine. Empty until there is randomness.
fn boot_id() -> Result<Vec<u8>> {
    static ID: Once<Vec<u8>> = Once::new();
    ID.try_call_once(uuid).cloned()
}

fn cpuinfo() -> Vec<u8> {
    let mut text = String::new();
    for number in smp::online().iter() {
        let _ = writeln!(text, "processor\t: {number}");
        let _ = Arch::describe_cpu(smp::identity(number), &mut text);
        text.push('\n');
    }
    text.into_bytes()
}

fn devices() -> Vec<u8> {
    b"Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n128 ptm\n136 pts\n204 ttyAMA\n\nBlock devices:\n".to_vec()
}

fn filesystems() -> Vec<u8> {
    let mut text = String::new();
    for (has_device, kind) in [
        (false, "sysfs"),
        (false, "tmpfs"),
        (false, "proc"),
        (false, "devtmpfs"),
        (false, "pipefs"),
        (false, "sockfs"),
        (true, "erofs"),
    ] {
        let _ = writeln!(text, "{}\t{kind}", if has_device { "" } else { "nodev" });
    }
    text.into_bytes()
}

fn interrupts() -> Vec<u8> {
    let mut text = String::from("    ");
    for number in smp::online().iter() {
        let _ = write!(text, " {:>10}", format!("CPU{number}"));
    }
    text.push('\n');
    for line in irq::statistics() {
        let _ = write!(text, "{:>4}:", line.label);
        for count in line.counts {
            let _ = write!(text, " {count:>10}");
        }
        let _ = writeln!(text, "  {}", line.name);
    }
    text.into_bytes()
}

fn threads_running() -> (usize, usize) {
    let processes = process::all();
    let threads = processes.iter().flat_map(|process| process.threads());
    let (mut running, mut all) = (0, 0);
    for thread in threads {
        all += 1;
        if matches!(thread.run_state(), RunState::Running | RunState::Runnable) {
            running += 1;
        }
    }
    (running, all)
}

fn loadavg() -> Vec<u8> {
    let (running, all) = threads_running();
    let last = process::all().iter().map(|process| process.pid()).max().unwrap_or(0);
    let mut text = String::new();
    for average in load::averages() {
        // Rounded to hundredths.
        let hundredths = (average * 100 + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS;
        let _ = write!(text, "{}.{:02} ", hundredths / 100, hundredths % 100);
    }
    let _ = writeln!(text, "{running}/{all} {last}");
    text.into_bytes()
}

fn meminfo() -> Vec<u8> {
    let stats = frames::stats();
    let kib = |pages: usize| pages * (PAGE_SIZE / 1024);
    let shared = kib(crate::fs::tmpfs::pages_used());
    let idle = kib(reclaim::idle_pages());
    let spaces = process::all().into_iter().filter_map(|process| process.memory());
    let tables = kib(spaces.map(|memory| memory.table_pages()).sum::<u64>() as usize);
    let stacks = process::nr_threads() * STACK_SIZE / 1024;
    let heap = kib(stats.kernel).saturating_sub(tables + stacks);
    let mut text = String::new();
    for (name, value) in [
        ("MemTotal", kib(stats.total)),
        ("MemFree", kib(stats.free)),
        ("MemAvailable", kib(stats.free) + idle),
        ("Buffers", 0),
        ("Cached", shared + idle),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("Shmem", shared),
        ("Slab", heap),
        ("SReclaimable", 0),
        ("SUnreclaim", heap),
        ("KernelStack", stacks),
        ("PageTables", tables),
        ("CommitLimit", kib(stats.total)),
        ("Committed_AS", kib(stats.total - stats.free)),
    ] {
        let _ = writeln!(text, "{:<15} {value:>8} kB", format!("{name}:"));
    }
    text.into_bytes()
}

/// The kernel's functions, a line `ADDRESS t NAME` for each; for root alone, whom Linux shows addresses, too.
fn symbols(out: &mut Listing) -> core::fmt::Result {
    image::visit_symbols(&mut |address, name| writeln!(out, "{address:016x} t {name}"))
}

/// What each running CPU did with its time.
fn cpu_times() -> Vec<(usize, CpuTimes)> {
    smp::online().iter().map(|number| (number, scheduler::cpu_times(number))).collect()
}

/// A line of /proc/stat. Time in programs and in the kernel is told apart as it is of the processes that are there, with
/// the children they waited for.
fn cpu_line(name: &str, times: CpuTimes, used: Usage) -> String {
    let share = u128::from(times.busy_ns) * u128::from(used.system_ns) / u128::from(used.cpu_ns().max(1));
    let system_ns = (share as u64).min(times.busy_ns);
    let [user, system, idle] = [times.busy_ns - system_ns, system_ns, times.idle_ns].map(|ns| ns / TICK_NS);
    format!("{name} {user} 0 {system} {idle} 0 0 0 0 0 0\n")
}

fn stat() -> Vec<u8> {
    let (running, _) = threads_running();
    let cpus = cpu_times();
    let all = cpus.iter().fold(CpuTimes::default(), |sum, (_, times)| CpuTimes {
        busy_ns: sum.busy_ns + times.busy_ns,
        idle_ns: sum.idle_ns + times.idle_ns,
    });
    let mut used = Usage::default();
    for process in process::all() {
        used += process.usage();
        used += process.children_usage();
    }
    // Two blanks, so that the columns of all and of each begin at one place.
    let mut text = cpu_line("cpu ", all, used);
    for (number, times) in cpus {
        text.push_str(&cpu_line(&format!("cpu{number}"), times, used));
    }
    let interrupts: u64 = irq::statistics().iter().flat_map(|line| &line.counts).sum();
    let booted = time::realtime_ns().saturating_sub(time::monotonic_ns()) / NS_PER_SECOND;
    let last = process::all().iter().map(|process| process.pid()).max().unwrap_or(0);
    let _ = write!(text, "intr {interrupts}\nctxt {}\nbtime {booted}\nprocesses {last}\n", scheduler::switches());
    let _ = write!(text, "procs_running {running}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
    text.into_bytes()
}

fn uptime() -> Vec<u8> {
    let hundredths = |ns: u64| (ns / NS_PER_SECOND, ns % NS_PER_SECOND / 10_000_000);
    let (up, up_part) = hundredths(time::monotonic_ns());
    let (idle, idle_part) = hundredths(cpu_times().iter().map(|(_, times)| times.idle_ns).sum());
    format!("{up}.{up_part:02} {idle}.{idle_part:02}\n").into_bytes()
}

fn version() -> Vec<u8> {
    format!("Linux version {} (piton) {}\n", misc::LINUX_RELEASE, VERSION).into_bytes()
}

fn vmstat() -> Vec<u8> {
    let stats = frames::stats();
    let shared = crate::fs::tmpfs::pages_used();
    format!("nr_free_pages {}\nnr_shmem {shared}\npswpin 0\npswpout 0\n", stats.free).into_bytes()
}

/// A path as mounts and mountinfo write it: white space and backslashes as octal numbers.
fn escaped(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                let _ = write!(text, "\\{byte:03o}");
            }
            0x21..0x7f => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\{byte:03o}");
            }
        }
    }
    text
}

/// The place of a mount seen from `root`.
fn visible(mount: &Arc<Mount>, root: &Path) -> Option<String> {
    let top = Path::root_of(mount);
    let (place, reached) = top.bytes_from(Some(root));
    (reached || mount.at().is_none()).then(|| escaped(&place))
}

/// /proc/PID/mounts for a process with this root.
pub fn mounts(root: &Path) -> Vec<u8> {
    let mut text = String::new();
    for mount in Mount::all() {
        if let Some(place) = visible(&mount, root) {
            let source = escaped(mount.source().as_bytes());
            let (kind, options, settings) = (mount.kind(), mount.options(false), mount.settings());
            let _ = writeln!(text, "{source} {place} {kind} {options}{settings} 0 0");
        }
    }
    text.into_bytes()
}

/// /proc/PID/mountinfo for a process with this root.
pub fn mount_information(root: &Path) -> Vec<u8> {
    let mut text = String::new();
    for mount in Mount::all() {
        let Some(place) = visible(&mount, root) else { continue };
        let parent = mount.at().map_or(0, |at| at.mount().id());
        let (options, whole, settings) = (mount.options(false), mount.options(true), mount.settings());
        let device = mount.root().inode().metadata().device;
        let _ = writeln!(
            text,
            "{} {parent} {}:{} {} {place} {options} - {} {} {whole}{settings}",
            mount.id(),
            device >> 8 & 0xfff,
            device & 0xff,
            escaped(&mount.root().path_in_file_system()),
            mount.kind(),
            escaped(mount.source().as_bytes()),
        );
    }
    text.into_bytes()
}
