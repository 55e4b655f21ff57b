//! Processes and threads: what runs, when, and how it ends.

pub mod clone;
pub mod deferred;
pub mod exec;
pub mod exit;
pub mod futex;
pub mod identity;
pub mod init;
pub mod job;
pub mod oom;
pub mod process;
pub mod scheduler;
pub mod signal;
pub mod thread;
pub mod trap;
pub mod vdso;
pub mod wait;
