//! What is measured, as a table: one [`Row`] per figure.

/// Unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds, or instructions where those are counted.
    Time,
    /// Bytes.
    Bytes,
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
    /// Whether the program measures it.
    pub from_program: bool,
}

const fn row(key: &'static str, title: &'static str, unit: Unit, goal: Goal, counts: &'static str) -> Row {
    Row { key, title, counts, unit, goal, from_program: false }
}

const fn measured(key: &'static str, title: &'static str, goal: Goal, counts: &'static str) -> Row {
    Row { from_program: true, ..row(key, title, Unit::Time, goal, counts) }
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
        Goal::None,
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
    measured("thread", "thread start and join", Goal::None, "threading.Thread that does nothing"),
    measured(
        "pipe",
        "pipe round trip",
        Goal::None,
        "one byte to another thread of the interpreter and back through two pipes",
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
    fn every_measured_row_is_in_the_program() {
        for row in ROWS.iter().filter(|row| row.from_program) {
            let entry = format!("\"{}\": ", row.key);
            assert!(include_str!("program.py").contains(&entry), "{entry}");
        }
    }
}
