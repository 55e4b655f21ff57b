//! prctl(2) and personality(2): what a process or thread asks for itself.

use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result, prctl};

use super::{Call, credentials};
use crate::{mm::user, task::signal::NSIG};

/// [prctl(2)](https://man7.org/linux/man-pages/man2/prctl.2.html). What it does not know is EINVAL.
/// Lacks: seccomp, PR_SET_MM, PR_SET_VMA, PR_SET_PTRACER, PR_SET_MDWE, PR_GET_AUXV, PR_SET_THP_DISABLE, PR_MCE_KILL,
/// the settings of speculation, core scheduling, vectors and pointer authentication; a timer slack that timers use.
pub fn sys_prctl(call: &mut Call<'_>) -> Result<u64> {
    let value = call.raw(1);
    let attributes = &call.thread.attributes;
    let process = call.process();
    let rest_is_zero = || if call.raw(2) | call.raw(3) | call.raw(4) == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    match call.uint(0) {
        prctl::PR_SET_PDEATHSIG => {
            if value >= u64::from(NSIG) {
                return Err(Errno::EINVAL);
            }
            attributes.death_signal.store(value as u32, Relaxed);
        }
        prctl::PR_GET_PDEATHSIG => {
            user::copy_out(call.address(1), &attributes.death_signal.load(Relaxed))?;
        }
        prctl::PR_SET_NAME => {
            let mut name = [0; 16];
            let got = user::copy_in_partial(call.address(1), &mut name[..15]);
            let len = name[..got].iter().position(|byte| *byte == 0).unwrap_or(got);
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            call.thread.set_name(&name[..len]);
        }
        prctl::PR_GET_NAME => {
            user::copy_out(call.address(1), &call.thread.name_bytes())?;
        }
        prctl::PR_SET_CHILD_SUBREAPER => process.set_subreaper(value != 0),
        prctl::PR_GET_CHILD_SUBREAPER => {
            user::copy_out(call.address(1), &i32::from(process.is_subreaper()))?;
        }
        prctl::PR_GET_SECCOMP => {}
        prctl::PR_GET_TIMERSLACK => return Ok(attributes.timer_slack_ns.load(Relaxed)),
        prctl::PR_SET_TIMERSLACK => {
            let slack = if (value as i64) > 0 { value } else { attributes.default_timer_slack_ns.load(Relaxed) };
            attributes.timer_slack_ns.store(slack, Relaxed);
        }
        prctl::PR_GET_TIMING => {}
        prctl::PR_SET_TIMING if value == u64::from(prctl::PR_TIMING_STATISTICAL) => {}
        prctl::PR_GET_TID_ADDRESS => {
            let address = call.thread.addresses.lock().clear_child_tid;
            user::copy_out(call.address(1), &address.map_or(0, |address| address.get()))?;
        }
        prctl::PR_MCE_KILL_GET => {
            if call.raw(1) != 0 {
                return Err(Errno::EINVAL);
            }
            rest_is_zero()?;
            return Ok(u64::from(prctl::PR_MCE_KILL_DEFAULT));
        }
        prctl::PR_SET_TAGGED_ADDR_CTRL => {
            rest_is_zero()?;
            if value & !u64::from(prctl::PR_TAGGED_ADDR_ENABLE) != 0 {
                return Err(Errno::EINVAL);
            }
            attributes.tagged_addresses.store(value != 0, Relaxed);
        }
        prctl::PR_GET_TAGGED_ADDR_CTRL if value == 0 => {
            rest_is_zero()?;
            return Ok(attributes.tagged_addresses.load(Relaxed).into());
        }
        prctl::PR_GET_THP_DISABLE if value == 0 => rest_is_zero()?,
        _ => return credentials::credentials_prctl(call),
    }
    Ok(0)
}

/// [personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html).
/// Lacks: flags that change something, but for ADDR_NO_RANDOMIZE; 32-bit programs (PER_LINUX32).
pub fn sys_personality(call: &mut Call<'_>) -> Result<u64> {
    /// The bits that name a system, and the one that has 32-bit programs, which do not run here.
    const SYSTEM: u32 = 0xff;
    const PER_LINUX32: u32 = 0x08;
    const ASK: u32 = u32::MAX;
    let old = call.thread.identity.personality();
    match call.uint(0) {
        ASK => {}
        wanted if wanted & SYSTEM == PER_LINUX32 => return Err(Errno::EINVAL),
        wanted => call.thread.identity.set_personality(wanted),
    }
    Ok(u64::from(old))
}
