//! The table of system calls: one line each.
//!
//! The number of a call is its place in the architecture's own list (`abi`); what is not here answers ENOSYS.

use abi::linux;

use super::{
    Handler, compare, credentials, fd, file, file_io, futex, handle, kernel_log, memory, memory_lock, misc, mount,
    namespace, path_ops, pidfd, poll, prctl, process, process_memory, sched, signal, socket, splice, thread, time,
    timer, wait, watch, xattr,
};

/// One more than the highest number any architecture gives a call.
const NR_CALLS: usize = 512;

const fn build(calls: &[(u32, Handler)]) -> [Option<Handler>; NR_CALLS] {
    let mut table = [None; NR_CALLS];
    let mut index = 0;
    while index < calls.len() {
        let (number, handler) = calls[index];
        assert!(table[number as usize].is_none(), "a system call is listed twice");
        table[number as usize] = Some(handler);
        index += 1;
    }
    table
}

/// Makes the table, and what shows it.
macro_rules! calls {
    ($((linux::$number:ident, $handler:path),)*) => {
        /// The handler of each call, by number.
        pub static HANDLERS: [Option<Handler>; NR_CALLS] = build(&[$((linux::$number, $handler),)*]);

        /// The number and name of each call.
        pub fn names() -> impl Iterator<Item = (u32, &'static str)> {
            static NUMBERS: [u32; [$(linux::$number),*].len()] = [$(linux::$number),*];
            // One text takes a third of what as many references would.
            let names = concat!($(stringify!($number), " "),*).split_ascii_whitespace();
            NUMBERS.into_iter().zip(names.map(|name| name.trim_start_matches("__NR_")))
        }
    };
}

