//! The kernel log: kept in a ring, and shown on the console from a level on.

use alloc::{collections::VecDeque, format, string::String, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{console, sync::IrqLock, time};

/// Bytes of text kept.
const CAPACITY: usize = 64 << 10;

struct Line {
    level: Level,
    text: String,
}

struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines from this number on have not been on a console yet.
    unseen: usize,
}

static RING: IrqLock<Ring> = IrqLock::new(Ring { lines: VecDeque::new(), bytes: 0, unseen: 0 });
static VERBOSE: AtomicBool = AtomicBool::new(false);

struct KernelLog;

impl Log for KernelLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let now = time::monotonic_ns();
        let level = record.level();
        let text = format!("[{:5}.{:06}] {}\r\n", now / time::SECOND, now % time::SECOND / 1000, record.args());
        if is_shown(level) && console::write(text.as_bytes()) {
            RING.lock().push(Line { level, text }, true);
        } else {
            RING.lock().push(Line { level, text }, false);
        }
    }
    fn flush(&self) {}
}

impl Ring {
    fn push(&mut self, line: Line, seen: bool) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        if seen {
            self.unseen = self.lines.len();
        }
        while self.bytes > CAPACITY {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= line.text.len();
            self.unseen = self.unseen.saturating_sub(1);
        }
    }
}

fn is_shown(level: Level) -> bool {
    level <= Level::Warn || VERBOSE.load(Ordering::Relaxed)
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
                VERBOSE.store(true, Ordering::Relaxed);
                log::set_max_level(LevelFilter::Debug);
            }
            "piton.log=info" => VERBOSE.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// A console came up: shows what it missed.
pub fn show_unseen() {
    let missed: Vec<u8> = {
        let mut ring = RING.lock();
        let unseen = ring.unseen;
        ring.unseen = ring.lines.len();
        let lines = ring.lines.iter().skip(unseen).filter(|line| is_shown(line.level));
        lines.flat_map(|line| line.text.bytes()).collect()
    };
    console::write(&missed);
}

/// The whole log as text.
pub fn text() -> Vec<u8> {
    RING.lock().lines.iter().flat_map(|line| line.text.bytes().filter(|byte| *byte != b'\r')).collect()
}
