//! Process 1: starts it, and starts it again when it ends.
//!
//! Process 1 is `python3 -m piton.init`. When it ends, every other process is ended too, and a fresh one takes its
//! place: the kernel and stored data stay. What ended is told to the new one in its environment. A program that runs
//! as the whole job of the machine (SCRIPT=) asks for the machine to be switched off instead, with its exit status.

use alloc::{format, string::String, sync::Arc, vec, vec::Vec};

use abi::{Result, linux};
use hal::{Arch as _, PowerAction};

use super::{
    exec::{self, Program},
    exit, identity, oom,
    process::{self, ExitStatus, FsContext, NewProcess, Process},
    scheduler,
    signal::ActionTable,
    thread::Thread,
    wait::{self, WaitQueue},
};
use crate::{
    fs::{self, OpenFlags, fd_table::FdTable, path::Path, tty::Claim},
    power,
    sync::{IrqLock, Lazy},
};

/// How process 1 ended, until the supervisor has seen it.
static ENDED: IrqLock<Option<ExitStatus>> = IrqLock::new(None);
static ENDED_QUEUE: Lazy<Arc<WaitQueue>> = Lazy::new(|| Arc::new(WaitQueue::new()));
/// Whether the machine is to be switched off when process 1 ends.
static POWER_OFF: IrqLock<bool> = IrqLock::new(false);

/// What is started. A thread belongs to the session that started it, and a session's warnings settings are its own: both
/// are context variables (`python/piton/repl/routing.py`).
const ARGUMENTS: [&[u8]; 7] =
    [b"python3", b"-X", b"thread_inherit_context=1", b"-X", b"context_aware_warnings=1", b"-m", b"piton.init"];
/// Ends for lack of memory in a row after which another start is pointless.
const MAX_STARVED: u32 = 3;
/// Restarts in a row that come faster than this, in nanoseconds, are slowed down.
const QUICK_NS: u64 = 2_000_000_000;

/// Sets whether the machine is switched off, with its status, when process 1 ends, instead of starting a new one.
pub fn set_power_off_at_end(on: bool) {
    *POWER_OFF.lock() = on;
}

/// Whether the machine is switched off when process 1 ends.
pub fn powers_off_at_end() -> bool {
    *POWER_OFF.lock()
}

pub(super) fn process_one_ended(status: ExitStatus) {
    *ENDED.lock() = Some(status);
    ENDED_QUEUE.wake_all();
}

/// The process that kernel threads belong to.
pub fn kernel_process(root: Path) -> Arc<Process> {
    Process::new(NewProcess {
        pid: 0,
        parent: 0,
        parent_thread: 0,
        group: 0,
        session: 0,
        memory: None,
        files: Arc::new(FdTable::new()),
        fs: Arc::new(IrqLock::new(FsContext { root: root.clone(), cwd: root, umask: 0o022 })),
        actions: Arc::new(IrqLock::new(ActionTable::default())),
        executable: None,
        name: String::from("kernel"),
        limits: process::default_limits(),
        exit_signal: 0,
        credentials: identity::root(),
        terminal: Claim::default(),
        oom_adjustment: 0,
    })
}

/// Starts process 1 and watches over it, for ever. Runs in a kernel thread.
pub fn supervise() -> ! {
    let mut last = None;
    let mut starved = 0;
    loop {
        let started_ns = crate::time::monotonic_ns();
        if let Err(error) = start(last) {
            crate::panic::stop(&format!("process 1 could not be started: {error}"));
        }
        let status = loop {
            if let Ok(status) = wait::wait_until(&[&ENDED_QUEUE], None, || ENDED.lock().take()) {
                break status;
            }
        };
        end_all_others();
        if powers_off_at_end() {
            power::leave(PowerAction::Off(match status {
                ExitStatus::Exited(status) => status,
                ExitStatus::Signaled(signal, _) => 128 + signal as u8,
            }));
        }
        match status {
            ExitStatus::Exited(status) => log::warn!("process 1 ended with status {status}; starting it again"),
            ExitStatus::Signaled(signal, _) => {
                log::warn!("process 1 was ended by signal {signal}; starting it again");
            }
        }
        last = Some(status);
        starved = if oom::take_ended_process_one() { starved + 1 } else { 0 };
        if starved == MAX_STARVED {
            crate::panic::stop("not enough memory: process 1 was ended for lack of it again and again");
        }
        if crate::time::monotonic_ns() - started_ns < QUICK_NS {
            let pause = crate::time::monotonic_ns() + QUICK_NS / 4;
            // Only the deadline ends this wait.
            let _ = wait::wait_until::<(), 0>(&[], Some(pause), || None);
        }
    }
}

