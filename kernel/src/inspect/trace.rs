//! What the kernel does, recorded: system calls, faults, switches and interrupts.
//!
//! Each CPU writes into a ring of its own; a full one forgets its oldest records. There are no rings, and nothing is
//! recorded, until a number of records is written to /sys/kernel/piton/trace; 0 ends it. Reading the file gives all
//! records that are there, those of each CPU in their order.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use hal::{Arch as _, MAX_CPUS, PAGE_SIZE};

use crate::{arch::Arch, fs::virtual_files::VirtualDirectory, mm::frames, smp, sync::IrqLock, task::scheduler, time};

/// The most records that a CPU keeps: 2 MiB of them.
const MOST: usize = 1 << 16;

/// What happened. The two values that a record has with it are said with each.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Event {
    /// A system call begins: its number, its first argument.
    CallBegins = 1,
    /// It ends: its number, its result.
    CallEnds = 2,
    /// The CPU goes over to another thread: that one's number, which is the record's thread already, and the one it leaves.
    Switch = 3,
    /// An interrupt is handled: its number, 0.
    InterruptBegins = 4,
    /// It has been handled: its number, 0.
    InterruptEnds = 5,
    /// A program touched a page that was not there for it: the address, 0.
    Fault = 6,
}

/// Bytes of a record: the time in nanoseconds (u64), two values (u64), the thread (u32), the CPU (u16), the event (u8)
/// and one that is 0, in the machine's byte order.
const LEN: usize = 32;
type Record = [u8; LEN];

struct Ring {
    records: Vec<Record>,
    /// Where the next one goes once there are as many as there may be.
    oldest: usize,
}

static ON: AtomicBool = AtomicBool::new(false);
static RINGS: [IrqLock<Option<Ring>>; MAX_CPUS] = [const { IrqLock::new(None) }; MAX_CPUS];

/// Records an event of the running thread.
#[inline]
pub fn record(event: Event, first: u64, second: u64) {
    if ON.load(Ordering::Relaxed) {
        add(event, first, second);
    }
}

#[cold]
#[inline(never)]
fn add(event: Event, first: u64, second: u64) {
    let state = Arch::mask_interrupts();
    let cpu = scheduler::cpu_number();
    let thread = scheduler::current().tid() as u32;
    if let Some(ring) = RINGS[cpu].lock().as_mut() {
        let mut record = [0; LEN];
        record[..8].copy_from_slice(&time::monotonic_ns().to_ne_bytes());
        record[8..16].copy_from_slice(&first.to_ne_bytes());
        record[16..24].copy_from_slice(&second.to_ne_bytes());
        record[24..28].copy_from_slice(&thread.to_ne_bytes());
        record[28..30].copy_from_slice(&(cpu as u16).to_ne_bytes());
        record[30] = event as u8;
        // There was room made for all of them at the start.
        if ring.records.len() < ring.records.capacity() {
            ring.records.push(record);
        } else if let Some(oldest) = ring.records.get_mut(ring.oldest) {
            *oldest = record;
            ring.oldest = (ring.oldest + 1) % ring.records.len();
        }
    }
    Arch::restore_interrupts(state);
}

/// Begins anew with room for `count` records on each CPU, or ends with 0. EINVAL for too many, ENOMEM.
fn restart(count: usize) -> Result<()> {
    if count > MOST {
        return Err(Errno::EINVAL);
    }
    ON.store(false, Ordering::Relaxed);
    for ring in &RINGS {
        let old = ring.lock().take();
        drop(old);
    }
    let cpus = smp::online();
    make_sure_of(cpus.iter().count() * count)?;
    for cpu in cpus.iter().filter(|_| count > 0) {
        let mut records = Vec::new();
        records.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        *RINGS[cpu].lock() = Some(Ring { records, oldest: 0 });
    }
    ON.store(count > 0, Ordering::Relaxed);
    Ok(())
}

/// ENOMEM where so many records would take of what is kept for the kernel.
fn make_sure_of(records: usize) -> Result<()> {
    let pages = (records * LEN).div_ceil(PAGE_SIZE);
    if pages > frames::available(pages) { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// All records. ENOMEM.
fn read() -> Result<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::new();
    for cpu in smp::online().iter() {
        // Room is made without the lock, and so for as many as there may be.
        let most = RINGS[cpu].lock().as_ref().map_or(0, |ring| ring.records.capacity());
        make_sure_of(bytes.len() / LEN + most)?;
        bytes.try_reserve(most * LEN).map_err(|_| Errno::ENOMEM)?;
        if let Some(ring) = RINGS[cpu].lock().as_ref().filter(|ring| ring.records.len() <= most) {
            let (newer, older) = ring.records.split_at(ring.oldest);
            bytes.extend_from_slice(older.as_flattened());
            bytes.extend_from_slice(newer.as_flattened());
        }
    }
    Ok(bytes)
}

/// Adds `trace` to /sys/kernel/piton.
pub fn add_file(directory: &Arc<VirtualDirectory>) {
    let take = |text: &[u8]| {
        let text = core::str::from_utf8(text.trim_ascii()).map_err(|_| Errno::EINVAL)?;
        restart(text.parse().map_err(|_| Errno::EINVAL)?)
    };
    directory.add_private_control("trace", read, take);
}