#[rustfmt::skip]
calls! {
    // file
    (linux::__NR_fstat, file::sys_fstat),
    (linux::__NR_fstatfs, file::sys_fstatfs),
    (linux::__NR_getdents64, file::sys_getdents64),
    (linux::__NR_memfd_create, file::sys_memfd_create),
    (linux::__NR_newfstatat, file::sys_newfstatat),
    (linux::__NR_openat, file::sys_openat),
    (linux::__NR_openat2, file::sys_openat2),
    (linux::__NR_statfs, file::sys_statfs),
    (linux::__NR_statx, file::sys_statx),
    // fd
    (linux::__NR_close, fd::sys_close),
    (linux::__NR_close_range, fd::sys_close_range),
    (linux::__NR_dup, fd::sys_dup),
    (linux::__NR_dup3, fd::sys_dup3),
    (linux::__NR_fcntl, fd::sys_fcntl),
    (linux::__NR_flock, fd::sys_flock),
    (linux::__NR_ioctl, fd::sys_ioctl),
    // file_io
    (linux::__NR_copy_file_range, file_io::sys_copy_file_range),
    (linux::__NR_fadvise64, file_io::sys_fadvise64),
    (linux::__NR_fallocate, file_io::sys_fallocate),
    (linux::__NR_fdatasync, file_io::sys_fsync),
    (linux::__NR_fsync, file_io::sys_fsync),
    (linux::__NR_ftruncate, file_io::sys_ftruncate),
    (linux::__NR_lseek, file_io::sys_lseek),
    (linux::__NR_pread64, file_io::sys_pread64),
    (linux::__NR_preadv, file_io::sys_preadv),
    (linux::__NR_preadv2, file_io::sys_preadv2),
    (linux::__NR_pwrite64, file_io::sys_pwrite64),
    (linux::__NR_pwritev, file_io::sys_pwritev),
    (linux::__NR_pwritev2, file_io::sys_pwritev2),
    (linux::__NR_read, file_io::sys_read),
    (linux::__NR_readahead, file_io::sys_readahead),
    (linux::__NR_readv, file_io::sys_readv),
    (linux::__NR_sendfile, file_io::sys_sendfile),
    (linux::__NR_sync, file_io::sys_sync),
    (linux::__NR_sync_file_range, file_io::sys_sync_file_range),
    (linux::__NR_syncfs, file_io::sys_syncfs),
    (linux::__NR_truncate, file_io::sys_truncate),
    (linux::__NR_write, file_io::sys_write),
    (linux::__NR_writev, file_io::sys_writev),
    // path_ops
    (linux::__NR_chdir, path_ops::sys_chdir),
    (linux::__NR_chroot, path_ops::sys_chroot),
    (linux::__NR_faccessat, path_ops::sys_faccessat),
    (linux::__NR_faccessat2, path_ops::sys_faccessat2),
    (linux::__NR_fchdir, path_ops::sys_fchdir),
    (linux::__NR_fchmod, path_ops::sys_fchmod),
    (linux::__NR_fchmodat, path_ops::sys_fchmodat),
    (linux::__NR_fchmodat2, path_ops::sys_fchmodat2),
    (linux::__NR_fchown, path_ops::sys_fchown),
    (linux::__NR_fchownat, path_ops::sys_fchownat),
    (linux::__NR_getcwd, path_ops::sys_getcwd),
    (linux::__NR_linkat, path_ops::sys_linkat),
    (linux::__NR_mkdirat, path_ops::sys_mkdirat),
    (linux::__NR_mknodat, path_ops::sys_mknodat),
    (linux::__NR_readlinkat, path_ops::sys_readlinkat),
    (linux::__NR_renameat, path_ops::sys_renameat),
    (linux::__NR_renameat2, path_ops::sys_renameat2),
    (linux::__NR_symlinkat, path_ops::sys_symlinkat),
    (linux::__NR_umask, path_ops::sys_umask),
    (linux::__NR_unlinkat, path_ops::sys_unlinkat),
    (linux::__NR_utimensat, path_ops::sys_utimensat),
    // poll
    (linux::__NR_epoll_create1, poll::sys_epoll_create1),
    (linux::__NR_epoll_ctl, poll::sys_epoll_ctl),
    (linux::__NR_epoll_pwait, poll::sys_epoll_pwait),
    (linux::__NR_epoll_pwait2, poll::sys_epoll_pwait2),
    (linux::__NR_eventfd2, poll::sys_eventfd2),
    (linux::__NR_pipe2, poll::sys_pipe2),
    (linux::__NR_ppoll, poll::sys_ppoll),
    (linux::__NR_pselect6, poll::sys_pselect6),
    (linux::__NR_signalfd4, poll::sys_signalfd4),
    (linux::__NR_timerfd_create, poll::sys_timerfd_create),
    (linux::__NR_timerfd_gettime, poll::sys_timerfd_gettime),
    (linux::__NR_timerfd_settime, poll::sys_timerfd_settime),
    // socket
    (linux::__NR_accept, socket::sys_accept),
    (linux::__NR_accept4, socket::sys_accept4),
    (linux::__NR_bind, socket::sys_bind),
    (linux::__NR_connect, socket::sys_connect),
    (linux::__NR_getpeername, socket::sys_getpeername),
    (linux::__NR_getsockname, socket::sys_getsockname),
    (linux::__NR_getsockopt, socket::sys_getsockopt),
    (linux::__NR_listen, socket::sys_listen),
    (linux::__NR_recvfrom, socket::sys_recvfrom),
    (linux::__NR_recvmmsg, socket::sys_recvmmsg),
    (linux::__NR_recvmsg, socket::sys_recvmsg),
    (linux::__NR_sendmmsg, socket::sys_sendmmsg),
    (linux::__NR_sendmsg, socket::sys_sendmsg),
    (linux::__NR_sendto, socket::sys_sendto),
    (linux::__NR_setsockopt, socket::sys_setsockopt),
    (linux::__NR_shutdown, socket::sys_shutdown),
    (linux::__NR_socket, socket::sys_socket),
    (linux::__NR_socketpair, socket::sys_socketpair),
    // kernel_log
    (linux::__NR_syslog, kernel_log::sys_syslog),
    // memory
    (linux::__NR_brk, memory::sys_brk),
    (linux::__NR_madvise, memory::sys_madvise),
    (linux::__NR_mincore, memory::sys_mincore),
    (linux::__NR_mmap, memory::sys_mmap),
    (linux::__NR_mprotect, memory::sys_mprotect),
    (linux::__NR_mremap, memory::sys_mremap),
    (linux::__NR_msync, memory::sys_msync),
    (linux::__NR_munmap, memory::sys_munmap),
    // memory_lock
    (linux::__NR_mlock, memory_lock::sys_mlock),
    (linux::__NR_mlock2, memory_lock::sys_mlock2),
    (linux::__NR_mlockall, memory_lock::sys_mlockall),
    (linux::__NR_munlock, memory_lock::sys_munlock),
    (linux::__NR_munlockall, memory_lock::sys_munlockall),
    // process_memory
    (linux::__NR_process_madvise, process_memory::sys_process_madvise),
    (linux::__NR_process_vm_readv, process_memory::sys_process_vm_readv),
    (linux::__NR_process_vm_writev, process_memory::sys_process_vm_writev),
    // process
    (linux::__NR_kcmp, compare::sys_kcmp),
    (linux::__NR_execve, process::sys_execve),
    (linux::__NR_execveat, process::sys_execveat),
    (linux::__NR_exit_group, process::sys_exit_group),
    (linux::__NR_getpgid, process::sys_getpgid),
    (linux::__NR_getpid, process::sys_getpid),
    (linux::__NR_getppid, process::sys_getppid),
    (linux::__NR_getrlimit, process::sys_getrlimit),
    (linux::__NR_getsid, process::sys_getsid),
    (linux::__NR_prlimit64, process::sys_prlimit64),
    (linux::__NR_setpgid, process::sys_setpgid),
    (linux::__NR_setrlimit, process::sys_setrlimit),
    (linux::__NR_setsid, process::sys_setsid),
    (linux::__NR_vhangup, process::sys_vhangup),
    // credentials
    (linux::__NR_capget, credentials::sys_capget),
    (linux::__NR_capset, credentials::sys_capset),
    (linux::__NR_getegid, credentials::sys_getegid),
    (linux::__NR_geteuid, credentials::sys_geteuid),
    (linux::__NR_getgid, credentials::sys_getgid),
    (linux::__NR_getgroups, credentials::sys_getgroups),
    (linux::__NR_getresgid, credentials::sys_getresgid),
    (linux::__NR_getresuid, credentials::sys_getresuid),
    (linux::__NR_getuid, credentials::sys_getuid),
    (linux::__NR_setfsgid, credentials::sys_setfsgid),
    (linux::__NR_setfsuid, credentials::sys_setfsuid),
    (linux::__NR_setgid, credentials::sys_setgid),
    (linux::__NR_setgroups, credentials::sys_setgroups),
    (linux::__NR_setregid, credentials::sys_setregid),
    (linux::__NR_setresgid, credentials::sys_setresgid),
    (linux::__NR_setresuid, credentials::sys_setresuid),
    (linux::__NR_setreuid, credentials::sys_setreuid),
    (linux::__NR_setuid, credentials::sys_setuid),
    // wait
    (linux::__NR_getrusage, wait::sys_getrusage),
    (linux::__NR_times, wait::sys_times),
    (linux::__NR_wait4, wait::sys_wait4),
    (linux::__NR_waitid, wait::sys_waitid),
    // pidfd
    (linux::__NR_pidfd_getfd, pidfd::sys_pidfd_getfd),
    (linux::__NR_pidfd_open, pidfd::sys_pidfd_open),
    (linux::__NR_pidfd_send_signal, pidfd::sys_pidfd_send_signal),
    // thread
    (linux::__NR_clone, thread::sys_clone),
    (linux::__NR_clone3, thread::sys_clone3),
    (linux::__NR_exit, thread::sys_exit),
    (linux::__NR_getcpu, thread::sys_getcpu),
    (linux::__NR_gettid, thread::sys_gettid),
    (linux::__NR_membarrier, thread::sys_membarrier),
    (linux::__NR_sched_getaffinity, thread::sys_sched_getaffinity),
    (linux::__NR_sched_setaffinity, thread::sys_sched_setaffinity),
    (linux::__NR_sched_yield, thread::sys_sched_yield),
    (linux::__NR_set_tid_address, thread::sys_set_tid_address),
    // namespace
    (linux::__NR_setns, namespace::sys_setns),
    (linux::__NR_unshare, namespace::sys_unshare),
    // futex
    (linux::__NR_futex, futex::sys_futex),
    (linux::__NR_futex_requeue, futex::sys_futex_requeue),
    (linux::__NR_futex_wait, futex::sys_futex_wait),
    (linux::__NR_futex_waitv, futex::sys_futex_waitv),
    (linux::__NR_futex_wake, futex::sys_futex_wake),
    (linux::__NR_get_robust_list, futex::sys_get_robust_list),
    (linux::__NR_set_robust_list, futex::sys_set_robust_list),
    // sched
    (linux::__NR_getpriority, sched::sys_getpriority),
    (linux::__NR_ioprio_get, sched::sys_ioprio_get),
    (linux::__NR_ioprio_set, sched::sys_ioprio_set),
    (linux::__NR_sched_get_priority_max, sched::sys_sched_get_priority_max),
    (linux::__NR_sched_get_priority_min, sched::sys_sched_get_priority_min),
    (linux::__NR_sched_getattr, sched::sys_sched_getattr),
    (linux::__NR_sched_getparam, sched::sys_sched_getparam),
    (linux::__NR_sched_getscheduler, sched::sys_sched_getscheduler),
    (linux::__NR_sched_rr_get_interval, sched::sys_sched_rr_get_interval),
    (linux::__NR_sched_setattr, sched::sys_sched_setattr),
    (linux::__NR_sched_setparam, sched::sys_sched_setparam),
    (linux::__NR_sched_setscheduler, sched::sys_sched_setscheduler),
    (linux::__NR_setpriority, sched::sys_setpriority),
    // signal
    (linux::__NR_kill, signal::sys_kill),
    (linux::__NR_restart_syscall, signal::sys_restart_syscall),
    (linux::__NR_rt_sigaction, signal::sys_rt_sigaction),
    (linux::__NR_rt_sigpending, signal::sys_rt_sigpending),
    (linux::__NR_rt_sigprocmask, signal::sys_rt_sigprocmask),
    (linux::__NR_rt_sigqueueinfo, signal::sys_rt_sigqueueinfo),
    (linux::__NR_rt_sigreturn, signal::sys_rt_sigreturn),
    (linux::__NR_rt_sigsuspend, signal::sys_rt_sigsuspend),
    (linux::__NR_rt_sigtimedwait, signal::sys_rt_sigtimedwait),
    (linux::__NR_rt_tgsigqueueinfo, signal::sys_rt_tgsigqueueinfo),
    (linux::__NR_sigaltstack, signal::sys_sigaltstack),
    (linux::__NR_tgkill, signal::sys_tgkill),
    (linux::__NR_tkill, signal::sys_tkill),
    // time
    (linux::__NR_adjtimex, time::sys_adjtimex),
    (linux::__NR_clock_adjtime, time::sys_clock_adjtime),
    (linux::__NR_clock_getres, time::sys_clock_getres),
    (linux::__NR_clock_gettime, time::sys_clock_gettime),
    (linux::__NR_clock_nanosleep, time::sys_clock_nanosleep),
    (linux::__NR_clock_settime, time::sys_clock_settime),
    (linux::__NR_gettimeofday, time::sys_gettimeofday),
    (linux::__NR_nanosleep, time::sys_nanosleep),
    (linux::__NR_settimeofday, time::sys_settimeofday),
    // timer
    (linux::__NR_getitimer, timer::sys_getitimer),
    (linux::__NR_setitimer, timer::sys_setitimer),
    (linux::__NR_timer_create, timer::sys_timer_create),
    (linux::__NR_timer_delete, timer::sys_timer_delete),
    (linux::__NR_timer_getoverrun, timer::sys_timer_getoverrun),
    (linux::__NR_timer_gettime, timer::sys_timer_gettime),
    (linux::__NR_timer_settime, timer::sys_timer_settime),
    // misc
    (linux::__NR_getrandom, misc::sys_getrandom),
    (linux::__NR_personality, prctl::sys_personality),
    (linux::__NR_prctl, prctl::sys_prctl),
    (linux::__NR_reboot, misc::sys_reboot),
    (linux::__NR_setdomainname, misc::sys_setdomainname),
    (linux::__NR_sethostname, misc::sys_sethostname),
    (linux::__NR_sysinfo, misc::sys_sysinfo),
    (linux::__NR_uname, misc::sys_uname),
    // xattr
    (linux::__NR_fgetxattr, xattr::sys_fgetxattr),
    (linux::__NR_flistxattr, xattr::sys_flistxattr),
    (linux::__NR_fremovexattr, xattr::sys_fremovexattr),
    (linux::__NR_fsetxattr, xattr::sys_fsetxattr),
    (linux::__NR_getxattr, xattr::sys_getxattr),
    (linux::__NR_getxattrat, xattr::sys_getxattrat),
    (linux::__NR_lgetxattr, xattr::sys_lgetxattr),
    (linux::__NR_listxattr, xattr::sys_listxattr),
    (linux::__NR_listxattrat, xattr::sys_listxattrat),
    (linux::__NR_llistxattr, xattr::sys_llistxattr),
    (linux::__NR_lremovexattr, xattr::sys_lremovexattr),
    (linux::__NR_lsetxattr, xattr::sys_lsetxattr),
    (linux::__NR_removexattr, xattr::sys_removexattr),
    (linux::__NR_removexattrat, xattr::sys_removexattrat),
    (linux::__NR_setxattr, xattr::sys_setxattr),
    (linux::__NR_setxattrat, xattr::sys_setxattrat),
    // splice
    (linux::__NR_splice, splice::sys_splice),
    (linux::__NR_tee, splice::sys_tee),
    (linux::__NR_vmsplice, splice::sys_vmsplice),
    // handle
    (linux::__NR_name_to_handle_at, handle::sys_name_to_handle_at),
    (linux::__NR_open_by_handle_at, handle::sys_open_by_handle_at),
    // mount
    (linux::__NR_mount, mount::sys_mount),
    (linux::__NR_pivot_root, mount::sys_pivot_root),
    (linux::__NR_umount2, mount::sys_umount2),
    // watch
    (linux::__NR_inotify_add_watch, watch::sys_inotify_add_watch),
    (linux::__NR_inotify_init1, watch::sys_inotify_init1),
    (linux::__NR_inotify_rm_watch, watch::sys_inotify_rm_watch),
}
