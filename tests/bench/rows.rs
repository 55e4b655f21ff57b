//! What is measured, as a table: one [`Row`] per figure.

/// Unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds, or instructions where those are counted.
    Time,
    /// Bytes.
    Bytes,
    /// A number without unit.
    Number,
}

/// What a figure should come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Only to be known.
    None,
    /// At most this share of what Debian's kernel needs.
    Ratio(f64),
    /// At most this much, in the row's unit.
    Most(f64),
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The bench itself.
    Host,
    /// The program, on one CPU.
    Program,
    /// The program, on several CPUs.
    ProgramOnCpus,
    /// `network.py`, which the host asks and the guest serves.
    Network,
}

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// Name in `build/bench.json` and in the program's results.
    pub key: &'static str,
    /// Name in the table.
    pub title: &'static str,
    /// What exactly is counted.
    pub counts: &'static str,
    /// Unit.
    pub unit: Unit,
    /// What it should come to.
    pub goal: Goal,
    /// Where it comes from.
    pub source: Source,
}

const fn row(key: &'static str, title: &'static str, unit: Unit, goal: Goal, counts: &'static str) -> Row {
    Row { key, title, counts, unit, goal, source: Source::Host }
}

const fn measured(key: &'static str, title: &'static str, goal: Goal, counts: &'static str) -> Row {
    Row { source: Source::Program, ..row(key, title, Unit::Time, goal, counts) }
}

const fn served(key: &'static str, title: &'static str, counts: &'static str) -> Row {
    Row { source: Source::Network, ..row(key, title, Unit::Time, Goal::Ratio(1.0), counts) }
}

/// All figures, in the order of the table.
pub const ROWS: &[Row] = &[
    row(
        "prompt",
        "QEMU start to >>>",
        Unit::Time,
        Goal::Ratio(0.30),
        "host time from the start of QEMU to the coloured prompt on the serial port; Piton's session, on Linux plain \
         python3 as process 1 with nothing mounted",
    ),
    measured("getppid", "os.getppid()", Goal::Ratio(0.5), "per call, with Python's loop around it"),
    measured("read", "os.read(/dev/zero, 1)", Goal::None, "per call, with Python's loop around it"),
    measured("time", "time.time()", Goal::None, "per call, with Python's loop around it"),
    measured(
        "page_fault",
        "page fault",
        Goal::Ratio(0.6),
        "first write to a page of a fresh private mapping of 16 MiB, from the last to the first and with large pages \
         switched off (MADV_NOHUGEPAGE), so that every page is a fault of its own",
    ),
    measured(
        "fresh_memory",
        "fresh memory, per page",
        Goal::None,
        "the same from the first page to the last and without advice: either kernel may give several pages at once; \
         Linux keeps large pages for machines with more memory than this one",
    ),
    measured("fib", "fib(24)", Goal::Ratio(1.0), "one call, recursive"),
    measured("dict", "dict of 100,000 entries", Goal::Ratio(1.0), "a comprehension of numbers to their strings"),
    measured("thread", "thread start and join", Goal::Ratio(0.6), "threading.Thread that does nothing"),
    measured(
        "futex",
        "futex ping-pong",
        Goal::Ratio(0.6),
        "a turn goes to another thread of the interpreter and back through two threading.Lock, with what the \
         interpreter's own lock adds",
    ),
    measured(
        "pipe",
        "pipe round trip, threads",
        Goal::Ratio(0.6),
        "one byte to another thread of the interpreter and back through two pipes",
    ),
    measured(
        "pipe_processes",
        "pipe round trip, processes",
        Goal::Ratio(0.6),
        "one byte to a forked process and back through two pipes",
    ),
    measured(
        "switch",
        "context switch",
        Goal::Ratio(0.6),
        "as lmbench's lat_ctx has it: half a round trip between two processes less a write to and a read from a pipe \
         within one",
    ),
    measured("fork", "fork and wait", Goal::Ratio(0.6), "os.fork of Python; the child ends at once"),
    measured(
        "spawn",
        "fork, exec and wait",
        Goal::Ratio(0.6),
        "os.posix_spawn of /usr/bin/true, which is BusyBox, linked statically",
    ),
    measured("subprocess", "subprocess.run", Goal::None, "the same program, with what Python does around it"),
    measured(
        "signal",
        "signal to self",
        Goal::None,
        "os.kill of the own process with a handler in C that returns at once",
    ),
    measured("open", "open and close", Goal::None, "os.open and os.close of /etc/hostname"),
    measured("stat", "os.stat", Goal::None, "of /etc/hostname"),
    measured("mmap", "mmap and munmap", Goal::None, "16 pages without a name that are not touched"),
    Row {
        source: Source::ProgramOnCpus,
        ..row(
            "scaling",
            "4 interpreters on 4 CPUs",
            Unit::Number,
            // Nine tenths of Linux's speed-up.
            Goal::Ratio(1.0 / 0.9),
            "time of fib(27) in four interpreters at the same time, in shares of that in one, on a machine with four \
             CPUs: 1 when they do not slow each other, 4 when one CPU does it all. A host with fewer CPUs sets a bound",
        )
    },
    served("tcp_in", "TCP, a MiB to the guest", "of 16 MiB over one connection, until the guest says that it has all"),
    served("tcp_out", "TCP, a MiB from the guest", "of 16 MiB over one connection"),
    served("tcp_round_trip", "TCP round trip", "one byte to the guest and back over a connection that is there"),
    served("tcp_connect", "TCP connection", "connect, have one byte sent back, close"),
    served("asyncio_echo", "asyncio echo", "100 bytes to a server of asyncio and back over a connection that is there"),
    served("http", "http.server request", "a file of 12 KB, with a connection of its own"),
    served(
        "tls",
        "TLS connection",
        "connect to a server of asyncio, TLS 1.3 with ECDSA, have one byte sent back, close",
    ),
    row(
        "session",
        "QEMU start to a TCP session",
        Unit::Time,
        Goal::Ratio(0.35),
        "host time from the start of QEMU to the prompt of a session over TCP; on Linux one of code.interact, served by \
         process 1 as soon as it has set up the card",
    ),
    row(
        "memory",
        "memory in use at >>>",
        Unit::Bytes,
        Goal::None,
        "the machine's 512 MiB less what sysinfo(2) calls free (MemFree): the kernel, its tables, the root files \
         (Piton: the image itself; Linux: the unpacked initramfs) and Python",
    ),
    row(
        "image_size",
        "image",
        Unit::Bytes,
        Goal::None,
        "kernel8.img, whose root image is partly compressed; vmlinuz and the initramfs, uncompressed as it boots \
         fastest",
    ),
    row(
        "kernel_size",
        "kernel without root",
        Unit::Bytes,
        Goal::Most(2_000_000.0),
        "kernel8.img up to its root image, with symbols; vmlinuz, which is not compressed",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_used_once() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..index].iter().all(|other| other.key != row.key));
        }
    }

    #[test]
    fn every_measured_row_is_in_its_program() {
        for row in ROWS {
            let program = match row.source {
                Source::Host => continue,
                Source::Program | Source::ProgramOnCpus => include_str!("program.py"),
                Source::Network => include_str!("network.py"),
            };
            let entry = format!("\"{}\": ", row.key);
            assert!(program.contains(&entry), "{entry}");
        }
    }
}
