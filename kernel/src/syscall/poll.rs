//! Waiting for readiness, and the descriptors made for it: poll, select, epoll, eventfd, timerfd, pipe.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux, zeroed};
use hal::{PAGE_SIZE, UserAddr};

use super::{
    Call,
    time::{nanoseconds, timespec},
};
use crate::{
    fs::{
        OpenFile, PollEvents, PollTable,
        epoll::{self, Epoll, Interest},
        eventfd::EventFd,
        pipe,
        signalfd::SignalFd,
        timerfd::{TimerClock, TimerFd, TimerSetting},
    },
    mm::{frames, user},
    task::{
        scheduler,
        signal::SignalSet,
        wait::{Registration, WaitError, block_until},
    },
    time,
};

const MILLISECOND_NS: u64 = 1_000_000;
/// A poll of more files than this looks at what memory there is first.
const MANY: usize = 1024;
/// About what the kernel keeps for each of them while it waits, in bytes.
const ENTRY_COST: usize = 128;
/// The deadline of a call that must not wait.
const NOW: Option<u64> = Some(0);

/// A file that is waited for.
struct Watched {
    file: Arc<OpenFile>,
    wanted: PollEvents,
    ready: PollEvents,
}

/// Asks every file; answers how many have something that is wanted.
fn scan(watched: &mut [Watched]) -> usize {
    let mut count = 0;
    for entry in watched {
        entry.ready = entry.file.poll(&mut PollTable::look()) & entry.wanted;
        count += usize::from(!entry.ready.is_empty());
    }
    count
}

/// Waits until a file is ready; answers how many are, 0 after `deadline_ns`. EINTR.
fn wait_for_any(watched: &mut [Watched], deadline_ns: Option<u64>) -> Result<usize> {
    let count = scan(watched);
    if count > 0 || deadline_ns == NOW {
        return Ok(count);
    }
    let thread = scheduler::current();
    let mut registrations: Vec<Registration> = Vec::new();
    registrations.try_reserve(watched.len()).map_err(|_| Errno::ENOMEM)?;
    for entry in watched.iter() {
        entry.file.poll(&mut PollTable::register(&mut registrations, thread.clone()));
    }
    match block_until(&thread, deadline_ns, || Some(scan(watched)).filter(|count| *count > 0)) {
        Ok(count) => Ok(count),
        Err(WaitError::TimedOut) => Ok(0),
        Err(WaitError::Interrupted) => Err(Errno::EINTR),
    }
}

/// When a wait of this length ends; [`NOW`] for none.
fn deadline_after(duration_ns: u64) -> Option<u64> {
    if duration_ns == 0 { NOW } else { Some(time::monotonic_ns().saturating_add(duration_ns)) }
}

/// The timeout at `address` as a deadline; `None` for a null pointer: wait for ever.
fn deadline_at(address: Option<UserAddr>) -> Result<Option<u64>> {
    address.map_or(Ok(None), |address| Ok(deadline_after(nanoseconds(&user::copy_in(address)?)?)))
}

/// Tells the program how much of its timeout is left, as Linux's ppoll and pselect6 do. A fault is no error.
fn write_remaining(address: Option<UserAddr>, deadline_ns: Option<u64>) {
    if let (Some(address), Some(deadline)) = (address, deadline_ns.filter(|deadline| *deadline != 0)) {
        let remaining = timespec(deadline.saturating_sub(time::monotonic_ns()));
        let _ = user::copy_out(address, &remaining);
    }
}

/// Puts the signal mask at `address` in force for this call; nothing for a null pointer.
fn apply_mask(call: &Call<'_>, address: Option<UserAddr>, size: usize) -> Result<()> {
    if let Some(address) = address {
        if size != size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        call.thread.set_temporary_mask(user::copy_in(address)?);
    }
    Ok(())
}

