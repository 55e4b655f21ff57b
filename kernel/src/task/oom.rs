//! Out of memory: ends the process that has most of it, so that the others and the kernel can go on.

use alloc::sync::Arc;

use abi::linux;

use super::{
    exit,
    process::{self, ExitStatus, Process},
    scheduler,
};

/// Ends the largest process, process 1 only where it is alone, unless one is ending already; then lets it run.
pub fn relieve() {
    let living = |process: &Arc<Process>| process.exit_status().is_none();
    let candidates: alloc::vec::Vec<Arc<Process>> = process::all().into_iter().filter(living).collect();
    if !candidates.iter().any(|process| process.is_exiting()) {
        let pages = |process: &&Arc<Process>| process.memory().map_or(0, |memory| memory.resident_pages());
        let others = candidates.iter().filter(|process| process.pid() != 1).max_by_key(pages);
        if let Some(victim) = others.or(candidates.first()) {
            log::error!("out of memory: {}[{}] ended, it had {} KiB", victim.name(), victim.pid(), pages(&victim) * 4);
            exit::request_exit(victim, ExitStatus::Signaled(linux::SIGKILL, false));
        }
    }
    if !scheduler::current().process().is_exiting() {
        scheduler::yield_now();
    }
}
