//! The kernel log: kept in a ring, shown on the console from a level on, and read and written by programs.
//!
//! A [`Record`] is one line with its level and time. Records are numbered; each reader of /dev/kmsg and syslog(2)'s own
//! position are such numbers, so that what falls out of the ring is noticed and nothing else needs to be told.

use alloc::{collections::VecDeque, format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU8, Ordering};

use log::{Level, LevelFilter, Log, Metadata};

use crate::{console, sync::IrqLock, time};

/// Bytes of text kept.
pub const CAPACITY: usize = 64 << 10;
/// The console shows what is more urgent than this (syslog(2), "console_loglevel"): warnings and worse.
pub const DEFAULT_CONSOLE_LEVEL: u8 = 5;
/// Everything.
const ALL_LEVELS: u8 = 8;
/// The facility of what programs write unless they say another (syslog(3), LOG_USER), as in a priority.
pub const FACILITY_USER: u32 = 1 << 3;
/// The part of a priority that is the level.
pub const LEVEL_MASK: u32 = 7;

/// A line of the log.
pub struct Record {
    /// Its number; they have no gaps.
    pub sequence: u64,
    /// Facility and level as syslog(3) puts them together.
    pub priority: u32,
    /// When, in nanoseconds of monotonic time.
    pub time_ns: u64,
    /// Without a newline.
    pub text: String,
}

impl Record {
    /// The line as syslog(2) gives it.
    pub fn line(&self) -> String {
        format!("<{}>{}\n", self.priority, self.shown())
    }

    /// The record as /dev/kmsg gives it (Linux's Documentation/ABI/testing/dev-kmsg).
    pub fn device_record(&self) -> String {
        let mut text = format!("{},{},{},-;", self.priority, self.sequence, self.time_ns / 1000);
        for character in self.text.chars() {
            match character {
                ' '..='~' if character != '\\' => text.push(character),
                _ => {
                    let mut bytes = [0; 4];
                    for byte in character.encode_utf8(&mut bytes).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
            }
        }
        text.push('\n');
        text
    }

    fn shown(&self) -> String {
        format!("[{:5}.{:06}] {}", self.time_ns / time::SECOND, self.time_ns % time::SECOND / 1000, self.text)
    }
}

struct Ring {
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    next: u64,
    /// From this number on records have not been on a console yet.
    unseen: u64,
}

static RING: IrqLock<Ring> = IrqLock::new(Ring { records: VecDeque::new(), bytes: 0, next: 0, unseen: 0 });
static CONSOLE_LEVEL: AtomicU8 = AtomicU8::new(DEFAULT_CONSOLE_LEVEL);

/// What the console shows: records whose level is below this.
pub fn console_level() -> u8 {
    CONSOLE_LEVEL.load(Ordering::Relaxed)
}

/// Sets [`console_level`].
pub fn set_console_level(level: u8) {
    CONSOLE_LEVEL.store(level, Ordering::Relaxed);
}

/// Adds a record, and shows it on the console if it is urgent enough.
pub fn add(priority: u32, text: String) {
    let mut record = Record { sequence: 0, priority, time_ns: time::monotonic_ns(), text };
    let seen = is_shown(priority) && console::write(format!("{}\r\n", record.shown()).as_bytes());
    let mut ring = RING.lock();
    record.sequence = ring.next;
    ring.next += 1;
    if seen {
        ring.unseen = ring.next;
    }
    ring.bytes += record.text.len();
    ring.records.push_back(Arc::new(record));
    while ring.bytes > CAPACITY {
        let Some(old) = ring.records.pop_front() else { break };
        ring.bytes -= old.text.len();
    }
}

/// The number of the first record there is, and of the next one there will be.
pub fn range() -> (u64, u64) {
    let ring = RING.lock();
    (ring.records.front().map_or(ring.next, |record| record.sequence), ring.next)
}

/// The record with this number, if it is there.
pub fn get(sequence: u64) -> Option<Arc<Record>> {
    let ring = RING.lock();
    let first = ring.records.front()?.sequence;
    ring.records.get(usize::try_from(sequence.checked_sub(first)?).ok()?).cloned()
}

struct KernelLog;

const fn priority_of(level: Level) -> u32 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Log for KernelLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        add(priority_of(record.level()), format!("{}", record.args()));
    }
    fn flush(&self) {}
}

fn is_shown(priority: u32) -> bool {
    priority & LEVEL_MASK < u32::from(console_level())
}

/// Starts the log.
pub fn init() {
    // It is set once, here.
    let _ = log::set_logger(&KernelLog);
    log::set_max_level(LevelFilter::Info);
}

/// Takes `piton.log=` from the kernel command line: `debug` or `info` shows everything of that level on the console.
pub fn configure(command_line: &str) {
    for word in command_line.split_ascii_whitespace() {
        match word {
            "piton.log=debug" => {
                set_console_level(ALL_LEVELS);
                log::set_max_level(LevelFilter::Debug);
            }
            "piton.log=info" => set_console_level(ALL_LEVELS),
            _ => {}
        }
    }
}

/// A console came up: shows what it missed.
pub fn show_unseen() {
    let missed: Vec<Arc<Record>> = {
        let mut ring = RING.lock();
        let unseen = ring.unseen;
        ring.unseen = ring.next;
        let missed = |record: &&Arc<Record>| record.sequence >= unseen && is_shown(record.priority);
        ring.records.iter().filter(missed).cloned().collect()
    };
    for record in missed {
        console::write(format!("{}\r\n", record.shown()).as_bytes());
    }
}

/// The whole log as text.
pub fn text() -> Vec<u8> {
    let records: Vec<Arc<Record>> = RING.lock().records.iter().cloned().collect();
    records.iter().flat_map(|record| format!("{}\n", record.shown()).into_bytes()).collect()
}
