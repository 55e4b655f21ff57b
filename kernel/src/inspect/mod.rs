//! The kernel's own state as files, beyond what Linux shows in /proc: `piton.kernel` and `piton.cpu` read them.

pub mod histogram;
pub mod memory_device;
pub mod trace;

use alloc::{format, vec::Vec};
use core::fmt::Write as _;

use hal::Arch as _;

use crate::{arch::Arch, fs::sysfs, irq, syscall::table, task::process, time};

/// More than any processor's registers that are shown.
const MOST_REGISTERS: usize = 96;

/// Adds the files to /sys/kernel/piton, and /dev/mem.
pub fn add_files() {
    let directory = sysfs::piton_directory();
    // The registers of the CPU that the reader runs on: a line `NAME VALUE` for each, in hexadecimal.
    directory.add_secret("cpu", || {
        // All of one CPU: no switch in between.
        let mut values = Vec::with_capacity(MOST_REGISTERS);
        let state = Arch::mask_interrupts();
        Arch::visit_registers(&mut |name, value| {
            if values.len() < MOST_REGISTERS {
                values.push((name, value));
            }
        });
        Arch::restore_interrupts(state);
        Ok(values
            .iter()
            .fold(Vec::new(), |text, (name, value)| [text, format!("{name} {value:#x}\n").into_bytes()].concat()))
    });
    // A line `PID ROOT` for each process: the physical address of its root page table.
    directory.add_secret("address_spaces", || {
        let roots = process::all().into_iter().filter_map(|process| Some((process.pid(), process.memory()?.root())));
        Ok(roots.fold(Vec::new(), |text, (pid, root)| [text, format!("{pid} {root}\n").into_bytes()].concat()))
    });
    // A line `LABEL COUNT...` for each interrupt: how long its handler took (`histogram`).
    directory.add_text("interrupt_times", || {
        let mut text = alloc::string::String::new();
        irq::visit_times(&mut |label, times| {
            let _ = writeln!(text, "{label}{times}");
        });
        text.into_bytes()
    });
    // How much later than asked timers went off.
    directory.add_text("timer_lateness", || format!("{}\n", time::lateness()).trim_start().into());
    // A line `NUMBER NAME` for each system call.
    directory.add_text("system_calls", || {
        table::names()
            .fold(Vec::new(), |text, (number, name)| [text, format!("{number} {name}\n").into_bytes()].concat())
    });
    trace::add_file(&directory);
    memory_device::add();
}
