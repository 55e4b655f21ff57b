//! The kernel log as syslog(2) has it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use abi::{Errno, Result, linux};

use super::Call;
use crate::{fs::kmsg, log_buffer, mm::user, task::identity};

/// /proc/sys/kernel/dmesg_restrict: only who has CAP_SYSLOG reads the log. On, as in Debian's kernel.
pub static RESTRICTED: AtomicU64 = AtomicU64::new(1);

/// What SYSLOG_ACTION_READ reads next.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// From where on SYSLOG_ACTION_READ_ALL shows the log.
static CLEARED: AtomicU64 = AtomicU64::new(0);
/// The console's level before SYSLOG_ACTION_CONSOLE_OFF; 0 while it is on.
static BEFORE_OFF: AtomicU8 = AtomicU8::new(0);
/// The level at which the console shows emergencies only.
const QUIETEST: u8 = 1;

/// EPERM for who may not read the whole log.
pub fn check_may_read() -> Result<()> {
    if RESTRICTED.load(Ordering::Relaxed) == 0 { Ok(()) } else { identity::require(linux::CAP_SYSLOG) }
}

/// The place for bytes in arguments 1 and 2. EINVAL for none.
fn place(call: &Call<'_>) -> Result<usize> {
    let len = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
    if call.optional_address(1).is_none() { Err(Errno::EINVAL) } else { Ok(len) }
}

/// The lines of records from number `from` on.
fn lines(from: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let (first, end) = log_buffer::range();
    (from.max(first)..end).filter_map(|number| Some((number, log_buffer::get(number)?.line().into_bytes())))
}

/// SYSLOG_ACTION_READ: waits for records, and takes them as far as they fit whole.
fn read(call: &Call<'_>) -> Result<u64> {
    let room = place(call)?;
    if room == 0 {
        return Ok(0);
    }
    kmsg::wait_for_record(|| (log_buffer::range().1 > NEXT.load(Ordering::Relaxed)).then_some(()))?;
    let mut text = Vec::new();
    for (number, line) in lines(NEXT.load(Ordering::Relaxed)) {
        if text.len() + line.len() > room {
            break;
        }
        text.extend(line);
        NEXT.store(number + 1, Ordering::Relaxed);
    }
    user::copy_out_bytes(call.address(1), &text)?;
    Ok(text.len() as u64)
}

/// SYSLOG_ACTION_READ_ALL: the last records, as many as fit.
fn read_all(call: &Call<'_>, clear: bool) -> Result<u64> {
    let room = place(call)?;
    let all: Vec<(u64, Vec<u8>)> = lines(CLEARED.load(Ordering::Relaxed)).collect();
    let mut total: usize = all.iter().map(|(_, line)| line.len()).sum();
    let mut text = Vec::new();
    for (_, line) in &all {
        if total <= room {
            text.extend(line);
        } else {
            total -= line.len();
        }
    }
    user::copy_out_bytes(call.address(1), &text)?;
    if clear {
        CLEARED.store(log_buffer::range().1, Ordering::Relaxed);
    }
    Ok(text.len() as u64)
}

/// [syslog(2)](https://man7.org/linux/man-pages/man2/syslog.2.html).
pub fn sys_syslog(call: &mut Call<'_>) -> Result<u64> {
    const CLOSE: i32 = 0;
    const OPEN: i32 = 1;
    const READ: i32 = 2;
    const READ_ALL: i32 = 3;
    const READ_CLEAR: i32 = 4;
    const CLEAR: i32 = 5;
    const CONSOLE_OFF: i32 = 6;
    const CONSOLE_ON: i32 = 7;
    const CONSOLE_LEVEL: i32 = 8;
    const SIZE_UNREAD: i32 = 9;
    const SIZE_BUFFER: i32 = 10;
    let action = call.int(0);
    match action {
        READ_ALL | SIZE_BUFFER => check_may_read()?,
        _ => call.thread.require(linux::CAP_SYSLOG)?,
    }
    match action {
        CLOSE | OPEN => {}
        READ => return read(call),
        READ_ALL => return read_all(call, false),
        READ_CLEAR => return read_all(call, true),
        CLEAR => CLEARED.store(log_buffer::range().1, Ordering::Relaxed),
        CONSOLE_OFF => {
            let level = log_buffer::console_level();
            // Only the first of several remembers.
            let _ = BEFORE_OFF.compare_exchange(0, level, Ordering::Relaxed, Ordering::Relaxed);
            log_buffer::set_console_level(QUIETEST);
        }
        CONSOLE_ON => match BEFORE_OFF.swap(0, Ordering::Relaxed) {
            0 => {}
            level => log_buffer::set_console_level(level),
        },
        CONSOLE_LEVEL => {
            let level = u8::try_from(call.int(2)).ok().filter(|level| (1..=8).contains(level)).ok_or(Errno::EINVAL)?;
            log_buffer::set_console_level(level);
            BEFORE_OFF.store(0, Ordering::Relaxed);
        }
        SIZE_UNREAD => return Ok(lines(NEXT.load(Ordering::Relaxed)).map(|(_, line)| line.len() as u64).sum()),
        SIZE_BUFFER => return Ok(log_buffer::CAPACITY as u64),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
