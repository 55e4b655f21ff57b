//! The texts of /proc/PID and /proc/PID/task/TID, in proc(5)'s formats.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::{fmt::Write as _, ops::Range, sync::atomic::Ordering};

use abi::{Errno, Result, linux};
use hal::UserAddr;
use klib::cpu_set::CpuSet;

use super::{links::fs_of, maps, system};
use crate::{
    fs::{path::Path, sysfs, tty, virtual_files::Take},
    image,
    mm::PAGE_SIZE,
    smp,
    task::{
        pending::QueueSlot,
        process::{ExitStatus, Process},
        scheduler,
        signal::{NSIG, SIG_DFL, SIG_IGN},
        thread::{RunState, Thread},
    },
};

/// Nanoseconds of a clock tick as /proc counts them (sysconf(3), _SC_CLK_TCK).
const TICK_NS: u64 = 10_000_000;
/// The most bytes of a command line or an environment that are shown.
const MAX_STRINGS: u64 = 2 << 20;

/// The bits of an address that count.
const TAGLESS: u64 = u64::MAX >> 8;

/// A file of a process or thread.
#[derive(Clone, Copy)]
pub enum Text {
    /// auxv.
    AuxiliaryVector,
    /// cgroup.
    ControlGroup,
    /// cmdline.
    CommandLine,
    /// comm.
    Name,
    /// environ.
    Environment,
    /// io.
    Transfers,
    /// limits.
    Limits,
    /// maps.
    Maps,
    /// smaps.
    DetailedMaps,
    /// smaps_rollup.
    MapsSummary,
    /// mountinfo.
    MountInformation,
    /// mounts.
    Mounts,
    /// oom_score.
    OomScore,
    /// oom_score_adj.
    OomScoreAdjustment,
    /// stat.
    Stat,
    /// statm.
    MemoryStat,
    /// status.
    Status,
    /// wchan.
    WaitChannel,
    /// stack.
    KernelStack,
    /// uid_map and gid_map.
    IdMap,
    /// setgroups.
    GroupsRule,
    /// loginuid and sessionid.
    AuditId,
    /// personality.
    Personality,
    /// timerslack_ns.
    TimerSlack,
}

