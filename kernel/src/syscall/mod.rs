//! System calls: the table and the calling convention.
//!
//! One line of [`table`] for each call, one small handler in the file of its area. A handler turns the raw arguments
//! into types through [`Call`], does its work through the subsystem it belongs to, and answers a value or an
//! [`Errno`]; numbers, flags and structs are those of `abi`.

pub mod compare;
pub mod credentials;
pub mod fd;
pub mod file;
pub mod file_io;
pub mod futex;
pub mod handle;
pub mod kernel_log;
pub mod memory;
pub mod memory_lock;
pub mod misc;
pub mod mount;
pub mod namespace;
pub mod path_ops;
pub mod pidfd;
pub mod poll;
pub mod prctl;
pub mod process;
pub mod process_memory;
pub mod sched;
pub mod signal;
pub mod socket;
pub mod splice;
pub mod table;
pub mod thread;
pub mod time;
pub mod timer;
pub mod wait;
pub mod watch;
pub mod xattr;

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux};
use hal::{Arch as _, TrapFrame as _, UserAddr};

use crate::{
    arch::{Arch, TrapFrame},
    fs::OpenFile,
    inspect::trace::{self, Event},
    mm::{frames, reclaim, user},
    task::{deferred, oom, process::Process, scheduler, thread::Thread},
};

/// One system call in progress.
pub struct Call<'a> {
    /// The program's registers; execve, clone and rt_sigreturn change them.
    pub frame: &'a mut TrapFrame,
    /// The calling thread.
    pub thread: &'a Arc<Thread>,
    arguments: [u64; 6],
}

/// A handler. The value it answers is what the program sees; an error becomes `-errno`.
pub type Handler = fn(&mut Call<'_>) -> Result<u64>;

impl Call<'_> {
    /// Argument `index` (0 to 5) as it came.
    pub fn raw(&self, index: usize) -> u64 {
        self.arguments[index]
    }
    /// As C's `int`.
    pub fn int(&self, index: usize) -> i32 {
        self.arguments[index] as i32
    }
    /// As C's `unsigned int`.
    pub fn uint(&self, index: usize) -> u32 {
        self.arguments[index] as u32
    }
    /// As C's `long` or `loff_t`.
    pub fn long(&self, index: usize) -> i64 {
        self.arguments[index] as i64
    }
    /// As C's `size_t`.
    pub fn size(&self, index: usize) -> usize {
        self.arguments[index] as usize
    }
    /// As a pointer.
    pub fn address(&self, index: usize) -> UserAddr {
        user::given(self.arguments[index])
    }
    /// As an address of a mapping, of which the tag never counts.
    pub fn mapped_address(&self, index: usize) -> u64 {
        Arch::untagged(UserAddr::new(self.arguments[index])).get()
    }
    /// As a pointer that may be null.
    pub fn optional_address(&self, index: usize) -> Option<UserAddr> {
        (self.arguments[index] != 0).then(|| self.address(index))
    }
    /// The path a pointer leads to: at most PATH_MAX bytes with the NUL, else ENAMETOOLONG.
    pub fn path(&self, index: usize) -> Result<Vec<u8>> {
        user::copy_in_string(self.address(index), linux::PATH_MAX as usize, Errno::ENAMETOOLONG)
    }
    /// The calling process.
    pub fn process(&self) -> &Arc<Process> {
        self.thread.process()
    }
    /// The open file behind a descriptor.
    pub fn file(&self, index: usize) -> Result<Arc<OpenFile>> {
        self.process().files().get(self.int(index))
    }
}

/// Runs the system call in `frame`.
pub fn dispatch(frame: &mut TrapFrame) {
    let thread = scheduler::current();
    let number = frame.syscall_number();
    let arguments = frame.syscall_arguments();
    let Some(handler) = table::HANDLERS.get(number).copied().flatten() else {
        unknown(number, &thread);
        frame.set_return(Errno::ENOSYS.as_return());
        return;
    };
    if frames::is_short() && !reclaim::run() && frames::is_critical() {
        oom::relieve();
    }
    thread.enter_syscall(arguments[0]);
    trace::record(Event::CallBegins, number as u64, arguments[0]);
    let result = handler(&mut Call { frame, thread: &thread, arguments });
    deferred::run_pending();
    if !matches!(result, Err(Errno::EINTR | Errno::RESTART | Errno::RESTART_ALWAYS)) {
        thread.end_temporary_mask();
    }
    match result {
        Ok(value) => frame.set_return(value),
        Err(Errno::RESTART) => {
            frame.set_return(Errno::EINTR.as_return());
            thread.request_restart();
        }
        Err(Errno::RESTART_ALWAYS) => frame.restart_syscall(arguments[0]),
        Err(error) => frame.set_return(error.as_return()),
    }
    trace::record(Event::CallEnds, number as u64, result.unwrap_or_else(Errno::as_return));
}

fn unknown(number: usize, thread: &Thread) {
    log::debug!("system call {number} is not there (asked for by {})", thread.tid());
}