/// Ends every process that process 1 left behind, and forgets it.
fn end_all_others() {
    process::remove_process(1);
    loop {
        let left: Vec<Arc<Process>> = process::all();
        if left.is_empty() {
            return;
        }
        for process in left {
            if process.exit_status().is_some() {
                process::remove_process(process.pid());
            } else {
                exit::request_exit(&process, ExitStatus::Signaled(linux::SIGKILL, false));
            }
        }
        let soon = crate::time::monotonic_ns() + 1_000_000;
        // Only the deadline ends this wait.
        let _ = wait::wait_until::<(), 0>(&[], Some(soon), || None);
    }
}

fn environment(last: Option<ExitStatus>) -> Vec<Vec<u8>> {
    let mut environment: Vec<Vec<u8>> = [
        "HOME=/root",
        "USER=root",
        "LOGNAME=root",
        "SHELL=/bin/sh",
        "PATH=/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "TERM=xterm-256color",
    ]
    .iter()
    .map(|string| string.as_bytes().to_vec())
    .collect();
    match last {
        Some(ExitStatus::Exited(status)) => environment.push(format!("PITON_LAST_END=status {status}").into_bytes()),
        Some(ExitStatus::Signaled(signal, _)) => {
            environment.push(format!("PITON_LAST_END=signal {signal}").into_bytes());
        }
        None => {}
    }
    environment
}

fn start(last: Option<ExitStatus>) -> Result<()> {
    let root = scheduler::current().process().fs().lock().root.clone();
    let home = fs::path::resolve(&root, &root, b"/root", true).unwrap_or_else(|_| root.clone());
    let context = FsContext { root: root.clone(), cwd: home, umask: 0o022 };
    let program = Program {
        title: None,
        closes: false,
        name: b"/usr/bin/python3".to_vec(),
        arguments: ARGUMENTS.iter().map(|argument| argument.to_vec()).collect(),
        environment: environment(last),
    };
    let file = fs::path::resolve(&root, &root, &program.name, true)?;
    let loaded = exec::load(&context, file, program)?;
    let limits = process::default_limits();
    let files = FdTable::new();
    files.set_limit(limits[linux::RLIMIT_NOFILE as usize].0 as usize);
    let process = Process::new(NewProcess {
        pid: 1,
        parent: 0,
        parent_thread: 0,
        group: 1,
        session: 1,
        memory: Some(loaded.memory),
        files: Arc::new(files),
        fs: Arc::new(IrqLock::new(context)),
        actions: Arc::new(IrqLock::new(ActionTable::default())),
        executable: Some(loaded.executable),
        name: String::from("python3"),
        limits,
        exit_signal: 0,
        credentials: identity::root(),
        terminal: Claim::default(),
        oom_adjustment: 0,
    });
    let thread = Thread::user(1, process.clone(), &loaded.frame, b"python3", |_| {})?;
    process.state.lock().threads = vec![thread.clone()];
    process::add_process(process.clone());
    process::add_thread(thread.clone());
    let console = crate::console::open(&root, OpenFlags::from_bits(linux::O_RDWR))?;
    if last.is_some() {
        crate::console::reset_terminal();
    }
    crate::console::make_controlling_terminal(&process);
    for _ in 0..3 {
        process.files().install(console.clone(), false)?;
    }
    scheduler::start(thread);
    Ok(())
}

/// The entry of the supervisor's thread.
pub extern "C" fn supervisor(_argument: usize) -> ! {
    scheduler::finish_switch();
    crate::arch::Arch::enable_interrupts();
    supervise()
}
