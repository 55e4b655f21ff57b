//! What threads and processes use: CPU time in the program and in the kernel, page faults, switches (getrusage(2)),
//! bytes read and written (/proc/PID/io).
//!
//! The scheduler counts all the time a thread has a CPU, exactly. Which part of it the kernel took is measured around
//! faults and the calls that are known to be long, and around one in [`SAMPLE`] of the other calls, which stands for the
//! rest: two more readings of the counter in every call would cost 18% of a getppid(2). The program's time is what is
//! left, and never goes back.

use core::{
    ops::AddAssign,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// One in this many short calls is measured.
const SAMPLE: u32 = 16;

/// What was used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// CPU time in the program, in nanoseconds.
    pub user_ns: u64,
    /// CPU time in the kernel, in nanoseconds.
    pub system_ns: u64,
    /// The most pages that were present at once.
    pub peak_pages: u64,
    /// Page faults resolved.
    pub faults: u64,
    /// Switches because the thread waited.
    pub voluntary_switches: u64,
    /// Switches because another thread was due.
    pub involuntary_switches: u64,
    /// What the calls that read files got.
    pub read: Transfers,
    /// What the calls that write files wrote.
    pub written: Transfers,
}

/// Calls that move bytes between a program and files (/proc/PID/io).
#[derive(Clone, Copy, Default, Debug)]
pub struct Transfers {
    /// How many.
    pub calls: u64,
    /// Bytes moved.
    pub bytes: u64,
}

impl AddAssign for Transfers {
    fn add_assign(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Usage {
    /// All CPU time, in nanoseconds.
    pub const fn cpu_ns(&self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.user_ns = self.user_ns.saturating_add(other.user_ns);
        self.system_ns = self.system_ns.saturating_add(other.system_ns);
        self.peak_pages = self.peak_pages.max(other.peak_pages);
        self.faults = self.faults.saturating_add(other.faults);
        self.voluntary_switches = self.voluntary_switches.saturating_add(other.voluntary_switches);
        self.involuntary_switches = self.involuntary_switches.saturating_add(other.involuntary_switches);
        self.read += other.read;
        self.written += other.written;
    }
}

/// What a thread counts. Written by the thread itself alone, except for its switches, which the CPU it leaves counts.
#[derive(Default)]
pub struct Counters {
    system_ns: AtomicU64,
    /// The most that was ever told of the program's time.
    user_ns: AtomicU64,
    /// CPU time when the kernel was entered, and how many entries this one stands for; 0: it is not measured.
    entered_ns: AtomicU64,
    weight: AtomicU32,
    random: AtomicU32,
    faults: AtomicU64,
    voluntary_switches: AtomicU64,
    involuntary_switches: AtomicU64,
    read: TransferCounters,
    written: TransferCounters,
}

#[derive(Default)]
struct TransferCounters {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl TransferCounters {
    fn count(&self, bytes: usize) {
        increase(&self.calls, 1);
        increase(&self.bytes, bytes as u64);
    }

    fn sum(&self) -> Transfers {
        Transfers { calls: self.calls.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

fn increase(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Counters {
    /// A call came: decides whether it is measured. `cpu_ns` brings the thread's CPU time up to date.
    pub fn enter_call(&self, cpu_ns: impl FnOnce() -> u64) {
        // Steps of the golden ratio spread evenly whatever a program does in turn.
        let random = self.random.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9);
        self.random.store(random, Ordering::Relaxed);
        if random < u32::MAX / SAMPLE {
            self.weight.store(SAMPLE, Ordering::Relaxed);
            self.entered_ns.store(cpu_ns(), Ordering::Relaxed);
        }
    }

    /// Measures what goes on in the kernel from here on, unless that is done already.
    pub fn measure(&self, cpu_ns: impl FnOnce() -> u64) {
        if self.weight.swap(1, Ordering::Relaxed) == 0 {
            self.entered_ns.store(cpu_ns(), Ordering::Relaxed);
        }
    }

    /// The program goes on, or the thread ends.
    pub fn leave_kernel(&self, cpu_ns: impl FnOnce() -> u64) {
        let weight = self.weight.load(Ordering::Relaxed);
        if weight != 0 {
            self.weight.store(0, Ordering::Relaxed);
            let took = cpu_ns().saturating_sub(self.entered_ns.load(Ordering::Relaxed));
            increase(&self.system_ns, took.saturating_mul(weight.into()));
        }
    }

    /// A page fault was resolved.
    pub fn count_fault(&self) {
        increase(&self.faults, 1);
    }

    /// A call read so many bytes.
    pub fn count_read(&self, bytes: usize) {
        self.read.count(bytes);
    }

    /// A call wrote so many bytes.
    pub fn count_written(&self, bytes: usize) {
        self.written.count(bytes);
    }

    /// Another thread gets the CPU.
    pub fn count_switch(&self, voluntary: bool) {
        increase(if voluntary { &self.voluntary_switches } else { &self.involuntary_switches }, 1);
    }

    /// What was used by a thread that had `cpu_ns` of CPU time.
    pub fn usage(&self, cpu_ns: u64) -> Usage {
        let measured = cpu_ns.saturating_sub(self.system_ns.load(Ordering::Relaxed));
        let user_ns = self.user_ns.fetch_max(measured, Ordering::Relaxed).max(measured).min(cpu_ns);
        Usage {
            user_ns,
            system_ns: cpu_ns - user_ns,
            peak_pages: 0,
            faults: self.faults.load(Ordering::Relaxed),
            voluntary_switches: self.voluntary_switches.load(Ordering::Relaxed),
            involuntary_switches: self.involuntary_switches.load(Ordering::Relaxed),
            read: self.read.sum(),
            written: self.written.sum(),
        }
    }
}
