//! Out of memory: ends the process that has most of it, so that the others and the kernel can go on.
//!
//! What counts is what would come back: its pages and page tables, and what waits in its pipes, sockets and the like, which
//! is the kernel's memory and so in no page table.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::linux;

use super::{
    exit,
    process::{self, ExitStatus, Process},
    scheduler,
};
use crate::{
    mm::{PAGE_SIZE, frames, reclaim},
    sync::PlainLock,
    time,
};

/// How long a process may take to end, in nanoseconds.
const PATIENCE_NS: u64 = 2_000_000_000;

/// The oom_score_adj of who is not to be ended.
const NEVER: i32 = -1000;

/// When one was last chosen, in nanoseconds of monotonic time.
static CHOOSING: PlainLock<u64> = PlainLock::new(0);
/// Process 1 was the victim.
static ENDED_PROCESS_ONE: AtomicBool = AtomicBool::new(false);

/// Whether process 1 was ended for lack of memory since this was last asked.
pub fn take_ended_process_one() -> bool {
    ENDED_PROCESS_ONE.swap(false, Ordering::Relaxed)
}

/// Pages that would come back if a process ended.
fn held_pages(process: &Process) -> u64 {
    let mapped = process.memory().map_or(0, |memory| memory.resident_pages() + memory.table_pages());
    mapped + (process.files().held_bytes() / PAGE_SIZE) as u64
}

/// What it has, with a share of memory more or less as oom_score_adj says (proc(5)).
fn weight(process: &Process) -> i64 {
    let memory = frames::stats().total as i64;
    held_pages(process) as i64 + memory * i64::from(process.oom_adjustment()) / 1000
}

/// Has the caches give memory back. Where they have none to give: ends the largest process, process 1 only where it is
/// alone, unless one is ending already; then lets it run. One that does not come to its end for long waits, maybe for the
/// caller: then another is ended, too.
pub fn relieve() {
    if reclaim::run() {
        return;
    }
    // One victim at a time, whichever CPUs run out.
    let mut chosen_ns = CHOOSING.lock();
    let now = time::monotonic_ns();
    let living = |process: &Arc<Process>| process.exit_status().is_none();
    let mut candidates: alloc::vec::Vec<Arc<Process>> = process::all().into_iter().filter(living).collect();
    if !candidates.iter().any(|process| process.is_exiting()) || now.saturating_sub(*chosen_ns) > PATIENCE_NS {
        *chosen_ns = now;
        candidates.retain(|process| !process.is_exiting());
        let others = candidates.iter().filter(|process| process.pid() != 1 && process.oom_adjustment() > NEVER);
        if let Some(victim) = others.max_by_key(|process| weight(process)).or(candidates.first()) {
            let kib = held_pages(victim) * 4;
            log::error!("out of memory: {}[{}] ended, it had {kib} KiB", victim.name(), victim.pid());
            ENDED_PROCESS_ONE.fetch_or(victim.pid() == 1, Ordering::Relaxed);
            exit::request_exit(victim, ExitStatus::Signaled(linux::SIGKILL, false));
        }
    }
    drop(chosen_ns);
    if !scheduler::current().process().is_exiting() {
        scheduler::yield_now();
    }
}
