//! Orphaned process groups (credentials(7), setpgid(2)): groups that no process outside them, but in their session,
//! looks after.
//!
//! Nobody could let a stopped process of such a group go on. So the signals of terminals do not stop it, and a group
//! with stopped processes that becomes one gets SIGHUP and SIGCONT.

use alloc::{sync::Arc, vec::Vec};

use abi::linux;

use super::{
    process::{self, Process},
    signal,
};

/// Whether the group is orphaned.
pub fn is_orphaned(group: i32) -> bool {
    is_orphaned_without(group, None)
}

/// Whether the group is orphaned, or will be without the process `leaving`. Process 1, which adopts, looks after
/// nobody.
fn is_orphaned_without(group: i32, leaving: Option<i32>) -> bool {
    !process::all().iter().any(|member| {
        member.group() == group
            && Some(member.pid()) != leaving
            && member.exit_status().is_none()
            && member.parent_pid() != 1
            && process::find(member.parent_pid()).is_some_and(|parent| looks_after(&parent, member))
    })
}

/// Whether `parent` connects its child's group to the rest of the session.
fn looks_after(parent: &Process, child: &Process) -> bool {
    parent.group() != child.group() && parent.session() == child.session()
}

/// Wakes the group for its end if it has stopped processes and is orphaned, or will be without `leaving`.
fn release(group: i32, leaving: Option<i32>) {
    let has_stopped = || process::all().iter().any(|member| member.group() == group && member.is_stopped());
    if has_stopped() && is_orphaned_without(group, leaving) {
        signal::send_to_group(group, linux::SIGHUP);
        signal::send_to_group(group, linux::SIGCONT);
    }
}

/// To be called when `process` ends, after its `children` were given to process 1: wakes the groups that it was the last
/// to look after, and its own, if it was the last member that is looked after.
pub(super) fn leave_groups(process: &Arc<Process>, children: &[Arc<Process>]) {
    let mut groups: Vec<i32> =
        children.iter().filter(|child| looks_after(process, child)).map(|child| child.group()).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        release(group, None);
    }
    if let Some(parent) = process::find(process.parent_pid())
        && looks_after(&parent, process)
    {
        release(process.group(), Some(process.pid()));
    }
}