/// [ppoll(2)](https://man7.org/linux/man-pages/man2/ppoll.2.html).
pub fn sys_ppoll(call: &mut Call<'_>) -> Result<u64> {
    const ENTRY: usize = size_of::<linux::pollfd>();
    let (address, count) = (call.address(0), call.uint(1) as usize);
    let timeout = call.optional_address(2);
    let deadline_ns = deadline_at(timeout)?;
    apply_mask(call, call.optional_address(3), call.size(4))?;
    let files = call.process().files();
    if count > files.limit() {
        return Err(Errno::EINVAL);
    }
    let pages = count.saturating_mul(ENTRY_COST) / PAGE_SIZE;
    if count > MANY && pages > frames::available(pages) {
        return Err(Errno::ENOMEM);
    }
    let mut entries: Vec<linux::pollfd> = Vec::new();
    entries.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    let entry_address = |index: usize| UserAddr::new(address.get().wrapping_add((index * ENTRY) as u64));
    for index in 0..count {
        entries.push(user::copy_in(entry_address(index))?);
    }
    let mut watched = Vec::new();
    let mut invalid = 0;
    // For each entry its place in `watched`.
    let mut places = Vec::new();
    watched.try_reserve_exact(count).and_then(|()| places.try_reserve_exact(count)).map_err(|_| Errno::ENOMEM)?;
    for entry in &mut entries {
        entry.revents = 0;
        let mut place = None;
        if entry.fd >= 0 {
            match files.get(entry.fd) {
                Ok(file) => {
                    let wanted = PollEvents::from_bits(u32::from(entry.events as u16)) | PollEvents::ALWAYS;
                    place = Some(watched.len());
                    watched.push(Watched { file, wanted, ready: PollEvents::NONE });
                }
                Err(_) => {
                    entry.revents = PollEvents::NVAL.bits() as i16;
                    invalid += 1;
                }
            }
        }
        places.push(place);
    }
    let waited = wait_for_any(&mut watched, if invalid > 0 { NOW } else { deadline_ns });
    write_remaining(timeout, deadline_ns);
    let ready = waited?;
    for (index, (entry, place)) in entries.iter_mut().zip(&places).enumerate() {
        if let Some(found) = place.and_then(|place| watched.get(place)) {
            entry.revents = found.ready.bits() as i16;
        }
        // Only `revents`, the last field, goes back: the program may share the rest between threads.
        let offset = (ENTRY - size_of::<i16>()) as u64;
        let at = UserAddr::new(entry_address(index).get().wrapping_add(offset));
        user::copy_out(at, &entry.revents)?;
    }
    Ok((ready + invalid) as u64)
}

/// The three sets of select(2): where they are and what is in them.
struct SelectSet {
    address: Option<UserAddr>,
    bits: Vec<u8>,
    wanted: PollEvents,
}

impl SelectSet {
    fn read(address: Option<UserAddr>, bytes: usize, wanted: u32) -> Result<Self> {
        let mut bits = alloc::vec![0; bytes];
        if let Some(address) = address {
            user::copy_in_bytes(address, &mut bits)?;
        }
        Ok(Self { address, bits, wanted: PollEvents::from_bits(wanted) })
    }

    fn contains(&self, fd: usize) -> bool {
        self.bits.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 != 0)
    }
}

/// [pselect(2)](https://man7.org/linux/man-pages/man2/select.2.html).
pub fn sys_pselect6(call: &mut Call<'_>) -> Result<u64> {
    /// What makes a descriptor readable, writable and exceptional (select(2), "Correspondence between select() and
    /// poll() notifications").
    const READ: u32 = linux::POLLRDNORM | linux::POLLRDBAND | linux::POLLIN | linux::POLLHUP | linux::POLLERR;
    const WRITE: u32 = linux::POLLWRBAND | linux::POLLWRNORM | linux::POLLOUT | linux::POLLERR;
    const EXCEPTION: u32 = linux::POLLPRI;

    let count = usize::try_from(call.int(0)).map_err(|_| Errno::EINVAL)?;
    let timeout = call.optional_address(4);
    let deadline_ns = deadline_at(timeout)?;
    if let Some(pack) = call.optional_address(5) {
        let [mask, size]: [u64; 2] = user::copy_in(pack)?;
        apply_mask(call, (mask != 0).then(|| UserAddr::new(mask)), size as usize)?;
    }
    let files = call.process().files();
    let count = count.min(files.limit());
    // The sets are arrays of `long`.
    let bytes = count.div_ceil(64) * 8;
    let mut sets = [
        SelectSet::read(call.optional_address(1), bytes, READ)?,
        SelectSet::read(call.optional_address(2), bytes, WRITE)?,
        SelectSet::read(call.optional_address(3), bytes, EXCEPTION)?,
    ];
    let mut watched = Vec::new();
    let mut descriptors = Vec::new();
    for fd in 0..count {
        let wanted =
            sets.iter().filter(|set| set.contains(fd)).fold(PollEvents::NONE, |wanted, set| wanted | set.wanted);
        if !wanted.is_empty() {
            watched.push(Watched { file: files.get(fd as i32)?, wanted, ready: PollEvents::NONE });
            descriptors.push(fd);
        }
    }
    let waited = wait_for_any(&mut watched, deadline_ns);
    write_remaining(timeout, deadline_ns);
    waited?;
    let mut ready = 0;
    for set in &mut sets {
        let mut result = alloc::vec![0u8; bytes];
        for (&fd, entry) in descriptors.iter().zip(&watched) {
            if set.contains(fd)
                && entry.ready.intersects(set.wanted)
                && let Some(byte) = result.get_mut(fd / 8)
            {
                *byte |= 1 << (fd % 8);
                ready += 1;
            }
        }
        if let Some(address) = set.address {
            user::copy_out_bytes(address, &result)?;
        }
    }
    Ok(ready)
}

