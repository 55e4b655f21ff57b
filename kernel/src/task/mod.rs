//! Processes and threads: what runs, when, and how it ends.

pub mod attributes;
pub mod clock_timer;
pub mod clone;
pub mod deferred;
pub mod exec;
pub mod exit;
pub mod futex;
pub mod futex_pi;
pub mod identity;
pub mod init;
pub mod interval_timer;
pub mod job;
pub mod load;
pub mod namespace;
pub mod oom;
pub mod pending;
pub mod posix_timer;
pub mod process;
pub mod scheduler;
pub mod signal;
pub mod thread;
pub mod trap;
pub mod usage;
pub mod vdso;
pub mod wait;
