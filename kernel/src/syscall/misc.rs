//! What belongs nowhere else: uname, sysinfo, getrandom, reboot.

use abi::{Errno, Result, linux, system};
use hal::{Arch as _, PAGE_SIZE, PowerAction};
use klib::load_average;

use super::Call;
use crate::{
    arch::Arch,
    mm::{frames, user},
    power, rng,
    task::{
        load,
        namespace::{MachineName, NAME_MAX},
        process, scheduler, wait,
    },
    time,
};

/// Bytes of one field of `struct new_utsname`.
const FIELD: usize = 65;

/// The version of the Linux ABI that is spoken, as programs check it.
pub const LINUX_RELEASE: &str = "6.12.0-piton";

fn set_name(call: &Call<'_>, name: &MachineName) -> Result<u64> {
    call.thread.require(linux::CAP_SYS_ADMIN)?;
    let len = usize::try_from(call.int(1)).ok().filter(|len| *len <= NAME_MAX).ok_or(Errno::EINVAL)?;
    let mut bytes = [0; NAME_MAX];
    user::copy_in_bytes(call.address(0), &mut bytes[..len])?;
    name.set(&bytes[..len])?;
    Ok(0)
}

/// [uname(2)](https://man7.org/linux/man-pages/man2/uname.2.html).
pub fn sys_uname(call: &mut Call<'_>) -> Result<u64> {
    let mut names = [[0u8; FIELD]; 6];
    let uts = call.thread.uts();
    let (host, domain) = (uts.host.get(), uts.domain.get());
    let version = concat!("#1 Piton ", env!("CARGO_PKG_VERSION"));
    let fields: [&[u8]; 6] =
        [b"Linux", &host, LINUX_RELEASE.as_bytes(), version.as_bytes(), Arch::MACHINE.as_bytes(), &domain];
    for (slot, text) in names.iter_mut().zip(fields) {
        let len = text.len().min(FIELD - 1);
        slot[..len].copy_from_slice(&text[..len]);
    }
    user::copy_out(call.address(0), &names)?;
    Ok(0)
}

/// [sethostname(2)](https://man7.org/linux/man-pages/man2/gethostname.2.html).
pub fn sys_sethostname(call: &mut Call<'_>) -> Result<u64> {
    set_name(call, &call.thread.uts().host)
}

/// [setdomainname(2)](https://man7.org/linux/man-pages/man2/getdomainname.2.html).
pub fn sys_setdomainname(call: &mut Call<'_>) -> Result<u64> {
    set_name(call, &call.thread.uts().domain)
}

/// [sysinfo(2)](https://man7.org/linux/man-pages/man2/sysinfo.2.html). There are no
/// buffers of block devices.
pub fn sys_sysinfo(call: &mut Call<'_>) -> Result<u64> {
    const LEN: usize = size_of::<system::sysinfo>();
    let stats = frames::stats();
    let page = PAGE_SIZE as u64;
    let mut info = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    // Linux's averages have 16 fraction bits here.
    let loads = load::averages().map(|average| average << (16 - load_average::FRACTION_BITS));
    let shared = crate::fs::tmpfs::pages_used() as u64 * page;
    put(0, &(time::monotonic_ns() / time::SECOND).to_ne_bytes());
    put(core::mem::offset_of!(system::sysinfo, loads), loads.map(u64::to_ne_bytes).as_flattened());
    put(core::mem::offset_of!(system::sysinfo, sharedram), &shared.to_ne_bytes());
    put(core::mem::offset_of!(system::sysinfo, totalram), &(stats.total as u64 * page).to_ne_bytes());
    put(core::mem::offset_of!(system::sysinfo, freeram), &(stats.free as u64 * page).to_ne_bytes());
    put(core::mem::offset_of!(system::sysinfo, procs), &(process::nr_threads() as u16).to_ne_bytes());
    put(core::mem::offset_of!(system::sysinfo, mem_unit), &1u32.to_ne_bytes());
    user::copy_out_bytes(call.address(0), &info)?;
    Ok(0)
}

/// [getrandom(2)](https://man7.org/linux/man-pages/man2/getrandom.2.html): blocks, or EAGAIN, until seeded.
pub fn sys_getrandom(call: &mut Call<'_>) -> Result<u64> {
    let (address, len, flags) = (call.address(0), call.size(1).min(i32::MAX as usize), call.uint(2));
    const EITHER: u32 = linux::GRND_RANDOM | linux::GRND_INSECURE;
    if flags & !(linux::GRND_NONBLOCK | EITHER) != 0 || flags & EITHER == EITHER {
        return Err(Errno::EINVAL);
    }
    if !rng::is_ready() {
        if flags & (linux::GRND_NONBLOCK | linux::GRND_INSECURE) != 0 {
            return Err(Errno::EAGAIN);
        }
        wait::wait_until(&[rng::ready_queue()], None, || rng::is_ready().then_some(()))?;
    }
    let mut done = 0;
    while done < len {
        // Others run, and a signal ends a long request early, as random(4) says.
        if done > 0 && done.is_multiple_of(64 << 10) {
            if call.thread.signal_pending() {
                return Ok(done as u64);
            }
            scheduler::schedule();
        }
        let mut chunk = [0; 256];
        let step = chunk.len().min(len - done);
        rng::fill(&mut chunk[..step])?;
        let at = address.checked_add(done as u64).ok_or(Errno::EFAULT)?;
        let copied = user::copy_out_partial(at, &chunk[..step]);
        done += copied;
        if copied < step {
            return if done == 0 { Err(Errno::EFAULT) } else { Ok(done as u64) };
        }
    }
    Ok(done as u64)
}

/// [reboot(2)](https://man7.org/linux/man-pages/man2/reboot.2.html). Lacks: suspend and kexec (EINVAL); the setting of
/// Ctrl-Alt-Del, which changes nothing.
pub fn sys_reboot(call: &mut Call<'_>) -> Result<u64> {
    call.thread.require(linux::CAP_SYS_BOOT)?;
    if call.uint(0) != linux::LINUX_REBOOT_MAGIC1
        || ![
            linux::LINUX_REBOOT_MAGIC2,
            linux::LINUX_REBOOT_MAGIC2A,
            linux::LINUX_REBOOT_MAGIC2B,
            linux::LINUX_REBOOT_MAGIC2C,
        ]
        .contains(&call.uint(1))
    {
        return Err(Errno::EINVAL);
    }
    match call.uint(2) {
        linux::LINUX_REBOOT_CMD_POWER_OFF | linux::LINUX_REBOOT_CMD_HALT => power::leave(PowerAction::Off(0)),
        linux::LINUX_REBOOT_CMD_RESTART | linux::LINUX_REBOOT_CMD_RESTART2 => power::leave(PowerAction::Reset),
        linux::LINUX_REBOOT_CMD_CAD_ON | linux::LINUX_REBOOT_CMD_CAD_OFF => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