/// [epoll_create1(2)](https://man7.org/linux/man-pages/man2/epoll_create.2.html).
pub fn sys_epoll_create1(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(0);
    if flags & !linux::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    install(call, Epoll::open(), flags & linux::EPOLL_CLOEXEC != 0)
}

/// Gives a new file a descriptor.
fn install(call: &Call<'_>, file: Arc<OpenFile>, close_on_exec: bool) -> Result<u64> {
    Ok(call.process().files().install(file, close_on_exec)? as u64)
}

/// [epoll_ctl(2)](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html).
pub fn sys_epoll_ctl(call: &mut Call<'_>) -> Result<u64> {
    let (operation, fd) = (call.uint(1), call.int(2));
    let interest = if operation == linux::EPOLL_CTL_DEL {
        None
    } else {
        let event: linux::epoll_event = user::copy_in(call.address(3))?;
        Some(Interest { events: event.events, data: event.data })
    };
    let instance = call.file(0)?;
    let file = call.file(2)?;
    if !epoll::can_watch(&file) {
        return Err(Errno::EPERM);
    }
    let epoll = instance.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&instance, &file) {
        return Err(Errno::EINVAL);
    }
    match (operation, interest) {
        (linux::EPOLL_CTL_ADD, Some(interest)) => epoll.add(fd, &file, interest)?,
        (linux::EPOLL_CTL_MOD, Some(interest)) => epoll.modify(fd, &file, interest)?,
        (linux::EPOLL_CTL_DEL, _) => epoll.remove(fd, &file)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn epoll_wait(call: &Call<'_>, deadline_ns: Option<u64>) -> Result<u64> {
    const ENTRY: usize = size_of::<linux::epoll_event>();
    let address = call.address(1);
    let max = usize::try_from(call.int(2)).ok().filter(|max| *max > 0 && *max <= i32::MAX as usize / ENTRY);
    let max = max.ok_or(Errno::EINVAL)?;
    let instance = call.file(0)?;
    let epoll = instance.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    apply_mask(call, call.optional_address(4), call.size(5))?;
    let mut events = Vec::new();
    epoll.wait(max, deadline_ns, |ready, data| {
        let mut event: linux::epoll_event = zeroed();
        event.events = ready.bits();
        event.data = data;
        events.push(event);
    })?;
    for (index, event) in events.iter().enumerate() {
        user::copy_out(UserAddr::new(address.get().wrapping_add((index * ENTRY) as u64)), event)?;
    }
    Ok(events.len() as u64)
}

/// [epoll_pwait(2)](https://man7.org/linux/man-pages/man2/epoll_wait.2.html).
pub fn sys_epoll_pwait(call: &mut Call<'_>) -> Result<u64> {
    // A negative timeout waits for ever.
    let deadline_ns = match u64::try_from(call.int(3)) {
        Ok(milliseconds) => deadline_after(milliseconds.saturating_mul(MILLISECOND_NS)),
        Err(_) => None,
    };
    epoll_wait(call, deadline_ns)
}

/// [epoll_pwait2(2)](https://man7.org/linux/man-pages/man2/epoll_wait.2.html).
pub fn sys_epoll_pwait2(call: &mut Call<'_>) -> Result<u64> {
    let deadline_ns = deadline_at(call.optional_address(3))?;
    epoll_wait(call, deadline_ns)
}

/// [eventfd2(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html).
pub fn sys_eventfd2(call: &mut Call<'_>) -> Result<u64> {
    let (initial, flags) = (call.uint(0), call.uint(1));
    if flags & !(linux::EFD_SEMAPHORE | linux::EFD_CLOEXEC | linux::EFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    install(call, EventFd::open(initial, flags), flags & linux::EFD_CLOEXEC != 0)
}

/// [signalfd4(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html).
pub fn sys_signalfd4(call: &mut Call<'_>) -> Result<u64> {
    if call.size(2) != size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let set = SignalSet::from_bits(user::copy_in(call.address(1))?);
    let flags = call.uint(3);
    if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if call.int(0) == -1 {
        return install(call, SignalFd::open(set, flags), flags & linux::O_CLOEXEC != 0);
    }
    let file = call.file(0)?;
    file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set(set);
    Ok(call.int(0) as u64)
}

/// [timerfd_create(2)](https://man7.org/linux/man-pages/man2/timerfd_create.2.html).
pub fn sys_timerfd_create(call: &mut Call<'_>) -> Result<u64> {
    let (clock, flags) = (TimerClock::from_number(call.uint(0))?, call.uint(1));
    if flags & !(linux::TFD_CLOEXEC | linux::TFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if matches!(call.uint(0), linux::CLOCK_REALTIME_ALARM | linux::CLOCK_BOOTTIME_ALARM) {
        call.thread.require(linux::CAP_WAKE_ALARM)?;
    }
    install(call, TimerFd::open(clock, flags), flags & linux::TFD_CLOEXEC != 0)
}

fn timer_specification(setting: TimerSetting) -> linux::__kernel_itimerspec {
    linux::__kernel_itimerspec { it_interval: timespec(setting.interval_ns), it_value: timespec(setting.value_ns) }
}

/// [timerfd_settime(2)](https://man7.org/linux/man-pages/man2/timerfd_create.2.html).
pub fn sys_timerfd_settime(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(1);
    if flags & !(linux::TFD_TIMER_ABSTIME | linux::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let asked: linux::__kernel_itimerspec = user::copy_in(call.address(2))?;
    let setting =
        TimerSetting { value_ns: nanoseconds(&asked.it_value)?, interval_ns: nanoseconds(&asked.it_interval)? };
    let file = call.file(0)?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let old = timer.set(setting, flags);
    if let Some(address) = call.optional_address(3) {
        user::copy_out(address, &timer_specification(old))?;
    }
    Ok(0)
}

/// [timerfd_gettime(2)](https://man7.org/linux/man-pages/man2/timerfd_create.2.html).
pub fn sys_timerfd_gettime(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    user::copy_out(call.address(1), &timer_specification(timer.get()))?;
    Ok(0)
}

/// [pipe2(2)](https://man7.org/linux/man-pages/man2/pipe.2.html).
pub fn sys_pipe2(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(1);
    if flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK | linux::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::pair(flags);
    install_pair(call, reader, writer, flags & linux::O_CLOEXEC != 0, call.address(0))
}

/// Gives two new files descriptors and stores those at `address`; neither stays open where anything fails.
pub(super) fn install_pair(
    call: &Call<'_>,
    first: Arc<OpenFile>,
    second: Arc<OpenFile>,
    close_on_exec: bool,
    address: UserAddr,
) -> Result<u64> {
    let files = call.process().files();
    let first_fd = files.install(first, close_on_exec)?;
    let undo_first = |error| {
        let _ = files.close(first_fd);
        error
    };
    let second_fd = files.install(second, close_on_exec).map_err(undo_first)?;
    user::copy_out(address, &[first_fd, second_fd]).map_err(|error| {
        let _ = files.close(second_fd);
        undo_first(error)
    })?;
    Ok(0)
}
