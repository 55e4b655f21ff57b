//! Leaving the machine, for programs: reboot(2) and /sys/kernel/piton/power.

use abi::{Errno, Result};
use hal::{Arch as _, PowerAction};

use crate::{arch::Arch, panic, smp};

/// Switches off or resets. Does not return where the machine can do it.
pub fn leave(action: PowerAction) -> ! {
    // Nothing more comes to the console or a disk once the machine is said to be off.
    Arch::mask_interrupts();
    smp::stop_others();
    Arch::power(action);
    panic::stop("this board has no known way to switch off or reset; halted")
}

/// Takes `off`, `off STATUS` or `reset`.
pub fn command(text: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let action = match (words.next(), words.next()) {
        (Some("off"), None) => PowerAction::Off(0),
        (Some("off"), Some(status)) => PowerAction::Off(status.parse().map_err(|_| Errno::EINVAL)?),
        (Some("reset"), None) => PowerAction::Reset,
        _ => return Err(Errno::EINVAL),
    };
    if words.next().is_some() {
        return Err(Errno::EINVAL);
    }
    leave(action)
}