impl Text {
    /// Whether it takes writes.
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::Name | Self::OomScoreAdjustment)
    }

    /// Its permission bits.
    pub const fn permissions(self) -> u32 {
        match self {
            Self::Name | Self::OomScoreAdjustment => 0o644,
            Self::AuxiliaryVector | Self::Environment | Self::Transfers | Self::Personality | Self::KernelStack => {
                0o400
            }
            _ => 0o444,
        }
    }

    /// Whether only those may open it who may look into the process (proc(5)).
    const fn is_private(self) -> bool {
        matches!(
            self,
            Self::AuxiliaryVector
                | Self::Environment
                | Self::Transfers
                | Self::Maps
                | Self::DetailedMaps
                | Self::MapsSummary
                | Self::Personality
                | Self::KernelStack
                | Self::WaitChannel
        )
    }

    /// EACCES where the running thread must not open it.
    pub fn check_open(self, process: &Process) -> Result<()> {
        if !self.is_private() {
            return Ok(());
        }
        process.check_inspection(&scheduler::current()).map_err(|_| Errno::EACCES)
    }

    /// Its bytes now.
    pub fn make(self, process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Result<Vec<u8>> {
        match self {
            Self::AuxiliaryVector => Ok(process.memory().map(|memory| memory.layout().auxv).unwrap_or_default()),
            Self::ControlGroup => Ok(b"0::/\n".to_vec()),
            Self::CommandLine => Ok(strings(process, process.arguments_range())),
            Self::Environment => Ok(strings(process, process.environment_range())),
            Self::Name => Ok(match thread.cloned().or_else(|| process.main_thread()) {
                Some(thread) => {
                    let bytes = thread.name_bytes();
                    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                    [name, b"\n"].concat()
                }
                None => format!("{}\n", process.name()).into_bytes(),
            }),
            Self::Transfers => Ok(transfers(process, thread)),
            Self::Limits => Ok(limits(process)),
            Self::Maps => maps::maps(process),
            Self::DetailedMaps => maps::detailed(process),
            Self::MapsSummary => maps::summary(process),
            Self::MemoryStat => maps::statm(process),
            Self::MountInformation => Ok(system::mount_information(&root_of(process, thread))),
            Self::Mounts => Ok(system::mounts(&root_of(process, thread))),
            Self::OomScore => Ok(format!("{}\n", oom_score(process)).into_bytes()),
            Self::OomScoreAdjustment => Ok(format!("{}\n", process.oom_adjustment()).into_bytes()),
            Self::Stat => Ok(stat(process, thread)),
            Self::Status => Ok(status(process, thread)),
            Self::WaitChannel => wait_channel(process, thread),
            Self::KernelStack => kernel_stack(process, thread),
            // There are no user namespaces but the first, and no audit.
            Self::IdMap => Ok(b"         0          0 4294967295\n".to_vec()),
            Self::GroupsRule => Ok(b"allow\n".to_vec()),
            Self::AuditId => Ok(b"4294967295".to_vec()),
            Self::Personality => Ok(match thread.cloned().or_else(|| process.main_thread()) {
                Some(thread) => format!("{:08x}\n", thread.identity.personality()).into_bytes(),
                None => Vec::new(),
            }),
            Self::TimerSlack => Ok(match thread.cloned().or_else(|| process.main_thread()) {
                Some(thread) => format!("{}\n", thread.attributes.timer_slack_ns.load(Ordering::Relaxed)).into_bytes(),
                None => Vec::new(),
            }),
        }
    }

    /// What its writes do.
    pub fn taker(self, process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Option<Take> {
        match self {
            Self::Name => {
                let thread = thread.cloned().or_else(|| process.main_thread())?;
                Some(Box::new(move |bytes| {
                    // Only its own process names a thread (proc(5)).
                    if !Arc::ptr_eq(thread.process(), scheduler::current().process()) {
                        return Err(Errno::EINVAL);
                    }
                    thread.set_name(bytes);
                    Ok(())
                }))
            }
            Self::OomScoreAdjustment => {
                let process = process.clone();
                Some(Box::new(move |bytes| set_oom_adjustment(&process, bytes)))
            }
            _ => None,
        }
    }
}

fn root_of(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Path {
    fs_of(process, thread).lock().root.clone()
}

fn name(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> String {
    match thread {
        Some(thread) => thread.name(),
        None => process.name(),
    }
}

/// The bytes of a stretch of the process's memory, as far as they can be read.
fn strings(process: &Arc<Process>, range: Range<u64>) -> Vec<u8> {
    let Some(memory) = process.memory() else { return Vec::new() };
    let len = range.end.saturating_sub(range.start).min(MAX_STRINGS) as usize;
    let mut bytes = alloc::vec![0; len];
    let read = memory.read(UserAddr::new(range.start), &mut bytes);
    bytes.truncate(read);
    bytes
}

/// io. Of a process: of all its threads, and the children it has waited for.
fn transfers(process: &Process, thread: Option<&Arc<Thread>>) -> Vec<u8> {
    let used = match thread {
        Some(thread) => thread.usage(),
        None => {
            let mut used = process.usage();
            used += process.children_usage();
            used
        }
    };
    let mut text = String::new();
    for (name, value) in [
        ("rchar", used.read.bytes),
        ("wchar", used.written.bytes),
        ("syscr", used.read.calls),
        ("syscw", used.written.calls),
        // Nothing goes to or comes from storage.
        ("read_bytes", 0),
        ("write_bytes", 0),
        ("cancelled_write_bytes", 0),
    ] {
        let _ = writeln!(text, "{name}: {value}");
    }
    text.into_bytes()
}

fn limits(process: &Arc<Process>) -> Vec<u8> {
    const NAMES: [(u32, &str, &str); 16] = [
        (linux::RLIMIT_CPU, "Max cpu time", "seconds"),
        (linux::RLIMIT_FSIZE, "Max file size", "bytes"),
        (linux::RLIMIT_DATA, "Max data size", "bytes"),
        (linux::RLIMIT_STACK, "Max stack size", "bytes"),
        (linux::RLIMIT_CORE, "Max core file size", "bytes"),
        (linux::RLIMIT_RSS, "Max resident set", "bytes"),
        (linux::RLIMIT_NPROC, "Max processes", "processes"),
        (linux::RLIMIT_NOFILE, "Max open files", "files"),
        (linux::RLIMIT_MEMLOCK, "Max locked memory", "bytes"),
        (linux::RLIMIT_AS, "Max address space", "bytes"),
        (linux::RLIMIT_LOCKS, "Max file locks", "locks"),
        (linux::RLIMIT_SIGPENDING, "Max pending signals", "signals"),
        (linux::RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"),
        (linux::RLIMIT_NICE, "Max nice priority", ""),
        (linux::RLIMIT_RTPRIO, "Max realtime priority", ""),
        (linux::RLIMIT_RTTIME, "Max realtime timeout", "us"),
    ];
    let show = |limit: u64| if limit == u64::MAX { String::from("unlimited") } else { format!("{limit}") };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (resource, name, unit) in NAMES {
        let (soft, hard) = process.rlimit(resource);
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", show(soft), show(hard));
    }
    text.into_bytes()
}

fn set_oom_adjustment(process: &Process, bytes: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(bytes.trim_ascii()).map_err(|_| Errno::EINVAL)?;
    let value: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    if value < process.oom_adjustment() && !scheduler::current().identity.has(linux::CAP_SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    process.set_oom_adjustment(value);
    Ok(())
}

/// The share of memory a process holds in thousandths, with its adjustment.
fn oom_score(process: &Arc<Process>) -> i64 {
    let resident = process.memory().map_or(0, |memory| memory.resident_pages());
    let total = (crate::mm::frames::stats().total as u64).max(1);
    ((resident * 1000 / total) as i64 + i64::from(process.oom_adjustment())).clamp(0, 2000)
}

/// The letter and word for what a process or thread is doing.
fn state(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> (char, &'static str) {
    if process.exit_status().is_some() {
        return ('Z', "zombie");
    }
    if process.is_stopped() {
        return ('T', "stopped");
    }
    match thread.map(|thread| thread.run_state()) {
        Some(RunState::Running | RunState::Runnable) => ('R', "running"),
        Some(RunState::Dead) => ('X', "dead"),
        Some(RunState::New | RunState::Blocked) | None => ('S', "sleeping"),
    }
}

/// Sets of ignored and of caught signals.
fn signal_actions(process: &Arc<Process>) -> (u64, u64) {
    let actions = process.actions.lock();
    let (mut ignored, mut caught) = (0, 0);
    for signal in 1..NSIG {
        match actions.get(signal).handler {
            SIG_DFL => {}
            SIG_IGN => ignored |= 1 << (signal - 1),
            _ => caught |= 1 << (signal - 1),
        }
    }
    (ignored, caught)
}

fn stat(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Vec<u8> {
    let shown = thread.cloned().or_else(|| process.main_thread());
    let id = thread.map_or(process.pid(), |thread| thread.tid());
    let (letter, _) = state(process, shown.as_ref());
    let terminal = tty::controlling_terminal(process);
    let (tty_number, foreground) = terminal.map_or((0, -1), |tty| (tty.number() as i32, tty.foreground()));
    let (used, by_children) = match thread {
        Some(thread) => (thread.usage(), Default::default()),
        None => (process.usage(), process.children_usage()),
    };
    let start_ns = match thread {
        Some(thread) => thread.started_ns(),
        None => process.started_ns(),
    };
    let memory = process.memory();
    let (size, resident) = memory.as_ref().map_or((0, 0), |memory| (memory.virtual_pages(), memory.resident_pages()));
    let (arguments, environment) = (process.arguments_range(), process.environment_range());
    let (ignored, caught) = signal_actions(process);
    let (pending, blocked) = shown.as_ref().map_or((0, 0), |thread| {
        let signals = thread.signals.lock();
        (signals.pending.set().bits(), signals.mask.bits())
    });
    let exit_word = process.exit_status().map_or(0, ExitStatus::wait_word);
    let mut text = String::new();
    let _ = write!(text, "{id} ({}) {letter} {}", name(process, thread), process.parent_pid());
    let _ = write!(text, " {} {} {tty_number} {foreground}", process.group(), process.session());
    // flags minflt cminflt majflt cmajflt
    let _ = write!(text, " 0 {} {} 0 0", used.faults, by_children.faults);
    for usage in [used, by_children] {
        let _ = write!(text, " {} {}", usage.user_ns / TICK_NS, usage.system_ns / TICK_NS);
    }
    // priority nice num_threads itrealvalue starttime
    let nice = shown.as_ref().map_or(0, |thread| thread.nice());
    let _ = write!(text, " {} {nice} {} 0 {}", 20 + nice, process.threads().len(), start_ns / TICK_NS);
    let _ = write!(text, " {} {resident} {}", size * PAGE_SIZE as u64, process.rlimit(linux::RLIMIT_RSS).0);
    // startcode endcode startstack kstkesp kstkeip
    text.push_str(" 0 0 0 0 0");
    let _ = write!(text, " {pending} {} {} {}", blocked & 0x7fff_ffff, ignored & 0x7fff_ffff, caught & 0x7fff_ffff);
    // wchan nswap cnswap exit_signal processor rt_priority policy delayacct_blkio_ticks guest_time cguest_time
    let (cpu, priority, policy) = shown.as_ref().map_or((0, 0, 0), |thread| {
        let set = &thread.attributes;
        (thread.home(), set.priority.load(Ordering::Relaxed), set.policy.load(Ordering::Relaxed))
    });
    let _ = write!(text, " 0 0 0 {} {cpu} {priority} {policy} 0 0 0", linux::SIGCHLD);
    // start_data end_data start_brk
    text.push_str(" 0 0 0");
    let _ = write!(text, " {} {}", arguments.start, arguments.end);
    let _ = writeln!(text, " {} {} {exit_word}", environment.start, environment.end);
    text.into_bytes()
}

fn status(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Vec<u8> {
    let shown = thread.cloned().or_else(|| process.main_thread());
    let id = thread.map_or(process.pid(), |thread| thread.tid());
    let (letter, word) = state(process, shown.as_ref());
    let umask = fs_of(process, thread).lock().umask;
    let threads = process.threads().len();
    let mut text = String::new();
    let name = name(process, thread).replace('\\', "\\\\").replace('\n', "\\n");
    let _ = write!(
        text,
        "Name:\t{name}\nUmask:\t{umask:04o}\nState:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\n",
        process.pid()
    );
    let _ = write!(text, "Pid:\t{id}\nPPid:\t{}\nTracerPid:\t0\n", process.parent_pid());
    let who = thread.map_or_else(|| process.credentials(), |thread| thread.identity.own());
    for (name, ids) in [("Uid", who.user), ("Gid", who.group)] {
        let _ = writeln!(text, "{name}:\t{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.file);
    }
    let _ = write!(text, "FDSize:\t{}\nGroups:\t", fd_size(process));
    for group in &*who.groups {
        let _ = write!(text, "{group} ");
    }
    // As Linux: without groups there is a space all the same.
    text.push_str(if who.groups.is_empty() { " \n" } else { "\n" });
    let _ = write!(
        text,
        "NStgid:\t{0}\nNSpid:\t{id}\nNSpgid:\t{1}\nNSsid:\t{2}\nKthread:\t0\n",
        process.pid(),
        process.group(),
        process.session()
    );
    if let Some(memory) = process.memory() {
        let kib = |pages: u64| pages * (PAGE_SIZE as u64 / 1024);
        let (mut data, mut stack, mut code) = (0, 0, 0);
        for mapping in memory.mappings() {
            let size = (mapping.range.end - mapping.range.start) / 1024;
            match (mapping.name.as_str(), mapping.executable) {
                ("[stack]", _) => stack += size,
                (_, true) => code += size,
                (_, false) if mapping.writable && !mapping.shared => data += size,
                _ => {}
            }
        }
        let size = kib(memory.virtual_pages());
        let by_owner = maps::resident(&memory);
        let resident = by_owner.anonymous + by_owner.file + by_owner.shared_memory;
        for (name, value) in [
            ("VmPeak", size),
            ("VmSize", size),
            ("VmLck", memory.locked_bytes() / 1024),
            ("VmPin", 0),
            ("VmHWM", kib(memory.peak_pages()).max(resident)),
            ("VmRSS", resident),
            ("RssAnon", by_owner.anonymous),
            ("RssFile", by_owner.file),
            ("RssShmem", by_owner.shared_memory),
            ("VmData", data),
            ("VmStk", stack),
            ("VmExe", code),
            ("VmLib", 0),
            ("VmPTE", kib(memory.table_pages() - 1)),
            ("VmSwap", 0),
            ("HugetlbPages", 0),
        ] {
            let _ = writeln!(text, "{name}:\t{value:>8} kB");
        }
    }
    let (ignored, caught) = signal_actions(process);
    let (pending, blocked) = shown.as_ref().map_or((0, 0), |thread| {
        let signals = thread.signals.lock();
        (signals.pending.set().bits(), signals.mask.bits())
    });
    let _ = write!(text, "CoreDumping:\t0\nTHP_enabled:\t0\nuntag_mask:\t{TAGLESS:#x}\nThreads:\t{threads}\n");
    let waiting = QueueSlot::count(process.credentials().user.real);
    let _ = writeln!(text, "SigQ:\t{waiting}/{}", process.rlimit(linux::RLIMIT_SIGPENDING).0);
    for (name, set) in [
        ("SigPnd", pending),
        ("ShdPnd", process.pending_signals().bits()),
        ("SigBlk", blocked),
        ("SigIgn", ignored),
        ("SigCgt", caught),
        ("CapInh", who.inheritable.bits()),
        ("CapPrm", who.permitted.bits()),
        ("CapEff", who.effective.bits()),
        ("CapBnd", who.bounding.bits()),
        ("CapAmb", who.ambient.bits()),
    ] {
        let _ = writeln!(text, "{name}:\t{set:016x}");
    }
    let cpus = shown.as_ref().map_or(CpuSet::ALL, |thread| thread.affinity()) & smp::present();
    let mask = cpus.bits();
    let _ = write!(
        text,
        "NoNewPrivs:\t{}\nSeccomp:\t0\nSeccomp_filters:\t0\nCpus_allowed:\t{mask:x}\n",
        u8::from(who.no_new_privileges)
    );
    let _ = write!(text, "Cpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n", sysfs::cpu_list(cpus));
    let used = shown.map(|thread| thread.usage()).unwrap_or_default();
    let _ = write!(
        text,
        "voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
        used.voluntary_switches, used.involuntary_switches
    );
    text.into_bytes()
}

/// Slots of the descriptor table: what is in use, rounded up as Linux does.
fn fd_size(process: &Arc<Process>) -> usize {
    process.files().end().next_multiple_of(64).max(64)
}

/// Where in the kernel a thread waits, from the innermost function on; empty where it does not.
fn places(process: &Process, thread: Option<&Arc<Thread>>) -> Result<Vec<usize>> {
    let thread = thread.cloned().or_else(|| process.main_thread());
    thread.map_or_else(|| Ok(Vec::new()), |thread| scheduler::stack_of(&thread))
}

/// The functions a thread waits in, a line for each (proc(5)).
fn kernel_stack(process: &Process, thread: Option<&Arc<Thread>>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for address in places(process, thread)? {
        // What it returns to may be the next function already.
        let _ = match image::symbol(address.wrapping_sub(1)) {
            Some((name, offset)) => writeln!(text, "[<0>] {name}+{:#x}", offset + 1),
            None => writeln!(text, "[<0>] {address:#x}"),
        };
    }
    Ok(text.into_bytes())
}

/// What a thread waits for: the innermost function that is not about waiting as such; `0` where it does not wait.
fn wait_channel(process: &Process, thread: Option<&Arc<Thread>>) -> Result<Vec<u8>> {
    const WAITING: [&str; 3] = ["kernel::task::scheduler::", "kernel::task::wait::", "kernel::time::"];
    let names = places(process, thread)?.into_iter().filter_map(|address| image::symbol(address.wrapping_sub(1)));
    let mut names = names.map(|(name, _)| format!("{name}"));
    let name = names.find(|name| !WAITING.iter().any(|part| name.contains(part)));
    Ok(name.unwrap_or_else(|| "0".into()).into_bytes())
}
